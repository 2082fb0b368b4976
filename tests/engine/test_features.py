"""Features: unit length, nothing from nothing, numpy's correlation, and classes that lie together."""

import numpy as np
import pytest
import torch

from noiseweave.engine import features
from noiseweave.engine.recipes import FeatureRecipe, ModelConfig


def random_pictures(n=6, side=16):
    return np.random.default_rng(0).integers(0, 256, (n, side, side, 3), dtype=np.uint8)


def never():
    raise AssertionError("no diffusion model is needed")


def test_pixels_give_numpys_correlation_and_nothing_for_a_flat_picture():
    image = random_pictures()
    image[2], image[4] = 77, 255
    f = features.load(FeatureRecipe(), never)(image)
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
    extract = features.load(FeatureRecipe(name="unet"), digits_model)
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
    expected = features.unet(backbone, 0.1)(image)
    backbone.unet, backbone.parts.size = out_of_memory_over(backbone.unet, 4), 8
    assert np.allclose(features.unet(backbone, 0.1)(image), expected, atol=1e-4)


def test_a_flat_picture_is_nothing_in_bf16_too(digits_model, digits):
    backbone = digits_model(ModelConfig(precision="bf16"))
    image = np.repeat(digits[0][:5], 3, axis=-1)
    image[3] = 0
    f = features.unet(backbone, 0.1)(image)
    assert np.linalg.norm(f, axis=1) == pytest.approx([1, 1, 1, 0, 1], abs=1e-3)


def test_sides():
    assert features.side(FeatureRecipe(size=24), "digits-ddpm") == 24
    assert features.side(FeatureRecipe(name="unet"), "digits-ddpm") == 16
    assert features.side(FeatureRecipe(name="resnet50"), "digits-ddpm") == 224


def test_resnet50_without_its_weights_says_how_to_get_them(monkeypatch, tmp_path):
    def refuse(*_args, **_kwargs):
        raise OSError("no network")

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", refuse)
    monkeypatch.setattr("torch.hub._hub_dir", str(tmp_path))
    with pytest.raises(ValueError, match=r"resnet50-\w+\.pth") as error:
        features.load(FeatureRecipe(name="resnet50"), never)
    assert "\n" not in str(error.value)


def test_resnet50_gives_its_pooled_2048_values(monkeypatch):
    from torchvision.models import resnet50

    torch.manual_seed(0)
    network = resnet50(weights=None)
    monkeypatch.setattr("torchvision.models.resnet50", lambda weights: network)
    f = features.load(FeatureRecipe(name="resnet50"), never)(random_pictures(2, 64))
    assert f.shape == (2, 2048)
    assert np.allclose(np.linalg.norm(f, axis=1), 1, atol=1e-5)


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
    extract = features.load(FeatureRecipe(name=str(tmp_path), batch=2), never)
    f = extract(random_pictures(5, 40))
    assert f.shape == (5, 16)
    assert np.allclose(np.linalg.norm(f, axis=1), 1, atol=1e-5)
    assert np.allclose(extract(random_pictures(5, 40)[3:4]), f[3:4], atol=1e-5)


def test_a_folder_without_a_vision_model_is_one_clear_line(tmp_path):
    with pytest.raises(ValueError, match="no vision model") as error:
        features.load(FeatureRecipe(name=str(tmp_path)), never)
    assert "\n" not in str(error.value)
