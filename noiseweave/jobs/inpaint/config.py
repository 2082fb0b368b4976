"""What a user may say of inpaint."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Literal

from noiseweave.cluster.session import ClusterConfig
from noiseweave.engine.checks import check
from noiseweave.engine.identity import ASIDE
from noiseweave.engine.inpainting.recipes import InpaintRecipe
from noiseweave.engine.networks.recipes import UNNAMED, ModelConfig, check_named

USUAL = {
    "input and output": ("images", "masks", "image", "mask", "input", "output"),
    "what it does": ("prompt", "mask_mode", "rows"),
    "model": ("model.name", "model.lora", "inpaint.steps"),
    "where it runs": ("cluster.address", "cluster.workers"),
}
# short spellings of options, those of the project that this job follows among them
ALIASES = {
    "--model": "--model.name",
    "--lora": "--model.lora",
    "--lora_weight": "--model.lora_weight",
    "--steps": "--inpaint.steps",
    "--guidance": "--inpaint.guidance",
    "--strength": "--inpaint.strength",
    "--batch_imgs_dir": "--images",
    "--batch_masks_dir": "--masks",
    "--output_dir": "--output",
}
OWNED = (
    "restored",
    "collages",
    "lineage",
    "shards",
    "report.html",
    "report.json",
    "quarantine.jsonl",
    "classes.json",
)
SHEETS = (".png", ".jpg", ".jpeg", ".webp")


@dataclass(frozen=True, kw_only=True)
class Config:
    """Pictures and masks -> repaired pictures, collages and their lineage.

    Args:
        output: folder or URL for restored/, collages/ and lineage/, or shards/; report.json, quarantine.jsonl.
            With image, a name such as grid.png is the collage's; the rest goes to the folder grid beside it.
        image: one picture; needs mask.
        mask: its mask.
        images: a folder of pictures, searched with its sub-folders.
        masks: a folder of masks: each belongs to the picture of the same relative path without extension, or
            else of the same file name. null takes those that lie beside the pictures.
        mask_suffix: a mask that lies beside its picture is called as it and then so: x.mask.png of x.jpg, x_mask.png
            with _mask.
        input: shards whose samples have a picture and a .mask.png.
        mask_mode: the colour that is repaired; grey counts as white from 128 on.
        model: what paints: a pipeline made for inpainting, or a plain Stable Diffusion or pixel model, through
            RePaint.
        inpaint: how it paints.
        size: long side in pixels that the model works at; 0 takes what it was made for. A pixel model has one
            size.
        prompt: what the repair shows; a .txt beside a picture, or in its sample, goes before it.
        negative_prompt: what the repair keeps away from.
        rows: variants of each picture, with the seeds seed, seed + 1, ...
        seed: of the first variant. 0 or null draws one, and it is written down; the same run goes on with it.
        feather: pixels inside the mask over which the repair fades in; 0 is a hard edge.
        crop_to_mask: paint boxes around the holes at full resolution, holes that are apart apart, and not the
            whole picture.
        padding: pixels around a hole that its box shows the model.
        output_format: of the restored pictures; same keeps each picture's own. All but jpg are lossless.
        collage: write original | original with the hole in white | restored, a row for each variant. null
            does for pictures in files and does not for shards.
        collage_spacing_h: pixels between the columns of a collage.
        collage_spacing_v: pixels between its rows.
        provenance: the files of restored pictures and collages say in XMP that a model painted in them, which, and
            from what; a bmp has no place for it.
        max_pixels: larger pictures are quarantined unread.
        unit_pictures: pictures in a unit of work, and in an output shard; those of equal size go through the
            model together.
        cache_dir: folder for models from the hub; null takes the hub's own, see HF_HOME.
        cluster: where it runs.
        overwrite: throw away an earlier run in the output folder and start anew.
    """

    output: str = field(metadata=ASIDE)
    image: str | None = field(default=None, metadata=ASIDE)
    mask: str | None = field(default=None, metadata=ASIDE)
    images: str | None = field(default=None, metadata=ASIDE)
    masks: str | None = field(default=None, metadata=ASIDE)
    mask_suffix: str = field(default=".mask", metadata=ASIDE)
    input: str | None = field(default=None, metadata=ASIDE)
    mask_mode: Literal["black", "white"] = "black"
    model: ModelConfig = UNNAMED
    inpaint: InpaintRecipe = field(default_factory=InpaintRecipe)
    size: int = 0
    prompt: str = ""
    negative_prompt: str = ""
    rows: int = 1
    seed: int | None = None
    feather: int = 4
    crop_to_mask: bool = False
    padding: int = 64
    output_format: Literal["same", "png", "jpg", "webp", "bmp", "tif"] = "same"
    collage: bool | None = None
    collage_spacing_h: int = 20
    collage_spacing_v: int = 20
    provenance: bool = False
    max_pixels: int = 64_000_000
    unit_pictures: int = 16
    cache_dir: str | None = field(default=None, metadata=ASIDE)
    cluster: ClusterConfig = field(default_factory=ClusterConfig, metadata=ASIDE)
    overwrite: bool = field(default=False, metadata=ASIDE)

    def __post_init__(self) -> None:
        check(bool(self.output.strip()), "output", self.output, "a folder or URL")
        check_named(self.model)
        self._check_input()
        for name, low, high in (
            ("size", 0, 8192),
            ("rows", 1, 1000),
            ("seed", 0, (1 << 63) - 1001),
            ("feather", 0, 1000),
            ("padding", 0, 100_000),
            ("collage_spacing_h", 0, 1000),
            ("collage_spacing_v", 0, 1000),
            ("max_pixels", 1, 1 << 40),
            ("unit_pictures", 1, 100_000),
        ):
            value = getattr(self, name)
            check(value is None or low <= value <= high, name, value, f"{low} to {high}")
        check(self.size == 0 or self.size >= 8, "size", self.size, "0 (the model's own), or 8 to 8192")
        ok = not self.provenance or self.output_format != "bmp"
        check(
            ok, "output_format", self.output_format, "another format with provenance, which a bmp cannot hold"
        )

    def _check_input(self) -> None:
        if (self.image is None) != (self.mask is None):
            missing = "image" if self.image is None else "mask"
            raise ValueError(f"{missing}=None: --image and --mask go together")
        check(self.images is not None or self.masks is None, "images", self.images, "a folder, with --masks")
        ok = bool(self.mask_suffix) and "/" not in self.mask_suffix
        check(ok, "mask_suffix", self.mask_suffix, "the end of a file's name, such as .mask or _mask")
        given = [name for name in ("image", "images", "input") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(
                "one of --image with --mask, --images with --masks (or masks beside them), and --input is needed; "
                "given: " + (", ".join(given) or "none")
            )

    @property
    def sheets(self) -> bool:
        """Whether collages are written."""
        return self.input is None if self.collage is None else self.collage


def set_cache(config: Config) -> None:
    """Where huggingface_hub keeps what it downloads, in this process."""
    if config.cache_dir is not None:
        import huggingface_hub.constants

        huggingface_hub.constants.HF_HUB_CACHE = os.path.abspath(os.path.expanduser(config.cache_dir))
