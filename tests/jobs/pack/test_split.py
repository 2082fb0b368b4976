"""The validation split: every sample on one side, always the same, whatever else is packed and from where."""

import json

import pytest
from packing import by_key, contents, fill, picture, run

from noiseweave.engine.seeding import seed_of


def sides(output) -> tuple[set[str], set[str]]:
    train, held = set(by_key(output / "shards")), set(by_key(output / "validation"))
    assert not train & held
    return train, held


@pytest.fixture
def flowers(tmp_path):
    files = {f"{c}/{n:03d}.png": picture(n, size=(4, 4)) for c in ("daisy", "rose") for n in range(200)}
    return fill(tmp_path / "flowers", files)


def test_the_union_is_everything_and_the_share_about_right(flowers, tmp_path, capsys):
    assert run(flowers, tmp_path / "all") == 0
    assert run(flowers, tmp_path / "out", validation=0.2, shard_samples=30) == 0
    train, held = sides(tmp_path / "out")
    assert train | held == set(by_key(tmp_path / "all/shards"))
    assert 48 <= len(held) <= 112  # 80 +- 4 standard deviations
    assert held == {key for key in train | held if seed_of(0, "split", key) / 2**63 < 0.2}
    report = json.loads((tmp_path / "out/report.json").read_text())
    assert (report["train"]["samples"], report["validation"]["samples"]) == (len(train), len(held))
    assert report["samples"] == 400
    for name in ("daisy", "rose"):
        parts = [report[side]["classes"][name] for side in ("train", "validation")]
        assert sum(parts) == report["classes"][name] == 200
    assert f"{len(train)} in shards/, {len(held)} in validation/" in capsys.readouterr().out
    assert run(flowers, tmp_path / "other", validation=0.2, seed=1) == 0
    assert sides(tmp_path / "other")[1] != held


def test_more_pictures_and_packing_again_move_none(flowers, tmp_path):
    run(flowers, tmp_path / "out", validation=0.3)
    train, held = sides(tmp_path / "out")
    more = {f"aster/{n:03d}.png": picture(n) for n in range(50)} | {
        f"rose/{n:03d}.png": picture(n) for n in range(200, 230)
    }
    run(fill(flowers, more), tmp_path / "more", validation=0.3)
    later = sides(tmp_path / "more")
    assert train < later[0]
    assert held < later[1]
    run(flowers, tmp_path / "all")
    run(tmp_path / "all/shards", tmp_path / "again", validation=0.3)  # the same from shards as from folders
    assert sides(tmp_path / "again") == later
    run(tmp_path / "more/shards", tmp_path / "train", validation=0.3)  # and a side stays that side
    assert sides(tmp_path / "train") == (later[0], set())


def test_equal_pictures_stay_together_by_content(tmp_path):
    files = {f"{n}-{copy}.png": picture(n) for n in range(60) for copy in "ab"}
    root = fill(tmp_path / "in", files)

    def torn(output) -> int:
        numbers = [{key.partition("-")[0] for key in side} for side in sides(output)]
        return len(numbers[0] & numbers[1])

    run(root, tmp_path / "key", validation=0.5)
    assert torn(tmp_path / "key") > 10
    run(root, tmp_path / "content", validation=0.5, split_by="content")
    assert torn(tmp_path / "content") == 0
    assert all(len(side) > 20 for side in sides(tmp_path / "content"))
    run(root, tmp_path / "small", validation=0.5, split_by="content", size=8)  # the input's bytes count
    assert sides(tmp_path / "small") == sides(tmp_path / "content")
    run(root, tmp_path / "all")
    run(tmp_path / "all/shards", tmp_path / "again", validation=0.5, split_by="content")
    assert sides(tmp_path / "again") == sides(tmp_path / "content")


def test_both_folders_are_refused_resumed_and_cleared_together(flowers, tmp_path):
    out = tmp_path / "out"
    run(flowers, out, validation=0.3, shard_samples=20)
    before = contents(out)
    (out / "validation/shard-000001.tar").unlink()
    (out / "validation/shard-000099.tar").write_bytes(b"of a longer packing")
    (out / "report.json").unlink()
    run(flowers, out, validation=0.3, shard_samples=20)
    assert contents(out) == before
    with pytest.raises(ValueError, match=r"validation was 0\.3, now 0\.0"):
        run(flowers, out, shard_samples=20)
    run(flowers, out, shard_samples=20, overwrite=True)
    run(flowers, tmp_path / "fresh", shard_samples=20)
    assert contents(out) == contents(tmp_path / "fresh")


def test_a_validation_folder_of_somebody_else_is_not_touched(flowers, tmp_path):
    fill(tmp_path / "out", {"validation/shard-000000.tar": b"precious"})
    run(flowers, tmp_path / "out")
    for overwrite in (False, True):
        with pytest.raises(ValueError, match="its validation/ holds"):
            run(flowers, tmp_path / "out", validation=0.5, overwrite=overwrite)
    run(flowers, tmp_path / "out", overwrite=True)
    assert (tmp_path / "out/validation/shard-000000.tar").read_bytes() == b"precious"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"validation": 1.0}, "validation=1.0"),
        ({"validation": -0.1}, "validation=-0.1"),
        ({"validation": float("nan")}, "validation=nan"),
        ({"renumber": True}, "needs keep_labels"),
        ({"keep_labels": ()}, "keep_labels"),
        ({"keep_labels": (1, 1)}, "each once"),
        ({"keep_labels": (-1,)}, "from 0 on"),
        ({"keep_labels": (1,), "labels": "none"}, "needs labels"),
        ({"split": "train", "format": "folder"}, "split='train'"),
        ({"split": " "}, "a name"),
    ],
)
def test_impossible_options(options, words, tmp_path):
    with pytest.raises(ValueError, match=words):
        run(tmp_path, tmp_path / "out", **options)
