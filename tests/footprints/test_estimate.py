"""Estimates before a build."""

from __future__ import annotations

import numpy as np
import pytest
import shapely

from pipeline.footprints.estimate import RATES, estimate, tiles_of_area
from pipeline.footprints.ground import tiles_on


@pytest.mark.parametrize(
    "area",
    [
        shapely.box(9.0, 46.8, 10.0, 47.6),
        shapely.Point(10, 50).buffer(1.5),
        shapely.MultiPolygon([shapely.box(1, 42, 1.8, 42.7), shapely.Point(7, 44).buffer(0.6)]),
    ],
)
@pytest.mark.parametrize("zoom", [12, 14])
def test_tiles_of_an_area_are_about_those_that_meet_it(area: object, zoom: int) -> None:
    counted = len(tiles_on(None, area, zoom, 10**7))
    assert tiles_of_area(area, zoom) == pytest.approx(counted, rel=0.05)


def test_the_poles_have_no_tiles() -> None:
    assert tiles_of_area(shapely.box(0, 86, 10, 89), 8) == 0
    assert tiles_of_area(shapely.box(-180, -90, 180, 90), 3) == pytest.approx(64, rel=0.5)


def test_time_and_space_grow_with_what_is_asked() -> None:
    plain = estimate(10_000, 50_000_000)
    assert plain.shards == 40
    assert plain.core_hours * 3600 == pytest.approx(
        50 / RATES.pbf_mb_per_second + 50 / RATES.cells_mb_per_second + 10_000 / RATES.tiles_per_second
    )
    pictured = estimate(10_000, 50_000_000, image_bytes=30_000, photos_per_tile=0.5)
    assert pictured.disk_bytes - plain.disk_bytes == 10_000 * (30_000 + RATES.photo_bytes // 2)
    assert pictured.core_hours > plain.core_hours
    assert estimate(10_000, 0, share=0.5).chosen == 5_000
    assert estimate(10_000, 0, share=0.5, most=100).chosen == 100
    assert estimate(0, 0).as_dict()["shards"] == 0
    assert np.isfinite(plain.core_hours)
