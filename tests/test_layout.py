"""Tests mirror the tree: a source file has a test file of its name, or a reason in tests/README.md."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
ROW = re.compile(r"^\| `(noiseweave/[\w/]+\.py)` \| (.*) \| (.*) \|$", re.MULTILINE)


def sources():
    return {path.relative_to(ROOT) for path in ROOT.glob("noiseweave/**/*.py") if path.name != "__init__.py"}


def own_test(source):
    return ROOT / "tests" / source.relative_to("noiseweave").with_name(f"test_{source.name}")


def excused():
    """Source file -> its reason, and the tests that it is tested in."""
    rows = ROW.findall((ROOT / "tests/README.md").read_text(encoding="utf-8"))
    assert len(rows) == len({name for name, _, _ in rows})
    return {Path(name): (reason, re.findall(r"`([^`]+)`", tests)) for name, reason, tests in rows}


def test_a_source_file_has_a_test_file_of_its_name_or_a_reason():
    without = {source for source in sources() if not own_test(source).is_file()}
    assert without - set(excused()) == set()


def test_the_table_names_files_that_are_there_and_have_no_test_file_of_their_name():
    for source, (reason, tests) in excused().items():
        assert source in sources(), source
        assert not own_test(source).is_file(), source
        assert len(reason) > 10, source
        assert tests, source
        assert all((ROOT / test).is_file() for test in tests), (source, tests)


def test_a_test_folder_mirrors_a_source_folder():
    folders = {path.parent.relative_to(ROOT / "tests") for path in ROOT.glob("tests/*/**/test_*.py")}
    mirrored = {
        path.parent.relative_to(ROOT / "noiseweave") for path in ROOT.glob("noiseweave/**/__init__.py")
    }
    assert folders - mirrored == {Path("gpu")}


def test_contributing_names_files_and_functions_that_are_there():
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    named = re.findall(r"`((?:noiseweave|tests|docs|configs)/[\w/]+\.\w+)`", text)
    assert len(named) > 20
    assert all((ROOT / name).exists() or "NAME" in name for name in named), named
    questions = re.findall(r"^\| where .* \| `(.*)` \| `(\w+)`", text, re.MULTILINE)
    assert len(questions) == 6
    for file, function in questions:
        assert f"def {function}(" in (ROOT / file).read_text(encoding="utf-8"), (file, function)
