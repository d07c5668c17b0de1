"""Pixel maps of a footprint."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from schemas.errors import InputError
from schemas.footprint import (
    WEB_MERCATOR_HALF,
    Footprint,
    gair_query,
    inside,
    lonlat_to_tile,
    tile_to_lonlat,
    xyz_footprint,
)
from schemas.keys import XyzKey

UNIT = st.floats(0, 1)


@st.composite
def footprints(draw: st.DrawFn) -> Footprint:
    """Rotated, sheared and flipped ones too, as image chips are."""
    angle, shear = draw(st.floats(-math.pi, math.pi)), draw(st.floats(-0.5, 0.5))
    sx, sy = draw(st.floats(1e-6, 1e3)), draw(st.floats(1e-6, 1e3)) * draw(st.sampled_from((-1, 1)))
    a, d = sx * math.cos(angle), sx * math.sin(angle)
    b, e = sy * (shear * math.cos(angle) - math.sin(angle)), sy * (shear * math.sin(angle) + math.cos(angle))
    assume(abs(a * e - b * d) > 1e-3 * sx * abs(sy))
    scale = max(sx, abs(sy))
    c, f = draw(st.floats(-1e4, 1e4)) * scale, draw(st.floats(-1e4, 1e4)) * scale
    return Footprint("chip-x", "EPSG:3857", (a, b, c, d, e, f), draw(st.integers(1, 4096)), draw(st.integers(1, 4096)))


@given(footprints(), st.lists(st.tuples(UNIT, UNIT), min_size=1, max_size=5))
def test_pixels_crs_and_normalised_coordinates_are_inverse_maps(
    fp: Footprint, points: list[tuple[float, float]]
) -> None:
    normalised = np.array(points)
    pixel = normalised * (fp.width, fp.height)
    assert np.allclose(fp.pixel_to_normalised(pixel), normalised, rtol=0, atol=1e-12)
    sx, sy = np.hypot(fp.transform[0], fp.transform[3]), np.hypot(fp.transform[1], fp.transform[4])
    slack = 1e-6 * max(sx, sy) / min(sx, sy)
    assert np.allclose(fp.crs_to_pixel(fp.pixel_to_crs(pixel)), pixel, rtol=0, atol=slack)


@given(footprints(), UNIT, UNIT)
def test_every_pixel_lies_within_the_bounds(fp: Footprint, u: float, v: float) -> None:
    x0, y0, x1, y1 = fp.bounds()
    (x, y), *_ = fp.pixel_to_crs(np.array([[u * fp.width, v * fp.height]]))
    slack = 1e-9 * max(abs(x0), abs(y0), abs(x1), abs(y1), x1 - x0, y1 - y0)
    assert x0 - slack <= x <= x1 + slack
    assert y0 - slack <= y <= y1 + slack


def test_corners_run_from_the_upper_left_around() -> None:
    fp = Footprint("c", "EPSG:3857", (2.0, 0.0, 100.0, 0.0, -2.0, 50.0), 10, 5)
    assert fp.corners().tolist() == [[100, 50], [120, 50], [120, 40], [100, 40]]
    assert fp.bounds() == (100, 40, 120, 50)


@pytest.mark.parametrize(
    ("transform", "width", "height"),
    [
        ((0.0, 0.0, 0.0, 0.0, 1.0, 0.0), 4, 4),
        ((1.0, 2.0, 0.0, 2.0, 4.0, 0.0), 4, 4),
        ((1.0, 0.0, math.nan, 0.0, 1.0, 0.0), 4, 4),
        ((math.inf, 0.0, 0.0, 0.0, 1.0, 0.0), 4, 4),
        ((1.0, 0.0, 0.0, 0.0, 1.0, 0.0), 0, 4),
        ((1.0, 0.0, 0.0, 0.0, 1.0, 0.0), 4, -1),
    ],
)
def test_a_footprint_without_ground_is_refused(transform: tuple[float, ...], width: int, height: int) -> None:
    with pytest.raises(InputError, match="footprint c"):
        Footprint("c", "EPSG:3857", transform, width, height)  # type: ignore[arg-type]


def test_tiles_are_half_open() -> None:
    last = 1.0 - 1e-11
    points = [[0, 0], [last, last], [1, 0.5], [0.5, 1], [-1e-11, 0.5], [np.nan, 0.5], [0.5, np.inf]]
    assert inside(np.array(points)).tolist() == [True, True, False, False, False, False, False]


def test_an_edge_is_the_same_place_for_both_tiles_although_their_arithmetic_differs() -> None:
    rounding = np.array([[np.nextafter(1.0, 0.0), 0.5], [-1e-16, 0.5]])
    assert inside(rounding).tolist() == [False, True]


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


@given(st.floats(-180, 179.999), st.floats(-85, 85), st.integers(0, 20))
def test_tile_coordinates_agree_with_mercantile(lon: float, lat: float, zoom: int) -> None:
    mercantile = pytest.importorskip("mercantile")
    tile = mercantile.tile(lon, lat, zoom)
    column, row = lonlat_to_tile(np.array([[lon, lat]]), zoom)[0]
    if min(column % 1, row % 1, -column % 1, -row % 1) > 1e-6:  # mercantile leans over a border by an epsilon
        assert (math.floor(column), math.floor(row)) == (tile.x, tile.y)


@given(UNIT, UNIT)
def test_gair_query_spans_minus_one_to_one(x: float, y: float) -> None:
    assert gair_query(np.array([x, y])).tolist() == pytest.approx([2 * x - 1, 2 * y - 1])
