"""The ``pack`` job: a folder of pictures, or scikit-learn's digits -> labelled WebDataset shards.

One process streams the folder class by class: it holds the names of one class and the bytes of one shard.
The shards are a function of the input's content and the config alone, so a killed run is simply run again.
"""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import islice
from typing import Any, Literal

from noiseweave.cluster import folders, shards, storage
from noiseweave.engine.recipes import check
from noiseweave.engine.records import Bad

SIGNATURES = ((b"\x89PNG", "png"), (b"\xff\xd8", "jpg"), (b"RIFF", "webp"), (b"BM", "bmp"))
MANIFEST = "pack.json"
SHARD = re.compile(r"shard-(\d{6,})\.tar")


@dataclass(frozen=True, kw_only=True)
class Config:
    """Pictures -> shards of {key}.{jpg|png|webp|bmp}, .cls, .txt and .json.

    Args:
        output: folder or URL that gets shards/shard-000000.tar, classes.json, report.json, quarantine.jsonl.
        input: local folder of .jpg, .jpeg, .png, .webp and .bmp, each with an optional .txt caption and .json
            object of the same stem. One sub-folder a class, or all pictures directly in it without labels.
        dataset: digits packs scikit-learn's 1797 grey digits (8x8 unless size is given) in place of a folder.
        labels: folders numbers the sorted sub-folders that hold pictures; none writes no labels.
        size: side in pixels; each picture is resized, its centre square kept; null keeps the bytes.
        image_format: format of pictures that are encoded anew; null is png.
        shard_samples: samples in a shard.
        shard_mb: a shard is closed early when it holds this many megabytes, which bounds the memory.
        follow_links: read pictures that a symbolic link brings in from outside the input folder; otherwise
            they are quarantined. Links to folders are never followed.
        threads: pictures decoded at the same time; 0 picks the number of CPUs, at most 8.
        overwrite: start anew in an output folder that holds another packing.
    """

    output: str
    input: str | None = None
    dataset: Literal["digits"] | None = None
    labels: Literal["folders", "none"] = "folders"
    size: int | None = None
    image_format: Literal["png", "jpg", "webp"] | None = None
    shard_samples: int = 1000
    shard_mb: int = 512
    follow_links: bool = False
    threads: int = 0
    overwrite: bool = False

    def __post_init__(self) -> None:
        check(bool(self.output.strip()), "output", self.output, "a folder or URL")
        check(
            (self.input is None) != (self.dataset is None), "input", self.input,
            f"either input or dataset, not both or none (dataset={self.dataset!r})",
        )  # fmt: skip
        check(self.input is None or bool(self.input.strip()), "input", self.input, "a folder of pictures")
        check(self.input is None or "://" not in self.input, "input", self.input, "a local folder")
        check(self.size is None or 1 <= self.size <= 8192, "size", self.size, "1 to 8192, or null")
        encodes = self.size is not None or self.dataset is not None
        check(self.image_format is None or encodes, "image_format", self.image_format, "needs a size")
        check(self.shard_samples >= 1, "shard_samples", self.shard_samples, "1 or more")
        check(self.shard_mb >= 1, "shard_mb", self.shard_mb, "1 or more")
        check(self.threads >= 0, "threads", self.threads, "0 (automatic) or more")


@dataclass(frozen=True, kw_only=True)
class Packed:
    """A sample as it goes into the shard: extension -> bytes."""

    key: str
    label: int | None
    files: Mapping[str, bytes]


@dataclass(kw_only=True)
class Tally:
    """What the report says."""

    samples: int = 0
    shards: int = 0
    size: int = 0
    labels: Counter[int] = field(default_factory=Counter)
    ignored: Counter[str] = field(default_factory=Counter)
    bad: list[Bad] = field(default_factory=list)


def run(config: Config) -> int:
    """Pack; 0 when something was packed, 1 when every picture had to be quarantined."""
    output, tally = storage.absolute(config.output), Tally()
    if config.input is not None:
        root = os.path.realpath(storage.absolute(config.input))
        check(os.path.isdir(root), "input", config.input, "no such folder")
        check(os.path.realpath(output) != root, "output", config.output, "not the input folder itself")
        classes, total = survey(root, config.labels == "folders")
        check(
            total > 0,
            "input",
            config.input,
            "no .jpg, .jpeg, .png, .webp or .bmp in it or below it (linked folders do not count)",
        )
        results = folder_samples(root, classes, config, tally)
    else:
        classes, total = [str(n) for n in range(10) if config.labels == "folders"], 1797
        results = digit_samples(config)
    claim(output, config)
    write_shards(output, config, watched(results, total), tally)
    finish(output, [folders.printable(name) for name in classes], tally)
    return 0 if tally.samples else 1


def claim(output: str, config: Config) -> None:
    """Make the output folder ours, or refuse one that holds something else.

    The report goes first and comes back last: while it is missing, the packing is not finished.
    """
    storage.check_writable(output)
    ours, manifest = identity(config), storage.join(output, MANIFEST)
    refuse_other(output, ours, config.overwrite)
    storage.sweep_temporaries(output)
    storage.remove(storage.join(output, "report.json"))
    if config.overwrite:
        drop_shards(output, 0)
    storage.write_json(manifest, ours)


def identity(config: Config) -> dict[str, Any]:
    """The part of a config that decides what the shards hold."""
    values = asdict(config)
    for name in ("output", "threads", "overwrite"):
        del values[name]
    if config.input is not None:
        values["input"] = storage.absolute(config.input)
    return values


def refuse_other(output: str, ours: Mapping[str, Any], overwrite: bool) -> None:
    """Another packing gives way when told to; shards that no pack wrote never do."""
    manifest = storage.join(output, MANIFEST)
    theirs = storage.read_json(manifest) if storage.exists(manifest) else None
    tars = [name for name in storage.names_in(storage.join(output, "shards")) if name.endswith(".tar")]
    strange = [name for name in tars if theirs is None or not SHARD.fullmatch(name)]
    check(not strange, "output", output, f"its shards/ holds {strange[:1]}, which no pack wrote")
    if theirs is None or overwrite:
        return
    pairs = [(name, theirs.get(name), ours.get(name)) for name in sorted(theirs.keys() | ours.keys())]
    changed = [f"{name} was {old!r}, now {new!r}" for name, old, new in pairs if old != new]
    text = f"it holds another packing ({'; '.join(changed)}); take another folder, or --overwrite"
    check(not changed, "output", output, text)


def drop_shards(output: str, first: int) -> None:
    """Remove the shards numbered ``first`` and above: what an earlier, longer packing left."""
    folder = storage.join(output, "shards")
    for name in storage.names_in(folder):
        match = SHARD.fullmatch(name)
        if match and int(match[1]) >= first:
            storage.remove(storage.join(folder, name))


def write_shards(output: str, config: Config, results: Iterable[Packed | Bad], tally: Tally) -> None:
    """Results -> shards of ``shard_samples`` samples or ``shard_mb`` megabytes, whichever comes first."""
    batch: list[Packed] = []
    held = 0
    for result in results:
        if isinstance(result, Bad):
            tally.bad.append(result)
            continue
        batch.append(result)
        held += sum(map(len, result.files.values()))
        if len(batch) >= config.shard_samples or held >= config.shard_mb * 10**6:
            write_shard(output, batch, tally)
            batch, held = [], 0
    if batch:
        write_shard(output, batch, tally)
    drop_shards(output, tally.shards)


def write_shard(output: str, batch: Sequence[Packed], tally: Tally) -> None:
    data = shards.pack([(p.key, p.files) for p in batch])
    storage.write(storage.join(output, "shards", f"shard-{tally.shards:06d}.tar"), data)
    tally.shards += 1
    tally.samples += len(batch)
    tally.size += len(data)
    tally.labels.update(p.label for p in batch if p.label is not None)


def finish(output: str, classes: Sequence[str], tally: Tally) -> None:
    """Class names, quarantine and, last, the report. No times in it: the same input gives the same files."""
    lines = [json.dumps({"source": b.key, "reason": b.reason, "detail": b.detail[:300]}) for b in tally.bad]
    storage.write_json(storage.join(output, "classes.json"), list(classes))
    storage.write(storage.join(output, "quarantine.jsonl"), "".join(s + "\n" for s in lines).encode())
    report = {
        "job": "pack",
        "samples": tally.samples,
        "shards": tally.shards,
        "bytes": tally.size,
        "classes": {name: tally.labels[n] for n, name in enumerate(classes)},
        "quarantined": dict(Counter(b.reason for b in tally.bad)),
        "ignored": dict(tally.ignored),
    }
    storage.write_json(storage.join(output, "report.json"), report)
    print(
        f"packed {tally.samples} pictures in {tally.shards} shards, {len(classes)} classes -> {output}"
        f" ({len(tally.bad)} quarantined, {sum(tally.ignored.values())} other files ignored)"
    )


def watched(results: Iterable[Packed | Bad], total: int) -> Iterator[Packed | Bad]:
    """The same results, with a progress bar on standard error where a person looks at it."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (TextColumn("packing"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("", total=total)
        for result in results:
            yield result
            bar.advance(task)


# --- scikit-learn's digits ---


def digit_samples(config: Config) -> Iterator[Packed]:
    """Optical digits, 8x8 with values 0..16 -> grey uint8 pictures (bicubic when a size is given)."""
    import numpy as np
    from PIL import Image
    from sklearn.datasets import load_digits

    from noiseweave.engine import images

    digits = load_digits()
    pictures_NHW = np.rint(digits.images * (255 / 16)).astype(np.uint8)
    extension = config.image_format or "png"
    for n, (picture_HW, label) in enumerate(zip(pictures_NHW, digits.target, strict=True)):
        if config.size is not None:
            side = (config.size, config.size)
            picture_HW = np.asarray(Image.fromarray(picture_HW).resize(side, Image.Resampling.BICUBIC))
        files: dict[str, bytes] = {extension: images.encode(picture_HW[..., None], extension)}
        number = None if config.labels == "none" else int(label)
        yield packed(f"digit-{n:04d}", number, files, {"source": f"digits/{n:04d}"})


def packed(key: str, label: int | None, files: dict[str, bytes], meta: Mapping[str, Any]) -> Packed:
    if label is not None:
        files["cls"] = str(label).encode()
    files["json"] = json.dumps(meta).encode()
    return Packed(key=key, label=label, files=files)


# --- a folder of pictures ---


def survey(root: str, labelled: bool) -> tuple[list[str], int]:
    """Look through the folder once, without opening a picture: class folders by number, pictures in all."""
    sizes = {name: len(folders.listing(root, name).items) for name in folders.inside(root) if labelled}
    classes = [name for name, size in sizes.items() if size]
    return classes, sum(sizes.values()) + len(folders.listing(root, "", deep=not classes).items)


def folder_samples(root: str, classes: Sequence[str], config: Config, tally: Tally) -> Iterator[Packed | Bad]:
    """Every picture below the folder, sorted by name: a sample, or why there is none."""
    loose = folders.listing(root, "", deep=not classes)
    tally.ignored += loose.ignored
    yield from loose.bad
    if classes:
        yield from (folders.bad(i.path, "no_class", "it lies beside the class folders") for i in loose.items)
    else:
        yield from loaded(root, loose.items, config)
    for label, (name, prefix) in enumerate(zip(classes, folders.keys_of(classes), strict=True)):
        found = folders.listing(root, name)
        tally.ignored += found.ignored
        yield from found.bad
        yield from loaded(root, found.items, config, len(name) + 1, f"{prefix}__", label)


def loaded(
    root: str, items: Sequence[folders.Item], config: Config, cut: int = 0, prefix: str = "",
    label: int | None = None,
) -> Iterator[Packed | Bad]:  # fmt: skip
    """Read and check the pictures of one class with a few threads, a few at a time, in order.

    A key is ``prefix`` and the path without its first ``cut`` characters.
    """
    from concurrent.futures import ThreadPoolExecutor

    threads = config.threads or min(8, os.cpu_count() or 1)
    waiting = zip(items, (prefix + k for k in folders.keys_of([i.path[cut:] for i in items])), strict=True)
    with ThreadPoolExecutor(threads) as pool:
        while chunk := list(islice(waiting, 4 * threads)):
            yield from pool.map(lambda pair: load(root, pair[0], pair[1], label, config), chunk)


def load(root: str, item: folders.Item, key: str, label: int | None, config: Config) -> Packed | Bad:
    try:
        return packed(key, label, *sample(root, item, config))
    except ValueError as e:
        reason, _, detail = str(e).partition(": ")
        return folders.bad(item.path, reason, detail)


def sample(root: str, item: folders.Item, config: Config) -> tuple[dict[str, bytes], dict[str, Any]]:
    """One picture with its side files: extension -> bytes, and its .json.

    Raises:
        ValueError: ``"reason: detail"``. A broken side file takes its picture along, for a picture that
            silently lost its caption is worse than one that is missing and named.
    """
    from noiseweave.engine import images

    data = folders.read(root, item.path, storage.IMAGE_LIMIT, config.follow_links)
    image_HWC = images.decode(data)
    extension = next(e for start, e in SIGNATURES if data.startswith(start))
    if config.size is not None:
        extension = config.image_format or "png"
        data = images.encode(images.fit(image_HWC, config.size), extension)
    sides = {e: folders.read(root, p, shards.SIDE_LIMIT, config.follow_links) for e, p in item.sides.items()}
    files = {extension: data}
    if "txt" in sides:
        files["txt"] = caption(sides["txt"])
    return files, lineage(sides.get("json"), folders.printable(item.path))


def caption(data: bytes) -> bytes:
    """UTF-8 without a byte order mark."""
    try:
        return data.decode("utf-8-sig").encode()
    except UnicodeDecodeError as e:
        raise ValueError(f"bad_txt: the caption is not UTF-8 ({e.reason})") from None


def lineage(data: bytes | None, source: str) -> dict[str, Any]:
    """The picture's own .json with ``source``, its path in the folder; an older source is kept beside it."""
    try:
        meta = json.loads(data) if data is not None else {}
    except (ValueError, RecursionError) as e:
        raise ValueError(f"bad_json: {e}") from None
    if not isinstance(meta, dict):
        raise ValueError(f"bad_json: a {type(meta).__name__} where an object is expected")
    if "source" in meta:
        meta["earlier_source"] = meta.pop("source")
    return {**meta, "source": source}
