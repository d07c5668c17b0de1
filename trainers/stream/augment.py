"""Augmentation of one sample: image, tokens and photo positions change together.

First a window of the footprint, which the loader cuts, then a turn of the square, then colours; objects may be left
out, photos mirrored. Randomness is a function of the slot seed alone, so a sample looks the same whichever
worker, rank or run reads it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from geometry.crop import Window
from geometry.tokens import take_objects
from geometry.turn import Turn, turn_tokens
from schemas.bands import RGB, canonical
from schemas.config import at_least
from schemas.errors import ConfigError
from schemas.tokens import OsmTokens
from trainers.stream.order import draw

#: Independent uses of one slot seed.
FLIP, JITTER, PHOTO_FLIP, PHOTO_CHOICE, DATE, CROP, ROTATE, COLOUR, DROP, PHOTO_JITTER = range(10)
#: A window that is the whole footprint.
WHOLE: Window = (0.0, 0.0, 1.0, 1.0)
#: Weights of red, green and blue in what the eye sees as brightness (ITU-R BT.601).
_LUMA = (0.299, 0.587, 0.114)
#: Red, green and blue to luma and the plane of equal luma (YIQ), and back.
TO_YIQ = np.array([_LUMA, (0.596, -0.274, -0.322), (0.211, -0.523, 0.312)], np.float32)
FROM_YIQ = np.linalg.inv(TO_YIQ)


@dataclass(frozen=True)
class AugmentSettings:
    """How training samples are varied; ``enabled=false`` reads every sample as it is stored."""

    enabled: bool = True  # false: the sample as it is stored
    crop: float = 0.0  # probability of a window of the footprint; what it shows is scaled to the image size
    crop_area: tuple[float, float] = (0.4, 0.9)  # of the area, least and most (docs/papers/geolink.md#augmentation)
    crop_ratio: tuple[float, float] = (0.75, 4 / 3)  # least and largest width over height
    flip: float = 0.5  # probability of a left-right mirror of image, tokens and photo positions together
    flip_vertical: float = 0.0  # probability of an up-down mirror of them
    rotate: float = 0.0  # probability of a turn by one, two or three quarters
    jitter: float = 0.5  # probability of a change of the image's colours
    brightness: float = 0.2  # largest relative change
    contrast: float = 0.2  # largest relative change
    saturation: float = 0.0  # largest relative change; of images with red, green and blue alone
    hue: float = 0.0  # largest turn of the colour circle, 0..0.5 of it; the same
    drop_objects: float = 0.0  # share of OSM objects left out at random
    jitter_bands: tuple[str, ...] = ()  # bands whose brightness and contrast change, together; empty: all
    photo_flip: float = 0.0  # probability of a mirror of a photo alone; docs/papers/gair.md#photos has 0.5
    photo_jitter: float = 0.0  # probability of a change of a photo's colours; docs/papers/gair.md#photos has 0.3
    photo_colour: float = 0.1  # largest relative change of its brightness, contrast and saturation, and turn of hue

    def __post_init__(self) -> None:
        at_least(self, "stream.augment.", brightness=0, contrast=0, saturation=0)
        shares = ("crop", "flip", "flip_vertical", "rotate", "jitter", "photo_flip", "photo_jitter", "drop_objects")
        wrong = [n for n in shares if not 0 <= getattr(self, n) <= 1]
        low, high = self.crop_area
        if not 0 < low <= high <= 1:
            wrong.append("crop_area")
        if not 0 < self.crop_ratio[0] <= self.crop_ratio[1]:
            wrong.append("crop_ratio")
        wrong += [n for n in ("hue", "photo_colour") if not 0 <= getattr(self, n) <= 0.5]
        if wrong:
            raise ConfigError(f"stream.augment.{wrong[0]}={getattr(self, wrong[0])} is out of range")


class Colours(NamedTuple):
    """How an image's colours are changed; the defaults change nothing."""

    brightness: float = 1.0  # factor
    contrast: float = 1.0  # factor about the mean of the image
    saturation: float = 1.0  # factor about grey
    hue: float = 0.0  # turn of the colour circle, in circles
    channels: int = 0  # which: bit k stands for channel k; 0: all


@dataclass(frozen=True)
class Look:
    """How a decoded image is to be shown: a window of it, scaled to the model's size, turned, then coloured."""

    window: Window = WHOLE
    turn: Turn = Turn()
    colours: Colours = Colours()


@dataclass(frozen=True, eq=False)
class Photo:
    """One street-view photo of a sample."""

    pixels: NDArray[np.uint8]  # [3,s,s]
    x: float  # normalised image coordinate in the tile, 0..1
    y: float
    lon: float  # degrees
    lat: float
    frame: NDArray[np.float64]  # [2,2] in normalised image coordinates (x, y) a metre: to the right, ahead; or NaN


@dataclass(frozen=True, eq=False)
class TileSample:
    """One decoded sample at the size that the model takes; the image as it was decoded where ``look`` is set.

    Where a view takes several dates, images and planes have one more axis, first, of those that the sample has.
    """

    rs: NDArray[np.uint8] | None  # [C,S,S]; [C,H,W] with a look
    tokens: OsmTokens | None
    photos: tuple[Photo, ...]
    window: Window = WHOLE  # what of the footprint is shown, normalised image coordinates
    look: Look | None = None  # what is left to do to the image, on the device; None: nothing
    rs_valid: NDArray[np.uint8] | None = None  # [S,S] or [H,W] as rs: 255 where it is data; None: everywhere


def draw_window(seed: np.uint64, settings: AugmentSettings) -> Window | None:
    """The window that the slot with ``seed`` shows; None for the whole footprint."""
    if not settings.enabled or not settings.crop:
        return None
    chance, area, ratio, x, y = draw(seed, CROP, 5).tolist()
    if chance >= settings.crop:
        return None
    low, high = settings.crop_area
    share = low + area * (high - low)
    narrow, wide = settings.crop_ratio
    shape = math.exp(math.log(narrow) + ratio * (math.log(wide) - math.log(narrow)))
    width, height = min(1.0, math.sqrt(share * shape)), min(1.0, math.sqrt(share / shape))
    left, top = x * (1 - width), y * (1 - height)
    return left, top, left + width, top + height


def draw_turn(seed: np.uint64, settings: AugmentSettings) -> Turn:
    """How the slot with ``seed`` is laid on its square."""
    across = bool(draw(seed, FLIP)[0] < settings.flip)
    chance, quarters, down = draw(seed, ROTATE, 3).tolist()
    turn = Turn.quarter(1 + int(3 * quarters)) if chance < settings.rotate else Turn()
    return turn.then(across, bool(down < settings.flip_vertical))


def augment(sample: TileSample, seed: np.uint64, settings: AugmentSettings, bands: tuple[str, ...] = RGB) -> TileSample:
    """The sample as the slot with ``seed`` shows it; its window has been cut already."""
    if not settings.enabled:
        return sample
    turn, colours = draw_turn(seed, settings), draw_colours(seed, settings, bands)
    sample = turned(sample, turn)
    if settings.drop_objects and sample.tokens is not None and len(sample.tokens):
        left = np.flatnonzero(draw(seed, DROP, len(sample.tokens)) >= settings.drop_objects)
        sample = replace(sample, tokens=take_objects(sample.tokens, left))
    if sample.look is not None:
        sample = replace(sample, look=replace(sample.look, turn=turn, colours=colours))
    elif sample.rs is not None:
        dates = sample.rs.reshape(-1, *sample.rs.shape[-3:])
        sample = replace(sample, rs=np.stack([coloured(d, colours) for d in dates]).reshape(sample.rs.shape))
    mirrored = draw(seed, PHOTO_FLIP, max(1, len(sample.photos))) < settings.photo_flip
    shown = [mirror(p) if m else p for p, m in zip(sample.photos, mirrored, strict=False)]
    photos = (
        replace(q, pixels=coloured(q.pixels, c))
        for q, c in zip(shown, photo_colours(seed, settings, len(shown)), strict=True)
    )
    return replace(sample, photos=tuple(photos))


def mirror(photo: Photo) -> Photo:
    """The photo with its sides exchanged: what was on its right is on its left."""
    pixels = np.ascontiguousarray(photo.pixels[..., ::-1])
    return replace(photo, pixels=pixels, frame=np.array([[-1.0], [1.0]]) * photo.frame)


def photo_colours(seed: np.uint64, settings: AugmentSettings, count: int) -> list[Colours]:
    """How each of the slot's photos is coloured."""
    found = []
    for chance, *change in draw(seed, PHOTO_JITTER, 5 * count).reshape(count, 5).tolist():
        by = [settings.photo_colour * (2 * value - 1) for value in change]
        still = chance >= settings.photo_jitter
        found.append(Colours() if still else Colours(1 + by[0], 1 + by[1], 1 + by[2], by[3]))
    return found


def turned(sample: TileSample, turn: Turn) -> TileSample:
    """The sample laid on its square another way; an image that is left to the device stays as it is."""
    if turn == Turn():
        return sample
    places = [turn.points(np.array([p.x, p.y])) for p in sample.photos]
    photos = tuple(
        replace(p, x=float(x), y=float(y), frame=turn.directions(p.frame))
        for p, (x, y) in zip(sample.photos, places, strict=True)
    )
    return replace(
        sample,
        rs=sample.rs if sample.rs is None or sample.look else turn.image(sample.rs),
        rs_valid=sample.rs_valid if sample.rs_valid is None or sample.look else turn.image(sample.rs_valid),
        tokens=None if sample.tokens is None else turn_tokens(sample.tokens, turn),
        photos=photos,
    )


def draw_colours(seed: np.uint64, settings: AugmentSettings, bands: tuple[str, ...]) -> Colours:
    """How the slot with ``seed`` is coloured; hue and saturation are of images with red, green and blue alone."""
    chance, brightness, contrast = draw(seed, JITTER, 3).tolist()
    if chance >= settings.jitter:
        return Colours()
    found = Colours(1 + settings.brightness * (2 * brightness - 1), 1 + settings.contrast * (2 * contrast - 1))
    if settings.jitter_bands:
        chosen = {canonical(b) for b in settings.jitter_bands}
        channels = sum(1 << k for k, b in enumerate(bands) if canonical(b) in chosen)
        return found._replace(channels=channels) if channels else Colours()
    if (settings.saturation or settings.hue) and tuple(map(canonical, bands)) == RGB:
        saturation, hue = (2 * draw(seed, COLOUR, 2) - 1).tolist()
        found = found._replace(saturation=1 + settings.saturation * saturation, hue=settings.hue * hue)
    return found


def coloured(image: NDArray[np.uint8], colours: Colours) -> NDArray[np.uint8]:
    """u8[C,H,W] with other colours."""
    if colours == Colours():
        return image
    if colours.channels:
        rows, changed = [k for k in range(len(image)) if colours.channels >> k & 1], image.copy()
        changed[rows] = jitter(image[rows], colours.brightness, colours.contrast)
        return changed
    image = jitter(image, colours.brightness, colours.contrast)
    return image if colours[2:] == Colours()[2:] else recolour(image, colours.saturation, colours.hue)


def jitter(image: NDArray[np.uint8], brightness: float, contrast: float) -> NDArray[np.uint8]:
    """Brightness as a factor, then contrast as a factor about the mean, by one table of 256 values."""
    mean = image.sum(dtype=np.uint64) / image.size * brightness
    level = (np.arange(256) * brightness - mean) * contrast + mean
    return np.take(np.clip(np.rint(level), 0, 255).astype(np.uint8), image)


def recolour(image: NDArray[np.uint8], saturation: float, hue: float) -> NDArray[np.uint8]:
    """Saturation as a factor about grey, and a turn of ``hue`` of the colour circle, of u8[3,H,W] in R, G, B.

    Both are one linear map of the colours that keeps grey: a rotation in the plane of equal luma (YIQ).
    """
    c, s = math.cos(2 * math.pi * hue) * saturation, math.sin(2 * math.pi * hue) * saturation
    middle = np.array([[1, 0, 0], [0, c, -s], [0, s, c]], np.float32)
    matrix = FROM_YIQ @ middle @ TO_YIQ
    values = matrix @ image.reshape(3, -1).astype(np.float32)
    return np.clip(np.rint(values), 0, 255).astype(np.uint8).reshape(image.shape)
