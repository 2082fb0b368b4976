"""The page: its tabs, its colours, which are those of report.html, and the app that answers for it."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from importlib import resources

import anyio
import gradio as gr
from fastapi import FastAPI

from noiseweave.jobs.studio import (
    controls,
    fuse_events,
    pairs_events,
    pairs_tab,
    repair_events,
    repair_tab,
    runs_events,
    runs_tab,
    sample_events,
    sample_tab,
)
from noiseweave.jobs.studio.events import fault, language, left, line
from noiseweave.jobs.studio.fuse_events import FuseEvents
from noiseweave.jobs.studio.guard import Guard
from noiseweave.jobs.studio.live import Live
from noiseweave.jobs.studio.pairs_events import PairsEvents
from noiseweave.jobs.studio.previews import Previews
from noiseweave.jobs.studio.repair_events import RepairEvents
from noiseweave.jobs.studio.running import Runs
from noiseweave.jobs.studio.runs_events import RunEvents
from noiseweave.jobs.studio.sample_events import SampleEvents
from noiseweave.jobs.studio.texts import say
from noiseweave.jobs.studio.turns import Turns

FONTS = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "Helvetica Neue", "Arial", "sans-serif")
CSS = """
.gradio-container main { width: 100%; max-width: 1320px !important; margin: 0 auto; }
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
#sample_grid { grid-template-rows: auto; grid-template-areas: "controls made"; }
@media (max-width: 800px) { #sample_grid { grid-template-areas: "controls" "made"; } }
#repair_files .label-clear-button { display: none; }
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
FIGURES = """
.charts { display: grid; gap: 12px; grid-template-columns: repeat(auto-fit, minmax(min(100%, 200px), 1fr)); }
.charts figure, .pairs figure { margin: 0; min-width: 0; }
.charts figcaption, .pairs figcaption { color: var(--body-text-color-subdued); font-size: 13px; }
svg.chart { display: block; width: 100%; height: auto; }
svg.chart text { fill: var(--body-text-color-subdued); font-size: 11px; font-variant-numeric: tabular-nums; }
svg.chart .axis { stroke: var(--border-color-primary); }
svg.chart .mark { stroke: var(--body-text-color); stroke-dasharray: 3 3; }
svg.chart .bar { fill: var(--chart-bar); }
svg.chart .out { fill: var(--border-color-primary); }
table.figures { border-collapse: collapse; margin-top: 12px; font-size: 14px; }
table.figures th { text-align: left; font-weight: 500; color: var(--body-text-color-subdued); }
table.figures th, table.figures td { padding: 3px 18px 3px 0; overflow-wrap: anywhere; }
table.figures .number { font-variant-numeric: tabular-nums; }
.pairs h3 { font-size: 14px; font-weight: 600; margin: 12px 0 6px; }
.pairs div { display: flex; flex-wrap: wrap; gap: 12px; }
.pairs img { display: inline-block; width: 72px; height: 72px; object-fit: cover; border-radius: 4px;
  margin: 0 2px 0 0; }
article.run { border: 1px solid var(--border-color-primary); background: var(--block-background-fill);
  border-radius: 10px; padding: 12px 16px; margin-bottom: 12px; }
article.run h3 { font-size: 15px; font-weight: 600; margin: 0; overflow-wrap: anywhere; }
article.run p { margin: 4px 0 0; overflow-wrap: anywhere; }
article.run p.bad, .run .failed { color: var(--error-text-color); }
article.run .state { font-weight: 500; font-size: 13px; color: var(--body-text-color-subdued); }
article.run .running { color: var(--color-accent); }
article.run pre { margin: 8px 0 0; padding: 8px 10px; border-radius: 6px; font-size: 12px; white-space: pre-wrap;
  overflow-wrap: anywhere; background: var(--background-fill-secondary); color: var(--body-text-color); }
article.run a { color: var(--link-text-color); text-decoration: underline; }
article.run progress { appearance: none; width: 100%; height: 0.5rem; border: 0; border-radius: 4px; overflow: hidden; }
article.run progress, article.run progress::-webkit-progress-bar { background: var(--border-color-primary); }
article.run progress::-webkit-progress-value { background: var(--color-accent); }
article.run progress::-moz-progress-bar { background: var(--color-accent); }
"""
OLD_FILES = (600, 3600)
"""Every so many seconds uploads and results of so many seconds ago are deleted."""


def colours() -> tuple[dict[str, str], dict[str, str]]:
    """The colours of report.html by name, light and dark."""
    file = resources.files("noiseweave.jobs.report") / "page.css"
    roots = re.findall(r":root \{(.*?)\}", file.read_text(encoding="utf-8"), re.DOTALL)
    light, dark = (dict(re.findall(r"--([\w-]+): (#\w+);", root)) for root in roots[:2])
    return light, dark


def charts_css() -> str:
    """The style of figures; their bars have the colour of report's."""
    light, dark = colours()
    return (
        f":root {{ --chart-bar: {light['bar']}; }} "
        f".dark {{ --chart-bar: {dark['bar']}; --color-accent: {dark['accent']}; }}{FIGURES}"
    )


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
    values |= {"input_border_width": "1px", "checkbox_label_border_width": "0px"}
    values |= {f"{name}_dark": dark[colour] for name, colour in of.items() if name != "color_accent"}
    return gr.themes.Base(font=FONTS, font_mono=("ui-monospace", "monospace")).set(**values)


def build(live: Live, runs: RunEvents) -> gr.Blocks:
    """The page of a model."""
    model, turns = live.config.model.name, Turns()
    with gr.Blocks(
        title="Noiseweave studio", analytics_enabled=False, delete_cache=OLD_FILES, fill_width=True
    ) as page:
        gr.Markdown(controls.I18N("title"), elem_id="title")
        about = controls.line("about")
        with gr.Tab(controls.I18N("fuse"), id="fuse"):
            parts = controls.fuse_tab(pairs=live.config.input is not None)
            fuse_events.connect(parts, FuseEvents(live, turns, runs), page)
        if live.config.input is not None:
            with gr.Tab(controls.I18N("pairs"), id="pairs") as tab:
                events = PairsEvents(live, turns, runs)
                pairs_events.connect(pairs_tab.lay_out(), events, tab, parts.controls)
        with gr.Tab(controls.I18N("repair"), id="repair"):
            repair_events.connect(repair_tab.lay_out(), RepairEvents(live, turns), page)
        with gr.Tab(controls.I18N("sample"), id="sample"):
            sample_events.connect(sample_tab.lay_out(), SampleEvents(live, turns, runs), page)
        with gr.Tab(controls.I18N("runs"), id="runs") as tab:
            runs_events.connect(runs_tab.lay_out(), runs, [tab.select, page.load])

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

        def closed(request: gr.Request) -> None:
            left(turns, request)

        page.unload(closed)
        page.load(opened, outputs=[about], api_visibility="private", concurrency_limit=None)
    return page


def app(live: Live, runs: Runs) -> Guard:
    """What a server runs."""
    config = live.config
    events = RunEvents(runs, config.runs or config.output)
    size, page, host = live.pictures.limits.size, build(live, events).queue(), FastAPI(openapi_url=None)
    page.has_launched = True  # else it copies any file that a request names, not uploads alone
    runs_events.serve(host, events)
    site = gr.mount_gradio_app(
        host,
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
        css=CSS + charts_css(),
    )
    return Guard(Previews(site, live.pictures.limits), live.config.port, live.pictures.limits)
