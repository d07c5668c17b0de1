"""Hashes that find duplicates and changes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import shapely
from hypothesis import given
from hypothesis import strategies as st

from pipeline.osm.cells.hashes import combine, exact_hash, list_hash, shape_hash
from schemas.features import Kind

POINTS = st.tuples(st.integers(0, 6), st.integers(0, 6))


def array(*shapes: Any) -> np.ndarray:
    result = np.empty(len(shapes), object)
    result[:] = shapes
    return result


def shape(kind: Kind, *shapes: Any) -> list[int]:
    return shape_hash(array(*shapes), np.full(len(shapes), kind, np.uint8)).tolist()


@given(st.lists(POINTS, min_size=3, max_size=8, unique=True), st.integers(0, 7), st.booleans())
def test_a_ring_drawn_from_another_start_or_the_other_way_is_the_same_shape(
    xy: list[tuple[int, int]], start: int, back: bool
) -> None:
    turned = xy[start % len(xy) :] + xy[: start % len(xy)]
    a, b = shape(Kind.POLYGON, shapely.Polygon(xy), shapely.Polygon(turned[::-1] if back else turned))
    assert a == b
    c, d = shape(Kind.LINE, shapely.LineString(xy), shapely.LineString(xy[::-1]))
    assert c == d


@given(st.lists(st.lists(POINTS, min_size=2, max_size=5), min_size=2, max_size=6))
def test_lines_have_one_exact_hash_if_and_only_if_they_have_the_same_vertices_in_order(lines: list[Any]) -> None:
    found = exact_hash(array(*(shapely.LineString(xy) for xy in lines))).tolist()
    for i, a in enumerate(lines):
        for j, b in enumerate(lines):
            assert (found[i] == found[j]) == (a == b)


def test_structure_counts_where_vertices_are_the_same() -> None:
    one = shapely.LineString([(0, 0), (1, 0), (2, 0), (3, 0)])
    two = shapely.MultiLineString([[(0, 0), (1, 0)], [(2, 0), (3, 0)]])
    hole = shapely.Polygon([(0, 0), (9, 0), (9, 9), (0, 9)], [[(1, 1), (2, 1), (2, 2)]])
    both = shapely.MultiPolygon([shapely.Polygon(hole.exterior), shapely.Polygon(hole.interiors[0])])
    found = exact_hash(array(one, two, hole, both, shapely.Point(0, 0), shapely.Point(-0.0, 0)))
    assert len(set(found[:4].tolist())) == 4
    assert found[4] == found[5]


@pytest.mark.parametrize("other", [(0, 0, 5), (0, 1, 4), (1, 0, 4)])
def test_any_column_changes_a_rows_hash(other: tuple[int, int, int]) -> None:
    a, b = (combine(*(np.array([v]) for v in row)) for row in ((0, 0, 4), other))
    assert a != b


def test_lists_are_hashed_as_sets() -> None:
    offsets = np.array([0, 2, 4, 4, 5])
    found = list_hash(offsets, np.array([3, -9, -9, 3, 3]))
    assert found[0] == found[1] != found[3]
    assert found[2] == 0
