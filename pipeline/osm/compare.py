"""Two extracts against each other: whether they hold the same ground, and which objects differ."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, groupby, islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geometry.packed import changes
from pipeline.formats.libosmium import objects_of
from pipeline.formats.pbf.arrays import NOWHERE, UNITS
from pipeline.formats.pbf.block import read_blocks
from pipeline.formats.pbf.header import blobs
from pipeline.formats.wire import Ints
from pipeline.osm.extracts.changes import places_in_order, unsorted
from pipeline.osm.extracts.passes import on_earth
from schemas.errors import at_the_door
from schemas.features import ObjectType

Place = tuple[int, int]

#: Places are squares of so many units of 1e-7 degree, about 2 km a side; those of the first nodes stand for an extract.
_SIDE, _NODES = 200_000, 200_000
#: Objects of formats other than PBF that are looked at together.
_SOME = 20_000
_TYPES = "nwr"


def place_of(lon: float, lat: float) -> Place:
    """The square that holds a point."""
    return round(lon * UNITS) // _SIDE, round(lat * UNITS) // _SIDE


def places_of(path: Path) -> set[Place]:
    """Places of an extract where nodes are: of its first ones, which lie all over it.

    Raises:
        InputError: it cannot be read.
    """
    found: set[Place] = set()
    seen = 0
    for places in _nodes(path):
        found.update(map(tuple, np.unique(places, axis=0).tolist()))
        seen += len(places)
        if seen >= _NODES:
            break
    return found


def places_held(path: Path, places: Iterable[Place], enough: int) -> int:
    """How many of some places an extract has nodes in; ``enough`` where it is as many or more.

    Raises:
        InputError: it cannot be read.
    """
    left, held = set(places), 0
    for own in _nodes(path):
        here = left.intersection(map(tuple, np.unique(own, axis=0).tolist()))
        left -= here
        held += len(here)
        if held >= enough:
            break
    return min(held, enough)


def _nodes(path: Path) -> Iterator[Ints]:
    """Places i64[N,2] of the nodes that have one."""
    for some in objects_in(path, places=True):
        if some.osm_type == ObjectType.NODE:
            yield some.lonlat[on_earth(some.lonlat)] // _SIDE


def difference(old: Path, newer: Path) -> Counter[str]:
    """Objects ``created``, ``modified`` (of another version) and ``deleted`` between two extracts. The newest
    version of each counts, and none that is deleted.

    Raises:
        UnsortedError: one is not sorted by type and id.
        InputError: one cannot be read.
    """
    found = Counter(created=0, modified=0, deleted=0)
    sides = [_newest(old), _newest(newer)]
    heads = [next(side, None) for side in sides]
    while any(head is not None for head in heads):
        # What both have read is compared: of the first type, up to the place that the shorter of them has reached.
        osm_type = min(head.osm_type for head in heads if head is not None)
        own = [head if head is not None and head.osm_type == osm_type else None for head in heads]
        reach = min(head.place[-1] for head in own if head is not None)
        places, versions = [], []
        for n, head in enumerate(own):
            cut = 0 if head is None else int(np.searchsorted(head.place, reach, "right"))
            places.append(np.zeros(0, np.int64) if head is None else head.place[:cut])
            versions.append(np.zeros(0, np.int64) if head is None else head.version[:cut])
            if head is not None:
                heads[n] = next(sides[n], None) if cut == len(head.place) else head.rest(cut)
        _, before, after = np.intersect1d(places[0], places[1], assume_unique=True, return_indices=True)
        there = [side != _GONE for side in versions]
        both = there[0][before] & there[1][after]
        found["modified"] += int((versions[0][before] != versions[1][after])[both].sum())
        found["deleted"] += int(there[0].sum() - both.sum())
        found["created"] += int(there[1].sum() - both.sum())
    return found


#: Version of an object that is deleted.
_GONE = -1


@dataclass(frozen=True, eq=False)
class _Newest:
    """Objects of one type, each once, in the order of a sorted file."""

    osm_type: int
    place: Ints  # [N] in that order
    version: Ints  # [N] newest; or _GONE

    def rest(self, first: int) -> _Newest:
        return _Newest(self.osm_type, self.place[first:], self.version[first:])


@dataclass(frozen=True, eq=False)
class Some:
    """Some objects of one type, as they lie in the file."""

    osm_type: int
    ids: Ints  # [N]
    versions: Ints  # [N]
    times: Ints  # [N] seconds since 1970
    visible: NDArray[np.bool_]  # [N]
    lonlat: Ints  # [N,2] units, NOWHERE without a place; [0,2] of what is no node


def _newest(path: Path) -> Iterator[_Newest]:
    """The objects of an extract, never two parts with one object."""
    before = -1
    for osm_type, parts in groupby(objects_in(path), lambda some: some.osm_type):
        if osm_type < before:
            raise unsorted(path)
        before = osm_type
        held = np.zeros((3, 0), np.int64)  # of the last object: more versions may follow
        for some in parts:
            place = places_in_order(some.ids)
            rows = np.stack((place, some.versions, some.times * 2 + some.visible))
            rows = np.concatenate((held, rows), axis=1)
            if (rows[0, 1:] < rows[0, :-1]).any():
                raise unsorted(path)
            last = int(np.searchsorted(rows[0], rows[0, -1])) if rows.shape[1] else 0
            if last:
                yield _of_rows(osm_type, rows[:, :last])
            held = rows[:, last:]
        if held.shape[1]:
            yield _of_rows(osm_type, held)


def _of_rows(osm_type: int, rows: Ints) -> _Newest:
    rows = rows[:, np.lexsort(rows[::-1])]
    rows = rows[:, np.append(changes(rows[0])[1:], True)]
    return _Newest(osm_type, rows[0], np.where(rows[2] % 2 == 1, rows[1], _GONE))


def objects_in(path: Path, places: bool = False) -> Iterator[Some]:
    """All objects of an extract, some at a time; nodes alone if their places are asked for."""
    if path.name.endswith(".pbf"):
        yield from _of_pbf(path, places)
        return
    with at_the_door(f"OSM extract {path} cannot be read", "download it again"):
        for osm_type, things in groupby(objects_of(path), lambda thing: _TYPES.index(thing.type_str())):
            if places and osm_type != ObjectType.NODE:
                return
            while rows := [_row(thing) for thing in islice(things, _SOME)]:
                ids, versions, times, visible, lon, lat = np.array(rows, np.int64).T
                yield Some(osm_type, ids, versions, times, visible.astype(bool), np.stack((lon, lat), axis=1))


def _row(thing: Any) -> tuple[int, ...]:
    place = (NOWHERE, NOWHERE)
    if thing.is_node() and thing.location.valid():
        place = thing.location.x, thing.location.y
    return thing.id, thing.version, int(thing.timestamp.timestamp()), thing.visible, *place


def _of_pbf(path: Path, places: bool) -> Iterator[Some]:
    wanted = (ObjectType.NODE,) if places else tuple(ObjectType)
    with path.open("rb") as file:
        for block in chain.from_iterable(read_blocks(file, blob, path, wanted) for blob in blobs(path)[1]):
            own = zip(ObjectType, (block.nodes.objects, block.ways.objects, block.relations.objects), strict=True)
            lonlat = np.stack((block.nodes.lon, block.nodes.lat), axis=1)
            for osm_type, o in own:
                if len(o.ids):
                    yield Some(
                        osm_type, o.ids, o.versions.astype(np.int64), o.timestamps, o.visible,
                        lonlat if osm_type == ObjectType.NODE else lonlat[:0],
                    )  # fmt: skip
