"""Messages in any legal encoding, read one by one by the protobuf library."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np

from pipeline.formats.pbf.schema import FIELDS
from pipeline.formats.wire import Ints


@dataclass(frozen=True)
class ParsedFields:
    """Fields of messages in any legal encoding."""

    kind: Any
    messages: list[Any]

    def number(self, field: int) -> Ints:
        name, _ = FIELDS[self.kind][field]
        if not all(m.HasField(name) for m in self.messages):
            raise ValueError(f"a {self.kind.DESCRIPTOR.name.lower()} has no {name}")
        return self._array(getattr(m, name) for m in self.messages)

    def numbers(self, field: int) -> tuple[Ints, Ints]:
        name, _ = FIELDS[self.kind][field]
        lists = [getattr(m, name) for m in self.messages]
        offsets = np.concatenate(([0], np.cumsum([len(values) for values in lists])))
        return self._array(chain.from_iterable(lists)), offsets.astype(np.int64)

    def infos(self) -> tuple[Ints, Ints, Ints]:
        infos = [m.info for m in self.messages]
        names = "version", "timestamp", "visible"
        versions, stamps, visible = (self._array(getattr(i, name) for i in infos) for name in names)
        return versions, stamps, visible

    @staticmethod
    def _array(values: Iterator[int]) -> Ints:
        return np.fromiter(values, np.int64)
