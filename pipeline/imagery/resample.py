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
MAX_ERROR = 0.01
#: Pixels between nodes; the first that is fine enough is taken, for each tile by itself.
_CELLS = (32, 8)
#: Source pixels a side of a window, so that positions fit 32 bits.
MAX_WINDOW = 1 << 14
_ONE = 1 << 16


class Nodes(NamedTuple):
    """Exact source positions of every ``cell``-th pixel centre of a footprint."""

    xy: Floats  # [rows,columns,2] in source pixels, 0 the outer edge of the first
    cell: int


def place_nodes(footprints: list[Footprint], crs: str, transform: Affine) -> list[Nodes | None]:
    """Nodes of footprints of one CRS and size in a raster of ``crs`` and ``transform``.

    None where the projection bends too much within the finest grid, or has no value.
    """
    found: list[Nodes | None] = [None] * len(footprints)
    left = list(range(len(footprints)))
    for cell in _CELLS:
        if not left:
            break
        nodes = _project([footprints[i] for i in left], crs, transform, cell, 0.0)
        middle = _project([footprints[i] for i in left], crs, transform, cell, cell / 2)[:, :-1, :-1]
        with np.errstate(invalid="ignore"):
            guess = (nodes[:, :-1, :-1] + nodes[:, 1:, :-1] + nodes[:, :-1, 1:] + nodes[:, 1:, 1:]) / 4
            good = np.abs(guess - middle).max(axis=(1, 2, 3)) < MAX_ERROR  # NaN and infinity are not
        for i, xy, fine in zip(left, nodes, good, strict=True):
            if fine:
                found[i] = Nodes(xy, cell)
        left = [i for i, fine in zip(left, good, strict=True) if not fine]
    return found


def _project(footprints: list[Footprint], crs: str, transform: Affine, cell: int, shift: float) -> Floats:
    """Source pixel positions f64[T,rows,columns,2] of pixel centres 0, cell, 2 cell … moved by ``shift`` pixels."""
    first = footprints[0]
    x, y = (
        np.arange(-(-(n - 1) // cell) + 1 if n > 1 else 2) * cell + 0.5 + shift for n in (first.width, first.height)
    )
    pixels = np.stack(np.meshgrid(x, y), axis=-1)
    return _to_source(np.stack([f.pixel_to_crs(pixels) for f in footprints]), first.crs, crs, transform)


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


def positions(nodes: Nodes, origin: tuple[int, int], width: int, height: int) -> tuple[Fixed, Fixed]:
    """Source positions x, y i32[height,width] of all pixel centres, counted from the window's ``origin``."""
    j, t = np.divmod(np.arange(height), nodes.cell)
    share = (t / nodes.cell)[:, None]
    result = []
    for axis in (0, 1):
        exact = nodes.xy[..., axis] - origin[axis]
        j1 = np.minimum(j + 1, len(exact) - 1)
        rows = np.rint((exact[j] * (1.0 - share) + exact[j1] * share) * _ONE).astype(np.int32)
        slope = (rows[:, 1:] - rows[:, :-1]) // nodes.cell
        grid = slope[:, :, None] * np.arange(nodes.cell, dtype=np.int32)
        grid += rows[:, :-1, None]
        result.append(grid.reshape(height, -1)[:, :width])
    return result[0], result[1]


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
        upper, lower = _between(flat, taps), _between(flat[taps.below :], taps)
        lower -= upper
        lower *= taps.v
        upper += lower
        if out.dtype.kind in "ui":
            np.rint(upper, out=upper)
        target[...] = upper


def _between(line: NDArray[Any], taps: Taps) -> NDArray[Any]:
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


#: Every second byte of a word, and half of its 256, for eight and for four channels at a time.
_EVEN8, _HALF8 = np.uint64(0x00FF00FF00FF00FF), np.uint64(0x0080008000800080)
_EVEN4, _HALF4 = np.uint32(0x00FF00FF), np.uint32(0x00800080)
_ODD4 = np.uint32(0xFF00FF00)


def pack_pairs(pixels: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """Pixels u8[h,w,4] as words u64[h·w]: each pixel with its right neighbour. The last word is not to be used."""
    height, width, _ = pixels.shape
    pairs = np.empty(height * width, np.uint64)
    flat = np.ascontiguousarray(pixels)
    pairs[:-1] = np.ndarray((height * width - 1,), np.uint64, buffer=flat, strides=(4,))
    pairs[-1] = 0
    return pairs


def bilinear_pairs(pairs: NDArray[np.uint64], width: int, x: Fixed, y: Fixed) -> NDArray[np.uint8]:
    """As `bilinear`, for four 8-bit channels at once: u8[H,W,4] from `pack_pairs`; at most 1.5 from the exact value.

    Eight bits of the position's fraction count, so the channels of a word can be weighed without being taken apart.
    """
    shape, shift = x.shape, np.int32(128 - _ONE // 2)  # from edges to centres, and to the nearest 256th
    x, y = (x + shift).reshape(-1), (y + shift).reshape(-1)
    at = (y >> 16).astype(np.intp)
    at *= width
    at += x >> 16
    lower = ((y >> 8) & 255).astype(np.uint64)
    upper = np.uint64(256) - lower
    right = ((x >> 8) & 255).astype(np.uint32)
    left = np.uint32(256) - right
    above = pairs.take(at, mode="clip")
    at += width
    below = pairs.take(at, mode="clip")
    even, term = above & _EVEN8, below & _EVEN8
    even *= upper
    term *= lower
    even += term
    even += _HALF8
    even >>= np.uint64(8)
    even &= _EVEN8
    above >>= np.uint64(8)
    above &= _EVEN8
    above *= upper
    below >>= np.uint64(8)
    below &= _EVEN8
    below *= lower
    above += below
    above += _HALF8
    above >>= np.uint64(8)
    above &= _EVEN8
    first, second = (_across(word, left, right) for word in (even, above))
    first >>= np.uint32(8)
    first &= _EVEN4
    second &= _ODD4
    first |= second
    return first.view(np.uint8).reshape(*shape, 4)


def _across(words: NDArray[np.uint64], left: NDArray[np.uint32], right: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """Each word's lower half weighed with its upper one: two channels in 16 bits each, rounded by their upper byte."""
    halves = words.view(np.uint32).reshape(-1, 2)
    mixed = halves[:, 0] * left
    mixed += halves[:, 1] * right
    mixed += _HALF4
    return mixed
