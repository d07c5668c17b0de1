"""Tokens of many footprints at once: the features of a cell in, one OsmTokens a footprint out.

Everything is done for all footprints together (one tree, one projection, one intersection, one relate), then cut.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from hashlib import blake2b
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

from geometry.anchors import anchors, object_seed
from geometry.cover import patches
from geometry.packed import PackedGeometry, changes, ranges
from geometry.tokens import split
from pipeline.alignment import project
from pipeline.osm.features import FeatureBatch
from pipeline.rules import PaintRules
from pipeline.tokens.clip import Objects, clip
from pipeline.tokens.pack import pack
from pipeline.tokens.raster import class_rasters
from pipeline.tokens.relate import relations
from schemas.errors import InputError
from schemas.features import COASTLINE, Kind, ObjectType
from schemas.footprint import Footprint
from schemas.tokens import FIELDS, OsmTokens, empty_tokens, snap


@dataclass(frozen=True, eq=False)
class BuiltTokens:
    """Results of T footprints."""

    tokens: list[OsmTokens]  # [T]
    rasters: NDArray[np.uint8] | None  # [T,height,width] of the largest; a smaller one stands in the upper left corner
    broken_coast: NDArray[np.bool_] | None  # [T] its sea is left unpainted; None where nothing is painted


def build_tokens(
    features: FeatureBatch,
    footprints: list[Footprint],
    grid: tuple[int, int] | None = (14, 14),
    *,
    paint: PaintRules | None = None,
    gsd: NDArray[np.float64] | None = None,
    at_sea: NDArray[np.bool_] | None = None,
    seed: int = 0,
    explode: bool = False,
) -> BuiltTokens:
    """Tokens of ``footprints``, which share one CRS; their affines and sizes may differ.

    Args:
        features: whatever may meet the footprints; anything else is ignored.
        footprints: T footprints.
        grid: rows, columns of the patch grid; None: no patches.
        paint: class rasters are painted by these rules; None paints none.
        gsd: f64[T] metres a pixel; needed with ``paint``.
        at_sea: bool[T], where the coastline nearest a footprint's centre has the sea on that side
            (pipeline.osm.coast.Coastline.at_sea); None: a footprint without a coastline has no sea.
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
    objects = clip(_projected(features, footprints[0]), features.kind, footprints, explode)
    packed = pack(objects.geometry, objects.kind)
    tokens = _tokens(features, footprints, objects, packed, sizes, grid, seed)
    if paint is None or gsd is None:
        return BuiltTokens(tokens, None, None)
    code = features.paint[objects.feature]
    code[features.osm_type[objects.feature] != ObjectType.WAY] &= ~np.uint16(COASTLINE)  # its members are coastlines
    painted = class_rasters(packed, code, objects.tile, gsd, sizes, paint, at_sea)
    return BuiltTokens(tokens, painted.pixels, painted.broken_coast)


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
    grid: tuple[int, int] | None,
    seed: int,
) -> list[OsmTokens]:
    kind, size = objects.kind, sizes[objects.tile]
    osm_type, osm_id = features.osm_type[objects.feature], features.osm_id[objects.feature]
    i, j, relation = relations(objects.geometry, kind, objects.tile, size)
    salt = np.array([_salt(f.key, seed) for f in footprints], np.uint64)
    anchor = anchors(packed, object_seed(osm_type, osm_id, salt[objects.tile], objects.part)) / size[:, None]
    pixels = size.prod(axis=1)
    area, length = shapely.area(objects.geometry) / pixels, shapely.length(objects.geometry) / np.sqrt(pixels)
    extent = np.select([kind == Kind.POLYGON, kind == Kind.LINE], [area, length], 0.0)
    tag_at, tag_offsets = ranges(features.tag_offsets, objects.feature)
    vertices, ring_offsets = _snapped(packed, size)
    fields: dict[str, NDArray[Any]] = {
        "kind": kind, "osm_type": osm_type, "osm_id": osm_id, "tag_offsets": tag_offsets,
        "tag_ids": features.tag_ids[tag_at], "anchors": anchor, "extent": extent, "vertices": vertices,
        "ring_offsets": ring_offsets, "object_ring_offsets": packed.object_ring_offsets, "edges": np.stack((i, j)),
        "relation": relation, **(patches(packed, size, grid) if grid else {}),
    }  # fmt: skip
    # All footprints as if they were one, then cut.
    whole = replace(empty_tokens((0, 0)), **{n: values.astype(FIELDS[n].dtype) for n, values in fields.items()})
    return split(whole, np.bincount(objects.tile, minlength=len(footprints)), summarise=True)


def _salt(key: str, seed: int) -> int:
    return int.from_bytes(blake2b(f"{seed}/{key}".encode(), digest_size=8).digest(), "little")


def _snapped(packed: PackedGeometry, size: NDArray[np.int64]) -> tuple[NDArray[np.uint16], NDArray[np.int64]]:
    """Vertices in units, repeats dropped; every ring keeps at least one. Returns vertices and ring offsets."""
    units = snap(packed.vertices / size[packed.ring_object[packed.vertex_ring]])
    repeat = ~changes(*units.T)
    starts = packed.ring_offsets[:-1]
    repeat[starts[starts < len(units)]] = False
    counts = np.bincount(packed.vertex_ring[~repeat], minlength=len(starts))
    return units[~repeat], np.concatenate(([0], np.cumsum(counts)))
