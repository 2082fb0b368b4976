"""A network in parts gives what it gives at once; memory that runs out halves the parts."""

import pytest
import torch

from noiseweave.engine.networks.micro_batch import MicroBatch


class Limited:
    """Multiplies; more than ``most`` rows run out of memory."""

    def __init__(self, most):
        self.most, self.sizes = most, []

    def __call__(self, x, y):
        if len(x) > self.most:
            raise torch.OutOfMemoryError("not enough memory")
        self.sizes.append(len(x))
        return x * 2 if y is None else x * y


@pytest.mark.parametrize(("size", "sizes"), [(4, [4, 4, 2]), (10, [10]), (64, [10]), (1, [1] * 10)])
def test_parts_join_to_the_whole(size, sizes):
    network, x = Limited(100), torch.arange(10.0)
    parts = MicroBatch(network, size, "cpu")
    assert torch.equal(parts(x, x), x * x)
    assert network.sizes == sizes
    assert torch.equal(parts(x, None), 2 * x)
    assert parts.calls == 20, "rows, in whatever parts"


def test_out_of_memory_halves_the_parts_for_good_and_loses_no_row():
    network, x = Limited(3), torch.arange(10.0)
    parts = MicroBatch(network, 8, "cpu")
    assert torch.equal(parts(x, x), x * x)
    assert parts.size == 2
    assert network.sizes == [2] * 5
    parts(x, x)
    assert network.sizes == [2] * 10, "the next call begins with what fits"


def test_memory_that_runs_out_midway_keeps_what_is_done():
    network, x = Limited(4), torch.arange(12.0)
    parts = MicroBatch(network, 4, "cpu")
    first = parts(x[:4], x[:4])
    network.most = 2
    assert torch.equal(torch.cat([first, parts(x[4:], None) / 2]), torch.cat([x[:4] ** 2, x[4:]]))
    assert network.sizes == [4, 2, 2, 2, 2]


def test_a_single_row_that_does_not_fit_is_an_error():
    with pytest.raises(torch.OutOfMemoryError):
        MicroBatch(Limited(0), 4, "cpu")(torch.zeros(4), None)


def test_the_automatic_size_is_that_of_the_device():
    assert MicroBatch(Limited(1), 0, "cpu").size == 64
    assert MicroBatch(Limited(1), 0, torch.device("cuda")).size == 256
