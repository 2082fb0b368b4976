"""A cluster on this machine: `augment` is submitted to it, one of its nodes dies in the middle, nothing is missing.

    python scripts/cluster_demo.py [FOLDER]

A head and two workers, each a Ray node of its own with a logical GPU for the model. The death is a SIGKILL to
all processes of a node at once. Nothing but the package and its dependencies is needed; a few minutes on two
cores. Only processes that the demo started are ended.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
from ray.util.state import list_nodes
from ray.util.state.exception import RayStateApiException

from noiseweave.cluster import storage, submit
from noiseweave.cluster.ledger import Ledger

ROOT = Path(__file__).parents[1]
RAY = Path(sys.executable).with_name("ray")
SETTINGS = {"RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0", "OMP_NUM_THREADS": "1"}
PATIENCE = 900


def main(folder: Path) -> int:
    digits, output = folder / "digits", folder / time.strftime("augmented-%Y%m%d-%H%M%S")
    os.environ.update(SETTINGS)
    # as in an activated environment: a job is run by the ``python`` that its head finds
    os.environ["PATH"] = os.pathsep.join([os.path.dirname(sys.executable), os.environ["PATH"]])
    noiseweave(
        "pack", "--dataset", "digits", "--size", "16", "--shard_samples", "300", "--output", str(digits)
    )
    with cluster() as (url, workers):
        job = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "noiseweave",
                "submit",
                "--address",
                url,
                "--working_dir",
                str(ROOT / "configs"),
                "augment",
                "--config",
                str(ROOT / "configs/augment-digits.yaml"),
                "--input",
                str(digits / "shards"),
                "--output",
                str(output),
                "--cluster.workers",
                "2",
                "--cluster.gpus_per_worker",
                "1",
                "--inversion.num_steps",
                "20",
                "--inversion.skip",
                "4",
            ]
        )
        wait_for(lambda: len(done(output)) >= 2, job)
        before = len(done(output))
        count = kill(workers[1])
        say(f"a node is dead ({count} processes, SIGKILL) after {before} units of work")
        code = job.wait(PATIENCE)
        say(f"the job ended with {code}; {len(done(output)) - before} units were done after the death")
        return code or check(output)


def say(text: str) -> None:
    print(f"-- {text}", flush=True)


def noiseweave(*words: str) -> None:
    subprocess.run([sys.executable, "-m", "noiseweave", *words], check=True)


def done(output: Path) -> set[str]:
    return Ledger(output=str(output)).done("generate")


def wait_for(true: Callable[[], bool], job: subprocess.Popen) -> None:
    """Return once it is true; an AssertionError when the process that must make it so has ended."""
    end = time.monotonic() + PATIENCE
    while not true():
        assert job.poll() is None, "ended too early"
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.1)


# the cluster


@contextlib.contextmanager
def cluster() -> Iterator[tuple[str, list[subprocess.Popen]]]:
    """A head without GPUs and two workers with one each: the job server's URL, and the workers' processes."""
    # short, for sockets lie there, and their paths have 107 bytes; a folder for each node: as on hosts of
    # their own, none deletes what another has unpacked
    temporary = tempfile.mkdtemp(prefix="nw", dir="/tmp")
    gcs, board, client, *agents = free_ports(6)
    url, nodes = f"http://127.0.0.1:{board}", []
    try:
        nodes.append(
            start(
                "--head",
                f"--port={gcs}",
                f"--dashboard-port={board}",
                f"--ray-client-server-port={client}",
                f"--dashboard-agent-listen-port={agents[0]}",
                f"--temp-dir={temporary}/0",
                "--num-cpus=2",
                "--num-gpus=0",
            )
        )
        wait_for(lambda: answers(url), nodes[0])
        for i in (1, 2):
            nodes.append(
                start(
                    f"--address=127.0.0.1:{gcs}",
                    f"--dashboard-agent-listen-port={agents[i]}",
                    f"--temp-dir={temporary}/{i}",
                    "--num-cpus=1",
                    "--num-gpus=1",
                )
            )
            wait_for(lambda: alive(url) == len(nodes), nodes[-1])
        say(f"a head and two workers with a logical GPU each: {url}")
        yield url, nodes[1:]
    finally:
        for node in reversed(nodes):
            kill(node)
        shutil.rmtree(temporary, ignore_errors=True)


def start(*words: str) -> subprocess.Popen:
    command = [RAY, "start", "--block", "--object-store-memory=200000000", "--disable-usage-stats", *words]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def answers(url: str) -> bool:
    with contextlib.suppress(ValueError):
        submit.jobs(submit.connect(url))
        return True
    return False


def alive(url: str) -> int:
    """Nodes of the cluster; 0 where the job server is too busy to tell, as it may be while nodes start."""
    with contextlib.suppress(RayStateApiException):
        return len(list_nodes(url, filters=[("state", "=", "ALIVE")]))
    return 0


def free_ports(count: int) -> list[int]:
    """Ports below those that Ray gives to its workers."""
    found = []
    for port in range(5000 + os.getpid() % 4000, 10000):
        with socket.socket() as s:
            if s.connect_ex(("127.0.0.1", port)) != 0:
                found.append(port)
        if len(found) == count:
            return found
    raise ValueError("no free ports from 5000 to 9999")


def kill(node: subprocess.Popen) -> int:
    """SIGKILL a node's processes, all that descend from the one that was started; returns how many."""
    if node.poll() is not None:
        return 0
    parent = psutil.Process(node.pid)
    parent.suspend()  # it would restart or tidy up
    doomed = [*parent.children(recursive=True), parent]
    for process in doomed:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    node.wait()
    return len(doomed)


# what came out


def check(output: Path) -> int:
    """0 when each planned pair has its sample, once."""
    report = storage.read_json(str(output / "report.json"))
    keys = []
    for shard in sorted((output / "shards").glob("*.tar")):
        with tarfile.open(shard) as tar:
            keys += [name.removesuffix(".json") for name in tar.getnames() if name.endswith(".json")]
    pairs = report["config"]["pairing"]["max_pairs"]  # the digits have more that are alike
    say(
        f"{pairs} pairs were planned, {len(keys)} samples lie in the shards, {len(set(keys))} of them distinct"
    )
    whole = (
        pairs == len(keys) == len(set(keys)) and len(done(output)) == report["phases"]["generate"]["units"]
    )
    say("complete" if whole else "NOT complete")
    return 0 if whole else 1


if __name__ == "__main__":
    raise SystemExit(main(Path(sys.argv[1] if len(sys.argv) > 1 else "out/cluster-demo").absolute()))
