"""Randomness depends on (seed, key) and on nothing else."""

import subprocess
import sys

import pytest

from noiseweave.engine.seeding import generator, rng, seed_of


def test_seed_is_the_same_in_another_process():
    code = "from noiseweave.engine.seeding import seed_of; print(seed_of(7, 'group', 3, 'é'))"
    runs = {
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
        for _ in range(2)
    }
    assert runs == {f"{seed_of(7, 'group', 3, 'é')}\n"}


@pytest.mark.parametrize(
    ("a", "b"),
    [
        (("a", "bc"), ("ab", "c")),
        (("a",), ("a", "")),
        ((1, 23), (12, 3)),
        ((), ("",)),
        (("a", "b"), ("b", "a")),
    ],
)
def test_parts_of_a_key_do_not_run_together(a, b):
    assert seed_of(0, *a) != seed_of(0, *b)


def test_seeds_fit_63_bits_and_do_not_meet():
    seeds = {seed_of(s, k) for s in range(10) for k in range(1000)}
    assert len(seeds) == 10_000
    assert all(0 <= s < 1 << 63 for s in seeds)
    assert max(seeds) > 1 << 62  # the top bit that is left is used


def test_generators_repeat_and_differ_by_key():
    import torch

    draw = [torch.randn(8, generator=generator(1, k)) for k in ("a", "a", "b")]
    assert torch.equal(draw[0], draw[1])
    assert not torch.equal(draw[0], draw[2])
    assert rng(1, "a").random() == rng(1, "a").random() != rng(1, "b").random()


def test_draws_do_not_touch_the_global_generators():
    import random

    import torch

    torch.manual_seed(0)
    random.seed(0)
    before = torch.get_rng_state(), random.getstate()
    torch.randn(3, generator=generator(5, "x"))
    rng(5, "x").random()
    assert torch.equal(torch.get_rng_state(), before[0])
    assert random.getstate() == before[1]
