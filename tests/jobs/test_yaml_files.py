"""YAML files that say too much are one line, at once; aliases as people use them are none of those."""

import os
import time

import pytest

from noiseweave.jobs import cli, yaml_files

BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (BOMB, "its aliases stand for more than"),
        ("output: &a [*a]\n", "an alias in it stands for what holds it"),
        ("output: &a {b: {c: *a}}\n", "an alias in it stands for what holds it"),
        ("seed: 1 # " + "x" * (1 << 20), "bytes, at most"),
        ("output: " + "[" * 3000 + "]" * 3000, "nested too deep"),
    ],
)
def test_a_bomb_is_one_line_and_at_once(text, words, tmp_path, capsys):
    path = tmp_path / "a.yaml"
    path.write_text(text)
    start = time.process_time()
    with pytest.raises(SystemExit) as stop:
        cli.main(["report", "--config", str(path), "out"])
    assert time.process_time() - start < 5  # hours, or all memory, without the look
    error = capsys.readouterr().err
    assert (stop.value.code, error.count("\n")) == (2, 1)
    assert words in error


def test_aliases_are_no_bombs(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text("a: &a {b: 1}\nc: *a\nd: [*a, *a]\ne:\n  <<: *a\n")
    yaml_files.check_size(str(path))


@pytest.mark.timeout(60)
def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "a.yaml")
    with pytest.raises(ValueError, match="not a regular file"):
        yaml_files.check_size(str(tmp_path / "a.yaml"))


def test_of_what_is_no_yaml_nothing_is_said(tmp_path):
    (tmp_path / "a.yaml").write_text("a: [1\n")
    yaml_files.check_size(str(tmp_path / "a.yaml"))
    yaml_files.check_size(str(tmp_path / "none.yaml"))


def test_a_file_that_is_not_there_is_one_line_with_the_one_that_was_meant(tmp_path, capsys):
    (tmp_path / "augment-flowers.yaml").write_text("seed: 1\n")
    with pytest.raises(SystemExit) as stop:
        cli.main(["augment", "--config", str(tmp_path / "augment-flower.yaml"), "in"])
    error = capsys.readouterr().err
    assert (stop.value.code, error.count("\n")) == (2, 1)
    assert "augment-flower.yaml': no such file; did you mean" in error
    assert f"{tmp_path / 'augment-flowers.yaml'}?" in error
