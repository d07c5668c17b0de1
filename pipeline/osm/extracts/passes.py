"""What the three passes over an extract share: jobs over ranges of blobs, counts, feature rows, node positions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.formats.pbf.arrays import UNITS, Block, Objects
from pipeline.formats.pbf.blobs import Blob
from pipeline.formats.pbf.block import read_blocks
from pipeline.formats.wire import Ints
from pipeline.osm.cells.parts import Part
from pipeline.osm.extracts.rings import Shapes
from pipeline.osm.extracts.select import BlockTags
from pipeline.osm.extracts.spill import VERSIONS, Run, column
from pipeline.osm.extracts.versions import fresh
from pipeline.rules import Rules
from schemas.features import DROPS, FEATURES, ObjectType, drop_row, geoparquet_metadata
from storage.store import Store, place_of

#: GeoParquet geometry types of feature parts.
GEOMETRY_TYPES = ["LineString", "MultiPolygon", "Point", "Polygon"]
_BBOX = FEATURES.field("bbox").type
#: Columns of features whose values repeat: a dictionary of the others is made in vain, for a third of the time.
_REPEATING = ("osm_type", "kind", "tags.key_value.key", "tags.key_value.value", "version")
#: Named drops that are held as Python's objects.
_DROPS = 1 << 14
#: Bytes between two blobs that one request has, and bytes of a request.
_GAP, _REQUEST = 1 << 20, 64 << 20
#: Bounds of nothing.
NO_BOUNDS = np.array([np.inf, np.inf, -np.inf, -np.inf])
#: Largest longitude and latitude in units.
_LARGEST = np.array([180 * UNITS, 90 * UNITS])


@dataclass
class Counts:
    """What was not turned into features."""

    source: str
    drops: list[tuple[str, int, str, str]] = field(default_factory=list)  # type, id, reason, detail
    uncounted: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    objects: int = 0
    newest: int = 0  # seconds since 1970
    added: list[pa.Table] = field(default_factory=list)  # drops of other ranges

    def drop(self, osm_type: str, osm_id: int, reason: str, detail: str = "") -> None:
        """One object that cannot be built."""
        self.drops.append((osm_type, osm_id, reason, detail))
        if len(self.drops) >= _DROPS:
            self.added.append(self._pack())

    def _pack(self) -> pa.Table:
        """The drops as rows, which take a fraction of their memory."""
        count = len(self.drops)
        types, ids, reasons, details = zip(*self.drops, strict=True) if count else ((), (), (), ())
        self.drops = []
        columns = [
            pa.repeat("features", count), pa.repeat(self.source, count), pa.array(types, pa.string()),
            pa.array(ids, pa.int64()), pa.nulls(count, pa.string()), pa.array(reasons, pa.string()),
            pa.array(details, pa.string()), pa.array(np.ones(count, np.int64)),
        ]  # fmt: skip
        return pa.table(columns, DROPS)

    def repeated(self, osm_type: str, number: int) -> None:
        """Objects with a kept key of which another version counts."""
        if number:
            self.uncounted[osm_type, "repeated_in_extracts", "an equal or newer version is kept"] += number

    def add(self, other: Counts) -> None:
        """Sum with another range's."""
        self.added += other.added + ([other._pack()] if other.drops else [])
        self.uncounted += other.uncounted
        self.objects += other.objects
        self.newest = max(self.newest, other.newest)

    def table(self) -> pa.Table:
        """As DROPS rows: named ones by type and id, then counts. Ranges may have been added in any order."""
        named = pa.concat_tables([*self.added, self._pack()])
        types = named["osm_type"].to_numpy(zero_copy_only=False).astype(str)
        rank = np.select([types == t.name.lower() for t in ObjectType], list(ObjectType))
        texts = (named[name].to_numpy(zero_copy_only=False).astype(str) for name in ("detail", "reason"))
        order = np.lexsort((*texts, named["osm_id"].to_numpy(), rank))
        counted = [
            drop_row("features", self.source, reason, osm_type=osm_type, detail=detail, count=count)
            for (osm_type, reason, detail), count in sorted(self.uncounted.items())
        ]
        return pa.concat_tables(
            [named.take(pa.array(order)), pa.Table.from_pylist(counted, schema=DROPS)]
        ).combine_chunks()


@dataclass(frozen=True)
class RangeJob:
    """A run of blobs of one extract for one task of one pass."""

    path: str  # or URL
    blobs: list[Blob]
    folder: Store  # of results: feature parts
    index: int
    rules: Rules
    source: int  # which of the extracts
    name: str  # of its file, in drops
    spill: Store  # of what one pass leaves for the next
    tables: tuple[Store, ...]  # of each extract, the own one first
    versions: bool  # objects may be there in several versions: those that do not count are told from the others
    share: tuple[int, int] = (0, 1)  # n, of: this task takes the n-th of so many equal parts of each block's objects


@dataclass(frozen=True)
class RangeResult:
    """What a task reports; its rows and arrays lie in the folder."""

    index: int
    counts: Counts
    part: Part | None
    bounds: NDArray[np.float64]  # west, south, east, north in units; infinite without nodes
    source: int = -1  # which of the extracts
    read: dict[ObjectType, Run | None] = field(default_factory=dict)  # ids of the objects of the range
    run: Run | None = None  # ids of the members that it leaves for the next pass
    ways: list[Blob] = field(default_factory=list)  # blobs of the range that hold ways
    relations: list[tuple[Blob, int]] = field(default_factory=list)  # blobs that hold relations, and how many


def blocks_of(job: RangeJob, *wanted: ObjectType, way_heads: bool = False) -> Iterator[tuple[Blob, Block, BlockTags]]:
    store, name = place_of(job.path)
    for some in _near(job.blobs) if store.remote else [job.blobs]:
        with store.part(name, some[0].offset, some[-1].offset + some[-1].size) as file:
            for blob in some:
                for block in read_blocks(file, blob, job.path, wanted, way_heads=way_heads):
                    yield blob, block, BlockTags(block.strings, job.rules)


def _near(blobs: list[Blob]) -> Iterator[list[Blob]]:
    """Runs of rising blobs that one request has: with little between them, and not too much in all."""
    first = 0
    for i in range(1, len(blobs) + 1):
        if i < len(blobs):
            gap = blobs[i].offset - blobs[i - 1].offset - blobs[i - 1].size
            if 0 <= gap <= _GAP and blobs[i].offset + blobs[i].size - blobs[first].offset <= _REQUEST:
                continue
        yield blobs[first:i]
        first = i


def live(job: RangeJob, blob: Blob, first: int, count: int, osm_type: ObjectType) -> NDArray[np.bool_]:
    """Which objects of a type of a blob, from the ``first`` on, are their newest version, bool[count]."""
    if not job.versions:
        return np.ones(count, bool)
    return fresh(column(job.tables[0], f"stale_{VERSIONS[osm_type]}", "place"), blob, first, count)


def kept_objects(
    counts: Counts, objects: Objects, tags: BlockTags, osm_type: ObjectType, current: NDArray[np.bool_]
) -> NDArray[np.bool_]:
    """Objects with a kept key in their ``current`` version that are not deleted; the others are counted."""
    name = osm_type.name.lower()
    kept = tags.kept(objects.tags) & objects.visible
    deleted = len(kept) - int(objects.visible.sum())
    untagged = int(((np.diff(objects.tags.offsets) == 0) & objects.visible).sum())
    counts.objects += len(kept)
    rest = len(kept) - deleted - untagged - int(kept.sum())
    for reason, number in (("deleted", deleted), ("no_tags", untagged), ("no_kept_key", rest)):
        if number:
            counts.uncounted[name, reason, ""] += number
    counts.newest = max(counts.newest, int(objects.timestamps[kept].max(initial=0)))
    counts.repeated(name, int((kept & ~current).sum()))
    return kept & current


def area_relations(
    counts: Counts, block: Block, tags: BlockTags, rules: Rules, current: NDArray[np.bool_] | None = None
) -> Ints:
    """Rows of the area relations of a block, of those that are ``current`` or of all; the others are counted."""
    objects = block.relations.objects
    current = np.ones(len(objects.ids), bool) if current is None else current
    kept = kept_objects(counts, objects, tags, ObjectType.RELATION, current)
    types = np.array(tags.values_of("type", objects.tags), object)
    area = np.array([kind in rules.areas.relation_types for kind in types], bool)
    counts.uncounted.update(("relation", "type_out_of_scope", str(kind)) for kind in types[kept & ~area])
    return np.flatnonzero(kept & area)


def on_earth(xy: Ints) -> NDArray[np.bool_]:
    """Which places i64[N,2], in units, exist."""
    return np.asarray((np.abs(xy) <= _LARGEST).all(axis=1))


def extend(bounds: NDArray[np.float64], xy: Ints) -> None:
    """Bounds in place by those of places i64[N,2]."""
    if len(xy):
        bounds[:2] = np.minimum(bounds[:2], xy.min(axis=0))
        bounds[2:] = np.maximum(bounds[2:], xy.max(axis=0))


def feature_rows(
    osm_type: str, kinds: pa.Array, objects: Objects, tags: BlockTags, rows: Ints, shapes: Shapes
) -> pa.Table:
    """FEATURES rows of the chosen objects of a block."""
    bbox = pa.StructArray.from_arrays([pa.array(side) for side in shapes.bounds.T], fields=list(_BBOX))
    stamps = objects.timestamps[rows]
    columns = [
        pa.repeat(osm_type, len(rows)),
        pa.array(objects.ids[rows]),
        kinds,
        tags.column(objects.tags, rows),
        shapes.wkb,
        bbox,
        pa.array(objects.versions[rows]),
        pa.array(stamps * 1000, pa.timestamp("ms", tz="UTC"), mask=stamps == 0),
    ]
    return pa.Table.from_arrays(columns, schema=FEATURES)


def write_part(job: RangeJob, name: str, tables: list[pa.Table]) -> Part | None:
    if not sum(table.num_rows for table in tables):
        return None
    table = pa.concat_tables(tables).combine_chunks()
    # Of two attempts at the same extracts the second, with versions, leaves what a first one wrote behind a URL.
    target = f"features/{name}{'-v' if job.versions else ''}-{job.index:06d}.parquet"
    # What an interrupted run leaves is made anew, and whoever publishes the folder flushes it.
    job.folder.write_table(target, table, geoparquet_metadata(GEOMETRY_TYPES), _REPEATING, durable=False)
    return Part.of(job.folder.path(target), table)
