"""Arrays kept in a file of the cache: written once under a lock, mapped by every process of the node, checked as they
are read. A file is whole or absent. Nothing is unpickled.
"""

from __future__ import annotations

import json
import mmap
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from schemas.errors import DatasetError
from schemas.tensors import PagedTensors, paged
from storage.files import atomic_file
from storage.locks import LOCK, locked

Ints = NDArray[np.int64]
#: What mends a damaged file of the cache.
REMEDY = "delete it, it is made again"
_ROWS, _ABOUT = "rows", "about"
_TYPE = np.dtype("<u4")


def keep(path: Path, make: Callable[[], Iterable[Any]]) -> None:
    """Write what ``make`` gives, buffers one after another, to ``path``, unless it exists.

    Of several processes one makes it and the others wait.
    """
    if path.exists():
        return
    with locked(path.with_name(f".{path.name}{LOCK}")):
        if not path.exists():
            with atomic_file(path) as fresh, fresh.open("wb") as file:
                file.writelines(make())


def map_file(path: str | Path) -> mmap.mmap:
    """A file as mapped memory.

    Raises:
        ValueError: it is empty.
    """
    with open(path, "rb") as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


def release(blob: mmap.mmap) -> None:
    """Give back the pages that were touched: they stay in the page cache, which the processes share, and no longer
    count as this one's."""
    blob.madvise(mmap.MADV_DONTNEED)


class Column:
    """Row numbers, u32 or i64 [n], in memory."""

    def __init__(self, values: NDArray[Any]) -> None:
        self._values = values

    def __len__(self) -> int:
        return len(self._values)

    def take(self, places: Ints | None = None) -> Ints:
        """Those at ``places`` i64[K], or all: i64[K]."""
        return (self._values if places is None else self._values[places]).astype(np.int64, copy=False)

    def release(self) -> None:
        """Give back mapped pages that were touched."""


class KeptColumn(Column):
    """Row numbers, and a description, in a file that `kept_column` made. Safe to pickle: another process maps the file.

    Attribute: ``about``, the description.

    Raises:
        DatasetError: it is damaged, also where only the rows that are asked for are.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._blob = map_file(path)
            self._pages = PagedTensors(self._blob, {_ROWS: _TYPE}, str(path), REMEDY)
            self.about: dict[str, Any] = json.loads(self._pages.metadata[_ABOUT])
        except (ValueError, KeyError, TypeError) as error:
            raise DatasetError(f"{path} is damaged ({error}); {REMEDY}") from None
        super().__init__(self._pages.arrays[_ROWS])

    def __reduce__(self) -> tuple[Any, ...]:
        return KeptColumn, (self.path,)

    def take(self, places: Ints | None = None) -> Ints:
        """Those at ``places`` i64[K], or all: i64[K]."""
        return self._pages.take(_ROWS, places).astype(np.int64)

    def release(self) -> None:
        """Give back mapped pages that were touched."""
        release(self._blob)


def kept_column(path: Path, make: Callable[[], tuple[Ints, dict[str, Any]]]) -> KeptColumn:
    """The column and description that ``make`` gives, from the file ``path``, which is made unless it exists.

    Raises:
        DatasetError: it is damaged.
        OSError: it cannot be written.
    """

    def parts() -> list[Any]:
        rows, about = make()
        return paged({_ROWS: rows.astype(_TYPE)}, {_ABOUT: json.dumps(about)})

    keep(path, parts)
    return KeptColumn(path)
