"""All index files of a dataset as one list of catalog rows, by shard and by position in it; mapped, not read.

In: files of ``catalog/index``. Out: columns and entries of chosen rows. Rows are numbered through, file after file.
"""

from __future__ import annotations

import mmap
import os
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from geometry.packed import ranges
from schemas.errors import DatasetError
from schemas.index import IndexPart

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Entries:
    """Where the members of K samples lie."""

    key: list[bytes]  # [K]
    shard: list[int]  # [K] number among the dataset's shards
    layout: list[int]  # [K] number among the dataset's layouts
    first: list[int]  # [K] where a sample's members begin in the next two
    start: list[int]  # [M] byte offset of the content in the shard
    size: list[int]  # [M] bytes


class Parts:
    """Index files with their rows. Safe to pickle: what is mapped is mapped again.

    Args:
        parts: in the order of their shards.
        files: or local ones that are mapped, in that order.

    Raises:
        DatasetError: a file is no index.
    """

    def __init__(self, parts: Sequence[IndexPart] = (), files: Sequence[str] = ()) -> None:
        self.files, self._maps = list(files), list[mmap.mmap]()
        self._parts = parts = list(parts)
        for name in files:
            with open(name, "rb") as file:
                if not os.fstat(file.fileno()).st_size:
                    raise DatasetError(f"{name} is empty; build the dataset again")
                self._maps.append(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
            parts.append(IndexPart.from_buffer(self._maps[-1], name))
        self.starts = np.cumsum([0, *map(len, parts)], dtype=np.int64)
        self._first_rows: list[int] = self.starts.tolist()
        self.shard_names = [name for part in parts for name in part.shards]
        self._shard_base = np.cumsum([0, *(len(p.shards) for p in parts)]).tolist()
        layouts: dict[tuple[str, ...], int] = {}
        self._layout_number = [
            np.array([layouts.setdefault(names, len(layouts)) for names in p.layouts], np.int64) for p in parts
        ]
        self.layouts = list(layouts)

    def __len__(self) -> int:
        return self._first_rows[-1]

    def __reduce__(self) -> tuple[Any, ...]:
        return Parts, ((), self.files) if self.files else (self._parts,)

    def release(self) -> None:
        """Give back the pages that were touched: they stay in the page cache, which the processes share, and no longer
        count as this one's."""
        for blob in self._maps:
            blob.madvise(mmap.MADV_DONTNEED)

    def _by_part(self, rows: Ints) -> Iterator[tuple[int, Any, Ints]]:
        """Each part that holds some of the rows: its number, which of them, and their rows in it."""
        if len(self._parts) == 1:
            yield 0, slice(None), rows
            return
        number = np.searchsorted(self.starts, rows, "right") - 1
        for p in np.unique(number).tolist():
            own = np.flatnonzero(number == p)
            yield p, own, rows[own] - self._first_rows[p]

    def column(self, name: str, rows: Ints | None = None) -> NDArray[Any]:
        """Values of an array that has one row a sample, see schemas.index; of all rows where ``rows`` is None.

        ``shard`` and ``layout`` are numbers among those of the whole dataset.
        """
        if rows is None:
            parts = [self._values(p, name) for p in range(len(self._parts))]
            return np.concatenate(parts) if parts else np.zeros(0)
        like = self._parts[0].arrays[name]
        found = np.empty((len(rows), *like.shape[1:]), like.dtype)
        for p, own, local in self._by_part(rows):
            found[own] = self._values(p, name, local)
        return found

    def each(self, name: str) -> Iterator[NDArray[Any]]:
        """An array of each file as it is, without a copy."""
        return (part.arrays[name] for part in self._parts)

    def _values(self, p: int, name: str, local: Ints | slice = slice(None)) -> NDArray[Any]:
        values = self._parts[p].arrays[name][local]
        if name == "shard":
            return values + np.int32(self._shard_base[p])
        return self._layout_number[p][values] if name == "layout" else values

    def keys(self, rows: Ints) -> list[bytes]:
        """Keys of the rows."""
        found = [b""] * len(rows)
        for p, own, local in self._by_part(rows):
            a = self._parts[p].arrays
            text, first, last = a["key_bytes"], a["key_offsets"][local].tolist(), a["key_offsets"][local + 1].tolist()
            held = [text[i:j].tobytes() for i, j in zip(first, last, strict=True)]
            if isinstance(own, slice):
                return held
            for i, key in zip(own.tolist(), held, strict=True):
                found[i] = key
        return found

    def key_column(self, rows: Ints) -> pa.ChunkedArray:
        """Keys of the rows as Arrow has them: for millions, which a list of them would not suit."""
        held = []
        for part in self._parts:
            buffers = (pa.py_buffer(part.arrays[name]) for name in ("key_offsets", "key_bytes"))
            held.append(pa.Array.from_buffers(pa.large_binary(), len(part), [None, *buffers]))
        return pa.chunked_array(held, pa.large_binary()).take(pa.array(rows))

    def entries(self, rows: Ints) -> Entries:
        """Where the members of the rows lie."""
        shard, layout, begin = (np.empty(len(rows), np.int64) for _ in range(3))
        start: list[int] = []
        size: list[int] = []
        for p, own, local in self._by_part(rows):
            a = self._parts[p].arrays
            at, ends = ranges(a["member_offsets"], local)
            begin[own] = ends[:-1] + len(start)
            start += a["member_start"][at].tolist()
            size += a["member_size"][at].tolist()
            shard[own], layout[own] = self._values(p, "shard", local), self._values(p, "layout", local)
        return Entries(self.keys(rows), shard.tolist(), layout.tolist(), begin.tolist(), start, size)

    def layout_of(self, row: int) -> int:
        """Number of one row's layout."""
        p = bisect_right(self._first_rows, row) - 1
        return int(self._layout_number[p][self._parts[p].arrays["layout"][row - self._first_rows[p]]])
