"""Values of controls: whatever a browser sends is a number, a text, a path, or one line."""

import pytest

from noiseweave.jobs.studio import values


def test_numbers_are_rounded_as_a_slider_shows_them():
    assert values.number({"a": 0.1 + 0.2}, "a") == 0.3
    assert values.whole({"a": 3.0}, "a") == 3


@pytest.mark.parametrize("value", ["1", None, True, [1], {}])
def test_what_is_no_number_is_refused(value):
    with pytest.raises(ValueError, match=r"a=.*: a number"):
        values.number({"a": value}, "a")


def test_a_half_is_no_whole_number():
    with pytest.raises(ValueError, match=r"a=2\.5: a whole number"):
        values.whole({"a": 2.5}, "a")


@pytest.mark.parametrize("value", ["c", None, 1, ["a"], {}])
def test_a_word_is_one_of_those_there_are(value):
    assert values.one_of({"x": "b"}, "x", ("a", "b")) == "b"
    with pytest.raises(ValueError, match=r"x=.*: one of a, b"):
        values.one_of({"x": value}, "x", ("a", "b"))


def test_texts_and_files():
    assert values.text({"a": " x "}, "a") == "x"
    assert values.text({"a": None}, "a") == ""
    assert values.file({"path": "x.png"}) == "x.png"
    assert [values.file(v) for v in (None, "x.png", {}, {"path": 3})] == [None] * 4
