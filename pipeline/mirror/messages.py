"""What a service of the mirror is given, and what it gives back."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO


@dataclass(frozen=True)
class Request:
    """A GET or HEAD request to one service."""

    method: str
    path: str  # below the service's base URL, decoded, without a slash at its beginning
    query: Mapping[str, list[str]]
    headers: Mapping[str, str]
    base: str  # base URL of the service as the client sees it, without a slash at its end
    folder: Path  # what the service serves

    def header(self, name: str) -> str | None:
        """A header, whatever its case."""
        return next((v for k, v in self.headers.items() if k.lower() == name.lower()), None)


@dataclass(frozen=True)
class Response:
    """An answer."""

    status: int = 200
    body: bytes | BinaryIO = b""  # an open file: the server sends the range that is asked for, and closes it
    type: str = "text/plain"
    headers: Mapping[str, str] = field(default_factory=dict)
    start: int = 0  # first byte of the body that is sent, and the one after the last
    end: int | None = None

    @classmethod
    def json(cls, value: Any, status: int = 200, type: str = "application/json") -> Response:  # noqa: A002
        """A JSON document."""
        return cls(status, json.dumps(value).encode(), type)

    @classmethod
    def file(cls, path: Path, type: str = "application/octet-stream") -> Response:  # noqa: A002
        """A file, with ranges, ETag and date; opened here, so that all of these are of one file."""
        return cls(200, path.open("rb"), type)

    def size(self) -> int:
        """Bytes of the body that are meant."""
        whole = len(self.body) if isinstance(self.body, bytes) else os.fstat(self.body.fileno()).st_size
        return (whole if self.end is None else self.end) - self.start

    def pieces(self, stop: int, chunk: int = 1 << 16) -> Iterator[bytes]:
        """The first ``stop`` bytes of what is meant, in pieces."""
        file = io.BytesIO(self.body) if isinstance(self.body, bytes) else self.body
        file.seek(self.start)
        while stop > 0 and (piece := file.read(min(chunk, stop))):
            stop -= len(piece)
            yield piece


#: From a request to its answer; None: there is no such thing.
Service = Callable[[Request], Response | None]
