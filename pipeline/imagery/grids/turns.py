"""A raster's grid around the world: what lies beyond ±180° is the other side.

Where a CRS is geographic or a cylinder, going once around the world leads to the same place at another x. A grid of 0
to 360° lies half on the map and half beyond it, where no projected position comes to; moved by a turn, the other half
does.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from pyproj import CRS, Transformer
from pyproj.exceptions import ProjError

Affine = tuple[float, float, float, float, float, float]

#: Longitudes, the first and the last of which are one.
_LON = np.arange(-180.0, 181.0, 10.0)
#: Share of a turn that rounding may have.
_ROUNDING = 1e-9


class Around(NamedTuple):
    """The x of a CRS around the world."""

    least: float  # where the map begins
    turn: float  # from there to the same place


@lru_cache(maxsize=64)
def around(crs: str) -> Around | None:
    """None: x is no longitude in this CRS."""
    known = CRS.from_user_input(crs)
    if known.is_geographic:
        turn = round(math.tau / known.axis_info[0].unit_conversion_factor, 9)
        return Around(-turn / 2, turn)
    if not known.is_projected or known.geodetic_crs is None:
        return None
    to_crs = Transformer.from_crs(known.geodetic_crs, known, always_xy=True)  # of one datum
    try:
        x, y = to_crs.transform(np.stack((_LON, _LON)), np.stack((0 * _LON, 0 * _LON + 45)))
    except ProjError:
        return None
    if not np.isfinite([x, y]).all():
        return None
    step = np.diff(x[0])
    turn = float(np.median(step)) * len(step)
    if turn <= 0 or np.ptp(x, axis=0).max() > turn * _ROUNDING or np.ptp(y, axis=1).max() > turn * _ROUNDING:
        return None
    low, high = (float(v) for v in _LON[[-2, -1]])
    jump = int(step.argmin())
    if step[jump] < 0:  # the map begins between two: halve until it is found
        low, high = float(_LON[jump]), float(_LON[jump + 1])
    at_low = float(x[0, jump if step[jump] < 0 else -2])
    for _ in range(60):
        middle = (low + high) / 2
        there = float(to_crs.transform(middle, 0.0)[0])
        low, high, at_low = (middle, high, there) if there >= at_low else (low, middle, at_low)
    return Around(at_low - turn, turn)


def turns(crs: str, transform: Affine, width: int, height: int) -> list[Affine]:
    """The transforms by which a raster lies on the map: its own, or moved by turns; several where it reaches beyond."""
    known = around(crs)
    a, b, c, d, e, f = transform
    left = c + min(0.0, a * width) + min(0.0, b * height)
    right = c + max(0.0, a * width) + max(0.0, b * height)
    if known is None:
        return [transform]
    least, turn = known
    first = math.ceil((least - right) / turn + _ROUNDING)
    last = math.floor((least + turn - left) / turn - _ROUNDING)
    found = sorted(range(first, last + 1), key=abs)
    return [(a, b, c + n * turn, d, e, f) if n else transform for n in found] or [transform]
