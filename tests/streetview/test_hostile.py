"""Servers that mean no good, or have a bad day: a clear error or a counted drop, and nothing of it stays behind."""

from __future__ import annotations

import logging
import time
import traceback
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from pipeline.mirror.messages import Request, Response
from pipeline.net.client import Unavailable
from pipeline.streetview.config import StreetviewConfig
from pipeline.streetview.pictures.encode import encode_photos
from pipeline.streetview.plan import ChosenPhotos
from pipeline.streetview.record import Drops
from pipeline.streetview.sources import open_source
from schemas.errors import ConfigError, InputError
from tests.grounds import TileArea, photos_of_tiles
from tests.mirror import faults
from tests.mirror.server import Mirror
from tests.streetview.conftest import SECRET, SERVICES, Open
from tests.streetview.makers import FAST, picture, reasons, write_table

#: Where each service has the bytes of photo p1, below its base.
BYTES = {
    "panoramax": "api/pictures/1000000000000001/*", "kartaview": "storage/1000000000000001/*",
    "mapillary": "thumb/1000000000000001/*",
}  # fmt: skip


def plan(open_service: Open, name: str, area: TileArea, **options: Any) -> ChosenPhotos:
    return photos_of_tiles(open_service(name, **options), StreetviewConfig(), area.tiles, area.zoom)


def ids(found: ChosenPhotos) -> list[str]:
    return sorted(p.id for own in found.photos.values() for p in own)


@pytest.mark.parametrize("name", SERVICES)
@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (faults.status(404), "refused"), (faults.status(403), "refused"), (faults.status(410), "refused"),
        (faults.web_page(), "web_page"), (faults.web_page("image/jpeg"), "web_page"),
        (faults.redirect("file:///etc/passwd"), "unreachable"), (faults.redirect("ftp://example.org/"), "unreachable"),
        (lambda request, answer: Response(200, b"%PDF-1.7 no photo", "image/jpeg"), "unreadable_image"),
        (lambda request, answer: Response(200, b"", "image/jpeg"), "unreadable_image"),
    ],
)  # fmt: skip
def test_one_photo_that_cannot_be_had_is_a_drop_and_the_others_come(
    name: str, fault: faults.Fault, reason: str, open_service: Open, area: TileArea, mirror: Mirror, cache: Path
) -> None:
    mirror.faults.append(faults.only(BYTES[name], fault))
    found = plan(open_service, name, area)
    assert len(ids(found)) == 23
    assert reasons(found.drops) == {"1000000000000001": reason}
    assert not list(cache.rglob("*.tmp"))
    (detail,) = (str(row["detail"]) for row in found.drops)
    assert str(cache) not in detail


@pytest.mark.parametrize("name", SERVICES)
def test_a_no_is_remembered_and_asked_about_again_only_on_request(
    name: str, open_service: Open, area: TileArea, mirror: Mirror
) -> None:
    """So that a run that goes on has the same photos as the one before it."""
    mirror.faults.append(faults.only(BYTES[name], faults.status(410)))
    before = plan(open_service, name, area)
    mirror.faults.clear()
    mirror.log.clear()
    after = plan(open_service, name, area)
    assert not mirror.log
    assert ids(before) == ids(after)
    assert before.drops == after.drops
    assert len(ids(plan(open_service, name, area, renew=True))) == 24


@pytest.mark.parametrize("name", SERVICES)
@pytest.mark.parametrize(
    "fault",
    [
        faults.status(429, "0"),
        faults.status(503),
        faults.cut(300),
        faults.cut(300, reset=True),
        faults.lengthened(5000),
    ],
)
def test_what_passes_is_waited_for(
    name: str, fault: faults.Fault, open_service: Open, area: TileArea, mirror: Mirror
) -> None:
    mirror.faults.append(faults.only("*", fault, times=2))
    found = plan(open_service, name, area)
    assert len(ids(found)) == 24
    assert not found.drops


def test_retry_after_is_obeyed(open_service: Open, area: TileArea, mirror: Mirror) -> None:
    mirror.faults.append(faults.only(BYTES["panoramax"], faults.status(429, "1"), times=1))
    began = time.monotonic()
    plan(open_service, "panoramax", area, net=replace(FAST, max_wait=5.0))
    assert time.monotonic() - began >= 1.0


@pytest.mark.parametrize("fault", [faults.slow(50), faults.status(503), faults.cut(20, reset=True)])
def test_a_server_that_stays_down_ends_the_run_and_the_next_one_goes_on(
    fault: faults.Fault, open_service: Open, area: TileArea, mirror: Mirror
) -> None:
    mirror.faults.append(faults.only(BYTES["panoramax"], fault))
    impatient = replace(FAST, timeout=0.3, min_rate=10_000, retries=1, parallel=1)
    with pytest.raises(Unavailable, match="run the same command again"):
        plan(open_service, "panoramax", area, net=impatient)
    mirror.faults.clear()
    had = {s.path for s in mirror.log if "pictures" in s.path and s.status == 200 and "0001/" not in s.path}
    mirror.log.clear()
    assert len(ids(plan(open_service, "panoramax", area))) == 24
    assert not {s.path for s in mirror.log} & had


def test_where_nothing_can_be_had_the_run_says_so(open_service: Open, area: TileArea, mirror: Mirror) -> None:
    """A login page of the network in place of every photo, say."""
    mirror.faults.append(faults.only("api/pictures/*", faults.web_page()))
    with pytest.raises(InputError, match=r"none of the 24 photos of panoramax can be had; the first: .* is a web page"):
        plan(open_service, "panoramax", area)
    mirror.faults.clear()
    assert len(ids(plan(open_service, "panoramax", area))) == 24  # none of that was remembered


def test_a_photo_without_end_is_given_up(open_service: Open, area: TileArea, mirror: Mirror) -> None:
    def endless(request: Request, answer: Response) -> Response:
        return Response(200, b"\xff\xd8" + bytes(3_000_000), "image/jpeg")

    mirror.faults.append(faults.only(BYTES["panoramax"], endless))
    found = plan(open_service, "panoramax", area, max_mb=1.0)
    assert reasons(found.drops) == {"1000000000000001": "too_many_bytes"}


def test_a_bomb_and_a_truncated_photo_are_counted_when_they_are_encoded(
    open_service: Open, area: TileArea, mirror: Mirror, tmp_path: Path
) -> None:
    Image.new("RGB", (10_000, 10_000)).save(tmp_path / "bomb.jpg", quality=1)
    bomb = (tmp_path / "bomb.jpg").read_bytes()
    cut = picture(tmp_path / "cut.jpg", 5, (400, 300)).read_bytes()[:-2000]
    for number, data in ((1, bomb), (2, cut)):
        path = BYTES["panoramax"].replace("0001/", f"{number:04d}/")
        mirror.faults.append(faults.only(path, lambda request, answer, data=data: Response(200, data, "image/jpeg")))
    found = plan(open_service, "panoramax", area)
    assert len(ids(found)) == 24
    drops = Drops()
    made = [image for own in found.photos.values() for image in encode_photos(own, StreetviewConfig(size=64), drops)]
    assert len(made) == 22
    assert reasons(drops.rows()) == {"1000000000000001": "too_many_pixels", "1000000000000002": "unreadable_image"}


def test_a_cache_that_lost_or_damaged_a_photo_fetches_it_again(
    open_service: Open, area: TileArea, mirror: Mirror
) -> None:
    found = plan(open_service, "panoramax", area)
    first, second = (Path(own[0].path) for own in list(found.photos.values())[:2])
    first.unlink()
    second.write_bytes(second.read_bytes()[:-10])
    mirror.log.clear()
    again = plan(open_service, "panoramax", area)
    assert ids(again) == ids(found)
    assert len(mirror.log) == 2
    assert first.exists()


def test_equal_photos_are_kept_once(mirror: Mirror, tmp_path: Path, cache: Path, area: TileArea) -> None:
    """A photo in two sources, or under two names in one."""
    url = f"{mirror.url}/panoramax/api/pictures/1000000000000001/hd.jpg"
    rows = [
        {"id": str(i), "lon": 9.514, "lat": 47.115 + i * 1e-5, "url": f"{url}?copy={i}", "licence": "CC0-1.0"}
        for i in range(3)
    ]
    table = write_table(tmp_path / "t.csv", rows, list(rows[0]))
    source = open_source(str(table), StreetviewConfig(), FAST, cache)
    found = photos_of_tiles(source, StreetviewConfig(), area.tiles, area.zoom)
    assert len(ids(found)) == 3
    assert len({p.path for own in found.photos.values() for p in own}) == 1


def test_the_token_is_nowhere_but_in_the_requests(
    open_service: Open, area: TileArea, mirror: Mirror, cache: Path, caplog: pytest.LogCaptureFixture, capfd: Any
) -> None:
    """With every logger at its most talkative, and every way to fail."""
    caplog.set_level(logging.DEBUG)
    tokens: list[str] = []

    def listen(request: Request, answer: Response) -> Response:
        tokens.extend([*request.query.get("access_token", []), request.header("Authorization") or ""])
        return answer

    mirror.faults.append(listen)
    said = [repr(plan(open_service, "mapillary", area))]
    assert {SECRET, f"OAuth {SECRET}"} <= set(tokens)
    everything = [faults.status(401), faults.status(404), faults.status(500), faults.cut(3), faults.web_page(),
                  faults.redirect("file:///x"), faults.redirect(f"http://127.0.0.1:9/?access_token={SECRET}"),
                  lambda request, answer: Response(200, b"\x1a\xff", "application/x-protobuf")]  # fmt: skip
    for fault in everything:
        for pattern in ("maps/*", "", "[0-9]*"):
            mirror.faults[:] = [faults.only(pattern, fault)]
            try:
                said.append(repr(plan(open_service, "mapillary", area, renew=True)))
            except (InputError, ConfigError) as error:
                said.append("".join(traceback.format_exception(error)))
                said.append(repr(error.__context__))
    source = open_service("mapillary")
    said += [repr(source), repr(vars(source))]
    written = [p.read_bytes() for p in cache.rglob("*") if p.is_file()]
    assert len(written) > 24
    assert not [p for p in cache.rglob("*") if SECRET in str(p)]
    assert not [data for data in written if SECRET.encode() in data]
    logged = [r.getMessage() for r in caplog.records]
    assert any("access_token=…" in line for line in logged)  # so it would have been there
    assert not [line for line in [*logged, *said, *capfd.readouterr()] if SECRET in line]


def test_the_token_is_not_shown_to_another_host(
    open_service: Open, area: TileArea, mirror: Mirror, tmp_path: Path
) -> None:
    seen: list[str] = []

    def listen(request: Request) -> Response:
        seen.append(f"{dict(request.query)} {dict(request.headers)}")
        return Response(404, b"")

    with Mirror(tmp_path, services={"other": listen}) as other:
        mirror.faults.append(faults.redirect(f"{other.url}/other/x"))
        plan(open_service, "mapillary", area)  # no tile is found there
        with pytest.raises(InputError, match="answered 404"):
            open_service("mapillary")._entities(["1"])  # type: ignore[attr-defined]
    assert seen
    assert not [text for text in seen if SECRET in text]
