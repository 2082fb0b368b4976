"""Where a model's files are: a shipped one, a folder, or a hub's copy."""

from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from noiseweave import models
from noiseweave.engine.records import Json


def find(name: str, wanted: Sequence[str]) -> Path:
    """A shipped model's name, a folder or a hub id -> the folder with its files.

    Args:
        wanted: patterns of the files to download where the name is a hub id.

    Raises:
        ValueError: there is none, and how to get it.
    """
    folder = Path(models.resolve(name)).expanduser()
    if folder.is_dir():
        return folder
    check_hub_id(f"model {name!r}", name)
    return download(f"model {name!r}", name, wanted)


def check_hub_id(what: str, name: str) -> None:
    """Raise ValueError, one line that begins with ``what``, where a name is a path here and so no hub's id.

    A hub's id is one name, or two with a slash between them; where a folder of the first is here, a path is meant.
    """
    path = Path(name).expanduser()
    if path.is_file():
        raise ValueError(
            f"{what}: a file; needed is a folder, which diffusers makes of a checkpoint: "
            "StableDiffusionPipeline.from_single_file(FILE).save_pretrained(FOLDER)"
        )
    parts = path.parts
    if (
        path.is_absolute()
        or name.startswith((".", "~"))
        or len(parts) > 2
        or (parts[1:] and Path(parts[0]).is_dir())
    ):
        raise ValueError(f"{what}: no such folder, not shipped, and a path is not asked of the hub")


def download(what: str, name: str, wanted: Sequence[str]) -> Path:
    """The hub's files of these patterns: a copy that is here, or brought now.

    Args:
        what: begins the line of an error.

    Raises:
        ValueError: they are not to be had, and how to get them.
    """
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, allow_patterns=list(wanted)))
    except Exception as e:
        raise ValueError(
            f"{what}: no such folder, not shipped, and not to be had from the hub "
            f"({type(e).__name__}); on a machine with network run `hf download {name}`, or give a folder"
            + "".join(
                f"; did you mean {near}?" for near in difflib.get_close_matches(name, models.shipped(), 1)
            )
        ) from None


def read(name: str, folder: Path, file: str) -> Json:
    """A JSON file of a model.

    Raises:
        ValueError: it is missing or broken.
    """
    try:
        if (folder / file).exists() and not (folder / file).is_file():
            raise ValueError("not a regular file")
        value = json.loads((folder / file).read_text())
    except FileNotFoundError:
        raise ValueError(f"model {name!r}: {file} is missing in {folder}") from None
    except (ValueError, RecursionError) as e:
        raise ValueError(f"model {name!r}: {folder / file} is no JSON ({e})") from None
    if not isinstance(value, dict):
        raise ValueError(f"model {name!r}: {folder / file} holds no JSON object")
    return value


def variant(folder: Path) -> str | None:
    """diffusers' and transformers' ``variant`` for a model's folder: fp16 where it holds no other safetensors.

    A pipeline's folder is asked part by part: one such part is enough, the others are read as they are.
    """
    parts = [folder, *(f for f in folder.iterdir() if f.is_dir())] if folder.is_dir() else []
    return "fp16" if any(map(_half_alone, parts)) else None


def _half_alone(folder: Path) -> bool:
    names = [f.name.split(".") for f in folder.glob("*.safetensors")]
    half = [name for name in names if len(name) == 3 and name[1].startswith("fp16")]
    return bool(half) and not any(len(name) == 2 for name in names)


@contextmanager
def one_line(name: str, folder: Path) -> Iterator[None]:
    """Whatever a library raises while it opens a model -> ValueError, one line."""
    try:
        yield
    except Exception as e:
        raise ValueError(f"model {name!r} in {folder}: {' '.join(str(e).split())[:300]}") from None


def quiet() -> None:
    """diffusers' and transformers' warnings about their own config files say nothing to a user."""
    import diffusers.utils.logging
    import transformers.utils.logging

    for logging in (diffusers.utils.logging, transformers.utils.logging):
        logging.set_verbosity_error()
        logging.disable_progress_bar()


def hash_files(files: Iterable[Path]) -> str:
    """SHA-256 over names and contents (16 hex digits): the same files, the same model."""
    digest = hashlib.sha256()
    for path in files:
        digest.update(path.name.encode())
        with path.open("rb") as f:
            digest.update(hashlib.file_digest(f, "sha256").digest())
    return digest.hexdigest()[:16]
