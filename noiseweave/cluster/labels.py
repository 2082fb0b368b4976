"""What a sample's .cls, .txt and .json say: a class number or a class name, and a caption."""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Mapping

from noiseweave.engine.records import JsonMapping

Sides = Mapping[str, bytes | None]
"""Extension -> bytes of a sample's side members; None or left out where it has no such member."""
NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)")
HIGHEST = (1 << 31) - 1
NAME_LENGTH = 200
# UTF-32 first: its mark begins like that of UTF-16
MARKS = (
    (codecs.BOM_UTF32_LE, None),
    (codecs.BOM_UTF32_BE, None),
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


def text_of(data: bytes) -> str:
    """A caption's bytes as text: UTF-8 with or without a byte order mark, or UTF-16 with one.

    Raises:
        ValueError: ``bad_txt: ...``: anything else, so that no caption is ever read as garbage.
    """
    encoding = next((name for mark, name in MARKS if data.startswith(mark)), "utf-8")
    try:
        text = data.decode(encoding) if encoding is not None else "\0"
    except UnicodeDecodeError as e:
        raise ValueError(f"bad_txt: neither UTF-8 nor UTF-16 with a byte order mark ({e.reason})") from None
    if "\0" in text:  # UTF-16 without a mark, UTF-32, or no text at all
        raise ValueError("bad_txt: neither UTF-8 nor UTF-16 with a byte order mark (zero bytes)")
    return text


def label_and_caption(sides: Sides) -> tuple[int | None, str | None]:
    """What a sample's ``.json``, ``.txt`` and ``.cls`` say: the last two go before the first.

    Class names are for ``pack`` alone: in a ``.cls`` they are an error, in a ``.json`` no label.

    Raises:
        ValueError: ``bad_json: ...``, ``bad_txt: ...`` or ``bad_label: ...``.
    """
    label = label_of(sides)
    if isinstance(label, str):
        if sides.get("cls") is not None:
            raise ValueError(
                f"bad_label: {label[:80]!r} is no integer >= 0; pack gives class names their numbers"
            )
        label = None
    return label, caption_of(sides)


def caption_of(sides: Sides) -> str | None:
    """The ``.txt``, or else the ``.json``'s caption.

    Raises:
        ValueError: ``bad_json: ...`` or ``bad_txt: ...``.
    """
    meta, text = _meta(sides.get("json")), sides.get("txt")
    if text is not None:
        return text_of(text).strip()
    caption = meta.get("caption")
    return caption if isinstance(caption, str) else None


def label_of(sides: Sides) -> int | str | None:
    """The ``.cls``, or else the ``.json``'s label if that is one (it may mean anything): a class number or a name.

    Raises:
        ValueError: ``bad_json: ...`` or ``bad_label: ...``.
    """
    meta, data = _meta(sides.get("json")), sides.get("cls")
    if data is not None:
        return class_of(data)
    try:
        return class_of(meta.get("label"))
    except ValueError:
        return None


def class_of(value: object) -> int | str | None:
    """A label of any source: a number (``3``, ``"3"``, ``3.0``) as such, other text as a class name, None for none.

    Raises:
        ValueError: ``bad_label: ...``: a number that is no integer from 0 to 2^31 - 1, or text that is no name.
    """
    if value is None:
        return None
    if isinstance(value, bytes):
        try:
            value = text_of(value)
        except ValueError:
            raise ValueError(f"bad_label: {value[:80]!r} is no text") from None
    if isinstance(value, str):
        text = value.strip()
        if not NUMBER.fullmatch(text):
            return _name(text)
        value = float(text)  # exact up to 2^53
    number = value if isinstance(value, int | float) and not isinstance(value, bool) else -1
    if not 0 <= number <= HIGHEST or number != int(number):
        raise ValueError(f"bad_label: {str(value)[:80]!r} is no class number from 0 to 2^31-1, and no name")
    return int(number)


def _name(text: str) -> str:
    if not text or len(text) > NAME_LENGTH or not text.isprintable():
        raise ValueError(
            f"bad_label: {text[:80]!r} is no class name: a line of 1 to {NAME_LENGTH} characters"
        )
    return text


def _meta(data: bytes | None) -> JsonMapping:
    if data is None:
        return {}
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as e:
        raise ValueError(f"bad_json: {e}") from None
    return value if isinstance(value, dict) else {}
