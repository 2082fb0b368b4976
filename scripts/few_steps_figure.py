"""The figure and the numbers of docs/noise.md on few steps: photographs fused in 4, 8 and 25 steps with flowers-flow.

python scripts/few_steps_figure.py docs/few_steps.png
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from noiseweave.engine.diffusion.recipes import InversionRecipe
from noiseweave.engine.fusion import groups
from noiseweave.engine.fusion.reconstruction import fidelity
from noiseweave.engine.networks import loading
from noiseweave.engine.networks.backbone import Backbone
from noiseweave.engine.networks.recipes import ModelConfig, PromptRecipe
from noiseweave.engine.pictures import collage, images

FLOWERS = Path(__file__).parents[1] / "examples/flowers"
PAIRS = (
    ("daisy/14507818175", "daisy/2365428551"),
    ("roses/15236835789", "roses/1775233884"),
    ("tulips/14087892193", "tulips/16506668270"),
)
CLASSES = ("daisy", "dandelion", "roses", "sunflowers", "tulips")
RECIPES = tuple(
    InversionRecipe(num_steps=steps, skip=skip, noise_shift=shift)
    for steps, skip, shift in ((4, 1, 0.0), (4, 1, 1.0), (8, 2, 0.0), (8, 2, 1.0), (25, 5, 0.0))
)


def read(model: Backbone, name: str) -> np.ndarray:
    """uint8 [size, size, 3]."""
    return images.fit(images.decode((FLOWERS / f"{name}.jpg").read_bytes(), 3), model.size)


def fused(model: Backbone, pair: tuple[str, str], recipe: InversionRecipe) -> tuple[np.ndarray, float, float]:
    """The picture half way, the lower PSNR of the parents' latents in dB, how strong the maps are beside the noise.

    The last is the deviation of a step's residual by that of the posterior, the mean over all steps but the last.
    """
    label = CLASSES.index(pair[0].split("/")[0])
    image = np.stack([read(model, name) for name in pair])
    prompts = PromptRecipe(guidance_target=2.0).classes([label, label])
    path, maps = groups.invert_pictures(model, image, pair, recipe, 0, prompts)
    group = groups.Inverted(path=path, maps=maps, prompts=prompts)
    [picture] = model.decode(groups.fuse_pictures(model, group, [("cross_fade", [0.5, 0.5])]))
    spread_T = sum(m.residual_TCHW.double().std((1, 2, 3)) for m in maps) / len(maps)
    strength = float((spread_T / path.deviation_T)[:-1].mean())
    return picture, min(fidelity(model, path, maps, image, prompts, recipe.sampler)), strength


def head(recipe: InversionRecipe) -> str:
    return f"{recipe.num_steps} steps{', shift 1' if recipe.noise_shift else ''}"


def main(path: str) -> None:
    model = loading.load(ModelConfig(name="flowers-flow", precision="fp32"))
    found = {recipe: [fused(model, pair, recipe) for pair in PAIRS] for recipe in RECIPES}
    for recipe, made in found.items():
        lowest, strength = min(m[1] for m in made), sum(m[2] for m in made) / len(made)
        print(
            f"{head(recipe)}, skip {recipe.skip}: {lowest:.1f} dB or more, maps {strength:.2f} x the noise of a step"
        )
    rows = [
        [read(model, first), *(found[recipe][i][0] for recipe in RECIPES), read(model, second)]
        for i, (first, second) in enumerate(PAIRS)
    ]
    heads = ["first", *map(head, RECIPES), "second"]
    page = collage.sheet(rows, [name.split("/")[0] for name, _ in PAIRS], heads, tile=128)
    page.quantize(256).save(path, optimize=True)


if __name__ == "__main__":
    main(sys.argv[1])
