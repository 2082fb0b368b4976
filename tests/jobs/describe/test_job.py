"""describe: every part counted as the loaded network has it, and what does not fit is named."""

import json

import diffusers
import pytest
import small_transformers
from flows import error_line

from noiseweave.engine.networks import memory, text_pipeline
from noiseweave.engine.networks.facts import read_facts
from noiseweave.engine.networks.recipes import ModelConfig, TextRecipe
from noiseweave.jobs import cli


@pytest.fixture(scope="module")
def flux(tmp_path_factory):
    return str(small_transformers.flux(tmp_path_factory.mktemp("flux") / "dev"))


def described(capsys, *arguments):
    assert cli.main(["describe", *map(str, arguments), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_the_parameters_are_those_of_the_loaded_networks(flux, sd_folder, tmp_path, capsys):
    qwen = str(small_transformers.qwen_image(tmp_path / "qwen"))
    for folder in (flux, str(sd_folder), qwen):
        pipe = diffusers.DiffusionPipeline.from_pretrained(folder, use_safetensors=True)
        parts = {n: p for n, p in pipe.components.items() if hasattr(p, "parameters")}
        counted = {n: sum(w.numel() for w in p.parameters()) for n, p in parts.items()}
        found = described(capsys, folder)
        assert found["parameters_by_part"] == counted
        assert found["parameters"] == sum(counted.values())
        assert found["gib"]["bf16"] == pytest.approx(2 * sum(counted.values()) / 2**30, abs=1e-4)


def test_what_a_model_is(flux, capsys):
    found = described(capsys, flux, "--gpu_gib", "0.01", "--precision", "fp32")
    assert (found["family"], found["pipeline"], found["path"]) == ("flux", "FluxPipeline", "straight")
    assert (found["guidance"], found["usual_steps"], found["side"]) == ("embedded", 28, 1024)
    assert found["workers_per_gpu"] == {"fp32": int(0.01 * 2**30 / (1.25 * 4 * found["parameters"]))}
    found = described(capsys, "digits-ddpm")
    assert (found["family"], found["path"], found["prediction"]) == ("ddpm", "vp", "epsilon")
    assert found["parameters"] > 0
    assert cli.main(["describe", "digits-ddpm"]) == 0
    assert "parameters by part unet" in capsys.readouterr().out


def test_a_size_that_it_does_not_take_is_one_line(flux, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(["describe", flux, "--size", "40"])
    assert stop.value.code == 2
    assert "size=40: for model" in error_line(capsys.readouterr().err)


def test_a_model_that_does_not_fit_says_how_much_is_needed(flux, monkeypatch):
    monkeypatch.setattr(memory, "free_bytes", lambda device: 1000)
    with pytest.raises(
        ValueError, match=r"its weights take \d+\.\d GiB in fp32, and 0\.0 GiB of main memory are free"
    ):
        text_pipeline.load(ModelConfig(name=flux), TextRecipe(steps=1))
    monkeypatch.setattr(memory, "free_bytes", lambda device: None)
    assert text_pipeline.load(ModelConfig(name=flux), TextRecipe(steps=1)).micro_batch > 0
    assert memory.plan(read_facts(flux)).workers("fp32", 0) == 0
