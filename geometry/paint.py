"""Painting class rasters: even-odd scanline fill at pixel centres, strokes as filled quads with round joins.

A pixel belongs to a shape if its centre lies inside it. Later layers overwrite earlier ones.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from geometry.packed import Floats, Ints, PackedGeometry, expand

#: A stroke is painted at least this wide, so that no line breaks up: any 1 px band holds a centre in every row or
#: column that it runs through.
MIN_STROKE = 1.0
_JOIN_SIDES = 8


@dataclass(frozen=True, eq=False)
class Shapes:
    """Polygons to fill: rings packed as in PackedGeometry, each shape with its image, paint order and class."""

    start: Floats  # [M,2] edge starts, pixels
    end: Floats  # [M,2]
    shape: Ints  # [M] shape of each edge
    image: Ints  # [S] image of each shape
    order: Ints  # [S] paint order: higher is painted later
    value: NDArray[np.uint8]  # [S] class painted


@dataclass(frozen=True, eq=False)
class _Spans:
    """Runs of pixels in paint order."""

    shape: Ints  # [P] rises in paint order
    row: Ints  # [P]
    left: Ints  # [P]
    right: Ints  # [P] exclusive


def fill(shapes: Shapes, images: int, width: int, height: int) -> NDArray[np.uint8]:
    """Class rasters u8[images,height,width]; 0 where nothing is painted."""
    spans = _spans(shapes, width, height)
    start = (shapes.image[spans.shape] * height + spans.row) * width + spans.left
    canvas = np.zeros(-(-images * height * width // 8), np.uint64)
    _paint(canvas, start, start + np.maximum(spans.right - spans.left, 0), shapes.value[spans.shape])
    return canvas.view(np.uint8)[: images * height * width].reshape(images, height, width)


def _spans(shapes: Shapes, width: int, height: int) -> _Spans:
    """Pixels between the crossings of a row's centre line, two by two."""
    ya, yb = shapes.start[:, 1], shapes.end[:, 1]
    first, last = rows_between(ya, yb, height)
    edge, row, x = crossings(shapes.start, shapes.end, first, last)
    # A line is a shape's row; lines stand in paint order. Rings close, so that as many edges cross it down as up.
    top, bottom = np.full(len(shapes.order), height), np.zeros(len(shapes.order), np.int64)
    np.minimum.at(top, shapes.shape, first)
    np.maximum.at(bottom, shapes.shape, last)
    by_rank = np.argsort(shapes.order, kind="stable")
    rows = np.maximum(bottom - top, 0)[by_rank]
    line_shape = np.repeat(by_rank, rows)
    base = np.empty(len(by_rank), np.int64)  # line of a shape's row 0, were it there
    base[by_rank] = np.cumsum(rows) - rows - top[by_rank]
    line = base[shapes.shape[edge]] + row
    down = (yb > ya)[edge]
    once = np.bincount(line[down], minlength=len(line_shape)) == 1
    single = once[line]
    ends = np.empty((2, len(line_shape)))
    for side, chosen in enumerate((single & down, single & ~down)):
        ends[side, line[chosen]] = x[chosen]
    places = np.flatnonzero(once)
    a, b = ends[:, places]
    rest = np.flatnonzero(~single)
    rest = rest[np.lexsort((x[rest], line[rest]))]
    left = np.concatenate((np.minimum(a, b), x[rest[0::2]]))
    right = np.concatenate((np.maximum(a, b), x[rest[1::2]]))
    line = np.concatenate((places, line[rest[0::2]]))
    order = np.argsort(line, kind="stable")
    line, left, right = line[order], left[order], right[order]
    shape = line_shape[line]
    return _Spans(shape, line - base[shape], column(left, width), column(right, width))


def rows_between(ya: Floats, yb: Floats, height: int) -> tuple[Ints, Ints]:
    """First row, and the row after the last, whose centre r + 0.5 satisfies min(y) <= r + 0.5 < max(y)."""
    first = np.maximum(np.ceil(np.minimum(ya, yb) - 0.5).astype(np.int64), 0)
    return first, np.minimum(np.ceil(np.maximum(ya, yb) - 0.5).astype(np.int64), height)


def crossings(start: Floats, end: Floats, first: Ints, last: Ints) -> tuple[Ints, Ints, Floats]:
    """Edge, row and x of each place where edges f64[M,2] cross the centre lines of their rows (``rows_between``)."""
    edge, k = expand(np.maximum(last - first, 0))
    row = first[edge] + k
    t = (row + 0.5 - start[edge, 1]) / (end[edge, 1] - start[edge, 1])
    return edge, row, start[edge, 0] + t * (end[edge, 0] - start[edge, 0])


def column(x: Floats, width: int | Ints) -> Ints:
    """First pixel whose centre is not left of x."""
    return np.asarray(np.clip(np.ceil(x - 0.5).astype(np.int64), 0, width))


def _paint(canvas: NDArray[np.uint64], start: Ints, end: Ints, value: NDArray[np.uint8]) -> None:
    """Set the bytes from ``start`` to ``end`` to ``value``, later ones over earlier ones.

    Whole words are set at once; that overdraw follows the order, runs of one value are painted one after another.
    """
    pixels = canvas.view(np.uint8)
    word, word_end = -(-start // 8), end // 8
    long = word < word_end
    bytes_of = np.stack((start, np.where(long, word_end * 8, end)), axis=1)
    lengths = np.stack((np.where(long, word * 8, end) - start, np.where(long, end - word_end * 8, 0)), axis=1)
    byte, byte_ends = _ranges(bytes_of.reshape(-1), lengths.reshape(-1))
    words, word_ends = _ranges(word, np.where(long, word_end - word, 0))
    cuts = np.flatnonzero(np.diff(value, prepend=value[:1], append=value[-1:] + 1)).tolist() if len(value) else []
    first = 0
    for cut in cuts:
        v = int(value[first])
        canvas[words[word_ends[first] : word_ends[cut]]] = v * 0x0101010101010101
        pixels[byte[byte_ends[2 * first] : byte_ends[2 * cut]]] = v
        first = cut


def _ranges(start: Ints, length: Ints) -> tuple[Ints, Ints]:
    """The numbers start, start + 1 … of every range, and where each range begins among them."""
    ends = np.concatenate(([0], np.cumsum(length)))
    return np.arange(ends[-1]) + np.repeat(start - ends[:-1], length), ends


def polygon_shapes(geometry: PackedGeometry, image: Ints, order: Ints, value: NDArray[np.uint8]) -> Shapes:
    """Shapes of polygon objects, one each; the arguments after ``geometry`` are per object."""
    start, end, owner = geometry.edges(closed=True)
    return Shapes(start, end, owner, image, order, value)


def stroke_shapes(
    geometry: PackedGeometry, width: Floats, image: Ints, order: Ints, value: NDArray[np.uint8]
) -> Shapes:
    """Shapes of line objects: one quad a segment, one octagon an inner vertex of strokes over 2 px; flat ends.

    Args:
        geometry: lines.
        width: f64[N] stroke width in pixels; widened to MIN_STROKE.
        image, order, value: per object.
    """
    half = np.maximum(width, MIN_STROKE) / 2
    start, end, owner = geometry.edges(closed=False)
    delta = end - start
    length = np.hypot(delta[:, 0], delta[:, 1])
    keep = length > 0
    start, end, owner = start[keep], end[keep], owner[keep]
    normal = (delta[keep] / length[keep, None])[:, ::-1] * (-1.0, 1.0) * half[owner][:, None]
    quads = np.stack((start + normal, end + normal, end - normal, start - normal), axis=1)  # [Q,4,2]
    inner = np.ones(len(geometry.vertices), bool)
    sized = np.diff(geometry.ring_offsets) > 0
    inner[geometry.ring_offsets[:-1][sized]] = False
    inner[geometry.ring_offsets[1:][sized] - 1] = False
    vertex_owner = geometry.ring_object[geometry.vertex_ring]
    joints = np.flatnonzero(inner & (half[vertex_owner] > 1.0))
    angle = np.arange(_JOIN_SIDES) * (2 * np.pi / _JOIN_SIDES)
    circle = np.stack((np.cos(angle), np.sin(angle)), axis=1)
    radius = half[vertex_owner[joints]] / np.cos(np.pi / _JOIN_SIDES) ** 0.5  # area between in- and circumcircle
    joins = geometry.vertices[joints][:, None, :] + radius[:, None, None] * circle
    edges = [_closed(quads), _closed(joins)]
    owners = np.concatenate((owner, vertex_owner[joints]))
    shape = np.concatenate(
        (np.repeat(np.arange(len(quads)), 4), len(quads) + np.repeat(np.arange(len(joins)), _JOIN_SIDES))
    )
    return Shapes(
        np.concatenate([e[0] for e in edges]), np.concatenate([e[1] for e in edges]), shape,
        image[owners], order[owners], value[owners],
    )  # fmt: skip


def _closed(rings: Floats) -> tuple[Floats, Floats]:
    """Edges of equal-sized rings f64[Q,S,2]."""
    return rings.reshape(-1, 2), np.roll(rings, -1, axis=1).reshape(-1, 2)


def join_shapes(parts: list[Shapes]) -> Shapes:
    """Several shape lists as one."""
    base = np.cumsum([0] + [len(p.image) for p in parts])
    return Shapes(
        np.concatenate([p.start for p in parts]), np.concatenate([p.end for p in parts]),
        np.concatenate([p.shape + b for p, b in zip(parts, base[:-1], strict=True)]),
        np.concatenate([p.image for p in parts]), np.concatenate([p.order for p in parts]),
        np.concatenate([p.value for p in parts]),
    )  # fmt: skip
