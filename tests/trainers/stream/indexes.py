"""Indexes without shards, for the laws of the order: arrays as the catalog of a dataset would give."""

from __future__ import annotations

from hashlib import blake2b

import numpy as np

from schemas.index import IndexPart, key_hashes
from storage.store import Store
from trainers.stream.catalog.choose import choose_rows
from trainers.stream.catalog.flat import Column
from trainers.stream.catalog.index import Index, ShardDigests
from trainers.stream.catalog.parts import Parts


def make_index(count: int, name: str = "a", per_shard: int = 7, reshard: int = 0, block: float = 1.0) -> Index:
    """``count`` samples called after ``name`` on a square of ground of ``block`` degrees. ``reshard`` deals the same
    samples to shards in another order."""
    keys = [f"{name}-{i:05d}" for i in range(count)]
    rng = np.random.default_rng([*name.encode(), count])
    lonlat = rng.uniform(0, block, (count, 2))
    dealt = np.random.default_rng(reshard).permutation(count) if reshard else np.arange(count)
    place = np.empty(count, np.int64)
    place[dealt] = np.arange(count)  # of the sample that lies there
    shards = [f"part-{s:07d}.tar" for s in range(-(-count // per_shard))]
    text = [keys[i].encode() for i in place]
    lonlat = lonlat[place]
    arrays = {
        "key_hash": key_hashes(keys)[place],
        "key_bytes": np.frombuffer(b"".join(text), np.uint8),
        "key_offsets": np.cumsum([0, *map(len, text)]),
        "split": np.zeros(count, np.uint8),
        "shard": (np.arange(count) // per_shard).astype(np.int32),
        "layout": np.zeros(count, np.int32),
        "member_offsets": np.arange(count + 1),
        "member_start": 512 + np.arange(count) % per_shard * 1024,
        "member_size": np.full(count, 100),
        "member_crc": np.zeros(count, np.uint32),
        "sha256": np.zeros((count, 32), np.uint8),
        "lonlat": lonlat,
        "bbox": np.concatenate((lonlat - 1e-3, lonlat + 1e-3), 1),
        "gsd": np.ones((count, 2)),
    }
    parts = Parts([IndexPart(arrays, shards, [("rs.jpg",)])])
    rows, selection = choose_rows(Store(name), parts)

    def digest(text: str) -> str:
        return blake2b(text.encode(), digest_size=8).hexdigest()

    return Index(
        root=name, content_hash=digest(f"{name}{count}"), layout_hash=digest(f"{name}{count}{per_shard}{reshard}"),
        selection_hash=selection, split_hash="", parts=parts, held=Column(rows), digests=ShardDigests(0, (), ()),
    )  # fmt: skip


def shard_of(index: Index, sample: int) -> str:
    """File name of the shard that holds one sample."""
    return index.parts.shard_names[index.column("shard", np.array([sample]))[0]]


def members_of(index: Index, sample: int) -> dict[str, tuple[int, int]]:
    """Member name to (offset, size) of one sample."""
    entries = index.entries(np.array([sample]))
    return dict(zip(index.names(sample), zip(entries.start, entries.size, strict=True), strict=True))
