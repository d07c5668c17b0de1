"""Relations between the objects of each footprint, for many footprints at once."""

from __future__ import annotations

from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

from schemas.features import Kind
from schemas.relations import DISJOINT, Relation, classify_all


def relations(
    geometry: NDArray[Any], kind: NDArray[np.uint8], tile: NDArray[np.int64], span: float
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.uint8]]:
    """Edges of all tiles.

    Args:
        geometry: clipped objects in pixels of their own footprint, sorted by tile.
        kind, tile: per object; ``tile`` rises.
        span: more than the largest pixel coordinate of any footprint.

    Returns:
        i i64[E], j i64[E] (object indices, i < j, sorted) and relation u8[E] of i to j.
    """
    i, j = _box_pairs(geometry, tile, span)
    i, j = _meeting(geometry, i, j)
    matrices = shapely.relate(geometry[i], geometry[j])
    code = classify_all(np.asarray(matrices, dtype="U9"), kind[i], kind[j])
    keep = code != DISJOINT
    i, j, code = i[keep], j[keep], code[keep]
    di, dj = _delaunay(geometry, kind, tile)
    taken = np.isin(di * len(geometry) + dj, i * len(geometry) + j)  # equal points keep that relation
    di, dj = di[~taken], dj[~taken]
    i, j = np.concatenate((i, di)), np.concatenate((j, dj))
    code = np.concatenate((code, np.full(len(di), Relation.DELAUNAY, np.uint8)))
    order = np.lexsort((j, i))
    return i[order], j[order], code[order]


def _box_pairs(
    geometry: NDArray[Any], tile: NDArray[np.int64], span: float
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Pairs i < j of one tile whose bounding boxes meet: one tree, each tile's boxes moved to a place of its own.

    Only boxes are moved, and they are widened by what the move can round off: geometries keep their coordinates.
    """
    bounds = shapely.bounds(geometry)
    shift = tile * (2 * span)
    room = 1e-6
    boxes = shapely.box(
        bounds[:, 0] + shift - room, bounds[:, 1] - room, bounds[:, 2] + shift + room, bounds[:, 3] + room
    )
    i, j = shapely.STRtree(boxes).query(boxes)
    upper = i < j
    i, j = i[upper], j[upper]
    b = bounds
    meet = (b[i, 0] <= b[j, 2]) & (b[j, 0] <= b[i, 2]) & (b[i, 1] <= b[j, 3]) & (b[j, 1] <= b[i, 3])
    return i[meet], j[meet]


def _meeting(
    geometry: NDArray[Any], i: NDArray[np.int64], j: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Drop disjoint pairs by the cheaper predicate, the larger geometry prepared."""
    larger = np.where(shapely.get_num_coordinates(geometry[i]) >= shapely.get_num_coordinates(geometry[j]), i, j)
    smaller = i + j - larger
    shapely.prepare(geometry[np.unique(larger)])
    meets = shapely.intersects(geometry[larger], geometry[smaller])
    return i[meets], j[meets]


def _delaunay(
    geometry: NDArray[Any], kind: NDArray[np.uint8], tile: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Neighbouring points of each tile: Delaunay edges; consecutive points where all lie on one line.

    Of several points at one place, the first stands for all (the others are equal to it).
    """
    points = np.flatnonzero(kind == Kind.POINT)
    if len(points) < 2:
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    xy = shapely.get_coordinates(geometry[points])
    starts = np.flatnonzero(np.append(True, np.diff(tile[points]) != 0))
    edges_i: list[NDArray[np.int64]] = []
    edges_j: list[NDArray[np.int64]] = []
    for start, end in zip(starts, np.append(starts[1:], len(points)), strict=True):
        if end - start < 2:
            continue
        _, first = np.unique(xy[start:end], axis=0, return_index=True)  # sorted by x, then y
        a, b = delaunay_edges(xy[start:end][first])
        low, high = np.minimum(first[a], first[b]), np.maximum(first[a], first[b])
        edges_i.append(points[start + low])
        edges_j.append(points[start + high])
    if not edges_i:
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    return np.concatenate(edges_i), np.concatenate(edges_j)


def delaunay_edges(xy: NDArray[np.float64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Delaunay edges of distinct points f64[N,2] sorted by x, then y."""
    if len(xy) < 3:
        chain = np.arange(len(xy) - 1)
        return chain, chain + 1
    lines = shapely.get_parts(shapely.delaunay_triangles(shapely.multipoints(xy), only_edges=True))
    if not len(lines):  # all on one line: sorted by x, then y they follow it
        chain = np.arange(len(xy) - 1)
        return chain, chain + 1
    ends = shapely.get_coordinates(lines)
    _, where = np.unique(np.concatenate((xy, ends)), axis=0, return_inverse=True)
    where = where.reshape(-1)
    place = np.empty(where.max() + 1, np.int64)
    place[where[: len(xy)]] = np.arange(len(xy))
    index = place[where[len(xy) :]]
    return index[0::2], index[1::2]
