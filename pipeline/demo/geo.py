"""Map projection of the demo region: WGS 84 longitude/latitude <-> UTM zone 32N metres.

World coordinates everywhere in this package are EPSG:32632 easting/northing in metres
(float64), except that plans and blocks count from the region's south-west corner
(`Region.origin`) to keep the numbers small.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

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


@lru_cache(maxsize=1)
def _to_utm() -> Transformer:
    return Transformer.from_crs("EPSG:4326", UTM_CRS, always_xy=True)


@lru_cache(maxsize=1)
def _to_lonlat() -> Transformer:
    return Transformer.from_crs(UTM_CRS, "EPSG:4326", always_xy=True)


@lru_cache(maxsize=1)
def _utm_proj() -> Proj:
    return Proj(UTM_CRS)


def to_utm(lonlat: FloatArray) -> FloatArray:
    """(n, 2) longitude/latitude in degrees -> (n, 2) easting/northing in metres."""
    lonlat = np.asarray(lonlat, dtype=np.float64).reshape(-1, 2)
    x, y = _to_utm().transform(lonlat[:, 0], lonlat[:, 1])
    return np.column_stack([x, y])


def to_lonlat(utm: FloatArray) -> FloatArray:
    """(n, 2) easting/northing in metres -> (n, 2) longitude/latitude in degrees."""
    utm = np.asarray(utm, dtype=np.float64).reshape(-1, 2)
    lon, lat = _to_lonlat().transform(utm[:, 0], utm[:, 1])
    return np.column_stack([lon, lat])


def grid_convergence(lon: float, lat: float) -> float:
    """Degrees from true north to grid north, clockwise positive.

    A true heading h points along the grid bearing h - grid_convergence.
    """
    return float(_utm_proj().get_factors(lon, lat).meridian_convergence)


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
    lon = np.linspace(west, east, 33)
    lat = np.linspace(south, north, 33)
    ring = np.concatenate(
        [np.column_stack([lon, np.full(33, v)]) for v in (south, north)]
        + [np.column_stack([np.full(33, v), lat]) for v in (west, east)]
    )
    xy = to_utm(ring)
    lo = np.floor(xy.min(axis=0))
    hi = np.ceil(xy.max(axis=0))
    return Region(west, south, east, north, (float(lo[0]), float(lo[1])), (float(hi[0] - lo[0]), float(hi[1] - lo[1])))
