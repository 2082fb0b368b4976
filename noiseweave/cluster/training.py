"""A train loop on Ray Train, or in this process: checkpoints that survive any kill, news for the driver.

Knows nothing about models. A loop is a top-level function ``loop(task, link)``; ``link`` is all that it
sees of whoever runs it. Ray keeps its own list of checkpoints in a file that it does not write atomically, so a kill
could spoil it: here a checkpoint counts once its ``complete.json`` is there, which is written last.
"""

from __future__ import annotations

import contextlib
import os
import posixpath
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from noiseweave.cluster import allocator, storage, threads
from noiseweave.cluster.polling import repeated
from noiseweave.cluster.session import Session
from noiseweave.cluster.storage import StorageError
from noiseweave.engine.records import Json

COMPLETE = "complete.json"
Row = Json


@dataclass(frozen=True, kw_only=True)
class Link:
    """A worker's tie to the run.

    Attributes:
        rank, world: this worker's number and how many there are.
        gpu: whether it holds a GPU.
        resume: folder of the checkpoint to go on from, None at the start.
        folder: where checkpoints are kept.
        send: carries a row to the driver.
        committed: (step, metrics) is called on every rank when a checkpoint is whole.
    """

    rank: int
    world: int
    gpu: bool
    resume: str | None
    folder: str
    send: Callable[[Row], None]
    committed: Callable[[int, Row], None]

    def post(self, row: Row) -> None:
        """Send a small row to the driver's ``watch``; rank 0 speaks for all. A lost row stops no training."""
        if self.rank == 0:
            self.send(row)

    def fail(self, message: str) -> None:
        """End the run without retries: every rank calls it, then returns."""
        self.post({"fail": message})

    def load(self, name: str) -> bytes:
        """A file of the checkpoint to resume from."""
        assert self.resume is not None
        return storage.read(storage.join(self.resume, name))

    def save(self, step: int, files: Mapping[str, bytes], metrics: Row) -> None:
        """Commit a checkpoint; a barrier, so every rank calls it. Only rank 0's files are written."""
        if self.rank == 0:
            folder = storage.join(self.folder, name_of(step))
            for name, data in files.items():
                storage.write(storage.join(folder, name), data)
            storage.write_json(storage.join(folder, COMPLETE), {"step": step, "files": sorted(files)})
        self.committed(step, metrics)


Loop = Callable[[Any, Link], None]


def name_of(step: int) -> str:
    """A checkpoint's folder name; names sort as steps do."""
    return f"step-{step:09d}"


def checkpoints(folder: str) -> list[str]:
    """The whole checkpoints in a folder as ``attempt/step-N``, oldest first."""
    found = [
        storage.join(run, step)
        for run in storage.folders_in(folder)
        for step in storage.folders_in(storage.join(folder, run))
    ]
    whole = [name for name in found if storage.exists(storage.join(folder, name, COMPLETE))]
    return sorted(whole, key=posixpath.basename)


def latest(folder: str, attempt: str = "") -> str | None:
    """The newest whole checkpoint in a folder, or of one attempt in it; None when there is none."""
    whole = [name for name in checkpoints(folder) if name.startswith(attempt)]
    return storage.join(folder, whole[-1]) if whole else None


def begin_attempt(folder: str) -> tuple[str, str | None]:
    """Copy the newest whole checkpoint into a new attempt's folder, and delete the older attempts.

    Each driver's attempt has a folder of its own, since the workers of a killed driver live on for seconds:
    they may still commit, and prune, in theirs.

    Returns:
        The attempt's name, and the copy to resume from.
    """
    old, attempt, copy = storage.folders_in(folder), f"attempt-{uuid.uuid4().hex[:12]}", None
    while newest := latest(folder):
        copy = storage.join(folder, attempt, posixpath.basename(newest))
        try:
            _copy(newest, copy)
            break
        except FileNotFoundError:  # such workers pruned it, for a newer one is there
            continue
    for name in old:
        with contextlib.suppress(OSError):
            storage.remove(storage.join(folder, name))
    return attempt, copy


def _copy(source: str, target: str) -> None:
    """Copy the files that the last one lists; FileNotFoundError when one of them is gone."""
    for name in [*storage.read_json(storage.join(source, COMPLETE))["files"], COMPLETE]:
        storage.write(storage.join(target, name), storage.read(storage.join(source, name)))


def keep_newest(folder: str, attempt: str, keep: int) -> None:
    """At the end of a run: its newest ``keep`` checkpoints stay and nothing else."""
    stay = [name for name in checkpoints(folder) if name.startswith(f"{attempt}/")][-keep:]
    for name in storage.folders_in(folder):
        doomed = (
            [name]
            if name != attempt
            else [
                f"{name}/{step}"
                for step in storage.folders_in(storage.join(folder, name))
                if f"{name}/{step}" not in stay
            ]
        )
        for path in doomed:
            storage.remove(storage.join(folder, path))


def run_training(
    loop: Loop,
    task: Any,
    *,
    folder: str,
    session: Session,
    max_failures: int,
    keep: int,
    watch: Callable[[Row], None] = lambda row: None,
) -> str | None:
    """Run ``loop(task, link)`` on every worker of a session until it returns; inline, in this process.

    When a worker dies, or its loop raises, all begin again from the last checkpoint, at most ``max_failures`` times.
    A run with the same folder goes on from its newest whole checkpoint.

    Args:
        loop: an importable top-level function; gloo joins its processes on CPUs, nccl on GPUs.
        task: what it is given; sent once to each node.
        folder: of the checkpoints, which every node must reach.
        keep: checkpoints kept.
        watch: called in the driver with each row that rank 0 posts; on a thread of its own where Ray runs the loop.

    Returns:
        None, or the message of a loop that gave up through ``link.fail``.

    Raises:
        RuntimeError: a worker failed more often than ``max_failures``; one line says how.
    """
    name, _ = begin_attempt(folder)
    attempt = _Attempt(folder=folder, name=name, max_failures=max_failures, keep=keep)
    failures: list[str] = []

    def receive(row: Row) -> None:
        if "fail" in row:
            failures.append(row["fail"])
        else:
            watch(row)

    (_inline if session.inline else _ray)(loop, task, session, attempt, receive)
    keep_newest(folder, name, keep)
    return failures[0] if failures else None


def _of_storage(args: threading.ExceptHookArgs) -> bool:
    """Whether a thread ended as it could not write: TensorBoard's, which says so to the loop as well."""
    return isinstance(args.exc_value, OSError)


@dataclass(frozen=True, kw_only=True)
class _Attempt:
    """One start of a training: its checkpoints lie in ``folder/name``."""

    folder: str
    name: str
    max_failures: int
    keep: int


def _inline(
    loop: Loop, task: Any, session: Session, attempt: _Attempt, receive: Callable[[Row], None]
) -> None:
    """The loop as the one worker of its kind, called here."""
    for left in range(attempt.max_failures, -1, -1):
        link = Link(
            rank=0,
            world=1,
            gpu=session.gpus_per_worker > 0,
            resume=latest(attempt.folder, attempt.name),
            folder=storage.join(attempt.folder, attempt.name),
            send=receive,
            committed=lambda step, metrics: keep_newest(attempt.folder, attempt.name, attempt.keep),
        )
        try:
            with threads.quiet(_of_storage):
                loop(task, link)
            return
        except Exception as e:
            if not left or (isinstance(e, StorageError) and e.lasting):
                raise RuntimeError(_line(e)) from e


def _ray(loop: Loop, task: Any, session: Session, attempt: _Attempt, receive: Callable[[Row], None]) -> None:
    """Ray Train's workers call the loop; what they post comes back through a queue."""
    import ray
    from ray.train import CheckpointConfig, FailureConfig, RunConfig, TrainingFailedError
    from ray.train.torch import TorchTrainer
    from ray.util.queue import Queue

    # Ray looks at its workers every 2 s, and each checkpoint waits for that look.
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.5")
    queue = Queue(actor_options={"num_cpus": 0})

    class Interruptible(TorchTrainer):
        """Ctrl-C ends ``fit`` as it ends anything: Ray's own handler waits half a minute, and the exit code is 1."""

        def _register_sigint_handler(self, controller: object) -> None:
            pass

    trainer = Interruptible(
        partial(_enter, loop, ray.put(task), attempt.folder, attempt.name, queue),
        scaling_config=_scaling(session),
        run_config=RunConfig(
            name=attempt.name,
            storage_path=attempt.folder,
            failure_config=FailureConfig(max_failures=attempt.max_failures),
            checkpoint_config=CheckpointConfig(num_to_keep=attempt.keep),
            worker_runtime_env={"env_vars": allocator.environment()},  # type: ignore[call-arg]  # mypy sees V1's
        ),
    )
    with _watching(queue, receive):
        try:
            trainer.fit()
        except TrainingFailedError as e:
            raise RuntimeError(_first_line(e)) from e


def _scaling(session: Session) -> Any:
    """One worker a process; a GPU worker asks for no CPU, or two of them could starve each other of CPUs."""
    from ray.train import ScalingConfig

    gpu = session.gpus_per_worker
    resources = {"GPU": gpu, "CPU": 0} if gpu else {"CPU": 1}
    return ScalingConfig(
        num_workers=session.workers, use_gpu=gpu > 0, resources_per_worker=resources, **session.place
    )


def _enter(loop: Loop, task_ref: Any, folder: str, attempt: str, queue: Any) -> None:
    """The worker's side. All ranks go on from the attempt's newest whole checkpoint, as rank 0 sees it.

    Ray's own last committed one may be older: it learns of a checkpoint only when it next looks at the workers.
    """
    import ray
    import ray.train
    from ray.train.collective import broadcast_from_rank_zero

    context = ray.train.get_context()
    resume = broadcast_from_rank_zero(latest(folder, attempt))
    folder = storage.join(folder, attempt)
    gpus = ray.get_runtime_context().get_accelerator_ids().get("GPU", [])
    link = Link(
        rank=context.get_world_rank(),
        world=context.get_world_size(),
        gpu=bool(gpus),
        resume=resume,
        folder=folder,
        send=partial(_put, queue),
        committed=partial(_report, folder, context.get_world_rank()),
    )
    loop(ray.get(task_ref), link)


def _put(queue: Any, row: Row) -> None:
    from ray.exceptions import RayError

    with contextlib.suppress(RayError):
        queue.put(row)


def _report(folder: str, rank: int, step: int, metrics: Row) -> None:
    """Tell Ray Train of a checkpoint that rank 0 has written: a barrier."""
    import pyarrow.fs
    import ray.train
    from ray.train import Checkpoint, CheckpointUploadMode

    local = None if "://" in folder else pyarrow.fs.LocalFileSystem()
    ray.train.report(
        metrics,
        checkpoint=Checkpoint(storage.join(folder, name_of(step)), local) if rank == 0 else None,
        checkpoint_dir_name=name_of(step),
        checkpoint_upload_mode=CheckpointUploadMode.NO_UPLOAD,
    )


@contextlib.contextmanager
def _watching(queue: Any, receive: Callable[[Row], None]) -> Iterator[None]:
    """Hand each posted row to ``receive`` while the block runs."""
    from ray.exceptions import RayError

    def look() -> None:
        with contextlib.suppress(RayError):
            for row in queue.get_nowait_batch(queue.qsize()):
                receive(row)

    try:
        with repeated(look, 0.5):
            yield
    finally:
        queue.shutdown(force=True)


def _first_line(error: Exception) -> str:
    """The cause of a failed run in one line: the kind and the words of an error, the end of a traceback."""
    cause = next(iter(getattr(error, "worker_failures", {}).values()), error)
    lines = str(cause).strip().splitlines()
    return lines[-1].removeprefix(f"{StorageError.__module__}.") if len(lines) > 1 else _line(cause)


def _line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"
