"""Pass 1: positions and features of nodes; which ways the area relations need; versions, where there may be several."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from geometry.packed import ranges
from pipeline.formats.pbf.arrays import UNITS, Block
from pipeline.formats.pbf.blobs import Blob
from pipeline.formats.wire import Ints
from pipeline.osm.extracts.passes import (
    NO_BOUNDS,
    Counts,
    RangeJob,
    RangeResult,
    area_relations,
    blocks_of,
    extend,
    feature_rows,
    kept_objects,
    on_earth,
    write_part,
)
from pipeline.osm.extracts.rings import Shapes
from pipeline.osm.extracts.select import BlockTags
from pipeline.osm.extracts.spill import NOWHERE, Part, Run, among, column, follow
from pipeline.osm.extracts.versions import versions_of
from pipeline.rules import Rules
from schemas.features import FEATURES, ObjectType

#: Points whose version is not judged yet, with their place.
_POINTS = FEATURES.append(pa.field("place", pa.int64()))


def read_nodes_and_relations(job: RangeJob) -> RangeResult:
    """Positions and features of nodes; the ways that area relations need. Where versions are to be told apart, those of
    all objects too, and features are left to ``write_points``."""
    counts = Counts(job.name)
    tables: list[pa.Table] = []
    bounds = NO_BOUNDS.copy()
    way_blobs: list[Blob] = []
    relation_blobs: Counter[Blob] = Counter()
    read: dict[ObjectType, Run | None] = {}
    own = job.tables[0]
    with (
        Part(own, "nodes", job.index) as positions, Part(own, "ways", job.index) as ways,
        Part(own, "relations", job.index) as relations, Part(job.spill, "wanted", job.index) as wanted,
    ):  # fmt: skip
        for blob, block, tags in blocks_of(job, ObjectType.NODE, ObjectType.RELATION, way_heads=job.versions):
            if ObjectType.WAY in block.holds and blob not in way_blobs[-1:]:
                way_blobs.append(blob)
            nodes = block.nodes
            if len(nodes.objects.ids):
                xy = np.stack((nodes.lon, nodes.lat))
                valid = on_earth(xy.T)
                there = valid & nodes.objects.visible
                whole = bool(there.all())
                extend(bounds, (xy if whole else xy[:, there]).T)
                versions = versions_of(nodes.objects, blob, block.first) if job.versions else {"id": nodes.objects.ids}
                positions.append(**versions, lonlat=(xy if whole else np.where(there, xy, NOWHERE)).T)
                tables += _points(counts, block, tags, xy.T, valid, versions.get("place"))
            for kind, part, objects in (
                (ObjectType.WAY, ways, block.way_heads), (ObjectType.RELATION, relations, block.relations.objects)
            ):  # fmt: skip
                read[kind] = follow(read.get(kind), Run.of(objects.ids))
                if job.versions:
                    part.append(**versions_of(objects, blob, block.first))
            if count := len(block.relations.objects.ids):
                relation_blobs[blob] += count
                wanted.append(id=_wanted_ways(block, tags, job.rules))
    read[ObjectType.NODE] = positions.run
    if job.versions:
        _hold(job, tables)
    result = None if job.versions else write_part(job, "1-nodes", tables)
    return RangeResult(
        job.index, counts, result, bounds, read=read, ways=way_blobs, relations=[*relation_blobs.items()]
    )


def write_points(job: RangeJob) -> RangeResult:
    """Features of the nodes that ``read_nodes_and_relations`` left, of those whose version counts."""
    counts, part = Counts(job.name), None
    path = _held(job)
    if path is not None:
        with pa.memory_map(str(path)) as source:
            points = pa.ipc.open_file(source).read_all()
            stale = among(points["place"].to_numpy(), column(job.tables[0], "stale_nodes", "place"))
            counts.repeated("node", int(stale.sum()))
            if not stale.all():
                part = write_part(job, "1-nodes", [points.filter(pa.array(~stale)).drop_columns("place")])
    return RangeResult(job.index, counts, part, np.full(4, np.nan))


def _held(job: RangeJob) -> Path | None:
    try:
        path = job.tables[0].local(_name(job))
    except FileNotFoundError:
        return None
    return path if path.exists() else None


def _name(job: RangeJob) -> str:
    return f"points.{job.index:06d}.arrow"


def _hold(job: RangeJob, tables: list[pa.Table]) -> None:
    if tables:
        with job.tables[0].filling(_name(job)) as path, pa.ipc.new_file(str(path), _POINTS) as writer:
            for table in tables:
                writer.write_table(table)


def _points(
    counts: Counts, block: Block, tags: BlockTags, xy: Ints, valid: NDArray[np.bool_], place: Ints | None
) -> list[pa.Table]:
    """FEATURES rows of a block's nodes, with their ``place`` in the file if it is given."""
    objects = block.nodes.objects
    kept = kept_objects(counts, objects, tags, ObjectType.NODE, np.ones(len(objects.ids), bool))
    for osm_id in objects.ids[kept & ~valid].tolist():
        counts.drop("node", osm_id, "coordinate_out_of_range")
    rows = np.flatnonzero(kept & valid)
    if not len(rows):
        return []
    table = feature_rows("node", pa.repeat("point", len(rows)), objects, tags, rows, Shapes.points(xy[rows] / UNITS))
    return [table if place is None else table.append_column(_POINTS.field("place"), pa.array(place[rows]))]


def _wanted_ways(block: Block, tags: BlockTags, rules: Rules) -> Ints:
    """Way members of the area relations of a block, of any version. Relations are counted and built in pass 3."""
    rows = area_relations(Counts(""), block, tags, rules)
    at, _ = ranges(block.relations.offsets, rows)
    ways = block.relations.types[at] == ObjectType.WAY
    return np.unique(block.relations.members[at][ways])
