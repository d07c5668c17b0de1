"""The flat index of one catalog file: what a reader of shards needs of each sample, as arrays that need no parsing.

``catalog/index/part-00000.safetensors`` stands beside ``catalog/samples/part-00000.parquet`` and has the same rows in
the same order: by shard, and by position in it. It is mapped into memory as it is, by all processes of a machine.

With n samples, m members and K bytes of keys:

=================  ============  ===============================================================================
``key_hash``       u64[n]        first 8 bytes of the key's BLAKE2b; the order of samples that no layout changes
``key_bytes``      u8[K]         keys end to end, UTF-8
``key_offsets``    i64[n+1]      into key_bytes
``split``          u8[n]         number in SPLIT_CODES
``shard``          i32[n]        into the file's list of shard names, which is sorted
``layout``         i32[n]        into the file's list of member layouts: names in the order of the tar
``member_offsets`` i64[n+1]      into the next two
``member_start``   i64[m]        byte offset of the content in the shard
``member_size``    i64[m]        bytes
``lonlat``         f64[n,2]      centre, degrees
``bbox``           f64[n,4]      west, south, east, north, degrees
``gsd``            f64[n,2]      true metres a pixel along x and y
=================  ============  ===============================================================================
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import blake2b
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import safetensors.numpy
from numpy.typing import NDArray

from schemas.catalog import is_shard_file
from schemas.errors import DatasetError
from schemas.sample import is_member
from schemas.splits import BUFFER, SPLITS
from schemas.tensors import read_tensors

#: Splits by their code.
SPLIT_CODES = (*SPLITS, BUFFER)
#: Type, and shape of a row, of each array.
_ARRAYS: dict[str, tuple[str, tuple[int, ...]]] = {
    "key_hash": ("<u8", ()), "key_bytes": ("|u1", ()), "key_offsets": ("<i8", ()),
    "split": ("|u1", ()), "shard": ("<i4", ()), "layout": ("<i4", ()),
    "member_offsets": ("<i8", ()), "member_start": ("<i8", ()), "member_size": ("<i8", ()),
    "lonlat": ("<f8", (2,)), "bbox": ("<f8", (4,)), "gsd": ("<f8", (2,)),
}  # fmt: skip
#: Arrays with one row a sample.
_ROWS = ("key_hash", "split", "shard", "layout", "lonlat", "bbox", "gsd")


def index_file(group: int) -> str:
    """Path inside the dataset of the index of the catalog file of ``group``."""
    return f"catalog/index/part-{group:05d}.safetensors"


def key_hashes(keys: Iterable[str]) -> NDArray[np.uint64]:
    """u64[n]: the first 8 bytes of each key's BLAKE2b, little-endian."""
    return np.frombuffer(b"".join(blake2b(k.encode(), digest_size=8).digest() for k in keys), "<u8")


@dataclass(frozen=True, eq=False)
class IndexPart:
    """The index of one catalog file."""

    arrays: dict[str, NDArray[Any]]  # see the module
    shards: list[str]  # names of the tars, sorted
    layouts: list[tuple[str, ...]]  # member names in the order of the tar, e.g. (json, osm.safetensors, rs.jpg)

    def __len__(self) -> int:
        return len(self.arrays["shard"])

    @classmethod
    def of(cls, samples: pa.Table) -> IndexPart:
        """That of the rows of a samples table (schemas.catalog.SAMPLES), which lie by shard.

        Raises:
            DatasetError: a shard or member has a name that no dataset has, or a split is unknown.
        """
        rows = samples.select(["key", "shard", "members", "split", "lon", "lat", "bbox", "gsd_x", "gsd_y"])
        columns = {name: rows[name].combine_chunks() for name in rows.column_names}
        keys, shard, split = (columns[name].to_pylist() for name in ("key", "shard", "split"))
        shards, codes = sorted(set(shard)), {name: i for i, name in enumerate(SPLIT_CODES)}
        number = {name: i for i, name in enumerate(shards)}
        members = columns["members"]
        offsets = members.offsets.to_numpy().astype(np.int64)
        flat = members.values.slice(offsets[0], offsets[-1] - offsets[0])
        offsets -= offsets[0]
        names = flat.field("name").to_pylist()
        layouts: dict[tuple[str, ...], int] = {}
        layout = [layouts.setdefault(tuple(names[a:b]), len(layouts)) for a, b in pairwise(offsets.tolist())]
        unknown = [s for s in set(split) if s not in codes]
        if unknown:
            raise DatasetError(f"the split {unknown[0]!r} is none of {', '.join(SPLIT_CODES)}")
        text = [k.encode() for k in keys]
        arrays: dict[str, NDArray[Any]] = {
            "key_hash": key_hashes(keys),
            "key_bytes": np.frombuffer(b"".join(text), np.uint8),
            "key_offsets": np.cumsum([0, *map(len, text)], dtype=np.int64),
            "split": np.array([codes[s] for s in split], np.uint8),
            "shard": np.array([number[s] for s in shard], np.int32),
            "layout": np.array(layout, np.int32),
            "member_offsets": offsets,
            "member_start": np.asarray(flat.field("offset").to_numpy(zero_copy_only=False), np.int64),
            "member_size": np.asarray(flat.field("size").to_numpy(zero_copy_only=False), np.int64),
            "lonlat": _stack(columns["lon"], columns["lat"]),
            "bbox": _stack(*(columns["bbox"].field(side) for side in ("xmin", "ymin", "xmax", "ymax"))),
            "gsd": _stack(columns["gsd_x"], columns["gsd_y"]),
        }
        return cls(arrays, shards, list(layouts))._checked("the samples table")

    def to_bytes(self) -> bytes:
        """One safetensors buffer. Equal rows give equal bytes."""
        # One entry: safetensors writes several in any order.
        metadata = {"names": json.dumps({"shards": self.shards, "layouts": self.layouts})}
        return safetensors.numpy.save({k: np.ascontiguousarray(v) for k, v in self.arrays.items()}, metadata)

    @classmethod
    def from_buffer(cls, data: Any, where: str) -> IndexPart:
        """Arrays that are views of ``data``, bytes or mapped memory; ``where`` names it in messages.

        Raises:
            DatasetError: it is no index.
        """
        try:
            arrays, metadata = read_tensors(data, {name: np.dtype(kind) for name, (kind, _) in _ARRAYS.items()})
            names = json.loads(metadata["names"])
            wrong = [n for n, (_, row) in _ARRAYS.items() if arrays[n].shape[1:] != row or arrays[n].ndim == 0]
            if wrong:
                raise ValueError(f"{wrong[0]} is {arrays[wrong[0]].shape}")
            return cls(arrays, list(names["shards"]), [tuple(n) for n in names["layouts"]])._checked(where)
        except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
            raise DatasetError(f"{where} cannot be read ({error}); build the dataset again") from None

    def _checked(self, where: str) -> IndexPart:
        """Itself, if names and lengths are those of a dataset. A name from a catalog is never a path or a command."""
        a, count = self.arrays, len(self)
        for name in self.shards:
            if not is_shard_file(name):
                raise DatasetError(f"{where} names the shard {name!r}; a shard is called part-0000000.tar")
        for name in (n for layout in self.layouts for n in layout):
            if not isinstance(name, str) or not is_member(name):
                raise DatasetError(f"{where} names the member {name!r}, which this version does not know")
        if (
            any(len(a[name]) != count for name in _ROWS)
            or len(a["key_offsets"]) != count + 1 or len(a["member_offsets"]) != count + 1
            or a["key_offsets"][-1] != len(a["key_bytes"])
            or not a["member_offsets"][-1] == len(a["member_start"]) == len(a["member_size"])
        ):  # fmt: skip
            raise DatasetError(f"{where} is inconsistent; build the dataset again")
        return self


def _stack(*parts: pa.Array) -> NDArray[np.float64]:
    return np.stack([np.asarray(p.to_numpy(zero_copy_only=False), np.float64) for p in parts], 1)
