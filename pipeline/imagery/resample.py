"""Resampling of an array in memory onto a footprint: the fast way, for what needs no low-pass filter and has no holes.

The projection is computed exactly on a grid of nodes and interpolated in between, to less than `MAX_ERROR` of a source
pixel. Everything is elementwise arithmetic on integers and single floats: a tile's bytes depend neither on the tiles
beside it nor on the processor.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.alignment import transformer
from schemas.footprint import Footprint

Floats = NDArray[np.float64]
Fixed = NDArray[np.int32]  # source pixels in units of 2^-16
Affine = tuple[float, float, float, float, float, float]

#: Source pixels by which an interpolated position may differ from the exact one.
MAX_ERROR = 0.001
#: Pixels between nodes, at most; the first that is fine enough is taken, for each tile by itself.
_CELLS = (128, 32, 8)
#: Source pixels a side of a window, so that positions fit 32 bits.
MAX_WINDOW = 1 << 14
_ONE = 1 << 16


class Lines(NamedTuple):
    """Source positions of a footprint's pixel centres, in units of 2^-16: in equal steps along each piece of a line."""

    first: NDArray[np.int64]  # [2,pieces,height]: x, y of the first pixel of each piece, 0 the raster's outer edge
    steps: NDArray[np.float32]  # [2,pieces,height]: a piece's end is exact to one unit
    cell: int  # pixels of a piece
    width: int  # of the footprint; the last piece may reach beyond
    low: tuple[float, float]  # the least x, y of all, in source pixels
    high: tuple[float, float]  # the greatest

    def positions(self, origin: tuple[int, int]) -> Fixed:
        """x, y i32[2,height,width] of all pixel centres, counted from ``origin``."""
        _, pieces, height = self.first.shape
        shape = (2, height, pieces, self.cell)
        first = self.since(origin, 0)
        grid = self.fill(first, slice(None), np.empty(shape, np.float32), np.empty(shape, np.int32))
        return grid.reshape(2, height, -1)[..., : self.width]

    def since(self, origin: tuple[int, int], shift: int) -> Fixed:
        """``first`` counted from ``origin`` in pixels and ``shift`` in units of 2^-16, i32[2,pieces,height]."""
        return (self.first - (np.array(origin)[:, None, None] * _ONE + shift)).astype(np.int32)

    def fill(self, first: Fixed, rows: slice, real: NDArray[np.float32], grid: Fixed) -> Fixed:
        """x, y of some lines, in ``grid`` [2,rows,pieces,cell]; ``real`` is room."""
        steps = self.steps[:, :, rows].swapaxes(1, 2)[..., None]
        np.multiply(steps, np.arange(self.cell, dtype=np.float32), out=real)
        np.copyto(grid, real, casting="unsafe")
        grid += first[:, :, rows].swapaxes(1, 2)[..., None]
        return grid


def place_lines(footprints: list[Footprint], crs: str, transform: Affine) -> list[Lines | None]:
    """Lines of footprints of one CRS and size in a raster of ``crs`` and ``transform``.

    None where the projection bends too much within the finest grid, or has no value.
    """
    found: list[Lines | None] = [None] * len(footprints)
    left = list(range(len(footprints)))
    for most in _CELLS:
        if not left:
            break
        xy, cell = _project([footprints[i] for i in left], crs, transform, most)
        nodes = xy[:, ::2, ::2]
        with np.errstate(invalid="ignore"):
            # halfway along the edges too: in the middle the bends of a conformal map along x and y cancel out
            across = xy[:, ::2].copy()
            across[:, :, 1::2] = (nodes[:, :, :-1] + nodes[:, :, 1:]) / 2
            guess = np.empty_like(xy)
            guess[:, ::2] = across
            guess[:, 1::2] = (across[:, :-1] + across[:, 1:]) / 2
            good = np.abs(guess - xy).max(axis=(1, 2, 3)) < MAX_ERROR  # NaN and infinity are not
        if good.any():
            for at, lines in zip(np.flatnonzero(good), _between(nodes[good], cell, footprints[0]), strict=True):
                found[left[at]] = lines
        left = [i for i, fine in zip(left, good, strict=True) if not fine]
    return found


def _project(footprints: list[Footprint], crs: str, transform: Affine, most: int) -> tuple[Floats, tuple[int, int]]:
    """Exact source positions f64[T,rows,columns,2] of nodes at most ``most`` pixels apart, the first at the centre of
    the first pixel and the last just beyond the last, and halfway between; and how far apart the nodes are."""
    first = footprints[0]
    axes, cell = [], []
    for n in (first.width, first.height):
        pieces = -(-n // most)
        cell.append(-(-n // pieces))
        axes.append(np.arange(2 * pieces + 1) * (cell[-1] / 2) + 0.5)
    pixels = np.stack(np.meshgrid(*axes), axis=-1)
    places = np.stack([f.pixel_to_crs(pixels) for f in footprints])
    return _to_source(places, first.crs, crs, transform), (cell[0], cell[1])


def _between(nodes: Floats, cell: tuple[int, int], size: Footprint) -> list[Lines]:
    """Lines through nodes f64[T,rows,columns,2]."""
    across, down = cell
    share = np.arange(down) / down
    exact = nodes.transpose(0, 3, 2, 1)[..., None]  # [T,2,columns,rows,1]
    ends = exact[..., :-1, :] * (1.0 - share) + exact[..., 1:, :] * share
    ends = ends.reshape(*ends.shape[:3], -1)[..., : size.height]
    slopes = (ends[:, :, 1:] - ends[:, :, :-1]) / across
    first = ends[:, :, :-1]
    pixels = np.minimum(across, size.width - across * np.arange(first.shape[2]))
    last = first + slopes * (pixels[:, None] - 1)
    low, high = np.minimum(first, last).min(axis=(2, 3)), np.maximum(first, last).max(axis=(2, 3))
    units, steps = np.rint(first * _ONE).astype(np.int64), (slopes * _ONE).astype(np.float32)
    reach = zip(map(tuple, low.tolist()), map(tuple, high.tolist()), strict=True)
    return [Lines(u, s, across, size.width, *own) for u, s, own in zip(units, steps, reach, strict=True)]


def _to_source(places: Floats, crs: str, source_crs: str, transform: Affine) -> Floats:
    """CRS coordinates f64[…,2] to source pixels."""
    if crs != source_crs:
        places = np.stack(transformer(source_crs, crs).transform(places[..., 0], places[..., 1]), axis=-1)
    a, b, c, d, e, f = transform
    dx, dy = places[..., 0] - c, places[..., 1] - f
    with np.errstate(invalid="ignore"):
        return np.stack((e * dx - b * dy, a * dy - d * dx), axis=-1) / (a * e - b * d)


def step(crs: str, frame: Affine, size: tuple[int, int], source_crs: str, transform: Affine) -> float:
    """Source pixels that a pixel spans at the middle of a frame, along the longer of its axes; not finite: unknown."""
    middle = Footprint("frame", crs, frame, *size)
    pixels = np.array([size, size, size], np.float64) / 2 + [[0, 0], [1, 0], [0, 1]]
    xy = _to_source(middle.pixel_to_crs(pixels), crs, source_crs, transform)
    with np.errstate(invalid="ignore"):
        return float(np.hypot(*(xy[1:] - xy[0]).T).max())


def weight_type(dtype: Any) -> Any:
    """The type that holds all values of ``dtype`` and what lies between them."""
    return np.float64 if np.dtype(dtype).itemsize > 2 and dtype != np.float32 else np.float32


class Taps(NamedTuple):
    """Neighbours of positions in an array in memory, and their weights; one for all arrays of its width and type."""

    upper: NDArray[np.intp]  # [H,W] place of the upper left neighbour in the flat array
    below: int  # from a place to the one below
    u: NDArray[Any]  # [H,W] weight of the right neighbours, 0..1
    v: NDArray[Any]  # [H,W] of the lower ones

    @classmethod
    def at(cls, x: Fixed, y: Fixed, width: int, dtype: Any) -> Taps:
        """Of positions i32[H,W], every one with its four neighbours inside of arrays of ``width`` and ``dtype``."""
        real = weight_type(dtype)
        x, y = x - _ONE // 2, y - _ONE // 2  # from edges to centres
        at = (y >> 16).astype(np.intp)
        at *= width
        at += x >> 16
        u, v = ((p & (_ONE - 1)).astype(real) * real(1 / _ONE) for p in (x, y))
        return cls(at, width, u, v)


def bilinear(source: NDArray[Any], taps: Taps, out: NDArray[Any]) -> None:
    """Sample source [B,h,w], h over 1, at ``taps`` into out [B,H,W]; fastest of the type of the weights."""
    for band, target in zip(source, out, strict=True):
        flat = band.reshape(-1)
        upper, lower = _mix(flat, taps), _mix(flat[taps.below :], taps)
        lower -= upper
        lower *= taps.v
        upper += lower
        if out.dtype.kind in "ui":
            np.rint(upper, out=upper)
        target[...] = upper


def _mix(line: NDArray[Any], taps: Taps) -> NDArray[Any]:
    """Between the left and the right neighbours of one line."""
    left = line.take(taps.upper, mode="clip").astype(taps.u.dtype, copy=False)
    slope = line[1:].take(taps.upper, mode="clip").astype(taps.u.dtype, copy=False)
    slope -= left
    slope *= taps.u
    left += slope
    return left


def nearest(source: NDArray[Any], x: Fixed, y: Fixed, out: NDArray[Any]) -> None:
    """As `bilinear`, the pixel that each position lies in."""
    at = (y >> 16).astype(np.intp) * source.shape[2]
    at += x >> 16
    for band, target in zip(source, out, strict=True):
        target[...] = band.reshape(-1).take(at, mode="clip")


#: Half of the 256 that weights add up to, in each of four channels.
_HALVES = np.uint64(0x0080008000800080)
#: Pixels that are sampled at once, so that what is reckoned of them stays in the processor's cache.
_STRIP = 1 << 14


class Room:
    """Memory of `bilinear_words`, one for many footprints: fresh memory costs as much as what is done in it."""

    def __init__(self, words: int, width: int) -> None:
        """For ``words`` source pixels and footprints of ``width``."""
        strip = max(_STRIP, 2 * width)
        self.pixels = np.empty((words, 4), np.uint8)
        self.words = np.empty((words, 4), np.uint16)
        self.long = np.empty((2, strip), np.uint64)
        self.real = np.empty(2 * strip, np.float32)
        self.grid = np.empty(2 * strip, np.int32)
        self.place = np.empty((2, strip), np.int32)
        self.at = np.empty(strip, np.intp)
        self.short = np.empty((4, strip), np.uint16)


def bilinear_words(pixels: NDArray[np.uint8], lines: Lines, origin: tuple[int, int], room: Room) -> NDArray[np.uint8]:
    """As `bilinear`, up to four 8-bit channels [B,h,w] at once, u8[H,W,4]; at most 1.5 from the exact value.

    A pixel is a word of 16 bits a channel, and weights are multiples of 1/256, so that one product weighs them all.

    Args:
        pixels: that every position has its four neighbours in.
        lines: of the footprint.
        origin: of ``pixels``.
        room: for ``h · w`` words.
    """
    height, width = pixels.shape[1:]
    together, channels = (r[: height * width].reshape(height, width, 4) for r in (room.pixels, room.words))
    for number, band in enumerate(pixels):
        together[..., number] = band
    np.copyto(channels, together)
    words = channels.reshape(-1).view(np.uint64)
    first = lines.since(origin, _ONE // 2 - 128)  # from edges to centres, and to the nearest 256th
    _, pieces, lower = first.shape
    out = np.empty((lower, lines.width, 4), np.uint8)
    strip = max(1, _STRIP // (pieces * lines.cell))
    for top in range(0, lower, strip):
        rows = slice(top, min(top + strip, lower))
        shape = (2, rows.stop - top, pieces, lines.cell)
        count = 2 * shape[1] * pieces * lines.cell
        x, y = lines.fill(first, rows, room.real[:count].reshape(shape), room.grid[:count].reshape(shape)).reshape(
            2, -1
        )
        out[rows] = _weigh(words, width, x, y, room).view(np.uint16).reshape(shape[1], -1, 4)[:, : lines.width]
    return out


def _weigh(words: NDArray[np.uint64], width: int, x: Fixed, y: Fixed, room: Room) -> NDArray[np.uint64]:
    """Means of words at x, y and of their right, lower and lower right neighbours, rounded."""
    n = len(x)
    at = room.at[:n]
    place, more = room.place[:, :n]
    np.right_shift(y, 16, out=place)
    place *= np.int32(width)
    np.right_shift(x, 16, out=more)
    np.add(place, more, out=at)
    u, v, last, first = room.short[:, :n]
    np.copyto(u, np.right_shift(x, 8, out=more), casting="unsafe")
    np.copyto(v, np.right_shift(y, 8, out=more), casting="unsafe")
    u &= np.uint16(255)
    v &= np.uint16(255)
    np.multiply(u, v, out=last)
    last += np.uint16(128)
    last >>= np.uint16(8)
    u -= last
    v -= last
    np.subtract(np.uint16(256), last, out=first)
    first -= u
    first -= v
    mean, term = room.long[:, :n]
    words.take(at, mode="clip", out=mean)
    mean *= first
    for away, weight in ((1, u), (width, v), (width + 1, last)):
        words[away:].take(at, mode="clip", out=term)
        term *= weight
        mean += term
    mean += _HALVES
    mean >>= np.uint64(8)
    return mean
