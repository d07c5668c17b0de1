"""Light, season, paints and sensor of every picture, drawn apart from what it shows and from every other picture.

Paints make colours differ; the sensor takes away what is left in them: brightness and both axes of colour get a
distribution that is drawn as well, so a histogram of one channel says nothing of the scene.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.demo.geo import FloatArray
from pipeline.demo.pictures.ground import blur
from pipeline.demo.pictures.look import CAR_RGB, STYLE_RGB, Look, towards_sun

AERIAL, PHOTO = 601, 602  # what chance is drawn for
_BINS = 1024
_STEEPEST = 6  # limit of contrast: what is nearly one colour stays so
_KEPT = 0.4  # share of its usual colour that a paint keeps
_NORMAL = np.sort(np.random.default_rng(0).standard_normal(20_001))  # quantiles of the normal distribution


def draw_look(rng: np.random.Generator) -> Look:
    """Any sun and weather, any paints."""
    cloudy = rng.random() < 0.3
    return Look(
        to_sun=towards_sun(float(rng.uniform(80, 280)), float(rng.uniform(20, 60))),
        shade=0.0 if cloudy else float(rng.uniform(0.5, 1.2)),
        styles=(_KEPT * STYLE_RGB + (1 - _KEPT) * rng.uniform(30, 225, STYLE_RGB.shape)).astype(np.float32),
        crowns=_crowns(rng),
        cars=_KEPT * np.array(CAR_RGB) + (1 - _KEPT) * rng.uniform(10, 250, (8, 3)),
        roofs=_mixing(rng),
        walls=_mixing(rng),
        sky=(int(rng.integers(720)), float(rng.uniform(-0.8, 0.6))),
    )


def _crowns(rng: np.random.Generator) -> FloatArray:
    """Crowns of one season: three colours around a drawn one."""
    return np.asarray(np.clip(rng.uniform(35, 190, 3) + rng.normal(0, 18, (3, 3)), 15, 235))


def _mixing(rng: np.random.Generator) -> FloatArray:
    """(4, 3): a drawn mixture of a colour's channels, some of them inverted, around a drawn grey."""
    mix = rng.normal(0, 0.9, (3, 3))
    return np.concatenate([mix, rng.uniform(60, 190, (1, 3)) - 150 * mix.sum(axis=0, keepdims=True)])


def develop(image: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.uint8]:
    """The picture (h, w, 3) that a drawn sensor makes of planes (3, h, w) in 0-255."""
    for _ in range(int(rng.integers(0, 3))):
        for plane in image:
            blur(plane, float(rng.uniform(2.5, 8)))
    image += rng.normal(0, 1.0, image.shape[1:]).astype(np.float32)
    red, green, blue = image
    light = _drawn(0.3 * red + 0.59 * green + 0.11 * blue, _exposure(rng))
    turn = float(rng.uniform(0, 2 * math.pi))
    axes = []
    for axis in ((red - blue) * np.float32(0.7071), (2 * green - red - blue) * np.float32(0.4082)):
        axes.append(_drawn(axis, rng.normal(0, 9) + rng.uniform(4, 20) * _NORMAL))
    warm = math.cos(turn) * axes[0] - math.sin(turn) * axes[1]
    lush = math.sin(turn) * axes[0] + math.cos(turn) * axes[1]
    planes = (light + 0.7071 * warm - 0.4082 * lush, light + 0.8165 * lush, light - 0.7071 * warm - 0.4082 * lush)
    strength = float(rng.uniform(0.5, 6))
    out = np.empty((*light.shape, 3), np.uint8)
    for band, plane in enumerate(planes):
        noise = rng.standard_normal(light.shape, dtype=np.float32) * np.float32(strength)
        out[..., band] = np.clip(plane + noise + 0.5, 0, 255)
    return out


def _exposure(rng: np.random.Generator) -> FloatArray:
    """Quantiles of a drawn distribution of brightness."""
    u = np.linspace(0, 1, 2001)
    low, high = rng.uniform(5, 60), rng.uniform(185, 250)
    a, b, w = rng.uniform(0.6, 2.2), rng.uniform(0.6, 2.2), rng.uniform(0, 1)
    return np.asarray(low + (high - low) * (w * u**a + (1 - w) * (1 - (1 - u) ** b)))


def _drawn(plane: NDArray[np.float32], quantiles: FloatArray) -> NDArray[np.float32]:
    """The plane with its values in the same order and in the distribution of the quantiles."""
    low, high = float(plane.min()), float(plane.max()) + 1e-3
    at = (plane - low) * np.float32((_BINS - 1) / (high - low))
    counts = np.bincount(at.astype(np.int32).ravel(), minlength=_BINS)
    counts = np.minimum(counts, _STEEPEST * plane.size // _BINS)
    share = np.concatenate([[0.0], np.cumsum(counts)]) / counts.sum()
    curve: Any = np.interp(share, np.linspace(0, 1, len(quantiles)), quantiles).astype(np.float32)
    floor = at.astype(np.int32)
    return np.asarray(curve[floor] + (at - floor) * (curve[floor + 1] - curve[floor]), np.float32)
