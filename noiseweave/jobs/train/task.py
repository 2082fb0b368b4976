"""What travels to train's workers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from noiseweave.cluster.streams import Shard
from noiseweave.engine.records import JsonMapping, Quarantined
from noiseweave.jobs.train.config import Config


@dataclass(frozen=True, kw_only=True)
class Task:
    """All that a worker needs to know.

    Attributes:
        threads: torch threads on a CPU.
        quarantine: folder for the list of pictures that could not be decoded.
    """

    config: Config
    source: Source
    threads: int
    quarantine: str


@dataclass(frozen=True, kw_only=True)
class Source:
    """The training data.

    Attributes:
        shards: tables of the shards that training reads.
        payload: extensions of the member that holds a sample's picture or latents.
        classes: how many the network is conditioned on.
        names: of the classes, where the shards have them.
        bad: what is wrong with the shards.
        identity: what else than the config the result depends on.
        own: shards that are the run's own, url -> bytes, for ``write_own`` once the output folder is claimed.
    """

    shards: tuple[Shard, ...]
    payload: tuple[str, ...]
    classes: int
    names: tuple[str, ...] = ()
    bad: list[Quarantined] = field(default_factory=list)
    identity: JsonMapping = field(default_factory=dict)
    own: Mapping[str, bytes] = field(default_factory=dict, repr=False)

    @property
    def count(self) -> int:
        """Pictures of all shards."""
        return sum(shard.count for shard in self.shards)
