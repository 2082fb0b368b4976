"""What the options of a job are, and which of them a wrong word is most like."""

from dataclasses import MISSING, dataclass, field
from typing import Literal

from noiseweave.jobs import options


@dataclass(frozen=True, kw_only=True)
class Base:
    """Base.

    Args:
        depth: how deep.
    """

    depth: int = 1


@dataclass(frozen=True, kw_only=True)
class Inner(Base):
    """Inner.

    Args:
        width, height: of it.
    """

    width: int | None = None
    height: tuple[int, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Config:
    """Config."""

    output: str
    inner: Inner = field(default_factory=lambda: Inner(depth=5))
    maybe: Inner | None = None
    kind: Literal["a", "b"] | tuple[Literal["a", "c"], ...] = "a"
    words: str | tuple[str, ...] = ""
    labels: dict[str, str] = field(default_factory=dict)
    fast: bool = False


KNOWN = options.options(Config)


def test_nested_and_inherited_fields_are_options_with_their_texts():
    assert set(KNOWN) >= {"output", "inner", "inner.depth", "maybe.width", "labels", "fast"}
    assert (KNOWN["inner.depth"].text, KNOWN["inner.height"].text) == ("how deep.", "of it.")
    assert (KNOWN["output"].default, KNOWN["inner.depth"].default) == (MISSING, 5)
    assert [name for name, one in KNOWN.items() if one.group] == ["inner", "maybe"]


def test_what_a_value_may_be():
    assert KNOWN["kind"].choices == ("a", "b", "c")
    assert KNOWN["fast"].choices == ("true", "false")
    assert KNOWN["inner.width"].choices == ("null",)
    assert [name for name, one in KNOWN.items() if one.closed] == ["kind"]
    assert [name for name, one in KNOWN.items() if one.several] == ["inner.height", "maybe.height", "kind"]
    assert [KNOWN[name].single for name in ("inner.height", "kind")] == [False, True]
    assert [name for name, one in KNOWN.items() if one.mapping] == ["labels"]


def test_unknown_names():
    given = dict(options.values_of({"inner": {"depth": 1, "deep": 2}, "labels": {"any": 1}, "out": 3}))
    assert (given["inner.deep"], given["out"]) == (2, 3)
    keys = list(given)
    assert keys == ["inner", "inner.depth", "inner.deep", "labels", "labels.any", "out"]
    assert options.unknown(keys, KNOWN) == ["inner.deep", "out"]


def test_what_was_meant():
    names = ["--fusion.modes", "--fusion.region.source", "--prompt.source", "--pairing.threshold"]
    assert options.meant("--fusion.mode", names) == "; did you mean --fusion.modes?"
    assert options.meant("--region.source", names) == "; did you mean --fusion.region.source?"
    assert options.meant("--treshold", names) == "; did you mean --pairing.threshold?"
    assert options.meant("--xyzzy", names) == ""
    assert options.meant("x", []) == ""
