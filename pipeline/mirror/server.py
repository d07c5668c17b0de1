"""The HTTP server of the mirror: threads, ranges, conditions, and answers that are wrong on purpose."""

from __future__ import annotations

import email.utils
import os
import re
import socket
import struct
import sys
import threading
import time
import zlib
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from pipeline.imagery.stac.presets import PRESETS
from pipeline.mirror import geofabrik, kartaview, mapillary, panoramax, stac, xyz
from pipeline.mirror.faults import Fault
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

_CHUNK = 1 << 16


@dataclass
class Served:
    """One answered request; `bytes` grows while it is answered."""

    method: str
    path: str  # with the service
    status: int
    range: str | None  # of the request
    bytes: int = 0  # of the body, given to the network


class Mirror:
    """The server, between ``__enter__`` and ``__exit__``; `url` is its base."""

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
        self.faults: list[Fault] = []
        self.log: deque[Served] = deque(maxlen=100_000)
        try:
            self._server = _Server((host, port), _Handler)
        except OSError as error:
            raise ConfigError(f"port {port} of {host} cannot be taken: {error.strerror}; give another --port") from None
        self._server.mirror = self
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)

    @property
    def url(self) -> str:
        """Base URL, for GEOSHARDS_MIRROR."""
        host, port = self._server.server_address[:2]
        return f"http://{host!s}:{port}"

    def served(self, path: str = "") -> int:
        """Bytes of bodies sent so far for paths that end in ``path``."""
        return sum(s.bytes for s in list(self.log) if s.path.endswith(path))

    def answer(self, request: Request, service: str) -> Response:
        """What is sent for a request."""
        respond = self.services.get(service)
        answer = respond(request) if respond is not None else None
        if answer is None:
            answer = Response(404, f"no {request.path} here\n".encode())
        answer = _conditional(request, answer)
        for fault in self.faults:
            answer = fault(request, answer)
        return answer

    def __enter__(self) -> Mirror:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def wait(self) -> None:
        """Until the server is shut down."""
        self._thread.join()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    mirror: Mirror

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Only what is our own fault is told."""
        if not isinstance(sys.exc_info()[1], OSError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
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
        served = Served(self.command, f"{service}/{path}", answer.status, request.header("Range"))
        self.server.mirror.log.append(served)
        try:
            self._send(request, answer, served)
        except (ConnectionError, TimeoutError):  # the client has gone
            self.close_connection = True
        finally:
            if not isinstance(answer.body, bytes):
                answer.body.close()

    do_HEAD = do_GET

    def _send(self, request: Request, answer: Response, served: Served) -> None:
        size = answer.size()
        self.send_response(answer.status)
        length = size if answer.length is None else answer.length
        for name, value in {"Content-Length": str(length), "Content-Type": answer.type, **answer.headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if request.method == "HEAD":
            return
        stop = size if answer.cut is None else min(size, answer.cut)
        began = time.monotonic()
        for piece in answer.pieces(stop, _CHUNK if answer.rate is None else max(1, min(_CHUNK, answer.rate // 50))):
            served.bytes += len(piece)
            self.wfile.write(piece)
            if answer.rate:
                time.sleep(max(0.0, served.bytes / answer.rate - (time.monotonic() - began)))
        if served.bytes != length or answer.reset:
            self.close_connection = True
        if answer.reset:
            self.wfile.flush()
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()

    def log_message(self, *_: Any) -> None:
        """Nothing: `Mirror.log` has it."""


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
