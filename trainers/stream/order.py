"""Who gets which sample, as pure functions on integers: order of an epoch, slots of a batch, draws of a slot.

In: counts, seeds, positions. Out: sample indices, positions, 64-bit keys. No dataset, no file, no state.
A position counts samples of one epoch from 0; position p of epoch e holds the same sample on every machine.
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import blake2b
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from geometry.mix import GOLDEN, mix
from schemas.errors import ConfigError

Ints = NDArray[np.int64]
Keys = NDArray[np.uint64]
Shuffle = Literal["global", "none"]

#: Rounds of the Feistel network. Four make a pseudo-random permutation of wide words (Luby and Rackoff 1988); small
#: epochs have halves of a few bits, which need more.
ROUNDS = 10


@dataclass(frozen=True, kw_only=True)
class Place:
    """Who I am among the processes that share a stream."""

    rank: int = 0  # which process, 0 <= rank < world
    world: int = 1  # processes that share each global batch
    workers: int = 0  # loader processes of this rank; 0 reads in the rank's own process. Never changes the order

    def __post_init__(self) -> None:
        if not 0 <= self.rank < self.world:
            raise ConfigError(f"rank {self.rank} is outside 0..{self.world - 1}; check RANK and WORLD_SIZE")
        if self.workers < 0:
            raise ConfigError(f"workers={self.workers} is negative; 0 reads in the training process")


def epoch_key(content: str, selection: str, shuffle: Shuffle, seed: int, epoch: int) -> int:
    """The 64-bit key of one epoch's order and draws, from everything that may change them."""
    text = f"{content}/{selection}/{shuffle}/{seed}/{epoch}"
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "little")


def samples_at(positions: Ints, count: int, key: int, shuffle: Shuffle) -> Ints:
    """Sample indices i64[K] (into the key-sorted index) of ``positions`` i64[K], 0 <= position < ``count``.

    ``none`` is the identity. ``global`` is a permutation of 0..count-1 by a Feistel network on the next even number
    of bits, walking cycles until the value falls below ``count``: under four steps on average, and no table in memory.
    """
    if shuffle == "none" or count < 2:
        return positions.copy()
    half = np.uint64(((count - 1).bit_length() + 1) // 2)
    low = np.uint64((1 << int(half)) - 1)
    with np.errstate(over="ignore"):
        keys = mix(np.uint64(key) + GOLDEN * np.arange(1, ROUNDS + 1, dtype=np.uint64))
    value = positions.astype(np.uint64)
    walking = np.arange(len(value))
    while len(walking):
        left, right = value[walking] >> half, value[walking] & low
        for k in keys:
            left, right = right, left ^ (mix(right ^ k) & low)
        value[walking] = (left << half) | right
        walking = walking[value[walking] >= count]
    return value.astype(np.int64)


def steps_per_epoch(count: int, batch_size: int) -> int:
    """Global batches in an epoch; the last may be padded."""
    return -(-count // batch_size)


def slots(batch_size: int, part: int, parts: int) -> Ints:
    """Slots i64[batch_size/parts] of a global batch that one part takes: every ``parts``-th, so tails spread evenly.

    A part is one micro-batch of one rank, number ``micro * world + rank``: four ranks, or one rank that accumulates
    four times, compute the same micro-batches.
    """
    if batch_size % parts:
        raise ConfigError(
            f"batch_size={batch_size} is not divisible by {parts} (ranks times accumulation); "
            f"choose batch_size={-(-batch_size // parts) * parts} or another number of processes"
        )
    return np.arange(part, batch_size, parts, dtype=np.int64)


def batch_positions(start: int, count: int, batch_size: int, part: int, parts: int) -> tuple[Ints, NDArray[np.bool_]]:
    """Positions i64[batch_size/parts] and mask of one part of the global batch that begins at position ``start``.

    Slots past the end of the epoch are masked (False) and hold position -1; no position is repeated to fill them.
    """
    positions = start + slots(batch_size, part, parts)
    valid = positions < count
    return np.where(valid, positions, -1), valid


def slot_seeds(key: int, positions: Ints) -> Keys:
    """u64[K]: the seed of everything random about the samples at ``positions`` of the epoch with ``key``."""
    with np.errstate(over="ignore"):
        seeds: Keys = mix(mix(positions.astype(np.uint64) + GOLDEN) ^ np.uint64(key))
        return seeds


def draw(seed: int | np.uint64, stream: int, size: int = 1) -> NDArray[np.float64]:
    """``size`` uniform numbers f64 in [0, 1) of one slot; ``stream`` tells independent uses of one seed apart."""
    with np.errstate(over="ignore"):
        base = mix(np.uint64(seed) + GOLDEN * np.uint64(stream + 1))
        words = mix(base + GOLDEN * np.arange(1, size + 1, dtype=np.uint64))
    unit: NDArray[np.float64] = (words >> np.uint64(11)).astype(np.float64) * 2.0**-53
    return unit
