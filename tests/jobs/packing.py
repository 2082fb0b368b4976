"""Pictures on the disk and what pack made of them, for the tests of its sources."""

import hashlib
import io
import json
import tarfile
from pathlib import Path

import webdataset
from PIL import Image

from noiseweave.cluster import shards
from noiseweave.jobs.pack import config
from noiseweave.jobs.pack import job as pack


def picture(n: int = 0, format: str = "PNG", size: tuple[int, int] = (12, 9)) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, (n * 7 % 256, n % 256, 90)).save(buffer, format)
    return buffer.getvalue()


def fill(root: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return root


def packed(folder: Path | None, output: Path, **options) -> tuple[dict, dict, dict]:
    """Pack; samples by source, quarantine as source -> reason, report."""
    code = pack.run(config.Config(input=folder and str(folder), output=str(output), **options))
    samples = {}
    for shard in sorted((output / "shards").glob("*.tar")):
        located, bad = shards.locate(str(shard))
        assert bad == []
        for sample in webdataset.WebDataset(str(shard), shardshuffle=False):
            sample["__location__"] = next(x for x in located if x.key == sample["__key__"])
            samples[json.loads(sample["json"])["source"]] = sample
    lines = [json.loads(s) for s in (output / "quarantine.jsonl").read_text().splitlines()]
    report = json.loads((output / "report.json").read_text())
    assert report["samples"] == len(samples)
    assert sum(report["quarantined"].values()) == len(lines)
    assert code == (0 if samples else 1)
    return samples, {e["source"]: e["reason"] for e in lines}, report


def contents(output: Path) -> dict[str, str]:
    return {
        str(p.relative_to(output)): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in output.rglob("*")
        if p.is_file()
    }


def by_key(folder: Path) -> dict[str, dict[str, bytes]]:
    """Every member of every sample in a folder of shards, as tarfile reads them: key -> extension -> bytes."""
    found: dict[str, dict[str, bytes]] = {}
    for shard in sorted(folder.glob("*.tar")):
        with tarfile.open(shard) as tar:
            for info in tar:
                key, _, extension = info.name.partition(".")
                assert extension not in found.setdefault(key, {})
                found[key][extension] = tar.extractfile(info).read()
    return found


def quarantine(output: Path) -> dict[str, str]:
    lines = [json.loads(s) for s in (output / "quarantine.jsonl").read_text().splitlines()]
    return {e["source"]: e["reason"] for e in lines}


def run(source: Path | str | None, output: Path, **options) -> int:
    return pack.run(config.Config(input=source and str(source), output=str(output), **options))
