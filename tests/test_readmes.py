"""README.md and README.zh-CN.md: the same page twice, with links that are there; and the other pages' links."""

import re
from pathlib import Path

import pytest
import yaml

from noiseweave.jobs import arguments
from noiseweave.jobs.usefulness import config as usefulness_config

ROOT = Path(__file__).parents[1]
NAMES = ("README.md", "README.zh-CN.md")
BLOCK = re.compile(r"^```\w*\n(.*?)^```$", re.MULTILINE | re.DOTALL)


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
        elif re.match(r"- |\d\. |> ", line) and not (line[0] == ">" and found[-1:] == ["quote"]):
            found.append("quote" if line[0] == ">" else "item")
    return found


def anchors(path):
    """The anchors that GitHub gives to a page's headings."""
    heads = re.findall(r"^#+ (.+)$", BLOCK.sub("", path.read_text(encoding="utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


def test_both_have_the_same_commands():
    english, chinese = (BLOCK.findall(read(name)) for name in NAMES)
    assert len(english) == 5
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
    assert english == chinese


@pytest.mark.parametrize("path", sorted(ROOT.glob("configs/usefulness-*.yaml")), ids=lambda p: p.stem)
def test_the_examples_of_usefulness_have_methods_that_there_are(path):
    methods = yaml.safe_load(path.read_text())["methods"]
    made = {usefulness_config.method_of(name, m).made for name, m in methods.items()}
    assert {"none", "fusion"} <= made


@pytest.mark.parametrize("name", NAMES)
def test_the_table_has_every_job_with_its_manual(name):
    rows = re.findall(r"^\| `([a-z ]+)` \|.*\[(docs/jobs/(\w+)\.md)\]\((.*)\) \|$", prose(name), re.MULTILINE)
    seconds = {f"{first} {job}" for first, inner in arguments.SECOND.items() for job in inner}
    assert {row[0] for row in rows} == {*arguments.JOBS, *seconds, "submit"}
    for job, page, stem, target in rows:
        assert job.split()[-1] == stem
        assert page == target


@pytest.mark.parametrize("name", NAMES)
def test_the_code_map_has_every_folder_and_files_that_are_there(name):
    named = re.findall(r"`((?:noiseweave|tests|configs|benchmarks|scripts|docs|\.ci)[\w/.]*)`", prose(name))
    assert all((ROOT / path).exists() for path in named)
    inside = (path.parent for path in ROOT.glob("noiseweave/**/__init__.py"))
    folders = {path.relative_to(ROOT).as_posix() for path in inside}
    jobs = {*arguments.JOBS, *(job for inner in arguments.SECOND.values() for job in inner)}
    assert folders - {"noiseweave"} - {f"noiseweave/jobs/{job}" for job in jobs} <= set(named)
    first = re.findall(r"^\d\. `([\w/.]+\.py)`", prose(name), re.MULTILINE)
    assert len(first) == 7


def test_the_readme_is_read_to_the_end():
    assert len(read(NAMES[0]).splitlines()) <= 190


DOCS = [path.relative_to(ROOT).as_posix() for path in sorted(ROOT.glob("docs/**/*.md"))]
PAGES = ["CONTRIBUTING.md", "CHANGELOG.md", "tests/README.md", *DOCS]


@pytest.mark.parametrize("name", [*NAMES, *PAGES])
def test_every_link_leads_somewhere(name):
    for target in links(name):
        if target.startswith("https://"):
            continue
        path, _, anchor = target.partition("#")
        file = (ROOT / name).parent / path if path else ROOT / name
        assert file.is_file(), target
        assert not anchor or anchor in anchors(file), target


def pages_in(menu):
    """The pages that a part of the site's menu names."""
    for part in menu:
        if isinstance(part, str):
            yield part
        else:
            for inner in part.values():
                yield from pages_in([inner] if isinstance(inner, str) else inner)


def test_the_sites_menu_names_every_page():
    menu = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))["nav"]
    there = {path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md")}
    assert set(pages_in(menu)) == there
