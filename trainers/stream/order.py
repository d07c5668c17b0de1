"""Who gets which sample, as pure functions on integers: order of an epoch, slots of a batch, draws of a slot.

In: counts, seeds, positions. Out: sample indices, positions, 64-bit keys. No dataset, no file, no state.
A position counts samples of one epoch from 0; position p of epoch e holds the same sample on every machine.
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import blake2b
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from geometry.mix import GOLDEN, mix, mix_word, uniform
from schemas.errors import ConfigError

Ints = NDArray[np.int64]
Keys = NDArray[np.uint64]
Shuffle = Literal["global", "block", "spread", "near", "none"]
Along = Literal["index", "key", "layout", "curve"]

#: Rounds of the Feistel network. Four make a pseudo-random permutation of wide words (Luby and Rackoff 1988); small
#: epochs have halves of a few bits, which need more.
ROUNDS = 10
#: Draws up to which a slot's numbers are reckoned one by one.
FEW = 16
_GOLDEN, _WORD = int(GOLDEN), (1 << 64) - 1
_ALONG: dict[Shuffle, Along] = {
    "global": "index", "none": "key", "block": "layout", "spread": "curve", "near": "curve",
}  # fmt: skip


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


@dataclass(frozen=True, kw_only=True)
class Order:
    """How the samples of an epoch are shuffled. ``none`` walks them by key; ``block`` as they lie in the shards;
    ``spread`` and ``near`` along the Hilbert curve; ``global`` as the index has them, which nothing shows."""

    shuffle: Shuffle = "global"
    block: int = 256  # block: samples that stay together
    window: int = 16  # block: blocks whose samples are mixed
    strata: int = 256  # spread: pieces of the curve, each of which gives a sample to each batch
    near: int = 4  # near: neighbours that stay together

    def __post_init__(self) -> None:
        if self.shuffle not in get_args(Shuffle):
            raise ConfigError(f"stream.shuffle={self.shuffle}: choose one of {', '.join(get_args(Shuffle))}")
        for name in ("block", "window", "strata", "near"):
            if getattr(self, name) < 1:
                raise ConfigError(f"stream.{name}={getattr(self, name)} must be at least 1")

    @property
    def text(self) -> str:
        """What of it decides the order.

        >>> Order(shuffle="near").text
        'near-4'
        """
        sizes = {"block": (self.block, self.window), "spread": (self.strata,), "near": (self.near,)}
        return "-".join(map(str, (self.shuffle, *sizes.get(self.shuffle, ()))))

    @property
    def along(self) -> Along:
        """What orders the places that it shuffles."""
        return _ALONG[self.shuffle]


def epoch_key(content: str, selection: str, shuffle: str, seed: int, epoch: int) -> int:
    """The 64-bit key of one epoch's order and draws, from everything that may change them."""
    text = f"{content}/{selection}/{shuffle}/{seed}/{epoch}"
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "little")


def permute(values: Ints, count: int | Ints, key: int | Keys, widest: int | None = None) -> Ints:
    """``values`` i64[K] under a permutation of 0..count-1 that ``key`` picks; 0 <= value < count.

    A Feistel network on the next even number of bits, walking cycles until the value falls below ``count``: under four
    steps on average, and no table in memory. ``count`` and ``key`` may differ from value to value; then ``widest`` is
    the largest count that there is, present or not, so that an answer does not depend on what else is asked.
    """
    counts = np.broadcast_to(np.asarray(count, np.int64), values.shape)
    largest = int(count) if widest is None else widest
    if largest < 2:
        return values.copy()
    half = np.uint64(((largest - 1).bit_length() + 1) // 2)
    low = np.uint64((1 << int(half)) - 1)
    steps = GOLDEN * np.arange(1, ROUNDS + 1, dtype=np.uint64)
    with np.errstate(over="ignore"):
        rounds = mix(np.asarray(key, np.uint64) + steps.reshape(-1, *(1,) * np.ndim(key)))
    value, limits = values.astype(np.uint64), counts.astype(np.uint64)
    walking = np.arange(len(value))
    while len(walking):
        left, right = value[walking] >> half, value[walking] & low
        for k in rounds if rounds.ndim == 1 else rounds[:, walking]:
            left, right = right, left ^ (mix(right ^ k) & low)
        value[walking] = (left << half) | right
        walking = walking[value[walking] >= limits[walking]]
    return value.astype(np.int64)


def places_at(positions: Ints, count: int, key: int, order: Order) -> Ints:
    """Places i64[K] of ``positions`` i64[K], 0 <= position < ``count``, in the sequence that ``order.along`` names.

    Each mode is a permutation of 0..count-1 and takes the same time wherever the positions are.
    """
    if order.shuffle == "none":
        return positions.copy()
    if order.shuffle == "global":
        return permute(positions, count, key)
    if order.shuffle == "block":
        return _blocks(positions, count, key, order)
    if order.shuffle == "spread":
        return _spread(positions, count, key, min(order.strata, count))
    run = positions // order.near
    whole = count // order.near
    return np.where(run < whole, permute(np.minimum(run, max(whole - 1, 0)), whole, key), run) * order.near + (
        positions % order.near
    )


def _derived(key: int, number: Ints | int) -> Keys:
    """Keys of the parts of an epoch: one a window or a stratum."""
    with np.errstate(over="ignore"):
        keys: Keys = mix(np.uint64(key) ^ mix(np.asarray(number).astype(np.uint64) + GOLDEN))
        return keys


def _blocks(positions: Ints, count: int, key: int, order: Order) -> Ints:
    """Blocks permuted, the short one last; then the samples of each window of blocks permuted."""
    size = order.block
    span = size * order.window
    window = positions // span
    within = permute(positions % span, np.minimum(span, count - window * span), _derived(key, window), min(span, count))
    slot = window * order.window + within // size
    whole = count // size
    block = np.where(slot < whole, permute(np.minimum(slot, max(whole - 1, 0)), whole, key), slot)
    return block * size + within % size


def _spread(positions: Ints, count: int, key: int, strata: int) -> Ints:
    """One sample of each stratum a batch, in an order of strata that the epoch keeps.

    Strata hold the full number of rows or one less; the longer ones take the first slots, so that the last batch,
    which may be short, is filled from them.
    """
    row, slot = positions // strata, positions % strata
    edges = np.arange(strata + 1, dtype=np.int64) * count // strata
    sizes = np.diff(edges)
    rows = -(-count // strata)
    long, short = np.flatnonzero(sizes == rows), np.flatnonzero(sizes < rows)
    turn = np.concatenate((
        long[permute(np.arange(len(long)), len(long), _derived(key, 0).item())],
        short[permute(np.arange(len(short)), len(short), _derived(key, 1).item())],
    ))  # fmt: skip
    stratum = turn[slot]
    return edges[stratum] + permute(row, sizes[stratum], _derived(key, stratum + 2), rows)


def steps_per_epoch(count: int, batch_size: int) -> int:
    """Global batches in an epoch; the last may be padded."""
    return -(-count // batch_size)


def slots(batch_size: int, part: int, parts: int, together: bool = False) -> Ints:
    """Slots i64[batch_size/parts] of a global batch that one part takes: every ``parts``-th, so tails spread evenly.

    A part is one micro-batch of one rank, number ``micro * world + rank``: four ranks, or one rank that accumulates
    four times, compute the same micro-batches. ``together`` gives each part a run of slots instead: where neighbouring
    slots belong together, or their sources alternate in step with the parts.
    """
    if batch_size % parts:
        raise ConfigError(
            f"batch_size={batch_size} is not divisible by {parts} (ranks times accumulation); "
            f"choose batch_size={-(-batch_size // parts) * parts} or another number of processes"
        )
    if together:
        each = batch_size // parts
        return np.arange(part * each, (part + 1) * each, dtype=np.int64)
    return np.arange(part, batch_size, parts, dtype=np.int64)


def batch_positions(
    start: int, count: int | None, batch_size: int, part: int, parts: int, together: bool = False
) -> tuple[Ints, NDArray[np.bool_]]:
    """Positions i64[batch_size/parts] and mask of one part of the global batch that begins at position ``start``.

    Slots past the end of the epoch are masked (False) and hold position -1; no position is repeated to fill them. An
    endless sequence has the ``count`` None.
    """
    positions = start + slots(batch_size, part, parts, together)
    valid = np.ones(len(positions), bool) if count is None else positions < count
    return np.where(valid, positions, -1), valid


def slot_seeds(key: int, positions: Ints) -> Keys:
    """u64[K]: the seed of everything random about the samples at ``positions`` of the epoch with ``key``."""
    with np.errstate(over="ignore"):
        seeds: Keys = mix(mix(positions.astype(np.uint64) + GOLDEN) ^ np.uint64(key))
        return seeds


def draw(seed: int | np.uint64, stream: int, size: int = 1) -> NDArray[np.float64]:
    """``size`` uniform numbers f64 in [0, 1) of one slot; ``stream`` tells independent uses of one seed apart."""
    base = mix_word((int(seed) + _GOLDEN * (stream + 1)) & _WORD)
    if size <= FEW:  # an array of a few words takes ten times as long
        return np.array([(mix_word((base + _GOLDEN * i) & _WORD) >> 11) * 2.0**-53 for i in range(1, size + 1)])
    return uniform(np.array([base], np.uint64), size)[0]
