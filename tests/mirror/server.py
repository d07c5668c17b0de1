"""The mirror as tests want it: it tells what it sent, and its answers go wrong on purpose (`tests.mirror.faults`)."""

from __future__ import annotations

import socket
import struct
import time
from collections import deque
from dataclasses import dataclass
from typing import Any

from pipeline.mirror import server
from pipeline.mirror.messages import Request, Response
from tests.mirror.faults import Broken, Fault


@dataclass
class Served:
    """One answered request; `bytes` grows while it is answered."""

    method: str
    path: str  # with the service
    status: int
    bytes: int = 0  # of the body, given to the network


class _Handler(server.Handler):
    def send(self, request: Request, answer: Response) -> None:
        served = Served(self.command, f"{request.folder.name}/{request.path}", answer.status)
        self.server.mirror.log.append(served)
        broken, size = answer if isinstance(answer, Broken) else Broken.of(answer), answer.size()
        length = size if broken.length is None else broken.length
        self.send_head(answer, length)
        if request.method == "HEAD":
            return
        stop = size if broken.cut is None else min(size, broken.cut)
        chunk = 1 << 16
        began = time.monotonic()
        for piece in answer.pieces(stop, chunk if broken.rate is None else max(1, min(chunk, broken.rate // 50))):
            served.bytes += len(piece)
            self.wfile.write(piece)
            if broken.rate:
                time.sleep(max(0.0, served.bytes / broken.rate - (time.monotonic() - began)))
        if served.bytes != length or broken.reset:
            self.close_connection = True
        if broken.reset:
            self.wfile.flush()
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()


class Mirror(server.Mirror):
    handler = _Handler

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.faults: list[Fault] = []
        self.log: deque[Served] = deque(maxlen=100_000)

    def served(self, path: str = "") -> int:
        """Bytes of bodies sent so far for paths that end in ``path``."""
        return sum(s.bytes for s in list(self.log) if s.path.endswith(path))

    def answer(self, request: Request, service: str) -> Response:
        answer = super().answer(request, service)
        for fault in self.faults:
            answer = fault(request, answer)
        return answer
