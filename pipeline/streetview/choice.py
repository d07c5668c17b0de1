"""At most K photos a footprint: those far apart, the best rated, or the first."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.streetview.filters import in_order
from pipeline.streetview.position import METRES_A_DEGREE
from pipeline.streetview.record import Drops, doubles

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
How = Literal["spread", "first", "quality"]

#: Metres apart that looking away from each other is worth: photos to both sides of a street are two, those a step
#: further on are one.
_TURN_M = 20.0


def choose(
    pairs: pa.Table, photos: pa.Table, most: int, how: How, drops: Drops, name: Callable[[int], str]
) -> dict[int, list[int]]:
    """Rows of ``photos`` (PLACED) by footprint, at most ``most`` of each, by capture time and id.

    Args:
        pairs: PAIRS
        photos: what ``pairs`` refers to
        most: 0 or more
        how: ``spread`` takes the first photo, then always the one farthest from those taken, by place and heading;
            ``quality`` takes the best rated, then the most accurate; ``first`` the first by capture time and id.
        drops: photos that are left out
        name: key of a footprint, for ``drops``
    """
    rank = np.empty(len(photos), np.int64)
    rank[in_order(photos)] = np.arange(len(photos))
    photo, footprint = (np.asarray(pairs.column(c).to_numpy()) for c in ("photo", "footprint"))
    order = np.lexsort((rank[photo], footprint))
    photo, footprint = photo[order], footprint[order]
    owners, starts = np.unique(footprint, return_index=True)
    ends = [*starts[1:].tolist(), len(photo)]
    ids = photos.column("id").to_pylist()
    chosen: dict[int, list[int]] = {}
    for owner, start, end in zip(owners.tolist(), starts.tolist(), ends[: len(starts)], strict=True):
        rows = photo[start:end]
        taken = _take(photos, rows, most, how)
        for row in np.setdiff1d(rows, taken).tolist():
            drops.add("over_max_per_tile", ids[row], name(owner))
        if len(taken):
            chosen[owner] = sorted(taken.tolist(), key=rank.__getitem__)
    return chosen


def _take(photos: pa.Table, rows: Ints, most: int, how: How) -> Ints:
    """``most`` of the rows, which are in order."""
    if len(rows) <= most or how == "first":
        return rows[:most]
    part = photos.take(pa.array(rows))
    if how == "quality":
        quality, accuracy = doubles(part, "quality"), doubles(part, "accuracy_m")
        order = np.lexsort((np.arange(len(rows)), np.nan_to_num(accuracy, nan=np.inf),
                            -np.nan_to_num(quality, nan=-np.inf)))  # fmt: skip
        return rows[order[:most]]
    return rows[farthest_points(_features(part), most)]


def farthest_points(features: Floats, most: int) -> Ints:
    """Rows of f64[N,D]: the first, then always the one farthest from those taken; of equals the first, i64[most]."""
    taken = np.zeros(min(most, len(features)), np.int64)
    distance = np.full(len(features), np.inf)
    for k in range(1, len(taken)):
        distance = np.minimum(distance, ((features - features[taken[k - 1]]) ** 2).sum(axis=1))
        distance[taken[k - 1]] = -1.0
        taken[k] = int(np.argmax(distance))
    return taken


def _features(photos: pa.Table) -> Floats:
    """Place in metres and heading as a vector, f64[N,4]; an unknown heading is in the middle of all."""
    lon, lat = doubles(photos, "lon"), doubles(photos, "lat")
    heading = np.radians(doubles(photos, "heading"))
    east = (lon - lon[0] + 180.0) % 360.0 - 180.0
    x = east * np.cos(np.radians(lat[0])) * METRES_A_DEGREE
    turn = np.nan_to_num(np.stack((np.sin(heading), np.cos(heading)), axis=1), nan=0.0) * _TURN_M
    return np.column_stack((x, (lat - lat[0]) * METRES_A_DEGREE, turn))
