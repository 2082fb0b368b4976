"""lora of SD3, FLUX.1, Fill and Qwen-Image from the command to diffusers' own loading and to inpaint."""

import json

import diffusers
import numpy as np
import pytest
import safetensors.torch
import small_transformers
import torch
from loras import SMALL, make, picture, write

from noiseweave.engine.lora import weights
from noiseweave.engine.networks import facts
from noiseweave.jobs.cli import main

PIPELINES = {
    "sd3": diffusers.StableDiffusion3Pipeline,
    "dev": diffusers.FluxPipeline,
    "fill": diffusers.FluxFillPipeline,
    "qwen_image": diffusers.QwenImagePipeline,
}
MORE = ["--steps", "12", "--validation.share", "0.2", "--validation.every", "12", "--lora.alpha", "4"]


def small(kind, folder):
    own = getattr(small_transformers, kind, None)
    return own(folder) if own else small_transformers.flux(folder, kind)


def command(data, model, output, *more):
    return ["lora", *map(str, ["--data_root", data, "--model", model, "--out", output, *SMALL, *MORE, *more])]


@pytest.fixture(scope="module", params=list(PIPELINES))
def trained(request, tmp_path_factory):
    """(kind, model, output) of a finished run; Fill's with masks."""
    root, kind = tmp_path_factory.mktemp(request.param), request.param
    model = small(kind, root / "model")
    data = make(root / "data", masks="masks" if kind == "fill" else None)
    assert main(command(data, model, root / "out")) == 0
    return kind, model, root / "out"


def test_the_loss_of_held_out_pictures_falls_and_the_files_are_there(trained):
    _, _, output = trained
    report = json.loads((output / "report.json").read_text())
    assert report["files"] == ["lora_transformer.safetensors", "lora_transformer_kohya.safetensors"]
    assert report["validation_loss"]["12"] < report["validation_loss"]["0"]


def drawn(kind, pipe):
    """A picture, float [64, 64, 3]."""
    pipe.set_progress_bar_config(disable=True)
    more = {
        "height": 64,
        "width": 64,
        "num_inference_steps": 2,
        "generator": torch.Generator().manual_seed(0),
    }
    if kind == "fill":
        hole = np.zeros((64, 64), np.float32)
        hole[16:48, 16:48] = 1
        more |= {"image": picture(0, (64, 64)).astype(np.float32) / 255, "mask_image": hole}
    return pipe("a thing 1", output_type="np", **more).images[0]


def test_diffusers_own_pipeline_loads_it_and_draws_what_ours_does(trained):
    kind, model, output = trained
    theirs, ours, plain = (PIPELINES[kind].from_pretrained(model, use_safetensors=True) for _ in range(3))
    theirs.load_lora_weights(output, weight_name="lora_transformer.safetensors")
    data = (output / "lora_transformer.safetensors").read_bytes()
    lora = weights.Lora(name="x", data=data)
    assert len(weights.read(lora, weights.layers_in(facts.read_facts(str(model)).folder))) > 10
    weights.add(ours, [lora])
    pictures = [drawn(kind, pipe) for pipe in (theirs, ours, plain)]
    assert np.abs(pictures[0] - pictures[1]).max() < 1e-4
    assert np.abs(pictures[0] - pictures[2]).max() > 1e-3


def inpainting(folder, model):
    """inpaint's words for a picture with a box as its hole, small and quick."""
    write(folder / "imgs" / "a.png", picture(0, (64, 64)))
    mask = np.full((64, 64), 255, np.uint8)
    mask[16:48, 16:48] = 0
    write(folder / "masks" / "a.png", mask)
    words = [
        "inpaint",
        "--images",
        folder / "imgs",
        "--masks",
        folder / "masks",
        "--model",
        model,
        "--size",
        64,
    ]
    words += ["--steps", 2, "--inpaint.resample", 1, "--seed", 3, "--cluster.address", "inline"]
    return [*map(str, [*words, "--cluster.gpus_per_worker", 0])]


def test_inpaint_takes_it(trained, tmp_path):
    _, model, output = trained
    lora = ["--lora", str(output / "lora_transformer.safetensors")]
    for name, more in (("with", lora), ("without", [])):
        assert main([*inpainting(tmp_path, model), *more, "--output", str(tmp_path / name)]) == 0
    made = [(tmp_path / name / "restored" / "a.png").read_bytes() for name in ("with", "without")]
    assert made[0] != made[1]


def test_another_familys_file_is_refused_in_one_line_that_names_it(trained, tmp_path, capsys):
    kind, model, _ = trained
    key = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k"
    tensors = {f"{key}.lora_down.weight": torch.ones(2, 768), f"{key}.lora_up.weight": torch.ones(320, 2)}
    safetensors.torch.save_file(tensors, tmp_path / "a.safetensors")
    with pytest.raises(SystemExit) as stop:
        main(
            [
                *inpainting(tmp_path, model),
                "--lora",
                str(tmp_path / "a.safetensors"),
                "--output",
                str(tmp_path / "o"),
            ]
        )
    assert stop.value.code == 2
    *_, said = capsys.readouterr().err.strip().splitlines()
    other = {"sd3": "Stable Diffusion 3", "qwen_image": "Qwen-Image"}.get(kind, "FLUX.1")
    assert (
        f"made for another base model, Stable Diffusion 1 and not {other}: 1 of its 1 layers do not fit"
        in said
    )
    assert said.startswith("error: lora ")


def test_a_killed_run_of_a_flow_goes_on_to_the_same_adapter(tmp_path):
    from loras import alone, config_of, filled
    from loras import weights as saved

    model, data = small("fill", tmp_path / "model"), make(tmp_path / "data", masks=None)
    config = config_of(data, model, tmp_path / "out", "--steps", "4", "--checkpoint.every", "2")
    source = filled(config)
    whole = alone(config, source)
    again = alone(config, source, whole.saved[2])
    name = "lora_transformer.safetensors"
    ours, theirs = saved(again, 4, name), saved(whole, 4, name)
    assert all(torch.equal(ours[n], theirs[n]) for n in theirs)
    assert not all(torch.equal(saved(whole, 2, name)[n], theirs[n]) for n in theirs)


def test_validation_draws_with_flows_and_an_sd3_without_t5_is_read(tmp_path):
    from loras import alone, config_of, filled

    model = small_transformers.sd3(tmp_path / "model", text_encoder_3=None)
    data = make(tmp_path / "data", masks=None)
    more = (
        "--validation.share",
        "0.2",
        "--validation.pictures",
        "1",
        "--validation.steps",
        "1",
        "--steps",
        "1",
    )
    config = config_of(data, model, tmp_path / "out", *more)
    source = filled(config)
    alone(config, source)
    names = sorted(p.name for p in (tmp_path / "out" / "validation").iterdir())
    assert names == ["000000000.png", "000000001.png"]


def test_the_network_alone_is_opened_in_half_precision(tmp_path):
    from noiseweave.engine.lora.pipelines import open_pipeline, open_readers

    model = str(small_transformers.sd3(tmp_path / "model"))
    pipe = open_pipeline(model, "cpu", "text_encoder_3", network="bf16")
    assert pipe.transformer.dtype == torch.bfloat16
    assert pipe.vae.dtype == pipe.text_encoder.dtype == torch.float32
    assert pipe.text_encoder_3 is None
    readers = open_readers(model, "cpu")
    assert readers.transformer is readers.vae is None
    assert readers.text_encoder_3.dtype == torch.float32
