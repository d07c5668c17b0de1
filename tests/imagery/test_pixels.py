"""From values to 8 bits, and from pixels to members."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from rasterio.shutil import copy

from pipeline.imagery import read as reading
from pipeline.imagery import stretch
from pipeline.imagery.config import ImageryConfig
from pipeline.imagery.encode import encode
from pipeline.imagery.local import open_scene
from pipeline.imagery.read import read_images
from pipeline.net.config import NetConfig
from schemas.config import build
from schemas.errors import ConfigError, InputError
from tests.imagery.scenes import LAT, LON, UTM, around, own_footprint, texture, tiles, write_raster

NET = NetConfig(retries=0)


@given(st.floats(-1e4, 1e4), st.floats(0.1, 1e5), st.lists(st.integers(-32768, 32767), min_size=1, max_size=50))
def test_the_stretch_is_linear_between_its_ends_and_flat_beyond(low: float, width: float, values: list[int]) -> None:
    pixels = np.array(values, np.int16)[None, None]
    found = stretch.apply(pixels, ((low, low + width),), None)[0, 0].astype(int)
    exact = np.clip((np.array(values, float) - low) / width * 255, 0, 255)
    assert (np.abs(found - exact) <= 0.51).all()


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "int32", "uint32", "float32", "float64"])
def test_any_type_becomes_8_bits_by_the_given_range(tmp_path: Path, dtype: str) -> None:
    data = np.arange(3 * 20 * 30).reshape(3, 20, 30).astype(dtype) % 200
    path = write_raster(tmp_path / "x.tif", data)
    config = ImageryConfig(stretch="linear", stretch_range=((0, 100), (50, 150), (0, 255)))
    found, _ = read_images([open_scene(path, config)], {0: own_footprint(path)}, config, NET)
    (image,) = found[0]
    assert image.pixels.dtype == np.uint8
    assert image.stretch == "linear 0..100 50..150 0..255"
    for band, (low, high), target in zip(data, config.stretch_range, image.pixels, strict=True):
        np.testing.assert_array_equal(target, np.rint(np.clip((band.astype(float) - low) / (high - low), 0, 1) * 255))


def test_a_type_that_no_member_holds_needs_a_stretch(tmp_path: Path) -> None:
    path = write_raster(tmp_path / "deep.tif", np.ones((1, 9, 9), np.float64))
    with pytest.raises(InputError, match=r"deep\.tif is float64; rs\.npy holds .* rs\.stretch"):
        open_scene(path)
    with pytest.raises(InputError, match="complex"):
        open_scene(
            write_raster(tmp_path / "c.tif", np.ones((1, 9, 9), np.complex64)), ImageryConfig(stretch="percentile")
        )


@pytest.mark.parametrize("overviews", [True, False])
def test_percentiles_are_the_scene_s_not_the_tile_s(tmp_path: Path, overviews: bool) -> None:
    """A scene that brightens from west to east: its tiles do too, and a value has one meaning in all of them."""
    side = 2600
    ramp = np.linspace(100, 4000, side).astype(np.uint16)[None, None].repeat(side, axis=1)
    ramp[:, :40] = 0
    path = write_raster(
        tmp_path / "ramp.tif", ramp, transform=around(LON, LAT, UTM, side, side, 0.6), nodata=0, tiled=True
    )
    if overviews:
        copy(path, tmp_path / "cog.tif", driver="COG", overview_resampling="NEAREST")
        path = tmp_path / "cog.tif"
    config = ImageryConfig(stretch="percentile", percentiles=(5, 95))
    footprints = tiles(LON, LAT, 17, 64, 3)
    found, _ = read_images([open_scene(path, config)], footprints, config, NET)
    raw, _ = read_images([open_scene(path)], footprints, ImageryConfig(), NET)
    (text,) = {own[0].stretch for own in found.values()}
    low, high = (float(v) for v in text.removeprefix("percentile 5,95: ").split(".."))  # type: ignore[union-attr]
    assert (low, high) == pytest.approx((100 + 0.05 * 3900, 100 + 0.95 * 3900), abs=60)
    for key, own in found.items():
        expected = stretch.apply(raw[key][0].pixels, ((low, high),), None)
        assert np.abs(own[0].pixels.astype(int) - expected).max() <= 1
    alone, _ = read_images([open_scene(path, config)], dict([next(iter(footprints.items()))]), config, NET)
    for key, own in alone.items():
        np.testing.assert_array_equal(own[0].pixels, found[key][0].pixels)


def test_nodata_is_black_after_a_stretch(tmp_path: Path) -> None:
    data = texture(1, (1, 40, 40), 500, 900, np.uint16)
    data[:, :10] = 0
    path = write_raster(tmp_path / "x.tif", data, nodata=0)
    config = ImageryConfig(stretch="linear", stretch_range=((-100, 900),), max_nodata=0.5)
    found, _ = read_images([open_scene(path, config)], {0: own_footprint(path)}, config, NET)
    assert (found[0][0].pixels[:, :10] == 0).all()
    assert (found[0][0].pixels[:, 10:] > 0).all()
    assert found[0][0].nodata_share == 0.25


@given(st.integers(0, 99), st.sampled_from(["uint8", "uint16", "int16", "float32"]), st.integers(1, 13))
def test_raw_bands_come_back_as_they_are(number: int, dtype: str, bands: int) -> None:
    pixels = np.random.default_rng(number).integers(0, 120, (bands, 7, 9)).astype(dtype)
    name, data = encode(pixels, ImageryConfig(format="npy"), number)
    assert name == f"rs.{number}.npy"
    back = np.load(io.BytesIO(data), allow_pickle=False)
    assert back.dtype == dtype
    np.testing.assert_array_equal(back, pixels)


@pytest.mark.parametrize("layout", ["planar", "interleaved", "padded", "end of its memory"])
def test_jpeg_and_png_hold_the_image_however_it_lies_in_memory(layout: str) -> None:
    smooth = np.asarray(
        Image.fromarray(texture(3, (8, 8, 3)).astype(np.uint8)).resize((64, 48), Image.Resampling.BICUBIC)
    )
    planar = np.ascontiguousarray(smooth.transpose(2, 0, 1))
    padded = np.dstack((smooth, np.full(smooth.shape[:2], 77, np.uint8)))
    pixels = {
        "planar": planar, "interleaved": np.ascontiguousarray(smooth).transpose(2, 0, 1),
        "padded": padded.transpose(2, 0, 1)[:3],
        "end of its memory": np.dstack((smooth[..., :1], smooth)).transpose(2, 0, 1)[1:],
    }[layout]  # fmt: skip
    np.testing.assert_array_equal(pixels, planar)
    name, data = encode(pixels, ImageryConfig(format="png"))
    assert name == "rs.png"
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(data))), smooth)
    for subsampling in ("420", "444"):
        config = ImageryConfig(quality=95, subsampling=subsampling)  # type: ignore[arg-type]
        name, data = encode(pixels, config)
        assert name == "rs.jpg"
        assert data == encode(planar, config)[1]
        assert np.abs(np.asarray(Image.open(io.BytesIO(data))).astype(int) - smooth).mean() < 4


def test_jpeg_of_something_else_is_refused_with_a_way_out() -> None:
    with pytest.raises(InputError, match=r"needs three 8-bit bands, the imagery has 4 of uint16; .*rs\.stretch"):
        encode(np.zeros((4, 8, 8), np.uint16), ImageryConfig(format="jpg"))


@pytest.mark.parametrize(
    ("values", "message"),
    [({"stretch": "linear"}, "needs rs.stretch_range"), ({"stretch_range": [[0, 1]]}, "needs rs.stretch=linear"),
     ({"stretch": "linear", "stretch_range": [[5, 5]]}, "low < high"), ({"percentiles": [98, 2]}, "the lower first"),
     ({"dates": 0}, "rs.dates"), ({"mask_bits": [40]}, "0 to 31"), ({"max_cloud": 101}, "per cent"),
     ({"max_nodata": 2}, "rs.max_nodata"), ({"quality": 0}, "rs.quality"), ({"stretch": "none please"}, "none")],
)  # fmt: skip
def test_settings_that_make_no_sense_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build(ImageryConfig, values, "rs.")


def test_as_many_ranges_as_bands_or_one(tmp_path: Path) -> None:
    path = write_raster(tmp_path / "x.tif", np.ones((3, 9, 9), np.uint16))
    config = build(ImageryConfig, {"stretch": "linear", "stretch_range": [[0, 1], [0, 2]]}, "rs.")
    with pytest.raises(ConfigError, match="2 pairs for the 3 bands"):
        read_images([open_scene(path, config)], {0: own_footprint(path)}, config, NET)


def test_spots_of_a_small_scene_lie_inside_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stretch, "SAMPLE", 16)
    path = write_raster(tmp_path / "x.tif", np.arange(50 * 33).reshape(1, 50, 33).astype(np.uint16) + 1)
    scene = open_scene(path)
    with rasterio.open(path) as source:
        low, high = reading._percentiles(source, 1, scene.assets[0], 0, ImageryConfig(percentiles=(0, 100)))
    assert 1 <= low < 100
    assert 1500 < high <= 1650
