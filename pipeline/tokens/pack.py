"""shapely geometries to packed vertices, and outlines back to shapely geometries."""

from __future__ import annotations

from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

from geometry.packed import Floats, Ints, PackedGeometry
from geometry.thin import Outlines
from schemas.features import Kind


def pack(geometry: NDArray[Any], kind: NDArray[np.uint8]) -> PackedGeometry:
    """Pack shapely objects in pixel coordinates (y down).

    Polygons' outer rings come out counter-clockwise seen with y up, which is clockwise by the pixel axes.
    """
    parts, part_object = shapely.get_parts(geometry, return_index=True)
    polygons = np.flatnonzero(kind[part_object] == Kind.POLYGON)
    parts[polygons] = shapely.orient_polygons(parts[polygons], exterior_cw=True)
    found = _outlines(parts, part_object, kind[part_object], len(geometry))
    counts = np.diff(found.offsets) - found.ring
    keep = np.ones(len(found.vertices), bool)
    keep[found.offsets[1:][found.ring] - 1] = False  # closing vertices
    return PackedGeometry(kind, found.vertices[keep], np.concatenate(([0], np.cumsum(counts))), found.feature_offsets)


def outlines(geometry: NDArray[Any], kind: NDArray[np.uint8]) -> Outlines:
    """Rings and line parts of shapely objects, turned and ordered as they are."""
    parts, part_feature = shapely.get_parts(geometry, return_index=True)
    return _outlines(parts, part_feature, kind[part_feature], len(geometry))


def _outlines(parts: NDArray[Any], part_feature: Ints, part_kind: NDArray[np.uint8], count: int) -> Outlines:
    polygons = np.flatnonzero(part_kind == Kind.POLYGON)
    loops, loop_part = shapely.get_rings(parts[polygons], return_index=True)
    others = np.flatnonzero(part_kind != Kind.POLYGON)
    part = np.concatenate((others, polygons[loop_part]))
    order = np.argsort(part, kind="stable")
    part, shapes = part[order], np.concatenate((parts[others], loops))[order]
    vertices, outline = shapely.get_coordinates(shapes, return_index=True)
    offsets = np.concatenate(([0], np.cumsum(np.bincount(outline, minlength=len(shapes)))))
    feature_offsets = np.concatenate(([0], np.cumsum(np.bincount(part_feature[part], minlength=count))))
    shell = np.searchsorted(part, part)
    return Outlines(vertices, offsets, shell, part_kind[part] == Kind.POLYGON, feature_offsets)


def assemble(
    vertices: Floats, offsets: Ints, row: Ints, part: Ints, polygon: NDArray[np.bool_], count: int
) -> NDArray[Any]:
    """Shapely objects [count] of outlines; None for rows without any.

    Args:
        vertices: f64[V,2].
        offsets: i64[R+1] into vertices.
        row: object of each outline, rising.
        part: what the outlines of one part share; they stand together, its shell first.
        polygon: which outlines are rings; those of one object agree.
    """
    outline = np.repeat(np.arange(len(row)), np.diff(offsets))
    result = np.full(count, None, object)
    ring = polygon[outline]
    for chosen, of_ring, single, multi in (
        (ring, polygon, shapely.linearrings, shapely.multipolygons),
        (~ring, ~polygon, shapely.linestrings, shapely.multilinestrings),
    ):
        own = np.flatnonzero(of_ring)
        if not len(own):
            continue
        shapes = single(vertices[chosen], indices=np.searchsorted(own, outline[chosen]))
        begins = np.append(True, (np.diff(row[own]) != 0) | (np.diff(part[own]) != 0))
        if single is shapely.linearrings:
            shapes = shapely.polygons(shapes, indices=np.cumsum(begins) - 1)
        rows = row[own][begins]
        distinct, first, parts = np.unique(rows, return_index=True, return_counts=True)
        result[distinct] = shapes[first]
        several = np.repeat(parts > 1, parts)
        if several.any():
            result[distinct[parts > 1]] = multi(
                shapes[several], indices=np.repeat(np.arange((parts > 1).sum()), parts[parts > 1])
            )
    return result
