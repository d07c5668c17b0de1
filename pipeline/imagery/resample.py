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
#: Lines that share their steps: the first number that is good for a tile.
MOST_ALIKE = 16
_ALIKE = (MOST_ALIKE, 8, 4, 2, 1)
#: Pixels between nodes, at most; the first that is fine enough is taken, for each tile by itself.
_CELLS = (128, 32, 8)
#: Source pixels a side of a window, so that positions fit 32 bits.
MAX_WINDOW = 1 << 14
ONE = 1 << 16


class Lines(NamedTuple):
    """Source positions of a footprint's pixel centres, in units of 2^-16: in equal steps along each piece of a line.

    Neighbouring lines whose steps hardly differ share them, so that most positions take one addition.
    """

    first: NDArray[np.int64]  # [2,height]: x, y of each line's first pixel, 0 the raster's outer edge
    starts: NDArray[np.int64]  # [2,groups,pieces]: of the first pixel of each piece, counted from the line's
    steps: NDArray[np.float32]  # [2,groups,pieces]: a piece's end is exact to one unit
    cell: int  # pixels of a piece
    width: int  # of the footprint; the last piece may reach beyond
    low: tuple[float, float]  # the least x, y of all, in source pixels
    high: tuple[float, float]  # the greatest

    @property
    def alike(self) -> int:
        """Lines of a group."""
        return self.first.shape[1] // self.steps.shape[1]

    def positions(self, origin: tuple[int, int]) -> Fixed:
        """x, y i32[2,height,width] of all pixel centres, counted from ``origin``."""
        height = self.first.shape[1]
        grid = np.empty((2, height, self.width), np.int32)
        return self.fill(self.since(origin, 0), slice(0, height), grid)

    def since(self, origin: tuple[int, int], shift: int) -> Fixed:
        """``first`` counted from ``origin`` in pixels and ``shift`` in units of 2^-16, i32[2,height]."""
        return (self.first - (np.array(origin)[:, None] * ONE + shift)).astype(np.int32)

    def fill(self, first: Fixed, rows: slice, grid: Fixed) -> Fixed:
        """x, y of the lines of some whole groups, in ``grid`` [2,rows,width]."""
        alike = self.alike
        groups = slice(rows.start // alike, rows.stop // alike)
        along = (self.steps[:, groups, :, None] * np.arange(self.cell, dtype=np.float32)).astype(np.int32)
        along += self.starts[:, groups, :, None].astype(np.int32)
        shared = along.reshape(2, along.shape[1], 1, -1)[..., : self.width]
        several = (2, along.shape[1], alike)
        np.add(first[:, rows].reshape(*several, 1), shared, out=grid.reshape(*several, self.width))
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
            error = np.abs(guess - xy).max(axis=(1, 2, 3))
            good = error < MAX_ERROR  # NaN and infinity are not
        if good.any():
            placed = _between(nodes[good], cell, footprints[0], MAX_ERROR - error[good])
            for at, lines in zip(np.flatnonzero(good), placed, strict=True):
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


def _between(nodes: Floats, cell: tuple[int, int], size: Footprint, left: Floats) -> list[Lines]:
    """Lines through nodes f64[T,rows,columns,2], between which positions are linear along both axes; they share steps
    as far as no position moves by what is ``left`` [T] of `MAX_ERROR`."""
    across, down = cell
    exact = nodes.transpose(0, 3, 2, 1)  # [T,2,columns,rows]
    first = np.rint(_at(exact[:, :, 0], np.arange(size.height), down) * ONE).astype(np.int64)
    rims = [
        np.append(np.arange(0, n - 1, apart), n - 1) for n, apart in zip((size.width, size.height), cell, strict=True)
    ]
    corners = _at(_at(exact, rims[1], down).swapaxes(2, 3), rims[0], across)
    ends = corners.min(axis=(2, 3)).tolist(), corners.max(axis=(2, 3)).tolist()
    reach = [(tuple(low), tuple(high)) for low, high in zip(*ends, strict=True)]
    away = exact - exact[:, :, :1]  # from the line's first
    turned = np.abs(np.diff(away)).max(axis=(1, 2, 3)) / down  # from line to line
    fit = [n for n in _ALIKE if size.height % n == down % n == 0]
    good = turned[:, None] * (np.array(fit) - 1) / 2 < left[:, None]
    chosen = np.array(fit)[good.argmax(axis=1)]
    found: list[Any] = [None] * len(nodes)
    for alike in set(chosen.tolist()):
        own = np.flatnonzero(chosen == alike)
        middle = _at(away[own], np.arange(size.height // alike) * alike + (alike - 1) / 2, down).swapaxes(2, 3)
        starts = np.rint(middle[..., :-1] * ONE).astype(np.int64)
        steps = (np.diff(middle) * (ONE / across)).astype(np.float32)
        for i, start, slope in zip(own.tolist(), starts, steps, strict=True):
            found[i] = Lines(first[i], start, slope, across, size.width, *reach[i])
    return found


def _at(nodes: Floats, places: NDArray[Any], apart: int) -> Floats:
    """Between nodes […,n] that lie ``apart``, at places [m] from the first on, […,m]."""
    before = (places // apart).astype(np.intp)
    share = places / apart - before
    return nodes[..., before] * (1.0 - share) + nodes[..., before + 1] * share


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
        x, y = x - ONE // 2, y - ONE // 2  # from edges to centres
        at = (y >> 16).astype(np.intp)
        at *= width
        at += x >> 16
        u, v = ((p & (ONE - 1)).astype(real) * real(1 / ONE) for p in (x, y))
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
