"""inpaint's LoRA files: found, hashed and held against the model before anything runs; read again by each worker."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from noiseweave.cluster import storage
from noiseweave.engine.checks import check
from noiseweave.engine.records import JsonMapping

if TYPE_CHECKING:
    from noiseweave.engine.lora.weights import Lora
    from noiseweave.jobs.inpaint.config import Config

USUAL = "pytorch_lora_weights.safetensors"  # what diffusers calls it in a folder
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
LIMIT = 4 << 30  # bytes; the largest LoRAs for SDXL stay below 2 GiB


@dataclass(frozen=True, kw_only=True)
class LoraFile:
    """A LoRA file of a run. Only this travels to the workers, not the content, which may be large.

    Attributes:
        path: absolute, or a URL: workers read it as they read the model's folder and the pictures.
        sha256: of its content.
        weight: how much of it is added.
    """

    path: str
    sha256: str
    weight: float

    @property
    def record(self) -> JsonMapping:
        """What lineage and report say of it."""
        return {"file": os.path.basename(self.path), "sha256": self.sha256, "weight": self.weight}

    def read(self) -> Lora:
        """Its content.

        Raises:
            ValueError: it cannot be read, or is another file than when the run began.
        """
        from noiseweave.engine.lora.weights import Lora

        data = _content(self.path, self.path)
        if hashlib.sha256(data).hexdigest() != self.sha256:
            raise ValueError(f"lora {self.path!r}: the file has changed since the run began")
        return Lora(name=self.path, data=data, weight=self.weight)


def look(config: Config, kind: str) -> tuple[LoraFile, ...]:
    """The LoRA files of a run, each of which fits its model.

    Args:
        kind: the model's; see inpainting.models.InpaintFacts.

    Raises:
        ValueError: one line: there is none, it is no LoRA of a known format, or made for another model.
    """
    if not config.loras:
        return ()
    from noiseweave.engine.lora import weights
    from noiseweave.engine.networks.facts import read_facts

    check(
        kind != "pixel",
        "lora",
        config.lora,
        "null: a base model takes none, a pipeline that reads texts does",
    )
    facts = read_facts(config.model.name)
    layers = weights.layers_in(facts.folder)
    files = []
    for given, weight in zip(config.loras, config.weights, strict=True):
        path = located(given)
        data = _content(given, path)
        weights.read(weights.Lora(name=given, data=data), layers)
        files.append(LoraFile(path=path, sha256=hashlib.sha256(data).hexdigest(), weight=weight))
    return tuple(files)


def located(given: str) -> str:
    """A file, or a folder with one -> the file.

    Raises:
        ValueError: there is none, there are several, or it is a pickle.
    """
    path = storage.absolute(given)
    try:
        names = storage.names_in(path) if storage.is_folder(path) else None
        there = names is not None or storage.exists(path)
    except Exception as e:  # each object store has its own errors
        raise ValueError(f"lora {given!r}: cannot be read: {e}") from None
    if not there:
        raise ValueError(
            f"lora {given!r}: no such file or folder; one on the hub is brought by `hf download ID --local-dir FOLDER`"
        )
    if names is None:
        _refuse_pickle(given, path)
        return path
    fitting = [USUAL] if USUAL in names else [n for n in names if n.endswith(".safetensors")]
    if len(fitting) == 1:
        return storage.join(path, fitting[0])
    for name in names:
        _refuse_pickle(given, name)
    raise ValueError(
        f"lora {given!r}: a folder with {len(fitting)} .safetensors files; give one file"
        + (f", such as {fitting[0]}" if fitting else "")
    )


def _refuse_pickle(given: str, path: str) -> None:
    if path.lower().endswith(PICKLES):
        raise ValueError(
            f"lora {given!r}: {os.path.basename(path)} is a pickle, which can run code and is never opened; save it as "
            ".safetensors"
        )


def _content(given: str, path: str) -> bytes:
    try:
        size = storage.size_of(path)
        if size > LIMIT:
            raise ValueError(f"{size} bytes are no LoRA's, at most {LIMIT}")
        return storage.read(path)
    except Exception as e:
        raise ValueError(f"lora {given!r}: cannot be read: {' '.join(str(e).split())[:300]}") from None
