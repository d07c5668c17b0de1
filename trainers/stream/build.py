"""Catalog rows of the selected samples to flat arrays, sorted by key: file by file, in memory or in a folder.

The arrays, with n samples, m members and K bytes of keys:

=================  ============  =========================================================
``key_bytes``      u8[K]         keys end to end, UTF-8
``key_offsets``    i64[n+1]      into key_bytes
``shard``          i32[n]        into the list of shard names, which is sorted
``layout``         i32[n]        into the list of member layouts: names in the order of the tar
``member_offsets`` i64[n+1]      into the next two
``member_start``   i64[m]        byte offset of the content in the shard
``member_size``    i64[m]        bytes
``lonlat``         f64[n,2]      centre, degrees
``bbox``           f64[n,4]      west, south, east, north, degrees
``gsd``            f64[n,2]      true metres a pixel along x and y
=================  ============  =========================================================
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from geometry.mix import mix
from geometry.packed import ranges
from schemas.errors import DatasetError
from schemas.sample import is_member
from schemas.splits import BUFFER, SPLITS
from trainers.stream.flat import Arrays, Columns, store
from trainers.stream.select import evaluate, mentions_split, words

_SHARD = re.compile(r"[A-Za-z0-9_-]+\.tar")
#: Columns that the stream itself needs; a selection may use any other column of the samples table.
_COLUMNS = ["key", "shard", "members", "bbox", "lon", "lat", "gsd_x", "gsd_y", "split"]
_FIXED = ("shard", "layout", "lonlat", "bbox", "gsd")
#: Rows that are put in order at once.
_ROWS = 1 << 19


@dataclass
class Builder:
    """Takes the files of one samples table in turn."""

    root: str  # path or URL of the dataset directory, for messages
    select: str  # SQL condition over the samples table, or empty
    split: str  # that is read unless the condition names another
    folder: Path | None = None  # where the arrays go; None: memory
    shards: dict[str, int] = field(default_factory=dict)  # name to number, in the order of appearance
    names: dict[str, int] = field(default_factory=dict)  # member name to number
    layouts: dict[int, int] = field(default_factory=dict)  # hash of a layout to number
    layout_names: list[list[str]] = field(default_factory=list)
    total: int = 0  # rows seen
    met: int = 0  # rows that meet the condition
    chosen: int = 0  # rows that are read
    splits: Counter[str] = field(default_factory=Counter)  # of the rows that meet it

    def __post_init__(self) -> None:
        self._columns = Columns(self.folder)

    def read(self, file: str, fs: Any) -> None:
        """Add the selected rows of one Parquet file.

        Raises:
            DatasetError: the file cannot be read, lacks a column, or names what no dataset holds.
            ConfigError: the condition cannot be read, or would not select the same samples every time.
        """
        where = f"{self.root}/catalog/samples"
        try:
            schema = pq.read_schema(file, filesystem=fs)
            known = [name for name in schema.names if name != "geometry"]
            lacking = [c for c in _COLUMNS if c not in known]
            if lacking:
                raise DatasetError(f"{where} lacks the columns {', '.join(lacking)}; build the dataset again")
            if self.select.strip() and not self.total:  # an unknown column is named with all that there are
                evaluate(pa.schema([schema.field(c) for c in known if c != "members"]).empty_table(), self.select)
            used = {w.lower() for w in words(self.select)}
            columns = [c for c in known if c in _COLUMNS or c.lower() in used]
            table = pq.read_table(file, columns=columns, filesystem=fs, read_dictionary=["members.list.element.name"])
        except (pa.ArrowException, OSError) as error:
            first = str(error).splitlines()[0]
            raise DatasetError(f"{where} cannot be read ({first}); build the dataset again") from None
        chosen = np.ones(table.num_rows, bool)
        if self.select.strip() and table.num_rows:
            chosen = evaluate(table.drop_columns(["members"]), self.select)
        self.total += table.num_rows
        self.met += int(chosen.sum())
        splits = table["split"]
        for name in (*SPLITS, BUFFER):
            self.splits[name] += int((chosen & _equal(splits, name)).sum())
        chosen &= ~_equal(splits, BUFFER)
        if not mentions_split(self.select):
            chosen &= _equal(splits, self.split)
        self.chosen += int(chosen.sum())
        if chosen.any():
            self._add(table.select(_COLUMNS).filter(pa.array(chosen)).combine_chunks())

    def _add(self, rows: pa.Table) -> None:
        def column(name: str) -> pa.Array:
            value = rows[name]
            return value.combine_chunks() if isinstance(value, pa.ChunkedArray) else value

        append = self._columns.append
        lengths, text = _strings(column("key"))
        append("key_bytes", text)
        append("key_lengths", lengths)
        append("shard", self._numbers(column("shard"), self.shards, "shard").astype(np.int32))
        members = column("members")
        offsets = members.offsets.to_numpy().astype(np.int64)
        flat = members.values.slice(offsets[0], offsets[-1] - offsets[0])
        name = self._numbers(flat.field("name"), self.names, "member")
        append("member_counts", np.diff(offsets))
        append("layout", self._layouts(name, np.diff(offsets)))
        append("member_start", flat.field("offset").to_numpy())
        append("member_size", flat.field("size").to_numpy())
        append("lonlat", _stack(column("lon"), column("lat")))
        box = column("bbox")
        append("bbox", _stack(*(box.field(side) for side in ("xmin", "ymin", "xmax", "ymax"))))
        append("gsd", _stack(column("gsd_x"), column("gsd_y")))

    def _numbers(self, values: pa.Array, known: dict[str, int], kind: str) -> NDArray[np.int64]:
        """Values as numbers in ``known``, which grows. A name from a catalog is never a path or a command."""
        coded = values if pa.types.is_dictionary(values.type) else values.dictionary_encode()
        numbers = []
        for name in coded.dictionary.to_pylist():
            if kind == "shard" and not (name and _SHARD.fullmatch(name)):
                raise DatasetError(
                    f"{self.root}/catalog/samples names the shard {name!r}; a shard is called part-0000000.tar"
                )
            if kind == "member" and not (name and is_member(name)):
                raise DatasetError(
                    f"{self.root}/catalog/samples names the member {name!r}, which this version does not know"
                )
            numbers.append(known.setdefault(name, len(known)))
        if coded.null_count:
            raise DatasetError(f"{self.root}/catalog/samples holds a {kind} without a name; build the dataset again")
        return np.array(numbers, np.int64)[coded.indices.to_numpy()]

    def _layouts(self, name: NDArray[np.int64], counts: NDArray[np.int64]) -> NDArray[np.int32]:
        """Number of each row's sequence of member names; rows are told apart by a 64-bit hash of it."""
        starts = np.cumsum(counts) - counts
        place = np.arange(len(name)) - np.repeat(starts, counts)
        words = mix(mix(name.astype(np.uint64) + np.uint64(1)) ^ place.astype(np.uint64))
        sums = np.concatenate((np.zeros(1, np.uint64), np.cumsum(words, dtype=np.uint64)))
        hashes = sums[starts + counts] - sums[starts]
        distinct, first, row = np.unique(hashes, return_index=True, return_inverse=True)
        by_number = list(self.names)
        numbers = []
        for value, k in zip(distinct.tolist(), first.tolist(), strict=True):
            if value not in self.layouts:
                self.layouts[value] = len(self.layout_names)
                self.layout_names.append([by_number[i] for i in name[starts[k] : starts[k] + counts[k]]])
            numbers.append(self.layouts[value])
        return np.array(numbers, np.int32)[row.reshape(-1)]

    def finish(self, limit: int | None = None) -> tuple[Arrays, dict[str, Any]]:
        """The arrays, sorted by key, and their description; at most ``limit`` samples, spread evenly over the keys."""
        held = self._columns
        lengths, text = held.whole("key_lengths"), held.whole("key_bytes")
        order = _sorted(lengths, text)
        if limit is not None and limit < len(order):
            order = order[np.arange(limit) * len(order) // limit]
        arrays: Arrays = {}
        names = sorted(self.shards)
        place = {name: i for i, name in enumerate(names)}
        renumber = np.array([place[name] for name in self.shards], np.int32)
        for name in _FIXED:
            source = held.whole(name)
            arrays[name] = store(self.folder, name, len(order), source)
            for a in range(0, len(order), _ROWS):
                part = source[order[a : a + _ROWS]]
                arrays[name][a : a + _ROWS] = renumber[part] if name == "shard" else part
        self._ragged(arrays, order, lengths, "key_offsets", {"key_bytes": text})
        ragged = {name: held.whole(name) for name in ("member_start", "member_size")}
        self._ragged(arrays, order, held.whole("member_counts"), "member_offsets", ragged)
        digest = blake2b(digest_size=16)
        digest.update(np.ascontiguousarray(arrays["key_offsets"]).data)
        digest.update(np.ascontiguousarray(arrays["key_bytes"]).data)
        if self.folder is not None:
            for file in self.folder.glob("*.raw"):
                file.unlink()
        return arrays, {
            "shard_names": names, "layouts": self.layout_names, "selection_hash": digest.hexdigest(),
        }  # fmt: skip

    def _ragged(
        self, arrays: Arrays, order: NDArray[np.int64], lengths: NDArray[np.int64], offsets: str, parts: Arrays
    ) -> None:
        """Rows of varying length in the new order, and the offsets of their ends."""
        before = np.concatenate(([0], np.cumsum(lengths)))
        after = np.concatenate(([0], np.cumsum(lengths[order])))
        arrays[offsets] = store(self.folder, offsets, len(after), after)
        arrays[offsets][:] = after
        for name, source in parts.items():
            arrays[name] = store(self.folder, name, int(after[-1]), source)
            for a in range(0, len(order), _ROWS):
                b = min(len(order), a + _ROWS)
                arrays[name][after[a] : after[b]] = source[ranges(before, order[a:b])[0]]


def _equal(column: pa.ChunkedArray, value: str) -> NDArray[np.bool_]:
    return np.asarray(pc.fill_null(pc.equal(column, value), False))


def _strings(values: pa.Array) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
    """Length of each string, and all of them end to end."""
    large = values.cast(pa.large_string())
    _, offsets, data = large.buffers()
    ends = np.frombuffer(offsets, np.int64)[large.offset : large.offset + len(large) + 1]
    text = np.frombuffer(data, np.uint8) if data else np.zeros(0, np.uint8)
    return np.diff(ends), text[ends[0] : ends[-1]]


def _sorted(lengths: NDArray[np.int64], text: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Numbers of the strings in rising order."""
    offsets = np.concatenate(([0], np.cumsum(lengths)))
    array = pa.LargeStringArray.from_buffers(len(lengths), pa.py_buffer(offsets), pa.py_buffer(text))
    return pc.sort_indices(array).to_numpy().astype(np.int64)


def _stack(*parts: pa.Array) -> NDArray[np.float64]:
    return np.stack([np.asarray(p.to_numpy(zero_copy_only=False), np.float64) for p in parts], 1)
