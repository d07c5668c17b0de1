"""What sources write, read: times, headings, points, projections; and what is told of photos that are left out."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.streetview.record import Drops, iso_time, number, point, projection, turn
from schemas.features import DROPS


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (1717236000000, "2024-06-01T10:00:00Z"), ("1717236000000", "2024-06-01T10:00:00Z"),
        ("1717236000000.0", "2024-06-01T10:00:00Z"), ("2016-03-23 09:33:51.000", "2016-03-23T09:33:51"),
        ("2022-10-19T07:56:34.021000+02:00", "2022-10-19T05:56:34.021Z"), ("2018-08-02", "2018-08-02"),
        ("2011:01:01 16:02:54", "2011-01-01T16:02:54"), ("0000:00:00 00:00:00", None), ("None", None), (None, None),
        ("99999999999999", None), ("2024-13-45", None),
        # Seconds, milli-, micro- and nanoseconds since 1970 are told apart by their digits.
        (1717236000, "2024-06-01T10:00:00Z"), ("1717236000.25", "2024-06-01T10:00:00.25Z"),
        (1717236000123, "2024-06-01T10:00:00.123Z"), (1717236000123456, "2024-06-01T10:00:00.123456Z"),
        ("1717236000123456789", "2024-06-01T10:00:00.123456Z"), (998_000_000, "2001-08-16T22:13:20Z"),
        # Digits that are a date are one.
        ("20200601123000", "2020-06-01T12:30:00"), (20200601123000, "2020-06-01T12:30:00"),
        ("202006011230", "2020-06-01T12:30:00"), ("20200601123000123", "2020-06-01T12:30:00.123"),
        ("20200601", "2020-06-01"), ("20200631", None), ("20201301123000", None), (20200601.0, "2020-06-01"),
        # Zones and fractions are kept, however they are written.
        ("2020-06-01 12:30:00.5 +0200", "2020-06-01T10:30:00.5Z"),
        ("2020:06:01 12:30:00-03:30", "2020-06-01T16:00:00Z"), ("2020/06/01 12:30", "2020-06-01T12:30:00"),
        ("2020-06-01 12:30:00 UTC", "2020-06-01T12:30:00Z"), ("20200601T123000Z", "2020-06-01T12:30:00Z"),
        ("2020_06_01_12_30_00_123", "2020-06-01T12:30:00.123"),
        (datetime(2020, 6, 1, 12, 30, 0, 250_000, timezone(timedelta(hours=2))), "2020-06-01T10:30:00.25Z"),
        # What is no time.
        (0, None), ("0", None), (-1717236000, None), (float("nan"), None), (True, None), ("06/01/2020", None),
        ("2020-06-01T25:00:00", None), ("2020-06-01T12:30:00+99:00", None), ("9" * 30, None), ("12", None),
    ],
)  # fmt: skip
def test_times_of_every_source_are_understood(value: object, expected: str | None) -> None:
    assert iso_time(value) == expected


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
