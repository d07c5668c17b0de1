"""Tag features without a language model: a numpy hash encoder, and weights by key frequency.

In: 64-bit tag ids. Out: f16 vectors of zero mean and unit variance, the same on every machine, and f32 weights.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from trainers.stream.order import GOLDEN, mix

Counts = NDArray[np.float64]


def _count(count: Counts) -> Counts:
    return count


def _log_count(count: Counts) -> Counts:
    return np.log(np.maximum(count, 1.0))


#: Weight of a tag from the count of its key over the dataset (specs/geolink.md section 2.4). ``released`` takes
#: ln(count), which is 0 for a key seen once; ``ours`` takes ln(1 + count), so that no tag is lost.
TAG_WEIGHTS: Mapping[str, Callable[[Counts], Counts]] = {
    "ours": np.log1p,
    "paper": _count,
    "released": _log_count,
    "uniform": np.ones_like,
}


class TagTable:
    """Features and weights of tags, each distinct tag computed once.

    Args:
        width: features a tag, 512 in the paper.
        key_counts: tag id to the count of its key (catalog/vocabulary); empty gives uniform weights.
        weighting: a key of ``TAG_WEIGHTS``.
    """

    def __init__(self, width: int, key_counts: Mapping[int, int] | None = None, weighting: str = "ours") -> None:
        self.width = width
        self._counts = dict(key_counts or {})
        self._weight = TAG_WEIGHTS[weighting if self._counts else "uniform"]
        self._features: dict[int, NDArray[np.float16]] = {}

    def features(self, tag_ids: NDArray[np.int64]) -> NDArray[np.float16]:
        """f16[K,width] of K tag ids: uniform in ±sqrt(3), so zero mean and unit variance."""
        missing = [int(t) for t in tag_ids if int(t) not in self._features]
        if missing:
            for tag, row in zip(missing, hash_features(np.array(missing, np.int64), self.width), strict=True):
                self._features[tag] = row
        if not len(tag_ids):
            return np.zeros((0, self.width), np.float16)
        return np.stack([self._features[int(t)] for t in tag_ids])

    def weights(self, tag_ids: NDArray[np.int64]) -> NDArray[np.float32]:
        """f32[K] weights; a tag that the vocabulary lacks counts as one occurrence."""
        counts = np.array([self._counts.get(int(t), 1) for t in tag_ids], np.float64)
        return self._weight(counts).astype(np.float32)


def hash_features(tag_ids: NDArray[np.int64], width: int) -> NDArray[np.float16]:
    """f16[K,width]: a pseudo-random vector a tag id, by SplitMix64 counted over the dimensions."""
    with np.errstate(over="ignore"):
        base = mix(tag_ids.astype(np.int64).view(np.uint64))[:, None]
        words = mix(base + GOLDEN * np.arange(1, width + 1, dtype=np.uint64)[None])
    unit = (words >> np.uint64(11)).astype(np.float64) * 2.0**-53
    return ((2.0 * unit - 1.0) * np.sqrt(3.0)).astype(np.float16)
