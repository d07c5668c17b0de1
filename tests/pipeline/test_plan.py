"""Planning: pure functions on tiles."""

from __future__ import annotations

import mercantile
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.shards.plan import cut_shards, extent_tiles, hilbert, order_tiles, tile_boxes
from schemas.errors import ConfigError, InputError


@given(st.integers(0, 6))
def test_hilbert_order_visits_every_tile_once_and_only_steps_to_neighbours(order: int) -> None:
    side = 1 << order
    x, y = (a.ravel() for a in np.meshgrid(np.arange(side), np.arange(side)))
    distance = hilbert(x, y, order)
    assert sorted(distance.tolist()) == list(range(side * side))
    at = np.argsort(distance)
    steps = np.abs(np.diff(x[at])) + np.abs(np.diff(y[at]))
    assert (steps == 1).all()


@given(st.floats(-179, 178), st.floats(-80, 79), st.floats(0.0001, 0.3), st.integers(3, 12))
def test_extent_tiles_are_those_of_mercantile(west: float, south: float, size: float, zoom: int) -> None:
    box = (west, south, west + size, south + size)
    expected = {(t.x, t.y) for t in mercantile.tiles(*box, zooms=zoom)}
    found = {tuple(t) for t in extent_tiles([box], zoom, 10**6).tolist()}
    assert expected <= found  # mercantile shrinks the box by 1e-9 of a degree, so an edge tile may be missing there


def test_overlapping_extents_own_each_tile_once() -> None:
    tiles = extent_tiles([(9.0, 47.0, 9.2, 47.1), (9.1, 47.0, 9.3, 47.1)], 14, 10**6)
    assert len(np.unique(tiles, axis=0)) == len(tiles)


def test_tile_boxes_are_those_of_mercantile() -> None:
    tiles = np.array([[0, 0], [69001, 45840], [131071, 131071]])
    for (x, y), box in zip(tiles.tolist(), tile_boxes(tiles, 17), strict=True):
        np.testing.assert_allclose(box.bounds, tuple(mercantile.bounds(x, y, 17)), atol=1e-9)


def test_too_many_tiles_are_refused_with_the_setting_to_change() -> None:
    with pytest.raises(ConfigError, match=r"plan\.max_tiles"):
        extent_tiles([(-10, 40, 10, 60)], 17, 1000)


def test_shards_are_cut_by_planned_count_alone() -> None:
    tiles = order_tiles(extent_tiles([(9.0, 47.0, 9.1, 47.1)], 15, 10**6), 15)
    shards = cut_shards(tiles, 16)
    assert [len(s) for s in shards[:-1]] == [16] * (len(shards) - 1)
    np.testing.assert_array_equal(np.concatenate(shards), tiles)
    np.testing.assert_array_equal(cut_shards(tiles[:40], 16)[1], shards[1])


def test_an_empty_plan_says_why() -> None:
    with pytest.raises(InputError, match="no tile is left"):
        cut_shards(np.zeros((0, 2), np.int64), 16)
