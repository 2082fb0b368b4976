"""Which mask belongs to which picture: by path, by stem, and never by a guess."""

import os
from pathlib import Path

import pytest
from flows import DIGITS
from inpaints import hole, mask, noise, refused, saved

from noiseweave.cluster import shards, storage
from noiseweave.jobs import arguments as jobs_arguments
from noiseweave.jobs.inpaint import input as inpaint_input

PNG = saved(noise("L", (8, 8)), "PNG")


def laid(folder, imgs: list[str], masks: list[str]):
    for name in imgs:
        storage.write(str(folder / "imgs" / name), PNG)
    for name in masks:
        storage.write(str(folder / "masks" / name), PNG)


def gathered(folder, *arguments: str):
    where = [
        *DIGITS,
        "--images",
        str(folder / "imgs"),
        "--masks",
        str(folder / "masks"),
        "--output",
        str(folder / "out"),
    ]
    return inpaint_input.gather(jobs_arguments.parse("inpaint", [*where, *arguments]))


def pairs(work) -> dict[str, str]:
    units = [work.plan.unit(i).payload for i in range(work.plan.length)]
    return {item.picture.path: item.mask.path for payload in units for item in payload}


def left_out(work) -> dict[str, str]:
    return {b.key: b.reason for b in work.left_out}


def test_every_extension_in_any_case_and_depth(tmp_path):
    names = [
        "a.png",
        "b.JPG",
        "c/d.jpeg",
        "c/e/f.webp",
        "g.bmp",
        "h.tif",
        "i.tiff",
        "j.GIF",
        "k.avif",
        "l.heic",
        "m.heif",
        "文物.PNG",
        "x.y.png",
    ]
    laid(tmp_path, names, [os.path.splitext(n)[0] + ".png" for n in names])
    laid(tmp_path, ["z.psd", "notes.md", ".hidden.png", "__MACOSX/a.png"], ["z.psd"])
    work = gathered(tmp_path)
    assert pairs(work) == {n: os.path.splitext(n)[0] + ".png" for n in names}
    assert left_out(work) == {}
    assert work.pictures == len(names)


def test_the_same_path_goes_before_the_same_stem(tmp_path):
    laid(tmp_path, ["a/x.png", "b/x.png", "deep/er/y.jpg"], ["a/x.png", "b/x.bmp", "y.png"])
    assert pairs(gathered(tmp_path)) == {"a/x.png": "a/x.png", "b/x.png": "b/x.bmp", "deep/er/y.jpg": "y.png"}


def test_a_name_that_macos_decomposed_is_the_same_name(tmp_path):
    composed, decomposed = "caf\u00e9", "cafe\u0301"
    laid(tmp_path, [f"{decomposed}.png", f"{composed}-2.png"], [f"{composed}.png", f"{decomposed}-2.png"])
    storage.write(str(tmp_path / f"imgs/{composed}.txt"), b"words")
    work = gathered(tmp_path)
    assert left_out(work) == {}
    assert pairs(work) == {f"{decomposed}.png": f"{composed}.png", f"{composed}-2.png": f"{decomposed}-2.png"}
    texts = {item.picture.path: item.text for item in work.plan.unit(0).payload}
    assert texts[f"{decomposed}.png"].path == f"{composed}.txt"


def test_no_partner_is_listed_on_both_sides(tmp_path):
    laid(tmp_path, ["a.png", "only/one.png", "sub/a.png"], ["a.png", "lost.png"])
    work = gathered(tmp_path)
    assert pairs(work) == {"a.png": "a.png"}
    assert left_out(work) == {"only/one.png": "no_mask", "sub/a.png": "no_mask", "lost.png": "no_picture"}


def test_names_that_could_mean_several_are_left_out(tmp_path):
    laid(tmp_path, ["ok.png", "a/x.png", "b/x.png", "y.png", "y.jpg"], ["ok.png", "x.png", "y.png"])
    laid(tmp_path, ["z.png"], ["m/z.png", "n/z.png"])
    work = gathered(tmp_path)
    assert pairs(work) == {"ok.png": "ok.png"}
    wrong = {"a/x.png", "b/x.png", "x.png", "y.png", "y.jpg", "z.png", "m/z.png", "n/z.png"}
    assert left_out(work) == dict.fromkeys(wrong, "ambiguous")


def test_units_are_runs_in_an_order_of_names(tmp_path):
    names = [f"{i:02d}.png" for i in (3, 1, 0, 4, 2)]
    laid(tmp_path, names, names)
    plan = gathered(tmp_path, "--unit_pictures", "2").plan
    units = [plan.unit(i) for i in range(plan.length)]
    assert [[item.key for item in u.payload] for u in units] == [["00", "01"], ["02", "03"], ["04"]]
    assert [u.id for u in units] == ["000000", "000001", "000002"]


def test_another_file_or_size_is_another_digest(tmp_path):
    laid(tmp_path, ["a.png", "b.png"], ["a.png", "b.png"])
    seen = {gathered(tmp_path).digest}
    storage.write(str(tmp_path / "imgs/a.txt"), b"words")
    seen.add(gathered(tmp_path).digest)
    storage.write(str(tmp_path / "masks/b.png"), PNG + b"x")
    seen.add(gathered(tmp_path).digest)
    laid(tmp_path, ["c.png"], ["c.png"])
    seen.add(gathered(tmp_path).digest)
    assert len(seen) == 4
    laid(tmp_path, ["alone.png"], [])
    assert gathered(tmp_path).digest in seen, "what has no mask changes no output"


def test_words_of_a_picture(tmp_path):
    laid(tmp_path, ["a.png", "b.png", "c.png"], ["a.png", "b.png", "c.png"])
    storage.write(str(tmp_path / "imgs/a.txt"), "\ufeffa face\n of clay ".encode())
    storage.write(str(tmp_path / "imgs/c.txt"), b"\xff\xfe\x00")
    items = gathered(tmp_path).plan.unit(0).payload
    assert inpaint_input.words(items[0]) == "a face of clay"
    assert inpaint_input.words(items[1]) is None
    with pytest.raises(ValueError, match=r"^bad_txt: neither UTF-8"):
        inpaint_input.words(items[2])


def test_shards(tmp_path):
    m = saved(mask(hole((8, 8))), "PNG")
    rows = [
        ("a", {"png": PNG, "mask.png": m, "txt": b"words", "cls": b"3"}),
        ("b", {"png": PNG}),
        ("c", {"mask.png": m}),
        ("d", {"mask.png": m, "jpg": PNG}),
        ("e", {"png": PNG, "seg.png": m}),
        ("f", {"png": PNG, "mask.png": m}),
    ]
    for name in ("x", "y"):
        storage.write(str(tmp_path / f"{name}.tar"), shards.pack(rows))
    arguments = [*DIGITS, "--input", str(tmp_path), "--output", str(tmp_path / "o"), "--unit_pictures", "2"]
    work = inpaint_input.gather(jobs_arguments.parse("inpaint", arguments))
    assert work.pictures == 6
    units = [inpaint_input.items_of(work.plan.unit(i).payload) for i in range(work.plan.length)]
    assert [[item.key for item in unit] for unit in units] == [["a", "d"], ["f"]] * 2
    a, d = units[0]
    assert (a.picture.read(), a.mask.read(), a.label.read()) == (PNG, m, b"3")
    assert inpaint_input.words(a) == "words"
    assert (d.extension, d.hole, d.text) == ("jpg", "mask.png", None)
    assert sorted((b.key, b.reason) for b in work.left_out) == [
        ("b", "no_mask"),
        ("b", "no_mask"),
        ("c", "no_picture"),
        ("c", "no_picture"),
        ("e", "no_mask"),
        ("e", "no_mask"),
    ]


def test_a_damaged_shard_is_told_and_the_rest_used(tmp_path):
    m = saved(mask(hole((8, 8))), "PNG")
    whole = shards.pack([(k, {"png": PNG, "mask.png": m}) for k in "abc"])
    storage.write(str(tmp_path / "x.tar"), whole[: 2 * 2048 + 700])
    storage.write(str(tmp_path / "y.tar"), b"no tar")
    work = inpaint_input.gather(
        jobs_arguments.parse("inpaint", [*DIGITS, "--input", str(tmp_path), "--output", "o"])
    )
    assert work.pictures == 2
    assert {b.reason for b in work.left_out} == {"truncated_tar", "unreadable_tar"}


def test_variants_may_not_take_another_pictures_name(tmp_path, capsys):
    laid(tmp_path, ["a.png", "a_2.png"], ["a.png", "a_2.png"])
    where = ["--images", tmp_path / "imgs", "--masks", tmp_path / "masks"]
    assert "called a_2" in refused(capsys, tmp_path / "o", *where, "--rows", 2)
    assert gathered(tmp_path).pictures == 2


def test_masks_below_their_pictures_are_no_pictures(tmp_path):
    for name in ("a.png", "b/c.png", "masks/a.png", "masks/b/c.png"):
        storage.write(str(tmp_path / name), PNG)
    where = [*DIGITS, "--images", str(tmp_path), "--masks", str(tmp_path / "masks"), "--output", "out"]
    work = inpaint_input.gather(jobs_arguments.parse("inpaint", where))
    assert (pairs(work), left_out(work)) == ({"a.png": "a.png", "b/c.png": "b/c.png"}, {})


@pytest.mark.parametrize(("suffix", "more"), [(".mask", []), ("_mask", ["--mask_suffix", "_mask"])])
def test_masks_beside_their_pictures(tmp_path, suffix, more):
    names = ["a.jpg", f"a{suffix}.png", "b/c.png", f"b/c{suffix}.png", "bare.png", f"b/bare{suffix}.png"]
    names += ["two.png", "two.jpg", f"two{suffix}.png"]
    for name in names:
        storage.write(str(tmp_path / name), PNG)
    where = [*DIGITS, "--images", str(tmp_path), "--output", "out", *more]
    work = inpaint_input.gather(jobs_arguments.parse("inpaint", where))
    assert pairs(work) == {"a.jpg": f"a{suffix}.png", "b/c.png": f"b/c{suffix}.png"}
    alone = {"bare.png": "no_mask", f"b/bare{suffix}.png": "no_picture"}
    assert left_out(work) == alone | dict.fromkeys(["two.png", "two.jpg", f"two{suffix}.png"], "ambiguous")


def test_links(tmp_path):
    laid(tmp_path, ["a.png"], ["a.png", "b.png"])
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/secret.png").write_bytes(PNG)
    (tmp_path / "imgs/b.png").symlink_to(tmp_path / "outside/secret.png")
    (tmp_path / "imgs/linked").symlink_to(tmp_path / "outside")
    items = {item.key: item for item in gathered(tmp_path).plan.unit(0).payload}
    assert set(items) == {"a", "b"}
    with pytest.raises(ValueError, match=r"^outside_link: "):
        items["b"].picture.read()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "one of --image with --mask"),
        (["--image", "a.png"], "--image and --mask go together"),
        (["--masks", "m"], "images=None: a folder, with --masks"),
        (
            ["--images", "{d}/imgs"],
            "no picture NAME has a mask NAME.mask beside it; give --masks or --mask_suffix",
        ),
        (["--images", "{d}/imgs", "--mask_suffix", ""], "mask_suffix=''"),
        (["--image", "a.png", "--mask", "b.png", "--input", "x"], "given: image, input"),
        (["--image", "none.png", "--mask", "none.png"], "image 'none.png': no such file"),
        (["--images", "none", "--masks", "none"], "images='none': no such local folder"),
        (["--images", "{d}/imgs", "--masks", "{d}/empty"], "no .jpg, .jpeg, .png"),
        (["--images", "{d}/imgs", "--masks", "{d}/other"], "no picture has a mask of the same name"),
        (["--images", "{d}/imgs", "--masks", "{d}/m/../imgs"], "another folder than images"),
        (["--input", "{d}/imgs"], "no .tar shards there"),
        (["--input", "{d}/shards"], "no sample there has a picture and a .mask.png"),
        (
            ["--image", "{d}/imgs/a.png", "--mask", "{d}/imgs/a.png", "--output", "{d}/imgs/a.png"],
            "another file",
        ),
        (["--images", "{d}/imgs", "--masks", "{d}/m", "--output", "{d}/imgs/out"], "does not lie in images"),
        (["--images", "{d}/imgs", "--masks", "{d}/m", "--output", "{d}/o.png"], "there are several pictures"),
        (["--images", "{d}/imgs", "--masks", "{d}/m", "--mask_mode", "grey"], "mask_mode"),
        (["--images", "{d}/imgs", "--masks", "{d}/m", "--rows", "0"], "rows=0: 1 to 1000"),
        (["--images", "{d}/imgs", "--masks", "{d}/m", "--feather", "-1"], "feather=-1"),
        (["--images", "{d}/imgs", "--masks", "{d}/m", "--size", "7"], "size=7"),
        (["--images", "{d}/imgs", "--masks", "{d}/m", "--size", "512"], "the model draws 16x16 pixels only"),
        (
            ["--images", "{d}/imgs", "--masks", "{d}/m", "--steps", "2000"],
            "inpaint.steps=2000: the model has 1000",
        ),
        (["--images", "{d}/imgs", "--masks", "{d}/m", "--strength", "0"], "inpaint.strength"),
        (["--images", "{d}/imgs", "--masks", "{d}/m", "--prompt", "a face"], "the model reads no prompts"),
        (["--images", "{d}/imgs", "--masks", "{d}/m", "--model", "{d}/none"], "no such folder, not shipped"),
        (["--images", "{d}/imgs", "--masks", "{d}/m", "--lora", "a.safetensors"], "lora"),
    ],
)
def test_a_mistake_is_one_line(tmp_path, capsys, arguments, words):
    laid(tmp_path, ["a.png"], [])
    storage.write(str(tmp_path / "m/a.png"), PNG)
    storage.write(str(tmp_path / "other/b.png"), PNG)
    storage.write(str(tmp_path / "shards/a.tar"), shards.pack([("a", {"png": PNG})]))
    (tmp_path / "empty").mkdir()
    error = refused(capsys, tmp_path / "out", *(a.format(d=tmp_path) for a in arguments))
    assert words in error
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "imgs/out").exists()


def test_the_original_projects_spellings():
    base = ["--batch_imgs_dir", "i", "--batch_masks_dir=m", "--output_dir", "o"]
    more = [
        "--model",
        "some/model",
        "--steps",
        "30",
        "--guidance",
        "5.5",
        "--strength",
        "0.5",
        "--seed",
        "1234",
    ]
    rest = [
        "--size",
        "768",
        "--mask_mode",
        "white",
        "--rows",
        "4",
        "--lora",
        "w.safetensors",
        "--prompt",
        "p",
    ]
    gaps = ["--collage_spacing_h", "3", "--collage_spacing_v", "5"]
    config = jobs_arguments.parse("inpaint", [*base, *more, *rest, *gaps])
    assert (config.images, config.masks, config.output) == ("i", "m", "o")
    assert (config.model.name, config.inpaint.steps, config.inpaint.guidance) == ("some/model", 30, 5.5)
    assert (config.inpaint.strength, config.seed, config.size, config.mask_mode) == (0.5, 1234, 768, "white")
    assert (config.rows, config.collage_spacing_h, config.collage_spacing_v) == (4, 3, 5)
    assert (config.prompt, config.model.loras, config.model.lora_weights) == ("p", ("w.safetensors",), (1.0,))
    several = [*DIGITS, "--lora", '["a", "b"]', "--lora_weight", "[0.5, 1]", *base]
    config = jobs_arguments.parse("inpaint", several)
    assert (config.model.loras, config.model.lora_weights) == (("a", "b"), (0.5, 1.0))


@pytest.mark.parametrize("path", sorted((Path(__file__).parents[3] / "configs").glob("inpaint*.yaml")))
def test_the_configs_hold(path):
    assert jobs_arguments.parse("inpaint", ["--config", str(path)]).output.startswith("out/")
