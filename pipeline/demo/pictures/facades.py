"""Facades of the street views: walls with windows, doors, shop fronts and gates."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.demo.geo import FloatArray
from pipeline.demo.pictures.ground import noise_texture
from pipeline.demo.town.block import LEVEL_M


@dataclass(frozen=True)
class Wall:
    """An upright face from a to b (camera X, Z), seen from its outside.

    peak is the extra height in the middle (a gable); light its brightness.
    """

    a: FloatArray
    b: FloatArray
    height: float
    peak: float
    light: float
    rgb: tuple[int, int, int]
    style: str
    levels: int
    number: int


def facade(wall: Wall, u: FloatArray, h: NDArray[np.float32], seed: int) -> NDArray[np.float32]:
    """Colours (rows, columns, 3) of a wall; u is metres along it, h metres up."""
    rgb = np.array(wall.rgb, dtype=np.float32)
    texture = noise_texture(seed, 1000, 0.55)
    grain = texture[(h * 9).astype(np.intp) % 1000, ((u * 9).astype(np.intp) + 37 * wall.number) % 1000]
    out = np.repeat((1.0 + 0.03 * grain)[..., None], 3, axis=2).astype(np.float32) * rgb
    length = float(np.hypot(*(wall.b - wall.a)))
    if wall.style == "cabin":
        out[(h > 0.9) & (h < 1.36) & (np.abs(u - length / 2) < length * 0.46)[None, :]] = (52, 60, 68)
        return out * np.float32(wall.light)
    if wall.style == "car":
        wheel = (np.abs(np.abs(u - length / 2) - length * 0.31) < 0.33)[None, :] & (length > 3.0)
        out[(h < 0.22) | ((h < 0.6) & wheel)] = (34, 34, 36)
        return out * np.float32(wall.light)
    _windows(wall, out, u, h, length)
    # Dirt near the ground, shade under the eaves.
    soft = 1.0 - 0.10 * np.clip(1.0 - h, 0, 1) - 0.14 * np.clip((h - wall.height + 0.5) * 2, 0, 1)
    out *= (soft * wall.light)[..., None].astype(np.float32)
    return out


def _windows(wall: Wall, out: NDArray[np.float32], u: FloatArray, h: NDArray[np.float32], length: float) -> None:
    """Paint windows, doors, shop fronts and gates onto a facade."""
    pitch = {"flats": 2.6, "church": 5.0, "hall": 6.0}.get(wall.style, 2.9)
    bays = max(1, round(length / pitch))
    bay = u / length * bays
    fu = bay - np.floor(bay)
    number = np.minimum(bay.astype(np.intp), bays - 1)
    floor = np.floor(h / LEVEL_M)
    fh = h / LEVEL_M - floor
    if wall.style == "hall":
        strip = (h > wall.height - 2.0) & (h < wall.height - 0.9) & (fu > 0.06)[None, :]
        out[strip] = (92, 108, 122)
        gate = (h < 3.6) & ((number % 4 == 1) & (np.abs(fu - 0.5) < 0.36))[None, :]
        out[gate] = (150, 92, 60) if wall.number % 3 else (72, 96, 128)
        return
    if wall.style == "church":
        tall = (h > 2.5) & (h < wall.height - 2.0) & (np.abs(fu - 0.5) < 0.14)[None, :]
        out[tall] = (62, 66, 78)
        return
    wide = 0.34 if wall.style == "flats" else 0.23
    body = (floor < wall.levels) & (h < wall.height - 0.3)
    glass = body & (fh > 0.3) & (fh < 0.78) & (np.abs(fu - 0.5) < wide)[None, :]
    frame = body & (fh > 0.26) & (fh < 0.82) & (np.abs(fu - 0.5) < wide + 0.04)[None, :]
    out[frame] = out[frame] * 0.5 + 118.0
    shade = ((number * 7 + wall.number * 13)[None, :] + floor * 11) % 5
    out[glass] = (np.array([58, 70, 84], np.float32) + 12.0 * shade[..., None])[glass]
    ground_floor = h < LEVEL_M
    if wall.style == "shop" and wall.number % 8 in (0, 2):
        front = ground_floor & (h > 0.35) & (h < 2.35) & (np.abs(fu - 0.5) < 0.45)[None, :]
        out[front] = (84, 92, 98)
        signs = ((176, 40, 44), (34, 92, 150), (40, 120, 70), (214, 160, 40), (96, 52, 110))
        out[(h > 2.45) & (h < 3.0)] = signs[wall.number // 8 % 5]
    door = (h < 2.15) & ((number == bays // 2) & (np.abs(fu - 0.5) < 0.17))[None, :]
    out[door] = ((104, 70, 48), (70, 84, 74), (120, 110, 100))[wall.number % 3]
