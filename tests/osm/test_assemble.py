"""Areas from segments: even-odd, by hand-drawn rings."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import shapely

from pipeline.osm.extracts.assemble import assemble

Ring = list[int]


def place(node: int) -> tuple[float, float]:
    """Node 10·y + x stands at (x, y)."""
    return float(node % 10), float(node // 10)


def build(*areas: list[Ring]) -> list[Any]:
    """Areas, each of several lines of nodes."""
    owner, start, end = [], [], []
    for number, lines in enumerate(areas):
        for line in lines:
            for a, b in itertools.pairwise(line):
                owner.append(number)
                start.append(a)
                end.append(b)
    xy = np.array([[place(a), place(b)] for a, b in zip(start, end, strict=True)]).reshape(-1, 2, 2)
    return assemble(len(areas), np.array(owner, int), np.array(start, int), np.array(end, int), xy).tolist()


def box(x0: int, y0: int, x1: int, y1: int) -> Ring:
    return [10 * y0 + x0, 10 * y0 + x1, 10 * y1 + x1, 10 * y1 + x0, 10 * y0 + x0]


OUTER = box(0, 0, 9, 9)


@pytest.mark.parametrize(
    ("lines", "area", "parts", "holes"),
    [
        ([OUTER], 81, 1, 0),
        ([OUTER[:3], OUTER[2:]], 81, 1, 0),  # a ring of two ways
        ([OUTER[:3], OUTER[2:][::-1]], 81, 1, 0),  # one of them drawn backwards
        ([OUTER, box(2, 2, 4, 4)], 77, 1, 1),
        ([OUTER, box(2, 2, 4, 4), box(3, 3, 3, 3)], 77, 1, 1),  # a ring without extent
        ([OUTER, box(2, 2, 8, 8), box(4, 4, 6, 6)], 49, 2, 1),  # an island in the hole
        ([OUTER, box(2, 2, 4, 4), [42, 44, 64, 62, 42]], 73, 1, 1),  # two holes share a side: it bounds nothing
        ([OUTER, OUTER, OUTER], 81, 1, 0),  # a way named three times
        ([box(0, 0, 2, 2), box(4, 4, 6, 6)], 8, 2, 0),
        ([box(0, 0, 2, 2), [22, 24, 44, 42, 22]], 8, 2, 0),  # outer rings touch in a node
        ([OUTER, [0, 22, 13, 0]], 79, 1, 1),  # a hole touches the outer ring in a node
    ],
)
def test_inside_is_what_an_odd_number_of_rings_surrounds(
    lines: list[Ring], area: float, parts: int, holes: int
) -> None:
    (built,) = build(lines)
    assert shapely.is_valid(built)
    assert built.area == pytest.approx(area)
    polygons = shapely.get_parts(built)
    assert len(polygons) == parts
    assert int(shapely.get_num_interior_rings(polygons).sum()) == holes
    assert all(p.exterior.is_ccw for p in polygons)


@pytest.mark.parametrize(
    "lines",
    [
        [],
        [OUTER[:-1]],  # open
        [OUTER, [0, 99]],  # a loose end
        [OUTER, OUTER],  # bounds nothing
        [[0, 44, 40, 4, 0]],  # crosses itself
        [box(0, 0, 4, 4), box(2, 2, 6, 6)],  # rings cross
        [[5, 5, 5]],
    ],
)
def test_what_bounds_no_area_is_none(lines: list[Ring]) -> None:
    assert build(lines) == [None]


def test_areas_do_not_change_each_other() -> None:
    good, bad, other = build([OUTER, box(2, 2, 4, 4)], [OUTER[:-1]], [OUTER])
    assert (good.area, bad, other.area) == (77, None, 81)
