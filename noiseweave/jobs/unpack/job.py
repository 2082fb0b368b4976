"""The ``unpack`` job: shards -> class folders of pictures, as torchvision and Hugging Face ``datasets`` read them.

Two flows: list (a shard's names), then copy (a shard's pictures). Nothing is encoded anew.
"""

from __future__ import annotations

from dataclasses import replace

from noiseweave.engine.identity import identity_of
from noiseweave.engine.records import Json
from noiseweave.jobs.reading import class_names, places
from noiseweave.jobs.unpack.config import Config
from noiseweave.jobs.unpack.task import Task


def run(config: Config) -> int:
    """Do the job. Returns 0, or 1 when units failed or there was no picture.

    Raises:
        ValueError: what a user can put right, in one line.
    """
    from noiseweave.cluster import lock, storage
    from noiseweave.cluster.session import session
    from noiseweave.jobs.unpack import copying, listing, output, report

    found = shards_of(config.input)
    names = tuple(class_names.carried_classes(config.input, found))
    folder = storage.absolute(config.output)
    task = Task(output=folder, root=places.common_root(found), classes=names, whole=config.members == "all")
    known = identity(config, task, found)
    with lock.held(folder):
        book = output.opened(folder, known, config.overwrite)
        if book is None:
            report.show(folder, storage.read_object(storage.join(folder, "report.json")))
            return 0
        with session(replace(config.cluster, gpus_per_worker=0)) as s:
            listed = listing.run(found, book, s)
            if listed.failed:
                return report.failed(listed)
            folders = listing.decide(task, listed, book)
            copied = copying.run(task, found, book, s)
        if copied.failed:
            return report.failed(copied)
        code = report.finish(task, book, copied, folders)
        output.close(book, known, sorted(folders.values()))
        storage.sweep_temporaries(folder)
    return code


def shards_of(given: str) -> list[str]:
    """The shards that an input names; of a job's output folder, those in its shards/.

    Raises:
        ValueError: there are none.
    """
    from noiseweave.cluster import shards, storage
    from noiseweave.jobs import class_folders
    from noiseweave.jobs.outputs import PICTURES

    places.check_alone("input", given)
    inner = storage.join(storage.absolute(given), "shards")
    tars = [n for n in storage.names_in(inner) if n.endswith(".tar")] if _is_folder(given) else []
    if tars and not any(n.endswith(".tar") for n in storage.names_in(storage.absolute(given))):
        print(f"reading {inner}")
        return shards.find(inner)
    files = storage.join(storage.absolute(given), PICTURES)
    if _is_folder(given) and storage.exists(storage.join(files, class_folders.METADATA)):
        raise ValueError(f"input {given!r}: no .tar shards there; its pictures are files already, in {files}")
    return shards.find(given)


def _is_folder(given: str) -> bool:
    from noiseweave.cluster import storage

    return not set("*?[{") & set(given) and storage.is_folder(storage.absolute(given))


def identity(config: Config, task: Task, found: list[str]) -> Json:
    """What the output depends on."""
    from noiseweave.cluster import shards

    read = {"shards": len(found), "content": shards.digest(found, task.root)}
    return identity_of(config, job="unpack", input=read, class_names=task.classes)
