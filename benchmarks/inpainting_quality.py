"""Inpainting: how near repairs are to the pictures that were there, against a mean fill and OpenCV's Telea.

    python benchmarks/inpainting_quality.py
    python benchmarks/inpainting_quality.py --model out/photos --digits out/digits-half --docs docs --out FILE

Four sets: ``freeform`` and ``object`` are Places2 photos of 512 pixels with their masks, ``flowers`` are held-out
flower photos of 128 pixels with the masks of ``freeform``, ``digits`` are digits of the half that the models of
docs/base_models.md have not seen, with the holes of scripts/digits_with_holes.py. Sets whose files are not there are
left out, in one line; without --model photos have the baselines alone. In ``object`` a thing stands in the hole: who
makes such a mask wants it gone, and for that there is no truth; what is measured is whether it comes back.

--model is any model that ``noiseweave inpaint`` takes; the one of the table in docs/inpainting.md is made so:

    noiseweave pack --input PHOTOS --labels folders --size 64 --output out/packed
    noiseweave train --config configs/train-photos.yaml --input out/packed/shards --output out/photos

and that of digits, --digits, so:

    noiseweave pack --dataset digits --size 16 --shard_samples 150 --validation 0.5 --output out/half
    noiseweave train --config configs/train-digits.yaml --input out/half/shards --output out/digits-half
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
import pipelines
import torch
from digits_classifier import halves
from inversion import hardware
from PIL import Image

from noiseweave.engine.inpainting.models import for_inpainting
from noiseweave.engine.judging.picture_metrics import Lpips, psnr, ssim
from noiseweave.engine.networks import facts
from noiseweave.engine.networks.recipes import ModelConfig
from noiseweave.engine.pictures import collage, images, masks
from noiseweave.jobs.inpaint import draw, plan
from noiseweave.jobs.inpaint import input as inpaint_input
from noiseweave.jobs.inpaint.config import Config

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT / "scripts"))
import digits_with_holes  # noqa: E402

DATA = ROOT.parent / "shared/data"
RADIUS = 3  # of Telea's neighbourhood, as in OpenCV's tutorial
SEED = 1
SHIPPED = "digits-ddpm"
FLOWER = 128  # their short side
SHOWN = {"freeform": (0, 3, 6), "object": (1,), "flowers": (0, 8), "digits": (0, 1)}  # on the sheet
HEADS = ("original", "hole", "mean", "telea", "ours")


@dataclass(frozen=True, kw_only=True)
class Case:
    """A set of pictures with holes.

    Attributes:
        images, masks: folders.
        channels: of the pictures, 1 or 3.
        ways: name -> options of the job, its model among them.
    """

    name: str
    images: Path
    masks: Path
    mask_mode: Literal["black", "white"]
    channels: int
    ways: Mapping[str, Mapping[str, Any]]


def mean_fill(image_HWC: np.ndarray, hole_HW: np.ndarray) -> np.ndarray:
    """The mean colour of the known pixels in the hole; mid-grey where none is known."""
    mean = np.full(image_HWC.shape[-1], 128.0) if hole_HW.all() else image_HWC[~hole_HW].mean(0)
    return np.where(hole_HW[..., None], np.rint(mean).astype(np.uint8), image_HWC)


def telea(image_HWC: np.ndarray, hole_HW: np.ndarray) -> np.ndarray:
    """OpenCV's fast marching (Telea 2004)."""
    image = np.ascontiguousarray(image_HWC)
    filled = cv2.inpaint(image, hole_HW.astype(np.uint8) * 255, RADIUS, cv2.INPAINT_TELEA)
    return np.where(hole_HW[..., None], filled.reshape(image_HWC.shape), image_HWC)


def repaired(case: Case, options: Mapping[str, Any], folder: Path, device: str) -> dict[str, np.ndarray]:
    """name -> what the job makes of the case's pictures, read from the files that it writes."""
    config = Config(
        output=str(folder),
        images=str(case.images),
        masks=str(case.masks),
        mask_mode=case.mask_mode,
        seed=SEED,
        output_format="png",
        collage=False,
        **options,
    )
    work = inpaint_input.gather(config)
    task = plan.plan(config, str(folder), None, SEED)
    phase = draw.phase(task, device == "cuda")
    paint = phase.make_compute()
    for i in range(work.plan.length):
        unit = work.plan.unit(i)
        _, bad = phase.commit(unit, paint(phase.fetch(unit)))
        assert not bad, bad
    return {p.stem: _read(p, case.channels) for p in (folder / "restored").iterdir()}


def _read(path: Path, channels: int) -> np.ndarray:
    return images.decode(path.read_bytes(), channels)


def pairs(case: Case) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """(name, picture, hole), by name."""
    for path in sorted(case.images.iterdir()):
        truth = _read(path, case.channels)
        mask = (case.masks / f"{path.stem}.png").read_bytes()
        yield path.stem, truth, masks.hole_of(mask, case.mask_mode, truth.shape[:2])


def score(case: Case, lpips: Lpips | None, device: str) -> tuple[dict[str, Any], list[list[np.ndarray]]]:
    """The set's entry, and the rows of it that are shown."""
    with tempfile.TemporaryDirectory() as name:
        made = {w: repaired(case, o, Path(name, w), device) for w, o in case.ways.items()}
    rows: dict[str, list[list[float]]] = {}
    holes, shown = [], []
    for n, (key, truth, hole) in enumerate(pairs(case)):
        repairs = {"mean": mean_fill(truth, hole), "telea": telea(truth, hole)}
        repairs |= {way: found[key] for way, found in made.items()}
        holes.append(hole.mean())
        for way, repair in repairs.items():
            values = [psnr(truth, repair, hole), ssim(truth, repair, hole)]
            values += [lpips(truth, repair)] if lpips and case.channels == 3 else []
            rows.setdefault(way, []).append([round(v, 4) for v in values])
        if n in SHOWN[case.name]:
            shown.append(
                [truth, masks.whitened(truth, hole), *(repairs[w] for w in HEADS[2:] if w in repairs)]
            )
    result: dict[str, Any] = {
        "set": case.name,
        "pictures": len(holes),
        "hole": round(float(np.mean(holes)), 3),
    }
    return result | {"ways": {way: _means(values) for way, values in rows.items()}}, shown


def _means(values: Sequence[Sequence[float]]) -> dict[str, Any]:
    mean = dict(zip(("psnr", "ssim", "lpips"), np.mean(values, 0).round(3).tolist(), strict=False))
    return mean | {"each": values}


def cases(args: argparse.Namespace, folder: Path) -> Iterator[Case]:
    """The sets whose files are there; flowers and digits are written to ``folder``."""
    places, flowers = DATA / "inpainting", DATA / "flowers/validation"
    modes: tuple[tuple[str, Literal["black", "white"]], ...] = (("freeform", "black"), ("object", "white"))
    for name, mode in modes:
        if _there(places / name):
            yield Case(
                name=name,
                images=places / name / "images",
                masks=places / name / "masks",
                mask_mode=mode,
                channels=3,
                ways=_ways(args.model, {"ours": {}, "ours, boxes": {"crop_to_mask": True}}),
            )
    if _there(flowers) and _there(places / "freeform"):
        _write_flowers(folder / "flowers", args.flowers, sorted((places / "freeform/masks").iterdir()))
        yield _written(folder / "flowers", 3, _ways(args.model, {"ours": {}}))
    _write_digits(folder / "digits", args.count)
    ways = _ways(args.digits, {"ours": {"feather": 0}})
    if args.digits != SHIPPED:
        ways |= _ways(SHIPPED, {"ours, digits seen": {"feather": 0}})
    yield _written(folder / "digits", 1, ways)


def _ways(model: str | None, options: Mapping[str, Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    """Each way with its model; none without one."""
    return (
        {} if model is None else {way: {"model": ModelConfig(name=model), **o} for way, o in options.items()}
    )


def _there(folder: Path) -> bool:
    if not folder.is_dir():
        print(f"left out: no {folder.relative_to(DATA.parent)} beside the project")
    return folder.is_dir()


def _written(folder: Path, channels: int, ways: Mapping[str, Mapping[str, Any]]) -> Case:
    return Case(
        name=folder.name,
        images=folder / "images",
        masks=folder / "masks",
        mask_mode="black",
        channels=channels,
        ways=ways,
    )


def _write(folder: Path, n: int, picture: Image.Image, mask: Image.Image) -> None:
    for name, image in (("images", picture), ("masks", mask)):
        (folder / name).mkdir(parents=True, exist_ok=True)
        image.save(folder / name / f"{n:03d}.png")


def _write_flowers(folder: Path, count: int, holes: Sequence[Path]) -> None:
    for n, picture in enumerate(pipelines.pictures(count, FLOWER)):
        mask = Image.open(holes[n % len(holes)]).convert("L")
        _write(folder, n, Image.fromarray(picture), mask.resize((FLOWER, FLOWER), Image.Resampling.NEAREST))


def _write_digits(folder: Path, count: int) -> None:
    side = digits_with_holes.SIDE
    for n, picture in enumerate(halves()[1].image_NHWC[:count, :, :, 0]):
        large = Image.fromarray(picture).resize((side, side), Image.Resampling.BICUBIC)
        _write(folder, n, large, digits_with_holes.hole(str(n)))


def table(results: Sequence[Mapping[str, Any]]) -> str:
    lines = [
        "| Set | Pictures | Hole | Way | PSNR, dB | SSIM | LPIPS |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for r in results:
        for way, m in r["ways"].items():
            lpips = f"{m['lpips']:.3f}" if "lpips" in m else "-"
            about = f"{r['set']} | {r['pictures']} | {r['hole']:.0%} | {way}"
            lines.append(f"| {about} | {m['psnr']:.1f} | {m['ssim']:.3f} | {lpips} |")
    return "\n".join(lines)


def describe(name: str | None) -> dict[str, Any] | None:
    """What a model is and how it was trained, as far as its folder tells."""
    if name is None:
        return None
    model = facts.read_facts(name)
    about = for_inpainting(model)
    known: dict[str, Any] = {"kind": about.kind, "size": about.size, "repaint": about.repaint}
    log = Path(name) / "_run/log.jsonl"
    if log.is_file():
        last = json.loads(log.read_text().splitlines()[-1])
        known |= {"steps": last["step"], "loss": round(last["loss"], 4)}
    return known | {"fingerprint": facts.fingerprint(model)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", help="of photographs: a folder or hub id")
    parser.add_argument("--digits", default=SHIPPED, help="of digits; the default has seen both halves")
    parser.add_argument("--out", type=Path, help="the results, JSON")
    parser.add_argument(
        "--docs", type=Path, help="folder that inpainting.png, a sheet of examples, is written to"
    )
    parser.add_argument("--count", type=int, default=48, help="digits")
    parser.add_argument("--flowers", type=int, default=20)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    try:
        run(args)
    except ValueError as e:
        parser.error(str(e))


def run(args: argparse.Namespace) -> None:
    about = {name: describe(getattr(args, name)) for name in ("model", "digits")}
    features = DATA / "weights/lpips/alexnet_features.safetensors"
    lpips = Lpips(features) if features.is_file() else None
    results, rows = [], []
    with tempfile.TemporaryDirectory() as folder:
        for case in cases(args, Path(folder)):
            result, shown = score(case, lpips, args.device)
            results.append(result)
            rows += shown
    print(table(results))
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(
            json.dumps({"hardware": hardware(), "seed": SEED} | about | {"sets": results}) + "\n"
        )
    if args.docs:
        page = collage.sheet(rows, heads=HEADS, tile=128).quantize(256)  # a palette: a third of the bytes
        (args.docs / "inpainting.png").write_bytes(collage.png(page))


if __name__ == "__main__":
    main()
