"""How good a class-conditional photo model is: its samples against real photographs, by guidance.

    python benchmarks/photo_model.py --photos DIR --weights FILE [--model NAME ...] [--guidance 1 2 3] [--interval 0 1]

DIR has train/ and validation/, each with a folder of pictures for each class, in the alphabet's order of the
model's classes. In features of EfficientNet-lite0: the share of samples that a linear probe of the real training
photos takes for their class; the Frechet distance to the validation photos in the training photos' first 64 principal
components, of the samples and of as many real training photos, as they are and through the model's VAE, which no
samples of it can be better than; and, to see what was learnt by heart, how near samples come to their nearest
training photo beside how near validation photos come to theirs. Pictures are judged at ``--side`` pixels.
"""

from __future__ import annotations

import argparse
import itertools
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from inversion import hardware
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression

from noiseweave.engine.features import networks
from noiseweave.engine.judging.set_metrics import Moments, frechet
from noiseweave.engine.networks import base_models
from noiseweave.engine.networks.latents import decode, encode, to_pixels, to_uint8
from noiseweave.engine.networks.protocols import Autoencoder
from noiseweave.engine.networks.recipes import ModelConfig
from noiseweave.engine.pictures import collage, images
from noiseweave.engine.sampling import samplers
from noiseweave.engine.sampling.recipes import SamplerRecipe
from noiseweave.engine.usefulness.generators import resized

COMPONENTS, ROWS = 64, 50
Features = Callable[[np.ndarray], np.ndarray]


def photos(folder: Path, side: int) -> tuple[np.ndarray, np.ndarray]:
    """uint8 [N, side, side, 3] and int64 [N]."""
    classes = sorted(p for p in folder.iterdir() if p.is_dir())
    found = [(f, n) for n, c in enumerate(classes) for f in sorted(c.iterdir())]
    pictures = [images.fit(images.decode(f.read_bytes(), 3), side) for f, _ in found]
    return np.stack(pictures), np.array([n for _, n in found])


def extractor(weights: Path) -> Features:
    """uint8 [N, H, W, 3] -> float32 [N, 1280]."""
    network = networks.load("efficientnet-lite0", weights, "cpu")

    @torch.inference_mode()
    def features(image_NHWC: np.ndarray) -> np.ndarray:
        parts = np.array_split(image_NHWC, max(1, len(image_NHWC) // ROWS))
        x = (torch.from_numpy(p.copy()).permute(0, 3, 1, 2).float() / 255 for p in parts)
        return np.concatenate([network.run(part).numpy() for part in x])

    return features


def distance(a_ND: np.ndarray, b_ND: np.ndarray) -> float:
    return round(frechet(Moments.of(a_ND).gaussian(), Moments.of(b_ND).gaussian()), 1)


def nearest(f_ND: np.ndarray, train_MD: np.ndarray) -> float:
    """Median over pictures of the cosine similarity to the nearest training photo."""
    a, b = (f / np.linalg.norm(f, axis=1, keepdims=True) for f in (f_ND, train_MD))
    return round(float(np.median((a @ b.T).max(1))), 4)


class Judge:
    """Real photographs, and what is measured against them."""

    def __init__(self, folder: Path, side: int, features: Features) -> None:
        self.train_NHWC, self.label_N = photos(folder / "train", side)
        held, held_label = photos(folder / "validation", side)
        self.features, self.train_ND, self.held_ND = features, features(self.train_NHWC), features(held)
        self.probe = LogisticRegression(max_iter=2000, C=0.01).fit(self.train_ND, self.label_N)
        self.pca = PCA(COMPONENTS, random_state=0).fit(self.train_ND)
        self.real = {
            "probe": round(float(self.probe.score(self.held_ND, held_label)), 3),
            "nearest_train": nearest(self.held_ND, self.train_ND),
        }

    def some(self, count: int) -> np.ndarray:
        """Numbers of so many training photos."""
        return np.random.default_rng(0).permutation(len(self.train_ND))[:count]

    def frechet_of_real(self, count: int) -> float:
        """Of so many training photos to the validation photos."""
        return distance(self.pca.transform(self.train_ND[self.some(count)]), self.pca.transform(self.held_ND))

    def look(self, image_NHWC: np.ndarray, label_N: np.ndarray) -> dict[str, Any]:
        f_ND = self.features(image_NHWC)
        hit_N = self.probe.predict(f_ND) == label_N
        by_class = {int(k): round(float(hit_N[label_N == k].mean()), 2) for k in np.unique(label_N)}
        return {
            "probe": round(float(hit_N.mean()), 3),
            "probe_by_class": by_class,
            "frechet": distance(self.pca.transform(f_ND), self.pca.transform(self.held_ND)),
            "nearest_train": nearest(f_ND, self.train_ND),
        }


@torch.inference_mode()
def through(vae: Autoencoder, image_NHWC: np.ndarray, side: int) -> np.ndarray:
    """Pictures encoded and decoded at a side, uint8 and as large as they were."""
    there = (to_pixels(images.fit(image, side)[None]) for image in image_NHWC)
    back = np.concatenate([to_uint8(decode(vae, encode(vae, x))) for x in there])
    return resized(back, image_NHWC.shape[1])


def drawn(model: base_models.BaseModel, label_N: np.ndarray, recipe: SamplerRecipe, seed: int) -> np.ndarray:
    def batches() -> Iterator[np.ndarray]:
        for start in range(0, len(label_N), ROWS):
            keys = range(start, min(start + ROWS, len(label_N)))
            label = torch.from_numpy(label_N[start : start + ROWS])
            yield samplers.draw(model, keys, label, recipe, seed).image_BHWC

    return np.concatenate(list(batches()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", nargs="+", default=["flowers-flow"])
    parser.add_argument("--photos", type=Path)
    parser.add_argument("--weights", type=Path, help="of EfficientNet-lite0")
    parser.add_argument("--guidance", type=float, nargs="+", default=[1.0, 2.0, 3.0])
    parser.add_argument(
        "--interval",
        type=float,
        nargs=2,
        action="append",
        metavar=("LOW", "HIGH"),
        help="sigmas that are guided; several times for several",
    )
    parser.add_argument("--side", type=int, default=128, help="at which pictures are judged")
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--count", type=int, default=500)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--sheets", type=Path, help="folder for a sheet of samples of each guidance")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    if not (args.photos and args.weights):
        print("left out: it needs --photos and --weights")
        return
    torch.set_num_threads(args.threads)
    models = {name: base_models.load(ModelConfig(name=name)) for name in args.model}
    judge = Judge(args.photos, args.side, extractor(args.weights))
    real = {**judge.real, "frechet": judge.frechet_of_real(args.count)}
    print("real photographs", real, flush=True)
    recipe, rows = SamplerRecipe(name="euler", steps=args.steps), []
    for name, model in models.items():
        if model.encoder is not None:
            some = judge.some(args.count)
            seen = judge.look(through(model.encoder, judge.train_NHWC[some], model.size), judge.label_N[some])
            rows.append({"model": f"real photographs through the VAE of {name}", **seen})
            print(rows[-1], flush=True)
    intervals = [tuple(pair) for pair in args.interval or [(0.0, 1.0)]]
    for (name, model), guidance, interval in itertools.product(models.items(), args.guidance, intervals):
        label_N = np.arange(args.count) % model.classes
        how = {"guidance": guidance, "guidance_interval": interval}
        image_NHWC = resized(drawn(model, label_N, replace(recipe, **how), 0), args.side)
        rows.append({"model": name, **how, **judge.look(image_NHWC, label_N)})
        print(rows[-1], flush=True)
        if args.sheets:
            page = collage.sheet([list(image_NHWC[i : i + 10]) for i in range(0, 60, 10)], tile=args.side)
            args.sheets.mkdir(parents=True, exist_ok=True)
            low, high = interval
            (args.sheets / f"{Path(name).name}-{guidance:g}-{low:g}-{high:g}.png").write_bytes(
                collage.png(page)
            )
    if args.out:
        found = {"count": args.count, "steps": args.steps, "real": real, "samples": rows}
        args.out.write_text(json.dumps({"hardware": hardware(), **found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
