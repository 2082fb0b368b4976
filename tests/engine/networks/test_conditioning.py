"""What a latent model is told: the pipelines' own calls, guidance, words mixed by weight."""

import pytest
import torch
from diffusers import DDIMScheduler
from ends import noise_in
from latent_models import QUICK, TEXTS, psnr, remade, there_and_back, told

from noiseweave.engine.fusion import groups
from noiseweave.engine.networks import latent_backbone, paths, text_encoding
from noiseweave.engine.networks.recipes import PromptRecipe


def by_hand(model, x, t, texts, guidance):
    """Row by row, each half a call of its own; the target is v."""
    pipe, out = model.text.pipeline, []
    for i, text in enumerate(texts):
        words = [pipe.encode_prompt(w, "cpu", 1, False)[0] for w in ("", text)]
        unconditional, with_words = (pipe.unet(x[i : i + 1], t[i], w).sample for w in words)
        v = unconditional + guidance * (with_words - unconditional)
        out.append(v)
    return torch.cat(out)


@pytest.mark.parametrize("guidance", [1.0, 7.0])
@torch.no_grad()
def test_the_prediction_is_that_of_a_loop_by_hand(sd, guidance):
    g = torch.Generator().manual_seed(3)
    x, t = torch.randn(6, 4, 4, 4, generator=g), torch.tensor([900, 900, 900, 20, 20, 20])
    denoise = sd.conditioned(sd.words(TEXTS), guidance)  # rows: time steps outermost, prompts within
    torch.testing.assert_close(denoise(x, t), by_hand(sd, x, t, TEXTS * 2, guidance), rtol=1e-3, atol=1e-4)
    silent = by_hand(sd, x, t, [""] * 6, 1.0)
    torch.testing.assert_close(sd.denoise(x, t), silent, rtol=1e-3, atol=1e-4)
    assert (denoise(x, t)[:2] - silent[:2]).abs().max() > 1e-3  # the words are heard


@torch.no_grad()
def test_a_replay_is_that_of_a_loop_by_hand(sd, images):
    prompts = told(2, target="two dogs", guidance_source=2.0, guidance_target=4.0)
    s, maps = groups.invert_pictures(sd, images[:2], "ab", QUICK, 0, prompts)
    out = groups.fuse_pictures(
        sd, groups.Inverted(path=s, maps=maps[:1], prompts=prompts), [("linear", [1.0])]
    )
    x = maps[0].x_T_CHW[None]
    for i, t in enumerate(s.t_T):
        v = by_hand(sd, x, t[None], ["two dogs"], 4.0)
        x = s.mean(x, v, i) + maps[0].residual_TCHW[i]
    torch.testing.assert_close(out, x, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("guidance", [1.0, 5.0])
def test_sdxl_is_told_what_its_pipeline_tells_it(xl, guidance):
    """The network's arguments, against those in the pipeline's own call."""
    seen, pipe = [], xl.text.pipeline

    def look(_module, positional, named):
        seen.append((named["encoder_hidden_states"], named["added_cond_kwargs"]))

    handle = pipe.unet.register_forward_pre_hook(look, with_kwargs=True)
    x = torch.randn(1, 4, 4, 4, generator=torch.Generator().manual_seed(0))
    try:
        pipe("a cat", latents=x, num_inference_steps=1, guidance_scale=guidance, output_type="latent")
        xl.conditioned(xl.words(["a cat"]), guidance)(x, torch.tensor([500]))
    finally:
        handle.remove()
    (theirs, their_more), (ours, our_more) = seen[0], seen[-1]
    assert len(ours) == (1 if guidance == 1 else 2)
    torch.testing.assert_close(ours, theirs)
    assert ours.shape[1:] == (77, 64)
    for name in ("text_embeds", "time_ids"):
        torch.testing.assert_close(our_more[name], their_more[name])
    assert our_more["time_ids"][0].tolist() == [32, 32, 0, 0, 32, 32]


def sizes_of(model, ask):
    """Rows in each call of the network."""
    seen = []
    handle = model.unet.register_forward_hook(lambda _m, args, _out: seen.append(len(args[0])))
    ask()
    handle.remove()
    return seen


def test_one_call_holds_both_halves_and_no_second_where_none_is_needed(sd):
    x, t = torch.zeros(3, 4, 4, 4), torch.tensor([500] * 3)
    rows = lambda words, guidance: sizes_of(sd, lambda: sd.conditioned(sd.words(words), guidance)(x, t))  # noqa: E731
    assert rows(TEXTS, 3.5) == [6]
    assert rows(TEXTS, 1) == [3]
    assert rows([""], 3.5) == [3], "no words against no words is no guidance"


@torch.no_grad()
def test_the_network_sees_one_order_in_memory_whatever_it_is_given(sd, digits_model):
    for model, channels in ((sd, 4), (digits_model(), 1)):
        seen = []
        handle = model.unet.register_forward_hook(lambda _m, args, _o, seen=seen: seen.append(args[0]))
        x, t = (
            torch.zeros(2, 2 * channels, 16, 16)[:, ::2].to(memory_format=torch.channels_last),
            torch.tensor([500] * 2),
        )
        model.parts(x, t) if channels == 1 else model.conditioned(model.words(TEXTS[:2]), 3.0)(x, t)
        handle.remove()
        assert all(x.is_contiguous() for x in seen)


@torch.no_grad()
def test_a_row_outside_the_interval_of_guidance_costs_one_row_and_is_the_conditional_one(sd):
    """sigma of its noise schedule at t = 20, 500, 900: 0.16, 0.91, 1.0."""
    g = torch.Generator().manual_seed(5)
    x, t = torch.randn(6, 4, 4, 4, generator=g), torch.tensor([900, 900, 500, 500, 20, 20])
    assert (paths.sigma_of(sd.scheduler, t) > 0.95).tolist() == [True] * 2 + [False] * 4
    words = sd.words(TEXTS[:2])
    guided, plain = sd.conditioned(words, 5.0)(x, t), sd.conditioned(words, 1.0)(x, t)
    inside = sd.conditioned(words, 5.0, (0.5, 0.95))
    assert sizes_of(sd, lambda: inside(x, t)) == [8]
    out = inside(x, t)
    torch.testing.assert_close(out[2:4], guided[2:4], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(out[[0, 1, 4, 5]], plain[[0, 1, 4, 5]], rtol=1e-4, atol=1e-5)
    assert (guided - plain).abs().amax((1, 2, 3)).min() > 1e-3
    assert sizes_of(sd, lambda: inside(x[:2], t[:2])) == [2]
    assert sizes_of(sd, lambda: sd.conditioned(words, 1.0, (0.5, 0.95))(x, t)) == [6]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("micro_batch", [0, 3])
def test_pictures_come_back_with_an_interval_of_guidance(sd, images, precision, micro_batch):
    """Rows of several steps share a call in the inversion, and not in the replay."""
    model = remade(sd, precision=precision, micro_batch=micro_batch)
    prompts = told(guidance_source=5.0, guidance_interval=(0.3, 0.9))
    path = model.path(QUICK)
    inside = int(((path.sigma_T >= 0.3) & (path.sigma_T <= 0.9)).sum())
    assert 0 < inside < len(path)
    seen = sizes_of(model, lambda: groups.invert_pictures(model, images, "abc", QUICK, 0, prompts))
    # the third text is the empty one, guided with the rest
    assert sum(seen) == 3 * (len(path) + inside)
    x, z = there_and_back(model, images, prompts)
    assert psnr(x, z) > (100 if precision == "fp32" else 55)


def test_the_prediction_type_makes_no_difference(sd):
    """The same noise from a network that predicts v, and from one that predicts it outright."""
    g = torch.Generator().manual_seed(1)
    x, t, words = torch.randn(3, 4, 4, 4, generator=g), torch.tensor([30, 500, 900]), sd.words(TEXTS)
    expected = noise_in(sd, sd.conditioned(words, 4.0)(x, t), x, t)
    a = sd.scheduler.alphas_cumprod[t].view(-1, 1, 1, 1)

    class Outright(torch.nn.Module):
        config = sd.unet.config

        def forward(self, x_in, t_in, return_dict, **named):
            a_in = torch.cat([a, a]).to(x_in)
            return ((1 - a_in).sqrt() * x_in + a_in.sqrt() * sd.unet(x_in, t_in, **named).sample,)

    scheduler = DDIMScheduler.from_config(sd.scheduler.config, prediction_type="epsilon")
    other = latent_backbone.LatentBackbone(
        latent_backbone.LatentNetworks(unet=Outright(), vae=sd.vae, text=sd.text), scheduler
    )
    assert sd.scheduler.config.prediction_type == "v_prediction"
    torch.testing.assert_close(other.conditioned(words, 4.0)(x, t), expected, rtol=1e-4, atol=1e-4)


# words mixed


def test_words_are_mixed_by_weight(xl):
    words = xl.words(["a cat", "two dogs", "a bird"])
    mixed = words.mixed(
        [[(0, 1.0), (1, 0.0)], [(0, 0.0), (1, 1.0)], [(2, 0.5), (2, 0.5)], [(0, 0.25), (1, 0.75)]]
    )
    assert set(mixed.conditional) == {"prompt_embeds", "pooled_prompt_embeds"}
    for name, x in mixed.conditional.items():
        own = words.conditional[name]
        assert all(torch.equal(x[i], own[p]) for i, p in ((0, 0), (1, 1), (2, 2)))
        torch.testing.assert_close(x[3], text_encoding.slerp(own[0], own[1], 0.75))
    three = words.mixed([[(0, 2.0), (1, 1.0), (2, 1.0)], [(0, 0.0), (1, 0.0), (2, 3.0)]])
    own = words.conditional["prompt_embeds"]
    step = text_encoding.slerp(own[0], own[1], 1 / 3)
    torch.testing.assert_close(
        three.conditional["prompt_embeds"][0], text_encoding.slerp(step, own[2], 1 / 4)
    )
    assert torch.equal(three.conditional["prompt_embeds"][1], own[2])


def test_what_pictures_are_told():
    of = lambda **fields: PromptRecipe(**fields).of(["3", "ant", None], ["a {label}", None, "x"])  # noqa: E731
    assert of().source == of().target == ("a {label}", "", "x")  # a caption's own braces stay
    assert of(template="one {label}").source == ("one 3", "one ant", "x")
    assert of(template="{caption}, {label}").source == ("a {label}, 3", "", "x")
    assert of(source="y", target="{label} oil").target == ("3 oil", "ant oil", "y")
    assert of(source=("p", "q", "r")).target == ("p", "q", "r")
    scales = lambda **fields: (of(**fields).guidance_source, of(**fields).guidance_target)  # noqa: E731
    assert scales() == (1, 1)
    assert scales(target="z") == (3.5, 15)
    assert scales(guidance_source=2.0) == (2, 2)
    assert scales(target="z", guidance_source=2.0, guidance_target=1.0) == (2, 1)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"guidance_source": 0.5}, r"prompt\.guidance_source=0\.5: 1 \(off\) to 100"),
        ({"guidance_target": 101.0}, r"prompt\.guidance_target=101"),
        ({"source": "a", "template": "b"}, "either source or template"),
        (
            {"guidance_interval": (0.8, 0.2)},
            r"prompt\.guidance_interval=\(0\.8, 0\.2\): 0 to 1, the lower end",
        ),
        ({"guidance_interval": (0.0, 1.5)}, r"prompt\.guidance_interval=\(0\.0, 1\.5\)"),
    ],
)
def test_wrong_prompts(fields, words):
    with pytest.raises(ValueError, match=words):
        PromptRecipe(**fields)
    with pytest.raises(ValueError, match="one for each of the 3 pictures"):
        PromptRecipe(source=("a", "b")).of([None] * 3, [None] * 3)
