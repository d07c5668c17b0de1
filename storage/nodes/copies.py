"""Copies on this machine of files behind URLs, for all of its processes, and a place for what a task has in the making.

A file behind a URL that is read so never changes: its name says what it holds. Its copy is fetched once a machine, and
goes when the disk fills, the one used longest ago first.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from hashlib import sha256
from pathlib import Path
from zlib import crc32

from schemas.errors import ConfigError, InputError
from storage.files import atomic_file, beside, is_left
from storage.locks import locked_places
from storage.retry import patiently
from storage.urls import cache_folder, file_system, is_local

#: Share of the disk that is left free, and seconds for which a copy stays after it was asked for.
_FREE, _GRACE = 0.1, 600.0
_COPIES, _TASK = "copies", "task"


def node_cache(configured: str = "") -> Path:
    """The folder for what this machine alone keeps: the cache, unless that is a URL, which many machines share; then
    ``$GEOSHARDS_CACHE``, else a folder of the user in the system's temporary one.

    Raises:
        ConfigError: ``$GEOSHARDS_CACHE`` is a URL, or that folder is another user's.
    """
    return cache_folder(configured) if is_local(configured) else _own()


def _own() -> Path:
    if os.environ.get("GEOSHARDS_CACHE"):
        return cache_folder()
    found = Path(tempfile.gettempdir(), f"geoshards-{os.getuid()}")
    with suppress(OSError):  # whoever writes there says why it cannot
        found.mkdir(mode=0o700, exist_ok=True)
        if found.is_symlink() or found.stat().st_uid != os.getuid():  # anybody may have made it
            raise ConfigError(f"{found} is not yours; set GEOSHARDS_CACHE on this machine to a folder that is")
    return found


def copy_of(root: str, name: str) -> Path:
    """The copy of a file below a URL; who wants it while another process fetches it waits.

    Raises:
        FileNotFoundError: there is no such file.
        DatasetError, InputError: it cannot be had, or this machine has no room for it.
    """
    folder = _own() / _COPIES
    path = folder / sha256(root.encode()).hexdigest()[:16] / name
    if _is_there(path):
        return path
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with locked_places(folder / ".fetching", [crc32(f"{root}/{name}".encode())]):
            if not _is_there(path):
                make_room(folder)
                with atomic_file(path) as fresh:
                    fetch(root, name, fresh)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise InputError(
            f"{path} cannot be written: {error.strerror}; free space, or set GEOSHARDS_CACHE on this machine"
        ) from None
    return path


def fetch(root: str, name: str, target: Path) -> None:
    """Write a file below a URL to a path of this machine.

    Raises:
        FileNotFoundError: there is no such file.
        DatasetError, InputError: it cannot be had.
        OSError: it cannot be written.
    """
    fs, base = file_system(root)

    def once() -> None:
        size = fs.info(f"{base}/{name}")["size"]
        fs.get_file(f"{base}/{name}", str(target))
        if target.stat().st_size != size:
            raise EOFError(f"{target.stat().st_size} of {size} bytes came")

    patiently(f"{root}/{name}", once)


def make_room(folder: Path, free: float = _FREE, grace: float = _GRACE) -> None:
    """Drop copies until a share ``free`` of the disk is, but none that was asked for in the last ``grace`` seconds; who
    has one open goes on, from what has no name now."""
    usage = shutil.disk_usage(folder)
    over = int(usage.total * free) - usage.free
    if over <= 0:
        return
    found = []
    for path in folder.rglob("*"):
        with suppress(OSError):
            facts = path.stat()
            if path.is_file() and not path.name.startswith("."):
                found.append((facts.st_mtime, facts.st_blocks * 512, path))
    for used, size, path in sorted(found):
        if over <= 0 or time.time() - used < grace:
            return
        path.unlink(missing_ok=True)
        over -= size


@contextmanager
def scratch() -> Iterator[Path]:
    """A folder of this machine for the block, which goes with it; those that killed processes left go first.

    Raises:
        InputError: it cannot be made.
    """
    own = _own()
    fresh = beside(own / _TASK)
    for left in own.glob(f".{_TASK}.*"):
        if is_left(left):
            shutil.rmtree(left, ignore_errors=True)
    try:
        fresh.mkdir(parents=True)
    except OSError as error:
        raise InputError(
            f"{own} cannot be written: {error.strerror}; set GEOSHARDS_CACHE on this machine to a folder that can"
        ) from None
    try:
        yield fresh
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def _is_there(path: Path) -> bool:
    try:
        os.utime(path)  # when it was last asked for
    except OSError:
        return False
    return True
