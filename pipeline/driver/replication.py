"""An extract brought to a later state by the diffs of OSM's replication: fetched, clipped to it, applied."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory

from pipeline.formats.libosmium import replication_header
from pipeline.net.config import NetConfig
from pipeline.osm.clip import clip_changes
from pipeline.osm.extracts.changes import apply_changes
from pipeline.regions.replication import Server, State
from schemas.errors import InputError
from storage.progress import Display
from storage.urls import shown


@dataclass(frozen=True)
class Replication:
    """What is asked for."""

    url: str = ""  # folder of the server's state.txt; empty: that of the extract's header
    until: datetime | None = None  # the newest state that is not after it, UTC; None: the newest


def replicate(
    base: Path, name: str, digest: str, asked: Replication, net: NetConfig, cache: Path, quiet: bool = False
) -> Path:
    """The extract ``base`` in the state that is asked for, in the cache; ``base`` itself where it is no older.

    Args:
        base: an extract whose header says of which state it is.
        name: file name of what is made.
        digest: SHA-256 of ``base``.
        asked: server and state.
        net: patience and limits.
        cache: where diffs and the result stay.
        quiet: no progress.

    Raises:
        InputError: the header does not say it, a diff cannot be had or is none, or the extract cannot be changed.
    """
    known = replication_header(base)
    if not (asked.url or known.url):
        raise InputError(
            f"the header of OSM extract {base} names no replication server; give its URL, as --replication "
            "https://download.geofabrik.de/europe/monaco-updates does"
        )
    server = Server(asked.url or str(known.url), net, cache, quiet)
    newest = server.newest()
    if known.sequence is not None and _place(str(known.url)) == _place(server.url):
        start = State(known.sequence, known.timestamp)
    elif known.timestamp is not None:
        start = server.at(known.timestamp, newest, overlap=True)
    else:
        raise InputError(
            f"the header of OSM extract {base} does not say of which state it is; give a newer extract in the place of "
            "--replication, whose header has osmosis_replication_timestamp (Geofabrik's have)"
        )
    if start.sequence > newest.sequence:
        raise InputError(
            f"{shown(server.url)} is at diff {newest.sequence}, and OSM extract {base} at {start.sequence}: it lags, "
            "or is another region's; run the same again later, or give the extract's own server"
        )
    last = newest if asked.until is None else server.at(asked.until, newest)
    note = Display(quiet).note
    if last.sequence <= start.sequence:
        note(f"{shown(server.url)}: nothing newer than diff {start.sequence}")
        return base
    time = f" ({_written(last)})" if last.time is not None else ""
    note(f"{shown(server.url)}: diffs {start.sequence + 1} to {last.sequence}{time}")
    steps = f"{digest} {server.url} {start.sequence} {last.sequence}"
    target = cache / "updated" / sha256(steps.encode()).hexdigest()[:20] / name
    if not target.exists():
        _apply(base, server, (start.sequence + 1, last), target, quiet)
    return target


def _apply(base: Path, server: Server, steps: tuple[int, State], target: Path, quiet: bool) -> None:
    """Diffs from the first number to the last state, fetched and applied."""
    first, last = steps
    diffs = server.fetch(first, last.sequence)
    target.parent.mkdir(parents=True, exist_ok=True)
    state = {"osmosis_replication_base_url": server.url, "osmosis_replication_sequence_number": str(last.sequence)}
    if last.time is not None:
        state["osmosis_replication_timestamp"] = _written(last)
    with TemporaryDirectory(dir=target.parent) as folder:
        own = Path(folder, "own.osc.gz")
        try:
            taken, changed = clip_changes(base, diffs, own)
        except InputError as error:
            raise type(error)(server.named(str(error))) from None
        Display(quiet).note(f"{taken:,} of {changed:,} changed objects belong to the extract; applying them")
        apply_changes(base, [own], target, state)


def _written(state: State) -> str:
    """A state's time as OSM writes it; empty where it is not known."""
    return "" if state.time is None else state.time.strftime("%Y-%m-%dT%H:%M:%SZ")


def _place(url: str) -> str:
    """A URL without what may differ: http or https, and a slash at its end."""
    return url.partition("://")[2].rstrip("/").removesuffix("/state.txt")
