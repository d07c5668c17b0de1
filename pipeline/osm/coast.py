"""The coastline around footprints: on which side of it a place lies that it does not run through.

A straight line from a place to the nearest coastline of its cells crosses no other, since the cells hold all coastlines
between them; so the place lies on the side that it has there. That says nothing where a coastline stops, contradicts
another, or where more of it may be missing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

from geometry.coast import loose_ends
from geometry.packed import changes
from pipeline.osm.features import FeatureBatch
from schemas.features import COASTLINE, DOUBTFUL, Kind, ObjectType

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
Box = tuple[float, float, float, float]  # west, south, east, north in degrees

#: Degrees from the border of its cells within which a coastline is cut by it.
_ON_BORDER = 1e-9
_LINE = 1  # GEOS type id
#: How much nearer a place must lie to the coastline than to where one stops: what is missing begins there.
_NEARER = 2.0


def coast_rows(paint: NDArray[np.uint16], osm_type: NDArray[np.uint8], kind: NDArray[np.uint8]) -> Ints:
    """Which objects are coastlines: ways alone, as what a relation says its members say, too."""
    return np.flatnonzero((paint & COASTLINE > 0) & (osm_type == ObjectType.WAY) & (kind != Kind.POINT))


@dataclass(frozen=True, eq=False)
class LooseEnds:
    """Ends of coastlines from which no other goes on."""

    xy: Floats  # [E,2] degrees
    row: Ints  # [E] coastline
    begins: Bools  # [E] it begins there, it does not end
    met: Bools  # [E] others end there too: they contradict each other

    @classmethod
    def of(cls, geometry: NDArray[Any], border: Box) -> LooseEnds:
        """Of coastlines (shapely objects) that were cut to a box; what the box cut is no end."""
        parts, owner = shapely.get_parts(geometry, return_index=True)
        line = np.flatnonzero(shapely.get_type_id(parts) == _LINE)
        ends = shapely.get_point(np.tile(parts[line], 2), np.repeat([0, -1], len(line)))
        xy, row, sign = shapely.get_coordinates(ends), np.tile(owner[line], 2), np.repeat([1, -1], len(line))
        net, meet = loose_ends(xy, sign, np.zeros(len(sign), np.int64))
        loose = np.flatnonzero((net != 0) & ~beyond(xy, border))
        return cls(xy[loose], row[loose], sign[loose] > 0, meet[loose] > 1)


def beyond(xy: Floats, border: Box) -> Bools:
    """Which places f64[N,2] lie on the border of a box or outside of it, bool[N]."""
    west, south, east, north = border
    x, y = xy.T
    result: Bools = np.minimum(np.minimum(x - west, east - x), np.minimum(y - south, north - y)) <= _ON_BORDER
    return result


@dataclass(frozen=True, eq=False)
class Coastline:
    """The coastline of some cells. Its own degrees are longitudes shrunk to the length of those of latitude."""

    start: Floats  # [S,2] of its segments
    end: Floats  # [S,2]
    doubtful: Bools  # [S] contradicts others
    ends: NDArray[Any]  # [E] shapely points where it stops
    shrink: float  # of longitudes
    west: float  # of its cells: lower longitudes lie beyond the 180th meridian, and are counted on

    @classmethod
    def of(cls, features: FeatureBatch, border: Box) -> Coastline | None:
        """That of the features of cells, which were cut to a box; None where there is none."""
        rows = coast_rows(features.paint, features.osm_type, features.kind)
        if not len(rows):
            return None
        scale = np.array([math.cos(math.radians((border[1] + border[3]) / 2)), 1.0])
        parts, owner = shapely.get_parts(features.geometry[rows], return_index=True)
        island = np.flatnonzero(shapely.get_type_id(parts) != _LINE)
        rings, ring_part = shapely.get_rings(shapely.orient_polygons(parts[island]), return_index=True)
        lines = np.flatnonzero(shapely.get_type_id(parts) == _LINE)
        every, part = np.concatenate((parts[lines], rings)), np.concatenate((lines, island[ring_part]))
        xy, line = shapely.get_coordinates(every, return_index=True)
        at = np.flatnonzero(line[1:] == line[:-1])
        a, b = xy[at], xy[at + 1]
        # Not those by which an island was closed along the border.
        kept = ~(beyond(a, border) & beyond(b, border) & beyond((a + b) / 2, border)) & (a != b).any(axis=1)
        doubtful = (features.paint[rows] & DOUBTFUL > 0)[owner[part[line[at]]]]
        ends = LooseEnds.of(features.geometry[rows], border).xy
        return cls(
            a[kept] * scale, b[kept] * scale, doubtful[kept], shapely.points(ends * scale), float(scale[0]), border[0]
        )

    def at_sea(self, lonlat: Floats) -> Bools:
        """Which places f64[N,2] the nearest coastline has on its sea side, bool[N]; False where that is land or is not
        sure."""
        result = np.zeros(len(lonlat), bool)
        if not len(self.start) or not len(lonlat):
            return result
        beyond_meridian = (lonlat[:, :1] < self.west) * np.array((360.0, 0.0))
        xy = (lonlat + beyond_meridian) * (self.shrink, 1.0)
        points = shapely.points(xy)
        (point, segment), distance = self._segments.query_nearest(points, return_distance=True)
        stops = np.full(len(xy), np.inf)
        if len(self.ends):
            (row, _), far = self._stops.query_nearest(points, all_matches=False, return_distance=True)
            stops[row] = far
        first = np.flatnonzero(changes(point))
        count = np.diff(np.append(first, len(point)))
        row, d = point[first], distance[first]
        one, other = segment[first], segment[np.minimum(first + 1, len(segment) - 1)]
        corner = (count == 2) & self._outside_corner(one, other, xy[row], d)
        sea = np.where(count == 1, self._right_of(one, xy[row]), corner)
        sea &= ~self.doubtful[one] & ~self.doubtful[np.where(count > 1, other, one)] & (d * _NEARER <= stops[row])
        result[row] = sea
        return result

    @cached_property
    def _segments(self) -> shapely.STRtree:
        return shapely.STRtree(shapely.linestrings(np.stack((self.start, self.end), axis=1)))

    @cached_property
    def _stops(self) -> shapely.STRtree:
        return shapely.STRtree(self.ends)

    def _right_of(self, segment: Ints, xy: Floats) -> Bools:
        """Which places lie to the right of a segment, and beside it, not before its start or behind its end."""
        a, along = self.start[segment], self.end[segment] - self.start[segment]
        share = ((xy - a) * along).sum(axis=1) / (along**2).sum(axis=1)
        result: Bools = (_cross(along, xy - a) < 0) & (share > 0) & (share < 1)
        return result

    def _outside_corner(self, one: Ints, other: Ints, xy: Floats, distance: Floats) -> Bools:
        """Which places lie to the right of the corner where two segments meet and that is nearest to them: outside of a
        corner is the side from which it turns away."""
        swap = (self.end[one] != self.start[other]).any(axis=1)
        before, after = np.where(swap, other, one), np.where(swap, one, other)
        meet = (self.end[before] == self.start[after]).all(axis=1)
        meet &= np.hypot(*(xy - self.end[before]).T) <= distance * (1 + 1e-9)  # not as near to both in their middle
        a, b = self.end[before] - self.start[before], self.end[after] - self.start[after]
        turn = _cross(a, b)
        straight = (turn == 0) & ((a * b).sum(axis=1) > 0) & (_cross(a, xy - self.start[before]) < 0)
        result: Bools = meet & ((turn > 0) | straight)
        return result


def _cross(a: Floats, b: Floats) -> Floats:
    return a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0]
