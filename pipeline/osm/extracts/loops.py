"""Lines that meet in their ends alone as polygons: linked into rings, and those put into each other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

from geometry.packed import changes, expand, ranges
from pipeline.formats.wire import Ints

Bools = NDArray[np.bool_]


def ranks(values: Ints) -> Ints:
    """Place of each value among the distinct ones."""
    order = np.argsort(values)
    ranks = np.empty(len(values), np.int64)
    ranks[order] = np.cumsum(changes(values[order])) - 1
    return ranks


@dataclass(frozen=True, eq=False)
class Lines:
    """Lines from corner to corner."""

    area: Ints  # [L] of each; rises
    corner: Ints  # [V] of each vertex
    offsets: Ints  # [L+1] into the vertices

    @classmethod
    def of(cls, sides: Ints, areas: Ints, degree: Ints) -> Lines:
        """Runs of sides i64[2,S], cut where more than two meet; area and number of sides of each corner."""
        start, end = sides
        begin = np.ones(len(start), bool)
        begin[1:] = (start[1:] != end[:-1]) | (degree[start[1:]] != 2)
        first = np.flatnonzero(begin)
        place = np.arange(len(start)) + np.cumsum(begin)
        corner = np.empty(len(start) + len(first), np.int64)
        corner[place] = end
        corner[place[first] - 1] = start[first]
        return cls(areas[start[first]], corner, np.append(first, len(start)) + np.arange(len(first) + 1))

    def take(self, chosen: Bools) -> Lines:
        """The chosen lines."""
        at, offsets = ranges(self.offsets, np.flatnonzero(chosen))
        return Lines(self.area[chosen], self.corner[at], offsets)

    def shapes(self, draw: Any, xy: Ints) -> NDArray[Any]:
        """Drawn by a function of shapely from places of the corners i64[C,2]."""
        line, _ = expand(np.diff(self.offsets))
        return np.asarray(draw(xy[self.corner].astype(np.float64), indices=line))


def polygons_of_loops(lines: Lines, xy: Ints) -> tuple[NDArray[Any], Ints]:
    """Polygons and the area of each from lines in whose ends two meet: what an odd number of their rings surrounds."""
    rings = _linked(lines)
    linear = rings.shapes(shapely.linearrings, xy)
    inner, outer = _inside(linear, rings.area, xy[rings.corner[rings.offsets[:-1]]])
    depth = np.bincount(inner, minlength=len(linear))
    nearest = depth[inner] == depth[outer] + 1
    owner = np.arange(len(linear))
    owner[inner[nearest]] = outer[nearest]
    hole = (depth % 2 == 1) & (owner != np.arange(len(linear)))
    owner[~hole] = np.flatnonzero(~hole)
    order = np.lexsort((hole, owner))
    shell = ~hole[order]
    return shapely.polygons(linear[order], indices=np.cumsum(shell) - 1), rings.area[order[shell]]


def _linked(lines: Lines) -> Lines:
    """Rings by area; the first corner is not repeated."""
    ends = np.stack((lines.corner[lines.offsets[:-1]], lines.corner[lines.offsets[1:] - 1]), axis=1).ravel()
    step = np.arange(len(ends))  # 2 i goes along line i from its first end, 2 i + 1 from its last
    order = np.argsort(ends)
    other = np.empty(len(ends), np.int64)
    other[order[::2]], other[order[1::2]] = order[1::2], order[::2]
    following = other[step ^ 1]
    lead, hop = step, following  # the least step of each ring, found in ever longer stretches
    while not np.array_equal(lead, least := np.minimum(lead, lead[hop])):
        lead, hop = least, hop[hop]
    hop = np.where(step == lead, step, following)
    ahead = (hop != step).astype(np.int64)  # steps to that one
    while not np.array_equal(hop, lead):
        ahead, hop = ahead + ahead[hop], hop[hop]
    chosen = np.flatnonzero(lead % 2 == 0)  # of the two ways round
    chosen = chosen[np.lexsort((-ahead[chosen], ahead[chosen] > 0, lead[chosen]))]
    line, back = chosen // 2, chosen % 2 == 1
    sides = np.diff(lines.offsets)[line] - 1
    row, nth = expand(sides)
    at = np.where(back[row], lines.offsets[line + 1][row] - 1 - nth, lines.offsets[line][row] + nth)
    first = np.flatnonzero(changes(lead[chosen]))
    return Lines(
        lines.area[line[first]], lines.corner[at], np.concatenate(([0], np.cumsum(np.add.reduceat(sides, first))))
    )


def _inside(rings: NDArray[Any], area: Ints, corner: Ints) -> tuple[Ints, Ints]:
    """Pairs of rings of an area, the first of which lies in the second. They do not cross.

    Args:
        rings: linear rings [R].
        area: i64[R]; rises.
        corner: i64[R,2] one of each ring.
    """
    several = np.flatnonzero(np.bincount(area)[area] > 1)
    whole = shapely.polygons(rings[several])
    shapely.prepare(whole)
    one, other = shapely.STRtree(whole).query(shapely.points(corner[several]))
    some = (area[several[one]] == area[several[other]]) & (one != other)
    one, other = one[some], other[some]
    within = shapely.contains_xy(whole[other], *corner[several[one]].T)
    return several[one[within]], several[other[within]]
