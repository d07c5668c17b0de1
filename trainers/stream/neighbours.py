"""How many pairs of a batch are neighbours on the ground: false negatives of a contrastive loss, or hard ones."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

#: Mean radius of the earth in kilometres (IUGG).
EARTH = 6371.0088


def neighbour_rate(lonlat: NDArray[np.float64], km: float) -> float:
    """Share of the pairs within each batch whose centres lie at most ``km`` apart along a great circle.

    Args:
        lonlat: f64[T,B,2] centres of T batches of B samples, degrees; NaN where a slot is masked.
        km: distance in kilometres.
    """
    lon, lat = np.radians(lonlat[..., 0]), np.radians(lonlat[..., 1])
    xyz = np.stack((np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)), -1)
    most = 2 * np.sin(min(km / EARTH, np.pi) / 2)  # chord of the arc
    near = pairs = 0
    for points in xyz:
        held = points[np.isfinite(points).all(1)]
        # Differences, not dot products: those lose metres of nearby points.
        square = sum((held[:, None, k] - held[None, :, k]) ** 2 for k in range(3))
        near += int((square <= most**2).sum()) - len(held)
        pairs += len(held) * (len(held) - 1)
    return near / pairs if pairs else 0.0


def same_block_rate(lonlat: NDArray[np.float64], degrees: float = 0.1) -> float:
    """Share of the pairs within each batch whose centres lie in one block of ground.

    Args:
        lonlat: f64[T,B,2] centres, degrees; NaN where a slot is masked.
        degrees: height of a block; its width is about the same in metres, as of the blocks of the splits.
    """
    same = pairs = 0
    for points in lonlat:
        held = points[np.isfinite(points).all(1)]
        row = np.floor(held[:, 1] / degrees)
        columns = np.maximum(1, np.rint(360 / degrees * np.cos(np.radians(np.minimum(89, abs((row + 0.5) * degrees))))))
        column = np.floor(held[:, 0] / (360 / columns)) % columns
        _, counts = np.unique(np.stack((row, column), 1), axis=0, return_counts=True)
        same += int((counts * (counts - 1)).sum())
        pairs += len(held) * (len(held) - 1)
    return same / pairs if pairs else 0.0
