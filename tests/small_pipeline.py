"""Small text-to-image pipelines of real architecture: CLIP's own vocabulary, the TAESD that ships, small rest."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from diffusers import (
    AutoencoderKL,
    AutoencoderTiny,
    AutoPipelineForInpainting,
    DDPMScheduler,
    DiffusionPipeline,
    PNDMScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from diffusers.pipelines.stable_diffusion import StableDiffusionSafetyChecker
from transformers import (
    CLIPConfig,
    CLIPImageProcessor,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
)

from noiseweave.models import SHIPPED

MERGES = Path(__file__).parent / "data/clip/bpe_simple_vocab_16e6.txt.gz"
WIDTH = 32  # of the text encoder's states

# Stable Diffusion 2.1's; PNDM's config has no clip_sample
SCHEDULE = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "steps_offset": 1,
    "prediction_type": "v_prediction",
}


def alphabet() -> list[str]:
    """The characters that byte-level BPE writes the 256 bytes with: printable ones first, as CLIP orders them."""
    printable = [
        *range(ord("!"), ord("~") + 1),
        *range(ord("¡"), ord("¬") + 1),
        *range(ord("®"), ord("ÿ") + 1),
    ]
    rest = [b for b in range(256) if b not in printable]
    return [chr(b) for b in printable] + [chr(256 + i) for i in range(len(rest))]


def tokenizer() -> CLIPTokenizer:
    """CLIP's tokenizer, 49408 entries."""
    lines = gzip.decompress(MERGES.read_bytes()).decode().split("\n")
    merges = [tuple(line.split()) for line in lines[1 : 49152 - 256 - 2 + 1]]
    words = alphabet()
    words += [w + "</w>" for w in words] + ["".join(m) for m in merges] + ["<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer({w: i for i, w in enumerate(words)}, merges, model_max_length=77)


def text_encoder(tokens: CLIPTokenizer, projected: bool = False) -> CLIPTextModel:
    config = CLIPTextConfig(
        vocab_size=len(tokens),
        hidden_size=WIDTH,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        projection_dim=WIDTH,
        bos_token_id=len(tokens) - 2,
        eos_token_id=len(tokens) - 1,
        pad_token_id=len(tokens) - 1,
    )
    return (CLIPTextModelWithProjection if projected else CLIPTextModel)(config).eval()


def unet(size: int, xl: bool) -> UNet2DConditionModel:
    extra = {
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 8,
        "projection_class_embeddings_input_dim": 6 * 8 + WIDTH,
        "use_linear_projection": True,
    }
    return UNet2DConditionModel(
        sample_size=size // 8,
        in_channels=4,
        out_channels=4,
        block_out_channels=(32, 32),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        norm_num_groups=8,
        attention_head_dim=4,
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=WIDTH * (1 + xl),
        **(extra if xl else {}),
    ).eval()


def autoencoder(name: Literal["taesd"] | None) -> AutoencoderTiny | AutoencoderKL:
    if name == "taesd":
        return AutoencoderTiny.from_pretrained(SHIPPED / "flowers-flow/vqvae", dtype=torch.float32)
    return AutoencoderKL(
        block_out_channels=(8, 8, 8, 8),
        down_block_types=("DownEncoderBlock2D",) * 4,
        norm_num_groups=4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        latent_channels=4,
        force_upcast=False,
    ).eval()


def build(
    folder: str | Path, *, size: int = 64, vae: Literal["taesd"] | None = "taesd", xl: bool = False
) -> Path:
    """Save a small pipeline with random weights, the same at each call, and return its folder.

    Args:
        size: side of the pictures that it is made for, in pixels.
        vae: taesd, or None for a small random AutoencoderKL.
        xl: Stable Diffusion XL's layout: two text encoders, pooled embeddings, picture sizes as a condition.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        tokens = tokenizer()
        parts = {
            "vae": autoencoder(vae),
            "text_encoder": text_encoder(tokens),
            "tokenizer": tokens,
            "unet": unet(size, xl),
            "scheduler": PNDMScheduler(**SCHEDULE, skip_prk_steps=True),
        }
        if xl:
            second = text_encoder(tokens, projected=True)
            pipe = StableDiffusionXLPipeline(**parts, text_encoder_2=second, tokenizer_2=tokens)
        else:
            pipe = StableDiffusionPipeline(
                **parts, safety_checker=None, feature_extractor=None, requires_safety_checker=False
            )
    pipe.save_pretrained(folder)
    return Path(folder)


def teach(folder: str | Path, colours: dict[str, tuple[int, int, int]], steps: int = 150) -> None:
    """Train the unet of a pipeline in ``folder`` on flat pictures, each named by a prompt, for a moment.

    The target is v (arXiv 2202.00512); one prompt in eight is dropped, for the guidance.
    """
    pipe = StableDiffusionPipeline.from_pretrained(folder, use_safetensors=True)
    side = pipe.unet.config.sample_size
    z, words = [], []
    with torch.no_grad():
        for text, colour in [*colours.items(), ("", (0, 0, 0))]:
            ids = pipe.tokenizer(text, padding="max_length", max_length=77, return_tensors="pt").input_ids
            words.append(pipe.text_encoder(ids)[0])
            flat = (
                (torch.tensor(colour).float() / 127.5 - 1).view(1, 3, 1, 1).expand(1, 3, side * 8, side * 8)
            )
            z.append(pipe.vae.encode(flat).latents * pipe.vae.config.scaling_factor)
    learn(pipe, torch.cat(z[:-1]), torch.cat(words), steps)
    pipe.unet.save_pretrained(Path(folder) / "unet")


def learn(pipe: StableDiffusionPipeline, z_NCHW: torch.Tensor, words_NLD: torch.Tensor, steps: int) -> None:
    """Train a pipeline's unet on N latents and the embeddings of their prompts.

    Args:
        words_NLD: one more than latents; the last is what is told where the prompt is dropped.
    """
    noise_schedule, N = DDPMScheduler.from_config(pipe.scheduler.config), len(z_NCHW)
    whose = {"epsilon": lambda x, noise, t: noise, "v_prediction": noise_schedule.get_velocity}
    target = whose[noise_schedule.config.prediction_type]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        optimizer = torch.optim.AdamW(pipe.unet.train().parameters(), 2e-3)
        for _ in range(steps):
            which = torch.randint(N, (16,))
            told = torch.where(torch.rand(16) < 1 / 8, N, which)
            noise, t = torch.randn(16, *z_NCHW.shape[1:]), torch.randint(1000, (16,))
            x = noise_schedule.add_noise(z_NCHW[which], noise, t)
            wanted = target(z_NCHW[which], noise, t)
            loss = (pipe.unet(x, t, words_NLD[told]).sample - wanted).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    pipe.unet.eval()


def for_inpainting(folder: Path) -> Path:
    """Give a pipeline a unet that sees the mask and the masked picture too, with random weights; its folder."""
    pipe = AutoPipelineForInpainting.from_pretrained(folder, use_safetensors=True)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        pipe.register_modules(unet=UNet2DConditionModel.from_config(pipe.unet.config, in_channels=9))
    pipe.save_pretrained(folder)
    return folder


def flag_everything(folder: Path) -> None:
    """Give a pipeline a safety checker that takes every picture for unsafe."""
    flag_above(folder, -2)


def unsafety(folder: Path, image_BHWC: np.ndarray) -> np.ndarray:
    """What a pipeline's safety checker holds against its threshold, of uint8 pictures: float [B]."""
    checker = StableDiffusionSafetyChecker.from_pretrained(folder / "safety_checker")
    prepare = CLIPImageProcessor.from_pretrained(folder / "feature_extractor")
    with torch.no_grad():
        seen = prepare(list(image_BHWC), return_tensors="pt").pixel_values
        x_BD = checker.visual_projection(checker.vision_model(seen)[1])
        return torch.nn.functional.cosine_similarity(x_BD, checker.concept_embeds[:1]).numpy()


def flag_above(folder: Path, threshold: float) -> None:
    """Give a pipeline a safety checker that flags pictures whose ``unsafety`` is above a threshold, and no others."""
    pipe = DiffusionPipeline.from_pretrained(folder, use_safetensors=True)
    small = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    vision = {**small, "image_size": 32, "patch_size": 16}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        checker = StableDiffusionSafetyChecker(
            CLIPConfig(text_config=small, vision_config=vision, projection_dim=8)
        )
        checker.concept_embeds.data.normal_()
    checker.concept_embeds_weights.data.fill_(2)  # thresholds, these of cosines: none is above
    checker.special_care_embeds_weights.data.fill_(2)
    checker.concept_embeds_weights.data[0] = threshold
    pipe.register_modules(safety_checker=checker, feature_extractor=CLIPImageProcessor(size=32, crop_size=32))
    pipe.save_pretrained(folder)


def change(path: Path, **values: object) -> None:
    """Other values in a JSON file."""
    path.write_text(json.dumps(json.loads(path.read_text()) | values))
