"""Processes that train together, as torchrun starts them; one process alone needs nothing."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist

from schemas.errors import ConfigError

#: Most loader processes that a rank starts by itself.
MAX_WORKERS = 8


def pick_device(name: str) -> torch.device:
    """The device of this process: ``auto`` takes a GPU where there is one.

    Raises:
        ConfigError: a GPU is asked for and there is none, or the name is unknown.
    """
    if name not in ("auto", "cpu", "cuda"):
        raise ConfigError(f"setting device={name!r}: choose auto, cpu or cuda")
    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigError("device=cuda: no GPU is visible to torch; use device=cpu, or install a CUDA build of torch")
    if name == "cpu" or not torch.cuda.is_available():
        return torch.device("cpu")
    # A launcher may show each process its own GPU alone.
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)) % torch.cuda.device_count())


def loader_workers(asked: int | None, device: torch.device) -> int:
    """Loader processes: those asked for, else none on a CPU (it computes) and a share of the cores beside a GPU."""
    if asked is not None:
        return asked
    if device.type == "cpu":
        return 0
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(MAX_WORKERS, cores // int(os.environ.get("LOCAL_WORLD_SIZE", 1)) - 1))


@contextmanager
def process_group(device: torch.device) -> Iterator[None]:
    """Join the process group of torchrun for the time of the block: NCCL between GPUs, Gloo between CPUs.

    A group that is there already, as in a worker of Ray Train, is used and left.
    """
    if (dist.is_available() and dist.is_initialized()) or int(os.environ.get("WORLD_SIZE", 1)) < 2:
        yield
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield
    finally:
        dist.destroy_process_group()


def world() -> int:
    """Number of processes."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def is_first() -> bool:
    """Whether this process writes the files and the messages."""
    return world() == 1 or dist.get_rank() == 0


def same_text(text: str) -> str:
    """The first process's ``text``, on every process."""
    if world() == 1:
        return text
    box = [text]
    dist.broadcast_object_list(box, 0)
    return box[0]


def any_rank(flag: bool, device: torch.device) -> bool:
    """Whether ``flag`` holds on any process."""
    if world() == 1:
        return flag
    value = torch.tensor(int(flag), device=device)
    dist.all_reduce(value, dist.ReduceOp.MAX)
    return bool(value.item())


def mean_over_ranks(values: torch.Tensor) -> torch.Tensor:
    """Mean of a tensor over the processes."""
    if world() > 1:
        dist.all_reduce(values)
        values = values / world()
    return values


def wait_for_all() -> None:
    """Return when every process is here."""
    if world() > 1:
        dist.barrier()
