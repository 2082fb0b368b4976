"""evaluate of two sets: pytorch-fid's own numbers, statistics both ways, names, cache, resume, bad input."""

import json
import shutil
from unittest.mock import patch

import numpy as np
import pytest
import torch
from evaluating import noise, quarantine, refused, shard
from PIL import Image
from shared_data import EFFICIENTNET, FLOWERS

from noiseweave.cluster import storage
from noiseweave.engine.features.recipes import FeatureRecipe
from noiseweave.engine.pictures.images import encode as png
from noiseweave.jobs import cli
from noiseweave.jobs.reading import feature_cache

PIXELS = ("--features.size", "4", "--metrics", "[fd]")  # 48 values


def value(report, name):
    return report["figures"][name]["value"]


@pytest.fixture(scope="session")
def inception_file(tmp_path_factory):
    """Random weights for pytorch-fid's network, of a spread that fifty layers do not use up."""
    from pytorch_fid import inception

    torch.manual_seed(0)
    with (
        patch.object(inception, "load_state_dict_from_url", lambda *_a, **_k: {}),
        patch.object(torch.nn.Module, "load_state_dict", lambda *_a: None),
    ):
        state = inception.fid_inception_v3().state_dict()
    state = {k: v * 6**0.5 if v.dim() == 4 else v for k, v in state.items()}
    path = tmp_path_factory.mktemp("inception") / "random.pth"
    torch.save(state, path)
    return path


def picture_folder(folder, n, seed):
    """PNGs of several modes, one of them transparent: pytorch-fid converts them to RGB as they are."""
    folder.mkdir()
    for i, (key, picture) in enumerate(noise(n, 24, 4, seed).items()):
        image = Image.fromarray(picture).resize((80, 60), Image.Resampling.BICUBIC)
        image.convert(("RGB", "RGBA", "L")[i % 3]).save(folder / f"{key}.png")
    return folder


def test_inception_gives_pytorch_fids_numbers_and_its_files_are_read_and_written(
    evaluate, tmp_path, inception_file
):
    from pytorch_fid import fid_score, inception

    folders = [picture_folder(tmp_path / name, n, seed) for name, n, seed in (("a", 3, 0), ("b", 3, 1))]
    state = torch.load(inception_file, weights_only=True)
    with (
        patch.object(inception, "load_state_dict_from_url", lambda *_a, **_k: state),
        patch.object(torch.nn.init, "kaiming_uniform_", lambda w, **_k: w),  # weights that come from the file
    ):
        network = inception.InceptionV3()
    act = [fid_score.get_activations(sorted(f.iterdir()), network, num_workers=0) for f in folders]
    theirs = [
        (np.mean(f, axis=0), np.cov(f, rowvar=False)) for f in act
    ]  # as calculate_activation_statistics
    np.savez(tmp_path / "theirs.npz", mu=theirs[1][0], sigma=theirs[1][1])
    report = evaluate(
        "--input",
        folders[0],
        "--reference",
        tmp_path / "theirs.npz",
        "--features.name",
        "inception",
        "--features.weights",
        inception_file,
        "--metrics",
        "[fd,inception_score]",
        "--save_statistics",
        tmp_path / "ours.npz",
    )
    # our file in pytorch-fid's hands
    mu, sigma = fid_score.compute_statistics_of_path(str(tmp_path / "ours.npz"), None, 1, 2048, "cpu")
    assert np.allclose(mu, theirs[0][0], rtol=1e-4, atol=1e-5 * np.abs(theirs[0][0]).max())
    assert np.allclose(sigma, theirs[0][1], atol=1e-5 * np.abs(theirs[0][1]).max())
    # a rotation changes no distance: in the span of all features pytorch-fid's root takes no time
    q = np.linalg.qr(np.concatenate(act).T)[0]
    expected = fid_score.calculate_frechet_distance(*(x for m, s in theirs for x in (q.T @ m, q.T @ s @ q)))
    (name,) = [n for n in report["figures"] if n.startswith("FD")]
    assert name.startswith("FD(inception:")  # these are not the published weights
    assert value(report, name) == pytest.approx(expected, rel=1e-4)
    assert 1 <= value(report, name.replace("FD", "IS")) <= 3


def test_inception_without_weights_names_the_file(evaluate, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("torch.hub.download_url_to_file", lambda *_a, **_k: 1 / 0)
    monkeypatch.setattr("torch.hub._hub_dir", str(tmp_path))
    a = shard(tmp_path / "a.tar", noise(3))
    line = refused(capsys, evaluate, "--input", a, "--reference", a, "--features.name", "inception")
    assert "pt_inception-2015-12-05-6726825d.pth" in line
    assert "--features.weights" in line


def test_statistics_are_as_good_as_their_pictures_and_of_one_space(evaluate, tmp_path, capsys):
    a, b = (shard(tmp_path / f"{n}/s.tar", noise(70, seed=i)) for i, n in enumerate("ab"))
    saved = tmp_path / "b.npz"
    alone = evaluate("--input", b, "--save_statistics", saved, "--features.size", 4, output=tmp_path / "1")
    assert alone["figures"] == {}
    two = evaluate("--input", a, "--reference", b, *PIXELS, output=tmp_path / "2")
    one = evaluate("--input", a, "--reference", saved, *PIXELS, output=tmp_path / "3")
    assert value(one, "FD(pixels)") == value(two, "FD(pixels)")
    low, high = two["figures"]["FD(pixels)"]["interval"]
    assert low < value(two, "FD(pixels)") < high
    evaluate(
        "--input", a, "--save_statistics", tmp_path / "a.npz", "--features.size", 4, output=tmp_path / "4"
    )
    files = evaluate("--input", tmp_path / "a.npz", "--reference", saved, output=tmp_path / "5")
    assert value(files, "FD(pixels)") == value(two, "FD(pixels)")

    def line(*arguments):
        return refused(capsys, evaluate, "--input", a, *arguments)

    assert "another feature space: its side is 4, this run's 16" in line("--reference", saved)
    np.savez(tmp_path / "plain.npz", mu=np.zeros(48), sigma=np.eye(48))
    assert "taken for pytorch-fid's" in line("--reference", tmp_path / "plain.npz", *PIXELS)
    np.savez(tmp_path / "odd.npz", mu=np.zeros(48), sigma=np.eye(47))
    assert "(47, 47)" in line("--reference", tmp_path / "odd.npz", *PIXELS)
    assert "mu and sigma" in line("--reference", shard(tmp_path / "no.npz", {}), *PIXELS)
    assert "no such file" in line("--reference", tmp_path / "none.npz", *PIXELS)
    assert "the others need its pictures" in line("--reference", saved, "--metrics", "[kid]")


def test_all_metrics_of_digits_against_digits(evaluate, tmp_path, digit_shards):
    report = evaluate(
        "--input",
        digit_shards[0],
        "--reference",
        digit_shards[1],
        "--features.name",
        "digits-classifier",
        "--metrics",
        "[fd,kid,precision_recall,density_coverage,inception_score]",
    )
    figures = report["figures"]
    kinds = ("FD", "KD", "precision", "recall", "density", "coverage", "IS")
    assert set(figures) == {f"{kind}(digits-classifier)" for kind in kinds}
    assert all(f["interval"][0] <= f["value"] <= f["interval"][1] for f in figures.values())
    assert value(report, "IS(digits-classifier)") == pytest.approx(9, abs=1)  # ten classes, most of them sure
    assert value(report, "precision(digits-classifier)") > 0.8
    assert report["warnings"] == []
    assert json.loads((tmp_path / "out/_run/config.json").read_text())["classes"] is True


@pytest.fixture(scope="session")
def digit_shards(tmp_path_factory):
    """Two shards of 150 different digits."""
    from sklearn.datasets import load_digits

    folder, out = tmp_path_factory.mktemp("digits"), []
    pictures = (load_digits().images * 255 / 16).round().astype(np.uint8).repeat(2, 1).repeat(2, 2)[..., None]
    for i in range(2):
        out.append(shard(folder / f"{i}/s.tar", {f"d{n}": pictures[150 * i + n] for n in range(150)}))
    return out


def test_folders_and_shards_of_any_cut_give_the_same_figures(evaluate, tmp_path):
    a, b = noise(60), noise(60, seed=1)
    whole, reference = shard(tmp_path / "whole/s.tar", a), shard(tmp_path / "b.tar", b)
    for i in range(3):
        shard(tmp_path / f"cut/s{i}.tar", dict(list(a.items())[20 * i : 20 * i + 20]))
    for key, picture in a.items():
        storage.write(str(tmp_path / f"folder/x/{key}.png"), png(picture))
    options = ("--reference", reference, "--features.size", 4)
    one = evaluate("--input", whole, *options, output=tmp_path / "1")["figures"]
    for n, given in enumerate(("cut", "folder")):
        other = evaluate(
            "--input", tmp_path / given, *options, "--unit_pictures", 7, output=tmp_path / f"2{n}"
        )["figures"]
        assert list(other) == list(one)
        for name, figure in one.items():
            assert other[name]["value"] == pytest.approx(figure["value"], rel=1e-9)


def test_a_sample_is_drawn_by_the_seed_and_said(evaluate, tmp_path):
    a, b = (shard(tmp_path / f"{i}.tar", noise(60, seed=i)) for i in range(2))
    options = ("--input", a, "--reference", b, "--features.size", 4, "--max_samples", 30, "--bootstrap", 0)
    runs = [evaluate(*options, "--seed", seed) for seed in (0, 0, 1)]  # the features of the first do for all
    assert runs[0]["figures"] == runs[1]["figures"]
    assert value(runs[0], "KD(pixels)") != value(runs[2], "KD(pixels)")
    assert value(runs[0], "FD(pixels)") == value(runs[2], "FD(pixels)")
    assert sum("30 of 60" in w for w in runs[0]["warnings"]) == 2


def test_few_pictures_are_warned_of_and_bad_ones_counted(evaluate, tmp_path):
    a = shard(tmp_path / "a.tar", noise(10) | {"broken": b"no picture", "empty": b""})
    b = shard(tmp_path / "b.tar", noise(10, seed=1))
    report = evaluate("--input", a, "--reference", b, "--features.size", 4)
    assert report["quarantined"] == {"empty_picture": 1, "not_an_image": 1}
    assert {(q["set"], q["key"]) for q in quarantine(tmp_path / "out")} == {
        ("input", "broken"),
        ("input", "empty"),
    }
    assert report["sets"]["input"]["pictures"] == 10
    assert sum("singular" in w for w in report["warnings"]) == 2


def test_bad_input_is_one_clear_line(evaluate, tmp_path, capsys):
    colour, grey = shard(tmp_path / "c.tar", noise(8)), shard(tmp_path / "g.tar", noise(8, channels=1))
    single = shard(tmp_path / "s.tar", noise(1) | {"broken": b"no"})
    shard(tmp_path / "run/shards/s.tar", noise(2))
    (tmp_path / "nothing").mkdir()
    for arguments, words in (
        (
            ("--input", grey, "--reference", colour),
            "input has 1 channel (all 8 pictures are grey) and reference 3",
        ),
        (("--input", single, "--reference", colour), "1 pictures could be read, 2 or more are needed"),
        (("--input", tmp_path / "run", "--reference", colour), "its shards are in"),
        (("--input", tmp_path / "nothing", "--reference", colour), "no shards (.tar) and no pictures"),
        (("--input", tmp_path / "none.tar", "--reference", colour), "input"),
        (("--input", colour, "--reference", tmp_path / "none.tar"), "reference"),
        (("--input", colour), "reference=None: needed"),
        (("--input", colour, "--metrics", "[kid]"), "they need a --reference"),
        (("--input", colour, "--metrics", "[inception_score]"), "pixels gives no class probabilities"),
        (("--input", colour, "--reference", colour, "--metrics", "[psnr]"), "for mode sets"),
        (
            ("--input", colour, "--reference", colour, "--neighbours", "8"),
            "neighbours=8: input has 8 pictures",
        ),
        (("--input", colour, "--reference", colour, "--masks", "m"), "for mode pairs alone"),
    ):
        assert words in refused(capsys, evaluate, *arguments, "--overwrite"), words
    evaluate("--input", colour, "--reference", colour, *PIXELS, "--overwrite")
    changed = refused(capsys, evaluate, "--input", colour, "--reference", colour, "--features.size", 8)
    assert "space.side 4 -> 8" in changed


def test_the_cache_is_asked_before_the_network_and_shared_by_spaces_alone(tmp_path):
    calls, image = [], np.stack(list(noise(3).values()))

    def load():
        calls.append("loaded")
        return type(
            "Space", (), {"extract": staticmethod(lambda x: x.reshape(len(x), -1)[:, :5] / np.float32(2))}
        )

    recipe = FeatureRecipe(cache=str(tmp_path / "cache"))
    first = feature_cache.extractor(recipe, load, lambda: {"name": "one"})(image)
    again = feature_cache.extractor(recipe, load, lambda: {"name": "one"})
    assert np.array_equal(again(image), first)
    assert calls == ["loaded"]
    again(image[:2])
    feature_cache.extractor(recipe, load, lambda: {"name": "two"})(image)
    assert calls == ["loaded"] * 3
    assert len(list((tmp_path / "cache").iterdir())) == 2


@pytest.mark.slow
def test_two_workers_give_the_figures_of_one_process(
    evaluate, monkeypatch, ray_session, tmp_path, digit_shards
):
    """Through Ray; a third run finds its features in the cache that the second left."""
    options = (
        "--input",
        digit_shards[0],
        "--reference",
        digit_shards[1],
        "--features.name",
        "digits-classifier",
    )
    options = (*options, "--features.cache", tmp_path / "cache")
    one = evaluate(*options, output=tmp_path / "1")
    monkeypatch.undo()
    shutil.rmtree(tmp_path / "cache")
    two = (*options, "--output", tmp_path / "2", "--cluster.workers", 2, "--cluster.gpus_per_worker", 0)
    assert cli.main(["evaluate", *map(str, two)]) == 0
    assert json.loads((tmp_path / "2/report.json").read_text())["figures"] == one["figures"]
    assert len(list(tmp_path.glob("cache/*/*.npy"))) == 2


@pytest.mark.shared
def test_flowers_of_a_kind_are_nearer_than_of_another(evaluate, tmp_path):
    found = {}
    for name, paths in (
        ("daisy", sorted((FLOWERS / "daisy").iterdir())[:8]),
        ("more", sorted((FLOWERS / "daisy").iterdir())[8:16]),
        ("roses", sorted((FLOWERS / "roses").iterdir())[:8]),
    ):
        (tmp_path / name).mkdir()
        for path in paths:
            (tmp_path / name / path.name).write_bytes(path.read_bytes())
    for name in ("more", "roses"):
        report = evaluate(
            "--input",
            tmp_path / name,
            "--reference",
            tmp_path / "daisy",
            "--features.name",
            "efficientnet-lite0",
            "--features.weights",
            EFFICIENTNET,
            "--metrics",
            "[fd,kid]",
            "--features.cache",
            tmp_path / "cache",
            "--bootstrap",
            0,
            output=tmp_path / f"of-{name}",
        )
        found[name] = value(report, "KD(efficientnet-lite0)"), value(report, "FD(efficientnet-lite0)")
    assert found["roses"] > found["more"]
    assert found["roses"][1] > found["more"][1]


def test_real_against_real_stands_beside_each_figure_at_the_same_count(evaluate, tmp_path, capsys):
    """40 other pictures of the reference's kind, and 40 darker ones, against 100: what a good and a bad figure is."""
    real = shard(tmp_path / "real/s.tar", noise(100))
    alike = shard(tmp_path / "alike/s.tar", noise(40, seed=1))
    darker = shard(tmp_path / "darker/s.tar", {k: v // 2 for k, v in noise(40, seed=1).items()})
    some = ("--reference", real, "--features.size", 2, "--bootstrap", 0)
    good, bad = (
        evaluate("--input", made, *some, output=tmp_path / f"out-{made.parent.name}")
        for made in (alike, darker)
    )
    assert good["as_many"] == bad["as_many"] == 40
    for name in ("FD(pixels)", "KD(pixels)"):
        assert good["figures"][name]["real"] == bad["figures"][name]["real"], "of the reference alone"
        assert bad["figures"][name]["as_many"] > 10 * abs(bad["figures"][name]["real"])
    assert good["figures"]["FD(pixels)"]["as_many"] < 2 * good["figures"]["FD(pixels)"]["real"]
    assert bad["figures"]["coverage(pixels)"]["as_many"] < 0.5 < bad["figures"]["coverage(pixels)"]["real"]
    assert "real: 40 pictures of the reference against 40 others of it" in capsys.readouterr().out


def test_real_against_real_takes_half_of_a_small_reference_and_needs_pictures(evaluate, tmp_path):
    small, many = shard(tmp_path / "a/s.tar", noise(7)), shard(tmp_path / "b/s.tar", noise(30, seed=1))
    report = evaluate("--input", many, "--reference", small, *PIXELS, output=tmp_path / "1")
    assert report["as_many"] == 3
    saved = tmp_path / "b.npz"
    evaluate("--input", many, "--save_statistics", saved, "--features.size", 4, output=tmp_path / "2")
    report = evaluate("--input", small, "--reference", saved, *PIXELS, output=tmp_path / "3")
    assert report["as_many"] is None
    assert "real" not in report["figures"]["FD(pixels)"]
