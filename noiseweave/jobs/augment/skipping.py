"""With ``skip_failed``: units that failed twice are left out, and the shards that they were made of are named."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from noiseweave.cluster.ledger import Ledger
from noiseweave.cluster.pipeline import Outcome
from noiseweave.cluster.units import UnitReport
from noiseweave.engine.records import Quarantined
from noiseweave.jobs.augment.task import Task

REASON = "failed_unit"


def skip_failed(
    task: Task, book: Ledger, phase: str, outcome: Outcome, shards_of: Callable[[str], Sequence[str]]
) -> None:
    """Quarantine the failed units of a phase instead, one line for each shard, where that was asked for.

    Where every unit failed there is nothing to go on with, and they stay failed.

    Args:
        shards_of: a unit's id -> the shards that it reads.
    """
    if not task.config.skip_failed or len(outcome.failed) == outcome.units:
        return
    for unit, error in outcome.failed.items():
        bad = [
            Quarantined(shard=shard, key="", reason=REASON, detail=f"{phase} {unit}: {error}")
            for shard in shards_of(unit)
        ]
        book.mark(phase, UnitReport(id=unit, produced=0, quarantined={REASON: len(bad)}), bad)
        outcome.quarantined[REASON] += len(bad)
    outcome.failed.clear()
