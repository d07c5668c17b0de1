"""Messages in the plain form in which known programs write them: all of a block are decoded at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.formats.pbf.schema import FIELDS
from pipeline.formats.wire import Bytes, Ints, Stream, scan, signed


@dataclass(frozen=True)
class PlainFields:
    """Fields that all messages have in their plain form."""

    kind: Any
    stream: Stream
    found: dict[int, tuple[Ints, Ints]]

    @classmethod
    def of(cls, kind: Any, messages: Sequence[bytes], begin: Ints, end: Ints) -> PlainFields:
        stream = Stream.of(b"".join(messages))
        return cls(kind, stream, stream.scan(begin, end, FIELDS[kind]))

    def _value(self, field: int, values: Ints) -> Ints:
        _, zigzag = FIELDS[self.kind][field]
        return signed(values.view(np.uint64)) if zigzag else values

    def number(self, field: int) -> Ints:
        value, mark = self.found[field]
        if (mark != -1).any():
            raise ValueError("a message lacks a number")
        return self._value(field, value)

    def numbers(self, field: int) -> tuple[Ints, Ints]:
        values, offsets = self.stream.numbers(*self.found[field])
        return self._value(field, values), offsets

    def infos(self) -> tuple[Ints, Ints, Ints]:
        """All fields of a plain Info are varints: tags and values alternate."""
        flat, offsets = self.stream.numbers(*self.found[4])
        tags, values = flat[0::2], flat[1::2]
        if (np.diff(offsets) % 2).any() or (tags & 7).any():
            raise ValueError("an Info holds more than varints")
        count = len(offsets) - 1
        owner = np.repeat(np.arange(count), np.diff(offsets) // 2)
        found = np.zeros(count, np.int64), np.zeros(count, np.int64), np.ones(count, np.int64)
        for field, target in zip((1, 2, 6), found, strict=True):
            at = np.flatnonzero(tags == field << 3)
            target[owner[at]] = values[at]
        return found


@dataclass(frozen=True)
class PlainHeads:
    """Ids and versions alone: all lists are passed over, so that it takes a fraction of the time."""

    raw: Bytes
    found: dict[int, tuple[Ints, Ints]]

    @classmethod
    def of(cls, _: Any, messages: Sequence[bytes], begin: Ints, end: Ints) -> PlainHeads:
        raw = np.frombuffer(b"".join(messages), np.uint8)
        return cls(raw, scan(raw, begin, end, (1, 4)))

    def number(self, field: int) -> Ints:
        value, mark = self.found[field]
        if (mark != -1).any():
            raise ValueError("a message lacks a number")
        return value

    def infos(self) -> tuple[Ints, Ints, Ints]:
        """As of PlainFields."""
        begin, end = self.found[4]
        if (end < 0).any():
            raise ValueError("an Info is a single number")
        found = scan(self.raw, begin, end, (1, 2, 6))
        if any((mark > 0).any() for _, mark in found.values()):
            raise ValueError("an Info holds more than varints")
        (versions, _), (stamps, _), (visible, mark) = found.values()
        return versions, stamps, np.where(mark == -1, visible, 1)
