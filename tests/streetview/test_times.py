"""The sun's elevation against published values, and how moments are told from local times."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.streetview.times import gap_days, sun_elevation, utc_seconds


def elevation(moment: datetime, lon: float, lat: float) -> float:
    return float(sun_elevation(np.array([moment.timestamp()]), np.array([lon]), np.array([lat]))[0])


def test_the_worked_example_of_the_solar_position_algorithm() -> None:
    """Reda & Andreas, Solar Position Algorithm (NREL/TP-560-34302), table A5.1: 39.872046° before refraction."""
    moment = datetime(2003, 10, 17, 19, 30, 30, tzinfo=UTC)
    assert elevation(moment, -105.1786, 39.742476) == pytest.approx(39.872046, abs=0.01)


def test_the_worked_example_of_meeus() -> None:
    """Astronomical Algorithms, example 25.a, 1992 October 13.0 TD: declination -7.78507°, which at the pole is the
    elevation at any hour."""
    assert elevation(datetime(1992, 10, 13, tzinfo=UTC), 0.0, 90.0) == pytest.approx(-7.78507, abs=0.005)


@pytest.mark.parametrize(
    ("moment", "declination"),
    [  # equinoxes and solstices of 2024, to the minute (US Naval Observatory, Earth's Seasons)
        (datetime(2024, 3, 20, 3, 6, tzinfo=UTC), 0.0), (datetime(2024, 6, 20, 20, 51, tzinfo=UTC), 23.4393),
        (datetime(2024, 9, 22, 12, 44, tzinfo=UTC), 0.0), (datetime(2024, 12, 21, 9, 20, tzinfo=UTC), -23.4393),
    ],
)  # fmt: skip
def test_the_seasons_begin_when_they_do(moment: datetime, declination: float) -> None:
    assert elevation(moment, 0.0, 90.0) == pytest.approx(declination, abs=0.01)


def test_the_sun_is_highest_at_true_noon() -> None:
    """Greenwich, 2024-11-03: the equation of time is at its largest, 16 min 25 s; the sun culminates at 11:43:35."""
    start = datetime(2024, 11, 3, 11, 0, tzinfo=UTC)
    moments = [start + timedelta(seconds=10 * k) for k in range(540)]
    highest = max(moments, key=lambda m: elevation(m, 0.0, 51.4779))
    assert abs((highest - datetime(2024, 11, 3, 11, 43, 35, tzinfo=UTC)).total_seconds()) < 20


@settings(max_examples=40)
@given(st.datetimes(datetime(1990, 1, 1), datetime(2040, 1, 1)), st.floats(-180, 180), st.floats(-89, 89))
def test_midday_and_midnight_are_on_opposite_sides_of_the_declination(when: datetime, lon: float, lat: float) -> None:
    moment = when.replace(tzinfo=UTC)
    seconds = moment.timestamp() + np.arange(0, 86_400, 240)
    hours = sun_elevation(seconds, np.full(360, lon), np.full(360, lat))
    declination = elevation(moment + timedelta(hours=12), 0.0, 90.0)
    assert max(hours) == pytest.approx(90 - abs(lat - declination), abs=0.6)
    assert min(hours) == pytest.approx(-90 + abs(lat + declination), abs=0.6)


def test_a_local_time_is_read_as_the_suns_own() -> None:
    zoned = utc_seconds("2024-06-01T10:00:00Z", 9.0)
    assert zoned == datetime(2024, 6, 1, 10, tzinfo=UTC).timestamp()
    assert utc_seconds("2024-06-01T10:00:00", 15.0) == zoned - 3600  # type: ignore[operator]
    assert utc_seconds("2024-06-01", 9.0) is None
    assert utc_seconds(None, 9.0) is None


def test_the_gap_to_the_image_is_in_days_and_signed() -> None:
    assert gap_days("2024-06-02T12:00:00Z", "2024-06-01T00:00:00Z") == 1.5
    assert gap_days("2024-05-31", "2024-06-01") == -1.0
    assert gap_days(None, "2024-06-01") is None
    assert gap_days("2024-06-01", "someday") is None
