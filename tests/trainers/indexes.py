"""Indexes without shards, for the laws of the order: arrays as the catalog of a dataset would give."""

from __future__ import annotations

from hashlib import blake2b

import numpy as np

from trainers.stream.index import Index, ShardDigests


def make_index(count: int, name: str = "a", per_shard: int = 7, reshard: int = 0, block: float = 1.0) -> Index:
    """``count`` samples called after ``name`` on a square of ground of ``block`` degrees. ``reshard`` deals the same
    samples to shards in another order."""
    keys = [f"{name}-{i:05d}".encode() for i in range(count)]
    rng = np.random.default_rng([*name.encode(), count])
    lonlat = rng.uniform(0, block, (count, 2))
    dealt = np.random.default_rng(reshard).permutation(count) if reshard else np.arange(count)
    lengths = np.array([len(k) for k in keys])
    arrays = {
        "key_bytes": np.frombuffer(b"".join(keys), np.uint8),
        "key_offsets": np.concatenate(([0], np.cumsum(lengths))),
        "shard": (dealt // per_shard).astype(np.int32),
        "layout": np.zeros(count, np.int32),
        "member_offsets": np.arange(count + 1),
        "member_start": 512 + dealt % per_shard * 1024,
        "member_size": np.full(count, 100),
        "lonlat": lonlat,
        "bbox": np.concatenate((lonlat - 1e-3, lonlat + 1e-3), 1),
        "gsd": np.ones((count, 2)),
    }

    def digest(text: str) -> str:
        return blake2b(text.encode(), digest_size=8).hexdigest()

    shards = -(-count // per_shard)
    return Index(
        root=name, content_hash=digest(f"{name}{count}"), layout_hash=digest(f"{name}{count}{per_shard}{reshard}"),
        selection_hash=digest(f"{name}{count}"), shard_names=[f"part-{s:07d}.tar" for s in range(shards)],
        layouts=[("rs.jpg",)], arrays=arrays, digests=ShardDigests(0, (), ()),
    )  # fmt: skip
