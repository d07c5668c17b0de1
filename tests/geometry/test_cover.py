"""Patch cover against shapely, cell by cell."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import shapely
from hypothesis import given
from hypothesis import strategies as st

from geometry.cover import MIN_COVER, patch_cover, split_at_grid
from tests.geometry.shapes import pack, random_line, random_polygon

SIZES = st.sampled_from(((256, 256), (224, 224), (100, 60), (14, 14)))
GRIDS = st.sampled_from(((14, 14), (16, 16), (1, 1), (3, 5), (7, 2)))
SEEDS = st.lists(st.integers(0, 2**32), min_size=1, max_size=4)


def dense(shapes: list[Any], size: tuple[int, int], grid: tuple[int, int]) -> np.ndarray:
    """[N, cells]"""
    obj, cell, value = patch_cover(pack(shapes), size, grid)
    code = obj * grid[0] * grid[1] + cell
    assert (np.diff(code) > 0).all()  # sorted by object then cell, each once
    assert (value > MIN_COVER).all()
    assert value.dtype == np.float64
    result = np.zeros((len(shapes), grid[0] * grid[1]))
    result[obj, cell] = value
    return result


def cells(size: tuple[int, int], grid: tuple[int, int]) -> list[Any]:
    w, h = size[0] / grid[1], size[1] / grid[0]
    return [shapely.box(c * w, r * h, (c + 1) * w, (r + 1) * h) for r in range(grid[0]) for c in range(grid[1])]


def within(found: np.ndarray, expected: np.ndarray) -> bool:
    """1e-9, where a cover below MIN_COVER may be left out."""
    return bool((np.abs(found - expected) <= 1e-9 * (1 + expected) + MIN_COVER * (found == 0)).all())


@given(SEEDS, SIZES, GRIDS)
def test_a_polygons_cover_is_its_exact_area_in_every_cell(
    seeds: list[int], size: tuple[int, int], grid: tuple[int, int]
) -> None:
    shapes = [p for p in (random_polygon(s, size) for s in seeds) if p is not None]
    if not shapes:
        return
    area = size[0] * size[1] / (grid[0] * grid[1])
    expected = np.array([shapely.area(shapely.intersection(p, cells(size, grid))) / area for p in shapes])
    found = dense(shapes, size, grid)
    assert within(found, expected)
    assert np.allclose(
        found.sum(axis=1) * area, [p.area for p in shapes], rtol=1e-9, atol=MIN_COVER * area * found.shape[1]
    )
    assert found.max() <= 1


@given(SEEDS, SIZES, GRIDS)
def test_a_lines_cover_is_its_exact_length_in_every_cell(
    seeds: list[int], size: tuple[int, int], grid: tuple[int, int]
) -> None:
    shapes = [p for p in (random_line(s, size) for s in seeds) if p is not None]
    if not shapes:
        return
    w, h = size[0] / grid[1], size[1] / grid[0]
    side = math.sqrt(w * h)
    found = dense(shapes, size, grid)
    for n, line in enumerate(shapes):
        segments = [s for p in getattr(line, "geoms", [line]) for s in zip(p.coords, p.coords[1:], strict=False)]
        expected = np.zeros(grid[0] * grid[1])
        for a, b in segments:  # one by one: a line that runs twice along a place counts twice
            if a != b:
                segment = shapely.LineString([a, b])
                for part, sign in ((cells(size, grid), 1), (neighbours_sides(size, grid), -1)):
                    expected += sign * shapely.length(shapely.intersection(segment, part)) / side
        on_grid_only_in_theory = np.abs(found[n] - expected) > 1e-8 * (1 + expected)
        if on_grid_only_in_theory.any():  # 224 / 14 is exact, 256 / 14 is not: a grid line may round to either side
            assert any(_near_grid(a, b, w, h) for a, b in segments)
        assert math.isclose(found[n].sum() * side, line_length(segments), rel_tol=1e-9, abs_tol=1e-6)


def neighbours_sides(size: tuple[int, int], grid: tuple[int, int]) -> list[Any]:
    """Of each cell the right and the lower side: what runs along them belongs to the neighbour, where there is one."""
    result = []
    for cell, n in zip(cells(size, grid), range(grid[0] * grid[1]), strict=True):
        x0, y0, x1, y1 = cell.bounds
        sides = [[(x1, y0), (x1, y1)]] if n % grid[1] + 1 < grid[1] else []
        sides += [[(x0, y1), (x1, y1)]] if n // grid[1] + 1 < grid[0] else []
        result.append(shapely.MultiLineString(sides))
    return result


def line_length(segments: list[Any]) -> float:
    return sum(math.dist(a, b) for a, b in segments)


def _near_grid(a: tuple[float, float], b: tuple[float, float], w: float, h: float) -> bool:
    along_x = abs(a[0] - b[0]) < 1e-9 and abs(a[0] / w - round(a[0] / w)) < 1e-9
    along_y = abs(a[1] - b[1]) < 1e-9 and abs(a[1] / h - round(a[1] / h)) < 1e-9
    return along_x or along_y


@given(st.lists(st.tuples(st.integers(0, 28), st.integers(0, 28)), min_size=1, max_size=6))
def test_a_point_covers_the_cell_whose_upper_left_side_it_may_lie_on(places: list[tuple[int, int]]) -> None:
    xy = [(x * 8.0, y * 8.0) for x, y in places]  # cells are 16 px: half of these lie on grid lines or the border
    found = dense([shapely.Point(p) for p in xy], (224, 224), (14, 14))
    for n, (x, y) in enumerate(xy):
        assert np.flatnonzero(found[n]).tolist() == [min(int(y // 16), 13) * 14 + min(int(x // 16), 13)]
        assert found[n].max() == 1


def test_an_object_alone_is_covered_as_in_company() -> None:
    size, grid = (256, 256), (14, 14)
    shapes = [
        s
        for n in range(60)
        for s in (random_polygon(n, size), random_line(n, size), shapely.Point(n, n))
        if s is not None
    ]
    together = dense(shapes, size, grid)
    for n, shape in enumerate(shapes):
        assert (dense([shape], size, grid)[0] == together[n]).all()


@pytest.mark.parametrize(
    "shapes", [[], [shapely.Point(1, 1)], [shapely.box(0, 0, 1, 1)], [shapely.LineString([(0, 0), (1, 1)])]]
)
def test_kinds_may_be_missing(shapes: list[Any]) -> None:
    assert dense(shapes, (16, 16), (2, 2)).sum(axis=1).shape == (len(shapes),)


def test_the_whole_footprint_covers_every_cell() -> None:
    assert (dense([shapely.box(0, 0, 224, 224)], (224, 224), (14, 14)) == 1).all()


def test_a_neighbour_that_shares_a_side_covers_nothing_of_the_cell() -> None:
    found = dense([shapely.box(16, 16, 32, 32)], (224, 224), (14, 14))
    assert np.flatnonzero(found[0]).tolist() == [15]


@given(st.lists(st.tuples(*[st.floats(-5, 5)] * 4), min_size=1, max_size=5))
def test_pieces_of_a_segment_lie_in_one_cell_and_join_to_the_whole(rows: list[tuple[float, ...]]) -> None:
    xy = np.array(rows)
    a, b, source = split_at_grid(xy[:, :2], xy[:, 2:])
    for n in range(len(xy)):
        mine = np.flatnonzero(source == n)
        assert np.allclose(a[mine[0]], xy[n, :2], atol=1e-12)
        assert np.allclose(b[mine[-1]], xy[n, 2:], atol=1e-12)
        assert np.allclose(b[mine[:-1]], a[mine[1:]], atol=1e-12)
        middle = np.floor((a[mine] + b[mine]) / 2)
        for end in (a[mine], b[mine]):
            assert ((end >= middle - 1e-9) & (end <= middle + 1 + 1e-9)).all()
