"""Topological relations between the objects of one footprint, from DE-9IM, and the table of inverses.

One code a pair, by precedence: equals, touches, within/contains (points) or covered_by/covers (others), crosses,
overlaps. Disjoint pairs have no edge. DELAUNAY links neighbouring points; SELF is added by the models.
"""

from __future__ import annotations

import re
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray


class Relation(IntEnum):
    """Relation of object i to object j, stored as u8 with i < j."""

    SELF = 0
    EQUALS = 1
    TOUCHES = 2
    WITHIN = 3  # i, a point, lies in the interior of j
    CONTAINS = 4  # j, a point, lies in the interior of i
    COVERED_BY = 5  # no part of i, a line or polygon, lies outside j
    COVERS = 6
    CROSSES = 7
    OVERLAPS = 8
    DELAUNAY = 9


#: ``INVERSE[code of i to j]`` is the code of j to i, u8[10].
INVERSE: NDArray[np.uint8] = np.arange(len(Relation), dtype=np.uint8)
INVERSE[[Relation.WITHIN, Relation.CONTAINS]] = [Relation.CONTAINS, Relation.WITHIN]
INVERSE[[Relation.COVERED_BY, Relation.COVERS]] = [Relation.COVERS, Relation.COVERED_BY]
INVERSE.setflags(write=False)

#: No relation: interiors and boundaries are apart. Never stored.
DISJOINT = 255

_EQUALS = re.compile(r"T.F..FFF.")
_TOUCHES = re.compile(r"F(T|..T|...T).*")
_DISJOINT = re.compile(r"FF.FF....")
_COVERED_BY = re.compile(r"(T|.T|...T|....T).*")
_OVERLAPS_SAME = {0: re.compile(r"T.T...T.."), 1: re.compile(r"1.[012]...[012].."), 2: re.compile(r"T.T...T..")}


def classify(matrix: str, dim_i: int, dim_j: int) -> int:
    """The code of one DE-9IM matrix (nine of ``F012``), dimensions 0 (point) to 2 (polygon).

    >>> Relation(classify("212101212", 2, 2)).name
    'OVERLAPS'
    >>> Relation(classify("0FFFFF212", 0, 2)).name
    'WITHIN'
    >>> classify("FF2FF1212", 2, 2) == DISJOINT
    True
    """
    t = re.sub("[012]", "T", matrix)
    if _DISJOINT.fullmatch(t):
        return DISJOINT
    if dim_i == dim_j and _EQUALS.fullmatch(t):
        return Relation.EQUALS
    if _TOUCHES.match(t) and not dim_i == dim_j == 0:
        return Relation.TOUCHES
    meets = bool(_COVERED_BY.match(t))
    if meets and t[2] == "F" and t[5] == "F":
        return Relation.WITHIN if dim_i == 0 else Relation.COVERED_BY
    if meets and t[6] == "F" and t[7] == "F":
        return Relation.CONTAINS if dim_j == 0 else Relation.COVERS
    if dim_i == dim_j and _OVERLAPS_SAME[dim_i].fullmatch(matrix if dim_i == 1 else t):
        return Relation.OVERLAPS
    # What is left has meeting interiors and sticks out: lines through each other or through a polygon.
    return Relation.CROSSES


def classify_all(matrices: NDArray[np.str_], dim_i: NDArray[np.uint8], dim_j: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Codes u8[P] of P pairs; a few dozen distinct matrices exist, so each is looked at once."""
    if not len(matrices):
        return np.zeros(0, np.uint8)
    names, code = np.unique(matrices, return_inverse=True)
    combined = (code.reshape(-1).astype(np.int64) * 3 + dim_i) * 3 + dim_j
    distinct, where = np.unique(combined, return_inverse=True)
    table = np.array([classify(str(names[c // 9]), int(c // 3 % 3), int(c % 3)) for c in distinct], np.uint8)
    return table[where.reshape(-1)]
