"""Protocol buffer wire format as arrays: the fields of a whole block are decoded at once, not one message at a time."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Bytes = NDArray[np.uint8]

#: Masks of the 7-bit groups of a little-endian word, and of the pairs and fours that they are joined to.
_GROUPS = (
    (0x007F007F007F007F, 0x7F007F007F007F00, 1),
    (0x00003FFF00003FFF, 0x3FFF00003FFF0000, 2),
    (0x000000000FFFFFFF, 0x0FFFFFFF00000000, 4),
)
#: Fields a message at most: the format's have ten.
_MOST_FIELDS = 100
#: Bytes of the longest varint, the word that holds it and how often its groups are joined.
_WORDS: tuple[tuple[int, Any, int], ...] = ((2, np.uint16, 1), (4, np.uint32, 2), (8, np.uint64, 3))


def zigzag(value: int) -> int:
    """One zigzag number to a signed one."""
    return (value >> 1) ^ -(value & 1)


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
    if not len(raw):
        return np.zeros(0, np.uint64)
    last = np.flatnonzero(raw < 128)
    if not len(last) or last[-1] != len(raw) - 1:
        raise ValueError("a packed field ends within a number")
    return _numbers(raw, last)


def _numbers(raw: Bytes, last: Ints) -> NDArray[np.uint64]:
    """Varints that end at the bytes ``last``, and together are ``raw``."""
    if len(last) == len(raw):
        return raw.astype(np.uint64)
    first = np.empty_like(last)
    first[0], first[1:] = 0, last[:-1] + 1
    length = last - first
    longest = int(length.max()) + 1
    for size, kind, joins in _WORDS:
        if longest <= size:
            return _from_words(raw, first, length, size, kind, joins)
    if longest > 10:
        raise ValueError("a varint is longer than 10 bytes")
    values = (raw[first] & 127).astype(np.uint64)
    rows = np.arange(len(first))
    for k in range(1, longest):
        rows = rows[length[rows] >= k]
        values[rows] |= (raw[first[rows] + k] & 127).astype(np.uint64) << np.uint64(7 * k)
    return values


def _from_words(raw: Bytes, first: Ints, length: Ints, size: int, kind: Any, joins: int) -> NDArray[np.uint64]:
    """Varints of at most ``size`` bytes: each is loaded as a word and cut off; its 7-bit groups are joined pairwise."""
    padded = np.zeros(len(raw) + size, np.uint8)
    padded[: len(raw)] = raw
    # A word from every byte on: the copy that aligns them costs less than gathering unaligned ones.
    words = np.ascontiguousarray(np.ndarray(len(raw), kind, padded, strides=(1,))).take(first)
    words &= np.array([(1 << 8 * (k + 1)) - 1 for k in range(size)], kind).take(length)
    for low, high, shift in _GROUPS[:joins]:
        top = words & kind(high & (1 << 8 * size) - 1)
        top >>= kind(shift)
        words &= kind(low & (1 << 8 * size) - 1)
        words |= top
    return words.astype(np.uint64)


def signed(values: NDArray[np.uint64]) -> Ints:
    """Zigzag numbers to signed ones."""
    return (values >> np.uint64(1)).astype(np.int64) ^ -(values & np.uint64(1)).astype(np.int64)


def undelta(values: Ints, offsets: Ints) -> Ints:
    """Running sums that begin anew at every offset."""
    sums = np.cumsum(values)
    before = np.concatenate(([0], sums))[offsets[:-1]]
    return sums - np.repeat(before, np.diff(offsets))


def scan(raw: Bytes, begin: Ints, end: Ints, wanted: Iterable[int]) -> dict[int, tuple[Ints, Ints]]:
    """As `Stream.scan`, but by the heads of the fields alone: of a list, or a message, its first and last + 1 byte.

    Raises:
        ValueError: a message is damaged or not plain: its fields do not rise, or are neither varints of at most eight
            bytes nor of a length.
    """
    padded = np.concatenate((raw, np.zeros(8, np.uint8)))
    words = np.ndarray(len(raw) + 1, np.uint64, padded, strides=(1,))  # from every byte on
    found = {f: (np.zeros(len(begin), np.int64), np.zeros(len(begin), np.int64)) for f in wanted}
    rows = np.flatnonzero(begin < end)
    at, stop, before = begin[rows], end[rows], np.zeros(len(rows), np.int64)
    for _ in range(_MOST_FIELDS):
        if not len(rows):
            return found
        tag, at = _short_varints(words, at, stop)
        value, at = _short_varints(words, at, stop)
        field, sized = tag >> 3, (tag & 7) == 2
        if (field <= before).any() or (tag[~sized] & 7).any():
            raise ValueError("the fields of a message do not rise, or are no varints")
        after = at + np.where(sized, value, 0)
        if (after > stop).any():
            raise ValueError("a field ends beyond its message")
        for number, (low, high) in found.items():
            own = np.flatnonzero(field == number)
            target = rows[own]
            low[target] = np.where(sized, at, value)[own]
            high[target] = np.where(sized, after, -1)[own]
        more = after < stop
        rows, at, stop, before = rows[more], after[more], stop[more], field[more]
    raise ValueError("a message has too many fields")


def _short_varints(words: NDArray[np.uint64], at: Ints, stop: Ints) -> tuple[Ints, Ints]:
    """Varints of at most eight bytes that begin at the bytes ``at``, and the bytes after them; none goes past ``stop``.

    Args:
        words: the eight bytes from every byte on, little-endian.
    """
    if (at >= stop).any():
        raise ValueError("a field ends beyond its message")
    word = words[at]
    ends = ~word & np.uint64(0x8080808080808080)
    if not ends.all():
        raise ValueError("a varint is longer than eight bytes")
    own = ends ^ (ends - np.uint64(1))  # all bits up to the last of its last byte
    word &= own
    for low, high, shift in _GROUPS:
        word = (word & np.uint64(low)) | (word & np.uint64(high)) >> np.uint64(shift)
    after = at + (np.bitwise_count(own) >> 3)
    if (after > stop).any():
        raise ValueError("a field ends beyond its message")
    return word.view(np.int64), after


@dataclass(frozen=True, eq=False)
class Stream:
    """Bytes that are varints from end to end, as those of ways, relations and their parts are: N numbers.

    This is the plain form in which all known programs write them, not all that the wire format allows: what is not
    plain is refused here, and is for the protobuf library to read or to call damaged.
    """

    values: Ints  # [N] numbers of 64 bits, as signed ones
    first: Ints  # [N+1] byte at which each begins; the last is the end
    index: NDArray[np.int32]  # [bytes+1] numbers that end before each byte

    @classmethod
    def of(cls, data: bytes) -> Stream:
        """Decode all of them.

        Raises:
            ValueError: there is none, or the last one is cut.
        """
        raw = np.frombuffer(data, np.uint8)
        ends = raw < 128
        last = np.flatnonzero(ends)
        if not len(last) or last[-1] != len(raw) - 1:
            raise ValueError("a group ends within a number")
        index = np.zeros(len(raw) + 1, np.int32)
        np.cumsum(ends, out=index[1:], dtype=np.int32)
        return cls(_numbers(raw, last).view(np.int64), np.concatenate(([0], last + 1)), index)

    def scan(self, begin: Ints, end: Ints, wanted: Iterable[int]) -> dict[int, tuple[Ints, Ints]]:
        """The wanted fields of M messages that lie at the bytes ``begin`` to ``end``: all messages take a step at once.

        Returns:
            For each field: its number and -1, i64[M], for a varint; first and last + 1 of its numbers for a packed
            field; zeros where a message lacks it.

        Raises:
            ValueError: a message is damaged or not plain: its fields do not rise, or are no varints from end to end.
        """
        found = {f: (np.zeros(len(begin), np.int64), np.zeros(len(begin), np.int64)) for f in wanted}
        rows = np.flatnonzero(begin < end)
        at, stop = self.index[begin[rows]].astype(np.int64), self.index[end[rows]].astype(np.int64)
        if (self.first[at] != begin[rows]).any() or (self.first[stop] != end[rows]).any():
            raise ValueError("a message ends within a number")
        before = np.zeros(len(rows), np.int64)
        for _ in range(_MOST_FIELDS):
            if (at + 1 >= stop).any():
                raise ValueError("a field ends beyond its message")
            tag, value = self.values[at], self.values[at + 1]
            field = tag >> 3
            if (field <= before).any():
                raise ValueError("the fields of a message do not rise")
            sized = (tag & 7) == 2
            if (tag[~sized] & 7).any():
                raise ValueError("a field is no varint")
            after = at + 2
            byte = self.first[after] + np.where(sized, value, 0)
            if (byte > self.first[stop]).any() or (byte < self.first[after]).any():
                raise ValueError("a field ends beyond its message")
            after_content = self.index[byte].astype(np.int64)
            if (self.first[after_content] != byte).any():
                raise ValueError("a field ends within a number")
            begins, ends = np.where(sized, after, value), np.where(sized, after_content, -1)
            for number, (low, high) in found.items():
                own = np.flatnonzero(field == number)
                if len(own):
                    target = rows[own]
                    low[target], high[target] = begins[own], ends[own]
            more = after_content < stop
            rows, at, stop, before = rows[more], after_content[more], stop[more], field[more]
            if not len(rows):
                return found
        raise ValueError("a message has too many fields")

    def numbers(self, low: Ints, high: Ints) -> tuple[Ints, Ints]:
        """The numbers of M packed fields one after the other, and where each field's begin, i64[M+1].

        Raises:
            ValueError: one of them is a single number, not packed.
        """
        if (high < 0).any():
            raise ValueError("a list is a single number")
        offsets = np.concatenate(([0], np.cumsum(high - low)))
        return self.values.take(np.arange(offsets[-1]) + np.repeat(low - offsets[:-1], high - low)), offsets
