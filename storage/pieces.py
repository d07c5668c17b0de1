"""Pieces of remote files kept on the local disk, for all processes of a machine.

A file's pieces lie at their own places in a sparse file, beside a table of their sums: a piece is written before its
sum, and read against it, so that nothing is believed that a full disk or a killed process left.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO
from zlib import crc32

#: Bytes of a piece; the last of a file may be shorter.
PIECE = 1 << 14
_SUM = struct.Struct("<I")  # CRC-32; 0: the piece is not there
_DATA, _SUMS = "data", "sums"


def runs(pieces: Sequence[int], most: int) -> list[tuple[int, int]]:
    """Runs (first, one after the last) of at most ``most`` ascending piece numbers.

    >>> runs([1, 2, 3, 7], 2)
    [(1, 3), (3, 4), (7, 8)]
    """
    found: list[tuple[int, int]] = []
    for piece in pieces:
        if found and found[-1][1] == piece and piece - found[-1][0] < most:
            found[-1] = (found[-1][0], piece + 1)
        else:
            found.append((piece, piece + 1))
    return found


class KeptPieces:
    """The pieces of one file that are kept."""

    def __init__(self, data: BinaryIO, sums: BinaryIO, store: PieceStore) -> None:
        self._data, self._sums, self._store = data, sums, store

    def find(self, pieces: Sequence[int]) -> dict[int, bytes]:
        """Those of ascending numbers that are kept whole."""
        found: dict[int, bytes] = {}
        with suppress(OSError):
            for first, last in runs(pieces, 1 << 10):
                sums = os.pread(self._sums.fileno(), (last - first) * _SUM.size, first * _SUM.size)
                known = [n for (n,) in _SUM.iter_unpack(sums[: len(sums) // _SUM.size * _SUM.size])]
                if not any(known):
                    continue
                data = memoryview(os.pread(self._data.fileno(), len(known) * PIECE, first * PIECE))
                for i, wanted in enumerate(known):
                    piece = data[i * PIECE : (i + 1) * PIECE]
                    if wanted and crc32(piece) == wanted:
                        found[first + i] = bytes(piece)
        return found

    def keep(self, first: int, data: bytes) -> None:
        """Store pieces from number ``first`` on; a full disk is no error, they are then fetched again."""
        sums = b"".join(_SUM.pack(crc32(data[i : i + PIECE])) for i in range(0, len(data), PIECE))
        with suppress(OSError):
            if os.pwrite(self._data.fileno(), data, first * PIECE) == len(data):
                os.pwrite(self._sums.fileno(), sums, first * _SUM.size)
            self._store.grown(len(data))

    @contextmanager
    def alone(self, pieces: Sequence[int]) -> Iterator[None]:
        """A context in which no other process of this machine fetches these pieces, of ascending numbers. Where the
        file system knows no locks nothing is held: the same may be fetched twice."""
        held: list[tuple[int, int]] = []
        try:
            with suppress(OSError):
                for first, last in runs(pieces, 1 << 30):  # rising, so that no two processes wait for each other
                    fcntl.lockf(self._sums, fcntl.LOCK_EX, last - first, first)
                    held.append((first, last))
            yield
        finally:
            for first, last in held:
                with suppress(OSError):
                    fcntl.lockf(self._sums, fcntl.LOCK_UN, last - first, first)


class PieceStore:
    """A folder with the pieces of many files, at most ``capacity`` bytes; the file used longest ago goes first."""

    def __init__(self, folder: Path, capacity: int) -> None:
        self._folder, self._capacity = folder, capacity
        self._written = capacity  # bytes since the last sweep: the first piece makes one

    def of(self, identity: str) -> KeptPieces | None:
        """Those of the file of that identity, a name for a folder; None where nothing can be written."""
        own = self._folder / identity
        try:
            own.mkdir(parents=True, exist_ok=True)
            files = [os.fdopen(os.open(own / name, os.O_RDWR | os.O_CREAT, 0o666), "r+b", 0) for name in (_DATA, _SUMS)]
            os.utime(own / _SUMS)  # when it was last used
        except OSError:
            return None
        return KeptPieces(files[0], files[1], self)

    def grown(self, count: int) -> None:
        """Sweep once a sixty-fourth of the capacity has been written."""
        self._written += count
        if self._written >= self._capacity // 64:
            self._written = 0
            self._sweep()

    def _sweep(self) -> None:
        """Drop files until a sixteenth of the capacity is free; who reads one goes on, from what has no name now."""
        entries = []
        for own in self._folder.iterdir():
            with suppress(OSError):
                entries.append(((own / _SUMS).stat().st_mtime, (own / _DATA).stat().st_blocks * 512, own))
        over = sum(size for _, size, _ in entries) - (self._capacity - self._capacity // 16)
        for _, size, own in sorted(entries):
            if over <= 0:
                break
            shutil.rmtree(own, ignore_errors=True)
            over -= size
