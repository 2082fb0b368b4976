"""The benchmarks: the scores of base models in full, the others once with models as small as can be."""

import argparse
import importlib
import io
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from noiseweave.jobs.pack import config as pack_config

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture(scope="module")
def modules():
    """(base_models, digits_classifier) of benchmarks/, found as when they are run."""
    sys.path.insert(0, str(BENCHMARKS))
    import base_models
    import digits_classifier

    yield base_models, digits_classifier
    sys.path.remove(str(BENCHMARKS))


@pytest.fixture(scope="module")
def bench(modules):
    return modules[0]


@pytest.fixture(scope="module")
def classifier(modules):
    return modules[1]


@pytest.fixture(scope="module")
def judge(bench):
    return bench.Judge(count=40, seed=0)


def test_the_halves_are_those_of_pack(classifier):
    from noiseweave.engine.pictures import images
    from noiseweave.jobs.pack import digits
    from noiseweave.jobs.pack.samples import Tally

    config = pack_config.Config(dataset="digits", size=16, validation=0.5, output="unused")
    sides = {True: {}, False: {}}
    for sample in digits.samples(config, Tally(sides=[])):
        picture = images.decode(sample.files["png"], 1)
        sides[sample.held_out][picture.tobytes()] = sample.label
    train, test = classifier.halves()
    assert len(train.label_N) + len(test.label_N) == 1797
    for half, side in ((train, sides[False]), (test, sides[True])):
        assert {x.tobytes(): y for x, y in zip(half.image_NHWC, half.label_N, strict=True)} == side


def test_training_is_a_function_of_the_seed(classifier):
    half = classifier.halves()[0]
    few = classifier.Digits(image_NHWC=half.image_NHWC[:128], label_N=half.label_N[:128])
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    one, again, other = (classifier.train(few, seed, epochs=2).last.weight for seed in (0, 0, 1))
    assert torch.equal(one, again)
    assert not torch.allclose(one, other)
    assert torch.rand(1) == expected


def test_real_digits_are_known_and_nearer_than_noise(judge):
    assert judge.about["accuracy"] > 0.97
    r = judge.reference
    assert r["real_whole_half"] < r["real"] < r["uniform_noise"] / 3
    assert judge.distance(judge.test.image_NHWC) == pytest.approx(0, abs=1e-6)
    ones = judge.test.image_NHWC[judge.test.label_N == 1]
    assert judge.distance(ones) > 3 * r["real"]


def test_colour_and_large_pictures_are_made_grey_and_small(bench):
    image = np.zeros((2, 32, 32, 3), np.uint8)
    image[..., 0] = 90
    assert np.array_equal(bench.grey(image), np.full((2, 16, 16, 1), 30))


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A folder with a tiny untrained model of each kind."""
    from noiseweave.engine.networks import base_models
    from noiseweave.engine.training import systems
    from noiseweave.engine.training.recipes import ModelRecipe, ObjectiveRecipe, ScheduleRecipe, UnetRecipe

    folder = tmp_path_factory.mktemp("models")
    for kind, classes in (("ddpm", 10), ("flow", 10), ("linear_mixing", 0), ("vae", 0), ("dcgan", 0)):
        plan = systems.Blueprint(
            model=ModelRecipe(kind=kind, classes=classes, width=4, latent=8),
            objective=ObjectiveRecipe(),
            unet=UnetRecipe(channels=(8, 8), attention=()),
            schedule=ScheduleRecipe(kind="cosine"),
            classes=classes,
            size=16,
            channels=1,
            seed=0,
        )
        base_models.save(systems.build(plan).model, folder / kind, torch.float32)
    (folder / "flow/_run").mkdir()
    (folder / "flow/_run/config.json").write_text(json.dumps({"batch": 16, "steps": 20}))
    row = {"loss": 1.0, "step": 20, "seconds_per_step": 0.5}
    (folder / "flow/_run/log.jsonl").write_text(json.dumps({"step": 10}) + "\n" + json.dumps(row) + "\n")
    return folder


def test_each_kind_is_scored_and_told(bench, judge, models, tmp_path, monkeypatch):
    few = bench.SamplerRecipe
    chain, curve = [few(name="ddim", steps=10)], [few(name="euler", steps=10), few(name="heun", steps=2)]
    monkeypatch.setattr(bench, "WAYS", bench.WAYS | {"ddpm": chain, "flow": curve, "linear_mixing": curve})
    monkeypatch.setattr(bench, "GUIDED_STEPS", (3, 4))
    page = tmp_path / "base_models.md"
    page.write_text(f"before\n{bench.BEGIN}\nold\n{bench.END}\nafter\n")
    args = argparse.Namespace(models=models, out=tmp_path / "out.json", docs=tmp_path, count=40, seed=0)
    bench.run(args, judge)
    result = json.loads(args.out.read_text())
    entries = {e["name"]: e for e in result["models"]}
    assert set(entries) == {"ddpm", "flow", "linear_mixing", "vae", "dcgan"}
    assert [(r["sampler"], r["guidance"], r["calls"]) for r in entries["flow"]["samples"]] == [
        ("Euler 10", 1, 10),
        ("Heun 2", 1, 4),
        ("Euler 3", 2, 3),
        ("Euler 4", 2, 4),
    ]
    assert [r["sampler"] for r in entries["vae"]["samples"]] == ["one call"]
    assert {n: entries[n]["steps"] for n in ("flow", "vae")} == {"flow": 20, "vae": None}
    assert entries["flow"]["seconds"] == 10
    told = {n: e["samples"][0]["accuracy"] is not None for n, e in entries.items()}
    assert told == {"ddpm": True, "flow": True, "linear_mixing": False, "vae": False, "dcgan": False}
    [duel] = result["duels"]
    euler, ddim = (entries[n]["samples"][0]["frechet"] for n in ("flow", "ddpm"))
    assert (duel["euler_10"], duel["ddim_10"]) == (euler, ddim)
    text = page.read_text()
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "old" not in text
    assert f"{'beats' if euler < ddim else 'does not beat'} `ddpm`" in text
    for name in entries:
        assert f"(base_models/{name}.png)" in text
        data = (tmp_path / f"base_models/{name}.png").read_bytes()
        assert len(data) < 60_000
        assert Image.open(io.BytesIO(data)).size == (8 * 54 + 6, 4 * 54 + 12)


def test_the_same_weights_are_not_drawn_again(bench, judge, models, tmp_path, monkeypatch):
    drawn = []
    measure = bench.measure
    monkeypatch.setattr(bench, "measure", lambda *a: drawn.append(a[0].kind) or measure(*a))
    alone = tmp_path / "models"
    alone.mkdir()
    for kind in ("vae", "dcgan"):
        (alone / kind).symlink_to(models / kind)
    args = argparse.Namespace(models=alone, out=tmp_path / "out.json", docs=None, count=40, seed=0)
    bench.run(args, judge)
    assert sorted(drawn) == ["dcgan", "vae"]
    first = json.loads(args.out.read_text())["models"]
    bench.run(args, judge)
    assert len(drawn) == 2
    assert json.loads(args.out.read_text())["models"] == first
    args.seed = 1
    bench.run(args, judge)
    assert len(drawn) == 4


def test_what_is_missing_is_said(bench, tmp_path):
    with pytest.raises(ValueError, match="none is there"):
        list(bench.found(tmp_path))
    (tmp_path / "base_models.md").write_text("no markers")
    with pytest.raises(ValueError, match="lacks the lines"):
        bench.write_page(tmp_path, "text")


# latent models


TINY = {
    "block_out_channels": (8, 8),
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "attention_head_dim": 2,
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "cross_attention_dim": 16,
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
}


@pytest.fixture(scope="module")
def latent(modules):
    """(latent_fusion, pipelines), with a tiny shape in place of Stable Diffusion 1.5's."""
    import latent_fusion
    import pipelines

    text = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 1}
    vae = {"block_out_channels": (8, 8, 8, 8), "norm_num_groups": 4, "layers_per_block": 1}
    pipelines.SHAPES["sd15"] = pipelines.Shape(size=32, unet=TINY, text=text, vae=vae)
    return latent_fusion, pipelines


def test_ours_and_the_published_loop_make_the_same_picture_from_other_numbers_of_rows(latent):
    from noiseweave.engine.diffusion.recipes import InversionRecipe

    bench, _ = latent
    args = argparse.Namespace(
        shape="sd15", device="cpu", precision="bf16", pictures=3, uses=2, micro_batch=0, repeats=1
    )
    chain = InversionRecipe(num_steps=6, skip=2)
    short = InversionRecipe(num_steps=4, skip=1, sampler="sde-dpm-solver++")
    result = bench.run(args, chain, short)
    bench.tell(json.loads(json.dumps(result)))
    rows = {
        r["name"]: (r["unet_rows_an_image"], round(r["unet_calls_an_image"] * 3)) for r in result["rungs"]
    }
    assert rows == {
        "published": (2 * 6 * 2 + 4 * 2, 3 * 32),
        "without the skipped steps": (2 * 4 * 2 + 4 * 2, 3 * 24),
        "and each picture inverted once": (4 * 2 + 4 * 2, 3 * 16),
        "and guidance in one call": (16, 3 * 8),
        "and in batches (ours, ddim)": (16, 1 + 4),
        "and bf16": (16, 2 + 4),  # 8 rows a call, doubled by guidance
        "and sde-dpm-solver++, 25 steps (ours)": (3 * 2 + 3 * 2, 2 + 3),
    }
    agree = result["psnr_of_the_same_fused_latents"]
    assert agree["last_step_kept_and_the_same"] > 100 > agree["last_step_kept"] > agree["as_published"] > 30
    machine = result["use_of_the_machine"]
    assert 0 < machine["share_over_all_of_ours"] < 1
    assert machine["dtype"] == "torch.bfloat16"


@torch.no_grad()
def test_published_inversion_and_replay_are_each_others_inverse_and_ours(latent):
    bench, pipelines = latent
    from noiseweave.engine.diffusion import inversion
    from noiseweave.engine.diffusion.recipes import InversionRecipe

    model = pipelines.backbone(pipelines.build(pipelines.SHAPES["sd15"]), "cpu")
    chain = InversionRecipe(num_steps=5, skip=1)
    work = bench.work_of(2, 2, 32, chain, chain)
    apart, words = bench.published_loop.halves_apart, model.words([bench.SOURCE])
    x_T, z = bench.invert_one(model, work, 0, True, apart, last=True)
    epsilon = apart(model, words, 3.5)
    back = bench.published_loop.replay(epsilon, model.scheduler, 5, x_T, z)
    torch.testing.assert_close(back, model.encode(work.image_NHWC[:1]))
    noise = inversion.draw_noise(chain, 4, tuple(back.shape[1:]), 0, "0")[:, None]
    [ours] = inversion.invert(model.conditioned(words, 3.5), model.path(chain), back, noise)
    torch.testing.assert_close(ours.x_T_CHW, x_T)
    sigma = [
        bench.published_loop.variance(a, b) ** 0.5
        for _, a, b in bench.published_loop.steps(model.scheduler, 5)
    ]
    residual = torch.stack([s * one for s, one in zip(sigma[1:], z, strict=True)])
    torch.testing.assert_close(ours.residual_TCHW[:-1], residual[:-1], rtol=1e-3, atol=1e-4)
    assert float(bench.invert_one(model, work, 0, False, bench.joined)[1][-1].abs().max()) == 0


def test_flops_are_those_of_the_matrix_products(latent):
    from torch import nn

    bench, _ = latent

    class Net(nn.Module):
        def forward(self, x, return_dict):
            y = x @ torch.ones(8, 16)
            return torch.nn.functional.scaled_dot_product_attention(y, y, y)

    x = torch.zeros(3, 2, 5, 8)
    assert bench.flops(Net(), {"x": x}) == 2 * (2 * 5 * 8 * 16) + 2 * (2 * 2 * 5 * 5 * 16)
    assert bench.matmul_rate("cpu", torch.float32) > 1e8


def test_reconstruction_is_scored_for_each_precision_and_sampler(latent, tmp_path, monkeypatch, capsys):
    import precision

    monkeypatch.setattr(precision, "PRECISIONS", ("fp32", "bf16"))
    out = tmp_path / "out.json"
    arguments = ["--steps", "4", "--teach", "2", "--pictures", "2", "--threads", "1", "--out", str(out)]
    monkeypatch.setattr(sys, "argv", ["precision.py", *arguments])
    precision.main()
    rows = json.loads(out.read_text())["rows"]
    assert {(r["precision"], r["sampler"]) for r in rows if r["model"] == "digits-ddpm"} == {
        (p, s) for p in ("fp32", "bf16") for s in ("ddim", "sde-dpm-solver++")
    }
    for row in rows:
        assert row["inverted"] > (100 if row["precision"] == "fp32" else 45)
        assert row["picture_of_encode_and_decode"] is None or row["model"] == "latent"
    assert "| digits-ddpm | bf16 | `sde-dpm-solver++` |" in capsys.readouterr().out
    assert precision.page([rows[0] | {"inverted": 61.25, "picture": None}]).endswith("| 61.2 | same | same |")


def test_ways_to_run_a_network_are_timed_against_the_plain_one(latent, tmp_path, monkeypatch):
    import tuning

    out = tmp_path / "out.json"
    arguments = ["--networks", "tiny", "--batches", "1", "2", "--repeats", "1", "--out", str(out)]
    monkeypatch.setattr(sys, "argv", ["tuning.py", *arguments])
    tuning.main()
    [found] = json.loads(out.read_text())["networks"]
    assert found["speed_to_plain"]["plain"] == {"1": 1.0, "2": 1.0}
    assert (
        set(found["speed_to_plain"])
        == set(found["first_calls_s"])
        == {"plain", "channels_last", "eager", "channels_last, eager"}
    )


@pytest.mark.parametrize("name", ["fewer_steps", "fusion_modes", "photo_model", "quality_gate", "real_sizes"])
def test_what_needs_more_than_a_clone_has_is_left_out_in_a_line(modules, monkeypatch, capsys, name):
    monkeypatch.setattr(sys, "argv", [f"{name}.py"])
    importlib.import_module(name).main()
    assert capsys.readouterr().out.startswith("left out: it needs --")


def test_ways_to_train_are_timed_against_float32(modules, tmp_path, monkeypatch):
    import training_speed

    out = tmp_path / "out.json"
    monkeypatch.setattr(
        sys, "argv", ["training_speed.py", "--rows", "2", "--repeats", "1", "--out", str(out)]
    )
    training_speed.main()
    found = json.loads(out.read_text())
    assert found["speed_to_fp32"]["fp32"] == 1.0
    assert set(found["pictures_per_second"]) == {"fp32", "bf16", "bf16, as train"}


def test_fewer_steps_are_timed_by_the_row(latent):
    import fewer_steps

    found = fewer_steps.with_speed({"rows_a_picture": 50}, 0.004)
    assert found == {"rows_a_picture": 50, "pictures_per_s": 5.0}
    assert 0 < fewer_steps.seconds_a_row(1) < 10


# LoRA on a subject


def test_what_any_photo_teaches_is_no_part_of_what_the_subject_did(modules):
    import lora_subject

    whose, before = np.array([0, 0, 1, 2]), np.array([1.0, 2.0, 1.0, 1.0])
    after = np.tile(before - 0.5, (3, 1))  # every LoRA lowers every loss
    found = lora_subject.compared(before, after, whose)
    assert found["own"] == found["others"] == [-0.5] * 3
    assert (found["mean"], found["interval"], found["photos_below_0"]) == (0, [0, 0], 0)
    after[[0, 0, 1, 2], range(4)] -= [0.1, 0.3, 0.1, 0.3]  # and its own subject's by more
    found = lora_subject.compared(before, after, whose)
    np.testing.assert_allclose(found["difference"], [-0.2, -0.1, -0.3])
    # Student's t at 0.975 with 2 degrees of freedom is 4.3027; the deviation is 0.1
    half = 4.3027 * 0.1 / np.sqrt(3)
    np.testing.assert_allclose(found["interval"], [-0.2 - half, -0.2 + half], rtol=1e-4)
    assert (found["photos_below_0"], found["subjects_below_0"]) == (4, 3)


# scheduling


@pytest.mark.slow
def test_the_cost_of_scheduling_is_measured_on_every_worker(modules, ray_session):
    import scheduling
    from ray import cloudpickle

    cloudpickle.register_pickle_by_value(scheduling)  # workers cannot import it
    try:
        found = scheduling.measure(gpus=2, each=4, seconds=0.05)
    finally:
        cloudpickle.unregister_pickle_by_value(scheduling)
    assert (found["units"], found["workers_seen"]) == (8, 2)
    assert 0 < found["efficiency_with_start"] < found["efficiency"] <= 1
    assert found["wall_s"] > found["start_s"] > 0


def test_the_share_that_was_slept_is_that_of_the_time_since_the_last_worker_was_ready(modules):
    import scheduling

    told = [{"worker": w, "ready": 1.0 + w, "begin": b} for w, b in ((0, 2), (0, 4), (1, 2.5), (1, 3.5))]
    found = scheduling.since_ready(told, end=6.0, gpus=2, seconds=1.0)
    assert found["efficiency"] == 0.5
    assert found["first_unit_after_s"] == 0.25
    assert (found["gap_ms_median"], found["gap_ms_most"], found["tail_s"]) == (500, 1000, 1)


def test_a_plan_costs_the_driver_less_than_a_list_of_its_units(modules):
    import tracemalloc

    import scheduling

    plan = scheduling.Plan(length=20_000, unit=scheduling.unit)

    def most(work):
        """Bytes of Python's own objects at their peak: no other test's memory counts."""
        tracemalloc.start()
        kept = work()
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert len(kept) >= plan.length - 1
        return peak

    listed = most(lambda: [plan.unit(i) for i in range(plan.length)])
    assert most(lambda: scheduling.pipeline._left(plan, {plan.unit(0).id})) < listed / 3


def test_the_labelled_set_of_the_gate_has_what_it_says_and_its_scores_are_right(modules):
    import quality_gate

    g = np.random.default_rng(0)
    label = np.repeat(np.arange(5), 12)
    features = np.eye(5, 40, dtype=np.float32)[label] + 0.05 * g.standard_normal((60, 40), np.float32)
    pairs = quality_gate.pairs_of(features / np.linalg.norm(features, axis=1, keepdims=True), label)
    assert pairs.shape == (50, 2)
    assert (label[pairs[:, 0]] == label[pairs[:, 1]]).all()
    assert np.bincount(pairs.ravel()).max() == 2
    photos = g.integers(0, 255, (60, 128, 128, 3), np.uint8)
    fused = [("fusion", k, photos[a]) for k, (a, _) in enumerate(pairs)]
    made = quality_gate.constructed(photos, label, pairs, fused)
    labels = json.loads((BENCHMARKS / "results/quality-gate-labels.json").read_text())["bad"]["0"]
    assert len(made) + 17 + 9 == 100  # and those that the model makes
    assert {kind: quality_gate.is_bad(kind, 0, labels) for kind in ("photo", "pixel mean", "fusion")} == {
        "photo": False,
        "pixel mean": True,
        "fusion": True,
    }
    assert not quality_gate.is_bad("fusion", 1, labels)
    mean = next(x for kind, k, x in made if kind == "pixel mean" and k == 0)
    a, b = photos[pairs[0]].astype(int)
    assert np.abs(mean - (a + b) / 2).max() <= 0.5
    bad, rejected = np.array([True, True, False, False]), np.array([True, False, True, False])
    found = quality_gate.scores(bad, rejected)
    assert (found["precision"], found["recall"]) == (0.5, 0.5)
    kinds = np.array(["x", "y", "x"])
    assert list(quality_gate.ranked(np.array([3.0, 1.0, 2.0]), kinds)) == ["y", "x"]
