"""An output folder as augment leaves it, without a model: for the tests of its page."""

import json
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np

from noiseweave.cluster import ledger, shards, storage
from noiseweave.cluster.units import UnitReport
from noiseweave.engine.pictures import images
from noiseweave.engine.records import Quarantined

MODES = ("linear", "cross_fade")
EACH = 25  # samples in a shard


def picture(i: int, size: int = 8) -> np.ndarray:
    return np.random.default_rng(i).integers(0, 256, (size, size, 3), np.uint8)


def parent(i: int) -> dict:
    return {"shard": "a.tar", "key": f"p{i}", "label": i % 3, "weight": 0.5}


def lineage(i: int, parents: int) -> dict:
    """Sample i: its parents are i and i + 1 of so many, its similarity is (i % 100) / 100."""
    return {
        "parents": [parent(i % parents), parent((i + 1) % parents)],
        "similarity": (i % 100) / 100,
        "mode": MODES[i % 2],
        "ratio": 0.5,
        "pair_seed": 2**62 + i,
    }


def sample(i: int, parents: int, size: int = 8, **more) -> tuple[str, dict[str, bytes]]:
    about = json.dumps(lineage(i, parents) | more).encode()
    return f"s{i:06d}", {
        "png": images.encode(picture(10_000 + i, size)),
        "cls": b"%d" % (i % 3),
        "json": about,
    }


def build(folder: Path, count: int, *, parents: int = 10, rejected: int = 0, size: int = 8, extra=()) -> str:
    """folder/in has the parents, folder/out the run. The last ``rejected`` samples are copies. Returns out's path.

    Args:
        extra: samples (key, files) that are written beside the others.
    """
    output = str(folder / "out")
    inputs = [(f"p{i}", {"png": images.encode(picture(i, size))}) for i in range(parents)]
    storage.write(str(folder / "in" / "a.tar"), shards.pack(inputs))
    kept = [sample(i, parents, size) for i in range(count - rejected)] + list(extra)
    copies = [
        sample(i, parents, size, check={"verdict": "copy", "nearest": 0.99})
        for i in range(count - rejected, count)
    ]
    for name, rows in (("shards/augmented", kept), ("rejected/rejected", copies)):
        for n in range(0, len(rows), EACH):
            storage.write(f"{output}/{name}-{n // EACH:06d}.tar", shards.pack(rows[n : n + EACH]))
    book = ledger.open_run(output, {"job": "augment", "seed": 2**62})
    for n, worker in enumerate(("red/1", "red/1", "blue/2")):
        spent = {"fetch": 1.0, "compute": 2.0, "commit": 0.5}
        done = UnitReport(id=f"{n:06d}", produced=10, seconds=3.5, spent=spent, worker=worker)
        bad = [Quarantined(shard="a.tar", key=f"bad{n}", reason="no_picture", detail="<b>only txt</b>")]
        book.mark("generate", replace(done, quarantined={"no_picture": 1}), bad)
    lines = [json.dumps({"phase": "generate", **b}) for r in book.records("generate") for b in r["bad"]]
    storage.write(f"{output}/quarantine.jsonl", "".join(f"{line}\n" for line in lines).encode())
    report = {
        "config": {"input": str(folder / "in"), "seed": 2**62, "pairing": {"threshold": 0.7}},
        "read_from": {"root": f"{folder}/in/"},
        "images": parents + 2,
        "pairs": count,
        "asked": count,
        "rejected": {"copy": rejected} if rejected else {},
        "pair_ends": 2 * count,
        "images_inverted": count,
        "quarantined": {"no_picture": 3},
        "failed": {},
        "phases": {"generate": {"seconds": 9}},
    }
    storage.write_json(f"{output}/report.json", report)
    return output


class Scripts(HTMLParser):
    """What an HTML parser sees of a page: its tags and the text of its scripts and styles."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.inside: list[str] = []
        self.policy = ""
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        if tag == "meta" and "Content-Security-Policy" in dict(attrs).values():
            self.policy = dict(attrs)["content"]
        if tag in ("script", "style"):
            self.inside.append("")

    def handle_data(self, data):
        if self.tags[-1:] in (["script"], ["style"]):
            self.inside[-1] += data

    def handle_endtag(self, tag):
        if tag in ("script", "style"):
            self.tags.append("")


def data_of(page: str) -> dict:
    return json.loads(Scripts(page).inside[1])
