"""How lora ends: the quarantine, the report, the weights."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict

from noiseweave.cluster import storage
from noiseweave.cluster.training import latest
from noiseweave.engine.records import Json
from noiseweave.jobs import outputs
from noiseweave.jobs.lora.config import OWNED, Config, state
from noiseweave.jobs.lora.input import Source

SHOWN = 10  # ends of captions that were truncated
REPORT = "report.json"  # written last: with it the run is finished


def finish(config: Config, source: Source, failure: str | None) -> int:
    """Publish the last checkpoint's weights: 0, or 1 with a line on standard error."""
    counts = outputs.write_quarantine(config.output, map(asdict, source.bad))
    print(f"quarantined: {outputs.said_of_quarantine(config.output) or 'none'}")
    outputs.say_broken_profiles(sum(item.broken_profile for item in source.all))
    last = latest(state(config, "checkpoints")) or "none"
    if failure or not last.endswith(f"{config.steps:09d}"):
        why = failure or "training ended early"
        print(f"error: {why}; last good checkpoint: {last}", file=sys.stderr)
        return 1
    listed = storage.read_json(storage.join(last, "complete.json"))["files"]
    kept = [name for name in OWNED if name in listed]
    for name in kept:
        storage.write(storage.join(config.output, name), storage.read(storage.join(last, name)))
    storage.write_json(storage.join(config.output, REPORT), _report(config, source, counts, kept))
    print(f"saved {', '.join(storage.join(config.output, name) for name in kept)}")
    return 0


def warn_of_truncated(ends: Sequence[str]) -> None:
    """Say what of the captions has no effect, on standard error."""
    if ends:
        print(
            f"warning: captions truncated, longer than the text encoder reads: {len(ends)}",
            *(f"  ...{end[:200]}" for end in ends[:SHOWN]),
            *(["  ..."] if len(ends) > SHOWN else []),
            sep="\n",
            file=sys.stderr,
            flush=True,
        )


def _report(config: Config, source: Source, counts: Counter[str], kept: list[str]) -> Json:
    path = state(config, "log.jsonl")
    rows = [json.loads(line) for line in storage.read(path).splitlines()] if storage.exists(path) else []
    held = {r["step"]: r["validation_loss"] for r in rows if "validation_loss" in r}
    return {
        "prompts_truncated": len(source.truncated),
        "truncated": [end[:200] for end in source.truncated[:SHOWN]],
        "files": kept,
        "steps": config.steps,
        "pictures": len(source.items),
        "held_out": len(source.held),
        "prior_pictures": len(source.prior),
        "quarantined": dict(counts),
        "broken_profiles": sum(item.broken_profile for item in source.all),
        "identity": source.identity,
        "validation_loss": held,
        "last": rows[-1] if rows else {},
    }
