"""Clipping to the unit square against shapely's intersection."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import shapely
from hypothesis import given
from hypothesis import strategies as st
from shapely.affinity import affine_transform

from geometry.clip import clip_to_unit, line_length, signed_area
from geometry.cover import patch_cover
from geometry.packed import PackedGeometry
from tests.geometry.shapes import pack, random_line, random_polygon

SQUARE = shapely.box(0, 0, 1, 1)
POINT = st.tuples(st.floats(-0.5, 1.5), st.floats(-0.5, 1.5))


def around(shape: Any) -> Any:
    """A shape of the box (0, 0, 30, 20) over and about the unit square."""
    return affine_transform(shape, [0.1, 0, 0, 0.15, -1.0, -1.0])


def objects(seeds: list[int], points: list[tuple[float, float]]) -> list[Any]:
    made = [random_polygon(s, (30, 20)) for s in seeds] + [random_line(s, (30, 20)) for s in seeds]
    return [around(s) for s in made if s is not None] + [shapely.Point(p) for p in points]


def polygons_of(packed: PackedGeometry, n: int) -> Any:
    """Even-odd fill of object n's rings."""
    rings = range(packed.object_ring_offsets[n], packed.object_ring_offsets[n + 1])
    filled = shapely.Polygon()
    for r in rings:
        xy = packed.vertices[packed.ring_offsets[r] : packed.ring_offsets[r + 1]]
        filled = filled.symmetric_difference(shapely.make_valid(shapely.Polygon(xy)))
    return filled


@given(st.lists(st.integers(0, 10**9), max_size=6), st.lists(POINT, max_size=4))
def test_what_is_left_is_the_intersection(seeds: list[int], points: list[tuple[float, float]]) -> None:
    shapes = objects(seeds, points)
    clipped, belongs = clip_to_unit(pack(shapes), 1e-12)
    assert len(clipped) == len(shapes)
    area, length = signed_area(clipped), line_length(clipped)
    for n, shape in enumerate(shapes):
        expected = shape.intersection(SQUARE)
        if shape.geom_type == "Point":
            assert belongs[n] == (0 <= shape.x < 1 and 0 <= shape.y < 1)
        elif "Polygon" in shape.geom_type:
            assert area[n] == pytest.approx(expected.area, abs=1e-9)
            assert belongs[n] == (expected.area > 1e-12) or expected.area < 1e-9
            assert polygons_of(clipped, n).symmetric_difference(expected).area < 1e-9
        else:
            own = expected.length if expected.bounds[0] < 1 and expected.bounds[1] < 1 else 0.0
            assert length[n] == pytest.approx(own, abs=1e-9)
    xy = clipped.vertices
    assert xy.size == 0 or (xy.min() >= 0 and xy.max() <= 1)


@given(st.lists(st.integers(0, 10**9), min_size=1, max_size=5))
def test_cover_of_a_clipped_object_is_that_of_its_intersection(seeds: list[int]) -> None:
    """Edges of no width along the border change no cell's cover."""
    shapes = [s for s in objects(seeds, []) if "Polygon" in s.geom_type]
    clipped, belongs = clip_to_unit(pack(shapes), 1e-9)
    found = dict(
        zip(
            zip(*patch_cover(clipped, (1, 1), (4, 4))[:2], strict=True),
            patch_cover(clipped, (1, 1), (4, 4))[2],
            strict=True,
        )
    )
    for n in np.flatnonzero(belongs):
        for cell in range(16):
            row, column = divmod(cell, 4)
            box = shapely.box(column / 4, row / 4, (column + 1) / 4, (row + 1) / 4)
            assert found.get((n, cell), 0.0) == pytest.approx(shapes[n].intersection(box).area * 16, abs=1e-7)


def test_a_line_that_leaves_and_returns_has_two_parts_and_keeps_its_corners() -> None:
    line = shapely.LineString([(0.2, 0.2), (0.8, 0.2), (1.4, 0.2), (1.4, 0.6), (0.5, 0.6)])
    clipped, belongs = clip_to_unit(pack([line]))
    assert belongs.tolist() == [True]
    parts = [
        clipped.vertices[a:b].tolist() for a, b in zip(clipped.ring_offsets[:-1], clipped.ring_offsets[1:], strict=True)
    ]
    assert parts == [
        [[0.2, 0.2], [0.8, 0.2], [1.0, 0.2]],
        [[1.0, pytest.approx(0.6)], [0.5, 0.6]],
    ]


@pytest.mark.parametrize(
    ("shape", "belongs"),
    [
        (shapely.LineString([(0, 0), (0, 1)]), True),  # left side: ours
        (shapely.LineString([(1, 0), (1, 1)]), False),  # right side: the neighbour's
        (shapely.LineString([(0, 0), (1, 0)]), True),
        (shapely.LineString([(0, 1), (1, 1)]), False),
        (shapely.LineString([(-1, 0.5), (0, 0.5)]), False),  # touches only
        (shapely.Polygon([(1, 0), (2, 0), (2, 1), (1, 1)]), False),
        (shapely.box(-5, -5, 5, 5), True),
        (shapely.Point(0, 0), True),
        (shapely.Point(1, 0.5), False),
    ],
)
def test_borders_belong_to_one_side_only(shape: Any, belongs: bool) -> None:
    clipped, found = clip_to_unit(pack([shape]), 1e-9)
    assert found.tolist() == [belongs]
    assert (np.diff(clipped.object_ring_offsets) > 0).tolist() == [belongs]


def test_neighbouring_squares_share_the_points_where_a_border_is_crossed() -> None:
    shape = shapely.Polygon([(0.3, 0.123456789), (1.7, 0.4), (1.1, 0.9)])
    left, _ = clip_to_unit(pack([shape]))
    right, _ = clip_to_unit(pack([affine_transform(shape, [1, 0, 0, 1, -1, 0])]))
    on_left = {y for x, y in left.vertices.tolist() if x == 1.0}
    on_right = {y for x, y in right.vertices.tolist() if x == 0.0}
    assert len(on_left) == 2
    assert sorted(on_left) == pytest.approx(sorted(on_right), abs=1e-12)


def test_nothing_stays_nothing() -> None:
    clipped, belongs = clip_to_unit(pack([]))
    assert len(clipped) == len(belongs) == 0
