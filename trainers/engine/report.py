"""What a run writes down of itself: lines of metrics, event files, a project of Weights & Biases."""

from __future__ import annotations

import json
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from schemas.errors import ConfigError
from storage.files import put
from storage.progress import peak_memory_mb
from trainers.engine.settings import LogSettings

#: Files of the run folder.
METRICS_NAME, WANDB_NAME = "metrics.jsonl", "wandb.id"


def memory_mb(device: torch.device) -> float:
    """Largest memory so far in MiB: of the GPU's allocator on cuda, else of the process."""
    return torch.cuda.max_memory_allocated(device) / 2**20 if device.type == "cuda" else peak_memory_mb()


class Metrics:
    """``metrics.jsonl``: one JSON object a line. Opening it for a resumed run drops the lines after ``step``."""

    def __init__(self, path: Path, step: int) -> None:
        if path.exists():
            kept = []
            for line in path.read_text(errors="replace").splitlines():
                try:
                    if json.loads(line)["step"] <= step:
                        kept.append(line)
                except (ValueError, KeyError, TypeError, RecursionError):
                    continue  # a line cut short by a crash
            put(path, "".join(f"{line}\n" for line in kept))
        self._file = path.open("a")

    def write(self, row: dict[str, Any]) -> None:
        """Append a row."""
        self._file.write(json.dumps(row) + "\n")
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class TensorBoard:
    """The same numbers as event files. Of a run that goes on after ``step``, what a killed one noted later is left
    out by whoever reads them."""

    def __init__(self, folder: Path, step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter  # the package is optional

        self._writer = SummaryWriter(str(folder), purge_step=step + 1 if folder.exists() else None)

    def write(self, row: dict[str, Any]) -> None:
        """Append the numbers of a row."""
        for name, value in row.items():
            if isinstance(value, (int, float)) and name != "step":
                self._writer.add_scalar(name, value, row["step"])

    def close(self) -> None:
        """Close the files."""
        self._writer.close()


class Wandb:
    """The same numbers in a project of Weights & Biases; with ``resumed`` in the run that ``folder`` began there.

    Raises:
        ConfigError: it cannot begin a run: nobody is logged in, or the service is out of reach.
    """

    def __init__(self, project: str, folder: Path, config: dict[str, Any], resumed: bool) -> None:
        wandb = _wandb(project)
        mark = folder / WANDB_NAME
        known = mark.read_text() if resumed and mark.exists() else None
        options = {"project": project, "dir": str(folder), "name": folder.name, "config": config}
        try:
            self._run = wandb.init(**options, id=known, resume="allow")
        except wandb.Error as error:
            raise ConfigError(
                f"log.wandb={project}: {str(error).strip().splitlines()[0]}; run `wandb login`, or set "
                "WANDB_MODE=offline to write files alone"
            ) from None
        mark.write_text(self._run.id)

    def write(self, row: dict[str, Any]) -> None:
        """Append a row."""
        self._run.log(row, step=row["step"])

    def close(self) -> None:
        """End the run."""
        self._run.finish()


Tracker = Metrics | TensorBoard | Wandb


def _wandb(project: str) -> Any:
    try:
        package = import_module("wandb")
    except ImportError:
        package = None
    if not hasattr(package, "init"):  # a folder of that name, which its runs leave, can be imported too
        raise ConfigError(f"log.wandb={project} needs the package wandb: pip install wandb")
    return package


def check_trackers(settings: LogSettings) -> None:
    """Refuse what :func:`trackers` could not open, before anything is read or written.

    Raises:
        ConfigError: a package that is asked for is missing.
    """
    if settings.tensorboard and not find_spec("tensorboard"):
        raise ConfigError("log.tensorboard=true needs the package tensorboard: pip install tensorboard")
    if settings.wandb:
        _wandb(settings.wandb)


def trackers(settings: LogSettings, out: Path, config: dict[str, Any], step: int) -> list[Tracker]:
    """What a run that goes on after ``step`` writes to; :func:`check_trackers` has said that it can be.

    Raises:
        ConfigError: a service refuses.
    """
    found: list[Tracker] = []
    if settings.tensorboard or (settings.tensorboard is None and find_spec("tensorboard")):
        found.append(TensorBoard(out / "tensorboard", step))
    if settings.wandb:
        found.append(Wandb(settings.wandb, out, config, step > 0))
    return [Metrics(out / METRICS_NAME, step), *found]
