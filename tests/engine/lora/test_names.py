"""What files call the layers of FLUX.1 and SD3, and whose a file is."""

import diffusers
import pytest
import torch
from safetensors.torch import load, save

from noiseweave.engine.lora import weights
from noiseweave.engine.lora.names import Layers, made_for
from noiseweave.engine.lora.weights import Lora

WIDE = 3072  # FLUX.1's own width, which diffusers' converter knows; A and B of rank 1 or 3 stay small
DOUBLE, SINGLE = "transformer.transformer_blocks.0", "transformer.single_transformer_blocks.1"
FLUX = Layers(
    {f"{DOUBLE}.attn.{name}": (WIDE, WIDE) for name in ("to_q", "to_k", "to_v", "to_out.0", "add_q_proj")}
    | {f"{SINGLE}.attn.{name}": (WIDE, WIDE) for name in ("to_q", "to_k", "to_v")}
    | {f"{SINGLE}.proj_mlp": (4 * WIDE, WIDE), f"{SINGLE}.proj_out": (WIDE, 5 * WIDE)}
    | {f"{DOUBLE}.ff_context.net.0.proj": (4 * WIDE, WIDE)}
    | {"transformer.x_embedder": (WIDE, 64), "transformer.norm_out.linear": (2 * WIDE, WIDE)}
    | {"text_encoder.encoder.layers.0.self_attn.q_proj": (768, 768)}
)
SPELT = {
    "kohya": ("lora_unet_", "_", "lora_down", "lora_up"),
    "comfy": ("diffusion_model.", ".", "lora_A", "lora_B"),
    "comfy, kohya's ends": ("diffusion_model.", ".", "lora_down", "lora_up"),
    "bare": ("", ".", "lora_A", "lora_B"),
}
LAYERS = {
    "double_blocks.0.img_attn.proj": (WIDE, WIDE),
    "double_blocks.0.img_attn.qkv": (3 * WIDE, WIDE),
    "double_blocks.0.txt_mlp.0": (4 * WIDE, WIDE),
    "single_blocks.1.linear1": (7 * WIDE, WIDE),
    "single_blocks.1.linear2": (WIDE, 5 * WIDE),
    "img_in": (WIDE, 64),
    "final_layer.adaLN_modulation.1": (2 * WIDE, WIDE),
}


def matrices(shape, rank, seed=0):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(rank, shape[1], generator=g), torch.randn(shape[0], rank, generator=g)


def on_a_vector(A, B, scale=1.0):
    """scale B A v, without the product."""
    return scale * (B @ (A @ torch.linspace(-1, 1, A.shape[1])))


def of(change):
    return on_a_vector(change.A, change.B, change.scale)


def file_of(spelling, alpha=None, rank=1):
    prefix, dot, down, up = SPELT[spelling]
    tensors = {}
    for i, (name, shape) in enumerate(LAYERS.items()):
        key = prefix + name.replace(".", dot)
        tensors[f"{key}.{down}.weight"], tensors[f"{key}.{up}.weight"] = matrices(shape, rank, i)
        if alpha is not None:
            tensors[f"{key}.alpha"] = torch.tensor(alpha)
    return save(tensors)


@pytest.mark.parametrize("spelling", SPELT)
def test_a_file_after_flux_own_code_is_what_diffusers_makes_of_it(spelling):
    """Fused projections come apart, and the two halves of the last modulation change places."""
    changes = weights.read(Lora(name="a", data=file_of(spelling)), FLUX)
    theirs = diffusers.FluxPipeline.lora_state_dict(load(file_of("kohya")))
    pairs = {n.removesuffix(".lora_A.weight"): n for n in theirs if n.endswith(".lora_A.weight")}
    wanted = {
        "transformer." + n.removeprefix("transformer."): on_a_vector(
            theirs[a], theirs[a.replace("_A.", "_B.")]
        )
        for n, a in pairs.items()
    }
    assert {c.layer for c in changes} == wanted.keys()
    assert len(changes) == 3 + 4 + 5
    assert all(torch.allclose(of(c), wanted[c.layer], atol=1e-4) for c in changes)


def test_the_scale_is_the_files_in_every_layer():
    """Diffusers leaves the alpha of the last layers out."""
    plain, scaled = (weights.read(Lora(name="a", data=file_of("kohya", alpha=a)), FLUX) for a in (None, 0.5))
    for one, half in zip(plain, scaled, strict=True):
        assert torch.allclose(of(half), 0.5 * of(one), atol=1e-4), one.layer


def test_a_fused_layer_whose_parts_share_no_rank_comes_apart_with_its_scale():
    A, B = matrices((3 * WIDE, WIDE), 3)
    B *= torch.block_diag(*[torch.ones(WIDE, 1)] * 3)
    key = "lora_unet_double_blocks_0_img_attn_qkv"
    tensors = {f"{key}.lora_down.weight": A, f"{key}.lora_up.weight": B, f"{key}.alpha": torch.tensor(1.5)}
    changes = weights.read(Lora(name="a", data=save(tensors)), FLUX)
    assert [len(c.A) for c in changes] == [1, 1, 1]
    wanted = on_a_vector(A, B, 0.5).chunk(3)
    assert all(torch.allclose(of(c), w, atol=1e-4) for c, w in zip(changes, wanted, strict=True))


def test_the_magnitudes_of_a_fused_layer_come_apart_with_it():
    A, B = matrices((3 * WIDE, WIDE), 3)
    key, m = "lora_unet_double_blocks_0_img_attn_qkv", torch.arange(3 * WIDE) + 1.0
    tensors = {f"{key}.lora_down.weight": A, f"{key}.lora_up.weight": B, f"{key}.dora_scale": m.view(-1, 1)}
    changes = weights.read(Lora(name="a", data=save(tensors)), FLUX)
    W = torch.randn(3 * WIDE, WIDE, generator=torch.Generator().manual_seed(5))
    V = W + B @ A
    wanted = (m[:, None] * V / V.norm(dim=1, keepdim=True) - W).chunk(3)
    for change, W_part, difference in zip(changes, W.chunk(3), wanted, strict=True):
        torch.testing.assert_close(change.difference(W_part), difference, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize(
    ("key", "layer"),
    [
        ("transformer.transformer_blocks.0.attn.to_out.0", f"{DOUBLE}.attn.to_out.0"),
        ("transformer_blocks.0.attn.to_q", f"{DOUBLE}.attn.to_q"),
        ("lora_transformer_transformer_blocks_0_attn_to_q", f"{DOUBLE}.attn.to_q"),
        ("lora_transformer_single_transformer_blocks_1_proj_mlp", f"{SINGLE}.proj_mlp"),
        (
            "lora_te1_text_model_encoder_layers_0_self_attn_q_proj",
            "text_encoder.encoder.layers.0.self_attn.q_proj",
        ),
        (
            "text_encoders.clip_l.transformer.text_model.encoder.layers.0.self_attn.q_proj",
            "text_encoder.encoder.layers.0.self_attn.q_proj",
        ),
    ],
)
def test_names_of_one_layer(key, layer):
    A, B = matrices(FLUX.shapes[layer], 1)
    data = save({f"{key}.lora_down.weight": A, f"{key}.lora_up.weight": B})
    (change,) = weights.read(Lora(name="a", data=data), FLUX)
    assert change.layer == layer


SD = "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k"
SDXL = "lora_unet_input_blocks_4_1_transformer_blocks_0_attn2_to_k"
OWNERS = [
    ({f"unet.{SD}": (320, 768)}, "Stable Diffusion 1"),
    ({f"unet.{SD}": (320, 1024)}, "Stable Diffusion 2"),
    ({SDXL: (640, 2048)}, "Stable Diffusion XL"),
    ({f"unet.{SD}": (32, 32), "lora_te2_text_model_encoder_layers_0_mlp_fc1": (8, 8)}, "Stable Diffusion XL"),
    (
        {"unet.down_blocks.0.resnets.0.conv1": (8, 8)},
        "Stable Diffusion 1|Stable Diffusion 2|Stable Diffusion XL",
    ),
    ({"lora_unet_double_blocks_3_img_attn_qkv": (9216, 3072)}, "FLUX.1"),
    ({"diffusion_model.single_blocks.3.linear2": (3072, 15360)}, "FLUX.1"),
    ({"transformer.single_transformer_blocks.0.attn.to_q": (32, 32)}, "FLUX.1"),
    ({"transformer.transformer_blocks.0.attn.to_q": (3072, 3072)}, "FLUX.1"),
    ({"transformer.transformer_blocks.0.attn.to_q": (1536, 1536)}, "Stable Diffusion 3"),
    ({"transformer_blocks.0.attn2.to_q": (32, 32)}, "Stable Diffusion 3"),
    ({"transformer.transformer_blocks.23.attn.to_k": (32, 32)}, "Stable Diffusion 3"),
    ({"lora_unet_joint_blocks_3_x_block_attn_qkv": (4608, 1536)}, "Stable Diffusion 3"),
    ({"transformer.transformer_blocks.0.attn.to_k": (32, 32)}, "Stable Diffusion 3|FLUX.1"),
    ({"diffusion_model.layers.0.attention.to_q": (3840, 3840)}, "Z-Image"),
    ({"transformer.noise_refiner.0.attention.to_q": (32, 32)}, "Z-Image"),
    ({"transformer.transformer_blocks.0.img_mlp.net.2": (32, 32)}, "Qwen-Image"),
    ({"lora_unet_transformer_blocks_0_txt_mod_1": (32, 32)}, "Qwen-Image"),
    ({"transformer_blocks.59.attn.to_k": (32, 32)}, "Qwen-Image"),
    ({"diffusion_model.transformer_blocks.20.attn.to_q": (3072, 3072)}, "Qwen-Image"),
    ({"text_encoder.encoder.layers.0.self_attn.q_proj": (768, 768)}, ""),
    ({"blocks.0.cross_attn.q": (1536, 1536)}, ""),
]


@pytest.mark.parametrize(("shapes", "families"), OWNERS)
def test_names_and_widths_say_whose_a_file_is(shapes, families):
    assert "|".join(made_for(shapes)) == families


@pytest.mark.parametrize(
    ("key", "model", "said"),
    [
        (
            "lora_unet_double_blocks_0_img_attn_proj",
            {f"unet.{SD}": (8, 1024)},
            "FLUX.1 and not Stable Diffusion 2",
        ),
        (f"unet.{SD}", FLUX.shapes, "Stable Diffusion 1 and not FLUX.1"),
        ("transformer.transformer_blocks.30.attn.to_q", FLUX.shapes, "Stable Diffusion 3 and not FLUX.1"),
        (
            "transformer.single_transformer_blocks.0.proj_mlp",
            {"transformer.transformer_blocks.0.attn2.to_q": (8, 8)},
            "FLUX.1 and not Stable Diffusion 3",
        ),
    ],
)
def test_a_file_for_another_family_is_one_line_that_names_it(key, model, said):
    A, B = matrices((768, 768), 1)
    data = save({f"{key}.lora_A.weight": A, f"{key}.lora_B.weight": B})
    with pytest.raises(ValueError, match=r"^lora 'a': made for another base model, ") as error:
        weights.read(Lora(name="a", data=data), Layers(model))
    assert str(error.value).startswith(
        f"lora 'a': made for another base model, {said}: 1 of its 1 layers do not fit: {key} "
    )
    assert "\n" not in str(error.value)
