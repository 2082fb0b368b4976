"""Pictures as noise maps -> what is drawn of them: one fusion or edit, and a sweep of others beside it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from torch import Tensor

from noiseweave.engine.diffusion.recipes import SolverName
from noiseweave.engine.fusion import groups
from noiseweave.engine.fusion.edits import edit, fresh_noise
from noiseweave.engine.fusion.groups import Inverted
from noiseweave.engine.fusion.recipes import EditRecipe, Mode, RegionRecipe
from noiseweave.engine.fusion.regions import where_second_shows
from noiseweave.engine.networks.backbone import Backbone
from noiseweave.engine.seeding import seed_of


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """What is drawn of N pictures.

    Attributes:
        cells: (mode, N weights with sum 1) of each picture that is drawn; an edit passes the modes over.
        edit: of the first picture's map; a second one is the reference of style.
        region, mask_HW: where the second picture shows; the mask is float [h, w] in 0..1, of a file.
        fresh: share of fresh noise in each fused map, 0 to 1.
        keep_spread: as of ``modes.fuse``.
        solver: that the maps were made with.
        seed: with the pictures' keys decides all that is drawn at random.
    """

    cells: Sequence[tuple[Mode, Sequence[float]]]
    edit: EditRecipe | None = None
    region: RegionRecipe = field(default_factory=RegionRecipe)
    mask_HW: Tensor | None = None
    fresh: float = 0.0
    keep_spread: bool = True
    solver: SolverName = "ddim"
    seed: int = 0


def draw(
    model: Backbone, group: Inverted, keys: Sequence[str], drawing: Drawing
) -> tuple[np.ndarray, np.ndarray]:
    """uint8 [cells, size, size, C], and bool [cells]: which of them the model's safety checker flags.

    All cells are one batch: the last bits of a network may differ between batches of other sizes.

    Args:
        keys: of the pictures.

    Raises:
        ValueError: the model gives values that are not finite; as of ``edits.edit`` and ``regions.fit_mask``.
    """
    mask_HW = where_second_shows(drawing.region, group.maps, drawing.mask_HW)
    cells, recipe = drawing.cells, drawing.edit
    if recipe is not None:
        maps = group.maps
        fresh_TCHW = fresh_noise(maps[0], drawing.seed, keys[0])
        reference = maps[1] if len(maps) > 1 else None
        edited = edit(maps[0], group.path, recipe.name, recipe.strength, fresh_TCHW, reference)
        group, cells = replace(group, maps=[edited]), [(mode, weights[:1]) for mode, weights in cells]
    fresh = (drawing.fresh, seed_of(drawing.seed, "fresh", *keys))
    x_FCHW = groups.fuse_pictures(model, group, cells, drawing.keep_spread, drawing.solver, mask_HW, fresh)
    image_FHWC = model.decode(x_FCHW)
    return image_FHWC, model.flagged(image_FHWC)
