"""Which class of a model a class of pictures is: by its name, where both sides have names."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence


def rows(classes: int, names: Sequence[str], known: int, known_names: Sequence[str]) -> tuple[int, ...]:
    """For each class of some pictures, the model's class that it is; ``known`` itself is no class.

    Names are the same but for case, blanks and an English plural: ``Rose`` is ``roses``.

    Args:
        classes, known: how many the pictures and the model have.
        names, known_names: theirs, where they have them. Without names on both sides equal numbers are the same class.
    """
    if not (names and known_names):
        return tuple(min(n, known) for n in range(classes))
    exact = {name: n for n, name in enumerate(known_names[:known])}
    plain = Counter(map(_plain, exact))
    like = {_plain(name): n for name, n in exact.items() if plain[_plain(name)] == 1}
    padded = [*names, *[""] * classes][:classes]
    return tuple(exact.get(name, like.get(_plain(name), known)) for name in padded)


def _plain(name: str) -> str:
    """Without case, blanks, and the plural of its last word."""
    text = re.sub(r"[\s_-]+", " ", name).strip().casefold()
    if re.search(r"[^aeiou]ies$", text):
        return text[:-3] + "y"
    return re.sub(r"(?<=[^s])s$", "", text)
