"""Byte ranges of files behind a URL: few requests, retried, and kept in a cache on the local disk.

The cache is shared by all processes of a machine. An entry is one range, a file that appears whole; who fetches it
holds the range's lock, so that each is fetched once a machine.
"""

from __future__ import annotations

import mmap
import os
import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from hashlib import blake2b
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

from schemas.errors import ConfigError, DatasetError, NoAnswerError
from storage.files import UNFINISHED, put
from storage.locks import locked_places
from storage.retry import ATTEMPTS, NO_RANGES, TRAFFIC, Patience, retry
from storage.urls import cache_folder, file_system

#: Ranges nearer than this are always fetched as one: it costs less than a request.
SMALL_GAP = 1 << 13
#: Share of the bytes in use that may be fetched and left unused so as to save requests.
WASTE = 0.05
#: Most bytes of one request: larger ones are cut.
MAX_REQUEST = 1 << 26
#: Cached ranges that a process keeps mapped.
MAX_MAPPED = 256


class Range(NamedTuple):
    """Bytes start <= b < end of a shard, by its number in the dataset."""

    shard: int
    start: int
    end: int


@dataclass(frozen=True)
class CacheSettings:
    """Where ranges of remote shards are kept."""

    folder: str = "auto"  # auto: GEOSHARDS_CACHE/stream; none: nothing is kept; else a folder
    gigabytes: float = 20.0  # most that is kept, by all processes of the machine together

    def __post_init__(self) -> None:
        if not self.gigabytes > 0:
            raise ConfigError(f"stream.cache_gb={self.gigabytes} must be above 0; stream.cache=none keeps nothing")
        if self.folder != "auto":
            cache_folder(self.folder, "stream.cache")  # no URL

    @property
    def path(self) -> Path | None:
        """The folder, or None where nothing is kept."""
        if self.folder == "none":
            return None
        found = cache_folder() / "stream" if self.folder == "auto" else cache_folder(self.folder, "stream.cache")
        return found.absolute()


def coalesce(pieces: Sequence[Range], waste: float = WASTE) -> list[Range]:
    """Ranges that cover ``pieces``, those of one shard joined where little lies between them.

    The smallest gaps are closed first, until what is fetched in vain reaches the share ``waste`` of what is used.
    """
    merged: list[Range] = []
    for piece in sorted(set(pieces)):
        if merged and merged[-1].shard == piece.shard and piece.start - merged[-1].end <= SMALL_GAP:
            merged[-1] = Range(piece.shard, merged[-1].start, max(merged[-1].end, piece.end))
        else:
            merged.append(piece)
    left = waste * sum(r.end - r.start for r in merged)
    gaps = sorted((b.start - a.end, i) for i, (a, b) in enumerate(pairwise(merged)) if a.shard == b.shard)
    closed = set()
    for gap, i in gaps:
        left -= gap
        if left < 0:
            break
        closed.add(i)
    result: list[Range] = []
    for i, r in enumerate(merged):
        if i - 1 in closed:
            result[-1] = Range(r.shard, result[-1].start, r.end)
        else:
            result.append(r)
    return result


class RemoteShards:
    """Ranges of the shards of one dataset."""

    def __init__(self, folder: str, names: Sequence[str], version: str, settings: CacheSettings) -> None:
        """``names`` of the shards in the URL ``folder``; ``version`` tells them from others of the same names."""
        self._fs, self._folder = file_system(folder)
        self._names, self._version = names, version
        path = settings.path
        self._cache = None if path is None else RangeCache(path, int(settings.gigabytes * 1e9))

    @property
    def keeps(self) -> bool:
        """Whether what is fetched stays on the disk."""
        return self._cache is not None

    def get(self, wanted: Sequence[Range]) -> dict[Range, Any]:
        """Contents (bytes or mapped memory) of the ranges; short where a shard ends inside one.

        Raises:
            DatasetError: a shard does not exist, or its store does not answer after ``ATTEMPTS`` attempts.
        """
        distinct = sorted(set(wanted))
        if self._cache is None:
            return self._fetch(distinct)
        names = {r: self._entry(r) for r in distinct}
        held: dict[Range, Any] = self._cache.found(names)
        missing = [r for r in distinct if r not in held]
        if not missing:
            return held
        with self._cache.alone([names[r] for r in missing]):
            held |= self._cache.found({r: names[r] for r in missing})  # another process may have fetched it meanwhile
            for r, fetched in self._fetch([r for r in missing if r not in held]).items():
                held[r] = fetched
                if len(fetched) == r.end - r.start:
                    self._cache.keep(names[r], fetched)
        return held

    def forget(self, ranges: Sequence[Range]) -> None:
        """Drop what is kept of the ranges: it is not what it should be."""
        if self._cache is not None:
            for r in ranges:
                self._cache.drop(self._entry(r))

    def _entry(self, r: Range) -> str:
        """Name of a range in the cache."""
        text = f"{self._version}/{self._names[r.shard]}/{r.start}-{r.end}"
        return blake2b(text.encode(), digest_size=16).hexdigest()

    def _fetch(self, wanted: Sequence[Range]) -> dict[Range, bytes]:
        requests = [part for r in coalesce(wanted) for part in _cut(r)]
        blobs = dict(zip(requests, self._request(requests), strict=True))
        found: dict[Range, bytes] = {}
        for r in wanted:
            parts = [q for q in requests if q.shard == r.shard and q.start < r.end and q.end > r.start]
            found[r] = b"".join(blobs[q][max(0, r.start - q.start) : r.end - q.start] for q in parts)
        return found

    def _request(self, requests: Sequence[Range]) -> list[bytes]:
        """Contents of the ranges, at once where the store can; what fails or comes short is asked for again."""
        done: list[bytes | None] = [None] * len(requests)
        left = list(range(len(requests)))
        paths = [f"{self._folder}/{self._names[r.shard]}" for r in requests]

        def attempt() -> None:
            nonlocal left
            answers = self._fs.cat_ranges(
                [paths[i] for i in left], [requests[i].start for i in left], [requests[i].end for i in left],
                on_error="return",
            )  # fmt: skip
            again, last = [], "it came short"
            for i, answer in zip(left, answers, strict=True):
                if isinstance(answer, FileNotFoundError):
                    raise DatasetError(f"{paths[i]} is missing; copy or build the shard again")
                if isinstance(answer, PermissionError):
                    raise DatasetError(f"{paths[i]} may not be read ({answer}); check the credentials")
                if isinstance(answer, BaseException):
                    again.append(i)
                    last = f"{type(answer).__name__}: {answer}"
                    continue
                TRAFFIC.fetched += len(answer)
                if len(answer) > requests[i].end - requests[i].start:
                    again.append(i)
                    last = f"{NO_RANGES}, {len(answer)} bytes for {requests[i].end - requests[i].start}"
                    continue
                done[i] = bytes(answer)
                if len(answer) < requests[i].end - requests[i].start and not self._ends(paths[i], requests[i], answer):
                    again.append(i)
            left = again
            if left:
                raise EOFError(last)

        try:
            retry(attempt, lambda error: 0.0 if isinstance(error, EOFError) else None, Patience())
        except EOFError as error:
            failed = [i for i in left if done[i] is None]
            if failed:
                raise NoAnswerError(
                    f"{paths[failed[0]]}: no answer after {ATTEMPTS} attempts ({error}); check the store, then go on "
                    "with resume=auto"
                ) from None
        return [blob or b"" for blob in done]  # what stays short is where the shard ends

    def _ends(self, path: str, request: Range, answer: bytes) -> bool:
        """Whether the shard itself ends where a short answer does; False where the store does not say."""
        try:
            size = self._fs.info(path).get("size")
        except (OSError, RuntimeError, ValueError):
            return False
        return size is not None and max(0, int(size) - request.start) == len(answer)


def _cut(r: Range) -> list[Range]:
    return [Range(r.shard, a, min(r.end, a + MAX_REQUEST)) for a in range(r.start, r.end, MAX_REQUEST)]


class RangeCache:
    """Files in a folder, at most ``capacity`` bytes of them, the least recently used dropped first."""

    def __init__(self, folder: Path, capacity: int) -> None:
        self._folder, self._capacity = folder, capacity
        self._mapped: OrderedDict[str, mmap.mmap] = OrderedDict()
        self._written = capacity  # bytes since the last sweep: the first entry makes one
        folder.mkdir(parents=True, exist_ok=True)

    def _path(self, name: str) -> Path:
        return self._folder / name[:2] / name[2:]

    def found(self, names: Mapping[Range, str]) -> dict[Range, mmap.mmap]:
        """Those of the ranges, each with the name of its entry, that are held whole."""
        blobs = {r: self.find(name, r.end - r.start) for r, name in names.items()}
        return {r: blob for r, blob in blobs.items() if blob is not None}

    def find(self, name: str, size: int) -> mmap.mmap | None:
        """The entry as mapped memory, or None where it is not held whole."""
        blob = self._mapped.get(name)
        if blob is not None and len(blob) == size:
            self._mapped.move_to_end(name)
            return blob
        try:
            with self._path(name).open("rb") as file:
                blob = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            os.utime(self._path(name))  # when it was last used
        except (OSError, ValueError):
            return None
        if len(blob) != size:
            return None
        self._mapped[name] = blob
        if len(self._mapped) > MAX_MAPPED:
            self._mapped.popitem(last=False)
        return blob

    def keep(self, name: str, blob: bytes) -> None:
        """Store an entry; a full disk is no error, the entry is then fetched again."""
        try:
            put(self._path(name), blob, durable=False)  # its reader notices a damaged one, and drops it
        except OSError:
            return
        self._written += len(blob)
        if self._written >= self._capacity // 64:
            self._written = 0
            self._sweep()

    def drop(self, name: str) -> None:
        """Remove an entry that is damaged."""
        self._mapped.pop(name, None)
        with suppress(OSError):
            self._path(name).unlink()

    def alone(self, names: Sequence[str]) -> AbstractContextManager[None]:
        """A context in which no other process fetches the entries ``names``."""
        return locked_places(self._folder / "lock", [int(name[:15], 16) for name in names])

    def _sweep(self) -> None:
        """Drop the entries used longest ago until a sixteenth of the capacity is free; dead temporary files too."""
        entries = []
        for folder in self._folder.iterdir():
            for entry in os.scandir(folder) if folder.is_dir() else ():
                try:
                    facts = entry.stat()
                except FileNotFoundError:
                    continue
                if not entry.name.endswith(UNFINISHED) or time.time() - facts.st_mtime > 3600:
                    entries.append((facts.st_mtime, facts.st_size, entry.path))
        over = sum(size for _, size, _ in entries) - (self._capacity - self._capacity // 16)
        for _, size, path in sorted(entries):
            if over <= 0:
                break
            Path(path).unlink(missing_ok=True)
            over -= size
