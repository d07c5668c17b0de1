"""Times, keys, addresses and what servers answer."""

from __future__ import annotations

import gzip
import json
import os
import socket
import threading
import zlib
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any

from pipeline.imagery.config import ImageryConfig
from pipeline.imagery.sources import find_imagery
from pipeline.net.client import Client
from pipeline.net.download import Download, download_all, remote_bytes
from pipeline.regions.area import parse_bbox
from pipeline.regions.index import parse_index
from pipeline.streetview.times import gap_days, utc_seconds
from pipeline.times import any_time, compile_pattern, document_time, iso_time, joined_time, name_time, tag_time
from schemas.errors import GeoshardsError
from schemas.keys import GridKey, XyzKey, check_key, chip_key
from storage.urls import absolute, expand, is_local, is_web, shown
from tests.fuzz.damage import (
    Files,
    Rng,
    Target,
    best,
    by_bytes,
    by_text,
    by_value,
    ended,
    of_files,
    one_line,
    pick,
)
from tests.fuzz.imagery import FAST
from tests.imagery.scenes import LAT, LON
from tests.regions.indexes import entry


def lines(text: str) -> Callable[[], list[Files]]:
    """An input a line."""
    return lambda: [{"a.txt": line.encode()} for line in text.splitlines()]


def each_line(read: Callable[[str], Any]) -> Callable[[Path], str]:
    """What reads lines: ``read`` of each, of which what is refused is counted like what is none."""

    def all_of(path: Path) -> str:
        ends = set()
        for line in path.read_bytes().decode("utf-8", "surrogateescape").splitlines() or [""]:
            try:
                ends.add("read" if read(line) else "dropped")
            except GeoshardsError as error:
                one_line(error)
                ends.add("refused")
        return best(ends)

    return all_of


_TIMES = """2024-06-01T12:00:00Z
2024-06-01T12:00:00.123456789+05:30
2024:06:01 12:00:00
20240601T120000
1717236000123
2024
2024-06
2024-W22-6
2024-06-01 25:00:00
0000-00-00
S2A_20200917T101031_B04.tiff
{"properties": {"datetime": "2024-06-01", "time": [2020, 8, 6, 6]}}"""


def read_time(line: str) -> bool:
    """As every kind of time; what is one is ISO 8601, and days can be counted from it."""
    values: list[Any] = [line, line.split("-"), line.encode("utf-8", "surrogateescape")]
    with suppress(ValueError, RecursionError):
        values.append(json.loads(line))
    found = [any_time(v) for v in values] + [iso_time(v) for v in values]
    found += [tag_time({name: line}) for name in ("TIFFTAG_DATETIME", "EXIF_DateTime", "system:time_start")]
    found += [document_time(v) for v in values if isinstance(v, dict)]
    found += [joined_time("2024:06:01 12:00:00", line, line), joined_time(line, "5", "+01:00")]
    found += [name_time(line, pattern) for pattern in ("%Y%m%d", "%Y-%m-%d", r"(?P<year>\d{4})")]
    known = [f for f in found if f is not None]
    for time in known:
        if len(time) > 7:
            datetime.fromisoformat(time)
        utc_seconds(time, 9.5)
        gap_days(time, "2024-06-01")
    try:
        name_time("2024-06-01", line)  # as a pattern
        compile_pattern(line)
    except GeoshardsError as error:
        one_line(error)
    return found[0] is not None


_KEYS = """xyz-17-69001-45840-256
xyz-14-8625-5730-512-landsat7
utm-32n-211-2060-256-10000mm
utm-32s-211-2060-256-600mm-dop20
chip-a472140250_FI_21
Wien 2021.v2"""


def read_key(line: str) -> bool:
    """A key has one spelling."""
    assert check_key(chip_key(line))
    for kind in (XyzKey, GridKey):
        try:
            key = kind.parse(line)
        except GeoshardsError:
            continue
        assert str(key) == line == check_key(line)
        return True
    return bool(check_key(line))


_ADDRESSES = """https://user:secret@host.example/a/b.tif?token=secret#secret
http://[::1]:8080/x
s3://bucket/demo/
file:///data/demo/
~/data/x.osm.pbf
9.4,47.0,9.7,47.3
-180,-90,180,90"""


def read_address(line: str) -> bool:
    """As a path, a URL, a box; asked for as a page it is one clear line, for the web is not reached."""
    shown(line)
    is_local(line)
    if "\0" not in line:  # which settings refuse
        expand(line)
        absolute(line)
    box = parse_bbox(line)
    if is_web(line):
        try:
            Client(FAST).get(line)
        except GeoshardsError as error:
            one_line(error)
    return box is not None or is_web(line)


# --- answers ----------------------------------------------------------------------------------------------------------

_PAGE = b'{"a": 1}'
_ANSWERS = {
    "whole": b"HTTP/1.1 200 OK\r\nContent-Length: 8\r\nETag: \"a\"\r\nLast-Modified: Sat, 01 Jun 2024 00:00:00 GMT\r\n"
    b"Content-Type: application/json\r\nAccept-Ranges: bytes\r\n\r\n" + _PAGE,
    "part": b"HTTP/1.1 206 Partial Content\r\nContent-Range: bytes 0-7/8\r\nContent-Length: 8\r\n\r\n" + _PAGE,
    "chunks": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\n{\"a\"\r\n4;x=y\r\n: 1}\r\n0\r\n\r\n",
    "elsewhere": b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:9/x?a=b\r\nContent-Length: 0\r\n\r\n",
    "later": b"HTTP/1.1 503 Busy\r\nRetry-After: Sat, 01 Jun 2024 00:00:00 GMT\r\nContent-Length: 0\r\n\r\n",
    "no": b"HTTP/1.0 404 Not here\r\nSet-Cookie: a=b; Path=/\r\nContent-Encoding: gzip\r\n\r\n<html>no</html>",
}  # fmt: skip


@cache
def _server(_: int) -> tuple[int, list[bytes]]:
    """Port of a server on loopback of this process that answers everything with the bytes in the list."""
    answer = [b""]
    listening = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            own, _ = listening.accept()
            with own:
                try:
                    own.settimeout(2)
                    asked = b""
                    while b"\r\n\r\n" not in asked and (more := own.recv(4096)):
                        asked += more
                    own.sendall(answer[0])
                    own.shutdown(socket.SHUT_WR)
                except OSError:
                    pass

    threading.Thread(target=serve, daemon=True).start()
    return listening.getsockname()[1], answer


def answers() -> list[Files]:
    """Whole ones, status line and headers included."""
    return [{f"{name}.http": data} for name, data in _ANSWERS.items()]


_STATUS = (
    "HTTP/1.1 200 OK", "HTTP/1.1 206 Partial Content", "HTTP/1.0 200", "HTTP/2 200 OK", "HTTP/1.1 100 Continue",
    "HTTP/1.1 204 None", "HTTP/1.1 304 Not Modified", "HTTP/1.1 301 Moved", "HTTP/1.1 308 Moved", "HTTP/1.1 416 Range",
    "HTTP/1.1 429 Slow", "HTTP/1.1 503 Busy", "HTTP/1.1 999 X", "HTTP/1.1 -1 X", "HTTP/1.1 2x0 OK", "HTTP/9.9 200 OK",
    "HTTP/1.1 200 " + "x" * 70_000, "HTTP/1.1 404 \x1b[31mred", "ICY 200 OK", "",
)  # fmt: skip
_HEADERS = {
    "Content-Length": ("8", "0", "9", "7", "-1", "1e3", "99999999999999999999", "8, 8", "8, 9", "", "0x8", " 8 "),
    "Content-Range": ("bytes 0-7/8", "bytes 0-7/*", "bytes */8", "bytes 7-0/8", "bytes 0-7/4", "bytes 0-99999999/8",
                      "items 0-7/8", "bytes 0-7", "bytes -1-7/8", "bytes 0-7/99999999999999999999999"),
    "Transfer-Encoding": ("chunked", "gzip, chunked", "identity", "chunked, chunked", "x"),
    "Content-Encoding": ("gzip", "identity", "br", "deflate", "gzip, gzip", "x"),
    "Content-Type": ("application/json", "text/html; charset=x", "application/json; charset=utf-16", ";", "\xff"),
    "Location": ("/x", "//x", "///", "http://", "http://[::1", "http://[v1.x]/", "file:///etc/passwd",
                 "http://{:/", "x y",
                 "http://127.0.0.1:99999/", "http://127.0.0.1:9/x#y", "http://a@b@127.0.0.1:9/", "\\x", "?", "#", "..",
                 "http://\u202e/", "javascript:1", "data:,x", "http://127.0.0.1:9/" + "a" * 70_000, "http://x..y/"),
    "Retry-After": ("0", "-1", "1e999", "nan", "Sat, 01 Jun 2024 00:00:00 GMT", "Sat, 99 Jun 2024", "x", ""),
    "Last-Modified": ("Sat, 01 Jun 2024 00:00:00 GMT", "Sat, 31 Feb 9999 99:00:00 GMT", "0", "x", ""),
    "ETag": ('"a"', 'W/"a"', '"', "", '"\xff"', '"' + "x" * 70_000 + '"'), "Accept-Ranges": ("bytes", "none", "x"),
    "Set-Cookie": ("a=b; Path=/", "a=b; expires=x; domain=.", "=;=", "a=" + "b" * 5000), "Connection": ("close", "x"),
    "": ("x", ""), "X y": ("z",), "X-Many": ("x",) * 3, "Date": ("x",), "Content-Disposition": ("filename=../x",),
}  # fmt: skip
_BODIES: tuple[bytes, ...] = (
    _PAGE, b"", b"[]", b"null", b"{", b"[" * 100_000, b'"\\ud800"', b"NaN", b"1" * 5000, b"\xff\xfe{\0}\0", b"<html>",
    b"\0" * 8,
    gzip.compress(_PAGE), zlib.compress(b" " * 5_000_000), b"8\r\n" + _PAGE + b"\r\n0\r\n\r\n", b"8;" + b"x" * 70_000,
    b"-8\r\n" + _PAGE, b"ffffffffffffffffff\r\n" + _PAGE, b"x\r\n", b"8\r\n" + _PAGE, b"4\r\n" + _PAGE + b"\r\n0\r\n",
    b"8\r\n" + _PAGE + b"\r\n0\r\nX: y\r\n", b"*II\0" * 2, b"II*\0\x08\0\0\0\xff\xff",
)  # fmt: skip


def by_answer(data: bytes, name: str, rng: Rng) -> bytes:
    """Another status, other headers, another body; or the text is damaged, or any byte."""
    if rng.random() < 0.3:
        return (by_text if rng.random() < 0.7 else by_bytes)(data, name, rng)
    head, _, body = data.partition(b"\r\n\r\n")
    status, *headers = head.decode("latin-1").split("\r\n")
    for _ in range(int(rng.choice([1, 1, 2, 4]))):
        match int(rng.integers(6)):
            case 0:
                status = pick(_STATUS, rng)
            case 1:
                body = pick(_BODIES, rng)
            case 2 if headers:
                del headers[int(rng.integers(len(headers)))]
            case 3 if len(headers) > 1:
                headers.append(pick(headers, rng))
            case 4 if rng.random() < 0.1:
                headers += ["X: " + "y" * 100] * 200
            case _:
                key = pick(list(_HEADERS), rng)
                headers = [h for h in headers if rng.random() < 0.2 or not h.lower().startswith(key.lower() + ":")]
                headers.append(f"{key}: {pick(_HEADERS[key], rng)}")
    end = pick(["\r\n", "\n", "\r"], rng, 0.95)
    return end.join([status, *headers, "", ""]).encode("utf-8") + body


def read_answer(path: Path) -> str:
    """As a document, a download and a remote raster."""
    port, answer = _server(os.getpid())
    answer[:] = [path.read_bytes()]
    url, target = f"http://127.0.0.1:{port}/a.json", path.parent / "got/a.json"
    os.environ["GEOSHARDS_CACHE"] = str(path.parent / "cache")

    def document() -> str:
        return "read" if Client(FAST).get_json(url) is not None else "dropped"

    def download() -> str:
        remote_bytes([url], FAST)
        download_all([Download(url, target, md5=False)], FAST, quiet=True)
        assert target.exists()
        return "read"

    def raster() -> str:
        find_imagery(url.replace(".json", ".tif"), [(LON, LAT, LON + 0.1, LAT + 0.1)], ImageryConfig(), FAST)
        return "read"

    def named(text: str) -> bool:
        return "127.0.0.1" in text or "a.json" in text or "a.tif" in text

    ends = {ended(document, named), ended(download, named), ended(raster, named)}
    if not target.exists():
        assert not list(path.parent.glob("got/a.json")), "what was not fetched is there"
    return best(ends)


def regions() -> list[Files]:
    """An index of extracts."""
    box = (9.0, 47.0, 10.0, 48.0)
    features = [
        entry("europe"), entry("liechtenstein", "europe", box, ("LI",)),
        entry("us/georgia", "north-america", box, ("US-GA",)), entry("georgia", "europe", None, ("GE",), url=False),
    ]  # fmt: skip
    return [{"index.json": json.dumps({"type": "FeatureCollection", "features": features}).encode()}]


def read_regions(path: Path) -> str:
    """Its regions, found by name and by area."""

    def found() -> str:
        try:
            document = json.loads(path.read_bytes())
        except (ValueError, RecursionError):
            return "dropped"  # pipeline.net refuses it before
        index = parse_index(document, "http://h.example/osm", "index.json")
        known = index.find("liechtenstein") + index.find("GE")
        for region in known:
            index.ancestors(region)
            index.leaves([region])
        return "read" if known else "dropped"

    return ended(found, of_files(path))


TARGETS = {
    "times": Target(lines(_TIMES), each_line(read_time), by_text),
    "keys": Target(lines(_KEYS), each_line(read_key), by_text),
    "addresses": Target(lines(_ADDRESSES), each_line(read_address), by_text),
    "answers": Target(answers, read_answer, by_answer, cost=2),
    "regions": Target(regions, read_regions, by_value),
}  # fmt: skip
