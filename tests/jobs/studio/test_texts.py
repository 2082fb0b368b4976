"""The page's texts: every language says the same things, with the same words to be filled in."""

import re
import string

import pytest

from noiseweave.jobs.studio.texts import LANGUAGES, language_of, say, texts


def fields(text):
    return {name for _, name, _, _ in string.Formatter().parse(text) if name}


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_text_is_there_with_its_words(language):
    english, found = texts("en"), texts(language)
    assert list(found) == list(english)
    assert all(isinstance(text, str) and text for text in found.values())
    assert all(fields(found[key]) == fields(english[key]) for key in english)


def test_the_chinese_ones_are_chinese():
    assert all(re.search("[\u4e00-\u9fff]", text) for key, text in texts("zh").items() if key != "loaded")


@pytest.mark.parametrize(
    ("accepted", "language"),
    [("zh-CN,zh;q=0.9,en;q=0.8", "zh"), ("de-DE,zh;q=0.5", "zh"), ("en-US", "en"), ("fr", "en"), ("", "en")],
)
def test_the_browsers_language_is_taken(accepted, language):
    assert language_of(accepted) == language


def test_braces_in_what_is_filled_in_are_left_alone():
    assert say("en", "error", text="{x} {0}") == "Error: {x} {0}"
