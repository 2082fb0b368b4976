"""augment and forget in this process, and what lies in their folders."""

import contextlib
import hashlib
import json
from types import SimpleNamespace

import flows
import pyarrow.parquet as pq

from noiseweave.cluster import pipeline, session, shards, storage
from noiseweave.jobs import cli


def without_ray(monkeypatch):
    """Jobs run their units one after another; those with a marker are left out, as Ray's flow does."""

    @contextlib.contextmanager
    def nobody(_config):
        yield SimpleNamespace(workers=1)

    def run_here(plan, phase, book, s):
        done = book.done(phase.name)
        left = [unit for unit in map(plan.unit, range(plan.length)) if unit.id not in done]
        part = SimpleNamespace(length=len(left), unit=lambda i: left[i])
        outcome = flows.run_here(part, phase, book, s) if left else pipeline.Outcome(units=plan.length)
        if not left:
            for record in book.records(phase.name):
                outcome.add(record)
        return outcome

    monkeypatch.setattr(session, "session", nobody)
    monkeypatch.setattr(pipeline, "run", run_here)


def job(name, *arguments):
    return cli.main([name, *map(str, arguments)])


def files(folder):
    """path -> SHA-256 of every file."""
    return {
        str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(folder.rglob("*"))
        if p.is_file()
    }


def samples(folder):
    """(shard, key) -> extension -> bytes, of all shards of an output."""
    return {
        (path.name, e.key): {x: storage.read(str(path), m.offset, m.size) for x, m in e.members.items()}
        for path in sorted(folder.glob("*/*.tar"))
        for e in shards.index(str(path))[0]
    }


def parents(one):
    """The keys of a sample's parents."""
    return {p["key"] for p in json.loads(one.get("json", b"{}")).get("parents", ())}


def holding(folder, text):
    """The files that have a text in them; those of parquet are read, as it may be compressed there."""

    def content(path):
        return (
            repr(pq.read_table(path).to_pylist()).encode() if path.suffix == ".parquet" else path.read_bytes()
        )

    every = (p for p in folder.rglob("*") if p.is_file())
    return {str(p.relative_to(folder)) for p in every if text.encode() in content(p)}
