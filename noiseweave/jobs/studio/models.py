"""The model of the page, loaded once, as each tab takes it: free of Gradio."""

from __future__ import annotations

import threading
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

from noiseweave.engine.networks.recipes import ModelConfig
from noiseweave.jobs.reading import loras

if TYPE_CHECKING:
    from noiseweave.engine.inpainting.models import InpaintModel
    from noiseweave.engine.networks.backbone import Backbone
    from noiseweave.engine.networks.base_models import BaseModel
    from noiseweave.engine.networks.facts import ModelFacts
    from noiseweave.engine.networks.text_pipeline import TextModel


@dataclass(frozen=True, kw_only=True)
class Known:
    """What is known of the model without its weights.

    Attributes:
        facts: of the size that it was made for.
        config: its precision chosen, its LoRA files looked at.
        device: where it runs.
    """

    facts: ModelFacts
    config: ModelConfig
    device: str


class Models:
    """A model whose networks all tabs share.

    Each of ``known``, ``fusing``, ``repairing`` and ``drawing`` is made when it is first asked for; where that fails
    it is tried again the next time.

    Raises:
        ValueError: each of them, in one line: the model cannot be loaded, or does not do that.
    """

    def __init__(self, config: ModelConfig, size: int | None) -> None:
        self.config, self.size = config, size
        self._lock = threading.RLock()
        self._weighted: tuple[tuple[float, ...], InpaintModel] | None = None

    def known(self) -> Known:
        """Its configs, read."""
        with self._lock:
            return self._known

    def fusing(self) -> tuple[ModelFacts, Backbone, str]:
        """What it is at the size that is wanted, its network as it inverts pictures, and its fingerprint."""
        with self._lock:
            return self._fusing

    def repairing(self, weights: tuple[float, ...] = ()) -> InpaintModel:
        """It as it fills holes.

        Args:
            weights: of its LoRA files, where they are to be others than those that it was started with: a second copy,
                of the latest of them alone.
        """
        with self._lock:
            if not weights or weights == self._known.config.lora_weights:
                return self._repairing
            if self._weighted is None or self._weighted[0] != weights:
                self._weighted = None  # never three copies at once
                self._weighted = weights, self._weighing(replace(self._known.config, lora_weight=weights))
            return self._weighted[1]

    def drawing(self) -> BaseModel | TextModel:
        """It as it draws from noise."""
        with self._lock:
            return self._drawing_alone or self._drawing

    @cached_property
    def _known(self) -> Known:
        from noiseweave.engine.networks import tuning
        from noiseweave.engine.networks.facts import read_facts

        device = str(tuning.pick_device())
        config, _ = tuning.settled_here(loras.settled(self.config), device)
        return Known(facts=read_facts(config.name), config=config, device=device)

    @cached_property
    def _fusing(self) -> tuple[ModelFacts, Backbone, str]:
        from noiseweave.engine.networks import loading

        facts, config = loading.describe(self._known.facts.name, self.size), self._known.config
        network = loading.backbone_of(facts, config, self._drawing)
        return facts, network, loading.fingerprint(facts, config)

    @cached_property
    def _repairing(self) -> InpaintModel:
        from noiseweave.engine.inpainting import models

        known = self._known
        models.for_inpainting(known.facts)
        if known.facts.sees_holes:
            return self._weighing(known.config)
        return models.model_of(known.facts, known.config, self._drawing)

    def _weighing(self, config: ModelConfig) -> InpaintModel:
        from noiseweave.engine.inpainting import models

        return models.load(config, self._known.device, loras.adding(config))

    @cached_property
    def _drawing(self) -> BaseModel | TextModel:
        from noiseweave.engine.networks import loading

        known = self._known
        return loading.drawing_model(known.facts, known.config, known.device, loras.adding(known.config))

    @cached_property
    def _drawing_alone(self) -> BaseModel | TextModel | None:
        """Another copy where drawing needs the VAE in float16, and fusing and repairing in float32."""
        from noiseweave.engine.networks import latents, loading

        known = self._known
        half = known.config.precision == "fp16" and known.facts.conditioning == "text"
        if not half or not latents.overflows(known.facts.vae):
            return None
        return loading.drawing_model(known.facts, known.config, known.device, loras.adding(known.config))
