"""Key points of objects as GeoLink's paper and release place them, from the stored vertices.

Tokens carry our own anchors (geometry.anchors). These are the others, for runs that repeat the paper or the release:
docs/papers/geolink.md#key-points.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from geometry.anchors import object_seed
from geometry.mix import uniform
from geometry.packed import Floats, Ints, PackedGeometry, expand
from schemas.features import Kind
from schemas.tokens import OsmTokens, unsnap

#: Where objects are located. ``ours``: the anchors as stored. ``paper``: a line's midpoint and ends; a polygon's three
#: samples at random angles and radii, then its centroid. ``released``: a line's centroid, first and last vertex; the
#: samples at fixed angles. ``centroid``: one point each.
KeyPoints = Literal["ours", "paper", "released", "centroid"]

_SAMPLES = 3
#: Steps in which a sample that lies outside is drawn in to the centroid.
_STEPS = 10


def with_key_points(
    tokens: OsmTokens, rule: KeyPoints, seed: int = 0, size: tuple[float, float] = (1.0, 1.0)
) -> OsmTokens:
    """The tokens with anchors by ``rule``.

    Args:
        tokens: of any window of a footprint, turned or not.
        rule: see ``KeyPoints``.
        seed: of the samples of polygons; equal seeds give equal points.
        size: width and height of what is shown, in a unit in which the samples' circles are round: pixels, or degrees
            as in the release.
    """
    if rule == "ours" or not len(tokens):
        return tokens
    geometry = PackedGeometry(
        tokens.kind, unsnap(tokens.vertices) * size,
        tokens.ring_offsets.astype(np.int64), tokens.object_ring_offsets.astype(np.int64),
    )  # fmt: skip
    points = np.full((len(tokens), 1 + _SAMPLES, 2), np.nan)
    middle = centroids(geometry)
    points[:, 0] = middle
    if rule != "centroid":
        lines, polygons = (np.flatnonzero(tokens.kind == kind) for kind in (Kind.LINE, Kind.POLYGON))
        points[lines, :3] = tokens.anchors[lines, :3].astype(np.float64) * size
        if rule == "released":
            points[lines, 0] = middle[lines]
        draws = object_seed(tokens.osm_type, tokens.osm_id, np.full(len(tokens), seed, np.uint64))[polygons]
        points[polygons, :_SAMPLES] = _samples(geometry.take(polygons), middle[polygons], draws, rule == "paper")
        points[polygons, _SAMPLES] = middle[polygons]
    return replace(tokens, anchors=(points / size).astype(np.float32))


def centroids(geometry: PackedGeometry) -> Floats:
    """Centre of mass f64[N,2]: of a polygon's area, of a line's length, of a point's vertex.

    A polygon without area is taken as its outline, an outline without length as its vertices.
    """
    start, end, owner = geometry.edges(closed=True)  # as many as vertices, of the same objects
    count = np.bincount(owner, minlength=len(geometry))
    result = np.stack([np.bincount(owner, axis, len(geometry)) for axis in geometry.vertices.T], 1) / count[:, None]
    outline = geometry.kind[owner] == Kind.POLYGON
    for kind, (a, b, own) in (
        (Kind.LINE, geometry.edges(closed=False)),
        (Kind.POLYGON, (start[outline], end[outline], owner[outline])),
    ):
        length = np.hypot(*(b - a).T)
        _weigh(result, geometry.kind == kind, own, length, (a + b) / 2)
    # Reckoned about a vertex of the object itself, so that nothing is lost where it is small and far from the origin.
    origin = geometry.vertices[geometry.ring_offsets[geometry.object_ring_offsets[:-1]]]
    a, b = start - origin[owner], end - origin[owner]
    cross = np.where(outline, b[:, 0] * a[:, 1] - a[:, 0] * b[:, 1], 0.0)
    _weigh(result, geometry.kind == Kind.POLYGON, owner, cross, (a + b) / 3 + origin[owner])
    return result


def _weigh(result: Floats, chosen: NDArray[np.bool_], owner: Ints, weight: Floats, place: Floats) -> None:
    """Sets the rows of ``chosen`` objects whose weights do not vanish to the weighted mean of ``place`` [M,2]."""
    count = len(result)
    total = np.bincount(owner, weight, count)
    some = chosen & (total > 1e-15)
    for axis in range(2):
        moment = np.bincount(owner, weight * place[:, axis], count)
        result[some, axis] = moment[some] / total[some]


def _samples(geometry: PackedGeometry, centre: Floats, seed: NDArray[np.uint64], any_angle: bool) -> Floats:
    """Interior samples f64[P,3,2] of polygons around their centroids [P,2].

    A radius between half the least and half the greatest distance of an outer vertex; drawn in by tenths while the
    point lies outside; where the centroid does too, next to it.
    """
    least, most = (r / 2 for r in _reach(geometry, centre))
    draw = uniform(seed, 2 * _SAMPLES)
    turn = draw[:, _SAMPLES:] if any_angle else np.broadcast_to(np.arange(_SAMPLES) / _SAMPLES, (len(seed), _SAMPLES))
    radius = least[:, None] + draw[:, :_SAMPLES] * (most - least)[:, None]
    arm = np.stack((np.cos(2 * np.pi * turn), np.sin(2 * np.pi * turn)), -1)
    share = 1 - np.arange(_STEPS + 1) / _STEPS
    tries = centre[:, None, None] + (radius[..., None] * arm)[:, :, None] * share[:, None]  # [P,3,11,2]
    inside = _inside(geometry, tries.reshape(len(seed), _SAMPLES * len(share), 2)).reshape(tries.shape[:3])
    first = inside.argmax(2)
    found = np.take_along_axis(tries, first[..., None, None], 2)[:, :, 0]
    beside = centre[:, None] + least[:, None, None] / 100 * arm
    return np.where(np.asarray(inside.any(2))[..., None], found, beside)


def _reach(geometry: PackedGeometry, centre: Floats) -> tuple[Floats, Floats]:
    """Least and greatest distance of the vertices of each object's outer rings from its centroid."""
    start, end, _ = geometry.edges(closed=True)
    ring = geometry.vertex_ring  # edges stand in the order of the vertices that they leave
    twice = np.bincount(ring, end[:, 0] * start[:, 1] - start[:, 0] * end[:, 1], len(geometry.ring_offsets) - 1)
    owner = geometry.ring_object[ring]
    outer = twice[ring] >= 0
    distance = np.hypot(*(geometry.vertices - centre[owner]).T)
    least, most = np.full(len(geometry), np.inf), np.zeros(len(geometry))
    np.minimum.at(least, owner[outer], distance[outer])
    np.maximum.at(most, owner, np.where(outer, distance, 0.0))
    return np.minimum(least, most), most


def _inside(geometry: PackedGeometry, places: Floats) -> NDArray[np.bool_]:
    """Even-odd, bool[P,K]: which of the places f64[P,K,2] of each polygon lie in it."""
    start, end, owner = geometry.edges(closed=True)
    per = places.shape[1]
    edge, which = expand(np.full(len(owner), per))
    x, y = places[owner[edge], which].T
    (xa, ya), (xb, yb) = start[edge].T, end[edge].T
    hit = (ya <= y) != (yb <= y)  # the edge passes the height of the place
    with np.errstate(divide="ignore", invalid="ignore"):
        left = hit & (xa + (y - ya) / (yb - ya) * (xb - xa) <= x)
    crossings = np.bincount(owner[edge] * per + which, left, len(geometry) * per)
    return (crossings.reshape(len(geometry), per) % 2).astype(bool)
