"""The ``pack`` job: pictures from a folder, an LMDB, an image folder or shards -> labelled WebDataset shards.

One process streams the input: it holds the names of one class or shard and the bytes of one shard to be
written (two with a validation split). The shards are a function of the input's content and the config
alone, so a killed run is simply run again.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from typing import get_args

from noiseweave.cluster import lock, shards, storage
from noiseweave.engine.checks import check
from noiseweave.jobs.pack import datasets, digits, folder, lmdb
from noiseweave.jobs.pack import output as pack_output
from noiseweave.jobs.pack import shards as pack_shards
from noiseweave.jobs.pack.config import Config, Format
from noiseweave.jobs.pack.samples import Source, Tally
from noiseweave.jobs.reading import class_names as reading_class_names
from noiseweave.jobs.reading import places

NAMED = 20  # classes that a refusal names


def run(config: Config) -> int:
    """Pack; 0 when something was packed, 1 when every picture had to be quarantined or was left out."""
    output, tally = storage.absolute(config.output), pack_output.new_tally(config)
    kind = kind_of(config)
    check(config.split is None or kind in ("lmdb", "imagefolder"), "split", config.split, f"not for {kind}")
    found = shards.find(str(config.input)) if kind == "shards" else []
    config = with_numbers(config, kind, output, found)
    source = opened(config, kind, output, found, tally)
    classes = class_names(config, source.classes)
    with lock.held(output):
        pack_output.claim(output, config, kind, reading_class_names.folders_of(found))
        if config.input is not None:
            print(f"reading {config.input} as {source.what}")
        pack_output.write_shards(output, config, pack_output.watched(source.results, source.total), tally)
        pack_output.finish(output, classes, tally)
    return 0 if tally.samples else 1


def kind_of(config: Config) -> str:
    """What the input is: a format but auto, or digits."""
    if config.input is None:
        return "digits"
    return detected(config.input) if config.format == "auto" else config.format


def detected(pattern: str) -> str:
    """What an input looks like, by the names in it alone.

    Raises:
        ValueError: it looks like two things.
    """
    root = storage.absolute(pattern)
    if "://" in pattern or (
        not os.path.isdir(root) and (pattern.endswith(".tar") or set(pattern) & set("*?[{"))
    ):
        return "shards"
    if not os.path.isdir(root):
        return "folder"  # which then says that there is none
    tars = sum(name.endswith(".tar") for name in storage.names_in(root))
    if lmdb.is_lmdb(root):
        check(not tars, "input", pattern, f"{tars} .tar beside an LMDB; choose with --format lmdb or shards")
        return "lmdb"
    if tars:
        mixed = places.mixed_in(root, tars)
        check(mixed is None, "input", pattern, f"{mixed}; choose with --format shards or --format folder")
        return "shards"
    return "imagefolder" if datasets.has_metadata(root) else "folder"


def opened(config: Config, kind: str, output: str, found: Sequence[str], tally: Tally) -> Source:
    """The input as a stream of samples; nothing is written yet."""
    assert kind in (*get_args(Format)[1:], "digits"), kind
    if kind == "digits":
        return digits.source(config, tally)
    if kind == "shards":
        return pack_shards.source(config, found, tally)
    root = os.path.realpath(storage.absolute(str(config.input)))
    check(os.path.isdir(root), "input", config.input, "no such folder")
    check(os.path.realpath(output) != root, "output", config.output, "not the input folder itself")
    sources = {"folder": folder, "lmdb": lmdb, "imagefolder": datasets}
    return sources[kind].source(config, root, tally)


def with_numbers(config: Config, kind: str, output: str, found: Sequence[str]) -> Config:
    """The config with the numbers of the classes that ``keep_labels`` names.

    Raises:
        ValueError: the input has no class of such a name, or one is given by name and by number.
    """
    keep = config.keep_labels or ()
    if not any(isinstance(label, str) for label in keep):
        return config
    every = replace(config, keep_labels=None, renumber=False)
    classes = list(opened(every, kind, output, found, pack_output.new_tally(every)).classes)
    unknown = [label for label in keep if isinstance(label, str) and label not in classes]
    have = ", ".join(classes[:NAMED]) + (f" and {len(classes) - NAMED} more" if len(classes) > NAMED else "")
    check(
        not unknown, "keep_labels", list(keep), f"the input's classes are {have or 'numbers, without names'}"
    )
    numbers = tuple(classes.index(label) if isinstance(label, str) else label for label in keep)
    return replace(config, keep_labels=numbers)


def class_names(config: Config, classes: Sequence[str]) -> list[str]:
    """What classes.json says: the input's names, in the order of their numbers in the shards."""
    keep = config.kept or ()
    beyond = [n for n in keep if classes and n >= len(classes)]
    check(not beyond, "keep_labels", list(keep), f"the input's classes are 0 to {len(classes) - 1}")
    return [classes[n] for n in keep] if config.renumber and classes else list(classes)
