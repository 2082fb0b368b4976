"""What the page computes: the batch's pictures bit for bit, from a cache that is bounded, with a model loaded once."""

import shlex
from dataclasses import replace

import numpy as np
import psutil
import pytest
import torch
from fusing import picture
from PIL import Image

from noiseweave.engine.networks import base_models
from noiseweave.engine.networks.recipes import ModelConfig
from noiseweave.jobs import cli
from noiseweave.jobs.studio import commands, fusing
from noiseweave.jobs.studio.config import Config
from noiseweave.jobs.studio.live import Live
from noiseweave.jobs.studio.pictures import Pictures

CONTROLS = {
    **{"mode": "linear", "ratio": 0.3, "region": "everywhere", "edit": "none", "strength": 0.5},
    **{"weight_1": 0.2, "weight_2": 0.3, "weight_3": 0.5, "weight_4": 0.0},
    **{"steps": 8, "skip": 1, "noise": "independent", "variation": 0, "seed": 0},
    **{"source": "", "target": "", "guidance_source": 0, "guidance_target": 0},
    **dict.fromkeys(fusing.LABELS),
}
CASES = {
    "two": ("ab", {}),
    "two, shared noise": ("ab", {"noise": "shared", "mode": "cross_fade", "seed": 5}),
    "two, fresh noise and a region": ("ab", {"variation": 0.4, "region": "saliency"}),
    "three": ("abc", {"mode": "layer_selective"}),
    "an edit": ("a", {"edit": "variation"}),
    "a style": ("ab", {"edit": "style", "strength": 1}),
}


@pytest.fixture
def live(digits):
    return Live(Config(model=ModelConfig(name="digits-ddpm")), str(digits))


def asked(live, names, sweep=False, **controls):
    """The config of the page's controls, and the pictures."""
    files = [f"{name}.png" for name in names]
    config = fusing.config_of(live.config, CONTROLS | controls, files, sweep)
    return config, [live.picture(file) for file in config.images]


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_the_batchs_picture_is_the_pages_bit_for_bit(live, case):
    names, controls = case
    config, pictures = asked(live, names, **controls)
    first, again = live.fuse(config, pictures), live.fuse(config, pictures)
    assert (first.inverted, again.inverted) == (True, False)
    assert cli.main(shlex.split(commands.command_of("fuse", config, "images"))[1:]) == 0
    made = picture(f"{config.output}/fused.png")[..., None]
    assert (made == first.image_FHWC[0]).all()
    assert (made == again.image_FHWC[0]).all()


def test_maps_of_another_group_do_not_change_a_picture(live):
    config, pictures = asked(live, "ab")
    alone = live.fuse(config, pictures).image_FHWC
    live.fuse(*asked(live, "abc"))
    live.fuse(*asked(live, "ba"))
    assert (live.fuse(config, pictures).image_FHWC == alone).all()


@pytest.mark.parametrize(("ratio", "parent"), [(0, 0), (1, 1)])
def test_the_ends_of_the_ratio_are_the_pictures(live, ratio, parent):
    config, pictures = asked(live, "ab", ratio=ratio)
    shown = live.fuse(config, pictures).image_FHWC[0].astype(int)
    assert np.abs(shown - pictures[parent].image_HWC).max() <= 1


def test_a_strip_is_fuses_sweep(live):
    config, pictures = asked(live, "ab", sweep=True)
    shown = live.fuse(config, pictures).image_FHWC
    assert shown.shape == (21, 16, 16, 1)
    assert cli.main(shlex.split(commands.command_of("fuse", config, "images"))[1:]) == 0
    sheet = np.asarray(Image.open(f"{config.output}/sweep.png").convert("L"))
    tile = np.kron(shown[1, ..., 0], np.ones((6, 6), np.uint8))
    assert (sheet[20 : 20 + 96, 6 : 6 + 96] == tile).all()


def test_the_model_is_loaded_once_and_the_maps_stay_within_their_bound(live, digits, monkeypatch):
    loads = []
    load = base_models.load
    monkeypatch.setattr(base_models, "load", lambda *a, **k: loads.append(a) or load(*a, **k))
    config, pictures = asked(live, "ab")
    live.fuse(config, pictures)
    one = live.maps.bytes_held / 2
    live.maps.limit = int(5 * one)
    for seed in range(12):
        live.fuse(replace(config, seed=seed), pictures)
        assert live.maps.bytes_held <= live.maps.limit
    assert len(live.maps) == 5
    assert len(loads) == 1


def test_a_cache_of_nothing_still_draws(live):
    live.maps.limit = 0
    config, pictures = asked(live, "ab")
    assert live.fuse(config, pictures).inverted
    assert live.fuse(config, pictures).inverted
    assert live.maps.bytes_held == 0


def test_a_model_that_gives_nan_is_a_line_and_then_it_goes_on(live, monkeypatch):
    config, pictures = asked(live, "ab")
    _, network, _ = live.load()
    with monkeypatch.context() as patch:
        patch.setattr(network, "parts", lambda x, t, *more: torch.full_like(x, torch.nan))
        with pytest.raises(ValueError, match="not finite"):
            live.fuse(config, pictures)
    live.maps = type(live.maps)(live.maps.limit)
    assert live.fuse(config, pictures).image_FHWC.shape == (1, 16, 16, 1)


def test_a_model_that_cannot_be_loaded_is_a_line_each_time_and_may_come_later(digits):
    live = Live(Config(model=ModelConfig(name=str(digits / "none"))), str(digits))
    for _ in range(2):
        with pytest.raises(ValueError, match="none"):
            live.picture("a.png")


@pytest.mark.slow
def test_a_thousand_uploads_take_no_more_memory_than_the_bounds(digits):
    live = Live(Config(model=ModelConfig(name="digits-ddpm"), cache_mib=1), str(digits))
    live.pictures = Pictures(live.pictures.limits, held=1 << 16)
    rng, process, before = np.random.default_rng(0), psutil.Process(), 0
    (digits / "up").mkdir()
    for i in range(500):
        files = [str(digits / "up" / f"{i}{name}.png") for name in "ab"]
        for file in files:
            Image.fromarray(rng.integers(0, 255, (16, 16), np.uint8)).save(file)
        config = fusing.config_of(live.config, CONTROLS | {"steps": 2, "skip": 0}, files)
        live.fuse(config, [live.picture(file) for file in files])
        assert live.maps.bytes_held <= 1 << 20
        if i == 100:
            before = process.memory_info().rss
    assert live.pictures.held.size <= 1 << 16
    assert len(live.pictures.held) == (1 << 16) / 256
    assert process.memory_info().rss - before < 24 << 20
