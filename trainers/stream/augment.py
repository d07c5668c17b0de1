"""Augmentation of one sample: joint horizontal flip, brightness and contrast, choice of photos and of the date.

In: a decoded sample and its slot seed. Out: the sample changed. Randomness is a function of the slot seed alone, so a
sample looks the same whichever worker, rank or run reads it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from schemas.tokens import OsmTokens
from trainers.stream.order import draw

#: Independent uses of one slot seed.
FLIP, JITTER, PHOTO_FLIP, PHOTO_CHOICE, DATE = range(5)


@dataclass(frozen=True)
class AugmentSettings:
    """How training samples are varied; ``enabled=false`` reads every sample as it is stored."""

    enabled: bool = True  # false: the sample as it is stored
    flip: float = 0.5  # probability of a left-right mirror of image, anchors, patches and photo positions together
    jitter: float = 0.5  # probability of a change of brightness and contrast of the image
    brightness: float = 0.2  # largest relative change
    contrast: float = 0.2  # largest relative change
    photo_flip: float = 0.0  # probability of a mirror of a photo alone; specs/gair.md section 2.4 has 0.5


@dataclass(frozen=True, eq=False)
class Photo:
    """One street-view photo of a sample."""

    pixels: NDArray[np.uint8]  # [3,s,s]
    x: float  # normalised image coordinate in the tile, 0..1
    y: float
    lon: float  # degrees
    lat: float
    heading: float  # degrees clockwise from the tile's up, NaN where unknown


@dataclass(frozen=True, eq=False)
class TileSample:
    """One decoded sample at the size that the model takes."""

    rs: NDArray[np.uint8] | None  # [C,S,S]
    tokens: OsmTokens | None
    photos: tuple[Photo, ...]


def augment(sample: TileSample, seed: np.uint64, settings: AugmentSettings) -> TileSample:
    """The sample as the slot with ``seed`` shows it."""
    if not settings.enabled:
        return sample
    if draw(seed, FLIP)[0] < settings.flip:
        sample = flip(sample)
    if sample.rs is not None:
        chance, brightness, contrast = draw(seed, JITTER, 3)
        if chance < settings.jitter:
            b = 1 + settings.brightness * (2 * brightness - 1)
            c = 1 + settings.contrast * (2 * contrast - 1)
            sample = replace(sample, rs=jitter(sample.rs, b, c))
    mirrored = draw(seed, PHOTO_FLIP, max(1, len(sample.photos))) < settings.photo_flip
    photos = (replace(p, pixels=_mirror(p.pixels)) if m else p for p, m in zip(sample.photos, mirrored, strict=False))
    return replace(sample, photos=tuple(photos))


def flip(sample: TileSample) -> TileSample:
    """The left-right mirror image of the ground: every x becomes 1 - x, headings change side."""
    rs = None if sample.rs is None else _mirror(sample.rs)
    photos = tuple(replace(p, x=1.0 - p.x, heading=(360.0 - p.heading) % 360.0) for p in sample.photos)
    return TileSample(rs, None if sample.tokens is None else flip_tokens(sample.tokens), photos)


def flip_tokens(tokens: OsmTokens) -> OsmTokens:
    """Tokens mirrored left to right: anchors, vertices and patch columns; relations and extents do not change."""
    anchors = tokens.anchors.copy()
    anchors[..., 0] = 1.0 - anchors[..., 0]
    vertices = tokens.vertices.copy()
    vertices[:, 0] = np.iinfo(np.uint16).max - vertices[:, 0]
    columns = int(tokens.patch_grid[1])
    row, column = np.divmod(tokens.patch_cell.astype(np.int64), columns)
    cell = (row * columns + (columns - 1 - column)).astype(np.uint16)
    return replace(tokens, anchors=anchors, vertices=vertices, patch_cell=cell)


def jitter(image: NDArray[np.uint8], brightness: float, contrast: float) -> NDArray[np.uint8]:
    """Brightness as a factor, then contrast as a factor about the mean, by one table of 256 values."""
    mean = float(image.mean()) * brightness
    level = (np.arange(256) * brightness - mean) * contrast + mean
    return np.clip(np.rint(level), 0, 255).astype(np.uint8)[image]


def _mirror(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.ascontiguousarray(image[..., ::-1])
