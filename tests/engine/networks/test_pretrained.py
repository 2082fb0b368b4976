"""Where models are found, and what is said when they are not."""

import json
import shutil

import pytest

from noiseweave.engine.features import networks
from noiseweave.engine.networks import pretrained


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    """No test asks a hub."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


def test_a_shipped_name_and_a_folder_are_found(tmp_path, monkeypatch):
    shipped = pretrained.find("digits-ddpm", ["*.json"])
    assert (shipped / "model_index.json").is_file()
    assert pretrained.find(str(tmp_path), ["*.json"]) == tmp_path
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "mine").mkdir()
    assert pretrained.find("~/mine", ["*.json"]) == tmp_path / "mine"


@pytest.mark.parametrize("name", ["nobody/nothing", "a b c"])
def test_what_is_not_there_is_one_line_that_says_how_to_get_it(name):
    with pytest.raises(ValueError, match="no such folder, not shipped") as e:
        pretrained.find(name, ["*.json"])
    assert "\n" not in str(e.value)
    assert f"hf download {name}" in str(e.value)


def test_a_name_that_is_like_a_shipped_one_is_told_so():
    with pytest.raises(ValueError, match=r"did you mean flowers-flow\?$"):
        pretrained.find("flower-flow", ["*.json"])


@pytest.mark.parametrize(
    ("text", "words"),
    [(None, "is missing in"), ("{", "is no JSON"), ("[1]", "no JSON object"), ("[" * 5000, "is no JSON")],
    ids=["missing", "cut", "list", "deep"],
)
def test_a_broken_file_is_named(tmp_path, text, words):
    if text is not None:
        (tmp_path / "config.json").write_text(text)
    with pytest.raises(ValueError, match=words) as e:
        pretrained.read("m", tmp_path, "config.json")
    assert "config.json" in str(e.value)
    (tmp_path / "config.json").write_text(json.dumps({"a": 1}))
    assert pretrained.read("m", tmp_path, "config.json") == {"a": 1}


def test_a_fingerprint_is_of_names_and_contents_in_order(tmp_path):
    for name, text in (("a", "one"), ("b", "two")):
        (tmp_path / name).write_text(text)
    a, b = tmp_path / "a", tmp_path / "b"
    mark = pretrained.hash_files([a, b])
    assert len(mark) == 16
    shutil.copytree(tmp_path, tmp_path / "elsewhere")
    assert pretrained.hash_files([tmp_path / "elsewhere" / n for n in "ab"]) == mark
    assert len({mark, pretrained.hash_files([b, a]), pretrained.hash_files([a])}) == 3
    b.write_text("twO")
    assert pretrained.hash_files([a, b]) != mark


@pytest.mark.parametrize(
    ("files", "said"),
    [
        (["unet/m.fp16.safetensors", "vae/m.safetensors"], "fp16"),
        (["m.fp16-00001-of-00002.safetensors", "m.fp16-00002-of-00002.safetensors"], "fp16"),
        (["unet/m.fp16.safetensors", "unet/m.safetensors"], None),
        (["unet/m.safetensors", "unet/m.non_ema.safetensors"], None),
        (["unet/m.bf16.safetensors", "unet/m.bin"], None),
        ([], None),
    ],
)
def test_fp16_is_read_where_there_is_nothing_else(files, said, tmp_path):
    for file in files:
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).write_bytes(b"")
    assert pretrained.variant(tmp_path) == said
    assert pretrained.variant(tmp_path / "none") is None


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("models/sd.safetensors", "a file; needed is a folder"),
        ("sd.safetensors", "a file; needed is a folder"),
        ("models/flowers", "no such folder"),
        ("./flowers", "no such folder"),
        ("~/flowers", "no such folder"),
        ("/no/flowers", "no such folder"),
        ("a/b/c", "no such folder"),
    ],
)
def test_a_path_is_never_asked_of_a_hub(name, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *_, **__: pytest.fail("asked"))
    (tmp_path / "models").mkdir()
    for file in ("models/sd.safetensors", "sd.safetensors"):
        (tmp_path / file).write_bytes(b"x")
    with pytest.raises(ValueError, match=words):
        pretrained.find(name, [])
    with pytest.raises(ValueError, match=words):
        networks.transformer(name, "cpu")


@pytest.mark.parametrize("name", ["org/model", "model"])
def test_an_id_is(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda name, **_: str(tmp_path / name))
    assert pretrained.find(name, []) == tmp_path / name
