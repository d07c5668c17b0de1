"""Changes of elsewhere left out: of diffs of the planet an extract takes what lies in it, or belongs to what does.

The rule is that by which extracts are cut (complete ways, whole areas), so an extract's own diffs pass as they are.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geometry.packed import changes
from pipeline.formats.libosmium import objects_of, osm_writer
from pipeline.formats.wire import Ints
from pipeline.osm.compare import objects_in
from pipeline.osm.extracts.changes import read_changes
from schemas.errors import at_the_door
from schemas.features import ObjectType

Bools = NDArray[np.bool_]

_TYPES = "nwr"
#: Relations whose members an extract holds all of, as they are areas.
_AREAS = ("multipolygon", "boundary")


def clip_changes(base: Path, paths: Sequence[Path], target: Path) -> tuple[int, int]:
    """Write to ``target`` (a .osc.gz) the newest version of each object of the change files ``paths`` that

    - the extract ``base`` holds;
    - is a node in the box of its header, a way with a node there, or a relation with a member that the extract holds
      (by then);
    - is a member of such a relation that is an area and has changed, or a node of a way that is taken.

    All are taken where the header has no box. What leaves the box stays in the extract.

    Returns:
        How many objects are taken, and how many have changed.

    Raises:
        InputError: a file cannot be read, or an object of a change lacks what a change needs.
    """
    changed = _Changed()
    for _, thing in read_changes(paths):
        changed.add(thing)
    newest = changed.newest()
    with at_the_door(f"OSM extract {base} cannot be read", "download it again"):
        box = objects_of(base).header.box()
    taken = newest
    if box.valid():
        corners = (box.bottom_left.x, box.bottom_left.y, box.top_right.x, box.top_right.y)
        taken = newest & _taken(changed, newest, base, corners)
    with osm_writer(target, "osc.gz") as writer:
        for (_, thing), wanted in zip(read_changes(paths), taken.tolist(), strict=True):
            if wanted:
                writer.add(thing)
    return int(taken.sum()), int(newest.sum())


@dataclass
class _Changed:
    """Every version of every changed object, in the order of the files: 27 bytes each, and 9 a node or member."""

    types: array[int] = field(default_factory=lambda: array("b"))  # ObjectType
    ids: array[int] = field(default_factory=lambda: array("q"))
    versions: array[int] = field(default_factory=lambda: array("q"))
    visible: array[int] = field(default_factory=lambda: array("b"))
    lon: array[int] = field(default_factory=lambda: array("i"))  # of nodes, units of 1e-7 degree
    lat: array[int] = field(default_factory=lambda: array("i"))
    area: array[int] = field(default_factory=lambda: array("b"))  # relations that are areas
    counts: array[int] = field(default_factory=lambda: array("q"))  # nodes of the way, members of the relation
    ref_types: array[int] = field(default_factory=lambda: array("b"))
    refs: array[int] = field(default_factory=lambda: array("q"))

    def add(self, thing: Any) -> None:
        kind, visible = _TYPES.index(thing.type_str()), thing.visible
        lon = lat = count = 0
        if kind == ObjectType.NODE and visible:
            lon, lat = thing.location.x, thing.location.y
        elif kind == ObjectType.WAY:
            refs = [node.ref for node in thing.nodes]
            count = len(refs)
            self.refs.extend(refs)
            self.ref_types.frombytes(bytes(count))  # ObjectType.NODE is 0
        elif kind == ObjectType.RELATION:
            members = [(_TYPES.index(m.type), m.ref) for m in thing.members]
            count = len(members)
            self.ref_types.extend(t for t, _ in members)
            self.refs.extend(ref for _, ref in members)
        self.types.append(kind)
        self.ids.append(thing.id)
        self.versions.append(thing.version)
        self.visible.append(visible)
        self.lon.append(lon)
        self.lat.append(lat)
        self.area.append(kind == ObjectType.RELATION and thing.tags.get("type") in _AREAS)
        self.counts.append(count)

    def newest(self) -> Bools:
        """Which are the last of their object: of the highest version, and of equal ones the later in the files."""
        types, ids = np.asarray(self.types), np.asarray(self.ids)
        order = np.lexsort((np.asarray(self.versions), ids, types))
        last = np.zeros(len(order), bool)
        if len(order):
            last[order[np.append(changes(types[order], ids[order])[1:], True)]] = True
        return last


class _Known:
    """Ids of one type that are asked about, and which of them an extract holds (and where, of nodes)."""

    def __init__(self, ids: Ints) -> None:
        self.ids = np.unique(ids)
        self.held = np.zeros(len(self.ids), bool)
        self.within = np.zeros(len(self.ids), bool)  # will be in the extract for what it is, and not for others' sake

    def read(self, ids: Ints, within: Bools) -> None:
        """Some that the extract holds."""
        if len(self.ids):
            at = np.minimum(np.searchsorted(self.ids, ids), len(self.ids) - 1)
            mine = self.ids[at] == ids
            self.held[at[mine]] = True
            self.within[at[mine]] = within[mine]


def _taken(changed: _Changed, newest: Bools, base: Path, box: tuple[int, int, int, int]) -> Bools:
    """Which of the changed objects belong to the extract, bool[N]; ``box`` in units."""
    types, ids = np.asarray(changed.types), np.asarray(changed.ids)
    visible = np.asarray(changed.visible).astype(bool) & newest
    owner = np.repeat(np.arange(len(types)), np.asarray(changed.counts))
    live = visible[owner]
    owner, ref_types, refs = owner[live], np.asarray(changed.ref_types)[live], np.asarray(changed.refs)[live]
    known = _known(base, types, ids, ref_types, refs, box)
    row, ref_row = _rows(known, types, ids), _rows(known, ref_types, refs)
    of_way, of_area = types[owner] == ObjectType.WAY, np.asarray(changed.area).astype(bool)[owner]

    taken = _each(types, row, [k.held for k in known])
    nodes = newest & (types == ObjectType.NODE)
    places = np.stack((np.asarray(changed.lon), np.asarray(changed.lat)), axis=1)[nodes]
    known[ObjectType.NODE].within[row[nodes]] = visible[nodes] & _in_box(places, box)
    while True:  # ways by their nodes, then relations, of relations too
        taken[nodes] |= known[ObjectType.NODE].within[row[nodes]]
        for kind in (ObjectType.WAY, ObjectType.RELATION):
            own = newest & (types == kind)
            known[kind].within[row[own]] = visible[own] & taken[own]
        more = np.zeros(len(ids), bool)
        more[owner[_each(ref_types, ref_row, [k.within for k in known])]] = True
        if not (more & ~taken).any():
            break
        taken |= more
    for members in (of_area, of_way):  # areas whole, then the nodes of ways
        wanted = [np.zeros(len(k.ids), bool) for k in known]
        for kind in (ObjectType.NODE, ObjectType.WAY):
            wanted[kind][ref_row[members & taken[owner] & (ref_types == kind)]] = True
        taken |= _each(types, row, wanted)
    return taken


def _known(
    base: Path, types: Ints, ids: Ints, ref_types: Ints, refs: Ints, box: tuple[int, int, int, int]
) -> list[_Known]:
    """Of each type what is asked about, and what of it the extract holds."""
    known = [_Known(np.concatenate((ids[types == kind], refs[ref_types == kind]))) for kind in ObjectType]
    for some in objects_in(base):
        within = _in_box(some.lonlat, box) if some.osm_type == ObjectType.NODE else some.visible
        known[some.osm_type].read(some.ids[some.visible], within[some.visible])
    return known


def _rows(known: list[_Known], types: Ints, ids: Ints) -> Ints:
    """The row of each object among those of its type that are asked about."""
    rows = np.zeros(len(ids), np.int64)
    for kind in ObjectType:
        rows[types == kind] = np.searchsorted(known[kind].ids, ids[types == kind])
    return rows


def _each(types: Ints, rows: Ints, facts: list[Bools]) -> Bools:
    """A fact of each object, of those of its type."""
    found = np.zeros(len(types), bool)
    for kind in ObjectType:
        found[types == kind] = facts[kind][rows[types == kind]]
    return found


def _in_box(lonlat: Ints, box: tuple[int, int, int, int]) -> Bools:
    """Which places i64[N,2] lie in a box, its sides included; NOWHERE does in none."""
    west, south, east, north = box
    lon, lat = lonlat[:, 0], lonlat[:, 1]
    return (lon >= west) & (lon <= east) & (lat >= south) & (lat <= north)
