"""LoRA weights (Hu et al., arXiv 2106.09685, equation 3) in a pipeline that reads texts.

A file holds for some layers with weight W [out, in, ...] a down matrix A [r, in, ...] and an up matrix
B [out, r, ...] of a small rank r. With weight w such a layer becomes

    W + w alpha / r B A

which is added to W here once: a step then costs what it costs without LoRA, and nothing else in the package has to know
of it. B A is often smaller than the distance between neighbouring bfloat16 numbers near W, where it would be lost, so
the sum is made of float32 weights and rounded once, when the pipeline is brought to its precision.

With DoRA (Liu et al., arXiv 2402.09353, equation 5) a file holds a magnitude m [out] too, and the layer becomes, with
the norm over all but the outputs,

    W + w (m V / |V| - W),    V = W + alpha / r B A

Four formats of file are read: diffusers', new (which is peft's: lora_A, lora_B) and old (lora.down, to_q_lora.up),
kohya's (lora_unet_..., lora_te_...), with its alpha for each layer, and ComfyUI's (diffusion_model....); of FLUX.1
after the names of its own code too. A file with layers of a network that were trained themselves is read as well;
with weight w they come W + w (W' - W).
"""

from __future__ import annotations

import itertools
import json
import math
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load as load_tensors
from torch import Tensor

from noiseweave.engine.lora.names import ENDS, NETWORKS, OWN, PARTS, Layers, has_layer, layer_name, made_for
from noiseweave.engine.networks.protocols import Pipeline
from noiseweave.engine.records import Json

METADATA = "lora_adapter_metadata"  # where diffusers keeps peft's LoraConfig in the file's header
SHOWN = 3  # keys that an error names


@dataclass(frozen=True, kw_only=True)
class Lora:
    """A LoRA file's content.

    Attributes:
        name: what errors call it.
        data: of a .safetensors file.
        weight: 1 is as it was trained, 0 leaves the model as it is, below 0 turns it round.
    """

    name: str
    data: bytes
    weight: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Change:
    """What a file adds to a layer at weight 1: ``scale B A``, with magnitudes DoRA's difference.

    Attributes:
        key: what the file calls the layer.
        layer: what ``Layers`` calls it.
        A: [r, in, ...], finite; the kernel's sides behind, of a convolution.
        B: [out, r, ...], finite; sides of 1 behind.
        scale: alpha / r.
        m: DoRA's magnitudes, of ``out`` elements; None of a plain LoRA.
    """

    key: str
    layer: str
    A: Tensor
    B: Tensor
    scale: float
    m: Tensor | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """[out, in, ...]."""
        return (self.B.shape[0], *self.A.shape[1:])

    def product(self) -> Tensor:
        """float32 [out, in, ...]."""
        return (self.scale * self.B.float().flatten(1) @ self.A.float().flatten(1)).view(self.shape)

    @property
    def fixed(self) -> bool:
        """Whether the difference is one whatever W is."""
        return self.m is None

    def difference(self, W: Tensor) -> Tensor:
        """float32, of W's shape: what is added to W at weight 1."""
        added = self.product().view_as(W).to(W.device)
        if self.m is None:
            return added
        V = W + added
        norm_O = V.flatten(1).norm(dim=1).clamp_min(1e-12)
        scale_O = self.m.float().to(W.device).flatten() / norm_O
        return scale_O.view(-1, *[1] * (W.ndim - 1)) * V - W


@dataclass(frozen=True, kw_only=True)
class Tuned:
    """A weight or bias that a file replaces at weight 1.

    Attributes:
        key, layer: as Change's.
        value: of the weight's shape, finite.
    """

    key: str
    layer: str
    value: Tensor
    fixed = False

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the value."""
        return tuple(self.value.shape)

    def difference(self, W: Tensor) -> Tensor:
        """float32, what is added to W at weight 1."""
        return self.value.float().to(W.device).view_as(W) - W


def layers_in(folder: Path) -> Layers:
    """The layers of a pipeline's folder, from the headers of its weights.

    Raises:
        ValueError: a file is broken.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    for part in PARTS:
        for path in sorted((folder / part).glob("*.safetensors")):
            try:
                with safe_open(path, "pt") as file:
                    found = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
            except SafetensorError as e:
                raise ValueError(f"model {str(folder)!r}: {part}/{path.name}: {e}") from None
            shapes |= {layer_name(part, n): s for n, s in found.items() if has_layer(n, len(s))}
    return Layers(shapes)


def add(pipeline: Pipeline, loras: Iterable[Lora]) -> None:
    """Add LoRAs to the weights of a pipeline in float32.

    Raises:
        ValueError: as ``read``.
    """
    weights: dict[str, Tensor] = {}
    for part in PARTS:
        network = getattr(pipeline, part, None)
        named = network.named_parameters() if network is not None else ()
        weights |= {layer_name(part, n): w.data for n, w in named if has_layer(n, w.ndim)}
    layers = Layers({name: tuple(w.shape) for name, w in weights.items()})
    changes = [(lora.weight, c) for lora in loras if lora.weight for c in read(lora, layers)]
    # all are differences from the weights as they were, so that it is all one which file comes first
    first = [(w, weights[c.layer], c.difference(weights[c.layer])) for w, c in changes if not c.fixed]
    added = ((w, weights[c.layer], c.difference(weights[c.layer])) for w, c in changes if c.fixed)
    for weight, W, difference in itertools.chain(first, added):
        assert W.dtype == torch.float32
        W += weight * difference


def read(lora: Lora, layers: Layers) -> list[Change] | list[Tuned]:
    """What a file changes in a pipeline.

    Raises:
        ValueError: one line: it is no safetensors file, of another format, damaged, not finite, or made for
            another model; with the first of the keys, and how many there are.
    """
    which = f"lora {lora.name!r}: "
    try:
        tensors = load_tensors(lora.data)
    except SafetensorError as e:
        raise ValueError(f"{which}no safetensors file ({e}); pickled weights are never opened") from None
    tuned = _tuned(tensors)
    found = {} if tuned else _sorted(which, tensors)
    infinite = [key for key, value in sorted(tensors.items()) if not value.float().isfinite().all()]
    if infinite:
        raise ValueError(f"{which}not finite (NaN or infinity): {_first(infinite)}")
    changes = tuned or _changes(which, lora.data, found, layers)
    _check_fit(which, changes, layers)
    return changes


def _tuned(tensors: Mapping[str, Tensor]) -> list[Tuned]:
    """The weights of a file with a network's own layers; none where it is another."""
    if not all(key.endswith((".weight", ".bias")) and "lora" not in key for key in tensors):
        return []
    for network, own in OWN.items():
        names = {key: key.removeprefix(f"{network}.") for key in sorted(tensors)}
        if all(name.startswith(own) for name in names.values()):
            return [
                Tuned(key=key, layer=layer_name(network, n), value=tensors[key]) for key, n in names.items()
            ]
    return []


def _changes(
    which: str, data: bytes, found: Mapping[str, Mapping[str, Tensor]], layers: Layers
) -> list[Change]:
    config, changes = _config(which, data), []
    for key, values in found.items():
        A, B, m = values["A"], values["B"], values.get("m", values.get("dora"))
        parts = layers.split(key, A, B)
        m_of = {} if m is None else {layer: m_O for layer, _, m_O in layers.split(key, A[:1], m.view(-1, 1))}
        for layer, A_part, B_part in parts:
            try:
                scale = _scale(key, layer, len(A), values.get("alpha"), config)
            except (AttributeError, TypeError, ValueError, re.error):
                raise ValueError(f"{which}the header says no scale that is understood, for {key}") from None
            changes.append(Change(key=key, layer=layer, A=A_part, B=B_part, scale=scale, m=m_of.get(layer)))
    return changes


def _sorted(which: str, tensors: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """What the file calls a layer -> its A, B and, where it has them, alpha and m or dora, magnitudes."""
    found: dict[str, dict[str, Tensor]] = defaultdict(dict)
    unknown = []
    for key, value in sorted(tensors.items()):
        end = next((e for e in ENDS if key.endswith(e)), None)
        if (
            end is None
            or (not value.is_floating_point() and end != ".alpha")
            or key.startswith("base_model.")
        ):
            unknown.append(key)
        else:
            found[key.removesuffix(end)][ENDS[end]] = value
    if unknown or not found:
        raise ValueError(
            f"{which}not LoRA weights of a known format (diffusers' and kohya's are; LoHa, LoKr and bare peft "
            f"adapters are not): {_first(unknown) if unknown else 'it is empty'}"
        )
    damaged = [key for key, values in found.items() if not _whole(values)]
    if damaged:
        raise ValueError(
            f"{which}damaged: no down and up matrix of one rank, with DoRA a magnitude for each output, for "
            f"{_first(damaged)}"
        )
    return found


def _whole(values: Mapping[str, Tensor]) -> bool:
    if "A" not in values or "B" not in values or values.get("alpha", torch.ones(1)).numel() != 1:
        return False
    A, B = values["A"], values["B"]
    if not (A.ndim > 1 and A.ndim == B.ndim and len(A) == B.shape[1] > 0 and B[0].numel() == B.shape[1]):
        return False
    m, dora = (
        values.get("m", B[:, 0]),
        values.get("dora", B[:, 0]),
    )  # kohya's may be one for each input instead
    return m.numel() == len(B) and dora.numel() == len(B) == len(dora)


def _check_fit(which: str, changes: Sequence[Change | Tuned], layers: Layers) -> None:
    unfit = []
    for change in changes:
        has = layers.shapes.get(change.layer)
        if has is None:
            unfit.append(f"{change.key} (no such layer)")
        elif _plain(has) != _plain(change.shape):
            unfit.append(f"{change.key} ({_text(change.shape)}, the model's is {_text(has)})")
    if unfit:
        meant, own = made_for({change.key: change.shape for change in changes}), made_for(layers.shapes)
        known = bool(meant and own) and not set(meant) & set(own)
        other = f", {' or '.join(meant)} and not {' or '.join(own)}" if known else ""
        fit = f"{len(unfit)} of its {len(changes)} layers do not fit: {_first(unfit)}"
        raise ValueError(f"{which}made for another base model{other}: {fit}")


def _plain(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Without a kernel of 1x1: kohya trains SD 2's projections as convolutions, diffusers has them linear."""
    return shape[:2] if all(n == 1 for n in shape[2:]) else shape


def _text(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))


def _first(names: list[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(name[:200] for name in names[:SHOWN]) + more


# scale


def _config(which: str, data: bytes) -> Json:
    """peft's LoraConfig in a file's header, with part.name as keys, or names alone; {} where there is none."""
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    try:
        config = json.loads(header.get("__metadata__", {}).get(METADATA) or "{}")
    except ValueError as e:
        raise ValueError(f"{which}{METADATA} in its header is no JSON ({e})") from None
    return config if isinstance(config, dict) else {}


def _scale(key: str, layer: str, rank: int, alpha: Tensor | None, config: Json) -> float:
    """alpha / r, with rsLoRA (arXiv 2312.03732) alpha / sqrt(r); 1 where the file says nothing."""
    if alpha is not None:
        return float(alpha) / rank
    part = layer.partition(".")[0]
    own = {k.removeprefix(f"{part}."): v for k, v in config.items() if k.startswith(f"{part}.")}
    own = own or (dict(config) if part in NETWORKS else {})
    if own.get("lora_alpha") is None:
        return 1.0
    module, chosen = key.removeprefix(f"{part}."), own["lora_alpha"]
    for pattern, value in (own.get("alpha_pattern") or {}).items():
        if re.match(rf"(.*\.)?({pattern})$", module):  # as peft's get_pattern_key
            chosen = value
            break
    return float(chosen) / (math.sqrt(rank) if own.get("use_rslora") else rank)
