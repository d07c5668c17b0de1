"""Relations between the objects of each footprint, for many footprints at once."""

from __future__ import annotations

from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

from geometry.packed import Ints, changes, expand
from schemas.features import Kind
from schemas.relations import DISJOINT, INVERSE, Relation, classify_all

Codes = NDArray[np.uint8]


def relations(
    geometry: NDArray[Any], kind: NDArray[np.uint8], tile: Ints, size: tuple[int, int] | Ints
) -> tuple[Ints, Ints, Codes]:
    """Edges of all tiles.

    Args:
        geometry: clipped objects in pixels of their own footprint, sorted by tile.
        kind, tile: per object; ``tile`` rises.
        size: width, height of the footprints in pixels, of all or i64[N,2] of each object's.

    Returns:
        i i64[E], j i64[E] (object indices, i < j, sorted) and relation u8[E] of i to j.
    """
    bounds = shapely.bounds(geometry)
    size = np.broadcast_to(np.asarray(size), (len(geometry), 2))
    full = _full(geometry, kind, bounds, size)
    i, j, code, rest_i, rest_j = _with_full(geometry, kind, tile, bounds, full, size)
    box_i, box_j = _box_pairs(bounds, tile, np.flatnonzero(~full), float(size.max(initial=1)))
    rest_i, rest_j = np.concatenate((rest_i, box_i)), np.concatenate((rest_j, box_j))
    more_i, more_j, more = _related(geometry, kind, bounds, rest_i, rest_j)
    i, j, code = np.concatenate((i, more_i)), np.concatenate((j, more_j)), np.concatenate((code, more))
    di, dj = _delaunay(geometry, kind, tile)
    pair, link = i * len(geometry) + j, di * len(geometry) + dj
    new = ~np.isin(link, pair[(kind[i] == Kind.POINT) & (kind[j] == Kind.POINT)])  # equal points keep that relation
    pair = np.concatenate((pair, link[new]))
    code = np.concatenate((code, np.full(int(new.sum()), Relation.DELAUNAY, np.uint8)))
    order = np.argsort(pair)
    pair = pair[order]
    return pair // max(1, len(geometry)), pair % max(1, len(geometry)), code[order]


def _full(
    geometry: NDArray[Any], kind: NDArray[np.uint8], bounds: NDArray[np.float64], size: Ints
) -> NDArray[np.bool_]:
    """Polygons that are the whole footprint: its four corners, and no other vertex."""
    full: NDArray[np.bool_] = (kind == Kind.POLYGON) & (bounds[:, :2] == 0).all(axis=1)
    full &= (bounds[:, 2:] == size).all(axis=1)
    full &= shapely.get_num_coordinates(geometry) == 5
    likely = np.flatnonzero(full)
    full[likely] = shapely.area(geometry[likely]) == size[likely].prod(axis=1)
    likely = np.flatnonzero(full)
    xy = shapely.get_coordinates(geometry[likely]).reshape(-1, 10)
    full[likely] = ((xy == 0) | (xy == np.tile(size[likely], 5))).all(axis=1)
    return full


def _with_full(
    geometry: NDArray[Any],
    kind: NDArray[np.uint8],
    tile: Ints,
    bounds: NDArray[np.float64],
    full: NDArray[np.bool_],
    size: Ints,
) -> tuple[Ints, Ints, Codes, Ints, Ints]:
    """Edges between whole-footprint polygons and the other objects of their tile; pairs of them left to look at.

    Whatever lies within the footprint and not along its sides alone has its interior in the polygon's.
    """
    whole = np.flatnonzero(full)
    first, end = np.searchsorted(tile, tile[whole]), np.searchsorted(tile, tile[whole], side="right")
    row, k = expand(end - first)
    i, j = whole[row], first[row] + k
    once = (i != j) & (~full[j] | (i < j))
    i, j = i[once], j[once]
    inner = (bounds[:, :2] > 0).all(axis=1) & (bounds[:, 2:] < size).all(axis=1)
    within = (bounds[:, :2] >= 0).all(axis=1) & (bounds[:, 2:] <= size).all(axis=1)
    smaller = (kind == Kind.POLYGON) & (shapely.area(geometry) < size.prod(axis=1) * (1 - 1e-9))
    sure = full | inner | (within & smaller)
    lines = np.flatnonzero(within & ~inner & (kind == Kind.LINE))
    xy, owner = shapely.get_coordinates(geometry[lines], return_index=True)
    sure[lines[owner[((xy > 0) & (xy < size[lines[owner]])).all(axis=1)]]] = True  # a vertex inside
    code = np.where(full[j], Relation.EQUALS, np.where(kind[j] == Kind.POINT, Relation.CONTAINS, Relation.COVERS))
    code = np.where(i < j, code, INVERSE[code]).astype(np.uint8)
    i, j = np.minimum(i, j), np.maximum(i, j)
    known = sure[i] & sure[j]
    return i[known], j[known], code[known], i[~known], j[~known]


def _box_pairs(bounds: NDArray[np.float64], tile: Ints, objects: Ints, span: float) -> tuple[Ints, Ints]:
    """Pairs i < j of ``objects`` of one tile whose bounds meet: one tree, each tile's boxes moved to their own place.

    Only boxes are moved, and they are widened by what the move can round off: geometries keep their coordinates.
    """
    b = bounds[objects]
    shift = tile[objects] * (2 * span)
    room = 1e-6
    boxes = shapely.box(b[:, 0] + shift - room, b[:, 1] - room, b[:, 2] + shift + room, b[:, 3] + room)
    i, j = shapely.STRtree(boxes).query(boxes)
    upper = i < j
    i, j = i[upper], j[upper]
    meet = (b[i, 0] <= b[j, 2]) & (b[j, 0] <= b[i, 2]) & (b[i, 1] <= b[j, 3]) & (b[j, 1] <= b[i, 3])
    return objects[i[meet]], objects[j[meet]]


def _related(
    geometry: NDArray[Any], kind: NDArray[np.uint8], bounds: NDArray[np.float64], i: Ints, j: Ints
) -> tuple[Ints, Ints, Codes]:
    """Those of the pairs that are not disjoint, and the relation of i to j."""
    size = shapely.get_num_coordinates(geometry)
    turned = size[i] < size[j]  # the larger first and prepared; relate, too, is faster that way round
    a, b = np.where(turned, j, i), np.where(turned, i, j)
    shapely.prepare(geometry[np.unique(a)])
    # Most pairs are settled by the cheaper predicates.
    likely = (kind[a] == Kind.POLYGON) & (bounds[a, 0] < bounds[b, 0]) & (bounds[a, 1] < bounds[b, 1])
    likely = np.flatnonzero(likely & (bounds[a, 2] > bounds[b, 2]) & (bounds[a, 3] > bounds[b, 3]))
    inner = likely[shapely.contains_properly(geometry[a[likely]], geometry[b[likely]])]
    code = np.full(len(a), DISJOINT, np.uint8)
    code[inner] = np.where(kind[b[inner]] == Kind.POINT, Relation.CONTAINS, Relation.COVERS)
    rest = np.flatnonzero(code == DISJOINT)
    rest = rest[shapely.intersects(geometry[a[rest]], geometry[b[rest]])]
    shapely.destroy_prepared(geometry)  # a prepared relate costs more than it saves on so few pairs an object
    matrices = np.asarray(shapely.relate(geometry[a[rest]], geometry[b[rest]]), dtype="U9")
    code[rest] = classify_all(matrices, kind[a[rest]], kind[b[rest]])
    keep = np.flatnonzero(code != DISJOINT)
    return i[keep], j[keep], np.where(turned[keep], INVERSE[code[keep]], code[keep])


def _delaunay(geometry: NDArray[Any], kind: NDArray[np.uint8], tile: Ints) -> tuple[Ints, Ints]:
    """Neighbouring points of each tile: Delaunay edges; consecutive points where all lie on one line.

    Of several points at one place, the first stands for all (the others are equal to it).
    """
    points = np.flatnonzero(kind == Kind.POINT)
    xy = shapely.get_coordinates(geometry[points])
    order = np.lexsort((xy[:, 1], xy[:, 0], tile[points]))  # stable: the first of equal ones comes first
    points, xy = points[order], xy[order]
    new = changes(tile[points], *xy.T)
    points, xy = points[new], xy[new]
    i, j = delaunay_edges(xy, tile[points])
    return np.minimum(points[i], points[j]), np.maximum(points[i], points[j])


def delaunay_edges(xy: NDArray[np.float64], tile: Ints) -> tuple[Ints, Ints]:
    """Delaunay edges within each tile, of distinct points f64[N,2] sorted by tile, x, y."""
    starts = np.flatnonzero(np.diff(tile, prepend=-1))
    group = np.repeat(np.arange(len(starts)), np.diff(starts, append=len(xy)))
    several = np.bincount(group, minlength=len(starts)) > 2
    chosen = np.flatnonzero(several[group])
    clouds = shapely.multipoints(xy[chosen], indices=(np.cumsum(several) - 1)[group[chosen]])
    triangles = shapely.delaunay_triangles(clouds, only_edges=True)
    lines, cloud = shapely.get_parts(triangles, return_index=True)
    ends, line = shapely.get_coordinates(lines, return_index=True)
    triangulated = np.zeros(len(starts), bool)
    triangulated[np.flatnonzero(several)[cloud]] = True
    index = _find(xy, group, ends, np.flatnonzero(several)[cloud[line]])
    # Fewer than three points, or all on one line: sorted by x, then y they follow it.
    chain = np.flatnonzero((np.diff(group) == 0) & ~triangulated[group[:-1]])
    return np.concatenate((index[0::2], chain)), np.concatenate((index[1::2], chain + 1))


def _find(xy: NDArray[np.float64], group: Ints, wanted: NDArray[np.float64], wanted_group: Ints) -> Ints:
    """Places of ``wanted`` in its group of ``xy``, in which each occurs once."""
    every = np.concatenate((xy, wanted))
    order = np.lexsort((every[:, 1], every[:, 0], np.concatenate((group, wanted_group))))  # stable: xy's own come first
    mine = order < len(xy)
    result = np.empty(len(every), np.int64)
    own = np.flatnonzero(mine)
    result[order] = order[own[np.cumsum(mine) - 1]]
    return result[len(xy) :]
