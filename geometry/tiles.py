"""Arithmetic on many tiles of a quad pyramid at once. Single tiles go through mercantile, which trainers lack."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


def children(tiles: Ints, levels: int) -> Ints:
    """All tiles so many levels below tiles (column, row) i64[T,2], i64[T * 4^levels, 2]."""
    side = np.arange(1 << levels, dtype=np.int64)
    steps = np.stack(np.meshgrid(side, side), axis=-1).reshape(1, -1, 2)
    return ((tiles[:, None, :] << levels) + steps).reshape(-1, 2)
