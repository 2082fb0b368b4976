"""The parts of the tab Repair."""

from __future__ import annotations

from dataclasses import dataclass

import gradio as gr

from noiseweave.jobs.studio import controls
from noiseweave.jobs.studio.controls import I18N, Batch, Control
from noiseweave.jobs.studio.repairing import LORAS, MOST


@dataclass(kw_only=True)
class Parts:
    """What the tab's events read and write.

    Attributes:
        picture: a file as it is.
        painted: where the hole is painted.
        mask: a file with the hole, or None.
        controls: by name of repairing.CONTROLS.
        prompts: what holds those of a model that reads texts.
        compare: before and after of one variant.
        compared: which, by its place.
        variants: all of them.
        files: to be downloaded.
    """

    picture: gr.Image
    painted: gr.ImageEditor
    mask: gr.Image
    controls: dict[str, Control]
    prompts: gr.Accordion
    compare: gr.ImageSlider
    compared: gr.Radio
    line: gr.HTML
    variants: gr.Gallery
    files: gr.File
    batch: Batch


def lay_out() -> Parts:
    """Lay out the tab."""
    with gr.Row(elem_id="repair_grid", elem_classes="grid"):
        with gr.Column(elem_classes="given"):
            picture = controls.picture("repair_picture")
            painted = controls.brush("painted", visible=False)
        with gr.Column(elem_classes="made"):
            compare = gr.ImageSlider(
                label=I18N("compare"),  # type: ignore[arg-type]  # it is translated as every label is
                elem_id="compare",
                format="png",
                interactive=False,
                height=420,
                buttons=["fullscreen"],
            )
            compared = gr.Radio([], label=I18N("compared"), elem_id="compared")
            line = controls.line("repair_line")
            variants = controls.gallery("repair_variants")
            files = gr.File(
                label=I18N("repair_files"), file_count="multiple", interactive=False, elem_id="repair_files"
            )
        with gr.Column(elem_classes="controls"):
            mask, chosen, prompts = _controls()
    return Parts(
        picture=picture,
        painted=painted,
        mask=mask,
        controls=chosen,
        prompts=prompts,
        compare=compare,
        compared=compared,
        line=line,
        variants=variants,
        files=files,
        batch=controls.batch("repair_"),
    )


def _controls() -> tuple[gr.Image, dict[str, Control], gr.Accordion]:
    """The mask's file, the controls by name, and what holds the prompts."""
    slider = controls.slider
    found: dict[str, Control] = {}
    found["variants"] = slider("variants", 1, MOST, 2, 1)
    found["repair_seed"] = gr.Number(1, label=I18N("seed"), precision=0, elem_id="repair_seed", minimum=1)
    found["crop_to_mask"] = gr.Checkbox(False, label=I18N("crop_to_mask"), elem_id="crop_to_mask")
    found["feather"] = slider("feather", 0, 64, 4, 1)
    for name in LORAS:  # they get the files' names once the model is known
        found[name] = gr.Slider(
            -2, 2, 1, step=0.05, label=I18N("lora"), elem_id=name, visible=False, buttons=[]
        )
    with gr.Accordion(I18N("mask_of_a_file"), open=False):
        mask = controls.picture("repair_mask")
        found["mask_mode"] = controls.choice("mask_mode", ("black", "white"), "black")
    with gr.Accordion(I18N("repair_how"), open=False):
        found["repair_steps"] = slider("repair_steps", 1, 100, 20, 1)
        found["repair_strength"] = slider("repair_strength", 0.05, 1, 1, 0.05)
        found["resample"] = slider("resample", 1, 10, 2, 1)
        found["padding"] = slider("padding", 0, 256, 64, 1)
    with gr.Accordion(I18N("repair_prompts"), open=False, visible=False) as prompts:
        found["repair_prompt"] = controls.text("repair_prompt")
        found["repair_negative"] = controls.text("repair_negative")
        found["repair_guidance"] = slider("repair_guidance", 0, 20, 0, 0.1)
    return mask, found, prompts
