"""Errors that a user reads. Of a value that they gave: the field, the value, and what is allowed."""

from __future__ import annotations

from collections.abc import Sequence


class NotFinite(ValueError):
    """A model's output has NaN or infinity, as fp16 overflows in some of them; float32 may not.

    Attributes:
        keys: of the pictures that are lost.
    """

    def __init__(self, keys: Sequence[str]) -> None:
        super().__init__(f"not_finite: {', '.join(keys)}")
        self.keys = tuple(keys)

    def __reduce__(self) -> tuple[type[NotFinite], tuple[tuple[str, ...]]]:
        return NotFinite, (self.keys,)


def check(ok: bool, field: str, value: object, allowed: str) -> None:
    """Raise the ValueError of a recipe: which field, its value, what is allowed."""
    if not ok:
        raise ValueError(f"{field}={value!r}: {allowed}")


def check_steps(field: str, steps: int, trained: int) -> None:
    """Raise the ValueError of more steps than a model was trained with."""
    check(steps <= trained, field, steps, f"the model has {trained} time steps")
