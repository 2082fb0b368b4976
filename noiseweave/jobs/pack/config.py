"""What a user may say of pack."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from noiseweave.engine.checks import check
from noiseweave.engine.identity import ASIDE

USUAL = {
    "input and output": ("input", "dataset", "format", "output", "overwrite"),
    "what it does": ("size", "image_format", "labels", "keep_labels", "validation", "shard_samples"),
}
ALIASES = {"--out_dir": "--output"}

Format = Literal["auto", "folder", "lmdb", "imagefolder", "shards"]


@dataclass(frozen=True, kw_only=True)
class Config:
    """Pictures -> shards of {key}.{jpg|png|...}, .mask.png, .cls, .txt and .json.

    Args:
        output: folder or URL for shards/, classes.json, report.json, quarantine.jsonl and, with a validation
            share, validation/.
        input: local folder of pictures (docs/data.md), each with an optional .txt caption and .json object of the
            same stem. One sub-folder a class, or all pictures directly in it without labels.
            Or what format says.
        format: lmdb is a folder with data.mdb (key -> encoded picture, no labels), or one that holds such
            folders, one class each. imagefolder is what the Hugging Face datasets library reads as one.
            shards is a folder, glob, brace pattern or URL of .tar shards, whose keys and members are kept.
            auto looks for data.mdb, .tar files and metadata.csv, .jsonl or .parquet, in this order, and
            takes the rest for a folder of pictures; .tar files beside pictures are refused.
        mask_suffix: a picture that lies beside another, is called as it and then so, is its mask (x.mask.png of
            x.jpg, x_mask.png with _mask), and not a sample.
        dataset: digits packs scikit-learn's 1797 grey digits (8x8 unless size is given) in place of an input.
        split: which split of an image folder is read (null is train), or which LMDBs of a folder of them:
            train takes those called NAME_train_lmdb.
        labels: folders numbers the sorted sub-folders that hold pictures, or takes the labels that the input
            has (sorted names are numbered too); none looks at no label and writes no .cls (a label in the .json
            of an input shard stays).
        keep_labels: only samples of these classes, by number or by name, null for all.
        renumber: number the kept classes anew, 0 for the first of keep_labels and so on; else they keep
            their numbers and classes.json stays whole.
        size: side in pixels; each picture is resized, its centre square kept; null keeps the bytes. Other
            pictures of a sample (.mask.png) are cut alike, by nearest neighbour, to PNG; they must have the
            picture's aspect.
        image_format: format of pictures that are encoded anew; null is png.
        validation: share of the samples that goes to validation/ instead of shards/, 0 up to below 1.
        split_by: key decides by a hash of seed and key: a key is on the same side whatever else is packed.
            content decides by a hash of the encoded picture, so equal files never land on both sides.
        seed: of the validation split.
        shard_samples: samples in a shard.
        shard_mb: a shard is closed early when it holds this many megabytes, which bounds the memory.
        follow_links: read pictures that a symbolic link brings in from outside the input folder; otherwise
            they are quarantined. Links to folders are never followed.
        threads: pictures decoded at the same time; 0 picks the number of CPUs, at most 8.
        overwrite: start anew in an output folder that holds another packing.
    """

    output: str = field(metadata=ASIDE)
    input: str | None = None
    format: Format = "auto"
    mask_suffix: str = ".mask"
    dataset: Literal["digits"] | None = None
    split: str | None = None
    labels: Literal["folders", "none"] = "folders"
    keep_labels: tuple[int | str, ...] | None = None
    renumber: bool = False
    size: int | None = None
    image_format: Literal["png", "jpg", "webp"] | None = None
    validation: float = 0.0
    split_by: Literal["key", "content"] = "key"
    seed: int = 0
    shard_samples: int = 1000
    shard_mb: int = 512
    follow_links: bool = False
    threads: int = field(default=0, metadata=ASIDE)
    overwrite: bool = field(default=False, metadata=ASIDE)

    def __post_init__(self) -> None:
        check(bool(self.output.strip()), "output", self.output, "a folder or URL")
        self._check_input()
        self._check_labels()
        check(self.size is None or 1 <= self.size <= 8192, "size", self.size, "1 to 8192, or null")
        encodes = self.size is not None or self.dataset is not None
        check(self.image_format is None or encodes, "image_format", self.image_format, "needs a size")
        check(0 <= self.validation < 1, "validation", self.validation, "a share from 0 to below 1")
        check(self.shard_samples >= 1, "shard_samples", self.shard_samples, "1 or more")
        check(self.shard_mb >= 1, "shard_mb", self.shard_mb, "1 or more")
        check(self.threads >= 0, "threads", self.threads, "0 (automatic) or more")

    def _check_input(self) -> None:
        either = f"either input or dataset, not both or none (dataset={self.dataset!r})"
        check((self.input is None) != (self.dataset is None), "input", self.input, either)
        if self.input is None:
            check(self.format == "auto", "format", self.format, "needs an input")
            check(self.split is None, "split", self.split, "needs an input with splits")
            return
        check(bool(self.input.strip()), "input", self.input, "a folder of pictures")
        ok = bool(self.mask_suffix) and "/" not in self.mask_suffix
        check(ok, "mask_suffix", self.mask_suffix, "the end of a file's name, such as .mask or _mask")
        remote = "://" in self.input and self.format not in ("auto", "shards")
        check(not remote, "input", self.input, f"a local folder for format {self.format}")
        takes = ("auto", "lmdb", "imagefolder")
        check(self.split is None or self.format in takes, "split", self.split, f"needs one of {takes[1:]}")
        check(self.split is None or bool(self.split.strip()), "split", self.split, "a name, or null")

    def _check_labels(self) -> None:
        keep = self.keep_labels
        check(not self.renumber or keep is not None, "renumber", self.renumber, "needs keep_labels")
        if keep is not None:
            numbers = all(label >= 0 if isinstance(label, int) else bool(label) for label in keep)
            once = bool(keep) and len(set(keep)) == len(keep)
            check(once and numbers, "keep_labels", list(keep), "class names, or numbers from 0 on, each once")
            check(self.labels != "none", "keep_labels", list(keep), "needs labels")

    @property
    def kept(self) -> tuple[int, ...] | None:
        """The numbers of ``keep_labels``, whose names are looked up by now; None for all."""
        if self.keep_labels is None:
            return None
        assert all(isinstance(label, int) for label in self.keep_labels), self.keep_labels
        return tuple(label for label in self.keep_labels if isinstance(label, int))
