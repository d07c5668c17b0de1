"""Tokens of many footprints at once: the features of a cell in, one OsmTokens a footprint out.

Everything is done for all footprints together (one tree, one projection, one intersection, one relate), then cut.
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import blake2b
from itertools import pairwise
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

from geometry.anchors import anchors, object_seed
from geometry.cover import patch_cover
from geometry.packed import PackedGeometry, expand, ranges
from pipeline.alignment import project
from pipeline.osm.features import FeatureBatch
from pipeline.rules import PaintRules
from pipeline.tokens.clip import Objects, clip
from pipeline.tokens.pack import pack
from pipeline.tokens.raster import class_rasters
from pipeline.tokens.relate import relations
from schemas.errors import InputError
from schemas.features import Kind, ObjectType
from schemas.footprint import Footprint
from schemas.tokens import OsmTokens, snap


@dataclass(frozen=True, eq=False)
class BuiltTokens:
    """Results of T footprints."""

    tokens: list[OsmTokens]  # [T]
    rasters: NDArray[np.uint8] | None  # [T,height,width] of the largest; a smaller one stands in the upper left corner


def build_tokens(
    features: FeatureBatch,
    footprints: list[Footprint],
    grid: tuple[int, int] = (14, 14),
    *,
    paint: PaintRules | None = None,
    gsd: NDArray[np.float64] | None = None,
    seed: int = 0,
    explode: bool = False,
) -> BuiltTokens:
    """Tokens of ``footprints``, which share one CRS; their affines and sizes may differ.

    Args:
        features: whatever may meet the footprints; anything else is ignored.
        footprints: T footprints.
        grid: rows, columns of the patch grid.
        paint: class rasters are painted by these rules; None paints none.
        gsd: f64[T] metres a pixel; needed with ``paint``.
        seed: of the polygon anchors.
        explode: every part that clipping leaves, and every part of a multi-geometry, is an object of its own, as in
            GeoLink; parts of one feature stand together. Otherwise they are one object.

    Raises:
        InputError: there is no footprint, they differ in CRS, a line or polygon reaches where their CRS has no
            coordinates, or ``paint`` comes without ``gsd``.
    """
    if not footprints:
        raise InputError("no footprint to build tokens of; give at least one")
    if paint is not None and (gsd is None or len(gsd) != len(footprints)):
        raise InputError(f"a class raster of {footprints[0].key} needs its metres a pixel; give gsd, one a footprint")
    if any(f.crs != footprints[0].crs for f in footprints):
        raise InputError(f"footprints from {footprints[0].key} on differ in CRS; build them in groups")
    sizes = np.array([(f.width, f.height) for f in footprints])
    largest = int(sizes[:, 0].max()), int(sizes[:, 1].max())
    objects = clip(_projected(features, footprints[0]), features.kind, footprints, explode)
    packed = pack(objects.geometry, objects.kind)
    rasters = None
    if paint is not None and gsd is not None:
        rasters = class_rasters(packed, features.paint[objects.feature], objects.tile, gsd, largest, paint)
    return BuiltTokens(_tokens(features, footprints, objects, packed, sizes, grid, seed), rasters)


def _projected(features: FeatureBatch, footprint: Footprint) -> NDArray[Any]:
    """The features in the footprint's CRS; a point without coordinates there is left empty."""
    geometry = project(features.geometry, footprint.crs)
    lost = np.flatnonzero(np.isinf(shapely.bounds(geometry).reshape(-1, 4)).any(axis=1))
    for i in lost:
        if features.kind[i] != Kind.POINT:
            name = f"{ObjectType(features.osm_type[i]).name.lower()} {features.osm_id[i]}"
            raise InputError(
                f"{name} reaches where {footprint.crs} has no coordinates; cut it to the surroundings of "
                f"{footprint.key} first"
            )
    geometry[lost] = shapely.Point()
    return geometry


def _tokens(
    features: FeatureBatch,
    footprints: list[Footprint],
    objects: Objects,
    packed: PackedGeometry,
    sizes: NDArray[np.int64],
    grid: tuple[int, int],
    seed: int,
) -> list[OsmTokens]:
    tiles, kind, size = len(footprints), objects.kind, sizes[objects.tile]
    osm_type, osm_id = features.osm_type[objects.feature], features.osm_id[objects.feature]
    i, j, relation = relations(objects.geometry, kind, objects.tile, size)
    patch_object, patch_cell, patch_value = patch_cover(packed, size, grid)
    salt = np.array([_salt(f.key, seed) for f in footprints], np.uint64)
    anchor = anchors(packed, object_seed(osm_type, osm_id, salt[objects.tile], objects.part)) / size[:, None]
    pixels = size.prod(axis=1)
    area, length = shapely.area(objects.geometry) / pixels, shapely.length(objects.geometry) / np.sqrt(pixels)
    extent = np.select([kind == Kind.POLYGON, kind == Kind.LINE], [area, length], 0.0)
    tag_at, tag_offsets = ranges(features.tag_offsets, objects.feature)
    tag_ids = features.tag_ids[tag_at]
    first = np.searchsorted(objects.tile, np.arange(tiles + 1))
    rings = packed.object_ring_offsets[first]
    snapped, ring_offsets = _snapped(packed, size)
    edge_first, patch_first = np.searchsorted(i, first), np.searchsorted(patch_object, first)
    edges = np.stack((i, j)) - np.repeat(first[:-1], np.diff(edge_first))
    region = _region(objects.tile, kind, extent, tag_offsets, tag_ids)
    region_first = np.searchsorted(region[0], np.arange(tiles + 1))
    columns: dict[str, tuple[NDArray[Any], NDArray[np.int64]]] = {
        "kind": (kind, first),
        "osm_type": (osm_type, first),
        "osm_id": (osm_id, first),
        "tag_offsets": _own_offsets(tag_offsets, first),
        "tag_ids": (tag_ids, tag_offsets[first]),
        "anchors": (anchor.astype(np.float32), first),
        "extent": (extent.astype(np.float32), first),
        "vertices": (snapped, ring_offsets[rings]),
        "ring_offsets": _own_offsets(ring_offsets, rings),
        "object_ring_offsets": _own_offsets(packed.object_ring_offsets, first),
        "relation": (relation, edge_first),
        "patch_cell": (patch_cell.astype(np.uint16), patch_first),
        "patch_object": ((patch_object - np.repeat(first[:-1], np.diff(patch_first))).astype(np.int32), patch_first),
        "patch_cover": (patch_value.astype(np.float32), patch_first),
        "region_tag_id": (region[1], region_first),
        "region_count": (region[2].astype(np.int32), region_first),
        "region_area": (region[3].astype(np.float32), region_first),
        "region_length": (region[4].astype(np.float32), region_first),
    }
    parts = {name: _split(values, at) for name, (values, at) in columns.items()}
    parts["edges"] = [edges[:, a:b].astype(np.int32) for a, b in pairwise(edge_first.tolist())]
    parts["patch_grid"] = [np.array(grid, np.uint16)] * tiles
    return [OsmTokens(**dict(zip(parts, row, strict=True))) for row in zip(*parts.values(), strict=True)]


def _split(values: NDArray[Any], at: NDArray[np.int64]) -> list[NDArray[Any]]:
    """The slices between consecutive places of ``at``."""
    return [values[a:b] for a, b in pairwise(at.tolist())]


def _own_offsets(offsets: NDArray[np.int64], first: NDArray[np.int64]) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Offsets i64[N+1] cut at ``first`` i64[T+1], each part counted from 0 to its own end; and where each begins."""
    part, k = expand(np.diff(first) + 1)
    own = offsets[first[part] + k] - offsets[first[part]]
    return own.astype(np.int32), first + np.arange(len(first))


def _salt(key: str, seed: int) -> int:
    return int.from_bytes(blake2b(f"{seed}/{key}".encode(), digest_size=8).digest(), "little")


def _snapped(packed: PackedGeometry, size: NDArray[np.int64]) -> tuple[NDArray[np.uint16], NDArray[np.int64]]:
    """Vertices in units, repeats dropped; every ring keeps at least one. Returns vertices and ring offsets."""
    units = snap(packed.vertices / size[packed.ring_object[packed.vertex_ring]])
    repeat = np.zeros(len(units), bool)
    repeat[1:] = (units[1:] == units[:-1]).all(axis=1)
    starts = packed.ring_offsets[:-1]
    repeat[starts[starts < len(units)]] = False
    counts = np.bincount(packed.vertex_ring[~repeat], minlength=len(starts))
    return units[~repeat], np.concatenate(([0], np.cumsum(counts)))


def _region(
    tile: NDArray[np.int64],
    kind: NDArray[np.uint8],
    extent: NDArray[np.float64],
    offsets: NDArray[np.int64],
    ids: NDArray[np.int64],
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]:
    """Distinct (tile, tag id), sorted, with count of objects, summed area and summed length."""
    owner, _ = expand(np.diff(offsets))
    order = np.lexsort((ids, tile[owner]))
    its_tile, its_id = tile[owner][order], ids[order]
    new = np.append(True, (np.diff(its_tile) != 0) | (np.diff(its_id) != 0))[: len(order)]
    where = np.empty(len(order), np.int64)
    where[order] = np.cumsum(new) - 1  # sums run in the objects' order
    area = np.where(kind == Kind.POLYGON, extent, 0)[owner]
    length = np.where(kind == Kind.LINE, extent, 0)[owner]
    n = int(new.sum())
    count = np.bincount(where, minlength=n)
    areas, lengths = (np.bincount(where, v, n).astype(np.float64) for v in (area, length))
    return its_tile[new], its_id[new], count.astype(np.int64), areas, lengths
