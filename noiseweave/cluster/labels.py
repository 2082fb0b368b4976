"""What a sample's .cls, .txt and .json say."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping

from noiseweave.engine.records import JsonMapping


def label_and_caption(sides: Mapping[str, bytes | None]) -> tuple[int | None, str | None]:
    """What a sample's ``.json``, ``.txt`` and ``.cls`` say: the last two go before the first.

    Args:
        sides: extension -> bytes; None or left out where the sample has no such member.

    Raises:
        ValueError: ``bad_json: ...`` or ``bad_label: ...``.
    """
    meta, text = _meta(sides.get("json")), sides.get("txt")
    caption = text.decode("utf-8", "replace").strip() if text is not None else _caption(meta)
    return _label(sides.get("cls"), meta), caption


def _meta(data: bytes | None) -> JsonMapping:
    if data is None:
        return {}
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as e:
        raise ValueError(f"bad_json: {e}") from None
    return value if isinstance(value, dict) else {}


def _label(data: bytes | None, meta: JsonMapping) -> int | None:
    """The .cls, which must be a number, or else the .json's label if that is one: it may mean anything."""
    if data is None:
        value = meta.get("label")
        return value if type(value) is int and 0 <= value < 1 << 31 else None
    text = data.decode("utf-8", "replace").strip()
    if not re.fullmatch(r"[0-9]{1,10}", text):
        raise ValueError(f"bad_label: {text[:80]!r} is no integer >= 0")
    if int(text) >= 1 << 31:
        raise ValueError(f"bad_label: {text} is not in 0..2^31-1")
    return int(text)


def _caption(meta: JsonMapping) -> str | None:
    caption = meta.get("caption")
    return caption if isinstance(caption, str) else None
