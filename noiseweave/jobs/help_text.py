"""What ``noiseweave JOB --help`` prints: the options that people set, in groups, each on a line or two."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator
from dataclasses import MISSING

from noiseweave.jobs.options import Option, aliases, config_of, options

WIDTH = 110
COLUMN = 28
"""Where the text of an option begins."""


def short(job: str, synopsis: str, text: str) -> str:
    """The page, without its last newline.

    Args:
        job: name of its package.
        synopsis: how it is called.
        text: what it does, in one line.
    """
    module = config_of(job)
    known = options(module.Config)
    parts = [f"usage: {synopsis}", text]
    if hasattr(module, "POSITIONAL_HELP"):
        parts.append(f"{module.POSITIONAL_HELP}.")
    for group, names in module.USUAL.items():
        parts.append("\n".join([f"{group}:", *(line(known[name]) for name in names)]))
    ends = {"--config FILE": "YAML file with any of the options", "--help_all": f"all {len(known)} options"}
    ends["--print_config"] = "write the options, as they are given, as YAML"
    parts.append("\n".join(_row(name, said) for name, said in ends.items()))
    if aliases(job):
        parts.append(spellings(job))
    return "\n\n".join(parts)


def spellings(job: str) -> str:
    """The line of short and older spellings."""
    text = ", ".join(f"{word} for {full}" for word, full in aliases(job).items())
    return textwrap.fill(f"short spellings: {text}" if text else "", WIDTH, break_on_hyphens=False)


def line(option: Option) -> str:
    """An option on one line or two: its name, the beginning of what its docstring says, its default."""
    rows = (_row(f"--{option.name}", f"{text} {_shown(option)}") for text in _beginnings(option.text))
    return next((row for row in rows if row.count("\n") < 2), f"  --{option.name}")


def _row(name: str, text: str) -> str:
    lead = f"  {name}".ljust(COLUMN - 1) + " "
    return textwrap.fill(
        text,
        WIDTH,
        initial_indent=lead,
        subsequent_indent=" " * COLUMN,
        break_on_hyphens=False,
        break_long_words=False,
    )


def _beginnings(text: str) -> Iterator[str]:
    """The text, and ever fewer of its sentences and clauses, none of which ends within brackets."""
    yield text if text.endswith("...") else text.rstrip(".")
    for marks in (r"(?<!\bal)\. |[;:] ", ", "):  # a comma may be within a list
        for end in reversed([found.start() for found in re.finditer(marks, text)]):
            if text.count("(", 0, end) == text.count(")", 0, end):
                yield text[:end]


def _shown(option: Option) -> str:
    if option.default is MISSING:
        return "(needed)"
    value = option.default
    if value is None or isinstance(value, bool):
        value = {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, list | tuple | dict):
        value = ",".join(map(str, value))
    return f"(default: {value if value != '' else 'none'})"
