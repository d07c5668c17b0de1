"""Local files and folders that appear whole or not at all: written beside their place, flushed, renamed."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import file_digest
from pathlib import Path
from uuid import uuid4

#: How the name of what is not whole yet ends; what a killed process left of it may be deleted.
UNFINISHED = ".tmp"


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
    fresh = _beside(path)
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
    fresh, old = _beside(path), _beside(path)
    fresh.mkdir(parents=True)
    try:
        yield fresh
        for entry in fresh.rglob("*"):
            _sync(entry)
        if path.exists():
            path.rename(old)
        fresh.rename(path)
        _sync(path.parent)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def file_sha256(path: Path) -> str:
    """SHA-256 (hex) of a file's content."""
    with path.open("rb") as file:
        return file_digest(file, "sha256").hexdigest()


def _beside(path: Path) -> Path:
    return path.with_name(f".{path.name}.{os.getpid()}.{uuid4().hex[:8]}{UNFINISHED}")


def _sync(path: Path) -> None:
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)
