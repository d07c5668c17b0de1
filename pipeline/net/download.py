"""Files from the web into the cache: in parallel, resumable, verified, and there whole or not at all.

Beside ``NAME`` lie ``.NAME.part`` and ``.NAME.part.json`` while it is fetched (what is there, and of which version of
the file upstream it is a part), ``.NAME.json`` afterwards, and while a process has it ``.NAME.lock``.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import requests

from pipeline.net.client import Client, Passing, Refused, Stopped, Unavailable, looks_like_html
from pipeline.net.config import NetConfig, Refresh
from pipeline.net.stores import file_facts
from schemas.config import build
from schemas.errors import ConfigError, InputError
from storage.files import publish, put, read_note
from storage.locks import locked
from storage.progress import Display, Progress
from storage.urls import is_web, shown

_DAY = 86_400.0
#: Longest silence of a server that is only asked for news, in seconds.
_NEWS = 5.0
#: How often a file may change while it is fetched, or fail its checksum, before we give up.
_RESTARTS = 3
#: Progress that makes the failures before it count no more, in bytes.
_PROGRESS = 1 << 20


@dataclass(frozen=True)
class Download:
    """A file that is wanted."""

    url: str
    path: Path
    md5: bool = True  # look for URL.md5
    check: Callable[[Path], None] | None = None  # raises InputError for a file that is not what its name says


@dataclass(frozen=True)
class Version:
    """Which version of a file upstream a local one is, or is a part of."""

    url: str
    etag: str | None = None
    modified: str | None = None  # Last-Modified
    bytes: int | None = None
    md5: str | None = None
    checked: float = 0.0  # seconds since 1970, when upstream was asked last

    @property
    def validator(self) -> str | None:
        """What If-Range takes: a strong ETag, else the date."""
        return self.etag if self.etag and not self.etag.startswith("W/") else self.modified

    def differs(self, other: Version) -> bool:
        """Whether something that both know is not the same."""
        pairs = ((getattr(self, n), getattr(other, n)) for n in ("url", "etag", "modified", "bytes", "md5"))
        return any(a is not None and b is not None and a != b for a, b in pairs)


def download_all(
    wanted: Sequence[Download], config: NetConfig, refresh: Refresh = "notice", quiet: bool = False
) -> list[Version]:
    """Have every file in place; ``config.parallel`` at a time. What is there already is not fetched again.

    Returns:
        What each file is, in the order of ``wanted``.

    Raises:
        InputError: one cannot be had. The others stop; what they have of theirs is kept for the next call.
    """
    stop = threading.Event()
    news = Client(replace(config, timeout=min(config.timeout, _NEWS)), stop)
    job = _Job(Client(config, stop), news, Display(quiet), refresh)
    pool = ThreadPoolExecutor(config.parallel, "download")
    try:
        futures = [pool.submit(_have, job, item) for item in wanted]
        finished, _ = wait(futures, return_when=FIRST_EXCEPTION)
        if any(f.exception() for f in finished):
            stop.set()
            pool.shutdown(cancel_futures=True)
        errors = [e for f in futures if not f.cancelled() and (e := f.exception()) is not None]
        for error in sorted(errors, key=lambda e: isinstance(e, Stopped)):
            raise error
        return [f.result() for f in futures]
    finally:
        stop.set()  # Ctrl-C: a thread that waits for a byte ends without us
        pool.shutdown(wait=False, cancel_futures=True)


def remote_bytes(urls: Sequence[str], config: NetConfig) -> list[int | None]:
    """Size of each file upstream, by HEAD requests or as its store says; None where it does not."""
    client = Client(config)

    def size(url: str) -> int | None:
        try:
            if not is_web(url):
                return file_facts(url)[0]
            return client.retrying(url, lambda: _head(client, url)).bytes
        except (Refused, Unavailable):
            return None

    with ThreadPoolExecutor(config.parallel, "sizes") as pool:
        return list(pool.map(size, urls))


def known_version(path: Path) -> Version | None:
    """What the note beside a downloaded file says; None without one."""
    return _read_note(_beside(path, "json"))


@dataclass
class _Job:
    """What the downloads of one call share."""

    client: Client
    news: Client  # asks, of files that are there, whether there are newer ones
    display: Display
    refresh: Refresh
    silent: bool = False  # upstream does not answer: it is asked for no more news


def _have(job: _Job, item: Download) -> Version:
    if item.path.exists() and (job.refresh == "never" or not os.access(item.path.parent, os.W_OK)):
        return known_version(item.path) or Version(item.url, bytes=item.path.stat().st_size)
    line = Progress(item.path.name, 0, "MB", display=job.display)
    with line, _locked(item.path, job.client.stop, job.display):
        if item.path.exists() and not _is_outdated(job, item):
            return known_version(item.path) or Version(item.url, bytes=item.path.stat().st_size)
        return _Transfer(job.client, item, line).run()


def _is_outdated(job: _Job, item: Download) -> bool:
    """Whether a file that is there must be fetched again."""
    here = known_version(item.path)
    if job.refresh == "newer":
        try:
            if here is None or job.client.retrying(item.url, lambda: _head(job.client, item.url)).differs(here):
                return True
        except Refused:  # this server knows no HEAD
            return True
    else:
        if here is None or time.time() - here.checked < _DAY or job.silent:
            return False
        try:
            upstream = job.news.retrying(item.url, lambda: _head(job.news, item.url), job.news.patience(0))
        except InputError:  # whatever it is, the file is there
            job.silent = True
            return False
        if upstream.differs(here):
            since = f" of {upstream.modified}" if upstream.modified else ""
            job.display.note(
                f"{item.path.name}: {shown(item.url)} has another version{since}; sources.refresh=newer fetches it"
            )
    _write_note(_beside(item.path, "json"), replace(here, checked=time.time()))
    return False


class _Transfer:
    """Fetching one file, with the lock held."""

    def __init__(self, client: Client, item: Download, line: Progress) -> None:
        self.client, self.item, self.line = client, item, line
        self.part = _beside(item.path, "part")
        self.note = _beside(item.path, "part.json")
        self.md5: str | None = None
        self.restarts = 0

    def run(self) -> Version:
        """Fetch what is missing, verify it, put it in its place."""
        self.md5 = self._published_md5()
        self._drop_another()
        while True:
            self._fill()
            version = self._verified()
            if version is not None:
                break
        _write_note(_beside(self.item.path, "json"), version)
        publish(self.part, self.item.path)
        self.note.unlink(missing_ok=True)
        return version

    def _drop_another(self) -> None:
        """Forget a part of another file, or of another version of it."""
        known = _read_note(self.note)
        if known is None or known.url != self.item.url or (self.md5 and known.md5 and self.md5 != known.md5):
            self._forget()

    def _forget(self) -> None:
        self.part.unlink(missing_ok=True)
        self.note.unlink(missing_ok=True)

    def _restart(self, reason: str) -> None:
        """Begin anew.

        Raises:
            InputError: too often.
        """
        self._forget()
        self.restarts += 1
        if self.restarts > _RESTARTS:
            raise InputError(
                f"{shown(self.item.url)}: {reason}, {self.restarts} times over; try later or another mirror"
            )

    def _size(self) -> int:
        return self.part.stat().st_size if self.part.exists() else 0

    def _fill(self) -> None:
        """Attempts until the part is as long as the file."""
        patience, counted = self.client.patience(), self._size()

        def attempt() -> bool:
            nonlocal counted
            try:
                return self._attempt()
            except Passing:
                if self._size() - counted >= _PROGRESS:
                    patience.failures, counted = 0, self._size()
                raise

        longest, restarts = self._size(), self.restarts
        while not self.client.retrying(self.item.url, attempt, patience):
            if self.restarts == restarts and self._size() <= longest:  # cut short each time, and each time from anew
                self._restart("its answers end before they are whole")
            longest, restarts = self._size(), self.restarts

    def _attempt(self) -> bool:
        """One request for what is missing; whether nothing is missing now."""
        known, have = _read_note(self.note), self._size()
        if known is None or not (known.validator or known.md5):  # nothing would tell a part of another version
            self._forget()
            known, have = None, 0
        if known is not None and have and have == known.bytes:
            return True
        headers = {}
        if known is not None and have:
            headers["Range"] = f"bytes={have}-"
            if known.validator:
                headers["If-Range"] = known.validator
        try:
            with self.client.open(self.item.url, headers=headers) as response:
                return self._receive(response, have, known)
        except Refused as error:
            if error.status != 416:
                raise
            self._restart("it is shorter than what was fetched of it")
            return False

    def _receive(self, response: requests.Response, have: int, known: Version | None) -> bool:
        version = replace(_version(self.item.url, response.headers), md5=self.md5)
        if response.status_code == 206:
            start, total = _content_range(response.headers.get("Content-Range", ""))
            version = replace(version, bytes=known.bytes if total is None and known else total)
            if start != have or (known is not None and version.differs(known)):
                self._restart("it changes while it is fetched, or its server mistakes ranges")
                return False
        elif have:
            have = 0  # the whole file: it has changed, or this server knows no ranges
        self._refuse_oversize(version.bytes, have)
        self.line.start(have, version.bytes)
        pieces = self.client.body(response)
        first = next(pieces, b"")
        if not have and (looks_like_html(first) or response.headers.get("Content-Type", "").startswith("text/html")):
            raise InputError(
                f"{shown(response.url)} is a web page where {self.item.path.name} was expected: a login page of your "
                "network, or a wrong address"
            )
        if not have:
            self._forget()
            _write_note(self.note, version)
        self._append(first, pieces, have)
        if self._size() == have and version.bytes != have:
            raise Passing("sent nothing")
        return version.bytes is None or self._size() >= version.bytes  # a server may send less than is asked for

    def _append(self, first: bytes, pieces: Iterator[bytes], have: int) -> None:
        limit = self.client.config.max_gb * 1e9
        try:
            with self.part.open("ab") as file:
                piece: bytes | None = first
                while piece:
                    have += len(piece)
                    if have > limit:
                        self._refuse_oversize(have, 0)
                    file.write(piece)
                    file.flush()
                    self.line.advance(len(piece))
                    piece = next(pieces, None)
        except OSError as error:
            raise InputError(
                f"{self.part} cannot be written: {error.strerror}; free space or choose another cache"
            ) from None

    def _refuse_oversize(self, total: int | None, have: int) -> None:
        most = self.client.config.max_gb
        if total is not None and total > most * 1e9:
            raise InputError(f"{shown(self.item.url)} has {total / 1e9:,.1f} GB or more, over net.max_gb={most:g}")
        free = shutil.disk_usage(self.part.parent).free
        if total is not None and total - have > free:
            raise InputError(
                f"{shown(self.item.url)} needs {(total - have) / 1e9:,.1f} GB, and {self.part.parent} has "
                f"{free / 1e9:,.1f} GB free; free space or set GEOSHARDS_CACHE"
            )

    def _verified(self) -> Version | None:
        """What the whole part is; None if it was dropped and must be fetched again."""
        known = _read_note(self.note) or Version(self.item.url)
        with self.part.open("rb") as file:
            digest = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
        if self.md5 is not None and digest != self.md5:
            self.md5 = self._published_md5()  # a new version may have been published together with its checksum
            if digest != self.md5:
                self._restart("its content does not fit its .md5")
                return None
        if self.item.check is not None:
            try:
                self.item.check(self.part)
            except InputError as error:
                if self.md5 is None and known.bytes is not None and not self.restarts:
                    self._restart(str(error))
                    return None
                self._forget()
                raise InputError(f"{shown(self.item.url)} was fetched and is no good: {error}") from None
        return replace(known, md5=digest, bytes=self._size(), checked=time.time())

    def _published_md5(self) -> str | None:
        """The checksum beside the file; None where there is none."""
        if not self.item.md5:
            return None
        try:
            text = self.client.get(f"{self.item.url}.md5", max_bytes=4096)
        except Refused:
            return None
        found = re.match(rb"\s*([0-9a-fA-F]{32})\b", text)
        return found[1].decode().lower() if found else None


def _head(client: Client, url: str) -> Version:
    with client.open(url, method="HEAD") as response:
        return _version(url, response.headers)


def _version(url: str, headers: Any) -> Version:
    length = headers.get("Content-Length", "")
    size = int(length) if length.isdecimal() and len(length) < 20 else None
    return Version(url, headers.get("ETag"), headers.get("Last-Modified"), size)


def _content_range(value: str) -> tuple[int, int | None]:
    """First byte and length of the file; (-1, None) where the header cannot be read."""
    found = re.fullmatch(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18}|\*)", value.strip())
    if not found:
        return -1, None
    return int(found[1]), None if found[3] == "*" else int(found[3])


def _beside(path: Path, suffix: str) -> Path:
    return path.with_name(f".{path.name}.{suffix}")


def _read_note(path: Path) -> Version | None:
    values = read_note(path)
    try:
        return build(Version, {f.name: values[f.name] for f in fields(Version)})
    except (KeyError, ConfigError):
        return None


def _write_note(path: Path, version: Version) -> None:
    put(path, json.dumps(asdict(version)), durable=False)  # one that cannot be read is none


@contextlib.contextmanager
def _locked(path: Path, stop: threading.Event, display: Display) -> Iterator[None]:
    """One process and thread at a time, others wait and say so."""
    told = False

    def wait() -> None:
        nonlocal told
        if not told:
            display.note(f"{path.name}: another process fetches it; waiting")
            told = True
        if stop.wait(0.1):
            raise Stopped("called off")

    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(locked(_beside(path, "lock"), wait))
        except OSError as error:
            raise InputError(f"{path.parent} cannot be written: {error.strerror}; set GEOSHARDS_CACHE") from None
        yield
