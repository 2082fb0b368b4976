"""The page: its tabs, its colours, which are those of report.html, and the app that answers for it."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from importlib import resources

import anyio
import gradio as gr
from fastapi import FastAPI

from noiseweave.jobs.studio import controls, fuse_events, repair_events, repair_tab, sample_events, sample_tab
from noiseweave.jobs.studio.events import fault, language, line
from noiseweave.jobs.studio.fuse_events import FuseEvents
from noiseweave.jobs.studio.guard import Guard
from noiseweave.jobs.studio.live import Live
from noiseweave.jobs.studio.repair_events import RepairEvents
from noiseweave.jobs.studio.sample_events import SampleEvents
from noiseweave.jobs.studio.texts import say
from noiseweave.jobs.studio.turns import Turns

FONTS = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "Helvetica Neue", "Arial", "sans-serif")
CSS = """
.gradio-container main { max-width: 1320px !important; margin: 0 auto; }
.grid { display: grid !important; gap: 12px; grid-template-columns: minmax(0, 1fr) minmax(0, 1fr);
  grid-template-rows: auto 1fr; grid-template-areas: "given made" "controls made"; }
.given { grid-area: given; }
.made { grid-area: made; align-self: start; }
#fuse_result { position: sticky; top: 8px; z-index: 2; }
.controls { grid-area: controls; }
@media (max-width: 800px) {
  .grid { grid-template-columns: minmax(0, 1fr); grid-template-areas: "given" "made" "controls"; }
  #fuse_result { background: var(--body-background-fill); }
  #result { height: 240px !important; }
}
.tiles .grid-container { grid-template-columns: repeat(auto-fit, minmax(90px, 1fr)) !important; }
#film img { padding-top: 32px; }
.tiles .grid-wrap { min-height: 120px; height: auto !important; max-height: none !important;
  overflow: visible !important; }
#result img { width: 100%; height: 100%; object-fit: contain; }
#title h1 { font-size: 26px; margin: 8px 0 0; }
.line p { margin: 0; overflow-wrap: anywhere; color: var(--body-text-color-subdued); }
.line p.bad { background: var(--error-background-fill); color: var(--error-text-color); border-radius: 8px;
  padding: 8px 12px; }
:focus-visible { outline: 2px solid var(--color-accent); outline-offset: 2px; }
"""
OLD_FILES = (600, 3600)
"""Every so many seconds uploads and results of so many seconds ago are deleted."""


def colours() -> tuple[dict[str, str], dict[str, str]]:
    """The colours of report.html by name, light and dark."""
    file = resources.files("noiseweave.jobs.report") / "page.css"
    roots = re.findall(r":root \{(.*?)\}", file.read_text(encoding="utf-8"), re.DOTALL)
    light, dark = (dict(re.findall(r"--([\w-]+): (#\w+);", root)) for root in roots[:2])
    return light, dark


def theme() -> gr.themes.Base:
    """Gradio's plain theme in those colours, with the system's own fonts."""
    of = {
        "body_background_fill": "ground",
        "block_background_fill": "panel",
        "background_fill_primary": "panel",
        "background_fill_secondary": "well",
        "input_background_fill": "panel",
        "body_text_color": "ink",
        "block_label_text_color": "soft",
        "block_title_text_color": "soft",
        "body_text_color_subdued": "soft",
        "border_color_primary": "line",
        "color_accent": "accent",
        "input_border_color": "line",
        "slider_color": "accent",
        "link_text_color": "accent",
        "error_background_fill": "bad-ground",
        "error_text_color": "bad",
    }
    light, dark = colours()
    values = {name: light[colour] for name, colour in of.items()}
    values |= {f"{name}_dark": dark[colour] for name, colour in of.items() if name != "color_accent"}
    return gr.themes.Base(font=FONTS, font_mono=("ui-monospace", "monospace")).set(**values)


def build(live: Live) -> gr.Blocks:
    """The page of a model."""
    model, turns = live.config.model.name, Turns()
    with gr.Blocks(
        title="Noiseweave studio", analytics_enabled=False, delete_cache=OLD_FILES, fill_width=True
    ) as page:
        gr.Markdown(controls.I18N("title"), elem_id="title")
        about = controls.line("about")
        with gr.Tab(controls.I18N("fuse"), id="fuse"):
            parts = controls.fuse_tab(pairs=live.config.input is not None)
            fuse_events.connect(parts, FuseEvents(live, turns), page)

        with gr.Tab(controls.I18N("repair"), id="repair"):
            repair_events.connect(repair_tab.lay_out(), RepairEvents(live, turns), page)
        with gr.Tab(controls.I18N("sample"), id="sample"):
            sample_events.connect(sample_tab.lay_out(), SampleEvents(live, turns), page)

        async def opened(request: gr.Request) -> AsyncIterator[str]:
            lang = language(request)
            yield line(say(lang, "loading", model=model))
            try:
                known = await anyio.to_thread.run_sync(live.models.known)
            except Exception as e:  # the page says it, and asks for it again with the next picture
                yield fault(request, e)
                return
            side = live.config.size or known.facts.side
            yield line(say(lang, "loaded", model=model, side=side, device=known.device))

        page.load(opened, outputs=[about], api_visibility="private", concurrency_limit=None)
    return page


def app(live: Live) -> Guard:
    """What a server runs."""
    size, page = live.pictures.limits.size, build(live).queue()
    page.has_launched = True  # else it copies any file that a request names, not uploads alone
    site = gr.mount_gradio_app(
        FastAPI(openapi_url=None),
        page,
        path="/",
        server_name="127.0.0.1",
        server_port=live.config.port,
        footer_links=[],
        run_history=False,
        max_file_size=size,
        enable_monitoring=False,
        ssr_mode=False,
        pwa=False,
        mcp_server=False,
        i18n=controls.I18N,
        theme=theme(),
        css=CSS,
    )
    return Guard(site, live.config.port, live.pictures.limits)
