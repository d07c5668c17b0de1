"""Which objects of a block carry a kept tag, which of them are areas, and their tags as an Arrow column."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from geometry.packed import ranges
from pipeline.formats.pbf.arrays import Tags
from pipeline.formats.wire import Ints
from pipeline.rules import AreaVerdict, Rules
from schemas.features import FEATURES

Bools = NDArray[np.bool_]


class BlockTags:
    """The tags of one block's string table, judged once a string or pair instead of once an object."""

    def __init__(self, strings: list[str], rules: Rules) -> None:
        self.strings = strings
        self.rules = rules

    def _of_keys(self, keys: Ints, holds: Callable[[str], bool]) -> Bools:
        """What holds of each key, bool[T]; few of a block's strings are keys, and few keys differ."""
        used = np.zeros(len(self.strings), bool)
        used[keys] = True
        for i in np.flatnonzero(used).tolist():
            used[i] = holds(self.strings[i])
        return used[keys]

    @cached_property
    def _array(self) -> pa.Array:
        return pa.array(self.strings, pa.string())

    def kept(self, tags: Tags) -> Bools:
        """Objects with at least one kept key."""
        return any_of(self._of_keys(tags.keys, self.rules.tags.keeps), tags.offsets)

    def areas(self, tags: Tags) -> Bools:
        """Objects that are areas if they are closed (Rules.is_area)."""
        width = max(1, len(self.strings))
        at = np.flatnonzero(self._of_keys(tags.keys, self.rules.judges))
        pairs, where = np.unique(tags.keys[at] * width + tags.values[at], return_inverse=True)
        found = np.full(len(tags.keys), AreaVerdict.NOTHING, np.int8)
        verdicts = [self.rules.verdict(*(self.strings[i] for i in divmod(p, width))) for p in pairs.tolist()]
        found[at] = np.array(verdicts, np.int8)[where.reshape(-1)]
        yes, no, area = (any_of(found == v, tags.offsets) for v in (AreaVerdict.YES, AreaVerdict.NO, AreaVerdict.AREA))
        return yes | (area & ~no)

    def values_of(self, key: str, tags: Tags) -> list[str]:
        """Each object's value of one key; empty where it has none."""
        result = [""] * (len(tags.offsets) - 1)
        if key not in self.strings:
            return result
        wanted = self.strings.index(key)
        owner = np.repeat(np.arange(len(result)), np.diff(tags.offsets))
        for i in np.flatnonzero(tags.keys == wanted).tolist():
            result[owner[i]] = self.strings[tags.values[i]]
        return result

    def column(self, tags: Tags, chosen: Ints) -> pa.Array:
        """Tags of the chosen objects as a FEATURES ``tags`` column."""
        at, offsets = ranges(tags.offsets, chosen)
        keys, values = self._array.take(pa.array(tags.keys[at])), self._array.take(pa.array(tags.values[at]))
        return pa.MapArray.from_arrays(pa.array(offsets, pa.int32()), keys, values, FEATURES.field("tags").type)


def any_of(flags: Bools, offsets: Ints) -> Bools:
    """Whether any flag of each run is set, bool[N]; an empty run has none."""
    total = np.concatenate(([0], np.cumsum(flags)))
    return np.asarray(total[offsets[1:]] > total[offsets[:-1]])
