"""What a block holds, as arrays over all of its objects of a type."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.formats.wire import Ints
from schemas.features import ObjectType

#: Coordinates are kept in OSM's own unit, 1e-7 degree.
UNITS = 10_000_000
#: Nanodegrees, in which files count, a unit.
NANO = 100
#: Coordinate of what has no place, or one that 64 bits do not hold; beyond every valid one.
NOWHERE = (1 << 31) - 1
#: Last second of a date: libosmium's and OSM's dates have 32 bits.
LAST_SECOND = (1 << 32) - 1


@dataclass(frozen=True, eq=False)
class Tags:
    """Tags of N objects of one block as indices into its strings; no object has a key twice."""

    offsets: Ints  # [N+1]
    keys: Ints  # [T]
    values: Ints  # [T]


@dataclass(frozen=True, eq=False)
class Heads:
    """Which objects there are, in which versions."""

    ids: Ints  # [N]
    versions: NDArray[np.int32]  # [N] 0 where unknown
    timestamps: Ints  # [N] seconds since 1970, of 32 bits, 0 where unknown
    visible: NDArray[np.bool_]  # [N] False of a version that deletes its object


@dataclass(frozen=True, eq=False)
class Objects(Heads):
    """What nodes, ways and relations have in common."""

    tags: Tags


@dataclass(frozen=True, eq=False)
class Nodes:
    """Nodes of one block."""

    objects: Objects
    lon: Ints  # [N] units of 1e-7 degree
    lat: Ints


@dataclass(frozen=True, eq=False)
class Ways:
    """Ways of one block."""

    objects: Objects
    offsets: Ints  # [N+1] into refs
    refs: Ints  # [R] node ids
    lon: Ints  # [R] units of 1e-7 degree where a way carries the places of its nodes, else NOWHERE; or [0] if none does
    lat: Ints


@dataclass(frozen=True, eq=False)
class Relations:
    """Relations of one block."""

    objects: Objects
    offsets: Ints  # [N+1] into the members
    members: Ints  # [M] ids
    types: NDArray[np.uint8]  # [M] ObjectType
    roles: Ints  # [M] indices into the strings


@dataclass(frozen=True, eq=False)
class Block:
    """Objects of one type of one primitive block: all that it has, or a run of them where they are very many."""

    holds: frozenset[ObjectType]  # kinds in the whole block, wanted or not
    strings: list[str]  # each text once
    first: int = 0  # objects of this type in the block before these
    nodes: Nodes = field(default_factory=lambda: NO_NODES)
    ways: Ways = field(default_factory=lambda: NO_WAYS)
    relations: Relations = field(default_factory=lambda: NO_RELATIONS)
    way_heads: Heads = field(default_factory=lambda: NO_HEADS)  # where only these were wanted


def entries(part: Heads | Nodes | Ways | Relations) -> int:
    """How many objects, tags, nodes of ways and members there are, about."""
    if isinstance(part, Heads):
        return len(part.ids)
    lists = part.refs if isinstance(part, Ways) else part.members if isinstance(part, Relations) else ()
    return len(part.objects.ids) + len(part.objects.tags.keys) + len(lists)


def rows(part: Heads | Nodes | Ways | Relations) -> int:
    """How many objects there are."""
    return len(part.ids if isinstance(part, Heads) else part.objects.ids)


def cut(nodes: Nodes, start: int, stop: int) -> Nodes:
    """Some of the nodes, as views."""
    own, some = nodes.objects, slice(start, stop)
    first, last = own.tags.offsets[start], own.tags.offsets[min(stop, len(own.ids))]
    tags = Tags(own.tags.offsets[start : stop + 1] - first, own.tags.keys[first:last], own.tags.values[first:last])
    objects = Objects(own.ids[some], own.versions[some], own.timestamps[some], own.visible[some], tags)
    return Nodes(objects, nodes.lon[some], nodes.lat[some])


def join(kind: type[Any], parts: list[Any]) -> Any:
    """Several runs of one kind as one; none as an empty one."""
    if len(parts) == 1:
        return parts[0]
    none = np.zeros(0, np.int64)

    def offsets(pieces: list[Ints]) -> Ints:
        return np.concatenate([np.zeros(1, np.int64), *(np.diff(p) for p in pieces)]).cumsum()

    def flat(pieces: list[NDArray[Any]], like: NDArray[Any] = none) -> NDArray[Any]:
        return np.concatenate(pieces) if pieces else like

    def places(name: str) -> Ints:
        if not any(len(getattr(p, name)) for p in parts):
            return none
        return np.concatenate([x if len(x := getattr(p, name)) else np.full(len(p.refs), NOWHERE) for p in parts])

    own = parts if kind is Heads else [p.objects for p in parts]
    versions = flat([o.versions for o in own], np.zeros(0, np.int32))
    visible = flat([o.visible for o in own], np.zeros(0, np.bool_))
    heads = flat([o.ids for o in own]), versions, flat([o.timestamps for o in own]), visible
    if kind is Heads:
        return Heads(*heads)
    tags = Tags(
        offsets([o.tags.offsets for o in own]), flat([o.tags.keys for o in own]), flat([o.tags.values for o in own])
    )
    objects = Objects(*heads, tags)
    if kind is Nodes:
        return Nodes(objects, flat([p.lon for p in parts]), flat([p.lat for p in parts]))
    if kind is Ways:
        refs = flat([p.refs for p in parts])
        return Ways(objects, offsets([p.offsets for p in parts]), refs, places("lon"), places("lat"))
    types = flat([p.types for p in parts], np.zeros(0, np.uint8))
    members, roles = flat([p.members for p in parts]), flat([p.roles for p in parts])
    return Relations(objects, offsets([p.offsets for p in parts]), members, types, roles)


NO_NODES: Nodes = join(Nodes, [])
NO_WAYS: Ways = join(Ways, [])
NO_RELATIONS: Relations = join(Relations, [])
NO_HEADS: Heads = join(Heads, [])
