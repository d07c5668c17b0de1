"""Searches of the mirror's services: their pages together are the search, and their limits those of the originals."""

from __future__ import annotations

import json
import math
import operator
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import pytest

from pipeline.mirror import kartaview, mapillary, panoramax, stac
from pipeline.mirror.server import Mirror
from tests.imagery.scenes import write_manifest
from tests.mirror.test_mirror import ask
from tests.streetview.makers import picture, write_table

SERVICES = {"panoramax": panoramax.respond, "kartaview": kartaview.respond, "mapillary": mapillary.respond}
COUNT = 2050
#: More photos than any page holds, on a line northwards, 1e-5 degrees apart.
LON, LAT, STEP = 9.5, 47.0, 1e-5
CLOUDS = (10, 20, 20, 30, None)


def place(i: int) -> dict[str, Any]:
    x = 7 + i / 10
    return {"type": "Polygon", "coordinates": [[[x, 46], [x + 0.1, 46], [x + 0.1, 47], [x, 47], [x, 46]]]}


def properties_of(i: int) -> dict[str, Any]:
    cloud = CLOUDS[i] if i < len(CLOUDS) else None
    return {} if cloud is None else {"cloud": cloud}


@pytest.fixture(scope="module")
def mirror(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mirror]:
    folder = tmp_path_factory.mktemp("mirror")
    rows = [
        {"file": "a.jpg", "id": str(i), "lon": LON, "lat": LAT + i * STEP, "licence": "CC0-1.0", "heading": 0.0}
        for i in range(1, COUNT + 1)
    ]
    for name in SERVICES:
        picture(folder / name / "a.jpg")
        write_table(folder / name / "photos.csv", rows)
    items = [
        {"id": f"i{i:04d}", "datetime": f"2024-06-01T{i // 60:02d}:{i % 60:02d}:00Z", "geometry": place(i),
         "assets": {"red": "a.tif"},
         "properties": properties_of(i)}
        for i in range(1010)
    ]  # fmt: skip
    write_manifest(folder / "stac", items, "c")
    with Mirror(folder, services=SERVICES | {"stac": stac.respond}) as server:
        yield server


def document(mirror: Mirror, address: str) -> dict[str, Any]:
    status, _, data = ask(mirror, address.removeprefix(mirror.url), Authorization="OAuth x")
    return {"status": status, **json.loads(data)}


def linked(mirror: Mirror, path: str, **query: str) -> Iterator[list[str]]:
    """Ids of each page, by its link to the next."""
    address: str | None = f"{path}?{urlencode(query)}"
    while address:
        page = document(mirror, address)
        yield [f["id"] for f in page["features"]]
        address = next((link["href"] for link in page["links"] if link["rel"] == "next"), None)


def numbered(mirror: Mirror, count: int) -> Iterator[list[str]]:
    """Those of KartaView, by number until it says that there are no more."""
    number, more = 0, True
    while more:
        number += 1
        where = {"lat": LAT, "lng": LON, "radius": 50, "itemsPerPage": count, "page": number}
        result = document(mirror, f"/kartaview/2.0/photo/?{urlencode(where)}")["result"]
        more = result["hasMoreData"]
        yield [photo["id"] for photo in result["data"]]


def north(last: int) -> str:
    """A box that holds the photos up to that one, which lies on its edge as the first does."""
    return f"{LON - 1},{LAT + STEP:.5f},{LON},{LAT + last * STEP:.5f}"


@pytest.mark.parametrize("count", [7, 22, 44, 45])
def test_the_pages_of_a_search_are_full_and_hold_each_result_once_in_order(mirror: Mirror, count: int) -> None:
    first = sorted(str(i) for i in range(1, 45))
    near = [str(i) for i in range(1, 45)]  # within 50 m
    newest = [f"i{i:04d}" for i in reversed(range(20, 64))]
    hours = "2024-06-01T00:20:00Z/2024-06-01T01:03:00Z"
    for pages, expected in (
        (linked(mirror, "/panoramax/api/search", bbox=north(44), limit=str(count)), first),
        (numbered(mirror, count), near),
        (linked(mirror, "/stac/search", datetime=hours, limit=str(count)), newest),
    ):
        assert list(pages) == [expected[i : i + count] for i in range(0, 44, count)]


EVERYWHERE = "bbox=-180,-90,180,90"


@pytest.mark.parametrize(
    ("path", "key", "most", "holds", "unasked"),
    [
        ("/panoramax/api/search", "features", 10_000, COUNT, 10),
        ("/mapillary/images", "data", 2000, 2000, 2000),
    ],
)
def test_a_search_holds_as_many_as_the_original_s_and_is_refused_more(
    mirror: Mirror, path: str, key: str, most: int, holds: int, unasked: int
) -> None:
    found = [document(mirror, f"{path}?{EVERYWHERE}&limit={n}") for n in (most, 1, most + 1, 0)]
    assert [(f["status"], len(f.get(key, ()))) for f in found] == [(200, holds), (200, 1), (400, 0), (400, 0)]
    assert len(document(mirror, f"{path}?{EVERYWHERE}")[key]) == unasked


def test_fifty_photos_of_mapillary_are_named_in_one_request_and_no_more(mirror: Mirror) -> None:
    found = [document(mirror, f"/mapillary/?ids={','.join(map(str, range(1, n + 1)))}") for n in (50, 51)]
    assert [f["status"] for f in found] == [200, 400]
    assert found[0].keys() - {"status"} == set(map(str, range(1, 51)))


def test_kartaview_looks_two_kilometres_around_and_holds_a_hundred_and_fifty_a_page(mirror: Mirror) -> None:
    where = {"lat": LAT, "lng": LON, "radius": 5000}
    pages = [document(mirror, f"/kartaview/2.0/photo/?{urlencode(where | {'itemsPerPage': n})}") for n in (150, 151)]
    assert [len(page["result"]["data"]) for page in pages] == [150, 150]
    last = document(mirror, f"/kartaview/2.0/photo/?{urlencode(where | {'orderDirection': 'desc'})}")["result"]["data"]
    first = 6378137.0 * (1 - 0.00669438)  # radius of the meridian where it begins, in metres
    metres = first / (1 - 0.00669438 * math.sin(math.radians(LAT)) ** 2) ** 1.5 * math.radians(STEP)  # of a step
    assert [int(photo["id"]) for photo in last] == [int(2000 / metres) - i for i in range(40)]


def test_a_page_of_items_is_of_one_to_a_thousand_and_of_ten_unless_asked(mirror: Mirror) -> None:
    sizes = {n: len(document(mirror, f"/stac/search{n}")["features"]) for n in ("?limit=1000", "?limit=1001", "")}
    assert sizes == {"?limit=1000": 1000, "?limit=1001": 1000, "": 10}


@pytest.mark.parametrize("name", ["eq", "lt", "lte", "gt", "gte"])
def test_a_query_is_the_comparison_of_its_name_and_what_says_nothing_is_left_out(mirror: Mirror, name: str) -> None:
    compare = getattr(operator, {"lte": "le", "gte": "ge"}.get(name, name))
    found = document(mirror, f"/stac/search?query={quote(json.dumps({'cloud': {name: 20}}))}")["features"]
    own = [f"i{i:04d}" for i, cloud in enumerate(CLOUDS) if cloud is not None and compare(cloud, 20)]
    assert sorted(f["id"] for f in found) == own


def test_a_query_of_several_rules_is_what_all_of_them_say(mirror: Mirror) -> None:
    for rules, own in ({"gt": 10, "lt": 30}, [1, 2]), ({"gte": 10, "lt": 20}, [0]), ({"eq": 20, "gt": 20}, []):
        found = document(mirror, f"/stac/search?query={quote(json.dumps({'cloud': rules}))}")["features"]
        assert sorted(f["id"] for f in found) == [f"i{i:04d}" for i in own]


@pytest.mark.parametrize("box", ["nonsense", "1,2,3", "1,2,3,4,5", ""])
def test_a_box_that_is_none_is_refused(mirror: Mirror, box: str) -> None:
    for path in ("/panoramax/api/search", "/mapillary/images"):
        assert document(mirror, f"{path}?bbox={box or ','}")["status"] == 400


def test_a_search_of_items_says_how_many_there_are(mirror: Mirror) -> None:
    assert document(mirror, "/stac/search?limit=3")["numberMatched"] == 1010


@pytest.mark.parametrize("lacks", ["id", "datetime", "assets"])
def test_an_item_that_lacks_something_is_named_by_its_manifest(tmp_path: Path, lacks: str) -> None:
    row = {"id": "a", "datetime": "2024-06-01T00:00:00Z", "geometry": place(0), "assets": {"red": "a.tif"}}
    write_manifest(tmp_path / "stac", [{k: v for k, v in row.items() if k != lacks}], "c")
    with Mirror(tmp_path, services={"stac": stac.respond}) as server:
        status, _, data = ask(server, "/stac/search")
    assert status == 500
    assert f"c/manifest.json: an item lacks '{lacks}'" in data.decode()


@pytest.mark.parametrize("box", ["7.25,46.5,7.45,46.6", "7.25,46.5,0,7.45,46.6,99", "7.25,47,7.45,48"])
def test_a_box_finds_what_it_meets(mirror: Mirror, box: str) -> None:
    found = document(mirror, f"/stac/search?bbox={box}&collections=c")["features"]
    assert [f["id"] for f in found] == ["i0004", "i0003", "i0002"]
    assert not document(mirror, f"/stac/search?bbox={box}&collections=d")["features"]
    assert [f["id"] for f in document(mirror, f"/stac/search?bbox={box}&ids=i0003,i0009")["features"]] == ["i0003"]
