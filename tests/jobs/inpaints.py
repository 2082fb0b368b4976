"""The inpaint job on small files, in this process; files of every kind."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from flows import DIGITS, inline
from PIL import Image
from safetensors.torch import save
from sklearn.datasets import load_digits

from noiseweave.cluster import ledger, storage
from noiseweave.jobs import arguments as jobs_arguments
from noiseweave.jobs.inpaint import config as inpaint_config
from noiseweave.jobs.inpaint import input as inpaint_input
from noiseweave.jobs.inpaint import job as inpaint
from noiseweave.jobs.inpaint import plan

FAST = ["--steps", "2", "--inpaint.resample", "1", "--seed", "3"]
HARD = [*FAST, "--feather", "0"]
SAVED = {
    "PNG": {},
    "WEBP": {"lossless": True, "exact": True},
    "BMP": {},
    "JPEG": {"quality": 90},
    "TIFF": {"compression": "tiff_lzw"},
}


def drawn(output: Path, *arguments: object) -> int:
    return inline("inpaint", *DIGITS, "--output", output, *arguments)


def started(output: Path, *arguments: object):
    """(task, work, ledger) of a run."""
    config = jobs_arguments.parse("inpaint", [*DIGITS, *map(str, arguments), "--output", str(output)])
    work = inpaint_input.gather(config)
    folder, sheet = inpaint.destination(config)
    task = plan.plan(config, folder, sheet, inpaint.seed_of(config, folder))
    book = ledger.open_run(folder, inpaint.identity(task, work), config.overwrite, inpaint_config.OWNED)
    return task, work, book


def refused(capsys, output: Path, *arguments: object) -> str:
    """The one line on standard error, of a command that ends with exit code 2."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        drawn(output, *arguments)
    error = capsys.readouterr().err.splitlines()
    assert stop.value.code == 2
    assert error[-1].startswith("error: ")
    assert all("RePaint" in line for line in error[:-1])
    return error[-1]


def saved(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **(SAVED[kind] | options))
    return buffer.getvalue()


def noise(mode: str, size: tuple[int, int], seed: int = 0) -> Image.Image:
    """A random picture of a mode; size is (width, height)."""
    r, (width, height) = np.random.default_rng(seed), size
    if mode == "1":
        return Image.fromarray(r.random((height, width)) > 0.5)
    if mode == "I;16":
        return Image.fromarray(r.integers(0, 65536, (height, width), dtype=np.uint16))
    bands = len(Image.new(mode, (1, 1)).getbands())
    image = Image.frombytes(mode, size, r.integers(0, 256, height * width * bands, dtype=np.uint8).tobytes())
    if mode == "P":
        image.putpalette(r.integers(0, 256, 768, dtype=np.uint8).tobytes())
    return image


def digit(i: int) -> Image.Image:
    picture = Image.fromarray((load_digits().images[i] * 255 / 16).round().astype(np.uint8))
    return picture.resize((16, 16), Image.Resampling.BICUBIC)


def block(size: tuple[int, int], top: int, left: int, height: int, width: int) -> np.ndarray:
    out = np.zeros(size[::-1], bool)
    out[top : top + height, left : left + width] = True
    return out


def mask(hole_HW: np.ndarray, white: bool = False) -> Image.Image:
    """Black where it is repaired, or white."""
    return Image.fromarray((hole_HW == white).astype(np.uint8) * 255)


def hole(size: tuple[int, int], seed: int = 0) -> np.ndarray:
    """A random hole: blocks and single pixels. size is (width, height)."""
    r, (width, height) = np.random.default_rng(seed), size
    out = r.random((height, width)) < 0.05
    y, x = r.integers(0, height - 3), r.integers(0, width - 3)
    out[y : y + r.integers(2, height), x : x + r.integers(2, width)] = True
    return out


def pair(folder: Path, name: str, image: Image.Image, hole_HW: np.ndarray, white: bool = False) -> None:
    """folder/imgs/name, in the format of its extension, and folder/masks/(stem).png."""
    kind = {"jpg": "JPEG", "tif": "TIFF"}.get(Path(name).suffix[1:], Path(name).suffix[1:].upper())
    storage.write(str(folder / "imgs" / name), saved(image, kind))
    storage.write(str((folder / "masks" / name).with_suffix(".png")), saved(mask(hole_HW, white), "PNG"))


def block_pairs(folder: Path, count: int) -> None:
    """So many 16x16 pictures d00, d01, ... with a block missing."""
    for i in range(count):
        where = np.zeros((16, 16), bool)
        where[3 + i % 5 : 10 + i % 5, 4:11] = True
        pair(folder, f"d{i:02d}.png", noise("L", (16, 16), i), where)


def folders_of(folder: Path) -> list[str]:
    return ["--images", str(folder / "imgs"), "--masks", str(folder / "masks")]


def report(output: Path) -> dict:
    return json.loads((output / "report.json").read_text())


def quarantine(output: Path) -> dict[str, str]:
    """key -> reason."""
    lines = [json.loads(line) for line in (output / "quarantine.jsonl").read_text().splitlines()]
    assert len({line["key"] for line in lines}) == len(lines)
    return {line["key"]: line["reason"] for line in lines}


def stored(path: Path) -> np.ndarray:
    """The pixels as they are in the file, of any mode, int."""
    with Image.open(path) as image:
        return np.asarray(image).astype(int)


def lora(seed=0, channels=4, scale=1.0) -> bytes:
    """A file of kohya's for the first convolution of the small pipeline."""
    g = torch.Generator().manual_seed(seed)
    down, up = torch.randn(2, channels, 3, 3, generator=g), torch.randn(32, 2, 1, 1, generator=g)
    key = "lora_unet_conv_in"
    return save({f"{key}.lora_down.weight": down, f"{key}.lora_up.weight": scale * up})
