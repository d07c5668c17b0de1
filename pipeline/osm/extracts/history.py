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

from pipeline.formats.libosmium import objects_of
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
        path: versions of one object in a row, in order, as every history file has them.
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
        first, seconds, deleted = versions(path)
        if len(seconds) and seconds.min() <= 0:
            raise InputError(f"history {path} has a version without a time; get one with metadata")
        wanted = versions_at(first, seconds, deleted, np.array([ends[n].timestamp() for n in missing]))
        processor = objects_of(path)
        header = processor.header
        header.has_multiple_object_versions = False
        with ExitStack() as writing:
            fresh = [writing.enter_context(atomic_file(targets[n])) for n in missing]
            files = [osmium.io.File(str(f), _FORMAT) for f in fresh]
            writers = [writing.enter_context(osmium.SimpleWriter(f, header=header)) for f in files]
            for o, row in zip(processor, wanted, strict=True):
                for number in np.flatnonzero(row).tolist() if row.any() else ():
                    writers[number].add(o)
    return list(targets.values())


def versions(path: Path) -> tuple[NDArray[np.bool_], NDArray[np.float64], NDArray[np.bool_]]:
    """Of each version: whether it is its object's first, its time in seconds since 1970, whether it is a deletion."""
    first, seconds, deleted = bytearray(), array("d"), bytearray()
    before = None
    for o in objects_of(path):
        identity = o.type_str(), o.id
        first.append(identity != before)
        seconds.append(o.timestamp.timestamp())
        deleted.append(o.deleted)
        before = identity
    return np.frombuffer(first, bool), np.frombuffer(seconds), np.frombuffer(deleted, bool)


def versions_at(
    first: NDArray[np.bool_], seconds: NDArray[np.float64], deleted: NDArray[np.bool_], ends: NDArray[np.float64]
) -> NDArray[np.bool_]:
    """Which versions [V] are the map at each of the times [D], bool[V,D]: the last at or before it, unless it is a
    deletion.

    Args:
        first: bool[V] whether a version is its object's first; versions of an object in a row, rising.
        seconds: f64[V].
        deleted: bool[V].
        ends: f64[D].
    """
    if not len(first):
        return np.zeros((0, len(ends)), bool)
    there = seconds[:, None] <= ends
    follows = np.zeros_like(there)  # the object's next version is there too
    follows[:-1] = there[1:] & ~first[1:, None]
    return np.asarray(there & ~follows & ~deleted[:, None])
