"""Features to objects: every (footprint, feature) that meets, cut to the footprint, in pixels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

from geometry.packed import Floats, Ints, ranges
from geometry.thin import Thinned, outer_sides, thin
from pipeline.osm.cells.cut import keep_dimension
from pipeline.tokens.pack import assemble, outlines
from schemas.features import Kind
from schemas.footprint import Footprint, inside

#: Pixels, or square pixels. Web-mercator coordinates round off at 4e-9 m, which is 3e-9 px at zoom 17: along a side of
#: 256 px that makes a sliver of 8e-7 px².
_NOISE = 1e-6


@dataclass(frozen=True, eq=False)
class Objects:
    """N objects, each a feature clipped to a footprint; sorted by tile, kind, type, id."""

    tile: Ints  # [N]
    feature: Ints  # [N]
    kind: NDArray[np.uint8]  # [N]
    geometry: NDArray[Any]  # [N] shapely, pixels
    part: Ints  # [N] place among the parts of its feature in its tile; 0 where those stay together


def clip(geometry: NDArray[Any], kind: NDArray[np.uint8], footprints: list[Footprint], explode: bool) -> Objects:
    """Objects of all footprints.

    Args:
        geometry: F features in the footprints' CRS, sorted by kind, type, id.
        kind: per feature.
        footprints: T footprints of one CRS.
        explode: every part an object of its own.
    """
    sizes = np.array([(f.width, f.height) for f in footprints])
    to_pixels = _PixelMap(footprints)
    boxes = to_pixels.bounds(sizes)
    tile, feature = shapely.STRtree(geometry).query(shapely.box(*boxes.T))
    order = np.lexsort((feature, tile))
    tile, feature = tile[order], feature[order]
    across = np.flatnonzero((kind[feature] != Kind.POINT) & ~_surely_within(geometry, feature, tile, to_pixels, sizes))
    clipped = np.empty(len(tile), object)
    whole = np.ones(len(tile), bool)
    whole[across] = False
    whole = np.flatnonzero(whole)
    clipped[whole] = to_pixels.geometry(geometry[feature[whole]], tile[whole])
    for w, h in np.unique(sizes[tile[across]], axis=0).tolist():  # against one square at a time
        own = across[(sizes[tile[across]] == (w, h)).all(axis=1)]
        clipped[own] = _cut(geometry, kind, feature[own], tile[own], boxes, to_pixels, shapely.box(0, 0, w, h))
    part = np.zeros(len(tile), np.int64)
    if explode:
        clipped, row = shapely.get_parts(clipped, return_index=True)
        tile, feature = tile[row], feature[row]
        part = np.arange(len(row)) - np.searchsorted(row, row)
    keep = _belongs(clipped, kind[feature], sizes[tile])
    tile, feature, part = tile[keep], feature[keep], part[keep]
    return Objects(tile, feature, kind[feature], clipped[keep], part)


class _PixelMap:
    """CRS coordinates to pixel coordinates, each row by its own footprint's affine."""

    def __init__(self, footprints: list[Footprint]) -> None:
        self.affine = np.array([p.transform for p in footprints]).T  # [6,T]
        self.upright = not self.affine[[1, 3]].any()

    def bounds(self, sizes: Ints) -> Floats:
        """Envelopes of the footprints in CRS coordinates, f64[T,4]."""
        a, b, c, d, e, f = self.affine[:, :, None]
        w, h = sizes.T
        x, y = np.stack((0 * w, w, w, 0 * w), axis=1), np.stack((0 * h, 0 * h, h, h), axis=1)
        east, north = a * x + b * y + c, d * x + e * y + f
        return np.stack((east.min(axis=1), north.min(axis=1), east.max(axis=1), north.max(axis=1)), axis=1)

    def coordinates(self, xy: Floats, tile: Ints) -> Floats:
        """f64[V,2] of V vertices."""
        a, b, c, d, e, f = (self._rows(row, tile) for row in self.affine)
        dx, dy = xy[:, 0] - c, xy[:, 1] - f
        det = a * e - b * d
        pixels = np.empty_like(xy)
        if self.upright:
            np.divide(e * dx, det, out=pixels[:, 0])
            np.divide(a * dy, det, out=pixels[:, 1])
        else:
            np.divide(e * dx - b * dy, det, out=pixels[:, 0])
            np.divide(a * dy - d * dx, det, out=pixels[:, 1])
        return pixels

    @staticmethod
    def _rows(values: Floats, tile: Ints) -> Floats:
        """A value a vertex, or the one value that all footprints share."""
        return values[:1] if (values == values[0]).all() else values[tile]

    def geometry(self, geometry: NDArray[Any], tile: Ints) -> NDArray[Any]:
        """Shapely objects, one a tile."""
        xy, row = shapely.get_coordinates(geometry, return_index=True)
        return shapely.set_coordinates(geometry.copy(), self.coordinates(xy, tile[row]))


def _surely_within(
    geometry: NDArray[Any], feature: Ints, tile: Ints, to_pixels: _PixelMap, sizes: Ints
) -> NDArray[np.bool_]:
    """Which features lie in their footprint by the corners of their bounds; upright footprints have no others."""
    b = shapely.bounds(geometry)[feature]
    result = np.ones(len(feature), bool)
    for x, y in ((0, 1), (2, 1), (2, 3), (0, 3)):
        pixels = to_pixels.coordinates(b[:, [x, y]], tile)
        result &= ((pixels >= 0) & (pixels <= sizes[tile])).all(axis=1)
    return result


def _cut(
    geometry: NDArray[Any],
    kind: NDArray[np.uint8],
    feature: Ints,
    tile: Ints,
    boxes: Floats,
    to_pixels: _PixelMap,
    square: Any,
) -> NDArray[Any]:
    """Intersections of the named features with their footprints, in pixels; None where nothing is left."""
    if not len(feature):
        return np.zeros(0, object)
    # Envelopes of turned footprints say nothing about those in pixels: there, nothing is left out.
    box = boxes[tile] if to_pixels.upright else np.tile((-np.inf, -np.inf, np.inf, np.inf), (len(tile), 1))
    distinct, where = np.unique(feature, return_inverse=True)
    every = outlines(geometry[distinct], kind[distinct])
    left = thin(every, where.reshape(-1), box)
    pixels = to_pixels.coordinates(every.vertices[left.vertex], tile[np.repeat(left.request, np.diff(left.offsets))])
    ring = every.ring[left.outline]
    crosses, covers = _sides(pixels, left, ring, len(tile), square)
    chosen = np.flatnonzero(crosses[left.request])
    at, offsets = ranges(left.offsets, chosen)
    shell = every.shell[left.outline[chosen]]
    result = assemble(pixels[at], offsets, left.request[chosen], shell, ring[chosen], len(tile))
    result[covers] = shapely.intersection(square.buffer(1.0, join_style="mitre"), square)  # its ring as GEOS turns it
    across = np.flatnonzero(crosses)
    if not to_pixels.upright:  # these were named by the corners of their bounds alone
        b = shapely.bounds(result[across])
        across = across[(b[:, :2] < 0).any(axis=1) | (b[:, 2:] > square.bounds[2:]).any(axis=1)]

    def whole(i: int) -> Any:
        return to_pixels.geometry(geometry[feature[across[i : i + 1]]], tile[across[i : i + 1]])[0]

    result[across] = keep_dimension(_intersection(result[across], square, whole, 0), kind[feature[across]])
    return result


def _sides(
    pixels: Floats, left: Thinned, ring: NDArray[np.bool_], count: int, square: Any
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Which of ``count`` outlined features have a segment whose bounds meet the square, and which cover all of it."""
    x, y, (w, h) = pixels[:, 0], pixels[:, 1], square.bounds[2:]
    beyond = outer_sides(x, y, (0.0, 0.0, w, h))
    outline = np.repeat(np.arange(len(left.outline)), np.diff(left.offsets))
    joined = outline[1:] == outline[:-1]
    crosses = np.zeros(count, bool)
    crosses[left.request[outline[:-1][joined & (beyond[1:] & beyond[:-1] == 0)]]] = True
    # The others have the square on one side of every segment: in or out, by the crossings of a ray from its middle.
    below = y <= h / 2
    ray = np.flatnonzero(joined & (below[1:] != below[:-1]))
    ray = ray[(~crosses[left.request] & ring)[outline[ray]]]
    ax, ay, bx, by = x[ray], y[ray], x[ray + 1], y[ray + 1]
    right = ax + (h / 2 - ay) / (by - ay) * (bx - ax) > w / 2
    covers: NDArray[np.bool_] = np.bincount(left.request[outline[ray[right]]], minlength=count) % 2 == 1
    return crosses, covers


def _intersection(thinned: NDArray[Any], square: Any, whole: Callable[[int], Any], first: int) -> NDArray[Any]:
    """Intersections with one square; what GEOS refuses is found by halving, and taken whole and repaired."""
    try:
        return shapely.intersection(thinned, square)
    except shapely.errors.GEOSException:
        if len(thinned) == 1:
            return np.array([_intersection_of_one(whole(first), square)], object)
    half = len(thinned) // 2
    parts = [
        _intersection(thinned[:half], square, whole, first),
        _intersection(thinned[half:], square, whole, first + half),
    ]
    return np.concatenate(parts)


def _intersection_of_one(geometry: Any, square: Any) -> Any:
    try:
        return shapely.intersection(geometry, square)
    except shapely.errors.GEOSException:
        return shapely.intersection(shapely.make_valid(geometry, method="structure", keep_collapsed=False), square)


def _belongs(geometry: NDArray[Any], kind: NDArray[np.uint8], size: Ints) -> NDArray[np.bool_]:
    """Which clipped objects belong: positive area, positive length, or a point in the half-open square.

    A line along the right or lower side belongs to the neighbour, whose left or upper side it is. What is smaller than
    _NOISE came from rounding at a border that two footprints share.
    """
    b = shapely.bounds(geometry)  # NaN of what is missing or empty
    with np.errstate(invalid="ignore"):
        point = (kind == Kind.POINT) & inside(b[:, :2] / size)
        line = (kind == Kind.LINE) & (shapely.length(geometry) > _NOISE)
        line &= (b[:, :2] < size - _NOISE).all(axis=1)
        polygon = (kind == Kind.POLYGON) & (shapely.area(geometry) > _NOISE)
    belongs: NDArray[np.bool_] = point | line | polygon
    return belongs
