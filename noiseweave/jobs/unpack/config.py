"""What a user may say of unpack."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from noiseweave.cluster.session import ClusterConfig
from noiseweave.engine.checks import check
from noiseweave.engine.identity import ASIDE

POSITIONAL = "input"
POSITIONAL_HELP = "The input needs no flag: noiseweave unpack out/augmented --output out/pictures"
USUAL = {
    "input and output": ("input", "output", "overwrite"),
    "what it does": ("members",),
    "where it runs": ("cluster.address", "cluster.workers"),
}


@dataclass(frozen=True, kw_only=True)
class Config:
    """Shards -> class folders of pictures, with classes.json and metadata.jsonl.

    Args:
        input: folder, glob, brace pattern or fsspec URL of WebDataset .tar shards, of any job or from elsewhere; or the
            output folder of a job, whose shards are read.
        output: folder or URL of its own for the class folders, classes.json, metadata.jsonl, report.json and
            quarantine.jsonl.
        members: picture writes each sample's picture alone; all writes the rest of it (masks, captions, ...) beside it,
            where torchvision takes a mask for a picture of its class. The .cls, .txt and .json are in metadata.jsonl
            either way.
        overwrite: throw away what an earlier unpack wrote there and start anew.
        cluster: where the work runs; no GPU is used.
    """

    input: str = field(metadata=ASIDE)
    output: str = field(metadata=ASIDE)
    members: Literal["picture", "all"] = "picture"
    overwrite: bool = field(default=False, metadata=ASIDE)
    cluster: ClusterConfig = field(default_factory=ClusterConfig, metadata=ASIDE)

    def __post_init__(self) -> None:
        check(bool(self.input.strip()), "input", self.input, "a folder or URL of .tar shards")
        check(bool(self.output.strip()), "output", self.output, "a folder or URL")
