"""Change files (.osc, .osc.gz) applied to an extract: a newer extract comes out, streamed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from heapq import merge
from pathlib import Path
from typing import Any

import osmium

from schemas.errors import InputError
from storage.files import atomic_file

_ORDER = {"n": 0, "w": 1, "r": 2}
_TIMESTAMP = "osmosis_replication_timestamp"
_CHANGES = (".osc", ".osc.gz", ".osc.bz2")


def is_change_file(path: Path) -> bool:
    """Whether a path is named as OSM change files are."""
    return path.name.endswith(_CHANGES)


def apply_changes(base: Path, changes: Sequence[Path], target: Path) -> None:
    """Write ``base`` with ``changes`` applied to ``target`` (a .osm.pbf), which appears whole or not at all.

    Of several versions of an object the highest wins, and of equal ones what the later file says. The base is
    streamed; the changes are held in memory.

    Raises:
        InputError: a file cannot be read, or the base is not sorted by type and id.
    """
    newest, stamp = _read_changes(changes)
    try:
        source = osmium.FileProcessor(str(base))
        header = source.header
        if stamp is not None:  # its replication time moves forward to the newest change
            text = stamp.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
            header.set(_TIMESTAMP, max(text, header.get(_TIMESTAMP, "")))
        with (
            atomic_file(target) as fresh,
            osmium.SimpleWriter(osmium.io.File(str(fresh), "osm.pbf"), header=header) as writer,
        ):
            for thing in _merged(base, source, newest):
                writer.add(thing)
    except (RuntimeError, OSError, ValueError, IndexError) as error:
        raise InputError(f"OSM extract {base} cannot be read: {error}; download it again") from None


def _key(thing: Any) -> tuple[int, int]:
    return _ORDER[thing.type_str()], thing.id


def _read_changes(paths: Sequence[Path]) -> tuple[dict[tuple[int, int], Any], datetime | None]:
    """Newest version of every changed object, None for a deleted one's content; and the newest time in them."""
    newest: dict[tuple[int, int], tuple[int, Any]] = {}
    stamp: datetime | None = None
    for path in paths:
        try:
            for thing in osmium.FileProcessor(str(path)):
                key = _key(thing)
                if thing.timestamp.year > 1970:
                    stamp = max(stamp or thing.timestamp, thing.timestamp)
                if key in newest and newest[key][0] > thing.version:
                    continue
                newest[key] = thing.version, _copy(thing) if thing.visible else None
        except (RuntimeError, OSError, ValueError) as error:
            raise InputError(f"change file {path} cannot be read: {error}; download it again") from None
    return newest, stamp


def _copy(thing: Any) -> Any:
    """An object that outlives the reader's buffer."""
    fields = {"id": thing.id, "version": thing.version, "timestamp": thing.timestamp, "changeset": thing.changeset,
              "uid": thing.uid, "user": thing.user, "visible": True, "tags": dict(thing.tags)}  # fmt: skip
    if thing.is_node():
        return osmium.osm.mutable.Node(location=(thing.lon, thing.lat), **fields)
    if thing.is_way():
        return osmium.osm.mutable.Way(nodes=[n.ref for n in thing.nodes], **fields)
    return osmium.osm.mutable.Relation(members=[(m.type, m.ref, m.role) for m in thing.members], **fields)


def _merged(base: Path, source: Any, newest: dict[tuple[int, int], tuple[int, Any]]) -> Iterator[Any]:
    """Base and changes in order of type and id, each object once."""
    marked = ((key, 1, thing) for key, (_, thing) in sorted(newest.items(), key=lambda item: item[0]))
    last: tuple[int, int] = (-1, 0)
    for key, changed, thing in merge(_keyed(base, source), marked, key=lambda entry: entry[:2]):
        if not changed:
            if key == last:  # older versions in a history file
                raise InputError(
                    f"OSM extract {base} holds several versions of an object; apply changes to a plain one"
                )
            last = key
            if key in newest and newest[key][0] >= thing.version:
                continue
            newest.pop(key, None)
            yield thing
        elif key in newest and thing is not None:
            yield thing


def _keyed(base: Path, source: Any) -> Iterator[tuple[tuple[int, int], int, Any]]:
    last = (-1, 0)
    for thing in source:
        key = _key(thing)
        if key < last:
            raise InputError(f"OSM extract {base} is not sorted by type and id; sort it with `osmium sort` first")
        last = key
        yield key, 0, thing
