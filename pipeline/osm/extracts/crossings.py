"""Where sides of areas meet outside their common corners, in exact arithmetic."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import shapely
from numpy.typing import NDArray

from geometry.packed import changes, expand
from pipeline.formats.pbf.arrays import UNITS
from pipeline.formats.wire import Ints

Bools = NDArray[np.bool_]
Floats = NDArray[np.float64]

#: A corner lies on a side that is as near (units of 1e-7 degree): rounding to degrees moves each by 1.4e-7 at most.
_NEAR = 1e-6
#: Sides whose neighbours are looked up at a time; units from one area to the next in the index of sides.
_SIDES, _APART = 256, 4e9
_PRIME = (1 << 31) - 1


@dataclass(frozen=True, eq=False)
class Corners:
    """Places where sides of areas end."""

    area: Ints  # [C]
    xy: Ints  # [C,2] units of 1e-7 degree


def place_text(xy: Ints | Floats) -> str:
    """Longitude and latitude of a place in units."""
    return f"{xy[0] / UNITS:.7f} {xy[1] / UNITS:.7f}"


def cut_at_corners(corners: Corners, sides: Ints) -> tuple[Ints, dict[int, Floats]]:
    """Sides cut at the corners that lie on them, i64[2,S]; and where sides cross elsewhere, f64[2] by area.

    Args:
        corners: C corners.
        sides: corners of both ends of each side, i64[2,S]; none twice.
    """
    sides = _without_overlaps(corners, sides)
    area, xy = corners.area[sides[0]], corners.xy
    crossed: dict[int, Floats] = {}
    met = [np.zeros(0, np.int64)]
    _, nth = np.unique(area, return_inverse=True)
    lines = shapely.linestrings(xy[sides.T] + np.stack((nth * _APART, np.zeros(len(nth))), axis=1)[:, None])
    tree = shapely.STRtree(lines)
    for begin in range(0, len(area), _SIDES):
        few = np.arange(begin, min(begin + _SIDES, len(area)))
        few = few[~np.isin(area[few], list(crossed))]
        at, other = tree.query(lines[few])
        one, other = few[at][few[at] != other], other[few[at] != other]
        on, turn = _ends_on(xy, sides[:, one], sides[:, other])
        astride = (turn[0] * turn[1] < 0) & ~on.any(axis=0)
        over, under = one[astride], other[astride]
        off, back = _ends_on(xy, sides[:, under], sides[:, over])
        cross = (back[0] * back[1] < 0) & ~off.any(axis=0)
        order = np.lexsort((under[cross], over[cross]))  # not that of the index, which other areas change
        over, under = over[cross][order], under[cross][order]
        _note(crossed, area[over], _crossing(xy[sides[:, over]], xy[sides[:, under]]))
        met += [np.unique((one[on[end]] << 32) + sides[end, other[on[end]]]) for end in (0, 1)]
    both = np.unique(np.concatenate(met))
    side, corner = both >> 32, both & 0xFFFFFFFF
    through = _parted(xy, sides, sides[:, side], corner)
    _note(crossed, area[side[through]], xy[corner[through]])
    return _cut(xy, sides, side, corner), crossed


def _without_overlaps(corners: Corners, sides: Ints) -> Ints:
    """Sides of which none lies along another: in the place of those that do, the stretches that an odd number of them
    has. What thousands have in common would else be cut and compared pair by pair.

    Args:
        corners: C corners.
        sides: i64[2,S]; by area.
    """
    area = corners.area[sides[0]]
    begin, end = corners.xy[sides]
    back = np.where(begin[:, 0] == end[:, 0], begin[:, 1] > end[:, 1], begin[:, 0] > end[:, 0])
    low, high = np.where(back, sides[::-1], sides)
    along = corners.xy[high] - corners.xy[low]
    along //= np.gcd(*along.T)[:, None]
    # Which of the parallel lines it lies on takes over 64 bits: the rest of two divisions, one of them by 2^64.
    (x, y), (dx, dy) = begin.T, along.T
    rest = ((x % _PRIME) * (dy % _PRIME) - (y % _PRIME) * (dx % _PRIME)) % _PRIME
    columns = area, dx, dy, x * dy - y * dx, rest
    first, last = (np.where(dx > 0, *corners.xy[corner].T) for corner in (low, high))
    order = np.lexsort((first, *columns[::-1]))
    line = np.cumsum(changes(*(c[order] for c in columns)))
    reach = np.maximum.accumulate((line << 33) + last[order])  # places are below 2^31
    apart = np.append(True, reach[:-1] <= ((line << 33) + first[order])[1:])
    if apart.all():
        return sides
    bundle = np.empty(len(order), np.int64)
    bundle[order] = np.cumsum(apart)
    several = np.bincount(bundle)[bundle] > 1
    owner, corner = np.tile(bundle[several], 2), np.concatenate((low[several], high[several]))
    order = np.lexsort((np.concatenate((first[several], last[several])), owner))
    owner, corner = owner[order], corner[order]
    at = np.flatnonzero(changes(owner, corner))
    passed = np.append(at[1:], len(owner))  # ends up to and with each corner; a bundle has an even number
    odd = np.flatnonzero(passed % 2 == 1)
    pieces = np.stack((corner[at[odd]], corner[at[odd + 1]]))
    sides = np.concatenate((sides[:, ~several], pieces), axis=1)
    return sides[:, np.argsort(corners.area[sides[0]], kind="stable")]


def _note(crossed: dict[int, Floats], areas: Ints, places: Ints | Floats) -> None:
    for area, place in zip(areas.tolist(), places, strict=True):
        crossed.setdefault(area, place)


def _turns(xy: Ints, start: Ints, end: Ints, corner: Ints) -> tuple[Ints, Bools]:
    """To which side of the line from start to end a corner lies (1 left, -1 right), and whether on the line."""
    along, aside = xy[end] - xy[start], xy[corner] - xy[start]
    left, right = (
        along[:, 0] * aside[:, 1],
        along[:, 1] * aside[:, 0],
    )  # below 2^63; what wraps is large
    on = np.abs((left - right).astype(np.float64)) <= _NEAR * np.hypot(*along.T.astype(np.float64))
    return (left > right).astype(np.int64) - (left < right), on


def _ends_on(xy: Ints, one: Ints, other: Ints) -> tuple[Bools, Ints]:
    """Of pairs of sides i64[2,P]: which ends of the other lie inside the one, bool[2,P], and to which side of it."""
    on, turn = np.empty(other.shape, bool), np.empty(other.shape, np.int64)
    ends = xy[one].astype(np.float64)
    for i, corner in enumerate(other):
        turn[i], on[i] = _turns(xy, one[0], one[1], corner)
        for near, far in (ends, ends[::-1]):
            on[i] &= ((xy[corner] - near) * (far - near)).sum(axis=1) > 0
    return on, turn


def _crossing(one: Ints, other: Ints) -> Floats:
    """Where sides i64[2,P,2] cross, f64[P,2]."""
    start, along = one[0].astype(np.float64), (one[1] - one[0]).astype(np.float64)
    first, last = (along[:, 0] * (end - start)[:, 1] - along[:, 1] * (end - start)[:, 0] for end in other)
    share = first / (first - last)
    return other[0] + (other[1] - other[0]) * share[:, None]


def _parted(xy: Ints, sides: Ints, one: Ints, corner: Ints) -> Bools:
    """Whether what meets in a corner inside a side passes through it: an odd number of sides leaves to the left.

    It does not where a side runs along: what is there twice is left out, so that nothing is crossed.

    Args:
        xy: i64[C,2].
        sides: i64[2,S] all sides.
        one: i64[2,T] the sides that have a corner inside.
        corner: i64[T] that corner.
    """
    near, far = np.concatenate((sides, sides[::-1]), axis=1)
    order = np.argsort(near, kind="stable")
    low, high = (np.searchsorted(near[order], corner, side) for side in ("left", "right"))
    row, nth = expand(high - low)
    turn, along = _turns(xy, one[0, row], one[1, row], far[order[low[row] + nth]])
    left = np.bincount(row, turn > 0, len(corner))
    return (left % 2 == 1) & (np.bincount(row, along, len(corner)) == 0)


def _cut(xy: Ints, sides: Ints, side: Ints, corner: Ints) -> Ints:
    """Sides i64[2,S] in their order, each cut at its corners (``corner`` lies on ``side``)."""
    owner = np.concatenate((np.arange(sides.shape[1]), side))
    start = np.concatenate((sides[0], corner))
    order = np.lexsort((np.abs(xy[start] - xy[sides[0, owner]]).sum(axis=1), owner))
    owner, start = owner[order], start[order]
    last = np.append(owner[1:] != owner[:-1], True)
    end = np.where(last, sides[1, owner], np.roll(start, -1))
    return np.stack((start, end))
