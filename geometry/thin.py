"""Leave out the vertices of long outlines that lie far from a box, without changing their intersection with it.

A run of vertices on one outer side of a box may be replaced by its first and its last: both paths stay on that side,
so every segment that meets the box is kept with its own ends, and every place inside is wound around as often as
before. Outlines are cut into runs of about the square root of their length, so that a country's border costs each
footprint a few hundred vertices.

What is left may cross itself, but only where an overlay does not look: GEOS clips the inputs of an intersection to the
other's envelope, grown by a tenth, by the segments that meet it, and by a tenth again (OverlayUtil::clippingEnvelope),
before it builds any topology. A ring's direction it takes from the whole ring's extreme (Orientation::isCCW); the runs
around it are kept, too.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geometry.packed import Floats, Ints, expand

#: Outlines of fewer vertices are kept whole: eight runs or more leave a ring enough corners to be one.
MIN_VERTICES = 64
#: Share of its longer side by which an envelope is grown, twice; GEOS grows it by a tenth of the shorter.
_MARGIN = 0.15


@dataclass(frozen=True, eq=False)
class Outlines:
    """Rings (closing vertex included) and line parts of F features. A part's shell stands before its holes."""

    vertices: Floats  # [V,2]
    offsets: Ints  # [R+1] into vertices; no outline is empty
    shell: Ints  # [R] a hole's shell, else the outline itself
    ring: NDArray[np.bool_]  # [R] a ring, not a line part
    feature_offsets: Ints  # [F+1] into outlines


@dataclass(frozen=True, eq=False)
class Thinned:
    """What is left of M requested features: K vertices of L outlines."""

    vertex: Ints  # [K] into the vertices of the Outlines
    offsets: Ints  # [L+1] into vertex
    outline: Ints  # [L] into the outlines
    request: Ints  # [L] rises


@dataclass(frozen=True, eq=False)
class _Runs:
    """C runs of consecutive vertices; the last vertex of an outline is a run of its own."""

    starts: Ints  # [C+1] first vertex of each run; the total at the end
    outline_offsets: Ints  # [R+1] into runs
    bounds: Floats  # [C,4] of a run and the first vertex of the next one; infinite where a run is always kept
    keep: NDArray[np.bool_]  # [C] reaches an extreme of a long ring


def thin(outlines: Outlines, feature: Ints, box: Floats) -> Thinned:
    """The named features without what lies far from their box: parts, holes and runs.

    Args:
        outlines: of all features.
        feature: i64[M], any number of times each.
        box: f64[M,4] min x, min y, max x, max y.
    """
    runs = _cut_into_runs(outlines)
    starts = outlines.offsets[:-1]
    v = outlines.vertices
    bounds = np.concatenate((np.minimum.reduceat(v, starts), np.maximum.reduceat(v, starts)), axis=1)
    first = outlines.feature_offsets[feature]
    request, k = expand(outlines.feature_offsets[feature + 1] - first)
    outline = first[request] + k

    def meeting(wide: Floats) -> tuple[Ints, Ints]:
        wanted = wide[request]
        keep = boxes_meet(bounds[outline], wanted) & boxes_meet(bounds[outlines.shell[outline]], wanted)
        return request[keep], outline[keep]

    target = _grown(box)
    near, its_outline = meeting(target)
    wide = _grown(_reach(outlines, runs, near, its_outline, target))
    near, its_outline = meeting(wide)
    vertex, offsets = _kept(runs, its_outline, wide[near], runs.keep)
    return Thinned(vertex, offsets, its_outline, near)


def boxes_meet(a: Floats, b: Floats) -> NDArray[np.bool_]:
    """Which boxes of two lists f64[M,4] share a place, bool[M]; touching counts."""
    meet: NDArray[np.bool_] = (a[:, 0] <= b[:, 2]) & (b[:, 0] <= a[:, 2]) & (a[:, 1] <= b[:, 3]) & (b[:, 1] <= a[:, 3])
    return meet


def outer_sides(x: Floats, y: Floats, box: tuple[Any, Any, Any, Any]) -> NDArray[np.uint8]:
    """On which sides of a box places lie: one bit a side. Segments whose ends share a bit do not meet the box.

    Args:
        x, y: f64[V].
        box: min x, min y, max x, max y: numbers, or f64[V].
    """
    sides = (x < box[0]).view(np.uint8)
    for bit, beyond in enumerate((y < box[1], x > box[2], y > box[3]), 1):
        sides |= beyond.view(np.uint8) << np.uint8(bit)
    return sides


def _grown(box: Floats) -> Floats:
    margin = (box[:, 2:] - box[:, :2]).max(axis=1, keepdims=True) * _MARGIN
    return np.concatenate((box[:, :2] - margin, box[:, 2:] + margin), axis=1)


def _cut_into_runs(outlines: Outlines) -> _Runs:
    v, offsets = outlines.vertices, outlines.offsets
    count = np.diff(offsets)
    long = count >= MIN_VERTICES
    size = np.where(long, np.ceil(np.sqrt(count)).astype(np.int64), np.maximum(count - 1, 1))
    pieces = -(-(count - 1) // size) + 1
    outline, k = expand(pieces)
    starts = np.minimum(offsets[:-1][outline] + k * size[outline], offsets[1:][outline] - 1)
    outline_offsets = np.concatenate(([0], np.cumsum(pieces)))
    following = np.arange(1, len(starts) + 1)
    following[outline_offsets[1:] - 1] -= 1  # a last vertex has no next run
    ends = v[starts[following]]
    low = np.minimum(np.minimum.reduceat(v, starts), ends)
    high = np.maximum(np.maximum.reduceat(v, starts), ends)
    bottom = np.minimum.reduceat(low[:, 1], outline_offsets[:-1])[outline]
    top = np.maximum.reduceat(high[:, 1], outline_offsets[:-1])[outline]
    # Both segments at an extreme are kept: the run before ends with the next one's first vertex.
    extreme = ((low[:, 1] == bottom) | (high[:, 1] == top)) & (long & outlines.ring)[outline]
    bounds = np.concatenate((low, high), axis=1)
    bounds[~long[outline]] = (-np.inf, -np.inf, np.inf, np.inf)
    return _Runs(np.append(starts, len(v)), outline_offsets, bounds, extreme)


def _kept(runs: _Runs, outline: Ints, box: Floats, always: NDArray[np.bool_] | None) -> tuple[Ints, Ints]:
    """Vertices of outline[m] for box[m], one outline after another, and where each begins."""
    first = runs.outline_offsets[outline]
    request, k = expand(runs.outline_offsets[outline + 1] - first)
    run = first[request] + k
    whole = boxes_meet(runs.bounds[run], box[request])
    if always is not None:
        whole |= always[run]
    start = runs.starts[run]
    length = np.where(whole, runs.starts[run + 1] - start, 1)
    piece, step = expand(length)
    ends = np.concatenate(([0], np.cumsum(length)))
    return start[piece] + step, ends[np.searchsorted(request, np.arange(len(outline) + 1))]


def _reach(outlines: Outlines, runs: _Runs, request: Ints, outline: Ints, box: Floats) -> Floats:
    """Each request's box, widened by all segments whose bounds meet it, f64[M,4]."""
    vertex, offsets = _kept(runs, outline, box[request], None)
    x, y = outlines.vertices[vertex].T.copy()
    own = np.repeat(np.arange(len(outline)), np.diff(offsets))
    row = request[own]
    beyond = outer_sides(x, y, tuple(side[row] for side in box.T))
    joined = (vertex[1:] - vertex[:-1] == 1) & (own[1:] == own[:-1])
    segment = np.flatnonzero(joined & (beyond[1:] & beyond[:-1] == 0))
    row, ax, ay, bx, by = row[segment], x[segment], y[segment], x[segment + 1], y[segment + 1]
    bounds = np.stack((np.minimum(ax, bx), np.minimum(ay, by), np.maximum(ax, bx), np.maximum(ay, by)), axis=1)
    result = box.copy()
    if len(row):
        begins = np.flatnonzero(np.diff(row, prepend=-1))
        at = row[begins]
        result[at, :2] = np.minimum(result[at, :2], np.minimum.reduceat(bounds[:, :2], begins))
        result[at, 2:] = np.maximum(result[at, 2:], np.maximum.reduceat(bounds[:, 2:], begins))
    return result
