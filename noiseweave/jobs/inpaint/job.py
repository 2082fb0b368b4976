"""``noiseweave inpaint``: pictures and masks -> pictures with their holes repaired, each beside its original.

Outside its mask a picture keeps every pixel. What is painted depends on the picture's name and the seed alone.
"""

from __future__ import annotations

import os
import secrets
from typing import TYPE_CHECKING

from noiseweave.engine.checks import check
from noiseweave.engine.identity import identity_of
from noiseweave.engine.records import JsonMapping
from noiseweave.jobs.inpaint.config import OWNED, SHEETS, Config
from noiseweave.jobs.inpaint.task import Task
from noiseweave.jobs.reading import class_names, looks

if TYPE_CHECKING:
    from noiseweave.jobs.inpaint.input import Input


def run(config: Config) -> int:
    """Do the job. Returns 0, or 1 when units failed or no picture was good.

    Raises:
        ValueError: what a user can put right, in one line.
    """
    from noiseweave.cluster import ledger
    from noiseweave.cluster.session import session
    from noiseweave.jobs.inpaint import draw, plan
    from noiseweave.jobs.inpaint import input as inpaint_input
    from noiseweave.jobs.inpaint import output as inpaint_output
    from noiseweave.jobs.reading.contents import Contents

    output, sheet = destination(config)
    contents = Contents(output)
    work = inpaint_input.gather(config, contents)
    task = plan.plan(config, output, sheet, seed_of(config, output))
    if config.image is not None:
        check_single(task, work)
    with ledger.held_run(output, identity(task, work), config.overwrite, OWNED) as book:
        contents.keep()
        class_names.write(output, work.classes)
        looks.warn(unlike(task, work))
        with session(config.cluster) as s:
            outcome = draw.run(task, work, book, s)
        return inpaint_output.finish(task, work, book, outcome)


def check_single(task: Task, work: Input) -> None:
    """A single picture is not quarantined.

    Raises:
        ValueError: it or its mask is bad, by its name.
    """
    from noiseweave.jobs.inpaint.draw import load
    from noiseweave.jobs.reading.shard_pictures import InputChanged

    (item,) = work.plan.unit(0).payload
    try:
        load(task, item)
    except (ValueError, InputChanged) as e:
        raise ValueError(f"image {task.config.image!r}, mask {task.config.mask!r}: {e}") from None


def unlike(task: Task, work: Input) -> str | None:
    """Where the pictures are much larger than what the model paints, or of other channels: that they are.

    With crop_to_mask the model sees boxes at full resolution, and the size is no matter.
    """
    from noiseweave.jobs.inpaint.draw import long_side
    from noiseweave.jobs.inpaint.input import items_of

    units = [work.plan.unit(i) for i in looks.spread(work.plan.length)]
    places = [item.picture for unit in units for item in items_of(unit.payload)]
    side = long_side(task)
    of = (lambda size: side) if task.config.crop_to_mask else max
    seen = looks.look_at_places(places, task.config.max_pixels)
    return looks.warning(seen, f"model {task.config.model.name}", side, int(task.about["channels"]), of)


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


def identity(task: Task, work: Input) -> JsonMapping:
    """What the output depends on."""
    return identity_of(
        task.config,
        job="inpaint",
        model_hash=task.model_hash,
        **{"input.content": work.digest},
        class_names=work.classes,
        seed=task.seed,
        seed_drawn=not task.config.seed,
    )
