"""The mirror: what the real servers do, and the index of a folder of extracts."""

from __future__ import annotations

import email.utils
import hashlib
import http.client
import json
import os
import re
import signal
import socket
import struct
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.cli.main import main
from pipeline.mirror import xyz
from pipeline.mirror.geofabrik import build_index
from pipeline.mirror.messages import Request, Response
from pipeline.mirror.server import Mirror
from schemas.errors import ConfigError, InputError
from tests.net.sources import publish

DATA = bytes(range(256)) * 8


def ask(mirror: Mirror, path: str, method: str = "GET", **headers: str) -> tuple[int, dict[str, str], bytes]:
    connection = http.client.HTTPConnection(mirror.url.removeprefix("http://"))
    connection.request(method, path, headers={k.replace("_", "-"): v for k, v in headers.items()})
    answer = connection.getresponse()
    data = answer.read()
    connection.close()
    return answer.status, {k.lower(): v for k, v in answer.getheaders()}, data


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> object:
    folder = tmp_path_factory.mktemp("mirror")
    publish(folder, DATA, "europe/x-latest.osm.pbf")
    with Mirror(folder) as server:
        yield server


PATH = "/geofabrik/europe/x-latest.osm.pbf"


@given(st.integers(0, 3000), st.none() | st.integers(0, 3000))
def test_any_range_is_that_part_of_the_file(served: Mirror, first: int, last: int | None) -> None:
    status, headers, data = ask(served, PATH, Range=f"bytes={first}-{'' if last is None else last}")
    if first >= len(DATA):
        assert (status, headers["content-range"]) == (416, f"bytes */{len(DATA)}")
    elif last is not None and last < first:
        assert status in (200, 416)
    else:
        end = len(DATA) if last is None else min(last + 1, len(DATA))
        assert (status, data) == (206, DATA[first:end])
        assert headers["content-range"] == f"bytes {first}-{end - 1}/{len(DATA)}"


def test_the_last_bytes_can_be_asked_for(served: Mirror) -> None:
    assert ask(served, PATH, Range="bytes=-100")[2] == DATA[-100:]


def test_conditions_are_kept(served: Mirror) -> None:
    status, headers, data = ask(served, PATH)
    assert (status, data) == (200, DATA)
    assert ask(served, PATH, If_None_Match=headers["etag"])[0] == 304
    for validator in (headers["etag"], headers["last-modified"]):
        assert ask(served, PATH, Range="bytes=5-", If_Range=validator)[0] == 206
    assert ask(served, PATH, Range="bytes=5-", If_Range='"another"')[::2] == (200, DATA)
    assert ask(served, PATH, "HEAD")[1]["content-length"] == str(len(DATA))
    assert ask(served, PATH, "HEAD")[2] == b""


def test_a_tag_is_quoted_a_date_is_the_file_s_and_both_change_with_it(tmp_path: Path) -> None:
    """What clients compare: a tag without quotes, or a date that cannot be read, is none."""
    path, told = publish(tmp_path, DATA), []
    with Mirror(tmp_path) as mirror:
        for when in (1_700_000_000, 1_700_000_060):
            os.utime(path, (when, when))
            headers = ask(mirror, "/geofabrik/x.osm.pbf", "HEAD")[1]
            assert email.utils.parsedate_to_datetime(headers["last-modified"]).timestamp() == when
            assert re.fullmatch(r'"[^"]+"', headers["etag"])
            assert headers["accept-ranges"] == "bytes"
            told.append((headers["etag"], headers["last-modified"]))
        assert not set(told[0]) & set(told[1])
        for old in told[0]:
            assert ask(mirror, "/geofabrik/x.osm.pbf", Range="bytes=5-", If_Range=old)[::2] == (200, DATA)


def test_a_mirror_that_is_closed_leaves_its_port_to_the_next(tmp_path: Path) -> None:
    with Mirror(tmp_path) as first:
        port = int(first.url.rsplit(":", 1)[1])
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), 1)
    with Mirror(tmp_path, port) as second:
        assert ask(second, "/")[0] == 404


def test_a_client_that_goes_away_is_no_fault_of_the_mirror_s(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    publish(tmp_path, bytes(8 << 20))
    with Mirror(tmp_path) as mirror:
        with socket.create_connection(("127.0.0.1", int(mirror.url.rsplit(":", 1)[1])), 5) as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # cut, not closed
            client.sendall(b"GET /geofabrik/x.osm.pbf HTTP/1.1\r\nHost: x\r\n\r\n")
            assert client.recv(100)
        assert ask(mirror, "/geofabrik/x.osm.pbf", "HEAD")[0] == 200
        for thread in threading.enumerate():
            if "process_request" in thread.name:
                thread.join(5)
    assert "Traceback" not in capfd.readouterr().err


def test_a_fault_of_the_mirror_s_own_is_told(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    def fail(request: Request) -> Response:
        raise RuntimeError("a fault of ours")

    with Mirror(tmp_path, services={"x": fail}) as mirror, suppress(http.client.HTTPException, ConnectionError):
        ask(mirror, "/x/")
    assert "a fault of ours" in capfd.readouterr().err


def test_tiles_are_found_by_their_numbers_however_these_are_written(tmp_path: Path) -> None:
    (tmp_path / "xyz/3/4").mkdir(parents=True)
    (tmp_path / "xyz/3/4/5.png").write_bytes(b"a picture")
    with Mirror(tmp_path, services={"xyz": xyz.respond}) as mirror:
        for path in ("3/4/5.png", "3/4/5", "03/4/5.png", "3/04/5.png", "3/4/05.png",
                     "wmts?TileMatrix=3&TileCol=4&TileRow=5", "wmts?tilematrix=03&TILECOL=4&tilerow=5"):  # fmt: skip
            assert ask(mirror, f"/xyz/{path}")[::2] == (200, b"a picture"), path
        for path in ("4/3/5.png", "3/5/4.png", "3/4/5.jpg", "3/4", "wmts?TileMatrix=3&TileCol=5&TileRow=4"):
            assert ask(mirror, f"/xyz/{path}")[0] == 404, path


def test_the_checksum_is_that_of_the_file(served: Mirror) -> None:
    assert ask(served, f"{PATH}.md5")[2].decode() == f"{hashlib.md5(DATA).hexdigest()}  x-latest.osm.pbf\n"


@pytest.mark.parametrize(
    "path",
    ["/", "/geofabrik/", "/geofabrik/../../etc/passwd", "/geofabrik/%2e%2e/%2e%2e/etc/passwd", "/geofabrik//etc/passwd",
     "/geofabrik/europe", "/stac/", "/geofabrik/europe/.new", "/geofabrik/x.md5", "/geofabrik/%00"],
)  # fmt: skip
def test_nothing_else_is_served(served: Mirror, path: str) -> None:
    assert ask(served, path)[0] == 404


def test_the_index_is_the_tree_of_folders(tmp_path: Path) -> None:
    for name in ("europe/monaco-latest", "europe/germany/berlin-latest", "europe/germany-latest", "antarctica"):
        publish(tmp_path, DATA, f"{name}.osm.pbf")
    (tmp_path / "geofabrik" / "regions.json").write_text(
        json.dumps({
            "monaco": {"name": "Monaco!", "iso": ["MC"], "bbox": [7.4, 43.7, 7.5, 43.8]},
            "berlin": {"iso": ["DE-BE"], "bbox": [13, 52, 14, 53]},
        })
    )  # fmt: skip
    with Mirror(tmp_path) as mirror:
        document = json.loads(ask(mirror, "/geofabrik/index-v1.json")[2])
        rows = {f["properties"]["id"]: f["properties"] for f in document["features"]}
        assert rows["monaco"] == {
            "id": "monaco", "name": "Monaco!", "parent": "europe", "iso3166-1:alpha2": ["MC"],
            "urls": {"pbf": f"{mirror.url}/geofabrik/europe/monaco-latest.osm.pbf"},
        }  # fmt: skip
    parents = {k: v.get("parent") for k, v in rows.items()}
    assert parents == {
        "monaco": "europe", "berlin": "germany", "germany": "europe", "europe": None, "antarctica": None,
    }  # fmt: skip
    assert rows["berlin"]["iso3166-2"] == ["DE-BE"]
    assert rows["europe"]["urls"] == {}
    assert rows["germany"]["urls"]
    shapes = {f["properties"]["id"]: f["geometry"] for f in document["features"]}
    assert shapes["antarctica"] is None
    assert len(shapes["europe"]["coordinates"]) == 2
    assert shapes["germany"] == shapes["berlin"]


def test_two_extracts_of_one_name_are_refused(tmp_path: Path) -> None:
    publish(tmp_path, DATA, "a/x.osm.pbf")
    publish(tmp_path, DATA, "b/x-latest.osm.pbf")
    with pytest.raises(InputError, match=r"a/x\.osm\.pbf and b/x-latest\.osm\.pbf, both of region x"):
        build_index(tmp_path / "geofabrik", "")
    with Mirror(tmp_path) as mirror:
        assert ask(mirror, "/geofabrik/index-v1.json")[0] == 500


def test_a_port_in_use_and_a_missing_folder_are_named(tmp_path: Path) -> None:
    with Mirror(tmp_path) as mirror, pytest.raises(ConfigError, match="cannot be taken"):
        Mirror(tmp_path, int(mirror.url.rsplit(":", 1)[1]))
    with pytest.raises(InputError, match="nowhere does not exist"):
        Mirror(tmp_path / "nowhere")


def test_the_command_serves_until_it_is_stopped(tmp_path: Path) -> None:
    publish(tmp_path, DATA, "x.osm.pbf")
    process = subprocess.Popen(
        [sys.executable, "-m", "pipeline.cli.main", "mirror", str(tmp_path), "--port", "0", "--json"],
        cwd=Path(__file__).resolve().parents[2], stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    url = json.loads(process.stdout.readline())["url"]
    connection = http.client.HTTPConnection(url.removeprefix("http://"))
    connection.request("GET", "/geofabrik/x.osm.pbf")
    assert connection.getresponse().read() == DATA
    os.kill(process.pid, signal.SIGTERM)  # SIGINT is ignored below a shell's background jobs
    assert process.wait(20) == 0


def test_the_command_writes_an_index_for_any_web_server(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    publish(tmp_path, DATA, "europe/x.osm.pbf")
    assert main(["mirror", str(tmp_path), "--list", "--json"]) == 0
    urls = [f["properties"]["urls"] for f in json.loads(capsys.readouterr().out)["features"]]
    assert urls == [{}, {"pbf": "europe/x.osm.pbf"}]
    assert main(["mirror", str(tmp_path), "--list"]) == 0
    assert "europe/x.osm.pbf" in capsys.readouterr().out
