import os
import shutil
import signal
import sys

import pytest
import shared_data

from noiseweave.cluster.session import SETTINGS

for _name, _value in SETTINGS.items():
    os.environ.setdefault(_name, _value)
os.environ.setdefault(
    "RAY_AUTH_MODE", "disabled"
)  # whatever token lies in the home folder; see test_local_ray
# a shell's background jobs ignore Ctrl-C, and what they start inherits that: not the commands that tests start
signal.signal(signal.SIGINT, signal.default_int_handler)
os.environ.setdefault("OMP_NUM_THREADS", "1")  # of this process and of those that tests start


def pytest_collection_modifyitems(items):
    """Files with slow tests first: else they would be the last, one after another on one of the workers."""
    for item in items:
        if item.get_closest_marker("shared") and not shared_data.DATA.is_dir():
            item.add_marker(
                pytest.mark.skip(reason=f"no {shared_data.DATA}: the project's own photos and weights")
            )
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


@pytest.fixture(autouse=True)
def one_thread():
    """Small networks gain nothing from threads, and lose much where other processes want the cores too."""
    yield
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(1)  # whatever the test, or what it ran, has set


@pytest.fixture(scope="session")
def ray_session():
    """One Ray for all tests of a process: 4 logical CPUs and 4 logical GPUs, whatever the machine has.

    Not local_ray's: its token must not reach the processes that tests start. But it is on 127.0.0.1 only, as that is.
    """
    import ray

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ray._private.ray_constants, "ENABLE_RAY_CLUSTER", False)
        ray.init(
            address="local",
            num_cpus=4,
            num_gpus=4,
            include_dashboard=False,
            object_store_memory=256 << 20,
            log_to_driver=False,
            logging_level="ERROR",
        )
    yield ray
    ray.shutdown()


@pytest.fixture(scope="session")
def sd_folder(tmp_path_factory):
    """A small Stable Diffusion pipeline for pictures of 32 x 32. Not to be changed: copy it."""
    return _pipeline(tmp_path_factory, "sd")


@pytest.fixture(scope="session")
def kl_folder(tmp_path_factory):
    """The same with a random AutoencoderKL, quicker than TAESD."""
    return _pipeline(tmp_path_factory, "kl", vae=None)


@pytest.fixture(scope="session")
def xl_folder(tmp_path_factory):
    """The layout of SDXL. Not to be changed: copy it."""
    return _pipeline(tmp_path_factory, "xl", vae=None, xl=True)


@pytest.fixture(scope="session")
def taught_folder(sd_folder, tmp_path_factory):
    """sd_folder that learned what a red wall is, and a blue one."""
    import small_pipeline

    folder = shutil.copytree(sd_folder, tmp_path_factory.mktemp("taught") / "small")
    small_pipeline.teach(folder, {"a red wall": (220, 30, 30), "a blue wall": (30, 30, 220)}, 80)
    return folder


def _pipeline(tmp_path_factory, name, **more):
    import small_pipeline

    return small_pipeline.build(tmp_path_factory.mktemp(name) / "small", size=32, **more)
