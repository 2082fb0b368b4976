"""The product's own readers, each over a whole folder of input: what is mutated, and what reads it."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from fuzz import corpora
from noiseweave.cluster import shards, storage
from noiseweave.cluster.ledger import Ledger, check_run
from noiseweave.cluster.pipeline import Outcome
from noiseweave.cluster.units import Unit


@dataclass(frozen=True, kw_only=True)
class Target:
    """Something that reads what a stranger wrote.

    Attributes:
        build: writes the sound input into an empty folder.
        read: reads it; what it gives back does not matter, what it raises does.
        files: glob of the files that are mutated.
    """

    build: Callable[[Path], None]
    read: Callable[[Path], object]
    files: str = "**/*"


def _parse(job: str, *words: object):
    from noiseweave.jobs import arguments

    return arguments.parse(job, [*map(str, words)])


def _tars(folder: Path) -> None:
    from noiseweave.jobs.reading import class_names, shard_pictures

    found = shards.find(str(folder / "in"))
    shards.digest(found)
    class_names.carried_classes("in", found)
    for url in found:
        shard_pictures.read_shard(url, 16, 3)
        shards.without(storage.read(url), {"d000", "d005"})


def _pictures(folder: Path) -> None:
    from noiseweave.engine.pictures import files, images, masks

    for path in sorted(folder.iterdir()):
        if not path.is_file():
            continue
        data = path.read_bytes()
        for look in (
            lambda d: images.fit(images.decode(d, 3), 16),
            lambda d: images.decode(d, 1),
            images.decode_plain,
            images.kind_of,
            lambda d: masks.hole_of(d, "black", (24, 20)),
            lambda d: _written(files.opened(d, images.MAX_PIXELS)),
        ):
            try:
                look(data)
            except ValueError as e:
                _reason(e)


def _written(picture) -> None:
    from noiseweave.engine.pictures import files

    shown_HWC = files.visible(picture)
    made = files.restored(picture, shown_HWC, np.ones(shown_HWC.shape[:2], bool))
    files.encode(made, picture, files.extension_of(picture, "png", "same"))


def _reason(error: ValueError) -> None:
    """What is quarantined has a word for its reason."""
    reason = str(error).partition(":")[0]
    assert reason.isidentifier(), f"no reason: {error!r}"


def _inpaint(folder: Path, *where: object) -> None:
    from noiseweave.jobs.inpaint import draw, output
    from noiseweave.jobs.inpaint import input as inpaint_input
    from noiseweave.jobs.inpaint.task import Painted, Task

    config = _parse(
        "inpaint", *where, "--output", folder / "made", "--model.name", "digits-ddpm", "--seed", "1"
    )
    about = {"kind": "pixel", "channels": 3, "size": 16, "multiple": 0}
    task = Task(config=config, output=str(folder / "made"), sheet=None, about=about, model_hash="", seed=1)
    work = inpaint_input.gather(config)
    for i in range(work.plan.length):
        unit = work.plan.unit(i)
        good, _ = draw._fetch(task, unit)
        painted = [
            Painted(
                loaded=one, rows=(0,), patches=(tuple(r.image_HWC for r in one.regions),), precision="fp32"
            )
            for one in good
        ]
        output.commit(task, unit, (painted, []))


def _lora(folder: Path, where: str) -> None:
    from noiseweave.jobs.lora import batches, cache, listing
    from noiseweave.jobs.lora import input as lora_input
    from noiseweave.jobs.lora import model as lora_model

    config = _parse("lora", "--input", folder / where, "--output", folder / "made", "--model.name", "x")
    config = replace(config, data=replace(config.data, size=32))
    sizes = {"multiple": 8, "most": None, "vae_scale_factor": 8, "channels": 4}
    model = lora_model.Model(sees_holes=True, guidance=1.0, encoder="", words="", hash="", **sizes)
    found, mode, _, _ = listing.found_in(config, str(folder / where), "input")
    items, _ = lora_input._looked(config, model, found, mode)
    for item in items:
        try:
            batches.pixels(config, item, [0])
        except ValueError as e:
            _reason(e)
    cache.there(str(folder / where))


def _pack(folder: Path, *more: str) -> None:
    from noiseweave.jobs.pack import job

    job.run(_parse("pack", "--input", folder / "in", "--output", folder / "made", *more))


def _unpack(folder: Path) -> None:
    from noiseweave.jobs.unpack import job

    words = ("--members", "all", "--cluster.address", "inline")
    code = job.run(_parse("unpack", "--input", folder / "in", "--output", folder / "made", *words))
    assert code == 0 or not list((folder / "made").rglob("*.png")), "a unit failed"


def _evaluate(folder: Path) -> None:
    from noiseweave.jobs.evaluate import pictures
    from noiseweave.jobs.reading.contents import Contents

    for where in ("imgs", "in"):
        found = pictures.find("input", str(folder / where), 2, Contents())
        for payload in found.payloads:
            pictures.read(payload, 16, 1 << 24)
            pictures.read(payload, None, 1 << 24)


def _pairs(folder: Path) -> None:
    from noiseweave.jobs.evaluate import pairs
    from noiseweave.jobs.reading.contents import Contents

    config = _parse(
        "evaluate", "--mode", "pairs", "--input", folder / "imgs", "--reference", folder / "imgs2",
        "--masks", folder / "masks", "--output", folder / "made", "--model.name", "digits-ddpm",
    )  # fmt: skip
    matched, _, _ = pairs.gather(config, Contents())
    pairs._fetch(config, Unit(index=0, id="0", payload=tuple(matched)))


def _two_sides(folder: Path) -> None:
    corpora.masked(folder)
    for path in sorted((folder / "imgs").glob("*")):
        storage.write(str(folder / "imgs2" / path.name), path.read_bytes())


def _both(folder: Path) -> None:
    corpora.tars(folder)
    corpora.masked(folder)


def _lineage(folder: Path) -> None:
    from noiseweave.engine.features.recipes import FeatureRecipe
    from noiseweave.engine.judging.recipes import QualityRecipe
    from noiseweave.engine.networks.recipes import ModelConfig
    from noiseweave.jobs.augment.reference import Reference
    from noiseweave.jobs.evaluate import lineage

    reference = Reference(
        root=f"{folder}/in/", channels=3, size=8, features=FeatureRecipe(), feature_side=8, gpus_per_worker=0,
        model=ModelConfig(name="digits-ddpm"), model_size=None, quality=QualityRecipe(), seed=0, max_pixels=1 << 24,
    )  # fmt: skip
    for url in shards.find(str(folder / "out" / "shards")):
        found, _ = shards.located(url)
        lines = lineage._lineages(url, found)
        wanted = dict.fromkeys(name for line in lines for name in line.parents)
        lineage._parents(reference, lineage.locate(reference, Ledger(output=str(folder / "out")), wanted))


def _forget(folder: Path) -> None:
    from noiseweave.jobs.forget import search

    work = search.pieces([str(folder / "out")])
    book = Ledger(output=str(folder / "forget"))
    for i, piece in enumerate(work):
        unit = Unit(index=i, id=f"{i:06d}", payload=piece)
        search._commit(book, unit, search._fetch("p1", unit))
    list(search.records(work, book))
    search.indexed(work, book)


def _report(folder: Path) -> None:
    from noiseweave.jobs.report import job

    page = job.write(str(folder / "out"))
    assert b"<html" in page


JOBS = (
    "augment",
    "inpaint",
    "lora",
    "sample",
    "pack",
    "unpack",
    "evaluate",
    "train",
    "fuse",
    "forget",
    "report",
)


def _config(folder: Path) -> None:
    os.chdir(folder)
    for path in (folder / f"{job}.yaml" for job in JOBS):
        try:
            _parse(path.stem, "--config", path)
        except (SystemExit, ValueError, OSError) as e:
            checked(e)


def checked(e: BaseException) -> None:
    """Raise again what a command does not turn into one line."""
    from fuzz.runner import wrong

    if wrong(e):
        raise e


def _ledger(folder: Path) -> None:
    output = str(folder / "out")
    try:
        check_run(
            output, {"job": "inpaint", "seed": 3, "model": {"name": "digits-ddpm"}}, owned=("restored",)
        )
    except ValueError as e:
        checked(e)
    book, outcome = Ledger(output=output), Outcome(units=2)
    book.done("inpaint")
    for record in book.records("inpaint"):
        outcome.add(record)


def _features(folder: Path) -> None:
    from noiseweave.engine.features.recipes import FeatureRecipe
    from noiseweave.jobs.reading import feature_cache

    image_BHWC = np.zeros((2, 8, 8, 3), np.uint8)
    recipe = FeatureRecipe(cache=str(folder / "cache"))
    extract = feature_cache.extractor(recipe, _Space, lambda: {"name": "pixels"})
    assert extract(image_BHWC).shape == (2, 4)


class _Space:
    def extract(self, image_BHWC: np.ndarray) -> np.ndarray:
        return np.full((len(image_BHWC), 4), 3, np.float32)


def _weights(folder: Path) -> None:
    from noiseweave.engine.lora import weights
    from noiseweave.engine.lora.names import Layers
    from noiseweave.jobs.evaluate import statistics

    for look in (
        lambda: weights.read(
            weights.Lora(name="l", data=storage.read(str(folder / "lora.safetensors"))),
            Layers({"unet.mid.to_q": (8, 8)}),
        ),
        lambda: statistics.read("reference", str(folder / "set.npz")),
    ):
        try:
            look()
        except (ValueError, OSError) as e:
            checked(e)


def _maps(folder: Path) -> None:
    from noiseweave.cluster.map_store import MapStore
    from noiseweave.engine.fusion.map_cache import MapCache

    cache = MapCache(0, MapStore(str(folder / "maps"), 1 << 20))
    cache.get("a" * 64)


def _make_maps(folder: Path) -> None:
    import torch

    from noiseweave.cluster.map_store import MapStore
    from noiseweave.engine.fusion.map_cache import MapCache
    from noiseweave.engine.records import NoiseMaps

    cache = MapCache(0, MapStore(str(folder / "maps"), 1 << 20))
    x_CHW, steps_T = torch.zeros(1, 4, 4), torch.arange(3).flip(0)
    cache.put("a" * 64, NoiseMaps(x_T_CHW=x_CHW, residual_TCHW=torch.zeros(3, 1, 4, 4), timesteps_T=steps_T))
    cache.flush()


def _model(folder: Path) -> None:
    from noiseweave.engine.inpainting.models import for_inpainting
    from noiseweave.engine.networks import facts, loading

    found = facts.read_facts(str(folder / "model"))
    for look in (lambda: for_inpainting(found), lambda: loading.describe(str(folder / "model"))):
        try:
            look()
        except ValueError as e:
            checked(e)


def _prompts(folder: Path) -> None:
    from noiseweave.jobs.sample.prompts import PromptValues, prompts_of

    prompts_of(PromptValues(prompts_file=str(folder / "prompts.txt"), styles=str(folder / "styles.txt")))


def _make_prompts(folder: Path) -> None:
    (folder / "prompts.txt").write_text("a red wall\n# a line\na blue wall\n")
    (folder / "styles.txt").write_text("in oil\n{content} of clay\n")


def _make_ledger(folder: Path) -> None:
    corpora.run_of(str(folder / "out"), "inpaint", ("inpaint",))


def _table(folder: Path) -> None:
    from noiseweave.cluster.streams import table

    for url in shards.find(str(folder / "in")):
        table(url, payload=shards.PICTURES)


TARGETS = {
    "tars": Target(build=corpora.tars, read=_tars),
    "tables": Target(build=corpora.tars, read=_table),
    "pictures": Target(build=corpora.pictures, read=_pictures),
    "inpaint folders": Target(
        build=corpora.masked, read=lambda f: _inpaint(f, "--images", f / "imgs", "--masks", f / "masks")
    ),
    "inpaint shards": Target(
        build=corpora.tars, read=lambda f: _inpaint(f, "--input", f / "in"), files="in/*"
    ),
    "lora folder": Target(build=corpora.masked, read=lambda f: _lora(f, ".")),
    "lora shards": Target(build=corpora.tars, read=lambda f: _lora(f, "in"), files="in/*"),
    "pack folder": Target(build=corpora.classes, read=_pack, files="in/**/*"),
    "pack shards": Target(build=corpora.tars, read=lambda f: _pack(f, "--size", "8")),
    "pack lmdb": Target(build=corpora.databases, read=_pack, files="in/**/*"),
    "pack imagefolder": Target(build=corpora.imagefolder, read=_pack, files="in/**/*"),
    "unpack": Target(build=corpora.tars, read=_unpack, files="in/*"),
    "evaluate sets": Target(build=_both, read=_evaluate),
    "evaluate pairs": Target(build=_two_sides, read=_pairs),
    "evaluate lineage": Target(build=corpora.augmented, read=_lineage, files="out/**/*"),
    "forget": Target(build=corpora.augmented, read=_forget, files="out/**/*"),
    "report augment": Target(build=corpora.augmented, read=_report),
    "report inpaint": Target(build=corpora.inpainted, read=_report),
    "report sample": Target(build=corpora.sampled, read=_report),
    "report fuse": Target(build=corpora.fused, read=_report),
    "configs": Target(build=corpora.configs, read=_config),
    "ledger": Target(build=_make_ledger, read=_ledger),
    "feature cache": Target(build=_features, read=_features),
    "weights": Target(build=corpora.weights, read=_weights),
    "noise maps": Target(build=_make_maps, read=_maps),
    "model": Target(build=corpora.model, read=_model, files="**/*.json"),
    "prompts": Target(build=_make_prompts, read=_prompts),
}
