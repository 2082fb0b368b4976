import functools
import shutil

import numpy as np
import pytest
from PIL import Image

from noiseweave.engine.networks.recipes import ModelConfig


@pytest.fixture(scope="session")
def digits_model():
    """ModelConfig -> the shipped model's Backbone, loaded afresh."""
    from noiseweave.engine.networks.loading import load

    return lambda config=ModelConfig(name="digits-ddpm"): load(config)  # noqa: B008


@pytest.fixture(scope="session")
def digits():
    """(uint8 [N, 16, 16, 1], int64 [N]): scikit-learn's digits as the shipped model knows them."""
    from sklearn.datasets import load_digits

    data = load_digits()
    pictures = [Image.fromarray(np.rint(x * 255 / 16).astype(np.uint8)) for x in data.images[:200]]
    return np.stack([np.asarray(p.resize((16, 16), 3)) for p in pictures])[..., None], data.target[:200]


@pytest.fixture
def out_of_memory_over():
    """Wrap a network so that inputs larger than ``most`` run out of memory, from call number ``after`` on."""
    import torch

    class Small(torch.nn.Module):
        def __init__(self, unet, most, after=0):
            super().__init__()
            self.unet, self.most, self.left = unet, most, after
            self.mid_block = unet.mid_block
            self.sizes = []

        def forward(self, x, t, return_dict=True):
            out = self.unet(x, t, return_dict=return_dict)
            self.left -= 1
            if self.left < 0 and len(x) > self.most:
                raise torch.OutOfMemoryError("not enough memory")
            self.sizes.append(len(x))
            return out

    return Small


@pytest.fixture(scope="session")
def sd(sd_folder):
    """A small Stable Diffusion as a LatentBackbone. Not to be changed: latent_models.remade makes another."""
    from noiseweave.engine.networks.loading import load

    return load(ModelConfig(name=str(sd_folder)))


@pytest.fixture(scope="session")
def xl(xl_folder):
    """A small SDXL as a LatentBackbone."""
    from noiseweave.engine.networks.loading import load

    return load(ModelConfig(name=str(xl_folder)))


@pytest.fixture
def sd_copy(sd_folder, tmp_path):
    return shutil.copytree(sd_folder, tmp_path / "copy")


@pytest.fixture(scope="session")
def images():
    """uint8 [3, 32, 32, 3]: smooth, as a VAE likes them."""
    import torch

    coarse = torch.rand(3, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    smooth = torch.nn.functional.interpolate(coarse, size=(32, 32), mode="bilinear")
    return (smooth * 255).byte().permute(0, 2, 3, 1).numpy()


@pytest.fixture(scope="session")
def inpainters(tmp_path_factory):
    """kind -> the name of a small model that fills holes."""
    import small_pipeline
    from holes import save_ldm

    plain = small_pipeline.build(tmp_path_factory.mktemp("inpaint") / "plain")
    return {
        "inpaint": str(small_pipeline.for_inpainting(shutil.copytree(plain, plain.with_name("inpaint")))),
        "latent": str(plain),
        "pixel": "digits-ddpm",
        "ldm": str(save_ldm(tmp_path_factory.mktemp("ldm"))),
    }


@pytest.fixture(scope="session")
def models(inpainters):
    """(kind, **more of ModelConfig) -> a model, loaded once; no test may leave it changed."""
    from noiseweave.engine.inpainting import filling

    return functools.cache(lambda kind, **more: filling.load(ModelConfig(name=inpainters[kind], **more)))
