"""What a pass leaves for the next one: columns in mapped files, sorted by id. Memory holds none of them whole.

A task appends rows to part files of its own, one file a column; :func:`join` makes them one. A page of a mapped file
is not the process's own memory: the system takes it back when it needs it.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

#: Tables, their columns, and the type and shape of a row of each.
_TABLES: dict[str, dict[str, tuple[Any, tuple[int, ...]]]] = {
    "nodes": {"id": (np.int64, ()), "lonlat": (np.int32, (2,))},  # units of 1e-7 degree
    "wanted": {"id": (np.int64, ())},  # ways that area relations need, some several times
    # The ways themselves; nodes ``start`` to ``start + count`` of "refs" are theirs.
    "members": {"id": (np.int64, ()), "start": (np.int64, ()), "count": (np.int64, ()), "whole": (np.bool_, ())},
    "refs": {"id": (np.int64, ()), "lonlat": (np.int32, (2,))},
}
#: Rows of which a sort holds the numbers in memory at once.
_CHUNK = 1 << 21


@dataclass(frozen=True)
class Run:
    """The ids of one part."""

    first: int
    last: int
    rising: bool  # none is lower than the one before


@dataclass
class Part:
    """Appends to one part of a table."""

    folder: Path
    table: str
    index: int
    run: Run | None = None  # of all rows so far
    _files: dict[str, BinaryIO] = field(default_factory=dict)

    def append(self, **columns: NDArray[Any]) -> None:
        """Rows, all columns of the same length."""
        ids = columns["id"]
        if not len(ids):
            return
        for name, values in columns.items():
            if name not in self._files:
                self._files[name] = (self.folder / f"{self.table}.{name}.{self.index:06d}").open("wb")
            self._files[name].write(np.ascontiguousarray(values, _TABLES[self.table][name][0]).data)
        rising = bool((ids[1:] >= ids[:-1]).all())
        first = int(ids[0])
        if self.run is not None:
            first, rising = self.run.first, rising and self.run.rising and self.run.last <= first
        self.run = Run(first, int(ids[-1]), rising)

    def __enter__(self) -> Part:
        self.folder.mkdir(parents=True, exist_ok=True)
        return self

    def __exit__(self, *_: object) -> None:
        for file in self._files.values():
            file.close()


def column(folder: Path, table: str, name: str) -> NDArray[Any]:
    """One column of a joined table, mapped; an empty one where the table has no rows."""
    kind, shape = _TABLES[table][name]
    path = folder / f"{table}.{name}"
    if not path.exists() or not path.stat().st_size:
        return np.zeros((0, *shape), kind)
    return np.asarray(np.memmap(path, kind, "r")).reshape(-1, *shape)


def join(folder: Path, table: str) -> None:
    """Make the parts of a table one, in the order of their numbers."""
    for name in _TABLES[table]:
        with (folder / f"{table}.{name}").open("wb") as target:
            for part in sorted(folder.glob(f"{table}.{name}.[0-9]*")):
                with part.open("rb") as source:
                    shutil.copyfileobj(source, target, 1 << 22)
                part.unlink()


def starts(folder: Path, table: str, count: str, start: str) -> None:
    """Make a column of the sum of another over all rows before each."""
    counts = column(folder, table, count)
    counts.astype(np.int64, copy=False).tofile(folder / f"{table}.{start}")
    if len(counts):
        result = np.memmap(folder / f"{table}.{start}", np.int64, "r+")
        np.cumsum(counts, out=result)
        result -= counts


def sort_values(folder: Path, table: str, name: str) -> None:
    """Sort one column in its file."""
    path = folder / f"{table}.{name}"
    if path.stat().st_size:
        np.memmap(path, _TABLES[table][name][0], "r+").sort()


def sort(folder: Path, table: str, runs: Sequence[Run | None]) -> None:
    """Sort a table by id, a range of ids at a time, unless its parts are in order. Equal ids stay in theirs."""
    there = [r for r in runs if r is not None]
    if all(r.rising for r in there) and all(a.last <= b.first for a, b in pairwise(there)):
        return
    ids = column(folder, table, "id")
    sample = np.sort(ids[:: max(1, len(ids) >> 16)])
    cuts = np.unique(sample[:: max(1, len(sample) * _CHUNK // len(ids))])
    limits = np.iinfo(np.int64)
    lows = [limits.min, *cuts[1:].tolist()]
    highs = [*(c - 1 for c in lows[1:]), limits.max]
    for low, high in zip(lows, highs, strict=True):
        chunks = ((start, ids[start : start + _CHUNK]) for start in range(0, len(ids), _CHUNK))
        rows = np.concatenate([start + np.flatnonzero((own >= low) & (own <= high)) for start, own in chunks])
        rows = rows[np.argsort(ids[rows], kind="stable")]
        for name in _TABLES[table]:
            with (folder / f"{table}.{name}.sorted").open("ab") as target:
                target.write(column(folder, table, name)[rows].data)
    for name in _TABLES[table]:
        (folder / f"{table}.{name}.sorted").replace(folder / f"{table}.{name}")
