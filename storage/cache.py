"""The cache as a whole: who uses it, what killed processes left in it, what it holds, and what can go.

An item is what is made or dropped at once: an entry (`storage.entries`), or else a file or folder of one folder.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

from storage.entries import MARKER
from storage.files import beside, is_left
from storage.locks import BREAK, LOCK, broken, locked
from storage.owner import Owner

_USERS, _PRUNING = ".users", ".pruning"
#: What names the inputs of datasets, and files of runs that have not reached their store: kept, as none of it can be
#: made again.
_KEPT = frozenset({"inputs", "runs"})
#: Extracts that datasets were made from, hard links for the most part: the last to go.
_LAST = frozenset({"bases"})
#: Of remote rasters, in sparse files.
_SPARSE = frozenset({"ranges"})
#: Files that mark a folder as one item.
_MARKERS = (MARKER, "demo.json", "meta.json")


@contextmanager
def using(cache: Path) -> Iterator[None]:
    """Note that this process uses the cache, until the block ends. What interrupted ones left unfinished is swept when
    it ends well: until then it may be gone on with. A cache that cannot be written is used all the same."""
    note = cache / _USERS / uuid4().hex
    try:
        with locked(cache / _PRUNING):
            note.parent.mkdir(parents=True, exist_ok=True)
            note.write_text(Owner.here().text())
    except OSError:
        yield
        return
    yield
    with suppress(OSError):
        dead = [path for path, owner in _users(cache) if owner is None or owner.alive() is False]
        if dead:
            sweep(cache)
        for path in (note, *dead):
            path.unlink(missing_ok=True)
        note.parent.rmdir()


def sweep(cache: Path) -> int:
    """Remove unfinished files and folders whose process has ended, and its locks; how many."""
    count = 0
    for folder, folders, files in os.walk(cache):
        for name in (*sorted(files), *folders):  # what guards the end of a lock comes before it
            path = Path(folder, name)
            if is_left(path):
                count += 1
                if name in folders:
                    folders.remove(name)
                    shutil.rmtree(path, ignore_errors=True)
                else:
                    path.unlink(missing_ok=True)
            elif name.startswith(".") and name.endswith((LOCK, BREAK)):
                count += broken(path)
    return count


@dataclass(frozen=True)
class Item:
    """Something in the cache."""

    kind: str  # features, extracts, …
    path: Path
    bytes: int  # that its end frees
    used: float  # seconds since 1970, when it was last read or written


def contents(cache: Path) -> list[Item]:
    """All items, by kind and path. What is not finished is none."""
    found = []
    for top in sorted(cache.iterdir()) if cache.is_dir() else ():
        if top.name.startswith("."):
            continue
        kind = top.name.partition("-")[0].removesuffix(".json")
        found += [_item(kind, path) for path in _items(top)]
    return [item for item in found if item is not None]


def prune(cache: Path, keep: int) -> list[Item]:
    """Drop the items used longest ago until the others have ``keep`` bytes at most, but nothing that was used since the
    oldest process began that uses the cache now, and nothing that cannot be made again.

    Returns:
        Those that are gone.
    """
    with locked(cache / _PRUNING):  # nobody begins to use it meanwhile
        sweep(cache)
        living = [path for path, owner in _users(cache) if owner is not None and owner.alive() is not False]
        since = min((path.stat().st_mtime for path in living), default=float("inf"))
        items = [item for item in contents(cache) if item.kind not in _KEPT]
        over, gone = sum(item.bytes for item in items) - keep, []
        for item in sorted(items, key=lambda i: (i.kind in _LAST, i.used)):
            if over > 0 and item.used < since:
                _drop(item.path)
                over -= item.bytes
                gone.append(item)
    return gone


def _users(cache: Path) -> list[tuple[Path, Owner | None]]:
    """Notes of processes that use the cache, and who they are (None: it cannot be read)."""
    found = []
    with suppress(FileNotFoundError):
        for path in sorted((cache / _USERS).iterdir()):
            with suppress(FileNotFoundError):
                found.append((path, Owner.parse(path.read_text())))
    return found


def _items(top: Path) -> Iterator[Path]:
    """The items in one thing at the cache's top."""
    if not top.is_dir() or any((top / name).is_file() for name in _MARKERS):
        yield top
        return
    for path in sorted(top.iterdir()):
        if top.name == "photos" and path.is_dir():
            yield from sorted(p for p in path.rglob("*") if p.is_file())
        elif not path.name.startswith("."):
            yield path


def _item(kind: str, path: Path) -> Item | None:
    size, used = 0, 0.0
    with suppress(FileNotFoundError):
        for file in [p for p in path.rglob("*") if p.is_file()] if path.is_dir() else [path]:
            facts = file.stat()
            if facts.st_nlink == 1:
                size += facts.st_blocks * 512 if kind in _SPARSE else facts.st_size
            used = max(used, facts.st_mtime, facts.st_atime)
        return Item(kind, path, size, used)
    return None


def _drop(path: Path) -> None:
    """Take it away at once, so that a marker never stays behind its files."""
    if not path.is_dir():
        path.unlink(missing_ok=True)
        return
    with suppress(FileNotFoundError):
        aside = beside(path)
        path.rename(aside)
        shutil.rmtree(aside, ignore_errors=True)
