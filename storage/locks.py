"""Locks as files that name their owner: they need no locks of the kernel, so that any file system will do.

A lock is a file made by a hard link, which one of many gets. An owner that is gone is known at once on its own machine;
on another, by its silence, since a living one touches its file every few seconds. What guards work that is published by
one rename may be broken so: in the worst case the work is done twice.
"""

from __future__ import annotations

import fcntl
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

from schemas.errors import DatasetError, InputError, LockError, reason_of
from storage.files import beside
from storage.owner import Owner
from storage.retry import patiently
from storage.urls import expand, file_system, is_local, shown

#: Seconds between two signs of life, and how long an owner elsewhere may give none.
BEAT, SILENCE = 10.0, 60.0
#: How the names of locks end that guard what is made, and of those that are held while one is broken.
LOCK, BREAK = ".lock", ".break"


@contextmanager
def locked(path: Path, wait: Callable[[], None] | None = None) -> Iterator[None]:
    """Hold the file ``path`` alone, among processes and threads of all machines; it is there only while it is held.

    It guards work whose result appears whole by one rename: an owner elsewhere that has been silent for `SILENCE`
    seconds counts as gone.

    Args:
        path: its folder is made.
        wait: called before every further attempt: it sleeps, or raises to give up. By default it sleeps.

    Raises:
        OSError: it cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    while (token := _claim(path)) is None:
        if not broken(path, SILENCE):
            (wait or (lambda: time.sleep(0.05)))()
    with _held(path, token):
        yield


@contextmanager
def locked_places(path: Path, places: Sequence[int]) -> Iterator[None]:
    """Hold places (bytes) of the file ``path``, among processes of this machine: many small locks in one file, which
    stays. Where the file system knows no locks nothing is held: the same work may be done twice."""
    with path.open("a") as file:  # its end gives back all of them
        with suppress(OSError):
            for place in sorted(set(places)):  # rising, so that no two processes wait for each other
                fcntl.lockf(file, fcntl.LOCK_EX, 1, place)
        yield


@contextmanager
def one_writer(folder: str) -> Iterator[None]:
    """Hold a folder for writing with ``.lock`` in it, which names its owner; a second writer is refused.

    The lock of a process of this machine that is gone is taken over; that of another machine is not, since it may live
    where this one cannot see it.

    Raises:
        LockError: another process writes there.
        InputError: it cannot be written.
    """
    if not is_local(folder):
        with _one_remote_writer(folder):
            yield
        return
    path = Path(expand(folder)) / ".lock"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        while (token := _claim(path)) is None:
            if not broken(path, None):
                raise LockError(_refusal(path))
    except OSError as error:
        raise InputError(f"{path.parent} cannot be written: {error.strerror}; choose another out") from None
    with _held(path, token):
        yield


def _refusal(path: Path) -> str:
    try:
        owner, age = Owner.parse(path.read_text()), max(0.0, time.time() - path.stat().st_mtime)
    except OSError:
        owner, age = None, 0.0
    return _refused(str(path.parent), str(path), owner, f", whose last sign of life is {age:.0f} s old")


def _refused(folder: str, path: str, owner: Owner | None, said: str) -> str:
    who = "another process" if owner is None else f"process {owner.pid} on {owner.host}"
    return (
        f"{folder} is being written by {who}{said}; wait for it, choose another out, or delete {path} if that process "
        "is gone"
    )


@contextmanager
def _one_remote_writer(folder: str) -> Iterator[None]:
    """The same in an object store, by a put on the condition that there is none (If-None-Match).

    What is written there has the same names and bytes whoever writes it, so an owner on another machine that gives no
    sign of life for `SILENCE` seconds counts as gone: nodes of a cluster are.
    """
    fs, path = file_system(f"{folder.rstrip('/')}/.lock")
    url, mine = f"{shown(folder)}/.lock", Owner.here(uuid4().hex).text().encode()

    def held() -> bytes:
        try:
            return bytes(patiently(url, lambda: fs.cat_file(path)))
        except FileNotFoundError:
            return b""

    def claim() -> bool:
        try:
            patiently(url, lambda: fs.pipe_file(path, mine, mode="create"))
        except FileExistsError:
            return held() == mine  # an answer was lost on the way
        except NotImplementedError:  # a store without conditions: the next best
            if held():
                return False
            fs.pipe_file(path, mine)
        return True

    try:
        while not claim():
            seen = held()
            owner = Owner.parse(seen.decode(errors="replace"))
            gone = owner is not None and (owner.alive() is False or (owner.alive() is None and _is_silent(fs, path)))
            if not gone:
                raise LockError(_refused(shown(folder), url, owner, ""))
            if held() == seen:
                fs.rm_file(path)
    except FileNotFoundError:
        raise InputError(f"{shown(folder)}: there is no such bucket; create it, or mend the address") from None
    except OSError as error:
        raise InputError(f"{shown(folder)} cannot be written: {reason_of(error)}; check your rights to it") from None
    done = threading.Event()

    def beat() -> None:
        while not done.wait(BEAT):
            with suppress(OSError, DatasetError):
                if held() != mine:
                    return
                fs.pipe_file(path, mine)

    thread = threading.Thread(target=beat, name="lock", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
        with suppress(OSError, DatasetError):
            if held() == mine:
                fs.rm_file(path)


def _is_silent(fs: Any, path: str) -> bool:
    """Whether the file of an owner elsewhere is not written anew while we watch it; not where the store does not say
    when it was."""

    def written() -> Any:
        facts, names = fs.info(path), ("LastModified", "last_modified", "mtime", "updated")
        return next((facts[name] for name in names if name in facts), None)

    first, deadline = written(), time.monotonic() + SILENCE
    while first is not None and time.monotonic() < deadline:
        time.sleep(BEAT / 4)
        try:
            if written() != first:
                return False
        except FileNotFoundError:
            return True
    return first is not None


def _claim(path: Path) -> str | None:
    """Make the lock; its token, or None where there is one."""
    token = uuid4().hex
    text, fresh = Owner.here(token).text(), beside(path)
    try:
        fresh.write_text(text)
        try:
            os.link(fresh, path)
        except FileExistsError:
            return None
        except OSError:  # a file system without hard links: its owner is in it a moment later
            return token if _written(path, text) else None
    finally:
        fresh.unlink(missing_ok=True)
    return token


def _written(path: Path, text: str) -> bool:
    """Whether there was no such file, and now is; one that a full disk would leave without its owner goes again."""
    try:
        file = path.open("x")
    except FileExistsError:
        return False
    try:
        with file:
            file.write(text)
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    return True


@contextmanager
def _held(path: Path, token: str) -> Iterator[None]:
    """Give signs of life until the block ends, then give the lock back."""
    done = threading.Event()

    def beat() -> None:
        while not done.wait(BEAT):
            if _token(path) != token:
                return
            with suppress(OSError):
                os.utime(path)

    thread = threading.Thread(target=beat, name=f"lock {path.name}", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        if _token(path) == token:
            path.unlink(missing_ok=True)


def _token(path: Path) -> str | None:
    try:
        owner = Owner.parse(path.read_text())
    except OSError:
        return None
    return None if owner is None else owner.token


def broken(path: Path, silence: float | None = SILENCE) -> bool:
    """Whether the lock's owner was gone, and the lock is now free. One breaks it at a time, so that nobody breaks the
    lock of who came after.

    Args:
        path: the lock.
        silence: seconds after which an owner elsewhere counts as gone; None: never.
    """
    if not _is_stale(path, silence):
        return False
    guard = path.with_name(f".{path.name}{BREAK}")
    if _claim(guard) is None:
        if _is_stale(guard, SILENCE):  # killed between two system calls
            guard.unlink(missing_ok=True)
        return False
    try:
        if _is_stale(path, silence):
            path.unlink(missing_ok=True)
    finally:
        guard.unlink(missing_ok=True)
    return True


def _is_stale(path: Path, silence: float | None) -> bool:
    """Whether the owner is known to be gone, or is not known to live and has been silent for so many seconds."""
    try:
        owner = Owner.parse(path.read_text())
        alive = None if owner is None else owner.alive()
        if alive is not None or silence is None:
            return alive is False
        return _clock(path) - path.stat().st_mtime > silence
    except FileNotFoundError:
        return False


def _clock(path: Path) -> float:
    """The time now as the file system counts it, which may be another machine's."""
    probe = beside(path)
    try:
        probe.touch()
        return probe.stat().st_mtime
    finally:
        probe.unlink(missing_ok=True)
