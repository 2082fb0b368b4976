"""What the gate of ``augment`` rejects of 200 labelled pictures made of photos: precision and recall, before and after.

    python benchmarks/quality_gate.py --photos flowers/train --model flowers-flow --weights efficientnet-lite0.pth

50 pairs of photos of a class, and of each a fusion by a class-conditional flow without and with fresh noise: 100
fusions, which were looked at on the sheets that this writes and labelled by eye (results/quality-gate-labels.json).
100 more whose label is known by construction: pixel means (with and without their contrast restored), speckle (noise
in the maps of the model, or in pixels), near-copies of one parent, and untouched photos. ``before`` is the gate as it
was: copies by cosine, drift and sharpness alone. The limits were chosen on this set; with --offset 60 the photos are
others, whose fusions are labelled too.
"""

from __future__ import annotations

import argparse
import io
import json
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from inversion import hardware
from PIL import Image

from noiseweave.engine.diffusion.recipes import InversionRecipe
from noiseweave.engine.features import spaces
from noiseweave.engine.features.recipes import FeatureRecipe
from noiseweave.engine.fusion import groups
from noiseweave.engine.fusion.recipes import FusionRecipe
from noiseweave.engine.judging import denoising, quality
from noiseweave.engine.judging.recipes import QualityRecipe
from noiseweave.engine.networks import loading
from noiseweave.engine.networks.backbone import Backbone
from noiseweave.engine.networks.recipes import ModelConfig, Prompts
from noiseweave.engine.pictures import images
from noiseweave.engine.records import Pair
from noiseweave.engine.seeding import generator

RESULTS = Path(__file__).parent / "results"
SIDE, OF_CLASS, PAIRS_OF_CLASS, ALIKE = 128, 60, 10, 0.62
MODES = ("linear", "cross_fade", "layer_selective", "feature_selective")
Made = list[tuple[str, int, np.ndarray]]
"""(kind, number of its pair, uint8 [128, 128, 3])."""


def photos(folder: Path, offset: int) -> tuple[np.ndarray, np.ndarray]:
    """uint8 [N, 128, 128, 3] and their classes [N]."""
    found, label = [], []
    for c, name in enumerate(sorted(f.name for f in folder.iterdir() if f.is_dir())):
        for file in sorted((folder / name).iterdir())[offset : offset + OF_CLASS]:
            found.append(images.fit(images.decode(file.read_bytes(), 3), SIDE))
            label.append(c)
    return np.stack(found), np.array(label)


def extractor(weights: str) -> Callable[[np.ndarray], np.ndarray]:
    recipe = FeatureRecipe(name="efficientnet-lite0", weights=weights, batch=16)
    extract = spaces.load(recipe, lambda: None)  # type: ignore[arg-type,return-value]
    return lambda image_NHWC: np.concatenate(
        [
            extract(np.stack([images.fit(x, 224) for x in image_NHWC[i : i + 32]]))
            for i in range(0, len(image_NHWC), 32)
        ]
    )


def pairs_of(f_ND: np.ndarray, label_N: np.ndarray) -> np.ndarray:
    """[50, 2]: ten of each class, of pictures that are in at most two."""
    cosine = np.where(label_N[:, None] == label_N[None], f_ND @ f_ND.T, -1)
    a, b = np.nonzero(np.triu(cosine > ALIKE, 1))
    uses: dict[int, int] = {}
    of_class: dict[int, int] = {}
    found = []
    for k in np.random.default_rng(0).permutation(len(a)):
        i, j, c = int(a[k]), int(b[k]), int(label_N[a[k]])
        if max(uses.get(i, 0), uses.get(j, 0)) < 2 and of_class.get(c, 0) < PAIRS_OF_CLASS:
            found.append((i, j))
            uses[i], uses[j], of_class[c] = uses.get(i, 0) + 1, uses.get(j, 0) + 1, of_class.get(c, 0) + 1
    return np.array(found)


def fusions(backbone: Backbone, image_NHWC: np.ndarray, label_N: np.ndarray, pairs: np.ndarray) -> Made:
    """Of each pair one without and one with fresh noise; speckled ones and near-copies of some."""
    used = sorted(set(pairs.ravel().tolist()))
    labels = tuple(int(y) for y in label_N[used])
    prompts = Prompts(source=labels, target=labels, guidance_source=1.0, guidance_target=2.0)
    parents = groups.Parents(image_BHWC=image_NHWC[used], keys=[str(i) for i in used], prompts=prompts)
    inversion, plain = InversionRecipe(num_steps=16, skip=4), FusionRecipe(variation=0.0)
    maps = groups.invert_group(backbone, parents, set(range(len(used))), inversion, plain, 0)

    def fuse(
        inverted: groups.Inverted, which: range, ratio: float = 0.5, variation: float = 0.0
    ) -> np.ndarray:
        drawn = [
            Pair(
                a=used.index(pairs[k, 0]),
                b=used.index(pairs[k, 1]),
                similarity=ALIKE,
                mode=MODES[k % 4],
                ratio=ratio,
                seed=k,
            )
            for k in which
        ]
        recipe = FusionRecipe(variation=variation)
        return groups.fuse_group(backbone, inverted, drawn, "ddim", recipe).image_PHWC

    every, some, few = (range(0, len(pairs), n) for n in (1, 3, 6))
    noisy = replace(maps, maps=[_wrong(m, n) for n, m in enumerate(maps.maps)])
    made: Made = []
    for kind, which, pictures in (
        ("fusion", every, fuse(maps, every)),
        ("fusion, fresh noise", every, fuse(maps, every, variation=0.5)),
        ("speckle, of the model", some, fuse(noisy, some)),
        ("near-copy, ratio 0.03", few, fuse(maps, few, ratio=0.03)),
    ):
        made += [(kind, k, picture) for k, picture in zip(which, pictures, strict=True)]
    return made


def _wrong(maps: object, n: int) -> object:
    """Noise maps with noise that no inversion put there, in the later half of the steps."""
    r = maps.residual_TCHW  # type: ignore[attr-defined]
    wrong = torch.randn(r.shape, generator=generator(n, "wrong")) * r.std((1, 2, 3), keepdim=True)
    wrong[: len(r) // 2] = 0
    return replace(maps, residual_TCHW=r + 1.2 * wrong)  # type: ignore[type-var]


def constructed(image_NHWC: np.ndarray, label_N: np.ndarray, pairs: np.ndarray, fused: Made) -> Made:
    """Pixel means, pixel noise, near-copies, and photos as they are."""
    rng, made = np.random.default_rng(1), []
    plain = {k: picture for kind, k, picture in fused if kind == "fusion"}
    for k, (i, j) in enumerate(pairs):
        a, b = image_NHWC[i].astype(np.float64), image_NHWC[j].astype(np.float64)
        mean = (a + b) / 2
        if k % 2 == 0 and k < 38:
            made.append(("pixel mean", k, mean))
        elif k % 4 == 1:
            middle, spread = mean.mean((0, 1)), (a.std((0, 1)) + b.std((0, 1))) / 2
            made.append(
                ("pixel mean, contrast restored", k, (mean - middle) * spread / mean.std((0, 1)) + middle)
            )
        if k % 3 == 1:
            made.append(("speckle, of pixels", k, plain[k] + rng.normal(0, 12, a.shape)))
        if k % 6 == 1:
            buffer = io.BytesIO()
            Image.fromarray(image_NHWC[i]).save(buffer, "JPEG", quality=60)
            made.append(("near-copy, edited", k, np.asarray(Image.open(buffer)) * 0.95 + 6))
        if k % 3 == 2:
            others = [n for n in np.flatnonzero(label_N == label_N[i]) if n not in pairs[k]]
            made.append(("photo", k, image_NHWC[rng.choice(others)].astype(np.float64)))
    return [(kind, k, np.clip(np.rint(x), 0, 255).astype(np.uint8)) for kind, k, x in made]


def sheets(made: Made, image_NHWC: np.ndarray, pairs: np.ndarray, folder: Path) -> None:
    """First parent, made, second parent, 25 a page and kind, to be looked at."""
    for kind in dict.fromkeys(kind for kind, *_ in made):
        rows = [
            np.concatenate(
                [image_NHWC[pairs[k, 0]], picture, image_NHWC[pairs[k, 1]], np.zeros_like(picture[:, :9])], 1
            )
            for name, k, picture in made
            if name == kind
        ]
        rows += [np.zeros_like(rows[0])] * (-len(rows) % 5)
        page = np.concatenate(
            [np.concatenate(rows[n :: len(rows) // 5][:5], 1) for n in range(len(rows) // 5)]
        )
        Image.fromarray(page).save(folder / f"{kind.replace(', ', '-').replace(' ', '-')}.png")


def the_set(args: argparse.Namespace) -> tuple[Made, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Made pictures, photos, their classes and features, pairs; kept in --work, so that a second call is quick."""
    file = args.work / "set.npz"
    if not file.exists():
        image_NHWC, label_N = photos(args.photos, args.offset)
        f_ND = extractor(args.weights)(image_NHWC)
        pairs = pairs_of(f_ND, label_N)
        made = fusions(loading.load(ModelConfig(name=str(args.model))), image_NHWC, label_N, pairs)
        made += constructed(image_NHWC, label_N, pairs, made)
        args.work.mkdir(parents=True, exist_ok=True)
        np.savez(
            file,
            kind=[m[0] for m in made],
            pair=[m[1] for m in made],
            made=np.stack([m[2] for m in made]),
            image=image_NHWC,
            label=label_N,
            f=f_ND,
            pairs=pairs,
        )
        sheets(made, image_NHWC, pairs, args.work)
    z = np.load(file)
    made = list(zip(z["kind"].tolist(), z["pair"].tolist(), z["made"], strict=True))
    return made, z["image"], z["label"], z["f"], z["pairs"]


def judge_of(args: argparse.Namespace, f_ND: np.ndarray, label_N: np.ndarray) -> quality.Judge:
    mean_KD = quality.centroids(f_ND, label_N, int(label_N.max()) + 1)
    return quality.Judge(
        extract=extractor(args.weights),
        real_ND=f_ND,
        chances=lambda _, f_PD: quality.centroid_chances(f_PD, mean_KD),
        unexplained=partial(denoising.unexplained, loading.load(ModelConfig(name=str(args.model)))),
    )


def is_bad(kind: str, k: int, by_eye: dict[str, list[int]]) -> bool:
    return k in by_eye[kind] if kind in by_eye else not kind.startswith(("photo", "fusion"))


def scores(bad: np.ndarray, rejected: np.ndarray) -> dict[str, float | int]:
    hit = int((bad & rejected).sum())
    return {
        "bad": int(bad.sum()),
        "rejected": int(rejected.sum()),
        "rejected_rightly": hit,
        "precision": round(hit / max(1, int(rejected.sum())), 3),
        "recall": round(hit / max(1, int(bad.sum())), 3),
    }


def ranked(strange: np.ndarray, kinds: np.ndarray) -> dict[str, float]:
    """The median of each kind, strangest last."""
    medians = {kind: float(np.median(strange[kinds == kind])) for kind in dict.fromkeys(kinds.tolist())}
    return {kind: round(value, 3) for kind, value in sorted(medians.items(), key=lambda item: item[1])}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--photos", type=Path, help="folder with a folder of each class")
    parser.add_argument("--model", type=Path, help="class-conditional flow of these classes, 128 px")
    parser.add_argument("--weights", help="efficientnet-lite0's")
    parser.add_argument(
        "--work", type=Path, default=Path("out/quality-gate"), help="for the set and its sheets"
    )
    parser.add_argument("--offset", type=int, default=0, help="of each class, photos that are passed over")
    parser.add_argument("--labels", type=Path, default=RESULTS / "quality-gate-labels.json")
    parser.add_argument("--output", type=Path, default=RESULTS / "quality-gate-cpu.json")
    args = parser.parse_args()
    if not (args.photos and args.model and args.weights):
        print("left out: it needs --photos, --model and --weights")
        return
    made, image_NHWC, label_N, f_ND, pairs = the_set(args)
    by_eye = json.loads(args.labels.read_text())["bad"].get(str(args.offset), {})
    kinds = np.array([kind for kind, *_ in made])
    bad = np.array([is_bad(kind, k, by_eye) for kind, k, _ in made])
    ends = [tuple(pairs[k].tolist()) for _, k, _ in made]
    shown = [picture for kind, _, picture in made if kind == "photo"]
    known = np.array(
        [not any(np.array_equal(x, y) for y in shown) for x in image_NHWC]
    )  # else they are copies
    judge, every = judge_of(args, f_ND[known], label_N[known]), np.ones(len(made), bool)
    pictures = np.stack([picture for *_, picture in made])
    found = quality.checks(judge, pictures, every, ends, image_NHWC, label_N.tolist(), QualityRecipe())
    figures = [quality.Figures(**{name: getattr(c, name) for name in quality.FIGURES}) for c in found]
    fused = np.char.startswith(kinds, "fusion")
    before = QualityRecipe(traced=1, hash=None, double=1, speckle=0, rough=0, strange=0, sharpness=0.25)
    value = {"photos": len(image_NHWC), "pictures": len(made), "offset": args.offset}
    for name, recipe in (
        ("before", before),
        ("after", QualityRecipe().settled(photos=True, space="efficientnet-lite0")),
    ):
        verdicts = np.array([quality.judge_figures(f, True, recipe) for f in figures])
        value[name] = {
            "all": scores(bad, verdicts != "kept"),
            "constructed": scores(bad[~fused], verdicts[~fused] != "kept"),
            "of_kind": {
                kind: dict(Counter(verdicts[kinds == kind].tolist())) | {"bad": int(bad[kinds == kind].sum())}
                for kind in dict.fromkeys(kinds.tolist())
            },
            "by_eye": scores(
                bad[np.isin(kinds, list(by_eye))], verdicts[np.isin(kinds, list(by_eye))] != "kept"
            ),
        }
        print(name, json.dumps(value[name], indent=1))
    strange = np.array([f.strange for f in figures])
    value["strange_by_kind"] = ranked(strange, kinds)
    print(json.dumps(value["strange_by_kind"], indent=1))
    args.output.write_text(json.dumps(value | {"hardware": hardware()}, indent=1) + "\n")
    rows = [
        {"kind": m[0], "pair": m[1], "bad": bool(b)} | asdict(c)
        for m, b, c in zip(made, bad, found, strict=True)
    ]
    (args.work / "figures.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")


if __name__ == "__main__":
    main()
