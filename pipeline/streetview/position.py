"""Where photos are wanted, and where each of them is: the position in use, and what is wrong with some."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, Protocol

import numpy as np
import pyarrow as pa
import shapely
from numpy.typing import NDArray

from pipeline.alignment import place as place_footprints
from pipeline.streetview.record import PLACED, Drops, doubles
from schemas.footprint import Footprint, lonlat_to_tile, tile_to_lonlat

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Position = Literal["corrected", "original"]

#: Metres along one degree of a great circle, as used for margins; the ellipsoid's own is within 0.7 % of it.
METRES_A_DEGREE = 111_195.0


class Area(Protocol):
    """Where photos are wanted."""

    def holds(self, lonlat: Floats) -> NDArray[np.bool_]:
        """Which positions f64[N,2] in degrees lie in it, bool[N]; NaN does not."""
        ...

    def boxes(self, zoom: int) -> dict[tuple[int, int], tuple[float, float, float, float]]:
        """XYZ tiles (x, y) of ``zoom`` that it meets, in order, each with the box of the part that is wanted.

        Boxes are west, south, east, north in degrees.
        """
        ...


@dataclass(frozen=True, eq=False)
class TileArea:
    """XYZ tiles of one zoom, each with a margin."""

    tiles: Ints  # [T,2] x, y
    zoom: int
    margin_m: float = 0.0

    @cached_property
    def _codes(self) -> Ints:
        return np.unique(self._code(self.tiles))

    def _code(self, tiles: Ints) -> Ints:
        return tiles[..., 1].astype(np.int64) * (1 << self.zoom) + tiles[..., 0]

    def member(self, tiles: Ints) -> NDArray[np.bool_]:
        """Which of the tiles i64[N,2] are in the area, bool[N]."""
        if not len(self._codes):
            return np.zeros(len(tiles), bool)
        codes = self._code(tiles)
        at = np.minimum(np.searchsorted(self._codes, codes), len(self._codes) - 1)
        inside: NDArray[np.bool_] = (self._codes[at] == codes) & ((tiles >= 0) & (tiles < 1 << self.zoom)).all(axis=1)
        return inside

    def holds(self, lonlat: Floats) -> NDArray[np.bool_]:
        """As in `Area`."""
        found, _ = tiles_of(lonlat, self.zoom, self.margin_m)
        result = np.zeros(len(lonlat), bool)
        for tiles in found:
            result |= self.member(tiles)
        return result

    def boxes(self, zoom: int) -> dict[tuple[int, int], tuple[float, float, float, float]]:
        """As in `Area`."""
        tiles, own = np.unique(self.tiles.reshape(-1, 2), axis=0), self.zoom
        if self.margin_m > 0:  # the margin may reach into tiles of ``zoom`` that hold none of ours
            return BoxArea(widened(_tile_boxes(tiles, own), self.margin_m)).boxes(zoom)
        if zoom > own:
            tiles, own = _children(tiles, zoom - own), zoom
        found: dict[tuple[int, int], tuple[float, float, float, float]] = {}
        for (x, y), box in zip((tiles >> (own - zoom)).tolist(), _tile_boxes(tiles, own).tolist(), strict=True):
            found[x, y] = _union(found[x, y], box) if (x, y) in found else tuple(box)
        return dict(sorted(found.items()))


@dataclass(frozen=True, eq=False)
class BoxArea:
    """Boxes in degrees: those around footprints of any CRS and rotation, or a user's own."""

    bounds: Floats  # [B,4] west, south, east, north

    @classmethod
    def of_footprints(cls, footprints: list[Footprint], margin_m: float = 0.0) -> BoxArea:
        """The boxes around footprints, with a margin; one across the 180th meridian gives two."""
        boxes = split_antimeridian(place_footprints(footprints).bbox)
        return cls(widened(boxes, max(margin_m, 0.01)))  # a photo on an edge is judged in the footprint's own CRS

    @cached_property
    def _tree(self) -> Any:
        return shapely.STRtree(shapely.box(*self.bounds.T))

    def holds(self, lonlat: Floats) -> NDArray[np.bool_]:
        """As in `Area`."""
        known = np.flatnonzero(np.isfinite(lonlat).all(axis=1))
        result = np.zeros(len(lonlat), bool)
        hit, _ = self._tree.query(shapely.points(lonlat[known]), predicate="intersects")
        result[known[hit]] = True
        return result

    def boxes(self, zoom: int) -> dict[tuple[int, int], tuple[float, float, float, float]]:
        """As in `Area`."""
        side = (1 << zoom) - 1
        found: dict[tuple[int, int], tuple[float, float, float, float]] = {}
        for west, south, east, north in self.bounds.tolist():
            x0, y0 = np.clip(np.floor(lonlat_to_tile(np.array([west, north]), zoom)), 0, side).astype(int)
            x1, y1 = np.clip(np.floor(lonlat_to_tile(np.array([east, south]), zoom)), 0, side).astype(int)
            for x in range(x0, x1 + 1):
                for y in range(y0, y1 + 1):
                    part = _intersection((west, south, east, north), _tile_boxes(np.array([[x, y]]), zoom)[0].tolist())
                    found[x, y] = _union(found[x, y], part) if (x, y) in found else part
        return dict(sorted(found.items()))


def tiles_of(lonlat: Floats, zoom: int, margin_m: float = 0.0) -> tuple[list[Ints], Floats]:
    """Tiles whose square, widened by the margin, holds each position f64[N,2]: at most four, repeats among them.

    Returns:
        i64[N,2] arrays, each with one of the tiles of every position; and the position in tile units f64[N,2], where an
        edge is an edge although its arithmetic rounds.
    """
    with np.errstate(invalid="ignore"):
        at: Floats = np.asarray(np.round(lonlat_to_tile(lonlat, zoom), 8))
        if margin_m <= 0:
            return [_floor(at)], at
        cosine = np.maximum(np.cos(np.radians(lonlat[:, 1])), 1e-6)
        reach = margin_m * (1 << zoom) / (360.0 * METRES_A_DEGREE * cosine)
    # A margin of half a tile or more would reach more neighbours than its corners do.
    steps = max(1, math.ceil(float(np.nanmax(reach, initial=0.0)) * 2))
    offsets = np.linspace(-1.0, 1.0, steps + 1)
    return [_floor(at + reach[:, None] * (dx, dy)) for dx in offsets for dy in offsets], at


def _floor(at: Floats) -> Ints:
    return np.where(np.isfinite(at), np.floor(at), -1).astype(np.int64)


def place(photos: pa.Table, position: Position, area: Area | None, drops: Drops | None) -> pa.Table:
    """Rows of PHOTOS as rows of PLACED: each with the position and heading in use.

    The corrected position is used where there is one and ``position`` asks for it, and its heading with it, where there
    is one. Left out are the photos that `judge` leaves out; ``drops`` is None where they need not be told of.
    """
    original, corrected = (
        np.stack([doubles(photos, f"{axis}_{kind}") for axis in ("lon", "lat")], axis=1)
        for kind in ("original", "corrected")
    )
    lonlat, heading = in_use(original, corrected, position), doubles(photos, "heading_original")
    if position == "corrected":
        turned = doubles(photos, "heading_corrected")
        heading = np.where(_corrected(corrected) & np.isfinite(turned), turned, heading)
    chosen = judge(photos.column("id"), lonlat, area, drops)
    table = photos.take(pa.array(chosen))
    values = (lonlat[chosen, 0], lonlat[chosen, 1], heading[chosen])
    for name, value in zip(("lon", "lat", "heading"), values, strict=True):
        table = table.append_column(name, pa.array(value, pa.float64(), from_pandas=True))
    return table.cast(PLACED)


def judge(names: pa.ChunkedArray, lonlat: Floats, area: Area | None, drops: Drops | None) -> Ints:
    """Which positions f64[N,2] can be used, as their numbers i64[K].

    Left out, with a reason: no position, one beyond the globe or at (0, 0), longitude and latitude in each other's
    place, and outside ``area``.
    """
    lon, lat = lonlat.T
    with np.errstate(invalid="ignore"):
        known = ~np.asarray(np.isnan(lonlat).any(axis=1))
        in_range = known & (np.abs(lon) <= 180) & (np.abs(lat) <= 90) & ~((lon == 0) & (lat == 0))
        swapped = known & ~in_range & (np.abs(lon) <= 90) & (np.abs(lat) <= 180) & (np.abs(lat) > 90)
    keep = in_range.copy()
    if area is not None:
        keep[in_range] = area.holds(lonlat[in_range])
        out = np.flatnonzero(in_range & ~keep)
        turned = lonlat[out][:, ::-1]
        swapped[out] = area.holds(turned) & (np.abs(turned[:, 1]) <= 90)
    if drops is not None:
        for i in np.flatnonzero(~keep).tolist():
            name, where = names[i].as_py(), f"{lon[i]:.6f}, {lat[i]:.6f}"
            if not known[i]:
                drops.add("no_position", name, "the source gives none")
            elif swapped[i]:
                drops.add("swapped_coordinates", name, f"{where}: longitude and latitude are in each other's place")
            elif not in_range[i]:
                drops.add("coordinate_out_of_range", name, where)
            else:
                drops.add("outside_tiles", name, f"{where} lies in no planned tile")
    return np.flatnonzero(keep)


def in_use(original: Floats, corrected: Floats, position: Position) -> Floats:
    """The positions in use f64[N,2] of those before and after correction; NaN where there is none."""
    if position == "original":
        return original
    return np.where(_corrected(corrected)[:, None], corrected, original)


def _corrected(positions: Floats) -> NDArray[np.bool_]:
    """Which of the corrected positions f64[N,2] there are, bool[N]."""
    found: NDArray[np.bool_] = np.asarray(np.isfinite(positions).all(axis=1))
    return found


def widened(bounds: Floats, margin_m: float) -> Floats:
    """Boxes f64[B,4] in degrees, wider by a margin in metres."""
    if margin_m <= 0 or not len(bounds):
        return bounds
    north = margin_m / METRES_A_DEGREE
    east = north / np.maximum(np.cos(np.radians(np.abs(bounds[:, [1, 3]]).max(axis=1) + north)), 1e-6)
    return bounds + np.stack((-east, np.full_like(east, -north), east, np.full_like(east, north)), axis=1)


def split_antimeridian(bounds: Floats) -> Floats:
    """Boxes f64[B,4] whose west and east are the ends of a set of longitudes: one wider than 180° lies across the 180th
    meridian, and becomes two."""
    across = bounds[:, 2] - bounds[:, 0] > 180
    if not across.any():
        return bounds
    w, s, e, n = bounds[across].T
    half = np.full_like(w, 180.0)
    return np.concatenate((bounds[~across], np.stack((e, s, half, n), 1), np.stack((-half, s, w, n), 1)))


def _children(tiles: Ints, levels: int) -> Ints:
    """The tiles that tiles i64[T,2] are cut into ``levels`` zooms below."""
    spread = np.arange(1 << levels)
    grid = np.stack(np.meshgrid(spread, spread, indexing="ij"), axis=-1).reshape(-1, 2)
    return ((tiles[:, None] << levels) + grid).reshape(-1, 2)


def _tile_boxes(tiles: Ints, zoom: int) -> Floats:
    """Boxes f64[T,4] of tiles i64[T,2]."""
    lower = tile_to_lonlat(tiles + np.array([0.0, 1.0]), zoom)
    return np.concatenate((lower, tile_to_lonlat(tiles + np.array([1.0, 0.0]), zoom)), axis=1)


def _union(a: Any, b: Any) -> tuple[float, float, float, float]:
    return min(a[0], b[0]), min(a[1], b[1]), max(a[2], b[2]), max(a[3], b[3])


def _intersection(a: Any, b: Any) -> tuple[float, float, float, float]:
    return max(a[0], b[0]), max(a[1], b[1]), min(a[2], b[2]), min(a[3], b[3])
