"""A batch job's flow in this process, where Ray adds nothing to what is tested."""

from collections import Counter
from dataclasses import replace

from noiseweave.cluster.ledger import Ledger
from noiseweave.cluster.pipeline import Outcome, Phase
from noiseweave.engine.records import Plan


def run_here(plan: Plan, phase: Phase, book: Ledger, _session: object = None) -> Outcome:
    """As ``pipeline.run``, with the units one after another; an error is raised."""
    compute, outcome = phase.make_compute(), Outcome(units=plan.length)
    for unit in map(plan.unit, range(plan.length)):
        report, bad = phase.commit(unit, compute(phase.fetch(unit)))
        counts = dict(Counter(b.reason for b in bad))
        book.mark(phase.name, replace(report, quarantined=counts), bad)
    for record in book.records(phase.name):
        outcome.add(record)
    return outcome
