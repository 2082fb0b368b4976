"""What the tests of evaluate usefulness's parts share."""

from dataclasses import replace

import numpy as np

from noiseweave.engine.diffusion.recipes import InversionRecipe
from noiseweave.engine.judging.recipes import ClassifierRecipe
from noiseweave.engine.training.recipes import UnetRecipe
from noiseweave.engine.usefulness import making
from noiseweave.engine.usefulness.data import Setup
from noiseweave.engine.usefulness.recipes import GeneratorRecipe, GuessRecipe, Method

SETUP = Setup(classes=3, seed=0)
TINY = GeneratorRecipe(
    steps=4, tuning_steps=4, batch=8, unet=UnetRecipe(channels=(8, 16), attention=(), head=8, groups=4)
)
LATENT = replace(TINY, kind="flow", vae="taesd", precision="bf16")
QUICK = ClassifierRecipe(steps=30, batch=16, width=4)
FUSED = Method(made="fusion", count=12, inversion=InversionRecipe(num_steps=4, skip=1))
EVEN = np.ones(3)


def hidden(pool):
    """The pool without labels."""
    return replace(pool, label_N=np.full(len(pool.label_N), -1, np.int64))


def added_by(method, few, drawing=(TINY, None), guessed=None, guess=None):
    """What a method adds, of these few and this guessed pool."""
    of = making.sources(method, few, guessed, guess or GuessRecipe(classifier=QUICK), SETUP)
    return making.make(method, of, drawing, SETUP)
