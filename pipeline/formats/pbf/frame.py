"""How one block writes coordinates, dates and texts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.formats.pbf.arrays import LAST_SECOND, NANO, NOWHERE, Heads, Objects, Tags
from pipeline.formats.pbf.blobs import TooMuch
from pipeline.formats.wire import Ints

#: Texts of a block; the largest known blocks have some 40,000.
_MOST_TEXTS = 2_000_000


@dataclass(frozen=True)
class Frame:
    """How a block writes coordinates, dates and texts."""

    granularity: int  # nanodegrees
    lon_offset: int  # nanodegrees
    lat_offset: int
    dates: int  # milliseconds a unit of its dates
    size: int  # of the string table
    text: Ints | None  # [size] which text each string is, if some are the same

    @classmethod
    def of(cls, block: Any, *, texts: bool) -> tuple[Frame, list[str]]:
        """And the ``texts`` of the string table, each once, if they are needed.

        Raises:
            TooMuch: they are more than any map has.
        """
        table = block.stringtable.s if texts else ()
        if len(table) > _MOST_TEXTS:
            raise TooMuch(f"{len(table):,} texts, of {_MOST_TEXTS:,} that are read")
        strings = [s.decode("utf-8", "replace") for s in table]
        size, text = len(strings), None
        seen = dict.fromkeys(strings)
        if len(seen) < size:
            place = {s: i for i, s in enumerate(seen)}
            text = np.fromiter(map(place.__getitem__, strings), np.int64, size)
            strings = list(seen)
        return cls(block.granularity, block.lon_offset, block.lat_offset, block.date_granularity, size, text), strings

    def texts(self, index: Ints) -> Ints:
        """Indices into the string table as ones into the texts."""
        if len(index) and not 0 <= index.min() <= index.max() < self.size:
            raise ValueError("a text is not in the string table")
        return index if self.text is None else self.text[index]

    def tags(self, offsets: Ints, keys: Ints, values: Ints) -> Tags:
        """The first value counts of a key that an object has twice."""
        keys, values = self.texts(keys), self.texts(values)
        pairs = np.repeat(np.arange(len(offsets) - 1) * self.size, np.diff(offsets)) + keys
        rising = np.sort(pairs)
        if (rising[1:] == rising[:-1]).any():
            rows = np.sort(np.unique(pairs, return_index=True)[1])
            offsets, keys, values = np.searchsorted(rows, offsets), keys[rows], values[rows]
        return Tags(offsets, keys, values)

    def lon(self, written: Ints) -> Ints:
        """In units."""
        return self._units(written, self.lon_offset)

    def lat(self, written: Ints) -> Ints:
        """In units."""
        return self._units(written, self.lat_offset)

    def _units(self, written: Ints, offset: int) -> Ints:
        """Cut towards zero, as libosmium does; NOWHERE is what takes more than some 61 bits."""
        if not len(written) or (self.granularity == NANO and not offset):
            return written
        if max(abs(offset + self.granularity * int(end)) for end in (written.min(), written.max())) >> 62:
            near = np.abs(offset + float(self.granularity) * written) < 1 << 61
            units = np.full(len(written), NOWHERE)
            units[near] = self._units(written[near], offset)
            return units
        nano = offset + self.granularity * written
        return np.sign(nano) * (np.abs(nano) // NANO)

    def seconds(self, written: Ints) -> Ints:
        """Since 1970; 0 for what 32 bits do not hold."""
        if self.dates != 1000:
            most = LAST_SECOND * 1000 // max(1, abs(self.dates))
            written = np.where((written >= -most) & (written <= most), written, 0) * self.dates // 1000
        if len(written) and not 0 <= written.min() <= written.max() <= LAST_SECOND:
            return np.where((written > 0) & (written <= LAST_SECOND), written, 0)
        return written

    def objects(self, ids: Ints, tags: Tags, versions: Ints, stamps: Ints, visible: Ints) -> Objects:
        heads = self.heads(ids, versions, stamps, visible)
        return Objects(heads.ids, heads.versions, heads.timestamps, heads.visible, tags)

    def heads(self, ids: Ints, versions: Ints, stamps: Ints, visible: Ints) -> Heads:
        known = np.maximum(versions.astype(np.int32), np.int32(0))  # some programs write -1 for an unknown one
        return Heads(ids, known, self.seconds(stamps), visible != 0)
