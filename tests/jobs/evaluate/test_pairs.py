"""evaluate of matched pictures and of reconstruction: figures, matching, masks, what is left out."""

import json

import numpy as np
import pytest
from evaluating import noise, quarantine, refused, shard
from flows import DIGITS
from inpaints import block, mask, saved
from shared_data import ALEXNET

from noiseweave.cluster import storage
from noiseweave.engine.judging import picture_metrics
from noiseweave.engine.pictures import images

HOLE = block((24, 20), 3, 4, 8, 9)


def folder(root, pictures):
    for key, picture in pictures.items():
        storage.write(str(root / f"{key}.png"), images.encode(picture))
    return root


def pair(seed=0, change=40):
    """A picture, 20 x 24, and the same with other pixels where HOLE is."""
    r = np.random.default_rng(seed)
    image = r.integers(0, 200, (20, 24, 3), np.uint8)
    return image, np.where(HOLE[..., None], image + np.uint8(change), image)


def rows(output):
    return [json.loads(line) for line in (output / "pairs.jsonl").read_text().splitlines()]


@pytest.fixture
def matched(tmp_path):
    """Three repaired pictures with a mask, a fourth that is equal, and what has no partner."""
    truths, repairs = {}, {}
    for i in range(4):
        truths[f"sub/p{i}"], repairs[f"p{i}"] = pair(i, 40 * (i < 3))
    folder(tmp_path / "truth", truths | {"alone": pair()[0]})
    folder(tmp_path / "restored", repairs | {"extra": pair()[0], "wide": pair()[0]})
    folder(tmp_path / "truth", {"wide": pair()[0][:, :20]})
    for name in (*repairs, "wide"):
        storage.write(str(tmp_path / f"masks/{name}.png"), saved(mask(HOLE), "PNG"))
    return tmp_path


def test_figures_of_folders_whole_inside_and_outside(evaluate, matched):
    report = evaluate(
        "--mode",
        "pairs",
        "--input",
        matched / "restored",
        "--reference",
        matched / "truth",
        "--masks",
        matched / "masks",
        "--unit_pictures",
        2,
    )
    figures, inside = report["figures"], 20 * np.log10(255 / 40)
    assert figures["psnr inside"]["value"] == pytest.approx(inside)
    assert figures["psnr inside"]["pairs"] == 3
    assert figures["psnr"]["value"] == pytest.approx(inside - 10 * np.log10(HOLE.mean()))
    # over all four pairs the mean error is three quarters
    assert figures["psnr"]["of the mean error"] == pytest.approx(
        figures["psnr"]["value"] - 10 * np.log10(3 / 4)
    )
    assert figures["psnr outside"]["value"] is None
    assert [w for w in report["warnings"] if w.startswith("psnr outside: 4")]
    image, other = pair(1)
    row = next(r for r in rows(matched / "out") if r["key"] == "p1")
    assert row["ssim"] == pytest.approx(picture_metrics.ssim(image, other))
    assert row["ssim inside"] == pytest.approx(picture_metrics.ssim(image, other, HOLE))
    assert row["ssim outside"] == pytest.approx(picture_metrics.ssim(image, other, ~HOLE))
    assert {(q["key"], q["reason"]) for q in quarantine(matched / "out")} == {
        ("alone.png", "no_input"),
        ("extra.png", "no_reference"),
        ("wide", "size_differs"),
    }
    low, high = figures["ssim"]["interval"]
    assert low <= figures["ssim"]["value"] <= high


def test_shards_are_matched_by_key_and_bring_their_masks(evaluate, tmp_path):
    hole = {"mask.png": saved(mask(HOLE), "PNG")}
    truths, repairs = ({f"k{i}": pair(i)[n] for i in range(3)} for n in (0, 1))
    shard(tmp_path / "restored/a.tar", {"k0": repairs["k0"]}, k0=hole)
    shard(tmp_path / "restored/b.tar", {"k1": repairs["k1"], "odd": repairs["k1"]})
    shard(tmp_path / "truth/a.tar", truths | {"grey": truths["k0"]}, k1=hole)
    options = ("--mode", "pairs", "--input", tmp_path / "restored", "--reference", tmp_path / "truth")
    report = evaluate(*options)
    assert report["figures"]["psnr inside"]["value"] == pytest.approx(20 * np.log10(255 / 40))
    assert report["figures"]["psnr inside"]["pairs"] == 2
    assert report["quarantined"] == {"no_input": 2, "no_reference": 1}


def test_what_cannot_be_compared_is_one_clear_line_or_quarantined(evaluate, matched, capsys, monkeypatch):
    a, b = matched / "restored", matched / "truth"
    tar = shard(matched / "s.tar", noise(2))
    monkeypatch.setattr("torch.hub._hub_dir", str(matched))
    monkeypatch.setattr("torch.hub.download_url_to_file", lambda *_a, **_k: 1 / 0)
    (matched / "none").mkdir()
    storage.write(str(matched / "other/x.png"), saved(mask(HOLE), "PNG"))
    for arguments, words in (
        (("--input", a), "reference=None: needed"),
        (("--input", a, "--reference", tar), "two of one kind"),
        (("--input", a, "--reference", matched / "nowhere"), "nowhere': no such folder, and no pattern"),
        (("--input", a, "--reference", a), "another folder than input"),
        (("--input", a, "--reference", matched / "none"), "no .jpg, .jpeg, .png"),
        (("--input", a, "--reference", b, "--masks", matched / "no-masks"), "no such local folder"),
        (("--input", a, "--reference", b, "--masks", matched / "other"), "no_mask"),
        (("--input", a, "--reference", b, "--metrics", "[lpips]"), "alexnet-owt-7be5be79.pth"),
        (("--input", a, "--reference", b, "--metrics", "[fd]"), "for mode pairs"),
    ):
        assert words in refused(capsys, evaluate, "--mode", "pairs", *arguments), words
    grey = folder(matched / "grey", {f"p{i}": pair(i)[0][..., :1] for i in range(2)})
    for n, name in enumerate(("p2", "p3", "p1")):
        content = (saved(mask(np.full_like(HOLE, n == 1)), "PNG"), b"no mask")[n == 2]
        storage.write(str(matched / f"masks/{name}.png"), content if n < 2 else b"no mask")
    folder(matched / "grey", {"p2": pair(2)[0], "p3": pair(3)[0]})
    line = refused(
        capsys, evaluate, "--mode", "pairs", "--input", grey, "--reference", b, "--masks", matched / "masks"
    )
    reasons = {q["key"]: q["reason"] for q in quarantine(matched / "out")}
    assert reasons["p0"] == reasons["p1"] == "channels_differ"
    assert {reasons["p2"], reasons["p3"]} == {"empty_mask", "full_mask"}
    assert "no pair could be compared" in line


@pytest.mark.shared
def test_lpips_of_a_repair_lies_inside_its_mask(evaluate, tmp_path):
    r, hole = np.random.default_rng(0), block((64, 64), 10, 10, 30, 30)
    image = r.integers(0, 256, (64, 64, 3), np.uint8)
    folder(tmp_path / "a", {"x": np.where(hole[..., None], 255 - image, image)})
    folder(tmp_path / "b", {"x": image})
    storage.write(str(tmp_path / "m/x.png"), saved(mask(hole), "PNG"))
    figures = evaluate(
        "--mode",
        "pairs",
        "--input",
        tmp_path / "a",
        "--reference",
        tmp_path / "b",
        "--masks",
        tmp_path / "m",
        "--metrics",
        "[lpips]",
        "--lpips_weights",
        ALEXNET,
    )["figures"]
    assert figures["lpips inside"]["value"] > 3 * figures["lpips outside"]["value"] > 0
    assert figures["lpips"]["interval"] is None


def test_reconstruction_of_digits_is_exact_for_each_recipe(evaluate, tmp_path):
    from sklearn.datasets import load_digits

    digits = (load_digits().images[:3] * 255 / 16).round().astype(np.uint8)[..., None]
    tar = shard(tmp_path / "d.tar", {f"d{i}": d for i, d in enumerate(digits)} | {"broken": b"no"})
    options = (
        *DIGITS,
        "--mode",
        "reconstruction",
        "--input",
        tar,
        "--inversion.num_steps",
        6,
        "--inversion.skip",
        1,
    )
    report = evaluate(*options, "--compare_steps", "[4,6]", "--compare_samplers", "[ddim,sde-dpm-solver++]")
    names = [f"{s} {n} steps, skip 1" for s in ("ddim", "sde-dpm-solver++") for n in (4, 6)]
    assert {n.partition(":")[0] for n in report["figures"]} == set(names)
    for name in names:
        assert report["figures"][f"{name}: model space"]["value"] > 90
        assert report["figures"][f"{name}: ssim"]["value"] > 0.999
        assert report["figures"][f"{name}: psnr"]["value"] is None  # to the last bit
    assert len(report["warnings"]) == 4
    assert report["quarantined"] == {"not_an_image": 1}
    assert len(rows(tmp_path / "out")) == 12


def test_reconstruction_warns_of_pictures_that_the_model_does_not_draw(evaluate, tmp_path):
    shard(tmp_path / "a.tar", noise(3, 40))
    (tmp_path / "p").mkdir()
    (tmp_path / "p/a.png").write_bytes(images.encode(noise(1, 40)["p000"]))
    options = (*DIGITS, "--mode", "reconstruction", "--inversion.num_steps", 2, "--inversion.skip", 1)
    for given, several in ((tmp_path / "a.tar", " (the middle one of 3 looked at)"), (tmp_path / "p", "")):
        report = evaluate(*options, "--input", given, output=tmp_path / f"out{len(several)}")
        assert report["warnings"][0] == (
            f"the pictures are 40x40 in colour{several}, model digits-ddpm draws 16x16 in grey: they are made smaller "
            "and they lose their colour"
        )


def test_reconstruction_refuses_what_no_model_can_do(evaluate, tmp_path, capsys):
    tar = shard(tmp_path / "d.tar", noise(2))
    options = (*DIGITS, "--mode", "reconstruction", "--input", tar)
    assert "compare_steps=(0" in refused(capsys, evaluate, *options, "--compare_steps", "[0]")
    assert "reference=" in refused(capsys, evaluate, *options, "--reference", tar)
    assert "model 'none'" in refused(capsys, evaluate, *options, "--model.name", "none")
