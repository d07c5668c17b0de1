"""Inputs that a cache behind a URL holds for all nodes of a cluster: each lies under its hash, beside a note of it."""

from __future__ import annotations

import json
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

from schemas.errors import DatasetError, InputError
from storage.files import file_sha256
from storage.store import Store, place_of
from storage.urls import is_local, shown

_INPUTS, _NOTE = "inputs-held", ".json"
#: Files that are sent at once.
_TRANSFERS = 8


@dataclass(frozen=True)
class Held:
    """A file that is held."""

    url: str
    sha256: str
    bytes: int


def held_in(home: Store, path: str | Path) -> Held:
    """The file at a path of this machine, sent unless it is there already; or what is known of one that is held.

    Raises:
        InputError, DatasetError: it cannot be read or sent; or a URL is of no file that is held.
    """
    if not is_local(str(path)):
        return _known(str(path))
    own = Path(path)
    digest = file_sha256(own)
    return hold(home, held_name(digest, own.name), own, digest)


def held_name(digest: str, name: str) -> str:
    """Where `held_in` puts a file of this machine, by its SHA-256 (hex) and its name."""
    return f"{_INPUTS}/{digest[:20]}/{name}"


def hold(home: Store, name: str, path: Path, digest: str) -> Held:
    """Send a file of this machine under a name, its note last; one that is there is left alone."""
    held = Held(home.path(name), digest, path.stat().st_size)
    if find_held(home, name) != held:
        home.send(name, path)
        home.write(f"{name}{_NOTE}", json.dumps(asdict(held) | {"url": ""}).encode())
    return held


def find_held(home: Store, name: str) -> Held | None:
    """What is known of the file of a name; None: it is not there."""
    try:
        found = json.loads(home.read(f"{name}{_NOTE}"))
        return Held(home.path(name), str(found["sha256"]), int(found["bytes"]))
    except (DatasetError, ValueError, KeyError, TypeError):
        return None


def is_held(url: str) -> bool:
    """Whether a URL is of a file that is held."""
    home, name = place_of(url)
    return find_held(home, name) is not None


def local_copy(path: str | Path) -> Path:
    """The path of a file on this machine: its own, or that of a copy.

    Raises:
        InputError: there is none behind the URL.
    """
    if is_local(str(path)):
        return Path(path)
    store, name = place_of(path)
    try:
        return store.local(name)
    except FileNotFoundError:
        raise InputError(f"{shown(str(path))} does not exist; run the same again") from None


def _known(url: str) -> Held:
    home, name = place_of(url)
    if (found := find_held(home, name)) is None:
        raise InputError(f"{shown(url)} is not held by the cache; run the same again")
    return found


def hold_by_hash(home: Store, folder: str, paths: Collection[str]) -> dict[str, str]:
    """URLs of files of this machine by their paths; each is sent, unless it is there, and named by its SHA-256.

    Raises:
        InputError, DatasetError: one cannot be read or sent.
    """

    def one(path: str) -> str:
        digest = file_sha256(Path(path))
        name = f"{folder}/{digest[:2]}/{digest}"
        if not home.exists(name):
            home.send(name, Path(path))
        return home.path(name)

    with ThreadPoolExecutor(_TRANSFERS) as pool:
        return dict(zip(paths, pool.map(one, paths), strict=True))


def hash_of(path: str) -> str:
    """SHA-256 (hex) of a file of this machine, or of one that `hold_by_hash` sent."""
    return file_sha256(Path(path)) if is_local(path) else name_of(path)


def size_of(path: str | Path) -> int:
    """Bytes of a file of this machine, or of one that is held."""
    return Path(path).stat().st_size if is_local(str(path)) else _known(str(path)).bytes


def name_of(path: str | Path) -> str:
    """Name of a file, of its path or URL."""
    return str(path).rpartition("/")[2]
