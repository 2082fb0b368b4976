"""The words after ``noiseweave``: jobs, their options, and what is wrong with those that a user gave."""

from __future__ import annotations

import json
import os
import sys
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice, takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from noiseweave.jobs import yaml_files
from noiseweave.jobs.options import FLAGS, Option, aliases, config_of, meant, options, unknown, values_of

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser

HELP = {"-h", "--help", "--help_all"}
TRUTHS = ("true", "false", "yes", "no", "on", "off", "1", "0")  # values of a switch

JOBS = {
    "pack": "pictures (folders, LMDB, image folders, shards, digits) -> labelled WebDataset shards",
    "train": "shards -> a base model (DDPM, flow matching, VAE, DCGAN; pixels or latents, with or without classes)",
    "sample": "a trained model -> pictures",
    "augment": "pictures or shards -> similar pairs -> fused, labelled pictures with their lineage",
    "lora": "pictures, with or without masks -> LoRA weights of a text-to-image model",
    "inpaint": "pictures and masks -> repaired pictures, each beside its original",
    "evaluate": "pictures -> figures of how good they are: FID and the like, PSNR and the like, reconstruction",
    "forget": "a picture's key -> all that descends from it, removed from the shards it lies in",
    "fuse": "pictures -> their fusion in noise space, or an edit of one",
    "describe": "a model -> what it is, and the memory that its workers take",
    "unpack": "shards -> class folders of pictures, with classes.json and metadata.jsonl",
    "report": "a job's output folder -> report.html, one page that shows it all",
    "studio": "pictures -> a page on this machine where they are fused and edited live",
}

SECOND = {
    "evaluate": {
        "usefulness": "few labelled pictures, and what each method adds -> does it help a classifier?"
    }
}
"""Jobs that are called by two words: noiseweave evaluate usefulness."""


def usage() -> str:
    """What ``noiseweave --help`` shows."""
    jobs = "\n".join(f"  {name:<9} {text}" for name, text in JOBS.items())
    return (
        "usage: noiseweave JOB [--config FILE] [--section.field VALUE ...]\n\n"
        f"jobs:\n{jobs}\n\n"
        "noiseweave evaluate usefulness asks whether made pictures help a classifier (--help).\n"
        "noiseweave submit [--address URL] JOB ... runs a job on a Ray cluster (submit --help).\n"
        "noiseweave JOB --help lists a job's usual options, --help_all lists all; --print_config writes them as YAML."
    )


def parse(job: str, arguments: list[str]) -> Any:
    """Arguments and YAML files -> the job's frozen config; a wrong one ends it all with 2."""
    given = Given.read(job, arguments)
    if given.flags & HELP:
        _help(job, "--help_all" in given.flags)
    for file in given.files:
        if not os.path.exists(file):
            beside = map(str, Path(file).parent.glob("*.y*ml"))
            raise ValueError(f"config {file!r}: no such file{meant(file, beside)}")
        yaml_files.check_size(file)
    from jsonargparse import ArgumentError

    parser, config = parser_of(job), config_of(job).Config
    try:
        values = parser.instantiate(parser.parse_args(given.words)).as_dict()
        del values["config"]
        return config(**values)
    except (ArgumentError, ValueError, TypeError) as e:
        check_files(given.files, options(config))
        fail(str(e))


def parser_of(job: str) -> ArgumentParser:
    """The parser of all options of a job; its help is the whole of it."""
    from jsonargparse import ArgumentParser

    name, text = called(job)
    parser = ArgumentParser(
        prog=f"noiseweave {name}", usage=synopsis(job), description=text, exit_on_error=False
    )
    parser.add_argument("--config", action="config", help="YAML file with any of the options below")
    parser.add_class_arguments(config_of(job).Config, None)
    return parser


def _help(job: str, whole: bool) -> NoReturn:
    from noiseweave.jobs import help_text

    if whole:
        parser_of(job).print_help()
        print(f"\n{help_text.spellings(job)}")
    else:
        print(help_text.short(job, synopsis(job), called(job)[1]))
    raise SystemExit(0)


def synopsis(job: str) -> str:
    """How a job is called, in one line."""
    words = {"images": " PICTURE ...", "prompts": " [PROMPT ...]", "folder": " FOLDER", "model": " MODEL"}
    words["input"] = " INPUT"
    place = words.get(getattr(config_of(job), "POSITIONAL", ""), "")
    return f"noiseweave {called(job)[0]}{place} [--config FILE] [--section.field VALUE ...]"


@dataclass(frozen=True, kw_only=True)
class Given:
    """The words that a user wrote after the job's name, put in order.

    Attributes:
        words: as the parser takes them: --name=value, with full names.
        files: the YAML files among them.
        flags: options without a value that end it all, such as --help.
    """

    words: list[str]
    files: list[str]
    flags: set[str]

    @classmethod
    def read(cls, job: str, arguments: list[str]) -> Given:
        """Tell options, their values and words for themselves apart; an unknown option ends it all with 2."""
        module = config_of(job)
        known, short = options(module.Config), aliases(job)
        several = getattr(module, "POSITIONAL", None)
        pairs, alone = _apart(arguments, known, short, getattr(module, "LIST_OPTIONS", {}))
        flags = {name for name, value in pairs if value is None}
        if flags & HELP:
            return cls(words=[], files=[], flags=flags)
        check_names(called(job)[0], pairs, known, short)
        words = [_word(name, value, known) for name, value in pairs]
        if alone:
            _check_once(several, alone, [name for name, _ in pairs])
            words.append(_positional(called(job)[0], alone, several, known))
        files = [value for name, value in pairs if name == "--config" and value is not None]
        return cls(words=words, files=files, flags=flags)


def _apart(
    arguments: list[str], known: Mapping[str, Option], short: Mapping[str, str], lists: Mapping[str, int]
) -> tuple[list[tuple[str, str | None]], list[str]]:
    """(full name, value or None) of each option, and the words that are no option's value.

    Not argparse's own positionals: their default would replace a list from a YAML file.
    """
    pairs: list[tuple[str, str | None]] = []
    alone: list[str] = []
    rest = deque(arguments)
    while rest:
        word = rest.popleft()
        if word == "--":
            alone += rest
            break
        if not word.startswith("-"):
            alone.append(word)
            continue
        name, equals, value = word.partition("=")
        name = short.get(name, name)
        pairs.append((name, value if equals else _value(name, rest, known, lists)))
    return pairs, alone


def _value(name: str, rest: deque[str], known: Mapping[str, Option], lists: Mapping[str, int]) -> str | None:
    """Takes an option's value off the words that follow it; None where it has none."""
    key = name.removeprefix("--")
    if name in ("-h", *FLAGS) and name != "--config":
        return None
    if key in lists:
        return _listed(name, rest, lists[key])
    following = rest[0] if rest else "--"
    if key in known and known[key].switch and following.lower() not in TRUTHS:
        return "true"
    return None if following.startswith("--") else rest.popleft()


def _listed(name: str, rest: deque[str], count: int) -> str:
    """``"A" "B"`` after ``--interpolate`` -> ``["A", "B"]``: an option that takes so many words."""
    given = list(takewhile(lambda word: not word.startswith("--"), islice(rest, count)))
    if len(given) < count:
        fail(f"{name}: {count} words are needed, {len(given)} given")
    return json.dumps([rest.popleft() for _ in given])


def _word(name: str, value: str | None, known: Mapping[str, Option]) -> str:
    """``--name=value`` as the parser reads it: a,b is a list of two, where the option is a list of such."""
    option = known.get(name.removeprefix("--"))
    if value is None or option is None:
        return name if value is None else f"{name}={value}"
    if option.several and value != "null" and not value.startswith("["):
        parts = value.split(",")
        _check_choices(name, parts, option)
        if len(parts) > 1 or not option.single:
            return f"{name}=[{', '.join(parts)}]"
    elif not option.several:
        _check_choices(name, [value], option)
    return f"{name}={value}"


def _check_choices(name: str, values: list[str], option: Option) -> None:
    wrong = [value.strip() for value in values if value.strip() not in option.choices]
    if wrong and option.closed:
        close = meant(wrong[0], option.choices)
        fail(f"{name}: {wrong[0]!r} is none of {', '.join(option.choices)}{close}")


def _check_once(several: str | None, words: list[str], names: list[str]) -> None:
    """End it all with 2 where words stand for an option that is given, too: neither wins in silence."""
    if several is not None and {f"--{several}", f"--{several}+"} & set(names):
        fail(f"{several}: given twice, as {' '.join(words)!r} and with --{several}; leave one of the two out")


def _positional(job: str, words: list[str], several: str | None, known: Mapping[str, Option]) -> str:
    """The words that are no option's value, as ``--several=[..]``; one stands alone where there may be but one."""
    if several is None:
        close = meant(words[0], [*SECOND.get(job, ()), *(f"--{name}" for name in known)])
        fail(f"noiseweave {job} has no place for {words[0]!r}: options begin with --{close}")
    one = known[several].hint in (str, str | None)
    if one and len(words) > 1:
        fail(f"{several}: one is needed, {len(words)} given: {', '.join(words)}")
    return f"--{several}={words[0] if one else json.dumps(words)}"


def check_names(
    job: str, pairs: list[tuple[str, str | None]], known: Mapping[str, Option], short: Mapping[str, str]
) -> None:
    """End it all with 2 at the first option that the job does not have."""
    names = [name for name, _ in pairs if name not in ("-h", *FLAGS)]
    for name in unknown([name.removeprefix("--").removesuffix("+") for name in names], known):
        word = name if name.startswith("-") else f"--{name}"
        close = meant(word, [*(f"--{one}" for one in known), *short, *FLAGS])
        fail(f"noiseweave {job} has no option {word}{close}")


def check_files(files: list[str], known: Mapping[str, Option]) -> None:
    """End it all with 2 at the first key of a YAML file that is no option, or has none of the values that it may.

    Of a file that cannot be read, nothing is said.
    """
    for file in files:
        given = _given_in(file)
        for name in unknown(given, known):
            fail(f"{file}: no option {name!r}{meant(name, known)}")
        for name, value in given.items():
            words = [one for one in (value if isinstance(value, list) else [value]) if isinstance(one, str)]
            if name in known:
                _check_choices(f"{file}: {name}", words, known[name])


def _given_in(file: str) -> dict[str, object]:
    import yaml

    try:
        with open(file, encoding="utf-8") as stream:
            return dict(values_of(yaml.safe_load(stream)))
    except (OSError, ValueError, yaml.YAMLError):
        return {}


def called(job: str) -> tuple[str, str]:
    """The words that a job is called by, and what it does."""
    for first, inner in SECOND.items():
        if job in inner:
            return f"{first} {job}", inner[job]
    return job, JOBS[job]


def fail(message: str) -> NoReturn:
    """One line to standard error, exit code 2."""
    print("error: " + " ".join(message.split()), file=sys.stderr)
    raise SystemExit(2)
