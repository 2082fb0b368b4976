"""The ``evaluate`` job: how good pictures are, beside others.

Four ways, each in its own module MODE.py: ``sets`` compares two sets of pictures in a feature space,
``pairs`` matched pictures, ``reconstruction`` pictures with what inversion and replay make of them, ``samples`` each
generated picture with its parents and with all that it was made from.
"""

from __future__ import annotations

import importlib
from dataclasses import replace

from noiseweave.cluster import storage
from noiseweave.jobs.evaluate.config import Config
from noiseweave.jobs.reading import loras, running


def run(config: Config) -> int:
    """Do the job. Returns 0, or 1 when units failed.

    Raises:
        ValueError: what a user can put right, in one line.
    """
    output, model = storage.absolute(config.output), loras.settled(config.model)
    model = running.with_precision(model, config.cluster, output, config.overwrite)
    config = replace(config, model=model)
    return importlib.import_module(f"noiseweave.jobs.evaluate.{config.mode}").run(config)
