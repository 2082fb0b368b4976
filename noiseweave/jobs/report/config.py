"""What a user may say of report."""

from __future__ import annotations

from dataclasses import dataclass

from noiseweave.engine.checks import check

POSITIONAL = "folder"
POSITIONAL_HELP = "The folder needs no flag: noiseweave report out/augmented --serve"

USUAL = {"input and output": ("folder", "input"), "what it does": ("pictures", "serve", "host", "port")}

PICTURES = 2000
LOCAL = ("127.0.0.1", "localhost")


@dataclass(frozen=True, kw_only=True)
class Config:
    """A job's output folder -> report.html, a page that needs no other file and no network.

    Args:
        folder: output folder or URL of augment, inpaint, sample or fuse.
        pictures: samples that the gallery shows, spread evenly over all; figures are always over all.
        input: where the job's input lies now, if it moved since: of augment the folder of its shards, of inpaint
            that of its pictures, or its shards. null takes where the job read it.
        serve: also show the page in a browser, until Ctrl-C; nothing else of the folder is served.
        host: address that serve listens at; the default is reached from this machine alone.
        port: of serve; 0 takes any free one.
    """

    folder: str
    pictures: int = PICTURES
    input: str | None = None
    serve: bool = False
    host: str = LOCAL[0]
    port: int = 8765

    def __post_init__(self) -> None:
        check(bool(self.folder.strip()), "folder", self.folder, "a folder or URL")
        check(0 <= self.pictures <= 100_000, "pictures", self.pictures, "0 to 100000")
        check(0 <= self.port < 65536, "port", self.port, "0 to 65535")
