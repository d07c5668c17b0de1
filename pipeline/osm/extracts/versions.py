"""Which version of each object counts, where several extracts, or one, hold several.

The newest version, then the newest timestamp, then the later extract (they are sorted: `read.read_extracts`), then the
later place in it. All others are stale: they make no feature, and lend nothing to what is made of other objects.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geometry.packed import changes, expand
from pipeline.formats.pbf.arrays import Heads
from pipeline.formats.pbf.blobs import Blob
from pipeline.formats.wire import Ints
from pipeline.osm.extracts.spill import Part, Run, column, id_ranges, join, sort, sort_values
from storage.store import Store

#: Bits of the number of an object in its blob: a blob holds 32 MiB, an object takes three bytes at least.
_ROW_BITS = 24
#: Bits of a timestamp in seconds.
_TIME_BITS = 32
#: Rows of which ids are held in memory at once.
_CHUNK = 1 << 19


def versions_of(objects: Heads, blob: Blob, first: int) -> dict[str, Ints]:
    """Columns that tell versions apart: id, age (the higher, the newer) and place in the file.

    Args:
        first: objects of their type in the blob before them.
    """
    return {
        "id": objects.ids,
        "age": objects.versions.astype(np.int64) << _TIME_BITS | objects.timestamps,
        "place": (blob.offset << _ROW_BITS) + np.arange(first, first + len(objects.ids)),
    }


def fresh(stale: Ints, blob: Blob, first: int, count: int) -> NDArray[np.bool_]:
    """Which objects of a blob, from the ``first`` on, are not among the stale places of its file, bool[count]."""
    place = (blob.offset << _ROW_BITS) + first
    begin, end = np.searchsorted(stale, (place, place + count))
    result = np.ones(count, bool)
    result[stale[begin:end] - place] = False
    return result


def join_ordered(table: str, runs: Sequence[Sequence[Run | None]], stale: bool, folders: list[Path]) -> None:
    """Join and sort a table of each extract, whose parts have these ``runs``, and find what is ``stale`` if that is
    asked for; for `pipeline.osm.extracts.spill.Settling`."""
    for folder, own in zip(folders, runs, strict=True):
        join(folder, table)
        sort(folder, table, own)
    if stale:
        find_stale(folders, table)


def find_stale(folders: Sequence[Path], table: str) -> None:
    """Write the places of the stale objects of one type beside the tables of each extract.

    Every version of a node gets the position of the newest, so that any table that has the node gives the same.

    Args:
        folders: of each extract, in the order in which later ones count; their tables are sorted by id.
        table: nodes, ways or relations.
    """
    stores = [Store(folder) for folder in folders]
    ids, ages, places = ([column(s, table, name) for s in stores] for name in ("id", "age", "place"))
    lonlat = [column(s, table, "lonlat", write=True) for s in stores] if table == "nodes" else []
    target = f"stale_{table}"
    with ExitStack() as stack:
        stale = [stack.enter_context(Part(store, target, 0)) for store in stores]
        for low, high in id_ranges(ids, _CHUNK):
            source, row, osm_id = _repeated(ids, low, high)
            if not len(row):
                continue
            place = _gather(places, source, row)
            order = np.lexsort((place, source, _gather(ages, source, row), osm_id))
            last = np.append(changes(osm_id[order])[1:], True)
            for n in range(len(folders)):
                stale[n].append(place=place[order[~last & (source[order] == n)]])
            if lonlat:
                versions = np.diff(np.flatnonzero(last), prepend=-1)
                newest = np.repeat(_gather(lonlat, source, row)[order[last]], versions, axis=0)
                for n, positions in enumerate(lonlat):
                    own = source[order] == n
                    positions[row[order[own]]] = newest[own]
    for folder in folders:
        join(folder, target)
        sort_values(folder, target, "place")


def _gather(columns: Sequence[NDArray[Any]], source: Ints, row: Ints) -> NDArray[Any]:
    """Rows of the columns of several extracts."""
    result = np.empty((len(row), *columns[0].shape[1:]), columns[0].dtype)
    for n, values in enumerate(columns):
        own = source == n
        result[own] = values[row[own]]
    return result


def _repeated(ids: Sequence[Ints], low: int, high: int) -> tuple[Ints, Ints, Ints]:
    """Extract and row of what is in tables of ids more than once, and its id; of the ids from ``low`` to ``high``."""
    parts = [own[np.searchsorted(own, low) : np.searchsorted(own, high, "right")] for own in ids]
    whole = np.sort(np.concatenate(parts), kind="stable")  # of runs that rise already
    twice = whole[1:][whole[1:] == whole[:-1]]
    twice = twice[changes(twice)]
    found = []
    for n, own in enumerate(ids):
        first = np.searchsorted(own, twice)
        which, nth = expand(np.searchsorted(own, twice, "right") - first)
        found.append((np.full(len(which), n), first[which] + nth, twice[which]))
    source, row, osm_id = (np.concatenate(columns) for columns in zip(*found, strict=True))
    return source, row, osm_id
