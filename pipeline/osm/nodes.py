"""Pass 1: positions and features of nodes; which ways the area relations need."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import shapely
from numpy.typing import NDArray

from geometry.packed import ranges
from pipeline.osm.passes import (
    Counts,
    RangeJob,
    RangeResult,
    area_relations,
    blocks_of,
    feature_rows,
    kept_objects,
    node_positions,
    write_part,
)
from pipeline.osm.pbf import UNITS, Blob, Block
from pipeline.osm.select import BlockTags
from pipeline.osm.wire import Ints
from pipeline.rules import Rules
from schemas.features import ObjectType

_OUT_OF_RANGE_LON, _OUT_OF_RANGE_LAT = 180 * UNITS, 90 * UNITS


def read_nodes_and_relations(job: RangeJob) -> RangeResult:
    """Positions and features of nodes; area relations and the ways that they need."""
    counts = Counts(job.source)
    tables: list[pa.Table] = []
    bounds = np.array([np.inf, np.inf, -np.inf, -np.inf])
    total, rising, last = 0, True, -(1 << 62)
    wanted: list[Ints] = []
    way_blobs: list[Blob] = []
    relation_blobs: list[Blob] = []
    with (
        (job.folder / f"nodes-{job.index:06d}.i64").open("wb") as ids,
        (job.folder / f"nodes-{job.index:06d}.i32").open("wb") as positions,
    ):
        for blob, block, tags in blocks_of(job, ObjectType.NODE, ObjectType.RELATION):
            if ObjectType.WAY in block.holds:
                way_blobs.append(blob)
            if ObjectType.RELATION in block.holds:
                relation_blobs.append(blob)
            nodes = block.nodes
            own = nodes.objects.ids
            if len(own):
                valid = (np.abs(nodes.lon) <= _OUT_OF_RANGE_LON) & (np.abs(nodes.lat) <= _OUT_OF_RANGE_LAT)
                xy = np.stack((nodes.lon, nodes.lat), axis=1)
                if valid.any():
                    bounds[:2] = np.minimum(bounds[:2], xy[valid].min(axis=0))
                    bounds[2:] = np.maximum(bounds[2:], xy[valid].max(axis=0))
                rising = rising and bool(own[0] > last and (np.diff(own[valid]) > 0).all())
                last = int(own[-1])
                ids.write(own[valid].tobytes())
                positions.write(xy[valid].astype(np.int32).tobytes())
                total += int(valid.sum())
                tables += _points(counts, block, tags, xy, valid)
            if len(block.relations.objects.ids):
                wanted += _wanted_ways(counts, block, tags, job.rules)
    if wanted:
        np.save(job.folder / f"relations-{job.index:06d}.npy", np.unique(np.concatenate(wanted)))
    part = write_part(job, "1-nodes", tables)
    return RangeResult(job.index, counts, part, bounds, total, rising, way_blobs, relation_blobs)


def _points(counts: Counts, block: Block, tags: BlockTags, xy: Ints, valid: NDArray[np.bool_]) -> list[pa.Table]:
    objects = block.nodes.objects
    kept = kept_objects(counts, objects, tags, "node")
    for osm_id in objects.ids[kept & ~valid].tolist():
        counts.drop("node", osm_id, "coordinate_out_of_range")
    rows = np.flatnonzero(kept & valid)
    if not len(rows):
        return []
    return [feature_rows("node", "point", objects, tags, rows, shapely.points(xy[rows] / UNITS))]


def _wanted_ways(counts: Counts, block: Block, tags: BlockTags, rules: Rules) -> list[Ints]:
    """Way members of the area relations of a block. Relations are counted here, and built in pass 3."""
    rows = area_relations(counts, block, tags, rules)
    at, _ = ranges(block.relations.offsets, rows)
    ways = block.relations.types[at] == ObjectType.WAY
    return [block.relations.members[at][ways]]


def join_positions(folder: Path, results: Sequence[RangeResult]) -> None:
    """One file of ids and one of positions, sorted by id; and the list of needed ways."""
    for end, name in ((".i64", "ids.i64"), (".i32", "lonlat.i32")):
        with (folder / name).open("wb") as target:
            for result in results:
                part = folder / f"nodes-{result.index:06d}{end}"
                with part.open("rb") as source:
                    shutil.copyfileobj(source, target, 1 << 20)
                part.unlink()
    ids, lonlat = node_positions(folder)
    whole = all(r.rising for r in results) and bool((np.diff(_range_ends(ids, results)) > 0).all())
    if not whole:  # an extract that is not sorted by id
        order = np.argsort(ids, kind="stable")
        sorted_ids, sorted_lonlat = ids[order], lonlat[order]
        sorted_ids.tofile(folder / "ids.i64")
        sorted_lonlat.tofile(folder / "lonlat.i32")
    wanted = [np.load(p) for p in sorted(folder.glob("relations-*.npy"))]
    np.save(folder / "members-wanted.npy", np.unique(np.concatenate(wanted)) if wanted else np.zeros(0, np.int64))


def _range_ends(ids: Ints, results: Sequence[RangeResult]) -> Ints:
    """Last id of each range that has nodes, then the first of the next, and so on: rises if the ranges do."""
    ends = np.cumsum([r.nodes for r in results], dtype=np.int64)
    starts = ends - np.array([r.nodes for r in results], np.int64)
    full = ends > starts
    return np.asarray(np.stack((ids[starts[full]], ids[ends[full] - 1]), axis=1).ravel()[1:-1])
