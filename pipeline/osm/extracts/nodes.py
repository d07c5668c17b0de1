"""Pass 1: positions and features of nodes; which ways the area relations need."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from geometry.packed import ranges
from pipeline.formats.pbf import UNITS, Blob, Block
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
from pipeline.osm.extracts.spill import Part
from pipeline.rules import Rules
from schemas.features import ObjectType


def read_nodes_and_relations(job: RangeJob) -> RangeResult:
    """Positions and features of nodes; area relations and the ways that they need."""
    counts = Counts(job.source)
    tables: list[pa.Table] = []
    bounds = NO_BOUNDS.copy()
    way_blobs: list[Blob] = []
    relation_blobs: list[tuple[Blob, int]] = []
    with Part(job.spill, "nodes", job.index) as positions, Part(job.spill, "wanted", job.index) as wanted:
        for blob, block, tags in blocks_of(job, ObjectType.NODE, ObjectType.RELATION):
            if ObjectType.WAY in block.holds:
                way_blobs.append(blob)
            nodes = block.nodes
            if len(nodes.objects.ids):
                xy = np.stack((nodes.lon, nodes.lat))
                valid = on_earth(xy.T)
                there = valid & nodes.objects.visible
                own = xy[:, there]
                extend(bounds, own.T)
                positions.append(id=nodes.objects.ids[there], lonlat=own.T)
                tables += _points(counts, block, tags, xy.T, valid)
            if relations := len(block.relations.objects.ids):
                relation_blobs.append((blob, relations))
                wanted.append(id=_wanted_ways(counts, block, tags, job.rules))
    part = write_part(job, "1-nodes", tables)
    return RangeResult(job.index, counts, part, bounds, positions.run, way_blobs, relation_blobs)


def _points(counts: Counts, block: Block, tags: BlockTags, xy: Ints, valid: NDArray[np.bool_]) -> list[pa.Table]:
    objects = block.nodes.objects
    kept = kept_objects(counts, objects, tags, "node")
    for osm_id in objects.ids[kept & ~valid].tolist():
        counts.drop("node", osm_id, "coordinate_out_of_range")
    rows = np.flatnonzero(kept & valid)
    if not len(rows):
        return []
    return [feature_rows("node", pa.repeat("point", len(rows)), objects, tags, rows, Shapes.points(xy[rows] / UNITS))]


def _wanted_ways(counts: Counts, block: Block, tags: BlockTags, rules: Rules) -> Ints:
    """Way members of the area relations of a block. Relations are counted here, and built in pass 3."""
    rows = area_relations(counts, block, tags, rules)
    at, _ = ranges(block.relations.offsets, rows)
    ways = block.relations.types[at] == ObjectType.WAY
    return np.unique(block.relations.members[at][ways])
