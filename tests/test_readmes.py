"""README.md and README.zh-CN.md: the same page twice, with commands and links that are there."""

import re
import shlex
from itertools import pairwise
from pathlib import Path

import pytest
import yaml

from noiseweave.jobs import arguments
from noiseweave.jobs import options as jobs_options
from noiseweave.jobs.usefulness import config as usefulness_config

ROOT = Path(__file__).parents[1]
NAMES = ("README.md", "README.zh-CN.md")
BLOCK = re.compile(r"^```\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def read(name):
    return (ROOT / name).read_text(encoding="utf-8")


def prose(name):
    return BLOCK.sub("", read(name))


def code(name):
    """What stands in backticks, names of figures and the like, without what a language may word its own way."""
    return re.findall(r"`([^`\n]+)`", prose(name))


def links(name):
    """Targets of links and pictures, in their order."""
    return re.findall(r"\]\(([^)\s]+)\)", prose(name))


def skeleton(name):
    """Level of each heading, cells of each table row, and items of lists, in their order."""
    found = []
    for line in prose(name).splitlines():
        if line.startswith("#"):
            found.append(line.split()[0])
        elif line.startswith("|"):
            found.append(f"row of {line.count('|') - 1}")
        elif line.startswith("- "):
            found.append("item")
    return found


def anchors(path):
    """The anchors that GitHub gives to a page's headings."""
    heads = re.findall(r"^#+ (.+)$", BLOCK.sub("", path.read_text(encoding="utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


def options(job):
    """Every flag that a job has, its short spellings too."""
    known = jobs_options.options(jobs_options.config_of(job).Config)
    return {*jobs_options.FLAGS, *jobs_options.aliases(job), *(f"--{name}" for name in known)}


def test_both_have_the_same_commands():
    english, chinese = (BLOCK.findall(read(name)) for name in NAMES)
    assert len(english) > 10
    assert english == chinese


def test_both_have_the_same_parts_in_the_same_order():
    english, chinese = (skeleton(name) for name in NAMES)
    assert english == chinese


def test_both_link_the_same_pages_and_each_the_other():
    pages = [[t for t in links(name) if t not in NAMES and not t.startswith("#")] for name in NAMES]
    assert sorted(pages[0]) == sorted(pages[1])
    assert NAMES[1] in links(NAMES[0])[:1]
    assert NAMES[0] in links(NAMES[1])[:1]


def test_both_name_the_same_options_and_files():
    english, chinese = (sorted(set(code(name))) for name in NAMES)
    assert set(english) - set(chinese) == {"invert -> replay"}  # worded in Chinese
    assert set(chinese) <= set(english)


def test_every_command_is_a_job_with_options_and_configs_that_it_has():
    lines = [line for block in BLOCK.findall(read(NAMES[0])) for line in block.splitlines()]
    commands = [shlex.split(line)[1:] for line in lines if line.startswith("noiseweave ")]
    seconds = {(first, job) for first, inner in arguments.SECOND.items() for job in inner}
    assert {words[0] for words in commands} == {*arguments.JOBS, "submit"}
    assert {tuple(words[:2]) for words in commands} >= seconds
    for words in commands:
        place = (
            3 if words[0] == "submit" else 1 if tuple(words[:2]) in seconds else 0
        )  # submit --address URL JOB
        allowed = options(words[place])
        given = {word for word in words[place + 1 :] if word.startswith("--")}
        assert given <= allowed, words
    configs = [b for words in commands for a, b in pairwise(words) if (a, b[:8]) == ("--config", "configs/")]
    assert len(configs) > 5
    assert all((ROOT / config).is_file() for config in configs)


@pytest.mark.parametrize("path", sorted(ROOT.glob("configs/usefulness-*.yaml")), ids=lambda p: p.stem)
def test_the_examples_of_usefulness_have_methods_that_there_are(path):
    methods = yaml.safe_load(path.read_text())["methods"]
    made = {usefulness_config.method_of(name, m).made for name, m in methods.items()}
    assert {"none", "fusion"} <= made


@pytest.mark.parametrize("name", NAMES)
def test_every_job_in_the_text_is_one(name):
    named = re.findall(r"`noiseweave (?:submit )?([a-z]+)", prose(name))
    named += [word.split()[0] for word in re.findall(r"^\*\*([a-z ]+)\*\*", prose(name), re.MULTILINE)]
    assert set(arguments.JOBS) <= set(named)
    assert set(named) <= {*arguments.JOBS, "submit"}


@pytest.mark.parametrize("name", NAMES)
def test_every_link_leads_somewhere(name):
    for target in links(name):
        if target.startswith("https://"):
            continue
        path, _, anchor = target.partition("#")
        file = ROOT / (path or name)
        assert file.is_file(), target
        assert not anchor or anchor in anchors(file), target
