"""evaluate, mode ``pairs``: each picture beside its reference; whole, and inside and outside of a mask."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from noiseweave.cluster import ledger, pipeline, shards, stages, storage
from noiseweave.cluster.ledger import Ledger
from noiseweave.cluster.session import session
from noiseweave.cluster.stages import Committed, Phase
from noiseweave.cluster.units import Plan, Unit, UnitReport
from noiseweave.engine import spans
from noiseweave.engine.judging.pair_metrics import Trio, score_pair
from noiseweave.engine.pictures import files
from noiseweave.engine.records import Json, JsonMapping, Quarantined
from noiseweave.jobs.evaluate import pictures
from noiseweave.jobs.evaluate import report as evaluate_report
from noiseweave.jobs.evaluate.config import OWNED, Config
from noiseweave.jobs.evaluate.pair_figures import all_rows, figures, warnings, write_rows
from noiseweave.jobs.reading import places as reading_places
from noiseweave.jobs.reading.contents import Contents, digest_of_all
from noiseweave.jobs.reading.places import Place

if TYPE_CHECKING:
    pass

ALONE = {"no_mask": "no_reference", "no_picture": "no_input", "ambiguous": "ambiguous"}
"""Why inpaint_input finds no partner -> what that means where the partner is a reference."""


@dataclass(frozen=True, kw_only=True)
class Matched:
    """A picture, its reference and, where there are masks, its mask."""

    key: str
    picture: Place
    reference: Place
    mask: Place | None = None


def run(config: Config) -> int:
    """Score each picture against its reference. Returns the exit code."""
    output = storage.absolute(config.output)
    contents = Contents(output)
    pairs, left_out, digest = gather(config, contents)
    if "lpips" in config.wanted:
        from noiseweave.engine.judging import picture_metrics

        picture_metrics.alexnet_weights(config.lpips_weights)
    output = storage.absolute(config.output)
    with ledger.held_run(output, identity(config, digest), config.overwrite, OWNED) as book:
        contents.keep()
        return _compared(config, pairs, left_out, book)


def _compared(config: Config, pairs: list[Matched], left_out: list[Quarantined], book: ledger.Ledger) -> int:
    output, each = book.output, config.unit_pictures
    runs = [pairs[i : i + each] for i in range(0, len(pairs), each)]
    units = [Unit(index=i, id=f"pairs-{i:06d}", payload=tuple(some)) for i, some in enumerate(runs)]
    phase = Phase(
        name="pairs",
        fetch=partial(_fetch, config),
        make_compute=partial(_make_scores, config),
        commit=partial(commit, book),
        noun="pairs",
        size=stages.length_of_first,
    )
    with session(config.cluster) as s:
        outcome = pipeline.run(Plan(length=len(units), unit=units.__getitem__), phase, book, s)
    rows = all_rows(book, "pairs")
    left = [pictures.PictureSet(name="pairs", root="", payloads=(), left_out=tuple(left_out))]
    counts = evaluate_report.write_quarantine(output, book, "pairs", left)
    if not rows and not outcome.failed:
        raise ValueError(f"input={config.input!r}: no pair could be compared{evaluate_report.why(output)}")
    write_rows(output, rows)
    report = {
        "mode": "pairs",
        "quarantined": counts,
        "failed": outcome.failed,
        "seconds": round(outcome.seconds, 2),
        "sets": {"input": {"pictures": len(rows)}},
        "warnings": warnings(rows),
        "figures": {} if outcome.failed else figures(config, rows),
    }
    return evaluate_report.finish(config, output, report)


def identity(config: Config, digest: str) -> JsonMapping:
    """What the scores depend on."""
    names = ("mask_mode", "max_pixels", "unit_pictures")
    about = {name: getattr(config, name) for name in names} | {"metrics": list(config.wanted)}
    return {"job": "evaluate", "mode": "pairs", "input.content": digest, **about}


def gather(config: Config, contents: Contents) -> tuple[list[Matched], list[Quarantined], str]:
    """Pictures with their references and masks, and what changes with the content of all; none is decoded.

    Raises:
        ValueError: nothing is there, or nothing has a partner.
    """
    assert config.reference is not None
    tars = [_has_tars(name, getattr(config, name)) for name in ("input", "reference")]
    if tars[0] != tars[1]:
        kinds = ["shards" if t else "a folder of pictures" for t in tars]
        raise ValueError(f"input is {kinds[0]} and reference {kinds[1]}: pairs need two of one kind")
    if tars[0]:
        if config.masks is not None:
            raise ValueError(f"masks={config.masks!r}: null for shards, whose masks are in them as .mask.png")
        pairs, left_out = _of_shards(config)
    else:
        pairs, left_out = _of_folders(config)
    if not pairs:
        raise ValueError(
            f"input {config.input!r}, reference {config.reference!r}: no picture has a partner of the same name, "
            f"or none of these a mask ({dict(Counter(b.reason for b in left_out))})"
        )
    places = [p for m in pairs for p in (m.picture, m.reference, m.mask) if p is not None]
    if tars[0]:
        return pairs, left_out, shards.digest(sorted({p.path for p in places}))
    marked = contents.marked(places)
    of = dict(zip(places, marked, strict=True))
    pairs = [
        replace(
            m, picture=of[m.picture], reference=of[m.reference], mask=None if m.mask is None else of[m.mask]
        )
        for m in pairs
    ]
    return pairs, left_out, digest_of_all(marked)


def _has_tars(name: str, given: str) -> bool:
    url = storage.absolute(given)
    if storage.is_folder(url):
        reading_places.check_alone(name, given)
        return any(n.endswith(".tar") for n in storage.names_in(url))
    if not url.endswith(".tar") and not set(given) & set("{*?["):
        raise ValueError(f"{name} {given!r}: no such folder, and no pattern of .tar shards")
    return True


def _of_folders(config: Config) -> tuple[list[Matched], list[Quarantined]]:
    roots = (
        reading_places.root_of("input", config.input),
        reading_places.root_of("reference", config.reference),
    )
    if roots[0] == roots[1]:
        raise ValueError(f"reference={config.reference!r}: another folder than input")
    ours = reading_places.listed("input", *roots)
    items, alone = reading_places.matched(ours, reading_places.listed("reference", *reversed(roots)))
    pairs = [Matched(key=i.key, picture=i.picture, reference=i.mask) for i in items]
    left_out = [replace(b, reason=ALONE[b.reason], detail="") for b in alone]
    if config.masks is None:
        return pairs, left_out
    root = reading_places.root_of("masks", config.masks)
    masked, _ = reading_places.matched(ours, reading_places.listed("masks", root, roots[0]))
    mask_of = {item.key: item.mask for item in masked}
    left_out += [Quarantined(shard="", key=p.key, reason="no_mask") for p in pairs if p.key not in mask_of]
    return [replace(p, mask=mask_of[p.key]) for p in pairs if p.key in mask_of], left_out


def _of_shards(config: Config) -> tuple[list[Matched], list[Quarantined]]:
    sides, left_out = [], []
    for name, given in (("input", config.input), ("reference", config.reference)):
        found, bad = _samples(name, given or "")
        sides.append(found)
        left_out += bad
    ours, theirs = sides
    left_out += [_alone(ours[k], "no_reference") for k in ours.keys() - theirs.keys()]
    left_out += [_alone(theirs[k], "no_input") for k in theirs.keys() - ours.keys()]
    pairs = []
    for key in sorted(ours.keys() & theirs.keys()):
        mask = next(
            (m for url, entry in (ours[key], theirs[key]) if (m := _member(url, entry, shards.MASKS))), None
        )
        picture, reference = (_member(*side[key], shards.PICTURES) for side in sides)
        assert picture is not None
        assert reference is not None
        pairs.append(Matched(key=key, picture=picture, reference=reference, mask=mask))
    return pairs, sorted(left_out, key=lambda b: (b.reason, b.key))


Found = tuple[str, shards.Entry]


def _samples(name: str, given: str) -> tuple[dict[str, Found], list[Quarantined]]:
    """key -> (shard, sample) of the samples with a picture; keys that come in two shards are left out."""
    uses: Counter[str] = Counter()
    found: dict[str, Found] = {}
    left_out: list[Quarantined] = []
    side = pictures.find(name, given, 1)
    for url in side.payloads:
        assert isinstance(url, str)
        entries, bad = shards.index(url)
        left_out += bad
        for entry in entries:
            if entry.picture is None:
                left_out.append(_alone((url, entry), "no_picture"))
            else:
                uses[entry.key] += 1
                found[entry.key] = (url, entry)
    left_out += [_alone(found.pop(key), "ambiguous") for key, n in uses.items() if n > 1]
    return found, left_out


def _alone(found: Found, reason: str) -> Quarantined:
    return Quarantined(shard=found[0], key=found[1].key, reason=reason)


def _member(url: str, entry: shards.Entry, extensions: Sequence[str]) -> Place | None:
    name = entry.first(extensions)
    if name is None:
        return None
    return Place(path=url, offset=entry.members[name].offset, size=entry.members[name].size)


def _fetch(config: Config, unit: Unit) -> tuple[list[Trio], list[Quarantined]]:
    good: list[Trio] = []
    bad: list[Quarantined] = []
    for pair in unit.payload:
        try:
            good.append(load(config, pair))
        except ValueError as e:
            bad.append(Quarantined.of(e, key=pair.key))
    return good, bad


def load(config: Config, pair: Matched) -> Trio:
    """Read a pair.

    Raises:
        ValueError: ``"reason: detail"``: what inpaint says of pictures and masks, size_differs, channels_differ,
            empty_mask, full_mask.
    """
    from noiseweave.engine.pictures import masks

    picture, reference = (
        files.visible(files.opened(place.read(), config.max_pixels))
        for place in (pair.picture, pair.reference)
    )
    if picture.shape[:2] != reference.shape[:2]:
        (h, w), (H, W) = picture.shape[:2], reference.shape[:2]
        raise ValueError(f"size_differs: {w}x{h}, its reference {W}x{H}")
    if picture.shape != reference.shape:
        raise ValueError(f"channels_differ: {picture.shape[2]}, its reference {reference.shape[2]}")
    inside = None
    if pair.mask is not None:
        inside = masks.hole_of(pair.mask.read(), config.mask_mode, picture.shape[:2], config.max_pixels)
        if not inside.any() or inside.all():
            raise ValueError(
                "full_mask: nothing is outside" if inside.any() else "empty_mask: nothing is inside"
            )
    return Trio(key=pair.key, picture_HWC=picture, reference_HWC=reference, inside_HW=inside)


Scored = tuple[list[Json], list[Quarantined]]


def _make_scores(config: Config) -> Callable[[tuple[list[Trio], list[Quarantined]]], Scored]:
    score = scorer(config)

    def compute(data: tuple[list[Trio], list[Quarantined]]) -> Scored:
        rows, bad = score(data[0])
        return rows, data[1] + bad

    return compute


def scorer(config: Config) -> Callable[[list[Trio]], Scored]:
    """(pairs) -> a row for each, and what could not be compared."""
    from noiseweave.engine.judging import picture_metrics

    lpips = None
    if "lpips" in config.wanted:
        weights = picture_metrics.alexnet_weights(config.lpips_weights)
        lpips = picture_metrics.Lpips(weights, evaluate_report.device(config))

    def score(trios: list[Trio]) -> Scored:
        rows, bad = [], []
        for trio in spans.steps(trios):
            try:
                rows.append({"key": trio.key} | score_pair(config.wanted, trio, lpips))
            except ValueError as e:
                bad.append(Quarantined.of(e, key=trio.key))
        return rows, bad

    return score


def commit(book: Ledger, unit: Unit, result: Scored) -> Committed:
    """Keep a unit's scores."""
    rows, bad = result
    storage.write_json(book.path("scores", f"{unit.id}.json"), rows)
    return UnitReport(id=unit.id, produced=len(rows)), bad
