"""Exact cover of grid cells by polygons and lines: edge integrals, no polygon intersection.

Green's theorem: a polygon's area inside a cell is the sum over its edges, cut at the grid lines, of the area between
the edge and the cell's right side; what an edge leaves to its right counts for every further cell of the row.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from geometry.packed import Floats, Ints, PackedGeometry, expand
from schemas.tokens import FIELDS

#: Cover below this fraction of a cell is rounding noise of the integrals (about 1e-13 a vertex), not an incidence.
MIN_COVER = 1e-9


def split_at_grid(start: Floats, end: Floats) -> tuple[Floats, Floats, Ints]:
    """Cut segments f64[M,2] where they cross an integer x or y: pieces' start, end f64[K,2], source segment i64[K]."""
    low, high = np.minimum(start, end), np.maximum(start, end)
    first = np.floor(low).astype(np.int64) + 1  # integers strictly above low …
    lines = np.maximum(np.ceil(high).astype(np.int64) - first, 0)  # … and strictly below high
    delta = end - start
    cuts: list[tuple[Ints, Floats]] = []
    for axis in (0, 1):
        row, k = expand(lines[:, axis])
        cuts.append((row, (first[row, axis] + k - start[row, axis]) / delta[row, axis]))
    row, t = (np.concatenate(both) for both in zip(*cuts, strict=True))
    t = np.clip(t[np.lexsort((t, row))], 0.0, 1.0)
    segment, k = expand(lines.sum(axis=1) + 1)
    cut, following = np.zeros(len(segment)), np.ones(len(segment))
    later = np.flatnonzero(k)
    cut[later] = following[later - 1] = t
    a = start[segment] + cut[:, None] * delta[segment]
    b = start[segment] + following[:, None] * delta[segment]
    return a, b, segment


def patch_cover(
    geometry: PackedGeometry, size: tuple[float, float] | Ints | Floats, grid: tuple[int, int]
) -> tuple[Ints, Ints, Floats]:
    """Incidence of objects with the cells of a grid laid over a footprint.

    Args:
        geometry: objects in pixels, clipped to the footprint.
        size: footprint width, height in pixels, of all or [N,2] of each object's.
        grid: rows, columns.

    Returns:
        object i64[P], cell i64[P] (row * columns + column) and cover f64[P], sorted by object then cell. Cover is
        the area fraction of the cell for polygons, the length in cell sides (geometric mean of a cell's width and
        height) for lines, 1 for points.
    """
    rows, columns = grid
    cells = rows * columns
    scale = np.broadcast_to(np.array([columns, rows]) / size, (len(geometry), 2))
    vertices = geometry.vertices * scale[geometry.ring_object[geometry.vertex_ring]]
    scaled = PackedGeometry(geometry.kind, vertices, geometry.ring_offsets, geometry.object_ring_offsets)
    parts = [
        _points(scaled, rows, columns),
        _lines(scaled, rows, columns, scale),
        _polygons(scaled, rows, columns),
    ]
    code = np.concatenate([p[0] for p in parts])
    value = np.concatenate([p[1] for p in parts])
    order = np.argsort(code, kind="stable")
    return code[order] // cells, code[order] % cells, value[order]


def patches(
    geometry: PackedGeometry, size: tuple[float, float] | Ints | Floats, grid: tuple[int, int]
) -> dict[str, NDArray[Any]]:
    """The fields of the patches of :class:`schemas.tokens.OsmTokens`, by the arguments of :func:`patch_cover`."""
    owner, cell, cover = patch_cover(geometry, size, grid)
    found = {"patch_grid": np.array(grid), "patch_cell": cell, "patch_object": owner, "patch_cover": cover}
    return {name: values.astype(FIELDS[name].dtype) for name, values in found.items()}


def _cell(points: Floats, rows: int, columns: int) -> tuple[Ints, Ints]:
    row = np.clip(np.floor(points[:, 1]).astype(np.int64), 0, rows - 1)
    return row, np.clip(np.floor(points[:, 0]).astype(np.int64), 0, columns - 1)


def _points(geometry: PackedGeometry, rows: int, columns: int) -> tuple[Ints, Floats]:
    objects = np.flatnonzero(geometry.kind == 0)
    points = geometry.take(objects)
    row, column = _cell(points.vertices, rows, columns)
    code = np.unique((objects[points.ring_object[points.vertex_ring]] * rows + row) * columns + column)
    return code, np.ones(len(code))


def _lines(geometry: PackedGeometry, rows: int, columns: int, scale: Floats) -> tuple[Ints, Floats]:
    objects = np.flatnonzero(geometry.kind == 1)
    start, end, owner = geometry.take(objects).edges(closed=False)
    a, b, segment = split_at_grid(start, end)
    row, column = _cell((a + b) / 2, rows, columns)
    own = scale[objects[owner[segment]]]
    length = np.hypot(*((b - a) / own).T) * np.sqrt(own.prod(axis=1))  # a cell's sides, in pixels, have that mean
    code = (objects[owner[segment]] * rows + row) * columns + column
    distinct, where = np.unique(code, return_inverse=True)
    total: Floats = np.bincount(where.reshape(-1), length, len(distinct)).astype(np.float64)
    keep = total > MIN_COVER
    return distinct[keep], total[keep]


def _polygons(geometry: PackedGeometry, rows: int, columns: int) -> tuple[Ints, Floats]:
    objects = np.flatnonzero(geometry.kind == 2)
    start, end, owner = geometry.take(objects).edges(closed=True)
    a, b, segment = split_at_grid(start, end)
    row, column = _cell((a + b) / 2, rows, columns)
    # Counter-clockwise with y up runs with falling y (down) on the left side and rising y on the right: the area to
    # the right of a left edge is inside, so going down (dy > 0) counts positive.
    dy = b[:, 1] - a[:, 1]
    right = column + 1 - (a[:, 0] + b[:, 0]) / 2  # mean width between the piece and its cell's right side
    shape = (len(objects), rows, columns)
    code = (owner[segment] * rows + row) * columns + column
    inside = np.bincount(code, dy * right, int(np.prod(shape))).reshape(shape)
    passed = np.bincount(code, dy, int(np.prod(shape))).reshape(shape)
    inside[:, :, 1:] += np.cumsum(passed, axis=2)[:, :, :-1]
    flat = inside.reshape(-1)
    hit = np.flatnonzero(flat > MIN_COVER)
    cells = rows * columns
    return objects[hit // cells] * cells + hit % cells, np.minimum(flat[hit], 1.0)
