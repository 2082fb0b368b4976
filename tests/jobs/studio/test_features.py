"""The input as the page reads it for its pairs: augment's own rows, bit for bit, of a large input the first."""

import numpy as np
import pytest
from flows import DIGITS, inline
from fusing import png
from studios import read_table as read
from studios import table_of

from noiseweave.cluster import shards
from noiseweave.cluster.ledger import Ledger
from noiseweave.engine.features import spaces
from noiseweave.engine.networks.recipes import ModelConfig
from noiseweave.jobs.augment import index, packing
from noiseweave.jobs.studio import features
from noiseweave.jobs.studio.config import Config
from noiseweave.jobs.studio.features import Features


@pytest.mark.parametrize("kind", ["folder", "shards"])
def test_the_rows_are_those_of_augment(folder, tmp_path, kind, monkeypatch):
    monkeypatch.setattr(packing, "EACH", 40)
    place = folder
    if kind == "shards":
        assert inline_pack(folder, tmp_path / "packed") == 0
        place = tmp_path / "packed" / "shards"
    table = read(place)
    assert inline("augment", place, *DIGITS, "--pairing.max_pairs", "1", "--output", tmp_path / "a") == 0
    book = Ledger(output=str(tmp_path / "a"))
    rows = [unit for unit, _ in index.rows_of(book)]
    f_ND = np.concatenate([np.load(book.path("features", f"{unit}.npy")) for unit in rows])
    assert (table.f_ND == f_ND).all()
    assert (table.label_N == index.numbers(book, "label", np.int64)).all()
    assert (table.hash_N == index.numbers(book, "hash", np.uint64)).all()
    assert list(table.names) == index.whole(book)["key"].to_pylist()
    assert (len(table), table.bad, table.whole) == (90, int(kind == "folder"), True)
    assert table.classes[:2] == ("class 0", "class 1")


def inline_pack(folder, output):
    from noiseweave.jobs import cli

    return cli.main(["pack", "--input", str(folder), "--shard_samples", "40", "--output", str(output)])


def test_a_second_start_computes_no_features_again(folder, monkeypatch):
    first = read(folder)
    monkeypatch.setattr(spaces, "load_space", lambda *a: pytest.fail("computed again"))
    assert (read(folder).f_ND == first.f_ND).all()
    assert (folder.parent / "out/features").is_dir()


def test_of_a_large_input_the_first_pictures_are_looked_at(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(packing, "EACH", 16)
    monkeypatch.setattr(features, "MOST", 32)
    whole = read(folder)
    assert (len(whole), whole.whole) == (32, False)
    assert inline_pack(folder, tmp_path / "packed") == 0
    cut = read(tmp_path / "packed" / "shards")
    assert (len(cut), cut.whole) == (32, False)
    assert list(cut.names) == list(whole.names)


def test_a_model_that_is_not_there_hinders_nothing(folder):
    table = read(folder, name=str(folder / "none"))
    assert len(table) == 90
    assert table.space.name in (features.EFFICIENTNET, "pixels")


def test_features_of_the_models_own_network_are_computed_while_nothing_else_uses_it(folder, monkeypatch):
    calls = []
    monkeypatch.setattr(features, "space_of", lambda config: features.FeatureRecipe(name="unet"))
    monkeypatch.setattr(spaces, "load_space", lambda *a: spaces.Space(extract=spaces.pixels))
    config = Config(input=str(folder), output="out", model=ModelConfig(name="digits-ddpm"))
    table = table_of(Features(config, None, lambda work: (calls.append(1), work())[1]))
    assert (len(calls), table.f_ND.shape) == (1, (90, 768))


def test_what_is_no_input_is_one_line_and_is_tried_again(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.png").write_bytes(png(np.zeros((8, 8), np.uint8)))
    config = Config(input="in", output="out", model=ModelConfig(name="digits-ddpm"))
    found = Features(config, None, lambda work: work())
    with pytest.raises(ValueError, match="two pictures at least"):
        table_of(found)
    (tmp_path / "in" / "b.png").write_bytes(png(np.full((8, 8), 9, np.uint8)))
    assert len(table_of(found)) == 2


def test_a_shard_without_pictures_and_a_folder_of_a_run_are_one_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run" / "shards").mkdir(parents=True)
    (tmp_path / "run" / "shards" / "x.tar").write_bytes(shards.pack([("a", {"txt": b"no picture"})]))
    with pytest.raises(ValueError, match="the folder of a run"):
        read("run")
    with pytest.raises(ValueError, match="two pictures at least"):
        read("run/shards")
