"""A model's LoRA files: found, hashed and held against the model before anything runs; read again by each worker.

All jobs do so with three calls: ``settled`` where the job begins, ``adding`` where a worker loads the model, ``record``
in what is written down. Only paths and hashes travel to the workers, not the contents, which may be large.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from noiseweave.cluster import storage
from noiseweave.engine.checks import check
from noiseweave.engine.networks.recipes import ModelConfig
from noiseweave.engine.records import JsonMapping

if TYPE_CHECKING:
    from noiseweave.engine.networks.protocols import Adding

USUAL = "pytorch_lora_weights.safetensors"  # what diffusers calls it in a folder
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
LIMIT = 4 << 30  # bytes; the largest LoRAs for SDXL stay below 2 GiB


def settled(model: ModelConfig) -> ModelConfig:
    """A model whose LoRA files were looked at: with absolute paths or URLs, a weight and a hash for each.

    Workers read them as they read the model's folder. A model without LoRA files comes back as it is.

    Raises:
        ValueError: one line: there is none, it is no LoRA of a known format, made for another model, or another file
            than ``lora_sha256`` says; or the model takes none.
    """
    if not model.loras:
        return model
    from noiseweave.engine.lora import weights
    from noiseweave.engine.networks.facts import read_facts

    facts = read_facts(model.name)
    base = "null: a base model takes none, a pipeline that reads texts does"
    check(facts.conditioning == "text", "model.lora", model.lora, base)
    layers = weights.layers_in(facts.folder)
    paths, hashes = [], []
    for given, wanted in zip(model.loras, model.lora_sha256 or (None,) * len(model.loras), strict=True):
        path = located(given)
        data = _content(given, path)
        sha256 = hashlib.sha256(data).hexdigest()
        check(wanted in (None, sha256), "model.lora_sha256", wanted, f"{sha256}, which {given} has")
        weights.read(weights.Lora(name=given, data=data), layers)
        paths.append(path)
        hashes.append(sha256)
    return replace(model, lora=tuple(paths), lora_weight=model.lora_weights, lora_sha256=tuple(hashes))


def adding(model: ModelConfig) -> Adding | None:
    """What a loader of a settled model takes: it adds the files to a pipeline. None where there are none.

    Raises:
        ValueError: a file cannot be read, or is another one than when the run began.
    """
    if not model.loras:
        return None
    from noiseweave.engine.lora import weights

    assert model.lora_sha256 is not None, "settled first"
    named = zip(model.loras, model.lora_sha256, model.lora_weights, strict=True)
    files = [weights.Lora(name=path, data=_same(path, sha256), weight=w) for path, sha256, w in named]
    return partial(weights.add, loras=files)


def record(model: ModelConfig) -> list[JsonMapping]:
    """What lineages and reports say of a settled model's LoRA files; [] where there are none."""
    named = zip(model.loras, model.lora_sha256 or (), model.lora_weights, strict=True)
    return [{"file": os.path.basename(p), "sha256": sha256, "weight": w} for p, sha256, w in named]


def _same(path: str, sha256: str) -> bytes:
    data = _content(path, path)
    if hashlib.sha256(data).hexdigest() != sha256:
        raise ValueError(f"lora {path!r}: the file has changed since the run began")
    return data


def located(given: str) -> str:
    """A file, or a folder with one -> the file.

    Raises:
        ValueError: there is none, there are several, or it is a pickle.
    """
    path = storage.absolute(given)
    try:
        names = storage.names_in(path) if storage.is_folder(path) else None
        there = names is not None or storage.exists(path)
    except Exception as e:  # each object store has its own errors
        raise ValueError(f"lora {given!r}: cannot be read: {e}") from None
    if not there:
        raise ValueError(
            f"lora {given!r}: no such file or folder; one on the hub is brought by `hf download ID --local-dir FOLDER`"
        )
    if names is None:
        _refuse_pickle(given, path)
        return path
    fitting = [USUAL] if USUAL in names else [n for n in names if n.endswith(".safetensors")]
    if len(fitting) == 1:
        return storage.join(path, fitting[0])
    for name in names:
        _refuse_pickle(given, name)
    raise ValueError(
        f"lora {given!r}: a folder with {len(fitting)} .safetensors files; give one file"
        + (f", such as {fitting[0]}" if fitting else "")
    )


def _refuse_pickle(given: str, path: str) -> None:
    if path.lower().endswith(PICKLES):
        raise ValueError(
            f"lora {given!r}: {os.path.basename(path)} is a pickle, which can run code and is never opened; save it as "
            ".safetensors"
        )


def _content(given: str, path: str) -> bytes:
    try:
        size = storage.size_of(path)
        if size > LIMIT:
            raise ValueError(f"{size} bytes are no LoRA's, at most {LIMIT}")
        return storage.read(path)
    except Exception as e:
        raise ValueError(f"lora {given!r}: cannot be read: {' '.join(str(e).split())[:300]}") from None
