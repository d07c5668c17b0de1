"""The zoom that suits an image."""

from __future__ import annotations

import numpy as np
import pytest
import shapely
from hypothesis import given
from hypothesis import strategies as st

from geometry.tiles import lonlat_to_tile, xyz_footprint
from pipeline.alignment import place
from pipeline.imagery.config import ImageryConfig
from pipeline.imagery.scene import Scene
from pipeline.imagery.sources import natural_zoom_of
from pipeline.imagery.stac.presets import SENTINEL_ZOOM
from pipeline.imagery.zoom import MAX_ZOOM, SLACK, natural_zoom, pixel_metres
from schemas.errors import ConfigError
from schemas.keys import XyzKey


@given(st.floats(0.05, 5000), st.floats(-85, 85), st.sampled_from([128, 256, 512]))
def test_no_detail_is_lost_and_one_zoom_less_would_lose_some(gsd: float, lat: float, size: int) -> None:
    zoom = natural_zoom(gsd, lat, size)
    if zoom < MAX_ZOOM:
        assert pixel_metres(zoom, lat, size) <= gsd * SLACK
    if zoom > 0:
        assert pixel_metres(zoom - 1, lat, size) > gsd * SLACK


@given(st.floats(0.1, 1000), st.floats(0, 80), st.sampled_from([128, 256, 512]))
def test_twice_the_pixels_a_tile_are_one_zoom_less(gsd: float, lat: float, size: int) -> None:
    if 0 < natural_zoom(gsd, lat, size) < MAX_ZOOM:
        assert natural_zoom(gsd, lat, 2 * size) == natural_zoom(gsd, lat, size) - 1


@pytest.mark.parametrize("lat", [0.0, 35.0, 51.0, 55.0])
def test_sentinel_2_is_cut_at_zoom_14(lat: float) -> None:
    assert natural_zoom(10.0, lat) == SENTINEL_ZOOM == 14


@pytest.mark.parametrize("lat", [0.0, 47.0, 69.0])
def test_pixels_are_true_metres_but_for_the_ellipsoid(lat: float) -> None:
    x, y = np.floor(lonlat_to_tile(np.array([9.0, lat]), 17)).astype(int)
    gsd = place([xyz_footprint(XyzKey(17, int(x), int(y), 256))]).gsd[0]
    assert pixel_metres(17, lat, 256) == pytest.approx(gsd.mean(), rel=7e-3)


@pytest.mark.parametrize(("gsd", "lat", "size"), [(0.0, 0.0, 256), (-1.0, 0, 256), (float("nan"), 0, 256),
                                                  (float("inf"), 0, 256), (1.0, 91.0, 256), (1.0, 0.0, 0)])  # fmt: skip
def test_nonsense_is_refused(gsd: float, lat: float, size: int) -> None:
    with pytest.raises(ConfigError):
        natural_zoom(gsd, lat, size)


def test_the_zoom_of_a_run_is_the_preset_s_or_that_of_its_finest_image() -> None:
    def scene(gsd: float | None, lat: float) -> Scene:
        return Scene("x", shapely.box(8, lat, 8.1, lat), ["B1"], "uint8", None, gsd=gsd)

    config = ImageryConfig()
    assert natural_zoom_of("earth-search", [scene(10.0, 65.0)], config) == 14
    assert natural_zoom_of("earth-search", [scene(10.0, 65.0)], config, 512) == 13
    assert natural_zoom_of("earth-search", [scene(30.0, 0.0)], ImageryConfig(collection="landsat"), 256) == 13
    assert natural_zoom_of("a.tif,b.tif", [scene(10.0, 0.0), scene(0.3, 0.0)], config) == natural_zoom(0.3)
    assert natural_zoom_of("xyz", [scene(None, 0.0)], config) is None
