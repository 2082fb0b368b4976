"""Small pipelines of the families whose network is a transformer, with random weights; see small_pipeline.py."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import (
    AutoencoderKL,
    AutoencoderKLQwenImage,
    FlowMatchEulerDiscreteScheduler,
    FluxFillPipeline,
    FluxPipeline,
    FluxTransformer2DModel,
    QwenImagePipeline,
    QwenImageTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    ZImagePipeline,
    ZImageTransformer2DModel,
)
from small_pipeline import WIDTH, alphabet, text_encoder, tokenizer
from transformers import (
    AddedToken,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2Tokenizer,
    Qwen3Config,
    Qwen3Model,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
)

SIZE = 64  # pixels that the small SD3 is made for
# SD3's scheduler shifts alike for all sizes, FLUX.1 dev's by the number of tokens, schnell's not at all
SHIFTS = {
    "sd3": {"shift": 3.0},
    "dev": {"shift": 3.0, "use_dynamic_shifting": True, "base_shift": 0.5, "max_shift": 1.15},
    "schnell": {"shift": 1.0},
}


def t5_tokenizer() -> T5Tokenizer:
    """One token for each printable character of ASCII."""
    special = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0)]
    letters = [(chr(c), -3.0) for c in range(33, 127)]
    return T5Tokenizer([*special, *letters], extra_ids=0, additional_special_tokens=[], model_max_length=512)


def t5(tokens: T5Tokenizer) -> T5EncoderModel:
    config = T5Config(
        vocab_size=len(tokens), d_model=2 * WIDTH, d_kv=8, d_ff=32, num_layers=1, num_heads=2, dropout_rate=0
    )
    return T5EncoderModel(config).eval()


def vae() -> AutoencoderKL:
    """16 channels, with a shift, and as theirs without quant_conv; samples of its latents are their mode."""
    made = AutoencoderKL(
        block_out_channels=(8, 8, 8, 8),
        down_block_types=("DownEncoderBlock2D",) * 4,
        norm_num_groups=4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        latent_channels=16,
        scaling_factor=1.5305,
        shift_factor=0.0609,
        use_quant_conv=False,
        use_post_quant_conv=False,
        force_upcast=True,
    ).eval()
    with torch.no_grad():  # the second half of what the encoder gives is the logarithm of the variance
        made.encoder.conv_out.weight[16:] = 0
        made.encoder.conv_out.bias[16:] = -30
    return made


def sd3(folder: str | Path, **more: object) -> Path:
    """Save a small Stable Diffusion 3 and return its folder; ``more`` in place of its parts."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        clip, letters = tokenizer(), t5_tokenizer()
        network = SD3Transformer2DModel(
            sample_size=SIZE // 8,
            num_layers=2,
            attention_head_dim=8,
            num_attention_heads=4,
            joint_attention_dim=2 * WIDTH,
            caption_projection_dim=32,
            pooled_projection_dim=2 * WIDTH,
            pos_embed_max_size=12,
            dual_attention_layers=(0,),
            qk_norm="rms_norm",
        )
        parts = {
            "transformer": network.eval(),
            "scheduler": FlowMatchEulerDiscreteScheduler(**SHIFTS["sd3"]),
            "vae": vae(),
            "text_encoder": text_encoder(clip, projected=True),
            "tokenizer": clip,
            "text_encoder_2": text_encoder(clip, projected=True),
            "tokenizer_2": clip,
            "text_encoder_3": t5(letters),
            "tokenizer_3": letters,
        }
    StableDiffusion3Pipeline(**parts | more).save_pretrained(folder)
    return Path(folder)


TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def z_image(folder: str | Path) -> Path:
    """Save a small Z-Image and return its folder."""
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    words = {w: i for i, w in enumerate([*alphabet(), *special])}
    tokens = Qwen2Tokenizer(words, [], additional_special_tokens=special[1:], chat_template=TEMPLATE)
    small = {"hidden_size": WIDTH, "intermediate_size": 32, "num_hidden_layers": 2, "head_dim": 16}
    config = Qwen3Config(vocab_size=len(words), num_attention_heads=2, num_key_value_heads=1, **small)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = ZImageTransformer2DModel(
            dim=32,
            n_layers=1,
            n_refiner_layers=1,
            n_heads=2,
            n_kv_heads=2,
            cap_feat_dim=WIDTH,
            axes_dims=[4, 6, 6],
            axes_lens=[1024, 64, 64],
        )
        network.x_pad_token.data.normal_()
        network.cap_pad_token.data.normal_()
        parts = {"vae": vae(), "text_encoder": Qwen3Model(config).eval(), "transformer": network.eval()}
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    ZImagePipeline(**parts, tokenizer=tokens, scheduler=scheduler).save_pretrained(folder)
    return Path(folder)


# what Qwen-Image's tokenizer makes one token of, so that the template before the words has 34 as theirs has
SYSTEM = (
    *(
        "system",
        "user",
        "assistant",
        "Describe",
        " the",
        " image",
        " by",
        " detailing",
        " color",
        " shape",
        " size",
    ),
    *(
        " texture",
        " quantity",
        " text",
        " spatial",
        " relationships",
        " of",
        " objects",
        " and",
        " background",
    ),
)


def qwen_tokenizer() -> Qwen2Tokenizer:
    """One token for each byte, and for each word of the template."""
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    words = {w: i for i, w in enumerate([*alphabet(), *special])}
    tokens = Qwen2Tokenizer(words, [], additional_special_tokens=special[1:])
    tokens.add_tokens([AddedToken(word, normalized=False) for word in SYSTEM])
    return tokens


def qwen_vae() -> AutoencoderKLQwenImage:
    """16 channels with a mean and a deviation each; samples of its latents are their mode."""
    made = AutoencoderKLQwenImage(base_dim=8, dim_mult=[1, 1, 1, 1], num_res_blocks=1).eval()
    with torch.no_grad():  # as in vae
        made.quant_conv.weight[16:] = 0
        made.quant_conv.bias[16:] = -30
    return made


def qwen_image(folder: str | Path) -> Path:
    """Save a small Qwen-Image and return its folder; its scheduler is theirs."""
    tokens = qwen_tokenizer()
    small = {"hidden_size": WIDTH, "intermediate_size": 32, "num_hidden_layers": 2, "vocab_size": len(tokens)}
    rope = {"rope_type": "default", "mrope_section": [2, 3, 3], "rope_theta": 1e6}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "rope_parameters": rope}
    eyes = {"depth": 1, "hidden_size": 32, "intermediate_size": 32, "num_heads": 2, "out_hidden_size": WIDTH}
    config = Qwen2_5_VLConfig(text_config=small | heads, vision_config=eyes)
    scheduler = FlowMatchEulerDiscreteScheduler(
        base_shift=0.5, max_shift=0.9, max_image_seq_len=8192, shift_terminal=0.02, use_dynamic_shifting=True
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = QwenImageTransformer2DModel(
            num_layers=3,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=WIDTH,
            axes_dims_rope=(4, 6, 6),
        )
        for block in network.transformer_blocks:  # so that words weigh as much as in a trained one
            block.attn.to_out[0].weight.data *= 8
        parts = {
            "transformer": network.eval(),
            "vae": qwen_vae(),
            "text_encoder": Qwen2_5_VLForConditionalGeneration(config).eval(),
        }
    QwenImagePipeline(**parts, tokenizer=tokens, scheduler=scheduler).save_pretrained(folder)
    return Path(folder)


def flux(folder: str | Path, kind: str = "dev") -> Path:
    """Save a small FLUX.1 and return its folder: dev, schnell or fill."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        clip, letters = tokenizer(), t5_tokenizer()
        network = FluxTransformer2DModel(
            in_channels=4 * (16 + 16 + 64) if kind == "fill" else 4 * 16,
            out_channels=4 * 16,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=2 * WIDTH,
            pooled_projection_dim=WIDTH,
            guidance_embeds=kind != "schnell",
            axes_dims_rope=(4, 6, 6),
        )
        parts = {
            "transformer": network.eval(),
            "scheduler": FlowMatchEulerDiscreteScheduler(**SHIFTS["schnell" if kind == "schnell" else "dev"]),
            "vae": vae(),
            "text_encoder": text_encoder(clip),
            "tokenizer": clip,
            "text_encoder_2": t5(letters),
            "tokenizer_2": letters,
        }
    (FluxFillPipeline if kind == "fill" else FluxPipeline)(**parts).save_pretrained(folder)
    return Path(folder)
