"""The HTTP client: patient with what passes, plain about what does not, and silent about secrets."""

from __future__ import annotations

import email.utils
import itertools
import json
import threading
import time
import traceback
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.mirror.messages import Request, Response
from pipeline.net.client import Client, Refused, Stopped, Unavailable
from pipeline.net.config import NetConfig, base_url
from schemas.errors import ConfigError, InputError
from tests.mirror import faults
from tests.mirror.server import Mirror
from tests.net.sources import FAST, raw_server


def echo(request: Request) -> Response:
    """Says what it was asked."""
    return Response.json({"path": request.path, "query": request.query, "headers": dict(request.headers)})


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Mirror]:
    with Mirror(tmp_path, services={"echo": echo}) as running:
        yield running


@pytest.fixture
def client() -> Client:
    return Client(FAST)


def test_documents_come_with_parameters_and_headers(server: Mirror, client: Client) -> None:
    answer = client.get_json(f"{server.url}/echo/a b", params={"q": "ä&b"}, headers={"Authorization": "Bearer x"})
    assert answer["path"] == "a b"
    assert answer["query"] == {"q": ["ä&b"]}
    assert answer["headers"]["Authorization"] == "Bearer x"
    assert answer["headers"]["Accept-Encoding"] == "identity"


@pytest.mark.parametrize("target", ["file:///etc/passwd", "ftp://example.org/x", "data:,x", "gopher://127.0.0.1/"])
def test_a_redirect_leads_to_the_web_or_nowhere(server: Mirror, client: Client, target: str) -> None:
    server.faults.append(faults.redirect(target))
    with pytest.raises(InputError, match=r"echo/x redirects to .* is no http\(s\) URL; it is not followed"):
        client.get(f"{server.url}/echo/x")


def test_redirects_are_followed_a_few_times(server: Mirror, client: Client) -> None:
    hops = 0

    def hop(request: Request, answer: Response) -> Response:
        nonlocal hops
        hops += 1
        return answer if hops > 5 else faults.redirect(f"/echo/{hops}")(request, answer)

    server.faults.append(hop)
    assert client.get_json(f"{server.url}/echo/0")["path"] == "5"
    server.faults[:] = [faults.redirect("/echo/again")]
    with pytest.raises(InputError, match="redirects more than 5 times"):
        client.get(f"{server.url}/echo/0")


def test_a_login_is_not_shown_to_another_host(server: Mirror, client: Client, tmp_path: Path) -> None:
    with Mirror(tmp_path, services={"echo": echo}) as other:
        server.faults.append(faults.redirect(f"{other.url}/echo/x"))
        headers = client.get_json(f"{server.url}/echo/", headers={"Authorization": "Bearer x", "X-Kept": "1"})[
            "headers"
        ]
    assert "Authorization" not in headers
    assert headers["X-Kept"] == "1"


@pytest.mark.parametrize("as_date", [False, True])
def test_retry_after_is_honoured(server: Mirror, as_date: bool) -> None:
    after = email.utils.formatdate(time.time() + 2, usegmt=True) if as_date else "1"
    server.faults.append(faults.only("*", faults.status(429, after), times=1))
    begin = time.monotonic()
    Client(replace(FAST, max_wait=10.0)).get(f"{server.url}/echo/x")
    assert 0.9 < time.monotonic() - begin < 3


@pytest.mark.parametrize("after", ["86400", "1e300", "nan", "soon", "Wed, 21 Oct 2415 07:28:00 GMT", "-5"])
def test_retry_after_is_capped_and_nonsense_ignored(server: Mirror, client: Client, after: str) -> None:
    server.faults.append(faults.only("*", faults.status(503, after), times=2))
    begin = time.monotonic()
    client.get(f"{server.url}/echo/x")
    assert time.monotonic() - begin < 1


def test_waits_grow_and_end(server: Mirror) -> None:
    server.faults.append(faults.status(500))
    times: list[float] = []
    server.faults.append(lambda _, answer: (times.append(time.monotonic()), answer)[1])
    with pytest.raises(Unavailable, match=r"answered 500 5 times over"):
        Client(NetConfig(retries=4, backoff=0.05)).get(f"{server.url}/echo/x")
    waits = [b - a for a, b in itertools.pairwise(times)]
    assert all(0.5 * 0.05 * 2**i <= w <= 0.05 * 2**i + 0.1 for i, w in enumerate(waits))
    assert len(waits) == 4


@pytest.mark.parametrize("code", [400, 401, 403, 404, 410])
def test_a_refusal_is_not_repeated(server: Mirror, client: Client, code: int) -> None:
    server.faults.append(faults.status(code))
    with pytest.raises(Refused, match=rf"echo/x answered {code}") as caught:
        client.get(f"{server.url}/echo/x")
    assert caught.value.status == code
    assert len(server.log) == 1


def test_no_message_holds_a_secret(server: Mirror, client: Client) -> None:
    secret = "s3cr3t"
    address = f"http://user:{secret}@{server.url[7:]}/echo/x?access_token={secret}#{secret}"
    messages = []
    for fault in (faults.status(404), faults.status(503), faults.redirect("file:///x"), faults.cut(3)):
        server.faults[:] = [fault]
        with pytest.raises(InputError) as caught:
            client.get(address, params={"key": secret}, headers={"Authorization": secret})
        messages.append(caught.value)
    for dead in (f"http://127.0.0.1:9/?token={secret}", f"http://no.such.host.invalid/?token={secret}"):
        with pytest.raises(InputError) as caught:
            client.get(dead)
        messages.append(caught.value)
    for error in messages:
        assert secret not in "".join(traceback.format_exception(error))
    assert "Connection refused" in str(messages[-2])
    assert "not known" in str(messages[-1]) or "resolution" in str(messages[-1])


def test_bodies_are_bounded(server: Mirror, client: Client) -> None:
    server.faults.append(lambda *_: Response(200, b"x" * 1_000_000))
    assert len(client.get(f"{server.url}/echo/x", max_bytes=1_000_000)) == 1_000_000
    with pytest.raises(InputError, match="echo/x sends more than 999,999 bytes"):
        client.get(f"{server.url}/echo/x", max_bytes=999_999)


def test_a_compressed_body_that_was_not_asked_for_is_refused(server: Mirror, client: Client) -> None:
    server.faults.append(lambda *_: Response(200, b"x", headers={"Content-Encoding": "gzip"}))
    with pytest.raises(InputError, match="sent compressed"):
        client.get(f"{server.url}/echo/x")


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"<!DOCTYPE html><p>Log in", "a web page"),
        (b"{", "no JSON"),
        (b"[" * 100_000, "no JSON"),
        (b"\xff\xfe", "no JSON"),
    ],
)
def test_what_is_no_json_is_named(server: Mirror, client: Client, body: bytes, reason: str) -> None:
    server.faults.append(lambda *_: Response(200, body))
    with pytest.raises(InputError, match=f"echo/x is {reason}"):
        client.get_json(f"{server.url}/echo/x?token=1")


@pytest.mark.parametrize(
    "url", ["ftp://x/y", "file:///etc/passwd", "x.osm.pbf", "http://", "http://[::1", "http://:80/", "https://a b/"]
)
def test_what_is_no_web_address_is_refused(client: Client, url: str) -> None:
    with pytest.raises(InputError, match=r"http\(s\) URL"):
        client.get(url)


def test_the_loopback_is_reached_without_the_proxy(
    server: Mirror, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    assert client.get_json(f"{server.url}/echo/x")["path"] == "x"


def test_a_wait_ends_when_it_is_called_off(server: Mirror) -> None:
    server.faults.append(faults.status(503))
    stop = threading.Event()
    threading.Timer(0.1, stop.set).start()
    begin = time.monotonic()
    with pytest.raises(Stopped):
        Client(NetConfig(backoff=30.0), stop).get(f"{server.url}/echo/x")
    assert time.monotonic() - begin < 2


@pytest.mark.parametrize(
    ("answer", "data"),
    [
        (b"HTTP/1.0 200 OK\r\n\r\nhello", b"hello"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", b"hello"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhel", None),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhello", None),
        (b"HTTP/1.1 200 OK\r\nContent-Length: nine\r\n\r\nhello", b"hello"),
        (b"SSH-2.0-OpenSSH\r\n", None),
        (b"", None),
    ],
)
def test_other_servers_are_understood_or_refused(client: Client, answer: bytes, data: bytes | None) -> None:
    url, listener = raw_server(answer)
    with listener:
        if data is not None:
            assert client.get(url) == data
        else:
            with pytest.raises(InputError, match=r"127\.0\.0\.1"):
                client.get(url)


def test_a_mirror_stands_for_every_service(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GEOSHARDS_MIRROR", raising=False)
    assert base_url("geofabrik") == "https://download.geofabrik.de"
    monkeypatch.setenv("GEOSHARDS_MIRROR", "http://localhost:1/")
    assert base_url("geofabrik") == "http://localhost:1/geofabrik"
    assert base_url("geofabrik", "https://mine.org/osm/") == "https://mine.org/osm"
    monkeypatch.setenv("GEOSHARDS_MIRROR", "/srv/mirror")
    with pytest.raises(ConfigError, match="begins with http"):
        base_url("geofabrik")


@pytest.mark.parametrize("wrong", [{"timeout": 0}, {"retries": -1}, {"parallel": 0}, {"max_gb": 0}, {"backoff": -1}])
def test_settings_that_make_no_sense_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=f"net.{next(iter(wrong))}"):
        NetConfig(**wrong)  # type: ignore[arg-type]


def test_json_is_what_the_server_meant(server: Mirror, client: Client) -> None:
    server.faults.append(lambda *_: Response.json({"ä": [1, None]}))
    assert client.get_json(f"{server.url}/echo/x") == json.loads('{"ä": [1, null]}')
