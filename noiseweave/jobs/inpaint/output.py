"""What inpaint writes: restored pictures, collages, lineage, shards, the report."""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict

import numpy as np
from PIL import Image

from noiseweave import __version__
from noiseweave.cluster import folders, shards, storage
from noiseweave.cluster.ledger import Ledger
from noiseweave.cluster.pipeline import Outcome
from noiseweave.cluster.stages import Committed
from noiseweave.cluster.units import Unit, UnitReport
from noiseweave.engine.formats import FORMATS
from noiseweave.engine.inpainting.patches import edge, repaired
from noiseweave.engine.pictures import files as pictures
from noiseweave.engine.pictures import images, masks
from noiseweave.engine.pictures.collage import png
from noiseweave.engine.pictures.provenance import EDITED, MIXED, Mark, Source
from noiseweave.engine.records import Json
from noiseweave.jobs import outputs
from noiseweave.jobs.inpaint.input import Input
from noiseweave.jobs.inpaint.task import Painted, Restored, Result, Task, hole_of, left_out
from noiseweave.jobs.reading import loras
from noiseweave.jobs.reading.places import Item, Place
from noiseweave.jobs.report.job import finish_page

SHOWN = 10  # names that the screen lists; report.json has all


def commit(task: Task, unit: Unit, result: Result) -> Committed:
    """Write a unit's pictures; one that its format cannot hold is quarantined."""
    painted, bad = result
    rows: list[tuple[str, dict[str, bytes]]] = []
    done: list[Painted] = []
    for one in painted:
        try:
            rows += write(task, one)
            done.append(one)
        except ValueError as e:
            bad.append(left_out(one.loaded.item, str(e)))
    if rows:
        name = str(outputs.ShardName(kind="inpainted", unit=f"{unit.index:06d}"))
        path = storage.join(task.output, "shards", name)
        storage.write(path, shards.pack(rows))
    report = UnitReport(
        id=unit.id,
        produced=sum(len(one.rows) for one in done),
        extra={
            "drawn_again": float(sum(len(_again(one)) for one in done)),
            "broken_profiles": float(sum(images.has_broken_profile(one.loaded.data) for one in done)),
        },
        tallies={
            "truncated": Counter(end for one in painted for end in one.truncated),
            "copied": Counter(_named(one.loaded.item) for one in done if not one.loaded.regions),
        },
    )
    return report, bad


def _named(item: Item) -> str:
    """A picture as the report names it."""
    return f"{item.shard}#{item.key}" if item.shard else item.name


def write(task: Task, one: Painted) -> list[tuple[str, dict[str, bytes]]]:
    """The files of one picture: written below the output, or, of a shard, given back as samples."""
    made = restored(task, one)
    page = b""
    if task.config.sheets or task.sheet:
        seen = [pictures.visible(pictures.replaced(made.picture, image), 3) for image in made.images]
        gaps = task.config.collage_spacing_h, task.config.collage_spacing_v
        sheet = collage(pictures.visible(made.picture, 3), made.hole_HW, seen, *gaps)
        page = png(sheet, mark(task, one, MIXED, one.seeds(task)[0]))
    if one.loaded.item.shard:
        return samples(task, one, made.extension, made.data, page)
    _write_files(task, one, made.extension, made.data, page)
    return []


def restored(task: Task, one: Painted) -> Restored:
    """A painted picture in its file's mode and format, with its profile; one whose mask is empty as it is."""
    picture = pictures.opened(one.loaded.data, task.config.max_pixels)
    shown_HWC = pictures.visible(picture)
    hole_HW = hole_of(task.config, one.loaded.mask, shown_HWC.shape[:2])
    painted, wanted = bool(one.loaded.regions), task.config.output_format
    extension = pictures.extension_of(picture, one.loaded.item.extension, wanted, painted)
    made = variants(task, picture, shown_HWC, hole_HW, one)
    as_is = not painted and FORMATS[extension] == picture.kind
    data = [
        one.loaded.data
        if as_is
        else pictures.encode(image, picture, extension, mark(task, one, EDITED, seed))
        for image, seed in zip(made, one.seeds(task), strict=True)
    ]
    return Restored(picture=picture, hole_HW=hole_HW, images=made, data=data, extension=extension)


def variants(
    task: Task, picture: pictures.Picture, shown_HWC: np.ndarray, hole_HW: np.ndarray, one: Painted
) -> list[Image.Image]:
    """The restored picture of each variant, in the stored mode."""
    regions = one.loaded.regions
    if not regions:
        return [picture.image] * len(one.rows)
    edges = [
        edge(shown_HWC[r.box.slices], hole_HW[r.box.slices], task.config.feather) for r in regions
    ]  # the same for all variants
    out = []
    for patches in one.patches:
        paint_HWC = shown_HWC.copy()
        for region, patch, (around, alpha) in zip(regions, patches, edges, strict=True):
            paint_HWC[region.box.slices] = repaired(around, alpha, patch)
        out.append(pictures.restored(picture, paint_HWC, hole_HW))
    return out


def collage(
    original_HWC: np.ndarray, hole_HW: np.ndarray, restored: Sequence[np.ndarray], gap_h: int, gap_v: int
) -> Image.Image:
    """Rows of original | original with the hole in white | restored, at full size, on white.

    Args:
        original_HWC: uint8 [H, W, 3].
        hole_HW: bool [H, W].
        restored: uint8 [H, W, 3] each, a row for each.
    """
    height, width = hole_HW.shape
    page = np.full((len(restored) * (height + gap_v) - gap_v, 3 * width + 2 * gap_h, 3), 255, np.uint8)
    white = masks.whitened(original_HWC, hole_HW)
    for r, picture in enumerate(restored):
        top = r * (height + gap_v)
        for c, tile in enumerate((original_HWC, white, picture)):
            left = c * (width + gap_h)
            page[top : top + height, left : left + width] = tile
    return Image.fromarray(page)


def mark(task: Task, one: Painted, source: Source, seed: int) -> Mark | None:
    """What a restored picture's file says; None where it is not asked for, or where nothing was painted."""
    if not task.config.provenance or not one.loaded.regions:
        return None
    return Mark(
        source=source,
        model=task.config.model.name,
        model_hash=task.model_hash,
        seed=seed,
        parents=[hashlib.sha256(one.loaded.data).hexdigest()],
        how={"mode": task.method},
    )


def names(key: str, rows: Sequence[int]) -> list[str]:
    """What the variants of a picture are called: a, a_2, a_3, ..."""
    return [key if row == 0 else f"{key}_{row + 1}" for row in rows]


def collage_path(task: Task, key: str) -> str:
    """Where the collage of a picture lies."""
    return storage.join(task.output, "collages", f"{key}_collage.png")


def _write_files(task: Task, one: Painted, extension: str, data: Sequence[bytes], page: bytes) -> None:
    key = one.loaded.item.key
    files = [f"restored/{name}.{extension}" for name in names(key, one.rows)]
    for name, content in zip(files, data, strict=True):
        storage.write(storage.join(task.output, name), content)
    if page:
        storage.write(collage_path(task, key), page)
    about = lineage(task, one) | {"files": [folders.printable(f) for f in files]}
    storage.write_json(storage.join(task.output, "lineage", f"{key}.json"), about)


def samples(
    task: Task, one: Painted, extension: str, data: Sequence[bytes], page: bytes
) -> list[tuple[str, dict[str, bytes]]]:
    """One sample for each variant, with its mask; the collage of all goes with the first."""
    item, out = one.loaded.item, []
    for row, name, content in zip(one.rows, names(item.key, one.rows), data, strict=True):
        files = {extension: content, item.hole: one.loaded.mask}
        if one.loaded.label is not None:
            files["cls"] = one.loaded.label
        if one.loaded.prompt:
            files["txt"] = one.loaded.prompt.encode()
        own = [again for again in _again(one) if again["variant"] == row + 1]
        about = lineage(task, one) | {"seeds": [task.seeds[row]], "drawn_again": own}
        files["json"] = json.dumps(about, ensure_ascii=False).encode()
        if page and row == one.rows[0]:
            files["collage.png"] = page
        out.append((name, files))
    return out


def lineage(task: Task, one: Painted) -> Json:
    """Where a restored picture came from, enough to make it again."""
    config, loaded = task.config, one.loaded
    single = config.image is not None
    digest = hashlib.sha256(loaded.data).hexdigest()
    shard = os.path.basename(loaded.item.shard)
    return {
        "parents": [{"shard": shard, "key": folders.printable(loaded.item.key), "sha256": digest}],
        "picture": config.image if single else _place(loaded.item, loaded.item.picture),
        "mask": config.mask if single else _place(loaded.item, loaded.item.mask),
        "picture_sha256": digest,
        "mask_sha256": hashlib.sha256(loaded.mask).hexdigest(),
        "key": folders.printable(loaded.item.key),
        "seeds": one.seeds(task),
        "drawn_again": _again(one),
        "prompt": loaded.prompt,
        "prompt_truncated": list(one.truncated),
        "negative_prompt": config.negative_prompt,
        "mask_mode": config.mask_mode,
        "copied": not loaded.regions,
        "boxes": [[r.box.top, r.box.left, r.box.bottom, r.box.right] for r in loaded.regions],
        "worked_at": [list(r.hole_HW.shape) for r in loaded.regions],
        "crop_to_mask": config.crop_to_mask,
        "padding": config.padding,
        "feather": config.feather,
        **asdict(config.inpaint),
        "method": task.method,
        "model": config.model.name,
        "model_hash": task.model_hash,
        "lora": loras.record(task.config.model),
        "precision": one.precision,
        "noiseweave": __version__,
    }


def _again(one: Painted) -> list[Json]:
    """The parts of a picture that were flagged at first, each with the seed that it was painted with then."""
    return [{"variant": row + 1, "box": i, "seed": seed} for row, i, seed in one.again if row in one.rows]


def _place(item: Item, place: Place) -> str:
    """A file's path below its folder, or a sample of a shard."""
    return f"{os.path.basename(item.shard)}#{item.key}" if item.shard else folders.printable(place.path)


def finish(task: Task, work: Input, book: Ledger, outcome: Outcome) -> int:
    """quarantine.jsonl, report.json, the single picture's collage, and what is said on the screen.

    Returns the exit code: 1 when units failed, or when every picture was left out.
    """
    lines = [{"phase": "match", **asdict(b)} for b in work.left_out]
    lines += [{"phase": "inpaint", **b} for b in outputs.quarantined(book, "inpaint")]
    report = summary(task, work, outcome, outputs.write_quarantine(task.output, lines))
    storage.write_json(storage.join(task.output, "report.json"), report)
    if task.sheet and outcome.produced:
        _write_sheet(task, work)
    show(task, report)
    finish_page(task.output)
    outputs.say_quarantined(task.output)  # last, as it decides whether the run was a good one
    return 1 if outcome.failed or outcome.produced == 0 else 0


def summary(task: Task, work: Input, outcome: Outcome, quarantined: Counter[str]) -> Json:
    """The content of report.json."""
    alone = {
        reason: [b.key if not b.shard else f"{b.shard}#{b.key}" for b in work.left_out if b.reason == reason]
        for reason in ("no_mask", "no_picture")
    }
    copied = list(outcome.tallies["copied"])
    read_from = {name: getattr(task.config, name) for name in ("image", "mask", "images", "masks", "input")}
    return {
        "noiseweave": __version__,
        "config": asdict(task.config),
        "read_from": {name: storage.absolute(path) for name, path in read_from.items() if path is not None},
        "model": task.config.model.name,
        "model_hash": task.model_hash,
        "method": task.method,
        "lora": loras.record(task.config.model),
        "pictures": work.pictures,
        "restored": outcome.produced - len(copied) * task.config.rows,
        "copied": len(copied),
        "copied_pictures": copied,
        "drawn_again": int(outcome.extra["drawn_again"]),
        "broken_profiles": int(outcome.extra["broken_profiles"]),
        "seeds": list(task.seeds),
        "seed_drawn": not task.config.seed,
        "quarantined": dict(sorted(quarantined.items())),
        "without_mask": alone["no_mask"],
        "without_picture": alone["no_picture"],
        "truncated": list(outcome.tallies["truncated"]),
        "seconds": round(outcome.seconds, 2),
        "failed": outcome.failed,
    }


def _write_sheet(task: Task, work: Input) -> None:
    assert task.sheet is not None
    data = storage.read(collage_path(task, work.plan.unit(0).payload[0].key))
    if not task.sheet.lower().endswith(".png"):
        buffer = io.BytesIO()
        kind = pictures.EXTENSIONS[task.sheet.rpartition(".")[2].lower()]
        picture = Image.open(io.BytesIO(data))
        xmp = {"xmp": picture.info["xmp"]} if "xmp" in picture.info else {}
        picture.save(buffer, kind, quality=95, **xmp)
        data = buffer.getvalue()
    storage.write(task.sheet, data)


def show(task: Task, report: Json) -> None:
    """What a person wants to know at the end."""
    where = storage.join(task.output, "restored" if task.config.input is None else "shards")
    seeds = report["seeds"]
    print(
        f"{report['restored']} restored pictures in {where}, seed {seeds[0]}"
        f"{f' to {seeds[-1]}' if len(seeds) > 1 else ''}"
    )
    if task.sheet or task.config.sheets:
        print(f"collages: {task.sheet or storage.join(task.output, 'collages')}")
    for name, what in (
        ("without_mask", "pictures without a mask"),
        ("without_picture", "masks without a picture"),
        ("copied_pictures", "pictures copied, as their masks are empty"),
    ):
        alone = report[name]
        more = f" and {len(alone) - SHOWN} more" if len(alone) > SHOWN else ""
        if alone:
            print(f"{len(alone)} {what}: {', '.join(alone[:SHOWN])}{more}")
    outputs.say_broken_profiles(report["broken_profiles"])
    for end in report["truncated"]:
        print(f"prompt truncated, the text encoder does not read: ...{end[:200]}")
    for unit, error in report["failed"].items():
        print(f"failed: unit {unit}: {error}")
