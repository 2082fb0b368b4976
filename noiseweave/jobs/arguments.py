"""The words after ``noiseweave``: jobs, their options, and what is wrong with those that a user gave."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Iterator
from dataclasses import is_dataclass
from itertools import islice, zip_longest
from typing import Any, NoReturn, cast, get_type_hints

JOBS = {
    "pack": "pictures (folders, LMDB, image folders, shards, digits) -> labelled WebDataset shards",
    "train": "shards -> a base model (DDPM, flow matching, VAE, DCGAN; pixels or latents, with or without classes)",
    "sample": "a trained model -> pictures",
    "augment": "shards -> similar pairs -> fused, labelled shards with their lineage",
    "lora": "pictures, with or without masks -> LoRA weights of a Stable Diffusion-family model",
    "inpaint": "pictures and masks -> repaired pictures, each beside its original",
    "evaluate": "pictures -> figures of how good they are: FID and the like, PSNR and the like, reconstruction",
    "forget": "a picture's key -> all that descends from it, removed from the shards it lies in",
    "fuse": "pictures -> their fusion in noise space, or an edit of one",
    "report": "a job's output folder -> report.html, one page that shows it all",
}

SECOND = {
    "evaluate": {
        "usefulness": "few labelled pictures, and what each method adds -> does it help a classifier?"
    }
}
"""Jobs that are called by two words: noiseweave evaluate usefulness."""

CLUSTER = {"--address": "--cluster.address"}  # short spellings that all jobs on a cluster have


def usage() -> str:
    """What ``noiseweave --help`` shows."""
    jobs = "\n".join(f"  {name:<9} {text}" for name, text in JOBS.items())
    return (
        "usage: noiseweave JOB [--config FILE] [--section.field VALUE ...]\n\n"
        f"jobs:\n{jobs}\n\n"
        "noiseweave evaluate usefulness asks whether made pictures help a classifier (--help).\n"
        "noiseweave submit [--address URL] JOB ... runs a job on a Ray cluster (submit --help).\n"
        "noiseweave JOB --help lists a job's options; --print_config writes them as YAML."
    )


def parse(job: str, arguments: list[str]) -> Any:
    """Arguments and YAML files -> the job's frozen config; a wrong one ends it all with 2."""
    from jsonargparse import ArgumentError, ArgumentParser

    module = importlib.import_module(f"noiseweave.jobs.{job}.config")
    several = getattr(module, "POSITIONAL", None)
    name, text = called(job)
    text = f"{text}. {module.POSITIONAL_HELP}" if several else text
    aliases = CLUSTER if "cluster" in get_type_hints(module.Config) else {}
    aliases = aliases | getattr(module, "ALIASES", {})
    if aliases:
        text += f". Short spellings: {', '.join(f'{short} for {full}' for short, full in aliases.items())}."
    parser = ArgumentParser(prog=f"noiseweave {name}", description=text, exit_on_error=False)
    parser.add_argument("--config", action="config", help="YAML file with any of the options below")
    parser.add_class_arguments(module.Config, None)
    arguments = said_out(renamed(arguments, aliases), set(switches(module.Config)))
    arguments = listed(arguments, getattr(module, "LIST_OPTIONS", {}))
    if several:
        arguments = named(arguments, several, get_type_hints(module.Config)[several] is str)
    try:
        values = parser.instantiate(parser.parse_args(arguments)).as_dict()
        del values["config"]
        return module.Config(**values)
    except (ArgumentError, ValueError, TypeError) as e:
        fail(str(e))


def called(job: str) -> tuple[str, str]:
    """The words that a job is called by, and what it does."""
    for first, inner in SECOND.items():
        if job in inner:
            return f"{first} {job}", inner[job]
    return job, JOBS[job]


def renamed(arguments: list[str], aliases: dict[str, str]) -> list[str]:
    """``--model ID`` -> ``--model.name ID`` and ``--model=ID`` -> ``--model.name=ID``, as ``aliases`` has it."""
    out = []
    for word in arguments:
        name, equals, value = word.partition("=")
        out.append(aliases.get(name, name) + equals + value)
    return out


def switches(config: type, prefix: str = "--") -> Iterator[str]:
    """The options of a config dataclass that are true or false."""
    for name, kind in get_type_hints(config).items():
        if kind is bool:
            yield prefix + name
        elif is_dataclass(kind):
            yield from switches(cast(type, kind), f"{prefix}{name}.")


def said_out(arguments: list[str], known: set[str]) -> list[str]:
    """A bare ``--overwrite`` -> ``--overwrite true``; ``--overwrite false`` stays as it is."""
    out = []
    for word, value in zip_longest(arguments, arguments[1:], fillvalue=""):
        out.append(word)
        if word in known and str(value).lower() not in ("true", "false", "yes", "no", "on", "off", "1", "0"):
            out.append("true")
    return out


def listed(arguments: list[str], several: dict[str, int]) -> list[str]:
    """``--interpolate "A" "B"`` -> ``--interpolate=["A", "B"]``, for the options that take so many words."""
    out: list[str] = []
    words = iter(arguments)
    for word in words:
        count = several.get(word.removeprefix("--"), 0) if word.startswith("--") else 0
        if not count:
            out.append(word)
            continue
        taken = list(islice(words, count))
        given = next((n for n, value in enumerate(taken) if value.startswith("--")), len(taken))
        if given < count:
            fail(f"{word}: {count} words are needed, {given} given")
        out.append(f"{word}={json.dumps(taken)}")
    return out


def named(arguments: list[str], several: str, one: bool = False) -> list[str]:
    """The words that are no option's value, as one list ``--several=[..]``, which YAML may give as well.

    With ``one``, there may be one word, and it stands alone.

    Not argparse's own positionals: their default would replace a list from a YAML file.
    """
    options: list[str] = []
    words: list[str] = []
    rest = iter(arguments)
    for word in rest:
        if word == "--":
            words += rest
        elif not word.startswith("-"):
            words.append(word)
        else:
            options.append(word)
            if word not in ("-h", "--help", "--print_config") and "=" not in word:  # all others have a value
                options += [value for value in [next(rest, None)] if value is not None]
    if one and len(words) > 1:
        fail(f"{several}: one is needed, {len(words)} given: {', '.join(words)}")
    return [*options, f"--{several}={words[0] if one else json.dumps(words)}"] if words else options


def fail(message: str) -> NoReturn:
    """One line to standard error, exit code 2."""
    print("error: " + " ".join(message.split()), file=sys.stderr)
    raise SystemExit(2)
