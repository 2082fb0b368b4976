"""Words to pictures: slerp's closed forms, diffusers' own answer, noise from keys, and words that matter."""

import shutil
from dataclasses import replace
from functools import partial
from itertools import pairwise

import numpy as np
import pytest
import torch
from diffusers import DPMSolverMultistepScheduler, StableDiffusionPipeline
from safetensors.torch import load_file, save_file
from small_pipeline import change, flag_above, flag_everything, unsafety

from noiseweave.engine.networks import facts, text_encoding
from noiseweave.engine.networks import text_pipeline as e
from noiseweave.engine.networks.prompts import Prompt
from noiseweave.engine.networks.recipes import ModelConfig, TextRecipe
from noiseweave.engine.seeding import generator, seed_of

QUICK = TextRecipe(steps=3)
CATS = [
    Prompt(text="a photo of a cat", key="0"),
    Prompt(text="a dog", key="1", negative="blurry"),
    Prompt(text="a dog", other="a photo of a cat", mix=0.4, key="2"),
]


@pytest.fixture(scope="module")
def model(sd_folder):
    return e.load(ModelConfig(name=str(sd_folder)), QUICK)


@pytest.fixture(scope="module")
def xl(xl_folder):
    return e.load(ModelConfig(name=str(xl_folder)), QUICK)


def apart(a, b) -> int:
    return int(np.abs(a.astype(int) - b.astype(int)).max())


# the tokenizer, and prompts that do not fit


def test_the_vocabulary_is_clips(model):
    tokenizer = model.pipeline.tokenizer
    assert len(tokenizer) == 49408
    assert tokenizer("a photo of a cat").input_ids == [49406, 320, 1125, 539, 320, 2368, 49407]


def test_a_prompt_that_is_cut_is_named(model):
    fits, long, negative = "cat " * 75, "cat " * 76, "dog " * 100
    prompts = [Prompt(text=fits, key="a"), Prompt(text=long, key="b"), Prompt(text=long, key="c")]
    ends = partial(text_encoding.truncated_ends, model.pipeline)
    assert ends(prompts) == {long: "cat"}
    assert ends([Prompt(text=fits + "and two dogs", key="a")]).popitem()[1] == "and two dogs"
    assert list(ends([Prompt(text="a", other=long, key="a", negative=negative)])) == [long, negative]
    a, b = (e.draw_prompts(model, [Prompt(text=t, key="a")], QUICK, 0) for t in (fits, long))
    assert np.array_equal(a, b)  # the last word was cut indeed


# what is drawn


@pytest.mark.parametrize(("which", "guidance"), [("model", 7.5), ("model", 1.0), ("xl", 7.5), ("xl", 1.0)])
def test_the_picture_is_the_pipelines_own(which, guidance, request):
    model = request.getfixturevalue(which)
    z = torch.stack([torch.randn(4, 4, 4, generator=generator(9, "sample", k)) for k in ("0", "1")])
    pipe, recipe = model.pipeline, replace(QUICK, guidance=guidance)
    pipe.scheduler = DPMSolverMultistepScheduler.from_config(model.scheduler.config)
    named = {"num_inference_steps": 3, "guidance_scale": guidance, "output_type": "np"}
    for i, prompt in enumerate(CATS[:2]):
        expected = pipe(prompt.text, negative_prompt=prompt.negative or None, latents=z[i : i + 1], **named)
        drawn = e.draw_prompts(model, [prompt], recipe, 9)
        assert (drawn.shape, drawn.dtype) == ((1, 32, 32, 3), np.uint8)
        assert apart(drawn, (expected.images * 255).round()) <= 1


@pytest.mark.parametrize("sampler", ["dpm-solver++", "ddim", "ddpm", "euler", "pipeline"])
def test_a_picture_is_the_same_whatever_is_drawn_with_it(model, sampler):
    recipe = TextRecipe(steps=3, sampler=sampler, eta=0.7 if sampler == "ddim" else 0)
    together = e.draw_prompts(model, CATS, recipe, 0)
    alone = np.concatenate([e.draw_prompts(model, [p], recipe, 0) for p in CATS])
    assert apart(together, alone) <= 1
    again = e.draw_prompts(model, CATS[::-1], recipe, 0)[::-1]
    assert apart(together, again) <= 1
    assert apart(together, e.draw_prompts(model, CATS, recipe, 1)) > 20  # another seed
    assert together.std() > 5


def test_the_samplers_differ_and_eta_is_heard(model):
    recipes = [TextRecipe(steps=3, sampler=s) for s in ("dpm-solver++", "ddim", "ddpm", "pipeline")]
    drawn = [
        e.draw_prompts(model, CATS[:1], r, 0) for r in [*recipes, TextRecipe(steps=3, sampler="ddim", eta=1)]
    ]
    assert min(apart(a, b) for i, a in enumerate(drawn) for b in drawn[:i]) > 1


def test_equal_keys_start_from_the_same_noise_and_others_do_not(model):
    same = e.draw_prompts(model, [Prompt(text="a cat", key=k) for k in ("a", "a", "b")], QUICK, 0)
    assert apart(same[0], same[1]) <= 1
    assert apart(same[0], same[2]) > 20


def test_the_ends_of_a_mix_are_the_two_prompts(model, xl):
    for m in (model, xl):
        drawn = [
            Prompt(text="a cat", other="two dogs", mix=0, key="k"),
            Prompt(text="a cat", key="k"),
            Prompt(text="a cat", other="two dogs", mix=1, key="k"),
            Prompt(text="two dogs", key="k"),
            Prompt(text="a cat", other="two dogs", mix=0.5, key="k"),
        ]
        for name, x in text_encoding.embeddings(m.pipeline, drawn, True).items():
            assert torch.equal(x[0], x[1]), name
            assert torch.equal(x[2], x[3]), name
        told = [
            x
            for n, x in text_encoding.embeddings(m.pipeline, drawn, True).items()
            if not n.startswith("negative")
        ]
        assert len(told) == (1 if m is model else 2)  # SDXL's pooled embedding is mixed too
        for x in told:
            torch.testing.assert_close(x[4], text_encoding.slerp(x[1], x[3], 0.5))
            assert not torch.equal(x[1], x[3])


def test_size_is_taken_from_the_recipe_or_the_model(model):
    assert model.size(QUICK) == (32, 32)
    recipe = TextRecipe(steps=1, height=40, width=24)
    assert e.draw_prompts(model, CATS[:1], recipe, 0).shape == (1, 40, 24, 3)


def test_the_calls_of_the_network_are_counted(model):
    for sampler in ("dpm-solver++", "pipeline"):
        recipe, seen = TextRecipe(steps=5, sampler=sampler, guidance=1), []
        handle = model.pipeline.unet.register_forward_hook(lambda *_, seen=seen: seen.append(1))
        e.draw_prompts(model, CATS, recipe, 0)
        handle.remove()
        assert len(seen) == model.calls(recipe)
        assert (len(seen) == 5) == (sampler == "dpm-solver++")  # PNDM takes one step twice


def test_half_precision_draws_nearly_the_same(sd_folder, model):
    half = e.load(ModelConfig(name=str(sd_folder), precision="bf16"), QUICK)
    a, b = (e.draw_prompts(m, CATS, replace(QUICK, guidance=1), 0).astype(float) for m in (model, half))
    assert 0 < np.abs(a - b).mean() < 5


def test_out_of_memory_halves_the_batch_and_goes_on(sd_folder):
    model = e.load(ModelConfig(name=str(sd_folder), micro_batch=8), QUICK)
    prompts, recipe = [*CATS, *CATS[:2]], TextRecipe(steps=3, sampler="ddpm")
    expected, decode, sizes = e.draw_prompts(model, prompts, recipe, 0), model.pipeline.vae.decode, []

    def small(z, **named):
        if len(z) > 2:
            raise torch.OutOfMemoryError("not enough memory")
        sizes.append(len(z))
        return decode(z, **named)

    model.pipeline.vae.decode = small  # after all steps: what they drew must be drawn again
    assert apart(e.draw_prompts(model, prompts, recipe, 0), expected) <= 1
    assert (model.micro_batch, sizes) == (2, [2, 2, 1])


# beliefs


@pytest.mark.parametrize("sampler", ["dpm-solver++", "ddim", "ddpm", "euler"])
def test_a_trajectory_ends_in_the_picture(model, sampler):
    # by the end each of them takes the predicted x_0 for its sample; ddim here leaves a last trace of noise
    recipe = TextRecipe(steps=6, sampler=sampler)
    image, beliefs = e.trajectory(model, CATS, recipe, 0, 3)
    assert np.array_equal(image, e.draw_prompts(model, CATS, recipe, 0))
    assert (beliefs.shape, beliefs.dtype) == ((3, 3, 32, 32, 3), np.uint8)
    assert np.abs(beliefs[-1].astype(float) - image).mean() < 2
    assert np.abs(beliefs[0].astype(float) - image).mean() > 2
    whole = e.trajectory(model, CATS, recipe, 0, 99)[1]
    assert len(whole) == 6
    assert np.array_equal(whole[[0, 5]], beliefs[[0, 2]])


@pytest.mark.parametrize("sampler", ["dpm-solver++", "ddim", "ddpm"])
def test_the_first_belief_is_the_networks(model, sampler):
    recipe = TextRecipe(steps=5, sampler=sampler, guidance=1)
    belief = e.trajectory(model, CATS[:1], recipe, 0, 1)[1][0]
    pipe, s = model.pipeline, e.text_scheduler(model, recipe)
    s.set_timesteps(5)
    t, z = s.timesteps[0], torch.randn(1, 4, 4, 4, generator=generator(0, "sample", "0"))
    with torch.inference_mode():
        words = text_encoding.embeddings(pipe, CATS[:1], False)["prompt_embeds"]
        a, v = s.alphas_cumprod[t], pipe.unet(z, t, words).sample
        image = pipe.vae.decode((a.sqrt() * z - (1 - a).sqrt() * v) / pipe.vae.config.scaling_factor).sample
    wanted = ((image.permute(0, 2, 3, 1).clamp(-1, 1) + 1) * 127.5).round().numpy()
    assert apart(belief, wanted) <= 1


def test_a_scheduler_that_does_not_tell_its_beliefs_is_refused(model):
    with pytest.raises(ValueError, match="PNDMScheduler does not report"):
        e.trajectory(model, CATS, TextRecipe(steps=3, sampler="pipeline"), 0, 2)


def test_latents_are_never_clipped(model):
    assert "clip_sample" not in model.scheduler.config  # the samplers' own default is to clip
    for sampler in ("ddim", "ddpm"):
        assert e.text_scheduler(model, TextRecipe(sampler=sampler)).config.clip_sample is False


# words that matter


@pytest.fixture(scope="module")
def painter(taught_folder):
    return e.load(ModelConfig(name=str(taught_folder)), QUICK)


def redness(model, prompts, guidance=2.0) -> list[float]:
    x = e.draw_prompts(model, prompts, TextRecipe(steps=8, guidance=guidance), 0).astype(float)
    return list((x[..., 0] - x[..., 2]).mean((1, 2)))


def test_the_words_decide_the_colour(painter):
    for text, sign in (("a red wall", 1), ("a blue wall", -1)):
        for guidance in (1.0, 3.0):
            red = redness(painter, [Prompt(text=text, key=str(i)) for i in range(4)], guidance)
            assert min(sign * r for r in red) > 50, (text, guidance, red)


def test_a_mix_lies_between_its_ends(painter):
    mixes = [i / 8 for i in range(9)]
    frames = [Prompt(text="a red wall", other="a blue wall", mix=m, key="k") for m in mixes]
    red = redness(painter, frames)
    assert red[0] > 50
    assert red[-1] < -50
    assert all(b < a + 8 for a, b in pairwise(red)), red  # ever less red
    assert any(red[-1] + 10 < r < red[0] - 10 for r in red[1:-1]), red


def test_a_negative_prompt_drives_away_from_its_words(painter):
    negatives = ("a red wall", "", "a blue wall")
    against, _, for_ = redness(painter, [Prompt(text="", key="k", negative=n) for n in negatives], 4.0)
    assert for_ > against + 50
    one, other = (Prompt(text="a red wall", key="k", negative=n) for n in ("", "a blue wall"))
    a, b = redness(painter, [one, other], 1.0)
    assert a == pytest.approx(b, abs=1)  # guidance 1 makes no such call


# loading


def mark_of(folder):
    return facts.fingerprint(facts.read_facts(str(folder)))


def test_what_is_a_text_to_image_model(sd_folder, xl_folder, tmp_path):
    assert facts.read_facts(str(sd_folder)).conditioning == "text"
    assert facts.read_facts(str(xl_folder)).conditioning == "text"
    assert facts.read_facts("digits-ddpm").conditioning == "none"
    with pytest.raises(ValueError, match=r"model_index\.json is missing"):
        facts.read_facts(str(tmp_path))
    assert len(mark_of(sd_folder)) == 16
    assert mark_of(sd_folder) != mark_of(xl_folder)


def test_a_safety_checker_that_is_there_stays_and_flags(sd_copy, model):
    flag_everything(sd_copy)
    whole = e.load(ModelConfig(name=str(sd_copy)), QUICK)
    done = e.checked(whole, CATS[:2], QUICK, 0, 2)
    assert done.flagged_B.tolist() == [True, True]
    assert done.seeds == [seed_of(0, "flagged", key) for key in "01"]
    assert np.array_equal(done.drawn[:1, -1], e.draw_prompts(model, CATS[:1], QUICK, done.seeds[0])), (
        "not black"
    )
    without = e.load(ModelConfig(name=str(sd_copy), safety_checker=False), QUICK)
    done = e.checked(without, CATS[:2], QUICK, 0)
    assert (done.flagged_B.any(), done.seeds) == (False, [0, 0])
    assert apart(done.drawn[:, -1], e.draw_prompts(model, CATS[:2], QUICK, 0)) <= 1


def test_what_is_flagged_is_drawn_once_more_alone(sd_copy, model):
    flag_everything(sd_copy)
    first = e.draw_prompts(model, CATS, QUICK, 0)
    second = np.stack([e.draw_prompts(model, [p], QUICK, seed_of(0, "flagged", p.key))[0] for p in CATS])
    scores = np.stack([unsafety(sd_copy, x) for x in (first, second)])
    worse = int(np.argmax(scores[0] - scores[1]))
    assert scores[0, worse] > scores[1, worse] + 1e-3
    flag_above(sd_copy, float(scores[:, worse].mean()))
    careful = e.load(ModelConfig(name=str(sd_copy)), QUICK)
    for some in (CATS, [CATS[worse]]):
        done = e.checked(careful, some, QUICK, 0)
        i = some.index(CATS[worse])
        assert not done.flagged_B[i]
        assert done.seeds[i] == seed_of(0, "flagged", CATS[worse].key)
        assert apart(done.drawn[i, -1], second[worse]) <= 1


PICKLED = {"unet": "diffusion_pytorch_model.bin", "text_encoder": "pytorch_model.bin"}


def pickled(folder, part):
    """The weights as torch.save writes them, under the name that the libraries look for."""
    weights = next(f for f in (folder / part).glob("*.safetensors") if "fp16" not in f.name)
    torch.save(load_file(weights), weights.with_name(PICKLED[part]))
    weights.unlink()


def halved(folder, *parts):
    """The parts' weights in half precision, as save_pretrained(variant="fp16") names them, and no others."""
    for part in parts:
        weights = next((folder / part).glob("*.safetensors"))
        save_file(
            {n: t.half() if t.is_floating_point() else t for n, t in load_file(weights).items()},
            weights.with_suffix(".fp16.safetensors"),
            {"format": "pt"},
        )
        weights.unlink()


@pytest.mark.parametrize("parts", [("unet", "vae", "text_encoder"), ("unet",), ("text_encoder",)])
def test_weights_in_half_precision_alone_are_read(sd_copy, parts):
    whole = e.draw_prompts(e.load(ModelConfig(name=str(sd_copy)), QUICK), CATS[:1], QUICK, 0)
    halved(sd_copy, *parts)
    model = e.load(ModelConfig(name=str(sd_copy)), QUICK)
    assert {p.dtype for p in model.pipeline.unet.parameters()} == {torch.float32}
    assert apart(e.draw_prompts(model, CATS[:1], QUICK, 0), whole) <= 3


def test_where_there_are_both_the_whole_weights_are_read(sd_copy):
    weights = next((sd_copy / "unet").glob("*.safetensors"))
    save_file({"nothing": torch.zeros(1)}, weights.with_suffix(".fp16.safetensors"), {"format": "pt"})
    e.load(ModelConfig(name=str(sd_copy)), QUICK)


def test_weights_in_half_precision_are_read_beside_a_pickle(sd_copy):
    for part in ("unet", "text_encoder"):
        weights = next((sd_copy / part).glob("*.safetensors"))
        shutil.copy(weights, weights.with_suffix(".fp16.safetensors"))
        pickled(sd_copy, part)
    e.load(ModelConfig(name=str(sd_copy)), QUICK)


BREAKS = {
    "no folder": (lambda m: shutil.rmtree(m), "no such folder, not shipped"),
    "no index": (lambda m: (m / "model_index.json").unlink(), "model_index.json is missing"),
    "pixel model": (
        lambda m: change(m / "model_index.json", _class_name="DDPMPipeline"),
        "its unet is UNet2DConditionModel",
    ),
    "own code": (lambda m: change(m / "model_index.json", unet=["mine", "UNet"]), "unet comes with code"),
    "no unet": (lambda m: shutil.rmtree(m / "unet"), "unet/ is missing"),
    "no weights": (lambda m: next((m / "vae").glob("*.safetensors")).unlink(), "vae/.* is missing"),
    "pickled unet": (lambda m: pickled(m, "unet"), "unet has its weights only as pickle"),
    "pickled words": (lambda m: pickled(m, "text_encoder"), "text_encoder has its weights only as pickle"),
    "other weights": (lambda m: change(m / "unet/config.json", block_out_channels=[8, 8]), "model"),
    "cut weights": (lambda m: next((m / "unet").glob("*.saf*")).write_bytes(b"12345678{"), "model"),
}


@pytest.mark.parametrize("how", BREAKS)
def test_a_broken_model_is_one_clear_line(sd_copy, how):
    damage, words = BREAKS[how]
    damage(sd_copy)
    with pytest.raises(ValueError, match=words) as error:
        e.load(ModelConfig(name=str(sd_copy)), QUICK)
    assert "\n" not in str(error.value)
    assert str(sd_copy) in str(error.value)


def test_pickles_are_not_read_even_where_they_lie_beside(sd_copy, model):
    for part in ("unet", "text_encoder"):
        (sd_copy / part / "pytorch_model.bin").write_bytes(b"never read")
        (sd_copy / part / "diffusion_pytorch_model.bin").write_bytes(b"never read")
    again = e.load(ModelConfig(name=str(sd_copy)), QUICK)
    assert apart(e.draw_prompts(again, CATS, QUICK, 0), e.draw_prompts(model, CATS, QUICK, 0)) <= 1


def test_an_inpainting_unet_is_refused(sd_copy):
    pipe = StableDiffusionPipeline.from_pretrained(sd_copy, use_safetensors=True)
    config = {**pipe.unet.config, "in_channels": 9}
    type(pipe.unet).from_config(config).save_pretrained(sd_copy / "unet")
    with pytest.raises(ValueError, match="takes 9 channels and its vae gives 4"):
        e.load(ModelConfig(name=str(sd_copy)), QUICK)


def test_more_steps_than_the_model_has_are_refused_at_once(sd_folder):
    with pytest.raises(ValueError, match=r"text\.steps=1001: the model has 1000"):
        e.load(ModelConfig(name=str(sd_folder)), TextRecipe(steps=1001))
