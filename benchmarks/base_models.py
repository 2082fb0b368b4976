"""Base models of digits, scored: Frechet distance and accuracy in the eyes of a digits classifier, against real ones.

    python benchmarks/base_models.py [--count 200]                 the model that ships; minutes, offline
    python benchmarks/base_models.py --models DIR --docs docs      all base models in DIR, their table and sheets

DIR holds folders that ``noiseweave train`` made, of digits. The classifier is trained here on one half of
scikit-learn's digits; a distance is from the samples to the other half, and each is given as a ratio to the distance
of as many real pictures of the first half. What is in --out for the same weights, count and seed is not drawn again.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import digits_classifier as classifier
import numpy as np
import torch
from inversion import hardware

from noiseweave.engine.networks import base_models, facts
from noiseweave.engine.networks.base_models import BaseModel
from noiseweave.engine.networks.recipes import ModelConfig
from noiseweave.engine.pictures import collage, images
from noiseweave.engine.sampling import samplers
from noiseweave.engine.sampling.recipes import SamplerRecipe, sampler_name

RESULTS = Path(__file__).parent / "results/base-models-cpu.json"
BEGIN, END = "<!-- benchmarks/base_models.py: begin -->", "<!-- benchmarks/base_models.py: end -->"
SHIPPED = {"steps": 3600, "batch": 64, "seconds": 2134}  # from the README of the model
ROWS, COLUMNS = 4, 8  # of a sheet
GUIDANCE, GUIDED_STEPS = 2.0, (10, 50)
CURVE = (
    SamplerRecipe(name="euler", steps=10),
    SamplerRecipe(name="heun", steps=5),
    SamplerRecipe(name="euler", steps=50),
    SamplerRecipe(name="dopri5"),
)
CHAIN = (
    SamplerRecipe(name="ddim", steps=10, spacing="trailing"),
    SamplerRecipe(name="ddim", steps=10, spacing="leading"),
    SamplerRecipe(name="dpm-solver++", steps=10),
    SamplerRecipe(name="ddim", steps=50, spacing="trailing"),
    SamplerRecipe(name="ddim", steps=50, spacing="leading"),
)
ONE_CALL = (SamplerRecipe(),)
WAYS = {"ddpm": CHAIN, "flow": CURVE, "linear_mixing": CURVE, "vae": ONE_CALL, "dcgan": ONE_CALL}
NAMES = {"ddim": "DDIM", "dpm-solver++": "DPM-Solver++", "euler": "Euler", "heun": "Heun"}


class Judge:
    """The classifier, what it makes of the real test half, and the references of this run."""

    def __init__(self, count: int, seed: int) -> None:
        started = time.perf_counter()
        first, self.test = classifier.halves()
        self.network = classifier.train(first, seed)
        self.seconds = time.perf_counter() - started
        self.features_ND = classifier.features(self.network, self.test.image_NHWC)
        rng = np.random.default_rng(seed)
        some = [rng.permutation(len(first.label_N))[:count] for _ in range(10)]
        real = [self.distance(first.image_NHWC[rows]) for rows in some]
        shape = (count, classifier.SIZE, classifier.SIZE, 1)
        self.about = {
            "train_pictures": len(first.label_N),
            "test_pictures": len(self.test.label_N),
            "seed": seed,
            "accuracy": round(self.accuracy(self.test.image_NHWC, self.test.label_N), 4),
            "seconds": round(self.seconds, 1),
        }
        self.reference = {
            "real": round(float(np.mean(real)), 2),
            "real_spread": round(float(np.std(real)), 2),
            "real_whole_half": round(self.distance(first.image_NHWC), 2),
            "uniform_noise": round(self.distance(rng.integers(0, 256, shape, np.uint8)), 2),
        }

    def distance(self, image_NHWC: np.ndarray) -> float:
        return classifier.frechet(classifier.features(self.network, image_NHWC), self.features_ND)

    def accuracy(self, image_NHWC: np.ndarray, label_N: np.ndarray) -> float:
        return classifier.accuracy(self.network, image_NHWC, label_N)


def grey(image_NHWC: np.ndarray) -> np.ndarray:
    """A model's pictures as the classifier knows digits: uint8 [N, 16, 16, 1]."""
    if image_NHWC.shape[1:] == (classifier.SIZE, classifier.SIZE, 1):
        return image_NHWC
    small = [images.fit(x, classifier.SIZE) for x in image_NHWC]
    return np.stack([np.rint(x.mean(-1, keepdims=True)).astype(np.uint8) for x in small])


def ways(model: BaseModel) -> Iterator[SamplerRecipe]:
    """The samplers that a model is drawn with; those with classes also with guidance."""
    yield from WAYS[model.kind]
    if model.classes:
        yield from (SamplerRecipe(steps=steps, guidance=GUIDANCE) for steps in GUIDED_STEPS)


def measure(model: BaseModel, recipe: SamplerRecipe, judge: Judge, count: int, seed: int) -> dict[str, Any]:
    """Draw ``count`` pictures, labels balanced, and score them."""
    label = torch.arange(count) % model.classes if model.classes else None
    started = time.perf_counter()
    drawn = samplers.draw(model, range(count), label, recipe, seed)
    seconds = time.perf_counter() - started
    picture = grey(drawn.image_BHWC)
    distance = judge.distance(picture)
    right = None
    if label is not None and model.classes == classifier.CLASSES:
        right = round(judge.accuracy(picture, label.numpy()), 4)
    return {
        "sampler": title(model.kind, recipe),
        "calls": drawn.calls,
        "guidance": 1.0 if recipe.guidance is None else recipe.guidance,
        "frechet": round(distance, 2),
        "ratio_to_real": round(distance / judge.reference["real"], 2),
        "accuracy": right,
        "seconds_per_100": round(100 * seconds / count, 2),
    }


def title(kind: str, recipe: SamplerRecipe) -> str:
    name = sampler_name(kind, recipe)
    if name == "none":
        return "one call"
    spacing = f", {recipe.spacing}" if kind == "ddpm" else ""
    return NAMES.get(name, name) + ("" if name == "dopri5" else f" {recipe.steps}{spacing}")


def history(folder: Path) -> dict[str, Any]:
    """steps, batch and seconds of the training, from what train keeps in _run.

    The log has the mean speed since the last start, so the seconds of a run that was resumed are about right only.
    """
    if not (folder / "_run/log.jsonl").is_file():
        return {"steps": None, "batch": None, "seconds": None}
    config = json.loads((folder / "_run/config.json").read_text())
    last = json.loads((folder / "_run/log.jsonl").read_text().splitlines()[-1])
    return {
        "steps": last["step"],
        "batch": config["batch"],
        "seconds": round(last["step"] * last["seconds_per_step"]),
    }


def describe(name: str, model: BaseModel, trained: dict[str, Any]) -> dict[str, Any]:
    count = sum(p.numel() for p in model.network.parameters())
    space = "" if model.encoder is None else "latent "
    classes = f", {model.classes} classes" if model.classes else ""
    return {"name": name, "kind": f"{space}{model.kind}{classes}", "parameters": count, **trained}


def found(models: Path | None) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """(short name, name to load it by, how it was trained) of each model.

    Raises:
        ValueError: there is none.
    """
    if models is None:
        yield "digits-ddpm", "digits-ddpm", SHIPPED
        return
    folders = sorted(p.parent for p in models.glob("*/model_index.json"))
    if not folders:
        raise ValueError(f"--models {models}: a folder of base models; none is there")
    for folder in folders:
        yield folder.name, str(folder), history(folder)


def score(args: argparse.Namespace, judge: Judge, kept: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """An entry for each model, drawn anew where the weights or what they are held against have changed."""
    for short, name, trained in found(args.models):
        model = base_models.load(ModelConfig(name=name))
        key = (
            f"{facts.fingerprint(facts.read_facts(name))}-{args.count}-{args.seed}-{judge.about['accuracy']}"
        )
        key += "".join(f"-{title(model.kind, way)}" for way in ways(model))
        old: dict[str, Any] = next((e for e in kept.get("models", []) if e["name"] == short), {})
        fresh = old.get("key") != key
        if fresh:
            old = {"key": key, **describe(short, model, trained), "samples": []}
            for recipe in ways(model):
                row = measure(model, recipe, judge, args.count, args.seed)
                old["samples"].append(row)
                print(f"{short:24s} {row}", flush=True)
        if args.docs:
            path = args.docs / f"base_models/{short}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(collage.png(sheet(model, args.seed)))
        yield old


def sheet(model: BaseModel, seed: int) -> Any:
    """32 pictures, ordered by class and guided where there are classes; the most steps where there are any."""
    count = ROWS * COLUMNS
    label = torch.arange(count) * model.classes // count if model.classes else None
    recipe = SamplerRecipe(steps=GUIDED_STEPS[-1], guidance=GUIDANCE if model.classes else 1.0)
    picture = list(samplers.draw(model, range(count), label, recipe, seed).image_BHWC)
    return collage.sheet(
        [picture[i : i + COLUMNS] for i in range(0, count, COLUMNS)], tile=max(48, model.size)
    )


def duels(entries: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Each flow in 10 Euler steps against each ddpm of as many classes in 10 DDIM steps, its better spacing."""

    def best(entry: dict[str, Any], start: str) -> float:
        rows = [r for r in entry["samples"] if r["sampler"].startswith(start) and r["guidance"] == 1]
        return min(r["frechet"] for r in rows)

    for flow in entries:
        for ddpm in entries:
            if flow["kind"].startswith("flow") and ddpm["kind"] == flow["kind"].replace("flow", "ddpm"):
                euler, ddim = best(flow, "Euler 10"), best(ddpm, "DDIM 10")
                yield {
                    "flow": flow["name"],
                    "ddpm": ddpm["name"],
                    "euler_10": euler,
                    "ddim_10": ddim,
                    "ratio": round(euler / ddim, 2),
                }


def page(result: dict[str, Any]) -> str:
    """The result as Markdown: references, a table of the models, one of the samplers, the duels, the sheets."""
    r, c, h = result["reference"], result["classifier"], result["hardware"]
    lines = [
        f"{result['count']} pictures a row, seed {result['seed']}; {h['cpu']}, torch threads: {h['threads']}, torch "
        f"{h['torch']}, float32. The classifier is right on {100 * c['accuracy']:.1f} % of the real test half. FD "
        f"of as many real pictures of the other half: {r['real']} (spread {r['real_spread']} from one random choice to "
        f"the next); of all {c['train_pictures']} of them: {r['real_whole_half']}; of uniform noise: "
        f"{r['uniform_noise']}.",
        "",
        "| Model | Kind | Parameters | Steps x batch | Training | Sheet |",
        "| --- | --- | --- | --- | --- | --- |",
        *(_model_row(e) for e in result["models"]),
        "",
        "| Model | Sampler | Guidance | Network calls | FD | FD / real | Accuracy | s / 100 pictures |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
        *(_sample_row(e, row) for e in result["models"] for row in e["samples"]),
        "",
    ]
    return "\n".join([*lines, *(_duel_line(d) for d in result["duels"])]).strip()


def _model_row(e: dict[str, Any]) -> str:
    steps = f"{e['steps']} x {e['batch']}" if e["steps"] else "?"
    seconds = f"{e['seconds']} s" if e["seconds"] else "?"
    picture = f"![{e['name']}](base_models/{e['name']}.png)"
    return f"| `{e['name']}` | {e['kind']} | {e['parameters']:,} | {steps} | {seconds} | {picture} |"


def _sample_row(e: dict[str, Any], row: dict[str, Any]) -> str:
    right = "-" if row["accuracy"] is None else f"{100 * row['accuracy']:.1f} %"
    return (
        f"| `{e['name']}` | {row['sampler']} | {row['guidance']:g} | {row['calls']} | {row['frechet']:.1f} "
        f"| {row['ratio_to_real']:.2f} | {right} | {row['seconds_per_100']:.1f} |"
    )


def _duel_line(d: dict[str, Any]) -> str:
    verb = "beats" if d["ratio"] < 1 else "does not beat"
    return (
        f"- `{d['flow']}` in 10 Euler steps {verb} `{d['ddpm']}` in 10 DDIM steps (the better spacing): "
        f"FD {d['euler_10']:.1f} against {d['ddim_10']:.1f}."
    )


def write_page(docs: Path, text: str) -> None:
    """Put ``text`` between the markers of base_models.md.

    Raises:
        ValueError: they are not there.
    """
    path = docs / "base_models.md"
    before, begin, rest = path.read_text().partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"{path}: lacks the lines {BEGIN} and {END}")
    path.write_text(f"{before}{BEGIN}\n{text}\n{END}{after}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--models", type=Path, help="a folder of base models; without it the one that ships")
    parser.add_argument("--out", type=Path, help=f"default with --models: {RESULTS.name} among the results")
    parser.add_argument(
        "--docs", type=Path, help="folder of base_models.md, whose table and sheets are written"
    )
    parser.add_argument("--count", type=int, help="pictures of each sampler: 500 with --models, else 200")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    args.count = args.count or (500 if args.models else 200)
    args.out = args.out or (RESULTS if args.models else None)
    torch.set_num_threads(1)  # the classifier's layers are too small for more
    judge = Judge(args.count, args.seed)
    torch.set_num_threads(args.threads)
    try:
        run(args, judge)
    except ValueError as e:
        parser.error(str(e))


def run(args: argparse.Namespace, judge: Judge) -> None:
    print(json.dumps({"classifier": judge.about, "reference": judge.reference}), flush=True)
    kept = json.loads(args.out.read_text()) if args.out and args.out.is_file() else {}
    entries = []
    for entry in score(args, judge, kept):
        entries.append(entry)
        result = {
            "hardware": hardware(),
            "count": args.count,
            "seed": args.seed,
            "classifier": judge.about,
            "reference": judge.reference,
            "models": entries,
            "duels": list(duels(entries)),
        }
        if args.out:
            # models that are still to come keep what an earlier run found
            later = [e for e in kept.get("models", []) if e["name"] not in {x["name"] for x in entries}]
            args.out.parent.mkdir(parents=True, exist_ok=True)
            args.out.write_text(json.dumps(result | {"models": entries + later}, indent=1) + "\n")
    if args.out:
        args.out.write_text(json.dumps(result, indent=1) + "\n")
    if args.docs:
        write_page(args.docs, page(result))


if __name__ == "__main__":
    main()
