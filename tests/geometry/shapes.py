"""Random shapes for the tests of this room, and a packer written as plain loops."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import shapely

from geometry.packed import PackedGeometry

KIND = {"Point": 0, "LineString": 1, "MultiLineString": 1, "Polygon": 2, "MultiPolygon": 2}


def pack(shapes: list[Any]) -> PackedGeometry:
    """Packed form: outer rings counter-clockwise seen with y up (shoelace below 0 with y down), holes the other way."""
    vertices: list[tuple[float, float]] = []
    ring_offsets, object_ring_offsets = [0], [0]
    for shape in shapes:
        for part in getattr(shape, "geoms", [shape]):
            if part.geom_type == "Polygon":
                rings = [_turned(list(part.exterior.coords)[:-1], -1)]
                rings += [_turned(list(r.coords)[:-1], 1) for r in part.interiors]
            else:
                rings = [list(part.coords)]
            for ring in rings:
                vertices.extend(ring)
                ring_offsets.append(len(vertices))
        object_ring_offsets.append(len(ring_offsets) - 1)
    kind = np.array([KIND[s.geom_type] for s in shapes], np.uint8)
    return PackedGeometry(
        kind, np.array(vertices, float).reshape(-1, 2), np.array(ring_offsets), np.array(object_ring_offsets)
    )


def _turned(ring: list[tuple[float, float]], sign: int) -> list[tuple[float, float]]:
    """The ring with its area to the left (y up: -1, in pixels with y down) or right."""
    doubled = sum(a[0] * b[1] - b[0] * a[1] for a, b in zip(ring, ring[1:] + ring[:1], strict=True))
    return ring if doubled * sign > 0 else ring[::-1]


def star(rng: np.random.Generator, centre: tuple[float, float], radius: float, corners: int) -> Any:
    """A concave polygon around a centre."""
    angle = (np.arange(corners) + rng.uniform(0, 0.9, corners)) * (2 * math.pi / corners)
    reach = radius * rng.uniform(0.4, 1.0, corners)
    return shapely.Polygon(np.stack((centre[0] + reach * np.cos(angle), centre[1] + reach * np.sin(angle)), axis=1))


def random_polygon(seed: int, size: tuple[int, int]) -> Any | None:
    """A polygon in the box (0, 0, *size): concave, with holes, in several parts, on the grid or cut by the border."""
    rng = np.random.default_rng(seed)
    w, h = size
    kind = rng.integers(0, 4)
    if kind == 0:  # corners on whole pixels, so on grid lines
        boxes = [shapely.box(x, y, x + a, y + b) for x, y, a, b in zip(
            rng.integers(0, w, 3), rng.integers(0, h, 3), rng.integers(1, w, 3), rng.integers(1, h, 3), strict=True
        )]  # fmt: skip
        shape = boxes[0].union(boxes[1]).difference(boxes[2])
    else:
        centre = (rng.uniform(-0.1, 1.1) * w, rng.uniform(-0.1, 1.1) * h)
        radius = rng.uniform(0.05, 0.8) * max(w, h)
        shape = star(rng, centre, radius, int(rng.integers(3, 14)))
        if kind >= 2:
            shape = shape.difference(star(rng, centre, radius * 0.35, int(rng.integers(3, 7))))
        if kind == 3:
            other = (rng.uniform(0, 1) * w, rng.uniform(0, 1) * h)
            shape = shape.union(star(rng, other, radius * 0.3, 5))
    shape = shape.intersection(shapely.box(0, 0, w, h))
    parts = [p for p in getattr(shape, "geoms", [shape]) if p.geom_type == "Polygon" and p.area > 1e-6]
    if not parts:
        return None
    shape = shapely.MultiPolygon(parts) if len(parts) > 1 else parts[0]
    return shape if shape.is_valid else None


def random_line(seed: int, size: tuple[int, int]) -> Any | None:
    """A line in the box: anywhere, along grid lines, or cut into parts by the border."""
    rng = np.random.default_rng(seed)
    count = int(rng.integers(2, 7))
    if rng.random() < 0.3:
        steps = np.concatenate(
            (
                rng.integers(0, size, (1, 2)),
                rng.integers(-6, 7, (count, 2)) * np.eye(2, dtype=int)[rng.integers(0, 2, count)],
            )
        )
        xy = np.clip(np.cumsum(steps, axis=0), 0, size).astype(float)
    else:
        xy = rng.uniform(-0.3, 1.3, (count, 2)) * size
    shape = shapely.LineString(xy).intersection(shapely.box(0, 0, *size))
    parts = [p for p in getattr(shape, "geoms", [shape]) if p.geom_type == "LineString" and p.length > 0]
    if not parts:
        return None
    return shapely.MultiLineString(parts) if len(parts) > 1 else parts[0]
