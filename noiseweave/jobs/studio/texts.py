"""What the page says, in the browser's language: one file of texts each in texts/."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from importlib import resources

LANGUAGES = ("en", "zh")


@functools.cache
def texts(language: str) -> Mapping[str, str]:
    """Key -> text, of one of LANGUAGES."""
    import yaml

    file = resources.files("noiseweave.jobs.studio") / "texts" / f"{language}.yaml"
    found: dict[str, str] = yaml.safe_load(file.read_text(encoding="utf-8"))
    return found


def language_of(accepted: str) -> str:
    """The first language of an Accept-Language header that there are texts of, else English."""
    for part in accepted.split(","):
        name = part.partition(";")[0].strip().lower().partition("-")[0]
        if name in LANGUAGES:
            return name
    return LANGUAGES[0]


def say(language: str, key: str, **words: object) -> str:
    """A text with its words filled in."""
    return texts(language)[key].format(**words)
