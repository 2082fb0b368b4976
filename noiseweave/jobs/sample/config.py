"""What a user may say of sample."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Literal

from noiseweave.cluster.session import ClusterConfig
from noiseweave.engine.checks import check
from noiseweave.engine.identity import ASIDE
from noiseweave.engine.networks.recipes import UNNAMED, ModelConfig, TextOptions, check_named
from noiseweave.engine.sampling.recipes import SamplerRecipe

POSITIONAL = "prompts"
POSITIONAL_HELP = (
    'Prompts need no flag: noiseweave sample "a cat" "a dog" --model.name FOLDER --output out/pets'
)
USUAL = {
    "input and output": ("prompts", "output", "overwrite"),
    "what it does": ("count", "labels", "seed"),
    "model": ("model.name", "sampler.steps", "text.steps", "text.guidance"),
    "where it runs": ("cluster.address", "cluster.workers"),
}
ALIASES = {"--model_path": "--model.name"}
OWNED = (
    "shards",
    "images",
    "trajectories",
    "report.html",
    "report.json",
    "quarantine.jsonl",
    "grid.png",
    "classes.json",
)
LIST_OPTIONS = {"interpolate": 2}


@dataclass(frozen=True, kw_only=True)
class Config:
    """Pictures drawn by a base model.

    Args:
        output: folder or URL that gets shards/ or images/, report.json and grid.png.
        model: what draws: a folder that train wrote, a shipped model, or a diffusers pipeline's folder or id.
        count: pictures; null draws 16, or as many as match has.
        match: shards or a folder of pictures: as many pictures as it has, of each class where it is labelled
            and the model knows classes.
        labels: classes in turn, as 0,1,2; balanced takes all in turn. null is balanced where the model knows
            classes.
        sampler: how it draws.
        seed: picture i depends on it and on i alone.
        files: shards writes WebDataset tars; folder writes images/, with a sub-folder for each class.
        image_format: of the pictures.
        provenance: each picture's file says in XMP that a model made it, and which.
        shard_samples: pictures in a shard, and in a unit of work.
        trajectory: pictures of what the model believed in at so many steps, one strip for each sample, as png
            and animated webp in trajectories/.
        grid: one sheet of rows x columns of the first pictures, as 4x8; auto is 4x8, or the frames, styles or
            variants of each prompt in a row; null writes none.
        panel: a picture; writes panel.png: truth, with noise, restored by one network call.
        level: share of noise in the panel.
        reconstruct: of a vae: shards or a picture; writes reconstructions.png, truth above reconstruction.
        walk: of a vae: frames of a walk from one random code to another; writes walk.png and walk.webp.
        prompts: of a text-to-image model: texts, a picture of each (or count of each).
        prompts_file: a text file with one prompt a line; blank lines and lines that begin with # are left out.
        classes: {label} in each prompt stands for each of these names, and a picture has its class as a label: a .txt
            with one name a line, or shards whose classes.json has them.
        captions: shards whose captions are the prompts.
        negative_prompt: what the pictures keep away from.
        interpolate: two texts, --interpolate "A" "B": frames from one to the other by slerp of their
            embeddings, from the same noise.
        frames: of interpolate.
        styles: a text file with one style a line; each prompt is drawn in each style, from the same noise.
        text: how a text-to-image model draws; sampler is for all others.
        cluster: where it runs.
        overwrite: throw away an earlier run in the output folder and start anew.
    """

    output: str = field(metadata=ASIDE)
    model: ModelConfig = UNNAMED
    count: int | None = None
    match: str | None = None
    labels: str | None = None
    sampler: SamplerRecipe = field(default_factory=SamplerRecipe)
    seed: int = 0
    files: Literal["shards", "folder"] = "shards"
    image_format: Literal["png", "jpg", "webp"] = "png"
    provenance: bool = False
    shard_samples: int = 256
    trajectory: int = 0
    grid: str | None = field(default="auto", metadata=ASIDE)
    panel: str | None = field(default=None, metadata=ASIDE)
    level: float = field(default=0.5, metadata=ASIDE)
    reconstruct: str | None = field(default=None, metadata=ASIDE)
    walk: int = field(default=0, metadata=ASIDE)
    prompts: tuple[str, ...] = ()
    prompts_file: str | None = None
    classes: str | None = field(default=None, metadata=ASIDE)  # the names count
    captions: str | None = None
    negative_prompt: str = ""
    interpolate: tuple[str, str] | None = None
    frames: int = 8
    styles: str | None = None
    text: TextOptions = field(default_factory=TextOptions)
    cluster: ClusterConfig = field(default_factory=ClusterConfig, metadata=ASIDE)
    overwrite: bool = field(default=False, metadata=ASIDE)

    def __post_init__(self) -> None:
        check(bool(self.output.strip()), "output", self.output, "a folder or URL")
        check_named(self.model)
        check(self.count is None or self.count >= 1, "count", self.count, "1 or more, or null")
        check(
            self.match is None or self.count is None, "match", self.match, "either match or count, not both"
        )
        ok = self.labels is None or bool(re.fullmatch(r"balanced|\d{1,9}(,\d{1,9})*", self.labels))
        check(ok, "labels", self.labels, "balanced, or numbers such as 0,1,2")
        check(0 <= self.seed < 1 << 63, "seed", self.seed, "0 to 2^63 - 1")
        check(1 <= self.shard_samples <= 100_000, "shard_samples", self.shard_samples, "1 to 100000")
        check(0 <= self.trajectory <= 1000, "trajectory", self.trajectory, "0 (none) to 1000")
        ok = self.grid is None or bool(re.fullmatch(r"auto|[1-9]\d?x[1-9]\d?", self.grid))
        check(ok, "grid", self.grid, "auto, rows x columns (1x1 to 99x99), or null")
        check(0 <= self.level <= 1, "level", self.level, "0 to 1")
        check(self.walk == 0 or 2 <= self.walk <= 1000, "walk", self.walk, "0 (none), or 2 to 1000")

    @property
    def draws(self) -> bool:
        """Whether samples are wanted, and not only a panel, reconstructions or a walk."""
        only = self.panel is not None or self.reconstruct is not None or self.walk > 0
        return self.count is not None or self.match is not None or not only
