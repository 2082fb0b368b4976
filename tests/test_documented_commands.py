"""Every command in README.md and docs/jobs: its options exist, its files are there or made before, and it runs.

A block that cannot run from a fresh clone after ``make demo`` and ``make demo-digits`` begins with a line
``# needs ...``, for readers too.
"""

import json
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import pytest
import yaml

from noiseweave.jobs import arguments, cli, submit

ROOT = Path(__file__).parents[1]
FILES = [ROOT / "README.md", *sorted(ROOT.glob("docs/jobs/*.md"))]
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
NEEDS = re.compile(r"^# needs (a download|a cluster|your own files|Ctrl-C to end)\b")
PATH = re.compile(r"/|\.(png|npz|yaml|txt|safetensors)$")
OUTPUTS = ("--output", "--out", "--save_statistics")
SECOND = {(first, job) for first, inner in arguments.SECOND.items() for job in inner}

LIMITS = {
    "augment": ["--pairing.max_pairs", "12", "--inversion.num_steps", "6", "--inversion.skip", "1"],
    "evaluate": ["--bootstrap", "20"],
    "fuse": ["--inversion.num_steps", "6", "--inversion.skip", "1"],
    "inpaint": ["--inpaint.steps", "4"],
    "sample": ["--sampler.steps", "4"],
    "train": ["--steps", "2", "--preview.every", "0"],
    "usefulness": [
        *("--per_class", "[2]", "--seeds", "2", "--classifiers", '{"scratch": {"steps": 4}}'),
        *(
            "--generator.steps",
            "2",
            "--generator.tuning_steps",
            "2",
            "--methods",
            '{"real": {}, "blend": {"made": "blend", "count": 8}}',
        ),
    ],
}
"""What a run of a test adds to a job's command: the same work, less of it."""


@dataclass(frozen=True)
class Command:
    words: tuple[str, ...]
    needs: str | None

    @property
    def job(self):
        """The job's name and what follows it; of submit, of the job that it sends."""
        words = self.words[1:]
        if words[0] == "submit":
            words = words[3:] if words[1] == "--address" else words[1:]
        return (words[1], words[2:]) if tuple(words[:2]) in SECOND else (words[0], words[1:])


def commands(path):
    """The commands of a page's blocks, with what their block needs."""
    found = []
    for language, text in BLOCK.findall(path.read_text(encoding="utf-8")):
        if language == "sh":
            lines = text.replace("\\\n", " ").splitlines()
            needs = NEEDS.match(lines[0])
            found += [
                Command(tuple(shlex.split(line)), needs and needs[1]) for line in lines if line[:1] != "#"
            ]
    return found


def demo():
    """The commands of ``make demo`` and ``make demo-digits``."""
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    recipes = re.findall(r"^demo(?:-digits)?:.*\n((?:\t.*\n)+)", text, re.MULTILINE)
    recipe = "".join(recipes).replace("\\\n", " ")
    lines = recipe.replace("$(BIN)/", "").replace("$(OUT)", "out").splitlines()
    return [Command(tuple(shlex.split(line)), None) for line in lines]


def listed(value):
    """The words of a value that is a JSON list, or the value alone."""
    return json.loads(value) if value.startswith('["') else [value]


def paths(command):
    """Paths that a command reads, and those that it makes, its config's too."""
    words = command.words
    if words[0] == "python":
        return [words[1]], [words[2]]
    reads, makes = [], []
    for before, word in pairwise(words):
        (makes if before in OUTPUTS else reads).extend(w for w in listed(word) if PATH.search(w))
    if "--config" in words and command.needs is None:
        values = yaml.safe_load((ROOT / words[words.index("--config") + 1]).read_text())
        makes += [] if "--output" in words else [v for k, v in values.items() if k == "output"]
        given = {word.removeprefix("--") for word in words}
        for value in (v for k, v in values.items() if k not in {"output", *given}):
            each = value if isinstance(value, list) else [value]
            reads += [v for v in each if isinstance(v, str) and v.startswith("out/")]
    return reads, makes


def below(path, folders):
    return any(path == folder or path.startswith(f"{folder}/") for folder in folders)


def test_the_demo_is_one_command_and_that_of_digits_two():
    assert [command.job[0] for command in demo()] == ["augment", "pack", "augment"]


def test_every_job_has_a_page_with_commands_and_a_command_in_the_readme():
    jobs = {*arguments.JOBS, "submit", *(job for _, job in SECOND)}
    assert {path.stem for path in FILES[1:]} == jobs
    named = {
        word for c in commands(FILES[0]) if c.words[0] == "noiseweave" for word in (c.words[1], c.job[0])
    }
    assert named == jobs
    for path in FILES[1:]:
        assert any(path.stem in command.words for command in commands(path)), path.name


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_blocks_are_of_the_shell_and_say_what_they_need_as_the_others_do(path):
    for language, text in BLOCK.findall(path.read_text(encoding="utf-8")):
        assert language in ("sh", "mermaid"), text
        for number, line in enumerate(text.splitlines()):
            assert line[:1] != "#" or (number == 0 and NEEDS.match(line)), line


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_options_exist(path, monkeypatch):
    monkeypatch.chdir(ROOT)
    for command in commands(path):
        if command.words[0] == "make":
            makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
            assert re.search(rf"^{command.words[1]}:", makefile, re.MULTILINE), command.words
        elif command.words[0] == "noiseweave":
            job, words = command.job
            if job not in submit.ACTIONS:
                arguments.parse(job, list(words))  # SystemExit 2 where it is wrong
        else:
            assert command.words[0] == "python"


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_paths_are_there_or_made_before(path):
    made = [output for command in demo() for output in paths(command)[1]]
    for command in commands(path):
        reads, makes = paths(command)
        for name in reads:
            ours = name.startswith(("configs/", "scripts/", "examples/"))
            known = (ROOT / name).exists() if ours else below(name, made)
            assert known or (command.needs and not name.startswith("out/") and not ours), (
                name,
                command.words,
            )
        made += makes


def run(command):
    """In the current folder, with less work, in this process: Ray and the imports of each would add minutes."""
    if command.words[0] == "python":
        assert subprocess.run([sys.executable, *command.words[1:]]).returncode == 0, command.words
        return
    job, words = command.job
    less = list(LIMITS.get(job, ()))
    if "reconstruction" in words:
        less += ["--compare_steps", "[4]", "--inversion.skip", "1"]
    config = arguments.parse(job, [*words])
    less += ["--address", "inline"] if hasattr(config, "cluster") else []
    assert cli.main([*command.words[1:], *less]) == 0, command.words


@pytest.fixture(scope="module")
def demonstrated(tmp_path_factory):
    """A folder in which the demos ran; configs/, scripts/, examples/ are the repository's, demo/ is what they wrote."""
    folder = tmp_path_factory.mktemp("clone")
    for name in ("configs", "scripts", "examples"):
        (folder / name).symlink_to(ROOT / name)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for command in demo():
            run(command)
    shutil.copytree(folder / "out/demo", folder / "demo")
    return folder


@pytest.fixture
def after_demo(demonstrated, monkeypatch):
    """The same folder each time, as lineages name shards by their whole paths, with the demo's output alone in it."""
    monkeypatch.chdir(demonstrated)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    shutil.rmtree("out")
    shutil.copytree("demo", "out/demo")


@pytest.mark.slow
@pytest.mark.usefixtures("after_demo")
@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_commands_run_as_they_are_written(path):
    for command in commands(path):
        if command.needs is None and command.words[0] != "make":
            run(command)
