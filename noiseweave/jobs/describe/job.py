"""``noiseweave describe MODEL``: what it is, and the memory that its workers take. It changes nothing."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from noiseweave.engine.records import Json
from noiseweave.jobs.describe.config import Config

if TYPE_CHECKING:
    from noiseweave.engine.networks.facts import ModelFacts
    from noiseweave.engine.networks.memory import MemoryPlan


def run(config: Config) -> int:
    """Print it. Returns 0.

    Raises:
        ValueError: what a user can put right, in one line.
    """
    from noiseweave.engine.networks import memory
    from noiseweave.engine.networks.facts import read_facts

    facts = read_facts(config.model, config.size)
    found = _about(facts) | _memory(config, memory.plan(facts))
    print(json.dumps(found, ensure_ascii=False) if config.json else _table(found))
    return 0


def _about(facts: ModelFacts) -> Json:
    """What it is; a baseline has neither path nor prediction."""
    baseline = facts.kind in ("vae", "dcgan") if facts.conditioning != "text" else False
    own: Json = {} if baseline else {"path": facts.path, "prediction": facts.prediction}
    about: Json = {
        "model": facts.name,
        "family": facts.family,
        "pipeline": facts.pipeline,
        **own,
        "conditioning": facts.conditioning,
        "side": facts.side,
        "sides_are_multiples_of": facts.multiple or facts.side,
        "fills_holes": facts.sees_holes,
    }
    if facts.conditioning == "text":
        about |= {"guidance": facts.reader.guidance(facts.unet), "usual_steps": facts.usual.steps}
        about |= {"usual_guidance": facts.usual.guidance}
    return about


def _memory(config: Config, plan: MemoryPlan) -> Json:
    """Parameters by part, GiB of the weights by precision, and the workers that fit on a GPU."""
    from noiseweave.engine.networks import memory
    from noiseweave.engine.networks.tuning import pick_device

    kinds = [config.precision] if config.precision else list(memory.BYTES)
    free = None if config.gpu_gib is None else int(config.gpu_gib * memory.GIB)
    if free is None and pick_device() == "cuda":
        free = memory.free_bytes("cuda")
    found: Json = {
        "parameters": plan.total,
        "parameters_by_part": dict(plan.parameters),
        "gib": {kind: round(plan.bytes(kind) / memory.GIB, 4) for kind in kinds},
        "gib_a_worker": {kind: round(plan.needed(kind) / memory.GIB, 4) for kind in kinds},
    }
    if free is not None:
        found["gpu_gib"] = round(free / memory.GIB, 4)
        found["workers_per_gpu"] = {kind: plan.workers(kind, free) for kind in kinds}
    return found


def _table(found: Json) -> str:
    rows = []
    for name, value in found.items():
        words = name.replace("_", " ").replace("gib", "GiB").replace("gpu", "GPU")
        inner = value.items() if isinstance(value, dict) else [("", value)]
        rows += [f"{f'{words} {key}'.strip():<34} {_said(one)}" for key, one in inner]
    return "\n".join(rows)


def _said(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:,}" if isinstance(value, int) else str(value)
