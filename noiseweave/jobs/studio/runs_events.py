"""What the tab Runs does, and how any tab starts a run."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import anyio
import gradio as gr
from fastapi import FastAPI
from fastapi.responses import FileResponse, PlainTextResponse, Response

from noiseweave.cluster import storage
from noiseweave.jobs.studio.events import Answer, fault, language, line
from noiseweave.jobs.studio.listing import PAGE, Listing, Output, State
from noiseweave.jobs.studio.running import Run, Runs
from noiseweave.jobs.studio.runs_tab import Parts, html_of
from noiseweave.jobs.studio.texts import say

POLICY = (
    "sandbox allow-scripts; default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
    "script-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
)
"""A report's script draws its own page; of an origin of its own, it cannot ask this page for anything."""


class RunEvents:
    """The events of the tab.

    Attributes:
        runs: that the page started.
        listing: of the outputs below its folder.
    """

    def __init__(self, runs: Runs, folder: str) -> None:
        self.runs, self.folder, self.listing = runs, folder, Listing(folder)

    def outputs(self) -> list[Output]:
        """What lies below the folder; of the page's own runs it is known whether they live, and how they ended."""
        own = {storage.absolute(run.folder): run for run in self.runs.started}
        outputs = self.listing.all()
        runs = [own.get(os.path.join(self.listing.root, output.name)) for output in outputs]
        return [
            output if run is None else replace(output, state=self._state(run))
            for output, run in zip(outputs, runs, strict=True)
        ]

    def _state(self, run: Run) -> State:
        code = run.process.poll()
        if code is None:
            return "running"
        if code == 0:
            return "done"
        return "stopped" if run.folder in self.runs.stopped else "failed"

    async def show(self, request: gr.Request, before: str) -> Answer:
        """A digest of what is shown -> that of what is to be, the HTML, and whether there is a run to stop.

        What is the same is not sent again, so that it keeps the keyboard's focus.
        """
        try:
            outputs = await anyio.to_thread.run_sync(self.outputs)
        except Exception as e:  # the page lives on
            return gr.skip(), fault(request, e), gr.skip()
        now, current = html_of(language(request), self.folder, outputs), self.runs.current
        mark = hashlib.sha256(f"{current is None}{now}".encode()).hexdigest()
        if mark == before:
            return gr.skip(), gr.skip(), gr.skip()
        return mark, now, gr.update(interactive=current is not None)

    async def stop(self, request: gr.Request) -> str:
        """End the run that the page has started; a line that says how it is gone on with."""
        lang, run = language(request), self.runs.current
        if run is None:
            return line(say(lang, "nothing_runs"))
        try:
            await anyio.to_thread.run_sync(self.runs.stop, run)
        except Exception as e:  # the page lives on
            return fault(request, e)
        return line(say(lang, "stopped", command=run.command))

    def start(self, request: gr.Request, job: str, config_of: Callable[[str], Any], positional: str) -> str:
        """Start a job on the data set, as ``Runs.start``; what was started, as a line.

        Raises:
            ValueError: as of ``Runs.start``.
        """
        run = self.runs.start(job, config_of, positional)
        return line(say(language(request), "started", command=run.command))

    def report(self, name: str) -> Response:
        """The report.html of a known output, and of nothing else."""
        path = self.listing.page(name)
        if path is None:
            return PlainTextResponse("no such report", 404)
        headers = {"content-security-policy": POLICY, "x-content-type-options": "nosniff"}
        return FileResponse(path, media_type="text/html; charset=utf-8", headers=headers)


def connect(parts: Parts, events: RunEvents, triggers: Sequence[Any]) -> None:
    """Bind the tab's parts to what they do.

    Args:
        triggers: besides the timer, after which it looks again.
    """
    before = gr.State("")
    gr.on(
        [parts.timer.tick, *triggers],
        events.show,
        inputs=[before],
        outputs=[before, parts.found, parts.stop],
        show_progress="hidden",
        concurrency_limit=None,
        api_name="runs",
    )
    parts.stop.click(events.stop, outputs=[parts.line], concurrency_limit=None, api_name="stop")


def serve(site: FastAPI, events: RunEvents) -> None:
    """Answer for the reports of known outputs."""
    site.get(f"/runs/{{name:path}}/{PAGE}")(events.report)
