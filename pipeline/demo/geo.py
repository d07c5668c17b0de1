"""Map projection of the demo region: WGS 84 longitude/latitude <-> UTM zone 32N metres.

World coordinates everywhere in this package are EPSG:32632 easting/northing in metres
(float64), except that plans and blocks count from the region's south-west corner
(`Region.origin`) to keep the numbers small.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pyproj import Proj, Transformer

from geometry.tiles import lonlat_to_tile, tile_to_lonlat

UTM_CRS = "EPSG:32632"
CENTRE_LON = 9.5037
CENTRE_LAT = 47.1213
TILE_ZOOM = 17
TILES_PER_SIDE = 17.3  # at scale 1: about 300 tiles

FloatArray = NDArray[np.float64]
Bounds = tuple[float, float, float, float]  # xmin, ymin, xmax, ymax


_PROJECTION = Proj(UTM_CRS)


@lru_cache(maxsize=1)
def _utm() -> Transformer:
    return Transformer.from_crs("EPSG:4326", UTM_CRS, always_xy=True)


def to_utm(lonlat: FloatArray) -> FloatArray:
    """(n, 2) longitude/latitude in degrees -> (n, 2) easting/northing in metres."""
    lon, lat = np.atleast_2d(lonlat).T
    return np.column_stack(_utm().transform(lon, lat))


def to_lonlat(utm: FloatArray) -> FloatArray:
    """(n, 2) easting/northing in metres -> (n, 2) longitude/latitude in degrees."""
    x, y = np.atleast_2d(utm).T
    return np.column_stack(_utm().transform(x, y, direction="INVERSE"))


def bounds_of(points: FloatArray, margin: float = 0.0) -> Bounds:
    """The box around (n, 2) points, grown by a margin."""
    lo, hi = points.min(axis=0) - margin, points.max(axis=0) + margin
    return float(lo[0]), float(lo[1]), float(hi[0]), float(hi[1])


def grown(box: Bounds, margin: float) -> Bounds:
    """A box with a margin around it."""
    return box[0] - margin, box[1] - margin, box[2] + margin, box[3] + margin


def overlaps(a: Bounds, b: Bounds) -> bool:
    """Whether two boxes share a point."""
    return a[0] <= b[2] and a[2] >= b[0] and a[1] <= b[3] and a[3] >= b[1]


def rectangle(at: Any, length: float, width: float, angle: float) -> FloatArray:
    """A rectangle's corners around a place (x, y), counter-clockwise, edge 0 along the length."""
    return placed([(-length, -width), (length, -width), (length, width), (-length, width)], at, angle, 0.5)


def placed(shape: Sequence[tuple[float, float]], at: Any, angle: float, scale: float = 1.0) -> FloatArray:
    """A shape around (0, 0), turned counter-clockwise by radians and moved to a place."""
    c, s = np.cos(angle), np.sin(angle)
    return np.asarray(np.array(shape) * scale @ np.array([[c, s], [-s, c]]) + at)


def grid_convergence(lon: float, lat: float) -> float:
    """Degrees from true north to grid north, clockwise positive.

    A true heading h points along the grid bearing h - grid_convergence.
    """
    return float(_PROJECTION.get_factors(lon, lat).meridian_convergence)


@dataclass(frozen=True)
class Region:
    """The demo region: a longitude/latitude box and its enclosing UTM box.

    west/south/east/north are degrees; origin is the UTM south-west corner and
    size the UTM width and height, in metres.
    """

    west: float
    south: float
    east: float
    north: float
    origin: tuple[float, float]
    size: tuple[float, float]


def region_for(side_tiles: float) -> Region:
    """The square region of side_tiles x side_tiles tiles at zoom 17 around the centre."""
    corner = lonlat_to_tile(np.array([[CENTRE_LON, CENTRE_LAT]]), TILE_ZOOM) - side_tiles / 2
    corners = tile_to_lonlat(corner + np.array([[0.0], [side_tiles]]), TILE_ZOOM)
    west, north, east, south = (round(v, 7) for v in corners.ravel().tolist())
    x0, y0, x1, y1 = _utm().transform_bounds(west, south, east, north, densify_pts=31)
    left, low = math.floor(x0), math.floor(y0)
    return Region(west, south, east, north, (left, low), (math.ceil(x1) - left, math.ceil(y1) - low))
