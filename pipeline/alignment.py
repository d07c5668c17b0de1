"""Lon/lat onto pixels: the only way by which vectors and photos meet images. Never a linear lon/lat map."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray
from pyproj import Geod, Transformer

from schemas.footprint import Footprint, Footprints

Floats = NDArray[np.float64]

_GEOD = Geod(ellps="WGS84")


@lru_cache(maxsize=256)
def transformer(crs: str, source: str = "EPSG:4326") -> Transformer:
    """Coordinates of ``source``, of lon/lat degrees say, to those of ``crs``; x or lon first."""
    return Transformer.from_crs(source, crs, always_xy=True)


def project(geometry: NDArray[Any], crs: str) -> NDArray[Any]:
    """Shapely objects in lon/lat degrees into ``crs``, vertex by vertex: densify long segments first."""
    to_crs = transformer(crs)
    return shapely.transform(geometry, lambda xy: np.stack(to_crs.transform(xy[:, 0], xy[:, 1]), axis=1))


def lonlat_to_normalised(footprints: Footprints, rows: NDArray[np.int64], lonlat: Floats) -> Floats:
    """Lon/lat degrees f64[P,2], each to normalised image coordinates f64[P,2] of its own footprint, number ``rows``
    [P]: the one way by which a photo finds its place."""
    xy = np.empty((len(rows), 2))
    code = footprints.crs_code[rows]
    for number in np.unique(code).tolist():
        own = code == number
        to_crs = transformer(footprints.crs[number])
        xy[own] = np.stack(to_crs.transform(lonlat[own, 0], lonlat[own, 1]), axis=1)
    return footprints.crs_to_pixel(rows, xy) / footprints.size[rows]


@dataclass(frozen=True, eq=False)
class Placement:
    """Where N footprints lie."""

    centre: Floats  # [N,2] lon, lat in degrees
    bbox: Floats  # [N,4] west, south, east, north in degrees; west is over east across the 180th meridian
    corners: Floats  # [N,4,2] lon, lat: upper left, upper right, lower right, lower left
    gsd: Floats  # [N,2] true metres a pixel along x and along y at the centre

    def take(self, rows: NDArray[Any]) -> Placement:
        """Of the chosen footprints (numbers or a mask)."""
        return Placement(self.centre[rows], self.bbox[rows], self.corners[rows], self.gsd[rows])


#: Corners, middles of sides (a side may bulge beyond its corners in lon/lat) and centre in sides of a footprint, and
#: half a pixel around the centre.
_SIDES = np.array([[0, 0], [1, 0], [1, 1], [0, 1], [0.5, 0], [1, 0.5], [0.5, 1], [0, 0.5], *[[0.5, 0.5]] * 5])
_PIXELS = np.array([*[[0, 0]] * 9, [-0.5, 0], [0.5, 0], [0, -0.5], [0, 0.5]])


def place(footprints: Footprints | Sequence[Footprint]) -> Placement:
    """Positions and true ground sampling distances, by the geodesic between the middles of neighbouring pixels."""
    if not isinstance(footprints, Footprints):
        footprints = Footprints.of(footprints)
    pixels = _SIDES * footprints.size[:, None] + _PIXELS
    a, b, c, d, e, f = footprints.transform.T[:, :, None]
    x, y = a * pixels[..., 0] + b * pixels[..., 1] + c, d * pixels[..., 0] + e * pixels[..., 1] + f
    lonlat = np.empty((len(footprints), len(_SIDES), 2))
    for number in np.unique(footprints.crs_code).tolist():
        own = footprints.crs_code == number
        back = transformer(footprints.crs[number]).transform(x[own].ravel(), y[own].ravel(), direction="INVERSE")
        lonlat[own] = np.stack(back, axis=1).reshape(-1, len(_SIDES), 2)
    edge = lonlat[:, :8]
    bbox = np.concatenate((edge.min(axis=1), edge.max(axis=1)), axis=1)
    east = edge[..., 0] - lonlat[:, 8:9, 0]
    far = np.flatnonzero((np.abs(east) > 180).any(axis=1))
    reach = (east[far] + 180) % 360 - 180  # of the middle, the short way around the world
    ends = lonlat[far, 8, :1] + np.stack((reach.min(axis=1), reach.max(axis=1)), axis=1)
    across = np.ptp(ends, axis=1) < 180  # wider ones lie around a pole
    bbox[far[across], ::2] = (ends[across] + 180) % 360 - 180
    step = [_GEOD.inv(*lonlat[:, i].T, *lonlat[:, i + 1].T)[2] for i in (9, 11)]
    return Placement(lonlat[:, 8], bbox, lonlat[:, :4], np.stack(step, axis=1))
