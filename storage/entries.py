"""Entries of a cache, named by what they are made from: made in a private folder, published by one rename.

An entry is a folder. Its marker, written last, holds its description and the size and SHA-256 of each of its files;
what has no marker, or one that its files do not fit, is no entry and is made again. Nobody changes an entry, and
nothing but a damaged one is ever replaced, so that any number of builds read it while others are made beside it.
"""

from __future__ import annotations

import errno
import json
import os
import time
from collections.abc import Callable, Collection
from contextlib import suppress
from pathlib import Path
from typing import Any

from schemas.errors import DatasetError, GeoshardsError, InputError
from storage.files import UNFINISHED, abandoned, beside, file_sha256, is_left, publish_folder, put, read_note
from storage.locks import LOCK, locked
from storage.store import Store

MARKER = "entry.json"
#: What a disk says that takes nothing.
_REFUSED = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR})


def find_entry(folder: Path) -> dict[str, Any] | None:
    """The description of a whole entry, whose time of use is noted; None: there is none."""
    marker = _marker(folder)
    if marker is None or any(_size(folder / name) != size for name, (size, _) in marker["files"].items()):
        return None
    with suppress(OSError):  # a cache that is read alone
        os.utime(folder / MARKER)
    return dict(marker["about"])


def have_entry(
    folder: Path, make: Callable[[Path], dict[str, Any]], told: Callable[[str], None] | None = None
) -> tuple[dict[str, Any], bool]:
    """The entry at ``folder``, made unless it is there. Of several that want it one makes it and the others wait.

    Args:
        folder: its name says what it is made from.
        make: fills the folder that it is given, in which there may be what an interrupted one left, and returns the
            description (as JSON).
        told: called once with a line, if another process is at it.

    Returns:
        Its description, and whether it was there.

    Raises:
        InputError: the cache cannot be written.
    """
    found = find_entry(folder)
    if found is not None:
        return found, True
    waited = False

    def wait() -> None:
        nonlocal waited
        if told is not None and not waited:
            told(f"{folder.name}: another process makes it; waiting")
        waited = True
        time.sleep(0.1)

    try:
        with locked(folder.with_name(f".{folder.name}{LOCK}"), wait):
            found = find_entry(folder)
            return (found, True) if found is not None else (_make(folder, make), False)
    except OSError as error:
        at = Path(str(error.filename or ""))
        if error.errno not in _REFUSED or folder.parent not in (at, *at.parents):
            raise
        raise InputError(
            f"{at} cannot be written: {error.strerror}; free space, or choose another cache (cache=…, GEOSHARDS_CACHE)"
        ) from None


def find_place(store: Store) -> dict[str, Any] | None:
    """`find_entry` of a folder or of what lies behind a URL."""
    if not store.remote:
        return find_entry(Path(store.root))
    try:
        marker = _parsed(json.loads(store.read(MARKER)))
    except (DatasetError, ValueError):
        return None
    if marker is None:
        return None
    sizes = _sizes(store, {name.rpartition("/")[0] for name in marker["files"]})
    return marker["about"] if all(sizes.get(n) == size for n, (size, _) in marker["files"].items()) else None


def have_place(
    store: Store, make: Callable[[Store], dict[str, Any]], told: Callable[[str], None] | None = None
) -> tuple[dict[str, Any], bool]:
    """`have_entry` of a folder, or of what lies behind a URL.

    Behind a URL no lock is held: several that make one entry write the same bytes under the same names, and its marker
    comes last all the same.

    Args:
        store: its name says what it is made from.
        make: fills the store that it is given, and returns the description (as JSON).
        told: as of `have_entry`.
    """
    if not store.remote:
        return have_entry(Path(store.root), lambda fresh: make(Store(fresh)), told)
    if (found := find_place(store)) is not None:
        return found, True
    try:
        about = make(store)
    except GeoshardsError:
        if (found := find_place(store)) is not None:  # another has made it meanwhile, and has tidied up
            return found, True
        raise
    files = {name: (size, "") for name, size in _sizes(store, {n.rpartition("/")[0] for n in store.walk()}).items()}
    store.write(MARKER, json.dumps({"about": about, "files": files}, sort_keys=True).encode())
    return dict(about), False


def _sizes(store: Store, folders: Collection[str]) -> dict[str, int]:
    """Bytes of the files in some folders of a store, by their names in it; the marker is none."""
    found = {f"{folder}/{name}".lstrip("/"): size for folder in folders for name, size in store.sizes(folder).items()}
    found.pop(MARKER, None)
    return found


def entry_problems(folder: Path) -> list[str]:
    """What is wrong with the files of an entry, one line each, their content included."""
    marker = _marker(folder)
    if marker is None:
        return [f"{folder}: without its marker"]
    found = []
    for name, (size, digest) in marker["files"].items():
        path = folder / name
        if _size(path) is None:
            found.append(f"{path}: missing")
        elif _size(path) != size or file_sha256(path) != digest:
            found.append(f"{path}: its content is not what was written")
    extra = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()} - {MARKER, *marker["files"]}
    return found + [f"{folder / name}: not of the entry" for name in sorted(extra)]


def _make(folder: Path, make: Callable[[Path], dict[str, Any]]) -> dict[str, Any]:
    fresh = beside(folder)
    left = [p for p in folder.parent.glob(f".{folder.name}.*{UNFINISHED}") if p.is_dir() and is_left(p)]
    if left:  # by one that was interrupted: the maker goes on with what is finished
        left[0].rename(fresh)
    else:
        fresh.mkdir(parents=True)
    try:
        about = dict(make(fresh))
        paths = sorted(p for p in fresh.rglob("*") if p.is_file())
        files = {p.relative_to(fresh).as_posix(): (p.stat().st_size, file_sha256(p)) for p in paths}
        put(fresh / MARKER, json.dumps({"about": about, "files": files}, sort_keys=True))
        publish_folder(fresh, folder)
    except BaseException:
        with suppress(OSError):
            fresh.rename(abandoned(folder))
        raise
    return about


def _marker(folder: Path) -> dict[str, Any] | None:
    return _parsed(read_note(folder / MARKER))


def _parsed(found: Any) -> dict[str, Any] | None:
    with suppress(ValueError, TypeError, KeyError, AttributeError, OverflowError):
        files = {str(name): (int(size), str(digest)) for name, (size, digest) in found["files"].items()}
        return {"about": dict(found["about"]), "files": files}
    return None


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except OSError:
        return None
