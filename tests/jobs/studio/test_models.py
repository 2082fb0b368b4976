"""One model for all tabs: its weights are loaded once, and what it cannot do is one line."""

import pytest
import sampling

from noiseweave.engine.networks import base_models, text_pipeline
from noiseweave.engine.networks.recipes import ModelConfig
from noiseweave.jobs.studio.models import Models


def counted(monkeypatch, module, name):
    loads, load = [], getattr(module, name)
    monkeypatch.setattr(module, name, lambda *a, **k: loads.append(a) or load(*a, **k))
    return loads


def asked(name):
    models = Models(ModelConfig(name=str(name)), None)
    for _ in range(2):
        models.fusing(), models.repairing(), models.drawing()
    return models


def test_a_pixel_models_weights_are_loaded_once(monkeypatch):
    loads = counted(monkeypatch, base_models, "load")
    models = asked("digits-ddpm")
    assert len(loads) == 1
    network = models.drawing().network
    assert models.fusing()[1].unet is network
    assert models.repairing().base.network is network


def test_a_pipelines_weights_are_loaded_once(kl_folder, monkeypatch):
    loads = counted(monkeypatch, text_pipeline, "opened")
    models = asked(kl_folder)
    assert len(loads) == 1
    assert models.repairing().text is models.drawing()


def test_a_model_for_holes_alone_repairs_and_does_nothing_else(hole_folder):
    models = Models(ModelConfig(name=str(hole_folder)), None)
    assert models.repairing().about.kind == "inpaint"
    for other in (models.fusing, models.drawing):
        with pytest.raises(ValueError, match=r"its network takes 9|it is a StableDiffusionInpaintPipeline"):
            other()


@pytest.mark.parametrize("kind", ["vae", "dcgan"])
def test_a_model_without_steps_draws_and_does_nothing_else(kind, tmp_path):
    models = Models(ModelConfig(name=sampling.tiny(tmp_path / "model", kind)), None)
    assert models.drawing().kind == kind
    for other in (models.fusing, models.repairing):
        with pytest.raises(ValueError, match=f"a {kind}"):
            other()


def test_a_model_that_comes_later_is_loaded_then(tmp_path):
    models = Models(ModelConfig(name=str(tmp_path / "model")), None)
    with pytest.raises(ValueError, match="model"):
        models.drawing()
    sampling.tiny(tmp_path / "model", "vae")
    assert models.drawing().kind == "vae"
