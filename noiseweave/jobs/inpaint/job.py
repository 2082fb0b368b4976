"""``noiseweave inpaint``: pictures and masks -> pictures with their holes repaired, each beside its original.

Outside its mask a picture keeps every pixel. What is painted depends on the picture's name and the seed alone.
"""

from __future__ import annotations

import os
import secrets

from noiseweave.engine.checks import check
from noiseweave.engine.identity import identity_of
from noiseweave.engine.records import JsonMapping
from noiseweave.jobs.inpaint.config import OWNED, SHEETS, Config
from noiseweave.jobs.inpaint.task import Task


def run(config: Config) -> int:
    """Do the job. Returns 0, or 1 when units failed.

    Raises:
        ValueError: what a user can put right, in one line.
    """
    from noiseweave.cluster import ledger, storage
    from noiseweave.cluster.session import session
    from noiseweave.jobs.inpaint import draw
    from noiseweave.jobs.inpaint import input as inpaint_input
    from noiseweave.jobs.inpaint import output as inpaint_output
    from noiseweave.jobs.reading.contents import Contents

    output, sheet = destination(config)
    contents = Contents(output)
    work = inpaint_input.gather(config, contents)
    task = draw.plan(config, output, sheet, seed_of(config, output))
    if config.image is not None:
        draw.check_single(task, work)
    storage.check_writable(output)
    book = ledger.open_run(output, identity(task, work.digest), config.overwrite, OWNED)
    contents.keep()
    with session(config.cluster) as s:
        outcome = draw.run(task, work, book, s)
    return inpaint_output.finish(task, work, book, outcome)


def destination(config: Config) -> tuple[str, str | None]:
    """The run's folder, and the file of the collage where --output names one.

    Raises:
        ValueError: output is the input, or lies in it.
    """
    from noiseweave.cluster import storage

    output = storage.absolute(config.output)
    for name in ("images", "masks"):
        folder = getattr(config, name)
        if folder is not None and "://" not in output:
            real, inside = os.path.realpath(output), os.path.realpath(os.path.expanduser(folder))
            ok = os.path.commonpath([real, inside]) != inside
            check(ok, "output", config.output, f"a folder that does not lie in {name}")
    stem, extension = os.path.splitext(output)
    if extension.lower() not in SHEETS or storage.is_folder(output):
        return output, None
    check(config.image is not None, "output", config.output, "a folder, as there are several pictures")
    for name in ("image", "mask"):
        same = storage.absolute(getattr(config, name)) == output
        check(not same, "output", config.output, f"another file than {name}")
    return stem, output


def seed_of(config: Config, output: str) -> int:
    """The seed of the first variant: as given, as an earlier start of the same run drew it, or drawn now."""
    from noiseweave.cluster import storage

    if config.seed:
        return config.seed
    path = storage.join(output, "_run", "config.json")
    if not config.overwrite and storage.exists(path):
        found = storage.read_object(path)
        if found.get("job") == "inpaint" and found.get("seed_drawn"):
            return int(found["seed"])
    return 1 + secrets.randbelow((1 << 31) - 1)


def identity(task: Task, digest: str) -> JsonMapping:
    """What the output depends on."""
    return identity_of(
        task.config,
        job="inpaint",
        model_hash=task.model_hash,
        lora=[file.sha256[:16] for file in task.loras],
        lora_weight=[file.weight for file in task.loras],
        **{"input.content": digest},
        seed=task.seed,
        seed_drawn=not task.config.seed,
    )
