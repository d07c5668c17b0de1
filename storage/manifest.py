"""``MANIFEST.sha256``: the SHA-256 of every file of a dataset but itself, as ``sha256sum -c`` reads it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path

from schemas.errors import DatasetError
from storage.files import file_sha256
from storage.store import Store

MANIFEST = "MANIFEST.sha256"
_LINE = re.compile(r"([0-9a-f]{64})  ([^\\\n]+)")
#: Files that are hashed at once: reading and hashing take turns.
_THREADS = 4


def read_manifest(store: Store) -> dict[str, str]:
    """SHA-256 (hex) of each file, by name.

    Raises:
        DatasetError: there is none, or it cannot be read.
    """
    try:
        lines = store.read(MANIFEST).decode().split("\n")
    except UnicodeDecodeError as error:
        raise DatasetError(f"{MANIFEST}: cannot be read ({error.reason})") from None
    found: dict[str, str] = {}
    if lines.pop():
        raise DatasetError(f"{MANIFEST}: its last line is cut off")
    for number, line in enumerate(lines, 1):
        match = _LINE.fullmatch(line)
        if match is None or match[2] in found:
            raise DatasetError(f"{MANIFEST}: line {number} is no hash and name of another file")
        found[match[2]] = match[1]
    return found


def write_manifest(store: Store, known: Mapping[str, str] | None = None) -> None:
    """Write it anew; ``known`` are hashes of files that need not be read, or are written next."""
    known = known or {}
    read = digests(store, [name for name in store.walk() if name not in known and name != MANIFEST])
    _write(store, {**read, **known})


def amend_manifest(store: Store, names: Iterable[str]) -> None:
    """Enter files that were written, or are gone, into the manifest of a dataset that has one."""
    if store.exists(MANIFEST):
        changed = digests(store, list(names))
        _write(store, {n: d for n, d in (read_manifest(store) | changed).items() if d is not None})


def digests(store: Store, names: list[str], told: Callable[[int], None] | None = None) -> dict[str, str | None]:
    """SHA-256 (hex) of each file, None for one that is not there; ``told`` is called with the files done."""
    with ThreadPoolExecutor(_THREADS, "sha256") as pool:
        found = {}
        for name, digest in zip(names, pool.map(lambda name: _digest(store, name), names), strict=True):
            found[name] = digest
            if told is not None:
                told(len(found))
    return found


def _digest(store: Store, name: str) -> str | None:
    try:
        return sha256(store.read(name)).hexdigest() if store.remote else file_sha256(Path(store.path(name)))
    except (DatasetError, FileNotFoundError, NotADirectoryError):
        return None


def _write(store: Store, found: Mapping[str, str | None]) -> None:
    store.write(MANIFEST, "".join(f"{found[name]}  {name}\n" for name in sorted(found)).encode())
