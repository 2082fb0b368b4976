"""The parts of the tab Sample."""

from __future__ import annotations

from dataclasses import dataclass

import gradio as gr

from noiseweave.jobs.studio import controls
from noiseweave.jobs.studio.controls import I18N, Batch, Control
from noiseweave.jobs.studio.drawing import MOST


@dataclass(kw_only=True)
class Parts:
    """What the tab's events read and write.

    Attributes:
        controls: by name of drawing.CONTROLS.
        do: draws for the first time; after it each control does.
        drawn: the pictures.
        film: what the network believed in on the way.
    """

    controls: dict[str, Control]
    do: gr.Button
    drawn: gr.Gallery
    film: gr.Image
    line: gr.HTML
    batch: Batch


def lay_out() -> Parts:
    """Lay out the tab."""
    slider = controls.slider
    found: dict[str, Control] = {}
    with gr.Row(elem_id="sample_grid", elem_classes="grid"):
        with gr.Column(elem_classes="controls"):
            found["classes"] = gr.Dropdown(
                [], label=I18N("classes"), multiselect=True, elem_id="classes", visible=False
            )
            found["sample_prompts"] = gr.Textbox(
                label=I18N("sample_prompts"), lines=2, elem_id="sample_prompts", visible=False
            )
            found["sample_negative"] = gr.Textbox(
                label=I18N("sample_negative"), elem_id="sample_negative", visible=False
            )
            found["count"] = slider("count", 1, MOST, 4, 1)
            found["sample_guidance"] = slider("sample_guidance", 0, 20, 0, 0.1)
            found["sample_steps"] = slider("sample_steps", 1, 100, 10, 1)
            found["kept"] = slider("kept", 0, 12, 6, 1)
            found["sample_seed"] = gr.Number(0, label=I18N("seed"), precision=0, elem_id="sample_seed")
            do = gr.Button(I18N("sample_do"), elem_id="sample_do", size="sm")
        with gr.Column(elem_classes="made"):
            drawn = controls.gallery("drawn_pictures")
            line = controls.line("sample_line")
    film = controls.shown("film")
    batch = controls.batch("sample_", run="sample_run")
    return Parts(controls=found, do=do, drawn=drawn, film=film, line=line, batch=batch)
