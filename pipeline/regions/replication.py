"""Diffs of OSM's replication: which there are on a server, and the files of them in the cache.

A server of `planet.openstreetmap.org/replication/{minute,hour,day}` or of Geofabrik's `REGION-updates` has `state.txt`
with the number and time of its newest diff, and of each diff ``000/003/402.state.txt`` and ``000/003/402.osc.gz``. What
has a number does not change any more, so that it is fetched once; only ``state.txt`` is asked for again.
https://wiki.openstreetmap.org/wiki/Planet.osm/diffs
"""

from __future__ import annotations

import gzip
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from xml.parsers import expat

from pipeline.net.client import Client, Refused
from pipeline.net.config import DEFAULT_BASES, NetConfig, base_url
from pipeline.net.download import Download, download_all
from schemas.errors import InputError, at_the_door
from storage.files import put
from storage.progress import Progress
from storage.urls import is_web, shown

#: A number has three times three digits.
_MOST = 999_999_999
#: Diffs that one update takes: two months of minutes. Of more, a newer extract is the shorter way.
_DIFFS = 90_000
#: Diffs that are asked for together.
_SOME = 64
#: Bytes of a state file; GB of a diff (of a day of the planet there are 0.2).
_STATE, _GB = 1 << 14, 4.0
#: Bytes that are unpacked at a time; how many times its size a diff may unpack to (real ones 10 to 25), and what a
#: small one always may; bytes of one element (OSM's texts have 255 letters).
_PIECE, _SPREAD, _SMALL, _ELEMENT = 1 << 18, 100, 1 << 24, 1 << 20
#: How far a search by time goes back behind it: a diff may hold edits that were begun before those of an earlier one.
_OVERLAP = timedelta(hours=1)


@dataclass(frozen=True)
class State:
    """One state of a server."""

    sequence: int  # 0 … 999,999,999
    time: datetime | None  # of its newest edit, UTC; None: its file does not say


def parse_state(text: bytes, where: str) -> State:
    """A state file, in the form of Java's properties; ``where`` stands in messages.

    >>> parse_state(b"sequenceNumber=3402\\ntimestamp=2022-07-24T20\\\\:21\\\\:51Z", "state.txt")
    State(sequence=3402, time=datetime.datetime(2022, 7, 24, 20, 21, 51, tzinfo=datetime.timezone.utc))

    Raises:
        InputError: it has no sequence number.
    """
    lines = (line.strip() for line in text.decode("utf-8", "replace").splitlines())
    pairs = (re.split(r"\s*[=:]\s*", line, maxsplit=1) for line in lines if not line.startswith(("#", "!")))
    values = {pair[0]: re.sub(r"\\(.)", r"\1", pair[1]) for pair in pairs if len(pair) == 2}
    number = values.get("sequenceNumber", "")
    if not re.fullmatch(r"[0-9]{1,9}", number):
        raise InputError(
            f"{where} is no state file of OSM's replication (no sequenceNumber); give the folder that holds state.txt, "
            "as https://download.geofabrik.de/europe/monaco-updates does"
        )
    return State(int(number), parse_time(values.get("timestamp", "")))


def parse_time(text: str) -> datetime | None:
    """A time as OSM writes it, or a day, in UTC; None if it is none."""
    try:
        found = datetime.fromisoformat(text.strip())
    except ValueError:
        return None
    return found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)


def diff_name(sequence: int) -> str:
    """Path of a diff below its server, without its ending.

    >>> diff_name(3402)
    '000/003/402'
    """
    digits = f"{sequence:09d}"
    return f"{digits[:3]}/{digits[3:6]}/{digits[6:]}"


class Server:
    """A replication server; what it has sent stays in the cache."""

    def __init__(self, url: str, net: NetConfig, cache: Path, quiet: bool = False) -> None:
        """``url`` is the folder of ``state.txt``; one of Geofabrik is that of $GEOSHARDS_MIRROR where that is set.

        Raises:
            InputError: it is no http(s) URL.
        """
        self.url = url.rstrip("/").removesuffix("/state.txt")
        if not is_web(self.url):
            raise InputError(f"{shown(url)!r} is no http(s) URL of a replication server")
        own = re.match(rf"https?://{re.escape(DEFAULT_BASES['geofabrik'].partition('://')[2])}/", f"{self.url}/")
        self._base = f"{base_url('geofabrik')}/{self.url[own.end() :]}" if own else self.url
        self._folder = cache / "replication" / sha256(self.url.encode()).hexdigest()[:16]
        self._net, self._quiet = replace(net, max_gb=min(net.max_gb, _GB)), quiet
        self._client = Client(net)

    def newest(self) -> State:
        """What ``state.txt`` says.

        Raises:
            InputError: it cannot be had, or is none.
        """
        url = f"{self._base}/state.txt"
        return parse_state(self._client.get(url, max_bytes=_STATE), shown(url))

    def state(self, sequence: int) -> State | None:
        """That of a number; None where the server has it no more.

        Raises:
            InputError: the server cannot be reached, or sends something else.
        """
        path, url = self._paths(sequence, "state.txt")
        if path.is_file():
            return parse_state(path.read_bytes(), str(path))
        try:
            text = self._client.get(url, max_bytes=_STATE)
        except Refused as error:
            if error.status not in (404, 410):
                raise
            return None
        found = parse_state(text, shown(url))
        if found.sequence != sequence:
            raise InputError(f"{shown(url)} is of number {found.sequence}; the server is broken, give another mirror")
        path.parent.mkdir(parents=True, exist_ok=True)
        put(path, text, durable=False)
        return found

    def at(self, time: datetime, newest: State, overlap: bool = False) -> State:
        """The newest state that is not after ``time`` (with ``overlap``, an hour before it): some 2 log N requests.

        Raises:
            InputError: all states that are left are after it, or they have no times.
        """
        wanted = time - _OVERLAP if overlap else time
        if self._time(newest) <= wanted:
            return newest
        found, first, low, step = None, newest, -1, 1  # low is not after `wanted`, or gone from the server; first is
        while (number := newest.sequence - step) >= 0:
            state = self.state(number)
            if state is None or self._time(state) <= wanted:
                low, found = number, state
                break
            first, step = state, 2 * step
        while first.sequence - low > 1:
            number = (low + first.sequence) // 2
            state = self.state(number)
            if state is not None and self._time(state) > wanted:
                first = state
            else:
                low, found = number, state or found
        if found is None:
            raise InputError(
                f"{shown(self.url)} begins at {first.time:%Y-%m-%dT%H:%M:%SZ}, after {wanted:%Y-%m-%dT%H:%M:%SZ}; give "
                "another server of longer memory, or a newer extract in the place of --replication"
            )
        return found

    def _time(self, state: State) -> datetime:
        if state.time is None:
            raise InputError(
                f"{shown(self.url)} does not say of which time its diffs are (no timestamp in state "
                f"{state.sequence}); leave --until out, and give an extract whose header has a sequence number"
            )
        return state.time

    def fetch(self, first: int, last: int) -> list[Path]:
        """The diffs from ``first`` to ``last``, those that are missing downloaded and checked.

        Raises:
            InputError: one cannot be had, or is none; the message names its URL.
        """
        if last - first >= _DIFFS:
            raise InputError(
                f"{shown(self.url)} has {last - first + 1:,} diffs since the extract, over {_DIFFS:,}; take hourly or "
                "daily ones, or give a newer extract in the place of --replication"
            )
        wanted = [self._paths(n, "osc.gz") for n in range(first, last + 1)]
        with Progress("diffs", len(wanted), "diffs", self._quiet) as progress:
            for start in range(0, len(wanted), _SOME):
                some = wanted[start : start + _SOME]
                self._fetch_some(some)
                progress.advance(len(some))
        return [path for path, _ in wanted]

    def _fetch_some(self, wanted: Sequence[tuple[Path, str]]) -> None:
        missing = [Download(url, path, md5=False, check=check_diff) for path, url in wanted if not path.is_file()]
        for item in missing:
            item.path.parent.mkdir(parents=True, exist_ok=True)
        try:
            download_all(missing, self._net, "never", quiet=True)
        except Refused as error:
            if error.status not in (404, 410):
                raise
            raise InputError(
                f"{error}: it has no diff of that number, and those that follow do not go without; run the same again "
                "later if it is among the newest, else give a newer extract in the place of --replication"
            ) from None

    def _paths(self, sequence: int, ending: str) -> tuple[Path, str]:
        """Where a file of a number lies in the cache, and its URL."""
        name = f"{diff_name(sequence)}.{ending}"
        return self._folder / name, f"{self._base}/{name}"

    def named(self, message: str) -> str:
        """A message with the URL of a diff in the place of its path in the cache."""
        return message.replace(f"{self._folder}/", f"{shown(self._base)}/")


def check_diff(path: Path) -> None:
    """Whether a file is one whole, gzipped XML document of changes, within bounds.

    Raises:
        InputError: it is not.
    """
    most = max(_SMALL, _SPREAD * path.stat().st_size)
    parser = expat.ParserCreate()
    found: list[str] = []

    def begin(name: str, _: object) -> None:
        found.append(name)
        parser.StartElementHandler = None  # the rest is parsed without us

    def doctype(*_: object) -> None:
        raise InputError("it declares a document type (<!DOCTYPE), which no file of OSM has")

    parser.StartElementHandler, parser.StartDoctypeDeclHandler = begin, doctype
    with at_the_door("it is no gzipped XML"):
        total = 0
        for piece in _unpacked(path):
            total += len(piece)
            if total > most:
                raise InputError(f"it unpacks to over {most:,} bytes, {_SPREAD} times its size")
            parser.Parse(piece)
            if total - parser.CurrentByteIndex > _ELEMENT:
                raise InputError(f"one of its elements has over {_ELEMENT:,} bytes")
        parser.Parse(b"", True)
    if found != ["osmChange"]:
        raise InputError(f"it holds <{found[0][:40]}> where <osmChange> was expected")


def _unpacked(path: Path) -> Iterator[bytes]:
    """A gzip file in pieces."""
    with gzip.open(path) as file:
        while piece := file.read(_PIECE):
            yield piece
