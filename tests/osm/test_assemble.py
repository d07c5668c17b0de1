"""Areas from lines: even-odd, by hand-drawn rings; what makes none says why and where."""

from __future__ import annotations

import random
import time
from functools import reduce
from itertools import permutations
from typing import Any

import numpy as np
import pytest
import shapely
import shapely.affinity

from pipeline.formats.pbf.arrays import UNITS
from pipeline.osm.extracts.assemble import assemble

Ring = list[int]
Place = tuple[int, int]


def build_places(*areas: list[list[Place]], unit: int = 1) -> tuple[list[Any], dict[int, str]]:
    """Areas, each of several lines of places in multiples of a unit of 1e-7 degree."""
    owner = [number for number, lines in enumerate(areas) for _ in lines]
    lines = [line for lines in areas for line in lines]
    places = np.array([p for line in lines for p in line], np.int64).reshape(-1, 2) * unit
    offsets = np.concatenate(([0], np.cumsum([len(line) for line in lines]))).astype(np.int64)
    built, why = assemble(len(areas), np.array(owner, np.int64), places, offsets)
    assert {number for number, shape in enumerate(built) if shape is None} == set(why)
    return built.tolist(), why


def build(*areas: list[Ring], unit: int = int(UNITS)) -> tuple[list[Any], dict[int, str]]:
    """Areas of lines of nodes; node 10·y + x stands at (x, y), in degrees."""
    return build_places(*([[(n % 10, n // 10) for n in line] for line in lines] for lines in areas), unit=unit)


def box(x0: int, y0: int, x1: int, y1: int) -> Ring:
    return [10 * y0 + x0, 10 * y0 + x1, 10 * y1 + x1, 10 * y1 + x0, 10 * y0 + x0]


OUTER = box(0, 0, 9, 9)
CASES = [
    ([OUTER], 81, 1, 0),
    ([OUTER[:3], OUTER[2:]], 81, 1, 0),  # a ring of two ways
    ([OUTER[:3], OUTER[2:][::-1]], 81, 1, 0),  # one of them drawn backwards
    ([OUTER[2:4], OUTER[:2], OUTER[3:], OUTER[1:3]], 81, 1, 0),  # in any order
    ([OUTER, box(2, 2, 4, 4)], 77, 1, 1),
    ([box(2, 2, 4, 4), OUTER], 77, 1, 1),
    ([OUTER, box(2, 2, 4, 4), box(3, 3, 3, 3)], 77, 1, 1),  # a ring without extent
    ([OUTER, box(2, 2, 8, 8), box(4, 4, 6, 6)], 49, 2, 1),  # an island in the hole
    ([box(0, 0, 7, 7), box(1, 1, 6, 6), box(2, 2, 5, 5), box(3, 3, 4, 4)], 49 - 25 + 9 - 1, 2, 2),
    ([OUTER, box(2, 2, 4, 4), [42, 44, 64, 62, 42]], 73, 1, 1),  # two holes share a side: it bounds nothing
    ([OUTER, OUTER, OUTER], 81, 1, 0),  # three ways on each other
    ([OUTER, [11, 22], [22, 11]], 81, 1, 0),  # two of them, in the middle of nowhere
    ([box(0, 0, 2, 2), box(4, 4, 6, 6)], 8, 2, 0),
    ([box(0, 0, 2, 2), [22, 24, 44, 42, 22]], 8, 2, 0),  # outer rings touch in a node
    ([OUTER, [0, 22, 13, 0]], 79, 1, 1),  # a hole touches the outer ring in a node
    ([OUTER, [0, 22, 88, 41, 0]], 81 - 12, 1, 1),
    ([[0, 9, 99, 94, 90, 0], [9, 22, 94, 9]], 81 - 26.5, 2, 0),  # in two nodes: two parts are left
    ([[0, 4, 44, 22, 40, 0], [4, 88, 40, 44, 4]], 12 + 16, 1, 1),  # two outer rings around a gap
]


@pytest.mark.parametrize(("lines", "area", "parts", "holes"), CASES)
@pytest.mark.parametrize("unit", [1, 1000, int(UNITS)])
def test_inside_is_what_an_odd_number_of_rings_surrounds(
    lines: list[Ring], area: float, parts: int, holes: int, unit: int
) -> None:
    (built,), _ = build(lines, unit=unit)
    assert shapely.is_valid(built)
    assert built.area == pytest.approx(area * (unit / UNITS) ** 2, rel=1e-9, abs=0)
    polygons = shapely.get_parts(built)
    assert len(polygons) == parts
    assert int(shapely.get_num_interior_rings(polygons).sum()) == holes
    assert all(p.exterior.is_ccw for p in polygons)


def test_a_hole_is_one_of_the_nearest_ring_around_it_in_whatever_order_the_rings_come() -> None:
    rings = [box(n, n, 9 - n, 9 - n) for n in range(4)] + [[44, 45, 55, 54, 44]]
    found = [build(list(order))[0][0] for order in permutations(rings)]
    assert all(shape is not None and shape.is_valid for shape in found)
    assert {round(shape.area, 9) for shape in found} == {81 - 49 + 25 - 9 + 1}


@pytest.mark.parametrize(
    ("lines", "area", "parts", "holes"),
    [
        ([OUTER, [4, 36, 54, 32, 4]], 81 - 10, 1, 1),  # a hole touches the side of the outer ring
        ([OUTER, [4, 39, 54, 32, 4]], 81 - 17.5, 2, 0),  # two of them: it is in two parts
        ([OUTER, [3, 5, 25, 23, 3]], 81 - 4, 1, 0),  # a hole lies along it: a notch
        ([box(0, 0, 3, 2), box(1, 2, 2, 4)], 8, 1, 0),  # an outer ring stands on another's side
        ([box(0, 0, 4, 4), [24, 38, 58, 24]], 20, 2, 0),  # or touches it with a corner
        ([box(0, 0, 6, 6), box(1, 1, 3, 3), [23, 44, 45, 23]], 36 - 4 - 1, 1, 2),  # a hole touches the side of a hole
        ([[0, 8, 88, 4, 80, 0]], 32, 2, 0),  # a ring touches its own side
    ],
)
@pytest.mark.parametrize("unit", [1, 1000, int(UNITS)])
@pytest.mark.parametrize("slant", [(1, 0), (3, 1), (97, 31)])
def test_a_corner_on_a_side_is_a_corner_of_it_too(
    lines: list[Ring], area: float, parts: int, holes: int, unit: int, slant: Place
) -> None:
    a, b = slant
    turned = [[(a * (n % 10) - b * (n // 10), b * (n % 10) + a * (n // 10)) for n in line] for line in lines]
    (built,), _ = build_places(turned, unit=max(unit // (100 * a), 1))
    assert shapely.is_valid(built)
    polygons = shapely.get_parts(built)
    assert len(polygons) == parts
    assert int(shapely.get_num_interior_rings(polygons).sum()) == holes
    assert built.area == pytest.approx(
        area * (a * a + b * b) * (max(unit // (100 * a), 1) / UNITS) ** 2, rel=1e-9, abs=0
    )


def test_the_nearest_that_a_corner_can_come_to_a_side_is_told_from_crossing() -> None:
    """It is 1e-9 units: less than what rounding to degrees moves it by, which would make the area invalid."""
    fibonacci = [0, 1]
    while fibonacci[-1] < 1_134_903_170:
        fibonacci.append(sum(fibonacci[-2:]))
    far, near = (fibonacci[-1], fibonacci[-2]), (fibonacci[-3], fibonacci[-4])
    east = (far[0], 0)
    for corner in (near, (near[0] - fibonacci[-5], near[1] - fibonacci[-6])):  # one on either side
        hole = [corner, (near[0] + 9, near[1] - 10_000_000), (near[0] + 20_000_000, near[1] - 9_000_000), corner]
        (built,), _ = build_places([[(0, 0), east, far, (0, 0)], hole])
        assert shapely.is_valid(built)
        assert built.area == pytest.approx(
            shapely.Polygon(np.array([(0, 0), east, far]) / UNITS).area - shapely.Polygon(np.array(hole) / UNITS).area
        )


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        ([], "no ring"),
        ([[5, 5, 5]], "no ring"),
        ([OUTER[:-1]], "does not close: 2 loose ends, one at 0.0000000 0.0000000"),
        ([OUTER[:-1], box(2, 2, 3, 3)], "does not close: 2 loose ends, one at 0.0000000 0.0000000"),
        ([OUTER, [33, 44], [55, 66]], "does not close: 4 loose ends, one at 3.0000000 3.0000000"),
        ([OUTER, [0, 99]], "does not close: 2 loose ends, one at 0.0000000 0.0000000"),
        ([OUTER, OUTER], "no area: its sides lie on each other"),
        ([[0, 9, 4, 0]], "no area: its sides lie on each other"),  # flat
        ([[0, 22, 66, 0]], "no area: its sides lie on each other"),
        ([[0, 44, 40, 4, 0]], "crosses itself at 2.0000000 2.0000000"),
        ([box(0, 0, 4, 4), box(2, 2, 6, 6)], "crosses itself at 4.0000000 2.0000000"),
        ([box(0, 0, 4, 4), [22, 24, 26, 46, 22]], "crosses itself at 4.0000000 3.0000000"),
        ([box(0, 0, 4, 4), [22, 14, 26, 34, 22]], "crosses itself at 4.0000000 1.0000000"),  # in corners of one alone
        ([box(0, 0, 4, 4), [22, 24, 48, 22]], "crosses itself at 4.0000000 2.6666667"),
    ],
)
def test_what_makes_no_area_says_why_and_where(lines: list[Ring], reason: str) -> None:
    built, why = build(lines)
    assert (built, why) == ([None], {0: reason})


def test_areas_do_not_change_each_other() -> None:
    touching = [OUTER, [0, 22, 13, 0]]
    bad = [box(0, 0, 4, 4), box(2, 2, 6, 6)]
    built, why = build([OUTER, box(2, 2, 4, 4)], [OUTER[:-1]], touching, bad, [OUTER, [4, 39, 54, 32, 4]], [], [OUTER])
    assert [b and b.area for b in built] == pytest.approx([77, None, 79, None, 63.5, None, 81])
    assert sorted(why) == [1, 3, 5]


def _square(x: int, y: int, side: int) -> list[Place]:
    return [(x, y), (x + side, y), (x + side, y + side), (x, y + side), (x, y)]


def _assembled(rings: list[list[Place]]) -> Any:
    places = np.concatenate([np.array(r, np.int64) for r in rings])
    built, why = assemble(1, np.zeros(len(rings), np.int64), places, np.cumsum([0, *map(len, rings)]))
    assert not why
    return built[0]


def test_thousands_of_rings_in_each_other_take_about_as_long_as_thousands_beside_each_other() -> None:
    """The square of their number took 9 s and 13 s."""
    start = time.process_time()
    nested = _assembled([_square(-i, -i, 2 * i) for i in range(10, 50_010, 10)])
    assert len(nested.geoms) == 2500
    assert nested.area * UNITS**2 == pytest.approx(sum((2 * i) ** 2 * (-1) ** (i // 10) for i in range(10, 50_010, 10)))
    corner = _assembled([_square(0, 0, i) for i in range(10, 15_010, 10)])  # all have a corner in common
    assert corner.area * UNITS**2 == pytest.approx(sum(i**2 * (-1) ** (i // 10) for i in range(10, 15_010, 10)))
    assert time.process_time() - start < 5


@pytest.mark.parametrize("seed", range(4))
def test_hundreds_of_rings_are_put_into_the_nearest_around_them(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rings within rings and beside each other, in any order, turned so that their boxes overlap."""
    monkeypatch.setattr("pipeline.osm.extracts.polygons._GROUP", 1 if seed % 2 else 6)  # compared in groups, or at once
    dice = random.Random(seed)
    rings: list[Any] = []

    def fill(x: float, y: float, side: float) -> None:
        ring = shapely.affinity.rotate(shapely.box(x, y, x + side, y + side), 45)
        rings.append(shapely.set_precision(ring, 1))
        if side < 400 or len(rings) > 250:
            return
        count = dice.choice((1, 1, 2, 3))
        own = side * 0.9 / count
        for i in range(count):
            across = (i - (count - 1) / 2) * own / 2**0.5  # along the diagonal that the turn makes of the middle line
            cx, cy = x + side / 2 + across, y + side / 2 + across
            fill(cx - own * 0.48, cy - own * 0.48, own * 0.96)

    for n in range(3):
        fill(4_000_000.0 * n, 0.0, 1_000_000.0)
    dice.shuffle(rings)
    assert len(rings) > 100
    found = _assembled([[(round(x), round(y)) for x, y in r.exterior.coords] for r in rings])
    assert found.is_valid
    spots = np.array([r.representative_point().coords[0] for r in rings] + [r.centroid.coords[0] for r in rings])
    around = sum(shapely.contains_xy(ring, spots).astype(int) for ring in rings)
    assert (shapely.contains_xy(found, spots / UNITS) == (around % 2 == 1)).all()


@pytest.mark.parametrize("seed", range(8))
def test_sides_along_each_other_bound_what_an_odd_number_of_them_does(seed: int) -> None:
    """Boxes and triangles whose sides lie on few lines, near and far; GEOS takes their symmetric difference."""
    dice = random.Random(seed)
    far = 1_700_000_000  # where cross products have over 64 bits
    x0, y0 = dice.choice(((0, 0), (far, 800_000_000), (-far, 850_000_000)))
    rings, shapes = [], []
    for _ in range(12):
        x, y, a, b = dice.randrange(4), dice.randrange(4), dice.randrange(1, 4), dice.randrange(1, 4)
        ring = (
            [(x, y), (x + a, y), (x + a, y + b), (x, y + b)]
            if dice.random() < 0.5
            else [(x, y), (x + a, y), (x, y + a)]
        )
        own = [(x0 + 300_000 * i, y0 + 300_000 * j) for i, j in [*ring, ring[0]]]
        rings.append(own)
        shapes.append(shapely.Polygon([(i - x0, j - y0) for i, j in own]))
    places = np.concatenate([np.array(r, np.int64) for r in rings])
    built, why = assemble(1, np.zeros(len(rings), np.int64), places, np.cumsum([0, *map(len, rings)]))
    expected = reduce(shapely.symmetric_difference, shapes)
    if built[0] is None:
        assert "crosses itself" in why[0] or "does not close" in why[0]
        return
    own = shapely.transform(built[0], lambda xy: np.round(xy * UNITS) - (x0, y0))
    assert shapely.symmetric_difference(own, expected).area == 0
