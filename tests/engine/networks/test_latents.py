"""What a UNet for inpainting is shown, and latents of a VAE of videos, against diffusers' own pipeline."""

from types import SimpleNamespace

import numpy as np
import small_transformers
import torch
from diffusers import AutoencoderTiny, QwenImageImg2ImgPipeline, StableDiffusionInpaintPipeline
from PIL import Image

from noiseweave.engine.networks import latents


def test_what_lies_around_a_hole_is_what_diffusers_pipeline_shows(kl_folder):
    torch.manual_seed(0)
    blocks = {f"{side}_block_out_channels": (8, 8, 8, 8) for side in ("encoder", "decoder")}
    vae = AutoencoderTiny(**blocks, scaling_factor=0.7).eval()
    pipe = StableDiffusionInpaintPipeline.from_pretrained(kl_folder, use_safetensors=True, vae=vae)
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
    hole = np.zeros((2, 32, 32), bool)
    hole[0, 8:24, 16:] = hole[1, :, :8] = True
    x = pipe.image_processor.preprocess([Image.fromarray(i) for i in image])
    mask = pipe.mask_processor.preprocess([Image.fromarray(h.astype(np.uint8) * 255) for h in hole])
    with torch.no_grad():
        small, around = pipe.prepare_mask_latents(
            mask, x * (mask < 0.5), 2, 32, 32, torch.float32, torch.device("cpu"), None, False
        )
    hole_B1HW = torch.from_numpy(hole)[:, None]
    for asked in (hole_B1HW, hole_B1HW.float()):
        ours = latents.around(vae, latents.to_pixels(image), asked)
        torch.testing.assert_close(ours, around, atol=1e-5, rtol=1e-5)
        assert torch.equal(latents.hole_in_latents(asked, ours), small.bool())


def test_a_latent_with_one_pixel_of_hole_is_hole():
    hole = torch.zeros(1, 1, 16, 24)
    hole[0, 0, 15, 8] = 1
    assert latents.hole_in_latents(hole, torch.zeros(1, 4, 2, 3)).nonzero().tolist() == [[0, 0, 1, 1]]


def test_a_vae_of_videos_has_a_picture_as_its_one_frame():
    torch.manual_seed(0)
    vae = small_transformers.qwen_vae()
    image = np.random.default_rng(0).integers(0, 256, (2, 32, 48, 3), np.uint8)
    x = latents.to_pixels(image)
    pipe = SimpleNamespace(vae=vae, latent_channels=16)
    theirs = QwenImageImg2ImgPipeline._encode_vae_image(pipe, x.unsqueeze(2), torch.Generator())
    z = latents.encode(vae, x)
    assert z.shape == (2, 16, 4, 6)
    torch.testing.assert_close(z, theirs.detach().squeeze(2), atol=1e-4, rtol=1e-4)
    with torch.no_grad():
        again = vae(x.unsqueeze(2)).sample.squeeze(2)
    torch.testing.assert_close(latents.decode(vae, z), again, atol=1e-5, rtol=1e-5)
    assert latents.vae_scale_factor(vae.config) == 8
    assert latents.latent_channels(vae.config) == 16
    assert latents.picture_channels(vae.config) == 3
