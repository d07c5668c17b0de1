"""What a run says: lines of metrics, a line of progress, the final table."""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from schemas.errors import ConfigError
from trainers.engine.settings import LogSettings


def peak_memory_mb(device: torch.device) -> float:
    """Largest memory so far in MiB: of the GPU's allocator on cuda, else of the process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1024 if sys.platform != "darwin" else peak / 2**20


class TensorBoard:
    """The same numbers as event files."""

    def __init__(self, folder: Path) -> None:
        from torch.utils.tensorboard import SummaryWriter  # the package is optional

        self._writer = SummaryWriter(str(folder))

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
        mark = folder / "wandb.id"
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


def trackers(settings: LogSettings, out: Path, config: dict[str, Any], resumed: bool) -> list[TensorBoard | Wandb]:
    """What is written beside ``metrics.jsonl``; :func:`check_trackers` has said that it can be.

    Raises:
        ConfigError: a service refuses.
    """
    found: list[TensorBoard | Wandb] = []
    if settings.tensorboard or (settings.tensorboard is None and find_spec("tensorboard")):
        found.append(TensorBoard(out / "tensorboard"))
    if settings.wandb:
        found.append(Wandb(settings.wandb, out, config, resumed))
    return found


class Metrics:
    """``metrics.jsonl``: one JSON object a line. Opening it for a resumed run drops the lines after ``step``."""

    def __init__(self, path: Path | None, step: int, others: Sequence[TensorBoard | Wandb] = ()) -> None:
        self._file = None
        self._others = others
        if path is None:
            return
        if path.exists():
            kept = []
            for line in path.read_text().splitlines():
                try:
                    if json.loads(line)["step"] <= step:
                        kept.append(line)
                except (ValueError, KeyError):
                    continue  # a line cut short by a crash
            temporary = path.with_suffix(".tmp")
            temporary.write_text("".join(f"{line}\n" for line in kept))
            temporary.replace(path)
        self._file = path.open("a")

    def write(self, row: dict[str, Any]) -> None:
        """Append a row."""
        if self._file is not None:
            self._file.write(json.dumps(row) + "\n")
            self._file.flush()
        for other in self._others:
            other.write(row)

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
        for other in self._others:
            other.close()


def duration(seconds: float) -> str:
    """Hours, minutes and seconds.

    >>> duration(3725)
    '1:02:05'
    """
    whole = round(max(0.0, seconds))
    return f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}"


class Progress:
    """One line a log interval on standard error, with the time that is left."""

    def __init__(self, total_samples: int, done: int, quiet: bool) -> None:
        self._total, self._begin, self._quiet = total_samples, done, quiet
        self._start = time.perf_counter()

    def show(self, step: int, samples: int, values: dict[str, float]) -> None:
        """Say where the run stands."""
        if self._quiet:
            return
        seconds = time.perf_counter() - self._start
        rate = (samples - self._begin) / max(seconds, 1e-9)
        left = (self._total - samples) / max(rate, 1e-9)
        parts = "  ".join(f"{name} {value:.4g}" for name, value in values.items())
        share = 100 * samples / max(1, self._total)
        print(f"step {step}  {share:.0f} %  {parts}  {rate:.1f} samples/s  {duration(left)} left", file=sys.stderr)


def table(rows: list[dict[str, Any]]) -> str:
    """Rows of equal keys as aligned text, numbers to the right."""
    names = list(rows[0])
    cells = [[f"{v:.1f}" if isinstance(v, float) else str(v) for v in row.values()] for row in rows]
    widths = [max(len(c[i]) for c in [names, *cells]) for i in range(len(names))]
    lines = []
    for cell in [names, *cells]:
        first, rest = cell[0].ljust(widths[0]), [c.rjust(w) for c, w in zip(cell[1:], widths[1:], strict=True)]
        lines.append("  ".join([first, *rest]).rstrip())
    return "\n".join(lines)
