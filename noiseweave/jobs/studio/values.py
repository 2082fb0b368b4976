"""Values of a page's controls: a browser may send any JSON."""

from __future__ import annotations

from collections.abc import Sequence

from noiseweave.engine.records import JsonMapping


def number(controls: JsonMapping, name: str) -> float:
    """A number, rounded as its slider shows it.

    Raises:
        ValueError: it is none.
    """
    value = controls[name]
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{name}={value!r}: a number")
    return round(float(value), 6)


def whole(controls: JsonMapping, name: str) -> int:
    """A whole number.

    Raises:
        ValueError: it is none.
    """
    value = number(controls, name)
    if not value.is_integer():
        raise ValueError(f"{name}={value!r}: a whole number")
    return int(value)


def text(controls: JsonMapping, name: str) -> str:
    """A text without the blanks around it; "" where there is none."""
    return str(controls[name] or "").strip()


def one_of(controls: JsonMapping, name: str, allowed: Sequence[str]) -> str:
    """One of some words.

    Raises:
        ValueError: it is none of them.
    """
    if controls[name] not in allowed:
        raise ValueError(f"{name}={controls[name]!r}: one of {', '.join(allowed)}")
    return str(controls[name])


def file(value: object) -> str | None:
    """The path of a file that a browser names, None where there is none; guard.py has held it below the uploads."""
    path = value.get("path") if isinstance(value, dict) else None
    return path if isinstance(path, str) else None


def files_of(painted: object) -> list[str]:
    """The paths of the layers that are painted in an ImageEditor."""
    layers = painted.get("layers") if isinstance(painted, dict) else None
    return [path for path in map(file, layers) if path] if isinstance(layers, list) else []
