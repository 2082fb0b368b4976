"""What a result depends on: all of a config but the fields that are marked as changing no result.

A run is gone on with where its config's identity is the same; one field that changes results and is marked would join
results of two kinds, so a new field counts unless it says otherwise.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any

MARK = "changes_results"
ASIDE = {MARK: False}
"""Metadata of a dataclass field that changes no result: where or how fast it is computed, or what is shown of it."""


def identity_of(config: Any, **more: Any) -> dict[str, Any]:
    """The fields of a config that change results, nested, as JSON gives them back.

    Args:
        more: what else the results depend on; takes the place of a field of its name.
    """
    return json.loads(json.dumps(_plain(config) | more))


def _plain(value: Any) -> Any:
    if is_dataclass(value):
        kept = [f.name for f in fields(value) if f.metadata.get(MARK, True)]
        return {name: _plain(getattr(value, name)) for name in kept}
    if isinstance(value, Mapping):
        return {name: _plain(item) for name, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else value
