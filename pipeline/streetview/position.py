"""Where photos are wanted, and where each of them is: the position in use, and what is wrong with some."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import shapely
from numpy.typing import NDArray

from geometry.tiles import tile_bounds, tile_ranges, tiles_between
from pipeline.meridian import on_the_map, split_boxes
from pipeline.streetview.record import PLACED, Drops, doubles

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Position = Literal["corrected", "original"]

#: Metres along one degree of a great circle, as used for margins; the ellipsoid's own is within 0.7 % of it.
METRES_A_DEGREE = 111_195.0


#: Metres around a footprint in which a photo is judged by its place in the footprint's own CRS.
_EDGE_M = 0.01
#: Share of a tile by which boxes are drawn in: an edge that rounds over a tile's edge asks for no other tile.
_INNER = 1e-6


@dataclass(frozen=True, eq=False)
class Area:
    """Where photos are wanted: boxes in degrees around footprints, each with a margin."""

    bounds: Floats  # [B,4] west, south, east, north; none across the 180th meridian
    margin_m: float = 0.0

    @classmethod
    def around(cls, bbox: Floats, margin_m: float = 0.0) -> Area:
        """The area of boxes f64[N,4] of footprints; one across the 180th meridian gives two."""
        return cls(split_boxes(bbox)[0], margin_m)

    @cached_property
    def _tree(self) -> Any:
        boxes, _ = on_the_map(widened(self.bounds, max(self.margin_m, _EDGE_M)))
        return shapely.STRtree(shapely.box(*boxes.T))

    def holds(self, lonlat: Floats) -> NDArray[np.bool_]:
        """Which positions f64[N,2] in degrees lie in it, bool[N]; NaN does not."""
        known = np.flatnonzero(np.isfinite(lonlat).all(axis=1))
        result = np.zeros(len(lonlat), bool)
        hit, _ = self._tree.query(shapely.points(lonlat[known]), predicate="intersects")
        result[known[hit]] = True
        return result

    def boxes(self, zoom: int) -> dict[tuple[int, int], tuple[float, float, float, float]]:
        """XYZ tiles (x, y) of ``zoom`` that it meets, in order, each with the box of the part that is wanted.

        Boxes are west, south, east, north in degrees.
        """
        bounds, _ = on_the_map(widened(self.bounds, self.margin_m))
        owner, tiles = tiles_between(*tile_ranges(bounds, zoom, -_INNER))
        part = tile_bounds(tiles, zoom)
        part[:, :2] = np.maximum(part[:, :2], bounds[owner, :2])
        part[:, 2:] = np.minimum(part[:, 2:], bounds[owner, 2:])
        order = np.lexsort((tiles[:, 1], tiles[:, 0]))
        tiles, part = tiles[order], part[order]
        starts = np.flatnonzero(np.append(True, (np.diff(tiles, axis=0) != 0).any(axis=1))[: len(tiles)])
        if not len(starts):
            return {}
        low, high = np.minimum.reduceat(part[:, :2], starts), np.maximum.reduceat(part[:, 2:], starts)
        return {
            (x, y): (w, s, e, n)
            for (x, y), (w, s), (e, n) in zip(tiles[starts].tolist(), low.tolist(), high.tolist(), strict=True)
        }


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


def judge(
    names: pa.ChunkedArray, lonlat: Floats, area: Area | None, drops: Drops | None,
    said: Callable[[int], str] = lambda _: "the source gives none",
) -> Ints:  # fmt: skip
    """Which positions f64[N,2] can be used, as their numbers i64[K].

    Left out, with a reason: no position, one beyond the globe or at (0, 0), longitude and latitude in each other's
    place, and outside ``area``. ``said`` is what a row has in place of a position.
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
        swapped[out] = area.holds(lonlat[out][:, ::-1])
    if drops is not None:
        for i in np.flatnonzero(~keep).tolist():
            name, where = names[i].as_py(), f"{lon[i]:.6f}, {lat[i]:.6f}"
            if not known[i]:
                drops.add("no_position", name, said(i))
            elif swapped[i]:
                drops.add("swapped_coordinates", name, f"{where}: longitude and latitude are in each other's place")
            elif not in_range[i]:
                drops.add("coordinate_out_of_range", name, where if np.isfinite(lonlat[i]).all() else said(i))
            else:
                drops.add("outside_tiles", name, f"{where} lies in no planned tile")
    return np.flatnonzero(keep)


def in_use(original: Floats, corrected: Floats, position: Position) -> Floats:
    """The positions in use f64[N,2] of those before and after correction; NaN where there is none. 180° E is 180° W."""
    used = original if position == "original" else np.where(_corrected(corrected)[:, None], corrected, original)
    return np.where(used == (180.0, np.inf), -180.0, used)


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
