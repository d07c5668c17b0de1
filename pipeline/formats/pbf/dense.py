"""Dense nodes: one message with a list of each number of all of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from pipeline.formats.messages import parse
from pipeline.formats.pbf.arrays import Nodes
from pipeline.formats.pbf.blobs import MAX_BLOB, TooMuch
from pipeline.formats.pbf.frame import Frame
from pipeline.formats.pbf.schema import FIELDS, PACKED, PBF
from pipeline.formats.wire import Ints, signed, varints

#: Numbers of a list: as many as there can be nodes in a blob, since id, latitude and longitude take a byte each.
_MOST = MAX_BLOB // 3


def _lists(kind: Any, data: bytes, found: Any) -> Callable[[int], Ints]:
    """The lists of one message, by number; ``found`` has them as bytes."""
    found.DiscardUnknownFields()
    if found.ByteSize() != len(data):  # a list that is not packed is among the unknown fields
        exact = parse(kind, data)

        def parsed(field: int) -> Ints:
            values = getattr(exact, FIELDS[kind][field][0])
            return np.fromiter(values, np.int64, _bounded(len(values)))

        return parsed

    def decoded(field: int) -> Ints:
        name, zigzag = FIELDS[kind][field]
        raw = np.frombuffer(b"".join(getattr(found, name)), np.uint8)
        if len(raw) > _MOST:
            _bounded(int(np.count_nonzero(raw < 128)))
        values = varints(raw)
        return signed(values) if zigzag else values.view(np.int64)

    return decoded


def _bounded(count: int) -> int:
    if count > _MOST:
        raise TooMuch(f"{count:,} numbers in one list of dense nodes, of {_MOST:,} that are read")
    return count


def dense_nodes(frame: Frame, data: bytes) -> Nodes:
    """All nodes of one message.

    Raises:
        ValueError: it is damaged.
        TooMuch: a list is longer than that of any node that has a place.
    """
    found = parse(PACKED.DenseNodes, data)
    lists = _lists(PBF.DenseNodes, data, found)
    ids, lat, lon = (np.cumsum(lists(field)) for field in (1, 8, 9))
    count = len(ids)
    if not count == len(lat) == len(lon):
        raise ValueError("dense nodes have more ids than coordinates, or fewer")
    infos = b"".join(found.denseinfo)
    info = _lists(PBF.DenseInfo, infos, parse(PACKED.DenseInfo, infos))

    def of_each(field: int, unknown: int) -> Ints:
        values = info(field)
        if len(values) != count and len(values):
            raise ValueError(f"{count} dense nodes have {len(values)} versions, dates or marks of deletion")
        return values if len(values) else np.broadcast_to(np.int64(unknown), count)

    versions, stamps, visible = of_each(1, 0), np.cumsum(of_each(2, 0)), of_each(6, 1)
    tags = frame.tags(*_dense_tags(lists(10), count))
    return Nodes(frame.objects(ids, tags, versions, stamps, visible), frame.lon(lon), frame.lat(lat))


def _dense_tags(flat: Ints, count: int) -> tuple[Ints, Ints, Ints]:
    """Offsets [N+1], keys and values of keys_vals: key, value, key, value … 0 for each node."""
    if not len(flat):
        return np.zeros(count + 1, np.int64), flat, flat
    # A zero ends a node. A key is never 0; a value that is (an empty text) stands at an odd place within its node.
    zero = np.flatnonzero(flat == 0)
    starts = np.concatenate(([0], zero + 1))
    if len(zero) != count or starts[-1] != len(flat) or ((zero - starts[:-1]) & 1).any():
        zero = _node_ends(flat, count)
        starts = np.concatenate(([0], zero + 1))
    keep = np.ones(len(flat), bool)
    keep[zero] = False
    rest = flat[keep]
    return np.concatenate(([0], np.cumsum((zero - starts[:-1]) // 2))), rest[0::2], rest[1::2]


def _node_ends(flat: Ints, count: int) -> Ints:
    """Ends of nodes where some value is an empty text."""
    ends, position, numbers = [], 0, flat.tolist()
    while position < len(numbers):
        if numbers[position] == 0:
            ends.append(position)
            position += 1
        else:
            position += 2
    if len(ends) != count or ends[-1:] != [len(numbers) - 1]:
        raise ValueError("dense nodes have more or fewer tag lists than ids")
    return np.array(ends, np.int64)
