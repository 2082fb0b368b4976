"""The model that all pages share, and what it makes of pictures: free of Gradio, of arrays and recipes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from noiseweave.jobs.fuse.config import Config as FuseConfig
from noiseweave.jobs.fuse.config import drawn
from noiseweave.jobs.studio.config import Config
from noiseweave.jobs.studio.models import Models
from noiseweave.jobs.studio.pictures import MIB, Limits, Picture, Pictures

if TYPE_CHECKING:
    from noiseweave.engine.fusion.groups import Inverted
    from noiseweave.engine.fusion.map_cache import MapCache
    from noiseweave.engine.networks.backbone import Backbone
    from noiseweave.engine.networks.facts import ModelFacts
    from noiseweave.engine.networks.recipes import Prompts


@dataclass(frozen=True, kw_only=True)
class Shown:
    """What was drawn.

    Attributes:
        image_FHWC: uint8, the picture and, with a sweep, its cells.
        inverted: whether noise maps were made; else they came from the cache.
    """

    image_FHWC: np.ndarray
    inverted: bool


class Live:
    """A model, loaded once, with its noise maps and the pictures of all pages.

    Attributes:
        models: the model, as each tab takes it.
        pictures: uploads.
        maps: noise maps, at most ``cache_mib`` of them.
    """

    def __init__(self, config: Config, uploads: str) -> None:
        size = int(config.upload_mib * MIB)
        self.config = config
        self.pictures = Pictures(Limits(size=size, pixels=config.max_pixels, folder=uploads))
        self.models = Models(config.model, config.size)

    @cached_property
    def maps(self) -> MapCache:
        """Made with the first of them: it needs torch, and the page is there before that is imported."""
        from noiseweave.engine.fusion.map_cache import MapCache

        return MapCache(int(self.config.cache_mib * MIB))

    def load(self) -> tuple[ModelFacts, Backbone, str]:
        """What the model is, its network, and its fingerprint; read the first time that it is asked for.

        Raises:
            ValueError: one line: it cannot be loaded, or not fuse.
        """
        return self.models.fusing()

    def picture(self, path: str) -> Picture:
        """An upload, as the model takes it.

        Raises:
            ValueError: as of ``load`` and ``Pictures.get``.
        """
        facts, _, _ = self.load()
        return self.pictures.get(path, facts.side, facts.channels)

    def fuse(self, config: FuseConfig, pictures: Sequence[Picture], mask: bytes | None = None) -> Shown:
        """What ``noiseweave fuse`` draws of a config and these pictures, bit for bit.

        Args:
            mask: content of the file of a region.

        Raises:
            ValueError: what a user can put right, in one line; the model gives NaN; its safety checker flags it.
        """
        from noiseweave.engine.fusion.drawing import draw
        from noiseweave.engine.fusion.regions import of_file
        from noiseweave.engine.networks import loading
        from noiseweave.engine.seeding import seed_of
        from noiseweave.jobs.fuse.job import FLAGGED, classes, recipe_of

        facts, model, _ = self.load()
        inversion = loading.settled_chain(facts, config.inversion)
        config = replace(config, inversion=inversion, prompt=loading.settled_prompt(facts, config.prompt))
        prompts = config.prompts if facts.conditioning == "text" else classes(config, facts)
        mask_HW = None if mask is None else of_file(mask, facts.side)
        keys = [picture.key for picture in pictures]
        config = drawn(config, keys)
        made = False
        for seed in (config.seed, seed_of(config.seed, "flagged", *keys)):
            config = replace(config, seed=seed)
            group, new = self._inverted(config, pictures, prompts)
            made = made or new
            image_FHWC, flagged_F = draw(model, group, keys, recipe_of(config, mask_HW))
            if not flagged_F[0]:
                shown = np.where(flagged_F[:, None, None, None], np.uint8(128), image_FHWC)
                return Shown(image_FHWC=shown, inverted=made)
        raise ValueError(f"flagged: {FLAGGED}")

    def _inverted(
        self, config: FuseConfig, pictures: Sequence[Picture], prompts: Prompts | None
    ) -> tuple[Inverted, bool]:
        """The pictures' noise maps, of the cache where it has all of them, and whether they were made.

        Pictures are inverted in one batch, as fuse does it, for the last bits depend on the batch: so a map's key has
        those of all its group, and a group that lacks one is made anew.
        """
        from noiseweave.engine.fusion import groups

        _, model, _ = self.load()
        names = self._names(config, pictures, prompts)
        maps = [self.maps.get(name, model.device) for name in names]
        found = [one for one in maps if one is not None]
        if made := len(found) < len(names):
            image_NHWC = np.stack([picture.image_HWC for picture in pictures])
            keys = [picture.key for picture in pictures]
            _, found = groups.invert_pictures(model, image_NHWC, keys, config.inversion, config.seed, prompts)
            for name, one in zip(names, found, strict=True):
                self.maps.put(name, one)
        return groups.Inverted(path=model.path(config.inversion), maps=found, prompts=prompts), made

    def _names(self, config: FuseConfig, pictures: Sequence[Picture], prompts: Prompts | None) -> list[str]:
        """Cache keys: all that each picture's noise map is a function of, its place in the batch too."""
        from noiseweave.engine.fusion.map_cache import map_key

        _, _, fingerprint = self.load()
        group = [picture.key for picture in pictures]
        words = (prompts.source, prompts.guidance_source, prompts.guidance_interval) if prompts else None
        return [
            map_key(
                picture.image_HWC,
                fingerprint,
                config.inversion,
                seed=config.seed,
                group=group,
                place=i,
                words=words,
            )
            for i, picture in enumerate(pictures)
        ]
