"""Pass 2: lines and closed areas; segments of the ways that area relations need."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import shapely
from numpy.typing import NDArray

from geometry.packed import expand, ranges
from pipeline.osm.assemble import assemble
from pipeline.osm.passes import (
    MEMBERS,
    Counts,
    RangeJob,
    RangeResult,
    blocks_of,
    feature_rows,
    kept_objects,
    node_positions,
    segments,
    write_part,
)
from pipeline.osm.pbf import UNITS, Ways
from pipeline.osm.select import BlockTags
from pipeline.osm.wire import Ints
from schemas.features import ObjectType


def read_ways(job: RangeJob) -> RangeResult:
    """Lines and closed areas; segments of the ways that relations need."""
    counts = Counts(job.source)
    tables: list[pa.Table] = []
    ids, lonlat = node_positions(job.folder)
    wanted = np.load(job.folder / "members-wanted.npy")
    needed: list[tuple[Ints, Ints, Ints, Ints, NDArray[np.bool_]]] = []
    for _, block, tags in blocks_of(job, ObjectType.WAY):
        ways = block.ways
        xy, there = _locate(ways.refs, ids, lonlat)
        tables += _way_features(counts, ways, tags, xy, there)
        rows = np.flatnonzero(np.isin(ways.objects.ids, wanted))
        at, offsets = ranges(ways.offsets, rows)
        needed.append((ways.objects.ids[rows], np.diff(offsets), ways.refs[at], xy[at], there[at]))
    if needed:
        arrays = [np.concatenate(column) for column in zip(*needed, strict=True)]
        for name, array in zip(MEMBERS, arrays, strict=True):
            np.save(job.folder / f"members-{job.index:06d}.{name}.npy", array)
    return RangeResult(job.index, counts, write_part(job, "2-ways", tables), np.full(4, np.nan))


def _locate(refs: Ints, ids: Ints, lonlat: NDArray[np.int32]) -> tuple[Ints, NDArray[np.bool_]]:
    """Positions i64[R,2] of node ids, and which are in the extract."""
    if not len(ids):
        return np.zeros((len(refs), 2), np.int64), np.zeros(len(refs), bool)
    distinct, where = np.unique(refs, return_inverse=True)
    place = np.minimum(np.searchsorted(ids, distinct), len(ids) - 1)
    there = ids[place] == distinct
    return lonlat[place].astype(np.int64)[where.reshape(-1)], there[where.reshape(-1)]


def _way_features(counts: Counts, ways: Ways, tags: BlockTags, xy: Ints, there: NDArray[np.bool_]) -> list[pa.Table]:
    objects = ways.objects
    kept = kept_objects(counts, objects, tags, "way")
    size = np.diff(ways.offsets)
    first, last = ways.offsets[:-1], np.maximum(ways.offsets[1:] - 1, 0)
    closed = np.zeros(len(size), bool)
    closed[size >= 4] = ways.refs[first[size >= 4]] == ways.refs[last[size >= 4]]
    missing = np.zeros(len(size), np.int64)
    owner, _ = expand(size)
    np.add.at(missing, owner[~there], 1)
    area = kept & closed & tags.areas(objects.tags)
    line = kept & ~area
    for row in np.flatnonzero(area & (missing > 0)).tolist():
        counts.drop("way", int(objects.ids[row]), "invalid_area", f"{missing[row]} of {size[row]} nodes missing")
    for row in np.flatnonzero(line & (missing > 0)).tolist():
        counts.drop("way", int(objects.ids[row]), "missing_nodes", f"{missing[row]} of {size[row]} nodes missing")
    rows = np.flatnonzero((area | line) & (missing == 0))
    at, offsets = ranges(ways.offsets, rows)
    at, offsets = _without_repeats(at, offsets, xy)
    length = np.diff(offsets)
    short = length < np.where(area[rows], 4, 2)
    for row in rows[short & line[rows]].tolist():
        counts.drop("way", int(objects.ids[row]), "too_few_nodes", f"{size[row]} nodes")
    for row in rows[short & area[rows]].tolist():
        counts.drop("way", int(objects.ids[row]), "invalid_area", "no area")
    good = np.flatnonzero(~short)
    coordinate, _ = ranges(offsets, good)
    rows, owner = rows[good], expand(length[good])[0]
    geometry = _lines_and_rings(xy[at[coordinate]] / UNITS, owner, area[rows])
    bad = _rebuild(geometry, area[rows], ways, rows, xy)
    for row in rows[bad].tolist():
        counts.drop("way", int(objects.ids[row]), "invalid_area", "its ring crosses itself")
    rows, geometry = rows[~bad], geometry[~bad]
    if not len(rows):
        return []
    kinds = np.where(area[rows], "polygon", "line")
    return [feature_rows("way", kinds, objects, tags, rows, geometry)]


def _without_repeats(at: Ints, offsets: Ints, xy: Ints) -> tuple[Ints, Ints]:
    """Vertices of each way without those that repeat the place before them."""
    keep = np.ones(len(at), bool)
    keep[1:] = (xy[at[1:]] != xy[at[:-1]]).any(axis=1)
    starts = offsets[:-1]
    keep[starts[starts < len(at)]] = True
    total = np.concatenate(([0], np.cumsum(keep)))
    return at[keep], total[offsets]


def _lines_and_rings(lonlat: NDArray[np.float64], owner: Ints, area: NDArray[np.bool_]) -> NDArray[Any]:
    """Linestrings, and polygons where ``area``; ``owner`` rises from 0."""
    if not len(area):
        return np.zeros(0, object)
    geometry: NDArray[Any] = shapely.linestrings(lonlat, indices=owner)
    rings = np.flatnonzero(area)
    if len(rings):
        vertices, ring = shapely.get_coordinates(geometry[rings], return_index=True)
        geometry[rings] = shapely.orient_polygons(shapely.polygons(shapely.linearrings(vertices, indices=ring)))
    return geometry


def _rebuild(geometry: NDArray[Any], area: NDArray[np.bool_], ways: Ways, rows: Ints, xy: Ints) -> NDArray[np.bool_]:
    """Rings that are no simple polygon (they touch themselves, or run along themselves) go through the assembler.

    Changes ``geometry`` in place; returns which areas could not be built, bool[N].
    """
    bad = area.copy()
    bad[area] = ~shapely.is_valid(geometry[area])
    doubtful = np.flatnonzero(bad)
    if len(doubtful):
        at, offsets = ranges(ways.offsets, rows[doubtful])
        segment, ends = segments(at, offsets)
        built = assemble(len(doubtful), segment, ways.refs[ends[:, 0]], ways.refs[ends[:, 1]], xy[ends] / UNITS)
        there = np.array([g is not None for g in built], bool)
        geometry[doubtful[there]] = built[there]
        bad[doubtful[there]] = False
    return bad
