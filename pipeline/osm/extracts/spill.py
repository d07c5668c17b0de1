"""What a pass leaves for the next one: columns in mapped files, sorted by id. Memory holds none of them whole.

A task appends rows to part files of its own, one file a column; :func:`join` makes them one. A page of a mapped file
is not the process's own memory: the system takes it back when it needs it.

Where machines share a store alone, parts are sent there; one task brings those of a table together on its disk
(:func:`settle`), and each machine has a copy of the whole.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import reduce
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from schemas.features import ObjectType
from storage.nodes.copies import scratch
from storage.store import Store

#: Which version of an object a row is: how new it is, and where it lies in its file (pipeline.osm.extracts.versions).
_VERSION: dict[str, tuple[Any, tuple[int, ...]]] = {
    "id": (np.int64, ()),
    "age": (np.int64, ()),
    "place": (np.int64, ()),
}
#: Tables, their columns, and the type and shape of a row of each.
_TABLES: dict[str, dict[str, tuple[Any, tuple[int, ...]]]] = {
    # Of each extract; ages and places only where versions are to be told apart.
    "nodes": _VERSION | {"lonlat": (np.int32, (2,))},  # units of 1e-7 degree
    "ways": _VERSION,
    "relations": _VERSION,
    **{f"stale_{name}": {"place": (np.int64, ())} for name in ("nodes", "ways", "relations")},
    # Of all extracts.
    "wanted": {"id": (np.int64, ())},  # ways that area relations need, some several times
    # The ways themselves; nodes ``start`` to ``start + count`` of "corners" are theirs.
    "members": {"id": (np.int64, ()), "start": (np.int64, ()), "count": (np.int64, ()), "whole": (np.bool_, ())},
    "corners": {"lonlat": (np.int32, (2,))},
}
#: Tables of the versions of each type.
VERSIONS = {t: f"{t.name.lower()}s" for t in ObjectType}
#: Longitude and latitude of a node that has none.
NOWHERE = (1 << 31) - 1
#: Rows of which a sort holds the numbers in memory at once.
_CHUNK = 1 << 21
#: Files that are fetched or sent at once.
_TRANSFERS = 8


@dataclass(frozen=True)
class Run:
    """The ids of one part."""

    first: int
    last: int
    rising: bool  # each is higher than the one before
    rows: int

    @classmethod
    def of(cls, ids: NDArray[np.int64]) -> Run | None:
        """None without any."""
        if not len(ids):
            return None
        return cls(int(ids[0]), int(ids[-1]), bool((ids[1:] > ids[:-1]).all()), len(ids))


def follow(before: Run | None, after: Run | None) -> Run | None:
    """Two runs as one."""
    if before is None or after is None:
        return before or after
    rising = before.rising and after.rising and before.last < after.first
    return Run(before.first, after.last, rising, before.rows + after.rows)


def rising(runs: Iterable[Run | None]) -> bool:
    """Whether every id of all runs is higher than the one before: none is there twice."""
    whole = reduce(follow, runs, None)
    return whole is None or whole.rising


@dataclass
class Part:
    """Appends to one part of a table; ``run`` is of its first column, if that is of single numbers."""

    folder: Store
    table: str
    index: int
    run: Run | None = None  # of all rows so far
    _files: dict[str, BinaryIO] = field(default_factory=dict)
    _open: ExitStack = field(default_factory=ExitStack)

    def append(self, **columns: NDArray[Any]) -> None:
        """Rows, all columns of the same length; a column may be left out of the whole table."""
        key = next(iter(columns.values()))
        if not len(key):
            return
        for name, values in columns.items():
            if name not in self._files:
                path = self._open.enter_context(self.folder.filling(f"{self.table}.{name}.{self.index:06d}"))
                self._files[name] = self._open.enter_context(path.open("wb"))
            self._files[name].write(np.ascontiguousarray(values, _TABLES[self.table][name][0]).data)
        if key.ndim == 1:
            self.run = follow(self.run, Run.of(key))

    def __enter__(self) -> Part:
        if not self.folder.remote:
            Path(self.folder.root).mkdir(parents=True, exist_ok=True)
        return self

    def __exit__(self, *error: Any) -> None:
        self._open.__exit__(*error)


def column(folder: Store, table: str, name: str, *, write: bool = False) -> NDArray[Any]:
    """One column of a joined table, mapped, to ``write`` into it too; an empty one where the table has no rows."""
    kind, shape = _TABLES[table][name]
    try:
        path = folder.local(f"{table}.{name}")
    except FileNotFoundError:
        return np.zeros((0, *shape), kind)
    if not path.exists() or not path.stat().st_size:
        return np.zeros((0, *shape), kind)
    return np.asarray(np.memmap(path, kind, "r+" if write else "r")).reshape(-1, *shape)


def among(values: NDArray[np.int64], wanted: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which values are in a sorted column, bool[N]."""
    if not len(wanted):
        return np.zeros(len(values), bool)
    return np.asarray(wanted[np.minimum(np.searchsorted(wanted, values), len(wanted) - 1)] == values)


@dataclass(frozen=True)
class Settling:
    """What is to be made of the parts of some tables."""

    folders: tuple[Store, ...]
    tables: tuple[str, ...]
    make: Callable[[list[Path]], None]  # of the folders, on this machine


def settle(job: Settling) -> None:
    """Make it, where the parts lie or from copies of them; what is made is sent where they came from. The parts stay
    there, so that it can be done again."""
    if not any(folder.remote for folder in job.folders):
        job.make([Path(folder.root) for folder in job.folders])
        return
    with scratch() as here, ThreadPoolExecutor(_TRANSFERS) as pool:
        own = [here / str(n) for n in range(len(job.folders))]
        parts = []
        for folder, target in zip(job.folders, own, strict=True):
            target.mkdir()
            names = [n for n in folder.names("") if n.startswith(job.tables) and n.rpartition(".")[2].isdecimal()]
            parts += [(folder, name, target / name) for name in names]
        list(pool.map(lambda part: part[0].fetch(*part[1:]), parts))
        job.make(own)
        made = [(folder, path) for folder, at in zip(job.folders, own, strict=True) for path in sorted(at.iterdir())]
        list(pool.map(lambda one: one[0].send(one[1].name, one[1]), made))


def join(folder: Path, table: str) -> None:
    """Make the parts of a table one, in the order of their numbers; a column without parts is not there."""
    for name in _TABLES[table]:
        parts = sorted(folder.glob(f"{table}.{name}.[0-9]*"))
        if not parts:
            continue
        with (folder / f"{table}.{name}").open("wb") as target:
            for part in parts:
                with part.open("rb") as source:
                    shutil.copyfileobj(source, target, 1 << 22)
                part.unlink()


def starts(folder: Path, table: str, count: str, start: str) -> None:
    """Make a column of the sum of another over all rows before each."""
    counts = column(Store(folder), table, count)
    counts.astype(np.int64, copy=False).tofile(folder / f"{table}.{start}")
    if len(counts):
        result = np.memmap(folder / f"{table}.{start}", np.int64, "r+")
        np.cumsum(counts, out=result)
        result -= counts


def join_wanted(folders: list[Path]) -> None:
    """Join and sort the ways that area relations need; for `Settling`."""
    join(folders[0], "wanted")
    sort_values(folders[0], "wanted", "id")


def join_members(runs: Sequence[Run | None], folders: list[Path]) -> None:
    """Join those ways, by id, and their corners; for `Settling`. ``runs`` are of the parts."""
    join(folders[0], "corners")
    join(folders[0], "members")
    starts(folders[0], "members", "count", "start")
    sort(folders[0], "members", runs)


def sort_values(folder: Path, table: str, name: str) -> None:
    """Sort one column in its file."""
    path = folder / f"{table}.{name}"
    if path.exists():
        np.memmap(path, _TABLES[table][name][0], "r+").sort()


def sort(folder: Path, table: str, runs: Sequence[Run | None]) -> None:
    """Sort a table by id, a range of ids at a time, unless its parts are in order. Equal ids stay in theirs."""
    if rising(runs):
        return
    ids = column(Store(folder), table, "id")
    there = [name for name in _TABLES[table] if (folder / f"{table}.{name}").exists()]
    for cuts in id_ranges([ids], _CHUNK):
        rows = np.concatenate(
            [start + _between(ids[start:stop], *cuts, ordered) for start, stop, ordered in _spans(runs)]
        )
        rows = rows[np.argsort(ids[rows], kind="stable")]
        for name in there:
            with (folder / f"{table}.{name}.sorted").open("ab") as target:
                target.write(column(Store(folder), table, name)[rows].data)
    for name in there:
        (folder / f"{table}.{name}.sorted").replace(folder / f"{table}.{name}")


def id_ranges(tables: Sequence[NDArray[np.int64]], size: int) -> list[tuple[int, int]]:
    """Lowest and highest id of ranges that hold about ``size`` rows of all tables of ids, and together all ids."""
    total = sum(map(len, tables))
    step = max(1, total >> 16)
    sample = np.sort(np.concatenate([ids[::step] for ids in tables]))
    cuts = np.unique(sample[:: max(1, len(sample) * size // max(1, total))])[1:].tolist()
    limits = np.iinfo(np.int64)
    return list(zip([limits.min, *cuts], [*(c - 1 for c in cuts), limits.max], strict=True))


def _spans(runs: Sequence[Run | None]) -> list[tuple[int, int, bool]]:
    """First row and row after the last of each part, and whether its ids rise; parts that go on rising are one."""
    spans: list[tuple[int, int, bool]] = []
    last: Run | None = None
    for run in filter(None, runs):
        whole = follow(last, run)
        if last is not None and whole is not None and whole.rising:
            spans[-1], last = (spans[-1][0], spans[-1][1] + run.rows, True), whole
        else:
            start = spans[-1][1] if spans else 0
            spans.append((start, start + run.rows, run.rising))
            last = run
    return spans


def _between(ids: NDArray[np.int64], low: int, high: int, ordered: bool) -> NDArray[np.int64]:
    """Rows with low <= id <= high; of many rows that do not rise, some at a time."""
    if ordered:
        return np.arange(np.searchsorted(ids, low), np.searchsorted(ids, high, "right"))
    chunks = ((start, ids[start : start + _CHUNK]) for start in range(0, len(ids), _CHUNK))
    return np.concatenate([start + np.flatnonzero((own >= low) & (own <= high)) for start, own in chunks])
