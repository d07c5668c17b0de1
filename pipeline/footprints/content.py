"""Where the features of a build lie: their boxes from the feature parts, the wide ones by their shape.

Memory depends on one part, and on how many quads hold features.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import shapely
from numpy.typing import NDArray

from geometry.packed import Floats, Ints
from geometry.tiles import WEB_MERCATOR_MAX_LATITUDE, children, tile_bounds, tile_ranges, tiles_between
from pipeline.footprints.ground import Box, Ground, quads_around
from pipeline.meridian import has_wide_part, wrapped
from pipeline.osm.stage import Features
from pipeline.run.ray_map import Runner
from schemas.features import drop_row
from storage.store import place_of

#: Zoom of the quads in which features have a box together: where a footprint needs an object, so that few tiles lie
#: between objects; where an image is enough, so that what lies among the objects is built with them.
NEAR, AROUND = 14, 10
#: Quads whose box counts; an object in more of them is looked at by its shape.
_NARROW = 16
#: Features that one process looks at in about the time that Ray takes to start.
_SMALL = 10_000_000
#: Quads that are folded as soon as there are so many.
_FOLD = 2_000_000
#: Objects outside that are named; more are counted.
_NAMED = 100_000


@dataclass(frozen=True)
class CoverJob:
    """A Parquet file of FEATURES rows to look at."""

    path: str  # or URL
    osm_type: str
    level: int  # of the quads
    extents: list[Box]  # that a feature must meet; none: the world


@dataclass(frozen=True, eq=False)
class Covered:
    """What a file holds."""

    ground: Ground
    outside: Ints  # ids of those that meet no extent


def content_of(
    features: Features, level: int, extents: Sequence[Box], runner: Runner
) -> tuple[Ground, list[dict[str, object]]]:
    """The ground that features lie on, and DROPS rows of those that lie outside all extents.

    Args:
        features: of all extracts.
        level: zoom of the quads, `NEAR` or `AROUND`.
        extents: boxes that the extracts speak for, in degrees; none: all features count.
        runner: looks at the files side by side.
    """
    parts = sorted(features.parts, key=lambda part: part.path)
    jobs = [CoverJob(part.path, part.osm_type, level, list(extents)) for part in parts]
    outside: dict[str, set[int]] = {}
    found, most = list[Ground](), _FOLD
    for index, covered, _ in runner.map(cover, jobs, small=features.count < _SMALL, brief=True):
        found.append(covered.ground)
        outside.setdefault(jobs[index].osm_type, set()).update(covered.outside.tolist())
        if sum(map(len, found)) > most:
            found = [_fold(found)]
            most = max(_FOLD, 2 * len(found[0]))
    ground = _fold(found)
    far = [(-180.0, south, -180.0, north) for _, south, east, north in extents if east == 180.0]  # the same place
    ground = ground.cut([*extents, *far]) if extents else ground
    return ground, _outside_rows([(kind, i) for kind, ids in sorted(outside.items()) for i in sorted(ids)])


def _fold(found: Sequence[Ground]) -> Ground:
    quads, bounds = [np.zeros((0, 3), np.int64)], [np.zeros((0, 4))]
    return Ground.of(
        np.concatenate(quads + [g.quad for g in found]), np.concatenate(bounds + [g.bounds for g in found])
    )


def _outside_rows(objects: list[tuple[str, int]]) -> list[dict[str, object]]:
    detail = "outside the box that the extract's header names; a region by name, bbox or outline would build it"
    rows = [
        drop_row("plan", "extracts", "outside_extract", osm_type=osm_type, osm_id=osm_id, detail=detail)
        for osm_type, osm_id in objects[:_NAMED]
    ]
    if more := len(objects) - len(rows):
        rows.append(drop_row("plan", "extracts", "outside_extract", detail=detail, count=more))
    return rows


def cover(job: CoverJob) -> Covered:
    """The ground of one file."""
    store, name = place_of(job.path)
    file = store.parquet(name)
    box = file.read(columns=["bbox"], use_threads=False)["bbox"].combine_chunks()
    bounds = np.stack([box.field(name).to_numpy() for name in ("xmin", "ymin", "xmax", "ymax")], axis=1)
    there = _meets(bounds, job.extents)
    outside = np.zeros(0, np.int64)
    if not there.all():
        outside = file.read(columns=["osm_id"], use_threads=False)["osm_id"].to_numpy()[~there]
    rows = np.flatnonzero(there & _on_map(bounds))
    far = _count(bounds[rows], job.level) > _NARROW
    wide, point = rows[far], bounds[rows[~far]]
    point[(point[:, 0] == 180.0) & (point[:, 1] == point[:, 3]), ::2] = -180.0
    quad, part = quads_around(point, job.level)
    quads, parts = [quad], [part]
    if len(wide):
        wkb = file.read(columns=["geometry"], use_threads=False)["geometry"].take(wide)
        shapes = wrapped(shapely.from_wkb(wkb.to_numpy()))
        shapes = shapes[~has_wide_part(shapes)]  # they are drops of the cells
        for quad, part in _shapes(shapely.get_parts(shapes), job.level):
            quads.append(quad)
            parts.append(part)
    return Covered(Ground.of(np.concatenate(quads), np.concatenate(parts)), outside)


def _meets(bounds: Floats, extents: Sequence[Box]) -> NDArray[np.bool_]:
    """Which boxes f64[N,4] meet any extent, bool[N]; all do where there is none."""
    there = np.full(len(bounds), not extents)
    for west, south, east, north in extents:
        there |= (bounds[:, 0] <= east) & (bounds[:, 2] >= west) & (bounds[:, 1] <= north) & (bounds[:, 3] >= south)
    return there


def _on_map(bounds: Floats) -> NDArray[np.bool_]:
    """Which boxes have a place on web-mercator tiles; the others are drops of the cells."""
    return (bounds[:, 1] <= WEB_MERCATOR_MAX_LATITUDE) & (bounds[:, 3] >= -WEB_MERCATOR_MAX_LATITUDE)


def _count(bounds: Floats, level: int) -> Ints:
    first, last = tile_ranges(bounds, level)
    return np.asarray((last - first + 1).prod(axis=1))


def _shapes(parts: NDArray[np.object_], level: int) -> list[tuple[Ints, Floats]]:
    """Quads that shapes meet, level by level, and the box of the shape in each; what lies wholly inside is not looked
    into."""
    bounds = shapely.bounds(parts)
    keep = _on_map(bounds)
    parts, bounds = parts[keep], bounds[keep]
    narrow = _count(bounds, level) <= _NARROW
    found = [quads_around(bounds[narrow], level)]
    parts, bounds = parts[~narrow], bounds[~narrow]
    first, last = tile_ranges(bounds, level)
    side = (last - first + 1).max(axis=1, initial=1)
    begin = np.maximum(level - np.ceil(np.log2(side)).astype(np.int64), 0)  # where a shape meets about four quads
    shapely.prepare(parts)
    owner, quads = np.zeros(0, np.int64), np.zeros((0, 2), np.int64)
    for at in range(int(begin.min(initial=level)), level + 1):
        own = np.flatnonzero(begin == at)
        fresh, tiles = tiles_between(first[own] >> (level - at), last[own] >> (level - at))
        owner = np.concatenate((np.repeat(owner, 4), own[fresh]))
        quads = np.concatenate((children(quads, 1), tiles))
        edge = tile_bounds(quads, at)
        boxes = shapely.box(*edge.T)
        meets = shapely.intersects(parts[owner], boxes)
        owner, quads, edge, boxes = owner[meets], quads[meets], edge[meets], boxes[meets]
        done = shapely.contains_properly(parts[owner], boxes) if at < level else np.ones(len(owner), bool)
        low, high = np.maximum(bounds[owner, :2], edge[:, :2]), np.minimum(bounds[owner, 2:], edge[:, 2:])
        box = np.concatenate((np.minimum(low, high), np.maximum(low, high)), axis=1)
        found.append((np.concatenate((np.full((int(done.sum()), 1), at), quads[done]), axis=1), box[done]))
        owner, quads = owner[~done], quads[~done]
    return found
