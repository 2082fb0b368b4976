"""What the frozen encoders made: the same as they make it, once, and anew where something has changed."""

import dataclasses
import socket
from pathlib import Path

import numpy as np
import pytest
import torch
from loras import HERE, config_of, filled, make, picture, write

from noiseweave.cluster.arrays import array
from noiseweave.engine.lora import pipelines
from noiseweave.engine.pictures.images import encode
from noiseweave.jobs.lora import cache as lora_cache
from noiseweave.jobs.lora import input as lora_input
from noiseweave.jobs.lora import report
from noiseweave.jobs.lora.batches import Encoders, Reader, pixels


@pytest.fixture
def source(hole_folder, tmp_path):
    config = config_of(make(tmp_path / "data"), hole_folder, tmp_path / "out", "--cache", tmp_path / "cache")
    return config, filled(config)


def shards_in(folder):
    return {p: p.stat().st_mtime_ns for p in folder.rglob("*.tar")}


def test_a_batch_from_the_cache_is_as_the_encoders_make_it(source):
    config, cached = source
    bare = dataclasses.replace(cached, encoded={}, spoken={})
    whole = Encoders(pipelines.open_pipeline(config.model.name, "cpu"))
    nothing = Encoders(
        pipelines.open_pipeline(config.model.name, "cpu", "unet", "vae", "text_encoder")
    )  # the cache needs no encoder
    ours, theirs = (
        r.batch([r.sample(item, 3, place) for place, item in enumerate(cached.items)])
        for r in (Reader(config, cached, nothing), Reader(config, bare, whole))
    )
    for name in ("z_BCHW", "around_BCHW"):
        torch.testing.assert_close(getattr(ours, name), getattr(theirs, name), atol=2e-3, rtol=2e-3)
    assert not torch.equal(ours.z_BCHW, ours.around_BCHW)
    for name in ("hole_B1HW", "eps_BCHW", "time_B", "offset_BC11"):
        assert torch.equal(getattr(ours, name), getattr(theirs, name))
    assert ours.hole_B1HW.shape == (6, 1, 32, 32)
    assert 0.05 < float(ours.hole_B1HW.mean()) < 0.5
    told, untold = ours.words["prompt_embeds"], theirs.words["prompt_embeds"]
    assert told.shape == (6, 77, 32)
    torch.testing.assert_close(told, untold, atol=2e-3, rtol=2e-3)
    assert not torch.equal(told[0], told[1])


def test_a_mirrored_view_is_of_the_mirrored_picture_and_hole(source):
    config, cached = source
    item = cached.items[0]
    places, (image, hole) = cached.encoded[item.key], pixels(config, item, [0, 1])
    assert np.array_equal(image[1], image[0, :, ::-1])
    assert np.array_equal(hole[1], hole[0, :, ::-1])
    stored = np.unpackbits(array(places["hole"].read()), axis=-1, count=32).astype(bool)
    assert np.array_equal(stored, hole)
    encoders = Encoders(pipelines.open_pipeline(config.model.name, "cpu", "unet", "text_encoder"))
    mirrored = encoders.latents(image[1][None])[0]
    z = torch.from_numpy(array(places["z"].read())[1].astype(np.float32))
    torch.testing.assert_close(z, mirrored, atol=2e-3, rtol=2e-3)


def test_crops_are_cached_each_and_chosen_by_the_step(hole_folder, tmp_path):
    more = ("--data.crops", "3", "--data.zoom", "2", "--data.flip", "false")
    config = config_of(make(tmp_path / "data"), hole_folder, tmp_path / "out", *more)
    cached = filled(config)
    reader = Reader(config, cached, Encoders(pipelines.open_pipeline(config.model.name, "cpu", "unet")))
    views = array(cached.encoded["p0"]["z"].read())
    assert views.shape == (3, 4, 4, 4)
    seen = {
        next(v for v in range(3) if np.array_equal(views[v], reader.sample(cached.items[0], s, 0).z_CHW))
        for s in range(30)
    }
    assert seen == {0, 1, 2}


def test_a_second_run_encodes_nothing_and_a_changed_picture_alone_is_encoded_anew(source):
    config, _ = source
    before = shards_in(Path(config.cache))
    filled(config)
    assert shards_in(Path(config.cache)) == before
    write(Path(config.input) / "imgs" / "p0.png", picture(77))
    again = filled(config)
    new = shards_in(Path(config.cache)).keys() - before.keys()
    assert {p.path for p in again.encoded["p0"].values()} == {str(p) for p in new}
    assert again.encoded["p1"]["z"].path not in {str(p) for p in new}


def test_another_encoder_or_another_flip_reads_nothing_of_it(source):
    config, cached = source
    paths = {p.path for places in cached.encoded.values() for p in places.values()}
    other = lora_input.gather(config)
    other = dataclasses.replace(other, model=dataclasses.replace(other.model, encoder="another"))
    assert lora_cache._space(config, other) != lora_cache._space(config, cached)
    still = dataclasses.replace(config, data=dataclasses.replace(config.data, flip=False))
    unmirrored = filled(still)
    assert not paths & {p.path for places in unmirrored.encoded.values() for p in places.values()}


def broken_off(data, number):
    """A JPEG whose head is whole."""
    (data / "imgs" / f"p{number}.png").unlink()
    whole = encode(picture(number), "jpg")
    (data / "imgs" / f"p{number}.jpg").write_bytes(whole[: len(whole) // 2])


@pytest.mark.parametrize("cache", ["", "off"])
def test_a_picture_that_breaks_off_is_left_out_and_named(cache, hole_folder, tmp_path):
    data = make(tmp_path / "data")
    broken_off(data, 0)
    write(data / "masks" / "p1.png", np.zeros((40, 80), np.uint8))
    config = config_of(data, hole_folder, tmp_path / "out", *(["--cache", cache] if cache else []))
    for _ in range(2):  # the second time from the cache's own records
        source = filled(config)
        assert {b.key: b.reason for b in source.bad} == {"p0": "truncated_image", "p1": "mask_does_not_fit"}
        assert [i.key for i in source.items] == ["p2", "p3", "p4", "p5"]


def test_a_folder_that_a_worker_cannot_see_is_one_line_with_the_node(source):
    _, cached = source
    with pytest.raises(ValueError, match="not to be seen on node") as error:
        lora_cache.check_seen(["/no/such/folder"])
    assert socket.gethostname() in str(error.value)
    assert lora_cache.check_seen(cached.folders) is None


def test_nothing_that_can_be_read_is_one_line(hole_folder, tmp_path):
    data = make(tmp_path / "data", count=2)
    broken_off(data, 0)
    broken_off(data, 1)
    config = config_of(data, hole_folder, tmp_path / "out")
    with pytest.raises(ValueError, match="no picture that can be read is left; the first: p0: truncated"):
        filled(config)


def test_the_ends_of_captions_that_are_too_long_are_told(hole_folder, tmp_path, capsys):
    data = make(tmp_path / "data")
    for i, end in ((0, "wall"), (2, "roof"), (4, "roof")):
        (data / "imgs" / f"p{i}.txt").write_text("very " * 75 + f"old {end}")
    config = config_of(data, hole_folder, tmp_path / "out")
    ends = lora_cache.truncated_captions(config, lora_input.gather(config))
    assert ends == ("old roof", "old wall"), "each caption once; the start and the end take two of 77 places"
    report.warn_of_truncated(ends)
    said = capsys.readouterr().err.splitlines()
    assert said[0].endswith("captions truncated, longer than the text encoder reads: 2")
    assert said[1:] == ["  ...old roof", "  ...old wall"]
    report.warn_of_truncated(())
    assert capsys.readouterr().err == ""


def test_a_picture_that_changes_after_the_start_is_not_kept_under_its_old_content(source):
    config, _ = source
    write(Path(config.input) / "imgs" / "p2.png", picture(78))
    looked = lora_input.gather(config)
    before = shards_in(Path(config.cache))
    write(Path(config.input) / "imgs" / "p2.png", picture(79))
    with pytest.raises(ValueError, match=r"units failed.*input changed during the run: p2"):
        lora_cache.filled(config, looked, HERE)
    assert shards_in(Path(config.cache)) == before
    uncached = dataclasses.replace(config, cache="off")
    with pytest.raises(ValueError, match="input changed during the run: p2"):
        lora_cache.filled(uncached, looked, HERE)
