"""Which mode, noise, share of skipped steps and guidance fuse photographs best: the table of docs/fusion.md.

    python benchmarks/fusion_modes.py --photos DIR --weights FILE [--model flowers-flow] [--pairs 100]

DIR and FILE as in photo_model.py. The same pairs of training photos of a class, alike in EfficientNet-lite0's features,
are fused in every way. Beside the Frechet distance to the validation photos and the share that a linear probe takes
for their class, which do not see a double exposure (the plain pixel mean wins both), the gate's figures are
told: the share of the picture that the model itself does not see through noise, over its parents' (``strange``), and
the share that the gate keeps. New, yet theirs: the cosine in the same features to the nearer and to the farther
parent, and to the nearest training photo that is neither. The first rows are the pixel mean, and photographs that no
parent is among. Pictures are fused at the model's side, and judged at ``--side`` but for the gate.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import photo_model
import quality_gate
import torch
from inversion import hardware

from noiseweave.engine.diffusion.recipes import InversionRecipe
from noiseweave.engine.fusion import groups
from noiseweave.engine.fusion.recipes import FusionRecipe
from noiseweave.engine.judging import denoising, quality
from noiseweave.engine.judging.recipes import QualityRecipe
from noiseweave.engine.networks import loading
from noiseweave.engine.networks.backbone import Backbone
from noiseweave.engine.networks.recipes import ModelConfig, Prompts
from noiseweave.engine.pictures import collage
from noiseweave.engine.records import Pair
from noiseweave.engine.usefulness.generators import resized

COLUMNS = {
    "FD": "frechet",
    "of its class": "probe",
    "nearer parent": "nearer",
    "farther parent": "farther",
    "nearest other photo": "other",
    "strange": "strange",
    "kept by the gate": "kept",
}
GATE = QualityRecipe(drift=1).settled(photos=True)


@dataclass(frozen=True, kw_only=True)
class Way:
    """How pairs are fused; skip counts the noisiest of the steps, fresh is ``fusion.variation``."""

    mode: str = "cross_fade"
    noise: str = "independent"
    steps: int = 20
    skip: int = 4
    eta: float = 1.0
    guidance: float = 2.0
    ratio: float = 0.5
    fresh: float = 0.0

    def __str__(self) -> str:
        """The mode and its noise, and what is not as usual."""
        usual, said = Way(), [self.mode, self.noise]
        if (self.steps, self.skip) != (usual.steps, usual.skip):
            said.append(f"skip {self.skip} of {self.steps}")
        for name in ("eta", "guidance", "ratio", "fresh"):
            if (value := getattr(self, name)) != getattr(usual, name):
                said.append(f"{name} {value:g}")
        return ", ".join(said)


WAYS = [
    *(Way(mode=mode, noise=noise) for noise in ("independent", "shared") for mode in quality_gate.MODES),
    *(Way(skip=skip) for skip in (1, 8, 12)),
    *(Way(guidance=guidance) for guidance in (1.0, 3.0, 5.0)),
    Way(ratio=0.3),
    *(Way(steps=5 * skip, skip=skip) for skip in (2, 10)),
    *(Way(eta=eta) for eta in (0.5, 0.0)),
    *(Way(fresh=fresh, skip=skip) for fresh, skip in ((0.5, 4), (1.0, 4), (1.0, 8), (1.0, 12))),
]


@dataclass(frozen=True, kw_only=True)
class Parents:
    """Pairs of photographs of a class, as positions [P, 2] in image_NHWC; these are the training photos where_N."""

    image_NHWC: np.ndarray
    label_N: np.ndarray
    where_N: np.ndarray
    pairs: np.ndarray

    @property
    def label_P(self) -> np.ndarray:
        return self.label_N[self.pairs[:, 0]]


def parents_of(judge: photo_model.Judge, count: int, side: int) -> Parents:
    """Pairs that the gate's benchmark would take, equally of all classes; pictures of side x side pixels."""
    f_ND = judge.train_ND / np.linalg.norm(judge.train_ND, axis=1, keepdims=True)
    classes = int(judge.label_N.max()) + 1
    quality_gate.PAIRS_OF_CLASS = count // classes
    first = np.concatenate([np.flatnonzero(judge.label_N == c)[:200] for c in range(classes)])
    pairs = quality_gate.pairs_of(f_ND[first], judge.label_N[first])
    used = np.unique(pairs)
    return Parents(
        image_NHWC=resized(judge.train_NHWC[first[used]], side),
        label_N=judge.label_N[first[used]],
        where_N=first[used],
        pairs=np.searchsorted(used, pairs),
    )


def fuser(backbone: Backbone, parents: Parents, sampler: str) -> Callable[[Way], np.ndarray]:
    keys = [str(i) for i in range(len(parents.image_NHWC))]
    labels = tuple(map(int, parents.label_N))

    @cache
    def inverted(recipe: InversionRecipe) -> groups.Inverted:
        prompts = Prompts(source=labels, target=labels, guidance_source=1.0, guidance_target=1.0)
        group = groups.Parents(image_BHWC=parents.image_NHWC, keys=keys, prompts=prompts)
        return groups.invert_group(backbone, group, set(range(len(keys))), recipe, FusionRecipe(), 0)

    def fused(way: Way) -> np.ndarray:
        chain: Any = {"num_steps": way.steps, "skip": way.skip, "noise": way.noise, "eta": way.eta}
        maps = inverted(InversionRecipe(**chain, sampler=sampler))
        prompts = Prompts(source=labels, target=labels, guidance_source=1.0, guidance_target=way.guidance)
        drawn: list[Any] = [
            Pair(a=int(a), b=int(b), similarity=1.0, mode=way.mode, ratio=way.ratio, seed=k)
            for k, (a, b) in enumerate(parents.pairs)
        ]
        group = groups.Inverted(path=maps.path, maps=maps.maps, prompts=prompts)
        return groups.fuse_group(
            backbone, group, drawn, sampler, FusionRecipe(variation=way.fresh)
        ).image_PHWC

    return fused


def gated(gate: quality.Judge, parents: Parents, image_PHWC: np.ndarray) -> dict[str, float]:
    """What the gate says; of photographs that are no fusion, against the same parents."""
    every = np.ones(len(image_PHWC), bool)
    ends = [(int(a), int(b)) for a, b in parents.pairs]
    labels = parents.label_N.tolist()
    checks = quality.checks(gate, image_PHWC, every, ends, parents.image_NHWC, labels, GATE)
    verdicts = [c.verdict for c in checks]
    rejected = {f"rejected_{v}": verdicts.count(v) for v in sorted({*verdicts} - {"kept"})}
    strange = [c.strange for c in checks if c.strange is not None]
    return {
        "strange": round(float(np.median(strange)), 2),
        "kept": round(verdicts.count("kept") / len(verdicts), 2),
        **rejected,
    }


def theirs(judge: photo_model.Judge, parents: Parents, image_PHWC: np.ndarray) -> dict[str, float]:
    """Median cosines: to the nearer and the farther parent, and to the nearest training photo that is neither."""
    f_PD, train_ND = (
        f / np.linalg.norm(f, axis=1, keepdims=True) for f in (judge.features(image_PHWC), judge.train_ND)
    )
    cosine_PN = f_PD @ train_ND.T
    ends_P2 = parents.where_N[parents.pairs]
    of_ends_P2 = np.sort(np.take_along_axis(cosine_PN, ends_P2, axis=1), axis=1)
    np.put_along_axis(cosine_PN, ends_P2, -1, axis=1)
    found = {"farther": of_ends_P2[:, 0], "nearer": of_ends_P2[:, 1], "other": cosine_PN.max(1)}
    return {name: round(float(np.median(value)), 2) for name, value in found.items()}


def rows(args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    backbone = loading.load(ModelConfig(name=args.model))
    features = photo_model.extractor(args.weights)
    judge = photo_model.Judge(args.photos, args.side, features)
    parents = parents_of(judge, args.pairs, backbone.size)
    unit = lambda x: (f := features(x)) / np.linalg.norm(f, axis=1, keepdims=True)  # noqa: E731
    gate = quality.Judge(
        extract=unit,
        real_ND=unit(parents.image_NHWC),
        chances=None,
        unexplained=partial(denoising.unexplained, backbone),
    )
    a, b = (parents.image_NHWC[parents.pairs[:, k]].astype(np.float32) for k in (0, 1))
    fuse = fuser(backbone, parents, args.sampler)
    every: dict[str, Callable[[], np.ndarray]] = {"pixel mean": lambda: np.rint((a + b) / 2).astype(np.uint8)}
    every |= {str(way): partial(fuse, way) for way in WAYS[: args.ways]}
    yield {"way": "other photographs", "frechet": judge.frechet_of_real(len(parents.pairs)), **judge.real}
    for name, make in every.items():
        image_PHWC = make()
        if args.sheets:
            page = collage.sheet(
                [list(image_PHWC[i : i + 10]) for i in range(0, len(image_PHWC), 10)], tile=args.side
            )
            args.sheets.mkdir(parents=True, exist_ok=True)
            (args.sheets / f"{name.replace(', ', '-').replace(' ', '-').replace('/', '-')}.png").write_bytes(
                collage.png(page)
            )
        small = resized(image_PHWC, args.side)
        seen = judge.look(small, parents.label_P) | theirs(judge, parents, small)
        yield {"way": name, **seen, **gated(gate, parents, image_PHWC)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", default="flowers-flow")
    parser.add_argument("--photos", type=Path)
    parser.add_argument("--weights", type=Path, help="of EfficientNet-lite0")
    parser.add_argument("--pairs", type=int, default=100)
    parser.add_argument("--ways", type=int, help="how many of the ways, from the first on")
    parser.add_argument("--side", type=int, default=128, help="at which pictures are judged")
    parser.add_argument("--sampler", default="sde-dpm-solver++")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--sheets", type=Path, help="folder for a sheet of each way")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results/fusion_modes-cpu.json")
    args = parser.parse_args()
    if not (args.photos and args.weights):
        print("left out: it needs --photos and --weights")
        return
    torch.set_num_threads(args.threads)
    found = []
    print("| " + " | ".join(["way", *COLUMNS]) + " |\n" + "| --- " * (1 + len(COLUMNS)) + "|")
    for row in rows(args):
        found.append(row)
        print(
            f"| {row['way']} | " + " | ".join(str(row.get(k, "")) for k in COLUMNS.values()) + " |",
            flush=True,
        )
    args.out.write_text(
        json.dumps({"model": args.model, "hardware": hardware(), "rows": found}, indent=1) + "\n"
    )


if __name__ == "__main__":
    main()
