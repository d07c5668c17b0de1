"""Anchors: inside, seeded, and alone as in company."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import shapely
from hypothesis import given
from hypothesis import strategies as st

from geometry.anchors import anchors, object_seed
from geometry.mix import uniform
from tests.geometry.shapes import pack, random_line, random_polygon

SIZE = (256, 256)


def drawn(shapes: list[Any], seed: int = 0) -> np.ndarray:
    return anchors(pack(shapes), np.arange(seed, seed + len(shapes), dtype=np.uint64))


@given(st.integers(0, 2**32), st.integers(0, 2**63))
def test_all_anchors_of_a_polygon_lie_in_it(shape: int, seed: int) -> None:
    polygon = random_polygon(shape, SIZE)
    if polygon is None:
        return
    found = drawn([polygon], seed)[0]
    assert not np.isnan(found).any()
    for x, y in found:
        assert polygon.distance(shapely.Point(x, y)) < 1e-9


@pytest.mark.parametrize(
    "polygon",
    [
        shapely.box(0, 0, 90, 90).difference(shapely.box(1, 1, 89, 89)),  # a frame: its middle is a hole
        shapely.Polygon([(0, 0), (90, 0), (90, 90), (80, 90), (80, 10), (10, 10), (10, 90), (0, 90)]),  # a U
        shapely.MultiPolygon([shapely.box(0, 0, 9, 9), shapely.box(40, 40, 90, 90)]),
        shapely.Polygon([(0, 0), (90, 1e-7), (0, 2e-7)]),  # a sliver
    ],
)
def test_anchors_avoid_holes_bays_and_gaps(polygon: Any) -> None:
    for seed in range(50):
        for x, y in drawn([polygon], seed)[0]:
            assert polygon.distance(shapely.Point(x, y)) < 1e-9


def test_the_samples_of_a_polygon_differ_and_depend_on_the_seed_alone() -> None:
    polygon = shapely.box(10, 20, 110, 220)
    first = drawn([polygon], 5)[0]
    assert len(np.unique(first, axis=0)) == 4
    assert (drawn([polygon], 5)[0] == first).all()
    other = drawn([polygon], 6)[0]
    assert (other[0] == first[0]).all()  # the representative point is no draw
    assert (other[1:] != first[1:]).all()


def test_samples_spread_over_a_box() -> None:
    found = anchors(pack([shapely.box(0, 0, 100, 200)] * 4000), np.arange(4000, dtype=np.uint64))[:, 1:].reshape(-1, 2)
    assert np.allclose(found.mean(axis=0), (50, 100), rtol=0.02)
    assert np.allclose(found.std(axis=0), (100 / 12**0.5, 200 / 12**0.5), rtol=0.03)
    assert abs(np.corrcoef(found.T)[0, 1]) < 0.05


def test_an_objects_anchors_do_not_depend_on_the_rest_of_the_batch() -> None:
    """To the last bit: one worker builds other batches than sixty-four do."""
    shapes = [
        s
        for n in range(150)
        for s in (random_polygon(n, SIZE), random_line(n, SIZE), shapely.Point(n, n))
        if s is not None
    ]
    seeds = np.arange(len(shapes), dtype=np.uint64) * np.uint64(977)
    together = anchors(pack(shapes), seeds)
    for n, shape in enumerate(shapes):
        alone = anchors(pack([shape]), seeds[n : n + 1])[0]
        assert np.array_equal(alone, together[n], equal_nan=True)


@given(st.integers(0, 2**32))
def test_a_lines_anchors_are_its_middle_and_its_ends(seed: int) -> None:
    line = random_line(seed, SIZE)
    if line is None:
        return
    found = drawn([line])[0]
    assert np.isnan(found[3]).all()
    parts = list(getattr(line, "geoms", [line]))
    assert found[1].tolist() == list(parts[0].coords[0])
    assert found[2].tolist() == list(parts[-1].coords[-1])
    half = line.length / 2
    for part in parts:
        if half <= part.length + 1e-9:
            middle = part.interpolate(half)
            if abs(half - part.length) > 1e-6:  # a middle between two parts may stand on either
                assert np.hypot(found[0, 0] - middle.x, found[0, 1] - middle.y) < 1e-6
            break
        half -= part.length


def test_a_line_with_repeated_vertices_has_its_middle() -> None:
    line = shapely.LineString([(0, 0), (0, 0), (4, 0), (4, 0), (10, 0), (10, 0)])
    assert drawn([line])[0, :3].tolist() == [[5, 0], [0, 0], [10, 0]]


def test_a_points_anchor_is_itself() -> None:
    found = drawn([shapely.Point(3, 4)])[0]
    assert found[0].tolist() == [3, 4]
    assert np.isnan(found[1:]).all()


def test_no_objects_have_no_anchors() -> None:
    assert drawn([]).shape == (0, 4, 2)


@given(st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=20), st.integers(1, 9))
def test_random_numbers_lie_in_the_unit_interval_and_each_row_stands_alone(seeds: list[int], count: int) -> None:
    values = uniform(np.array(seeds, np.uint64), count)
    assert values.shape == (len(seeds), count)
    assert ((values >= 0) & (values < 1)).all()
    for n, seed in enumerate(seeds):
        assert (uniform(np.array([seed], np.uint64), count + 3)[0, :count] == values[n]).all()


def test_random_numbers_are_uniform_and_independent() -> None:
    values = uniform(np.arange(40_000, dtype=np.uint64), 4)
    histogram = np.stack([np.histogram(v, 20, (0, 1))[0] for v in values.T])
    assert (np.abs(histogram - 2000) < 5 * 2000**0.5).all()
    correlation = np.corrcoef(np.concatenate((values.T, [np.roll(values[:, 0], 1)])))
    assert np.abs(correlation - np.eye(5)).max() < 0.03


def test_every_object_has_a_seed_of_its_own() -> None:
    ids = np.concatenate((np.arange(1000), np.arange(10**10, 10**10 + 1000), [-1, -2]))
    osm_type = np.repeat(np.arange(3, dtype=np.uint8), len(ids))
    every = np.tile(ids, 3)
    seeds = object_seed(osm_type, every, np.full(len(every), 77, np.uint64))
    assert len(np.unique(seeds)) == len(seeds)
    assert (object_seed(osm_type, every, np.full(len(every), 78, np.uint64)) != seeds).all()
