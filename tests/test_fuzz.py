"""A slice of ``make fuzz``: nothing that a stranger wrote ends a reader other than in one line."""

from dataclasses import replace
from random import Random

from fuzz import mutations, runner
from fuzz.readers import TARGETS

NAMES = tuple(TARGETS)


def test_mutated_input_ends_in_a_result_or_in_one_line():
    assert [str(fault) for fault in runner.run(0, range(4 * len(NAMES)), NAMES)] == []


def test_a_mutation_is_a_function_of_seed_and_number(tmp_path):
    for name in NAMES[:4]:
        made = []
        for folder in ("a", "b"):
            draw = Random(f"3:{name}")
            TARGETS["pictures"].build(tmp_path / name / folder)
            made.append(runner.changed(tmp_path / name / folder, "**/*", draw))
        assert made[0] == made[1]
    data = b'{"a": [1, 2, {"b": null}]}'
    several = {mutations.mutated("x.json", data, Random(i)) for i in range(50)}
    assert len(several) > 30
    assert several == {mutations.mutated("x.json", data, Random(i)) for i in range(50)}


def test_what_a_reader_should_not_raise_is_a_fault(monkeypatch):
    def broken(folder):
        raise KeyError("x")

    monkeypatch.setitem(TARGETS, "prompts", replace(TARGETS["prompts"], read=broken))
    fault = runner.one(0, 0, ("prompts",))
    assert fault is not None
    assert fault.what.startswith("KeyError")


def test_a_process_that_dies_is_a_fault_and_the_others_go_on(monkeypatch):
    monkeypatch.setenv("FUZZ_ABORT_AT", "1")
    faults = list(runner.run(0, range(2), ("prompts",)))
    assert [fault.number for fault in faults] == [1]
    assert "-6" in faults[0].what
