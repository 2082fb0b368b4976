"""Histograms and thumbnails as HTML: what the page shows of numbers, in report's colours, without a script."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT, LEFT, BASE = 270, 120, 4, 98
"""Of a chart; its bars stand on BASE and begin at LEFT."""


@dataclass(frozen=True, kw_only=True)
class Bar:
    """A bar of a chart.

    Attributes:
        name: what a pointer over it reads, without the number.
        value: 0 or more.
        lit: whether it is in the colour of what is chosen.
    """

    name: str
    value: int
    lit: bool = True


def chart(title: str, bars: Sequence[Bar], ends: tuple[str, str], marks: Sequence[float] = ()) -> str:
    """A histogram with its title, as a figure.

    Args:
        ends: what the axis says at its two ends.
        marks: places of lines across it, as shares of its width.
    """
    width = (WIDTH - 2 * LEFT) / max(1, len(bars))
    most = max((bar.value for bar in bars), default=0)
    parts = [_bar(bar, LEFT + i * width, width, most) for i, bar in enumerate(bars)]
    for mark in marks:
        x = LEFT + mark * (WIDTH - 2 * LEFT)
        parts.append(f'<line class="mark" x1="{x:.1f}" x2="{x:.1f}" y1="4" y2="{BASE}"/>')
    parts.append(f'<line class="axis" x1="{LEFT}" x2="{WIDTH - LEFT}" y1="{BASE}" y2="{BASE}"/>')
    for x, anchor, text in ((LEFT, "start", ends[0]), (WIDTH - LEFT, "end", ends[1])):
        parts.append(f'<text x="{x}" y="{BASE + 15}" text-anchor="{anchor}">{escape(text)}</text>')
    parts.append(f'<text x="{LEFT}" y="12">{most:,}</text>')
    drawn = f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}">'
    return f"<figure><figcaption>{escape(title)}</figcaption>{drawn}{''.join(parts)}</svg></figure>"


def _bar(bar: Bar, x: float, width: float, most: int) -> str:
    height = (BASE - 18) * bar.value / most if most else 0.0
    height = max(height, 1.0) if bar.value else 0.0
    kind = "bar" if bar.lit else "bar out"
    tip = f"<title>{escape(bar.name)}: {bar.value:,}</title>"
    return (
        f'<rect class="{kind}" x="{x + 0.5:.1f}" y="{BASE - height:.1f}" width="{max(width - 1, 0.5):.1f}" '
        f'height="{height:.1f}">{tip}</rect>'
    )


def table(heads: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A table; numbers stand right."""
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in heads)
    lines = "".join(f"<tr>{''.join(map(_cell, row))}</tr>" for row in rows)
    return f'<table class="figures"><thead><tr>{head}</tr></thead><tbody>{lines}</tbody></table>'


def _cell(value: object) -> str:
    number = isinstance(value, int)
    return f'<td class="number">{value:,}</td>' if number else f"<td>{escape(str(value))}</td>"


@dataclass(frozen=True, kw_only=True)
class Thumb:
    """A small picture: its name, and the bytes of a JPEG."""

    name: str
    data: bytes


def pairs(title: str, found: Sequence[tuple[Thumb, Thumb, str]]) -> str:
    """Pairs of pictures side by side, each with what is said of it."""
    cards = "".join(
        f"<figure>{_image(one)}{_image(other)}<figcaption>{escape(text)}</figcaption></figure>"
        for one, other, text in found
    )
    return f'<section class="pairs"><h3>{escape(title)}</h3><div>{cards}</div></section>'


def _image(thumb: Thumb) -> str:
    name, data = escape(thumb.name), base64.b64encode(thumb.data).decode()
    return f'<img alt="{name}" title="{name}" width="96" height="96" src="data:image/jpeg;base64,{data}">'
