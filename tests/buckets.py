"""An S3 server on loopback, and what it does to those who ask it where it is told to fail."""

from __future__ import annotations

import http.client
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

#: Of a request's method and path, how it fails; empty: it does not.
Fault = Callable[[str, str], str]
#: Status, code and words of S3's errors.
_ERRORS = {
    "500": (500, "InternalError", "We encountered an internal error. Please try again."),
    "503": (503, "SlowDown", "Please reduce your request rate."),
    "expired": (400, "ExpiredToken", "The provided token has expired."),
    "denied": (403, "AccessDenied", "Access Denied"),
}
#: Ways to fail that another attempt mends: two errors of the server, an answer that takes its time, one that is cut
#: off, a connection that ends before the request is done, and one that ends after it.
PASSING = ("500", "503", "slow", "torn", "reset", "unheard")
SLOW = 0.3  # seconds


class FaultyServer(ThreadingHTTPServer):
    """Passes requests on to a server, and fails as it is told to."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, port: int, fault: Fault) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.behind, self.fault = port, fault

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that are killed hang up."""


class _Handler(BaseHTTPRequestHandler):
    server: FaultyServer
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def _handle(self) -> None:
        fault = self.server.fault(self.command, self.path)
        if fault == "reset":
            return self._hang_up()
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if fault in _ERRORS:
            status, code, words = _ERRORS[fault]
            text = f'<?xml version="1.0"?><Error><Code>{code}</Code><Message>{words}</Message></Error>'
            return self._answer(status, {"Content-Type": "application/xml"}, text.encode())
        behind = http.client.HTTPConnection("127.0.0.1", self.server.behind, timeout=60)
        behind.request(self.command, self.path, body, dict(self.headers.items()))
        answer = behind.getresponse()
        headers, data = dict(answer.getheaders()), answer.read()
        behind.close()
        if fault == "unheard":
            return self._hang_up()
        if fault == "slow":
            time.sleep(SLOW)
        self._answer(answer.status, headers, data, len(data) // 2 if fault == "torn" else None)

    do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = _handle

    def _answer(self, status: int, headers: dict[str, str], data: bytes, most: int | None = None) -> None:
        self.send_response_only(status)
        for name, value in headers.items():
            if name.lower() not in ("connection", "transfer-encoding", "content-length"):
                self.send_header(name, value)
        length = next((v for n, v in headers.items() if n.lower() == "content-length"), None)
        self.send_header("Content-Length", length if self.command == "HEAD" and length else str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data[:most])
        if most is not None:
            self._hang_up()

    def _hang_up(self) -> None:
        """End the connection with a reset."""
        self.close_connection = True
        with suppress(OSError):
            self.wfile.flush()
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()


@contextmanager
def running(fault: Fault | None = None) -> Iterator[str]:
    """The address of a server without buckets; without ``fault`` it never fails."""
    moto = pytest.importorskip("moto.moto_server.werkzeug_app")
    from moto.s3.models import s3_backends
    from werkzeug.serving import make_server

    def buckets() -> list[dict[str, Any]]:
        return [backend.buckets for account in s3_backends.values() for backend in account.values()]

    before = {name for held in buckets() for name in held}  # all servers of a process share what they hold
    application = moto.DomainDispatcherApplication(moto.create_backend_app)
    servers: list[Any] = [make_server("127.0.0.1", 0, application, threaded=True)]
    servers += [] if fault is None else [FaultyServer(servers[0].server_port, fault)]
    for server in servers:
        threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{servers[-1].server_port}"
    finally:
        for server in reversed(servers):
            server.shutdown()
            server.server_close()
        for held in buckets():
            for name in held.keys() - before:
                del held[name]
                s3_backends.bucket_accounts.pop(name, None)


def credentials(address: str) -> dict[str, str]:
    """Variables of the environment that lead to a server."""
    return {
        "AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": address,
    }  # fmt: skip


@contextmanager
def s3_server(bucket: str, fault: Fault | None = None) -> Iterator[Any]:
    """The file system of a server with an empty bucket; the environment has its address and credentials.

    ``fault``: how requests fail, from when the bucket is there.
    """
    pytest.importorskip("s3fs")
    import fsspec

    ready = threading.Event()
    later = None if fault is None else lambda method, path: fault(method, path) if ready.is_set() else ""
    with running(later) as address, pytest.MonkeyPatch.context() as patch:
        for name, value in credentials(address).items():
            patch.setenv(name, value)
        fsspec.filesystem("s3").clear_instance_cache()  # of a server before this one
        fs = fsspec.filesystem("s3", skip_instance_cache=True)
        fs.mkdir(bucket)
        ready.set()
        yield fs
        fsspec.filesystem("s3").clear_instance_cache()
