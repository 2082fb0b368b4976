"""The train loop in this process: parts, resuming, what stops it, what a checkpoint holds."""

import io
import json
import os

import numpy as np
import pytest
import safetensors.torch
import torch
from training import alone, config_of, make_digits, make_shards

from noiseweave.cluster.streams import Raw
from noiseweave.engine.training import systems
from noiseweave.engine.training.systems import Batch
from noiseweave.jobs.train import batches as train_data
from noiseweave.jobs.train import input as train_input
from noiseweave.jobs.train.config import blueprint


@pytest.fixture(scope="module")
def squares(tmp_path_factory):
    return make_shards(tmp_path_factory.mktemp("squares"))


def weights(link, step):
    return safetensors.torch.load(link.saved[step]["model.safetensors"])


KINDS = {
    "ddpm": [],
    "flow": ["--model.kind", "flow", "--objective.coupling", "optimal_transport"],
    "dcgan": ["--model.kind", "dcgan", "--data.size", "16"],
}


@pytest.mark.parametrize("kind", KINDS)
def test_from_a_checkpoint_it_goes_on_to_the_same_weights_and_losses(kind, squares, tmp_path):
    config = config_of(squares, tmp_path / "out", "--steps", "10", *KINDS[kind])
    undisturbed = alone(config)
    resumed = alone(config, undisturbed.saved[5])
    assert resumed.earlier == undisturbed.rows[:5], "the log of a killed run has no gap"
    assert [row["step"] for row in resumed.rows] == [6, 7, 8, 9, 10]
    for name in (k for k in resumed.rows[0] if k.startswith("loss")):
        assert resumed.losses(name) == undisturbed.losses(name)[5:]
    for file in ("model.safetensors", "ema.safetensors"):
        ours = safetensors.torch.load(resumed.saved[10][file])
        theirs = safetensors.torch.load(undisturbed.saved[10][file])
        assert all(torch.equal(ours[n], theirs[n]) for n in theirs), file


def test_the_first_weights_and_the_data_are_the_seeds(squares, tmp_path):
    one, same, other = (
        alone(config_of(squares, tmp_path / "out", "--steps", "2", "--seed", s)).losses() for s in "001"
    )
    assert one == same
    assert one[0] != other[0]


def test_parts_of_a_batch_add_up_to_the_batch(squares, tmp_path):
    more = ("--steps", "8", "--data.streams", "1")
    whole, parts = (
        alone(config_of(squares, tmp_path / "out", *more, "--accumulate", n)).losses() for n in "13"
    )
    assert parts == pytest.approx(whole, rel=1e-4)


def test_the_coupling_of_parts_is_over_the_whole_batch(squares, tmp_path):
    more = ("--steps", "4", *KINDS["flow"])
    whole, parts = (
        alone(config_of(squares, tmp_path / "out", *more, "--accumulate", n)).losses() for n in "12"
    )
    assert parts == pytest.approx(whole, rel=1e-4)
    more = ("--steps", "4", "--model.kind", "flow")
    independent = alone(config_of(squares, tmp_path / "out", *more)).losses()
    assert independent[0] > whole[0], "paths to nearer noises are shorter"


def test_streams_change_the_order_and_any_buffer_reads_each_picture_once_an_epoch(squares, tmp_path):
    """30 pictures, 6 a batch: 5 steps are an epoch, whose mean picture is that of the data."""
    means = []
    for streams, buffer in (("1", "1"), ("2", "8"), ("6", "100")):
        more = ("--batch", "6", "--data.streams", streams, "--data.buffer", buffer, "--steps", "5")
        batches = list(parts_of(config_of(squares, tmp_path / "out", *more)))
        x0 = torch.cat([b.x0 for b in batches])
        assert x0.shape == (30, 1, 8, 8)
        means.append(x0.double().mean(0))
    torch.testing.assert_close(means[0], means[1], atol=1e-6, rtol=0)
    torch.testing.assert_close(means[0], means[2], atol=1e-6, rtol=0)


def parts_of(config, rank=0, world=1, bad=lambda raw, e: None):
    source = train_input.survey(config)
    for parts in train_data.batches(
        config, source, train_data.streams_of(config, rank, world), 0, (1, 8, 8), bad, 1
    ):
        yield from parts


@pytest.mark.parametrize("world", [2, 4])
def test_workers_share_a_batch_out_in_order_with_fewer_shards_than_workers(world, tmp_path):
    config = config_of(make_digits(tmp_path / "digits"), tmp_path / "out", "--steps", "3")
    whole = list(parts_of(config))
    shares = [list(parts_of(config, rank, world)) for rank in range(world)]
    for step, batch in enumerate(whole):
        for name in ("x0", "label", "eps", "time", "hide"):
            joined = torch.cat([getattr(share[step], name) for share in shares])
            assert torch.equal(joined, getattr(batch, name)), name


def test_flip_mirrors_half_of_the_pictures_and_changes_nothing_else(squares, tmp_path):
    more = ("--batch", "30", "--steps", "1", "--data.streams", "1")
    (plain,) = parts_of(config_of(squares, tmp_path / "out", *more))
    (flipped,) = parts_of(config_of(squares, tmp_path / "out", *more, "--data.flip", "true"))
    assert torch.equal(plain.eps, flipped.eps)
    same = (plain.x0 == flipped.x0).flatten(1).all(1)
    mirrored = (plain.x0.flip(3) == flipped.x0).flatten(1).all(1)
    assert (same | mirrored).all()
    assert 5 < mirrored.sum() < 25


def test_a_latent_that_is_no_array_or_a_pickle_is_refused():
    buffer = io.BytesIO()
    np.save(buffer, np.array([{"a": 1}]), allow_pickle=True)
    for data in (buffer.getvalue(), b"junk", b""):
        with pytest.raises(ValueError, match="bad_latent: "):
            train_data.latent(Raw(shard="s", key="k", data=data))


def test_a_loss_that_is_not_finite_stops_the_run_and_saves_nothing_more(squares, tmp_path):
    link = alone(config_of(squares, tmp_path / "out", "--optimizer.lr", "1e30", "--optimizer.warmup", "0"))
    assert "not finite in steps" in link.failure
    assert len(link.rows) < 20
    for step in link.saved:
        assert all(torch.isfinite(w).all() for w in weights(link, step).values())


def test_a_checkpoint_opens_without_unpickling(squares, tmp_path):
    link = alone(config_of(squares, tmp_path / "out", "--steps", "1"))
    state = torch.load(io.BytesIO(link.saved[1]["optimizer.pt"]), weights_only=True)
    assert state["step"] == 1
    assert len(state["optimizers"]["unet"]["state"]) > 0


def test_nothing_that_can_be_decoded_is_one_clear_failure_and_is_listed(tmp_path):
    link = alone(config_of(make_shards(tmp_path / "bad", count=4, spoil=range(4)), tmp_path / "out"))
    assert link.failure.startswith("none of ")
    assert "pictures can be decoded" in link.failure
    assert link.rows == []
    (file,) = (tmp_path / "out" / "_run" / "bad").iterdir()
    keys = {json.loads(line)["key"] for line in file.read_text().splitlines()}
    assert keys <= {"000", "001", "002", "003"}
    assert keys


def test_a_shard_that_goes_away_while_it_trains_is_one_clear_failure(tmp_path):
    config = config_of(make_shards(tmp_path / "here"), tmp_path / "out")
    source = train_input.survey(config)
    os.remove(tmp_path / "here" / "001.tar")
    link = alone(config, source=source)
    assert "001.tar was readable when training began and no longer is" in link.failure


def test_weights_in_bf16_stay_float32_and_the_loss_is_near(squares, tmp_path):
    full, half = (
        alone(config_of(squares, tmp_path / "out", "--steps", "4", "--precision", p))
        for p in ("fp32", "bf16")
    )
    assert half.losses() == pytest.approx(full.losses(), rel=0.05)
    assert half.losses() != full.losses()
    assert {w.dtype for w in weights(half, 4).values()} == {torch.float32}


def test_the_gradient_is_clipped(squares, tmp_path):
    """One step of AdamW moves each weight by lr, whatever the gradient; far below its epsilon it moves less."""
    start = systems.build(blueprint(config_of(squares, tmp_path / "out"), 0)).networks["unet"].state_dict()
    moves = {}
    for clip in ("0", "1e-12"):
        more = ("--steps", "1", "--optimizer.warmup", "0", "--optimizer.weight_decay", "0")
        link = alone(config_of(squares, tmp_path / "out", *more, "--optimizer.clip", clip))
        after = weights(link, 1)
        moves[clip] = max(float((after[f"unet.{n}"] - w).abs().max()) for n, w in start.items())
    assert moves["0"] == pytest.approx(2e-3, rel=1e-2)
    assert moves["1e-12"] < 1e-5


def test_a_batch_is_in_minus_one_to_one_and_times_are_of_the_seed(squares, tmp_path):
    batch = next(parts_of(config_of(squares, tmp_path / "out")))
    assert isinstance(batch, Batch)
    assert batch.x0.dtype == torch.float32
    assert float(batch.x0.min()) >= -1
    assert float(batch.x0.max()) == pytest.approx(250 / 127.5 - 1)
    assert (batch.label == -1).all()
    assert ((batch.time >= 0) & (batch.time < 1)).all()
