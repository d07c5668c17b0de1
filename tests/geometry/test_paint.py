"""Painting against rasterio's rasteriser."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from rasterio.features import rasterize

from geometry.paint import Shapes, fill, join_shapes, polygon_shapes, stroke_shapes
from tests.geometry.shapes import pack, random_line, random_polygon

SIZE = (64, 48)  # width, height


def painted(shapes: Shapes, images: int = 1) -> np.ndarray:
    return fill(shapes, images, *SIZE)


def areas(polygons: list[Any], order: list[int] | None = None, value: list[int] | None = None) -> Shapes:
    n = len(polygons)
    return polygon_shapes(
        pack(polygons), np.zeros(n, np.int64), np.array(order or [0] * n), np.array(value or [1] * n, np.uint8)
    )


def strokes(lines: list[Any], width: float) -> Shapes:
    n = len(lines)
    return stroke_shapes(
        pack(lines), np.full(n, width), np.zeros(n, np.int64), np.zeros(n, np.int64), np.ones(n, np.uint8)
    )


def burnt(shape: Any) -> np.ndarray:
    return rasterize([(shape, 1)], (SIZE[1], SIZE[0]), fill=0, dtype="uint8")


def iou(a: np.ndarray, b: np.ndarray) -> float:
    union = np.count_nonzero(a | b)
    return np.count_nonzero(a & b) / union if union else 1.0


@given(st.integers(0, 2**32))
def test_a_pixel_is_filled_if_its_centre_lies_inside(seed: int) -> None:
    polygon = random_polygon(seed, SIZE)
    if polygon is None:
        return
    found = painted(areas([polygon]))[0]
    x, y = np.meshgrid(np.arange(SIZE[0]) + 0.5, np.arange(SIZE[1]) + 0.5)
    centres = shapely.points(x, y)
    tie = shapely.distance(centres, polygon.boundary) < 1e-9
    assert ((found == shapely.contains_xy(polygon, x, y)) | tie).all()
    other = burnt(polygon)
    assert ((found == other) | (shapely.distance(centres, polygon.boundary) < 1e-6)).all()
    if np.count_nonzero(other) > 200:
        assert iou(found, other) >= 0.99


def test_a_centre_on_the_left_or_upper_side_is_inside_and_one_on_the_right_or_lower_is_not() -> None:
    """As points on a tile's sides are shared out."""
    found = painted(areas([shapely.box(0.5, 1.5, 2.5, 4.5)]))[0]
    assert np.argwhere(found).tolist() == [[y, x] for y in (1, 2, 3) for x in (0, 1)]


def test_polygons_that_share_a_side_leave_no_gap_and_no_overlap() -> None:
    cuts = [0, 3.5, 10.5, 20.25, 33.0, 64]
    total = sum(painted(areas([shapely.box(a, 0, b, 48)]))[0].astype(int) for a, b in itertools.pairwise(cuts))
    assert (total == 1).all()


@pytest.mark.parametrize("width", [3, 4, 6, 9])
def test_a_stroke_goes_round_its_corners(width: int) -> None:
    found = painted(strokes([shapely.LineString([(10, 20), (30, 20), (30, 40)])], width))[0]
    x, y = np.meshgrid(np.arange(30, SIZE[0]) + 0.5, np.arange(20) + 0.5)
    near = np.hypot(x - 30, y - 20) < 0.9 * width / 2
    assert near.any()
    assert found[:20, 30:][near].all()


@given(st.integers(0, 2**32), st.floats(3, 12))
def test_a_stroke_is_the_line_widened_to_both_sides(seed: int, width: float) -> None:
    """One segment: what inner corners add is measured below."""
    rng = np.random.default_rng(seed)
    line = shapely.LineString(rng.uniform((5, 5), (SIZE[0] - 5, SIZE[1] - 5), (2, 2)))
    if line.length < 10:
        return
    assert iou(painted(strokes([line], width))[0], burnt(line.buffer(width / 2, cap_style="flat"))) >= 0.97


def test_strokes_with_corners_are_the_buffered_line() -> None:
    found = expected = np.zeros((0, SIZE[1], SIZE[0]), np.uint8)
    for seed in range(200):
        line = random_line(seed, SIZE)
        if line is None or line.length < 20:
            continue
        width = 3 + seed % 8
        found = np.concatenate((found, painted(strokes([line], width))))
        expected = np.concatenate((expected, burnt(line.buffer(width / 2, cap_style="flat", quad_segs=16))[None]))
    assert len(found) > 100
    assert iou(found, expected) >= 0.97


@given(st.integers(0, 2**32), st.floats(0, 1))
def test_a_thin_line_does_not_break_up(seed: int, width: float) -> None:
    rng = np.random.default_rng(seed)
    line = shapely.LineString(rng.uniform((2, 2), (SIZE[0] - 2, SIZE[1] - 2), (2, 2)))
    dx, dy = np.abs(np.diff(line.coords, axis=0)[0])
    if max(dx, dy) < 4:
        return
    found = painted(strokes([line], width))[0]
    along = found.any(axis=0) if dx > dy else found.any(axis=1)
    on = np.flatnonzero(along)
    assert len(on) >= max(dx, dy) - 2
    assert (np.diff(on) == 1).all()


def test_later_layers_cover_earlier_ones_whatever_the_order_of_the_list() -> None:
    low, high = shapely.box(0, 0, 40, 40), shapely.box(20, 20, 60, 46)
    for polygons, order, value in (([low, high], [1, 5], [3, 9]), ([high, low], [5, 1], [9, 3])):
        found = painted(areas(polygons, order, value))[0]
        assert found[10, 10] == 3
        assert found[30, 30] == 9
        assert found[30, 50] == 9
        assert found[2, 60] == 0
    turned = painted(areas([low, high], [5, 1], [3, 9]))[0]
    assert turned[30, 30] == 3


def test_equal_orders_follow_the_list() -> None:
    box = shapely.box(0, 0, 10, 10)
    assert painted(areas([box, box], [2, 2], [3, 9]))[0, 5, 5] == 9


def test_images_do_not_paint_into_each_other() -> None:
    polygons = [shapely.box(0, 0, 64, 48), shapely.box(10, 10, 20, 20), shapely.box(-9, -9, 99, 99)]
    shapes = polygon_shapes(pack(polygons), np.array([0, 2, 3]), np.zeros(3, np.int64), np.array([1, 2, 4], np.uint8))
    found = painted(shapes, 4)
    assert (found[0] == 1).all()
    assert not found[1].any()
    assert np.count_nonzero(found[2]) == 100
    assert (found[3] == 4).all()


def test_joined_shapes_paint_as_one_list() -> None:
    box, line = shapely.box(0, 0, 30, 30), shapely.LineString([(0, 15), (60, 15)])
    a, b = areas([box]), strokes([line], 4)
    found = painted(join_shapes([a, b]))[0]
    assert (found == (painted(a)[0] | painted(b)[0])).all()


@pytest.mark.parametrize("shapes", [areas([]), strokes([], 3.0), join_shapes([areas([]), strokes([], 3.0)])])
def test_nothing_paints_nothing(shapes: Shapes) -> None:
    assert not painted(shapes).any()


def test_a_line_without_length_paints_nothing() -> None:
    assert not painted(strokes([shapely.LineString([(5, 5), (5, 5)])], 4.0)).any()


@settings(max_examples=60)
@given(st.integers(0, 2**32), st.sampled_from([(64, 48), (33, 7), (8, 8), (2, 5)]))
def test_images_are_painted_as_a_painter_paints_row_by_row(seed: int, size: tuple[int, int]) -> None:
    """Byte by byte; layers, the list's order and the value 255 included. Odd images share words of memory."""
    rng = np.random.default_rng(seed)
    width, height = size
    found = [p for p in (random_polygon(int(s), size) for s in rng.integers(0, 2**32, 8)) if p is not None]
    count = len(found)
    image, order = rng.integers(0, 3, count), rng.integers(0, 4, count)
    value = rng.choice([1, 7, 128, 255], count).astype(np.uint8)
    shapes = polygon_shapes(pack(found), image, order, value)
    expected = np.zeros((3, height, width), np.uint8)
    for n in sorted(range(count), key=lambda n: order[n]):
        own = shapes.shape == n
        for row in range(height):
            crossings = sorted(
                ax + (row + 0.5 - ay) / (by - ay) * (bx - ax)
                for (ax, ay), (bx, by) in zip(shapes.start[own].tolist(), shapes.end[own].tolist(), strict=True)
                if (ay <= row + 0.5) != (by <= row + 0.5)
            )
            for left, right in zip(crossings[::2], crossings[1::2], strict=True):
                columns = [x for x in range(width) if left <= x + 0.5 < right]
                expected[image[n], row, columns] = value[n]
    assert (fill(shapes, 3, width, height) == expected).all()


def test_a_row_that_a_shape_crosses_many_times_is_painted_between_the_crossings() -> None:
    comb = shapely.union_all([shapely.box(0, 40, 64, 44), *(shapely.box(x, 4, x + 3, 40) for x in range(0, 64, 6))])
    found = painted(areas([comb, shapely.box(10, 0, 20, 48)], [1, 0], [2, 1]))[0]
    assert found[20].tolist() == [2 if x % 6 < 3 else 1 if 10 <= x < 20 else 0 for x in range(64)]
