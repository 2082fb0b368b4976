"""lora's loop in this process: resuming, the cache, parts, what is trained and what is kept."""

import dataclasses
import io

import pytest
import safetensors.torch
import torch
from loras import alone, config_of, filled, make, weights

from noiseweave.engine.lora import weights as lora_weights
from noiseweave.jobs.lora import input as lora_input


@pytest.fixture
def trained(hole_folder, tmp_path):
    """(more options, checkpoint) -> the link of a loop on pictures with masks."""
    data = make(tmp_path / "data")

    def run(*more, checkpoint=None, model=hole_folder, data=data):
        config = config_of(data, model, tmp_path / "out", "--cache", tmp_path / "cache", *more)
        return alone(config, filled(config), checkpoint)

    return run


def test_from_a_checkpoint_it_goes_on_to_the_same_adapter(trained):
    more = ("--checkpoint.every", "3", "--ema", "0.9", "--lora.dropout", "0.2", "--accum", "2")
    undisturbed = trained(*more)
    resumed = trained(*more, checkpoint=undisturbed.saved[3])
    assert [row["step"] for row in resumed.rows] == [4, 5, 6]
    assert resumed.losses() == undisturbed.losses()[3:]
    ours, theirs = weights(resumed, 6), weights(undisturbed, 6)
    assert all(torch.equal(ours[n], theirs[n]) for n in theirs)
    assert not all(torch.equal(weights(undisturbed, 3)[n], theirs[n]) for n in theirs)


def test_a_checkpoint_holds_what_is_trained_and_no_more(trained):
    link = trained("--steps", "1")
    saved = safetensors.torch.load(link.saved[1]["model.safetensors"])
    assert all(".lora_" in name for name in saved)
    state = torch.load(io.BytesIO(link.saved[1]["optimizer.pt"]), weights_only=True)
    assert len(state["optimizers"]["lora"]["state"]) == len(saved)
    assert {w.dtype for w in saved.values()} == {torch.float32}


def test_with_and_without_the_cache_it_learns_the_same(trained):
    cached, bare = trained("--lr", "1e-3"), trained("--lr", "1e-3", "--cache", "off")
    assert bare.losses() == pytest.approx(cached.losses(), rel=5e-3)
    assert bare.losses() != cached.losses()


def test_batch_and_accumulation_multiply(trained):
    whole = trained("--batch", "4", "--accum", "1").losses()
    for batch, accum in (("2", "2"), ("1", "4")):
        assert trained("--batch", batch, "--accum", accum).losses() == pytest.approx(whole, rel=1e-4)


def test_checkpointing_changes_memory_alone(trained):
    assert trained("--gradient_checkpointing").losses() == pytest.approx(trained().losses(), rel=1e-5)


def test_a_model_learns_what_it_is_shown(trained):
    more = ("--steps", "40", "--batch", "4", "--validation.share", "0.2", "--validation.every", "20")
    rows = trained(*more).rows
    held = [row["validation_loss"] for row in rows if "validation_loss" in row]
    assert [row["step"] for row in rows if "validation_loss" in row] == [0, 20, 40]
    assert held[2] < held[1] < held[0]


def test_random_holes_are_of_the_seed_and_differ_from_step_to_step(trained, tmp_path):
    bare = make(tmp_path / "bare", masks=None)
    one, same, other = (
        trained("--steps", "3", "--seed", seed, data=bare).losses() for seed in ("0", "0", "1")
    )
    assert one == same
    assert one != other


def test_a_plain_model_learns_without_holes(trained, kl_folder):
    link = trained("--data.masks", "false", model=kl_folder)
    assert len(link.rows) == 6
    layers = lora_weights.layers_in(kl_folder)
    lora_weights.read(lora_weights.Lora(name="x", data=link.saved[6]["lora_unet_kohya.safetensors"]), layers)


def test_partial_trains_the_projections_themselves(trained):
    link = trained("--method", "partial", "--steps", "2")
    own = weights(link, 2, "unet_partial_tuned.safetensors")
    assert all(name.split(".")[-2] in ("to_q", "to_k", "to_v", "0") for name in own)
    assert "lora_unet.safetensors" not in link.saved[2]


def test_the_text_encoder_learns_too(trained):
    link = trained("--lora.text_encoder", "--steps", "2")
    names = weights(link, 2)
    assert any(name.startswith("text_encoder.") for name in names)
    ups = [w for n, w in names.items() if n.startswith("text_encoder.") and "lora_B" in n]
    assert any(w.abs().max() > 0 for w in ups)


def test_pictures_of_the_class_pull_with_their_weight(trained, tmp_path):
    prior = make(tmp_path / "class", count=4, masks=None, captions=False)
    plain = trained("--steps", "1").losses()[0]
    once, twice = (
        trained("--steps", "1", "--prior", prior, "--objective.prior_weight", w).losses()[0] for w in "12"
    )
    assert once > plain
    assert twice - plain == pytest.approx(2 * (once - plain), rel=1e-4)


def test_bf16_is_near_and_min_snr_and_the_noise_offset_have_an_effect(trained):
    full, half = trained("--steps", "2").losses(), trained("--steps", "2", "--precision", "bf16").losses()
    assert half == pytest.approx(full, rel=0.03)
    for more in (("--objective.min_snr", "1"), ("--objective.noise_offset", "0.1")):
        assert trained("--steps", "2", *more).losses()[0] != full[0]


def test_validation_draws_the_held_out_pictures(trained, tmp_path):
    more = ("--validation.share", "0.2", "--validation.pictures", "1", "--validation.steps", "1")
    trained("--steps", "1", *more)
    names = sorted(p.name for p in (tmp_path / "out" / "validation").iterdir())
    assert names == ["000000000.png", "000000001.png"]


def test_a_folder_that_is_gone_is_one_clear_failure(hole_folder, tmp_path):
    config = config_of(make(tmp_path / "data"), hole_folder, tmp_path / "out", "--cache", "off")
    source = dataclasses.replace(lora_input.gather(config), folders=(str(tmp_path / "gone"),))
    link = alone(config, source)
    assert "gone' is not to be seen on node" in link.failure
    assert link.rows == []
