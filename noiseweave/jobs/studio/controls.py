"""The parts of the tab Fuse: pictures, controls, results, with their labels in the browser's language."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias, get_args

import gradio as gr
from gradio.components.image_editor import EditorDataBlobs

from noiseweave.engine.fusion.recipes import EDITS, MODES
from noiseweave.jobs.studio.fusing import LABELS, NO_EDIT, WEIGHTS, Noise
from noiseweave.jobs.studio.texts import LANGUAGES, texts

PICTURES = ("picture_1", "picture_2", "picture_3", "picture_4")
Control: TypeAlias = gr.Slider | gr.Radio | gr.Textbox | gr.Number | gr.Checkbox | gr.Dropdown
I18N = gr.I18n(
    **{tag: dict(texts(language)) for language in LANGUAGES for tag in (language, f"{language}-CN")},
    **{"zh-TW": dict(texts("zh"))},
)


def picture(name: str) -> gr.Image:
    """A place for a picture: a file, or the clipboard."""
    return gr.Image(
        label=I18N(name),
        type="filepath",
        image_mode=None,
        sources=["upload", "clipboard"],
        height=200,
        elem_id=name,
        buttons=[],
    )


def slider(
    name: str, low: float, high: float, value: float, step: float = 0.01, visible: bool = True
) -> gr.Slider:
    """A slider with its number."""
    label = I18N(name)
    return gr.Slider(low, high, value, step=step, label=label, elem_id=name, visible=visible, buttons=[])


def moved(control: Control) -> Callable[..., Any]:
    """The event of a person's change. A slider's number that is out of its range is brought into it when it is left,
    which is no input, but a change; no event of the page changes a slider."""
    return control.change if isinstance(control, gr.Slider) else control.input


def choice(name: str, values: tuple[str, ...], value: str) -> gr.Radio:
    """One of several words: those of the command line, but for what a person reads more easily translated."""
    known = texts(LANGUAGES[0])
    named = [(I18N(f"word_{word}") if f"word_{word}" in known else word, word) for word in values]
    return gr.Radio(named, value=value, label=I18N(name), elem_id=name)


def text(name: str, lines: int = 1, copy: bool = False) -> gr.Textbox:
    """A line or several; to be copied, or to be written."""
    return gr.Textbox(
        label=I18N(name), lines=lines, elem_id=name, interactive=not copy, buttons=["copy"] if copy else []
    )


def shown(name: str, height: int | None = None) -> gr.Image:
    """A picture that was drawn, pixel for pixel."""
    return gr.Image(
        height=height,
        label=I18N(name),
        format="png",
        interactive=False,
        elem_id=name,
        buttons=["download", "fullscreen"],
        alt_text=texts(LANGUAGES[0])[name],
    )


class Nothing(dict[str, EditorDataBlobs]):
    """A store that keeps nothing: ImageEditor would keep all strokes of all pages in memory; the page reads files."""

    def __setitem__(self, key: str, value: EditorDataBlobs) -> None:
        """Forget it."""


def brush(name: str, visible: bool = True) -> gr.ImageEditor:
    """A place where a person paints on a picture; what is painted counts, its colour does not."""
    editor = gr.ImageEditor(
        label=I18N(name),
        elem_id=name,
        type="filepath",
        format="png",
        sources=(),
        transforms=(),
        layers=False,
        brush=gr.Brush(colors=["#ff2d55"], color_mode="fixed"),
        height=320,
        buttons=[],
        visible=visible,
        interactive=True,
    )
    editor.blob_storage = Nothing()
    return editor


def gallery(name: str) -> gr.Gallery:
    """Pictures that were drawn, pixel for pixel, with a word under each."""
    return gr.Gallery(
        label=I18N(name),
        elem_id=name,
        format="png",
        columns=4,
        elem_classes="tiles",
        object_fit="contain",
        allow_preview=False,
        interactive=False,
        buttons=[],
    )


def line(name: str) -> gr.HTML:
    """Where ``events.line`` is shown."""
    return gr.HTML(elem_id=name, elem_classes="line", apply_default_css=False)


@dataclass(kw_only=True)
class Batch:
    """From a tab to a batch: what is copied, what is saved, and what starts it on the data set."""

    command: gr.Textbox
    yaml: gr.Textbox
    save: gr.Button
    saved: gr.HTML
    run: gr.Button
    ran: gr.HTML


def batch(tab: str = "", run: str | None = None) -> Batch:
    """Lay out a tab's way to a batch; its texts and ids are called {tab}command, {tab}yaml, {tab}save, {tab}saved.

    Args:
        run: the text of the button that starts it; None where it cannot be started.
    """
    with gr.Accordion(I18N("batch"), open=False):
        return Batch(
            command=text(f"{tab}command", 3, copy=True),
            yaml=text(f"{tab}yaml", 8, copy=True),
            save=gr.Button(I18N(f"{tab}save"), elem_id=f"{tab}save", size="sm"),
            saved=line(f"{tab}saved"),
            run=gr.Button(I18N(run or "run"), elem_id=f"{tab}run", size="sm", visible=run is not None),
            ran=line(f"{tab}ran"),
        )


@dataclass(kw_only=True)
class Parts:
    """What the tab's events read and write.

    Attributes:
        pictures: four.
        controls: by name.
        region: where the second picture's region is painted.
        prompts: what holds those of a model that reads texts.
    """

    pictures: list[gr.Image]
    controls: dict[str, Control]
    region: gr.ImageEditor
    prompts: gr.Accordion
    next_pair: gr.Button
    result: gr.Image
    line: gr.HTML
    strip: gr.Image
    strip_do: gr.Button
    batch: Batch


def fuse_controls() -> tuple[dict[str, Control], gr.ImageEditor, gr.Accordion]:
    """The controls by name, where a region is painted, and what holds the prompts."""
    found: dict[str, Control] = {"ratio": slider("ratio", 0, 1, 0.5)}
    found |= {name: slider(name, 0, 1, 0.25, visible=False) for name in WEIGHTS}
    found["mode"] = choice("mode", MODES, "cross_fade")
    found["region"] = choice("region", ("everywhere", "saliency", "file"), "everywhere")
    region = brush("region_painted", visible=False)
    with gr.Accordion(I18N("edits"), open=False):
        found["edit"] = choice("edit", (NO_EDIT, *EDITS), NO_EDIT)
        found["strength"] = slider("strength", 0, 1, 0.5)
    with gr.Accordion(I18N("steps_and_noise"), open=False):
        found["steps"], found["skip"] = slider("steps", 2, 100, 20, 1), slider("skip", 0, 50, 4, 1)
        found["noise"] = choice("noise", get_args(Noise), "independent")
        found["variation"] = slider("variation", 0, 1, 0)
        found["seed"] = gr.Number(0, label=I18N("seed"), precision=0, elem_id="seed")
    with gr.Accordion(I18N("prompts"), open=False, visible=False) as prompts:
        found["source"], found["target"] = text("source"), text("target")
        for name in LABELS:
            found[name] = gr.Dropdown([], value=None, label=I18N(name), elem_id=name, visible=False)
        for name in ("guidance_source", "guidance_target"):
            found[name] = slider(name, 0, 20, 0, 0.1)
    return found, region, prompts


def fuse_tab(pairs: bool) -> Parts:
    """Lay out the tab.

    Args:
        pairs: there is an input, whose pairs it offers.
    """
    with gr.Row(elem_id="fuse_grid", elem_classes="grid"):
        with gr.Column(elem_classes="given"):
            with gr.Row():
                pictures = [picture(name) for name in PICTURES[:2]]
            next_pair = gr.Button(I18N("next_pair"), visible=pairs, elem_id="next_pair", size="sm")
            with gr.Accordion(I18N("more_pictures"), open=False), gr.Row():
                pictures += [picture(name) for name in PICTURES[2:]]
        with gr.Column(elem_id="fuse_result", elem_classes="made"):
            result = shown("result", height=420)
            said = line("line")
        with gr.Column(elem_classes="controls"):
            controls, region, prompts = fuse_controls()
    with gr.Accordion(I18N("strip"), open=False):
        strip_do, strip = gr.Button(I18N("strip_do"), elem_id="strip_do", size="sm"), shown("strip")
    return Parts(
        pictures=pictures,
        controls=controls,
        region=region,
        prompts=prompts,
        next_pair=next_pair,
        result=result,
        line=said,
        strip=strip,
        strip_do=strip_do,
        batch=batch(run="run" if pairs else None),
    )
