"""Pass 3: areas of relations."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from geometry.packed import changes, expand, ranges
from pipeline.formats.pbf.arrays import Block, Relations
from pipeline.formats.wire import Ints
from pipeline.osm.extracts.assemble import assemble
from pipeline.osm.extracts.passes import (
    Counts,
    RangeJob,
    RangeResult,
    area_relations,
    blocks_of,
    feature_rows,
    live,
    write_part,
)
from pipeline.osm.extracts.rings import Shapes
from pipeline.osm.extracts.select import BlockTags
from pipeline.osm.extracts.spill import column
from schemas.features import ObjectType
from storage.store import Store

#: Vertices that are assembled at a time, about: a million take some 300 MB.
_VERTICES = 500_000


def read_areas(job: RangeJob) -> RangeResult:
    """Areas of the relations of a range."""
    counts = Counts(job.name)
    tables: list[pa.Table] = []
    members = _Members.load(job.spill)
    share, shares = job.share
    for blob, block, tags in blocks_of(job, ObjectType.RELATION):
        current = live(job, blob, block.first, len(block.relations.objects.ids), ObjectType.RELATION)
        # Whoever has the first share of a block counts it.
        rows = area_relations(counts if share == 0 else Counts(""), block, tags, job.rules, current)
        rows = rows[len(rows) * share // shares : len(rows) * (share + 1) // shares]
        for few in _in_batches(block, rows, members):
            tables += _relation_features(counts, block, tags, few, members)
    return RangeResult(job.index, counts, write_part(job, "3-relations", tables), np.full(4, np.nan))


@dataclass(frozen=True, eq=False)
class _Members:
    """The ways that area relations need, mapped; sorted by id."""

    ids: Ints  # [W]
    start: Ints  # [W] of its corners
    count: Ints  # [W]
    whole: NDArray[np.bool_]  # [W] every node is there
    xy: NDArray[np.int32]  # [C,2] corners of all, units

    @classmethod
    def load(cls, folder: Store) -> _Members:
        ids, start, count, whole = (column(folder, "members", name) for name in ("id", "start", "count", "whole"))
        return cls(ids, start, count, whole, column(folder, "corners", "lonlat"))

    def find(self, wanted: Ints) -> tuple[Ints, NDArray[np.bool_]]:
        """Rows of way ids, and which of them are there and whole."""
        if not len(self.ids):
            return np.zeros(len(wanted), np.int64), np.zeros(len(wanted), bool)
        place = np.minimum(np.searchsorted(self.ids, wanted), len(self.ids) - 1)
        return place, (self.ids[place] == wanted) & self.whole[place]


def _in_batches(block: Block, rows: Ints, members: _Members) -> list[Ints]:
    """The relations in runs of about as many vertices, so that the borders of a continent fit into memory too."""
    relations = block.relations
    at, offsets = ranges(relations.offsets, rows)
    place, usable = members.find(relations.members[at])
    usable &= relations.types[at] == ObjectType.WAY
    vertices = np.zeros(len(at), np.int64)
    vertices[usable] = members.count[place[usable]]
    before = np.concatenate(([0], np.cumsum(vertices)))[offsets[:-1]]
    return np.split(rows, np.flatnonzero(np.diff(before // _VERTICES)) + 1) if len(rows) else []


def _member_ways(relations: Relations, rows: Ints) -> tuple[Ints, Ints]:
    """Row, of ``rows``, and id of each way that a relation has as a member; one that it names twice counts once."""
    at, offsets = ranges(relations.offsets, rows)
    relation, _ = expand(np.diff(offsets))
    ways = relations.types[at] == ObjectType.WAY
    relation, wanted = relation[ways], relations.members[at][ways]
    order = np.lexsort((wanted, relation))
    once = np.sort(order[changes(relation[order], wanted[order])])
    return relation[once], wanted[once]


def _relation_features(counts: Counts, block: Block, tags: BlockTags, rows: Ints, members: _Members) -> list[pa.Table]:
    relations = block.relations
    relation, wanted = _member_ways(relations, rows)
    place, usable = members.find(wanted)
    lost = np.bincount(relation[~usable], minlength=len(rows))
    asked = np.bincount(relation, minlength=len(rows))
    whole = (lost == 0)[relation]
    count = members.count[place[whole]]
    line, nth = expand(count)
    places = members.xy.take(members.start[place[whole]][line] + nth, axis=0).astype(np.int64)
    built, why = assemble(len(rows), relation[whole], places, np.concatenate(([0], np.cumsum(count))))
    good = np.array([g is not None for g in built], bool)
    one_lost = dict(zip(relation[~usable][::-1].tolist(), wanted[~usable][::-1].tolist(), strict=True))
    for i in np.flatnonzero(~good).tolist():
        detail = (
            f"{lost[i]} of {asked[i]} member ways missing or cut, way {one_lost[i]} first"
            if lost[i]
            else f"{why[i]} ({asked[i]} ways)"
        )
        counts.drop("relation", int(relations.objects.ids[rows[i]]), "invalid_area", detail)
    if not good.any():
        return []
    kinds = pa.repeat("polygon", int(good.sum()))
    return [feature_rows("relation", kinds, relations.objects, tags, rows[good], Shapes.of(built[good]))]
