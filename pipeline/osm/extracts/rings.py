"""Lines and simple rings as WKB without a geometry object each: most ways are one or the other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import shapely
from numpy.typing import NDArray

from geometry.packed import expand, ranges
from pipeline.formats.wire import Ints

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

_POINT, _LINE, _POLYGON = 1, 2, 3
#: Bytes before the vertices: byte order, type, (number of rings,) number of vertices.
_LINE_HEAD, _POLYGON_HEAD = 9, 13
#: Rounding of coordinates in degrees moves a vertex by 1.4e-7 units at most; twice the area of the triangle of two
#: neighbours and the middle, over their distance to it, is beyond that by far.
_CLEAR = 1e-5  # units
#: Extent (units) up to which a ring is in degrees as valid as in units: a corner that is not on a side is at least
#: 1 / its length away from it, and rounding brings them nearer by 2.8e-7.
_LARGE = 1e6


@dataclass(frozen=True, eq=False)
class Shapes:
    """Geometry of N objects as it goes into a table."""

    wkb: pa.Array  # binary [N]
    bounds: Floats  # [N,4] west, south, east, north in degrees

    @classmethod
    def of(cls, geometry: NDArray[Any]) -> Shapes:
        """Any geometries."""
        return cls(pa.array(shapely.to_wkb(geometry), pa.binary()), shapely.bounds(geometry).reshape(-1, 4))

    @classmethod
    def points(cls, lonlat: Floats) -> Shapes:
        """Points f64[N,2]."""
        rows = np.zeros(len(lonlat), np.dtype([("order", "u1"), ("type", "<u4"), ("xy", "<f8", 2)]))
        rows["order"], rows["type"], rows["xy"] = 1, _POINT, lonlat
        offsets = np.arange(len(rows) + 1) * rows.dtype.itemsize
        return cls(_binary(offsets, rows.view(np.uint8)), np.concatenate((lonlat, lonlat), axis=1))

    @classmethod
    def lines_and_polygons(cls, lonlat: Floats, offsets: Ints, ring: Bools) -> Shapes:
        """Lines, and polygons of one ring where ``ring``; all have vertices.

        Args:
            lonlat: f64[V,2].
            offsets: i64[N+1] into the vertices.
            ring: bool[N].
        """
        count = np.diff(offsets)
        head = np.where(ring, _POLYGON_HEAD, _LINE_HEAD)
        start = np.concatenate(([0], np.cumsum(head + 16 * count)))
        data = np.empty(start[-1], np.uint8)
        at = start[:-1]
        words = np.ndarray(len(data) - 3, "<u4", data, strides=(1,))  # a word from every byte on
        data[at] = 1
        words[at + 1] = np.where(ring, _POLYGON, _LINE)
        words[at + 5] = np.where(ring, 1, count)
        words[at[ring] + 9] = count[ring]
        place = np.repeat(at + head - 16 * offsets[:-1], count) + 16 * np.arange(offsets[-1])
        vertices = np.ndarray(len(data) - 15, "V16", data, strides=(1,))
        vertices[place] = np.ascontiguousarray(lonlat, "<f8").view("V16")[:, 0]
        low, high = (f.reduceat(lonlat, offsets[:-1], axis=0) for f in (np.minimum, np.maximum))
        return cls(_binary(start, data), np.concatenate((low, high), axis=1))

    def take(self, rows: Ints) -> Shapes:
        """The chosen shapes."""
        return Shapes(self.wkb.take(pa.array(rows)), self.bounds[rows])

    def replaced(self, rows: Ints, others: Shapes) -> Shapes:
        """With other shapes in the given rows."""
        if not len(rows):
            return self
        order = np.arange(len(self.wkb))
        order[rows] = len(order) + np.arange(len(rows))
        bounds = self.bounds.copy()
        bounds[rows] = others.bounds
        return Shapes(pa.concat_arrays([self.wkb, others.wkb]).take(pa.array(order)), bounds)


def _binary(offsets: Ints, data: NDArray[np.uint8]) -> pa.Array:
    buffers = [None, pa.py_buffer(offsets.astype(np.int32)), pa.py_buffer(data)]
    return pa.Array.from_buffers(pa.binary(), len(offsets) - 1, buffers)


def turn_of_rings(xy: Ints, lonlat: Floats, offsets: Ints) -> NDArray[np.int8]:
    """Which way simple rings run, i8[N]: 1 counter-clockwise, -1 clockwise, 0 where a ring is not simple.

    A ring that goes once round the mean of its vertices, always forwards, is simple (it is star-shaped); that is true
    of nearly three in four buildings and takes a few array operations. GEOS is asked about the others.

    Args:
        xy: i64[V,2] vertices in units of 1e-7 degree, none twice in a row; the last of each ring repeats its first.
        lonlat: f64[V,2] the same in degrees.
        offsets: i64[N+1], at least 4 vertices a ring.
    """
    turn = _turn_of_stars(xy, offsets)
    doubtful = np.flatnonzero(turn == 0)
    if len(doubtful):
        at, starts = ranges(offsets, doubtful)
        row, _ = expand(np.diff(starts))
        rings = shapely.linearrings(xy.take(at, axis=0).astype(np.float64), indices=row)
        valid = shapely.is_valid(shapely.polygons(rings))
        large = np.flatnonzero(valid & is_large(rings))
        vertex, starts = ranges(starts, large)
        row, _ = expand(np.diff(starts))
        degrees = shapely.linearrings(lonlat.take(at[vertex], axis=0), indices=row)
        valid[large] = shapely.is_valid(shapely.polygons(degrees))
        turn[doubtful[valid]] = np.where(shapely.is_ccw(rings[valid]), 1, -1)
    return turn


def is_large(shapes: NDArray[Any]) -> Bools:
    """Which shapes, in units, are so large that rounding to degrees may make them invalid."""
    west, south, east, north = shapely.bounds(shapes).T
    return np.asarray(np.maximum(east - west, north - south) > _LARGE)


def _turn_of_stars(xy: Ints, offsets: Ints) -> NDArray[np.int8]:
    first, edges = offsets[:-1], np.diff(offsets) - 1
    x, y = (xy[:, i] - np.repeat((np.add.reduceat(xy[:, i], first) - xy[first, i]) / edges, edges + 1) for i in (0, 1))
    cross = x[:-1] * y[1:] - y[:-1] * x[1:]
    upwards = (y[:-1] < 0) & (y[1:] >= 0)
    between = offsets[1:-1] - 1  # from the last vertex of a ring to the first of the next is no edge
    cross[between], upwards[between] = cross[between - 1], False
    low, high = np.minimum.reduceat(cross, first), np.maximum.reduceat(cross, first)
    once = np.add.reduceat(upwards, first, dtype=np.int64) == 1
    reach = np.maximum(np.maximum.reduceat(np.abs(x), first), np.maximum.reduceat(np.abs(y), first))
    forwards, backwards = low > _CLEAR * reach, high < -_CLEAR * reach
    return (once & forwards).astype(np.int8) - (once & backwards).astype(np.int8)
