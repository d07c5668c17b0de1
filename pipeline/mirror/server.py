"""The HTTP server of the mirror: threads, ranges and conditions."""

from __future__ import annotations

import email.utils
import os
import re
import sys
import threading
import zlib
from collections.abc import Mapping
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from pipeline.imagery.stac.presets import PRESETS
from pipeline.mirror import geofabrik, kartaview, mapillary, panoramax, stac, xyz
from pipeline.mirror.messages import Request, Response, Service
from schemas.errors import ConfigError, InputError

#: Service by the first part of the path.
SERVICES: Mapping[str, Service] = {
    "geofabrik": geofabrik.respond,
    **dict.fromkeys(PRESETS, stac.respond),
    "xyz": xyz.respond,
    "panoramax": panoramax.respond,
    "kartaview": kartaview.respond,
    "mapillary": mapillary.respond,
}


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    mirror: Mirror

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Only what is our own fault is told."""
        if not isinstance(sys.exc_info()[1], OSError):
            super().handle_error(request, client_address)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server
    timeout = 60

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        service, _, path = unquote(parts.path).lstrip("/").partition("/")
        base = f"http://{self.headers.get('Host', '')}/{service}"
        request = Request(
            self.command, path, parse_qs(parts.query, keep_blank_values=True), dict(self.headers.items()),
            base, self.server.mirror.folder / service,
        )  # fmt: skip
        try:
            answer = self.server.mirror.answer(request, service)
        except InputError as error:
            answer = Response(500, f"{error}\n".encode())
        try:
            self.send(request, answer)
        except (ConnectionError, TimeoutError):  # the client has gone
            self.close_connection = True
        finally:
            if not isinstance(answer.body, bytes):
                answer.body.close()

    do_HEAD = do_GET

    def send(self, request: Request, answer: Response) -> None:
        size = sent = answer.size()
        self.send_head(answer, size)
        if request.method != "HEAD":
            sent = sum(self.wfile.write(piece) for piece in answer.pieces(size))
        if sent != size:  # the file was cut short meanwhile
            self.close_connection = True

    def send_head(self, answer: Response, length: int) -> None:
        self.send_response(answer.status)
        for name, value in {"Content-Length": str(length), "Content-Type": answer.type, **answer.headers}.items():
            self.send_header(name, value)
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        """Nothing."""


class Mirror:
    """The server, between ``__enter__`` and ``__exit__``; `url` is its base."""

    handler = Handler

    def __init__(
        self, folder: Path, port: int = 0, host: str = "127.0.0.1", services: Mapping[str, Service] = SERVICES
    ) -> None:
        """``port`` 0 takes any free one.

        Raises:
            InputError: ``folder`` does not exist.
            ConfigError: the port cannot be taken.
        """
        if not folder.is_dir():
            raise InputError(
                f"mirror folder {folder} does not exist; fill {folder}/geofabrik/europe/ with extracts, say"
            )
        self.folder, self.services = folder, services
        try:
            self._server = _Server((host, port), self.handler)
        except OSError as error:
            raise ConfigError(f"port {port} of {host} cannot be taken: {error.strerror}; give another --port") from None
        self._server.mirror = self
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)

    @property
    def url(self) -> str:
        """Base URL, for GEOSHARDS_MIRROR."""
        host, port = self._server.server_address[:2]
        return f"http://{host!s}:{port}"

    def answer(self, request: Request, service: str) -> Response:
        """What is sent for a request."""
        respond = self.services.get(service)
        answer = respond(request) if respond is not None else None
        if answer is None:
            answer = Response(404, f"no {request.path} here\n".encode())
        return _conditional(request, answer)

    def __enter__(self) -> Mirror:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def wait(self) -> None:
        """Until the server is shut down."""
        self._thread.join()


def _conditional(request: Request, answer: Response) -> Response:
    """An answer with ETag and (of a file) date, whole, in part or not at all, as the request's headers ask."""
    if answer.status != 200:
        return answer
    size, date = answer.size(), None
    headers = {"Accept-Ranges": "bytes"}
    if isinstance(answer.body, bytes):
        tag = f'"{zlib.crc32(answer.body):x}-{size:x}"'
    else:
        stat = os.fstat(answer.body.fileno())
        tag, date = (
            f'"{stat.st_ino:x}-{stat.st_mtime_ns:x}-{size:x}"',
            email.utils.formatdate(stat.st_mtime, usegmt=True),
        )
        headers["Last-Modified"] = date
    answer = replace(answer, headers={**headers, "ETag": tag, **answer.headers})
    if request.header("If-None-Match") == tag:
        return replace(answer, status=304, body=b"")
    wanted, condition = request.header("Range"), request.header("If-Range")
    found = re.fullmatch(r"bytes=(\d{0,18})-(\d{0,18})", wanted or "")
    if not found or not (found[1] or found[2]) or condition not in (None, tag, date):
        return answer
    if found[1]:
        first, last = int(found[1]), min(int(found[2] or size), size - 1)
    else:
        first, last = max(0, size - int(found[2])), size - 1
    if first > last:
        headers = {**answer.headers, "Content-Range": f"bytes */{size}"}
        return replace(answer, status=416, body=b"", headers=headers)
    headers = {**answer.headers, "Content-Range": f"bytes {first}-{last}/{size}"}
    return replace(answer, status=206, start=first, end=last + 1, headers=headers)
