"""Protocol buffer wire format as arrays: packed fields of a whole block are decoded at once."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Bytes = NDArray[np.uint8]


def zigzag(value: int) -> int:
    """One zigzag number to a signed one."""
    return (value >> 1) ^ -(value & 1)


def fields(data: bytes) -> Iterator[tuple[int, Any]]:
    """(field number, value) of a message: an int for varints, bytes for the rest. Fixed-width fields are skipped.

    Raises:
        IndexError, ValueError: the message is damaged.
    """
    position, end = 0, len(data)
    while position < end:
        tag, position = varint(data, position)
        kind = tag & 7
        if kind == 0:
            value, position = varint(data, position)
            yield tag >> 3, value
        elif kind == 2:
            size, position = varint(data, position)
            if position + size > end:
                raise ValueError("a field ends beyond its message")
            yield tag >> 3, data[position : position + size]
            position += size
        elif kind in (1, 5):
            position += 8 if kind == 1 else 4
        else:
            raise ValueError(f"unknown wire type {kind}")


def varint(data: bytes, position: int) -> tuple[int, int]:
    """The number at ``position``, and the position after it."""
    byte = data[position]
    position += 1
    if byte < 128:
        return byte, position
    value, shift = byte & 127, 7
    while True:
        byte = data[position]
        position += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, position
        shift += 7
        if shift > 63:
            raise ValueError("a varint is longer than 10 bytes")


def varints(data: bytes | Bytes) -> NDArray[np.uint64]:
    """All varints of a packed field."""
    raw = np.frombuffer(data, np.uint8) if isinstance(data, bytes) else data
    last = np.flatnonzero(raw < 128)
    if len(raw) and (not len(last) or last[-1] != len(raw) - 1):
        raise ValueError("a packed field ends within a number")
    if len(last) == len(raw):
        return raw.astype(np.uint64)
    first = np.empty_like(last)
    first[:1], first[1:] = 0, last[:-1] + 1
    length = last - first
    if length.max(initial=0) > 9:
        raise ValueError("a varint is longer than 10 bytes")
    values = (raw[first] & 127).astype(np.uint64)
    rows = np.arange(len(first))
    for k in range(1, int(length.max(initial=0)) + 1):
        rows = rows[length[rows] >= k]
        values[rows] |= (raw[first[rows] + k] & 127).astype(np.uint64) << np.uint64(7 * k)
    return values


def signed(values: NDArray[np.uint64]) -> Ints:
    """Zigzag numbers to signed ones."""
    return (values >> np.uint64(1)).astype(np.int64) ^ -(values & np.uint64(1)).astype(np.int64)


def packed(parts: list[bytes]) -> tuple[NDArray[np.uint64], Ints]:
    """Numbers of many packed fields at once, and where each field's begin."""
    whole = b"".join(parts)
    sizes = np.fromiter(map(len, parts), np.int64, len(parts))
    raw = np.frombuffer(whole, np.uint8)
    ends = np.concatenate(([0], np.cumsum(raw < 128)))
    return varints(raw), ends[np.concatenate(([0], np.cumsum(sizes)))]


def undelta(values: Ints, offsets: Ints) -> Ints:
    """Running sums that begin anew at every offset."""
    sums = np.cumsum(values)
    counts = np.diff(offsets)
    before = np.concatenate(([0], sums))[offsets[:-1]]
    return sums - np.repeat(before, counts)
