"""The sample job on small models: which pictures, in which files, the same whatever draws them."""

import io
import itertools
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from flows import on_ray
from PIL import Image
from sampling import drawn, labels, lines, pixels, png, read, refused, report, shard, tiny

from noiseweave import models
from noiseweave.cluster import shards, storage
from noiseweave.engine.networks import base_models
from noiseweave.engine.networks.recipes import ModelConfig
from noiseweave.engine.pictures import images
from noiseweave.engine.sampling import samplers
from noiseweave.engine.sampling.recipes import SamplerRecipe
from noiseweave.jobs.reading import class_names

FAST = ["--sampler.steps", "3"]
DIGITS = ["--model.name", "digits-ddpm", *FAST]


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    """A class-conditional ddpm, four classes."""
    return tiny(tmp_path_factory.mktemp("told"), "ddpm", classes=4)


@pytest.fixture(scope="module")
def calm(tmp_path_factory):
    """Nine digits in units of four, ancestral: later noise matters too."""
    output = tmp_path_factory.mktemp("calm") / "out"
    assert drawn(output, *DIGITS, "--sampler.name", "ddpm", "--count", 9, "--shard_samples", 4) == 0
    return output


# the flow


def test_count_pictures_in_shards_with_their_lineage(calm):
    assert sorted(p.name for p in (calm / "shards").iterdir()) == [f"sample-{i:06d}.tar" for i in range(3)]
    assert list(read(calm)) == [f"sample-{i:08d}" for i in range(9)]
    model = base_models.load(ModelConfig(name="digits-ddpm"))
    recipe = SamplerRecipe(name="ddpm", steps=3)
    for i, (files, line) in enumerate(zip(read(calm).values(), lines(calm), strict=True)):
        assert set(files) == {"png", "json"}
        assert line.pop("noiseweave")
        assert line.pop("model_hash") == report(calm)["model_hash"]
        assert line.pop("lora") == []
        assert line == {
            "number": i,
            "label": None,
            "seed": 0,
            "model": "digits-ddpm",
            "kind": "ddpm",
            "sampler": "ddpm",
            "steps": 3,
            "eta": 0,
            "guidance": 1,
            "guidance_interval": [0, 1],
            "tolerance": 1e-4,
            "spacing": "trailing",
            "network_evaluations": 3,
            "precision": "fp32",
        }
        again = samplers.draw(model, [line["number"]], None, recipe, line["seed"]).image_BHWC[0]
        assert np.abs(images.decode(files["png"], 1).astype(int) - again).max() <= 1
    assert report(calm)["samples"] == 9
    assert report(calm)["network_evaluations_per_picture"] == 3
    assert report(calm)["failed"] == {}


@pytest.mark.slow
def test_more_workers_give_the_same_pictures(calm, tmp_path, ray_session):
    """To 1/255: each of two workers has half of the cores, and sums in another order."""
    name = ["--sampler.name", "ddpm", "--count", 9]
    two = ["--cluster.workers", 2]
    assert on_ray("sample", *DIGITS, *name, "--shard_samples", 4, *two, "--output", tmp_path / "two") == 0
    assert lines(tmp_path / "two") == lines(calm)
    assert np.abs(pixels(tmp_path / "two") - pixels(calm)).max() <= 1


def test_other_units_and_another_batch_give_the_same_pictures(calm, tmp_path):
    name = ["--sampler.name", "ddpm", "--count", 9]
    assert drawn(tmp_path / "odd", *DIGITS, *name, "--shard_samples", 5, "--model.micro_batch", 2) == 0
    assert np.abs(pixels(tmp_path / "odd") - pixels(calm)).max() <= 1
    assert drawn(tmp_path / "few", *DIGITS, "--sampler.name", "ddpm", "--count", 2) == 0
    assert np.abs(pixels(tmp_path / "few") - pixels(calm)[:2]).max() <= 1
    assert drawn(tmp_path / "seed", *DIGITS, *name, "--seed", 1) == 0
    assert np.abs(pixels(tmp_path / "seed") - pixels(calm)).mean() > 20


def test_a_finished_run_stays_another_config_is_refused_and_overwrite_starts_anew(calm, tmp_path, capsys):
    output = shutil.copytree(calm, tmp_path / "o")
    same = [*DIGITS, "--sampler.name", "ddpm", "--shard_samples", 4]
    before = {p: p.stat().st_mtime_ns for p in (output / "shards").iterdir()}
    assert drawn(output, *same, "--count", 9, "--grid", "2x3") == 0
    assert before == {p: p.stat().st_mtime_ns for p in (output / "shards").iterdir()}
    error = refused(capsys, output, *same, "--count", 5, "--seed", 3)
    assert "count 9 -> 5" in error
    assert "seed 0 -> 3" in error
    (output / "mine.txt").write_text("stays")
    assert drawn(output, *same, "--count", 5, "--seed", 3, "--overwrite") == 0
    assert len(read(output)) == 5
    assert len(list((output / "shards").iterdir())) == 2
    assert (output / "mine.txt").read_text() == "stays"


# files


def test_a_folder_has_a_sub_folder_for_each_class(told, tmp_path):
    base = ["--model.name", told, *FAST, "--count", 5, "--labels", "3,1", "--shard_samples", 2]
    assert drawn(tmp_path / "s", *base) == 0
    assert drawn(tmp_path / "f", *base, "--files", "folder") == 0
    there = {str(p.relative_to(tmp_path / "f/images")) for p in (tmp_path / "f/images").rglob("*.*")}
    assert there == {f"{c:04d}/sample-{i:08d}.png" for i, c in enumerate([3, 1, 3, 1, 3])}
    flat = {Path(n).stem: images.decode((tmp_path / "f/images" / n).read_bytes(), 1) for n in there}
    for key, picture in zip(read(tmp_path / "s"), pixels(tmp_path / "s"), strict=True):
        assert np.abs(flat[key] - picture).max() <= 1
    assert Image.open(tmp_path / "f/grid.png").size == Image.open(tmp_path / "s/grid.png").size
    assert drawn(tmp_path / "w", *DIGITS, "--count", 2, "--files", "folder", "--image_format", "jpg") == 0
    assert [p.name for p in sorted((tmp_path / "w/images").iterdir())] == [
        "sample-00000000.jpg",
        "sample-00000001.jpg",
    ]


def test_trajectories_hold_k_beliefs_and_end_in_the_picture(tmp_path):
    assert drawn(tmp_path, *DIGITS, "--sampler.steps", 6, "--count", 3, "--trajectory", 4) == 0
    for key, files in read(tmp_path).items():
        strip = Image.open(tmp_path / f"trajectories/{key}.png")
        assert strip.size == (4 * 16, 16)
        parts = np.asarray(strip).reshape(16, 4, 16).swapaxes(0, 1).astype(int)
        last = images.decode(files["png"], 1)[..., 0]
        apart = [np.abs(part - last).mean() for part in parts]
        assert apart[3] <= 1
        assert apart[0] > apart[3] + 5
        film = Image.open(tmp_path / f"trajectories/{key}.webp")
        assert film.n_frames == 4
        for k in range(4):
            film.seek(k)
            frame = np.asarray(film.convert("L"), int)
            assert frame.shape == (128, 128)
            assert np.abs(frame[::8, ::8] - parts[k]).max() <= 1


@pytest.mark.parametrize(
    ("asked", "count", "across", "down"), [("2x3", 9, 3, 2), ("auto", 9, 8, 2), ("9x4", 5, 4, 2)]
)
def test_the_grid_shows_the_first_pictures(calm, tmp_path, asked, count, across, down):
    base = [*DIGITS, "--sampler.name", "ddpm", "--count", count, "--shard_samples", 4]
    assert drawn(tmp_path, *base, "--grid", asked) == 0
    page = np.asarray(Image.open(tmp_path / "grid.png").convert("L"), int)
    tile, gap = 48, 6
    assert page.shape == (down * (tile + gap) + 2 * gap, across * (tile + gap) + gap)
    for n, picture in enumerate(pixels(calm)[: min(count, across * down)]):
        y, x = (gap + k * (tile + gap) for k in divmod(n, across))
        assert np.abs(page[y : y + tile : 3, x : x + tile : 3] - picture[..., 0]).max() <= 1


def test_no_grid(tmp_path):
    assert drawn(tmp_path, *DIGITS, "--count", 1, "--grid", "null") == 0
    assert not (tmp_path / "grid.png").exists()


# classes


def test_labels_are_taken_in_turn_and_guidance_is_heard(told, tmp_path, capsys):
    base = ["--model.name", told, *FAST]
    assert drawn(tmp_path / "some", *base, "--count", 5, "--labels", "2,0") == 0
    assert labels(tmp_path / "some") == [2, 0, 2, 0, 2]
    assert [line["label"] for line in lines(tmp_path / "some")] == [2, 0, 2, 0, 2]
    assert drawn(tmp_path / "all", *base, "--count", 6, "--labels", "balanced") == 0
    assert labels(tmp_path / "all") == [0, 1, 2, 3, 0, 1]
    assert drawn(tmp_path / "null", *base, "--count", 6) == 0
    assert read(tmp_path / "null") == read(tmp_path / "all")
    assert drawn(tmp_path / "one", *base, "--count", 6, "--labels", "1") == 0
    one, every = pixels(tmp_path / "one"), pixels(tmp_path / "all")
    assert [bool((a == b).all()) for a, b in zip(one, every, strict=True)] == [
        False,
        True,
        False,
        False,
        False,
        True,
    ]
    assert drawn(tmp_path / "far", *base, "--count", 6, "--sampler.guidance", 5) == 0
    assert (pixels(tmp_path / "far") != every).any()
    assert lines(tmp_path / "far")[0]["guidance"] == 5
    model = shutil.copytree(told, tmp_path / "model")
    about = json.loads((model / "noiseweave.json").read_text())
    (model / "noiseweave.json").write_text(json.dumps(about | {"guidance": 5}))
    base[1] = model
    assert drawn(tmp_path / "its own", *base, "--count", 6) == 0
    assert (pixels(tmp_path / "its own") == pixels(tmp_path / "far")).all()
    assert drawn(tmp_path / "off", *base, "--count", 6, "--sampler.guidance", 1) == 0
    assert (pixels(tmp_path / "off") == every).all()
    (model / "noiseweave.json").write_text(json.dumps(about | {"guidance": "much"}))
    assert "guidance in noiseweave.json='much'" in refused(capsys, tmp_path / "much", *base)


def test_match_draws_as_many_of_each_class(told, tmp_path):
    wanted = [3, 0, 3, 1, 3, 0]
    source = shard(tmp_path / "in/a.tar", [{"cls": str(c)} for c in wanted])
    assert drawn(tmp_path / "o", "--model.name", told, *FAST, "--match", source) == 0
    assert labels(tmp_path / "o") == sorted(wanted)
    assert drawn(tmp_path / "p", *DIGITS, "--match", tmp_path / "in") == 0
    assert len(read(tmp_path / "p")) == 6
    assert "cls" not in next(iter(read(tmp_path / "p").values()))
    some = shard(tmp_path / "some/a.tar", [{"cls": "3"}, {}, {}])  # not all are labelled: in turn
    assert drawn(tmp_path / "q", "--model.name", told, *FAST, "--match", some) == 0
    assert labels(tmp_path / "q") == [0, 1, 2]
    assert drawn(tmp_path / "r", "--model.name", told, *FAST, "--match", tmp_path / "o") == 0
    assert labels(tmp_path / "r") == sorted(wanted), "a job's output folder means its pictures"


def test_match_means_classes_by_their_names(told, tmp_path, capsys):
    model = shutil.copytree(told, tmp_path / "model")
    class_names.write(str(model), ["ant", "bee", "cat", "dog"])
    base = ["--model.name", model, *FAST, "--match"]
    for name in ("cats/1.png", "cats/2.png", "dog/3.png"):
        storage.write(str(tmp_path / "in" / name), png())
    assert drawn(tmp_path / "o", *base, tmp_path / "in") == 0
    assert labels(tmp_path / "o") == [2, 2, 3]
    source = shard(tmp_path / "tars/shards/a.tar", [{"cls": "0"}, {"cls": "1"}, {"cls": "1"}])
    class_names.write(str(tmp_path / "tars"), ["dog", "bee"])
    assert drawn(tmp_path / "p", *base, source) == 0
    assert labels(tmp_path / "p") == [1, 1, 3]
    class_names.write(str(tmp_path / "tars"), ["dog", "elk"])
    said = refused(capsys, tmp_path / "q", *base, source)
    assert "its classes (ant, bee, cat, dog), as the model knows; it has elk" in said
    numbered = shard(tmp_path / "numbered/a.tar", [{"cls": "1"}])
    assert drawn(tmp_path / "r", *base, numbered) == 0
    said = capsys.readouterr().err
    assert (
        f"match '{numbered}' has no class names: its numbers are taken for the model's classes (ant, bee"
        in said
    )


def test_match_of_a_folder_numbers_its_sub_folders_as_pack_does(told, tmp_path):
    for name in ("cat/1.png", "cat/deep/2.png", "dog/3.png", "dog/no picture.txt", "none/x.txt"):
        storage.write(str(tmp_path / "in" / name), png())
    base = ["--model.name", told, *FAST, "--match", tmp_path / "in"]
    assert drawn(tmp_path / "o", *base) == 0
    assert labels(tmp_path / "o") == [0, 0, 1]
    (tmp_path / "in/loose.png").write_bytes(png())
    assert drawn(tmp_path / "p", *base) == 0
    assert labels(tmp_path / "p") == [0, 1, 2, 3]
    assert drawn(tmp_path / "q", *DIGITS, "--match", tmp_path / "in/cat") == 0
    assert len(read(tmp_path / "q")) == 2


# other kinds


@pytest.mark.parametrize(("name", "calls"), [("euler", 6), ("midpoint", 12), ("heun", 12), ("auto", 6)])
def test_a_flows_network_evaluations_are_reported(tmp_path, name, calls):
    model = tiny(tmp_path / "m", "flow")
    base = ["--model.name", model, "--sampler.name", name, "--sampler.steps", 6, "--count", 3]
    assert drawn(tmp_path / "o", *base, "--shard_samples", 2) == 0
    assert report(tmp_path / "o")["network_evaluations_per_picture"] == calls
    assert {line["network_evaluations"] for line in lines(tmp_path / "o")} == {calls}
    assert report(tmp_path / "o")["sampler"] == name.replace("auto", "euler")


def test_dopri5_reports_what_its_tolerance_cost(tmp_path, capsys):
    base = ["--model.name", tiny(tmp_path / "m", "flow"), "--sampler.name", "dopri5", "--count", 3]
    calls = []
    for tolerance in ("1e-2", "1e-5"):
        assert drawn(tmp_path / tolerance, *base, "--sampler.tolerance", tolerance) == 0
        calls.append(report(tmp_path / tolerance)["network_evaluations_per_picture"])
        assert f"{calls[-1]:g} network evaluations each" in capsys.readouterr().out
    assert 8 <= calls[0] < calls[1]


@pytest.mark.parametrize(("kind", "channels"), [("vae", 1), ("dcgan", 3)])
def test_baselines_draw_in_one_call(tmp_path, kind, channels):
    model = tiny(tmp_path / "m", kind, channels=channels)
    assert drawn(tmp_path / "o", "--model.name", model, "--count", 3, "--shard_samples", 2) == 0
    assert pixels(tmp_path / "o", channels).shape == (3, 16, 16, channels)
    assert lines(tmp_path / "o")[0]["sampler"] == "none"
    assert report(tmp_path / "o")["network_evaluations_per_picture"] == 1


# sheets


def tiles(path, tile, rows, columns, top=6, gap=6):
    page = Image.open(path).convert("L")
    step = tile + gap
    boxes = [(gap + c * step, top + r * step) for r in range(rows) for c in range(columns)]
    grown = tile // 16
    return [np.asarray(page.crop((x, y, x + tile, y + tile)), int)[::grown, ::grown] for x, y in boxes]


def test_a_panel_is_truth_noisy_restored(tmp_path, capsys):
    model = tiny(tmp_path / "m", "linear_mixing")
    truth = np.add.outer(np.arange(16), np.arange(16)).astype(np.uint8) * 8
    (tmp_path / "t.png").write_bytes(images.encode(truth[..., None]))
    base = ["--model.name", model, "--panel", tmp_path / "t.png"]
    shown = {}
    for level in ("0", "0.5", "1"):
        assert drawn(tmp_path / level, *base, "--level", level) == 0
        shown[level] = tiles(tmp_path / level / "panel.png", 128, 1, 3, top=20)
        assert (shown[level][0] == truth).all()
        assert not (tmp_path / level / "shards").exists()
    assert (shown["0"][1] == truth).all()
    noise, half = shown["1"][1], shown["0.5"][1]
    inside = (noise > 0) & (noise < 255)  # noise beyond [-1, 1] is drawn as black or white
    assert np.abs(half - (truth + noise.astype(float)) / 2)[inside].max() <= 1
    assert (shown["0.5"][2] != half).any()
    assert "panel.png" in capsys.readouterr().out
    assert drawn(tmp_path / "1", *base, "--level", "0") == 0  # a panel alone is drawn anew each time
    assert (tiles(tmp_path / "1/panel.png", 128, 1, 3, top=20)[1] == truth).all()


@pytest.mark.parametrize("channels", [1, 3])
def test_a_vaes_reconstructions_and_walk(tmp_path, channels):
    model = tiny(tmp_path / "m", "vae", channels=channels)
    rng = np.random.default_rng(0)
    truth = [rng.integers(0, 256, (16, 16, 1), np.uint8).repeat(channels, 2) for _ in range(10)]
    rows = [(f"k{i}", {"png": images.encode(p)}) for i, p in enumerate(truth)]
    storage.write(str(tmp_path / "in/a.tar"), shards.pack(rows))
    base = ["--model.name", model, "--reconstruct", tmp_path / "in", "--walk", 5]
    assert drawn(tmp_path / "o", *base) == 0
    found = tiles(tmp_path / "o/reconstructions.png", 64, 4, 8)
    assert all((found[n] == truth[n][..., 0]).all() for n in range(8))
    assert all((found[16 + n] == truth[8 + n][..., 0]).all() for n in range(2))
    assert all(np.ptp(found[n]) > 0 and (found[n] != found[n - 8]).any() for n in (8, 15, 24, 25))
    frames = tiles(tmp_path / "o/walk.png", 64, 1, 5)
    assert all((a != b).any() for a, b in itertools.pairwise(frames))
    assert Image.open(tmp_path / "o/walk.webp").n_frames == 8  # there and back, neither end twice
    assert not (tmp_path / "o/shards").exists()


def test_sheets_and_samples_together(tmp_path):
    model = tiny(tmp_path / "m", "vae")
    assert drawn(tmp_path / "o", "--model.name", model, "--walk", 2, "--count", 3) == 0
    assert Image.open(tmp_path / "o/walk.webp").n_frames == 2
    assert len(read(tmp_path / "o")) == 3


# what a user can put right


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Broken and odd things, by name."""
    root = tmp_path_factory.mktemp("place")
    noisy = io.BytesIO()
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (64, 64), np.uint8)).save(noisy, "PNG")
    files = {
        "text.png": b"no picture",
        "cut.png": noisy.getvalue()[:2000],
        "whole.png": png(),
        "vae/config.json": b'{"_class_name": "AutoencoderKL"}',
        "list/model_index.json": b"[1]",
        "flux/model_index.json": b'{"_class_name": "PixArtAlphaPipeline"}',
        "other/_run/config.json": b'{"job": "pack"}',
        "mine/shards/a.tar": b"",
        "mine/panel.png": b"mine",
    }
    for name, data in files.items():
        storage.write(str(root / name), data)
    (root / "empty").mkdir()
    shutil.copytree(models.resolve("digits-ddpm"), root / "weightless")
    (root / "weightless/unet/diffusion_pytorch_model.safetensors").unlink()
    tiny(root / "flow", "flow")
    tiny(root / "gan", "dcgan")
    tiny(root / "four", "ddpm", classes=4)
    shard(root / "high/a.tar", [{"cls": "0"}, {"cls": "4"}])
    shard(root / "none/a.tar", [])
    return root


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--model.name", "not/here"], "model 'not/here': no such folder"),
        (["--model.name", "{d}/empty"], "model_index.json is missing"),
        (["--model.name", "{d}/vae"], "model_index.json is missing"),
        (["--model.name", "{d}/list"], "no JSON object"),
        (["--model.name", "{d}/flux"], "supported are pixel models (UNet2DModel)"),
        (["--model.name", "{d}/weightless"], "unet/*.safetensors is missing"),
        (["--output", "/dev/null/o"], "output '/dev/null/o' cannot be written"),
        (["--output", "{d}/other"], "holds _run, which no sample run wrote"),
        (
            ["--output", "{d}/mine", "--panel", "{d}/whole.png", "--count", "1"],
            "holds shards, which no sample",
        ),
        (["--count", "0"], "count=0: 1 or more"),
        (["--count", "2", "--match", "{d}/four"], "either match or count"),
        (["--match", "{d}/empty"], "none is there"),
        (["--match", "{d}/nowhere"], "nowhere"),
        (["--match", "{d}/none"], "none is there"),
        (["--model.name", "{d}/four", "--match", "{d}/high"], "labels below 4, as the model knows; it has 4"),
        (["--labels", "0"], "labels='0': null, as the model knows no classes"),
        (["--labels", "cats"], "labels='cats': balanced, or numbers"),
        (["--model.name", "{d}/four", "--labels", "0,4"], "labels='0,4': 0 to 3"),
        (["--sampler.guidance", "2"], "sampler.guidance=2.0: 1, as the model knows no classes"),
        (["--sampler.name", "euler"], "one of auto, ddpm, ddim, dpm-solver++"),
        (["--sampler.name", "best"], "dpm-solver++"),
        (["--sampler.steps", "1001"], "sampler.steps=1001: the model has 1000 time steps"),
        (
            ["--model.name", "{d}/flow", "--sampler.name", "ddim"],
            "one of auto, euler, midpoint, heun, dopri5",
        ),
        (["--model.name", "{d}/gan", "--sampler.name", "ddim"], "one of auto"),
        (["--model.name", "{d}/gan", "--trajectory", "3"], "trajectory=3: 0, as a dcgan draws in one step"),
        (["--grid", "0x3"], "grid='0x3'"),
        (["--grid", "100x3"], "grid='100x3'"),
        (["--shard_samples", "0"], "shard_samples=0"),
        (["--trajectory", "-1"], "trajectory=-1"),
        (["--files", "zip"], "files"),
        (["--panel", "{d}/text.png"], "not_an_image"),
        (["--panel", "{d}/cut.png"], "truncated_image"),
        (["--panel", "{d}/no.png"], "no such file"),
        (["--panel", "{d}/empty"], "no .tar shards there"),
        (["--panel", "{d}/none"], "the shards there hold none"),
        (["--panel", "{d}/whole.png", "--model.name", "{d}/gan"], "null for a dcgan"),
        (["--panel", "{d}/whole.png", "--level", "1.5"], "level=1.5: 0 to 1"),
        (["--walk", "3"], "walk=3: 0 for a ddpm"),
        (["--walk", "1"], "walk=1: 0 (none), or 2 to 1000"),
        (["--reconstruct", "{d}/whole.png"], "null for a ddpm"),
        (["a cat"], "prompts: for a text-to-image model; 'digits-ddpm' is none"),
        (["--interpolate", "a", "b"], "interpolate: for a text-to-image model"),
        (["--interpolate", "a"], "--interpolate: 2 words are needed, 1 given"),
        (["--interpolate", "a", "--frames", "3"], "--interpolate: 2 words are needed, 1 given"),
        (["--negative_prompt", "blur"], "negative_prompt: for a text-to-image model"),
        (
            ["--cluster.workers", "2", "--count", "1"],
            "cluster.workers=2: cluster.address=inline is one process",
        ),
    ],
)
def test_wrong_usage_is_one_clear_line(change, message, place, tmp_path, capsys):
    assert message in refused(capsys, tmp_path / "o", *DIGITS, *(c.format(d=place) for c in change))
    assert (place / "mine/panel.png").read_bytes() == b"mine"
    assert not (tmp_path / "o/shards").exists()


def test_more_workers_than_the_cluster_has_room_for(tmp_path, capsys, ray_session):
    with pytest.raises(SystemExit) as stop:
        on_ray("sample", *DIGITS, "--cluster.workers", 99, "--count", 1, "--output", tmp_path / "o")
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert "cluster.workers=99" in error
    assert error.count("\n") == 1
