"""Splits by geography: whole blocks of ground go to one split, so that no test tile has a training neighbour."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

from schemas.errors import ConfigError

SPLITS = ("train", "val", "test")
BUFFER = "buffer"


@dataclass(frozen=True)
class SplitConfig:
    """How ground is divided."""

    block_degrees: float = 0.1  # height of a block in degrees; its width is the same in metres, within a rounding
    val: float = 0.1  # share of blocks, 0..1
    test: float = 0.1  # share of blocks, 0..1
    buffer_degrees: float = 0.0  # degrees; footprints nearer than this to another split's block go to buffer
    seed: int = 0  # of the lots that say which block is in which split

    def __post_init__(self) -> None:
        if not (1e-4 <= self.block_degrees <= 10 and self.val >= 0 and self.test >= 0 and self.val + self.test <= 1):
            raise ConfigError("split: block_degrees must be 0.0001 to 10, val and test shares of at most 1 together")
        if not 0 <= self.buffer_degrees < self.block_degrees:
            raise ConfigError("split: buffer_degrees must be at least 0 and below block_degrees")


def block_split(row: int, column: int, config: SplitConfig) -> str:
    """The split of one block, from a seeded hash of its indices."""
    text = f"{config.seed}/{config.block_degrees}/{row}/{column}"
    draw = int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "little") / 2**64
    return "test" if draw < config.test else "val" if draw < config.test + config.val else "train"


def assign_split(bbox: tuple[float, float, float, float], config: SplitConfig) -> str:
    """The split of a footprint by its bbox (west, south, east, north in degrees; west is over east across the 180th
    meridian), or ``buffer``.

    A footprint belongs to a split if every block that it, widened by the buffer, meets is of that split. The answer
    depends on the ground alone: not on zoom, source, modality or the rest of the dataset.
    """
    west, south, east, north = bbox
    east += 360.0 if west > east else 0.0
    size, pad = config.block_degrees, config.buffer_degrees
    # A footprint ends where the next begins: an upper edge on a block's border does not meet that block.
    first, last = math.floor((south - pad) / size), math.ceil((north + pad) / size) - 1

    def spans() -> Iterator[tuple[int, int, int]]:
        for row in range(first, max(first, last) + 1):
            width = 360.0 / _columns(row, size)
            pad_x = pad * width / size
            left, right = math.floor((west - pad_x) / width), math.ceil((east + pad_x) / width) - 1
            yield row, left, max(left, right)

    return _split_of(spans(), config)


def assign_splits(boxes: NDArray[np.float64], config: SplitConfig) -> list[str]:
    """`assign_split` of each bbox f64[N,4]; footprints that meet the same blocks are judged once.

    Raises:
        ValueError: a bbox is not finite.
    """
    if not np.isfinite(boxes).all():
        raise ValueError("a bbox is not finite")
    west, south, east, north = boxes.T
    east = east + np.where(west > east, 360.0, 0.0)
    size, pad = config.block_degrees, config.buffer_degrees
    first = np.floor((south - pad) / size)
    last = np.maximum(first, np.ceil((north + pad) / size) - 1)
    spans = []
    for row in (first, last):
        rows, which = np.unique(row, return_inverse=True)
        width = 360.0 / np.array([_columns(int(r), size) for r in rows.tolist()])[which]
        pad_x = pad * width / size
        left = np.floor((west - pad_x) / width)
        spans += [row, left, np.maximum(left, np.ceil((east + pad_x) / width) - 1)]
    blocks, which = np.unique(np.stack(spans, 1).astype(np.int64), axis=0, return_inverse=True)
    found = [_split_of({(a, b, c), (d, e, f)}, config) for a, b, c, d, e, f in blocks.tolist()]
    splits = [found[k] for k in which.ravel().tolist()]
    for n in np.flatnonzero(last - first > 1).tolist():  # the first and the last row do not say what lies between
        splits[n] = assign_split(tuple(boxes[n].tolist()), config)
    return splits


def _columns(row: int, size: float) -> int:
    """Blocks of a row around the world."""
    return max(1, round(360.0 / size * math.cos(math.radians(min(89.0, abs((row + 0.5) * size))))))


def _split_of(spans: Iterable[tuple[int, int, int]], config: SplitConfig) -> str:
    """The split of all blocks of some rows (row, first and last column), or ``buffer``."""
    shares = dict(zip(SPLITS, (1 - config.val - config.test, config.val, config.test), strict=True))
    for split, share in shares.items():
        if share == 1:
            return split
    found: set[str] = set()
    for row, left, right in spans:
        columns = _columns(row, config.block_degrees)
        for column in range(left, right + 1):
            found.add(block_split(row, column % columns, config))
            if len(found) > 1:
                return BUFFER
    return found.pop()
