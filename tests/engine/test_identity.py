"""What a result depends on: marked fields are left out, wherever they lie; all others count."""

from dataclasses import dataclass, field

from noiseweave.engine.identity import ASIDE, identity_of


@dataclass(frozen=True, kw_only=True)
class Inner:
    steps: int = 10
    batch: int = field(default=64, metadata=ASIDE)


@dataclass(frozen=True, kw_only=True)
class Config:
    output: str = field(metadata=ASIDE)
    sizes: tuple[int, ...] = (1, 2)
    inner: Inner = Inner()
    named: dict[str, Inner] = field(default_factory=lambda: {"a": Inner()})
    where: Inner = field(default=Inner(), metadata=ASIDE)


def test_marked_fields_are_left_out_and_the_rest_is_what_json_gives_back():
    known = {"sizes": [1, 2], "inner": {"steps": 10}, "named": {"a": {"steps": 10}}}
    assert identity_of(Config(output="a")) == known
    assert identity_of(Config(output="b", where=Inner(steps=2), inner=Inner(batch=1))) == known
    assert identity_of(Config(output="a", inner=Inner(steps=11))) != known


def test_what_else_counts_takes_the_place_of_a_field():
    assert identity_of(Inner(), job="x", steps=(1, 2)) == {"steps": [1, 2], "job": "x"}
