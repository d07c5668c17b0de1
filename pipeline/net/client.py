"""HTTP requests with retries, limits and plain errors. Bodies are read in pieces; nothing is held that has no bound."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.client import HTTPException, IncompleteRead
from typing import Any, TypeVar
from urllib.parse import urljoin, urlsplit

import requests
import urllib3

from pipeline.net.config import NetConfig
from schemas.errors import GeoshardsError, InputError
from storage.retry import TRAFFIC, Patience, retry
from storage.urls import is_web, shown

T = TypeVar("T")

#: Largest piece of a body that is held at once, in bytes.
CHUNK = 1 << 17
#: Bytes of a refusal that are kept.
_EXCERPT = 1 << 12
#: Longest wait for a connection, in seconds.
_CONNECT = 10.0
#: Answers that may be others when asked again.
_PASSING = frozenset({408, 425, 429, 500, 502, 503, 504})
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_SECRET_HEADERS = ("authorization", "cookie")


class Unavailable(InputError):
    """A server that does not answer, or not usefully, however often it is asked."""


class Refused(InputError):
    """A server that answers, and says no."""

    def __init__(self, message: str, status: int, body: bytes = b"") -> None:
        super().__init__(message)
        self.status = status
        self.body = body  # the beginning of what it says


class Passing(GeoshardsError):
    """A failure that may not happen again; ends as `Unavailable` when patience does."""

    def __init__(self, reason: str, after: float | None = None) -> None:
        super().__init__(reason)
        self.after = after  # seconds that the server asks us to wait


class Stopped(GeoshardsError):
    """The work was called off from outside."""


class TooLarge(InputError):
    """A body of more bytes than are wanted."""


def looks_like_html(data: bytes) -> bool:
    """Whether a body begins as a web page does: a login page or an error page in place of a file."""
    start = data[:512].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    return start.startswith((b"<!doctype html", b"<html", b"<head"))


class Client:
    """Sends GET and HEAD requests, and questions by POST. Safe to share among threads.

    ``stop``, once set, ends waits and transfers with `Stopped`.
    """

    def __init__(self, config: NetConfig, stop: threading.Event | None = None) -> None:
        self.config = config
        self.stop = stop or threading.Event()
        self._local = threading.local()

    def get(
        self,
        url: str,
        *,
        params: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        body: Any = None,
        max_bytes: int = 64 << 20,
    ) -> bytes:
        """A whole body of at most ``max_bytes``; where a ``body`` is given, it is asked for as JSON by POST.

        Raises:
            Unavailable: it failed for passing reasons net.retries times over.
            Refused: the server says no.
            TooLarge: the body is.
            InputError: a redirect leads astray.
        """

        method = "GET" if body is None else "POST"

        def attempt() -> bytes:
            with self.open(url, method=method, params=params, headers=headers, body=body) as response:
                data = bytearray()
                for piece in self.body(response):
                    data += piece
                    if len(data) > max_bytes:
                        raise TooLarge(
                            f"{shown(url)} sends more than {max_bytes:,} bytes; it is not what was asked for"
                        )
                return bytes(data)

        return self.retrying(url, attempt, self.patience())

    def get_json(
        self,
        url: str,
        *,
        params: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Any:
        """A JSON document; raises as `get` does, and `InputError` where it is none."""
        return parse_json(self.get(url, params=params, headers=headers), shown(url))

    def patience(self, retries: int | None = None) -> Patience:
        """That of the settings, for one request; at most ``retries`` more attempts (default: net.retries)."""
        config = self.config
        return Patience(
            1 + (config.retries if retries is None else retries), config.backoff, config.max_wait, self._sleep
        )

    def _sleep(self, seconds: float) -> None:
        if self.stop.wait(seconds):
            raise Stopped("called off")

    def retrying(self, url: str, attempt: Callable[[], T], patience: Patience | None = None) -> T:
        """``attempt()``, again after each `Passing` failure as long as patience lasts.

        Raises:
            Unavailable: that was the last attempt.
            Stopped: called off.
        """
        patience = patience or self.patience()
        try:
            return retry(attempt, lambda e: (e.after or 0.0) if isinstance(e, Passing) else None, patience)
        except Passing as problem:
            times = f" {patience.failures} times over" if patience.failures > 1 else ""
            raise Unavailable(
                f"{shown(url)} cannot be fetched: {problem}{times}; run the same command again to go on, or set "
                "GEOSHARDS_MIRROR to a mirror"
            ) from None

    @contextmanager
    def open(
        self,
        url: str,
        *,
        method: str = "GET",
        params: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        body: Any = None,
    ) -> Iterator[requests.Response]:
        """One answer of status 2xx with its body unread, after redirects to http(s) only.

        Raises:
            Passing: it may work when tried again.
            Refused: the server says no.
            InputError: a redirect leads astray, or the answer is compressed although we asked for none of that.
        """
        response = self._follow(method, url, params, {"Accept-Encoding": "identity", **(headers or {})}, body)
        try:
            status = response.status_code
            if status in _PASSING:
                raise Passing(f"answered {status}", _retry_after(response.headers.get("Retry-After")))
            if not 200 <= status < 300:
                message = f"{shown(url)} answered {status} {response.reason}; {_advice(status)}"
                with _plain_errors(url):
                    raise Refused(message, status, response.raw.read(_EXCERPT, decode_content=False))
            if response.headers.get("Content-Encoding", "identity").lower() != "identity":
                raise InputError(
                    f"{shown(url)} is sent compressed although it was asked for as it is; use another mirror"
                )
            yield response
        finally:
            response.close()

    def body(self, response: requests.Response) -> Iterator[bytes]:
        """The body in pieces of at most `CHUNK` bytes.

        Raises:
            Passing: the connection broke, or sent fewer than net.min_rate bytes a second for net.timeout seconds.
        """
        began, got = time.monotonic(), 0
        while True:
            if self.stop.is_set():
                raise Stopped("called off")
            with _plain_errors(response.url):
                piece = response.raw.read1(CHUNK, decode_content=False)
            if not piece:
                return
            got += len(piece)
            TRAFFIC.fetched += len(piece)
            elapsed = time.monotonic() - began
            if elapsed > self.config.timeout:
                if got < self.config.min_rate * elapsed:
                    raise Passing(f"sent only {got:,} bytes in {elapsed:.0f} s")
                began, got = time.monotonic(), 0
            yield piece

    def _follow(
        self, method: str, url: str, params: Mapping[str, str] | None, headers: dict[str, str], body: Any
    ) -> requests.Response:
        first = url
        for _ in range(self.config.max_redirects + 1):
            origin = "" if url == first else f"{shown(first)} redirects to "
            if not is_web(url):
                raise InputError(f"{origin}{shown(url)[:200]!r}, which is no http(s) URL; it is not followed")
            with _plain_errors(url, origin):
                response = self._session(url).request(
                    method, url, params=params, headers=headers, json=body, stream=True, allow_redirects=False,
                    timeout=(min(_CONNECT, self.config.timeout), self.config.timeout),
                )  # fmt: skip
            target = response.headers.get("Location")
            if response.status_code not in _REDIRECTS or not target:
                return response
            response.close()
            params, here = None, response.url
            url = _joined(here, target)
            if not is_web(url) or urlsplit(url)[:2] != urlsplit(here)[:2]:
                headers = {k: v for k, v in headers.items() if k.lower() not in _SECRET_HEADERS}
        raise InputError(f"{shown(first)} redirects more than {self.config.max_redirects} times; check the address")

    def _session(self, url: str) -> requests.Session:
        """The thread's own session; proxies and .netrc of the environment are not for this machine itself."""
        session: requests.Session | None = getattr(self._local, "session", None)
        if session is None:
            session = self._local.session = requests.Session()
            session.headers["User-Agent"] = "geoshards"
        session.trust_env = urlsplit(url).hostname not in ("localhost", "127.0.0.1", "::1")
        return session


def parse_json(data: bytes, where: str) -> Any:
    """A JSON document; ``where`` stands in messages.

    Raises:
        InputError: it is none.
    """
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        what = "a web page (a login page, perhaps)" if looks_like_html(data) else "no JSON"
        raise InputError(f"{where} is {what} where a JSON document was expected") from None


@contextmanager
def _plain_errors(url: str, origin: str = "") -> Iterator[None]:
    """Errors of the HTTP libraries as ours, without their texts: these quote URLs with their secrets. ``origin`` says
    who led to ``url``.
    """
    try:
        yield
    except requests.exceptions.SSLError:
        raise InputError(
            f"{origin}{shown(url)[:200]}: the server's certificate is not trusted; "
            "set REQUESTS_CA_BUNDLE to your network's own"
        ) from None
    except (ValueError, AssertionError, urllib3.exceptions.LocationParseError):  # InvalidURL and more; a redirect's too
        raise InputError(
            f"{origin}{shown(url)[:200]} is no http(s) URL that can be read, or redirects to none"
        ) from None
    except (requests.RequestException, urllib3.exceptions.HTTPError, HTTPException, ConnectionError, TimeoutError) as e:
        raise Passing(_reason(e)) from None


def _reason(error: BaseException) -> str:
    """The cause nearest to the network that says something and quotes no URL."""
    chain = [error]
    while (cause := chain[-1].__cause__ or chain[-1].__context__) is not None:
        chain.append(cause)
    for cause in reversed(chain):
        if isinstance(cause, (urllib3.exceptions.IncompleteRead, IncompleteRead)):
            return "the transfer was cut"
        if isinstance(cause, OSError) and cause.strerror and not isinstance(cause, requests.RequestException):
            return cause.strerror
        if isinstance(cause, (requests.Timeout, TimeoutError, urllib3.exceptions.TimeoutError)):
            return "no answer in time"
    return "the connection failed"


def _joined(base: str, target: str) -> str:
    try:
        return urljoin(base, target)
    except ValueError:
        return target


def _retry_after(value: str | None) -> float | None:
    """Seconds of a Retry-After header: a number, or a date."""
    try:
        return urllib3.Retry().parse_retry_after(value or "")
    except (urllib3.exceptions.InvalidHeader, ValueError, OverflowError):
        return None


def _advice(status: int) -> str:
    return {401: "it wants a login", 403: "it is not for everyone"}.get(status, "check the address")
