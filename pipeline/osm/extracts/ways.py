"""Pass 2: lines and closed areas; segments of the ways that area relations need."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from geometry.packed import changes, expand, ranges
from pipeline.formats.pbf.arrays import UNITS, Ways
from pipeline.formats.wire import Ints
from pipeline.osm.extracts.assemble import assemble
from pipeline.osm.extracts.passes import (
    NO_BOUNDS,
    Counts,
    RangeJob,
    RangeResult,
    blocks_of,
    extend,
    feature_rows,
    kept_objects,
    live,
    on_earth,
    write_part,
)
from pipeline.osm.extracts.rings import Shapes, turn_of_rings
from pipeline.osm.extracts.select import BlockTags
from pipeline.osm.extracts.spill import NOWHERE, Part, Run, among, column, follow
from schemas.features import ObjectType


def read_ways(job: RangeJob) -> RangeResult:
    """Lines and closed areas; nodes and positions of the ways that relations need."""
    counts = Counts(job.name)
    tables: list[pa.Table] = []
    read: Run | None = None
    nodes = [(column(folder, "nodes", "id"), column(folder, "nodes", "lonlat")) for folder in job.tables]
    wanted = column(job.spill, "wanted", "id")
    bounds = NO_BOUNDS.copy()
    with Part(job.spill, "members", job.index) as members, Part(job.spill, "corners", job.index) as corners:
        for blob, block, tags in blocks_of(job, ObjectType.WAY):
            ways = block.ways
            read = follow(read, Run.of(ways.objects.ids))
            current = live(job, blob, block.first, len(ways.objects.ids), ObjectType.WAY)
            xy, there = _places(ways, nodes)
            if len(ways.lon):
                own = _carried(ways)
                extend(bounds, own[on_earth(own)])
            missing = np.diff(np.concatenate(([0], np.cumsum(~there)))[ways.offsets])
            tables += _way_features(counts, ways, tags, current, xy, missing)
            rows = np.flatnonzero(among(ways.objects.ids, wanted) & current & ways.objects.visible)
            at, offsets = ranges(ways.offsets, rows)
            members.append(id=ways.objects.ids[rows], count=np.diff(offsets), whole=missing[rows] == 0)
            corners.append(lonlat=xy.take(at, axis=0))
    part = write_part(job, "2-ways", tables)
    return RangeResult(job.index, counts, part, bounds, read={ObjectType.WAY: read}, run=members.run)


def _places(ways: Ways, tables: Sequence[tuple[Ints, NDArray[np.int32]]]) -> tuple[Ints, NDArray[np.bool_]]:
    """Positions i64[R,2] of the ways' nodes, and which there are: those that a way carries, else those of the nodes."""
    if not len(ways.lon):
        return _locate(ways.refs, tables)
    xy = _carried(ways)
    there = on_earth(xy)
    xy[~there], there[~there] = _locate(ways.refs[~there], tables)
    return xy, there


def _carried(ways: Ways) -> Ints:
    return np.stack((ways.lon, ways.lat), axis=1)


def _locate(refs: Ints, tables: Sequence[tuple[Ints, NDArray[np.int32]]]) -> tuple[Ints, NDArray[np.bool_]]:
    """Positions i64[R,2] of node ids, and which there are; those that a table lacks are looked up in the next.

    Args:
        refs: i64[R].
        tables: ids, sorted, and positions of each extract; the own one first, since most nodes are in it.
    """
    order = np.argsort(refs)  # looked up in the order in which they lie
    wanted = refs[order]
    places = np.full((len(refs), 2), NOWHERE, np.int32)
    both = _pairs(places)
    for ids, lonlat in tables:
        if len(ids) and len(order):
            place = np.searchsorted(ids, wanted)
            found = ids.take(place, mode="clip") == wanted
            both[order[found]] = _pairs(lonlat)[place[found]]
            order, wanted = order[~found], wanted[~found]
    return places.astype(np.int64), places[:, 0] != NOWHERE


def _pairs(lonlat: NDArray[np.int32]) -> Ints:
    """The same memory with one number for both of a place: it is copied in half the time."""
    return lonlat.view(np.int64)[:, 0]


def _way_features(
    counts: Counts, ways: Ways, tags: BlockTags, current: NDArray[np.bool_], xy: Ints, missing: Ints
) -> list[pa.Table]:
    objects = ways.objects
    kept = kept_objects(counts, objects, tags, ObjectType.WAY, current)
    size = np.diff(ways.offsets)
    closed = np.zeros(len(size), bool)
    some = np.flatnonzero(size >= 4)
    first, last = ways.offsets[some], ways.offsets[some + 1] - 1
    at_one_place = (xy[first] == xy[last]).all(axis=1) & (missing[some] == 0)
    closed[some] = at_one_place | (ways.refs[first] == ways.refs[last])
    area = kept & closed & tags.areas(objects.tags)
    line = kept & ~area
    for row in np.flatnonzero((area | line) & (missing > 0)).tolist():
        reason = "invalid_area" if area[row] else "missing_nodes"
        counts.drop("way", int(objects.ids[row]), reason, f"{missing[row]} of {size[row]} nodes missing")
    rows = np.flatnonzero((area | line) & (missing == 0))
    at, offsets = ranges(ways.offsets, rows)
    at, offsets = _without_repeats(at, offsets, xy)
    short = np.diff(offsets) < np.where(area[rows], 4, 2)
    for row in rows[short].tolist():
        reason = "invalid_area" if area[row] else "too_few_nodes"
        detail = (
            "no area: fewer than three places"
            if area[row]
            else f"{size[row]} nodes" + (" at one place" if size[row] > 1 else "")
        )
        counts.drop("way", int(objects.ids[row]), reason, detail)
    if short.any():
        vertex, offsets = ranges(offsets, np.flatnonzero(~short))
        at, rows = at[vertex], rows[~short]
    if not len(rows):
        return []
    shapes, why = _shapes(xy.take(at, axis=0), offsets, area[rows])
    for row, reason in why.items():
        counts.drop("way", int(objects.ids[rows[row]]), "invalid_area", reason)
    rows = np.delete(rows, list(why))
    kinds = pa.array(["line", "polygon"]).take(pa.array(area[rows].astype(np.int8)))
    return [feature_rows("way", kinds, objects, tags, rows, shapes)] if len(rows) else []


def _without_repeats(at: Ints, offsets: Ints, xy: Ints) -> tuple[Ints, Ints]:
    """Vertices of each way without those that repeat the place before them."""
    # Of rows, ``take`` is seven times as fast as an index.
    keep = changes(*xy.take(at, axis=0).T)
    starts = offsets[:-1]
    keep[starts[starts < len(at)]] = True
    total = np.concatenate(([0], np.cumsum(keep)))
    return at[keep], total[offsets]


def _shapes(places: Ints, offsets: Ints, area: NDArray[np.bool_]) -> tuple[Shapes, dict[int, str]]:
    """Geometry of the ways that have one, and why the others have none, by row.

    Rings that are no simple polygon (they touch themselves, or run along themselves) go through the assembler.

    Args:
        places: i64[V,2] vertices in units, none twice in a row.
        offsets: i64[N+1] into the vertices.
        area: bool[N].
    """
    lonlat = places / UNITS
    turn = np.ones(len(area), np.int8)
    rings = np.flatnonzero(area)
    if len(rings):
        vertex, starts = ranges(offsets, rings)
        turn[rings] = turn_of_rings(places.take(vertex, axis=0), lonlat.take(vertex, axis=0), starts)
    owner, _ = expand(np.diff(offsets))
    order = np.arange(len(places))
    order = np.where((turn < 0)[owner], (offsets[:-1] + offsets[1:] - 1)[owner] - order, order)
    shapes = Shapes.lines_and_polygons(lonlat.take(order, axis=0), offsets, area)
    doubtful = np.flatnonzero(turn == 0)
    if not len(doubtful):
        return shapes, {}
    vertex, starts = ranges(offsets, doubtful)
    built, why = assemble(len(doubtful), np.arange(len(doubtful)), places.take(vertex, axis=0), starts)
    there = np.delete(np.arange(len(doubtful)), list(why))
    shapes = shapes.replaced(doubtful[there], Shapes.of(built[there]))
    lost = {int(doubtful[i]): reason for i, reason in why.items()}
    return shapes.take(np.delete(np.arange(len(area)), list(lost))), lost
