"""SplitMix64 (Steele, Lea and Flood 2014): the one source of pseudo-random words and 64-bit hashes of arrays."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

#: Increment and multipliers of SplitMix64.
GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)


def mix(value: Any) -> Any:
    """SplitMix64's finaliser: u64 array or number to the same, each bit depending on all."""
    with np.errstate(over="ignore"):
        value = (value ^ (value >> np.uint64(30))) * _MIX_1
        value = (value ^ (value >> np.uint64(27))) * _MIX_2
        return value ^ (value >> np.uint64(31))


def uniform(seed: NDArray[np.uint64], count: int) -> NDArray[np.float64]:
    """``count`` uniform numbers in [0, 1) a seed, f64[N,count]: counted, so that any row can be drawn alone."""
    with np.errstate(over="ignore"):
        words: NDArray[np.uint64] = mix(seed[:, None] + GOLDEN * np.arange(1, count + 1, dtype=np.uint64))
    return (words >> np.uint64(11)).astype(np.float64) * 2.0**-53


def mix_word(value: int) -> int:
    """:func:`mix` of one number 0 <= value < 2^64, without an array."""
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & 0xFFFFFFFFFFFFFFFF
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & 0xFFFFFFFFFFFFFFFF
    return value ^ (value >> 31)
