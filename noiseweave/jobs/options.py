"""The options of a job, read off its Config: their names, types, defaults and what their docstrings say."""

from __future__ import annotations

import importlib
import inspect
import types
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import MISSING, dataclass, fields, is_dataclass
from difflib import SequenceMatcher
from typing import Literal, Union, cast, get_args, get_origin, get_type_hints

CLUSTER = {"--address": "--cluster.address"}  # short spellings that all jobs on a cluster have
FLAGS = ("--config", "--help", "--help_all", "--print_config")  # of every job, beside its Config


@dataclass(frozen=True, kw_only=True)
class Option:
    """One option of a job.

    Attributes:
        name: as YAML nests it, with dots: fusion.ratio.
        hint: its type.
        default: MISSING where it must be given.
        text: what its docstring says of it.
        group: its value is made of other options.
    """

    name: str
    hint: object
    default: object
    text: str
    group: bool

    @property
    def switch(self) -> bool:
        """Whether the name alone means true."""
        return self.hint in (bool, bool | None)

    @property
    def choices(self) -> tuple[str, ...]:
        """The words that its value may be, or each of its values; of another kind it may be all the same."""
        return tuple(dict.fromkeys(_words(self.hint)))

    @property
    def closed(self) -> bool:
        """Whether nothing but its choices is a value, each spelled in one way."""
        return all(get_origin(kind) is Literal or kind is types.NoneType for kind in _kinds(self.hint))

    @property
    def several(self) -> bool:
        """Whether its value may be a list of numbers or choices, as a,b,c; texts may have commas of their own.

        So may names of classes, which stand for numbers: one with a comma needs a list in brackets.
        """
        lists = (set(_kinds(kind)) for kind in _members(self.hint) if get_origin(kind) is tuple)
        return any(str not in kinds or int in kinds for kinds in lists)

    @property
    def single(self) -> bool:
        """Whether its value may be other than a list."""
        return any(
            get_origin(kind) is not tuple and kind is not types.NoneType for kind in _members(self.hint)
        )

    @property
    def mapping(self) -> bool:
        """Whether it holds names that a user makes up."""
        return any(get_origin(kind) is dict for kind in _members(self.hint))


def _members(hint: object) -> tuple[object, ...]:
    return get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)


def _kinds(hint: object) -> Iterator[object]:
    """The types of a value, and of the parts of a list."""
    for kind in _members(hint):
        if get_origin(kind) is tuple:
            yield from (inner for part in get_args(kind) if part is not ... for inner in _kinds(part))
        else:
            yield kind


def _words(hint: object) -> Iterator[str]:
    for kind in _kinds(hint):
        if get_origin(kind) is Literal:
            yield from map(str, get_args(kind))
        elif kind is bool:
            yield from ("true", "false")
        elif kind is types.NoneType:
            yield "null"


def config_of(job: str) -> types.ModuleType:
    """A job's config module, which loads nothing heavy."""
    return importlib.import_module(f"noiseweave.jobs.{job}.config")


def options(config: type) -> dict[str, Option]:
    """Name -> option, of a config dataclass and all that is nested in it."""
    return {option.name: option for option in _walk(config, "", None)}


def _walk(kind: type, prefix: str, usual: object) -> Iterator[Option]:
    hints, texts = get_type_hints(kind), documented(kind)
    for field in fields(kind):
        default = getattr(usual, field.name, MISSING) if usual is not None else field.default
        if default is MISSING and field.default_factory is not MISSING:
            default = field.default_factory()
        hint, name = hints[field.name], prefix + field.name
        inner = [part for part in _members(hint) if is_dataclass(part)]
        text = texts.get(field.name, "")
        yield Option(name=name, hint=hint, default=default, text=text, group=bool(inner))
        for part in inner:
            yield from _walk(cast(type, part), f"{name}.", default)


def documented(kind: type) -> Mapping[str, str]:
    """Field -> what the Args of its class say of it, or those of a class that it comes from."""
    from docstring_parser import parse

    found: dict[str, str] = {}
    for one in kind.__mro__:
        for part in parse(inspect.cleandoc(one.__doc__ or "")).params:
            for name in part.arg_name.split(", "):
                found.setdefault(name, " ".join((part.description or "").split()))
    return found


def aliases(job: str) -> dict[str, str]:
    """Short and older spellings of a job's options, with their dashes."""
    module = config_of(job)
    own: dict[str, str] = getattr(module, "ALIASES", {})
    return (CLUSTER if "cluster" in get_type_hints(module.Config) else {}) | own


# what a user may have meant


def meant(word: str, known: Iterable[str]) -> str:
    """``; did you mean WORD?``, with the known word that is most like it; empty where none is."""
    near, best = max(((_likeness(word, one), one) for one in known), default=(0.0, ""))
    return f"; did you mean {best}?" if near >= 0.65 else ""


def _likeness(word: str, known: str) -> float:
    """0 to 1: of the whole words, or of what stands after their last dot, which counts a little less."""
    pairs = [(word.strip("-"), known.strip("-"))]
    if pairs[0][1].endswith(f".{pairs[0][0]}"):
        return 1.0
    pairs.append((pairs[0][0].rpartition(".")[2], pairs[0][1].rpartition(".")[2]))
    whole, end = (SequenceMatcher(None, a, b).ratio() for a, b in pairs)
    return max(whole, 0.9 * end)


def unknown(names: Iterable[str], known: Mapping[str, Option]) -> list[str]:
    """The names that are no option, and lie in none that holds names of a user's own."""
    free = tuple(f"{name}." for name, option in known.items() if option.mapping)
    return [name for name in names if name not in known and not name.startswith(free)]


def values_of(content: object, prefix: str = "") -> Iterator[tuple[str, object]]:
    """(name, value) of all options that the content of a YAML file gives a value."""
    if isinstance(content, dict):
        for key, value in content.items():
            yield f"{prefix}{key}", value
            yield from values_of(value, f"{prefix}{key}.")
