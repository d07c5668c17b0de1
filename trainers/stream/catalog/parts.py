"""All index files of a dataset as one list of catalog rows, by shard and by position in it; mapped, not read.

In: files of ``catalog/index``. Out: columns and entries of chosen rows. Rows are numbered through, file after file.
"""

from __future__ import annotations

import mmap
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from geometry.packed import spans
from schemas.errors import DatasetError
from schemas.index import REMEDY, IndexPart
from trainers.stream.catalog.flat import map_file, release

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
    crc: list[int]  # [M] CRC-32 of the content


class Parts:
    """Index files with their rows. Safe to pickle: what is mapped is mapped again.

    Args:
        parts: in the order of their shards.
        files: or local ones that are mapped, in that order.
        remedy: what to do if one of them is damaged.

    Raises:
        DatasetError: a file is no index; or, later on, what is read of it is damaged.
    """

    def __init__(self, parts: Sequence[IndexPart] = (), files: Sequence[str] = (), remedy: str = REMEDY) -> None:
        self.files, self._remedy, self._maps = list(files), remedy, list[mmap.mmap]()
        self._parts = parts = list(parts)
        for name in files:
            try:
                self._maps.append(map_file(name))
            except ValueError:
                raise DatasetError(f"{name} is empty; {remedy}") from None
            parts.append(IndexPart.from_buffer(self._maps[-1], name, remedy))
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
        return Parts, ((), self.files, self._remedy) if self.files else (self._parts,)

    @property
    def sums(self) -> str:
        """Digest of the sums of all pages of mapped files, which tell one content from another: 32 hexadecimal digits.
        Reads a thousandth of them."""
        digest = blake2b(digest_size=16)
        for part in self._parts:
            if part.pages is not None:
                digest.update(part.pages.sums.data)
        return digest.hexdigest()

    def release(self) -> None:
        """Give back mapped pages that were touched."""
        for blob in self._maps:
            release(blob)

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
        return (part.take(name) for part in self._parts)

    def _values(self, p: int, name: str, local: Ints | None = None) -> NDArray[Any]:
        values = self._parts[p].take(name, local)
        if name == "shard":
            return values + np.int32(self._shard_base[p])
        return self._layout_number[p][values] if name == "layout" else values

    def keys(self, rows: Ints) -> list[bytes]:
        """Keys of the rows."""
        found = [b""] * len(rows)
        for p, own, local in self._by_part(rows):
            part = self._parts[p]
            first, last = (part.take("key_offsets", rows) for rows in (local, local + 1))
            text = part.run("key_bytes", first, last)
            held = [text[i:j].tobytes() for i, j in zip(first.tolist(), last.tolist(), strict=True)]
            if isinstance(own, slice):
                return held
            for i, key in zip(own.tolist(), held, strict=True):
                found[i] = key
        return found

    def key_column(self, rows: Ints) -> pa.ChunkedArray:
        """Keys of the rows as Arrow has them: for millions, which a list of them would not suit."""
        held = []
        for part in self._parts:
            buffers = (pa.py_buffer(part.take(name)) for name in ("key_offsets", "key_bytes"))
            held.append(pa.Array.from_buffers(pa.large_binary(), len(part), [None, *buffers]))
        return pa.chunked_array(held, pa.large_binary()).take(pa.array(rows))

    def entries(self, rows: Ints) -> Entries:
        """Where the members of the rows lie."""
        shard, layout, begin = (np.empty(len(rows), np.int64) for _ in range(3))
        start, size, crc = list[int](), list[int](), list[int]()
        for p, own, local in self._by_part(rows):
            part = self._parts[p]
            at, ends = spans(*(part.take("member_offsets", rows) for rows in (local, local + 1)))
            begin[own] = ends[:-1] + len(start)
            start += part.take("member_start", at).tolist()
            size += part.take("member_size", at).tolist()
            crc += part.take("member_crc", at).tolist()
            shard[own], layout[own] = self._values(p, "shard", local), self._values(p, "layout", local)
        return Entries(self.keys(rows), shard.tolist(), layout.tolist(), begin.tolist(), start, size, crc)

    def layout_of(self, row: int) -> int:
        """Number of one row's layout."""
        p = bisect_right(self._first_rows, row) - 1
        return int(self._layout_number[p][self._parts[p].take("layout", np.array([row - self._first_rows[p]]))[0]])
