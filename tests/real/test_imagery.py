"""Real rasters: GAIR's Sentinel-2 tiles to the bit, Ghent's bands through a STAC server, a collar of nodata."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import rasterio
from rasterio.shutil import copy

from pipeline.alignment import place
from pipeline.driver.shards import make_shards
from pipeline.imagery.choice.usage import drops_of, uses
from pipeline.imagery.config import ImageryConfig
from pipeline.imagery.encode import encode
from pipeline.imagery.local import open_scene
from pipeline.imagery.read import read_images
from pipeline.imagery.sources import find_imagery
from pipeline.imagery.zoom import natural_zoom
from pipeline.meridian import quadrilaterals
from pipeline.mirror import stac
from pipeline.net.config import NetConfig
from pipeline.samples.config import PlanConfig, ShardsConfig
from schemas.errors import InputError
from schemas.sample import SampleMeta
from storage.dataset import read_samples, sample_rows
from storage.store import Store
from tests.grounds import lonlat_to_normalised
from tests.imagery.scenes import own_footprint, tiles
from tests.mirror.server import Mirror
from tests.osm.opl import write_opl
from tests.streetview.makers import write_photo

Find = Callable[[str], Path]
NET = NetConfig(retries=0)
BANDS = ["B1", "B2", "B3", "B4", "B5", "B6", "B7", "B8", "B8A", "B9", "B11", "B12"]
#: File, the photo's lon, lat, and where in the image it must lie (specification of GAIR's data, section 2.2).
GAIR = [
    ("gair/sentinel2/sacramento_rs.tif", (-121.474012, 38.570138), (0.583, 0.720)),
    ("gair/sentinel2/tokyo_rs.tif", (139.75009, 35.657349), (0.183, 0.996)),
]


@pytest.mark.parametrize(("name", "lonlat", "position"), GAIR)
def test_gair_s_tiles_keep_every_value_and_photos_their_place(
    real_file: Find, name: str, lonlat: tuple[float, float], position: tuple[float, float]
) -> None:
    path = real_file(name)
    footprint = own_footprint(path)
    assert footprint.crs == "EPSG:4326"
    scene = open_scene(path)
    assert (scene.bands, scene.dtype) == (BANDS, "uint16")
    found, rows = read_images([scene], {0: footprint}, ImageryConfig(), NET)
    assert rows == []
    member, data = encode(found[0][0].pixels, ImageryConfig())
    assert member == "rs.npy"
    with rasterio.open(path) as source:
        stored = np.load(io.BytesIO(data), allow_pickle=False)
        assert stored.dtype == np.uint16
        np.testing.assert_array_equal(stored, source.read())
        size = np.array([source.width, source.height])
    xy = lonlat_to_normalised(footprint, np.array([lonlat]))[0]
    assert (np.abs(xy - position) * size < 1).all(), f"{xy} is not {position}"
    (gsd,) = place([footprint]).gsd
    assert gsd[1] == pytest.approx(10.0, abs=0.05)
    assert gsd[0] == pytest.approx(10.0 * np.cos(np.radians(lonlat[1])), abs=0.05)
    assert scene.gsd == pytest.approx(gsd.mean())


@pytest.mark.parametrize(("name", "lonlat", "position"), GAIR)
def test_the_pipeline_keeps_their_bands_type_time_and_photo_s_place_on_map_tiles_too(
    real_file: Find, tmp_path: Path, name: str, lonlat: tuple[float, float], position: tuple[float, float]
) -> None:
    """A GAIR tile is a zoom-14 tile, rounded to whole pixels of EPSG:4326: the positions differ by less than one."""
    path = real_file(name)
    lon, lat = lonlat
    corners = [(lon - 1e-3, lat - 1e-3), (lon + 1e-3, lat - 1e-3), (lon + 1e-3, lat + 1e-3), (lon - 1e-3, lat + 1e-3)]
    osm = write_opl(
        tmp_path / "square.opl", [(i, *c, "") for i, c in enumerate(corners, 1)], [(1, [1, 2, 3, 4, 1], "building=yes")]
    )
    write_photo(tmp_path / "photos" / "a.jpg", lon, lat)
    config = ShardsConfig(
        region=str(osm), imagery=str(path), streetview=str(tmp_path / "photos"), zoom=14, out=str(tmp_path / "out"),
        workers=1, plan=PlanConfig(min_objects=0), rs=ImageryConfig(max_nodata=0.02, licence="Copernicus"),
    )  # fmt: skip
    make_shards(config, quiet=True)
    store = Store(tmp_path / "out")
    rows = [r for r in sample_rows(store) if r["n_streetview"]]
    ((_, members),) = read_samples(store, rows)
    pixels = np.load(io.BytesIO(members["rs.npy"]), allow_pickle=False)
    assert (pixels.dtype, pixels.shape) == (np.uint16, (12, 256, 256))
    meta = SampleMeta.from_bytes(members["json"])
    assert meta.rs[0].bands == BANDS
    assert meta.rs[0].acquired == open_scene(path).acquired
    assert meta.rs[0].acquired[:4] in ("2021", "2024")  # type: ignore[index]
    seen = np.array([meta.streetview[0].x, meta.streetview[0].y])
    assert (np.abs(seen - position) * 256 < 1).all(), f"{seen} is not {position}"
    with rasterio.open(path) as source:
        assert np.abs(pixels.mean(axis=(1, 2)) / source.read().mean(axis=(1, 2)) - 1).max() < 0.02


def test_ghent_s_bands_arrive_from_a_stac_server_as_they_are(real_file: Find, tmp_path: Path) -> None:
    """Two bands of one date in files of their own, in EPSG:3857 with pixels that are not square."""
    folder = tmp_path / "stac" / "sentinel-2-l1c"
    folder.mkdir(parents=True)
    assets = {}
    for band in ("B04", "B08"):
        path = real_file(f"rs/gent/2020-09-17_Sentinel_2_L1C_{band}.tiff")
        copy(path, folder / f"{band}.tif", driver="COG", compress="DEFLATE", overviews="NONE")
        assets[band] = f"{band}.tif"
    item = {"id": "gent", "datetime": "2020-09-17T10:50:31Z", "properties": {"eo:cloud_cover": 0.5}, "assets": assets}
    (folder / "manifest.json").write_text(json.dumps({"items": [item]}))
    with Mirror(tmp_path, services={"stac": stac.respond}) as mirror:
        config = ImageryConfig(stac_url=f"{mirror.url}/stac", collection="sentinel-2-l1c", bands=("B08", "B04"))
        scenes, _ = find_imagery("stac", [(3.7, 51.04, 3.75, 51.06)], config, NET)
        (scene,) = scenes
        assert scene.gsd == pytest.approx(36.1, abs=0.2)
        zoom = natural_zoom(scene.gsd, 51.05)
        assert zoom == 12
        found, rows = read_images(scenes, tiles(3.72, 51.05, zoom, 256, 1), config, NET)
        assert rows == []
        ((image,),) = found.values()
        assert (image.acquired, image.pixels.dtype) == ("2020-09-17T10:50:31Z", np.uint16)
        own = own_footprint(folder / "B04.tif")
        ((whole,),) = read_images(scenes, {0: own}, config, NET)[0].values()
    for band, pixels in zip(("B08", "B04"), whole.pixels, strict=True):
        with rasterio.open(real_file(f"rs/gent/2020-09-17_Sentinel_2_L1C_{band}.tiff")) as source:
            np.testing.assert_array_equal(pixels, source.read(1))
    assert image.pixels[0].mean() > image.pixels[1].mean()  # more infrared than red: it is summer


def test_the_collar_of_a_landsat_scene_is_no_image(real_file: Find) -> None:
    path = real_file("rs/bahamas/RGB.byte.tif")
    scene = open_scene(path)
    lon, lat = scene.area.centroid.coords[0]
    footprints = tiles(lon, lat, natural_zoom(scene.gsd or 0, lat), 256, 9)
    config = ImageryConfig()
    found, rows = read_images([scene], footprints, config, NET)
    loose, _ = read_images([scene], footprints, ImageryConfig(max_nodata=0.999), NET)
    assert 0 < len(found) < len(loose)
    assert {r["reason"] for r in rows} == {"nodata", "no_imagery"}
    for key, (image,) in loose.items():
        assert (key in found) == (image.nodata_share <= config.max_nodata)


def test_ghent_s_files_are_the_channels_of_one_scene_with_the_day_of_their_names(real_file: Find) -> None:
    """GDAL calls red and near infrared gray both, and neither has a time; the picture of the day has other bands."""
    red = real_file("rs/gent/2020-09-17_Sentinel_2_L1C_B04.tiff")
    config = ImageryConfig(bands=("nir", "red"), time_pattern="%Y-%m-%d")
    (scene,), rows = find_imagery(f"{red.parent}/*.tiff", [], config, NET)
    assert (scene.bands, scene.acquired) == (["B08", "B04"], "2020-09-17")
    assert [(r["source"], r["reason"]) for r in rows] == [
        ("2020-09-17_Sentinel_2_L1C_True_color.tiff", "missing_band"),
    ]  # fmt: skip
    found, _ = read_images([scene], {0: own_footprint(red)}, config, NET)
    for name, pixels in zip(("B08", "B04"), found[0][0].pixels, strict=True):
        with rasterio.open(red.with_name(red.name.replace("B04", name))) as source:
            np.testing.assert_array_equal(pixels, source.read(1))
    with pytest.raises(InputError, match="choose the bands that all have"):
        find_imagery(f"{red.parent}/*.tiff", [], ImageryConfig(), NET)


def test_a_place_s_seasons_stay_apart_and_a_plan_names_what_is_not_used(real_file: Find, tmp_path: Path) -> None:
    """Four seasons of one place, as a file of Sentinel-2 each with no time but in its name."""
    path = real_file(GAIR[0][0])
    seasons = ("2021-03-21_spring", "2021-06-21_summer", "2021-09-21_autumn", "2021-12-21_winter")
    with rasterio.open(path) as source:
        profile, own = source.profile, source.read([4, 3, 2])
    for n, name in enumerate(seasons):
        with rasterio.open(tmp_path / f"{name}.tif", "w", **(profile | {"count": 3})) as target:
            target.write(np.where(own > 0, own + n, 0))
            target.descriptions = ("B4", "B3", "B2")
    footprint = own_footprint(path)
    placement = place([footprint])
    ground = [(quadrilaterals(placement.corners), placement.gsd.mean(axis=1))]
    for settings, order in (({}, "0123"), ({"time_pattern": "%Y-%m-%d"}, "3210")):
        config = ImageryConfig(dates=2, **settings)
        scenes, _ = find_imagery(f"{tmp_path}/*.tif", [], config, NET)
        images, _ = read_images(scenes, {0: footprint}, config, NET)
        assert [i.sources for i in images[0]] == [[f"{seasons[int(k)]}.tif"] for k in order[:2]]
        for k, image in zip(order, images[0], strict=False):
            np.testing.assert_array_equal(image.pixels, np.where(own > 0, own + int(k), 0))
        rows = drops_of(uses(scenes, ground, config))
        assert sorted((r["source"], r["reason"]) for r in rows) == sorted(
            (f"{seasons[int(k)]}.tif", "outranked") for k in order[2:]
        )
