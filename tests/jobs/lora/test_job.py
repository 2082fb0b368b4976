"""The lora job from the command to its files."""

import json
import shutil

import pytest
import safetensors.torch
import torch
from loras import SMALL, config_of, make

from noiseweave.cluster import ledger, storage
from noiseweave.jobs.cli import main
from noiseweave.jobs.lora import job as lora
from noiseweave.jobs.lora.config import OWNED

MORE = ["--validation.share", "0.2", "--validation.every", "3"]


def words(data, model, output, *more):
    return ["lora", *map(str, ["--data_root", data, "--model", model, "--out", output, *SMALL, *MORE, *more])]


@pytest.fixture(scope="module")
def whole(hole_folder, tmp_path_factory):
    """A run of six steps on pictures one of which is broken: (folder, its command)."""
    folder = tmp_path_factory.mktemp("lora")
    data = make(folder / "data")
    (data / "imgs" / "p5.png").write_bytes(b"no picture")
    (data / "imgs" / "p1.txt").write_text("very " * 80 + "old wall")
    command = words(data, hole_folder, folder / "out")
    assert main(command) == 0
    return folder / "out", command


def test_it_leaves_weights_a_log_a_report_and_the_quarantine(whole):
    output, _ = whole
    names = {p.name for p in output.iterdir()}
    assert names == {
        "lora_unet.safetensors",
        "lora_unet_kohya.safetensors",
        "report.json",
        "quarantine.jsonl",
        "_run",
    }
    report = json.loads((output / "report.json").read_text())
    assert report["pictures"] + report["held_out"] == 5
    assert list(report["validation_loss"]) == ["0", "3", "6"]
    assert (report["prompts_truncated"], report["truncated"]) == (1, ["very very very very very old wall"])
    rows = [json.loads(line) for line in (output / "_run" / "log.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == list(range(7))
    bad = [json.loads(line) for line in (output / "quarantine.jsonl").read_text().splitlines()]
    assert [(b["key"], b["reason"]) for b in bad] == [("p5", "not_an_image")]


def test_diffusers_loads_what_was_trained_and_so_does_inpaint(whole, hole_folder):
    from diffusers import AutoPipelineForInpainting

    from noiseweave.engine.lora import weights

    data = (whole[0] / "lora_unet.safetensors").read_bytes()
    theirs, ours = (
        AutoPipelineForInpainting.from_pretrained(hole_folder, use_safetensors=True) for _ in range(2)
    )
    theirs.load_lora_weights(safetensors.torch.load(data))
    weights.add(ours, [weights.Lora(name="x", data=data)])
    g = torch.Generator().manual_seed(0)
    x, told = torch.randn(2, 9, 4, 4, generator=g), torch.randn(2, 77, 32, generator=g)
    with torch.no_grad():
        a, b = (p.unet(x, 10, told).sample for p in (theirs, ours))
    torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)


def test_the_same_command_is_done_already_and_another_is_refused(whole, capsys):
    _, command = whole
    assert main(command) == 0
    assert "finished already (6 steps)" in capsys.readouterr().out
    with pytest.raises(SystemExit) as stop:
        main([*command, "--rank", "3", "--batch", "3"])
    assert stop.value.code == 2
    line = capsys.readouterr().err
    assert "global_batch 2 -> 3, lora.rank 2 -> 3;" in line
    assert "\n" not in line.strip()


def test_another_run_reads_the_same_cache(whole, tmp_path):
    output, command = whole
    cache = shutil.copytree(output / "_run" / "cache", tmp_path / "cache")
    before = sorted(p.name for p in cache.rglob("*.tar"))
    for path in cache.rglob("done"):
        shutil.rmtree(path)
    assert main([*command, "--out", str(tmp_path / "out"), "--cache", str(cache), "--lr", "1e-3"]) == 0
    assert sorted(p.name for p in cache.rglob("*.tar")) == before
    assert not list(cache.rglob("done")), "no unit was run"
    ours, theirs = (
        safetensors.torch.load_file(f / "lora_unet.safetensors") for f in (tmp_path / "out", output)
    )
    assert any(not torch.equal(ours[n], theirs[n]) for n in theirs)


def test_overwrite_throws_the_run_away_and_keeps_the_cache(tmp_path):
    config = config_of(tmp_path, tmp_path, tmp_path / "out", "--overwrite")
    for name in (
        "_run/cache/a.tar",
        "_run/checkpoints/a/b",
        "_run/log.jsonl",
        "lora_unet.safetensors",
        "mine.txt",
    ):
        storage.write(str(tmp_path / "out" / name), b"x")
    ledger.claim_run(config.output, {"job": "lora"}, config.overwrite, OWNED, lora.STATE)
    left = {p.relative_to(tmp_path / "out").as_posix() for p in (tmp_path / "out").rglob("*") if p.is_file()}
    assert left == {"_run/cache/a.tar", "_run/config.json", "mine.txt"}
