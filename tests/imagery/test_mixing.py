"""What an image is made of: sources that mean one band, of one day, at one resolution. Every source has one value, so
that a mixed pixel shows."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import shapely
from affine import Affine

from pipeline.alignment import place
from pipeline.driver.forecast import exact_forecast
from pipeline.footprints.chips.plan import DescribeJob, describe_chips
from pipeline.footprints.chips.scan import find_chips
from pipeline.imagery.choice.order import join
from pipeline.imagery.choice.usage import drops_of, lines_of, uses
from pipeline.imagery.config import ImageryConfig
from pipeline.imagery.local import open_scene
from pipeline.imagery.read import read_images
from pipeline.imagery.scene import Scene
from pipeline.imagery.sources import find_imagery, licence_of
from pipeline.meridian import quadrilaterals
from pipeline.net.config import NetConfig
from pipeline.samples.config import PlanConfig, ShardsConfig
from schemas.errors import ConfigError, InputError
from schemas.footprint import Footprint
from tests.imagery.scenes import LAT, LON, UTM, around, tiles, write_raster
from tests.osm.opl import write_opl

NET = NetConfig(retries=0)
SIDE = 1550.0  # metres


def flat(
    path: Path, *values: int, gsd: float = 10.0, shift: tuple[float, float] = (0, 0), dtype: Any = np.uint16, **kw: Any
) -> Path:
    """A raster of one value a band over the same ground, moved by metres; GDAL calls one band gray, three RGB."""
    count = round(SIDE / gsd)
    data = np.ones((len(values), count, count), dtype) * np.array(values, dtype)[:, None, None]
    where = Affine.translation(*shift) @ around(LON, LAT, UTM, count, count, SIDE / count)
    return write_raster(path, data, transform=where, **kw)


def placed(footprints: Iterable[Footprint]) -> tuple[Any, Any]:
    """Outlines, and metres a pixel."""
    placement = place(list(footprints))
    return quadrilaterals(placement.corners), placement.gsd.mean(axis=1)


def found(imagery: Path | str, **settings: Any) -> tuple[list[Scene], list[dict[str, Any]], ImageryConfig]:
    config = ImageryConfig(**settings)
    return *find_imagery(str(imagery), [], config, NET), config


def held(imagery: Path | str, zoom: int = 14, count: int = 1, **settings: Any) -> dict[Any, list[tuple[Any, ...]]]:
    """The values of each channel of each image of the tiles, and its sources and time."""
    scenes, _, config = found(imagery, **settings)
    images, rows = read_images(scenes, tiles(LON, LAT, zoom, 64, count), config, NET)
    assert rows == []
    return {
        k: [(*(tuple(np.unique(b).tolist()) for b in i.pixels), tuple(i.sources), i.acquired) for i in own]
        for k, own in images.items()
    }


def test_files_of_single_bands_are_the_channels_of_one_scene_never_of_one_channel(tmp_path: Path) -> None:
    """As Sentinel-2 is unpacked: red and near infrared in files of their own that GDAL calls gray both."""
    flat(tmp_path / "2020-09-17_L1C_B08.tiff", 800)
    flat(tmp_path / "2020-09-17_L1C_B04.tiff", 400)
    for bands, wanted in (((), [(400,), (800,)]), (("nir", "red"), [(800,), (400,)]), (("B8",), [(800,)])):
        ((image,),) = held(f"{tmp_path}/*.tiff", zoom=16, bands=bands).values()
        assert list(image[:-2]) == wanted
        assert image[-2] == (("2020-09-17_L1C",) if len(wanted) > 1 else ("2020-09-17_L1C_B08.tiff",))
    scenes, rows, _ = found(f"{tmp_path}/*.tiff", bands=("B8",))
    assert scenes[0].bands == ["B08"]
    assert [(r["source"], r["reason"]) for r in rows] == [("2020-09-17_L1C_B04.tiff", "band_not_wanted")]
    with pytest.raises(InputError, match="2020-09-17_L1C has no band green; it has B04, B08"):
        found(f"{tmp_path}/*.tiff", bands=("green",))


def test_of_a_band_in_several_files_the_finest_is_taken(tmp_path: Path) -> None:
    """As ESA's folders have them: a band again at every coarser resolution."""
    flat(tmp_path / "R10m" / "T32_20210601_B04_10m.tif", 410)
    flat(tmp_path / "R20m" / "T32_20210601_B04_20m.tif", 420, gsd=20.0)
    flat(tmp_path / "R20m" / "T32_20210601_B11_20m.tif", 1120, gsd=20.0)
    flat(tmp_path / "R60m" / "T32_20210601_B11_60m.tif", 1160, gsd=60.0)
    flat(tmp_path / "R20m" / "T32_20210601_SCL_20m.tif", 4, gsd=20.0, dtype=np.uint8)
    own = {"bands": ("B4", "B11"), "mask": "SCL", "mask_values": (9,), "time_pattern": "%Y%m%d"}
    scenes, rows, _ = found(f"{tmp_path}/*/*.tif", **own)
    (scene,) = scenes
    assert (scene.name, scene.bands, scene.acquired, len(scene.assets)) == (
        "T32_20210601",
        ["B04", "B11"],
        "2021-06-01",
        2,
    )
    assert scene.gsd == pytest.approx(10.0, rel=0.01)
    assert scene.mask is not None
    assert {r["source"]: r["reason"] for r in rows} == {
        "T32_20210601_B04_20m.tif": "coarser_band", "T32_20210601_B11_60m.tif": "coarser_band",
    }  # fmt: skip
    assert re.fullmatch(r"B11 of [56]\S* m; T32_20210601_B11_20m.tif has it at [12]\S* m", rows[1]["detail"])
    ((image,),) = held(f"{tmp_path}/*/*.tif", zoom=16, **own).values()
    assert image[:2] == ((410,), (1120,))


def test_a_file_that_lacks_the_mask_is_left_out_where_others_have_it(tmp_path: Path) -> None:
    """As ESA's folders have atmosphere and true colours beside the bands."""
    for name in ("B04_20m", "SCL_20m", "AOT_20m"):
        flat(tmp_path / f"T32_20210601_{name}.tif", 4)
    with pytest.raises(InputError, match=r"rs\.mask=SCL needs rs\.mask_values or rs\.mask_bits"):
        found(f"{tmp_path}/*.tif", bands=("B4",), mask="SCL")
    scenes, rows, _ = found(f"{tmp_path}/*.tif", bands=("B4",), mask="SCL", mask_values=(9,))
    assert [(s.name, s.bands, s.mask is not None) for s in scenes] == [("T32_20210601", ["B04"], True)]
    assert [(r["source"], r["reason"]) for r in rows] == [("T32_20210601_AOT_20m.tif", "missing_band")]


def test_bands_that_were_written_some_seconds_apart_are_one_image(tmp_path: Path) -> None:
    """TIFFTAG_DATETIME may be when the file was written."""
    for second, band in enumerate(("B04", "B08")):
        with rasterio.open(flat(tmp_path / f"x_{band}.tif", 4), "r+") as target:
            target.update_tags(TIFFTAG_DATETIME=f"2021:06:01 10:00:0{second}")
    (scene,), _, _ = found(f"{tmp_path}/*.tif")
    assert (scene.bands, scene.acquired) == (["B04", "B08"], "2021-06-01T10:00:00")


def test_landsat_s_numbers_are_landsat_s(tmp_path: Path) -> None:
    for band in (4, 5):
        flat(tmp_path / f"LC08_L2SP_{band}_SR_B{band}.TIF", band)
    scenes, _, _ = found(f"{tmp_path}/LC08_L2SP_5_SR_B5.TIF", bands=("nir08",))
    assert scenes[0].bands == ["OLI_B5"]
    with pytest.raises(InputError, match="no band B5; it has OLI_B5"):
        found(f"{tmp_path}/LC08_L2SP_5_SR_B5.TIF", bands=("B5",))


def test_a_file_without_the_bands_is_left_out_by_name_where_others_have_them(tmp_path: Path) -> None:
    good = flat(tmp_path / "good.tif", 1, 2, names=("B4", "B8"))
    flat(tmp_path / "true_color.tif", 1, 2, 3, names=("band_data",) * 3)
    scenes, rows, _ = found(f"{tmp_path}/*.tif", bands=("B4", "B8"))
    assert [s.name for s in scenes] == [good.name]
    ((source, reason),) = [(r["source"], r["reason"]) for r in rows]
    assert (source, reason) == ("true_color.tif", "missing_band")
    with pytest.raises(InputError, match="differ in bands or type; choose the bands"):
        found(f"{tmp_path}/*.tif")


def test_the_finer_of_two_files_without_a_time_comes_first_whatever_they_are_called(tmp_path: Path) -> None:
    """A coarse false-colour picture that is called a.tif fills nothing of the fine one."""
    flat(tmp_path / "a.tif", 101, 102, 103, gsd=30.0, dtype=np.uint8)
    fine = flat(tmp_path / "b.tif", 1, 2, 3, gsd=10.0, dtype=np.uint8, nodata=0)
    with rasterio.open(fine, "r+") as target:
        target.write(np.zeros((3, 3, 3), np.uint8), window=((70, 73), (70, 73)))
    ((image,),) = held(f"{tmp_path}/*.tif", zoom=16, max_nodata=0.05).values()
    assert image[-2] == ("b.tif",)
    assert max(v for band in image[:3] for v in band) < 100  # none of the other's
    ((one, two),) = held(f"{tmp_path}/*.tif", zoom=16, max_nodata=0.05, dates=2).values()
    assert (one[-2], two[-2]) == (("b.tif",), ("a.tif",))


def test_two_files_without_a_time_over_one_place_are_two_scenes_and_sheets_are_one(tmp_path: Path) -> None:
    for value, season in enumerate(("autumn", "spring", "summer"), 1):
        flat(tmp_path / f"{season}_west.tif", value, shift=(-SIDE / 2 + 10, 0), nodata=0)
        flat(tmp_path / f"{season}_east.tif", 10 + value, shift=(SIDE / 2 - 10, 0), nodata=0)
    scenes, _, _ = found(f"{tmp_path}/*.tif")
    assert [(s.name.partition("_")[0], s.mosaic) for s in scenes] == [
        *[("autumn", 0)] * 2, *[("spring", 1)] * 2, *[("summer", 2)] * 2,
    ]  # fmt: skip
    images = held(f"{tmp_path}/*.tif", zoom=17, count=3, dates=5)
    assert {len(i[-2]) for own in images.values() for i in own} == {1, 2}  # the seam goes through some
    for own in images.values():
        for k, image in enumerate(own, 1):
            assert set(image[0]) <= {k, 10 + k}
        assert len(own) == 3


def test_a_day_of_two_resolutions_gives_one_image_of_the_finer(tmp_path: Path) -> None:
    when = {"tags": {"TIFFTAG_DATETIME": "2021:06:01 10:00:00"}}
    flat(tmp_path / "a.tif", 100, gsd=30.0, **when)
    flat(tmp_path / "b.tif", 1, gsd=10.0, **when)
    flat(tmp_path / "c.tif", 7, gsd=10.0, tags={"TIFFTAG_DATETIME": "2020:06:01 10:00:00"})
    ((one, two),) = held(f"{tmp_path}/*.tif", zoom=16, dates=3).values()
    assert (one[0], one[-1], two[0], two[-1]) == ((1,), "2021-06-01T10:00:00", (7,), "2020-06-01T10:00:00")


@pytest.mark.parametrize("dates", [1, 2, 3])
def test_a_plan_expects_one_image_of_a_day_that_has_two_resolutions(tmp_path: Path, dates: int) -> None:
    when = {"tags": {"TIFFTAG_DATETIME": "2021:06:01 10:00:00"}}
    flat(tmp_path / "a.tif", 100, gsd=30.0, **when)
    flat(tmp_path / "b.tif", 1, gsd=10.0, **when)
    flat(tmp_path / "c.tif", 7, gsd=30.0, tags={"TIFFTAG_DATETIME": "2020:06:01 10:00:00"})
    scenes, _, config = found(f"{tmp_path}/*.tif", dates=dates)
    some = tiles(LON, LAT, 16, 64, 2)
    use = {u.name: u.serves for u in uses(scenes, [placed(some.values())], config)}
    images, _ = read_images(scenes, some, config, NET)
    assert use == {s.name: sum(s.name in i.sources for own in images.values() for i in own) for s in scenes}
    assert use == {"a.tif": 0, "b.tif": 4, "c.tif": 4 * (dates > 1)}


def test_an_image_is_under_the_licences_of_all_files_that_it_is_made_of(tmp_path: Path) -> None:
    """Sheets of one image and files of its bands."""
    for name, licence, shift in (("a", "CC-BY-4.0", -SIDE / 2), ("b", "CC0-1.0", SIDE / 2)):
        flat(tmp_path / f"{name}.tif", 5, shift=(shift, 0), tags={"LICENSE": licence})
    scenes, _, config = found(f"{tmp_path}/*.tif", max_nodata=1.0)
    (own,) = read_images(scenes, tiles(LON, LAT, 16, 64), config, NET)[0].values()
    assert {licence_of(s, config, "ODbL-1.0") for s in own[0].scenes} == {"CC-BY-4.0", "CC0-1.0"}
    folder = tmp_path / "bands"
    folder.mkdir()
    for band, licence in (("B04", "CC0-1.0"), ("B08", "CC-BY-4.0")):
        flat(folder / f"T_{band}.tif", 5, tags={"LICENSE": licence})
    (scene,), _, config = found(f"{folder}/*.tif", bands=("B04", "B08"))
    assert licence_of(scene, config, None) == "CC-BY-4.0 AND CC0-1.0"


def test_a_newer_image_that_is_far_too_coarse_for_a_tile_does_not_come_first(tmp_path: Path) -> None:
    flat(tmp_path / "coarse.tif", 100, gsd=30.0, tags={"TIFFTAG_DATETIME": "2022:06:01 10:00:00"})
    flat(tmp_path / "fine.tif", 1, gsd=10.0, tags={"TIFFTAG_DATETIME": "2020:06:01 10:00:00"})
    assert {own[0][0] for own in held(f"{tmp_path}/*.tif", zoom=16).values()} == {(1,)}
    scenes, _, config = found(f"{tmp_path}/*.tif")
    (large,) = tiles(LON, LAT, 14, 16).values()  # pixels of 104 m: both have more than it needs
    images, _ = read_images(scenes, {0: large}, config.__class__(max_nodata=1.0), NET)
    assert images[0][0].scene.name == "coarse.tif"


def test_a_plan_counts_a_scene_that_covers_enough_of_a_footprint(tmp_path: Path) -> None:
    outlines = placed(tiles(LON, LAT, 16, 64, 1).values())
    shares = []
    for metres in range(-1000, 0, 100):
        flat(tmp_path / "a.tif", 1, shift=(metres, 0.0))
        scenes, _, config = found(tmp_path / "a.tif")
        share = shapely.area(shapely.intersection(scenes[0].area, outlines[0][0])) / shapely.area(outlines[0][0])
        if not 0.1 < share < 0.9:
            continue
        shares.append(share)
        for most, serves in ((1 - share - 0.05, 0), (1 - share + 0.05, 1)):
            (use,) = uses(scenes, [outlines], replace(config, max_nodata=most))
            assert (use.meets, use.serves) == (1, serves)
            assert [row["reason"] for row in drops_of([use])] == ["too_little_cover"] * (1 - serves)
    assert len(shares) > 2


def test_a_plan_says_what_serves_and_what_outranks_what(tmp_path: Path) -> None:
    flat(tmp_path / "a.tif", 100, gsd=30.0)
    flat(tmp_path / "b.tif", 1, gsd=10.0)
    flat(tmp_path / "c.tif", 2, gsd=10.0)
    flat(tmp_path / "d.tif", 3, gsd=10.0, shift=(9e4, 0))
    scenes, _, config = found(f"{tmp_path}/*.tif")
    use = uses(scenes, [placed(tiles(LON, LAT, 16, 64, 1).values())], config)
    assert [(u.name, u.meets, u.serves, u.over) for u in use] == [
        ("a.tif", 1, 0, "b.tif"), ("b.tif", 1, 1, ""), ("c.tif", 1, 0, "b.tif"), ("d.tif", 0, 0, ""),
    ]  # fmt: skip
    assert {r["source"]: r["reason"] for r in drops_of(use)} == {
        "a.tif": "outranked", "c.tif": "outranked", "d.tif": "no_footprint",
    }  # fmt: skip
    lines = lines_of(use)
    assert lines[0].startswith("b.tif (no time, 10 m): 1 of 1 footprints")
    assert any("b.tif comes first (finer)" in line for line in lines if line.startswith("a.tif"))
    assert any("neither has a time (rs.time_pattern" in line for line in lines if line.startswith("c.tif"))


@pytest.mark.parametrize(("prefer", "first"), [("newest", "2022"), ("oldest", "2020"), ("clearest", "2021")])
def test_what_a_plan_expects_is_what_is_read(tmp_path: Path, prefer: Any, first: str) -> None:
    for year, cloud in (("2020", "9"), ("2021", "1"), ("2022", "5")):
        for side, move in (("w", -700), ("e", 700)):
            flat(tmp_path / f"{year}{side}.tif", int(year), shift=(move, 0), tags={"CLOUDY_PIXEL_PERCENTAGE": cloud})
    settings = {"time_pattern": "%Y", "prefer": prefer, "dates": 2}
    scenes, _, config = found(f"{tmp_path}/*.tif", **settings)
    footprints = tiles(LON, LAT, 16, 64, 3)
    images, _ = read_images(scenes, footprints, config, NET)
    use = {u.name: u.serves for u in uses(scenes, [placed(footprints.values())], config)}
    read = [name for own in images.values() for i in own for name in i.sources]
    assert {n: read.count(n) for n in use} == use
    assert all(own[0].acquired == first for own in images.values())


def test_the_command_and_the_drops_tell_of_images_that_are_not_used(tmp_path: Path) -> None:
    tags = {"LICENSE": "CC0-1.0"}
    flat(tmp_path / "a.tif", 100, gsd=30.0, tags=tags)
    flat(tmp_path / "b.tif", 1, gsd=10.0, tags=tags)
    corners = [(LON - 1e-3, LAT - 1e-3), (LON + 1e-3, LAT - 1e-3), (LON + 1e-3, LAT + 1e-3), (LON - 1e-3, LAT + 1e-3)]
    osm = write_opl(
        tmp_path / "x.opl", [(i, *c, "") for i, c in enumerate(corners, 1)], [(1, [1, 2, 3, 4, 1], "building=yes")]
    )
    config = ShardsConfig(
        region=str(osm), imagery=f"{tmp_path}/*.tif", zoom=16, size=64, out=str(tmp_path / "out"), workers=1,
        cache=str(tmp_path / "cache"), plan=PlanConfig(min_objects=0),
    )  # fmt: skip
    forecast, stages = exact_forecast(config, quiet=True)
    text = "\n".join(forecast.lines())
    assert "image        b.tif (no time, 10 m): " in text
    assert "b.tif comes first (finer)" in text
    assert [u["name"] for u in json.loads(json.dumps(forecast.as_dict()))["images"]] == ["a.tif", "b.tif"]
    assert stages


SAID = [
    ({"TIFFTAG_DATETIME": "2021:06:23 19:03:52"}, "2021-06-23T19:03:52"),
    ({"TIFFTAG_DATETIME": "0000:00:00 00:00:00"}, None), ({"TIFFTAG_DATETIME": "2021:06:23 25:00:00"}, None),
    ({"system-time_start": "1624475032118"}, "2021-06-23T19:03:52.118Z"), ({"system-time_start": "nan"}, None),
]  # fmt: skip


@pytest.mark.parametrize(("tags", "when"), SAID)
@pytest.mark.parametrize(
    ("beside", "settings", "told"),
    [
        (None, {}, None), ({"time": "2020-01-02T10:00:00+02:00"}, {}, "2020-01-02T08:00:00Z"),
        ({"type": "Feature", "properties": {"datetime": "2020-01-02T08:00:00.5Z"}}, {}, "2020-01-02T08:00:00.5Z"),
        ({"time": "2020-01-02"}, {"time_pattern": "%Y%m%d"}, "2019-05-06"),
        (None, {"time_pattern": "%Y%m%d", "acquired": "2018"}, "2018"),
        (None, {"time_pattern": "_%Y-%m-%d"}, None),
    ],
)  # fmt: skip
def test_tiles_and_chips_read_one_time_of_one_file(
    tmp_path: Path, tags: dict[str, str], when: str | None, beside: Any, settings: dict[str, str], told: str | None
) -> None:
    path = flat(tmp_path / "x_20190506.tif", 1, gsd=100.0, tags=tags)
    if beside:
        (tmp_path / "x_20190506_meta.json").write_text(json.dumps(beside))
    config = ImageryConfig(**settings)
    scene, job = open_scene(path, config), DescribeJob(tmp_path, find_chips(tmp_path)[0], rs=config)
    (chip,) = describe_chips(job)[0].to_pylist()
    assert (config.acquired or scene.acquired) == (told or when)
    assert chip["acquired"] == (told or when)


def test_gdal_s_own_sidecar_says_the_time(tmp_path: Path) -> None:
    path = flat(tmp_path / "x.tif", 1, gsd=100.0)
    (tmp_path / "x.tif.aux.xml").write_text(
        '<PAMDataset><Metadata domain="IMAGERY"><MDI key="ACQUISITIONDATETIME">2021-06-23 19:03:52</MDI></Metadata>'
        "</PAMDataset>"
    )
    assert open_scene(path).acquired == "2021-06-23T19:03:52Z"


@pytest.mark.parametrize("acquired", ["soon", "0000-00-00", "2021-06-01T25:00:00", "nan"])
def test_a_setting_that_is_no_time_is_refused(acquired: str) -> None:
    with pytest.raises(ConfigError, match=r"rs\.acquired must be an ISO 8601"):
        ImageryConfig(acquired=acquired)


def test_of_several_files_that_are_read_together_the_damaged_one_is_named(tmp_path: Path) -> None:
    for band in (2, 3, 4):
        data = np.random.default_rng(band).integers(1, 9999, (1, 155, 155), np.uint16)
        write_raster(tmp_path / f"x_B{band}.tif", data, transform=around(LON, LAT, UTM, 155, 155, 10.0))
    scenes, _, config = found(f"{tmp_path}/*.tif")
    cut = tmp_path / "x_B3.tif"
    cut.write_bytes(cut.read_bytes()[:9000])
    with pytest.raises(InputError, match=r"x_B3\.tif cannot be read"):
        read_images(scenes, tiles(LON, LAT, 16, 64), config, NET)


def test_what_one_band_s_file_lacks_the_image_lacks(tmp_path: Path) -> None:
    """Each file says by a value of its own what it has no data of."""
    for band, value, rows in (("B04", 0, slice(0, 30)), ("B08", 65535, slice(30, 50))):
        with rasterio.open(flat(tmp_path / f"x_{band}.tif", 5), "r+") as target:
            data = target.read()
            data[:, rows] = value
            target.nodata = value
            target.write(data)
            whole = Footprint("whole", UTM, tuple(target.transform[:6]), target.width, target.height)
    (scene,), _, config = found(f"{tmp_path}/*.tif", max_nodata=1.0)
    ((image,),) = read_images([scene], {0: whole}, config, NET)[0].values()
    assert image.nodata_share == pytest.approx(50 / whole.height) != 1


def test_an_image_of_several_files_lies_where_all_of_them_do_and_is_as_cloudy_as_the_cloudiest(tmp_path: Path) -> None:
    for band, cloud, east in (("B04", 30, 0), ("B08", 10, SIDE / 2)):
        with rasterio.open(flat(tmp_path / f"x_{band}.tif", 5, shift=(east, 0)), "r+") as target:
            target.update_tags(CLOUDY_PIXEL_PERCENTAGE=cloud)
    (scene,), _, _ = found(f"{tmp_path}/*.tif")
    assert scene.cloud == 30
    assert scene.area.area == pytest.approx(open_scene(tmp_path / "x_B04.tif").area.area / 2, rel=0.01)


def test_a_small_undated_image_within_a_large_one_is_no_sheet_beside_it(tmp_path: Path) -> None:
    """What counts is the part of the smaller one that both show."""
    scene = open_scene(flat(tmp_path / "a.tif", 1))
    for other, mosaics in ((shapely.box(0, 0, 0.3, 0.3), {0, 1}), (shapely.box(0.9, 0, 1.9, 1), {0})):
        areas = shapely.box(0, 0, 1, 1), other
        joined = join([replace(scene, name=str(i), area=a) for i, a in enumerate(areas)], ImageryConfig())
        assert {s.mosaic for s in joined} == mosaics
