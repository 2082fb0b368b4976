"""From the page to a batch: a job's config as the command and the YAML that make exactly this."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, fields, is_dataclass
from typing import Any

from noiseweave.engine.records import Json


def said(config: Any, usual: object = None) -> Json:
    """What a config says that is not as it is by default, nested as YAML has it.

    Args:
        config: a job's Config, or a dataclass in one.
        usual: what it is by default, where it is a part of another; None for a whole Config.
    """
    found: Json = {}
    for field in fields(config):
        value, default = getattr(config, field.name), getattr(usual, field.name, MISSING)
        if default is MISSING:
            default = field.default_factory() if field.default_factory is not MISSING else field.default
        if value == default:
            continue
        if is_dataclass(value):
            inner = said(value, default if is_dataclass(default) else None)
            found[field.name] = inner or {name: getattr(value, name) for name in _first(value)}
        else:
            found[field.name] = list(value) if isinstance(value, tuple) else value
    return found


def _first(value: Any) -> list[str]:
    """The name of a first field: a part that is optional, and all as by default, is asked for by it."""
    return [fields(value)[0].name]


def yaml_of(config: Any) -> str:
    """The YAML file of a config, without what is as it is by default."""
    import yaml

    return yaml.safe_dump(said(config), sort_keys=False, allow_unicode=True, width=110)


def command_of(job: str, config: Any, positional: str) -> str:
    """``noiseweave JOB A B --name value``, as a shell takes it.

    Args:
        positional: the field whose values need no flag.
    """
    content = said(config)
    alone = content.pop(positional, [])
    words = ["noiseweave", job, *(alone if isinstance(alone, list) else [alone])]
    for name, value in _flat(content):
        words += [f"--{name}", _word(value)]
    return shlex.join(map(str, words))


def _flat(content: Mapping[str, object], prefix: str = "") -> Iterator[tuple[str, object]]:
    for name, value in content.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _word(value: object) -> str:
    """A value as the parser reads it: a text as it is, all else as JSON."""
    return value if isinstance(value, str) else json.dumps(value)
