"""What a cluster has: nodes with GPUs, CPUs, a kind of accelerator and labels; and an autoscaler that brings more."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from noiseweave.engine.records import JsonMapping

ACCELERATOR = "accelerator_type:"
"""Ray's name of a resource that says what GPU a node has, before the kind."""


@dataclass(frozen=True, kw_only=True)
class Node:
    """One machine of a cluster, or what Ray takes for one.

    Attributes:
        address: its IP.
        gpus, cpus: what Ray may give away there.
        accelerator: kind of its GPUs as Ray names it, "" where there is none or it is unknown.
        labels: that it was started with.
    """

    address: str
    gpus: float
    cpus: float
    accelerator: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)

    def suits(self, accelerator: str, labels: Mapping[str, str]) -> bool:
        """Whether a worker that asks for a kind of accelerator and for labels may run there."""
        from ray._raylet import node_labels_match_selector  # type: ignore[attr-defined]

        same = not accelerator or accelerator == self.accelerator
        return same and node_labels_match_selector(dict(self.labels), dict(labels))

    def __str__(self) -> str:
        own = [f"{name}={value}" for name, value in self.labels.items() if not name.startswith("ray.io/")]
        gpus = f"{self.gpus:g} {self.accelerator} GPUs".replace("  ", " ")
        return f"{self.address}: " + ", ".join([gpus, f"{self.cpus:g} CPUs", *own])


def nodes() -> list[Node]:
    """The nodes that are alive."""
    import ray

    return [_node(record) for record in ray.nodes() if record["Alive"]]


def _node(record: JsonMapping) -> Node:
    has = record["Resources"]
    kinds = [name.removeprefix(ACCELERATOR) for name in has if name.startswith(ACCELERATOR)]
    return Node(
        address=record["NodeManagerAddress"],
        gpus=has.get("GPU", 0.0),
        cpus=has.get("CPU", 0.0),
        accelerator=kinds[0] if kinds else "",
        labels=record.get("Labels") or {},
    )


def listing(found: Sequence[Node], most: int = 6) -> str:
    """Nodes in words; of many the first."""
    more = f"; and {len(found) - most} more" if len(found) > most else ""
    return "; ".join(str(node) for node in found[:most]) + more


def autoscaled() -> bool:
    """Whether an autoscaler may bring nodes.

    Ray has no direct word for it: every head runs the process, but where it only looks on, it calls each node's
    type ``node_ID``, and one that acts calls them by the names of its config.
    """
    from ray.autoscaler.v2.utils import is_autoscaler_v2
    from ray.experimental.internal_kv import _internal_kv_get

    if is_autoscaler_v2():
        return True
    status = json.loads(_internal_kv_get("__autoscaling_status") or "{}")
    types = (status.get("autoscaler_report") or {}).get("node_type_mapping") or {}
    return any(not name.startswith("node_") for name in types.values())


def request(bundles: Sequence[Mapping[str, float]], labels: Mapping[str, str]) -> None:
    """Ask the autoscaler for nodes that so many workers fit on; none takes the request back."""
    from ray.autoscaler.sdk import request_resources

    wanted = [dict(bundle) for bundle in bundles]
    request_resources(bundles=wanted, bundle_label_selectors=[dict(labels)] * len(wanted))
