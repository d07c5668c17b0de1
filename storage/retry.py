"""Stores behind a URL fail now and then: what they are asked for is asked for again."""

from __future__ import annotations

import io
import random
import time
from collections.abc import Callable
from typing import Any, TypeVar

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq

from schemas.errors import DatasetError, GeoshardsError

T = TypeVar("T")

#: Attempts, and seconds before the second one; each further pause is twice as long, up to the most.
ATTEMPTS, FIRST_PAUSE, LONGEST_PAUSE = 8, 0.05, 8.0
#: What another attempt does not mend.
_FINAL = (FileNotFoundError, NotADirectoryError, PermissionError, GeoshardsError, pa.ArrowInvalid)


def is_local(url: str) -> bool:
    """Whether a path or URL names a file of this machine."""
    return fsspec.core.split_protocol(url)[0] in (None, "file", "local")


def pause(attempt: int) -> None:
    """Wait before an ``attempt``, numbered from 0; not before the first."""
    if attempt:
        time.sleep(min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** (attempt - 1)) * random.uniform(0.5, 1.0))


def patiently(url: str, fetch: Callable[[], T], listed: bool = False) -> T:
    """What ``fetch`` gives of ``url``, which is asked for up to ``ATTEMPTS`` times unless it is local.

    Of a file that has been ``listed`` a store that fails may say that it is not found.

    Raises:
        DatasetError: the store does not answer.
        OSError: the file is not there, or may not be read; of a local file any error.
    """
    if is_local(url):
        return fetch()
    last = ""
    for attempt in range(ATTEMPTS):
        pause(attempt)
        try:
            return fetch()
        except Exception as error:  # every store has exceptions of its own
            if isinstance(error, _FINAL) and not (listed and isinstance(error, FileNotFoundError)):
                raise
            last = f"{type(error).__name__}: {error}"
    raise DatasetError(f"{url}: no answer after {ATTEMPTS} attempts ({last}); check the store, then start again")


def list_files(root: str, folder: str, ending: str) -> dict[str, dict[str, Any]]:
    """What the store knows of each file of a folder of ``root`` that ends so, by its path; none where it has none.

    Raises:
        DatasetError: the store does not answer.
    """
    fs, path = fsspec.core.url_to_fs(root)
    try:
        found = patiently(root, lambda: fs.ls(f"{path}/{folder}", detail=True))
    except FileNotFoundError:
        return {}
    return {facts["name"]: facts for facts in sorted(found, key=lambda f: f["name"]) if facts["name"].endswith(ending)}


def open_parquet(root: str, file: str) -> pq.ParquetFile:
    """A listed file of ``root``; what is read of one behind a URL is asked for again where the store fails."""
    return pq.ParquetFile(file if is_local(root) else pa.PythonFile(_Patient(root, file), mode="r"), pre_buffer=True)


class _Patient(io.RawIOBase):
    """A file behind a URL, each read one request."""

    def __init__(self, root: str, file: str) -> None:
        self._root, self._file, self._at = root, file, 0
        self._fs = fsspec.core.url_to_fs(root)[0]
        self._size: int = patiently(root, lambda: self._fs.info(file)["size"], listed=True)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        return self._at

    def read(self, size: int = -1) -> bytes:
        first = self._at
        self._at = self._size if size < 0 else min(self._size, first + size)
        return patiently(self._root, self._fetch(first, self._at), listed=True) if self._at > first else b""

    def _fetch(self, first: int, last: int) -> Callable[[], bytes]:
        def fetch() -> bytes:
            data: bytes = self._fs.cat_file(self._file, start=first, end=last)
            if len(data) != last - first:
                raise EOFError(f"{len(data)} of {last - first} bytes came")
            return data

        return fetch
