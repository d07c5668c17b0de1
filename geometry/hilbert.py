"""The Hilbert curve: an order of places on a square whose neighbours are neighbours on the map."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]


def hilbert(x: Ints, y: Ints, order: int) -> Ints:
    """Distance along the Hilbert curve of ``order`` (side 2^order), i64[N]: its neighbours are neighbours on the map.

    >>> hilbert(np.array([0, 0, 1, 1]), np.array([0, 1, 1, 0]), 1).tolist()
    [0, 1, 2, 3]
    """
    x, y = x.astype(np.int64).copy(), y.astype(np.int64).copy()
    distance = np.zeros(len(x), np.int64)
    for bit in range(order - 1, -1, -1):
        s = np.int64(1) << bit
        rx, ry = (x & s) > 0, (y & s) > 0
        distance += s * s * ((3 * rx) ^ ry)
        flip = ~ry & rx
        x[flip], y[flip] = s - 1 - (x[flip] & (s - 1)), s - 1 - (y[flip] & (s - 1))
        swap = ~ry
        x[swap], y[swap] = y[swap], x[swap]
        x &= s - 1
        y &= s - 1
    return distance
