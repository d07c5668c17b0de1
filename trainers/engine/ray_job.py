"""The same run inside a Ray job: Ray Train's TorchTrainer on the cluster's GPUs, or CPUs where it has none.

Ray is imported here alone, and only inside a job.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from typing import Any

from schemas.errors import PASSING, ConfigError, GeoshardsError
from storage.store import Store
from storage.urls import absolute, file_system
from trainers import ROOT
from trainers.engine.checkpoint import FILE_NAME
from trainers.engine.loop import Stopped, stop_signal, train
from trainers.engine.report import check_trackers
from trainers.engine.settings import Task, TrainSettings
from trainers.stream.datasets import parse_datasets

#: What `ray job submit` sets for the process that it starts.
_MARK = "RAY_JOB_CONFIG_JSON_ENV_VAR"
#: Times that a worker which died is started again, from the last checkpoint. One that reports an error of ours is not:
#: a setting, a file or a loss that is not finite would be no other.
RESTARTS = 3
#: Seconds between looks at whether the job was told to stop.
_LOOK = 0.2


def in_ray_job() -> bool:
    """Whether `ray job submit` started this process."""
    return _MARK in os.environ


def count_workers(settings: TrainSettings, gpus: int, cpus: int) -> int:
    """Processes to train with: as asked for, else the most that the cluster has room for and that divide the batch.

    With ``device=cuda`` more may be asked for than there are: Ray waits until its autoscaler has brought them.

    Raises:
        ConfigError: ``ray_workers`` does not divide the batch, or the cluster has fewer; or ``device=cuda`` without
            either a GPU or ``ray_workers``.
    """
    grows = settings.device == "cuda"
    room = gpus or cpus
    parts = settings.batch_size // settings.accumulate
    asked = settings.ray_workers
    if grows and not gpus and asked is None:
        raise ConfigError("device=cuda: the cluster has no GPU yet; say how many to wait for: ray_workers=8, say")
    if asked is None:
        return next(n for n in range(max(1, min(room, parts)), 0, -1) if parts % n == 0)
    if (asked > room and not grows) or parts % asked:
        raise ConfigError(
            f"ray_workers={asked}: the cluster has {gpus} GPUs and {cpus} CPUs, and a batch of {settings.batch_size} "
            f"in {settings.accumulate} parts must be divisible by it"
        )
    return asked


def train_on_ray(task: Task, settings: TrainSettings, root: str, out: str, quiet: bool) -> dict[str, Any]:
    """What :func:`trainers.engine.loop.train` does, by workers of the cluster that this job runs on.

    Paths are made absolute: workers have other working directories. On several machines they must be on shared storage.

    Raises:
        GeoshardsError: the run failed; the message is that of the worker.
    """
    try:
        import ray
        from ray.train import FailureConfig, RunConfig, ScalingConfig
        from ray.train.torch import TorchTrainer
    except ImportError as error:
        raise ConfigError(f"a Ray job needs Ray Train ({error}); pip install 'ray[train]'") from None
    check_trackers(settings.log)
    # Workers import the trainers from where the job did.
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    if not ray.is_initialized():
        # Ray forwards what workers print; Ray Train would log the same lines beside it.
        variables = {"PYTHONPATH": path, "RAY_TRAIN_ENABLE_PRINT_PATCH": "0"}
        ray.init(runtime_env={"env_vars": variables}, log_to_driver=not quiet)
    resources = ray.cluster_resources()
    gpus = 0 if settings.device == "cpu" else int(resources.get("GPU", 0))
    workers = count_workers(settings, gpus, int(resources.get("CPU", 1)))
    if settings.device == "cuda":
        gpus = max(gpus, workers)
    folder = Store(absolute(out))
    if settings.resume == "never" and folder.exists(FILE_NAME):
        raise ConfigError(f"{folder.path(FILE_NAME)} exists; go on with resume=auto, or choose another out=…")
    job = {
        "task": task, "settings": replace(settings, out=folder.root), "root": _absolute(root), "out": folder.root,
        "quiet": quiet, "notice": (notice := _notice()),
    }  # fmt: skip
    trainer = TorchTrainer(
        _worker,
        train_loop_config=job,
        scaling_config=ScalingConfig(num_workers=workers, use_gpu=gpus > 0),
        run_config=RunConfig(
            name=folder.root.rpartition("/")[2], failure_config=FailureConfig(max_failures=RESTARTS), **_storage(folder)
        ),
    )
    try:
        _fit(trainer, notice.send.remote, lambda: ray.get(notice.failed.remote()))
        stopped = ray.get(notice.ended.remote())
    except GeoshardsError:
        raise  # this process ends now, and with it the workers, before they are started again
    except Exception as error:  # whatever class Ray wraps a worker's error in; its text holds the reason
        lines = [line for line in str(error).splitlines() if line.strip()]
        raise GeoshardsError(lines[-1] if lines else type(error).__name__) from error
    if stopped:
        raise Stopped(stopped)
    summary: dict[str, Any] = json.loads(folder.read("summary.json"))
    return {**summary, "workers": workers, "gpus": gpus}


def _storage(folder: Store) -> dict[str, Any]:
    """Where Ray Train keeps what it notes of the run: beside the run's own files, by the same road."""
    if not folder.remote:
        return {"storage_path": folder.path("ray")}
    from pyarrow.fs import FSSpecHandler, PyFileSystem

    fs, path = file_system(folder.path("ray"))
    return {"storage_path": path, "storage_filesystem": PyFileSystem(FSSpecHandler(fs))}


def _absolute(root: str) -> str:
    """``root`` with local paths made absolute; URLs and weights stay."""
    data = parse_datasets(root)
    paths = [absolute(root) for root in data.roots]
    if data.weights is None:
        return ",".join(paths)
    return ",".join(f"{path}:{weight}" for path, weight in zip(paths, data.weights, strict=True))


def _notice() -> Any:
    """A small actor by which the job tells its workers that it was sent a signal, and they that they have saved, or why
    nobody need try again.

    `ray job stop` signals the job's own process alone, and kills it and with it the workers soon after.
    """
    import ray

    class Notice:  # pickled by value: a process without torch
        def __init__(self) -> None:
            self.signals: list[int] = []
            self.message = self.error = ""

        def send(self, number: int) -> None:
            self.signals.append(number)

        def sent(self) -> list[int]:
            return self.signals

        def end(self, message: str) -> None:
            self.message = message

        def ended(self) -> str:
            return self.message

        def fail(self, reason: str) -> None:
            self.error = self.error or reason

        def failed(self) -> str:
            return self.error

    return ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)(Notice).remote()


def _fit(trainer: Any, send: Callable[[int], object], failed: Callable[[], str]) -> None:
    """Run Ray Train's ``trainer`` in a thread, so that this one can hear signals and pass them on.

    Args:
        send: tells the workers of a signal.
        failed: why a worker says that nobody need try again; empty: none does.

    Raises:
        GeoshardsError: one does.
    """
    failures: list[Exception] = []

    def fit() -> None:
        try:
            trainer.fit()
        except Exception as error:  # noqa: BLE001  # raised below, in the thread that called
            failures.append(error)

    thread = threading.Thread(target=fit, daemon=True)
    with stop_signal() as caught:
        thread.start()
        sent, reason = 0, ""
        while thread.is_alive() and not reason:
            for number in caught[sent:]:
                send(number)
            sent = len(caught)
            thread.join(_LOOK)
            reason = failed()
    if reason:
        raise GeoshardsError(reason)
    if failures:
        raise failures[0]


@contextmanager
def _hearing(notice: Any) -> Iterator[list[int]]:
    """A list that receives the signals that the job was sent, while the block runs."""
    import ray

    told: list[int] = []
    done = threading.Event()

    def listen() -> None:
        while not done.wait(_LOOK):
            told.extend(ray.get(notice.sent.remote())[len(told) :])

    thread = threading.Thread(target=listen, daemon=True)
    thread.start()
    try:
        yield told
    finally:
        done.set()
        thread.join(5 * _LOOK)  # a look that hangs must not keep the worker


def _worker(job: dict[str, Any]) -> None:
    import ray.train

    settings: TrainSettings = job["settings"]
    # A worker that is started again goes on from the last checkpoint; that there was none before has been checked.
    resume = "auto" if settings.resume == "never" else settings.resume
    settings = replace(settings, resume=resume)
    notice, first = job["notice"], ray.train.get_context().get_world_rank() == 0
    with _hearing(notice) if first else nullcontext() as told:
        try:
            train(job["task"], settings, job["root"], job["out"], job["quiet"], told)
        except Stopped as error:  # every worker returns: as a failure it would be started again
            if first:
                ray.get(notice.end.remote(str(error)))
        except GeoshardsError as error:
            if not isinstance(error, PASSING):
                if not first:  # an error of all has its last word from the first, which leaves the run's status
                    time.sleep(5 * _LOOK)
                ray.get(notice.fail.remote(str(error)))
            raise
