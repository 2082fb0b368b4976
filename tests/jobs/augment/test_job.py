"""The main job on real pictures: the same for any worker count and batch, whatever the input throws at it."""

import hashlib
import io
import json
import struct
import tarfile
import threading
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
from augments import BASE, digits, report, through, write_shard
from flows import inline, on_ray
from PIL import Image

from noiseweave.cluster import shards, storage
from noiseweave.engine.fusion.recipes import adaptive_ratio
from noiseweave.engine.pictures import images


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """90 digits in 3 shards, captions on some."""
    folder = tmp_path_factory.mktemp("digits")
    pictures, labels = digits()
    rows = [
        (f"d{i:02d}", {"png": images.encode(p), "cls": str(y).encode(), "txt": f"a {y}".encode()})
        for i, (p, y) in enumerate(zip(pictures, labels, strict=True))
    ]
    for k in range(3):
        write_shard(folder / f"s-{k}.tar", rows[30 * k : 30 * k + 30])
    return folder


def augment(source, output, *more, run=inline):
    return run("augment", *BASE, "--input", source, "--output", output, *more)


def augmented(source, output, *more):
    """The samples of the same command."""
    return through(output, *BASE, "--input", source, *more)[1]


def read_all(output, prefix="augmented", folder="shards"):
    out = {}
    for shard in shards.find(str(output / folder)):
        if not Path(shard).name.startswith(prefix):
            continue
        for e in shards.index(shard)[0]:
            assert e.key not in out, "a key twice"
            out[e.key] = {x: storage.read(shard, m.offset, m.size) for x, m in e.members.items()}
    return out


def pixels(sample):
    return images.decode(sample["png"], 1).astype(int)


@pytest.fixture(scope="module")
def calm(source, tmp_path_factory):
    output = tmp_path_factory.mktemp("calm") / "out"
    assert augment(source, output, "--samples.copy_original", "true") == 0
    return output


def test_samples_carry_label_caption_and_lineage(calm, source):
    made = read_all(calm)
    numbers = report(calm)
    assert len(made) == numbers["samples"] == numbers["pairs"] == 24
    inputs = {p.key: p for s in shards.find(str(source)) for p in shards.locate(s)[0]}
    for key, files in made.items():
        line = json.loads(files["json"])
        first, second = (inputs[p["key"]] for p in line["parents"])
        assert "." not in key
        assert int(files["cls"]) == first.label == second.label
        assert files["txt"].decode() == first.caption
        assert 0.3 <= line["ratio"] <= 0.7
        assert line["parents"][1]["weight"] == line["ratio"]
        assert 0.7 <= line["similarity"] <= 0.97
        assert line["model_hash"] == numbers["model_hash"]
        assert pixels(files).shape == (16, 16, 1)
    assert numbers["images_inverted"] <= numbers["pair_ends"] == 48
    assert numbers["pictures_used"] > 40  # of 90: few are used twice before all others were
    assert set(numbers["pairs_per_class"].values()) == {2, 3}
    assert sum(numbers["modes"].values()) == 24
    assert Image.open(calm / "contact_sheet.png").width > 300


def test_colour_photos_and_a_model_of_small_grey_ones_are_warned_of(source, tmp_path, capsys):
    photos = np.random.default_rng(0).integers(0, 255, (4, 50, 40, 3), np.uint8)
    write_shard(tmp_path / "in/s.tar", [(f"p{i}", {"png": images.encode(p)}) for i, p in enumerate(photos)])
    for where, folder in ((source, "fits"), (tmp_path / "in", "not")):
        assert augment(where, tmp_path / folder, "--pairing.max_pairs", "1") == 0
    seen = "the pictures are 40x50 in colour (the middle one of 4 looked at)"
    (line,) = (line for line in capsys.readouterr().err.splitlines() if "warning" in line)
    assert line == (
        f"warning: {seen}, model digits-ddpm draws 16x16 in grey: they are made smaller and they lose their colour"
    )


def test_fused_pictures_lie_between_their_parents(calm, source):
    """Nearer to each parent than a stranger is: the fusion shows both."""
    pictures, _ = digits()
    known = {f"d{i:02d}": p.astype(int) for i, p in enumerate(pictures)}
    inside = []
    for files in read_all(calm).values():
        line = json.loads(files["json"])
        fused = pixels(files)
        far = np.mean([np.abs(fused - p).mean() for p in known.values()])
        inside.append(max(np.abs(fused - known[p["key"]]).mean() for p in line["parents"]) < far)
    assert np.mean(inside) > 0.9


def test_originals_lie_apart_and_stay_byte_for_byte_where_they_have_the_size(calm, source):
    assert {p.name.split("-")[0] for p in (calm / "shards").iterdir()} == {"augmented"}
    copied = read_all(calm, "original", "originals")
    assert len(copied) == 90
    first = shards.index(str(source / "s-0.tar"))[0][0]
    where = first.members["png"]
    data = storage.read(str(source / "s-0.tar"), where.offset, where.size)
    assert copied[first.key]["png"] == data
    mark = {"shard": "s-0.tar", "key": first.key, "sha256": hashlib.sha256(data).hexdigest()}
    assert json.loads(copied[first.key]["json"]) == {"copied_from": mark}


def test_originals_have_the_made_ones_size(tmp_path):
    """A photo is fitted as its parents were, its mask by nearest neighbour; a sample with a broken mask is named."""
    draw = np.random.default_rng(0)
    photos = draw.integers(0, 255, (3, 40, 60, 3), np.uint8)
    mask = np.zeros((40, 60, 1), np.uint8)
    mask[:, 30:] = 255
    rows = [
        (f"p{i}", {"jpg": images.encode(p, "jpg"), "mask.png": images.encode(mask)})
        for i, p in enumerate(photos)
    ]
    rows[0][1]["json"] = b'{"from": "me"}'
    rows[2][1]["mask.png"] = b"none"
    write_shard(tmp_path / "in/s.tar", rows)
    assert augment(tmp_path / "in", tmp_path / "o", "--samples.copy_original") == 0
    copied = read_all(tmp_path / "o", "original", "originals")
    assert set(copied) == {"p0", "p1"}
    assert set(copied["p0"]) == {"png", "mask.png", "json"}
    wanted = images.fit(images.decode(rows[0][1]["jpg"], 1), 16)
    assert np.array_equal(images.decode(copied["p0"]["png"], 1), wanted)
    shown = images.decode(copied["p0"]["mask.png"], 1)[..., 0]
    assert set(np.unique(shown)) == {0, 255}
    assert (shown[:, :8] == 0).all()
    known = json.loads(copied["p0"]["json"])
    assert known["from"] == "me"
    assert known["copied_from"]["sha256"] == hashlib.sha256(rows[0][1]["jpg"]).hexdigest()
    (bad,) = map(json.loads, (tmp_path / "o/quarantine.jsonl").read_text().splitlines())
    assert (bad["phase"], bad["key"], bad["reason"]) == ("copy", "p2", "bad_mask")


def test_a_window_run_has_no_index_to_copy_originals_by(source, tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        augment(source, tmp_path / "o", "--samples.copy_original", "--pairing.scope", "window")
    assert stop.value.code == 2
    assert "samples.copy_original=True: for pairing.scope=dataset" in capsys.readouterr().err


@pytest.mark.slow
def test_more_workers_and_another_batch_give_the_same(calm, source, tmp_path, ray_session):
    four = ["--cluster.workers", "4", "--cluster.gpus_per_worker", "1"]
    assert augment(source, tmp_path / "o", *four, "--model.micro_batch", "1", run=on_ray) == 0
    one, other = read_all(calm), read_all(tmp_path / "o")
    assert one.keys() == other.keys()
    for key in one:
        assert one[key]["cls"] == other[key]["cls"]
        assert json.loads(one[key]["json"]) == json.loads(other[key]["json"])
        assert np.abs(pixels(one[key]) - pixels(other[key])).max() <= 1


def test_a_finished_run_is_not_done_again_and_another_config_is_refused(calm, source, capsys):
    before = {p: p.stat().st_mtime_ns for p in (calm / "shards").iterdir()}
    assert augment(source, calm, "--samples.copy_original", "true") == 0
    assert before == {p: p.stat().st_mtime_ns for p in (calm / "shards").iterdir()}
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        augment(source, calm, "--samples.copy_original", "true", "--inversion.skip", "2", "--seed", "5")
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert "inversion.skip 1 -> 2" in error
    assert "seed 0 -> 5" in error
    assert error.count("\n") == 1


def test_adaptive_ratios_and_the_other_sampler_are_in_the_lineage(calm, source, tmp_path, capsys):
    more = ["--fusion.adaptive", "true", "--inversion.sampler", "sde-dpm-solver++"]
    drawn, made = read_all(calm), augmented(source, tmp_path / "o", *more)
    assert drawn.keys() == made.keys()
    for key, files in made.items():
        line = json.loads(files["json"])
        assert line["sampler"] == "sde-dpm-solver++"
        assert line["ratio"] == pytest.approx(adaptive_ratio(line["similarity"], 0.7), abs=1e-5)
        assert json.loads(drawn[key]["json"])["sampler"] == "ddim"
    capsys.readouterr()
    with pytest.raises(SystemExit):
        augment(source, calm, "--samples.copy_original", "true", *more)
    assert "inversion.sampler" in capsys.readouterr().err


def test_window_scope_pairs_each_two_images_once(source, tmp_path):
    wide = [
        "--pairing.max_pairs",
        "1000",
        "--pairing.top_k",
        "90",
        "--pairing.upper",
        "1",
        "--pairing.threshold",
        "0.8",
        "--pairing.draw=top",
        "--pairing.max_uses=null",
        "--pairing.per_class=null",
        "--pairing.hash=null",
    ]
    window = ["--pairing.scope", "window", "--pairing.window", "2", "--pairing.overlap", "1"]
    made = augmented(source, tmp_path / "w", *wide, *window)
    every = augmented(source, tmp_path / "d", *wide)

    def apart(files):
        a, b = (int(p["shard"][2]) for p in json.loads(files["json"])["parents"])
        return abs(a - b)

    near = {k for k, files in every.items() if apart(files) <= 1}
    assert set(made) == near
    assert set(every) - near, "nothing was out of reach of a window: the test shows nothing"
    assert all(np.abs(pixels(made[k]) - pixels(every[k])).max() <= 1 for k in made)


def test_a_growing_folder_is_followed_to_its_marker(source, tmp_path):
    grows = tmp_path / "in"
    grows.mkdir()
    window = ["--pairing.scope", "window", "--pairing.window", "2", "--pairing.overlap", "1"]
    first_seen = []

    def feed():
        for k in range(3):
            (grows / f"s-{k}.tar").write_bytes((source / f"s-{k}.tar").read_bytes())
            if k == 1:  # the rest comes only when the first window has been written
                while not list((tmp_path / "f" / "shards").glob("augmented-000000-*.tar")):
                    time.sleep(0.05)
                first_seen.append(k)
        (grows / "_END").touch()

    feeder = threading.Thread(target=feed, daemon=True)
    feeder.start()
    assert augment(grows, tmp_path / "f", *window, "--follow") == 0
    feeder.join(10)
    assert first_seen == [1]
    assert augment(source, tmp_path / "w", *window) == 0
    assert read_all(tmp_path / "f") == read_all(tmp_path / "w")


def png(mode, size, draw=0):
    buffer = io.BytesIO()
    Image.new(mode, size, draw).save(buffer, "PNG")
    return buffer.getvalue()


def bomb():
    """A 20,000 x 20,000 picture in a few bytes: only its header speaks the truth about its size."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 20_000, 20_000, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b"0"))
        + chunk(b"IEND", b"")
    )


def jpeg(mode, exif=None):
    picture, _ = digits()
    buffer = io.BytesIO()
    Image.fromarray(picture[0][..., 0]).convert(mode).save(buffer, "JPEG", **({"exif": exif} if exif else {}))
    return buffer.getvalue()


def rotated():
    exif = Image.Exif()
    exif[0x0112] = 6
    return exif.tobytes()


GOOD = {  # extension, bytes: every one of these becomes a picture
    "one-pixel": ("png", png("L", (1, 1), 7)),
    "cmyk": ("jpg", jpeg("CMYK")),
    "palette": ("png", png("P", (16, 16))),
    "sixteen-bit": ("png", png("I;16", (16, 16), 40000)),
    "alpha": ("png", png("RGBA", (16, 16), (1, 2, 3, 9))),
    "rotated": ("jpg", jpeg("L", rotated())),
}
BAD = {  # extension, bytes, label, reason
    "zero": ("png", b"", "1", "empty_picture"),
    "text": ("jpg", b"no picture at all", "1", "not_an_image"),
    "cut": (
        "png",
        images.encode(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8))[:4000],
        "1",
        "truncated_image",
    ),
    "bomb": ("png", bomb(), "1", "too_large"),
    "label": ("png", png("L", (16, 16), 9), "cat", "bad_label"),
    "float": ("png", png("L", (16, 16), 9), "1.5", "bad_label"),
}


def tar_of(members):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def test_bad_input_is_quarantined_and_the_rest_is_done(source, tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    for k in range(3):
        (folder / f"s-{k}.tar").write_bytes((source / f"s-{k}.tar").read_bytes())
    write_shard(
        folder / "t-odd.tar",
        [
            *((k, {e: data, "cls": b"77"}) for k, (e, data) in GOOD.items()),
            *((k, {e: data, "cls": y.encode()}) for k, (e, data, y, _) in BAD.items()),
        ],
    )
    whole = (source / "s-0.tar").read_bytes()
    (folder / "u-cut.tar").write_bytes(whole[: len(whole) // 2 + 100])
    (folder / "v-gzip.tar").write_bytes(b"\x1f\x8b\x08\x00" + whole[:2000])
    (folder / "w-empty.tar").write_bytes(b"")
    tile = png("L", (16, 16), 3)
    names = ["a.png", "a.png", "../out.png", "/etc/abs.png", "a/../../b.png"]
    (folder / "x-keys.tar").write_bytes(tar_of([(n, tile) for n in names]))

    made = augmented(folder, tmp_path / "o")
    lines = [json.loads(s) for s in (tmp_path / "o" / "quarantine.jsonl").read_text().splitlines()]
    found = {(x["shard"], x["key"]): x["reason"] for x in lines}
    for key, (_, _, _, reason) in BAD.items():
        assert found["t-odd.tar", key] == reason
    assert not any(k in GOOD for _, k in found)
    reasons = {s: {x["reason"] for x in lines if x["shard"] == s} for s, _ in found}
    assert "truncated_tar" in reasons["u-cut.tar"]
    assert reasons["v-gzip.tar"] == reasons["w-empty.tar"] == {"unreadable_tar"}
    assert reasons["x-keys.tar"] == {"duplicate_key", "unsafe_key"}
    numbers = report(tmp_path / "o")
    assert sum(numbers["quarantined"].values()) == len(lines)
    assert numbers["images"] > 90 + len(GOOD)
    assert made


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--input", "/nowhere/*.tar"], "no .tar shards there"),
        (["--input", ""], "input=''"),
        (["--output", "/dev/null/out"], "cannot be written"),
        (["--model.name", "not-here"], "model 'not-here'"),
        (["--inversion.num_steps", "6", "--inversion.skip", "6"], "inversion.skip=6"),
        (["--pairing.threshold", "1.5"], "pairing.threshold=1.5"),
        (["--pairing.nonsense", "1"], "pairing.nonsense"),
        (["--fusion.modes", "[blur]"], "fusion.modes"),
        (["--cluster.workers", "2"], "cluster.address=inline is one process"),
        (["--follow"], "pairing.scope=window"),
    ],
)
def test_wrong_usage_is_one_clear_line(change, message, source, tmp_path, capsys):
    assert message in refused(capsys, source, tmp_path / "o", *change)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--cluster.workers", "99", "--cluster.gpus_per_worker", "1"], "at most 4 fit"),
        (["--cluster.gpus_per_worker", "9"], "no node has so many GPUs"),
    ],
)
def test_more_than_the_cluster_has_is_one_clear_line(change, message, source, tmp_path, capsys, ray_session):
    assert message in refused(capsys, source, tmp_path / "o", *change, run=on_ray)


def refused(capsys, source, output, *change, run=inline):
    """The one line on standard error."""
    with pytest.raises(SystemExit) as stop:
        augment(source, output, *change, run=run)
    error = capsys.readouterr().err
    assert stop.value.code == 2
    assert error.count("\n") == 1
    return error


@pytest.mark.parametrize("name", ["inception", "efficientnet-lite0", "facebook/dinov2-small"])
def test_missing_weights_of_features_end_it_at_once(name, source, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("torch.hub.download_url_to_file", lambda *_a, **_k: 1 / 0)
    monkeypatch.setattr("torch.hub._hub_dir", str(tmp_path))
    monkeypatch.setattr("noiseweave.engine.features.networks._packaged", lambda _: None)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(SystemExit) as stop:
        augment(source, tmp_path / "out", "--model.name", "digits-ddpm", "--features.name", name)
    assert stop.value.code == 2
    assert f"features.name={name!r}" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_model_folder_that_misses_a_file_is_named(source, tmp_path, capsys):
    from noiseweave import models

    broken = tmp_path / "model"
    for path in Path(models.resolve("digits-ddpm")).rglob("*.json"):
        target = broken / path.relative_to(models.resolve("digits-ddpm"))
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes())
    error = refused(capsys, source, tmp_path / "o", "--model.name", broken)
    assert "unet/*.safetensors is missing" in error
