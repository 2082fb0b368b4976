"""Features: unit length, nothing from nothing, numpy's correlation, and classes that lie together."""

import time

import numpy as np
import pytest
import torch
from shared_data import EFFICIENTNET, FLOWERS

from noiseweave.engine.features import classifier, spaces
from noiseweave.engine.features.recipes import FeatureRecipe
from noiseweave.engine.networks.recipes import ModelConfig


def random_pictures(n=6, side=16):
    return np.random.default_rng(0).integers(0, 256, (n, side, side, 3), dtype=np.uint8)


def never():
    raise AssertionError("no diffusion model is needed")


def test_pixels_give_numpys_correlation_and_nothing_for_a_flat_picture():
    image = random_pictures()
    image[2], image[4] = 77, 255
    f = spaces.load(FeatureRecipe(), never)(image)
    full = [0, 1, 3, 5]
    assert f.dtype == np.float32
    assert np.allclose(np.linalg.norm(f[full], axis=1), 1, atol=1e-6)
    assert np.allclose(f[full] @ f[full].T, np.corrcoef(image[full].reshape(4, -1)), atol=1e-6)
    assert (f[[2, 4]] == 0).all()


def class_gap(f, label):
    cosine, same = f @ f.T, label[:, None] == label[None]
    other = ~np.eye(len(f), dtype=bool)
    return cosine[same & other].mean() - cosine[~same].mean()


def test_unet_features_of_digits_lie_together_by_class(digits_model, digits):
    image, label = np.repeat(digits[0][:100], 3, axis=-1), digits[1][:100]
    image[7] = 0
    extract = spaces.load(FeatureRecipe(name="unet"), digits_model)
    f = extract(image)
    assert f.dtype == np.float32
    assert (f[7] == 0).all()
    keep = np.arange(100) != 7
    assert np.allclose(np.linalg.norm(f[keep], axis=1), 1, atol=1e-5)
    assert class_gap(f[keep], label[keep]) > 0.05
    assert np.allclose(extract(image[10:13]), f[10:13], atol=1e-4)


def test_unet_features_survive_running_out_of_memory(digits_model, digits, out_of_memory_over):
    backbone = digits_model()
    image = np.repeat(digits[0][:10], 3, axis=-1)
    expected = spaces.load(FeatureRecipe(name="unet"), lambda: backbone)(image)
    backbone.unet, backbone.parts.size = out_of_memory_over(backbone.unet, 4), 8
    assert np.allclose(spaces.load(FeatureRecipe(name="unet"), lambda: backbone)(image), expected, atol=1e-4)


def test_a_flat_picture_is_nothing_in_bf16_too(digits_model, digits):
    backbone = digits_model(ModelConfig(name="digits-ddpm", precision="bf16"))
    image = np.repeat(digits[0][:5], 3, axis=-1)
    image[3] = 0
    f = spaces.load(FeatureRecipe(name="unet"), lambda: backbone)(image)
    assert np.linalg.norm(f, axis=1) == pytest.approx([1, 1, 1, 0, 1], abs=1e-3)


def test_sides():
    assert spaces.side(FeatureRecipe(size=24), "digits-ddpm") == 24
    assert spaces.side(FeatureRecipe(name="unet"), "digits-ddpm") == 16
    assert spaces.side(FeatureRecipe(name="resnet50"), "digits-ddpm") == 224


PUBLISHED = {
    "inception": "pt_inception-2015-12-05-6726825d.pth",
    "efficientnet-lite0": "efficientnet-lite0-57934424.pth",
    "resnet50": "resnet50-11ad3fa6.pth",
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_network_without_its_weights_says_which_file_it_wants_and_where(name, monkeypatch, tmp_path):
    def refuse(*_args, **_kwargs):
        raise OSError("no network")

    monkeypatch.setattr("torch.hub.download_url_to_file", refuse)
    monkeypatch.setattr("torch.hub._hub_dir", str(tmp_path))
    monkeypatch.setattr("noiseweave.engine.features.networks._packaged", lambda _: None)
    with pytest.raises(ValueError, match=PUBLISHED[name]) as error:
        spaces.load(FeatureRecipe(name=name), never)
    assert f"{tmp_path}/checkpoints" in str(error.value)
    assert "--features.weights" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", [*PUBLISHED, "facebook/dinov2-small", "{tmp}"])
def test_what_is_missing_is_said_before_any_work(name, monkeypatch, tmp_path):
    monkeypatch.setattr("noiseweave.engine.features.networks._packaged", lambda _: None)
    monkeypatch.setattr("torch.hub.download_url_to_file", lambda *_a, **_k: 1 / 0)
    monkeypatch.setattr("torch.hub._hub_dir", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    start, name = time.monotonic(), name.format(tmp=tmp_path)
    with pytest.raises(ValueError, match=f"features.name={name!r}: ") as error:
        spaces.check_here(FeatureRecipe(name=name))
    assert "\n" not in str(error.value)
    assert time.monotonic() - start < 30  # transformers asked its hub for minutes


@pytest.mark.parametrize("name", ["pixels", "unet", "digits-classifier"])
def test_what_ships_is_never_missing(name):
    spaces.check_here(FeatureRecipe(name=name))


def test_weights_that_do_not_fit_are_one_clear_line(tmp_path):
    torch.save({"fc.weight": torch.zeros(2)}, tmp_path / "odd.pth")
    with pytest.raises(ValueError, match="no weights of resnet50") as error:
        spaces.load(FeatureRecipe(name="resnet50", weights=str(tmp_path / "odd.pth")), never)
    assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match="no such file"):
        spaces.load(FeatureRecipe(name="resnet50", weights=str(tmp_path / "none.pth")), never)


def test_resnet50_gives_its_pooled_2048_values_and_the_networks_own_probabilities(tmp_path):
    from torchvision.models import resnet50

    torch.manual_seed(0)
    network = resnet50(weights=None).eval()
    torch.save(network.state_dict(), tmp_path / "resnet50.pth")
    recipe = FeatureRecipe(name="resnet50", weights=str(tmp_path / "resnet50.pth"))
    space, image = spaces.load_space(recipe, never), random_pictures(2, 64)
    f = space.extract(image)
    assert f.shape == (2, 2048)
    assert np.allclose(np.linalg.norm(spaces.similarity(recipe, f), axis=1), 1, atol=1e-5)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    x = (torch.from_numpy(image).float() / 255 - mean) / std
    with torch.inference_mode():
        expected = network(x.permute(0, 3, 1, 2)).softmax(1).numpy()
    assert np.allclose(space.classify(f), expected, atol=1e-6)


def test_only_the_published_weights_bear_the_name():
    published = {"name": "inception", "weights": "6726825d" + 56 * "0"}
    assert spaces.label(published) == "inception"
    assert spaces.label(published | {"weights": "ab12cd34" + 56 * "0"}) == "inception:ab12cd34"
    assert spaces.label({"name": "facebook/dinov2-small"}) == "dinov2-small"
    assert spaces.label({"name": "pixels"}) == "pixels"


def test_the_shipped_classifier_knows_digits_and_keeps_classes_apart(digits, tmp_path):
    image, label = np.repeat(digits[0][:100], 3, axis=-1), digits[1][:100]
    recipe = FeatureRecipe(name="digits-classifier", batch=32)
    space = spaces.load_space(recipe, never)
    f = space.extract(image)
    assert f.shape == (100, 64)
    assert spaces.side(recipe, "digits-ddpm") == 16
    assert (space.classify(f).argmax(1) == label).mean() > 0.95
    assert class_gap(spaces.similarity(recipe, f), label) > 0.2
    folder = classifier.find("digits-classifier")
    classifier.save(classifier.load(folder), tmp_path / "copy")
    mine = FeatureRecipe(name=str(tmp_path / "copy"))
    assert np.array_equal(spaces.load_space(mine, never).extract(image[:32]), f[:32])
    (tmp_path / "copy/classifier.json").write_text('{"channels": 2}')
    with pytest.raises(ValueError, match="damaged"):
        spaces.side(mine, "digits-ddpm")


@pytest.mark.shared
def test_efficientnet_tells_flowers_apart():
    from noiseweave.engine.pictures import images

    paths = [p for name in ("tulips", "daisy") for p in sorted((FLOWERS / name).iterdir())[:6]]
    image = np.stack([images.fit(images.decode(p.read_bytes()), 224) for p in paths])
    recipe = FeatureRecipe(name="efficientnet-lite0", weights=str(EFFICIENTNET))
    space = spaces.load_space(recipe, never)
    f = space.extract(image)
    assert f.shape == (12, 1280)
    assert spaces.label(spaces.identity(recipe, ModelConfig(name="digits-ddpm"))) == "efficientnet-lite0"
    assert class_gap(spaces.similarity(recipe, f), np.repeat([0, 1], 6)) > 0.1
    assert (space.classify(f)[6:].argmax(1) == 985).sum() >= 5  # ImageNet's daisy


SMALL = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "patch_size": 8}


def vision_model(kind):
    import transformers as t

    if kind == "vit":
        return t.ViTModel(t.ViTConfig(**SMALL, intermediate_size=16, image_size=32))
    if kind == "dinov2":
        return t.Dinov2Model(t.Dinov2Config(**SMALL, mlp_ratio=1, image_size=64))
    vision = {**SMALL, "intermediate_size": 16, "image_size": 32}
    text = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 9}
    text |= {"intermediate_size": 16, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}
    return t.CLIPModel(t.CLIPConfig(vision_config=vision, text_config=text))


@pytest.mark.parametrize("kind", ["vit", "dinov2", "clip"])
def test_a_transformers_vision_model_by_its_folder(tmp_path, kind):
    from transformers import CLIPImageProcessor, ViTImageProcessor

    torch.manual_seed(0)
    vision_model(kind).save_pretrained(tmp_path)
    if kind == "vit":
        processor = ViTImageProcessor(size={"height": 32, "width": 32})
    else:
        processor = CLIPImageProcessor(size={"shortest_edge": 36}, crop_size={"height": 32, "width": 32})
    processor.save_pretrained(tmp_path)
    spaces.check_here(FeatureRecipe(name=str(tmp_path)))
    extract = spaces.load(FeatureRecipe(name=str(tmp_path), batch=2), never)
    f = extract(random_pictures(5, 40))
    assert f.shape == (5, 16)
    assert np.allclose(np.linalg.norm(f, axis=1), 1, atol=1e-5)
    assert np.allclose(extract(random_pictures(5, 40)[3:4]), f[3:4], atol=1e-5)
    vision_model(kind).half().save_pretrained(tmp_path / "half", variant="fp16")
    processor.save_pretrained(tmp_path / "half")
    half = spaces.load(FeatureRecipe(name=str(tmp_path / "half")), never)
    assert half(random_pictures(5, 40)).shape == (5, 16)


def test_a_folder_without_a_vision_model_is_one_clear_line(tmp_path):
    with pytest.raises(ValueError, match="no vision model") as error:
        spaces.load(FeatureRecipe(name=str(tmp_path)), never)
    assert "\n" not in str(error.value)
