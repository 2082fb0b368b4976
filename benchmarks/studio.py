"""From the slider to the picture: the page's own endpoints, with the photo model that ships.

    python benchmarks/studio.py [--moves 60] [--threads 2]

Starts ``noiseweave studio``, says how long the first page takes, uploads two photographs of examples/flowers, and moves
the ratio as a browser does: a request, its answer, and the picture fetched. 20 steps at 256 px, of which 4 are
skipped, or none. It needs noiseweave[studio].
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
import uuid
from pathlib import Path

import psutil

ROOT = Path(__file__).parents[1]
PHOTOS = sorted((ROOT / "examples/flowers/daisy").glob("*.jpg"))[:2]
SESSION = "bench"


class Page:
    """A page, as a browser sees it."""

    def __init__(self, port: int) -> None:
        self.api = f"http://127.0.0.1:{port}/gradio_api"
        config = json.load(urllib.request.urlopen(f"http://127.0.0.1:{port}/config"))
        (self.number,) = (d["id"] for d in config["dependencies"] if d["api_name"] == "fuse")

    def upload(self, path: Path) -> dict:
        edge = uuid.uuid4().hex
        head = f'--{edge}\r\nContent-Disposition: form-data; name="files"; filename="{path.name}"\r\n\r\n'
        body = head.encode() + path.read_bytes() + f"\r\n--{edge}--\r\n".encode()
        kind = {"content-type": f"multipart/form-data; boundary={edge}"}
        answer = urllib.request.urlopen(urllib.request.Request(f"{self.api}/upload", body, kind))
        return {"path": json.load(answer)[0], "meta": {"_type": "gradio.FileData"}}

    def send(self, pictures: list[dict], ratio: float, skip: int, session: str = SESSION) -> None:
        weights, rest = (0.25,) * 4, ("independent", 0, 0, "", "", 0, 0, None, None, None, None, None)
        values = ["cross_fade", ratio, *weights, "everywhere", "none", 0.5, 20, skip, *rest]
        data = {"data": [*pictures, None, None, *values], "fn_index": self.number, "session_hash": session}
        kind = {"content-type": "application/json"}
        urllib.request.urlopen(
            urllib.request.Request(f"{self.api}/queue/join", json.dumps(data).encode(), kind)
        ).close()

    def answers(self, count: int, session: str = SESSION) -> list[list]:
        found: list[list] = []
        with urllib.request.urlopen(f"{self.api}/queue/data?session_hash={session}") as lines:
            for line in lines:
                message = json.loads(line[5:]) if line.startswith(b"data:") else {}
                if message.get("msg") == "process_completed":
                    found.append(message["output"]["data"])
                if len(found) == count:
                    return found
        return found

    def move(self, pictures: list[dict], ratio: float, skip: int) -> float:
        """Seconds from the slider to the picture."""
        start = time.perf_counter()
        self.send(pictures, ratio, skip)
        ((picture, *_),) = self.answers(1)
        urllib.request.urlopen(picture["url"]).read()
        return time.perf_counter() - start


def opened(port: int, process: subprocess.Popen) -> float:
    """Seconds from the command to the first page."""
    start = time.perf_counter()
    while process.poll() is None:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/").read()
            return time.perf_counter() - start
        except OSError:
            time.sleep(0.05)
    raise SystemExit("studio did not start")


def drag(page: Page, pictures: list[dict], values: int) -> int:
    """Pictures that are drawn when a slider is dragged over so many values at once."""
    for i in range(values):
        page.send(pictures, round(i / values, 4), 4, "drag")
    answers = page.answers(values, "drag")
    return sum(isinstance(picture, dict) and "url" in picture for picture, *_ in answers)


def seconds(server: psutil.Process) -> float:
    """CPU time of the server so far."""
    times = server.cpu_times()
    return times.user + times.system


def measure(page: Page, moves: int, server: psutil.Process) -> dict[str, object]:
    pictures = [page.upload(path) for path in PHOTOS]
    found: dict[str, object] = {}
    for skip in (4, 0):
        first = page.move(pictures, 0.5, skip)
        before = seconds(server)
        times = sorted(page.move(pictures, round(i / moves, 4), skip) for i in range(moves))
        found[f"skip {skip}"] = {
            "network calls": 20 - skip,
            "inverted and drawn, ms": round(1000 * first),
            "median, ms": round(1000 * statistics.median(times)),
            "95th percentile, ms": round(1000 * times[int(0.95 * len(times))]),
            "CPU time a move, ms": round(1000 * (seconds(server) - before) / moves),
        }
    return found | {"drawn of 50 values dragged over": drag(page, pictures, 50)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--moves", type=int, default=60)
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args()
    if importlib.util.find_spec("gradio") is None:
        print("left out: it needs Gradio, pip install 'noiseweave[studio]'")
        return
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    words = ["studio", "--model.name", "flowers-flow", "--port", str(port), "--output"]
    environment = {**os.environ, "OMP_NUM_THREADS": str(given.threads)}
    with (
        tempfile.TemporaryDirectory() as output,
        subprocess.Popen([sys.executable, "-m", "noiseweave", *words, output], env=environment) as process,
    ):
        try:
            first = opened(port, process)
            server = psutil.Process(process.pid)
            found = {
                "first page, s": round(first, 1),
                "first page, CPU s": round(seconds(server), 1),
                **measure(Page(port), given.moves, server),
            }
        finally:
            process.terminate()
    load = os.getloadavg()[0]
    print(json.dumps({"threads": given.threads, "load of the machine": round(load, 1), **found}, indent=1))


if __name__ == "__main__":
    main()
