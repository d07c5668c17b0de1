"""Tokens of many footprints at once: the features of a cell in, one OsmTokens a footprint out.

Everything is done for all footprints together (one tree, one projection, one intersection, one relate), then cut.
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

from geometry.anchors import anchors, object_seed
from geometry.cover import patch_cover
from geometry.packed import PackedGeometry, expand, ranges
from pipeline.alignment import project
from pipeline.osm.cells import keep_dimension
from pipeline.rules import PaintRules
from pipeline.tokens.pack import pack
from pipeline.tokens.raster import class_rasters
from pipeline.tokens.relate import relations
from schemas.errors import InputError
from schemas.features import Kind
from schemas.footprint import Footprint, inside
from schemas.tokens import OsmTokens, snap

#: Pixels, or square pixels. Web-mercator coordinates round off at 4e-9 m, which is 3e-9 px at zoom 17: along a side of
#: 256 px that makes a sliver of 8e-7 px².
_NOISE = 1e-6


@dataclass(frozen=True, eq=False)
class FeatureBatch:
    """F features near the footprints, sorted by kind, type, id."""

    osm_type: NDArray[np.uint8]  # [F]
    osm_id: NDArray[np.int64]  # [F]
    kind: NDArray[np.uint8]  # [F]
    tag_offsets: NDArray[np.int64]  # [F+1]
    tag_ids: NDArray[np.int64]
    paint: NDArray[np.uint8]  # [F]
    geometry: NDArray[Any]  # [F] shapely, lon/lat degrees, densified

    def __len__(self) -> int:
        return len(self.kind)

    def take(self, rows: NDArray[np.int64]) -> FeatureBatch:
        """The chosen features, in that order."""
        at, offsets = ranges(self.tag_offsets, rows)
        return FeatureBatch(
            self.osm_type[rows], self.osm_id[rows], self.kind[rows], offsets, self.tag_ids[at],
            self.paint[rows], self.geometry[rows],
        )  # fmt: skip


@dataclass(frozen=True, eq=False)
class BuiltTokens:
    """Results of T footprints."""

    tokens: list[OsmTokens]  # [T]
    rasters: NDArray[np.uint8] | None  # [T,height,width] class rasters


@dataclass(frozen=True, eq=False)
class _Objects:
    """N objects, each a feature clipped to a footprint; sorted by tile, kind, type, id."""

    tile: NDArray[np.int64]  # [N]
    feature: NDArray[np.int64]  # [N]
    geometry: NDArray[Any]  # [N] shapely, pixels


def build_tokens(
    features: FeatureBatch,
    footprints: list[Footprint],
    grid: tuple[int, int] = (14, 14),
    *,
    paint: PaintRules | None = None,
    gsd: NDArray[np.float64] | None = None,
    seed: int = 0,
) -> BuiltTokens:
    """Tokens of ``footprints``, which share one CRS and one size.

    Args:
        features: whatever may meet the footprints; anything else is ignored.
        footprints: T footprints.
        grid: rows, columns of the patch grid.
        paint: class rasters are painted by these rules; None paints none.
        gsd: f64[T] metres a pixel; needed with ``paint``.
        seed: of the polygon anchors.

    Raises:
        InputError: the footprints differ in CRS or size.
    """
    size = footprints[0].width, footprints[0].height
    if any((f.crs, f.width, f.height) != (footprints[0].crs, *size) for f in footprints):
        raise InputError(f"footprints from {footprints[0].key} on differ in CRS or size; build them in groups")
    objects = _clip_all(features, footprints)
    kind = features.kind[objects.feature]
    packed = pack(objects.geometry, kind)
    rasters = None
    if paint is not None and gsd is not None:
        rasters = class_rasters(packed, features.paint[objects.feature], objects.tile, gsd, size, paint)
    return BuiltTokens(_tokens(features, footprints, objects, kind, packed, grid, seed), rasters)


def _clip_all(features: FeatureBatch, footprints: list[Footprint]) -> _Objects:
    """Every (footprint, feature) that meets, clipped, in pixels."""
    geometry = project(features.geometry, footprints[0].crs)
    boxes = shapely.box(*np.array([f.bounds() for f in footprints]).T)
    tile, feature = shapely.STRtree(geometry).query(boxes)
    order = np.lexsort((feature, tile))
    tile, feature = tile[order], feature[order]
    clipped = _to_pixels(geometry[feature], footprints, tile)
    w, h = footprints[0].width, footprints[0].height
    b = shapely.bounds(clipped)
    within = (b[:, 0] >= 0) & (b[:, 1] >= 0) & (b[:, 2] <= w) & (b[:, 3] <= h)
    kind = features.kind[feature]
    across = np.flatnonzero(~within & (kind != Kind.POINT))
    clipped[across] = keep_dimension(_intersection(clipped[across], shapely.box(0, 0, w, h)), kind[across])
    keep = _belongs(clipped, kind, w, h)
    return _Objects(tile[keep], feature[keep], clipped[keep])


def _intersection(geometry: NDArray[Any], box: Any) -> NDArray[Any]:
    """Intersection with one box; a geometry that GEOS refuses is repaired first, and no other one is touched."""
    try:
        return shapely.intersection(geometry, box)
    except shapely.errors.GEOSException:
        return np.array([_intersection_of_one(g, box) for g in geometry], object)


def _intersection_of_one(geometry: Any, box: Any) -> Any:
    try:
        return shapely.intersection(geometry, box)
    except shapely.errors.GEOSException:
        return shapely.intersection(shapely.make_valid(geometry, method="structure", keep_collapsed=False), box)


def _to_pixels(geometry: NDArray[Any], footprints: list[Footprint], tile: NDArray[np.int64]) -> NDArray[Any]:
    """CRS coordinates to pixel coordinates of each row's footprint."""
    a, b, c, d, e, f = np.array([p.transform for p in footprints]).T
    det = a * e - b * d
    xy, row = shapely.get_coordinates(geometry, return_index=True)
    t = tile[row]
    dx, dy = xy[:, 0] - c[t], xy[:, 1] - f[t]
    pixels = np.stack(((e[t] * dx - b[t] * dy) / det[t], (a[t] * dy - d[t] * dx) / det[t]), axis=1)
    return shapely.set_coordinates(geometry.copy(), pixels)


def _belongs(geometry: NDArray[Any], kind: NDArray[np.uint8], width: int, height: int) -> NDArray[np.bool_]:
    """Which clipped objects belong: positive area, positive length, or a point in the half-open square.

    A line along the right or lower side belongs to the neighbour, whose left or upper side it is. What is smaller than
    _NOISE came from rounding at a border that two footprints share.
    """
    there = np.array([g is not None for g in geometry], bool)
    geometry = np.where(there, geometry, shapely.Point())
    there &= ~shapely.is_empty(geometry)
    b = shapely.bounds(geometry)
    with np.errstate(invalid="ignore"):
        point = (kind == Kind.POINT) & inside(b[:, :2] / (width, height))
        line = (kind == Kind.LINE) & (shapely.length(geometry) > _NOISE)
        line &= (b[:, 0] < width - _NOISE) & (b[:, 1] < height - _NOISE)
        polygon = (kind == Kind.POLYGON) & (shapely.area(geometry) > _NOISE)
    return there & (point | line | polygon)


def _tokens(
    features: FeatureBatch,
    footprints: list[Footprint],
    objects: _Objects,
    kind: NDArray[np.uint8],
    packed: PackedGeometry,
    grid: tuple[int, int],
    seed: int,
) -> list[OsmTokens]:
    w, h = footprints[0].width, footprints[0].height
    tiles = len(footprints)
    osm_type, osm_id = features.osm_type[objects.feature], features.osm_id[objects.feature]
    i, j, relation = relations(objects.geometry, kind, objects.tile, float(max(w, h)))
    patch_object, patch_cell, patch_value = patch_cover(packed, (w, h), grid)
    salt = np.array([_salt(f.key, seed) for f in footprints], np.uint64)
    anchor = anchors(packed, object_seed(osm_type, osm_id, salt[objects.tile])) / (w, h)
    area, length = shapely.area(objects.geometry) / (w * h), shapely.length(objects.geometry) / np.sqrt(w * h)
    extent = np.select([kind == Kind.POLYGON, kind == Kind.LINE], [area, length], 0.0)
    snapped, ring_offsets = _snapped(packed, (w, h))
    tag_at, tag_offsets = ranges(features.tag_offsets, objects.feature)
    tag_ids = features.tag_ids[tag_at]
    first = np.searchsorted(objects.tile, np.arange(tiles + 1))
    edge_first = np.searchsorted(i, first)
    patch_first = np.searchsorted(patch_object, first)
    result = []
    for t in range(tiles):
        a, b = first[t], first[t + 1]
        tags = slice(tag_offsets[a], tag_offsets[b])
        rings = slice(packed.object_ring_offsets[a], packed.object_ring_offsets[b] + 1)
        edge = slice(edge_first[t], edge_first[t + 1])
        patch = slice(patch_first[t], patch_first[t + 1])
        vertex = slice(ring_offsets[rings.start], ring_offsets[rings.stop - 1])
        own = kind[a:b], extent[a:b], tag_offsets[a : b + 1] - tag_offsets[a], tag_ids[tags]
        region = _region(*own)
        result.append(
            OsmTokens(
                kind=own[0],
                osm_type=osm_type[a:b],
                osm_id=osm_id[a:b],
                tag_offsets=own[2].astype(np.int32),
                tag_ids=own[3],
                anchors=anchor[a:b].astype(np.float32),
                extent=own[1].astype(np.float32),
                vertices=snapped[vertex],
                ring_offsets=(ring_offsets[rings] - ring_offsets[rings.start]).astype(np.int32),
                object_ring_offsets=(packed.object_ring_offsets[a : b + 1] - rings.start).astype(np.int32),
                edges=np.stack((i[edge], j[edge])).astype(np.int32) - np.int32(a),
                relation=relation[edge],
                patch_grid=np.array(grid, np.uint16),
                patch_cell=patch_cell[patch].astype(np.uint16),
                patch_object=(patch_object[patch] - a).astype(np.int32),
                patch_cover=patch_value[patch].astype(np.float32),
                region_tag_id=region[0],
                region_count=region[1],
                region_area=region[2],
                region_length=region[3],
            )
        )
    return result


def _salt(key: str, seed: int) -> int:
    return int.from_bytes(blake2b(f"{seed}/{key}".encode(), digest_size=8).digest(), "little")


def _snapped(packed: PackedGeometry, size: tuple[int, int]) -> tuple[NDArray[np.uint16], NDArray[np.int64]]:
    """Vertices in units, repeats dropped; every ring keeps at least one. Returns vertices and ring offsets."""
    units = snap(packed.vertices / size)
    repeat = np.zeros(len(units), bool)
    repeat[1:] = (units[1:] == units[:-1]).all(axis=1)
    starts = packed.ring_offsets[:-1]
    repeat[starts[starts < len(units)]] = False
    counts = np.bincount(packed.vertex_ring[~repeat], minlength=len(starts))
    return units[~repeat], np.concatenate(([0], np.cumsum(counts)))


def _region(
    kind: NDArray[np.uint8], extent: NDArray[np.float64], offsets: NDArray[np.int64], ids: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.float32], NDArray[np.float32]]:
    """Distinct tag ids with count of objects, summed area and summed length."""
    owner, _ = expand(np.diff(offsets))
    distinct, where = np.unique(ids, return_inverse=True)
    where = where.reshape(-1)
    count = np.bincount(where, minlength=len(distinct)).astype(np.int32)
    area = np.bincount(where, np.where(kind == Kind.POLYGON, extent, 0)[owner], len(distinct)).astype(np.float32)
    length = np.bincount(where, np.where(kind == Kind.LINE, extent, 0)[owner], len(distinct)).astype(np.float32)
    return distinct, count, area, length
