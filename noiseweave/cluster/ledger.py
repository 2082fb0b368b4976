"""The memory of a run on storage: its config, its input, and a done-marker for each finished unit.

    <output>/_run/config.json         what the output depends on; another config is refused
    <output>/_run/done/<phase>/<id>.json   written last, after everything that the unit produced

What is left of a run is its planned units minus its done-markers, after any crash.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields

from noiseweave.cluster import lock, storage
from noiseweave.cluster.units import UnitReport
from noiseweave.engine.records import Json, JsonMapping, Quarantined

READ = 1000  # markers asked for at a time
MOST = 2**63  # that a count may be
NAMES = {field.name for field in fields(Quarantined)}


@dataclass(frozen=True, kw_only=True)
class Ledger:
    """The done-markers below one output folder."""

    output: str

    def path(self, *names: str) -> str:
        """A path below the run's own folder."""
        return storage.join(self.output, "_run", *names)

    def done(self, phase: str) -> set[str]:
        """Ids of the units of a phase that need no more work."""
        return {
            n.removesuffix(".json") for n in storage.names_in(self.path("done", phase)) if n.endswith(".json")
        }

    def mark(self, phase: str, report: UnitReport, bad: list[Quarantined]) -> None:
        """Write the done-marker: the last thing that a unit does."""
        tallies = {name: dict(counts) for name, counts in report.tallies.items()}  # asdict spoils a Counter
        record = {**asdict(report), "tallies": tallies, "bad": [asdict(b) for b in bad]}
        storage.write_json(self.path("done", phase, f"{report.id}.json"), record)

    def records(self, phase: str) -> Iterator[Json]:
        """The markers of a phase, sorted by id.

        Raises:
            Damaged: one is none.
        """
        for path, record in self.found(phase):
            if record is None:
                raise storage.Damaged(
                    f"{path}: a damaged done-marker; delete it and run the same command again"
                )
            yield record

    def found(self, phase: str) -> Iterator[tuple[str, Json | None]]:
        """(path, marker) of a phase, sorted by id; None for a damaged one."""
        paths = [self.path("done", phase, f"{unit}.json") for unit in sorted(self.done(phase))]
        for start in range(0, len(paths), READ):
            part = paths[start : start + READ]
            for path, data in zip(part, storage.read_all(part), strict=True):
                try:
                    record = storage.json_of(path, data)
                except storage.Damaged:
                    record = None
                yield path, record if _whole(record) else None


def _whole(record: object) -> bool:
    """Whether a marker holds what ``mark`` writes, each of its kind."""
    if not isinstance(record, dict) or not isinstance(record.get("tallies"), dict):
        return False
    counts = [record.get("quarantined"), record.get("extra"), record.get("spent", {})]
    counts += record["tallies"].values()
    bad = record.get("bad")
    return (
        isinstance(record.get("id"), str)
        and isinstance(record.get("worker", ""), str)
        and type(record.get("produced")) is int
        and finite(record["produced"])
        and finite(record.get("seconds"))
        and all(isinstance(one, dict) and all(map(finite, one.values())) for one in counts)
        and isinstance(bad, list)
        and all(
            isinstance(b, dict) and set(map(type, b.values())) == {str} and b.keys() == NAMES for b in bad
        )
    )


def finite(value: object) -> bool:
    """Whether a JSON value is a number that sums can take."""
    return isinstance(value, int | float) and not isinstance(value, bool) and -MOST < value < MOST


def flatten(value: JsonMapping, prefix: str = "") -> Json:
    """{"a": {"b": 1}} -> {"a.b": 1}."""
    flat: Json = {}
    for name, item in value.items():
        if isinstance(item, Mapping):
            flat |= flatten(item, f"{prefix}{name}.")
        else:
            flat[prefix + name] = list(item) if isinstance(item, tuple) else item
    return flat


@contextlib.contextmanager
def held_run(
    output: str, config: JsonMapping, overwrite: bool = False, owned: tuple[str, ...] = ()
) -> Iterator[Ledger]:
    """``open_run`` while no other driver writes there: ``lock.held``, which says what is raised."""
    with lock.held(output):
        yield open_run(output, config, overwrite, owned)
        # again, for a killed run's workers may have lived, and written, when this one began
        storage.sweep_temporaries(output)


def open_run(
    output: str, config: JsonMapping, overwrite: bool = False, owned: tuple[str, ...] = ()
) -> Ledger:
    """Open a new or an interrupted run in ``output``: ``check_run``, and ``claim_run`` where there is none."""
    if check_run(output, config, overwrite, owned):
        storage.sweep_temporaries(output)
        return Ledger(output=output)
    return claim_run(output, config, overwrite, owned)


def check_run(output: str, config: JsonMapping, overwrite: bool = False, owned: tuple[str, ...] = ()) -> bool:
    """Whether ``output`` holds a run of this config, to be gone on with. Writes nothing there.

    Args:
        config: what the output depends on, as nested mappings of JSON values; ``job`` names who writes it.
        overwrite: an earlier run of the same job is not looked at.
        owned: names below ``output`` that this job writes.

    Raises:
        ValueError: the folder holds a run of another config (the changed fields are named), what no run of this
            job wrote, or is not writable.
    """
    storage.check_writable(output)
    wanted, path = flatten(config), Ledger(output=output).path("config.json")
    found = storage.read_object(path) if storage.exists(path) else None
    refuse_foreign(output, found, wanted, owned)
    if overwrite or found is None:
        return False
    check_same(output, found, wanted)
    return True


def claim_run(
    output: str,
    config: JsonMapping,
    overwrite: bool = False,
    owned: tuple[str, ...] = (),
    state: tuple[str, ...] = ("_run",),
) -> Ledger:
    """Make ``output`` this run's own, after ``check_run``.

    Args:
        overwrite: throw an earlier run of the same job away first: ``owned`` and ``state``, never anything else.
        state: what of ``_run`` goes then.
    """
    ledger = Ledger(output=output)
    if overwrite:
        # markers first, so that a kill here leaves none without its output; the config last, it says whose this is
        for name in ("_run/done", *owned, *state):
            storage.remove(storage.join(output, name))
    storage.write_json(ledger.path("config.json"), flatten(config))
    return ledger


def refuse_foreign(output: str, found: Json | None, wanted: Json, owned: tuple[str, ...]) -> None:
    """What another job or a person put there is never written over, not even when told to."""
    if found is None:
        there = [name for name in owned if storage.exists(storage.join(output, name))]
    else:
        there = ["_run"] if found.get("job") != wanted.get("job") else []
    if there:
        job = wanted.get("job", "such")
        raise ValueError(
            f"output {output!r} holds {there[0]}, which no {job} run wrote; give another --output"
        )


def check_same(output: str, found: Json, wanted: Json) -> None:
    """Raise ValueError where an output folder holds a run of another config; it names what differs."""
    names = sorted(n for n in found.keys() | wanted.keys() if found.get(n) != wanted.get(n))
    if names:
        changes = ", ".join(f"{n} {_short(found.get(n))} -> {_short(wanted.get(n))}" for n in names[:8])
        raise ValueError(
            f"output {output!r} holds a run of another config: {changes}; give another --output, or --overwrite"
        )


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 60 else text[:57] + "..."
