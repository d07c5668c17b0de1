"""Panoramax, KartaView and Mapillary over real HTTP: what they list, what is fetched, what is not asked for twice."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from geometry.tiles import lonlat_to_tile
from pipeline.mirror.messages import Request, Response
from pipeline.net.client import Unavailable
from pipeline.streetview.config import StreetviewConfig
from pipeline.streetview.record import PLACED, Drops
from pipeline.streetview.services import kartaview, panoramax
from pipeline.streetview.services import mapillary as mapillary_module
from pipeline.streetview.services.mapillary import TOKEN
from pipeline.streetview.sources import open_source
from schemas.errors import ConfigError, InputError
from tests.grounds import TileArea
from tests.mirror import faults
from tests.mirror.server import Mirror
from tests.streetview.conftest import SECRET, SERVICES, Open
from tests.streetview.makers import FAST, town

NAMES = tuple(SERVICES)


def by_id(source: Any, area: TileArea) -> dict[str, dict[str, Any]]:
    drops = Drops()
    table = source.list(area, drops)
    assert table.schema == PLACED
    assert not drops.rows()
    found = {row["id"]: row for row in table.to_pylist()}
    assert len(found) == len(table)
    return found


def corrected(row: dict[str, Any], name: str) -> bool:
    """Whether the service says where a photo of the town really was: Panoramax knows one position only."""
    return name != "panoramax" and "computed_lon" in row


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("position", ["corrected", "original"])
def test_a_service_lists_the_photos_as_they_are(
    name: str, position: str, open_service: Open, area: TileArea, rows: list[dict[str, Any]]
) -> None:
    found = by_id(open_service(name, position=position), area)
    assert set(found) == {r["id"] for r in rows}
    for row in rows:
        photo = found[row["id"]]
        better = position == "corrected" and corrected(row, name)
        lonlat = (row["computed_lon"], row["computed_lat"]) if better else (row["lon"], row["lat"])
        assert (photo["lon"], photo["lat"]) == pytest.approx(lonlat, abs=1e-9)
        turned = better and name == "mapillary"  # KartaView matches places, not headings
        assert photo["heading"] == row["computed_compass_angle" if turned else "heading"]
        assert photo["captured_at"] == (row["captured_at"] if name != "kartaview" else row["captured_at"].rstrip("Z"))
        assert photo["projection"] == ("equirectangular" if row["projection"] == "spherical" else "perspective")
        assert (photo["author"], photo["licence"]) == (row["author"], "CC-BY-SA-4.0")
        assert (photo["sequence"], photo["source"]) == (row["sequence"], name)
        assert photo["index"] == (None if name == "mapillary" else row["sequence_index"])


@pytest.mark.parametrize("name", NAMES)
def test_a_photo_is_fetched_as_it_is_and_once(
    name: str, open_service: Open, area: TileArea, mirror: Mirror, cache: Path, tmp_path: Path
) -> None:
    source = open_service(name)
    row = by_id(source, area)["1000000000000001"]
    path = source.fetch(row)
    assert path.is_relative_to(cache)
    mirror.log.clear()
    again = open_service(name)
    assert again.fetch(by_id(again, area)["1000000000000001"]) == path
    assert not mirror.log
    original = (tmp_path / "mirror" / name / "p1.jpg").read_bytes()
    if name == "mapillary":
        assert len(path.read_bytes()) > 500
    else:
        assert path.read_bytes()[:2] == original[:2] == b"\xff\xd8"


@pytest.mark.parametrize("name", NAMES)
def test_only_the_photos_of_the_area_are_listed_and_only_near_it_is_asked(
    name: str, open_service: Open, area: TileArea, rows: list[dict[str, Any]]
) -> None:
    some = TileArea(area.tiles[:5], area.zoom)
    source = open_service(name)
    expected = set()
    for row in rows:
        lonlat = (row["computed_lon"], row["computed_lat"]) if corrected(row, name) else (row["lon"], row["lat"])
        tile = np.floor(lonlat_to_tile(np.array(lonlat), area.zoom)).astype(int)
        if (tile == area.tiles[:5]).all(axis=1).any():
            expected.add(row["id"])
    assert set(by_id(source, some)) == expected
    assert 0 < len(expected) < len(rows)


@pytest.mark.parametrize("name", NAMES)
def test_a_margin_takes_in_the_photos_around(name: str, open_service: Open, area: TileArea) -> None:
    source = open_service(name)
    few, more = (set(by_id(source, TileArea(area.tiles[:3], area.zoom, m))) for m in (0.0, 120.0))
    assert few < more


@pytest.mark.parametrize("name", NAMES)
def test_a_service_that_grows_is_asked_anew_only_on_request(
    name: str, open_service: Open, area: TileArea, mirror: Mirror, tmp_path: Path
) -> None:
    before = set(by_id(open_service(name), area))
    town(tmp_path / "mirror" / name, count=30)
    assert set(by_id(open_service(name), area)) == before
    assert len(by_id(open_service(name, renew=True), area)) == 30


@pytest.mark.parametrize("name", NAMES)
def test_a_run_that_is_cut_off_asks_only_for_what_it_lacks(
    name: str, open_service: Open, area: TileArea, mirror: Mirror
) -> None:
    mirror.faults.append(failing_after(2))
    with pytest.raises(Unavailable):
        by_id(open_service(name, net=replace(FAST, parallel=1)), area)
    for thread in threading.enumerate():
        if thread.name.startswith(name):  # one may have begun with the next tile
            thread.join()
    mirror.faults.clear()
    had = sum(s.status == 200 for s in mirror.log)
    assert had == 2
    mirror.log.clear()
    assert len(by_id(open_service(name), area)) == 24
    asked = len(mirror.log)
    by_id(open_service(name, renew=True), area)
    assert len(mirror.log) - asked == asked + (0 if name == "mapillary" else had)  # all of it, without the cache


def failing_after(count: int) -> faults.Fault:
    """503 for all but the first requests."""
    left = count

    def fault(request: Request, answer: Response) -> Response:
        nonlocal left
        left -= 1
        return answer if left >= 0 else Response(503, b"not now")

    return fault


def test_pages_are_followed_to_the_last(
    open_service: Open, area: TileArea, mirror: Mirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(panoramax, "_LIMIT", 5)
    assert len(by_id(open_service("panoramax"), area)) == 24
    assert sum("search" in s.path for s in mirror.log) >= 5
    monkeypatch.setattr(kartaview, "_PAGE", 2)
    assert len(by_id(open_service("kartaview"), area)) == 24


def test_an_instance_without_pages_is_asked_in_parts(
    open_service: Open, area: TileArea, mirror: Mirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As geovisio answers: the nearest to the middle, and no link to the others."""
    monkeypatch.setattr(panoramax, "_LIMIT", 4)

    def without_links(request: Request, answer: Response) -> Response:
        assert isinstance(answer.body, bytes)
        return Response(answer.status, answer.body.replace(b'"next"', b'"forth"'), answer.type)

    mirror.faults.append(faults.only("api/search", without_links))
    assert len(by_id(open_service("panoramax"), area)) == 24


def test_a_place_with_more_photos_than_can_be_listed_is_refused(
    open_service: Open, area: TileArea, mirror: Mirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(panoramax, "_LIMIT", 3)
    item = b'{"id": "same", "type": "Feature"}'
    page = b'{"type": "FeatureCollection", "features": [' + b",".join([item] * 3) + b'], "links": []}'
    mirror.faults.append(lambda request, answer: Response(200, page, "application/json"))
    with pytest.raises(InputError, match=r"panoramax has more photos at .* than it lists"):
        by_id(open_service("panoramax"), area)


def test_pages_without_end_are_refused(open_service: Open, area: TileArea, mirror: Mirror) -> None:
    link = f'{{"rel": "next", "href": "{mirror.url}/panoramax/api/search?again=1"}}'
    page = f'{{"features": [{{"id": "a"}}], "links": [{link}]}}'.encode()
    mirror.faults.append(lambda request, answer: Response(200, page, "application/json"))
    with pytest.raises(InputError, match="pages without end"):
        open_service("panoramax").list(area, Drops())


@pytest.mark.parametrize("target", ["file:///etc/passwd", "ftp://example.org/x"])
def test_a_next_page_is_on_the_web_or_refused(target: str, open_service: Open, area: TileArea, mirror: Mirror) -> None:
    page = f'{{"features": [{{"id": "a"}}], "links": [{{"rel": "next", "href": "{target}"}}]}}'.encode()
    mirror.faults.append(lambda request, answer: Response(200, page, "application/json"))
    with pytest.raises(InputError, match="which is no http"):
        open_service("panoramax").list(area, Drops())


@pytest.mark.parametrize(
    "body",
    [b"[]", b"{}", b'{"features": 7}', b"null", b'{"status": {"apiCode": "700"}}', b'{"status": 7, "result": []}'],
)
@pytest.mark.parametrize("name", ["panoramax", "kartaview"])
def test_an_answer_of_another_kind_is_refused_by_name(
    name: str, body: bytes, open_service: Open, area: TileArea, mirror: Mirror
) -> None:
    mirror.faults.append(lambda request, answer: Response(200, body, "application/json"))
    with pytest.raises(InputError, match=f"sv.{name}_url"):
        open_service(name).list(area, Drops())


def test_kartaview_behind_a_login_says_so(open_service: Open, area: TileArea, mirror: Mirror) -> None:
    """As reported of 2026: code 401 within an HTTP 200."""
    body = b'{"status": {"apiCode": 401, "httpCode": 200}}'
    mirror.faults.append(lambda request, answer: Response(200, body, "application/json"))
    with pytest.raises(InputError, match="wants a login"):
        open_service("kartaview").list(area, Drops())


def test_odd_items_are_dropped_with_a_reason_and_break_nothing(
    open_service: Open, area: TileArea, mirror: Mirror
) -> None:
    items = (
        b'{"id": "no geometry"}, {"geometry": {"type": "Point", "coordinates": [0, 0]}, "id": "zero"}, 7, null,'
        b'{"id": "text", "geometry": {"coordinates": ["9.5", "x"]}, "properties": [], "assets": null, "links": 3},'
        b'{"id": "swapped", "geometry": {"coordinates": [47.1, 109.5]}, "providers": {"a": 1}}'
    )
    page = b'{"features": [' + items + b"]}"
    mirror.faults.append(lambda request, answer: Response(200, page, "application/json"))
    drops = Drops()
    assert len(open_service("panoramax").list(area, drops)) == 0
    assert {str(r["key"]): r["reason"] for r in drops.rows()} == {
        "no geometry": "no_position", "zero": "coordinate_out_of_range", "text": "no_position",
        "swapped": "swapped_coordinates",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("item", "expected"),
    [
        ('"properties": {"license": "etalab-2.0"}', "etalab-2.0"),
        ('"properties": {"license": "proprietary"}', None), ("", None),
        ('"links": [{"rel": "license", "title": "License for this object (CC-BY-4.0)", "href": "x"}]', "CC-BY-4.0"),
        ('"properties": {"license": "various"}, "links": [{"rel": "license", "href": "https://w/x"}]', "https://w/x"),
        ('"links": [{"rel": "license", "title": "License for this object (proprietary)"}]', None),
    ],
)  # fmt: skip
def test_each_photo_of_panoramax_has_its_own_licence(
    item: str, expected: str | None, open_service: Open, area: TileArea, mirror: Mirror
) -> None:
    body = f'{{"id": "a", "geometry": {{"coordinates": [9.514, 47.115]}} {"," if item else ""} {item}}}'
    page = f'{{"features": [{body}]}}'.encode()
    mirror.faults.append(lambda request, answer: Response(200, page, "application/json"))
    assert open_service("panoramax").list(area, Drops()).column("licence").to_pylist() == [expected]


def test_a_cropped_panorama_of_panoramax_says_what_it_shows(open_service: Open, area: TileArea, mirror: Mirror) -> None:
    camera = '{"field_of_view": 360, "sensor_array_dimensions": [8000, 4000], "visible_area": [2000, 1000, 2000, 500]}'
    page = (
        '{"features": [{"id": "a", "geometry": {"coordinates": [9.514, 47.115]}, "properties": '
        f'{{"pers:interior_orientation": {camera}}}}}]}}'
    ).encode()
    mirror.faults.append(lambda request, answer: Response(200, page, "application/json"))
    (row,) = open_service("panoramax").list(area, Drops()).to_pylist()
    assert (row["projection"], row["visible"]) == ("equirectangular", [0.25, 0.25, 0.75, 0.875])


@pytest.mark.parametrize(
    ("size", "panorama", "asset"), [(256, "keep", "thumb"), (512, "keep", "sd"), (4000, "keep", "hd")]
)
def test_the_smallest_version_that_is_wide_enough_is_fetched(
    size: int, panorama: str, asset: str, open_service: Open, area: TileArea, mirror: Mirror
) -> None:
    source = open_service("panoramax", size=size, panorama=panorama)
    assert all(row["url"].endswith(f"/{asset}.jpg") for row in by_id(source, area).values())
    photo = open_service("mapillary", size=size)
    photo.fetch(by_id(photo, area)["1000000000000001"])
    (path,) = {s.path for s in mirror.log if "/thumb/" in s.path}
    assert path.endswith({256: "/256", 512: "/1024", 4000: "/0"}[size])


def test_panoramas_are_fetched_wide_enough_for_their_views(open_service: Open, area: TileArea) -> None:
    found = by_id(open_service("panoramax", size=400, panorama="views", view_fov=60.0), area)
    ends = {row["projection"]: row["url"].rsplit("/", 1)[-1] for row in found.values()}
    assert ends == {"perspective": "thumb.jpg", "equirectangular": "hd.jpg"}  # 2177 px around


def test_mapillary_asks_tiles_for_ids_and_the_graph_for_fifty_of_them_at_a_time(
    open_service: Open, area: TileArea, mirror: Mirror, tmp_path: Path
) -> None:
    town(tmp_path / "mirror" / "mapillary", count=300)
    assert len(by_id(open_service("mapillary"), area)) == 300
    paths = [s.path for s in mirror.log]
    assert {p.split("/")[3] for p in paths if "/vtp/" in p} == {"mly1_public", "mly1_computed_public"}
    assert len({p for p in paths if "/vtp/" in p}) == 2 * 4
    assert 300 / 50 <= sum(p == "mapillary/" for p in paths) < 300 / 50 + 4  # a last one of each tile is not full


def test_mapillary_without_corrections_asks_for_none(open_service: Open, area: TileArea, mirror: Mirror) -> None:
    by_id(open_service("mapillary", position="original"), area)
    assert not [s.path for s in mirror.log if "computed" in s.path]


def test_mapillary_photos_that_are_gone_are_drops(open_service: Open, area: TileArea, mirror: Mirror) -> None:
    """Tiles are some days behind the Graph API."""

    def without_one(request: Request, answer: Response) -> Response:
        assert isinstance(answer.body, bytes)
        return Response(200, answer.body.replace(b'"1000000000000001": {', b'"1": {'), answer.type)

    mirror.faults.append(faults.only("", without_one))
    drops = Drops()
    listed = open_service("mapillary").list(area, drops)
    assert "1000000000000001" not in listed.column("id").to_pylist()
    assert len(listed) == 23
    assert [(d["key"], d["reason"]) for d in drops.rows()] == [("1000000000000001", "gone")]


def graph_error(code: int, status: int, *names: str) -> faults.Fault:
    """What the Graph API answers to a request that names one of the photos (without any: to every request)."""

    def fault(request: Request, answer: Response) -> Response:
        asked = request.query.get("ids", [""])[-1].split(",")
        if names and not set(names) & set(asked):
            return answer
        return Response.json({"error": {"message": "…", "type": "MLYApiException", "code": code}}, status)

    return fault


@pytest.mark.parametrize("code", [100, 0])  # what it says, or just a no
@pytest.mark.parametrize("gone", [["1000000000000001"], [f"{10**15 + i}" for i in (0, 7, 8, 23)]])
def test_deleted_photos_in_a_batch_end_no_run(
    gone: list[str], code: int, open_service: Open, area: TileArea, mirror: Mirror
) -> None:
    """The Graph API refuses all fifty for one of them."""
    mirror.faults.append(faults.only("", graph_error(code, 400, *gone)))
    for _ in range(2):  # asked, and from the cache
        drops = Drops()
        found = open_service("mapillary").list(area, drops).column("id").to_pylist()
        assert sorted(found) == sorted({f"{10**15 + i}" for i in range(24)} - set(gone))
        assert {(d["key"], d["reason"]) for d in drops.rows()} == {(name, "gone") for name in gone}
    assert len([s for s in mirror.log if s.path == "mapillary/"]) < 24 + 4 * len(gone)


def test_a_batch_that_is_refused_for_another_reason_ends_the_run(
    open_service: Open, area: TileArea, mirror: Mirror
) -> None:
    mirror.faults.append(faults.only("", graph_error(190, 400)))
    with pytest.raises(ConfigError, match="Mapillary refuses the access token in MAPILLARY_TOKEN"):
        open_service("mapillary").list(area, Drops())
    mirror.faults[:] = [faults.only("", graph_error(4, 400))]  # each by itself too
    with pytest.raises(InputError, match="answered 400"):
        open_service("mapillary").list(area, Drops())


def test_an_address_that_has_expired_is_asked_for_again_at_the_next_run(
    open_service: Open, area: TileArea, mirror: Mirror
) -> None:
    source = open_service("mapillary")
    row = by_id(source, area)["1000000000000001"]
    source.fetch(row)
    assert [s.path for s in mirror.log][-2:] == [
        "mapillary/1000000000000001", "mapillary/thumb/1000000000000001/1024",
    ]  # fmt: skip


@pytest.mark.parametrize("value", ["", "  ", "to ken", "tök", "a\nb"])
def test_without_a_usable_token_mapillary_says_where_to_get_one(
    value: str, monkeypatch: pytest.MonkeyPatch, cache: Path
) -> None:
    monkeypatch.setenv(TOKEN, value)
    with pytest.raises(ConfigError, match=TOKEN) as caught:
        open_source("mapillary", StreetviewConfig(), FAST, cache)
    assert not value.strip() or value not in str(caught.value)


@pytest.mark.parametrize("status", [401, 403])
def test_a_token_that_is_refused_is_said_to_be(status: int, open_service: Open, area: TileArea, mirror: Mirror) -> None:
    mirror.faults.append(faults.status(status))
    with pytest.raises(ConfigError, match=f"refuses the access token in {TOKEN}") as caught:
        open_service("mapillary").list(area, Drops())
    assert SECRET not in str(caught.value)


def test_tiles_come_from_beside_the_graph_where_that_is_elsewhere(mirror: Mirror, cache: Path, token: str) -> None:
    def tiles(**urls: str) -> str:
        source = open_source("mapillary", StreetviewConfig(**urls), FAST, cache)  # type: ignore[arg-type]
        return str(source.tiles)  # type: ignore[attr-defined]

    assert tiles(mapillary_url=f"{mirror.url}/mapillary/") == f"{mirror.url}/mapillary"
    assert (
        tiles(mapillary_url=f"{mirror.url}/mapillary", mapillary_tiles_url="https://example.org/t/")
        == "https://example.org/t"
    )
    assert mapillary_module.TILES.startswith("https://tiles.")


@pytest.mark.parametrize(
    "url", ["file:///x", "https://user:pw@example.org", "https://example.org/?access_token=x", "http://[", "mirror"]
)
def test_addresses_with_secrets_or_of_no_web_are_refused(url: str) -> None:
    with pytest.raises(ConfigError, match=r"sv\.\*_url"):
        StreetviewConfig(mapillary_url=url)


def test_an_unknown_source_lists_those_that_there_are(cache: Path) -> None:
    with pytest.raises(InputError, match="nor one of panoramax, mapillary, kartaview"):
        open_source("googlestreetview", StreetviewConfig(), FAST, cache)


@pytest.mark.parametrize("producer", ["none", " ", None])
def test_a_producer_of_no_name_leaves_a_panoramax_photo_to_its_providers(producer: str | None) -> None:
    providers = [{"name": "host", "roles": ["host"]}, {"name": " Ada ", "roles": ["producer"]}]
    properties = {"geovisio:producer": producer}
    assert panoramax._author({"providers": providers}, properties) == "Ada"
    assert panoramax._author({}, properties) is None
    assert panoramax._author({"providers": providers}, {"geovisio:producer": " Bo "}) == "Bo"
