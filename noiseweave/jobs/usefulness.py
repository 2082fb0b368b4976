"""``noiseweave evaluate usefulness``: do the made pictures help a classifier of few labelled ones?

Four flows: prior (the generator on the unlabelled pool), tune (it learns the labels of the few), make (what each method
adds), score (classifiers, each trained on one worker). Only score ever reads the test set.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from noiseweave.cluster.session import ClusterConfig
from noiseweave.engine.quality_recipes import ClassifierRecipe
from noiseweave.engine.recipes import check
from noiseweave.engine.records import Bad, Plan, Unit, UnitReport
from noiseweave.engine.usefulness_recipes import GeneratorRecipe, Method, Protocol

if TYPE_CHECKING:
    from noiseweave.cluster.ledger import Ledger
    from noiseweave.cluster.pipeline import Outcome
    from noiseweave.cluster.session import Session
    from noiseweave.engine.usefulness import Pictures

OWNED = ("usefulness.json", "usefulness.md", "usefulness.png", "quarantine.jsonl", "sheets")


@dataclass(frozen=True, kw_only=True)
class Config:
    """Trains the same classifier on few labelled pictures, with and without what each method adds to them.

    Args:
        input: shards of the labelled training side. The few are chosen from it; in the prior protocol the
            generator sees the rest of it too, without labels.
        test: shards of the test side, which nothing but the classifiers' scores looks at.
        output: folder for usefulness.md (the table), .png (the plot), .json, and sheets of what was made.
        protocol: closed (the generator sees the few alone) or prior (it was trained on the unlabelled input).
        per_class: labelled pictures of each class, one table for each.
        subsets: choices of the few, each with a generator of its own.
        seeds: classifiers of each method and subset.
        size: side of the pictures in pixels.
        channels: 1 (grey) or 3 (RGB).
        flip: mirrored pictures are pictures as well: the generator sees them too.
        classifier: what is trained again and again; its classical augmentations are those of each method.
        generator: the diffusion model.
        methods: name -> what it adds. The reference of all is the best method without made pictures.
        seed: every random choice comes from it.
        max_pixels: larger pictures are left out unread.
        cluster: where the work runs.
        overwrite: throw away an earlier run in the output folder.
    """

    input: str
    test: str
    output: str
    protocol: Protocol = "prior"
    per_class: tuple[int, ...] = (10,)
    subsets: int = 1
    seeds: int = 5
    size: int = 16
    channels: int = 1
    flip: bool = False
    classifier: ClassifierRecipe = field(default_factory=ClassifierRecipe)
    generator: GeneratorRecipe = field(default_factory=GeneratorRecipe)
    methods: dict[str, Method] = field(default_factory=lambda: {"real": Method()})
    seed: int = 0
    max_pixels: int = 64_000_000
    cluster: ClusterConfig = field(default_factory=ClusterConfig)
    overwrite: bool = False

    def __post_init__(self) -> None:
        check(
            bool(self.per_class) and min(self.per_class) >= 1,
            "per_class",
            self.per_class,
            "numbers from 1 on",
        )
        for name in ("subsets", "seeds"):
            check(getattr(self, name) >= 1, name, getattr(self, name), "1 or more")
        check(self.size >= 8, "size", self.size, "8 or more")
        check(self.channels in (1, 3), "channels", self.channels, "1 or 3")
        check(bool(self.methods), "methods", self.methods, "at least one")
        plain = any(m.made == "none" for m in self.methods.values())
        check(plain, "methods", list(self.methods), "at least one without made pictures, to compare with")


def run(config: Config) -> int:
    """Do the job. Returns 0, or 1 when units failed.

    Raises:
        ValueError: what a user can put right, in one line.
    """
    from noiseweave.cluster import ledger, shards, storage
    from noiseweave.cluster.session import session
    from noiseweave.jobs import usefulness_report

    output = storage.absolute(config.output)
    sides = {"input": shards.find(config.input), "test": shards.find(config.test)}
    book = ledger.open_run(output, identity(config, sides), config.overwrite, OWNED)
    data, bad = load(config, sides)
    few = {(k, n): choose(config, data, k, n) for k in config.per_class for n in range(config.subsets)}
    task = Task(config=config, data=data, few=few, classes=int(data["input"].label_N.max()) + 1)
    with session(config.cluster) as s:
        outcomes = flows(task, book, s)
    failed = {name: o.failed for name, o in outcomes.items() if o.failed}
    usefulness_report.finish(task, book, outcomes, bad, output)
    return 1 if failed else 0


def identity(config: Config, sides: Mapping[str, Sequence[str]]) -> Mapping[str, Any]:
    """What the figures depend on."""
    from noiseweave.cluster import storage

    known: dict[str, Any] = {"job": "usefulness"} | asdict(config)
    for name in ("output", "cluster", "overwrite", "input", "test"):
        del known[name]
    for name, found in sides.items():
        listing = "".join(f"{s.rsplit('/', 1)[-1]} {storage.size_of(s)}\n" for s in found)
        known[name] = hashlib.sha256(listing.encode()).hexdigest()[:16]
    known["methods"] = {
        name: hashlib.sha256(json.dumps(m, sort_keys=True).encode()).hexdigest()[:16]
        for name, m in known["methods"].items()
    }
    return known


# the pictures


def load(config: Config, sides: Mapping[str, Sequence[str]]) -> tuple[dict[str, Any], list[Bad]]:
    """Both sides in memory, with keys; what was bad.

    Raises:
        ValueError: a side has no labelled picture, or a picture lies on both.
    """
    import numpy as np

    from noiseweave.engine.usefulness import Pictures
    from noiseweave.jobs import shard_pictures

    data: dict[str, Any] = {}
    bad: list[Bad] = []
    seen: dict[str, set[bytes]] = {}
    for side, found in sides.items():
        read = [shard_pictures.read_shard(s, config.size, config.channels, config.max_pixels) for s in found]
        places = [p for where, _, _ in read for p in where]
        bad += [b for _, _, worse in read for b in worse]
        image_NHWC = np.concatenate([x for _, x, _ in read])
        label_N = np.array([-1 if p.label is None else p.label for p in places], np.int64)
        if side == "test":
            image_NHWC, label_N = image_NHWC[label_N >= 0], label_N[label_N >= 0]
        if not (label_N >= 0).any():
            raise ValueError(f"{side}: no labelled picture in it")
        data[side] = Pictures(image_NHWC=image_NHWC, label_N=label_N)
        data[f"{side}_keys"] = [p.key for p in places]
        seen[side] = {hashlib.sha256(x.tobytes()).digest() for x in image_NHWC}
    both = seen["input"] & seen["test"]
    if both:
        raise ValueError(f"test: {len(both)} of its pictures are in input too, pixel for pixel")
    return data, bad


def choose(config: Config, data: Mapping[str, Any], per_class: int, subset: int) -> Pictures:
    """The few of a subset."""
    from noiseweave.engine.usefulness import Pictures, few_of

    pool = data["input"]
    rows = few_of(pool.label_N, data["input_keys"], per_class, config.seed + subset)
    return Pictures(image_NHWC=pool.image_NHWC[rows], label_N=pool.label_N[rows])


@dataclass(frozen=True, kw_only=True)
class Task:
    """What the flows share.

    Attributes:
        data: input and test, as Pictures.
        few: (per_class, subset) -> the labelled pictures.
        classes: of the input.
    """

    config: Config
    data: Mapping[str, Any]
    few: Mapping[tuple[int, int], Pictures]
    classes: int

    @property
    def making(self) -> dict[str, Method]:
        return {name: m for name, m in self.config.methods.items() if m.made != "none"}

    @property
    def drawing(self) -> bool:
        """Whether a generator is needed."""
        return any(m.made in ("samples", "fusion") for m in self.config.methods.values())


# the flows


def flows(task: Task, book: Ledger, s: Session) -> dict[str, Outcome]:
    """Each flow after the one before; none after one that failed."""
    config = task.config
    steps: list[tuple[str, Sequence[tuple]]] = []
    if task.drawing and config.protocol == "prior":
        steps.append(("prior", [("prior",)]))
    places = sorted(task.few)
    if task.drawing:
        steps.append(("tune", places))
    steps.append(("make", [(*place, name) for place in places for name in task.making]))
    steps.append((
        "score", [(*place, name, seed) for place in places for name in config.methods for seed in range(config.seeds)]
    ))  # fmt: skip
    outcomes: dict[str, Outcome] = {}
    for name, units in steps:
        if units and not any(o.failed for o in outcomes.values()):
            outcomes[name] = _flow(name, units, task, book, s)
    return outcomes


def _flow(name: str, units: Sequence[tuple], task: Task, book: Ledger, s: Session) -> Outcome:
    from noiseweave.cluster import pipeline

    phase = pipeline.Phase(
        name=name, fetch=_payload, make_compute=partial(_maker, name, task, book),
        commit=partial(_commit, book, name), things="classifiers" if name == "score" else "sets",
    )  # fmt: skip
    return pipeline.run(Plan(length=len(units), unit=partial(_unit, units)), phase, book, s)


def _unit(units: Sequence[tuple], i: int) -> Unit:
    return Unit(index=i, id="-".join(str(part) for part in units[i]), payload=units[i])


def _payload(unit: Unit) -> Any:
    return unit.payload


def _maker(name: str, task: Task, book: Ledger) -> Callable[[Any], Any]:
    import torch

    gpu = torch.cuda.is_available() and task.config.cluster.gpus_per_worker != 0
    return partial(COMPUTE[name], task, book, "cuda" if gpu else "cpu")


def _prior(task: Task, book: Ledger, device: str, unit: tuple) -> tuple[dict[str, bytes], dict[str, float]]:
    from noiseweave.engine import usefulness

    c = task.config
    data = usefulness.prior(task.data["input"], c.generator, task.classes, c.seed, c.flip, device)
    return {"prior.safetensors": data}, {}


def _tune(task: Task, book: Ledger, device: str, unit: tuple) -> tuple[dict[str, bytes], dict[str, float]]:
    from noiseweave.cluster import storage
    from noiseweave.engine import usefulness

    c, few = task.config, task.few[unit]
    pool = task.data["input"] if c.protocol == "prior" else None
    start = storage.read(book.path("prior.safetensors")) if pool is not None else None
    data = usefulness.tuned(few, pool, start, c.generator, _judge(c), task.classes, c.seed, c.flip, device)
    return {f"tuned-{unit[0]}-{unit[1]}.safetensors": data}, {}


def _judge(config: Config) -> ClassifierRecipe:
    """The classifier whose guesses of the pool are told: the classifier with affine augmentation."""
    from dataclasses import replace

    return replace(config.classifier, classical=("flip", "affine") if config.flip else ("affine",))


def _make(task: Task, book: Ledger, device: str, unit: tuple) -> tuple[dict[str, bytes], dict[str, float]]:
    import io

    import numpy as np

    from noiseweave.cluster import storage
    from noiseweave.engine import usefulness

    k, subset, name = unit
    c, method = task.config, task.config.methods[name]
    weights = None
    if method.made != "blend":
        weights = storage.read(book.path(f"tuned-{k}-{subset}.safetensors"))
    added = usefulness.made(method, task.few[k, subset], weights, c.generator, task.classes, c.seed, device)
    buffer = io.BytesIO()
    np.savez(buffer, image=added.image_MHWC, p=added.p_MK)
    rejected = {f"rejected:{reason}": n for reason, n in added.rejected.items()}
    return {f"made/{k}-{subset}-{name}.npz": buffer.getvalue()}, {"made": len(added.p_MK), **rejected}


def _score(task: Task, book: Ledger, device: str, unit: tuple) -> tuple[dict[str, bytes], dict[str, float]]:
    from noiseweave.engine import usefulness

    k, subset, name, seed = unit
    c, method, few = task.config, task.config.methods[name], task.few[k, subset]
    added = None if method.made == "none" else read_made(book, k, subset, name)
    right = usefulness.score(method, few, added, task.data["test"], c.classifier, task.classes, seed, device)
    return {}, {"accuracy": right}


def read_made(book: Ledger, per_class: int, subset: int, name: str) -> Any:
    """What a method added."""
    import io

    import numpy as np

    from noiseweave.cluster import storage
    from noiseweave.engine.usefulness import Added

    data = storage.read(book.path("made", f"{per_class}-{subset}-{name}.npz"))
    with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
        return Added(image_MHWC=arrays["image"], p_MK=arrays["p"], rejected={})


COMPUTE = {"prior": _prior, "tune": _tune, "make": _make, "score": _score}


def _commit(book: Ledger, name: str, unit: Unit, result: Any) -> tuple[UnitReport, list[Bad]]:
    from noiseweave.cluster import storage

    files, extra = result
    for file, data in files.items():
        storage.write(book.path(file), data)
    return UnitReport(id=unit.id, produced=1, extra=extra), []
