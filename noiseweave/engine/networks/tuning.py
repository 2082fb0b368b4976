"""How a network is run: torch.compile, memory layout and attention kernel. Results differ by rounding alone.

What is fastest depends on the machine: ``benchmarks/tuning.py`` measures it, and FASTEST is read off that.
"""

from __future__ import annotations

import functools
import sys
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from noiseweave.engine.networks import memory
from noiseweave.engine.networks.facts import ModelFacts
from noiseweave.engine.networks.recipes import ModelConfig, Precision
from noiseweave.engine.records import Json

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}

FASTEST: dict[str, Json] = {
    "cpu": {"channels_last": False, "attention": "sdpa"},
    "cuda": {"channels_last": False, "attention": "sdpa"},  # not measured yet: PyTorch's own
}
"""By kind of device: what a ModelConfig's null means."""


@dataclass(frozen=True, kw_only=True)
class Compiling:
    """What compiling a network costs and brings, as ``benchmarks/tuning.py --compile`` measured it.

    Attributes:
        seconds: of the first calls.
        gain: share of a call's time that is saved after them.
        rate: FLOP/s of a call that is not compiled, of one thread on a CPU.
    """

    seconds: float
    gain: float
    rate: float


COMPILING: dict[str, Compiling] = {"cpu": Compiling(seconds=420, gain=0.14, rate=1e11)}
"""By kind of device; one that is not here has not been measured, and nothing is compiled there by itself."""


def compiling_repaid(model: ModelFacts, rows: float, kind: str, threads: int = 1) -> bool:
    """Whether a worker that calls the network for so many rows is done sooner with it compiled.

    Args:
        kind: of device, cpu or cuda.
        threads: of the worker on a CPU.
    """
    measured = COMPILING.get(kind)
    if measured is None:
        return False
    seconds = rows * memory.flop_of_a_row(model) / measured.rate / (threads if kind == "cpu" else 1)
    return seconds * measured.gain > measured.seconds


def cpu_precision() -> Precision:
    """What a CPU's ``auto`` is: float32, as half precision is emulated on most of them."""
    return "fp32"


def precision_for(gpu: bool, bfloat16: bool) -> Precision:
    """What ``auto`` is for workers with or without a GPU.

    Args:
        bfloat16: all of their GPUs compute in it; what only emulates it is no faster than float32.
    """
    return cpu_precision() if not gpu else "bf16" if bfloat16 else "fp32"


def settled_here(config: ModelConfig, device: torch.device | str) -> tuple[ModelConfig, Precision]:
    """A config whose precision is chosen, by this process's device where that is still ``auto``; and the precision."""
    if config.precision != "auto":
        return config, config.precision
    gpu = torch.device(device).type == "cuda"
    chosen = precision_for(gpu, gpu and torch.cuda.is_bf16_supported(including_emulation=False))
    return replace(config, precision=chosen), chosen


def chosen(config: ModelConfig) -> Precision:
    """The precision of a config that ``settled_here``, or the job, has settled."""
    assert config.precision != "auto", "settled first"
    return config.precision


def pick_device(gpus_per_worker: float | None = None) -> str:
    """cuda where this process has a GPU and a worker is given one (None: whatever there is), else cpu."""
    return "cuda" if torch.cuda.is_available() and gpus_per_worker != 0 else "cpu"


def tune(
    network: nn.Module, config: ModelConfig, device: torch.device | str, backend: str = "inductor"
) -> None:
    """Arrange a network, in place, as a config says, or where that says nothing as measured fastest.

    Compiling happens at the first call for its number of rows, once more for any number when that changes, and
    again for very few: a halved micro-batch is compiled a handful of times in all. Where this machine cannot
    compile, one line on standard error says so and the network runs as it is. What ``auto`` is was settled before, by
    the job's number of calls; here it compiles nothing.

    Args:
        backend: torch.compile's; eager and aot_eager need no compiler and gain no speed.
    """
    kind = torch.device(device).type
    fastest = FASTEST.get(kind, FASTEST["cpu"])
    chosen = {
        name: value if (own := getattr(config, name)) is None else own for name, value in fastest.items()
    }
    if chosen["channels_last"]:
        network.to(memory_format=torch.channels_last)
    if chosen["attention"] == "eager":
        _write_out_attention(network)
    if config.compile is True and _compiles(kind, backend):
        network.compile(backend=backend)


SHORT = 256
"""Tokens up to which, in bf16 on a CPU, three products are trained at least as fast as PyTorch's fused kernel: its
backward pass takes 12 times as long at 16 tokens, 9 times at 64, as long at 256, and 0.6 times at 1024."""


def tune_training(network: nn.Module, precision: Precision, device: torch.device | str) -> None:
    """Arrange a network that is to be trained, in place, as measured fastest."""
    if torch.device(device).type == "cpu" and precision == "bf16":
        from diffusers.models.attention_processor import Attention

        for module in network.modules():
            if isinstance(module, Attention):
                _by_length(module)


def _by_length(module: Any) -> None:
    from diffusers.models.attention_processor import AttnProcessor2_0

    if type(module.processor) is AttnProcessor2_0:
        module.processor = ByLength()


class ByLength:
    """Attention over few tokens is written out, over many is PyTorch's kernel; a processor of diffusers'."""

    def __init__(self) -> None:
        from diffusers.models.attention_processor import AttnProcessor, AttnProcessor2_0

        self.products, self.fused = AttnProcessor(), AttnProcessor2_0()

    def __call__(
        self,
        attn: Any,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        temb: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Attention of [B, N, D] or [B, D, H, W], over N or H x W tokens."""
        spatial = hidden_states.shape[2:] if hidden_states.ndim == 4 else hidden_states.shape[1:2]
        chosen = self.products if spatial.numel() <= SHORT else self.fused
        return chosen(attn, hidden_states, encoder_hidden_states, attention_mask, temb)


def _write_out_attention(network: nn.Module) -> None:
    """softmax(Q K^T / sqrt(d)) V as three products, in place of diffusers' choice, PyTorch's fused kernel."""
    from diffusers.models.attention_processor import Attention, AttnProcessor, AttnProcessor2_0

    for module in network.modules():
        if isinstance(module, Attention) and type(module.processor) is AttnProcessor2_0:
            module.set_processor(AttnProcessor())


@functools.cache
def _compiles(kind: str, backend: str) -> bool:
    """Whether a function of one addition can be compiled here; if not, say why, once."""
    try:
        torch.compile(_plus_one, backend=backend)(torch.zeros(8, device=kind))
    except Exception as e:  # of a missing compiler, or anything else: torch has no one error for it
        why = next((line.strip() for line in str(e).splitlines() if line.strip()), type(e).__name__)
        print(
            f"model.compile: this machine cannot compile, so nothing is compiled ({why[:200]})",
            file=sys.stderr,
        )
        return False
    return True


def _plus_one(x: torch.Tensor) -> torch.Tensor:
    return x + 1
