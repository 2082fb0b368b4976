"""What lora learns from: layouts, captions, what is held out, and what is refused in one line."""

import numpy as np
import pytest
from fusing import png
from loras import HERE, config_of, make, picture, write

from noiseweave.cluster import shards, storage
from noiseweave.jobs.lora import cache
from noiseweave.jobs.lora import input as lora_input
from noiseweave.jobs.lora.batches import pixels
from noiseweave.jobs.lora.config import PictureRecipe


@pytest.fixture
def gather(hole_folder, tmp_path):
    def gathered(data, *more, model=hole_folder):
        config = config_of(data, model, tmp_path / "out", *more)
        return config, lora_input.gather(config)

    return gathered


def holes(config, source):
    return {item.key: pixels(config, item, [0])[1] for item in source.items}


def test_black_and_inverted_masks_mean_the_same_holes(gather, tmp_path):
    black = gather(make(tmp_path / "a"))
    white = gather(make(tmp_path / "b", masks="masks_inverted"))
    told = gather(make(tmp_path / "c"), "--data.mask_mode", "white")
    ours, theirs, turned = holes(*black), holes(*white), holes(*told)
    assert ours.keys() == theirs.keys() == {f"p{i}" for i in range(6)}
    for key, hole in ours.items():
        assert 0.05 < hole.mean() < 0.5
        assert np.array_equal(hole, theirs[key])
        assert np.array_equal(turned[key][:, :2], ~hole[:, :2]), "edges of the box are of both"


def test_a_picture_without_a_mask_is_left_out_and_a_folder_without_any_has_random_holes(gather, tmp_path):
    data = make(tmp_path / "a")
    write(data / "imgs" / "bare.png", picture(9))
    _, source = gather(data)
    assert source.masked
    assert [(b.key, b.reason) for b in source.bad] == [("bare.png", "no_mask")]
    _, source = gather(make(tmp_path / "b", masks=None))
    assert not source.masked
    assert len(source.items) == 6
    _, source = gather(data, "--data.masks", "false")
    assert not source.masked
    assert len(source.items) == 7


def test_masks_may_lie_beside_their_pictures(gather, tmp_path):
    data = make(tmp_path / "a")
    for i in range(6):
        (data / f"masks/p{i}.png").rename(data / f"imgs/p{i}_mask.png")
    (data / "masks").rmdir()
    write(data / "imgs" / "bare.png", picture(9))
    config, source = gather(data, "--mask_suffix", "_mask")
    assert source.masked
    assert [(b.key, b.reason) for b in source.bad] == [("bare.png", "no_mask")]
    ours, theirs = holes(config, source), holes(*gather(make(tmp_path / "b")))
    assert ours.keys() == theirs.keys()
    assert all(np.array_equal(ours[key], theirs[key]) for key in ours)
    _, source = gather(data, "--mask_suffix", "_mask", "--data.masks", "false")
    assert {item.key for item in source.items} == {"bare", *(f"p{i}" for i in range(6))}


def test_a_mask_that_divides_nothing_is_left_out(gather, tmp_path):
    data = make(tmp_path / "a")
    hole = np.zeros((40, 40), np.uint8)
    hole[4:20, 4:20] = 100
    write(data / "masks" / "p0.png", hole)
    write(data / "masks" / "p1.png", hole // 100)
    config, source = gather(data, "--cache", "off", "--mask_mode", "white")
    source = cache.filled(config, source, HERE)
    assert [(b.key, b.reason) for b in source.bad] == [("p0", "bad_mask")]
    item = next(item for item in source.items if item.key == "p1")
    assert 0.1 < pixels(config, item, [0])[1].mean() < 0.3


def test_shards_are_as_folders(gather, tmp_path):
    data = make(tmp_path / "a", captions=False)
    samples = [
        (
            f"p{i}",
            {
                "png": (data / f"imgs/p{i}.png").read_bytes(),
                "mask.png": (data / f"masks/p{i}.png").read_bytes(),
                "cls": str(i).encode(),
                "txt": b"words",
            },
        )
        for i in range(6)
    ]
    storage.write(str(tmp_path / "s" / "000.tar"), shards.pack(samples))
    config, source = gather(tmp_path / "s", "--data.template", "{caption} of {label}")
    assert [item.words for item in source.items] == [f"words of {i}" for i in range(6)]
    ours, theirs = holes(config, source), holes(*gather(data))
    assert all(np.array_equal(ours[f"000/p{i}"], theirs[f"p{i}"]) for i in range(6))


def test_captions_come_from_files_a_template_or_nowhere(gather, tmp_path):
    data = make(tmp_path / "a")

    def words(*more):
        return [item.words for item in gather(data, *more)[1].items]

    assert words() == ["", "a thing 1", "", "a thing 0", "", "a thing 2"]
    assert words("--data.captions", "false") == [""] * 6
    assert words("--data.captions", "false", "--data.template", "a mural") == ["a mural"] * 6
    assert words("--data.template", "mural, {caption}")[:2] == ["mural,", "mural, a thing 1"]


def test_what_is_held_out_stays_held_out_when_pictures_are_added(gather, tmp_path):
    few = gather(make(tmp_path / "a", count=8), "--validation.share", "0.4")[1]
    many = gather(make(tmp_path / "b", count=16), "--validation.share", "0.4")[1]
    held = {item.key for item in few.held}
    assert 0 < len(held) < 8
    assert held == {item.key for item in many.held} & {f"p{i}" for i in range(8)}
    assert not {i.key for i in many.items} & {i.key for i in many.held}
    assert len(gather(tmp_path / "a", "--validation.share", "1e-9")[1].held) == 1


def test_pictures_that_cannot_be_read_are_left_out(gather, tmp_path):
    data = make(tmp_path / "a")
    (data / "imgs" / "p0.png").write_bytes(b"no picture")
    (data / "imgs" / "p1.txt").write_bytes(b"\xff\xfe\xff")
    write(data / "imgs" / "p2.png", np.zeros((4, 4, 3), np.uint8))
    _, source = gather(data)
    assert {b.key: b.reason for b in source.bad} == {"p0": "not_an_image", "p1": "bad_txt", "p2": "too_small"}
    assert [i.key for i in source.items] == ["p3", "p4", "p5"]


def test_pictures_keep_near_their_aspect(gather, tmp_path):
    for i, size in enumerate([(64, 64), (64, 96), (96, 64)]):
        write(tmp_path / "a" / f"{i}.png", picture(i, size))
    _, source = gather(tmp_path / "a", "--size", "96")
    assert [i.bucket for i in source.items] == [(96, 96), (80, 112), (112, 80)]
    _, source = gather(tmp_path / "a", "--size", "96", "--data.buckets", "false")
    assert {i.bucket for i in source.items} == {(96, 96)}


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--rank", "64"], "lora.rank=64: at most 32"),
        (["--lora.targets", '["to_z"]'], "lora.targets='to_z'"),
        (["--size", "40"], "data.size=40: a multiple of 16"),
        (["--data.masks", "true"], "no picture with a mask"),
    ],
)
def test_what_does_not_fit_the_model_is_one_line(more, words, gather, tmp_path):
    data = make(tmp_path / "a", masks=None)
    with pytest.raises(ValueError, match=words) as error:
        gather(data, *more)
    assert "\n" not in str(error.value)


def test_masks_and_a_model_that_sees_none_do_not_fit(gather, kl_folder, tmp_path):
    data = make(tmp_path / "a")
    with pytest.raises(ValueError, match=r"its network sees no mask.* or --data.masks false"):
        gather(data, model=kl_folder)
    assert not gather(data, "--data.masks", "false", model=kl_folder)[1].masked


def test_one_picture_none_and_no_pairs_are_one_line_each(gather, tmp_path):
    with pytest.raises(ValueError, match=r"one picture only \(p0\)"):
        gather(make(tmp_path / "one", count=1))
    (tmp_path / "a.png").write_bytes(png(picture(0)))
    with pytest.raises(ValueError, match="one picture only"):
        gather(tmp_path / "a.png")
    data = make(tmp_path / "apart")
    for path in (data / "masks").iterdir():
        path.rename(path.with_name("m" + path.name))
    with pytest.raises(ValueError, match=r"no picture with a mask of the same name in masks/"):
        gather(data)
    with pytest.raises(ValueError, match=r"no such folder or shard|no \.tar"):
        gather(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="a base model"):
        gather(data, model="digits-ddpm")


def test_prior_and_its_weight_go_together(gather, tmp_path, capsys):
    data = make(tmp_path / "a")
    with pytest.raises(SystemExit):
        gather(data, "--prior", data)
    assert "the two go together" in capsys.readouterr().err
    _, source = gather(data, "--prior", data / "imgs", "--objective.prior_weight", "1", "--prior_prompt", "x")
    assert {i.key for i in source.prior} == {f"prior/p{i}" for i in range(6)}
    assert [i.words for i in source.prior][:2] == ["x", "a thing 1"]
    assert not any(i.mask for i in source.prior)


@pytest.mark.parametrize("template", [None, "{caption.x}", "{0}", "{other}", "{"])
def test_a_template_of_other_words_is_refused_by_name(template):
    with pytest.raises(ValueError, match=r"^data\.template="):
        PictureRecipe(template=template)
