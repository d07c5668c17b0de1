"""Nodes, ways and relations of messages of their own, whichever way their fields are read."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from pipeline.formats.pbf.arrays import NOWHERE, Heads, Nodes, Objects, Relations, Ways
from pipeline.formats.pbf.frame import Frame
from pipeline.formats.wire import Ints, undelta
from schemas.features import ObjectType


class HeadFields(Protocol):
    """Fields of M messages of one kind, by their numbers in it."""

    def number(self, field: int) -> Ints:
        """[M] of a field that each has."""

    def infos(self) -> tuple[Ints, Ints, Ints]:
        """[M] versions, timestamps as they are written, and whether it is visible, of Info."""


class Fields(HeadFields, Protocol):
    """And their lists."""

    def numbers(self, field: int) -> tuple[Ints, Ints]:
        """Lists one after the other, and where each begins, i64[M+1]."""


def _common(frame: Frame, fields: Fields) -> Objects:
    """What plain nodes, ways and relations have in the same fields."""
    keys, offsets = fields.numbers(2)
    values, value_offsets = fields.numbers(3)
    if not np.array_equal(offsets, value_offsets):
        raise ValueError("an object has more keys than values, or fewer")
    return frame.objects(fields.number(1), frame.tags(offsets, keys, values), *fields.infos())


def heads_of(frame: Frame, fields: HeadFields) -> Heads:
    return frame.heads(fields.number(1), *fields.infos())


def plain_nodes(frame: Frame, fields: Fields) -> Nodes:
    return Nodes(_common(frame, fields), frame.lon(fields.number(9)), frame.lat(fields.number(8)))


def ways_of(frame: Frame, fields: Fields) -> Ways:
    refs, offsets = fields.numbers(8)
    (lat, lat_offsets), (lon, lon_offsets) = fields.numbers(9), fields.numbers(10)
    if len(lat) or len(lon):
        size, located = np.diff(offsets), np.diff(lat_offsets)
        carries = located > 0
        if not np.array_equal(lat_offsets, lon_offsets) or (carries & (located != size)).any():
            raise ValueError("a way has more nodes than places, or fewer")
        own = np.repeat(carries, size)
        places = np.full((2, len(refs)), NOWHERE)
        places[0, own], places[1, own] = frame.lon(undelta(lon, lon_offsets)), frame.lat(undelta(lat, lat_offsets))
        lon, lat = places
    return Ways(_common(frame, fields), offsets, undelta(refs, offsets), lon, lat)


def relations_of(frame: Frame, fields: Fields) -> Relations:
    roles, role_offsets = fields.numbers(8)
    members, offsets = fields.numbers(9)
    types, type_offsets = fields.numbers(10)
    if not (np.array_equal(offsets, role_offsets) and np.array_equal(offsets, type_offsets)):
        raise ValueError("a relation has more members than roles or types, or fewer")
    if len(types) and not 0 <= types.min() <= types.max() <= max(ObjectType):
        raise ValueError("a member is of no known type")
    objects = _common(frame, fields)
    return Relations(objects, offsets, undelta(members, offsets), types.astype(np.uint8), frame.texts(roles))
