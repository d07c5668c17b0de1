"""Lines that meet in many ways as polygons: the faces between them, and which of those are inside."""

from __future__ import annotations

from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

from geometry.packed import changes, ranks
from pipeline.formats.wire import Ints
from pipeline.osm.extracts.loops import Lines

Bools = NDArray[np.bool_]


def polygons_of_faces(lines: Lines, xy: Ints) -> tuple[NDArray[Any], Ints]:
    """Polygons and the area of each: those faces between its lines that an odd number of rings surrounds."""
    areas, where = np.unique(lines.area, return_inverse=True)
    mesh = shapely.multilinestrings(lines.shapes(shapely.linestrings, xy), indices=where)
    faces, row = shapely.get_parts(shapely.polygonize(mesh[:, None]), return_index=True)
    inside = _inside(faces, row)
    return faces[inside], areas[row[inside]]


def _inside(faces: NDArray[Any], row: Ints) -> Bools:
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
