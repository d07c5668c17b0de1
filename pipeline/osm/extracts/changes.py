"""Change files (.osc, .osc.gz) applied to an extract: a newer extract comes out, streamed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from heapq import merge
from itertools import count, takewhile
from pathlib import Path
from typing import Any

import osmium

from pipeline.formats.libosmium import objects_of
from schemas.errors import InputError, at_the_door
from storage.files import atomic_file

_ORDER = {"n": 0, "w": 1, "r": 2}
_TYPES = {"n": "node", "w": "way", "r": "relation"}
_TIMESTAMP = "osmosis_replication_timestamp"
_CHANGES = (".osc", ".osc.gz", ".osc.bz2")


class UnsortedError(InputError):
    """The objects of an extract do not come in order."""


Key = tuple[int, bool, int]  # as files are sorted: by type, then 0, -1, -2 …, 1, 2 …


def is_change_file(path: Path) -> bool:
    """Whether a path is named as OSM change files are."""
    return path.name.endswith(_CHANGES)


def apply_changes(base: Path, changes: Sequence[Path], target: Path) -> None:
    """Write ``base`` with ``changes`` applied to ``target`` (a .osm.pbf), which appears whole or not at all.

    Of several versions of an object the highest wins, and of equal ones what the later file says. The base is
    streamed; the changes are held in memory.

    Raises:
        InputError: a file cannot be read, an object of a change lacks what a change needs, or the base is not sorted
            by type and id, or has positions on ways in the place of nodes.
    """
    newest, stamp = _read_changes(changes)
    with at_the_door(f"OSM extract {base} cannot be read", "download it again"):
        source = objects_of(base)
        header = source.header
        if "LocationsOnWays" in _features(header):
            raise InputError(
                f"OSM extract {base} has positions on its ways (LocationsOnWays): a node that moves would not move "
                "them; give a newer extract, or build the dataset from one with its nodes"
            )
        if stamp is not None:  # its replication time moves forward to the newest change
            text = stamp.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
            header.set(_TIMESTAMP, max(text, header.get(_TIMESTAMP, "")))
        with (
            atomic_file(target) as fresh,
            osmium.SimpleWriter(osmium.io.File(str(fresh), "osm.pbf"), header=header) as writer,
        ):
            for thing in _merged(base, source, newest):
                writer.add(thing)


def _features(header: Any) -> list[str]:
    return list(takewhile(bool, (header.get(f"pbf_optional_feature_{n}", "") for n in count())))


def _key(thing: Any) -> Key:
    """Where an object stands in a sorted file."""
    return _ORDER[thing.type_str()], thing.id > 0, abs(thing.id)


def _lack(thing: Any) -> str:
    """What an object of a change lacks, if anything."""
    if thing.version < 1:
        return "version, so nothing says which of two states is newer"
    if thing.is_node() and thing.visible and not thing.location.valid():
        return "position on the earth (lat, lon)"
    return ""


def _read_changes(paths: Sequence[Path]) -> tuple[dict[Key, tuple[int, Any]], datetime | None]:
    """Newest version of every changed object, None for a deleted one's content; and the newest time in them."""
    newest: dict[Key, tuple[int, Any]] = {}
    stamp: datetime | None = None
    for path in paths:
        with at_the_door(f"change file {path} cannot be read", "download it again"):
            for thing in objects_of(path):
                if lack := _lack(thing):
                    name = f"{_TYPES[thing.type_str()]} {thing.id}"
                    raise InputError(
                        f"change file {path}: {name} has no {lack}; give change files as OSM's replication or `osmium "
                        "derive-changes` write them"
                    )
                key = _key(thing)
                stamp = max(stamp or thing.timestamp, thing.timestamp)  # 1970 where unknown, which no header keeps
                if key in newest and newest[key][0] > thing.version:
                    continue
                newest[key] = thing.version, _copy(thing) if thing.visible else None
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


def _merged(base: Path, source: Any, newest: dict[Key, tuple[int, Any]]) -> Iterator[Any]:
    """Base and changes in order of type and id, each object once."""
    marked = ((key, 1, thing) for key, (_, thing) in sorted(newest.items(), key=lambda item: item[0]))
    plain = ((key, 0, thing) for key, thing in sorted_objects(base, source))
    last: Key | None = None
    for key, changed, thing in merge(plain, marked, key=lambda entry: entry[:2]):
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


def sorted_objects(path: Path, source: Iterable[Any]) -> Iterator[tuple[Key, Any]]:
    """The objects of an extract, each with its place in the order.

    Raises:
        UnsortedError: they are not in that order.
    """
    last: Key = (-1, False, 0)
    for thing in source:
        key = _key(thing)
        if key < last:
            raise UnsortedError(f"OSM extract {path} is not sorted by type and id; sort it with `osmium sort` first")
        last = key
        yield key, thing
