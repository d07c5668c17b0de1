"""Shapes written as WKB by array operations are what shapely writes; simple rings are those that GEOS calls valid."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import shapely
from hypothesis import given
from hypothesis import strategies as st

from pipeline.formats.pbf.arrays import UNITS
from pipeline.osm.extracts.rings import Shapes, turn_of_rings

#: Far apart or on a small grid, where vertices and sides meet often.
PLACE = st.tuples(st.integers(-1_800_000_000, 1_800_000_000), st.integers(-900_000_000, 900_000_000))
NEAR = st.tuples(st.integers(0, 6), st.integers(0, 6)).map(lambda p: (1_799_999_990 + p[0], -899_999_990 + p[1]))


def without_repeats(vertices: list[tuple[int, int]]) -> list[tuple[int, int]]:
    return [v for i, v in enumerate(vertices) if i == 0 or v != vertices[i - 1]]


def closed(vertices: list[tuple[int, int]]) -> list[tuple[int, int]]:
    return without_repeats([*vertices, vertices[0]])


LINES = st.lists(PLACE | NEAR, min_size=2, max_size=9).map(without_repeats).filter(lambda v: len(v) > 1)
RINGS = st.one_of(
    st.lists(NEAR, min_size=3, max_size=9), st.lists(PLACE, min_size=3, max_size=9)
).map(closed).filter(lambda v: len(v) > 3)  # fmt: skip


def flat(rows: list[list[tuple[int, int]]]) -> tuple[Any, Any]:
    xy = np.array([v for row in rows for v in row], np.int64).reshape(-1, 2)
    return xy, np.concatenate(([0], np.cumsum([len(row) for row in rows]))).astype(np.int64)


@given(st.lists(st.tuples(st.booleans(), LINES, RINGS), min_size=1, max_size=6))
def test_lines_and_polygons_are_written_as_shapely_writes_them(rows: list[Any]) -> None:
    ring = np.array([is_ring for is_ring, _, _ in rows])
    xy, offsets = flat([around if is_ring else line for is_ring, line, around in rows])
    shapes = Shapes.lines_and_polygons(xy / UNITS, offsets, ring)
    expected = np.array(
        [
            (shapely.Polygon if is_ring else shapely.LineString)(xy[a:b] / UNITS)
            for is_ring, a, b in zip(ring, offsets[:-1], offsets[1:], strict=True)
        ]
    )
    assert shapes.wkb.to_pylist() == shapely.to_wkb(expected).tolist()
    assert np.array_equal(shapes.bounds, shapely.bounds(expected))


@given(st.lists(PLACE, max_size=5))
def test_points_are_written_as_shapely_writes_them(places: list[tuple[int, int]]) -> None:
    lonlat = np.array(places, np.float64).reshape(-1, 2) / UNITS
    shapes = Shapes.points(lonlat)
    assert shapes.wkb.to_pylist() == shapely.to_wkb(shapely.points(lonlat)).tolist()
    assert np.array_equal(shapes.bounds, shapely.bounds(shapely.points(lonlat)).reshape(-1, 4))


def check_turns(rings: list[Any]) -> None:
    """Compare with GEOS: a ring is simple both where its nodes stand and where rounding to degrees puts them."""
    xy, offsets = flat(rings)
    turn = turn_of_rings(xy, xy / UNITS, offsets)
    rows = np.repeat(np.arange(len(rings)), np.diff(offsets))
    linear = shapely.linearrings(xy / UNITS, indices=rows)
    valid = shapely.is_valid(shapely.polygons(linear))
    valid &= shapely.is_valid(shapely.polygons(shapely.linearrings(xy.astype(float), indices=rows)))
    assert ((turn != 0) == valid).all()
    assert np.array_equal(turn[valid] == 1, shapely.is_ccw(linear[valid]))


@given(st.lists(RINGS, min_size=1, max_size=8))
def test_the_turn_of_a_ring_is_that_of_geos(rings: list[Any]) -> None:
    check_turns(rings)


@given(st.integers(3, 40), st.floats(10, 1e8), st.integers(0, 1 << 32), st.booleans())
def test_rings_round_a_middle_are_told_from_rings_that_cross(
    count: int, size: float, seed: int, clockwise: bool
) -> None:
    """Stars with vertices at random distances, and the same with two vertices swapped."""
    random = np.random.default_rng(seed)
    angle = np.sort(random.random(count)) * 2 * np.pi
    reach = size * (0.2 + random.random(count))
    star = np.round(np.stack((np.cos(angle), np.sin(angle)), axis=1) * reach[:, None]).astype(np.int64)
    swapped = star.copy()
    i, j = random.choice(count, 2, replace=False)
    swapped[[i, j]] = swapped[[j, i]]
    rings = [closed([(x, y) for x, y in ring[:: -1 if clockwise else 1].tolist()]) for ring in (star, swapped)]
    rings = [r for r in rings if len(r) > 3]
    if rings:
        check_turns(rings)


@pytest.mark.parametrize(
    "ring",
    [
        # Spikes that point at the middle, so that they do not turn round it either way.
        [(0, 0), (4, 0), (4, 2), (6, 2), (4, 2), (4, 4), (0, 4), (0, 2), (-2, 2), (0, 2)],
        # Twice round the middle: a pentagram, and a square named twice.
        [(0, 1000), (588, -809), (-951, 309), (951, 309), (-588, -809)],
        [(0, 0), (4, 0), (4, 4), (0, 4), (0, 0), (4, 0), (4, 4), (0, 4)],
        # Flat, or with a corner on a slanted side, which rounding to degrees hides.
        [(93730000, 470620000), (93740000, 470610000), (93710000, 470640000)],
        [(92800000, 470100000), (92810000, 470110000), (92820000, 470120000)],
        [(93_000_000, 470_000_000), (93_000_300, 470_000_100), (93_000_900, 470_000_300), (93_000_600, 470_000_500)],
        [(93_000_000, 470_000_000), (93_000_900, 470_000_300), (93_000_600, 470_000_900), (93_000_300, 470_000_100)],
        # The middle lies outside, on the border, and in a vertex.
        [(0, 0), (100, 0), (100, 1), (1, 1), (1, 99), (0, 99)],
        [(0, 0), (4, 0), (4, 4), (2, 2), (0, 4)],
        [(0, 0), (6, 0), (6, 6), (3, 3), (0, 6)],
    ],
)
def test_rings_that_tempt_the_shortcut(ring: list[tuple[int, int]]) -> None:
    check_turns([closed(ring), closed(ring[::-1])])


def test_shapes_are_replaced_in_their_rows() -> None:
    xy, offsets = flat([[(0, 0), (1, 1)], [(2, 2), (3, 3)], [(4, 4), (5, 5)]])
    shapes = Shapes.lines_and_polygons(xy / UNITS, offsets, np.zeros(3, bool))
    other = shapely.box(1, 2, 3, 4)
    found = shapes.replaced(np.array([1]), Shapes.of(np.array([other])))
    assert found.wkb.to_pylist() == [shapes.wkb[0].as_py(), other.wkb, shapes.wkb[2].as_py()]
    assert found.bounds.tolist() == [shapes.bounds[0].tolist(), [1, 2, 3, 4], shapes.bounds[2].tolist()]
    assert found.take(np.array([2, 1])).wkb.to_pylist() == [shapes.wkb[2].as_py(), other.wkb]
