"""The fuse job on small pictures, in this process."""

import io

import numpy as np
import pytest
from flows import DIGITS
from PIL import Image

from noiseweave.jobs import cli

QUICK = ("--inversion.num_steps", "8", "--inversion.skip", "1")


def png(image) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return buffer.getvalue()


def picture(path) -> np.ndarray:
    return np.asarray(Image.open(path))


def fused(*arguments: str) -> None:
    assert cli.main(["fuse", *DIGITS, *arguments, *QUICK]) == 0


def failed(capsys, *arguments: str) -> str:
    with pytest.raises(SystemExit) as stop:
        cli.main(["fuse", *DIGITS, *arguments])
    error = capsys.readouterr().err
    assert stop.value.code == 2
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    return error
