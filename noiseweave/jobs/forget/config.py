"""What a user may say of forget."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

from noiseweave.cluster.session import ClusterConfig
from noiseweave.engine.checks import check
from noiseweave.engine.records import Json

WORK = "_forget"  # below the first input, while the job runs
PLAN = "plan.json"
REQUEST = "request.json"


@dataclass(frozen=True, kw_only=True)
class Config:
    """A source picture's key -> all samples that descend from it, removed from the shards that they lie in.

    Args:
        input: an output folder of augment or inpaint, or any folder of shards whose samples have a lineage. Several as
            '["out/a", "out/b"]': what was made from what was made is found across them.
        key: the picture's key, as the lineage has it.
        shard: the name of its shard, as the lineage has it; needed where several shards have the key.
        dry_run: say what would be removed, and change nothing.
        cluster: where the work runs; no GPU is used.
    """

    input: str | tuple[str, ...]
    key: str
    shard: str | None = None
    dry_run: bool = False
    cluster: ClusterConfig = field(default_factory=ClusterConfig)

    def __post_init__(self) -> None:
        ok = bool(self.inputs) and all(folder.strip() for folder in self.inputs)
        check(ok, "input", self.input, "a folder or URL, or several")
        check(bool(self.key), "key", self.key, "the key of a picture")
        check(self.shard is None or bool(self.shard), "shard", self.shard, "the name of a shard, or null")

    @property
    def inputs(self) -> tuple[str, ...]:
        """The inputs, one or several."""
        return (self.input,) if isinstance(self.input, str) else tuple(self.input)

    @property
    def request(self) -> Json:
        """What was asked for, without the key: it may be a person's name, and this is written down."""
        return {"key_sha256": hashlib.sha256(self.key.encode()).hexdigest(), "shard": self.shard}
