"""Completion in a shell: what argcomplete's own protocol gets back from the command."""

import os
import subprocess
import sys

import pytest

pytest.importorskip("argcomplete")


def offered(line, tmp_path):
    """The words that the command offers at the end of a line."""
    answer = tmp_path / "answer"
    asked = {
        "_ARGCOMPLETE": "1",
        "_ARGCOMPLETE_IFS": "\n",
        "_ARGCOMPLETE_SUPPRESS_SPACE": "1",
        "_ARGCOMPLETE_STDOUT_FILENAME": str(answer),
        "COMP_LINE": line,
        "COMP_POINT": str(len(line)),
        "COMP_TYPE": "9",
    }
    code = (
        "import os, sys\nfrom noiseweave.jobs import cli\n"
        "leave = os._exit\n"
        "os._exit = lambda code: (sys.stderr.write(str([m for m in ('torch', 'ray') if m in sys.modules])), "
        "sys.stderr.flush(), leave(code))\n"
        "cli.main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | asked, capture_output=True, text=True
    )
    assert done.stderr.endswith("[]"), done.stderr
    return answer.read_text().split("\n")


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("noiseweave au", ["augment"]),
        ("noiseweave augment --fusion.re", ["--fusion.region", "--fusion.region.source"]),
        ("noiseweave augment --fusion.modes l", ["linear", "layer_selective"]),
        ("noiseweave augment --gate --pairing.classes ", ["same_class", "any"]),
        ("noiseweave fuse a.png b.png --mo", ["--mode", "--model.name"]),
        ("noiseweave evaluate us", ["usefulness"]),
        ("noiseweave evaluate usefulness --protocol ", ["closed", "prior"]),
        ("noiseweave evaluate --mo", ["--mode"]),
        ("noiseweave submit --detach aug", ["augment"]),
        ("noiseweave submit --address http://head:8265 augment --pairing.classes s", ["same_class"]),
        ("noiseweave train --help_", ["--help_all"]),
    ],
)
def test_the_next_word(line, words, tmp_path):
    found = offered(line, tmp_path)
    assert set(words) <= {word.strip() for word in found}
    last = line.rpartition(" ")[2]
    assert all(word.startswith(last) for word in found)


def test_files_where_a_value_may_be_anything(tmp_path, monkeypatch):
    (tmp_path / "digits.yaml").write_text("")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, sys.path)))
    monkeypatch.chdir(tmp_path)
    assert [word.strip() for word in offered("noiseweave train --config dig", tmp_path)] == ["digits.yaml"]
