"""Rasters behind URLs: an S3 server and a web server on loopback give what the disk gives."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import fsspec
import numpy as np
import pytest

from pipeline.imagery.config import ImageryConfig
from pipeline.imagery.read import read_images
from pipeline.imagery.remote import RangeFile
from pipeline.imagery.scene import Scene
from pipeline.imagery.sources import find_imagery, source_rows
from pipeline.mirror.messages import Request, Response
from pipeline.net.config import NetConfig
from schemas.errors import InputError
from tests.buckets import s3_server
from tests.imagery.scenes import LAT, LON, UTM, around, texture, tiles, write_cog
from tests.mirror.server import Mirror

FAST = NetConfig(timeout=1.0, retries=1, backoff=0.001, max_wait=0.05)
CONFIG = ImageryConfig(licence="CC0-1.0", max_nodata=1.0)
SECRET = "topsecret"


def respond(request: Request) -> Response | None:
    if request.path.endswith("closed.tif"):
        return Response(403, b"no")
    path = request.folder / request.path
    return Response.file(path) if path.is_file() else None


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two COGs side by side, a text, and a TIFF that is cut."""
    folder = tmp_path_factory.mktemp("rasters") / "in"
    for i, name in enumerate(("a.tif", "b c.tif")):
        write_cog(
            folder / name, texture(i, (3, 400, 400)), transform=around(LON + i * 0.005, LAT, UTM, 400, 400, 1.0),
            tags={"LICENSE": "CC0-1.0"},
        )  # fmt: skip
    (folder / "text.tif").write_text("no raster")
    (folder / "cut.tif").write_bytes((folder / "a.tif").read_bytes()[:300])
    return folder


@pytest.fixture(scope="module")
def web(local: Path) -> Iterator[str]:
    with Mirror(local.parent, services={"in": respond}) as server:
        yield f"{server.url}/in"


@pytest.fixture(scope="module")
def bucket(local: Path) -> Iterator[str]:
    with s3_server("geoshards-rasters") as fs:
        fs.put(str(local), "geoshards-rasters/in", recursive=True)
        yield "s3://geoshards-rasters/in"


@pytest.fixture(params=["web", "bucket"])
def remote(request: pytest.FixtureRequest) -> str:
    found: str = request.getfixturevalue(request.param)
    return found


def scenes(imagery: str) -> list[Scene]:
    found, rows = find_imagery(imagery, [], CONFIG, FAST)
    assert rows == []
    return found


def pixels(found: list[Scene]) -> dict[object, np.ndarray]:
    images, rows = read_images(found, tiles(LON, LAT, 18, 64, 3), CONFIG, FAST)
    assert rows == []
    return {key: own[0].pixels for key, own in images.items()}


def test_a_raster_behind_a_url_is_the_raster(local: Path, remote: str) -> None:
    space = "%20" if remote.startswith("http") else " "
    here, there = scenes(f"{local}/a.tif,{local}/b c.tif"), scenes(f"{remote}/a.tif,{remote}/b{space}c.tif")
    assert [(s.name, s.bands, s.gsd, s.area.wkt) for s in there] == [(s.name, s.bands, s.gsd, s.area.wkt) for s in here]
    ours, theirs = pixels(here), pixels(there)
    assert ours.keys() == theirs.keys()
    # The colours of JPEG tiles are decoded by another decoder where the file lies on the disk.
    assert max(np.abs(ours[k].astype(int) - theirs[k]).mean() for k in ours) < 2


def test_a_pattern_of_a_store_is_its_files(bucket: str) -> None:
    assert [s.path for s in scenes(f"{bucket}/[ab]*.tif")] == [f"{bucket}/a.tif", f"{bucket}/b c.tif"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("{0}/none.tif", "does not exist|answered 404"), ("{0}/text.tif", "no TIFF"), ("{0}/cut.tif", "damaged TIFF"),
        ("{1}/closed.tif", "answered 403"), ("{1}/*.tif", "lists no files"), ("{2}/*.png", "matches no file"),
        ("s3://no-such-bucket-here/x.tif", "does not exist"), ("what://x/y.tif", "no store"),
        ("/vsis3/geoshards-rasters/in/a.tif", "does not exist"), ("/vsicurl/{1}/a.tif", "no store"),
        ("ftp://host/a.tif", "no store"), ("simplecache::{2}/a.tif", "does not exist|no store"),
    ],
)  # fmt: skip
def test_a_url_that_leads_to_no_raster_is_one_line(remote: str, web: str, bucket: str, name: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        scenes(name.format(remote, web, bucket))
    assert "\n" not in str(caught.value)


def test_identity_is_of_the_version_and_not_of_the_secrets(local: Path, web: str, bucket: str) -> None:
    first = [scenes(f"{place}/a.tif")[0].identity for place in (web, bucket)]
    assert scenes(f"{web}/a.tif?sig={SECRET}")[0].identity == first[0]
    assert [scenes(f"{place}/a.tif")[0].identity for place in (web, bucket)] == first
    fs = fsspec.filesystem("s3")
    fs.put(str(local / "b c.tif"), bucket.removeprefix("s3://") + "/a.tif")
    try:
        assert scenes(f"{bucket}/a.tif")[0].identity != first[1]
    finally:
        fs.put(str(local / "a.tif"), bucket.removeprefix("s3://") + "/a.tif")


def test_what_is_secret_in_a_url_is_in_no_message_and_no_row(web: str) -> None:
    host = web.removeprefix("http://")
    found = scenes(f"http://user:{SECRET}@{host}/a.tif?sig={SECRET}")
    assert SECRET not in str(source_rows(found, CONFIG, None)) + found[0].name
    for name in ("none.tif", "text.tif", "cut.tif", "closed.tif"):
        with pytest.raises(InputError) as caught:
            scenes(f"http://user:{SECRET}@{host}/{name}?sig={SECRET}")
        assert SECRET not in str(caught.value)


def test_a_file_that_changes_while_it_is_read_is_refused(
    local: Path, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fs, name = fsspec.filesystem("s3"), bucket.removeprefix("s3://") + "/c.tif"
    fs.put(str(local / "a.tif"), name)
    whole = RangeFile.check_version

    def change(file: RangeFile) -> None:
        fs.put(str(local / "b c.tif"), name)
        whole(file)

    monkeypatch.setattr(RangeFile, "check_version", change)
    with pytest.raises(InputError, match=r"c\.tif changed while it was read"):
        scenes(f"{bucket}/c.tif")


def test_gdals_own_variables_reach_the_store(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    address = os.environ["AWS_ENDPOINT_URL"].removeprefix("http://")
    monkeypatch.delenv("AWS_ENDPOINT_URL")
    monkeypatch.setenv("AWS_S3_ENDPOINT", address)
    monkeypatch.setenv("AWS_HTTPS", "NO")
    assert scenes(f"{bucket}/a.tif")[0].dtype == "uint8"
