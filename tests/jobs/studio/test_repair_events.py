"""The tab Repair's endpoints, without a browser; skipped without the extra."""

import asyncio
import io
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import sampling
from inpaints import block, digit, lora, mask, noise, saved
from pages import REPAIR, SAMPLE, repaired, stroke
from PIL import Image

from noiseweave.engine.networks.recipes import ModelConfig
from noiseweave.jobs import cli
from noiseweave.jobs.studio.config import Config

pytest.importorskip("gradio", reason="no Gradio here: pip install 'noiseweave[studio]'")


def test_a_painted_hole_is_repaired_and_the_command_makes_the_same_files(client, digits):
    image = digit(3)
    picture = client.upload(saved(image, "PNG", dpi=(72, 72)), "mine.png")
    (digits / "mine").mkdir()
    layers = [client.upload(stroke(), "layer_0.png")]
    compare, line, variants, files, command, yaml, _ = repaired(client, picture, layers=layers)
    assert "Drawn in" in line
    assert [tile["caption"] for tile in variants] == ["7", "8"]
    assert [Path(one["path"]).name for one in files] == ["mine-7.png", "mine-8.png"]
    (said,) = repaired(client, picture, layers=layers, of="save_repair")
    job = re.search(r"out/repair-\w+\.yaml", said)[0]
    assert (digits / job).read_text() == yaml
    assert cli.main(["inpaint", "--config", job, "--cluster.address", "inline"]) == 0
    made = sorted((digits / job[:-5] / "restored").iterdir())
    assert [client.fetched(one).content for one in files] == [path.read_bytes() for path in made]
    where = block((16, 16), 4, 4, 4, 6)
    for path, tile in zip(made, variants, strict=True):
        after = np.asarray(Image.open(path))
        assert (after[~where] == np.asarray(image)[~where]).all()
        assert (after[where] != np.asarray(image)[where]).any()
        shown = np.asarray(Image.open(io.BytesIO(client.fetched(tile["image"]).content)).convert("L"))
        assert (shown == after).all()
    assert [client.fetched(one).content for one in compare][1] == client.fetched(variants[0]["image"]).content
    assert command.startswith("noiseweave inpaint ")


def test_a_masks_file_is_taken_and_what_repair_still_needs_is_a_line(client, digits):
    picture = client.upload(saved(digit(3), "PNG"))
    assert "Choose a picture" in repaired(client, None)[1]
    assert "Paint the hole" in repaired(client, picture)[1]
    another = client.upload(stroke((200, 300)))
    assert "Paint the hole" in repaired(client, picture, layers=[another])[1]
    hole = client.upload(saved(mask(block((16, 16), 4, 4, 4, 6), white=True), "PNG"))
    assert repaired(client, picture, hole, "white", *REPAIR[1:])[3] is not None
    wide = client.upload(saved(mask(block((32, 16), 4, 4, 4, 6)), "PNG"))
    assert "Error: mask_does_not_fit" in repaired(client, picture, wide)[1]
    assert "Error: not_an_image" in repaired(client, client.upload(b"<svg/>"), hole)[1]
    assert "Error: variants=9" in repaired(client, picture, hole, "white", 9, *REPAIR[2:])[1]
    assert "&lt;b&gt;" in repaired(client, picture, hole, "<b>", *REPAIR[1:])[1]
    assert repaired(client, picture, hole)[3] is not None


def test_pixels_beyond_the_limit_are_refused_before_they_are_painted(made, digits):
    client = made(max_pixels=200)
    with client.client:
        picture = client.upload(saved(digit(3), "PNG"))
        layers = [client.upload(stroke())]
        assert "too_large: 16x16, at most 200 pixels" in repaired(client, picture, layers=layers)[1]


def test_nothing_that_is_painted_stays_in_memory():
    from gradio.components.image_editor import AcceptBlobs

    from noiseweave.jobs.studio import controls

    editor = controls.brush("painted")
    for kind in ("layer", "background", "composite"):
        blob = {"type": kind, "index": 0, "file": b"", "id": kind}
        editor.accept_blobs(AcceptBlobs(data=blob, files=[("b", b"x" * 1000)]))
    assert editor.blob_storage == {}


def test_two_pages_repair_each_its_own(client, digits):
    layers = [client.upload(stroke())]
    one, other = (client.upload(saved(digit(i), "PNG")) for i in (3, 8))
    mine, theirs = (
        repaired(client, one, layers=layers, page="a"),
        repaired(client, other, layers=layers, page="b"),
    )
    again = repaired(client, one, layers=layers, page="a")
    assert mine[3] != theirs[3]
    assert [f["path"] for f in again[3]] == [f["path"] for f in mine[3]]


def test_what_a_model_cannot_do_is_a_line_of_that_tab_alone(made, digits, hole_folder):
    drawing = made(name=sampling.tiny(digits / "model", "vae"))
    with drawing.client:
        picture, layers = drawing.upload(saved(digit(3), "PNG")), [drawing.upload(stroke())]
        assert "inpainting takes" in repaired(drawing, picture, layers=layers)[1]
        assert "noise maps need" in drawing.fuse([picture, picture])[1]
        assert drawing.ask("sample", list(SAMPLE))[0][0] is not None
    filling = made(name=str(hole_folder))
    with filling.client:
        picture, layers = filling.upload(saved(noise("RGB", (32, 32)), "PNG")), [filling.upload(stroke())]
        assert "text-to-image takes" in filling.ask("sample", [[], "a cat", *SAMPLE[2:]])[0][2]
        assert repaired(filling, picture, layers=layers)[3] is not None


def test_each_lora_file_has_a_slider_by_its_name(digits, kl_folder):
    from noiseweave.jobs.studio.live import Live
    from noiseweave.jobs.studio.repair_events import RepairEvents
    from noiseweave.jobs.studio.turns import Turns

    for name in ("a.safetensors", "b.safetensors"):
        (digits / name).write_bytes(lora())
    model = ModelConfig(name=str(kl_folder), lora=("a.safetensors", "b.safetensors"), lora_weight=(0.5, 2))
    events = RepairEvents(Live(Config(model=model, output="out"), str(digits)), Turns())
    request = SimpleNamespace(headers={"accept-language": "en"})
    _, prompts, first, second, third = asyncio.run(events.opened(request))
    assert prompts["visible"]
    assert (first["label"], first["value"], first["visible"]) == ("Weight of a.safetensors", 0.5, True)
    assert (second["label"], second["value"], second["visible"]) == ("Weight of b.safetensors", 2, True)
    assert "visible" not in third


def test_another_variant_is_compared_with_the_picture(client, digits):
    picture, layers = client.upload(saved(digit(3), "PNG")), [client.upload(stroke())]
    compare, _, variants, *_, which = repaired(client, picture, layers=layers)
    assert which["choices"] == [["7", 0], ["8", 1]]
    (choice,) = (c["id"] for c in client.config["components"] if c["props"].get("elem_id") == "compared")
    (number,) = (d["id"] for d in client.config["dependencies"] if [choice, "input"] in d["targets"])

    def compared(at):
        body = {"data": [compare, variants, at], "fn_index": number, "session_hash": "a"}
        return client.client.post("/gradio_api/run/predict", json=body).json()["data"][0]

    before, after = compared(1)
    assert client.fetched(before).content == client.fetched(compare[0]).content
    assert client.fetched(after).content == client.fetched(variants[1]["image"]).content
    assert client.fetched(after).content != client.fetched(compare[1]).content
    for at in (2, -1, "x", None):
        assert compared(at) in (None, {"__type__": "update"})
