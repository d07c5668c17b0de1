"""Polygons of lines that meet in their ends alone: even-odd.

Lines in whose ends just two meet make rings, which are linked and put into each other; that is most areas. Where more
meet, the faces between the lines are found, and every other one is inside.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

from geometry.packed import changes, expand, ranges, ranks
from pipeline.formats.wire import Ints

Bools = NDArray[np.bool_]

#: Rings of an area, as a power of two, that are compared with each other at once where as many boxes lie around one;
#: one of how many tells that; units from one group to the next.
_GROUP, _SAMPLE, _APART = 6, 64, 4e9


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


def polygons_of_loops(lines: Lines, xy: Ints) -> tuple[NDArray[Any], Ints, Ints]:
    """Polygons from lines in whose ends two meet: what an odd number of their rings surrounds; and the area of each,
    and how many rings are around it."""
    rings = _linked(lines)
    linear = rings.shapes(shapely.linearrings, xy)
    around = _around(linear, rings.area, xy[rings.corner[rings.offsets[:-1]]])
    depth = _depth(around)
    hole = depth % 2 == 1
    owner = np.where(hole, around, np.arange(len(linear)))
    order = np.lexsort((hole, owner))
    shell = ~hole[order]
    shells = order[shell]
    return shapely.polygons(linear[order], indices=np.cumsum(shell) - 1), rings.area[shells], depth[shells]


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


def _around(rings: NDArray[Any], area: Ints, corner: Ints) -> Ints:
    """The nearest ring of the same area that each lies in, i64[R]; itself where there is none. They do not cross.

    Of the rings of an area those that are larger can be around one. They are asked about in the order of their size;
    where thousands lie in each other in ever larger groups, so that a ring is compared with those that come next.

    Args:
        rings: linear rings [R].
        area: i64[R]; rises.
        corner: i64[R,2] one of each ring.
    """
    result = np.arange(len(rings))
    many = np.bincount(area)[area] if len(area) else area
    several = np.flatnonzero(many > 1)
    whole = shapely.polygons(rings[several])
    order = np.lexsort((shapely.area(whole), area[several]))
    several, whole = several[order], whole[order]
    shapely.prepare(whole)
    boxes, point = shapely.bounds(whole), corner[several].astype(np.float64)
    first = np.flatnonzero(changes(area[several]))
    rank = np.arange(len(several)) - np.repeat(first, np.diff(np.append(first, len(several))))
    left = np.ones(len(several), bool)
    size, step, whole_area = many[several], 0, np.iinfo(np.int64).bits - 1
    sample = np.arange(0, len(several), _SAMPLE)
    boxes_around = len(shapely.STRtree(whole).query(shapely.points(point[sample]))[0])
    least = _GROUP if boxes_around > len(sample) << _GROUP else whole_area
    while step < whole_area and len(asked := np.flatnonzero(left & (size > 1 << step))):
        block = rank >> (step or least)
        key = ranks((area[several] << 32) + block)
        group = np.flatnonzero((size > 1 << step) & ((block % 2 == 1) | (step == 0)))
        asked = asked[(block[asked] % 2 == 0) | (step == 0)]
        target = key[asked] + (step > 0)  # the group of the next larger ones, if the area has one
        shift = np.stack((key[group] * _APART, np.zeros(len(group))) * 2, axis=1)
        tree = shapely.STRtree(shapely.box(*(boxes[group] + shift).T))
        at, found = tree.query(
            shapely.points(point[asked] + np.stack((target * _APART, np.zeros(len(target))), axis=1))
        )
        one, other = asked[at], group[found]
        larger = (rank[other] > rank[one]) & (area[several[one]] == area[several[other]])
        one, other = one[larger], other[larger]
        order = np.lexsort((rank[other], one))
        one, other = one[order], other[order]
        while len(one):
            head = changes(one)
            within = shapely.contains_xy(whole[other[head]], *point[one[head]].T)
            inner, outer = one[head][within], other[head][within]
            result[several[inner]] = several[outer]
            left[inner] = False
            rest = ~head & left[one]
            one, other = one[rest], other[rest]
        step = step + 1 if step else least
    return result


def _depth(around: Ints) -> Ints:
    """How many rings are around each, i64[R]."""
    hop, depth = around, (around != np.arange(len(around))).astype(np.int64)
    while not np.array_equal(further := hop[hop], hop):
        depth, hop = depth + depth[hop], further
    return depth


def polygons_of_faces(lines: Lines, xy: Ints) -> tuple[NDArray[Any], Ints]:
    """Polygons and the area of each: those faces between its lines that an odd number of rings surrounds."""
    areas, where = np.unique(lines.area, return_inverse=True)
    mesh = shapely.multilinestrings(lines.shapes(shapely.linestrings, xy), indices=where)
    faces, row = shapely.get_parts(shapely.polygonize(mesh[:, None]), return_index=True)
    inside = _every_other(faces, row)
    return faces[inside], areas[row[inside]]


def _every_other(faces: NDArray[Any], row: Ints) -> Bools:
    """Which faces are inside: those that border on the outside, and then every other one.

    Args:
        faces: polygons [F], all that the lines of some areas enclose, in whole units.
        row: area of each face, i64[F]; rises.
    """
    one, other, known = _neighbours(faces, row)
    inside = known.copy()
    while (step := known[one] != known[other]).any():
        seen = known[one[step]]
        near, far = np.where(seen, (one[step], other[step]), (other[step], one[step]))
        inside[far] = ~inside[near]
        known[far] = True
        one, other = one[~step], other[~step]
    return inside


def _neighbours(faces: NDArray[Any], row: Ints) -> tuple[Ints, Ints, Bools]:
    """Pairs of faces of an area that have a side in common; and which faces have a side of their own, bool[F]."""
    rings, face = shapely.get_rings(faces, return_index=True)
    xy, ring = shapely.get_coordinates(rings, return_index=True)
    corner = ranks((xy[:, 0].astype(np.int64) << 32) + xy[:, 1].astype(np.int64))
    start = np.flatnonzero(ring[1:] == ring[:-1])
    sides = np.stack((corner[start], corner[start + 1]))
    key, face = (np.minimum(*sides) << 32) + np.maximum(*sides), face[ring[start]]
    order = np.argsort(key, kind="stable")
    face = face[order]
    first = np.append(changes(key[order], row[face]), True)
    border = np.zeros(len(faces), bool)
    border[face[first[:-1] & first[1:]]] = True
    second = np.flatnonzero(~first)
    pairs = np.unique((face[second - 1] << 32) + face[second])
    return pairs >> 32, pairs & 0xFFFFFFFF, border
