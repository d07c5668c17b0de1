"""Snapshots of a history file (``.osh.pbf``): the map as it was at given times."""

from __future__ import annotations

from array import array
from collections.abc import Mapping
from contextlib import ExitStack
from datetime import datetime
from pathlib import Path

import numpy as np
import osmium
from numpy.typing import NDArray

from geometry.packed import changes
from pipeline.formats.libosmium import objects_of, osm_writer
from pipeline.formats.wire import Ints
from schemas.errors import InputError, at_the_door
from storage.files import atomic_file

_FORMAT = "osm.pbf,pbf_compression=zlib"


def is_history(path: Path) -> bool:
    """Whether a file holds several versions of its objects, as its name (``.osh``) or header says.

    Raises:
        InputError: it cannot be read.
    """
    if ".osh" in path.name:
        return True
    with (
        at_the_door(f"OSM extract {path} cannot be read", "download it again"),
        osmium.io.Reader(str(path), osmium.osm.osm_entity_bits.NOTHING) as reader,
    ):
        return bool(reader.header().has_multiple_object_versions)


def cut_history(path: Path, ends: Mapping[str, datetime], folder: Path) -> list[Path]:
    """The map at each time, as a PBF without history in ``folder``; those that are there already are kept.

    Args:
        path: objects and their versions in any order.
        ends: name of each snapshot to its time, with a zone: versions of then and before count.
        folder: of the snapshots.

    Raises:
        InputError: the file cannot be read, or has a version without a time.
    """
    targets = {name: folder / f"{path.name.split('.')[0]}-{name}.osm.pbf" for name in ends}
    missing = [name for name, target in targets.items() if not target.exists()]
    if not missing:
        return list(targets.values())
    with at_the_door(f"history {path} cannot be read", "download it again"):
        rank, seconds, deleted = versions(path)
        if len(seconds) and seconds.min() <= 0:
            raise InputError(f"history {path} has a version without a time; get one with metadata")
        wanted = versions_at(rank, seconds, deleted, np.array([ends[n].timestamp() for n in missing]))
        processor = objects_of(path)
        header = processor.header
        header.has_multiple_object_versions = False
        with ExitStack() as writing:
            fresh = [writing.enter_context(atomic_file(targets[n])) for n in missing]
            writers = [writing.enter_context(osm_writer(f, _FORMAT, header=header)) for f in fresh]
            for o, row in zip(processor, wanted, strict=True):
                for number in np.flatnonzero(row).tolist() if row.any() else ():
                    writers[number].add(o)
    return list(targets.values())


def versions(path: Path) -> tuple[Ints, NDArray[np.float64], NDArray[np.bool_]]:
    """Of each version, in the order of the file: its rank by object, version, time and place in the file, i64[V]; its
    time in seconds since 1970; whether it is a deletion.

    Ranks count up by one from an object's first version to its last, and leave out one from object to object.
    """
    types, ids, numbers, seconds, deleted = array("b"), array("q"), array("q"), array("d"), bytearray()
    for o in objects_of(path):
        types.append(ord(o.type_str()))
        ids.append(o.id)
        numbers.append(o.version)
        seconds.append(o.timestamp.timestamp())
        deleted.append(o.deleted)
    order = np.lexsort(tuple(np.asarray(column) for column in (seconds, numbers, ids, types)))
    first = changes(np.asarray(types)[order], np.asarray(ids)[order])
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(len(order)) + np.cumsum(first)
    return rank, np.frombuffer(seconds), np.frombuffer(deleted, bool)


def versions_at(
    rank: Ints, seconds: NDArray[np.float64], deleted: NDArray[np.bool_], ends: NDArray[np.float64]
) -> NDArray[np.bool_]:
    """Which versions [V] are the map at each of the times [D], bool[V,D]: of an object's at or before it the highest,
    unless it is a deletion.

    Args:
        rank: i64[V] as `versions` has it.
        seconds: f64[V].
        deleted: bool[V].
        ends: f64[D].
    """
    result = np.zeros((len(rank), len(ends)), bool)
    order = np.argsort(rank)
    if not len(rank):
        return result
    object_of = np.cumsum(np.diff(rank[order], prepend=-1) > 1) - 1
    for column, end in enumerate(ends):
        there = order[seconds[order] <= end]
        of = object_of[seconds[order] <= end]
        last = there[np.append(of[1:] != of[:-1], True)] if len(there) else there
        result[last[~deleted[last]], column] = True
    return result
