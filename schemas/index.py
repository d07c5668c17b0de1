"""The flat index of one catalog file: what a reader of shards needs of each sample, as arrays that need no parsing.

``catalog/index/part-00000.safetensors`` stands beside ``catalog/samples/part-00000.parquet`` and has the same rows in
the same order: by shard, and by position in it. It is mapped into memory as it is, by all processes of a machine, and
holds sums of its pages (schemas.tensors), so that a damaged one is never another order.

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
``member_crc``     u32[m]        CRC-32 of the content
``sha256``         u8[n,32]      of the sample, see schemas.sample.sample_hash
``lonlat``         f64[n,2]      centre, degrees
``bbox``           f64[n,4]      west, south, east, north, degrees
``gsd``            f64[n,2]      true metres a pixel along x and y
=================  ============  ===============================================================================
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, replace
from hashlib import blake2b
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from schemas.catalog import is_shard_file
from schemas.errors import DatasetError
from schemas.sample import is_member
from schemas.splits import BUFFER, SPLITS
from schemas.tensors import PagedTensors, paged

#: Splits by their code.
SPLIT_CODES = (*SPLITS, BUFFER)
#: Type, and shape of a row, of each array.
_ARRAYS: dict[str, tuple[str, tuple[int, ...]]] = {
    "key_hash": ("<u8", ()), "key_bytes": ("|u1", ()), "key_offsets": ("<i8", ()),
    "split": ("|u1", ()), "shard": ("<i4", ()), "layout": ("<i4", ()),
    "member_offsets": ("<i8", ()), "member_start": ("<i8", ()), "member_size": ("<i8", ()), "member_crc": ("<u4", ()),
    "sha256": ("|u1", (32,)),
    "lonlat": ("<f8", (2,)), "bbox": ("<f8", (4,)), "gsd": ("<f8", (2,)),
}  # fmt: skip
#: Arrays with one row a sample.
_ROWS = ("key_hash", "split", "shard", "layout", "sha256", "lonlat", "bbox", "gsd")
#: Arrays with one row a member.
_MEMBERS = ("member_start", "member_size", "member_crc")
#: What mends a damaged index.
REMEDY = "`geoshards verify --repair` mends it, or build the dataset again"


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
    pages: PagedTensors | None = None  # checks the arrays as they are read; None: they were made here

    def __len__(self) -> int:
        return len(self.arrays["shard"])

    @classmethod
    def of(cls, samples: pa.Table) -> IndexPart:
        """That of the rows of a samples table (schemas.catalog.SAMPLES), which lie by shard.

        Raises:
            DatasetError: a shard or member has a name that no dataset has, a split is unknown, or a hash is none.
        """
        rows = samples.select(["key", "shard", "members", "sha256", "split", "lon", "lat", "bbox", "gsd_x", "gsd_y"])
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
            "member_crc": np.asarray(flat.field("crc32").to_numpy(zero_copy_only=False), np.uint32),
            "sha256": _digests(columns["sha256"].to_pylist()),
            "lonlat": _stack(columns["lon"], columns["lat"]),
            "bbox": _stack(*(columns["bbox"].field(side) for side in ("xmin", "ymin", "xmax", "ymax"))),
            "gsd": _stack(columns["gsd_x"], columns["gsd_y"]),
        }
        return cls(arrays, shards, list(layouts))._checked("the samples table")

    def to_bytes(self) -> bytes:
        """One safetensors buffer. Equal rows give equal bytes."""
        names = json.dumps({"shards": self.shards, "layouts": self.layouts})
        return b"".join(paged({n: self.arrays[n] for n in _ARRAYS}, {"names": names}))

    @classmethod
    def from_buffer(cls, data: Any, where: str, remedy: str = REMEDY) -> IndexPart:
        """Arrays that are views of ``data``, bytes or mapped memory, to be read by :meth:`take`.

        Args:
            data: what `to_bytes` gave.
            where: names it in messages.
            remedy: what to do if it is damaged.

        Raises:
            DatasetError: it is no index.
        """
        try:
            pages = PagedTensors(data, {name: np.dtype(kind) for name, (kind, _) in _ARRAYS.items()}, where, remedy)
            names = json.loads(pages.metadata["names"])
            wrong = [
                n for n, (_, row) in _ARRAYS.items() if pages.arrays[n].shape[1:] != row or not pages.arrays[n].ndim
            ]
            if wrong:
                raise ValueError(f"{wrong[0]} is {pages.arrays[wrong[0]].shape}")
            part = cls(pages.arrays, list(names["shards"]), [tuple(n) for n in names["layouts"]], pages)
            return part._checked(where, remedy)
        except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
            raise DatasetError(f"{where} cannot be read ({error}); {remedy}") from None

    def take(self, name: str, rows: Any = None) -> NDArray[Any]:
        """Rows of an array, by number, or all of it.

        Raises:
            DatasetError: they are not what was written.
        """
        if self.pages is not None:
            return self.pages.take(name, rows)
        return self.arrays[name] if rows is None else self.arrays[name][rows]

    def run(self, name: str, first: NDArray[np.int64], last: NDArray[np.int64]) -> NDArray[Any]:
        """An array of which the slices ``first[i]:last[i]``, each shorter than a page, may be read.

        Raises:
            DatasetError: they are not what was written.
        """
        if self.pages is not None and len(self.arrays[name]):
            self.pages.check(name, np.concatenate((first, np.maximum(last - 1, 0))))
        return self.arrays[name]

    def whole(self) -> IndexPart:
        """Itself with all of it checked: for a copy that is kept.

        Raises:
            DatasetError: it is not what was written.
        """
        for name in self.arrays:
            self.take(name)
        return replace(self, pages=None)

    def _checked(self, where: str, remedy: str = REMEDY) -> IndexPart:
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
            or any(len(a[name]) != a["member_offsets"][-1] for name in _MEMBERS)
        ):  # fmt: skip
            raise DatasetError(f"{where} is inconsistent; {remedy}")
        return self


def _digests(texts: list[str | None]) -> NDArray[np.uint8]:
    try:
        return np.frombuffer(bytes.fromhex("".join(map(str, texts))), np.uint8).reshape(-1, 32)
    except ValueError:
        raise DatasetError("a sha256 of the samples table is none") from None


def _stack(*parts: pa.Array) -> NDArray[np.float64]:
    return np.stack([np.asarray(p.to_numpy(zero_copy_only=False), np.float64) for p in parts], 1)
