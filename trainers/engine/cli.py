"""The command line of a trainer: ``key=value`` settings, --config FILE, --quiet, --json, --help."""

from __future__ import annotations

import inspect
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import torch

from schemas.config import parse_settings, resolved, settings_help
from schemas.errors import ConfigError, GeoshardsError, at_the_door
from storage.progress import format_table
from storage.text import visible
from storage.urls import absolute, expand, local_path
from trainers import ROOT
from trainers.engine.checkpoint import code_version
from trainers.engine.loop import train
from trainers.engine.ray_job import in_ray_job, train_on_ray
from trainers.engine.settings import Task, TrainSettings, over, resolve
from trainers.stream.datasets import parse_datasets

#: Least GPU memory in GiB of each preset at its own batch size; the first that fits is taken.
GPU_PRESETS = (("large", 70.0), ("base", 30.0), ("small", 0.0))


def main(task: Task, arguments: list[str] | None = None) -> int:
    """Run a trainer; returns the exit status: 0 done, 1 failed, 2 wrong call."""
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        if "--help" in arguments or "-h" in arguments:
            print(help_text(task))
            return 0
        if arguments == ["--version"]:
            print(f"geoshards {code_version()}")
            return 0
        settings, quiet, as_json = parse(task, arguments)
        root = data_root(settings.data)
    except ConfigError as error:
        return _fail(error, 2)
    except GeoshardsError as error:
        return _fail(error, 1)
    out = expand(settings.out or f"runs/{task.name}-{time.strftime('%Y%m%d-%H%M%S')}")
    on_cluster = in_ray_job() and not settings.dry_run
    try:
        summary = (train_on_ray if on_cluster else train)(task, settings, root, out, quiet)
    except (GeoshardsError, OSError) as error:
        status = _fail(error, 1)
        if on_cluster:  # a thread may still be inside of Ray, where an orderly end of the interpreter can crash
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)
        return status
    if int(os.environ.get("RANK", 0)) == 0:
        _show(summary, quiet, as_json)
    return 0


def _fail(error: Exception, status: int) -> int:
    print(f"error: {visible(str(error))}", file=sys.stderr)
    return status


def parse(task: Task, arguments: list[str]) -> tuple[TrainSettings, bool, bool]:
    """(settings, quiet, json) of the command line.

    Raises:
        ConfigError: an unknown option, a word that is no key=value, an unknown setting, a file that cannot be read.
    """
    overrides: list[str] = []
    file: dict[str, Any] = {}
    quiet = as_json = False
    words = iter(arguments)
    for word in words:
        if word == "--quiet":
            quiet = True
        elif word == "--json":
            as_json = True
        elif word == "--config" or word.startswith("--config="):
            name = word.partition("=")[2] or next(words, "")
            file = over(file, _config_file(name))
        elif "=" in word and not word.startswith("-"):
            overrides.append(word)
        else:
            raise ConfigError(f"{word!r} is not understood; write key=value, for example steps=20, or see --help")
    settings = resolve(task, file, overrides, automatic_preset())
    return resolved(settings, absolute), quiet, as_json  # workers elsewhere find what the user meant here


def _config_file(name: str) -> dict[str, Any]:
    if not name:
        raise ConfigError("--config needs a file name")
    with at_the_door(f"--config {name} cannot be read", kind=ConfigError):
        return parse_settings(local_path(name).read_text(encoding="utf-8"), name)


def automatic_preset() -> str:
    """The preset of model=auto: tiny without a GPU, else the largest that its memory holds."""
    if not torch.cuda.is_available():
        return "tiny"
    memory = torch.cuda.get_device_properties(0).total_memory / 2**30
    return next(name for name, least in GPU_PRESETS if memory >= least)


def data_root(data: str) -> str:
    """The datasets: the setting, else GEOSHARDS_DATA, else data/demo here or in the repository.

    Raises:
        ConfigError: the setting cannot be read.
    """
    data = data or os.environ.get("GEOSHARDS_DATA", "")
    if not data:
        here, there = Path("data/demo"), ROOT / "data" / "demo"
        return str(there if there.exists() and not here.exists() else here)
    parse_datasets(data)
    return data


def _show(summary: dict[str, Any], quiet: bool, as_json: bool) -> None:
    if as_json:
        print(json.dumps(summary))
    elif not quiet:
        plain = "\n".join(visible(f"{name}: {value}") for name, value in summary.items())
        print(format_table(summary["stages"]) if "stages" in summary else plain)
        for message in summary.get("corrupt", []):
            print(f"unreadable: {visible(message)}", file=sys.stderr)
        if "out" in summary:
            print(f"checkpoint: {summary['out']}/checkpoint.pt")


def help_text(task: Task) -> str:
    """What --help prints: usage, then every setting with its default."""
    return "\n".join([
        task.summary,
        "",
        f"usage: python trainers/{task.name}.py [data=DIR[,DIR…]] [out=RUN] [preset={'|'.join(task.presets.recipes)}]",
        "       [model=tiny|small|base|large] [steps=N|epochs=N] [key=value …] [--config FILE] [--quiet] [--json]",
        f"       python trainers/{task.name}.py --version",
        "",
        "settings and their defaults (model=, fidelity= and preset= change some of them):",
        settings_help(task.settings(), inspect.getsource),
        "",
        f"sizes: {', '.join(task.presets.sizes)}; recipes: {', '.join(task.presets.recipes)}; "
        f"reads samples with: {task.select}",
    ])  # fmt: skip
