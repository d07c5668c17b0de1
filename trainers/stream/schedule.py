"""Which samples a batch holds: pools of datasets shuffled as one, and mixtures of pools.

In: indexes, weights, an order, a seed. Out: for a part of a global batch its samples and their seeds, in the same time
wherever in the run it lies. Reads no shard.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from geometry.hilbert import hilbert
from schemas.errors import ConfigError
from storage.urls import cache_folder
from trainers.stream.catalog.flat import Column, KeptColumn, kept_column
from trainers.stream.catalog.index import Index
from trainers.stream.mixture import Mixture
from trainers.stream.order import Along, Keys, Order, batch_positions, epoch_key, places_at, slot_seeds

Ints = NDArray[np.int64]
#: Bits a side of the Hilbert curve over longitude and latitude: cells of 0.6 m at the equator.
_CURVE = 26


@dataclass(frozen=True)
class Request:
    """Which part of which global batch."""

    epoch: int
    start: int  # position of the global batch's first slot
    part: int  # micro * world + rank


@dataclass(frozen=True, eq=False)
class Chosen:
    """The samples of one part. Symbol: K slots."""

    source: Ints  # [K] number of the index, -1 where masked
    sample: Ints  # [K] number in that index, -1 where masked
    place: Ints  # [K] in the pool's sequence, -1 where masked
    seed: Keys  # [K]
    weight: float  # share of this part in its global batch's samples, times the number of parts


class Pool:
    """Datasets shuffled as one, with one epoch. Samples are numbered through, index after index.

    Args:
        indexes: datasets with their samples.
        sources: their numbers in the stream.
        order: how an epoch is shuffled.
    """

    def __init__(self, indexes: Sequence[Index], sources: Sequence[int], order: Order) -> None:
        self.sources = np.array(sources, np.int64)
        self.order = order
        self.starts = np.concatenate(([0], np.cumsum([len(i) for i in indexes])))
        self.content = "+".join(i.content_hash for i in indexes)
        self.selection = "+".join(i.selection_hash for i in indexes)
        layout = "+".join(i.layout_hash for i in indexes) if order.shuffle == "block" else ""
        self._text = f"{order.text}{layout}"
        self._held = self._load(indexes, layout)

    def __len__(self) -> int:
        return int(self.starts[-1])

    def _load(self, indexes: Sequence[Index], layout: str) -> Column | None:
        """Samples as the order walks them, from the cache where the indexes are; None: as in the index."""
        along = self.order.along
        if along == "index":
            return None
        if not any(isinstance(i.held, KeptColumn) for i in indexes):
            return Column(_sequence(indexes, along))
        named = json.dumps([along, self.content, self.selection, layout])
        name = f"{blake2b(named.encode(), digest_size=16).hexdigest()}.safetensors"

        def make() -> tuple[Ints, dict[str, Any]]:
            found = _sequence(indexes, along)
            for index in indexes:
                index.release()
            return found, {}

        try:
            return kept_column(cache_folder().absolute() / "index" / name, make)
        except OSError:  # the index has said so
            return Column(_sequence(indexes, along))

    def release(self) -> None:
        """Give back mapped pages that were touched."""
        if self._held is not None:
            self._held.release()

    def key(self, seed: int, epoch: int) -> int:
        """The 64-bit key of an epoch."""
        return epoch_key(self.content, self.selection, self._text, seed, epoch)

    def at(self, positions: Ints, key: int) -> tuple[Ints, Ints]:
        """(sample, place), i64[K] each, at ``positions`` of the epoch with ``key``."""
        places = places_at(positions, len(self), key, self.order)
        return self.sample_at(places), places

    def sample_at(self, places: Ints) -> Ints:
        """Samples i64[K] at places of the sequence."""
        return places if self._held is None else self._held.take(places)

    def split(self, samples: Ints) -> tuple[Ints, Ints]:
        """(source, sample in its index), i64[K] each, of the pool's samples."""
        number = np.searchsorted(self.starts, samples, "right") - 1
        return self.sources[number], samples - self.starts[number]


def _sequence(indexes: Sequence[Index], along: Along) -> Ints:
    """All samples by key, in layout order, or along the Hilbert curve; ties keep the order of the index."""
    if along == "key":
        keys = [chunk for index in indexes for chunk in index.parts.key_column(index.rows()).chunks]
        found = pc.sort_indices(pa.chunked_array(keys, pa.large_binary())).to_numpy().astype(np.int64)
    elif along == "layout":
        # Catalog rows lie by shard and by position in it.
        starts = np.cumsum([0, *map(len, indexes)])[:-1]
        found = np.concatenate([a + np.argsort(i.rows()) for a, i in zip(starts, indexes, strict=True)])
    else:
        found = np.argsort(curve(np.concatenate([i.column("lonlat") for i in indexes])), kind="stable")
    return found


def curve(lonlat: NDArray[np.float64]) -> Ints:
    """Distance i64[N] of centres f64[N,2] (degrees) along a Hilbert curve over the square of ±180 degrees."""
    side = 1 << _CURVE
    cell = np.clip(np.floor((np.nan_to_num(lonlat) + 180.0) / 360.0 * side), 0, side - 1).astype(np.int64)
    return hilbert(cell[:, 0], cell[:, 1], _CURVE)


class Schedule:
    """The order of a whole run. Safe to pickle.

    Args:
        indexes: the datasets; their order counts.
        weights: share of each in a mixture; None: one pool with one epoch.
        order: how an epoch of a pool is shuffled.
        seed: with the content and the selection it fixes the order and every random draw.
        batch_size: global samples a step.
        parts: ranks times accumulation.

    Raises:
        ConfigError: the order cannot be kept with these.
    """

    def __init__(
        self, indexes: Sequence[Index], weights: Sequence[float] | None, order: Order,
        *, seed: int, batch_size: int, parts: int,
    ) -> None:  # fmt: skip
        self.seed, self.batch_size, self.parts = seed, batch_size, parts
        self.order = replace(order, strata=batch_size)
        if order.shuffle == "near" and (weights or batch_size % order.near):
            raise ConfigError(
                f"stream.shuffle=near keeps {order.near} neighbours in a batch: "
                + ("a mixture cannot; choose global, block or spread" if weights else
                   f"batch_size={batch_size} must be a multiple of stream.near={order.near}")
            )  # fmt: skip
        self.mixture = Mixture.of(weights) if weights else None
        if self.mixture is None:
            self.pools = [Pool(indexes, range(len(indexes)), self.order)]
        else:
            share = self.mixture.share / self.mixture.share.sum()
            # So many strata that the samples of a source in one batch come from different ones.
            orders = [replace(self.order, strata=int(np.ceil(s * batch_size)) + 1) for s in share]
            self.pools = [Pool([index], [i], orders[i]) for i, index in enumerate(indexes)]
        # Neighbouring slots belong together, or their sources alternate: parts take runs of slots.
        self._together = order.shuffle == "near" or self.mixture is not None

    @property
    def count(self) -> int | None:
        """Samples of an epoch; None in a mixture, which has none."""
        return len(self.pools[0]) if self.mixture is None else None

    def choose(self, request: Request) -> Chosen:
        """The samples of a request."""
        positions, real = batch_positions(
            request.start, self.count, self.batch_size, request.part, self.parts, self._together
        )
        source, sample, place = (np.full(len(positions), -1, np.int64) for _ in range(3))
        if self.mixture is None:
            pool = self.pools[0]
            key = pool.key(self.seed, request.epoch)
            found, place[real] = pool.at(positions[real], key)
            source[real], sample[real] = pool.split(found)
            weight = float(real.sum()) * self.parts / min(self.batch_size, len(pool) - request.start)
            return Chosen(source, sample, place, slot_seeds(key, positions), weight)
        number, before = self.mixture.at(positions)
        for i in np.unique(number).tolist():
            pool = self.pools[i]
            mine = np.flatnonzero(number == i)
            epoch, position = np.divmod(before[mine], len(pool))
            for e in np.unique(epoch).tolist():
                rows = mine[epoch == e]
                sample[rows], place[rows] = pool.at(position[epoch == e], pool.key(self.seed, e))
            source[mine] = i
        text = json.dumps(([p.key(self.seed, 0) for p in self.pools], self.mixture.share.tolist()))
        key = epoch_key(text, "", "mixture", self.seed, 0)
        return Chosen(source, sample, place, slot_seeds(key, positions), 1.0)

    def blocks(self, source: int, places: Ints) -> list[tuple[int, Ints]]:
        """Number, and samples of one source, of each block that holds one of ``places``; none unless by block."""
        if self.order.shuffle != "block":
            return []
        pool = next(p for p in self.pools if source in p.sources)
        size = self.order.block
        found = []
        for block in np.unique(places // size).tolist():
            owner, samples = pool.split(pool.sample_at(np.arange(block * size, min(len(pool), (block + 1) * size))))
            found.append((block, samples[owner == source]))
        return found
