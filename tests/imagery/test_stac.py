"""STAC over HTTP: what is asked for, what comes of it, and what is passed over."""

from __future__ import annotations

import http.client
import itertools
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.imagery.config import ImageryConfig
from pipeline.imagery.read import read_images
from pipeline.imagery.sources import absolute, find_imagery, source_rows
from pipeline.imagery.stac.items import nodata_of
from pipeline.imagery.stac.presets import PRESETS
from pipeline.imagery.stac.search import within
from pipeline.mirror.messages import Response
from pipeline.net.config import NetConfig
from schemas.errors import ConfigError, InputError
from tests.imagery.conftest import SERVICES
from tests.imagery.scenes import (
    LAT,
    LON,
    UTM,
    around,
    expected,
    texture,
    tiles,
    write_granule,
    write_manifest,
    write_raster,
)
from tests.mirror.server import Mirror

NET = NetConfig(timeout=5.0, retries=2, backoff=0.001, max_wait=0.05)
HERE = [(LON - 0.02, LAT - 0.02, LON + 0.02, LAT + 0.02)]


def names(imagery: str, config: ImageryConfig, boxes: Any = HERE) -> list[str]:
    return [s.name for s in find_imagery(imagery, boxes, config, NET)[0]]


def ask(mirror: Mirror, path: str, **query: str) -> tuple[int, Any]:
    connection = http.client.HTTPConnection(mirror.url.removeprefix("http://"))
    connection.request("GET", f"{path}?{urlencode(query)}" if query else path)
    answer = connection.getresponse()
    data = answer.read()
    connection.close()
    return answer.status, json.loads(data) if data[:1] in b"{[" else data


def test_a_search_finds_what_lies_here_then_and_is_clear_enough(sentinel: ImageryConfig) -> None:
    clear = ["S2_A_0520", "S2_A_0610", "S2_A_0701", "S2_B_0520"]
    assert names("earth-search", sentinel) == clear
    assert names("earth-search", replace(sentinel, max_cloud=100)) == sorted([*clear, "S2_A_0720"])
    assert names("earth-search", replace(sentinel, datetime="2024-06-01/2024-06-30")) == ["S2_A_0610"]
    assert names("earth-search", replace(sentinel, datetime="2024-07-01/..")) == ["S2_A_0701"]
    assert names("earth-search", sentinel, [*HERE, HERE[0], (1.0, 1.0, 2.0, 2.0)]) == clear
    with pytest.raises(InputError, match=r"no item of sentinel-2-l2a .* widen rs\.datetime"):
        names("earth-search", sentinel, [(1.0, 1.0, 2.0, 2.0)])


def test_the_server_is_asked_for_that_and_pages_are_followed(tmp_path: Path) -> None:
    folder = tmp_path / "earth-search"
    row = write_granule(folder, "S2_0", "2024-01-01T00:00:00Z")
    rows = [
        {**row, "id": f"S2_{i}", "datetime": f"2024-{1 + i // 28:02}-{1 + i % 28:02}T00:00:00Z"} for i in range(230)
    ]
    write_manifest(folder, rows)
    with Mirror(tmp_path, services=SERVICES) as mirror:
        config = ImageryConfig(stac_url=f"{mirror.url}/earth-search", datetime="2024-01-01/2024-12-31")
        assert len(names("earth-search", config)) == 230
        searches = [s for s in mirror.log if s.path == "earth-search/search"]
        assert len(searches) == 3
        with pytest.raises(InputError, match=r"over rs\.max_items=100 items .* narrow"):
            names("earth-search", replace(config, max_items=100))


def test_the_mirror_answers_as_the_interface_says(mirror: Mirror) -> None:
    status, page = ask(mirror, "/earth-search/search", limit="2", query='{"eo:cloud_cover": {"lt": 10}}')
    assert (status, page["numberMatched"]) == (200, 3)
    assert [f["id"] for f in page["features"]] == ["S2_A_0701", "S2_B_0520"]
    following = next(link["href"] for link in page["links"] if link["rel"] == "next")
    _, second = ask(mirror, following.removeprefix(mirror.url))
    assert [f["id"] for f in second["features"]] == ["S2_A_0520"]
    assert not [link for link in second["links"] if link["rel"] == "next"]
    for query in (
        {"bbox": "1,2,three"},
        {"limit": "all"},
        {"query": "{"},
        {"query": "[]"},
        {"query": '{"eo:cloud_cover": 1}'},
    ):
        assert ask(mirror, "/earth-search/search", **query)[0] == 400
    assert ask(mirror, "/earth-search/search", ids="S2_A_0610")[1]["features"][0]["id"] == "S2_A_0610"
    assert ask(mirror, "/earth-search/search", collections="landsat")[1]["features"] == []
    assert ask(mirror, "/earth-search/collections/sentinel-2-l2a")[1]["type"] == "Collection"
    assert ask(mirror, "/earth-search/collections/sentinel-2-l2a/items/S2_A_0610")[1]["id"] == "S2_A_0610"
    for path in ("collections/landsat", "collections/sentinel-2-l2a/items/nothing", "assets/../../etc/passwd",
                 "assets/sentinel-2-l2a/manifest.json", "assets/sentinel-2-l2a/../manifest.json"):  # fmt: skip
        assert ask(mirror, f"/earth-search/{path}")[0] == 404
    assert ask(mirror, "/planetary-computer/assets/sentinel-2-l2a/S2_PC/B4.tif")[0] == 403


def test_tiles_come_from_the_preferred_clear_day_with_twelve_bands_as_they_are(sentinel: ImageryConfig) -> None:
    scenes, drops = find_imagery("earth-search", HERE, sentinel, NET)
    assert drops == []
    footprints = tiles(LON, LAT, 14, 256, 1)
    found, rows = read_images(scenes, footprints, sentinel, NET)
    assert rows == []
    ((image,),) = found.values()
    assert image.scene.bands == ["B1", "B2", "B3", "B4", "B5", "B6", "B7", "B8", "B8A", "B9", "B11", "B12"]
    assert (image.pixels.dtype, image.pixels.shape) == (np.uint16, (12, 256, 256))
    assert (image.acquired, list(image.sources)) == ("2024-07-01T10:20:00Z", ["S2_A_0701"])
    assert [set(np.unique(band)) for band in image.pixels] == [{4001 + i} for i in range(12)]


def test_several_days_are_kept_and_half_a_granule_is_filled_from_the_other(sentinel: ImageryConfig) -> None:
    config = replace(sentinel, dates=3, bands=("B4", "B2"), prefer="newest")
    scenes, _ = find_imagery("earth-search", HERE, config, NET)
    footprints = tiles(LON, LAT, 14, 64, 1)
    found, rows = read_images(scenes, footprints, config, NET)
    ((first, second),) = found.values()  # 2024-06-10 is half under clouds
    assert rows == []
    assert (first.acquired, second.acquired) == ("2024-07-01T10:20:00Z", "2024-05-20T10:20:00Z")
    assert sorted(second.sources) == ["S2_A_0520", "S2_B_0520"]
    assert set(np.unique(second.pixels[0])) == {2004, 2104}
    assert set(np.unique(second.pixels[1])) == {2002, 2102}
    cloudy = replace(config, max_masked=1.0)
    found, _ = read_images(scenes, footprints, cloudy, NET)
    ((_, middle, _),) = found.values()
    assert middle.acquired == "2024-06-10T10:20:00Z"
    assert 0.2 < middle.masked_share < 0.9
    assert set(np.unique(middle.pixels[0])) == {3004}  # what lies under the mask is kept as it is


@pytest.mark.parametrize("service", ["earth-search", "planetary-computer"])
def test_a_newer_scene_with_half_a_collar_never_wins_over_a_whole_one(tmp_path: Path, service: str) -> None:
    """The services' files do not name 0 as nodata, which it is; at native zoom as resampled by any kernel."""
    folder = tmp_path / service
    empty = np.zeros((420, 420), bool)
    empty[:, 200:] = True
    settings: dict[str, Any] = {"preset": service, "nodata": None}
    rows = [
        write_granule(folder, "S2_whole", "2024-06-01T10:20:00Z", value=2000, **settings),
        write_granule(folder, "S2_half", "2024-06-20T10:20:00Z", value=4000, empty=empty, **settings),
    ]
    write_manifest(folder, rows, signed=service == "planetary-computer")
    offset = 1000 if service == "planetary-computer" else 0
    bands = ("B2", "B5", "B1")  # of 10, 20 and 60 m
    numbers = [1 + list(PRESETS[service].bands).index(band) for band in bands]
    with Mirror(tmp_path, services=SERVICES) as server:
        for kernel, size in (("nearest", 128), ("bilinear", 128), ("bilinear", 32), ("cubic", 64)):
            config = ImageryConfig(stac_url=f"{server.url}/{service}", bands=bands, resampling=kernel)  # type: ignore[arg-type]
            scenes, _ = find_imagery(service, HERE, config, NET)
            footprints = tiles(LON, LAT, 15, size, 3)
            strict, _ = read_images(scenes, footprints, config, NET)
            loose, _ = read_images(scenes, footprints, replace(config, max_nodata=1.0), NET)
            shares = []
            for key, (image,) in loose.items():
                for number, band in zip(
                    numbers, image.pixels, strict=True
                ):  # flat but for the collar: no mixture of both
                    held = band if image.missing is None else band[~image.missing]
                    assert set(np.unique(held)) == {(4000 if image.sources == ["S2_half"] else 2000) + number - offset}
                shares.append(1.0 if image.sources == ["S2_whole"] else image.nodata_share)
                whole = shares[-1] > config.max_nodata
                assert strict[key][0].sources == ["S2_whole" if whole else "S2_half"]
                assert strict[key][0].nodata_share <= config.max_nodata
            assert len(strict) == 9
            assert 0.3 < np.mean(shares) < 0.8


@pytest.mark.parametrize(
    ("asset", "values"),
    [
        ({}, ()),
        ({"nodata": -9999}, (-9999.0,)),
        ({"nodata": "-inf"}, (-np.inf,)),
        ({"raster:bands": [{"nodata": 0}, {"nodata": 0}]}, (0.0, 0.0)),
        ({"bands": [{"name": "red", "nodata": 0}, {"name": "nir"}]}, (0.0, None)),
        ({"bands": [{"name": "red", "nodata": 7}, {"name": "nir"}], "nodata": 0}, (7.0, 0.0)),
        ({"bands": [{"name": "red"}], "raster:bands": [{"nodata": 5}]}, (5.0,)),
    ],
)
def test_nodata_is_read_of_an_asset_in_each_version_of_stac(asset: dict[str, Any], values: tuple[Any, ...]) -> None:
    assert nodata_of(asset) == values


def test_what_an_item_says_of_nodata_and_bands_holds_where_the_file_is_silent(mirror: Mirror, tmp_path: Path) -> None:
    """A file of red, green, blue and near infrared, which GDAL calls alpha; 9 is no data, says the item alone."""
    _, page = ask(mirror, "/earth-search/search", datetime="2024-07-01/2024-07-02")
    (item,) = page["features"]
    data = texture(3, (4, 420, 420), 30)
    data[3, :100] = 0
    data[:, 200:] = 9
    write_raster(tmp_path / "rgbn.tif", data, transform=around(LON, LAT, UTM, 420, 420, 10.0))
    names = ("red", "green", "blue", "nir")
    told = {"bands": [{"name": n} for n in names], "nodata": 9}, {"eo:bands": [{"name": n} for n in names],
            "raster:bands": [{"nodata": 9}] * 4}  # fmt: skip
    for facts, bands, zoom in itertools.product(told, (names, names[:3]), (14, 15)):
        item["assets"] = {"image": {"href": "rgbn.tif", "type": "image/tiff", "roles": ["data"], **facts}}
        (tmp_path / "item.json").write_text(json.dumps(item))
        config = ImageryConfig(bands=bands, max_nodata=1.0)
        scenes, _ = find_imagery(str(tmp_path / "item.json"), HERE, config, NET)
        (footprint,) = tiles(LON, LAT, zoom, 128, 1).values()
        ((image,),) = read_images(scenes, {0: footprint}, config, NET)[0].values()
        row = expected(footprint, UTM, around(LON, LAT, UTM, 420, 420, 10.0))[1]
        assert image.nodata_share == pytest.approx(float((row > 200).mean()), abs=0.02)


def test_only_the_windows_that_are_needed_are_fetched(mirror: Mirror, sentinel: ImageryConfig, archive: Path) -> None:
    config = replace(sentinel, bands=("B4",), mask="none", datetime="2024-07-01")
    scenes, _ = find_imagery("earth-search", HERE, config, NET)
    before = mirror.served("B4.tif")
    read_images(scenes, tiles(LON, LAT, 17, 64, 1), config, NET)
    requests = [s for s in mirror.log if s.path.endswith("B4.tif")]
    assert mirror.served("B4.tif") - before > 0
    assert all(s.status == 206 for s in requests)  # Partial Content
    assert {s.path.split("/")[-2] for s in requests} == {"S2_A_0701"}
    assert not [s for s in mirror.log if s.path.endswith("SCL.tif")]


def test_values_of_new_processing_are_brought_to_the_old_range(mirror: Mirror) -> None:
    config = ImageryConfig(stac_url=f"{mirror.url}/planetary-computer", bands=("B4",))
    for harmonise, value in ((True, 1004), (False, 2004)):
        own = replace(config, harmonise=harmonise)
        scenes, _ = find_imagery("planetary-computer", HERE, own, NET)
        ((image,),) = read_images(scenes, tiles(LON, LAT, 14, 64, 1), own, NET)[0].values()
        assert set(np.unique(image.pixels)) == {value}


@pytest.mark.parametrize(
    ("preset", "collection", "properties", "offset"),
    [("planetary-computer", "sentinel-2-l2a", {"s2:processing_baseline": "03.01"}, 0),
     ("planetary-computer", "sentinel-2-l2a", {"s2:processing_baseline": "04.00"}, 1000),
     ("earth-search", "sentinel-2-c1-l2a", {"s2:processing_baseline": "05.00"}, 1000),
     ("earth-search", "sentinel-2-l2a", {"s2:processing_baseline": "02.14"}, 0),
     ("earth-search", "sentinel-2-l2a",
      {"s2:processing_baseline": "05.09", "earthsearch:boa_offset_applied": True}, 0),
     ("earth-search", "sentinel-2-l2a",
      {"s2:processing_baseline": "05.09", "earthsearch:boa_offset_applied": False}, None),
     ("earth-search", "sentinel-2-l2a", {"s2:processing_baseline": "05.09"}, None),
     ("earth-search", "sentinel-2-l2a", {}, None)],
)  # fmt: skip
def test_the_offset_follows_service_collection_and_baseline(
    preset: str, collection: str, properties: dict[str, Any], offset: int | None
) -> None:
    assert PRESETS[preset].offset(collection, properties) == offset


def test_assets_are_signed_and_the_signature_is_written_nowhere(mirror: Mirror) -> None:
    config = ImageryConfig(stac_url=f"{mirror.url}/planetary-computer")
    scenes, _ = find_imagery("planetary-computer", HERE, config, NET)
    found, _ = read_images(scenes, tiles(LON, LAT, 14, 64, 1), config, NET)
    assert len(found) == 1
    assert sum(s.path.endswith("token/sentinel-2-l2a") for s in mirror.log) == 1
    assert "sig=" not in repr(scenes) + repr(source_rows(scenes, config, None))
    unsigned = [replace(s, token="") for s in scenes]
    found, rows = read_images(unsigned, tiles(LON, LAT, 14, 64, 1), config, NET)
    assert found == {}
    assert {r["reason"] for r in rows} == {"unreadable_imagery", "no_imagery"}
    assert any("answered 403" in r["detail"] for r in rows)


def test_items_that_lack_something_are_counted_and_named_where_none_is_left(tmp_path: Path) -> None:
    folder = tmp_path / "earth-search"
    good = write_granule(folder, "S2_good", "2024-01-01T00:00:00Z")
    lacking = write_granule(folder, "S2_lacking", "2024-01-02T00:00:00Z", leave_out=("B11",))
    maskless = write_granule(folder, "S2_maskless", "2024-01-03T00:00:00Z", leave_out=("SCL",))
    unclear = {**good, "id": "S2_unclear", "properties": {"s2:processing_baseline": "05.09"}}
    with Mirror(tmp_path, services=SERVICES) as mirror:
        config = ImageryConfig(stac_url=f"{mirror.url}/earth-search", max_cloud=100, datetime="2024-01-01/..")
        write_manifest(folder, [good, lacking, maskless, unclear])
        scenes, drops = find_imagery("earth-search", HERE, config, NET)
        assert [s.name for s in scenes] == ["S2_good"]
        assert {(d["reason"], d["count"]) for d in drops} == {
            ("missing_band", 1), ("missing_mask", 1), ("unknown_offset", 1)
        }  # fmt: skip
        assert names("earth-search", replace(config, mask="none")) == ["S2_good", "S2_maskless"]
        assert "S2_unclear" in names("earth-search", replace(config, harmonise=False))
        write_manifest(folder, [lacking])
        with pytest.raises(InputError, match=r"1 missing_band.*S2_lacking has no band B11; it has B1, .*rs\.bands"):
            names("earth-search", config)
        write_manifest(folder, [unclear])
        with pytest.raises(InputError, match=r"1 unknown_offset.*sentinel-2-c1-l2a.*rs\.harmonise=false"):
            names("earth-search", config)


def test_any_other_collection_is_read_by_the_names_of_its_assets(mirror: Mirror) -> None:
    base = f"{mirror.url}/earth-search"
    config = ImageryConfig(stac_url=base, collection="sentinel-2-l2a", bands=("red", "green"), datetime="2024-07-01")
    scenes, _ = find_imagery("stac", HERE, config, NET)
    (scene,) = scenes
    assert (scene.bands, scene.dtype, scene.offset, scene.mask) == (["red", "green"], "uint16", 0, None)
    assert scene.gsd == pytest.approx(10.0, abs=0.02)
    ((image,),) = read_images(scenes, tiles(LON, LAT, 14, 64, 1), config, NET)[0].values()
    assert set(np.unique(image.pixels[0])) == {4004}
    masked = replace(config, mask="scl", mask_values=(4,))
    _, rows = read_images(find_imagery("stac", HERE, masked, NET)[0], tiles(LON, LAT, 14, 64, 1), masked, NET)
    assert [r["reason"] for r in rows] == ["masked"]
    with pytest.raises(ConfigError, match=r"name the bands of S2_A_0701 with rs\.bands; it has coastal, blue"):
        names("stac", replace(config, bands=()))
    with pytest.raises(InputError, match="has no band thermal"):
        names("stac", replace(config, bands=("thermal",)))
    with pytest.raises(ConfigError, match=r"rs\.stac_url=.* and rs\.collection"):
        names("stac", ImageryConfig(bands=("red",)))


def test_static_items_collections_and_catalogs_are_read_from_files_and_urls(
    mirror: Mirror, archive: Path, tmp_path: Path
) -> None:
    _, page = ask(mirror, "/earth-search/search", datetime="2024-07-01/2024-07-02")
    (item,) = page["features"]
    config = ImageryConfig(bands=("red",))
    single = tmp_path / "item.json"
    item["assets"] = {"red": {**item["assets"]["red"], "href": "red.tif"}}
    single.write_text(json.dumps(item))
    (tmp_path / "red.tif").symlink_to(archive / "earth-search/sentinel-2-l2a/S2_A_0701/B4.tif")
    (tmp_path / "many.geojson").write_text(json.dumps({"type": "FeatureCollection", "features": [item]}))
    link = {"rel": "item", "href": "./item.json", "type": "application/json"}
    catalog = {"type": "Catalog", "id": "c", "stac_version": "1.0.0", "description": "c", "links": [link]}
    (tmp_path / "catalog.json").write_text(json.dumps(catalog))
    for name in ("item.json", "many.geojson", "catalog.json"):
        scenes, _ = find_imagery(str(tmp_path / name), HERE, config, NET)
        assert [s.name for s in scenes] == ["S2_A_0701"]
        ((image,),) = read_images(scenes, tiles(LON, LAT, 14, 64, 1), config, NET)[0].values()
        assert set(np.unique(image.pixels)) == {4004}


@pytest.mark.parametrize("href", ["file:///etc/hostname", "s3://bucket/red.tif", "ftp://host/red.tif"])
def test_items_from_the_web_reach_no_files_of_this_machine(
    mirror: Mirror, tmp_path: Path, href: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, page = ask(mirror, "/earth-search/search", datetime="2024-07-01/2024-07-02")
    (item,) = page["features"]
    item["assets"]["red"]["href"] = href
    (tmp_path / "mirror" / "geofabrik").mkdir(parents=True)
    served = {"stac": lambda request: _json(item)}
    with Mirror(tmp_path / "mirror", services=served) as server:
        for name in ("item.json", "item.json?signature=x"):
            with pytest.raises(InputError, match="1 unreachable_asset"):
                find_imagery(f"{server.url}/stac/{name}", HERE, ImageryConfig(bands=("red",)), NET)


def _json(value: Any) -> Response:
    return Response.json(value)


def test_a_catalog_from_the_web_is_not_followed_to_files(tmp_path: Path) -> None:
    link = {"rel": "item", "href": "file:///etc/hostname"}
    catalog = {"type": "Catalog", "id": "c", "stac_version": "1.0.0", "description": "c", "links": [link]}
    with (
        Mirror(tmp_path, services={"stac": lambda request: _json(catalog)}) as server,
        pytest.raises(InputError, match=r"is no http\(s\) URL|no STAC"),
    ):
        find_imagery(f"{server.url}/stac/catalog.json", HERE, ImageryConfig(bands=("red",)), NET)


@pytest.mark.parametrize(
    "value",
    [b"<!DOCTYPE html><html>", b"[]", b"{}", b'{"type": "FeatureCollection"}', b'{"type": "Feature"}',
     b'{"type": "FeatureCollection", "features": 7}', b'{"type": "Catalog"}', b"\xff\xfe", b"[" * 100_000,
     b'{"type": "FeatureCollection", "features": [{"type": "Feature", "id": "x", "properties": {}, "assets": {}}]}'],
)  # fmt: skip
def test_what_is_no_stac_is_said_to_be_none(tmp_path: Path, value: bytes) -> None:
    with Mirror(tmp_path, services={"stac": lambda request: Response(200, value, "application/json")}) as server:
        for imagery, config in (
            (f"{server.url}/stac/x.json", ImageryConfig(bands=("red",))),
            ("earth-search", ImageryConfig(stac_url=f"{server.url}/stac")),
        ):
            with pytest.raises(InputError, match=r"127\.0\.0\.1"):
                find_imagery(imagery, HERE, config, NET)


def test_one_row_a_source_with_its_licence(sentinel: ImageryConfig) -> None:
    scenes, _ = find_imagery("earth-search", HERE, sentinel, NET)
    (row,) = source_rows(scenes, sentinel, None)
    assert row["name"] == "S2_A_0520 and 3 more"
    assert "Copernicus Sentinel data" in row["licence"]
    assert row["date"] == "2024-05-20T10:20:00Z/2024-07-01T10:20:00Z"
    (again,) = source_rows(list(reversed(scenes)), sentinel, None)
    assert again["sha256"] == row["sha256"]


def test_the_same_archive_elsewhere_is_the_same_source(archive: Path) -> None:
    digests = set()
    for _ in range(2):  # on another port
        with Mirror(archive, services=SERVICES) as mirror:
            config = ImageryConfig(stac_url=f"{mirror.url}/earth-search")
            scenes, _ = find_imagery("earth-search", HERE, config, NET)
            digests.add(source_rows(scenes, config, None)[0]["sha256"])
    assert len(digests) == 1


def test_a_search_is_remembered_so_that_a_run_that_goes_on_finds_the_same(tmp_path: Path, archive: Path) -> None:
    cache, folder = tmp_path / "cache", tmp_path / "mirror"
    folder.mkdir()
    (folder / "earth-search").symlink_to(archive / "earth-search")
    with Mirror(folder, services=SERVICES) as mirror:
        config = ImageryConfig(stac_url=f"{mirror.url}/earth-search")
        first, _ = find_imagery("earth-search", HERE, config, NET, cache)
        asked = len(mirror.log)
        again, _ = find_imagery("earth-search", HERE, config, NET, cache)
        assert len(mirror.log) == asked
        assert again == first
        elsewhere = [(w + 1e-3, s, e + 1e-3, n) for w, s, e, n in HERE]
        for boxes, own in ((HERE, replace(config, max_cloud=10)), (elsewhere, config)):  # that is another question
            find_imagery("earth-search", boxes, own, NET, cache)
            assert len(mirror.log) > asked
            asked = len(mirror.log)
    offline, _ = find_imagery("earth-search", HERE, config, NET, cache)
    assert offline == first


def test_paths_are_made_absolute_and_names_are_not() -> None:
    here = Path.cwd()
    assert absolute("earth-search, xyz,stac") == "earth-search,xyz,stac"
    assert absolute("a/*.tif,https://host/x.json,/b.tif") == f"{here}/a/*.tif,https://host/x.json,/b.tif"


days = st.dates().map(str)


@given(days, days, days)
def test_an_interval_holds_its_ends(first: str, last: str, day: str) -> None:
    time = f"{day}T23:59:59Z"
    assert within(time, f"{first}/{last}") == (first <= day <= last)
    assert within(time, f"../{last}") == (day <= last)
    assert within(time, f"{first}/..") == (first <= day)
    assert within(time, first) == (first == day)
    assert within(time, "")


def test_a_mirror_s_manifest_that_is_no_manifest_is_its_own_fault(tmp_path: Path) -> None:
    (tmp_path / "earth-search" / "x").mkdir(parents=True)
    for text in ("{", "[]", '{"items": 3}', '{"items": [{"id": "a"}]}'):
        path = tmp_path / "earth-search" / "x" / "manifest.json"
        path.write_text(text)
        os.utime(path, (len(text), len(text)))
        with Mirror(tmp_path, services=SERVICES) as mirror:
            status, message = ask(mirror, "/earth-search/search")
        assert status == 500
        assert b"manifest.json" in message
