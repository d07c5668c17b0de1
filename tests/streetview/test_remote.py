"""Tables and folders of photos behind URLs: an S3 server and an HTTP server on loopback give what the disk gives."""

from __future__ import annotations

import functools
import http.server
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from geometry.tiles import lonlat_to_tile
from pipeline.streetview.config import StreetviewConfig
from pipeline.streetview.files.remote import names_below
from pipeline.streetview.record import Drops
from pipeline.streetview.sources import open_source
from schemas.errors import InputError
from tests.buckets import s3_server
from tests.grounds import photos_of_tiles
from tests.streetview.exif import GPANO, exif_block, with_segments, xmp_packet, xmp_segment
from tests.streetview.makers import FAST, reasons, write_photo, write_table

ROWS = [
    {"file": "img/a.jpg", "id": "a", "lon": 9.5, "lat": 47.1},
    {"file": "img\\b c.jpg", "id": "b", "lon": 9.6, "lat": 47.2},
    {"file": "img/none.jpg", "id": "none", "lon": 9.7, "lat": 47.3},
    {"file": "../x.jpg", "id": "out", "lon": 9.0, "lat": 47.0},
]


def fill(folder: Path) -> Path:
    """Photos, a table of them, and what is no photo."""
    write_photo(folder / "img" / "a.jpg", 9.5, 47.1)
    write_photo(folder / "img" / "b c.jpg", 9.6, 47.2, colour=(10, 20, 30))
    position = exif_block([(1, "ascii", b"N\0"), (2, "rational", [(47, 1)]), (3, "ascii", b"E\0"),
                           (4, "rational", [(9, 1)])])  # fmt: skip
    sphere = xmp_packet(f'<rdf:Description {GPANO} GPano:ProjectionType="equirectangular"/>')
    padding = [b"padding\0" + bytes(60_000)] * 4  # the header is longer than what is fetched to list it
    with_segments(folder / "img" / "long.jpg", *padding, b"Exif\0\0" + position, xmp_segment(sphere))
    (folder / "img" / "c.heic").write_bytes(b"\0\0\0\x18ftypheic")
    (folder / "img" / "d.jpg").write_bytes(b"no photo")
    (folder / "img" / "notes.txt").write_text("nothing")
    write_table(folder / "t.csv", ROWS, ("file", "id", "lon", "lat"))
    write_table(folder / "ids.csv", [{"id": "b c", "lon": 9.6, "lat": 47.2}], ("id", "lon", "lat"))
    return folder


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder on the disk."""
    return fill(tmp_path_factory.mktemp("photos") / "in")


@pytest.fixture(scope="module")
def web(local: Path) -> Iterator[str]:
    """The folder behind http://, listed as Python's own server lists folders."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            pass

    handler = functools.partial(Quiet, directory=str(local.parent))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/in"
        server.shutdown()


@pytest.fixture(scope="module")
def bucket(local: Path) -> Iterator[str]:
    """The folder behind s3://."""
    with s3_server("geoshards-photos") as fs:
        fs.put(str(local), "geoshards-photos/in", recursive=True)
        yield "s3://geoshards-photos/in"


@pytest.fixture(params=["web", "bucket"])
def remote(request: pytest.FixtureRequest) -> str:
    """Either."""
    found: str = request.getfixturevalue(request.param)
    return found


def listed(name: str, cache: Path) -> tuple[pa.Table, dict[str, str], dict[str, bytes]]:
    """Rows, drops and the bytes of all photos."""
    source = open_source(name, StreetviewConfig(licence="CC0-1.0"), FAST, cache)
    drops = Drops()
    table = source.list(None, drops)
    files, failed = {}, {}
    for row in table.to_pylist():
        try:
            files[row["id"]] = source.fetch(row).read_bytes()
        except InputError as error:
            failed[row["id"]] = getattr(error, "reason", "")
    return table.drop_columns(["path", "url"]), reasons(drops.rows()) | failed, files


def test_a_folder_behind_a_url_is_the_folder(local: Path, remote: str, tmp_path: Path) -> None:
    here, there = listed(str(local), tmp_path), listed(f"{remote}/", tmp_path)
    assert there == here
    assert there[1] == {"img/c.heic": "unreadable_image", "img/d.jpg": "unreadable_image"}
    assert there[0].column("projection").to_pylist().count("equirectangular") == 1


def test_a_photo_behind_a_url_is_the_photo(local: Path, remote: str, tmp_path: Path) -> None:
    space = "%20" if remote.startswith("http") else " "
    assert listed(f"{remote}/img/b{space}c.jpg", tmp_path) == listed(str(local / "img" / "b c.jpg"), tmp_path)


@pytest.mark.parametrize("name", ["t.csv", "ids.csv"])
def test_a_table_behind_a_url_has_its_photos_beside_it(local: Path, remote: str, tmp_path: Path, name: str) -> None:
    here, there = listed(str(local / name), tmp_path), listed(f"{remote}/{name}", tmp_path)
    assert there[2] == here[2]
    assert there[2]
    assert {k for k, _ in there[1].items()} == {k for k, _ in here[1].items()}
    ours = {row["id"]: row for row in there[0].to_pylist()}
    assert all(ours[row["id"]] == row for row in here[0].to_pylist())


def test_a_table_is_fetched_once(bucket: str, local: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = listed(f"{bucket}/t.csv", tmp_path)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    source = open_source(f"{bucket}/t.csv", StreetviewConfig(licence="CC0-1.0"), FAST, tmp_path)
    assert source.list(None, Drops()).drop_columns(["path", "url"]) == before[0]


def test_names_are_listed_as_they_are(remote: str) -> None:
    assert names_below(f"{remote}/img") == ["a.jpg", "b c.jpg", "c.heic", "d.jpg", "long.jpg", "notes.txt"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("{0}/none/t.csv", "does not exist|answered 404"), ("{0}/none", "holds no photos|does not exist"),
        ("what://bucket/folder", "what://bucket/folder is no http"),
        ("simplecache::{0}", "no http|address within another"),
        ("s3://no-such-bucket-here/x.parquet", "does not exist"),
    ],
)  # fmt: skip
def test_a_url_that_leads_nowhere_is_one_line(
    remote: str, bucket: str, tmp_path: Path, name: str, message: str
) -> None:
    with pytest.raises(InputError, match=message) as caught:
        open_source(name.format(remote), StreetviewConfig(), FAST, tmp_path).list(None, Drops())
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("url", ["s3://geoshards-photos/in/img/a.jpg", "file:///etc/hostname", "memory://x"])
def test_a_table_on_the_disk_opens_nothing_but_the_web(bucket: str, tmp_path: Path, url: str) -> None:
    """Who wrote it is not whose access to a store it would use."""
    write_table(tmp_path / "t.csv", [{"url": url, "lon": 9.5, "lat": 47.1}], ("url", "lon", "lat"))
    _, failed, files = listed(str(tmp_path / "t.csv"), tmp_path / "cache")
    assert (failed, files) == ({url: "unreachable"}, {})


def test_photos_of_a_bucket_reach_their_footprints(bucket: str, tmp_path: Path) -> None:
    tile = np.floor(lonlat_to_tile(np.array([9.5, 47.1]), 14)).astype(int)
    source = open_source(bucket, StreetviewConfig(licence="CC0-1.0"), FAST, tmp_path)
    found = photos_of_tiles(source, StreetviewConfig(), tile[None], 14)
    assert [(p.id, Path(p.path).stat().st_size > 0) for own in found.photos.values() for p in own] == [
        ("img/a.jpg", True)
    ]
