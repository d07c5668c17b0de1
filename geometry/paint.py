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


def fill(shapes: Shapes, images: int, width: int, height: int) -> NDArray[np.uint8]:
    """Class rasters u8[images,height,width]; 0 where nothing is painted."""
    canvas = np.zeros(images * height * width, np.uint8)
    ya, yb = shapes.start[:, 1], shapes.end[:, 1]
    # Rows whose centre r + 0.5 satisfies min(y) <= r + 0.5 < max(y).
    first = np.maximum(np.ceil(np.minimum(ya, yb) - 0.5).astype(np.int64), 0)
    last = np.minimum(np.ceil(np.maximum(ya, yb) - 0.5).astype(np.int64), height)
    edge, k = expand(np.maximum(last - first, 0))
    row = first[edge] + k
    t = (row + 0.5 - ya[edge]) / (yb[edge] - ya[edge])
    x = shapes.start[edge, 0] + t * (shapes.end[edge, 0] - shapes.start[edge, 0])
    # Every crossing in reading order within its shape and row, shapes in paint order.
    shape = shapes.shape[edge]
    rank = np.empty(len(shapes.order), np.int64)
    rank[np.argsort(shapes.order, kind="stable")] = np.arange(len(shapes.order))
    sequence = np.lexsort((x, rank[shape] * height + row))
    x, row, shape = x[sequence], row[sequence], shape[sequence]
    left = np.clip(np.ceil(x[0::2] - 0.5).astype(np.int64), 0, width)
    right = np.clip(np.ceil(x[1::2] - 0.5).astype(np.int64), 0, width)
    row, shape = row[0::2], shape[0::2]
    length = np.maximum(right - left, 0)
    where = (shapes.image[shape] * height + row) * width + left
    before = np.cumsum(length) - length
    pixel = np.arange(int(length.sum())) + np.repeat(where - before, length)
    # numpy keeps the last of repeated indices, so overdraw follows the paint order.
    canvas[pixel] = np.repeat(shapes.value[shape], length)
    return canvas.reshape(images, height, width)


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
