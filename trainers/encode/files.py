"""The Parquet files of one part: rows as they come, published whole when the part is done."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from schemas.errors import DatasetError, InputError
from storage.store import Store
from trainers.encode import KINDS
from trainers.encode.plan import part_name
from trainers.encode.work import HostFound, HostRows
from trainers.stream.batch import TileBatch
from trainers.stream.sample import split_names

#: Rows of a row group: 12 MB at 768 values.
GROUP = 8192
#: The table of samples that could not be read.
DROPS = "drops"
_DROPS = pa.schema([("key", pa.string()), ("reason", pa.string())])
#: Key of the file's own metadata, a JSON text.
METADATA = b"geoshards"


@dataclass(frozen=True, eq=False)
class Where:
    """What the catalog says of the slots of a batch."""

    key: Sequence[str]  # [B] "" where masked
    split: Sequence[str]  # [B]
    names: Sequence[tuple[str, ...]]  # [B] members


def schema_of(kind: str, width: int) -> pa.Schema:
    """Columns of a kind's files."""
    member = [("member", pa.string())] if "photo" in KINDS[kind].of else []
    place = [("split", pa.string()), ("lon", pa.float64()), ("lat", pa.float64())]
    embedding = pa.field("embedding", pa.list_(pa.field("element", pa.float16(), nullable=False), width))
    return pa.schema([("key", pa.string()), *member, *place, embedding])


def rows_of(kind: str, parts: Sequence[HostRows], batch: TileBatch, where: Where) -> pa.Table:
    """The rows of one batch, by key; the tile's own first, then its photos in their order.

    Raises:
        InputError: an embedding is not finite in float16.
    """
    slots, places, values = [], [], []
    members: list[str | None] = []
    for part in parts:
        row = np.flatnonzero(part.held)
        slot = row if part.of == "tile" else batch.photo_sample.numpy()[row]
        slots.append(slot)
        places.append((batch.lonlat if part.of == "tile" else batch.photo_lonlat).numpy()[row])
        members += [None] * len(row) if part.of == "tile" else _members(batch, row, where)
        values.append(part.values[row])
    slot, place, value = np.concatenate(slots), np.concatenate(places), np.concatenate(values)
    order = np.argsort(slot, kind="stable")
    slot, place, value = slot[order], place[order], value[order]
    bad = ~np.isfinite(value).all(1)
    if bad.any():
        key = where.key[int(slot[bad.argmax()])]
        raise InputError(f"{key}: its {kind} embedding is beyond float16; give --normalise, or train the model longer")
    width = value.shape[1]
    columns: dict[str, Any] = {
        "key": [where.key[i] for i in slot.tolist()],
        "member": [members[i] for i in order.tolist()],
        "split": [where.split[i] for i in slot.tolist()],
        "lon": place[:, 0], "lat": place[:, 1],
    }  # fmt: skip
    schema = schema_of(kind, width)
    flat = pa.array(np.ascontiguousarray(value).reshape(-1), pa.float16())
    embedding = pa.FixedSizeListArray.from_arrays(flat, type=schema.field("embedding").type)
    arrays = [pa.array(columns[name], schema.field(name).type) for name in schema.names[:-1]]
    return pa.Table.from_arrays([*arrays, embedding], schema=schema)


def _members(batch: TileBatch, row: NDArray[np.int64], where: Where) -> list[str]:
    """Member names of the photos at rows of the batch: those of a slot are packed in their order."""
    slot = batch.photo_sample.numpy()
    number = row - np.searchsorted(slot, slot[row])
    photos = {i: split_names(where.names[i])[1] for i in np.unique(slot[row]).tolist()}
    return [photos[i][n] for i, n in zip(slot[row].tolist(), number.tolist(), strict=True)]


def located(batch: TileBatch, keys: Sequence[str]) -> dict[str, str]:
    """Why samples of a batch could not be read, by key, after checking that it holds those that were asked for.

    Raises:
        DatasetError: another sample lies in a slot than the plan has there.
    """
    wrong = [(own, key) for own, key in zip(batch.key, keys, strict=True) if own not in ("", key)]
    reasons = dict(message.split(": ", 1) for message in batch.corrupt)
    lost = {key for own, key in zip(batch.key, keys, strict=True) if key and not own}
    if wrong or lost != reasons.keys():
        at = wrong[0][1] if wrong else min(lost ^ reasons.keys())
        raise DatasetError(f"{at}: another sample came in its place; the dataset changed meanwhile: run it again")
    return reasons


@dataclass
class PartFiles:
    """Files of one part being written: one a kind, and one of the samples that were dropped."""

    store: Store
    file: int
    widths: Mapping[str, int]
    about: Mapping[str, Any]  # goes into the metadata of each file
    rows: dict[str, int] = field(default_factory=dict)
    drops: dict[str, str] = field(default_factory=dict)

    def __enter__(self) -> PartFiles:
        self._held = ExitStack()
        self._waiting: dict[str, list[pa.Table]] = {kind: [] for kind in self.widths}
        self._writers = {kind: self._open(kind, schema_of(kind, width)) for kind, width in self.widths.items()}
        self.rows = dict.fromkeys(self.widths, 0)
        return self

    def _open(self, kind: str, schema: pa.Schema) -> pq.ParquetWriter:
        path = self._held.enter_context(self.store.fresh(part_name(kind, self.file)))
        text = json.dumps({"kind": kind, **self.about}, sort_keys=True)
        vectors = kind in self.widths
        # Bits of embeddings are as good as random: packing them costs time and gives nothing.
        packed = {c: "none" if c == "embedding" else "zstd" for c in schema.names}
        if vectors:
            packed = {("embedding.list.element" if c == "embedding" else c): how for c, how in packed.items()}
        repeating = [c for c in schema.names if c in ("split", "member")]
        writer = pq.ParquetWriter(
            path, schema.with_metadata({METADATA: text.encode()}), compression=packed, use_dictionary=repeating,
            write_page_checksum=True, write_statistics=[c for c in schema.names if c != "embedding"],
        )  # fmt: skip
        return self._held.enter_context(writer)

    def add(self, found: HostFound, batch: TileBatch, where: Where) -> None:
        """The rows of one batch."""
        for kind, parts in found.items():
            table = rows_of(kind, parts, batch, where)
            self.rows[kind] += len(table)
            self._waiting[kind].append(table)
            if sum(map(len, self._waiting[kind])) >= GROUP:
                self._write(kind)

    def _write(self, kind: str) -> None:
        self._writers[kind].write_table(pa.concat_tables(self._waiting[kind]), row_group_size=1 << 30)
        self._waiting[kind] = []

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Publish them, that of the drops as the last: where it is, the part is whole."""
        if error is None:
            for name, waiting in self._waiting.items():
                if waiting:
                    self._write(name)
        self._held.__exit__(kind, error, trace)
        if error is None:
            self.store.write_table(
                part_name(DROPS, self.file),
                pa.table({"key": sorted(self.drops), "reason": [self.drops[k] for k in sorted(self.drops)]}, _DROPS),
            )
