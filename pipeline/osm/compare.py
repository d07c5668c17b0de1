"""Two extracts against each other: whether they hold the same ground, and which objects differ."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import groupby, islice
from operator import itemgetter
from pathlib import Path

import osmium

from pipeline.formats.libosmium import objects_of
from pipeline.osm.extracts.changes import Key, sorted_objects
from schemas.errors import at_the_door

Place = tuple[int, int]

#: Places are squares of so many to a degree, about 2 km a side; those of the first nodes stand for an extract.
_TO_A_DEGREE, _NODES = 50, 200_000


def place_of(lon: float, lat: float) -> Place:
    """The square that holds a point."""
    return int(lon * _TO_A_DEGREE // 1), int(lat * _TO_A_DEGREE // 1)


def places_of(path: Path) -> set[Place]:
    """Places of an extract where nodes are: of its first ones, which lie all over it.

    Raises:
        InputError: it cannot be read.
    """
    return set(islice(_places(path), _NODES))


def places_held(path: Path, places: Iterable[Place], enough: int) -> int:
    """How many of some places an extract has nodes in; ``enough`` where it is as many or more.

    Raises:
        InputError: it cannot be read.
    """
    left, held = set(places), 0
    for place in _places(path):
        if held >= enough:
            break
        if place in left:
            left.remove(place)
            held += 1
    return held


def _places(path: Path) -> Iterator[Place]:
    with at_the_door(f"OSM extract {path} cannot be read", "download it again"):
        for node in osmium.FileProcessor(str(path), osmium.osm.NODE):
            if node.location.valid():
                yield place_of(node.lon, node.lat)


def difference(old: Path, newer: Path) -> Counter[str]:
    """Objects ``created``, ``modified`` (of another version) and ``deleted`` between two extracts. The newest
    version of each counts, and none that is deleted.

    Raises:
        UnsortedError: one is not sorted by type and id.
        InputError: one cannot be read.
    """
    found = Counter(created=0, modified=0, deleted=0)
    before, after = _versions(old), _versions(newer)
    end: tuple[Key, int] = (3, False, 0), 0
    one, other = next(before, end), next(after, end)
    while one != end or other != end:
        if one[0] == other[0]:
            found["modified"] += one[1] != other[1]
            one, other = next(before, end), next(after, end)
        elif one[0] < other[0]:
            found["deleted"] += 1
            one = next(before, end)
        else:
            found["created"] += 1
            other = next(after, end)
    return found


def _versions(path: Path) -> Iterator[tuple[Key, int]]:
    with at_the_door(f"OSM extract {path} cannot be read", "download it again"):
        for key, things in groupby(sorted_objects(path, objects_of(path)), itemgetter(0)):
            version, _, visible = max((t.version, t.timestamp, t.visible) for _, t in things)
            if visible:
                yield key, version
