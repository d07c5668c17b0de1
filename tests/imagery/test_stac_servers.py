"""STAC APIs as they come: how they page, what they claim, and how their items are written, over a loopback server."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import numpy as np
import pytest
import shapely

from pipeline.imagery.config import ImageryConfig
from pipeline.imagery.local import open_scene
from pipeline.imagery.read import read_images
from pipeline.imagery.sources import find_imagery
from pipeline.imagery.stac.presets import PRESETS
from pipeline.net.config import NetConfig
from schemas.errors import InputError
from tests.imagery.scenes import LAT, LON, own_footprint, texture, write_raster

NET = NetConfig(timeout=5.0, retries=0)
HERE = [(LON - 0.02, LAT - 0.02, LON + 0.02, LAT + 0.02)]
Document = dict[str, Any]


@dataclass(frozen=True)
class Asked:
    method: str
    path: str
    query: dict[str, str]
    body: Any


@dataclass
class Api:
    """A server that answers as a function says."""

    answer: Callable[[Asked], Document]
    url: str = ""
    asked: list[Asked] = field(default_factory=list)


@contextmanager
def serving(answer: Callable[[Asked], Document]) -> Iterator[Api]:
    api = Api(answer)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            parts = urlsplit(self.path)
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            asked = Asked(self.command, parts.path, dict(parse_qsl(parts.query)), json.loads(body) if body else None)
            api.asked.append(asked)
            data = json.dumps(api.answer(asked)).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_POST = do_GET

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        api.url = f"http://127.0.0.1:{server.server_address[1]}/api"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield api
        finally:
            server.shutdown()
            thread.join()


def item(name: str, **changes: Any) -> Document:
    """An item of Sentinel-2, whose files are never opened."""
    keys = [*PRESETS["earth-search"].bands.values(), "scl"]
    return {
        "type": "Feature", "stac_version": "1.1.0", "id": name, "collection": "sentinel-2-l2a", "links": [],
        "geometry": shapely.geometry.mapping(shapely.box(LON - 1, LAT - 1, LON + 1, LAT + 1)),
        "bbox": [LON - 1, LAT - 1, LON + 1, LAT + 1],
        "properties": {"datetime": "2024-06-10T10:00:00Z", "eo:cloud_cover": 1.0, "s2:processing_baseline": "03.00"},
        "assets": {key: {"href": f"http://127.0.0.1/{name}/{key}.tif"} for key in keys},
    } | changes  # fmt: skip


def page(items: list[Document], *links: Document) -> Document:
    return {"type": "FeatureCollection", "features": items, "links": list(links)}


def landing(conforms: tuple[str, ...] = ("item-search", "item-search#query"), **links: str) -> Document:
    return {
        "type": "Catalog", "id": "c", "stac_version": "1.0.0", "description": "c",
        "conformsTo": [f"https://api.stacspec.org/v1.0.0/{c}" for c in conforms],
        "links": [{"rel": rel, "href": href} for rel, href in links.items()],
    }  # fmt: skip


def found(api: Api, **changes: Any) -> list[str]:
    config = ImageryConfig(stac_url=api.url, **changes)
    return [s.name for s in find_imagery("earth-search", HERE, config, NET)[0]]


def test_pages_are_followed_by_links_that_are_relative() -> None:
    def answer(asked: Asked) -> Document:
        if asked.path == "/api":
            return landing(search="./search")
        number = int(asked.query.get("page", 1))
        following = {"rel": "next", "href": "?page=2" if number == 1 else "search?page=3"}
        return page([item(f"S{number}")], *([following] if number < 3 else []))

    with serving(answer) as api:
        assert found(api) == ["S1", "S2", "S3"]
        assert [a.path for a in api.asked] == ["/api", *["/api/search"] * 3]


@pytest.mark.parametrize("merge", [True, False])
def test_pages_that_are_asked_for_by_post_get_the_body_that_their_link_gives(merge: bool) -> None:
    def answer(asked: Asked) -> Document:
        if asked.path == "/api":
            return landing(search=f"{api.url}/search")
        if asked.method == "GET":
            body = {"token": "b"} if merge else {"token": "b", "collections": ["sentinel-2-l2a"]}
            link = {"rel": "next", "method": "POST", "href": f"{api.url}/search", "body": body, "merge": merge}
            return page([item("S1")], link)
        last = {"rel": "next", "method": "POST", "href": "/api/search", "body": {"token": "c"}, "merge": True}
        return page([item(f"S-{asked.body['token']}")], *([last] if asked.body["token"] == "b" else []))

    with serving(answer) as api:
        assert found(api) == ["S-b", "S-c", "S1"]
        bodies = [a.body for a in api.asked if a.method == "POST"]
    assert [b["token"] for b in bodies] == ["b", "c"]
    assert all(b["collections"] == ["sentinel-2-l2a"] for b in bodies)
    if merge:
        assert bodies[1]["bbox"] == pytest.approx(HERE[0])
        assert bodies[1]["query"] == {"eo:cloud_cover": {"lte": 20.0}}


@pytest.mark.parametrize("tokens", [False, True])
def test_a_page_that_comes_again_ends_the_search_with_its_reason(tokens: bool) -> None:
    """Whether its link is the same again, or another each time."""
    count = iter(range(1000))

    def answer(asked: Asked) -> Document:
        if asked.path == "/api":
            return landing(search="search")
        return page([item("S1")], {"rel": "next", "href": f"?token={next(count) if tokens else 1}"})

    with serving(answer) as api:
        with pytest.raises(InputError, match=r"/api/search sends the same items page after page; narrow rs\.datetime"):
            found(api)
        assert len(api.asked) == 3


@pytest.mark.parametrize("conforms", [(), ("core",), ("core", "collections", "ogcapi-features")])
def test_an_api_that_claims_no_search_is_searched_by_the_link_that_it_has(conforms: tuple[str, ...]) -> None:
    def answer(asked: Asked) -> Document:
        return landing(conforms, search="search") if asked.path == "/api" else page([item("S1")])

    with serving(answer) as api:
        assert found(api) == ["S1"]
        assert api.asked[1].query["collections"] == "sentinel-2-l2a"
        assert "query" not in api.asked[1].query


def test_an_api_without_a_search_is_asked_for_the_items_of_the_collection() -> None:
    def answer(asked: Asked) -> Document:
        if asked.path == "/api":
            return landing((), data="collections")
        return page([item("S1"), item("cloudy", properties=item("")["properties"] | {"eo:cloud_cover": 99})])

    with serving(answer) as api:
        assert found(api) == ["S1"]
        assert api.asked[1].path == "/api/collections/sentinel-2-l2a/items"
        assert api.asked[1].query["bbox"] == ",".join(map(repr, HERE[0]))
    with serving(lambda _: landing()) as api, pytest.raises(InputError, match="neither a search nor collections"):
        found(api)


def test_items_without_a_place_or_assets_are_drops_and_the_others_are_scenes() -> None:
    rows = [
        item("fine"), item("nowhere", geometry=None, bbox=None), item("boxed", geometry=None),
        item("centre", geometry={"type": "Point", "coordinates": [LON, LAT]}),
        item("bare", assets={}), item("none", assets=None), item("no-href", assets={"red": {"type": "x"}}),
        item("solid", geometry=None, bbox=[LON - 1, LAT - 1, 0, LON + 1, LAT + 1, 4000]),
        item("metres", geometry=shapely.geometry.mapping(shapely.box(5e5, 5e6, 6e5, 6e6))),
    ]  # fmt: skip
    with serving(lambda a: landing(search="search") if a.path == "/api" else page(rows)) as api:
        config = ImageryConfig(stac_url=api.url)
        scenes, drops = find_imagery("earth-search", HERE, config, NET)
    assert [s.name for s in scenes] == ["boxed", "centre", "fine", "solid"]
    assert len({s.area.bounds for s in scenes if s.name != "solid"}) == 1
    assert {d["reason"]: d["count"] for d in drops} == {"no_place": 2, "missing_band": 3}


def test_assets_beside_their_item_are_found_from_its_own_address() -> None:
    own = {"rel": "self", "href": "collections/c/items/S1/item.json"}
    assets = {key: {"href": f"./{key}.tif"} for key in item("")["assets"]}
    with serving(
        lambda a: landing(search="search") if a.path == "/api" else page([item("S1", links=[own], assets=assets)])
    ) as api:
        (scene,) = find_imagery("earth-search", HERE, ImageryConfig(stac_url=api.url), NET)[0]
        assert scene.assets[0].href == f"{api.url}/collections/c/items/S1/coastal.tif"


FIJI = [(179.5, -17.5), (180.5, -17.5), (180.5, -16.5), (179.5, -16.5)]


@pytest.mark.parametrize(
    "place",
    [
        {"geometry": [(179.5, -17.5), (-179.5, -17.5), (-179.5, -16.5), (179.5, -16.5)]},
        {"geometry": FIJI},
        {"geometry": [(x - 360, y) for x, y in FIJI]},
        {"geometry": [(-179.5, -17.5), (179.5, -17.5), (179.5, -16.5), (-179.5, -16.5)]},
        {"geometry": None, "bbox": [179.5, -17.5, -179.5, -16.5]},
        {"geometry": None, "bbox": [179.5, -17.5, 180.5, -16.5]},
        {"geometry": None, "bbox": [179.5, -17.5, 0, -179.5, -16.5, 10]},
    ],
)
def test_an_outline_across_180_has_both_sides_however_it_is_written(place: Document) -> None:
    if place["geometry"]:
        place = {"geometry": {"type": "Polygon", "coordinates": [[*place["geometry"], place["geometry"][0]]]}}
    both = shapely.union_all([shapely.box(179.5, -17.5, 180, -16.5), shapely.box(-180, -17.5, -179.5, -16.5)])
    with serving(lambda a: landing(search="search") if a.path == "/api" else page([item("S1", **place)])) as api:
        for box in [(179.8, -17.1, 179.9, -17.0), (-179.9, -17.1, -179.8, -17.0)]:
            (scene,) = find_imagery("earth-search", [box], ImageryConfig(stac_url=api.url), NET)[0]
            assert scene.area.symmetric_difference(both).area < 1e-9
        with pytest.raises(InputError, match="1 outside_region"):
            find_imagery("earth-search", [(0.0, -17.1, 1.0, -17.0)], ImageryConfig(stac_url=api.url), NET)


def test_an_outline_around_a_pole_reaches_to_the_pole() -> None:
    ring = [[lon, -80.0] for lon in (0, 90, 180, -90, 0)]
    geometry = {"type": "Polygon", "coordinates": [ring]}
    with serving(
        lambda a: landing(search="search") if a.path == "/api" else page([item("S1", geometry=geometry)])
    ) as api:
        (scene,) = find_imagery("earth-search", [(10.0, -85.0, 11.0, -84.0)], ImageryConfig(stac_url=api.url), NET)[0]
    assert scene.area.area == pytest.approx(3600)


@pytest.mark.parametrize("by", ["eo:common_name", "common_name", "name"])
def test_bands_of_stac_1_1_are_found_by_their_names(tmp_path: Path, by: str) -> None:
    """In one asset of several bands, without a type, roles or eo:bands; and not by the asset's key."""
    data = texture(3, (3, 40, 40))
    path = write_raster(tmp_path / "data.tif", data)
    keys = {"eo:common_name": "bands", "common_name": "eo:bands", "name": "bands"}
    bands = [{by: name} for name in ("nir", "red", "green")]
    area = open_scene(path).area
    document = item(
        "S1", assets={"data": {"href": "data.tif", keys[by]: bands}}, bbox=list(area.bounds),
        geometry=shapely.geometry.mapping(area),
    )  # fmt: skip
    (tmp_path / "item.json").write_text(json.dumps(document))
    config = ImageryConfig(bands=("green", "nir"))
    (scene,) = find_imagery(str(tmp_path / "item.json"), [area.bounds], config, NET)[0]
    assert scene.assets[0].bands + (scene.assets[1].bands if len(scene.assets) > 1 else ()) == (3, 1)
    (images,) = read_images([scene], {0: own_footprint(path)}, config, NET)[0].values()
    np.testing.assert_array_equal(images[0].pixels, data[[2, 0]])


@pytest.mark.parametrize(("asked", "found"), [("nir", "B5"), ("B5", "B5"), ("red", "B4"), ("green", None)])
def test_an_asset_named_as_another_satellite_s_band_is_what_it_says_of_itself(
    tmp_path: Path, asked: str, found: str | None
) -> None:
    """B5 of Landsat 8 is the near infrared, B4 the red; of Sentinel-2 they are others."""
    path = write_raster(tmp_path / "data.tif", texture(3, (1, 40, 40)))
    area = open_scene(path).area
    assets = {
        key: {"href": "data.tif", "title": key, "eo:bands": [{"name": key, "common_name": common}]}
        for key, common in (("B4", "red"), ("B5", "nir"))
    }
    document = item("L8", assets=assets, bbox=list(area.bounds), geometry=shapely.geometry.mapping(area))
    (tmp_path / "item.json").write_text(json.dumps(document))
    config = ImageryConfig(bands=(asked,))
    if found is None:
        with pytest.raises(InputError, match="has no band green; it has B4, B5"):
            find_imagery(str(tmp_path / "item.json"), [area.bounds], config, NET)
        return
    (scene,) = find_imagery(str(tmp_path / "item.json"), [area.bounds], config, NET)[0]
    assert list(scene.bands) == [{"B5": "nir", "B4": "red"}[found]]
