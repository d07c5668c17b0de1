"""What sources write, read: headings, points, projections; and what is told of photos that are left out."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.streetview.record import Drops, number, point, projection, turn
from schemas.features import DROPS


@pytest.mark.parametrize(
    "value",
    [
        {"type": "Point", "coordinates": [9.5, 47.1]}, {"type": "Point", "coordinates": [9.5, 47.1, 460.0]},
        '{"type": "Point", "coordinates": [9.5, 47.1]}', "{'type': 'Point', 'coordinates': [9.5, 47.1]}",
        "[9.5, 47.1]", "POINT (9.5 47.1)", "POINT Z (9.5 47.1 460)", [9.5, 47.1],
    ],
)  # fmt: skip
def test_points_in_every_form_are_understood(value: object) -> None:
    assert point(value) == (9.5, 47.1)


@pytest.mark.parametrize(
    "value", [None, "", "here", "[9.5]", {}, {"coordinates": None}, "POINT EMPTY", "[" * 50_000, 7]
)
def test_what_is_no_point_is_none(value: object) -> None:
    assert point(value) == (None, None)


@pytest.mark.parametrize(
    ("name", "panorama", "expected"),
    [
        ("spherical", None, "equirectangular"), ("equirectangular", None, "equirectangular"),
        ("SPHERE", None, "equirectangular"), ("PLANE", None, "perspective"), ("PLANE", "360", "equirectangular"),
        (None, 360, "equirectangular"), (None, 70, "perspective"), ("perspective", True, "equirectangular"),
        ("perspective", False, "perspective"), ("fisheye", None, "fisheye"), (None, None, "perspective"),
        ("", "True", "equirectangular"), (None, 360.0, "equirectangular"),
    ],
)  # fmt: skip
def test_projections_of_every_source_have_our_names(name: object, panorama: object, expected: str) -> None:
    assert projection(name, panorama) == expected


@given(st.floats(allow_nan=True, allow_infinity=True))
def test_headings_are_in_one_turn(value: float) -> None:
    found = turn(value)
    assert (found is None) == (number(value) is None)
    assert found is None or 0 <= found < 360


def test_very_many_photos_of_one_reason_are_counted_and_the_first_named() -> None:
    drops = Drops("table.csv")
    for i in range(10_050):
        drops.add("outside_tiles", str(i))
    drops.add("night", "x", "d" * 500)
    rows = drops.rows()
    assert len(rows) == 10_002
    assert sum(r["count"] for r in rows) == 10_051  # type: ignore[misc]
    assert {r["source"] for r in rows} == {"table.csv"}
    assert all(set(r) == set(DROPS.names) and len(str(r["detail"])) <= 200 for r in rows)
