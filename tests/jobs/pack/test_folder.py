"""Folders become shards: every picture is in them byte by byte, or named with its reason."""

import io
import json
import os
import random
import sys
from pathlib import Path

import pytest
from packing import contents, fill, packed, picture
from PIL import Image

from noiseweave.cluster import folders
from noiseweave.engine.pictures import images
from noiseweave.jobs.pack import config
from noiseweave.jobs.pack import job as pack


@pytest.fixture
def flowers(tmp_path) -> Path:
    files = {f"rose/{n}.png": picture(n) for n in range(5)} | {f"daisy/{n}.png": picture(n) for n in range(4)}
    return fill(tmp_path / "flowers", files)


def test_bytes_labels_captions_and_lineage(tmp_path):
    files = {
        "b/one.JPG": picture(1, "JPEG"),
        "b/one.txt": b"\xef\xbb\xbfa cat \n",
        "b/one.json": b'{"id": 4, "source": "s"}',
        "a/sub/two.webp": picture(2, "WEBP"),
        "a/three.bmp": picture(3, "BMP"),
        "a/four.jpeg": picture(4, "JPEG"),
        "a/named.jpg": picture(5, "PNG"),
    }
    samples, bad, report = packed(fill(tmp_path / "in", files), tmp_path / "out")
    assert bad == {}
    assert report["classes"] == {"a": 4, "b": 1}
    assert json.loads((tmp_path / "out" / "classes.json").read_text()) == ["a", "b"]
    for source, extension in (
        ("b/one.JPG", "jpg"),
        ("a/sub/two.webp", "webp"),
        ("a/three.bmp", "bmp"),
        ("a/four.jpeg", "jpg"),
        ("a/named.jpg", "png"),  # called by what it is
    ):
        assert samples[source][extension] == files[source]
        assert samples[source]["cls"] == (b"1" if source[0] == "b" else b"0")
    one = samples["b/one.JPG"]
    assert (one["__key__"], one["txt"], one["__location__"].caption) == ("b__one", b"a cat \n", "a cat")
    assert json.loads(one["json"]) == {"id": 4, "earlier_source": "s", "source": "b/one.JPG"}
    assert samples["a/sub/two.webp"]["__key__"] == "a__sub-two"
    assert "txt" not in samples["a/three.bmp"]


BAD = {
    "zero.jpg": (b"", "empty_picture"),
    "text.png": (b"no picture", "not_an_image"),
    "half.png": (picture(1, size=(200, 200))[:300], "truncated_image"),
    "half.jpg": (picture(1, "JPEG", (200, 200))[:700], "truncated_image"),
    "bomb.png": (picture(1, size=(9000, 9000)), "too_large"),
}


def test_bad_pictures_are_named_and_the_rest_is_packed(tmp_path):
    root = fill(tmp_path / "in", {name: data for name, (data, _) in BAD.items()} | {"good.png": picture()})
    samples, bad, report = packed(root, tmp_path / "out")
    assert list(samples) == ["good.png"]
    assert bad == {name: reason for name, (_, reason) in BAD.items()}
    assert report["quarantined"]["truncated_image"] == 2


EVERY = {
    "jpg": "JPEG",
    "png": "PNG",
    "webp": "WEBP",
    "bmp": "BMP",
    "gif": "GIF",
    "tif": "TIFF",
    "avif": "AVIF",
}


@pytest.mark.parametrize("size", [None, 8])
def test_every_format_is_read_and_kept_under_its_own_extension(size, tmp_path):
    files = {f"{e}/0.{e}": picture(30, kind) for e, kind in EVERY.items()}
    files["tif/1.TIFF"] = picture(30, "TIFF")
    samples, bad, report = packed(fill(tmp_path / "in", files), tmp_path / "out", size=size)
    assert bad == {}
    assert report["classes"] == dict.fromkeys(sorted(EVERY), 1) | {"tif": 2}
    for source, data in files.items():
        kept = samples[source][
            source.lower().rpartition(".")[2][:4].replace("tiff", "tif") if size is None else "png"
        ]
        assert (kept == data) == (size is None)
        assert abs(images.decode(kept).astype(int) - (210, 30, 90)).max() <= 6


def test_a_heic_without_its_decoder_is_named_with_how_to_get_it(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    images.readable.cache_clear()
    heic = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(100)
    try:
        root = fill(tmp_path / "in", {"a/0.heic": heic, "a/1.HEIC": heic, "b/0.png": picture()})
        _, bad, report = packed(root, tmp_path / "out")
    finally:
        images.readable.cache_clear()
    assert bad == {"a/0.heic": "no_decoder", "a/1.HEIC": "no_decoder"}
    assert report["classes"] == {"a": 0, "b": 1}
    assert "2 pictures: HEIF is not read here; pip install 'noiseweave[heif]'" in capsys.readouterr().out


def test_nothing_but_bad_pictures_is_code_1_with_a_report(tmp_path):
    samples, bad, report = packed(fill(tmp_path / "in", {"zero.jpg": b""}), tmp_path / "out")
    assert (samples, bad, report["shards"]) == ({}, {"zero.jpg": "empty_picture"}, 0)


@pytest.mark.parametrize(
    ("name", "data", "reason"),
    [
        ("a.txt", "Straße".encode("latin-1"), "bad_txt"),
        ("a.txt", "a cat".encode("utf-16-le"), "bad_txt"),
        ("a.txt", b"x" * (1 << 21), "too_large"),
        ("a.json", b"{", "bad_json"),
        ("a.json", b"[1]", "bad_json"),
        ("a.json", b"null", "bad_json"),
        ("a.json", b"\xff", "bad_json"),
        ("a.json", b"[" * 100_000, "bad_json"),
        ("a.json", b"", "bad_json"),
    ],
)
def test_a_broken_side_file_takes_its_picture_along(name, data, reason, tmp_path):
    root = fill(tmp_path / "in", {"a.png": picture(), name: data, "b.png": picture()})
    samples, bad, _ = packed(root, tmp_path / "out")
    assert list(samples) == ["b.png"]
    assert bad == {"a.png": reason}


def test_a_flat_folder_has_no_labels(tmp_path):
    samples, _, report = packed(
        fill(tmp_path / "in", {"a.png": picture(), "b.c.png": picture()}), tmp_path / "out"
    )
    assert {s["__key__"] for s in samples.values()} == {"a", "b_c"}
    assert all("cls" not in s and s["__location__"].label is None for s in samples.values())
    assert report["classes"] == {}


def test_captions_of_windows_are_read(tmp_path):
    root = fill(tmp_path / "in", {"a.png": picture(), "a.txt": "Straße 花".encode("utf-16")})
    samples, _, _ = packed(root, tmp_path / "out")
    assert samples["a.png"]["txt"] == "Straße 花".encode()


def test_a_flat_folder_has_the_labels_of_its_json_files(tmp_path):
    label = {"a": b'{"label": "dog"}', "b": b'{"label": "cat"}', "c": b'{"label": 7}', "d": b'{"id": 1}'}
    files = {f"{k}.png": picture() for k in label} | {f"{k}.json": data for k, data in label.items()}
    root = fill(tmp_path / "in", files)
    samples, bad, report = packed(root, tmp_path / "out")
    assert {k: s.get("cls") for k, s in samples.items()} == {"a.png": b"1", "b.png": b"0", "d.png": None}
    assert bad == {"c.png": "bad_label"}
    assert report["classes"] == {"cat": 1, "dog": 1}
    assert json.loads((tmp_path / "out/classes.json").read_text()) == ["cat", "dog"]
    samples, _, report = packed(root, tmp_path / "kept", keep_labels=(1,))
    assert ([*samples], report["left_out"]) == (["a.png"], 2)
    samples, bad, _ = packed(root, tmp_path / "none", labels="none")
    assert (len(samples), bad) == (4, {})
    assert all("cls" not in s for s in samples.values())


def test_labels_none_packs_folders_without_labels(flowers, tmp_path):
    samples, _, report = packed(flowers, tmp_path / "out", labels="none")
    assert len(samples) == 9
    assert report["classes"] == {}
    assert all("cls" not in s for s in samples.values())


def test_folders_without_pictures_are_no_class_and_loose_pictures_have_none(flowers, tmp_path):
    fill(
        flowers,
        {"about/readme.md": b"x", "cover.png": picture(), "daisy/x.psd": b"8BPS", "daisy/lone.txt": b""},
    )
    (flowers / "empty").mkdir()
    samples, bad, report = packed(flowers, tmp_path / "out")
    assert report["classes"] == {"daisy": 4, "rose": 5}
    assert bad == {"cover.png": "no_class"}
    assert report["ignored"] == {".psd": 1, ".txt without a picture": 1, ".md": 1}
    assert "cover.png" not in samples


def test_what_systems_leave_behind_is_passed_over(flowers, tmp_path):
    clean = packed(flowers, tmp_path / "clean")
    junk = ("rose/.hidden.png", ".git/a.png", "__MACOSX/rose/._0.png", "rose/Thumbs.db", "rose/.DS_Store")
    dirty = packed(fill(flowers, {name: picture() for name in junk}), tmp_path / "dirty")
    assert clean[2] == dirty[2]
    assert contents(tmp_path / "clean") == contents(tmp_path / "dirty")


def test_odd_names_get_distinct_safe_keys(tmp_path):
    names = [
        "a.b.png",
        "a_b.png",
        "a b.png",
        "A_B.png",
        "x.png",
        "x.jpg",
        "日本.png",
        "-.png",
        "n" * 200 + ".png",
    ]
    names += ["..png.png", "d/e.png", "d-e.png", os.fsdecode(b"\xff\xfe.png")]
    samples, bad, _ = packed(
        fill(tmp_path / "in", {n: picture() for n in names}), tmp_path / "out", labels="none"
    )
    keys = [s["__key__"] for s in samples.values()]
    assert len({k.lower() for k in keys}) == len(names) - 1  # "..png.png" is a hidden file
    assert all(k.replace("-", "").replace("_", "").isalnum() and k.isascii() and len(k) < 200 for k in keys)
    assert bad == {}


def test_keys_depend_on_the_set_of_paths_alone():
    paths = [
        f"{a}{sep}{b}.{e}"
        for a in "ab"
        for sep in ("-", " ", "_", "/", ".")
        for b in "ab"
        for e in ("png", "jpg")
    ]
    keys = dict(zip(paths, folders.keys_of(paths), strict=True))
    assert len(set(keys.values())) == len(paths)
    random.Random(0).shuffle(paths)
    assert dict(zip(paths, folders.keys_of(paths), strict=True)) == keys


def test_a_name_that_looks_like_a_hashed_key_is_no_trap():
    first = folders.keys_of(["a.png", "a.jpg"])
    keys = folders.keys_of(["a.png", "a.jpg", *(f"{k}.png" for k in first)])
    assert len({k.lower() for k in keys}) == 4


def test_classes_whose_keys_would_meet(tmp_path):
    files = {
        "a b/x.png": picture(1),
        "a_b/x.png": picture(2),
        "a/b__x.png": picture(3),
        "a__b/x.png": picture(4),
    }
    samples, _, report = packed(fill(tmp_path / "in", files), tmp_path / "out")
    assert len({s["__key__"] for s in samples.values()}) == 4
    assert set(report["classes"].values()) == {1}
    assert {n: s["png"] for n, s in samples.items()} == files


def test_the_order_of_the_disk_does_not_matter(flowers, tmp_path, monkeypatch):
    packed(flowers, tmp_path / "a")
    real = os.scandir

    class Backwards:
        def __init__(self, path):
            with real(path) as found:
                self.entries = list(found)[::-1]

        def __enter__(self):
            return iter(sorted(self.entries, key=lambda e: hash(e.name)))

        def __exit__(self, *_):
            return None

    monkeypatch.setattr(folders.os, "scandir", Backwards)
    packed(flowers, tmp_path / "b", threads=3)
    monkeypatch.undo()
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


def test_links_out_are_not_followed_unless_asked(flowers, tmp_path):
    fill(tmp_path, {"secret.png": picture(99), "secret.txt": b"secret"})
    (flowers / "rose/out.png").symlink_to(tmp_path / "secret.png")
    (flowers / "rose/in.png").symlink_to("0.png")
    (flowers / "rose/0.txt").symlink_to(tmp_path / "secret.txt")
    (flowers / "rose/broken.png").symlink_to("nowhere")
    (flowers / "rose/up").symlink_to("..")
    (flowers / "linked").symlink_to(tmp_path)
    samples, bad, _ = packed(flowers, tmp_path / "out")
    assert bad == {
        "rose/out.png": "outside_link",
        "rose/0.png": "outside_link",
        "rose/broken.png": "unreadable",
        "rose/up": "link_to_folder",
        "linked": "link_to_folder",
    }
    assert samples["rose/in.png"]["png"] == picture(0)
    samples, bad, _ = packed(flowers, tmp_path / "all", follow_links=True)
    assert samples["rose/out.png"]["png"] == picture(99)
    assert samples["rose/0.png"]["txt"] == b"secret"


def test_a_named_pipe_does_not_hang(flowers, tmp_path):
    os.mkfifo(flowers / "rose" / "pipe.png")
    assert packed(flowers, tmp_path / "out")[1] == {"rose/pipe.png": "not_a_file"}


@pytest.mark.parametrize("image_format", [None, "jpg", "webp"])
def test_size_fits_every_picture(image_format, tmp_path):
    root = fill(tmp_path / "in", {"a.jpg": picture(1, "JPEG", (40, 20)), "b.png": picture(2, size=(1, 1))})
    samples, _, _ = packed(root, tmp_path / "out", size=16, image_format=image_format)
    for sample in samples.values():
        assert images.decode(sample[image_format or "png"]).shape == (16, 16, 3)


def test_a_class_of_other_formats_keeps_its_number_and_is_named(tmp_path, capsys):
    files = {
        "a/0.png": picture(0),
        "b/0.ppm": b"P6",
        "b/1.psd": b"8BPS",
        "b/2.ppm": b"P6",
        "c/0.png": picture(1),
        "notes/read.me": b"x",
        "notes/table.csv": b"x",
    }
    samples, bad, report = packed(fill(tmp_path / "in", files), tmp_path / "out")
    assert {source: sample["cls"] for source, sample in samples.items()} == {"a/0.png": b"0", "c/0.png": b"2"}
    assert json.loads((tmp_path / "out/classes.json").read_text()) == ["a", "b", "c"]
    assert bad == {"b": "no_pictures"}
    assert report["ignored"] == {".ppm": 2, ".psd": 1, ".me": 1, ".csv": 1}
    line = json.loads((tmp_path / "out/quarantine.jsonl").read_text())
    assert line["detail"] == "a class folder with none that is read: 2 .ppm, 1 .psd"
    assert "5 other files ignored" in capsys.readouterr().out


def test_without_any_picture_other_formats_make_no_classes(tmp_path):
    with pytest.raises(ValueError, match=r"no \.jpg, \.jpeg, \.png"):
        packed(fill(tmp_path / "in", {"a/0.ppm": b"P6", "b/0.psd": b"x"}), tmp_path / "out")


def mask(size=(12, 9), turn=0, light=255, top=3):
    """The mask of ``picture``: its left third, down to row ``top``, is dark."""
    image = Image.new("L", size, light)
    image.paste(0, (0, 0, size[0] // 3, top))
    exif, buffer = Image.Exif(), io.BytesIO()
    if turn:
        exif[0x0112] = turn
    image.save(buffer, "PNG", exif=exif)
    return buffer.getvalue()


def test_a_mask_beside_its_picture_is_its_mask_and_no_picture(tmp_path):
    files = {
        "a/x.png": picture(1),
        "a/x.mask.png": mask(),
        "a/y.jpg": picture(2, "JPEG"),
        "a/y.mask.jpg": picture(2, "JPEG"),
        "b/z.png": picture(3),
        "b/gone.mask.png": mask(),
        "b/twice.png": picture(4),
        "b/twice.mask.png": mask(),
        "b/twice.mask.jpg": mask(),
        "b/dim.png": picture(5),
        "b/dim.mask.png": mask(light=100),
    }
    samples, bad, report = packed(fill(tmp_path / "in", files), tmp_path / "out")
    assert set(samples) == {"a/x.png", "b/z.png"}
    assert samples["a/x.png"]["mask.png"] == mask()
    assert not [name for name in samples["b/z.png"] if "mask" in name]
    wanted = {"a/y.jpg": "bad_mask", "b/gone.mask.png": "no_picture", "b/twice.png": "ambiguous"}
    assert bad == wanted | {"b/dim.png": "bad_mask"}
    assert report["classes"] == {"a": 1, "b": 1}


def test_masks_may_be_called_otherwise(tmp_path):
    files = {"x.png": picture(1), "x_mask.png": mask(), "x.mask.png": mask()}
    samples, bad, _ = packed(fill(tmp_path / "in", files), tmp_path / "out", mask_suffix="_mask")
    assert set(samples) == {"x.png", "x.mask.png"}
    assert samples["x.png"]["mask.png"] == mask()
    assert bad == {}


def turned(data, turn):
    """The same stored pixels, which EXIF has shown otherwise."""
    exif, buffer = Image.Exif(), io.BytesIO()
    exif[0x0112] = turn
    Image.open(io.BytesIO(data)).save(buffer, "PNG", exif=exif)
    return buffer.getvalue()


def test_a_mask_is_cut_as_its_picture_is_or_refused(tmp_path):
    upright = mask((9, 12), top=12)
    files = {
        "fits.png": picture(1),
        "fits.mask.png": mask(),
        "half.png": picture(1, size=(24, 18)),
        "half.mask.png": mask(),
        "square.png": picture(2),
        "square.mask.png": mask((12, 12)),
        "turned.png": turned(picture(3), 6),
        "turned.mask.png": upright,
        "both.png": turned(picture(3), 6),
        "both.mask.png": mask(turn=6, top=9),
        "stored.png": turned(picture(3), 6),
        "stored.mask.png": mask(top=9),
        "outside.png": picture(4, size=(90, 9)),
        "outside.mask.png": mask((90, 9)),
    }
    samples, bad, _ = packed(fill(tmp_path / "in", files), tmp_path / "out", size=6)
    names = ("square", "stored", "outside")
    assert bad == {f"{name}.png": "bad_mask" for name in names}
    assert set(samples) == {"fits.png", "half.png", "turned.png", "both.png"}
    cut = {name: images.decode(sample["mask.png"], 1)[..., 0] for name, sample in samples.items()}
    assert {c.shape for c in cut.values()} == {(6, 6)}
    assert (cut["fits.png"] == cut["half.png"]).all()
    assert (cut["turned.png"][:, 0] == 0).all()
    assert (cut["turned.png"][:, 4] == 255).all()
    assert (cut["both.png"][0] == 0).all(), "what was left of it is on top"
    assert (cut["both.png"][4] == 255).all()


@pytest.mark.parametrize("size", [None, 8])
def test_broken_colour_profiles_are_counted(tmp_path, capsys, size):
    def profiled(n, profile):
        buffer = io.BytesIO()
        Image.new("RGB", (12, 9), (n, 0, 0)).save(buffer, "PNG", icc_profile=profile)
        return buffer.getvalue()

    files = {"a.png": profiled(1, b"nonsense"), "b.png": profiled(2, b"nonsense"), "c.png": picture(3)}
    _, bad, report = packed(fill(tmp_path / "in", files), tmp_path / "out", size=size)
    assert (bad, report["samples"], report["broken_profiles"]) == ({}, 3, 2)
    assert "2 broken colour profiles ignored" in capsys.readouterr().out
    packed_again = {"input": str(tmp_path / "out/shards"), "output": str(tmp_path / "again")}
    pack.run(config.Config(**packed_again))
    again = json.loads((tmp_path / "again/report.json").read_text())
    assert again["broken_profiles"] == (2 if size is None else 0), "what is encoded anew has none"


@pytest.mark.parametrize(
    ("files", "question"),
    [
        (
            ["train/a.png", "val/b.png"],
            "the classes are train, val: is this a data set in splits? Then give one of them",
        ),
        (["Test/n/a.png", "train/n/b.png"], "the classes are Test, train: is this a data set in splits?"),
        (
            [f"photos/{name}/a.png" for name in ("ant", "bee", "cat", "dog")],
            "all pictures are of one class, photos, and lie in folders below it (ant, bee, cat, ...): is this a folder "
            "around the class folders? Then give photos as the input",
        ),
        (
            ["train/ant/a.png"],
            "of one class, train, and lie in folders below it (ant): is this a folder around",
        ),
        (["roses/a.png", "roses/b.png"], "all pictures are of one class, roses: is this meant?"),
        (["ant/a.png", "bee/a.png"], None),
        (["train/a.png", "ant/a.png"], None),
        (["a.png", "b.png"], None),
    ],
)
def test_folders_that_may_not_be_classes_are_asked_about(files, question, tmp_path, capsys):
    root = fill(tmp_path / "in", {name: picture(i) for i, name in enumerate(files)})
    samples, _, _ = packed(root, tmp_path / "out")
    assert set(samples) == set(files)
    error = capsys.readouterr().err
    assert (error.count("warning: "), error.count("\n")) == ((1, 1) if question else (0, 0))
    assert (question or "") in error
    packed(root, tmp_path / "none", labels="none")
    assert capsys.readouterr().err == ""
