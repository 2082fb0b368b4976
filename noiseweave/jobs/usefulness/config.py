"""What a user may say of evaluate usefulness."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from functools import cache
from typing import Any, TypeVar

from noiseweave.cluster.session import ClusterConfig
from noiseweave.engine.checks import check
from noiseweave.engine.identity import ASIDE
from noiseweave.engine.records import Json, JsonMapping
from noiseweave.engine.usefulness.recipes import (
    ClassifierChoice,
    GeneratorRecipe,
    GuessRecipe,
    Method,
    Protocol,
)
from noiseweave.jobs.options import meant, options, unknown, values_of

USUAL = {
    "input and output": ("input", "test", "output", "overwrite"),
    "what it does": ("methods", "classifiers", "protocol", "per_class", "seeds"),
    "model": ("size", "generator.steps"),
    "where it runs": ("cluster.address", "cluster.workers"),
}
OWNED = ("usefulness.json", "usefulness.md", "usefulness.png", "quarantine.jsonl", "sheets")

PAIRED = ("count", "weights", "parents", "keep_parents", "pairs", "hard_labels", "fusion")
DRAWN = ("inversion", "guidance", "gate", "quality", "confidence")
MADE_FROM: dict[str, tuple[str, ...]] = {
    "none": (),
    "pseudo_labels": (),
    "blend": PAIRED,
    "samples": ("count", "weights", *DRAWN),
    "fusion": (*PAIRED, *DRAWN, "conditional", "skips"),
    "variations": (*PAIRED, *DRAWN, "conditional", "skips"),
}
"""What of a method its pictures depend on."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """Trains the same classifiers on few labelled pictures, with and without what each method adds to them.

    Args:
        input: shards of the labelled training side. The few are chosen from it; in the prior protocol the
            generator sees the rest of it too, without labels.
        test: shards of the test side, which nothing but the classifiers' scores looks at. The same output takes
            another: choose methods on a part that was put aside, then score them once on the real one.
        output: folder for usefulness.md (the table), .png (the plot), .json, and sheets of what was made.
        protocol: closed (the generator sees the few alone) or prior (it was trained on the unlabelled input).
        per_class: labelled pictures of each class, one table for each.
        subsets: choices of the few, each with a generator of its own.
        seeds: classifiers of each method and subset.
        size: side of the pictures in pixels. 0 takes it from the input's: the median of their short sides, brought
            down to what the generator takes, and to 32.
        channels: 1 (grey) or 3 (RGB). 0 takes 3 where any picture of the input has colour.
        flip: mirrored pictures are pictures as well: the generator sees them too.
        classifiers: name -> what is trained again and again, with a table for each: steps, batch, width, lr,
            weight_decay, dropout, share, pretrained (null, or efficientnet-lite0 to fine-tune it), blocks, resize.
            The classical augmentations are those of each method. Names may not have a "/".
        generator: the diffusion model.
        guess: pseudo-labels for the pool, in the prior protocol.
        methods: name -> what it adds: classical, made (none, blend, samples, fusion, variations, pseudo_labels),
            count, share, smoothing, weights, parents, keep_parents, pairs, hard_labels, inversion, fusion, skips,
            guidance, conditional, gate, quality, confidence. Names may not have a "/". The reference of all is the
            best method without made pictures.
        only: names of the methods that are taken; () is all.
        seed: every random choice comes from it.
        max_pixels: larger pictures are left out unread.
        cluster: where the work runs.
        overwrite: throw away an earlier run in the output folder.
    """

    input: str = field(metadata=ASIDE)
    test: str = field(metadata=ASIDE)
    output: str = field(metadata=ASIDE)
    protocol: Protocol = "prior"
    per_class: tuple[int, ...] = field(default=(10,), metadata=ASIDE)
    subsets: int = field(default=1, metadata=ASIDE)
    seeds: int = field(default=5, metadata=ASIDE)
    size: int = 0
    channels: int = 0
    flip: bool = False
    classifiers: Json = field(default_factory=lambda: {"scratch": ClassifierChoice()}, metadata=ASIDE)
    generator: GeneratorRecipe = field(default_factory=GeneratorRecipe)
    guess: GuessRecipe = field(default_factory=GuessRecipe)
    methods: Json = field(default_factory=lambda: {"real": Method()}, metadata=ASIDE)
    only: tuple[str, ...] = field(default=(), metadata=ASIDE)
    seed: int = 0
    max_pixels: int = 64_000_000
    cluster: ClusterConfig = field(default_factory=ClusterConfig, metadata=ASIDE)
    overwrite: bool = field(default=False, metadata=ASIDE)

    def __post_init__(self) -> None:
        check(
            bool(self.per_class) and min(self.per_class) >= 1,
            "per_class",
            self.per_class,
            "numbers from 1 on",
        )
        for name in ("subsets", "seeds"):
            check(getattr(self, name) >= 1, name, getattr(self, name), "1 or more")
        check(self.size == 0 or self.size >= 8, "size", self.size, "0 (from the pictures), or 8 or more")
        check(self.channels in (0, 1, 3), "channels", self.channels, "0 (from the pictures), 1 or 3")
        # read here: a parser of its own for each method would cost jsonargparse seconds
        for name, of in (("methods", method_of), ("classifiers", classifier_of)):
            read = {title: of(title, value) for title, value in getattr(self, name).items()}
            object.__setattr__(self, name, read)
        self._take_only()
        check(bool(self.classifiers), "classifiers", {}, "at least one")
        plain = any(m.made == "none" for m in self.methods.values())
        check(plain, "methods", list(self.methods), "at least one without made pictures, to compare with")

    def _take_only(self) -> None:
        """Leave out the methods that are not to be taken."""
        for name in self.only:
            check(name in self.methods, "only", name, f"one of {', '.join(self.methods)}")
        taken = {name: m for name, m in self.methods.items() if not self.only or name in self.only}
        object.__setattr__(self, "methods", taken)


def method_of(name: str, value: object) -> Method:
    """A method as YAML has it -> the method.

    Raises:
        ValueError: what is wrong with it, by its name.
    """
    return _recipe_of(Method, "methods", name, value)


def classifier_of(name: str, value: object) -> ClassifierChoice:
    """A classifier as YAML has it -> the classifier; errors as of ``method_of``."""
    found = _recipe_of(ClassifierChoice, "classifiers", name, value)
    check(not found.classical, f"classifiers.{name}.classical", found.classical, "none: methods have them")
    return found


R = TypeVar("R", Method, ClassifierChoice)


def _recipe_of(kind: type[R], section: str, name: str, value: object) -> R:
    from jsonargparse import ArgumentError

    check("/" not in name and name != "", section, name, "names without a /")
    if isinstance(value, kind):
        return value
    known = options(kind)
    for wrong in unknown(dict(values_of(value)), known):
        raise ValueError(f"{section}.{name}: no option {wrong!r}{meant(wrong, known)}")
    try:
        parser = _parser(section)
        return kind(**parser.instantiate(parser.parse_object(value or {})).as_dict())
    except (ArgumentError, ValueError, TypeError) as e:
        raise ValueError(f"{section}.{name}: {' '.join(str(e).split())}") from None


@cache
def _parser(section: str) -> Any:
    from jsonargparse import ArgumentParser

    kinds: Json = {"methods": Method, "classifiers": ClassifierChoice}
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(kinds[section], None)
    return parser


def tag(config: Config, name: str) -> str:
    """A method's name and what it does: another recipe of the same name is another method."""
    return f"{name}@{_hash(asdict(config.methods[name]))}"


def classifier_tag(config: Config, name: str) -> str:
    """A classifier's, likewise."""
    return f"{name}@{_hash(asdict(config.classifiers[name]))}"


def made_tag(method: Method) -> str:
    """What a method makes and of what; methods that differ in the training alone have the same pictures."""
    recipe = asdict(method)
    return f"{method.made}@{_hash({name: recipe[name] for name in MADE_FROM[method.made]})}"


def _hash(recipe: JsonMapping) -> str:
    return hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()[:8]
