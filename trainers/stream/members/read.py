"""Members of samples by byte offset: one read a sample of local shards, ranges of remote ones.

In: an index and sample numbers. Out: member bytes. Parses no tar: it only compares the name in the header before each
member with the one asked for, so that a catalog and a shard that do not belong together are noticed, and its content
with the sums of the index.
"""

from __future__ import annotations

import os
import resource
from bisect import bisect_right
from collections.abc import Sequence
from io import FileIO
from typing import Any, Literal
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from schemas.errors import CorruptSampleError, DatasetError
from schemas.sample import sample_hash
from storage.ranges import CacheSettings, Range, RemoteShards, coalesce
from storage.urls import is_local
from trainers.stream.catalog.index import Index
from trainers.stream.catalog.parts import Entries

Ints = NDArray[np.int64]
Members = dict[str, memoryview]
Picks = list[tuple[int, str, bytes]]
#: Bytes of a tar header (POSIX ustar).
HEADER = 512
#: Most local shards kept mapped by one process; each holds a file descriptor.
MAX_OPEN = 4096
#: Members of one sample nearer than this are fetched in one request: 256 KiB cost less than another round trip.
MAX_GAP = 1 << 18
#: What the contents of members are compared with: nothing, their CRC-32, or the SHA-256 of the whole sample.
Verify = Literal["none", "crc", "sha256"]
_OTHER = "is not what was written; `geoshards verify --repair` builds it again"


class ShardReader:
    """Reads members of the samples of one index. Safe to pickle; every process opens its own files.

    Args:
        index: of the dataset.
        cache: where ranges of remote shards are kept.
        verify: what contents are compared with; ``sha256`` reads all members of a sample.
    """

    def __init__(self, index: Index, cache: CacheSettings | None = None, verify: Verify = "crc") -> None:
        self.index, self.cache, self.verify = index, cache or CacheSettings(), verify
        self._open: dict[int, tuple[FileIO, int, int]] = {}  # its number, its length; the first opened is closed first
        self._chosen: dict[tuple[int, tuple[str, ...] | None], Picks] = {}
        self._most = max(16, min(MAX_OPEN, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 4))
        self._remote: RemoteShards | None = None
        self.local = is_local(index.root)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open": {}, "_chosen": {}, "_remote": None}

    def read(
        self,
        samples: Sequence[int] | Ints,
        wanted: Sequence[Sequence[str]] | None = None,
        whole: Sequence[Range] = (),
    ) -> list[Members | CorruptSampleError]:
        """Contents of those of the ``wanted`` names that each sample has; of all its members where it is None.

        A sample whose shard ends before a member, holds another name at its place, or other bytes than were written,
        gives a CorruptSampleError; what is remote has then been fetched again, and is not kept.
        ``whole`` are ranges of remote shards that are fetched, and cached, as they are, see :meth:`spans`.

        Raises:
            DatasetError: a shard does not exist, or its store does not answer.
        """
        chosen = np.asarray(samples, np.int64)
        entries = self.index.entries(chosen)
        names = self._read(wanted)
        held = None if self.local else self._fetch(chosen, names, whole)
        found = [self._checked(chosen, entries, i, names, held) for i in range(len(chosen))]
        bad = [i for i, members in enumerate(found) if isinstance(members, CorruptSampleError)]
        if held is not None and self._remote is not None and bad:
            stale = held.around(self._pieces(chosen[bad], None if names is None else [names[i] for i in bad]))
            self._remote.forget(stale)
            held = _Ranges(self._remote.get(stale))
            for i in bad:
                found[i] = self._checked(chosen, entries, i, names, held)
            if any(isinstance(found[i], CorruptSampleError) for i in bad):
                self._remote.forget(stale)
        if names is wanted or wanted is None:
            return found
        return [
            members if isinstance(members, CorruptSampleError) else {n: members[n] for n in own if n in members}
            for members, own in zip(found, wanted, strict=True)
        ]

    def _read(self, wanted: Sequence[Sequence[str]] | None) -> Sequence[Sequence[str]] | None:
        """Names that are read where those are ``wanted``."""
        return None if self.verify == "sha256" else wanted

    def _checked(
        self, samples: Ints, entries: Entries, i: int, wanted: Sequence[Sequence[str]] | None, held: _Ranges | None
    ) -> Members | CorruptSampleError:
        """Contents of the members of the sample that the entry ``i`` is about."""
        picks = self._picks(entries.layout[i], None if wanted is None else tuple(wanted[i]))
        members = self._members(entries, i, picks, held)
        if self.verify == "sha256" and not isinstance(members, CorruptSampleError):
            digest = self.index.column("sha256", samples[i : i + 1])[0].tobytes().hex()
            if sample_hash(members) != digest:
                return CorruptSampleError(f"{self.index.parts.shard_names[entries.shard[i]]}: {_OTHER}")
        return members

    def _picks(self, layout: int, wanted: tuple[str, ...] | None) -> Picks:
        """Number in the layout, name, and end of the full name in the header, of each member that is wanted."""
        picks = self._chosen.get((layout, wanted))
        if picks is None:
            names = enumerate(self.index.parts.layouts[layout])
            picks = [(k, n, f".{n}\0".encode()) for k, n in names if wanted is None or n in wanted]
            self._chosen[layout, wanted] = picks
        return picks

    def _members(self, entries: Entries, i: int, picks: Picks, held: _Ranges | None) -> Members | CorruptSampleError:
        """Contents of the ``picks`` of the sample that the entry ``i`` is about."""
        if not picks:
            return {}
        starts, sizes = entries.start, entries.size
        key, shard, first = entries.key[i], entries.shard[i], entries.first[i]
        last = first + picks[-1][0]  # members are listed as they lie
        low, high = starts[first + picks[0][0]] - HEADER, starts[last] + sizes[last]
        if high - low > MAX_GAP and high - low > MAX_GAP + sum(sizes[first + k] for k, *_ in picks):
            parts = [self._members(entries, i, [pick], held) for pick in picks]
            fault = next((p for p in parts if isinstance(p, CorruptSampleError)), None)
            return fault or {name: content for part in parts for name, content in part.items()}  # type: ignore[union-attr]
        data = b"" if low < 0 else self._pread(shard, low, high) if held is None else held.read(shard, low, high)
        view, length = memoryview(data), len(data)
        members: Members = {}
        checked = self.verify == "crc"
        for k, name, suffix in picks:
            at = starts[first + k] - low
            end = at + sizes[first + k]
            if at < HEADER or end > length or not data.startswith(key + suffix, at - HEADER):
                fault_text = _fault(data[max(0, at - HEADER) : max(0, at)], key + suffix)
                return CorruptSampleError(f"{self.index.parts.shard_names[shard]}: {fault_text}")
            content = view[at:end]
            if checked and crc32(content) != entries.crc[first + k]:
                return CorruptSampleError(f"{self.index.parts.shard_names[shard]}: {name} {_OTHER}")
            members[name] = content
        return members

    def one(self, sample: int, names: Sequence[str]) -> Members:
        """Contents of those of ``names`` that one sample has.

        Raises:
            CorruptSampleError: the shard ends before the member, or holds another name at its place.
            DatasetError: the shard does not exist, or its store does not answer.
        """
        found = self.read([sample], [names])[0]
        if isinstance(found, CorruptSampleError):
            raise found
        return found

    def spans(self, samples: Ints, wanted: Sequence[Sequence[str]]) -> list[Range]:
        """Few ranges that hold the wanted members of ``samples``: one a shard where those lie close to each other."""
        return coalesce(self._pieces(samples, self._read(wanted)))

    def _pieces(self, samples: Ints, wanted: Sequence[Sequence[str]] | None) -> list[Range]:
        """Ranges of the wanted members with their headers, those of a sample under MAX_GAP apart joined."""
        pieces: list[Range] = []
        entries = self.index.entries(samples)
        for i, first in enumerate(entries.first):
            mine: list[Range] = []
            for k, *_ in self._picks(entries.layout[i], None if wanted is None else tuple(wanted[i])):
                start = entries.start[first + k]
                a, b = max(0, start - HEADER), start + entries.size[first + k]
                if mine and a - mine[-1].end <= MAX_GAP:
                    mine[-1] = Range(mine[-1].shard, mine[-1].start, max(mine[-1].end, b))
                else:
                    mine.append(Range(entries.shard[i], a, b))
            pieces += mine
        return pieces

    def _fetch(self, samples: Ints, wanted: Sequence[Sequence[str]] | None, whole: Sequence[Range]) -> _Ranges:
        if self._remote is None:
            index = self.index
            version = f"{index.content_hash}/{index.layout_hash}"
            self._remote = RemoteShards(f"{index.root}/shards", index.parts.shard_names, version, self.cache)
        if whole and self._remote.keeps:
            return _Ranges(self._remote.get(whole))
        return _Ranges(self._remote.get(self._pieces(samples, wanted)))

    def _pread(self, shard: int, low: int, high: int) -> bytes:
        """Bytes of a local shard, fewer where it ends. Mapped memory would crash where a file shrinks, and count every
        page of the page cache that it touched as the process's own."""
        _, number, length = self._open.get(shard) or self._opened(shard)
        if high > length:
            high = max(low, length)
        data = os.pread(number, high - low, low)
        while low + len(data) < high:  # a signal or a network file system may cut a read short
            more = os.pread(number, high - low - len(data), low + len(data))
            if not more:
                break
            data += more
        return data

    def _opened(self, shard: int) -> tuple[FileIO, int, int]:
        path = f"{self.index.root}/shards/{self.index.parts.shard_names[shard]}"
        try:
            file = open(path, "rb", 0)  # noqa: SIM115  # stays open
        except FileNotFoundError:
            raise DatasetError(f"{path} is missing; copy or build the shard again") from None
        self._open[shard] = (file, file.fileno(), os.fstat(file.fileno()).st_size)
        if len(self._open) > self._most:
            self._open.pop(next(iter(self._open)))[0].close()
        return self._open[shard]


def _fault(header: bytes, expected: bytes) -> str:
    name = expected[:-1].decode()
    if not header.startswith(expected) and len(header) == HEADER:
        return f"{header[:100].split(bytes(1), 1)[0]!r} stands where the catalog has {name}; build it again"
    return f"ends before the end of {name}; copy or build the shard again"


class _Ranges:
    """Fetched ranges, read by offsets in their shard."""

    def __init__(self, held: dict[Range, Any]) -> None:
        self._ranges = sorted(held)
        self._held = held

    def around(self, pieces: Sequence[Range]) -> list[Range]:
        """Those that hold some of the ``pieces``."""
        return [
            r for r in self._ranges if any(p.shard == r.shard and p.start < r.end and p.end > r.start for p in pieces)
        ]

    def read(self, shard: int, low: int, high: int) -> bytes:
        """Bytes of a shard, fewer where its end or that of the range is reached."""
        k = bisect_right(self._ranges, Range(shard, low, 1 << 62)) - 1
        if k < 0 or self._ranges[k].shard != shard:
            return b""
        r = self._ranges[k]
        return bytes(self._held[r][low - r.start : high - r.start])
