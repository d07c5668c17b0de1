"""Local files and folders that appear whole or not at all: written beside their place, flushed, renamed."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import file_digest
from pathlib import Path
from typing import Any
from uuid import uuid4

from storage.owner import is_gone, mark

#: How the name of what is not whole yet ends; what a killed process left of it may be deleted.
UNFINISHED = ".tmp"
_DAY, _NOBODY = 86_400.0, "left"


@contextmanager
def atomic_file(path: Path, durable: bool = True) -> Iterator[Path]:
    """The path of a new file for the block to write, which takes its place at ``path`` if the block ends well.

    Args:
        path: its folder is made.
        durable: flush it to the disk first, so that a crash of the machine leaves the old file or the whole new one.
            False where a reader notices a damaged file and makes it again.

    Raises:
        OSError: it cannot be written.
    """
    fresh = beside(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        yield fresh
        publish(fresh, path, durable)
    finally:
        fresh.unlink(missing_ok=True)


def publish(fresh: Path, path: Path, durable: bool = True) -> None:
    """Let a whole file of the same file system take its place at ``path``."""
    if durable:
        _sync(fresh)
    fresh.replace(path)
    if durable:
        _sync(path.parent)


def put(path: Path, data: bytes | str, durable: bool = True) -> None:
    """Write a whole file, text as UTF-8; see :func:`atomic_file`."""
    with atomic_file(path, durable) as fresh:
        fresh.write_bytes(data.encode() if isinstance(data, str) else data)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """A new folder for the block to fill, which takes the place of what is at ``path`` if the block ends well.

    Raises:
        OSError: it cannot be written.
    """
    fresh = beside(path)
    fresh.mkdir(parents=True)
    try:
        yield fresh
        publish_folder(fresh, path)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def publish_folder(fresh: Path, path: Path) -> None:
    """Let a whole folder of the same file system take its place at ``path``; what is there goes."""
    for entry in fresh.rglob("*"):
        _sync(entry)
    _sync(fresh)
    old = beside(path)
    try:
        if path.exists():
            path.rename(old)
        fresh.rename(path)
        _sync(path.parent)
    finally:
        shutil.rmtree(old, ignore_errors=True)


def file_sha256(path: Path) -> str:
    """SHA-256 (hex) of a file's content."""
    with path.open("rb") as file:
        return file_digest(file, "sha256").hexdigest()


def read_note(path: Path) -> dict[str, Any]:
    """A small JSON object; empty where there is none, or none that can be read: what it says is then found out anew."""
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def beside(path: Path, marked: str = "") -> Path:
    """A new name for what is to take its place at ``path``, hidden, in the same folder; of this process, unless it is
    ``marked`` otherwise."""
    return path.with_name(f".{path.name}.{marked or mark()}.{uuid4().hex[:8]}{UNFINISHED}")


def abandoned(path: Path) -> Path:
    """A name of the same kind that belongs to nobody: what is there may be swept, or gone on with."""
    return beside(path, _NOBODY)


def is_left(path: Path) -> bool:
    """Whether a file or folder is an unfinished one (`beside`) whose process has ended, or, where that cannot be known,
    has not touched it for a day."""
    if not path.name.startswith(".") or not path.name.endswith(UNFINISHED):
        return False
    owner = path.name.removesuffix(UNFINISHED).split(".")[-2]
    gone = owner == _NOBODY or is_gone(owner)
    try:
        return time.time() - path.stat().st_mtime > _DAY if gone is None else gone
    except FileNotFoundError:
        return False


def _sync(path: Path) -> None:
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)
