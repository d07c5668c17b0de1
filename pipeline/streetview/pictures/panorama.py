"""Panoramas (equirectangular) as perspective views, as a pinhole camera would have taken them.

Directions: heading clockwise from true north and elevation above the horizon. The middle column of the whole sphere
looks at the panorama's heading, the middle row at the horizon (GPano; Mapillary and Panoramax do the same).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Pixels = NDArray[np.uint8]
Words = NDArray[np.uint32]

#: How far a panorama's sides may be from 2:1 to count as a whole sphere that says nothing of itself.
_RATIO = 0.02


@dataclass(frozen=True)
class View:
    """One perspective view."""

    turn: float  # of its axis from the panorama's middle, degrees clockwise, 0 <= turn < 360
    fov: float  # horizontal and vertical field of view in degrees
    size: int  # pixels a side


def views_around(count: int, fov: float, size: int) -> list[View]:
    """``count`` level views evenly around, the first straight ahead."""
    return [View(360.0 * k / count, fov, size) for k in range(count)]


def rays(view: View) -> tuple[Floats, Floats]:
    """Directions of a view's pixel centres, f64[S,S] each: turn from the panorama's middle, -180 <= turn < 180 degrees,
    and elevation, -90..90 degrees.

    A pinhole: pixel (column, row) looks along (x, y, 1) with x right, y down, (2·(i + ½)/S - 1)·tan(fov/2) each.
    """
    across = (2.0 * (np.arange(view.size) + 0.5) / view.size - 1.0) * math.tan(math.radians(view.fov) / 2.0)
    x, y = np.meshgrid(across, across)
    turn = np.degrees(np.arctan2(x, 1.0)) + view.turn
    elevation = np.degrees(np.arctan2(-y, np.hypot(x, 1.0)))
    return (turn + 180.0) % 360.0 - 180.0, elevation


def is_whole(width: int, height: int) -> bool:
    """Whether a picture's sides are those of a whole sphere."""
    return abs(width / (2.0 * height) - 1.0) <= _RATIO


def reduction(width: int, visible: tuple[float, float, float, float], view: View) -> int:
    """By which whole factor a panorama ``width`` pixels wide may be made smaller for a view to keep its detail.

    At the view's middle a pixel is 2·tan(fov/2)/S radians wide; the panorama keeps at least as many there.
    """
    sphere = width / max(visible[2] - visible[0], 1e-9)
    needed = 2.0 * math.pi * view.size / (2.0 * math.tan(math.radians(view.fov) / 2.0))
    return max(1, int(sphere // needed))


def cut_view(panorama: Pixels, visible: tuple[float, float, float, float], view: View) -> Pixels | None:
    """A view u8[S,S,3] of a panorama u8[H,W,3] or u8[H,W,4]; None where it looks beyond what that has of the sphere.

    ``visible`` is that part: left, top, right, bottom as shares of the whole.

    Bilinear, at most 1.5 from the exact value; over the seam at the back where the panorama closes there.
    """
    height, width, channels = panorama.shape
    found = _places(view, width, height, visible)
    if found is None:
        return None
    if channels == 3:
        panorama = np.concatenate((panorama, np.zeros((height, width, 1), np.uint8)), axis=2)
    words = np.ascontiguousarray(panorama).reshape(-1).view(np.uint32)
    corners = [words.take(at, mode="clip") for at in found.corners]
    even, odd = ([(word >> np.uint32(shift)) & _LANES for word in corners] for shift in (0, 8))
    low, high = (_mix(_mix(a, b, found.across), _mix(c, d, found.across), found.down) for a, b, c, d in (even, odd))
    mixed = low | (high << np.uint32(8))
    return np.ascontiguousarray(mixed.view(np.uint8).reshape(view.size, view.size, 4)[..., :3])


#: Two of a word's four channels, in 16 bits each.
_LANES, _HALF = np.uint32(0x00FF00FF), np.uint32(0x00800080)


def _mix(first: Words, second: Words, share: Words) -> Words:
    """Two channels of each word between two words; ``share`` of the second in 256ths."""
    mixed = first * (np.uint32(256) - share)
    mixed += second * share
    mixed += _HALF
    mixed >>= np.uint32(8)
    mixed &= _LANES
    return mixed


@dataclass(frozen=True, eq=False)
class _Places:
    """Where a view's P pixels lie in panoramas of one size."""

    corners: NDArray[np.intp]  # [4,P] numbers of the pixels around: upper left, upper right, lower left, lower right
    across: Words  # [P] share of the right ones, in 256ths
    down: Words  # [P] of the lower ones


@lru_cache(maxsize=16)
def _places(view: View, width: int, height: int, visible: tuple[float, float, float, float]) -> _Places | None:
    """None where the view looks beyond what the panorama has."""
    left, top, right, bottom = visible
    if not (right > left and bottom > top):
        return None
    turn, elevation = rays(view)
    u = (turn / 360.0 + 0.5 - left) / (right - left) * width - 0.5  # in pixels, 0 the first one's centre
    v = (0.5 - elevation / 180.0 - top) / (bottom - top) * height - 0.5
    closes = right - left >= 1.0 - 0.5 / width
    if not closes and (u.min() < -0.5 or u.max() > width - 0.5):
        return None
    poles = (top <= 0.5 / height, bottom >= 1.0 - 0.5 / height)
    if (v.min() < -0.5 and not poles[0]) or (v.max() > height - 0.5 and not poles[1]):
        return None
    fixed = [np.rint(a.reshape(-1) * 256).astype(np.int64) for a in (u, v)]
    column, line = (a >> 8 for a in fixed)
    columns = [(column + k) % width if closes else np.clip(column + k, 0, width - 1) for k in (0, 1)]
    lines = [np.clip(line + k, 0, height - 1) for k in (0, 1)]
    corners = np.stack([y * width + x for y in lines for x in columns])
    across, down = ((a & 255).astype(np.uint32) for a in fixed)
    return _Places(corners, across, down)
