import json
import shutil

import numpy as np
import pytest
import small_pipeline
from flows import inline
from fusing import png
from inpaints import block, digit, pair
from PIL import Image
from sklearn.datasets import load_digits


@pytest.fixture
def digits(tmp_path, monkeypatch):
    """a.png, b.png and c.png in the current folder: 8x8 digits, to be fitted to 16x16."""
    monkeypatch.chdir(tmp_path)
    for name, image in zip("abc", load_digits().images[[3, 8, 5]], strict=True):
        (tmp_path / f"{name}.png").write_bytes(png((image * 255 / 16).round().astype(np.uint8)))
    return tmp_path


@pytest.fixture
def photos(tmp_path, monkeypatch):
    """a.png, b.png and c.png in the current folder: smooth colours, 32 x 32."""
    monkeypatch.chdir(tmp_path)
    for i, name in enumerate("abc"):
        coarse = np.random.default_rng(i).integers(0, 255, (3, 3, 3), np.uint8)
        (tmp_path / f"{name}.png").write_bytes(png(np.asarray(Image.fromarray(coarse).resize((32, 32), 3))))
    return tmp_path


@pytest.fixture(scope="session")
def damaged(tmp_path_factory):
    """Five digits in imgs with a hole each, two of them in a sub-folder."""
    folder = tmp_path_factory.mktemp("digits")
    for i in range(5):
        name = f"{'sub/' if i > 2 else ''}d{i}.png"
        pair(folder, name, digit(i), block((16, 16), 3 + i, 4, 6, 7))
    return folder


@pytest.fixture(scope="session")
def hole_folder(kl_folder, tmp_path_factory):
    """kl_folder with a UNet made for inpainting. Not to be changed: copy it."""
    folder = shutil.copytree(kl_folder, tmp_path_factory.mktemp("hole") / "small")
    return small_pipeline.for_inpainting(folder)


@pytest.fixture
def evaluate(tmp_path):
    """(arguments) -> the report of an evaluate run in this process."""

    def run(*arguments, output=tmp_path / "out"):
        assert inline("evaluate", "--output", output, *arguments) == 0
        return json.loads((output / "report.json").read_text())

    return run
