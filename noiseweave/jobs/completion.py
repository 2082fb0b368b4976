"""What a shell offers after ``noiseweave`` and Tab: jobs, their options, and the values that these may have."""

from __future__ import annotations

import os
import shlex
from argparse import ArgumentParser
from collections.abc import Iterable, Sequence

from noiseweave.jobs.arguments import JOBS, SECOND
from noiseweave.jobs.options import FLAGS, aliases, config_of, options

SUBMIT = ("--address", "--working_dir", "--id", "--env")
ACTIONS = ("status", "logs", "stop", "list")
"""What submit has beside jobs, and its options that have a value."""


def answer() -> int:
    """Tell the shell that asked, through argcomplete, and end the process; returns 1 without argcomplete."""
    try:
        import argcomplete
    except ImportError:
        return 1
    line = os.environ.get("COMP_LINE", "")[: int(os.environ.get("COMP_POINT", 0)) or None]
    argcomplete.autocomplete(parser(_words(line)), always_complete_options="long")
    return 1


def _words(line: str) -> list[str]:
    """The finished words after the command's own."""
    try:
        return shlex.split(line)[1:]
    except ValueError:  # a quote that is still open
        return line.split()[1:]


def parser(words: Sequence[str]) -> ArgumentParser:
    """A parser that has the options of the job among ``words``, and reads no value: argcomplete asks it alone."""
    out = ArgumentParser(prog="noiseweave", add_help=False, conflict_handler="resolve")
    _place(out, "job", [*JOBS, "submit"])
    first = next(iter(words), "")
    if first == "submit":
        for name in SUBMIT:
            out.add_argument(name)
        out.add_argument("--detach", action="store_true")
        _place(out, "sent", [*JOBS, *ACTIONS])
        first = next((word for word in words[1:] if word in JOBS), "")
    if first not in JOBS:
        return out
    if first in SECOND:
        _place(out, "second", SECOND[first], "?")
        first = next((word for word in words[1:2] if word in SECOND[first]), first)
    if hasattr(config_of(first), "POSITIONAL"):
        out.add_argument("words", nargs="*")
    _add_options(out, first)
    return out


def _place(out: ArgumentParser, name: str, words: Iterable[str], nargs: str | None = None) -> None:
    _offer(out, [name], tuple(words), nargs)


def _add_options(out: ArgumentParser, job: str) -> None:
    known = options(config_of(job).Config)
    for name, option in known.items():
        _offer(out, [f"--{name}", *_short(name, job)], option.choices, "?" if option.switch else None)
    for flag in FLAGS:
        out.add_argument(flag, nargs=None if flag == "--config" else "?")


def _short(name: str, job: str) -> list[str]:
    return [word for word, full in aliases(job).items() if full == f"--{name}"]


def _offer(out: ArgumentParser, names: list[str], words: tuple[str, ...], nargs: str | None) -> None:
    """An argument that offers ``words``, where there are any, and else files; it takes other words too."""
    from argcomplete.completers import ChoicesCompleter

    action = out.add_argument(*names, nargs=nargs)
    if words:
        action.completer = ChoicesCompleter(dict.fromkeys(words, ""))  # type: ignore[attr-defined]
