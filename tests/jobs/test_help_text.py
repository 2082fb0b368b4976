"""The short help: the usual options of each job, each on a line or two."""

import re

import pytest

from noiseweave.jobs import arguments, cli, help_text, options

JOBS = [*arguments.JOBS, *(job for inner in arguments.SECOND.values() for job in inner)]


def shown(capsys, *words):
    with pytest.raises(SystemExit) as stop:
        cli.main(list(words))
    assert stop.value.code == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("job", JOBS)
def test_the_usual_options_are_few_and_there(job):
    module = options.config_of(job)
    names = [name for group in module.USUAL.values() for name in group]
    known = options.options(module.Config)
    assert len(set(names)) == len(names)
    assert 5 <= len(names) <= 14
    assert set(names) <= set(known)
    assert list(module.USUAL) == [
        group
        for group in ("input and output", "what it does", "model", "where it runs")
        if group in module.USUAL
    ]
    needed = [name for name, one in known.items() if one.default is help_text.MISSING]
    assert set(needed) <= set(names)
    assert all(help_text.line(known[name]).count("\n") <= 1 for name in names)
    assert all(len(help_text.line(known[name]).split("  (")[0].split()) > 2 for name in names)


@pytest.mark.parametrize("job", JOBS)
def test_help_is_short_and_help_all_is_whole(job, capsys):
    words = arguments.called(job)[0].split()
    short, whole = shown(capsys, *words, "--help"), shown(capsys, *words, "--help_all")
    assert len(short.splitlines()) < 60
    assert max(map(len, short.splitlines())) <= 120
    assert "--help_all" in short
    assert shown(capsys, *words, "-h") == short
    known = options.options(options.config_of(job).Config)
    assert all(f"--{name}" in whole for name, one in known.items() if not one.group and "." not in name)
    assert len(re.findall(r"^usage:", whole, re.MULTILINE)) == 1
    for word in options.aliases(job):
        assert word in short
        assert word in whole


def test_a_line_has_the_beginning_of_the_text_and_the_default():
    option = options.Option(
        name="a.b", hint=int, default=3, text="how (far. or) it goes. " + "More. " * 80, group=False
    )
    assert help_text.line(option).startswith("  --a.b   ")
    assert "\n" in help_text.line(option)
    assert help_text.line(option).endswith("More (default: 3)")
    long = options.Option(name="a", hint=str, default="", text="one; " + "word " * 80, group=False)
    assert help_text.line(long).split() == ["--a", "one", "(default:", "none)"]
