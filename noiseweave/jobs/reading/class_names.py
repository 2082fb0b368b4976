"""Class names: classes.json lies beside shards and models, is read from a job's input and written to its output."""

from __future__ import annotations

import posixpath
from collections.abc import Mapping, Sequence
from difflib import get_close_matches

from noiseweave.cluster import storage
from noiseweave.engine.checks import check

FILE = "classes.json"


def folders_of(found: Sequence[str]) -> list[str]:
    """The folders that shards lie in."""
    return sorted({posixpath.dirname(shard) for shard in found})


def carried_classes(input: str, found: Sequence[str]) -> list[str]:
    """The classes.json beside the folder of shards, or in it; [] where there is none.

    Args:
        input: what a user called them, for an error.
        found: the shards.

    Raises:
        ValueError: a file that is no list of names, or several that differ.
    """
    named: dict[str, list[str]] = {}
    for folder in folders_of(found):
        places = (posixpath.dirname(folder), folder)
        path = next((p for p in (storage.join(f, FILE) for f in places if f) if storage.exists(p)), None)
        if path is not None:
            named[path] = _names(path, input)
    distinct = {tuple(names) for names in named.values() if names}
    text = f"its shards number their classes in different ways: {', '.join(named)}"
    check(len(distinct) <= 1, "input", input, text)
    return list(next(iter(distinct), ()))


def check_alike(sides: Mapping[str, Sequence[str]]) -> None:
    """Raise ValueError where two sides, name -> shards, both name their classes and number them in different ways."""
    named = {side: carried_classes(side, found) for side, found in sides.items()}
    (first, names), *others = [(side, names) for side, names in named.items() if names] or [("", [])]
    for side, other in others:
        there = f"{', '.join(other)[:200]}; of {first} they are {', '.join(names)[:200]}"
        if other != names:
            raise ValueError(f"{side}: its classes are {there}: the same numbers must mean the same")


def classes_in(folder: str) -> list[str]:
    """The classes.json of a model, or of a job's output; [] where there is none.

    Raises:
        ValueError: it is no list of names.
    """
    path = storage.join(folder, FILE)
    return _names(path, folder) if storage.exists(path) else []


def readable_classes(folder: str) -> list[str]:
    """As ``classes_in``, for a page that is shown all the same where the file is broken; long names are cut."""
    try:
        return [name[:80] for name in classes_in(folder)]
    except ValueError:
        return []


def _names(path: str, input: str) -> list[str]:
    value = storage.read_json(path)
    whole = isinstance(value, list) and all(isinstance(name, str) for name in value)
    check(whole, "input", input, f"{path} is no list of class names")
    return list(value)


def write(output: str, names: Sequence[str]) -> None:
    """Leave the names in a job's output folder, for the next job; nothing where there are none."""
    if names:
        storage.write_json(storage.join(output, FILE), list(names))


def number(label: str, names: Sequence[str], classes: int) -> int:
    """The class that a user means by its name, or its number.

    Raises:
        ValueError: there is no such class; with the names that there are.
    """
    if label in names:
        return names.index(label)
    there = label.isdecimal() and len(label) < 10 and int(label) < classes
    check(
        there, "labels", label, f"a class of the model: {', '.join(names)[:300]}, or a number below {classes}"
    )
    return int(label)


def unknown(
    names: Sequence[str], rows: Sequence[int], known_names: Sequence[str], known: int, most: int = 5
) -> str | None:
    """The line that says which of an input's classes a class-conditional model does not know; None where it knows all.

    Args:
        names, rows: the input's classes, and the model's class that each is, see ``engine.networks.classes``.
        known_names, known: the model's classes, and how many.
    """
    if not known or not known_names:
        return None
    if not names:
        return numbers_taken(known_names)
    others = [name for name, row in zip(names, rows, strict=True) if row == known]
    if not others:
        return None
    listed = ", ".join(_with_meant(name, known_names) for name in others[:most])
    listed += f" and {len(others) - most} more" if len(others) > most else ""
    there = ", ".join(known_names[:20])
    return f"the model does not know the classes {listed}: it is told none for them; it knows {there}"


def _with_meant(name: str, known_names: Sequence[str]) -> str:
    near = get_close_matches(name.lower(), known_names, n=1, cutoff=0.75)
    return f"{name} (did you mean {near[0]}?)" if near else name


def numbers_taken(known_names: Sequence[str], what: str = "the input") -> str:
    """The line that says what the numbers of a labelled set without class names mean to a model."""
    there = ", ".join(known_names[:20])
    return (
        f"{what} has no class names: its numbers are taken for the model's classes ({there}), in this order"
    )


def shown(label: int | str, names: Sequence[str]) -> str:
    """A label as a person reads it: its name, or its number where it has none.

    Args:
        label: a class number, which may be text as in a file.
    """
    text = str(label)
    number = int(text) if text.isdecimal() and len(text) < 12 else -1
    return names[number] if 0 <= number < len(names) else text
