"""augment on latent models: what each picture is told, and what is written of it. Without Ray, step by step."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from augments import through
from flows import DIGITS
from PIL import Image
from small_pipeline import flag_everything

from noiseweave.cluster import shards, storage
from noiseweave.cluster.units import Unit
from noiseweave.engine.diffusion.recipes import InversionRecipe
from noiseweave.engine.features.recipes import FeatureRecipe
from noiseweave.engine.fusion.recipes import FusionRecipe
from noiseweave.engine.networks.recipes import ModelConfig, PromptRecipe
from noiseweave.engine.pictures import images
from noiseweave.engine.records import Group, Pair
from noiseweave.jobs import cli
from noiseweave.jobs.augment import config as augment_config
from noiseweave.jobs.augment import fusing, reading, worker, writing
from noiseweave.jobs.augment import job as augment

QUICK = InversionRecipe(num_steps=4, skip=1)


@pytest.fixture(scope="module")
def model(sd_folder):
    return str(sd_folder)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """Three pictures with captions and labels in one shard, as pack writes them; c has neither."""
    folder = tmp_path_factory.mktemp("data")
    rows = []
    for i, (key, extra) in enumerate(
        [("a", {"txt": b"a red rose", "cls": b"1"}), ("b", {"txt": b"a tulip", "cls": b"1"}), ("c", {})]
    ):
        coarse = Image.fromarray(np.random.default_rng(i).integers(0, 255, (3, 3, 3), np.uint8))
        rows.append((key, {"png": images.encode(np.asarray(coarse.resize((32, 32), 3))), **extra}))
    storage.write(str(folder / "shards/s-0.tar"), shards.pack(rows))
    storage.write_json(str(folder / "classes.json"), ["daisy", "rose"])
    return folder / "shards"


def task(source, output, model, **more):
    config = augment_config.Config(
        input=str(source),
        output=str(output),
        model=model if isinstance(model, ModelConfig) else ModelConfig(name=model),
        inversion=QUICK,
        fusion=FusionRecipe(modes=("linear",)),
        **more,
    )
    return augment._task(config, str(output), shards.find(config.input))


def written(of, pairs):
    """One group of all pictures with these pairs: (its samples' files, what became of it)."""
    (url,) = shards.find(of.config.input)
    where, _, bad = reading.read_shard(of.reference, Unit(index=0, id="0", payload=url))
    group = Group(
        id="g",
        images=tuple(where),
        pairs=tuple(Pair(a=a, b=b, similarity=0.9, mode="linear", ratio=r, seed=0) for a, b, r in pairs),
    )
    assert not bad
    made = fusing.augment_group(
        of, worker.load_backbone(of.reference), None, reading.read_group(of, group, range(3))
    )
    rows = zip(made.group.pairs, made.image_PHWC, made.areas, strict=True)
    return [writing.sample(of, made, *row)[1] for row in rows], made


def test_captions_are_told_and_in_the_lineage(source, tmp_path, model):
    of = task(source, tmp_path, model)
    files, made = written(of, [(0, 1, 0.4), (2, 0, 0.0)])
    fused = made.image_PHWC
    recorded = fusing.report("0", [made])
    assert "prompts_truncated" not in recorded.extra
    assert "truncated" not in recorded.tallies
    first, second = (json.loads(f["json"]) for f in files)
    assert first["prompt"]["source"] == first["prompt"]["target"] == ["a red rose", "a tulip"]
    assert second["prompt"]["source"] == ["", "a red rose"]
    assert first["prompt"]["guidance_source"] == first["prompt"]["guidance_target"] == 1
    assert files[0]["txt"] == b"a red rose; a tulip"
    assert (files[0]["cls"], fused.shape) == (b"1", (2, 32, 32, 3))
    backbone = worker.load_backbone(of.reference)
    third = images.decode(storage.read(str(source / "s-0.tar"), *where_of(source, "c")), 3)
    plain = backbone.decode(backbone.encode(third[None]))[0].astype(int)
    assert np.abs(fused[1] - plain).max() <= 1  # ratio 0: what the VAE keeps of the first


def test_what_is_flagged_is_drawn_once_more_and_then_left_out(source, tmp_path, model):
    sd_copy = shutil.copytree(model, tmp_path / "model")
    flag_everything(sd_copy)
    files, made = written(task(source, tmp_path, str(sd_copy)), [(0, 1, 0.4), (2, 0, 0.0)])
    assert (files, made.redrawn) == ([], 2)
    assert [b.reason for b in made.bad] == ["flagged", "flagged"]
    assert {b.key for b in made.bad} <= {"a", "b", "c"}
    of = task(source, tmp_path, ModelConfig(name=str(sd_copy), safety_checker=False))
    files, made = written(of, [(0, 1, 0.4), (2, 0, 0.0)])
    assert (len(files), made.redrawn, made.bad) == (2, 0, [])


def where_of(source, key):
    place = next(p for p in shards.locate(str(source / "s-0.tar"))[0] if p.key == key)
    return place.offset, place.size


def test_a_template_names_the_classes_and_a_target_is_the_new_caption(source, tmp_path, model):
    prompt = PromptRecipe(template="a photo of a {label}", target="{caption}, in oil", guidance_target=2.0)
    of = task(source, tmp_path, model, prompt=prompt, size=40)
    files, made = written(of, [(0, 2, 0.5)])
    assert json.loads(files[0]["json"])["prompt"] == {
        "source": ["a photo of a rose", ""],
        "target": ["a red rose, in oil", ""],
        "guidance_source": 3.5,
        "guidance_target": 2.0,
        "guidance_interval": [0.0, 1.0],
    }
    assert files[0]["txt"] == b"a red rose, in oil"
    assert made.image_PHWC.shape == (1, 40, 40, 3)


def test_what_is_cut_of_prompts_is_counted_and_told(source, tmp_path, model):
    of = task(source, tmp_path, model, prompt=PromptRecipe(template="very " * 76 + "{caption}"))
    files, made = written(of, [(0, 1, 0.5), (1, 2, 0.5)])  # the third has no caption and is told nothing
    first, second = (json.loads(f["json"])["prompt_truncated"] for f in files)
    assert (first, second) == (["very a red rose", "very a tulip"], ["very a tulip"])
    recorded = fusing.report("0", [made])
    assert (recorded.extra["prompts_truncated"], recorded.tallies["truncated"]) == (2, {"very a red rose": 1})


def test_what_is_told_is_part_of_a_run(source, tmp_path, model):
    def same(**more):
        of = task(source, tmp_path, model, **more)
        return augment.identity(of, shards.find(str(source)))

    assert same() != same(prompt=PromptRecipe(source="x"))
    assert same()["class_names"] == ["daisy", "rose"]
    assert same() != same(size=40)
    assert task(source, tmp_path, "digits-ddpm").prompts_of([]) is None


def test_the_config_of_words_holds(source, tmp_path, model):
    config = Path(__file__).parents[3] / "configs/augment-text.yaml"
    quick = [
        "--model.name",
        model,
        "--features.name",
        "unet",
        "--pairing.threshold",
        -1,
        "--pairing.upper",
        1,
    ]
    report, made = through(tmp_path / "o", "--config", config, *quick, "--input", source)
    assert report["samples"] == len(made) == 1  # of one class
    line = json.loads(next(iter(made.values()))["json"])
    assert line["prompt"]["source"] == ["a photo of a rose"] * 2
    assert (line["num_steps"], line["sampler"]) == (25, "sde-dpm-solver++")


def test_features_of_the_network_see_the_jobs_size(source, tmp_path, model):
    features = FeatureRecipe(name="unet")
    assert task(source, tmp_path, model, features=features).feature_side == 32
    assert task(source, tmp_path, model, features=features, size=40).feature_side == 40


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (
            ["--prompt.template", "a {label}"],
            "prompt.template='a {label}': model 'digits-ddpm' reads no words",
        ),
        (["--prompt.source", '["a", "b"]'], "one text for augment"),
        (["--size", "32"], "size=32: model 'digits-ddpm' works on pixels"),
    ],
)
def test_a_mistake_is_one_line(source, tmp_path, capsys, more, words):
    with pytest.raises(SystemExit) as stop:
        cli.main(["augment", *DIGITS, "--input", str(source), "--output", str(tmp_path / "o"), *more])
    error = capsys.readouterr().err
    assert stop.value.code == 2
    assert words in error
    assert error.count("\n") == 1
