"""How many workers train."""

from __future__ import annotations

import importlib.util

from noiseweave.cluster.session import Session
from noiseweave.engine.networks.recipes import Precision
from noiseweave.engine.training.recipes import OptimizerRecipe


def check_workers(precision: Precision, optimizer: OptimizerRecipe, s: Session) -> None:
    """Raise ValueError for what no training can do on these workers."""
    if s.gpus_per_worker not in (0, 1):
        raise ValueError(f"cluster.gpus_per_worker={s.gpus_per_worker:g}: training needs 1, or 0 for CPUs")
    if precision == "fp16" and s.gpus_per_worker == 0:
        raise ValueError("precision='fp16': needs a GPU; fp32 or bf16 on CPUs")
    if optimizer.eight_bit and importlib.util.find_spec("bitsandbytes") is None:
        raise ValueError("optimizer.eight_bit=True: needs bitsandbytes, which is not installed here")
