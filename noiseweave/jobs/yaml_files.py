"""A look at a YAML file before it is parsed: how much it says once its aliases are written out."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from yaml.nodes import Node

BYTES = 1 << 20
NODES = 10_000
"""Most bytes of a file, and most keys, values and lists that it may stand for."""


def check_size(path: str) -> None:
    """Raise ValueError, one line, where a YAML file is too large, also by aliases of aliases, or holds itself.

    Of a file that is not there or no YAML nothing is said: whoever reads it does.
    """
    import yaml

    try:
        if os.path.exists(path) and not os.path.isfile(path):  # a pipe would be read once, and may never end
            raise ValueError(f"{path}: not a regular file")
        if os.path.getsize(path) > BYTES:
            raise ValueError(f"{path}: {os.path.getsize(path)} bytes, at most {BYTES}")
        with open(path, encoding="utf-8") as stream:
            root = yaml.compose(stream, yaml.SafeLoader)
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return
    except RecursionError:
        raise ValueError(f"{path}: nested too deep") from None
    if root is not None and _count(path, root, {}) > NODES:
        raise ValueError(f"{path}: its aliases stand for more than {NODES} values")


def _count(path: str, node: Node, known: dict[int, int | None]) -> int:
    """Values that a node stands for, each node looked at once; ``known`` has None for those on the way to it."""
    if id(node) in known:
        count = known[id(node)]
        if count is None:
            raise ValueError(f"{path}: an alias in it stands for what holds it")
        return count
    known[id(node)] = None
    parts = node.value if isinstance(node.value, list) else []
    inner = [one for part in parts for one in (part if isinstance(part, tuple) else (part,))]
    known[id(node)] = count = 1 + sum(_count(path, one, known) for one in inner)
    return count
