"""Checkpoints: one ``.pt`` dict of tensors and plain values, written whole or not at all, read without unpickling."""

from __future__ import annotations

import io
import subprocess
import warnings
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from schemas.errors import DatasetError, InputError, reason_of
from storage.files import atomic_file
from storage.store import place_of
from trainers import ROOT

#: Version of the checkpoint's layout; a reader refuses another.
LAYOUT = 2
FILE_NAME, BEST_NAME = "checkpoint.pt", "best.pt"
KEYS = ("model", "optimizer", "scheduler", "rng", "stream", "dataset", "config", "version", "step", "evaluation")


@cache
def code_version() -> str:
    """Version of this code: that of the package, and the commit where it runs from a checkout."""
    try:
        package = metadata.version("geoshards")
    except metadata.PackageNotFoundError:  # run from a copy that is not installed
        package = "0"
    if not (ROOT / ".git").exists():  # an installed package may lie within a checkout of something else
        return package
    command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty"]
    try:
        commit = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return package
    return f"{package}+g{commit}"


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write ``state`` to ``path``; a crash leaves the old or the new.

    Raises:
        InputError: the disk does not take it.
    """
    try:
        with atomic_file(path) as fresh, fresh.open("wb") as file:  # of a path torch would store the name
            torch.save(state, file)
    except (
        OSError,
        RuntimeError,
    ) as error:  # torch, closing the file, fails in its turn
        found: BaseException | None = error
        while found is not None and not isinstance(found, OSError):
            found = found.__context__
        if found is None:
            raise
        what = f"{path} cannot be written: {reason_of(found)}"
        raise InputError(f"{what}; free space, and go on with resume=auto") from None


def has_checkpoint(path: str | Path) -> bool:
    """Whether there is a file at a path or URL.

    Raises:
        DatasetError: the store does not answer.
    """
    store, name = place_of(path)
    return store.exists(name)


def load_checkpoint(path: str | Path) -> dict[str, Any]:
    """The checkpoint at a path or URL, on the CPU.

    Raises:
        DatasetError: the file is missing, damaged, lacks a part, or has another version; its store does not answer.
    """
    store, name = place_of(path)
    if not store.exists(name):
        raise DatasetError(f"{path} does not exist; give the path or URL of checkpoint.pt or best.pt of a run")
    source = io.BytesIO(store.read(name)) if store.remote else store.path(name)
    try:
        with warnings.catch_warnings(action="ignore"):  # of pickles, in several lines
            state = torch.load(source, map_location="cpu", weights_only=True)
    except Exception as error:  # noqa: BLE001  # whatever torch makes of a stranger's file
        first = str(error).partition("\n")[0]
        raise DatasetError(f"{path} is no checkpoint or is damaged ({first}); start anew with another out=…") from None
    missing = [key for key in KEYS if not isinstance(state, dict) or key not in state]
    if missing:
        raise DatasetError(f"{path} lacks {', '.join(missing)}; it was not written by a trainer of geoshards")
    layout = state["version"].get("layout") if isinstance(state["version"], dict) else state["version"]
    if layout != LAYOUT:
        raise DatasetError(f"{path} has checkpoint layout {layout}, this trainer knows {LAYOUT}; train it anew")
    return dict(state)


def rng_state() -> dict[str, Any]:
    """State of torch's generators of this process."""
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    return {"torch": torch.get_rng_state(), "cuda": cuda}


def set_rng_state(state: dict[str, Any]) -> None:
    """Inverse of :func:`rng_state`; other numbers of GPUs keep their own state."""
    torch.set_rng_state(state["torch"])
    if torch.cuda.is_available() and len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(state["cuda"])
