"""augment and forget, and what lies in their folders."""

import hashlib
import json

import pyarrow.parquet as pq
from flows import inline

from noiseweave.cluster import shards, storage


def job(name, *arguments):
    return inline(name, *arguments)


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
