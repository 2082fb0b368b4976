"""Shares of a computation: nested loops divide what is at hand, and nobody hears what nobody listens to."""

import pytest
import torch

from noiseweave.engine import spans
from noiseweave.engine.networks.micro_batch import MicroBatch


@pytest.fixture
def said():
    found = []
    with spans.listening(found.append):
        yield found


def test_steps_are_equal_shares(said):
    assert list(spans.steps("abcd")) == list("abcd")
    assert said == [0.25, 0.5, 0.75, 1.0]


def test_loops_inside_divide_their_step(said):
    for _ in spans.steps(range(2)):
        for _ in spans.steps(range(5)):
            pass
    assert said == pytest.approx([0.1 * n for n in range(1, 11)])


def test_spans_divide_what_is_at_hand(said):
    with spans.span(0, 0.2):
        list(spans.steps(range(2)))
    with spans.span(0.2, 1):
        list(spans.steps(range(4)))
    assert said == pytest.approx([0.1, 0.2, 0.4, 0.6, 0.8, 1.0])


def test_a_second_loop_does_not_say_less(said):
    list(spans.steps(range(2)))
    list(spans.steps(range(4)))
    assert said == [0.5, 1.0]


def test_parts_of_a_network_call_count_inside_a_loop_alone(said):
    network = MicroBatch(lambda x: x + 1, 2, "cpu")
    network(torch.zeros(5))
    assert said == [], "an encoder before the loop is not the whole"
    for _ in spans.steps(range(2)):
        assert network(torch.zeros(5)).tolist() == [1.0] * 5
    assert said == pytest.approx([0.2, 0.4, 0.5, 0.7, 0.9, 1.0])


def test_an_error_says_nothing_more_and_what_comes_after_it_begins_anew():
    found = []
    for _ in range(2):
        with pytest.raises(ZeroDivisionError), spans.listening(found.append):
            sum(1 / (2 - n) for n in spans.steps(range(4)))
        assert found == [0.25, 0.5]
        found.clear()


def test_without_a_listener_nothing_is_kept():
    assert list(spans.steps(range(3))) == [0, 1, 2]
    with spans.span(0, 0.5), spans.part(0, 1, 2):
        pass
    assert not spans._local.hand.opened
