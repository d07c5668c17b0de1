"""Pixel maps of a footprint."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from schemas.errors import InputError
from schemas.footprint import Footprint, Footprints, gair_query, inside

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


def test_columns_of_footprints_give_them_back_chosen_and_joined_with_what_they_came_from() -> None:
    some = [
        Footprint(f"f{k}", crs, (1.0, 2.0, 3.0 + k, 4.0, -5.0, 6.0), 7, 8 + k)
        for k, crs in enumerate(("EPSG:3857", "EPSG:32632", "EPSG:3857"))
    ]
    columns, one = Footprints.of(some, "xyz"), Footprints.of(some[1:2], "utm")
    assert list(columns) == some
    assert len({columns, one, columns}) == 2  # they are themselves alone
    assert columns.crs == ("EPSG:3857", "EPSG:32632")
    mixed = Footprints.concat([one, columns.take(np.array([2, 0]))])
    assert list(mixed) == [some[1], some[2], some[0]]
    assert mixed.origin.tolist() == ["utm", "xyz", "xyz"]
    places = mixed.crs_to_pixel(
        np.array([2, 0]), np.stack([some[k].pixel_to_crs(np.array([[3, 2]]))[0] for k in (0, 1)])
    )
    assert places == pytest.approx(np.array([[3, 2], [3, 2]]))


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


@given(UNIT, UNIT)
def test_gair_query_spans_minus_one_to_one(x: float, y: float) -> None:
    assert gair_query(np.array([x, y])).tolist() == pytest.approx([2 * x - 1, 2 * y - 1])
