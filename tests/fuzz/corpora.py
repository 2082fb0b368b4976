"""Small whole inputs and output folders, as users and jobs leave them: what mutations begin with."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path

import numpy as np
import reports
import safetensors.numpy
from PIL import Image, ImageCms

from noiseweave import models
from noiseweave.cluster import arrays, ledger, shards, storage
from noiseweave.cluster.units import UnitReport
from noiseweave.engine.records import Location
from noiseweave.jobs.augment import index


def picture(i: int, size: tuple[int, int] = (24, 20)) -> Image.Image:
    return Image.fromarray(np.random.default_rng(i).integers(0, 256, (*size, 3), np.uint8))


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def pictures(folder: Path) -> None:
    """A file of every kind that is read, each with something of its own."""
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    exif = Image.Exif()
    exif[0x0112] = 6
    whole = picture(0)
    files = {
        "rgb.png": encoded(whole, "PNG", icc_profile=profile),
        "grey.png": encoded(whole.convert("L"), "PNG"),
        "palette.png": encoded(whole.convert("P"), "PNG", transparency=3),
        "alpha.png": encoded(whole.convert("RGBA"), "PNG"),
        "deep.png": encoded(Image.fromarray(np.arange(600, dtype=np.uint16).reshape(24, 25)), "PNG"),
        "bits.png": encoded(whole.convert("1"), "PNG"),
        "turned.jpg": encoded(whole, "JPEG", exif=exif, icc_profile=profile),
        "cmyk.jpg": encoded(whole.convert("CMYK"), "JPEG"),
        "lossy.webp": encoded(whole, "WEBP", exif=exif),
        "exact.webp": encoded(whole.convert("RGBA"), "WEBP", lossless=True),
        "plain.bmp": encoded(whole, "BMP"),
        "palette.bmp": encoded(whole.convert("P"), "BMP"),
        "lzw.tif": encoded(whole, "TIFF", compression="tiff_lzw", exif=exif),
        "deep.tif": encoded(Image.fromarray(np.arange(600, dtype=np.uint16).reshape(24, 25)), "TIFF"),
    }
    for name, data in files.items():
        storage.write(str(folder / name), data)


def mask(i: int, size: tuple[int, int] = (24, 20)) -> bytes:
    hole = np.zeros(size, np.uint8)
    hole[4 : 10 + i, 3:12] = 255
    return encoded(Image.fromarray(255 - hole), "PNG")


def samples(count: int = 4, first: int = 0) -> list[tuple[str, dict[str, bytes]]]:
    """Samples with a picture, a mask, a label, words and a lineage."""
    rows = []
    for i in range(first, first + count):
        about = reports.lineage(i, 4) | {"caption": "x", "label": i % 3}
        sides = {"cls": b"%d" % (i % 3), "txt": b"a thing", "json": json.dumps(about).encode()}
        rows.append((f"d{i:03d}", {"png": encoded(picture(i), "PNG"), "mask.png": mask(i % 4), **sides}))
    return rows


def tars(folder: Path) -> None:
    for i in range(2):
        storage.write(str(folder / "in" / f"a-{i}.tar"), shards.pack(samples(first=4 * i)))
    storage.write_json(str(folder / "classes.json"), ["zero", "one", "two"])


def masked(folder: Path) -> None:
    """imgs/ and masks/, with words beside some: what inpaint and lora read."""
    kinds = ("PNG", "JPEG", "WEBP", "BMP", "TIFF")
    for i, kind in enumerate(kinds):
        ending = {"JPEG": "jpg", "TIFF": "tif"}.get(kind, kind.lower())
        storage.write(str(folder / "imgs" / f"p{i}.{ending}"), encoded(picture(i), kind))
        storage.write(str(folder / "masks" / f"p{i}.png"), mask(i % 4))
        storage.write(str(folder / "imgs" / f"p{i}.txt"), b"a face of clay")


def classes(folder: Path) -> None:
    """A folder a class, with captions and lineages: what pack reads."""
    for i in range(4):
        stem = str(folder / "in" / f"class {i % 2}" / f"p{i}")
        storage.write(f"{stem}.png", encoded(picture(i), "PNG"))
        storage.write(f"{stem}.txt", b"words")
        storage.write(f"{stem}.json", json.dumps({"source": "x", "label": 3}).encode())


def imagefolder(folder: Path) -> None:
    rows = []
    for i in range(3):
        storage.write(str(folder / "in" / f"p{i}.png"), encoded(picture(i), "PNG"))
        rows.append(json.dumps({"file_name": f"p{i}.png", "text": "words", "label": i % 2, "more": [1.5]}))
    storage.write(str(folder / "in" / "metadata.jsonl"), "".join(f"{row}\n" for row in rows).encode())


def databases(folder: Path) -> None:
    import lmdb

    for name in ("cat_train_lmdb", "dog_train_lmdb"):
        (folder / "in" / name).mkdir(parents=True)
        with lmdb.open(str(folder / "in" / name), map_size=1 << 20) as env, env.begin(write=True) as out:
            for i in range(3):
                out.put(b"key-%d" % i, encoded(picture(i), "PNG"))


def run_of(output: str, job: str, phases: tuple[str, ...]) -> ledger.Ledger:
    """A run's own folder with a marker or two of each phase."""
    book = ledger.open_run(output, {"job": job, "seed": 3, "model": {"name": "digits-ddpm"}})
    for phase in phases:
        for i in range(2):
            spent = {"fetch": 1.0, "compute": 2.0, "commit": 0.5}
            done = UnitReport(id=f"{i:06d}", produced=3, seconds=3.5, spent=spent, worker="red/1")
            book.mark(phase, done, [])
    return book


def augmented(folder: Path) -> None:
    """An output of augment with its page's sources: shards, rejected ones, markers, the index of its pictures."""
    output = reports.build(folder, 30, parents=6, rejected=4)
    book = ledger.Ledger(output=output)
    where = [
        Location(shard=f"{folder}/in/a.tar", key=e.key, offset=m.offset, size=m.size, label=0)
        for e in shards.index(str(folder / "in" / "a.tar"))[0]
        for m in e.members.values()
    ]
    storage.write(book.path("index", "000000.parquet"), index.parquet(where))
    storage.write(f"{output}/shards/original-000000.tar", shards.pack(samples(2)))
    storage.write_json(book.path("reference.json"), [str(folder / "in" / "a.tar")])


def inpainted(folder: Path) -> None:
    masked(folder)
    output = str(folder / "out")
    run_of(output, "inpaint", ("inpaint",))
    for i in range(3):
        about = {"files": [f"restored/p{i}.png"], "picture": f"p{i}.png", "mask": f"p{i}.png", "seeds": [3]}
        about |= {"method": "repaint", "prompt": "clay", "mask_mode": "black", "copied": False}
        storage.write(f"{output}/restored/p{i}.png", encoded(picture(i), "PNG"))
        storage.write_json(f"{output}/lineage/p{i}.json", about)
    storage.write(
        f"{output}/quarantine.jsonl", b'{"shard": "", "key": "p4", "reason": "no_mask", "detail": ""}\n'
    )
    config = {"images": str(folder / "imgs"), "masks": str(folder / "masks"), "seed": 3}
    read_from = {"images": str(folder / "imgs"), "masks": str(folder / "masks")}
    report = {
        "config": config,
        "read_from": read_from,
        "pictures": 5,
        "copied": 1,
        "seconds": 1.5,
        "failed": {},
    }
    storage.write_json(f"{output}/report.json", report | {"quarantined": {"no_mask": 1}})


def sampled(folder: Path) -> None:
    output = str(folder / "out")
    run_of(output, "sample", ("sample",))
    storage.write(f"{output}/shards/sample-000000.tar", shards.pack(samples()))
    storage.write(f"{output}/images/01/x.png", encoded(picture(0), "PNG"))
    storage.write(f"{output}/images/y.png", encoded(picture(1), "PNG"))
    report = {"config": {"seed": 3}, "network_evaluations_per_picture": 20, "sampler": "ddim", "seconds": 2.0}
    storage.write_json(f"{output}/report.json", report | {"failed": {"000003": "ValueError: x"}})


def fused(folder: Path) -> None:
    output = str(folder / "out")
    for name in ("fused.png", "input-0.png", "input-1.png", "sheet.png", "sweep.png"):
        storage.write(f"{output}/{name}", encoded(picture(0), "PNG"))
    inputs = [{"path": f"p{i}.png", "sha256": "0" * 64, "weight": 0.5, "psnr": 100.5} for i in range(2)]
    about = {
        "inputs": inputs,
        "mode": "linear",
        "seed": 0,
        "edit": None,
        "files": ["fused.png"],
        "sweep": None,
    }
    storage.write_json(f"{output}/fuse.json", about | {"prompt": {"source": ["a"], "target": ["b"]}})


def weights(folder: Path) -> None:
    """LoRA weights, a noise map, an array of features, a set's statistics."""
    rng = np.random.default_rng(0)
    a, b = (rng.normal(size=shape).astype(np.float32) for shape in ((2, 8), (8, 2)))
    names = ("unet.mid.to_q.lora_A.weight", "unet.mid.to_q.lora_B.weight", "unet.mid.to_q.alpha")
    about = {"lora_adapter_metadata": json.dumps({"unet.lora_alpha": 2, "unet.alpha_pattern": {"to_q": 3}})}
    tensors = dict(zip(names, (a, b, np.float32([2.0])), strict=True))
    storage.write(str(folder / "lora.safetensors"), safetensors.numpy.save(tensors, about))
    statistics = io.BytesIO()
    np.savez_compressed(
        statistics, mu=a[0], sigma=np.eye(8), n=np.array(4), space=np.array('{"name": "pixels"}')
    )
    storage.write(str(folder / "set.npz"), statistics.getvalue())
    storage.write(str(folder / "array.npy"), arrays.npy(a))


def configs(folder: Path) -> None:
    texts = {
        "augment": "input: in\noutput: out\nseed: 3\nmodel: {name: digits-ddpm}\ninversion:\n"
        "  num_steps: 6\n  skip: 1\npairing:\n  threshold: 0.7\nfusion:\n  mode: [linear, cross_fade]\n  ratio: 0.3\n",
        "inpaint": "images: imgs\nmasks: masks\noutput: out\nseed: 1\nmodel:\n  name: digits-ddpm\n"
        "  lora: [a, b]\n  lora_weight: [1, 0.5]\ninpaint: {steps: 3}\nprompt: 'clay'\n",
        "lora": "input: in\noutput: out\nmodel: {name: sd}\ndata:\n  size: 64\n  template: 'a {caption}'\nsteps: 3\n",
        "sample": "output: out\nmodel: {name: digits-ddpm}\ncount: 3\nsampler: {name: ddim, steps: 5}\n",
        "pack": "input: in\noutput: out\nsize: 16\nkeep_labels: [0, 2]\nrenumber: true\nvalidation: 0.1\n",
        "evaluate": "input: in\noutput: out\nreference: ref\nfeatures: {name: pixels, size: 8}\nmetrics: [fd, kid]\n",
        "train": "input: in\noutput: out\nsteps: 3\nmodel: {kind: ddpm, size: 16}\noptimizer: {lr: 0.001}\n",
        "fuse": "images: [a.png, b.png]\noutput: out\nmodel: {name: digits-ddpm}\nfusion: {ratio: 0.5}\n",
        "forget": "inputs: [in]\nkey: a\n",
        "report": "folder: out\npictures: 10\n",
    }
    for job, text in texts.items():
        storage.write(str(folder / f"{job}.yaml"), text.encode())


def model(folder: Path) -> None:
    shutil.copytree(models.resolve("digits-ddpm"), folder / "model")
