"""Answers that go wrong: each is, or gives, a function from request and right answer to what is sent."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from typing import Any

from pipeline.mirror.messages import Request, Response

Fault = Callable[[Request, Response], Response]


@dataclass(frozen=True)
class Broken(Response):
    """An answer that breaks on the way."""

    cut: int | None = None  # bytes after which the connection is closed
    reset: bool = False  # close it with a reset
    rate: int | None = None  # bytes a second
    length: int | None = None  # Content-Length that is sent in place of the true one

    @classmethod
    def of(cls, answer: Response, **changes: Any) -> Broken:
        return cls(**vars(answer) | changes)


def only(pattern: str, fault: Fault, times: int | None = None) -> Fault:
    """``fault`` for GET requests of matching paths (as in a shell), the first ``times`` of them or all."""
    left, lock = times, threading.Lock()

    def choose(request: Request, answer: Response) -> Response:
        nonlocal left
        if request.method != "GET" or not fnmatch(request.path, pattern):
            return answer
        with lock:
            if left == 0:
                return answer
            left = None if left is None else left - 1
        return fault(request, answer)

    return choose


def cut(at: int, reset: bool = False) -> Fault:
    """The connection ends after ``at`` bytes of the body, with a reset or without."""
    return lambda _, answer: Broken.of(answer, cut=at, reset=reset)


def slow(rate: int) -> Fault:
    """``rate`` bytes a second."""
    return lambda _, answer: Broken.of(answer, rate=rate)


def lengthened(by: int) -> Fault:
    """A Content-Length that is wrong by so much."""
    return lambda _, answer: Broken.of(answer, length=answer.size() + by)


def status(code: int, retry_after: str | None = None) -> Fault:
    """Another status: 429 with Retry-After, 503 and so on."""
    headers = {} if retry_after is None else {"Retry-After": retry_after}
    return lambda _request, _answer: Response(code, b"not now\n", headers=headers)


def redirect(url: str, code: int = 302) -> Fault:
    """Elsewhere."""
    return lambda _request, _answer: Response(code, b"elsewhere\n", headers={"Location": url})


def web_page(type: str = "text/html") -> Fault:  # noqa: A002
    """The login page of a hotel's network, with status 200."""
    page = b"<!DOCTYPE html>\n<html><body>Welcome! Please log in.</body></html>\n"
    return lambda _request, _answer: Response(200, page, type)


def whole(_: Request, answer: Response) -> Response:
    """The server knows no ranges."""
    if answer.status not in (206, 416):
        return answer
    headers = {k: v for k, v in answer.headers.items() if k not in ("Content-Range", "Accept-Ranges")}
    return replace(answer, status=200, start=0, end=None, headers=headers)


def unconditional(request: Request, answer: Response) -> Response:
    """The server does not know If-Range: it sends a part of whatever the file is now."""
    found = re.fullmatch(r"bytes=(\d+)-", request.header("Range") or "")
    if answer.status != 200 or not found or int(found[1]) >= answer.size():
        return answer
    first, size = int(found[1]), answer.size()
    headers = {**answer.headers, "Content-Range": f"bytes {first}-{size - 1}/{size}"}
    return replace(answer, status=206, start=first, headers=headers)


def stingy(most: int) -> Fault:
    """Of a range, the first ``most`` bytes."""

    def less(_: Request, answer: Response) -> Response:
        if answer.status != 206 or answer.size() <= most:
            return answer
        total = answer.headers["Content-Range"].rpartition("/")[2]
        headers = {**answer.headers, "Content-Range": f"bytes {answer.start}-{answer.start + most - 1}/{total}"}
        return replace(answer, end=answer.start + most, headers=headers)

    return less


def anonymous(_: Request, answer: Response) -> Response:
    """Neither ETag nor date."""
    headers = {k: v for k, v in answer.headers.items() if k not in ("ETag", "Last-Modified")}
    return replace(answer, headers=headers)
