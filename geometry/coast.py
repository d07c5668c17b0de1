"""The sea in images: coastlines, which have land on their left, as shapes to fill.

Each coastline that is cut by an image's side is closed along the sides, up to the upper left corner. How often the
rings wind around a place then says where it lies, but for one number an image: over a coastline from sea to land it
grows by one. So the sea is where it is lowest, and a coastline that is whole and consistent leaves two values, no more.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from geometry.packed import Floats, Ints, PackedGeometry, changes
from geometry.paint import Shapes, column, crossings, rows_between

#: Pixels from its side within which a coastline leaves an image.
_ON_SIDE = 1e-6


class Coast(IntEnum):
    """What the coastlines in an image make of it."""

    NONE = 0  # no pixel lies on another's side: there is none, or none that shows
    PARTS = 1  # sea and land
    BROKEN = 2  # a coastline ends in the image, or two contradict each other


@dataclass(frozen=True, eq=False)
class Edges:
    """M edges of coastlines or of what closes them."""

    start: Floats  # [M,2] pixels
    end: Floats  # [M,2]
    image: Ints  # [M]

    def take(self, rows: Ints) -> Edges:
        """The chosen edges."""
        return Edges(self.start[rows], self.end[rows], self.image[rows])


def coasts(geometry: PackedGeometry, image: Ints, size: Ints) -> tuple[NDArray[np.uint8], Edges]:
    """State of every image, u8[T] of Coast, and the edges that bound the sea of those with parts.

    Args:
        geometry: coastlines in pixels of their images, cut to them: lines with land on their left seen with y up, and
            islands as polygons.
        image: i64[N] of each.
        size: i64[T,2] width, height of each image.
    """
    lines, islands = (np.flatnonzero(geometry.kind == kind) for kind in (1, 2))
    ends, broken = _closing(geometry.take(lines), image[lines], size)
    parts = [ends]
    for rows, closed in ((lines, False), (islands, True)):
        start, end, owner = geometry.take(rows).edges(closed=closed)
        parts.append(Edges(start, end, image[rows][owner]))
    edges = _joined(parts)
    lowest, highest = _winding(edges, size, broken)
    state = np.where(highest > lowest, Coast.PARTS, Coast.NONE).astype(np.uint8)
    state[broken | (highest - lowest > 1)] = Coast.BROKEN
    shown = edges.take(np.flatnonzero(state[edges.image] == Coast.PARTS))
    around = frames(np.flatnonzero((state == Coast.PARTS) & (lowest % 2 == 0)), size)
    return state, _joined([shown, around])


def frames(images: Ints, size: Ints) -> Edges:
    """The left and right sides of images: what an even-odd fill turns inside out, or fills as a whole."""
    width, height = size[images].T.astype(np.float64)
    none = np.zeros(len(images))
    start = np.concatenate((np.stack((none, none), 1), np.stack((width, height), 1)))
    end = np.concatenate((np.stack((none, height), 1), np.stack((width, none), 1)))
    return Edges(start, end, np.tile(images, 2))


def fill_edges(edges: Edges, order: int, value: int) -> Shapes:
    """Shapes of one class, one an image, of an image's edges."""
    images, shape = np.unique(edges.image, return_inverse=True)
    orders, values = np.full(len(images), order), np.full(len(images), value, np.uint8)
    return Shapes(edges.start, edges.end, shape.reshape(-1), images, orders, values)


def loose_ends(xy: Floats, sign: Ints, group: Ints) -> tuple[Ints, Ints]:
    """Where lines do not go on: net number of lines that begin at the place of each end, and how many meet there.

    Args:
        xy: f64[E,2] ends of lines; those that are equal to the last bit are one place.
        sign: i64[E] 1 where a line begins, -1 where it ends.
        group: i64[E]; ends of different groups do not meet.

    Returns:
        i64[E] and i64[E].
    """
    order = np.lexsort((xy[:, 1], xy[:, 0], group))
    first = np.flatnonzero(changes(group[order], *xy[order].T))
    if not len(first):
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    count = np.diff(np.append(first, len(order)))
    net, meet = np.empty(len(order), np.int64), np.empty(len(order), np.int64)
    net[order] = np.repeat(np.add.reduceat(sign[order], first), count)
    meet[order] = np.repeat(count, count)
    return net, meet


def line_ends(geometry: PackedGeometry) -> tuple[Floats, Ints, Ints]:
    """First and last vertices f64[2R,2] of line parts, 1 or -1, and their objects."""
    some = np.diff(geometry.ring_offsets) > 0
    at = np.concatenate((geometry.ring_offsets[:-1][some], geometry.ring_offsets[1:][some] - 1))
    sign = np.repeat(np.array([1, -1]), int(some.sum()))
    return geometry.vertices[at], sign, np.tile(geometry.ring_object[some], 2)


def _closing(lines: PackedGeometry, image: Ints, size: Ints) -> tuple[Edges, NDArray[np.bool_]]:
    """Edges that close the lines along the sides of their images, and in which images an end lies elsewhere."""
    xy, sign, owner = line_ends(lines)
    image = image[owner]
    net, _ = loose_ends(xy, sign, image)
    # Of the ends at one place, those that are too many: each loose beginning or end once.
    loose = np.flatnonzero((net != 0) & (np.sign(net) == sign))
    order = loose[np.lexsort((xy[loose, 1], xy[loose, 0], image[loose]))]
    new = changes(image[order], *xy[order].T)
    rank = np.arange(len(order)) - np.maximum.accumulate(np.where(new, np.arange(len(order)), 0))
    loose = order[rank < np.abs(net[order])]
    xy, sign, image = xy[loose], sign[loose], image[loose]
    width, height = size[image].T
    x, y = xy.T
    left, right = x <= _ON_SIDE, x >= width - _ON_SIDE
    top, bottom = y <= _ON_SIDE, y >= height - _ON_SIDE
    broken = np.zeros(len(size), bool)
    broken[image[~(left | right | top | bottom)]] = True
    # Along the upper side nothing is crossed; the lower one is left at its left end, all of the left side above it.
    reach = np.select([top, left | right, bottom], [np.zeros(len(y)), y, height.astype(np.float64)], 0.0)
    at = np.where(right, width.astype(np.float64), 0.0)
    foot, corner = np.stack((at, reach), 1), np.stack((at, np.zeros(len(at))), 1)
    begins = (sign > 0)[:, None]
    return Edges(np.where(begins, corner, foot), np.where(begins, foot, corner), image), broken


def _winding(edges: Edges, size: Ints, broken: NDArray[np.bool_]) -> tuple[Ints, Ints]:
    """Lowest and highest number of windings around a pixel of each image; what does not close is marked as broken."""
    height = int(size[:, 1].max(initial=0))
    edge, row, x = crossings(edges.start, edges.end, *rows_between(edges.start[:, 1], edges.end[:, 1], height))
    image = edges.image[edge]
    sign = np.where(edges.end[edge, 1] > edges.start[edge, 1], 1, -1)
    line = image * height + row
    order = np.lexsort((x, line))
    line, x, sign, image = line[order], x[order], sign[order], image[order]
    lowest = np.full(len(size), np.iinfo(np.int64).max)
    highest = -lowest
    first = changes(line)
    rows = np.bincount(image[first], minlength=len(size))
    width = size[image, 0]
    at = column(x, width)
    before = np.cumsum(sign) - sign
    begins = np.flatnonzero(first)
    winding = before + sign - (before[begins][np.cumsum(first) - 1] if len(begins) else 0)
    last = np.append(first[1:], True)[: len(first)]
    broken[image[last & (winding != 0)]] = True
    following = np.where(last, width, np.append(at[1:], 0)[: len(at)])
    shown = following > at
    np.minimum.at(lowest, image[shown], winding[shown])
    np.maximum.at(highest, image[shown], winding[shown])
    # Outside of all rings: rows without a crossing, and what lies before the first one.
    outside = rows < size[:, 1]
    outside[image[first & (at > 0)]] = True
    lowest[outside], highest[outside] = np.minimum(lowest[outside], 0), np.maximum(highest[outside], 0)
    return lowest, highest


def _joined(parts: list[Edges]) -> Edges:
    return Edges(
        np.concatenate([p.start for p in parts]), np.concatenate([p.end for p in parts]),
        np.concatenate([p.image for p in parts]),
    )  # fmt: skip
