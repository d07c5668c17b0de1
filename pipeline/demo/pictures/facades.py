"""Facades of the street views: walls with windows, doors, shop fronts and gates."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.demo.pictures.ground import noise_texture
from pipeline.demo.town.block import LEVEL_M

Plane = NDArray[np.float32]


@dataclass(frozen=True)
class Face:
    """What a wall looks like: peak is the extra height in its middle (a gable), light its brightness."""

    height: float
    peak: float
    light: float
    rgb: tuple[int, int, int]
    style: str
    levels: int
    number: int


#: Style -> metres between the middles of windows, their half width as a share of that and half height of a storey.
_HOUSE = (2.9, 0.23, 0.24)
_WINDOWS = {
    "flats": (2.6, 0.34, 0.24), "church": (5.0, 0.0, 0.0), "hall": (6.0, 0.0, 0.0), "tall": (2.2, 0.2, 0.36),
    "ribbon": (4.5, 0.5, 0.2), "balcony": (3.4, 0.3, 0.26), "arcade": (3.6, 0.16, 0.3),
}  # fmt: skip


def facade(face: Face, length: float, u: Plane, h: Plane, seed: int) -> NDArray[np.float32]:
    """Colours (3, rows, columns) of a wall seen from its outside; u is metres along it (columns), h metres up."""
    texture = noise_texture(seed, 1024, 0.55)
    grain = texture[(h * 9).astype(np.int32) & 1023, ((u * 9).astype(np.int32) + 37 * face.number) & 1023]
    grain *= 0.03
    grain += 1.0
    out = np.multiply.outer(np.array(face.rgb, np.float32), grain)
    if face.style == "cabin":
        _fill(out, (h > 0.9) & (h < 1.36) & (np.abs(u - length / 2) < length * 0.46), (52, 60, 68))
        grain.fill(face.light)
    elif face.style == "car":
        wheel = (np.abs(np.abs(u - length / 2) - length * 0.31) < 0.33) & (length > 3.0)
        _fill(out, (h < 0.22) | ((h < 0.6) & wheel), (34, 34, 36))
        grain.fill(face.light)
    else:
        _openings(face, out, u, h, length)
        # Dirt near the ground, shade under the eaves.
        grain = 1.0 - 0.10 * np.clip(1.0 - h, 0, 1) - 0.14 * np.clip((h - (face.height - 0.5)) * 2, 0, 1)
        grain *= face.light
    out *= grain
    return out


def _fill(out: NDArray[np.float32], where: NDArray[np.bool_], rgb: tuple[Any, Any, Any]) -> None:
    for plane, value in zip(out, rgb, strict=True):
        np.copyto(plane, value, where=where)


def _openings(face: Face, out: NDArray[np.float32], u: Plane, h: Plane, length: float) -> None:
    """Paint windows, doors, shop fronts and gates onto a facade."""
    pitch, wide, tall = _WINDOWS.get(face.style, _HOUSE)
    bays = max(1, round(length / pitch))
    bay = u * np.float32(bays / length)
    number = np.minimum(bay.astype(np.int32), bays - 1)
    off = np.abs(bay - np.floor(bay) - 0.5)  # from the middle of the bay
    if face.style == "hall":
        _fill(out, (h > face.height - 2.0) & (h < face.height - 0.9) & (off < 0.44), (92, 108, 122))
        gate = (150, 92, 60) if face.number % 3 else (72, 96, 128)
        _fill(out, (h < 3.6) & ((number % 4 == 1) & (off < 0.36)), gate)
        return
    if face.style == "hedge":
        return
    if face.style == "church":
        _fill(out, (h > 2.5) & (h < face.height - 2.0) & (off < 0.14), (62, 66, 78))
        return
    storey = h * np.float32(1 / LEVEL_M)
    floor = np.floor(storey)
    storey_part = storey - floor
    storey -= floor + np.float32(0.54)
    above = np.abs(storey, out=storey)  # from the middle of the windows
    body = (floor < face.levels) & (h < face.height - 0.3)
    np.copyto(out, out * 0.5 + 118.0, where=body & (above < tall + 0.04) & (off < wide + 0.04))
    shade = 12.0 * (((number * 7 + face.number * 13) % 5 + floor) % 5)
    _fill(out, body & (above < tall) & (off < wide), (58 + shade, 70 + shade, 84 + shade))
    if face.style == "shop" and face.number % 8 in (0, 2):
        _fill(out, (h > 0.35) & (h < 2.35) & (off < 0.45), (84, 92, 98))
        signs = ((176, 40, 44), (34, 92, 150), (40, 120, 70), (214, 160, 40), (96, 52, 110))
        _fill(out, (h > 2.45) & (h < 3.0), signs[face.number // 8 % 5])
    if face.style == "balcony":
        rail = body & (floor >= 1) & (number % 3 != face.number // 8 % 3) & (np.abs(storey_part - 0.2) < 0.17)
        np.copyto(out, out * 0.35 + 140.0, where=rail)
    if face.style == "arcade":
        arch = 1.9 + 0.9 * np.sqrt(np.clip(1 - (off / 0.36) ** 2, 0, 1))
        _fill(out, (h < arch) & (off < 0.36), (48, 46, 48))
        return
    door = ((104, 70, 48), (70, 84, 74), (120, 110, 100))[face.number % 3]
    _fill(out, (h < 2.15) & ((number == bays // 2) & (off < 0.17)), door)
