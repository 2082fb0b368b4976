"""The page's own endpoints, without a browser; skipped without the extra."""

import io
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import sampling
import torch
from fusing import picture, png
from pages import CHINESE, USUAL, file, stroke
from PIL import Image

from noiseweave.jobs import cli

pytest.importorskip("gradio", reason="no Gradio here: pip install 'noiseweave[studio]'")


def files(client, digits, names="ab"):
    return [client.upload((digits / f"{name}.png").read_bytes(), f"{name}.png") for name in names]


def test_two_pictures_become_one_and_the_command_makes_the_same(client, digits):
    two = files(client, digits)
    shown, line, command, yaml = client.fuse(two)
    assert "Inverted and drawn in" in line
    (digits / "shown.png").write_bytes(client.fetched(shown).content)
    (saved,) = client.fuse(two, of="save")
    file = re.search(r"out/fuse-\w+\.yaml", saved)[0]
    assert (digits / file).read_text() == yaml
    assert cli.main(["fuse", "--config", file]) == 0
    assert (picture("shown.png") == picture(file.replace(".yaml", "/fused.png"))).all()
    assert command.startswith("noiseweave fuse out/pictures/")
    again = client.fuse(two)
    assert "Drawn in" in again[1]
    assert client.fetched(again[0]).content == (digits / "shown.png").read_bytes()


def test_a_strip_and_what_it_needs(client, digits):
    strip, _ = client.fuse(files(client, digits), of="strip")
    assert client.fetched(strip).status_code == 200
    assert "two pictures or more" in client.fuse(files(client, digits, "a"), *edit("smooth"), of="strip")[1]


def edit(name):
    return (*USUAL[:7], name, *USUAL[8:])


def test_a_painted_region_shows_the_second_picture_and_the_command_makes_the_same(client, digits):
    two = files(client, digits)
    values = (*USUAL[:6], "file", *USUAL[7:-1])
    assert "Paint where" in client.fuse(two, *values, None)[1]
    painted = {"background": None, "layers": [file(client.upload(stroke()))], "composite": None, "id": None}
    shown, _, command, _ = client.fuse(two, *values, painted)
    assert "--fusion.region.source file" in command
    (saved,) = client.fuse(two, *values, painted, of="save")
    job = re.search(r"out/fuse-\w+\.yaml", saved)[0]
    assert cli.main(["fuse", "--config", job]) == 0
    (digits / "shown.png").write_bytes(client.fetched(shown).content)
    made = picture(job.replace(".yaml", "/fused.png"))
    assert (picture("shown.png") == made).all()
    whole = client.fetched(client.fuse(two)[0]).content
    assert client.fetched(shown).content != whole


def test_classes_are_told_to_the_model_and_the_command_says_them(made, digits):
    folder = sampling.tiny(digits / "model", "flow", 3)
    client = made(name=folder)
    with client.client:
        two = files(client, digits)
        guided = (*USUAL[:16], 0, 2)
        shown, _, command, _ = client.fuse(two, *guided, 1, None, None, None, None)
        assert "--labels 1" in command
        assert "--prompt.guidance_target 2" in command
        both = client.fuse(two, *guided, 1, 2, None, None, None)
        assert "--labels 1,2" in both[2]
        assert client.fetched(both[0]).content != client.fetched(shown).content
        assert "Error: labels" in client.fuse(two, *guided, None, 2, None, None, None)[1]
        assert "Error: labels" in client.fuse(two, *guided, 7, None, None, None, None)[1]
        (saved,) = client.fuse(two, *guided, 1, None, None, None, None, of="save")
        job = re.search(r"out/fuse-\w+\.yaml", saved)[0]
        assert cli.main(["fuse", "--config", job]) == 0
        (digits / "shown.png").write_bytes(client.fetched(shown).content)
        assert (picture("shown.png") == picture(job.replace(".yaml", "/fused.png"))).all()


def test_what_is_still_to_be_chosen_and_what_is_refused_is_a_line(client, digits):
    assert "Choose a picture" in client.fuse([])[1]
    assert "second picture" in client.fuse(files(client, digits, "a"))[1]
    assert client.fuse(files(client, digits, "a"), *edit("variation"))[0] is not None
    svg = client.upload(b"<svg/>", "<b>.svg")
    assert "Error: not_an_image" in client.fuse([svg, svg])[1]
    line = client.fuse(files(client, digits), "<b>", *USUAL[1:])[1]
    assert "&lt;b&gt;" in line
    assert "<b>" not in line


def test_uploads_have_a_limit(made, digits):
    client = made(upload_mib=0.01, max_pixels=500)
    with client.client:
        assert client.upload(b"x" * 11_000).status_code == 413
        large = client.upload((digits / "a.png").read_bytes())
        assert client.fuse([large, large])[0] is not None
    small = made(max_pixels=60)
    with small.client:
        large = small.upload((digits / "a.png").read_bytes())
        assert "too_large: 8x8, at most 60 pixels" in small.fuse([large, large])[1]


@pytest.mark.parametrize("path", ["/etc/hostname", "a.png", "http://127.0.0.1:1/x.png"])
def test_no_path_of_a_browser_is_opened(client, digits, path):
    secret = str(digits / path) if path == "a.png" else path
    assert client.client.get(f"/gradio_api/file={secret}").status_code == 403
    named = {"path": secret, "meta": {"_type": "gradio.FileData"}}
    (number,) = (d["id"] for d in client.config["dependencies"] if d["api_name"] == "fuse")
    for route in ("queue/join", "run/predict", "call/fuse", "api/fuse"):
        body = {"data": [named, None, None, None, *USUAL], "fn_index": number, "session_hash": "p"}
        assert client.client.post(f"/gradio_api/{route}", json=body).status_code == 403
    assert list((digits / "uploads").rglob("*.png")) == []
    assert list((digits / "uploads").rglob("hostname")) == []


def test_two_pages_have_pictures_of_their_own_and_nobody_lists_them(client, digits):
    ours, theirs = files(client, digits, "ab"), files(client, digits, "cb")
    one, other = client.fuse(ours, page="one"), client.fuse(theirs, page="other")
    assert client.fetched(one[0]).content != client.fetched(other[0]).content
    assert client.fetched(client.fuse(ours, page="one")[0]).content == client.fetched(one[0]).content
    for folder in (digits / "uploads", Path(one[0]["path"]).parent):
        assert client.client.get(f"/gradio_api/file={folder}").status_code == 403


def test_another_host_or_origin_is_refused(client):
    assert client.client.get("/", headers={"host": "evil.example"}).status_code == 403
    assert client.client.get("/", headers={"origin": "http://evil.example"}).status_code == 403


def test_the_page_is_of_this_machine_alone(client):
    answer = client.client.get("/")
    assert "default-src 'self'" in answer.headers["content-security-policy"]
    assert not re.search(r'<(?:script|link)[^>]+(?:src|href)="?https?:', answer.text)
    assert client.config["analytics_enabled"] is False
    assert "googleapis" not in client.client.get("/theme.css").text


def test_a_model_that_cannot_be_loaded_nan_and_no_memory_are_lines_and_the_page_lives_on(
    client, made, digits, monkeypatch
):
    bad = made(name=str(digits / "none"))
    with bad.client:
        for _ in range(2):
            assert "Error: " in bad.fuse(files(bad, digits))[1]
    _, network, _ = client.live.load()
    two = files(client, digits)

    def fails(error):
        def parts(x, t, *more):
            if error is None:
                return torch.full_like(x, torch.nan)
            raise error

        return parts

    for error, said in (
        (None, "not finite"),
        (torch.OutOfMemoryError("CUDA out of memory"), "Out of memory"),
        (MemoryError(), "Out of memory"),
        (RuntimeError("odd"), "RuntimeError: odd"),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(network, "parts", fails(error))
            assert said in client.fuse(two, *USUAL[:13], hash(said) % 1000, *USUAL[14:])[1]
    assert client.fuse(two)[0] is not None


def test_lines_are_in_the_browsers_language(made, digits):
    client = made(headers=CHINESE)
    with client.client:
        assert "请选择一张或两张图片" in client.fuse([])[1]
        texts = client.config["i18n_translations"]
        assert texts["zh-CN"]["ratio"].startswith("比例")


def test_pairs_of_the_input_are_offered_and_named_where_they_are(made, digits):
    client = made(input=str(digits))
    with client.client:
        (_, one, two, _), good = client.ask("next_pair", [0])
        assert good
        paths = [one["path"], two["path"]]
        assert all(Path(path).is_relative_to(digits / "uploads") for path in paths)
        command = client.fuse(paths)[2]
        assert all(str(digits / name) in command for name in {Path(path).name for path in paths})


def test_a_pair_that_is_gone_is_a_line_and_the_next_is_offered(made, digits):
    client = made(input=str(digits))
    with client.client:
        (_, one, two, _), _ = client.ask("next_pair", [None])
        gone = {Path(one["path"]).name, Path(two["path"]).name}
        for name in gone:
            (digits / name).unlink()
        said = client.fuse([one["path"], two["path"]])[2]
        assert not any(str(digits / name) in said for name in gone)
        assert "out/pictures/" in said
        client.fuse([one["path"], two["path"]], of="save")
        assert cli.main(shlex.split(said)[1:]) == 0
        kept = {path.name for path in digits.glob("*.png")}
        answers = [client.ask("next_pair", [None], page="later") for _ in range(4)]
        assert all(good for _, good in answers)
        lines = [data[3] for data, _ in answers if isinstance(data[3], str)]
        assert lines
        assert all("Error: unreadable" in line for line in lines)
        offered = [Path(part["path"]).name for data, _ in answers for part in data[1:3] if "path" in part]
        assert set(offered) <= kept


def test_an_input_without_pictures_is_a_line(made, digits):
    (digits / "none").mkdir()
    client = made(input=str(digits / "none"))
    with client.client:
        for _ in range(2):
            answer, good = client.ask("next_pair", [None])
            assert good
            assert "two pictures at least" in answer[3]


@pytest.mark.parametrize("name", ["fuse", "pairs", "repair", "sample"])
def test_a_slider_that_is_brought_into_its_range_is_drawn_anew(made, digits, name):
    page = made(input=str(digits)).config
    (drawn,) = (d for d in page["dependencies"] if d["api_name"] == name)
    sliders = {part["id"] for part in page["components"] if part["type"] == "slider"} & set(drawn["inputs"])
    mine = {number for number, event in drawn["targets"] if event == "change"} & sliders
    assert len(mine) >= 4
    let_go = {number for number, event in drawn["targets"] if event == "release"}
    assert name == "pairs" or mine | let_go == sliders


def test_a_word_that_no_control_has_is_a_line(client, digits):
    two = files(client, digits)
    assert "Error: mode=None: one of" in client.fuse(two, None, *USUAL[1:])[1]
    assert "Error: noise=&#x27;odd&#x27;: one of" in client.fuse(two, *USUAL[:11], "odd", *USUAL[12:])[1]


def test_the_colours_are_those_of_the_report(client):
    from noiseweave.jobs.studio import page

    light, dark = page.colours()
    assert set(light) == set(dark) >= {"ground", "ink", "accent", "bad"}
    css = client.client.get("/theme.css").text
    assert f"--body-background-fill: {light['ground']}" in css
    assert f"--body-background-fill: {dark['ground']}" in css


def test_odd_uploads_are_fused_or_refused_in_a_line(client, digits):
    (first,) = files(client, digits, "a")
    small, kept = Image.new("RGB", (1, 1), "red"), io.BytesIO()
    small.convert("P").save(kept, "GIF", save_all=True, append_images=[Image.new("P", (1, 1), 9)])
    deep, cmyk = png(np.full((9, 7), 40000, np.uint16)), io.BytesIO()
    small.convert("CMYK").resize((9, 7)).save(cmyk, "JPEG")
    clear = png(np.zeros((9, 7, 4), np.uint8))
    for data in (png(np.asarray(small)), kept.getvalue(), deep, cmyk.getvalue(), clear):
        assert "rawn in" in client.fuse([first, client.upload(data)])[1]
    for data in (b"words of a text", b"", deep[:40]):
        assert 'class="bad">Error: ' in client.fuse([first, client.upload(data)])[1]
