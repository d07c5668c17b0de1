"""When a photo was taken: moments of UTC from what sources write, and where the sun stood."""

from __future__ import annotations

from datetime import UTC, datetime

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def utc_seconds(time: str | None, lon: float) -> float | None:
    """Seconds since 1970 UTC of an ISO 8601 time; None for none, and for a date without a time of day.

    A local time (without a zone) is read as mean solar time at ``lon`` degrees: clocks are most often ahead of it by 0
    to 2 hours, so the moment is up to that much too late.
    """
    seconds = day_seconds(time)
    if time is None or seconds is None or len(time) <= 10:
        return None
    return seconds if datetime.fromisoformat(time).tzinfo is not None else seconds - lon / 15.0 * 3600.0


def day_seconds(time: str | None) -> float | None:
    """Seconds since 1970 of an ISO 8601 time or date, a local one taken for UTC: to compare days."""
    if time is None:
        return None
    try:
        moment = datetime.fromisoformat(time)
    except ValueError:
        return None
    return (moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)).timestamp()


def gap_days(photo: str | None, image: str | None) -> float | None:
    """Days from an image to a photo (negative: the photo is older), to 0.01; None where either time is unknown."""
    a, b = day_seconds(photo), day_seconds(image)
    return None if a is None or b is None else round((a - b) / 86_400.0, 2) + 0.0


def sun_elevation(seconds: Floats, lon: Floats, lat: Floats) -> Floats:
    """Elevation of the sun's centre above the horizon in degrees f64[N], without refraction.

    Args:
        seconds: since 1970 UTC, f64[N]
        lon: degrees east, f64[N]
        lat: degrees north, f64[N]

    The low-accuracy solar position of Meeus, Astronomical Algorithms (2nd ed.), chapter 25, with the mean sidereal time
    of chapter 12: within 0.02° from 1950 to 2050.
    """
    t = (np.asarray(seconds, np.float64) / 86_400.0 + 2_440_587.5 - 2_451_545.0) / 36_525.0  # centuries since J2000
    mean = 280.46646 + t * (36_000.76983 + t * 0.0003032)
    anomaly = np.radians(357.52911 + t * (35_999.05029 - t * 0.0001537))
    centre = (
        (1.914602 - t * (0.004817 + t * 0.000014)) * np.sin(anomaly)
        + (0.019993 - t * 0.000101) * np.sin(2 * anomaly)
        + 0.000289 * np.sin(3 * anomaly)
    )
    node = np.radians(125.04 - 1934.136 * t)
    apparent = np.radians(mean + centre - 0.00569 - 0.00478 * np.sin(node))
    tilt = np.radians(23.4392911 - t * 0.0130042 + 0.00256 * np.cos(node))
    declination = np.arcsin(np.sin(tilt) * np.sin(apparent))
    ascension = np.arctan2(np.cos(tilt) * np.sin(apparent), np.cos(apparent))
    sidereal = 280.46061837 + 360.98564736629 * t * 36_525.0 + t * t * 0.000387933
    hour = np.radians(sidereal + lon) - ascension
    phi = np.radians(lat)
    sine = np.sin(phi) * np.sin(declination) + np.cos(phi) * np.cos(declination) * np.cos(hour)
    elevation: Floats = np.degrees(np.arcsin(np.clip(sine, -1.0, 1.0)))
    return elevation
