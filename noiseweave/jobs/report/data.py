"""An output folder of any job that makes pictures -> one record of JSON values: all that its page shows."""

from __future__ import annotations

import posixpath
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace

from noiseweave import __version__
from noiseweave.cluster import storage
from noiseweave.cluster.ledger import flatten
from noiseweave.engine.records import Json, JsonMapping
from noiseweave.jobs.reading import class_names
from noiseweave.jobs.report import pictures
from noiseweave.jobs.report.faults import failed_units, quarantine_table
from noiseweave.jobs.report.records import Damage, objects, objects_in, report_of, said, shallow, text_of
from noiseweave.jobs.report.samples import BINS, KEPT, Found, Picker, Source, Tally, bounded, found_in, number
from noiseweave.jobs.report.times import times

JOBS = ("augment", "inpaint", "sample")
ROLES = {
    "augment": ["first parent", "fused", "second parent"],
    "inpaint": ["original", "hole", "restored"],
    "sample": ["picture"],
}
MAIN = {"augment": 1, "inpaint": 2}  # which of them the job made
BARS = 40  # most bars of a histogram
KINDS = 20  # classes that a figure names
MOST_USES = 30  # pictures of an image from which on all share a bar

Record = Json


def gather(output: str, places: int, source: str | None) -> Record:
    """The record of an output folder.

    Args:
        output: absolute folder or URL.
        places: samples that the gallery shows.
        source: where the job's input lies now; None takes where the job read it.

    Raises:
        ValueError: no job that makes pictures wrote it, or its config.json is damaged.
    """
    job, config = job_of(output)
    damage = Damage()
    if job == "fuse":
        return _of_fuse(output, damage)
    report = report_of(output, damage)
    tally, picker = Tally(), Picker(places)
    names = class_names.readable_classes(output)
    for one in (replace(one, names=names) for one in found_in(output, job, damage)):
        tally.add(one)
        picker.add(one)
    found = picker.picked()
    read_from = _read_from(report, job, source)
    if job == "augment":
        rows = pictures.of_augment(output, read_from.get("root"), found, damage)
    elif job == "inpaint":
        rows = pictures.of_inpaint(read_from, found)
    else:
        rows = [[one.picture] for one in found]
    stages, workers = times(output, report, job, damage)
    quarantine = quarantine_table(output, damage)
    return {
        "job": job,
        "name": posixpath.basename(output.rstrip("/")),
        "noiseweave": __version__,
        "ended": bool(report),
        "tiles": [*_tiles(job, report, tally), *_work(stages), *_left_out(damage)],
        "damaged": said(damage),
        "parameters": flatten(report["config"]) if "config" in report else config,
        "similarity": _similarity(tally),
        "uses": _uses(tally, report),
        "counts": _counts(tally),
        "stages": stages,
        "workers": workers,
        "class_names": names,
        "quarantine": quarantine,
        "failed": failed_units(report),
        "gallery": _gallery(job, rows, found, tally, read_from),
        "sheets": [],
    }


def _counts(tally: Tally) -> list[Record]:
    titles = {"Mode": tally.modes, "Class": tally.classes, "Verdict": tally.verdicts}
    return [{"title": title, **_most(counts)} for title, counts in titles.items() if len(counts) > 1]


def job_of(output: str) -> tuple[str, Record]:
    """The job that wrote a folder, and the config that it keeps there.

    Raises:
        ValueError: none that makes pictures.
    """
    path = storage.join(output, "_run", "config.json")
    config = shallow(storage.read_object(path)) if storage.exists(path) else {}
    job = config.pop("job", None)
    if job in JOBS:
        return job, config
    if job is None and storage.exists(storage.join(output, "fuse.json")):
        return "fuse", {}
    what = "nothing of such a job lies there" if job is None else f"{job} wrote it"
    raise ValueError(f"folder {output!r}: {what}; a page shows outputs of {', '.join(JOBS)} and fuse")


def _read_from(report: JsonMapping, job: str, source: str | None) -> Record:
    """Where the input's pictures lie: as the report says, or its config, or as the user says."""
    known = dict(report.get("read_from") or {})
    if job == "augment" and not known and report.get("config", {}).get("input"):
        root = storage.absolute(str(report["config"]["input"])).rstrip("/") + "/"
        known = {"root": root} if storage.is_folder(root) else {}
    if source is None:
        return known
    source_folder = storage.absolute(source)
    if job == "augment":
        return {"root": source_folder.rstrip("/") + "/"}
    if job == "inpaint" and "images" not in known:
        single = "image" in known and "mask" in known
        return {"image": source_folder, "mask": known["mask"]} if single else {"input": source_folder}
    return {**known, "images": source_folder}


# figures


def _tiles(job: str, report: JsonMapping, tally: Tally) -> Iterator[Record]:
    """The summary's tiles: label, value and a note."""
    kept = tally.verdicts[KEPT]
    if job == "augment":
        yield from _asked_and_kept(report, kept)
        yield _inversions(report)
        if subject := report.get("subject"):
            note = (
                f"to the nearest kind of its photographs; others of its subject {subject['of_held_out']:.2f}"
            )
            far = subject.get("far") is True
            yield {
                "label": "Cosine to the model's subject",
                "value": f"{subject['cosine']:.2f}",
                "note": f"far, expect texture: {note}" if far else note,
                "bad": far,
            }
    elif job == "inpaint":
        yield {"label": "Restored", "value": kept, "note": ""}
        note = f"{report['copied']} copied" if report.get("copied") else ""
        yield {"label": "Pictures read", "value": report.get("pictures"), "note": note}
    else:
        yield {"label": "Pictures", "value": kept, "note": ""}
        calls = report.get("network_evaluations_per_picture")
        yield {"label": "Network calls a picture", "value": calls, "note": str(report.get("sampler", ""))}
    quarantined = sum((report.get("quarantined") or {}).values())
    if job != "sample":
        yield {"label": "Quarantined", "value": quarantined, "note": "", "bad": quarantined > 0}
    failed = len(failed_units(report))
    if failed:
        yield {"label": "Failed units", "value": failed, "note": "run the same command again", "bad": True}


def _asked_and_kept(report: JsonMapping, kept: int) -> Iterator[Record]:
    """augment's tiles from what was read to what was kept; the notes say where the rest of what was asked for is."""
    yield {"label": "Images read", "value": report.get("images"), "note": ""}
    pairs, asked, not_made = (report.get(name) for name in ("pairs", "asked", "not_made"))
    yield {"label": "Pairs", "value": pairs, "note": ""}
    each = f"{asked // pairs:,} of each pair" if pairs and asked else ""
    yield {"label": "Pictures asked for", "value": asked, "note": each}
    lost = Counter(report.get("rejected") or {})
    by_reason = ", ".join(f"{n:,} {reason}" for reason, n in lost.items())
    notes = [f"{lost.total():,} rejected: {by_reason}"] if lost else []
    notes += [f"{report['forgotten']:,} forgotten"] if report.get("forgotten") else []
    yield {
        "label": "Kept",
        "value": kept,
        "note": "; ".join(notes + ([f"{not_made:,} not made"] if not_made else [])),
    }


def _work(stages: Sequence[Record]) -> Iterator[Record]:
    """The tile of the seconds that all stages took."""
    total, computed = sum(s["seconds"] for s in stages), sum(s["spent"].get("compute", 0.0) for s in stages)
    if total:
        note = f"{computed / total:.0%} of it computing" if computed else ""
        yield {"label": "Work of all workers", "value": total, "unit": "seconds", "note": note}


def _left_out(damage: Damage) -> Iterator[Record]:
    """The tile of what is damaged in the folder."""
    if any(damage.values()):
        note = ", ".join(f"{n} {name}" for name, n in damage.items() if n)
        yield {"label": "Damaged, left out", "value": sum(damage.values()), "note": note, "bad": True}


def _inversions(report: JsonMapping) -> Record:
    ends, inverted = report.get("pair_ends") or 0, report.get("images_inverted") or 0
    saved = f"{1 - inverted / ends:.0%}" if ends else None
    return {"label": "Inversions saved", "value": saved, "note": f"{inverted:,} for {ends:,} pair ends"}


def _most(counts: Counter[str]) -> Record:
    """The commonest, numbers in their order, and how many others there are."""
    rows = counts.most_common(KINDS)
    rows = sorted(rows, key=lambda row: int(row[0])) if all(name.isdecimal() for name, _ in rows) else rows
    return {"rows": rows, "others": max(0, len(counts) - KINDS)}


def _similarity(tally: Tally) -> Record | None:
    """The histogram of all samples' similarities: equal bins, at most BARS of them."""
    there = [i for i, n in enumerate(tally.similarity) if n]
    if not there:
        return None
    steps = (digit * 10**power for power in range(4) for digit in (1, 2, 5))
    step = next(s for s in steps if there[-1] // s - there[0] // s < BARS)
    low, high = there[0] // step * step, (there[-1] // step + 1) * step
    return {
        "bins": [
            {
                "from": round(i * 2 / BINS - 1, 4),
                "to": round((i + step) * 2 / BINS - 1, 4),
                "n": sum(tally.similarity[i : i + step]),
            }
            for i in range(low, high, step)
        ]
    }


def _uses(tally: Tally, report: JsonMapping) -> Record | None:
    """The histogram of kept pictures per input image: exact, or of a random part where the images are very many."""
    counts = tally.uses.counts.values()
    if not counts:
        return None
    histogram = Counter(min(n, MOST_USES) for n in counts)
    images = report.get("images")
    if tally.uses.part == 1 and isinstance(images, int) and images >= len(counts):
        histogram[0] = images - len(counts)
    low, high = min(histogram), max(histogram)
    return {
        "bins": [{"from": i, "to": i, "n": histogram[i]} for i in range(low, high + 1)],
        "more": MOST_USES if high == MOST_USES else None,
        "part": tally.uses.part,
    }


# gallery


def _gallery(
    job: str, rows: Sequence[pictures.Row], found: Sequence[Found], tally: Tally, read_from: JsonMapping
) -> Record:
    """Cards, and the pictures that they point at by number."""
    made = pictures.embedded(rows, job)
    places = {one: i for i, one in enumerate(made)}
    cards = [
        _card(one, [places.get(w) if w else None for w in row]) for one, row in zip(found, rows, strict=True)
    ]
    absent = sum(any(place is None for place in card["pictures"]) for card in cards)
    return {
        "total": tally.total,
        "rejected": tally.total - tally.verdicts[KEPT],
        "roles": ROLES.get(job, []),
        "main": MAIN.get(job, 0),
        "cards": cards,
        "pictures": list(made.values()),
        "absent": absent,
        "read_from": next(iter(read_from.values()), None),
    }


def _card(one: Found, places: Sequence[int | None]) -> Record:
    return {
        "key": one.key,
        "pictures": places,
        "classes": one.classes,
        "mode": one.mode,
        "similarity": one.similarity,
        "ratio": number(one.lineage.get("ratio")),
        "verdict": one.verdict,
        "caption": one.caption,
        "lineage": bounded(one.lineage),
    }


# fuse: one picture and its inputs


def _of_fuse(output: str, damage: Damage) -> Record:
    about = objects(storage.join(output, "fuse.json"), damage)
    inputs = objects_in(about.get("inputs"))
    files = [storage.join(output, f"input-{i}.png") for i in range(len(inputs))]
    fused = Source(url=storage.join(output, "fused.png"))
    sources: list[pictures.Wanted | None] = [Source(url=url) for url in files]
    roles = [
        f"{posixpath.basename(text_of(x.get('path')))}, weight {text_of(x.get('weight'))}" for x in inputs
    ]
    main = 1 if len(inputs) == 2 else len(inputs)
    one = Found(key="fused", picture=fused, lineage=about)
    row = [*sources[:main], fused, *sources[main:]]
    gallery = _gallery("fuse", [row], [one], Tally(total=1, verdicts=Counter({KEPT: 1})), {})
    psnr = [value for x in inputs if (value := number(x.get("psnr"))) is not None]
    edit = about.get("edit")
    mode = edit.get("name") if isinstance(edit, dict) else about.get("mode")
    sheets = {"Every mode at every ratio": "sweep.png"}
    return {
        "job": "fuse",
        "name": posixpath.basename(output.rstrip("/")),
        "noiseweave": __version__,
        "ended": True,
        "tiles": [
            {"label": "Inputs", "value": len(inputs), "note": ""},
            {"label": "Mode", "value": None if mode is None else text_of(mode), "note": ""},
            {
                "label": "Invert and replay",
                "value": f"{min(psnr):g} dB" if psnr else None,
                "note": "PSNR, at least",
            },
            *_left_out(damage),
        ],
        "damaged": said(damage),
        "parameters": flatten({k: v for k, v in about.items() if k not in ("inputs", "files", "sweep")}),
        "similarity": None,
        "uses": None,
        "counts": [],
        "stages": [],
        "workers": [],
        "class_names": [],
        "quarantine": {"total": 0, "reasons": [], "rows": []},
        "failed": [],
        "gallery": gallery | {"roles": [*roles[:main], "fused", *roles[main:]], "main": main},
        "sheets": [
            {"title": t, "picture": p}
            for t, name in sheets.items()
            if (p := pictures.sheet(storage.join(output, name)))
        ],
    }
