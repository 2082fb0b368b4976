"""Labels of a source that are names: their numbers, the same whatever order the names come in."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from noiseweave.cluster import labels, shards, storage


@dataclass(frozen=True, kw_only=True)
class Naming:
    """What the labels of a source mean.

    Attributes:
        numbers: class name -> number, for labels that are names.
        numbers_too: labels may be numbers.
        ignored: nobody looks at labels.
    """

    numbers: Mapping[str, int] = field(default_factory=dict)
    numbers_too: bool = True
    ignored: bool = False

    def number(self, value: object) -> int | None:
        """A label's class number, None for none.

        Args:
            value: as ``labels.class_of`` takes it.

        Raises:
            ValueError: ``bad_label: ...``: no label, or one of another kind than those of the source.
        """
        if self.ignored:
            return None
        label = labels.class_of(value)
        if isinstance(label, int) and not self.numbers_too:
            raise ValueError(f"bad_label: {label} is a number, and the labels here are names")
        if not isinstance(label, str):
            return label
        if label not in self.numbers:
            known = "no known class name" if self.numbers else "a name, and the labels here are numbers"
            raise ValueError(f"bad_label: {label[:80]!r} is {known}")
        return self.numbers[label]

    def wanted(self, keep: Sequence[int] | None, value: object) -> bool:
        """Whether samples of a label are kept; a bad one is, for it is to be named."""
        try:
            return keep is None or self.number(value) in keep
        except ValueError:
            return True

    def of_sides(self, sides: labels.Sides) -> tuple[int | None, str | None]:
        """Class number and caption of a shard's sample.

        Raises:
            ValueError: ``bad_json``, ``bad_txt`` or ``bad_label``.
        """
        return None if self.ignored else self.number(labels.label_of(sides)), labels.caption_of(sides)


IGNORED = Naming(ignored=True)
BY_NUMBER = Naming()


def named(classes: Sequence[str]) -> Naming:
    """By the names that an input brings along; of a name that occurs twice the first."""
    return Naming(numbers={name: n for n, name in reversed([*enumerate(classes)])})


def found_in(parts: Iterable[Iterable[object]]) -> Naming:
    """By the sorted names of an input, or by its numbers.

    The first part that has labels decides: they are names where it has more of these than of numbers. Only then
    all parts are read.

    Args:
        parts: labels as ``labels.class_of`` takes them, part by part (a shard each, or all at once).
    """
    names: set[str] = set()
    for part in parts:
        kinds = Counter(_good(part))
        numbers = sum(n for label, n in kinds.items() if isinstance(label, int))
        if not names and numbers * 2 >= kinds.total() > 0:
            return BY_NUMBER
        names |= {label for label in kinds if isinstance(label, str)}
    return Naming(numbers={name: n for n, name in enumerate(sorted(names))}, numbers_too=not names)


def _good(part: Iterable[object]) -> Iterator[int | str]:
    for value in part:
        try:
            label = labels.class_of(value)
        except ValueError:  # found again, and named, where its sample is read
            continue
        if label is not None:
            yield label


def labels_in(url: str) -> Iterator[int | str | None]:
    """The labels of a shard's samples, without the bad ones."""
    entries, _ = shards.index(url)
    with storage.open_read(url) as f:
        for entry in entries:
            try:
                yield labels.label_of({e: shards.small(f, entry, e) for e in ("json", "cls")})
            except ValueError:
                continue
