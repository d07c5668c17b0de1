"""Which scene an image is of: by date, then whole before part, then cloud; and what is filled from another."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import shapely
from hypothesis import given
from hypothesis import strategies as st
from rasterio.shutil import copy

from pipeline.imagery.choice.order import candidates, covered, join
from pipeline.imagery.config import ImageryConfig
from pipeline.imagery.local import find_rasters, open_scene
from pipeline.imagery.raster import Patch
from pipeline.imagery.read import TileImage, _fill, _Part, hidden, lowered, read_images
from pipeline.imagery.scene import Asset, Mask, Scene
from pipeline.imagery.sources import find_imagery, source_rows
from pipeline.net.config import NetConfig
from schemas.errors import ConfigError, InputError
from tests.imagery.scenes import LAT, LON, UTM, around, own_footprint, texture, tiles, write_raster

NET = NetConfig(retries=0)
ZOOM, SIZE = 17, 64


def flat(
    path: Path, value: int, when: str | None = None, side: int = 500, shift: tuple[float, float] = (0, 0), **kw: Any
) -> Path:
    """A raster of one value; moved by metres."""
    transform = around(LON, LAT, UTM, side, side, 3.1)
    a, b, c, d, e, f = transform[:6]
    tags = {"TIFFTAG_DATETIME": when} if when else {}
    moved = type(transform)(a, b, c + shift[0], d, e, f + shift[1])
    return write_raster(path, np.full((1, side, side), value, np.uint8), transform=moved, tags=tags, **kw)


def values(paths: list[Path], config: ImageryConfig, count: int = 3) -> dict[Any, list[set[int]]]:
    scenes = [open_scene(p, config) for p in paths]
    found, _ = read_images(scenes, tiles(LON, LAT, ZOOM, SIZE, count), config, NET)
    return {k: [set(np.unique(i.pixels).tolist()) for i in own] for k, own in found.items()}


DAYS = ("2021:05:01 10:00:00", "2023:05:01 10:00:00", "2022:05:01 10:00:00")


@pytest.mark.parametrize(("prefer", "order"), [("newest", [2, 3, 1]), ("oldest", [1, 3, 2])])
def test_dates_come_in_the_order_that_is_preferred(tmp_path: Path, prefer: Any, order: list[int]) -> None:
    paths = [flat(tmp_path / f"{i}.tif", i, day) for i, day in enumerate(DAYS, 1)]
    for dates in (1, 2, 3, 5):
        found = values(paths, ImageryConfig(prefer=prefer, dates=dates))
        assert len(found) == 9
        assert all(own == [{v} for v in order[:dates]] for own in found.values())


def test_the_clearest_day_comes_first_where_that_is_preferred(tmp_path: Path) -> None:
    paths = []
    for i, (day, cloud) in enumerate(zip(DAYS, ("30", "20", "1.5"), strict=True), 1):
        paths.append(flat(tmp_path / f"{i}.tif", i, day))
        with rasterio.open(paths[-1], "r+") as target:
            target.update_tags(CLOUDY_PIXEL_PERCENTAGE=cloud)
    assert set(map(str, values(paths, ImageryConfig(prefer="clearest")).values())) == {"[{3}]"}


def test_a_day_with_too_little_data_is_passed_over(tmp_path: Path) -> None:
    new = np.full((1, 500, 500), 2, np.uint8)
    new[:, :, :250] = 0
    newest = write_raster(
        tmp_path / "new.tif", new, transform=around(LON, LAT, UTM, 500, 500, 3.1), nodata=0,
        tags={"TIFFTAG_DATETIME": DAYS[1]},
    )  # fmt: skip
    old = flat(tmp_path / "old.tif", 1, DAYS[0], nodata=0)
    found = values([newest, old], ImageryConfig())
    assert {str(v) for v in found.values()} == {"[{1}]", "[{2}]"}
    both = values([newest, old], ImageryConfig(dates=2))
    assert {str(v) for v in both.values()} == {"[{1}]", "[{2}, {1}]"}


def test_neighbouring_sheets_of_one_day_are_joined_in_a_tile(tmp_path: Path) -> None:
    """Sheets that abut in the middle of the tiles, with no date: each tile is whole, and names both."""
    side = 500 * 3.1
    west = flat(tmp_path / "a.tif", 1, shift=(-side / 2, 0))
    east = flat(tmp_path / "b.tif", 2, shift=(side / 2, 0))
    scenes = [open_scene(p) for p in (west, east)]
    footprints = tiles(LON, LAT, ZOOM, SIZE, 3)
    found, rows = read_images(scenes, footprints, ImageryConfig(), NET)
    assert len(found) == 9
    assert rows == []
    joined = [own[0] for own in found.values() if len(own[0].sources) == 2]
    assert len(joined) == 3
    for image in joined:
        assert image.nodata_share == 0
        assert sorted(image.sources) == ["a.tif", "b.tif"]
        columns = image.pixels[0].astype(int)
        assert set(np.unique(columns)) == {1, 2}
        assert (np.diff(columns, axis=1) >= 0).all()  # west to east, one seam


def test_a_tile_is_of_one_scene_where_one_has_all_of_it(tmp_path: Path) -> None:
    """The cloudier scene that covers a tile is better than two parts with a seam."""
    part = flat(tmp_path / "part.tif", 1, DAYS[0], shift=(-500 * 3.1 / 2, 0))
    whole = flat(tmp_path / "whole.tif", 2, DAYS[0])
    scenes = [replace(open_scene(part), cloud=0.0), replace(open_scene(whole), cloud=9.0)]
    found, _ = read_images(scenes, tiles(LON, LAT, ZOOM, SIZE, 3), ImageryConfig(), NET)
    assert {str(sorted(np.unique(own[0].pixels).tolist())) for own in found.values()} == {"[1]", "[2]"}
    assert all(len(own[0].sources) == 1 for own in found.values())


def test_what_is_missing_is_said(tmp_path: Path) -> None:
    data = np.full((1, 500, 500), 7, np.uint8)
    data[:, 250:] = 0
    path = write_raster(tmp_path / "half.tif", data, transform=around(LON, LAT, UTM, 500, 500, 3.1), nodata=0)
    footprints = tiles(LON, LAT, ZOOM, SIZE, 9)
    found, rows = read_images([open_scene(path)], footprints, ImageryConfig(max_nodata=0.0), NET, "town")
    reasons = {r["reason"] for r in rows}
    assert reasons == {"nodata", "no_imagery"}
    assert len(found) + len(rows) == 81
    assert {r["source"] for r in rows} == {"half.tif", "town"}
    assert {r["detail"].partition("over ")[2] or r["detail"] for r in rows if r["reason"] == "nodata"} == {
        "rs.max_nodata=0.0", "no pixel has data",
    }  # fmt: skip
    more, _ = read_images([open_scene(path)], footprints, ImageryConfig(max_nodata=0.7), NET)
    assert set(found) < set(more)
    assert all(own[0].nodata_share <= 0.7 for own in more.values())


def test_a_mask_passes_over_a_cloudy_day_and_keeps_the_pixels_of_a_clear_one(tmp_path: Path) -> None:
    where = {"transform": around(LON, LAT, UTM, 500, 500, 3.1), "names": ("B4", "SCL")}
    paths = []
    for i, (day, classes) in enumerate(((DAYS[1], 9), (DAYS[0], 4)), 1):
        data = np.full((2, 500, 500), i, np.uint8)
        data[1] = 4
        data[1, :, 250:] = classes
        paths.append(write_raster(tmp_path / f"{i}.tif", data, tags={"TIFFTAG_DATETIME": day}, **where))
    config = ImageryConfig(mask="SCL", mask_values=(8, 9), max_masked=0.2)
    scenes = [open_scene(p, config) for p in paths]
    assert scenes[0].bands == ["B4"]
    found, rows = read_images(scenes, tiles(LON, LAT, ZOOM, SIZE, 3), config, NET)
    assert rows == []
    for (image,) in found.values():
        assert set(np.unique(image.pixels)) in ({1}, {2})
        assert image.masked_share <= 0.2
    assert {i[0].scene.name for i in found.values()} == {"1.tif", "2.tif"}
    _, rows = read_images(scenes[:1], tiles(LON, LAT, ZOOM, SIZE, 3), config, NET)
    assert {r["reason"] for r in rows} == {"masked"}
    assert "over rs.max_masked=0.2" in rows[0]["detail"]


@given(st.integers(0, 2**32 - 1))
def test_mask_bits_are_bits(seed: int) -> None:
    values = np.random.default_rng(seed).integers(0, 2**16, (1, 5, 7), dtype=np.uint16)
    scene = Scene("x", shapely.box(0, 0, 1, 1), [], "uint8", None, mask=Mask(Asset("", (1,)), (), (3, 4)))
    wanted = np.array([[bool(int(v) >> 3 & 1 or int(v) >> 4 & 1) for v in row] for row in values[0]])
    found = hidden(Patch(values, None), scene)
    np.testing.assert_array_equal(np.zeros_like(wanted) if found is None else found, wanted)


def test_a_mask_says_nothing_where_it_has_no_data() -> None:
    scene = Scene("x", shapely.box(0, 0, 1, 1), [], "uint8", None, mask=Mask(Asset("", (1,)), (9,)))
    valid = np.array([[True, False]])
    found = hidden(Patch(np.array([[[9, 9]]], np.uint8), valid), scene)
    np.testing.assert_array_equal(found, valid)


def test_what_is_hidden_of_one_scene_stays_so_where_another_fills_the_rest() -> None:
    """And of the other only what it fills is hidden."""
    holes, clouds = np.array([[False, True, True, False]]), np.array([[True, False, False, False]])
    first = scene("a", (0, 0, 1, 1), None)
    image = TileImage(np.ones((1, 1, 4), np.uint8), holes, clouds, [first], None, None, None)
    own = np.array([[False, True, False, True]])
    _fill(image, np.full((1, 1, 4), 2, np.uint8), _Part(image.pixels, None, own, None, None), first)
    np.testing.assert_array_equal(image.pixels, [[[1, 2, 2, 1]]])
    np.testing.assert_array_equal(image.masked, [[True, True, False, False]])
    assert image.missing is None


@given(st.integers(0, 3000), st.integers(0, 2000))
def test_an_offset_leaves_no_value_at_nodata(value: int, offset: int) -> None:
    (result,) = lowered(np.array([value], np.uint16), offset)
    assert result == (0 if value == 0 else max(value - offset, 1) if value > offset else 1)


def scene(name: str, box: tuple[float, float, float, float], when: str | None, cloud: float | None = None) -> Scene:
    return Scene(name, shapely.box(*box), ["B1"], "uint8", when, (Asset(name, (1,)),), cloud=cloud)


times = st.none() | st.integers(1, 28).map(lambda d: f"2024-06-{d:02}T10:00:00Z")


@given(
    st.lists(st.tuples(times, st.integers(0, 3), st.integers(1, 4), st.none() | st.floats(0, 100)), max_size=12),
    st.sampled_from(["newest", "oldest", "clearest"]),
)
def test_order_is_by_day_then_wholeness_then_cloud(
    rows: list[tuple[str | None, int, int, float | None]], prefer: Any
) -> None:
    scenes = [scene(f"s{i}", (x, 0, x + w, 1), when, cloud) for i, (when, x, w, cloud) in enumerate(rows)]
    config = ImageryConfig(prefer=prefer)
    boxes = shapely.box([0.5, 2.5], [0.2, 0.2], [1.5, 3.5], [0.8, 0.8])
    scenes = join(scenes, config)
    days = sorted({s.acquired[:10] for s in scenes if s.acquired}, reverse=prefer != "oldest")
    for box, order in zip(boxes, candidates(scenes, boxes, np.ones(2), config), strict=True):
        there = {i for i, s in enumerate(scenes) if s.area.intersects(box)}
        assert set(order) == there
        clear: dict[str, float] = {}
        for i in there:
            own = scenes[i].cloud
            clear[day(scenes[i])] = min(100.0 if own is None else own, clear.get(day(scenes[i]), 100.0))
        keys: list[Any] = []
        for i in order:
            s, part = scenes[i], scenes[i].area.intersection(box).area / box.area
            when = days.index(day(s)) if s.acquired else len(days)
            cloud = clear[day(s)] if prefer == "clearest" and s.acquired else 0.0
            keys.append((s.acquired is None, cloud, when, s.mosaic, part < 0.999, s.cloud or 0.0))
        assert keys == sorted(keys)
    for a in scenes:  # of those without a time, sheets alone are joined
        for b in scenes:
            if a is not b and a.acquired is b.acquired is None and a.mosaic == b.mosaic:
                assert a.area.intersection(b.area).area <= 0.2 * min(a.area.area, b.area.area)


def day(scene: Scene) -> str:
    return (scene.acquired or "")[:10]


def test_covered_counts_the_scenes_of_one_day_together() -> None:
    boxes = shapely.box(np.arange(4) + 0.5, 0.0, np.arange(4) + 1.5, 1.0)
    a, b = scene("a", (0, 0, 2, 1), "2024-06-01T10:00:00Z"), scene("b", (2, 0, 4, 1), "2024-06-01T10:09:00Z")
    other = scene("c", (4, 0, 9, 1), "2024-06-02T10:00:00Z")
    config = ImageryConfig()
    assert covered(boxes, [a, b, other], config).tolist() == [True, True, True, False]
    assert covered(boxes, [a, replace(b, acquired=None)], config).tolist() == [True, False, True, False]
    assert covered(boxes, [a, b], ImageryConfig(max_nodata=0.6)).tolist() == [True, True, True, True]
    assert covered(boxes, [], config).tolist() == [False] * 4


def test_patterns_name_files_once_and_in_order(tmp_path: Path) -> None:
    for name in ("b.tif", "a.tif", "sub/c.tif"):
        flat(tmp_path / name, 1, side=16)
    found = find_rasters([f"{tmp_path}/b.tif", f"{tmp_path}/*.tif", f"{tmp_path}/**/*.tif"])
    assert [p.name for p in found] == ["b.tif", "a.tif", "c.tif"]
    with pytest.raises(InputError, match=r"nothing\*\.tif matches no file"):
        find_rasters([f"{tmp_path}/nothing*.tif"])
    with pytest.raises(InputError, match=r"nowhere\.tif does not exist"):
        find_rasters([f"{tmp_path}/nowhere.tif"])


def test_bands_are_chosen_by_name_and_a_missing_one_is_named(tmp_path: Path) -> None:
    data = texture(1, (4, 20, 20))
    path = write_raster(tmp_path / "four.tif", data, names=("B2", "B3", "B4", "B8"), photometric="MINISBLACK")
    footprint = {0: own_footprint(path)}
    for wanted in (("B8", "B2"), ("4", "1")):
        config = ImageryConfig(bands=wanted)
        chosen = open_scene(path, config)
        assert chosen.bands == ["B8", "B2"]
        found, _ = read_images([chosen], footprint, config, NET)
        np.testing.assert_array_equal(found[0][0].pixels, data[[3, 0]])
    with pytest.raises(InputError, match=r"four\.tif has no band B11; it has B2, B3, B4, B8: set rs\.bands"):
        open_scene(path, ImageryConfig(bands=("B2", "B11")))
    with pytest.raises(InputError, match=r"four\.tif has no band SCL"):
        open_scene(path, ImageryConfig(mask="SCL", mask_values=(9,)))
    with pytest.raises(InputError, match=r"rs\.mask=B8 needs rs\.mask_values or rs\.mask_bits"):
        open_scene(path, ImageryConfig(bands=("B2",), mask="B8"))
    with pytest.raises(ConfigError, match="twice"):
        ImageryConfig(bands=("B2", "B2"))


def test_scenes_must_have_the_same_bands_and_each_a_licence(tmp_path: Path) -> None:
    one = write_raster(tmp_path / "one.tif", texture(1, (1, 20, 20)), names=("B4",), tags={"LICENSE": "CC0-1.0"})
    two = write_raster(tmp_path / "two.tif", texture(1, (1, 20, 20)), names=("B8",))
    with pytest.raises(InputError, match=r"one\.tif \(B4; uint8\) and two\.tif \(B8; uint8\) differ in bands"):
        find_imagery(f"{one},{two}", [], ImageryConfig(), NET)
    first, _ = find_imagery(str(one), [], ImageryConfig(), NET)
    second, _ = find_imagery(str(two), [], ImageryConfig(), NET)
    (row,) = source_rows(first, ImageryConfig(), None)
    assert (row["name"], row["licence"]) == ("one.tif", "CC0-1.0")
    assert source_rows(second, ImageryConfig(licence="CC-BY-4.0"), None)[0]["licence"] == "CC-BY-4.0"
    for setting, licence in (("CC-BY-4.0", "CC-BY-4.0"), (None, "CC0-1.0")):  # settings, file, region: the first counts
        (row,) = source_rows(first, ImageryConfig(licence=setting), "ODbL-1.0")
        assert row["licence"] == licence
    assert source_rows(second, ImageryConfig(), "ODbL-1.0")[0]["licence"] == "ODbL-1.0"
    with pytest.raises(InputError, match=r"two\.tif declares no licence"):
        source_rows(second, ImageryConfig(), None)


def test_a_vrt_is_known_by_the_files_it_is_made_of(tmp_path: Path) -> None:
    part = write_raster(tmp_path / "part.tif", texture(1, (1, 20, 20)))
    copy(part, tmp_path / "all.vrt", driver="VRT")
    scenes, _ = find_imagery(str(tmp_path / "all.vrt"), [], ImageryConfig(), NET)
    before = source_rows(scenes, ImageryConfig(licence="CC0-1.0"), None)[0]["sha256"]
    write_raster(part, texture(2, (1, 20, 20)))
    assert source_rows(scenes, ImageryConfig(licence="CC0-1.0"), None)[0]["sha256"] != before


@pytest.mark.parametrize(
    ("tags", "when"),
    [({"TIFFTAG_DATETIME": "2021:06:23 19:03:52"}, "2021-06-23T19:03:52"),
     ({"system-time_start": "1624475032118"}, "2021-06-23T19:03:52.118Z"), ({}, None)],
)  # fmt: skip
def test_the_time_of_a_file_is_what_it_says(tmp_path: Path, tags: dict[str, str], when: str | None) -> None:
    assert open_scene(write_raster(tmp_path / "x.tif", texture(1, (1, 20, 20)), tags=tags)).acquired == when


def test_a_truncated_file_and_no_crs_are_errors(tmp_path: Path) -> None:
    path = flat(tmp_path / "cut.tif", 3)
    whole = open_scene(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(InputError, match=r"cut\.tif cannot be read: .*truncated"):
        read_images([whole], tiles(LON, LAT, ZOOM, SIZE, 3), ImageryConfig(), NET)
    (tmp_path / "page.tif").write_text("<!DOCTYPE html><html></html>")
    with pytest.raises(InputError, match=r"page\.tif cannot be read"):
        open_scene(tmp_path / "page.tif")
    bare = write_raster(
        tmp_path / "bare.tif", texture(1, (1, 20, 20)), crs=None, transform=around(LON, LAT, UTM, 9, 9, 1)
    )
    with pytest.raises(InputError, match=r"bare\.tif has no coordinate reference system"):
        open_scene(bare)
