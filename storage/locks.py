"""Locks of the kernel on local files: they end with the process that holds them, however it ends."""

from __future__ import annotations

import fcntl
import json
import os
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO
from uuid import uuid4

from schemas.errors import InputError, LockError
from storage.urls import expand, is_local


@contextmanager
def locked(path: Path, wait: Callable[[], None] | None = None) -> Iterator[None]:
    """Hold the file ``path`` alone, among processes and threads; it is there only while it is held.

    Args:
        path: its folder is made.
        wait: called before every further attempt: it sleeps, or raises to give up. None waits in the kernel.

    Raises:
        OSError: it cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    while True:
        with path.open("a") as file:
            if _take(file, path, waits=wait is None):
                try:
                    yield
                finally:
                    path.unlink(missing_ok=True)
                return
        if wait is not None:
            wait()


@contextmanager
def locked_places(path: Path, places: Sequence[int]) -> Iterator[None]:
    """Hold places (bytes) of the file ``path``, among processes: many small locks in one file, which stays."""
    with path.open("a") as file:  # its end gives back all of them
        for place in sorted(set(places)):  # rising, so that no two processes wait for each other
            fcntl.lockf(file, fcntl.LOCK_EX, 1, place)
        yield


@contextmanager
def one_writer(folder: str) -> Iterator[None]:
    """Hold a folder for writing with ``.lock`` in it, which names its owner; a second writer is refused.

    Local folders only: an object store has no exclusive create in fsspec. The lock of a process of this host that is
    gone is taken over; that of another host is not, since some network file systems lock each host for itself.

    Raises:
        LockError: another process writes there.
        InputError: it cannot be written.
    """
    if not is_local(folder):
        yield
        return
    path = Path(expand(folder)) / ".lock"
    owner = json.dumps({"host": socket.gethostname(), "pid": os.getpid()})
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = _claim(path, owner)
    except OSError as error:
        raise InputError(f"{path.parent} cannot be written: {error.strerror}; choose another out") from None
    with file:
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def _claim(path: Path, owner: str) -> TextIO:
    """The lock's file, held; it appears with its owner in it and locked, or is that of a process that is gone."""
    fresh = path.with_name(f".lock.{os.getpid()}.{uuid4().hex[:8]}")
    file = fresh.open("x+")
    try:
        file.write(owner)
        file.flush()
        with suppress(OSError):  # a file system without locks: that the file exists is the lock
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        while True:
            try:
                os.link(fresh, path)
                return file
            except FileExistsError:
                found = _taken_over(path)
                if found is not None:
                    file.close()
                    found.seek(0)
                    found.write(owner)
                    found.truncate()
                    return found
    except BaseException:
        file.close()
        raise
    finally:
        fresh.unlink()


def _taken_over(path: Path) -> TextIO | None:
    """The file of an owner of this host that is gone, now held; None where the file itself is gone.

    Raises:
        LockError: the owner lives, or may live.
    """
    try:
        file = path.open("r+")
    except FileNotFoundError:
        return None
    holder: dict[str, object] = {}
    with suppress(ValueError, TypeError):
        holder = dict(json.loads(file.read()))
    try:
        if holder.get("host") in (None, socket.gethostname()) and _take(file, path, waits=False):
            return file
        gone = not path.exists()
    except OSError:  # a file system without locks
        gone = False
    file.close()
    if gone:
        return None
    raise LockError(
        f"{path.parent} is being written by process {holder.get('pid', '?')} on {holder.get('host', '?')}; wait for "
        f"it, choose another out, or delete {path} if that process is gone"
    )


def _take(file: TextIO, path: Path, waits: bool) -> bool:
    """Lock an open file; False where another holds it, or it is no longer the one at ``path``."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if waits else fcntl.LOCK_NB))
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except (BlockingIOError, FileNotFoundError):
        return False
