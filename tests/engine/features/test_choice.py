"""What auto stands for, by what is on the machine."""

from types import SimpleNamespace

import pytest

from noiseweave.engine.features import choice, networks
from noiseweave.engine.features.recipes import FeatureRecipe

AUTO = FeatureRecipe(name="auto")
PHOTOS = SimpleNamespace(channels=3, side=128)


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A machine with nothing on it; gives a function that puts something there."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(networks, "_packaged", lambda _file: None)
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda name, _file: here.get(name))
    here = {}

    def put(name):
        if name == "efficientnet-lite0":
            folder = tmp_path / "hub/checkpoints"
            folder.mkdir(parents=True)
            (folder / networks.PUBLISHED[name]).touch()
        else:
            here[name] = "/copy"

    return put


def test_the_order_of_semantic_features(machine):
    assert choice.settled(AUTO, PHOTOS).name == "unet"
    machine(choice.DINO)
    assert choice.settled(AUTO, PHOTOS).name == choice.DINO
    machine("efficientnet-lite0")
    assert choice.settled(AUTO, PHOTOS).name == "efficientnet-lite0"


@pytest.mark.parametrize(("channels", "side"), [(1, 512), (3, 32)])
def test_grey_and_small_pictures_are_compared_in_pixels(machine, channels, side):
    machine("efficientnet-lite0")
    assert choice.settled(AUTO, SimpleNamespace(channels=channels, side=side)).name == "pixels"


def test_what_is_named_stays_and_weights_that_are_named_must_be_there(machine, tmp_path):
    named = FeatureRecipe(name="pixels", size=24)
    assert choice.settled(named, PHOTOS) == named
    file = tmp_path / "mine.pth"
    file.touch()
    found = choice.settled(FeatureRecipe(name="auto", weights=str(file)), PHOTOS)
    assert (found.name, found.weights) == ("efficientnet-lite0", str(file))
    with pytest.raises(ValueError, match=r"features.weights=.*none.pth.*no such file"):
        choice.settled(FeatureRecipe(name="auto", weights=str(tmp_path / "none.pth")), PHOTOS)
