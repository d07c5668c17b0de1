"""Planning: pure functions on tiles."""

from __future__ import annotations

import mercantile
import numpy as np
import pytest
import shapely
from hypothesis import given
from hypothesis import strategies as st

from geometry.hilbert import hilbert
from geometry.tiles import xyz_footprint
from pipeline.footprints.candidates import Listed, Mixture, Tiles
from pipeline.footprints.ground import Ground, tiles_on
from pipeline.footprints.plan import along_curve, cut_shards
from schemas.errors import ConfigError
from schemas.features import CELL_ZOOM
from schemas.footprint import Footprint, Footprints
from schemas.keys import XyzKey


@given(st.integers(0, 6))
def test_hilbert_order_visits_every_tile_once_and_only_steps_to_neighbours(order: int) -> None:
    side = 1 << order
    x, y = (a.ravel() for a in np.meshgrid(np.arange(side), np.arange(side)))
    distance = hilbert(x, y, order)
    assert sorted(distance.tolist()) == list(range(side * side))
    at = np.argsort(distance)
    steps = np.abs(np.diff(x[at])) + np.abs(np.diff(y[at]))
    assert (steps == 1).all()


def test_tile_boxes_are_those_of_mercantile() -> None:
    tiles = np.array([[0, 0], [69001, 45840], [131071, 131071]])
    for (x, y), box in zip(tiles.tolist(), Tiles(tiles, 17, 256).outlines(), strict=True):
        np.testing.assert_allclose(box.bounds, tuple(mercantile.bounds(x, y, 17)), atol=1e-9)


def test_too_many_tiles_are_refused_with_the_setting_to_change() -> None:
    with pytest.raises(ConfigError, match=r"plan\.max_tiles"):
        tiles_on(Ground.around([(-10, 40, 10, 60)], 10), None, 17, 1000)


TILES = st.lists(st.tuples(st.integers(0, 15), st.integers(0, 15)), min_size=1, max_size=120, unique=True)


def shards_of(tiles: list[tuple[int, int]], most: int) -> list[tuple[tuple[int, int], ...]]:
    xy = np.array(tiles, np.int64)
    distance = along_curve(Tiles(xy, 4, 256).centre())
    order = np.argsort(distance)
    return [tuple((int(x), int(y)) for x, y in xy[order][shard]) for shard in cut_shards(distance[order], most)]


def in_order(tiles: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """By the Hilbert curve of the tiles' own zoom."""
    x, y = np.array(tiles).T
    return [tiles[i] for i in np.argsort(hilbert(x, y, 4))]


@given(TILES, st.integers(1, 40))
def test_shards_hold_every_tile_once_in_hilbert_order_and_no_more_than_asked(
    tiles: list[tuple[int, int]], most: int
) -> None:
    shards = shards_of(tiles, most)
    assert [t for s in shards for t in s] == in_order(tiles)
    assert all(1 <= len(s) <= most for s in shards)


@given(TILES, st.sampled_from([4, 16, 32]), st.tuples(st.integers(0, 15), st.integers(0, 15)))
def test_a_new_tile_changes_no_shard_outside_the_quad_that_it_fills(
    tiles: list[tuple[int, int]], most: int, new: tuple[int, int]
) -> None:
    """The smallest quad around the new tile that is larger than a shard: outside it every shard stays."""
    level = next(k for k in range(5) if k == 4 or sum(_quad(t, k) == _quad(new, k) for t in {*tiles, new}) > most)
    before, after = shards_of(tiles, most), shards_of([*{*tiles, new}], most)
    outside = {s for s in before if all(_quad(t, level) != _quad(new, level) for t in s)}
    assert outside <= set(after)


def _quad(tile: tuple[int, int], level: int) -> tuple[int, int]:
    return tile[0] >> level, tile[1] >> level


def test_full_quads_make_full_shards() -> None:
    tiles = [(x, y) for x in range(16) for y in range(16)]
    assert [len(s) for s in shards_of(tiles, 16)] == [16] * 16
    assert [len(s) for s in shards_of(tiles, 32)] == [32] * 8


@pytest.mark.parametrize("zoom", [0, 3, CELL_ZOOM - 1, CELL_ZOOM, CELL_ZOOM + 1, 18])
def test_cells_are_as_deep_as_no_footprint_outgrows(zoom: int) -> None:
    side = 1 << zoom
    tiles = Tiles(np.array([[0, 0], [side // 2, side // 2], [side - 1, side - 1]]), zoom, 256)
    assert tiles.cell_zoom() == min(zoom, CELL_ZOOM)


def test_one_footprint_larger_than_a_cell_makes_all_cells_larger() -> None:
    side = 360 / (1 << CELL_ZOOM)
    small, large = (
        Footprint(f"chip-{k}", "EPSG:4326", (k * side / 100, 0, 9.0, 0, -side / 200, 1.0), 100, 100) for k in (1, 3)
    )
    assert Listed.of("chips", Footprints.of([small])).cell_zoom() == CELL_ZOOM
    assert Listed.of("chips", Footprints.of([small, large])).cell_zoom() == CELL_ZOOM - 2


def test_a_large_footprint_across_180_or_beyond_the_map_makes_cells_as_large_as_elsewhere() -> None:
    side = 360 / (1 << CELL_ZOOM)
    found = []
    for crs, west, north in (
        ("EPSG:4326", 9.0, 1.0),
        ("+proj=longlat +lon_0=180 +datum=WGS84 +no_defs", -side, 1.0),
        ("EPSG:4326", 9.0, 88.0),
    ):
        large = Footprint("chip", crs, (3 * side / 100, 0, west, 0, -0.001, north), 100, 100)
        found.append(Listed.of("chips", Footprints.of([large])).cell_zoom())
    assert found == [CELL_ZOOM - 2] * 3


def test_an_outline_across_180_is_drawn_in_as_elsewhere() -> None:
    border = 833_978  # easting of 180° at the equator in zone 60
    footprint = Footprint("chip", "EPSG:32660", (10, 0, border - 300, 0, -10, 1000), 100, 100)
    across = Listed.of("chips", Footprints.of([footprint]))
    (whole,), (inner,) = across.outlines(), across.outlines(0.01)
    assert (whole.bounds[0], whole.bounds[2]) == (-180, 180)
    assert whole.covers(inner)
    assert inner.area / whole.area == pytest.approx(0.98**2, rel=1e-4)


def test_tiles_of_another_zoom_draw_other_lots() -> None:
    xy = np.array([[0, 0], [1, 0], [0, 1]])
    words = np.concatenate([Tiles(xy, zoom, 256).words() for zoom in (1, 2, 17)])
    assert len(np.unique(words)) == len(words)


def test_an_outline_drawn_in_lies_inside_by_that_share_of_a_side() -> None:
    tiles = Tiles(np.array([[69001, 45840], [69002, 45840]]), 17, 256)
    for candidates in (tiles, Listed.of("chips", tiles.footprints())):
        whole, inner = candidates.outlines(), candidates.outlines(0.01)
        assert shapely.contains_properly(whole, inner).all()
        np.testing.assert_allclose(shapely.area(inner) / shapely.area(whole), 0.98**2, rtol=1e-4)


@given(
    st.lists(st.tuples(st.integers(0, 63), st.integers(0, 63)), min_size=1, max_size=40, unique=True), st.integers(0, 9)
)
def test_tiles_as_columns_are_the_footprints_of_mercantile(tiles: list[tuple[int, int]], seed: int) -> None:
    candidates = Tiles(np.array(tiles), 6, 128)
    for tile, footprint in zip(tiles, candidates.footprints(), strict=True):
        np.testing.assert_allclose(footprint.bounds(), mercantile.xy_bounds(*tile, 6), atol=1e-6)
        assert footprint == xyz_footprint(XyzKey(6, *tile, 128))
    listed = Listed.of("tiles", candidates.footprints())
    np.testing.assert_allclose(listed.bbox(), candidates.bbox(), atol=1e-9)
    np.testing.assert_allclose(listed.centre()[:, 0], candidates.centre()[:, 0], atol=1e-9)
    order = np.random.default_rng(seed).permutation(2 * len(tiles))
    both = Mixture.of([candidates, listed]).take(order)
    every = [*candidates.footprints(), *listed.footprints()]
    assert list(both.footprints()) == [every[i] for i in order]
    np.testing.assert_allclose(both.bbox(), np.concatenate((candidates.bbox(), listed.bbox()))[order])
