"""Checks of values that a user gave: the error names the field, the value, and what is allowed."""

from __future__ import annotations


def check(ok: bool, field: str, value: object, allowed: str) -> None:
    """Raise the ValueError of a recipe: which field, its value, what is allowed."""
    if not ok:
        raise ValueError(f"{field}={value!r}: {allowed}")


def check_steps(field: str, steps: int, trained: int) -> None:
    """Raise the ValueError of more steps than a model was trained with."""
    check(steps <= trained, field, steps, f"the model has {trained} time steps")
