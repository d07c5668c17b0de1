"""Replication as servers publish it: diffs with their states, and extracts whose header says their state."""

from __future__ import annotations

import gzip
from datetime import UTC, datetime, timedelta
from pathlib import Path

import osmium

from pipeline.regions.replication import diff_name

#: Time of diff 0; each is an hour younger than the one before.
BEGIN = datetime(2026, 1, 1, tzinfo=UTC)


def time_of(number: int) -> str:
    """Time of a diff, as OSM writes it."""
    return f"{BEGIN + timedelta(hours=number):%Y-%m-%dT%H:%M:%SZ}"


def osc(body: str) -> bytes:
    """A change file, gzipped."""
    return gzip.compress(
        f"<?xml version='1.0' encoding='UTF-8'?>\n<osmChange version='0.6'>{body}</osmChange>\n".encode()
    )


def state_text(number: int, time: str | None) -> bytes:
    """A state file as osmosis writes it: Java properties."""
    stamp = "" if time is None else f"timestamp={time.replace(':', chr(92) + ':')}\n"
    return f"#Tue Jan 06 20:21:51 UTC 2026\n{stamp}txnMaxQueried=7\nsequenceNumber={number}\n".encode()


def publish(folder: Path, diffs: dict[int, bytes], clock: bool = True) -> None:
    """Put diffs on a server by their numbers, and the newest of them into ``state.txt``."""
    for number, data in diffs.items():
        path = folder / f"{diff_name(number)}.osc.gz"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        text = state_text(number, time_of(number) if clock else None)
        (folder / f"{diff_name(number)}.state.txt").write_bytes(text)
        (folder / "state.txt").write_bytes(text)


def with_state(
    source: Path, target: Path, url: str = "", number: int | None = None, time: str = "", box: str = ""
) -> Path:
    """A copy of an extract as PBF, its header saying a state (and a box: west,south,east,north)."""
    header = osmium.io.Header()
    for name, value in (("base_url", url), ("sequence_number", number), ("timestamp", time)):
        if value not in ("", None):
            header.set(f"osmosis_replication_{name}", str(value))
    if box:
        west, south, east, north = map(float, box.split(","))
        header.add_box(osmium.osm.Box(west, south, east, north))
    with osmium.SimpleWriter(str(target), header=header) as writer:
        for thing in osmium.FileProcessor(str(source)):
            writer.add(thing)
    return target
