"""Arithmetic on arrays of XYZ tiles: places, boxes, ranges, children, codes, pixel grids.

Single tiles go through mercantile, which this agrees with; trainers lack it. Nothing is cut off at the square's edges
here: longitudes and latitudes beyond it give columns and rows outside 0..2^zoom, where mercantile gives the outermost
tile; ranges of boxes end there, as its do. A place on an edge is the eastern or southern tile's; mercantile counts
places up to 1e-14 of the world west or north of an edge to it as well.
"""

from __future__ import annotations

import math

import numpy as np

from geometry.packed import Floats, Ints, expand
from schemas.footprint import Footprint
from schemas.keys import XyzKey

#: Half the width of the EPSG:3857 square in metres: pi times the WGS84 semi-major axis (OGC Two Dimensional
#: Tile Matrix Set, WebMercatorQuad).
WEB_MERCATOR_HALF = math.pi * 6378137.0
#: Latitude of the square's upper edge in degrees.
WEB_MERCATOR_MAX_LATITUDE = 85.0511287798066


def lonlat_to_tile(lonlat: Floats, zoom: int) -> Floats:
    """Longitude, latitude in degrees f64[…,2] to fractional tile column and row f64[…,2] of ``zoom``.

    Latitudes beyond ±85.0511° give rows outside 0..2^zoom: the caller drops or clips them.
    """
    lonlat = np.asarray(lonlat, np.float64)
    side = float(1 << zoom)
    phi = np.radians(lonlat[..., 1])
    x = (lonlat[..., 0] + 180.0) / 360.0 * side
    with np.errstate(invalid="ignore", divide="ignore"):
        y = (1.0 - np.arcsinh(np.tan(phi)) / np.pi) / 2.0 * side
    return np.stack((x, y), axis=-1)


def tile_to_lonlat(tile: Floats, zoom: int) -> Floats:
    """Inverse of :func:`lonlat_to_tile`."""
    tile = np.asarray(tile, np.float64)
    side = float(1 << zoom)
    lat = np.degrees(np.arctan(np.sinh(np.pi * (1.0 - 2.0 * tile[..., 1] / side))))
    return np.stack((tile[..., 0] / side * 360.0 - 180.0, lat), axis=-1)


def metres_to_tile(xy: Floats, zoom: int) -> Floats:
    """EPSG:3857 metres f64[…,2] to fractional tile column and row f64[…,2]."""
    return (np.asarray(xy, np.float64) * (1, -1) + WEB_MERCATOR_HALF) / tile_side(zoom)


def tile_side(zoom: int) -> float:
    """Side of a tile in EPSG:3857 metres."""
    return 2 * WEB_MERCATOR_HALF / (1 << zoom)


def tile_transforms(tiles: Ints, zoom: int, size: int) -> Floats:
    """Pixel grids of tiles i64[T,2] with ``size`` pixels a side, in EPSG:3857, f64[T,6] as Footprint.transform."""
    side = tile_side(zoom)
    middle = (1 << zoom) / 2  # counted from the origin, so that tiles meet without a rounding error
    transform = np.zeros((len(tiles), 6))
    transform[:, 0], transform[:, 4] = side / size, -side / size
    transform[:, 2], transform[:, 5] = (tiles[:, 0] - middle) * side, (middle - tiles[:, 1]) * side
    return transform


def xyz_footprint(key: XyzKey) -> Footprint:
    """The EPSG:3857 footprint of an XYZ tile.

    >>> xyz_footprint(XyzKey(0, 0, 0, 256)).width
    256
    """
    a, b, c, d, e, f = tile_transforms(np.array([[key.x, key.y]]), key.zoom, key.size)[0].tolist()
    return Footprint(str(key), "EPSG:3857", (a, b, c, d, e, f), key.size, key.size)


def tile_bounds(tiles: Ints | Floats, zoom: int, margin: float = 0.0) -> Floats:
    """West, south, east, north in degrees of tiles [T,2], wider by a share of their side all around, f64[T,4]."""
    corner = np.asarray(tiles, np.float64)
    west, north = tile_to_lonlat(corner - margin, zoom).T
    east, south = tile_to_lonlat(corner + 1 + margin, zoom).T
    return np.stack((west, south, east, north), axis=1)


def tile_ranges(bounds: Floats, zoom: int, margin: float = 0.0) -> tuple[Ints, Ints]:
    """First and last tile (column, row), i64[B,2] each, that boxes f64[B,4] in degrees meet, wider by a share of a tile
    all around; both inside the square."""
    side = 1 << zoom
    first = np.clip(np.floor(lonlat_to_tile(bounds[:, [0, 3]], zoom) - margin), 0, side - 1).astype(np.int64)
    last = np.clip(np.floor(lonlat_to_tile(bounds[:, [2, 1]], zoom) + margin), first, side - 1).astype(np.int64)
    return first, last


def tiles_between(first: Ints, last: Ints) -> tuple[Ints, Ints]:
    """Number of the range i64[M], and tile i64[M,2], of all tiles of ranges i64[B,2], row by row."""
    width, height = (last - first + 1).T
    owner, k = expand(width * height)
    return owner, first[owner] + np.stack((k % width[owner], k // width[owner]), axis=1)


def tile_codes(tiles: Ints, zoom: int | Ints) -> Ints:
    """One number a tile i64[…,2]: row * 2^zoom + column, as cells of features are named."""
    return tiles[..., 1] * (1 << zoom) + tiles[..., 0]


def children(tiles: Ints, levels: int) -> Ints:
    """All tiles so many levels below tiles (column, row) i64[T,2], i64[T * 4^levels, 2]."""
    side = np.arange(1 << levels, dtype=np.int64)
    steps = np.stack(np.meshgrid(side, side), axis=-1).reshape(1, -1, 2)
    return ((tiles[:, None, :] << levels) + steps).reshape(-1, 2)
