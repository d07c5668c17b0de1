"""OSM extracts in a bucket: fetched once, whole, checked; a store that has none is one line."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from pathlib import Path

import fsspec
import osmium
import pytest

from pipeline.net.config import NetConfig
from pipeline.net.download import remote_bytes
from pipeline.net.stores import ask, fetch_folder, is_store
from pipeline.regions.config import SourcesConfig
from pipeline.regions.resolve import fetch, select
from schemas.errors import InputError
from tests.buckets import s3_server

NET = NetConfig(timeout=2.0, retries=1, backoff=0.001)


@pytest.fixture(scope="module")
def bucket(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """An extract on the disk that lies in a bucket too."""
    path = tmp_path_factory.mktemp("osm") / "town.osm.pbf"
    with osmium.SimpleWriter(str(path)) as writer:
        writer.add_node(osmium.osm.mutable.Node(id=1, version=1, location=(9.5, 47.1)))
    with s3_server("geoshards-osm") as fs:
        fs.put(str(path), "geoshards-osm/town.osm.pbf")
        fs.pipe_file("geoshards-osm/broken.osm.pbf", path.read_bytes()[:-5])
        yield path


def test_an_extract_in_a_bucket_is_fetched_once(bucket: Path, tmp_path: Path) -> None:
    url = "s3://geoshards-osm/town.osm.pbf"
    chosen = select(url, SourcesConfig(), NET, tmp_path, quiet=True)
    assert remote_bytes([url, "s3://geoshards-osm/none.osm.pbf"], NET) == [bucket.stat().st_size, None]
    fetch(chosen, NET, quiet=True)
    (extract,) = chosen.extracts
    assert (chosen.name, extract.path.read_bytes()) == ("town", bucket.read_bytes())
    before = extract.path.stat().st_mtime_ns
    fetch(chosen, NET, quiet=True)
    assert extract.path.stat().st_mtime_ns == before
    fetch(chosen, NET, "newer", quiet=True)
    assert extract.path.stat().st_mtime_ns > before


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("none.osm.pbf", "s3://geoshards-osm/none.osm.pbf does not exist"),
        ("broken.osm.pbf", "s3://geoshards-osm/broken.osm.pbf: it is cut|s3://geoshards-osm/broken.osm.pbf: ."),
    ],
)
def test_an_extract_that_cannot_be_used_is_one_line(bucket: Path, tmp_path: Path, name: str, message: str) -> None:
    chosen = select(f"s3://geoshards-osm/{name}", SourcesConfig(), NET, tmp_path, quiet=True)
    with pytest.raises(InputError, match=message):
        fetch(chosen, NET, quiet=True)
    assert not [p for p in tmp_path.rglob("*") if p.is_file()]


def test_a_store_is_what_fsspec_reads_and_says_no_password_aloud() -> None:
    assert [is_store(f"{s}://x/y") for s in ("s3", "gs", "abfs", "memory")] == [True] * 4
    assert [is_store(f"{s}://x/y") for s in ("ftp", "http", "what")] == [False] * 3


@pytest.mark.parametrize(
    "raised", [FileNotFoundError("x"), PermissionError("x"), TimeoutError("x"), NotImplementedError()]
)
def test_no_message_about_a_store_holds_a_secret(raised: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("storage.retry.FIRST_PAUSE", 0.0)
    url = "memory://user:s3cr3t@bucket/x.osm.pbf?sig=s3cr3t#s3cr3t"

    def fail(*_: object) -> None:
        raise raised

    for address in (url, f"zip://x::{url}"):
        with pytest.raises(InputError) as caught:
            ask(address, fail)
        said = "".join(traceback.format_exception(caught.value)[-1:])
        assert "s3cr3t" not in said
        assert "\n" not in said.strip()
        assert "bucket/x.osm.pbf" in said or "zip://x" in said


def test_a_folder_is_its_files_without_hidden_ones_and_a_file_is_no_folder(tmp_path: Path) -> None:
    fs = fsspec.filesystem("memory")
    held = {"a.jpg": b"1", "sub/b.jpg": b"22", ".hidden": b"3", "sub/.git/c": b"4"}
    for name, data in held.items():
        fs.pipe_file(f"/geoshards-folder/plots/{name}", data)
    fs.pipe_file("/geoshards-folder/plots-of-others/d.jpg", b"5")
    url = "memory://geoshards-folder/plots"
    copy = fetch_folder(url, tmp_path, "chips.folder", NET, True)
    found = {p.relative_to(copy).as_posix(): p.read_bytes() for p in copy.rglob("*") if p.is_file()}
    assert found == {"a.jpg": b"1", "sub/b.jpg": b"22"}
    with pytest.raises(InputError, match="holds no file"):
        fetch_folder(f"{url}/a.jpg", tmp_path, "chips.folder", NET, True)
    fs.rm("/geoshards-folder", recursive=True)
