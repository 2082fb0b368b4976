"""LoRA files against the closed form W + w alpha / r B A, and against diffusers' and peft's own loading."""

import copy
import functools
import json
import re

import pytest
import torch
from diffusers import (
    StableDiffusionInpaintPipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from peft import LoraConfig
from safetensors.torch import load, save

from noiseweave.engine.inpainting import models
from noiseweave.engine.lora import weights as lora_weights
from noiseweave.engine.lora.names import PARTS, Layers
from noiseweave.engine.lora.weights import Lora
from noiseweave.engine.networks.recipes import ModelConfig

ATTENTION = ["to_q", "to_k", "to_v", "to_out.0"]
BLOCK = "down_blocks.0.attentions.0.transformer_blocks.0.attn1"
QUERY = f"{BLOCK}.to_q"
WORDS = "encoder.layers.1.self_attn"


@functools.cache
def loaded(folder):
    kind = StableDiffusionXLPipeline if (folder / "text_encoder_2").is_dir() else StableDiffusionPipeline
    return kind.from_pretrained(folder, use_safetensors=True)


def opened(folder):
    """A pipeline with networks of its own."""
    pipe = copy.copy(loaded(folder))
    for part in PARTS:
        if hasattr(pipe, part):
            setattr(pipe, part, copy.deepcopy(getattr(pipe, part)))
    return pipe


def weights(pipe) -> dict:
    """``unet.conv_in.weight`` -> a copy of it."""
    parts = {n: getattr(pipe, n) for n in PARTS if getattr(pipe, n, None) is not None}
    return {f"{p}.{n}": w.detach().clone() for p, m in parts.items() for n, w in m.state_dict().items()}


def matrices(shape, rank, seed):
    """A [r, in, ...] and B [out, r, ...]."""
    g = torch.Generator().manual_seed(seed)
    A = torch.randn(rank, *shape[1:], generator=g) * 0.3
    return A, torch.randn(shape[0], rank, *[1] * (len(shape) - 2), generator=g) * 0.3


def noise_pred(pipe):
    x = torch.randn(1, 4, 4, 4, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        words = pipe.text_encoder(torch.arange(77)[None])[0]
        return pipe.unet(x, 500, words).sample


def trained(pipe, networks, alpha=6, **options):
    """Adapters of rank 4 by peft on some layers of the networks, their B no longer zero."""
    for name, layers in networks.items():
        config = LoraConfig(r=4, lora_alpha=alpha, target_modules=layers, **options)
        getattr(pipe, name).add_adapter(config, **({"adapter_name": "default"} if name == "unet" else {}))
        g = torch.Generator().manual_seed(1)
        for n, p in getattr(pipe, name).named_parameters():
            if "lora_" in n:
                p.data = torch.randn(p.shape, generator=g) * 0.3
    return pipe


def saved(pipe, folder):
    """As diffusers' training scripts save: with peft's config in the header."""
    from diffusers.training_utils import _collate_lora_metadata
    from diffusers.utils import convert_state_dict_to_diffusers
    from peft.utils import get_peft_model_state_dict

    networks = {
        n: getattr(pipe, n) for n in ("unet", "text_encoder") if hasattr(getattr(pipe, n), "peft_config")
    }
    layers = {
        f"{n}_lora_layers": convert_state_dict_to_diffusers(get_peft_model_state_dict(m))
        for n, m in networks.items()
    }
    StableDiffusionPipeline.save_lora_weights(folder, **layers, **_collate_lora_metadata(networks))
    return (folder / "pytorch_lora_weights.safetensors").read_bytes()


@pytest.mark.parametrize("options", [{}, {"use_rslora": True}, {"use_dora": True}])
def test_a_file_of_diffusers_gives_what_diffusers_and_peft_give(kl_folder, tmp_path, options):
    pipe = trained(opened(kl_folder), {"unet": ATTENTION, "text_encoder": ["q_proj", "out_proj"]}, **options)
    data, wanted = saved(pipe, tmp_path), noise_pred(pipe)
    theirs, ours = opened(kl_folder), opened(kl_folder)
    plain_pred = noise_pred(theirs)
    theirs.load_lora_weights(tmp_path)
    lora_weights.add(ours, [Lora(name="a", data=data)])
    # transformers 5 loses the magnitudes of a text encoder as diffusers reads them
    for other in (pipe,) if "use_dora" in options else (theirs, pipe):
        assert torch.allclose(noise_pred(ours), noise_pred(other), atol=1e-4)
    assert (wanted - plain_pred).abs().max() > 1e-2


@pytest.mark.parametrize("dora", [False, True])
def test_a_unet_saved_on_its_own(kl_folder, tmp_path, dora):
    patterns = {"conv1": 2, ".*attn2.to_q": 1}
    layers = {"unet": [*ATTENTION, "conv1"]}
    pipe = trained(opened(kl_folder), layers, alpha_pattern=patterns, use_dora=dora)
    pipe.unet.save_lora_adapter(tmp_path)
    ours = opened(kl_folder)
    data = (tmp_path / "pytorch_lora_weights.safetensors").read_bytes()
    lora_weights.add(ours, [Lora(name="a", data=data)])
    assert torch.allclose(noise_pred(ours), noise_pred(pipe), atol=1e-4)


def kohya(folder, alpha_of, ranks=(3, 4)):
    """(file, what it adds to each weight) of all layers that kohya trains."""
    pipe, tensors, added = opened(folder), {}, {}
    prefixes = {"unet": "lora_unet_", "text_encoder": "lora_te_"}
    if hasattr(pipe, "text_encoder_2"):
        prefixes |= {"text_encoder": "lora_te1_", "text_encoder_2": "lora_te2_"}
    for part, prefix in prefixes.items():
        kinds = (torch.nn.Linear, torch.nn.Conv2d)
        found = [(n, m) for n, m in getattr(pipe, part).named_modules() if isinstance(m, kinds)]
        for i, (name, module) in enumerate(found):
            A, B = matrices(module.weight.shape, ranks[i % len(ranks)], i)
            words = "" if part == "unet" or name.startswith("text_") else "text_model_"
            key = prefix + words + name.replace(".", "_")
            tensors |= {f"{key}.lora_down.weight": A, f"{key}.lora_up.weight": B}
            alpha = alpha_of(i)
            if alpha is not None:
                tensors[f"{key}.alpha"] = torch.tensor(float(alpha))
            scale = 1 if alpha is None else alpha / len(A)
            added[f"{part}.{name}.weight"] = scale * (B.flatten(1) @ A.flatten(1)).view_as(module.weight)
    return save(tensors), added


@pytest.mark.parametrize(("name", "w"), [("kl_folder", 1.0), ("xl_folder", -0.7)])
def test_a_file_of_kohya_is_the_closed_form_in_every_layer(name, w, request):
    """Also where alphas differ from layer to layer, as with kohya's block_alphas."""
    folder = request.getfixturevalue(name)
    data, added = kohya(folder, lambda i: None if i % 5 == 0 else 1 + i % 3)
    pipe = opened(folder)
    before = weights(pipe)
    lora_weights.add(pipe, [Lora(name="k", data=data, weight=w)])
    assert len(added) > 90
    for key, now in weights(pipe).items():
        wanted = before[key] + w * added[key] if key in added else before[key]
        assert torch.allclose(now, wanted, atol=1e-5), key


def test_a_file_of_kohya_with_one_alpha_is_what_diffusers_reads(kl_folder):
    data, _ = kohya(kl_folder, lambda i: 2, ranks=(4,))
    theirs, ours = opened(kl_folder), opened(kl_folder)
    theirs.load_lora_weights(load(data))
    lora_weights.add(ours, [Lora(name="k", data=data)])
    assert torch.allclose(noise_pred(ours), noise_pred(theirs), atol=1e-3)


@pytest.mark.parametrize(
    ("down", "layer"),
    [
        (f"unet.{QUERY}.lora_A.weight", f"unet.{QUERY}"),
        (f"{QUERY}.lora_A.weight", f"unet.{QUERY}"),
        (f"unet.{QUERY}.lora.down.weight", f"unet.{QUERY}"),
        (f"unet.{BLOCK}.processor.to_q_lora.down.weight", f"unet.{QUERY}"),
        (f"unet.{BLOCK}.processor.to_out_lora.down.weight", f"unet.{BLOCK}.to_out.0"),
        (f"lora_unet_{QUERY.replace('.', '_')}.lora_down.weight", f"unet.{QUERY}"),
        (f"text_encoder.text_model.{WORDS}.to_q_lora.down.weight", f"text_encoder.{WORDS}.q_proj"),
        (f"text_encoder.{WORDS}.out_proj.lora_linear_layer.down.weight", f"text_encoder.{WORDS}.out_proj"),
        (
            "lora_te_text_model_encoder_layers_0_mlp_fc2.lora_down.weight",
            "text_encoder.encoder.layers.0.mlp.fc2",
        ),
    ],
)
def test_all_spellings_are_known(kl_folder, down, layer):
    layers = lora_weights.layers_in(kl_folder)
    A, B = matrices(layers.shapes[layer], 2, 0)
    up = down.replace("lora_A", "lora_B").replace(".down.", ".up.").replace("lora_down", "lora_up")
    (change,) = lora_weights.read(Lora(name="a", data=save({down: A, up: B})), layers)
    assert change.layer == layer
    assert torch.allclose(change.product(), B @ A, atol=1e-6)


@pytest.mark.parametrize(
    ("key", "layer"),
    [
        ("input_blocks_0_0", "conv_in"),
        ("input_blocks_1_0_in_layers_2", "down_blocks.0.resnets.0.conv1"),
        ("input_blocks_3_0_op", "down_blocks.0.downsamplers.0.conv"),
        (
            "input_blocks_5_1_transformer_blocks_1_attn2_to_k",
            "down_blocks.1.attentions.1.transformer_blocks.1.attn2.to_k",
        ),
        (
            "input_blocks_8_1_transformer_blocks_9_ff_net_0_proj",
            "down_blocks.2.attentions.1.transformer_blocks.9.ff.net.0.proj",
        ),
        ("middle_block_1_proj_in", "mid_block.attentions.0.proj_in"),
        ("middle_block_2_emb_layers_1", "mid_block.resnets.1.time_emb_proj"),
        ("output_blocks_2_2_conv", "up_blocks.0.upsamplers.0.conv"),
        (
            "output_blocks_4_1_transformer_blocks_0_attn1_to_out_0",
            "up_blocks.1.attentions.1.transformer_blocks.0.attn1.to_out.0",
        ),
        ("output_blocks_8_0_skip_connection", "up_blocks.2.resnets.2.conv_shortcut"),
        ("time_embed_2", "time_embedding.linear_2"),
        ("label_emb_0_0", "add_embedding.linear_1"),
        ("out_2", "conv_out"),
    ],
)
def test_kohyas_names_of_sdxls_own_code(key, layer):
    """The numbers of the original code's blocks: two residual blocks in each, three going up."""
    blocks = {f"unet.down_blocks.0.resnets.{i}.conv1": (8, 8, 3, 3) for i in range(2)}
    layers = Layers(blocks | {f"unet.{layer}": (6, 5)})
    A, B = matrices((6, 5), 2, 0)
    data = save({f"lora_unet_{key}.lora_down.weight": A, f"lora_unet_{key}.lora_up.weight": B})
    (change,) = lora_weights.read(Lora(name="a", data=data), layers)
    assert change.layer == f"unet.{layer}"


def test_weights_add_up_and_0_is_the_model_itself(kl_folder):
    one, first = kohya(kl_folder, lambda i: 1 + i % 3)
    two = save({k: v.flip(0).contiguous() for k, v in load(one).items()})
    both, none, base = opened(kl_folder), opened(kl_folder), weights(opened(kl_folder))
    lora_weights.add(none, [Lora(name="a", data=one, weight=0), Lora(name="b", data=two, weight=0)])
    assert all(torch.equal(base[k], w) for k, w in weights(none).items())
    alone = opened(kl_folder)
    lora_weights.add(alone, [Lora(name="b", data=two, weight=2)])
    lora_weights.add(both, [Lora(name="a", data=one, weight=0.5), Lora(name="b", data=two, weight=2)])
    second = weights(alone)
    for key, w in weights(both).items():
        assert torch.allclose(w, second[key] + 0.5 * first.get(key, 0), atol=1e-4), key


def test_kohyas_magnitudes_are_the_closed_form_and_differences_from_the_model_alone(kl_folder):
    """m V / |V| of V = W + B A, over all but the outputs, at weight w that far from W; beside it a plain LoRA."""
    data, added = kohya(kl_folder, lambda i: None)
    pipe = opened(kl_folder)
    before, tensors, magnitudes = weights(pipe), load(data), {}
    layers = lora_weights.Layers({k.removesuffix(".weight"): tuple(w.shape) for k, w in before.items()})
    for key in [k for k in tensors if k.endswith(".lora_down.weight")]:
        stem = key.removesuffix(".lora_down.weight")
        m = 1 + torch.rand(len(tensors[f"{stem}.lora_up.weight"]), generator=torch.Generator().manual_seed(0))
        name = layers.called(stem).replace("text_encoder.encoder", "text_encoder.text_model.encoder")
        magnitudes[name + ".weight" if name + ".weight" in before else layers.called(stem) + ".weight"] = m
        tensors[f"{stem}.dora_scale"] = m[:, None]
    files = [Lora(name="plain", data=data, weight=2), Lora(name="dora", data=save(tensors), weight=0.5)]
    lora_weights.add(pipe, files)
    assert magnitudes.keys() == added.keys()
    for key, now in weights(pipe).items():
        W = before[key]
        if key in added:
            V = (W + added[key]).flatten(1)
            V = (magnitudes[key][:, None] * V / V.norm(dim=1, keepdim=True)).view_as(W)
            W = W + 0.5 * (V - W) + 2 * added[key]
        assert torch.allclose(now, W, atol=1e-4), key


def test_in_bfloat16_the_sum_is_rounded_once(kl_folder):
    """Changes far below the distance of two bfloat16 numbers near the weight are there on average, and not lost."""
    data, added = kohya(kl_folder, lambda i: 1e-3)
    base = weights(opened(kl_folder))
    config = ModelConfig(name=str(kl_folder), precision="bf16", lora="k")
    loaded = models.load(config, add=functools.partial(lora_weights.add, loras=[Lora(name="k", data=data)]))
    got = weights(loaded.text.pipeline)
    for key, w in got.items():
        assert torch.equal(w, (base[key] + added.get(key, 0)).to(torch.bfloat16)) or w.dtype == torch.int64, (
            key
        )
    key = "unet." + QUERY + ".weight"
    lost = base[key].to(torch.bfloat16) + added[key].to(torch.bfloat16)
    share = [((w - base[key]) * added[key]).sum() / added[key].square().sum() for w in (got[key], lost)]
    assert abs(share[0] - 1) < abs(share[1] - 1)


def test_linear_and_convolved_projections_fit_each_other(kl_folder):
    """SD 2's are linear in diffusers; kohya's files of it have kernels of 1x1."""
    layers = lora_weights.layers_in(kl_folder)
    A, B = matrices((32, 32, 1, 1), 4, 0)
    data = save({f"unet.{QUERY}.lora_A.weight": A, f"unet.{QUERY}.lora_B.weight": B})
    assert layers.shapes[f"unet.{QUERY}"] == (32, 32)
    pipe = opened(kl_folder)
    before = weights(pipe)[f"unet.{QUERY}.weight"]
    lora_weights.add(pipe, [Lora(name="a", data=data)])
    wanted = before + B[..., 0, 0] @ A[..., 0, 0]
    assert torch.allclose(weights(pipe)[f"unet.{QUERY}.weight"], wanted, atol=1e-5)


def test_one_for_four_channels_without_conv_in_fits_a_model_of_nine(kl_folder, tmp_path):
    data = saved(trained(opened(kl_folder), {"unet": ATTENTION}), tmp_path / "lora")
    pipe = opened(kl_folder)
    unet = UNet2DConditionModel.from_config({**pipe.unet.config, "in_channels": 9})
    parts = {n: c for n, c in pipe.components.items() if n not in ("unet", "image_encoder")}
    made_for_it = StableDiffusionInpaintPipeline(**parts, unet=unet, requires_safety_checker=False)
    made_for_it.save_pretrained(tmp_path / "nine")
    loras = [Lora(name="a", data=data)]
    add = functools.partial(lora_weights.add, loras=loras)
    model = models.load(ModelConfig(name=str(tmp_path / "nine"), lora="a"), add=add)
    lora_weights.add(made_for_it, loras)
    assert len(lora_weights.read(loras[0], lora_weights.layers_in(tmp_path / "nine"))) == 8 * 4
    x = torch.randn(1, 9, 4, 4, generator=torch.Generator().manual_seed(0))
    words, pred = torch.zeros(1, 77, 32), []
    for p in (model.text.pipeline, made_for_it):
        with torch.no_grad():
            pred.append(p.unet(x, 500, words).sample)
    assert torch.allclose(*pred, atol=1e-5)


def line(data: bytes, layers) -> str:
    with pytest.raises(ValueError, match=r"^lora 'x': ") as error:
        lora_weights.read(Lora(name="x", data=data), layers)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_lora_for_another_base_model_says_which_keys_do_not_fit(kl_folder, xl_folder):
    data, added = kohya(xl_folder, lambda i: 1)
    said = line(data, lora_weights.layers_in(kl_folder))
    count = int(
        re.search(rf"made for another base model: (\d+) of its {len(added)} layers do not fit", said)[1]
    )
    assert 10 < count < len(added)
    assert "lora_te2_text_model_encoder_layers_0_mlp_fc1 (no such layer), " in said
    assert said.endswith(f" and {count - 3} more")
    some = save({k: v for k, v in load(data).items() if "attn2_to_k" in k})
    assert "attn2_to_k (32x64, the model's is 32x32)" in line(some, lora_weights.layers_in(kl_folder))


def test_four_channels_do_not_fit_nine(kl_folder):
    data, added = kohya(kl_folder, lambda i: 1)
    layers = lora_weights.layers_in(kl_folder)
    nine = Layers(layers.shapes | {"unet.conv_in": (32, 9, 3, 3)})
    said = line(data, nine)
    assert (
        f"1 of its {len(added)} layers do not fit: lora_unet_conv_in (32x4x3x3, the model's is 32x9x3x3)"
        in said
    )


DOWN, UP = f"unet.{QUERY}.lora_A.weight", f"unet.{QUERY}.lora_B.weight"
HALF = torch.zeros(32, 2)


@pytest.mark.parametrize(
    ("tensors", "words"),
    [
        ({}, "it is empty"),
        ({"model.diffusion_model.out.2.weight": HALF}, "known format"),
        (
            {DOWN: HALF.T, UP: HALF, f"unet.{QUERY}.lora_magnitude_vector": HALF[1:, 0]},
            "with DoRA a magnitude for each output, for unet",
        ),
        ({DOWN: HALF.T, UP: HALF, f"unet.{QUERY}.dora_scale": HALF[None, :, 0]}, "for each output, for unet"),
        ({f"unet.{QUERY}.lora_magnitude_vector": HALF[:, 0]}, "damaged"),
        ({"lora_unet_conv_in.hada_w1_a": HALF, "lora_unet_conv_in.hada_w1_b": HALF}, "hada_w1_a"),
        ({f"base_model.model.{QUERY}.lora_A.weight": HALF.T}, "bare peft adapters are not"),
        ({DOWN: HALF.T}, "damaged: no down and up matrix of one rank, "),
        ({DOWN: HALF.T, UP: torch.zeros(32, 3)}, "damaged"),
        ({DOWN: HALF.T, UP: torch.full((32, 2), torch.nan)}, f"not finite (NaN or infinity): {UP}"),
        (
            {
                "transformer.blocks.0.attn.lora_A.weight": HALF.T,
                "transformer.blocks.0.attn.lora_B.weight": HALF,
            },
            "transformer.blocks.0.attn (no such layer)",
        ),
    ],
)
def test_what_is_no_lora_is_one_line(kl_folder, tensors, words):
    data = save({k: v.clone(memory_format=torch.contiguous_format) for k, v in tensors.items()})
    assert words in line(data, lora_weights.layers_in(kl_folder))


def test_files_that_are_no_safetensors(kl_folder, tmp_path):
    layers = lora_weights.layers_in(kl_folder)
    torch.save({"a": HALF}, tmp_path / "a.safetensors")
    whole = kohya(kl_folder, lambda i: 1)[0]
    for data in ((tmp_path / "a.safetensors").read_bytes(), b"", whole[: len(whole) // 2]):
        assert "no safetensors file" in line(data, layers)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ("{", "is no JSON"),
        (json.dumps({"unet.lora_alpha": "many"}), f"no scale that is understood, for unet.{QUERY}"),
        (json.dumps({"lora_alpha": 1, "alpha_pattern": ["("]}), "no scale"),
        (json.dumps({"lora_alpha": 1, "alpha_pattern": {"(": 1}}), "no scale"),
    ],
)
def test_a_header_that_is_not_understood(kl_folder, config, words):
    data = save({DOWN: HALF.T.contiguous(), UP: HALF}, {"lora_adapter_metadata": config})
    assert words in line(data, lora_weights.layers_in(kl_folder))
