"""Feature parts as slabs: ranges of ids of one type, so that all features come in order while memory holds one slab."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from schemas.features import FEATURES, ObjectType
from storage.store import place_of

TYPES = [t.name.lower() for t in ObjectType]
KINDS = ["point", "line", "polygon"]

#: Features a slab, about: one takes about 100 MB while it is worked on.
SLAB = 100_000


@dataclass(frozen=True)
class Part:
    """A Parquet file of FEATURES rows of one type."""

    path: str  # or URL
    osm_type: str
    first: int  # lowest id
    last: int  # highest id
    rows: int

    @classmethod
    def of(cls, path: str | Path, table: pa.Table) -> Part:
        """The file that is to hold a table of at least one row."""
        ids = table["osm_id"].to_numpy()
        return cls(str(path), table["osm_type"][0].as_py(), int(ids.min()), int(ids.max()), table.num_rows)


@dataclass(frozen=True)
class Slab:
    """All features of one type with first <= id <= last."""

    osm_type: str
    first: int
    last: int
    parts: list[Part]  # that may hold some


def plan_slabs(parts: Sequence[Part], size: int = SLAB) -> list[Slab]:
    """Slabs of about ``size`` features, in order of type and id. Ids are taken as evenly spread within a part."""
    slabs: list[Slab] = []
    for osm_type in TYPES:
        own = sorted((p for p in parts if p.osm_type == osm_type), key=lambda p: (p.first, p.last))
        for first, last in _ranges(own, size):
            slabs.append(Slab(osm_type, first, last, [p for p in own if p.first <= last and p.last >= first]))
    return slabs


def _ranges(parts: Sequence[Part], size: int) -> list[tuple[int, int]]:
    """Id ranges that hold about ``size`` rows each and together all."""
    if not parts:
        return []
    begin, end = min(p.first for p in parts), max(p.last for p in parts) + 1  # exact: floats hold 53 bits of an id
    lows = np.array([float(p.first - begin) for p in parts])
    widths = np.array([float(p.last + 1 - p.first) for p in parts])
    rows = np.array([p.rows for p in parts], np.float64)
    knots = np.unique(np.concatenate((lows, lows + widths)))
    below = np.array([float(np.sum(rows * np.clip((k - lows) / widths, 0, 1))) for k in knots])
    count = max(1, round(below[-1] / size))
    cuts = {begin + int(c) for c in np.interp(np.arange(1, count) * below[-1] / count, below, knots).tolist()}
    edges = [begin, *sorted(c for c in cuts if begin < c < end), end]
    return [(a, b - 1) for a, b in pairwise(edges)]


def load_slab(slab: Slab) -> pa.Table:
    """FEATURES rows of a slab, sorted by id."""
    tables = [FEATURES.empty_table()]
    for part in slab.parts:
        inside = slab.first <= part.first and part.last <= slab.last
        filters = None if inside else [("osm_id", ">=", slab.first), ("osm_id", "<=", slab.last)]
        store, name = place_of(part.path)
        read = pq.read_table(store.local(name), filters=filters, use_threads=False)
        tables.append(read.replace_schema_metadata(None))
    table = pa.concat_tables(tables)
    ids = table["osm_id"].to_numpy()
    return table if (ids[1:] > ids[:-1]).all() else table.take(pa.array(np.argsort(ids, kind="stable")))
