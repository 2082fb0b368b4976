"""The parts of the tab Runs, and the outputs below a folder as HTML."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from urllib.parse import quote

import gradio as gr

from noiseweave.jobs.studio.controls import I18N, line
from noiseweave.jobs.studio.listing import PAGE, Output
from noiseweave.jobs.studio.texts import say

EVERY = 2.0
"""Seconds between two looks."""
ERRORS = 3
"""Errors of a run that are shown."""


@dataclass(kw_only=True)
class Parts:
    """What the tab's events read and write."""

    found: gr.HTML
    stop: gr.Button
    line: gr.HTML
    timer: gr.Timer


def lay_out() -> Parts:
    """Lay out the tab."""
    stop = gr.Button(I18N("stop"), elem_id="stop", size="sm", interactive=False)
    said = line("stopped")
    found = gr.HTML(elem_id="runs_found", apply_default_css=False)
    return Parts(found=found, stop=stop, line=said, timer=gr.Timer(EVERY))


def address(name: str) -> str:
    """Where the page serves the report.html of an output."""
    return f"/runs/{quote(name)}/{PAGE}"


def html_of(lang: str, root: str, outputs: Sequence[Output]) -> str:
    """The outputs as HTML; what files say is text there."""
    if not outputs:
        return f'<p class="empty">{escape(say(lang, "no_runs", folder=root))}</p>'
    return "".join(_card(lang, output) for output in outputs)


def _card(lang: str, output: Output) -> str:
    begun = time.strftime("%Y-%m-%d %H:%M", time.localtime(output.begun))
    state = escape(say(lang, f"state_{output.state}"))
    parts = [
        f'<h3>{escape(output.name)} <span class="state {output.state}">{state}</span></h3>',
        f"<p>{escape(say(lang, 'run_of', job=output.job, begun=begun))}</p>",
        _far(lang, output),
    ]
    if output.page:
        link = f'<a href="{escape(address(output.name))}" target="_blank" rel="noopener">{PAGE}</a>'
        parts.append(f"<p>{link}</p>")
    parts += [f'<p class="bad">{escape(error)}</p>' for error in output.errors[:ERRORS]]
    if len(output.errors) > ERRORS:
        parts.append(f"<p>{escape(say(lang, 'more_errors', count=len(output.errors) - ERRORS))}</p>")
    if output.command:
        parts.append(f"<pre>$ {escape(output.command)}</pre>")
    if output.last:
        parts.append(f"<pre>{escape(chr(10).join(output.last))}</pre>")
    return f'<article class="run">{"".join(parts)}</article>'


def _far(lang: str, output: Output) -> str:
    """How far it is: pictures, units of each phase, what was left out."""
    known = output.planned is not None
    made = say(lang, "pictures_of" if known else "pictures_made", n=output.pictures, all=output.planned)
    units = [
        f"{phase.name} {phase.units}" + ("" if phase.planned is None else f"/{phase.planned}")
        for phase in output.phases
    ]
    text = [made, *([say(lang, "units", units=", ".join(units))] if units else [])]
    if output.quarantined:
        text.append(say(lang, "left_out", n=output.quarantined))
    bar = ""
    last = output.phases[-1] if output.phases else None
    planned = next((phase for phase in output.phases if phase.planned), last)
    if output.state == "running" and planned is not None and planned.planned:
        label = escape(made)
        bar = f'<progress aria-label="{label}" value="{planned.units}" max="{planned.planned}"></progress>'
    return f'<p class="far">{escape("; ".join(text))}</p>{bar}'
