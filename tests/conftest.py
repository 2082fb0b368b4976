import os
from pathlib import Path

import pytest

from noiseweave.cluster.session import SETTINGS

for _name, _value in SETTINGS.items():
    os.environ.setdefault(_name, _value)

SHARED = Path(__file__).parents[2] / "shared"


@pytest.fixture(scope="session")
def ray_session():
    """One Ray for all tests: 4 logical CPUs and 4 logical GPUs, whatever the machine has."""
    import ray

    ray.init(
        address="local", num_cpus=4, num_gpus=4, include_dashboard=False,
        object_store_memory=256 << 20, log_to_driver=False, logging_level="ERROR",
    )  # fmt: skip
    yield ray
    ray.shutdown()


@pytest.fixture(scope="session")
def flowers():
    """Real photos in class folders; skips where there are none."""
    folder = SHARED / "data/flowers/train"
    if not folder.is_dir():
        pytest.skip("no flower photos here")
    return folder
