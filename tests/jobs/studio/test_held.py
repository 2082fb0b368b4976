"""What is held is bounded, and what was used last stays."""

from noiseweave.jobs.studio.held import Held


def test_the_least_recently_used_leaves_first():
    held = Held(10)
    for key in "abc":
        held.put(key, key.upper(), 4)
    assert (held.get("a"), held.get("b"), held.get("c"), held.size) == (None, "B", "C", 8)
    held.get("b")
    held.put("d", "D", 4)
    assert (held.get("b"), held.get("c")) == ("B", None)


def test_a_value_is_replaced_and_one_that_is_too_large_is_not_held():
    held = Held(10)
    held.put("a", 1, 4)
    assert held.put("a", 2, 5) == 2
    assert (held.get("a"), held.size, len(held)) == (2, 5, 1)
    assert held.put("b", 3, 11) == 3
    assert (len(held), held.size) == (0, 0)
