"""shapely geometries to packed vertices."""

from __future__ import annotations

from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

from geometry.packed import PackedGeometry


def pack(geometry: NDArray[Any], kind: NDArray[np.uint8]) -> PackedGeometry:
    """Pack shapely objects in pixel coordinates (y down).

    Polygons' outer rings come out counter-clockwise seen with y up, which is clockwise by the pixel axes.
    """
    parts, part_object = shapely.get_parts(geometry, return_index=True)
    part_kind = kind[part_object]
    polygons = np.flatnonzero(part_kind == 2)
    rings = parts.copy()
    ring_part = np.arange(len(parts))
    if len(polygons):
        outer_clockwise = shapely.orient_polygons(parts[polygons], exterior_cw=True)
        loops, loop_part = shapely.get_rings(outer_clockwise, return_index=True)
        others = np.flatnonzero(part_kind != 2)
        ring_part = np.concatenate((others, polygons[loop_part]))
        rings = np.concatenate((parts[others], loops))
        order = np.argsort(ring_part, kind="stable")
        ring_part, rings = ring_part[order], rings[order]
    xy, vertex_ring = shapely.get_coordinates(rings, return_index=True)
    closing = np.zeros(len(xy), bool)
    closing[np.flatnonzero(np.diff(vertex_ring, append=-1) != 0)] = True  # last vertex of each ring
    xy_keep = ~(closing & (part_kind[ring_part[vertex_ring]] == 2))
    counts = np.bincount(vertex_ring[xy_keep], minlength=len(rings))
    ring_object = part_object[ring_part]
    return PackedGeometry(
        kind,
        xy[xy_keep],
        np.concatenate(([0], np.cumsum(counts))),
        np.concatenate(([0], np.cumsum(np.bincount(ring_object, minlength=len(geometry))))),
    )
