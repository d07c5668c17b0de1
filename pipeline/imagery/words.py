"""Up to four 8-bit channels of a pixel in one word, so that one product weighs them all: the fast way of `resample`."""

from __future__ import annotations

import numpy as np
from numpy.lib.array_utils import byte_bounds
from numpy.typing import NDArray

from pipeline.imagery.resample import MOST_ALIKE, ONE, Fixed, Lines

#: Half of the 256 that weights add up to, in each of four channels.
_HALVES = np.uint64(0x0080008000800080)
#: Pixels that are sampled at once, so that what is reckoned of them stays in the processor's cache.
_STRIP = 1 << 14


def as_fours(pixels: NDArray[np.uint8]) -> NDArray[np.uint8] | None:
    """The array [h,w,4] whose first channels ``pixels`` [B,h,w] are, by how they lie in memory; None: they do not."""
    _, height, width = pixels.shape
    whole = pixels.base
    if pixels.strides != (1, 4 * width, 4) or not isinstance(whole, np.ndarray):
        return None
    if byte_bounds(pixels)[0] + 4 * width * height > byte_bounds(whole)[1]:
        return None
    return np.lib.stride_tricks.as_strided(pixels, (height, width, 4), (4 * width, 4, 1))


class Room:
    """Memory of `bilinear_words`, one for many footprints: fresh memory costs as much as what is done in it."""

    def __init__(self, words: int, width: int) -> None:
        """For ``words`` source pixels and footprints of ``width``."""
        count = max(_STRIP, MOST_ALIKE * width)
        self.pixels = np.empty((words, 4), np.uint8)
        self.words = np.empty((words, 4), np.uint16)
        self.long = np.empty((2, count), np.uint64)
        self.grid = np.empty(2 * count, np.int32)
        self.part = np.empty(2 * count, np.int32)
        self.at = np.empty(count, np.intp)
        self.near = np.empty(2 * count, np.uint16)
        self.short = np.empty((2, count), np.uint16)


def bilinear_words(
    pixels: NDArray[np.uint8], lines: Lines, origin: tuple[int, int], room: Room, out: NDArray[np.uint8]
) -> None:
    """As `resample.bilinear`, up to four 8-bit channels [B,h,w] at once; at most 1.5 from the exact value.

    A pixel is a word of 16 bits a channel, and weights are multiples of 1/256, so that one product weighs them all.

    Args:
        pixels: that every position has its four neighbours in.
        lines: of the footprint.
        origin: of ``pixels``.
        room: for ``h · w`` words.
        out: [H,W,4] of the footprint, contiguous; channels beyond B say nothing.
    """
    height, width = pixels.shape[1:]
    fours = as_fours(pixels)
    if fours is None:
        fours = room.pixels[: height * width].reshape(height, width, 4)
        for number, band in enumerate(pixels):
            fours[..., number] = band
    channels = room.words[: height * width]
    np.copyto(channels.reshape(fours.shape), fours)
    words = channels.reshape(-1).view(np.uint64)
    first = lines.since(origin, ONE // 2 - 128)  # from edges to centres, and to the nearest 256th
    strip = max(1, _STRIP // (lines.alike * lines.width)) * lines.alike
    for top in range(0, len(out), strip):
        rows = slice(top, min(top + strip, len(out)))
        shape = (2, rows.stop - top, lines.width)
        grid = lines.fill(first, rows, room.grid[: 2 * shape[1] * lines.width].reshape(shape))
        _weigh(words, width, grid.reshape(2, -1), room, out[rows].reshape(-1))


def _weigh(words: NDArray[np.uint64], width: int, grid: Fixed, room: Room, out: NDArray[np.uint8]) -> None:
    """Means of words at x, y [2,n] and of their right, lower and lower right neighbours, rounded, to u8[4n]."""
    n = grid.shape[1]
    part, near = room.part[: 2 * n].reshape(2, n), room.near[: 2 * n].reshape(2, n)
    np.right_shift(grid, 8, out=part)
    np.copyto(near, part, casting="unsafe")
    near &= np.uint16(255)
    part >>= 8
    x, y = part
    y *= np.int32(width)
    x += y
    at = room.at[:n]
    np.copyto(at, x)
    (right, lower), (both, upper) = near, room.short[:, :n]
    np.multiply(right, lower, out=both)
    both += np.uint16(128)
    both >>= np.uint16(8)
    right -= both
    lower -= both
    np.subtract(np.uint16(256), both, out=upper)
    upper -= right
    upper -= lower
    mean, term = room.long[:, :n]
    words.take(at, mode="wrap", out=mean)  # none is outside: the mode that is fastest
    mean *= upper
    for away, weight in ((1, right), (width, lower), (width + 1, both)):
        words[away:].take(at, mode="wrap", out=term)
        term *= weight
        mean += term
    mean += _HALVES
    np.right_shift(mean.view(np.uint16), 8, out=out, casting="unsafe")
