"""What travels to unpack's workers."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Task:
    """What the workers need to know: plain values.

    Attributes:
        output: absolute folder or URL.
        root: what the URLs of all shards begin with; a shard's name is the rest.
        classes: names of the classes, where the input has them.
        whole: write all members of a sample, not its picture alone.
    """

    output: str
    root: str
    classes: tuple[str, ...]
    whole: bool = False

    def name_of(self, shard: str) -> str:
        """A shard's name: it stays when the whole data set moves."""
        return shard[len(self.root) :]
