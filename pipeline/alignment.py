"""Lon/lat onto pixels: the only way by which vectors and photos meet images. Never a linear lon/lat map."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray
from pyproj import Geod, Transformer

from schemas.footprint import Footprint

Floats = NDArray[np.float64]

_GEOD = Geod(ellps="WGS84")


@lru_cache(maxsize=32)
def _from_lonlat(crs: str) -> Transformer:
    return Transformer.from_crs("EPSG:4326", crs, always_xy=True)


def project(geometry: NDArray[Any], crs: str) -> NDArray[Any]:
    """Shapely objects in lon/lat degrees into ``crs``, vertex by vertex: densify long segments first."""
    transformer = _from_lonlat(crs)
    return shapely.transform(geometry, lambda xy: np.stack(transformer.transform(xy[:, 0], xy[:, 1]), axis=1))


def lonlat_to_normalised(footprint: Footprint, lonlat: Floats) -> Floats:
    """Lon/lat degrees f64[N,2] to normalised image coordinates f64[N,2] of one footprint."""
    lonlat = np.asarray(lonlat, np.float64).reshape(-1, 2)
    xy = np.stack(_from_lonlat(footprint.crs).transform(lonlat[:, 0], lonlat[:, 1]), axis=1)
    return footprint.pixel_to_normalised(footprint.crs_to_pixel(xy))


@dataclass(frozen=True, eq=False)
class Placement:
    """Where T footprints lie."""

    centre: Floats  # [T,2] lon, lat in degrees
    bbox: Floats  # [T,4] west, south, east, north in degrees
    corners: Floats  # [T,4,2] lon, lat: upper left, upper right, lower right, lower left
    gsd: Floats  # [T,2] true metres a pixel along x and along y at the centre


def groups(keys: Iterable[Hashable]) -> Iterator[NDArray[np.int64]]:
    """Indices of equal keys, in order of their first."""
    found: dict[Hashable, list[int]] = {}
    for i, key in enumerate(keys):
        found.setdefault(key, []).append(i)
    for rows in found.values():
        yield np.array(rows, np.int64)


def place(footprints: Sequence[Footprint]) -> Placement:
    """Positions of footprints of any CRSs and sizes, and their true ground sampling distances: by the geodesic between
    the middles of neighbouring pixels."""
    count = len(footprints)
    whole = Placement(np.empty((count, 2)), np.empty((count, 4)), np.empty((count, 4, 2)), np.empty((count, 2)))
    for rows in groups((f.crs, f.width, f.height) for f in footprints):
        part = _place_alike([footprints[i] for i in rows.tolist()])
        whole.centre[rows], whole.bbox[rows], whole.corners[rows], whole.gsd[rows] = part
    return whole


def _place_alike(footprints: list[Footprint]) -> tuple[Floats, Floats, Floats, Floats]:
    """The fields of a placement of footprints of one CRS and size."""
    first = footprints[0]
    w, h = first.width, first.height
    x, y = w / 2, h / 2
    # Corners, side midpoints (a side may bulge beyond its corners in lon/lat), centre, and half a pixel around it.
    pixels = np.array(
        [
            [0, 0],
            [w, 0],
            [w, h],
            [0, h],
            [x, 0],
            [w, y],
            [x, h],
            [0, y],
            [x, y],
            [x - 0.5, y],
            [x + 0.5, y],
            [x, y - 0.5],
            [x, y + 0.5],
        ]
    )
    crs = np.stack([f.pixel_to_crs(pixels) for f in footprints])
    back = _from_lonlat(first.crs).transform(crs[..., 0].ravel(), crs[..., 1].ravel(), direction="INVERSE")
    lonlat = np.stack(back, axis=1).reshape(len(footprints), len(pixels), 2)
    edge = lonlat[:, :8]
    bbox = np.concatenate((edge.min(axis=1), edge.max(axis=1)), axis=1)
    step = [_GEOD.inv(*lonlat[:, i].T, *lonlat[:, i + 1].T)[2] for i in (9, 11)]
    return lonlat[:, 8], bbox, lonlat[:, :4], np.stack(step, axis=1)
