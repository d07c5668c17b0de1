"""Members of samples by byte offset: mapped memory for local shards, one range request a sample for remote ones.

In: an index and sample numbers. Out: member bytes. Parses no tar: it only compares the name in the header before each
member with the one asked for, so that a catalog and a shard that do not belong together are noticed.
"""

from __future__ import annotations

import mmap
from collections import OrderedDict
from collections.abc import Iterable
from typing import Any

import fsspec

from schemas.errors import CorruptSampleError, DatasetError
from trainers.stream.index import Index

#: Bytes of a tar header (POSIX ustar), and of the name in it.
HEADER, NAME = 512, 100
#: Local shards kept mapped by one process.
MAX_OPEN = 128
#: Remote members nearer than this are fetched in one request: 256 KiB cost less than another round trip.
MAX_GAP = 1 << 18


class ShardReader:
    """Reads members of the samples of one index. Safe to pickle; every process opens its own files."""

    def __init__(self, index: Index) -> None:
        self.index = index
        self._open: OrderedDict[int, mmap.mmap] = OrderedDict()
        self._remote: tuple[Any, str] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {"index": self.index, "_open": OrderedDict(), "_remote": None}

    def read(self, sample: int, names: Iterable[str]) -> dict[str, bytes]:
        """Contents of those of ``names`` that the sample has.

        Raises:
            CorruptSampleError: the shard ends before the member, or holds another name at its place.
            DatasetError: the shard does not exist.
        """
        members = self.index.members(sample)
        wanted = {name: members[name] for name in names if name in members}
        key = str(self.index.key[sample])
        shard = int(self.index.shard[sample])
        if self._filesystem()[0].protocol in ("file", ("file", "local")):
            blob = self._map(shard)
            spans = {
                name: (blob[max(0, at - HEADER) : at], blob[at : at + size]) for name, (at, size) in wanted.items()
            }
        else:
            spans = self._fetch(shard, wanted)
        where = self.index.shard_names[shard]
        for name, (header, content) in spans.items():
            held = header[:NAME].split(b"\0", 1)[0]
            if held != f"{key}.{name}".encode():
                raise CorruptSampleError(f"{where}: {held!r} stands where the catalog has {key}.{name}; build it again")
            if len(content) != wanted[name][1]:
                raise CorruptSampleError(f"{where}: ends inside {key}.{name}; copy or build the shard again")
        return {name: content for name, (_, content) in spans.items()}

    def _filesystem(self) -> tuple[Any, str]:
        if self._remote is None:
            self._remote = fsspec.core.url_to_fs(self.index.root)
        return self._remote

    def _path(self, shard: int) -> str:
        return f"{self._filesystem()[1]}/shards/{self.index.shard_names[shard]}"

    def _map(self, shard: int) -> mmap.mmap:
        blob = self._open.get(shard)
        if blob is None:
            path = self._path(shard)
            try:
                with open(path, "rb") as file:
                    blob = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            except (FileNotFoundError, ValueError):
                raise DatasetError(f"{path} is missing or empty; copy or build the shard again") from None
            self._open[shard] = blob
            if len(self._open) > MAX_OPEN:
                self._open.popitem(last=False)[1].close()
        else:
            self._open.move_to_end(shard)
        return blob

    def _fetch(self, shard: int, wanted: dict[str, tuple[int, int]]) -> dict[str, tuple[bytes, bytes]]:
        fs, path = self._filesystem()[0], self._path(shard)
        spans: dict[str, tuple[bytes, bytes]] = {}
        for start, end, group in coalesce(wanted):
            try:
                blob = fs.cat_file(path, start=start, end=end)
            except FileNotFoundError:
                raise DatasetError(f"{path} is missing; copy or build the shard again") from None
            for name in group:
                at, size = wanted[name][0] - start, wanted[name][1]
                spans[name] = (blob[max(0, at - HEADER) : at], blob[at : at + size])
        return spans


def coalesce(wanted: dict[str, tuple[int, int]]) -> list[tuple[int, int, list[str]]]:
    """Byte ranges (start, end, names) that cover the members and their headers, joining those under MAX_GAP apart."""
    ranges: list[tuple[int, int, list[str]]] = []
    for name, (at, size) in sorted(wanted.items(), key=lambda item: item[1]):
        start, end = max(0, at - HEADER), at + size
        if ranges and start - ranges[-1][1] <= MAX_GAP:
            first, last, names = ranges[-1]
            ranges[-1] = (first, max(last, end), [*names, name])
        else:
            ranges.append((start, end, [name]))
    return ranges
