"""Pass 3: areas of relations."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from geometry.packed import expand, ranges
from pipeline.osm.assemble import assemble
from pipeline.osm.passes import (
    MEMBERS,
    Counts,
    RangeJob,
    RangeResult,
    area_relations,
    blocks_of,
    feature_rows,
    segments,
    write_part,
)
from pipeline.osm.pbf import UNITS, Block
from pipeline.osm.select import BlockTags
from pipeline.osm.wire import Ints
from schemas.features import ObjectType


def read_areas(job: RangeJob) -> RangeResult:
    """Areas of the relations of a range."""
    counts = Counts(job.source)
    tables: list[pa.Table] = []
    members = _Members.load(job.folder)
    for _, block, tags in blocks_of(job, ObjectType.RELATION):
        rows = area_relations(Counts(job.source), block, tags, job.rules)
        tables += _relation_features(counts, block, tags, rows, members)
    return RangeResult(job.index, counts, write_part(job, "3-relations", tables), np.full(4, np.nan))


@dataclass(frozen=True, eq=False)
class _Members:
    """The ways that area relations need, sorted by id."""

    ids: Ints  # [W]
    offsets: Ints  # [W+1]
    refs: Ints  # [R]
    xy: Ints  # [R,2]
    whole: NDArray[np.bool_]  # [W] every node is in the extract

    @classmethod
    def load(cls, folder: Path) -> _Members:
        none = np.zeros(0, np.int64)
        empty = {"xy": none.reshape(0, 2), "there": none.astype(bool)}
        ids, count, refs, xy, there = (
            np.concatenate([empty.get(n, none), *(np.load(p) for p in sorted(folder.glob(f"members-*.{n}.npy")))])
            for n in MEMBERS
        )
        offsets = np.concatenate(([0], np.cumsum(count)))
        total = np.concatenate(([0], np.cumsum(there)))
        whole = total[offsets[1:]] - total[offsets[:-1]] == count
        order = np.argsort(ids, kind="stable")
        at, sorted_offsets = ranges(offsets, order)
        return cls(ids[order], sorted_offsets, refs[at], xy[at], whole[order])


def _relation_features(counts: Counts, block: Block, tags: BlockTags, rows: Ints, members: _Members) -> list[pa.Table]:
    relations = block.relations
    at, offsets = ranges(relations.offsets, rows)
    relation, _ = expand(np.diff(offsets))
    ways = relations.types[at] == ObjectType.WAY
    relation, wanted = relation[ways], relations.members[at][ways]
    place = np.minimum(np.searchsorted(members.ids, wanted), max(len(members.ids) - 1, 0))
    there = members.ids[place] == wanted if len(members.ids) else np.zeros(len(wanted), bool)
    usable = there.copy()
    usable[there] = members.whole[place[there]]
    lost = np.bincount(relation[~usable], minlength=len(rows))
    asked = np.bincount(relation, minlength=len(rows))
    vertex, way_offsets = ranges(members.offsets, place[usable])
    segment, ends = segments(vertex, way_offsets)
    built = assemble(
        len(rows), relation[usable][segment], members.refs[ends[:, 0]], members.refs[ends[:, 1]],
        members.xy[ends] / UNITS,
    )  # fmt: skip
    good = np.array([g is not None for g in built], bool) & (lost == 0)
    for i in np.flatnonzero(~good).tolist():
        detail = (
            f"{lost[i]} of {asked[i]} member ways missing or cut"
            if lost[i]
            else f"rings cross or do not close ({asked[i]} ways)"
        )
        counts.drop("relation", int(relations.objects.ids[rows[i]]), "invalid_area", detail)
    if not good.any():
        return []
    return [feature_rows("relation", "polygon", relations.objects, tags, rows[good], built[good])]
