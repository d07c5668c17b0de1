"""Change files (.osc, .osc.gz) applied to an extract: a newer extract comes out, streamed."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from heapq import merge
from itertools import count, takewhile
from operator import itemgetter
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import osmium

from geometry.packed import changes
from pipeline.formats.libosmium import objects_of, osm_writer, refuse_document_type
from pipeline.formats.wire import Ints
from schemas.errors import InputError, at_the_door
from storage.files import atomic_file

_ORDER = {"n": 0, "w": 1, "r": 2}
_TYPES = {"n": "node", "w": "way", "r": "relation"}
_TIMESTAMP = "osmosis_replication_timestamp"
_CHANGES = (".osc", ".osc.gz", ".osc.bz2")
#: Changed objects that are held at a time, about 100 MB; bytes that each file of them is buffered in.
_PART, _BUFFER = 100_000, 1 << 18


class UnsortedError(InputError):
    """The objects of an extract do not come in order."""


Key = tuple[int, bool, int]  # as files are sorted: by type, then 0, -1, -2 …, 1, 2 …


def is_change_file(path: Path) -> bool:
    """Whether a path is named as OSM change files are."""
    return path.name.endswith(_CHANGES)


def apply_changes(base: Path, changes: Sequence[Path], target: Path, state: Mapping[str, str] | None = None) -> None:
    """Write ``base`` with ``changes`` applied to ``target`` (a .osm.pbf), which appears whole or not at all.

    Its header is that of ``base``, with the newest time in the changes as its replication time, and with ``state``:
    fields of the replication that brought the changes.

    Of several versions of an object the highest wins, and of equal ones what the later file says. All files are
    streamed, the changes twice: what they say last is put down beside the target in parts that are held one by one.

    Raises:
        InputError: a file cannot be read, an object of a change lacks what a change needs, a change file declares
            entities, or the base is not sorted by type and id, or has positions on ways in the place of nodes.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=target.parent) as folder:
        parts, stamp = _split(changes, Path(folder))
        with at_the_door(f"OSM extract {base} cannot be read", "download it again"):
            source = objects_of(base)
            header = source.header  # which is read here
        if "LocationsOnWays" in _features(header):
            raise _located(base)
        if stamp is not None:  # its replication time moves forward to the newest change
            text = stamp.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
            header.set(_TIMESTAMP, max(text, header.get(_TIMESTAMP, "")))
        for name, value in (state or {}).items():
            header.set(name, value)
        with (
            atomic_file(target) as fresh,
            osm_writer(fresh, "osm.pbf", header=header) as writer,
        ):
            for thing in _merged(base, source, parts):
                writer.add(thing)


def _features(header: Any) -> list[str]:
    return list(takewhile(bool, (header.get(f"pbf_optional_feature_{n}", "") for n in count())))


def _key(thing: Any) -> Key:
    """Where an object stands in a sorted file."""
    return _ORDER[thing.type_str()], thing.id > 0, abs(thing.id)


def places_in_order(ids: Ints) -> Ints:
    """Numbers that rise as ids i64[N] do in a sorted file: 0, -1, -2 …, 1, 2 …"""
    return np.where(ids > 0, ids, np.iinfo(np.int64).min - ids)


def _lack(thing: Any) -> str:
    """What an object of a change lacks, if anything."""
    if thing.version < 1:
        return "version, so nothing says which of two states is newer"
    if thing.is_node() and thing.visible and not thing.location.valid():
        return "position on the earth (lat, lon)"
    return ""


def _split(paths: Sequence[Path], folder: Path) -> tuple[list[Path], datetime | None]:
    """The newest version of every changed object in files of some objects each, one after the other in order, and
    unsorted within; and the newest time in the changes."""
    types, ids, versions = array("b"), array("q"), array("q")
    stamp: datetime | None = None
    for _, thing in read_changes(paths):
        types.append(_ORDER[thing.type_str()])
        ids.append(thing.id)
        versions.append(thing.version)
        stamp = max(stamp or thing.timestamp, thing.timestamp)  # 1970 where unknown, which no header keeps
    kinds, places = np.asarray(types), places_in_order(np.asarray(ids))
    order = np.lexsort((np.asarray(versions), places, kinds))
    first = changes(kinds[order], places[order])
    newest = order[np.append(first[1:], True)] if len(order) else order
    part = np.full(len(order), -1)
    part[newest] = np.arange(len(newest)) // _PART
    files = [folder / f"{n}.osh.pbf" for n in range(part.max(initial=-1) + 1)]
    with ExitStack() as stack:
        writers = [stack.enter_context(osm_writer(f, bufsz=_BUFFER)) for f in files]
        for (_, thing), n in zip(read_changes(paths), part.tolist(), strict=True):
            if n >= 0:
                writers[n].add(thing)
    return files, stamp


def read_changes(paths: Sequence[Path]) -> Iterator[tuple[Path, Any]]:
    """Every object of change files, in their order, with its file.

    Raises:
        InputError: a file cannot be read or declares entities, or an object lacks what a change needs.
    """
    for path in paths:
        with at_the_door(f"change file {path} cannot be read", "download it again"):
            refuse_document_type(path, f"change file {path}")
            for thing in objects_of(path):
                if lack := _lack(thing):
                    raise InputError(
                        f"change file {path}: {_TYPES[thing.type_str()]} {thing.id} has no {lack}; give change files "
                        "as OSM's replication or `osmium derive-changes` write them"
                    )
                yield path, thing


def _copy(thing: Any) -> Any:
    """An object that outlives the reader's buffer."""
    fields = {"id": thing.id, "version": thing.version, "timestamp": thing.timestamp, "changeset": thing.changeset,
              "uid": thing.uid, "user": thing.user, "visible": True, "tags": dict(thing.tags)}  # fmt: skip
    if thing.is_node():
        return osmium.osm.mutable.Node(location=(thing.lon, thing.lat), **fields)
    if thing.is_way():
        return osmium.osm.mutable.Way(nodes=[n.ref for n in thing.nodes], **fields)
    return osmium.osm.mutable.Relation(members=[(m.type, m.ref, m.role) for m in thing.members], **fields)


def _merged(base: Path, source: Any, parts: Sequence[Path]) -> Iterator[Any]:
    """Base and changes in order of type and id, each object once."""
    marked = (
        entry
        for part in parts
        for entry in sorted(
            ((_key(t), -t.version, 0, _copy(t) if t.visible else None) for t in objects_of(part)), key=itemgetter(0)
        )
    )
    plain = ((key, -thing.version, 1, thing) for key, thing in _once(base, source))
    last: Key | None = None
    for key, _, _, thing in merge(marked, plain, key=itemgetter(slice(3))):
        if key != last and thing is not None:
            yield thing
        last = key


def _once(base: Path, source: Any) -> Iterator[tuple[Key, Any]]:
    """The objects of an extract in order, each with its place."""
    last: Key = (-1, False, 0)
    silent = not base.name.endswith(".pbf")  # of positions on ways: a PBF's header says it
    with at_the_door(f"OSM extract {base} cannot be read", "download it again"):
        for thing in source:
            key = _key(thing)
            if key < last:
                raise unsorted(base)
            if key == last:
                raise InputError(
                    f"OSM extract {base} holds several versions of an object; apply changes to a plain one"
                )
            if silent and thing.is_way() and any(node.location.valid() for node in thing.nodes):
                raise _located(base)
            last = key
            yield key, thing


def _located(path: Path) -> InputError:
    return InputError(
        f"OSM extract {path} has positions on its ways (LocationsOnWays): a node that moves would not move them; give "
        "a newer extract, or build the dataset from one with its nodes"
    )


def unsorted(path: Path) -> UnsortedError:
    """That an extract is not in the order in which changes are applied."""
    return UnsortedError(
        f"OSM extract {path} is not sorted by type and id; sort it with `osmium sort`, give that as a newer extract, "
        "and change files after it"
    )
