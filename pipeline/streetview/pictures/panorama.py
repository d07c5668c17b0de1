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
    """A view u8[S,S,3] of a panorama u8[H,W,3]; None where it looks beyond what the panorama has of the sphere.

    ``visible`` is that part: left, top, right, bottom as shares of the whole.

    Bilinear; over the seam at the back where the panorama closes there.
    """
    height, width = panorama.shape[:2]
    left, top, right, bottom = visible
    if not (right > left and bottom > top):
        return None
    turn, elevation = (np.asarray(a) for a in _rays(view))
    u = (turn / 360.0 + 0.5 - left) / (right - left) * width - 0.5  # in pixels, 0 the first one's centre
    v = (0.5 - elevation / 180.0 - top) / (bottom - top) * height - 0.5
    closes = right - left >= 1.0 - 0.5 / width
    if not closes and (u.min() < -0.5 or u.max() > width - 0.5):
        return None
    poles = (top <= 0.5 / height, bottom >= 1.0 - 0.5 / height)
    if (v.min() < -0.5 and not poles[0]) or (v.max() > height - 0.5 and not poles[1]):
        return None
    return _sample(panorama, u, v, closes)


@lru_cache(maxsize=16)
def _rays(view: View) -> tuple[Floats, Floats]:
    return rays(view)


def _sample(image: Pixels, u: Floats, v: Floats, closes: bool) -> Pixels:
    """Bilinear samples u8[S,S,3] at columns ``u`` and rows ``v`` in pixels."""
    height, width = image.shape[:2]
    u0, v0 = np.floor(u), np.floor(v)
    a, b = (u - u0).astype(np.float32)[..., None], (v - v0).astype(np.float32)[..., None]
    columns = [(u0.astype(np.int64) + k) % width if closes else np.clip(u0.astype(np.int64) + k, 0, width - 1)
               for k in (0, 1)]  # fmt: skip
    lines = [np.clip(v0.astype(np.int64) + k, 0, height - 1) for k in (0, 1)]
    flat = image.reshape(-1, image.shape[2])
    upper, lower = (flat[line * width + columns[0]] * (1 - a) + flat[line * width + columns[1]] * a for line in lines)
    return np.clip(np.rint(upper * (1 - b) + lower * b), 0, 255).astype(np.uint8)
