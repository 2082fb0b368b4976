"""The parts of the tab Pairs, and its figures as HTML."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import gradio as gr
import numpy as np

from noiseweave.jobs.studio import charts, pairs
from noiseweave.jobs.studio.charts import Bar, Thumb
from noiseweave.jobs.studio.controls import I18N, Batch, Control, batch, choice, line, slider
from noiseweave.jobs.studio.features import Table
from noiseweave.jobs.studio.pairs import BINS, QUOTAS, Chosen
from noiseweave.jobs.studio.texts import say

EACH = 6
"""Pairs that are shown of each end."""


@dataclass(kw_only=True)
class Parts:
    """What the tab's events read and write.

    Attributes:
        controls: by name.
    """

    controls: dict[str, Control]
    line: gr.HTML
    figures: gr.HTML
    ends: gr.HTML
    batch: Batch


def lay_out() -> Parts:
    """Lay out the tab."""
    with gr.Row(elem_id="pairs_grid"):
        with gr.Column(elem_id="pairs_controls", scale=2):
            controls = _controls()
        with gr.Column(scale=3):
            said = line("pairs_line")
            figures = gr.HTML(elem_id="pairs_figures", apply_default_css=False)
    ends = gr.HTML(elem_id="pairs_ends", apply_default_css=False)
    return Parts(controls=controls, line=said, figures=figures, ends=ends, batch=batch("pairs_", run="run"))


def _controls() -> dict[str, Control]:
    found: dict[str, Control] = {
        "threshold": slider("threshold", 0, 1, 0.7),
        "upper": slider("upper", 0, 1, 0.95),
        "top_k": slider("top_k", 1, 50, 5, 1),
        "max_uses": slider("max_uses", 0, 50, 4, 1),
        "quota": choice("quota", QUOTAS, "balanced"),
        "per_class": slider("per_class", 1, 500, 20, 1, visible=False),
    }
    with gr.Accordion(I18N("more_pairing"), open=False):
        found["draw"] = choice("draw", ("range", "top"), "range")
        found["pair_classes"] = choice("pair_classes", ("same_class", "any"), "same_class")
        found["max_pairs"] = gr.Number(
            0, label=I18N("max_pairs"), precision=0, minimum=0, elem_id="max_pairs"
        )
    return found


def figures_of(lang: str, table: Table, chosen: Chosen, all_B: np.ndarray, range_: Sequence[float]) -> str:
    """Histograms and the counts of classes as HTML.

    Args:
        all_B: of the similarities of all pairs, [BINS].
        range_: threshold and upper bound.
    """
    there = np.flatnonzero(all_B)
    low, high = (int(there[0]), int(there[-1]) + 1) if len(there) else (0, BINS)
    taken_B = pairs.binned(chosen.selected.similarity)
    ends = tuple(f"{_edge(i):.2f}" for i in (low, high))
    marks = [(x - _edge(low)) / (_edge(high) - _edge(low)) for x in range_]
    marks = [mark for mark in marks if 0 <= mark <= 1]
    parts = [
        charts.chart(say(lang, title), _bars(counts_B[low:high], low, range_), (ends[0], ends[1]), marks)
        for title, counts_B in (("all_pairs", all_B), ("taken_pairs", taken_B))
    ]
    each = pairs.uses(chosen.uses_N)
    bars = [Bar(name=str(n), value=pictures, lit=n > 0) for n, pictures in each]
    parts.append(charts.chart(say(lang, "uses"), bars, ("0", str(each[-1][0]))))
    heads = [say(lang, name) for name in ("class", "its_pairs", "its_used", "its_pictures")]
    rows = [
        (name or say(lang, "other_classes"), *counts)
        for name, *counts in pairs.by_class(chosen, table.classes)
    ]
    return f'<div class="charts">{"".join(parts)}</div>{charts.table(heads, rows)}'


def _edge(i: int) -> float:
    """Where a bin begins."""
    return 2 * i / BINS - 1


def _bars(count_B: np.ndarray, low: int, range_: Sequence[float]) -> list[Bar]:
    return [
        Bar(
            name=f"{_edge(i):.2f} .. {_edge(i + 1):.2f}",
            value=int(count),
            lit=_edge(i + 1) > range_[0] and _edge(i) <= range_[1],
        )
        for i, count in enumerate(count_B, low)
    ]


def ends_of(lang: str, table: Table, chosen: Chosen) -> str:
    """Thumbnails of the least and of the most similar pairs as HTML."""
    found = zip(("least_similar", "most_similar"), chosen.ends(EACH), strict=True)
    return "".join(
        charts.pairs(say(lang, title), [_pair(table, chosen, i) for i in numbers])
        for title, numbers in found
        if numbers
    )


def _pair(table: Table, chosen: Chosen, i: int) -> tuple[Thumb, Thumb, str]:
    one, other = (
        Thumb(name=table.names[row], data=table.thumbs[row])
        for row in (int(chosen.selected.a[i]), int(chosen.selected.b[i]))
    )
    return one, other, f"{chosen.selected.similarity[i]:.3f}"
