"""Arithmetic on arrays of tiles, against mercantile's on single ones."""

from __future__ import annotations

import math
from collections import Counter

import mercantile
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from geometry.tiles import (
    WEB_MERCATOR_HALF,
    WEB_MERCATOR_MAX_LATITUDE,
    children,
    lonlat_to_tile,
    metres_to_tile,
    tile_bounds,
    tile_codes,
    tile_ranges,
    tile_side,
    tile_to_lonlat,
    tile_transforms,
    tiles_between,
    xyz_footprint,
)  # fmt: skip
from schemas.footprint import inside
from schemas.keys import XyzKey

UNIT = st.floats(0, 1)
ZOOM = st.integers(0, 22)


@st.composite
def tiles(draw: st.DrawFn) -> mercantile.Tile:
    zoom = draw(ZOOM)
    side = (1 << zoom) - 1
    place = st.integers(0, side) | st.sampled_from([0, side])
    return mercantile.Tile(draw(place), draw(place), zoom)


@given(
    st.integers(1, 20), st.data(), st.sampled_from((224, 256, 512)), st.floats(0.001, 0.999), st.floats(0.001, 0.999)
)
def test_a_place_belongs_to_exactly_one_of_the_tiles_around_it(
    zoom: int, data: st.DataObject, size: int, u: float, v: float
) -> None:
    side = 1 << zoom
    x, y = data.draw(st.integers(0, side - 1)), data.draw(st.integers(0, side - 1))
    place = xyz_footprint(XyzKey(zoom, x, y, size)).pixel_to_crs(np.array([[u * size, v * size]]))
    owners = []
    for i in range(max(0, x - 1), min(side, x + 2)):
        for j in range(max(0, y - 1), min(side, y + 2)):
            fp = xyz_footprint(XyzKey(zoom, i, j, size))
            if inside(fp.pixel_to_normalised(fp.crs_to_pixel(place)))[0]:
                owners.append((i, j))
    assert owners == [(x, y)]


@pytest.mark.parametrize("size", [224, 256, 384, 512])
@pytest.mark.parametrize("zoom", [1, 10, 16, 17])
def test_a_point_on_the_prime_meridian_or_the_equator_belongs_to_the_eastern_or_southern_tile(
    zoom: int, size: int
) -> None:
    half = 1 << (zoom - 1)
    owners = []
    for i in (half - 1, half):
        for j in (half - 1, half):
            fp = xyz_footprint(XyzKey(zoom, i, j, size))
            if inside(fp.pixel_to_normalised(fp.crs_to_pixel(np.zeros((1, 2)))))[0]:
                owners.append((i, j))
    assert owners == [(half, half)]


@given(st.integers(0, 24), st.data())
def test_neighbouring_tiles_share_their_border(zoom: int, data: st.DataObject) -> None:
    side = 1 << zoom
    x, y = data.draw(st.integers(0, side - 1)), data.draw(st.integers(0, side - 1))
    west, south, east, north = xyz_footprint(XyzKey(zoom, x, y, 256)).bounds()
    step = 2 * WEB_MERCATOR_HALF / side
    assert west == pytest.approx(x * step - WEB_MERCATOR_HALF, abs=1e-6)
    assert north == pytest.approx(WEB_MERCATOR_HALF - y * step, abs=1e-6)
    assert east == pytest.approx((x + 1) * step - WEB_MERCATOR_HALF, abs=1e-6)
    assert south == pytest.approx(WEB_MERCATOR_HALF - (y + 1) * step, abs=1e-6)


@given(st.integers(0, 22), st.lists(st.tuples(st.floats(-180, 180), st.floats(-85, 85)), min_size=1, max_size=5))
def test_tile_coordinates_survive_the_way_to_degrees_and_back(zoom: int, points: list[tuple[float, float]]) -> None:
    lonlat = np.array(points)
    assert np.allclose(tile_to_lonlat(lonlat_to_tile(lonlat, zoom), zoom), lonlat, rtol=0, atol=1e-9)


@given(st.floats(-180, 180), st.floats(-89.9, 89.9), ZOOM)
def test_the_tile_of_a_place_is_that_of_mercantile_which_ends_at_the_square(lon: float, lat: float, zoom: int) -> None:
    column, row = lonlat_to_tile(np.array([[lon, lat]]), zoom)[0]
    last = (1 << zoom) - 1
    near = {
        (min(max(math.floor(column + dx), 0), last), min(max(math.floor(row + dy), 0), last))
        for dx in (-1e-6, 1e-6) for dy in (-1e-6, 1e-6)
    }  # fmt: skip  # the two formulas round apart at an edge
    found = mercantile.tile(lon, lat, zoom)
    assert (found.x, found.y) in near


@pytest.mark.parametrize(("latitude", "above"), [(85.06, True), (89.0, True), (-85.06, False), (-89.0, False)])
def test_places_beyond_the_square_have_rows_outside_where_mercantile_has_the_outermost(
    latitude: float, above: bool
) -> None:
    row = float(lonlat_to_tile(np.array([0.0, latitude]), 10)[1])
    assert row < 0 if above else row > 1024
    assert mercantile.tile(0.0, latitude, 10).y == (0 if above else 1023)


@pytest.mark.parametrize("lon", [-360.0, -180.5, 180.5, 360.0])
def test_longitudes_beyond_the_square_have_columns_outside(lon: float) -> None:
    column = float(lonlat_to_tile(np.array([lon, 0.0]), 4)[0])
    assert column == pytest.approx((lon / 360 + 0.5) * 16)
    assert mercantile.tile(lon, 0.0, 4).x == (0 if lon < 0 else 15)


@given(tiles())
def test_the_corner_of_a_tile_is_its_own(tile: mercantile.Tile) -> None:
    """A place on an edge is the eastern and southern tile's, but for the rounding of an edge's own degrees."""
    corner = mercantile.ul(tile)
    place = lonlat_to_tile(np.array([corner.lng, corner.lat]), tile.z)
    np.testing.assert_allclose(place, (tile.x, tile.y), rtol=0, atol=1e-6)


@given(tiles())
def test_boxes_of_tiles_are_those_of_mercantile(tile: mercantile.Tile) -> None:
    bounds = tile_bounds(np.array([[tile.x, tile.y]]), tile.z)[0]
    np.testing.assert_allclose(bounds, tuple(mercantile.bounds(tile)), rtol=0, atol=1e-11)


@given(tiles(), st.floats(-0.4, 2.0))
def test_a_margin_is_a_share_of_a_side_all_around(tile: mercantile.Tile, margin: float) -> None:
    w, s, e, n = tile_bounds(np.array([[tile.x, tile.y]]), tile.z, margin)[0]
    (x0, y0), (x1, y1) = lonlat_to_tile(np.array([[w, n], [e, s]]), tile.z)
    expected = (tile.x - margin, tile.y - margin, tile.x + 1 + margin, tile.y + 1 + margin)
    assert (x0, y0, x1, y1) == pytest.approx(expected, abs=1e-5)


@given(tiles(), st.sampled_from((1, 224, 256, 512)))
def test_the_pixel_grid_of_a_tile_fills_the_metres_that_mercantile_gives_it(tile: mercantile.Tile, size: int) -> None:
    expected = mercantile.xy_bounds(tile)
    footprint = xyz_footprint(XyzKey(tile.z, tile.x, tile.y, size))
    assert footprint.bounds() == pytest.approx(tuple(expected), rel=1e-12, abs=1e-6)
    assert footprint.transform == tuple(tile_transforms(np.array([[5, 5], [tile.x, tile.y]]), tile.z, size)[1])
    assert tile_side(tile.z) == pytest.approx(expected.right - expected.left)
    corner = metres_to_tile(np.array([[expected.left, expected.top], [expected.right, expected.bottom]]), tile.z)
    np.testing.assert_allclose(corner, [(tile.x, tile.y), (tile.x + 1, tile.y + 1)], rtol=0, atol=1e-6)


def test_the_square_is_mercantile_s() -> None:
    world = mercantile.xy_bounds(0, 0, 0)
    assert (world.left, world.top) == pytest.approx((-WEB_MERCATOR_HALF, WEB_MERCATOR_HALF))
    assert mercantile.bounds(0, 0, 0).north == pytest.approx(WEB_MERCATOR_MAX_LATITUDE, abs=1e-12)


@given(tiles(), st.integers(0, 4))
def test_children_are_those_of_mercantile(tile: mercantile.Tile, levels: int) -> None:
    expected = {(t.x, t.y) for t in mercantile.children(tile, zoom=tile.z + levels)}
    found = children(np.array([[tile.x, tile.y], [tile.x + 1, tile.y]]), levels)
    assert len(found) == 2 * 4**levels
    assert {(x, y) for x, y in found[: 4**levels].tolist()} == expected
    if levels:
        parents = {mercantile.parent(x, y, tile.z + levels, zoom=tile.z) for x, y in found[: 4**levels].tolist()}
        assert parents == {tile}


@given(st.integers(0, 12), st.data())
def test_codes_of_tiles_count_them_row_by_row(zoom: int, data: st.DataObject) -> None:
    side = 1 << zoom
    place = st.tuples(st.integers(0, side - 1), st.integers(0, side - 1))
    some = data.draw(st.lists(place, min_size=1, max_size=20))
    codes = tile_codes(np.array(some), zoom)
    assert [(c % side, c // side) for c in codes.tolist()] == some


BOXES = st.lists(
    st.tuples(st.floats(-180, 179), st.floats(-89, 88), st.floats(1e-6, 1.0), st.floats(1e-6, 1.0)), max_size=5
)


@given(BOXES, st.integers(0, 10))
def test_tiles_of_boxes_are_those_of_mercantile(boxes: list[tuple[float, float, float, float]], zoom: int) -> None:
    bounds = np.array([(w, s, w + dx, s + dy) for w, s, dx, dy in boxes]).reshape(-1, 4)
    owner, found = tiles_between(*tile_ranges(bounds, zoom))
    got = Counter((int(i), int(x), int(y)) for i, (x, y) in zip(owner, found, strict=True))
    expected = Counter(
        (i, t.x, t.y) for i, box in enumerate(bounds.tolist()) for t in mercantile.tiles(*box, zooms=zoom)
    )
    assert max(got.values(), default=1) == 1
    assert expected <= got
    for i, x, y in got - expected:  # mercantile draws boxes in by 1e-11 of a degree in the east and south
        tile = mercantile.bounds(x, y, zoom)
        assert tile.west >= bounds[i, 2] - 2e-11 or tile.north <= bounds[i, 1] + 2e-11 or abs(bounds[i]).max() > 85.051


@given(st.integers(2, 10), st.data(), st.sampled_from([1e-6, 0.25]))
def test_the_range_of_a_tiles_own_box_grows_and_shrinks_by_the_margin(
    zoom: int, data: st.DataObject, margin: float
) -> None:
    tile = np.array([[data.draw(st.integers(1, (1 << zoom) - 2)) for _ in range(2)]])
    bounds = tile_bounds(tile, zoom)
    first, last = tile_ranges(bounds, zoom, -margin)
    assert first.tolist() == last.tolist() == tile.tolist()
    first, last = tile_ranges(bounds, zoom, margin)
    assert (first.tolist(), last.tolist()) == ((tile - 1).tolist(), (tile + 1).tolist())


def test_ranges_end_at_the_square() -> None:
    first, last = tile_ranges(np.array([[-180.0, -90.0, 180.0, 90.0], [170.0, 86.0, 190.0, 88.0]]), 4, 0.5)
    assert first.tolist() == [[0, 0], [15, 0]]
    assert last.tolist() == [[15, 15], [15, 0]]
    assert len(tiles_between(first, last)[1]) == 257
