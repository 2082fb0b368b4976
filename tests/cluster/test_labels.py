"""Labels are numbers, names or bad; captions are text or bad, never garbage."""

import codecs

import pytest

from noiseweave.cluster import labels

WILD = (float("nan"), float("inf"))
WORDS = "Straße, 花 🌷"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_captions_that_are_read(encoding):
    assert labels.text_of(WORDS.encode(encoding)) == WORDS


def test_utf_16_of_either_byte_order():
    assert labels.text_of(codecs.BOM_UTF16_LE + WORDS.encode("utf-16-le")) == WORDS
    assert labels.text_of(codecs.BOM_UTF16_BE + WORDS.encode("utf-16-be")) == WORDS


@pytest.mark.parametrize(
    "data",
    [
        "Straße".encode("latin-1"),
        "a cat".encode("utf-16-le"),  # without its mark
        "a cat".encode("utf-16-be"),
        "a cat".encode("utf-32"),
        codecs.BOM_UTF32_BE + "a cat".encode("utf-32-be"),
        codecs.BOM_UTF16_LE + b"a",  # half a character
        b"a\0b",
    ],
)
def test_any_other_caption_is_named(data):
    with pytest.raises(ValueError, match=r"^bad_txt: neither UTF-8 nor UTF-16"):
        labels.text_of(data)
    with pytest.raises(ValueError, match=r"^bad_txt: "):
        labels.label_and_caption({"txt": data})


def test_an_empty_caption_is_one():
    assert labels.caption_of({"txt": b"", "json": b'{"caption": "other"}'}) == ""
    assert labels.caption_of({"json": b'{"caption": "other"}'}) == "other"


@pytest.mark.parametrize(
    ("value", "label"),
    [
        (b" 12\n", 12),
        (b"2.0", 2),
        (b"2.", 2),
        (b"+3", 3),
        (3, 3),
        (3.0, 3),
        ("2147483647", 2147483647),
        (b"cat", "cat"),
        (" tabby cat ", "tabby cat"),
        ("３", "３"),
        ("1_0", "1_0"),
        ("2d", "2d"),
        (None, None),
        ("cat".encode("utf-16"), "cat"),
    ],
)
def test_what_a_label_is(value, label):
    assert labels.class_of(value) == label
    assert type(labels.class_of(value)) is type(label)


@pytest.mark.parametrize(
    "value",
    [
        b"",
        " ",
        "-1",
        -1,
        "2.5",
        2.5,
        "2147483648",
        "9" * 5000,
        b"\xff",
        "a\nb",
        "x" * 201,
        True,
        [1],
        {},
        *WILD,
    ],
)
def test_what_no_label_is(value):
    with pytest.raises(ValueError, match=r"^bad_label: "):
        labels.class_of(value)


def test_names_are_for_pack():
    with pytest.raises(ValueError, match=r"^bad_label: 'cat' is no integer >= 0; pack gives class names"):
        labels.label_and_caption({"cls": b"cat"})
    assert labels.label_and_caption({"json": b'{"label": "cat"}'}) == (None, None)
    assert labels.label_of({"json": b'{"label": "cat"}'}) == "cat"
    assert labels.label_of({"json": b'{"label": "cat"}', "cls": b"4"}) == 4
