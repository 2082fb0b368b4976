"""slerp's closed forms. What is encoded and truncated is tested with the pipelines, in test_text_pipeline.py."""

import math

import pytest
import torch

from noiseweave.engine.networks import text_encoding as e


def test_slerp_walks_the_arc():
    a, b = torch.tensor([[2.0, 0.0], [1.0, 0.0]]), torch.tensor([[0.0, 2.0], [0.0, 3.0]])
    for mix in (0.25, 0.5, 0.9):
        angle = mix * math.pi / 2
        c, s = math.cos(angle), math.sin(angle)
        wanted = torch.tensor([[2 * c, 2 * s], [c, 3 * s]])
        torch.testing.assert_close(e.slerp(a, b, mix), wanted)


def test_slerp_keeps_the_length_of_each_vector_where_a_mean_shrinks_it():
    a, b = torch.randn(2, 77, 32, generator=torch.Generator().manual_seed(0))
    a, b = (torch.nn.functional.normalize(x, dim=-1) for x in (a, b))
    torch.testing.assert_close(e.slerp(a, b, 0.5).norm(dim=-1), torch.ones(77))
    assert torch.lerp(a, b, 0.5).norm(dim=-1).max() < 0.9


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_slerp_gives_its_ends_bit_for_bit(dtype):
    a, b = (5 * torch.randn(2, 77, 32, generator=torch.Generator().manual_seed(1))).to(dtype)
    assert torch.equal(e.slerp(a, b, 0).to(dtype), a)
    assert torch.equal(e.slerp(a, b, 1).to(dtype), b)


def test_slerp_of_parallel_vectors_is_linear():
    a = torch.randn(5, 32, generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(e.slerp(a, a, 0.3), a)
    torch.testing.assert_close(e.slerp(a, 3 * a, 0.5), 2 * a)
    torch.testing.assert_close(e.slerp(a, -a, 0.25), 0.5 * a)
