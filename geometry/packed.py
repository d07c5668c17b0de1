"""Packed geometry: many objects' rings as flat arrays, and the ragged-array steps that the other modules share."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class PackedGeometry:
    """N objects of one or many footprints.

    A ring is a polygon's ring (not closed; outer counter-clockwise seen with y up, holes clockwise), a part of a
    line, or the single vertex of a point.
    """

    kind: NDArray[np.uint8]  # [N] schemas.features.Kind
    vertices: Floats  # [V,2]
    ring_offsets: Ints  # [R+1] into vertices
    object_ring_offsets: Ints  # [N+1] into rings

    def __len__(self) -> int:
        return len(self.kind)

    @property
    def ring_object(self) -> Ints:
        """Object of each ring, i64[R]."""
        return np.repeat(np.arange(len(self.kind)), np.diff(self.object_ring_offsets))

    @property
    def vertex_ring(self) -> Ints:
        """Ring of each vertex, i64[V]."""
        return np.repeat(np.arange(len(self.ring_offsets) - 1), np.diff(self.ring_offsets))

    def take(self, objects: Ints) -> PackedGeometry:
        """The chosen objects, in that order."""
        rings, object_ring_offsets = ranges(self.object_ring_offsets, objects)
        vertices, ring_offsets = ranges(self.ring_offsets, rings)
        return PackedGeometry(self.kind[objects], self.vertices[vertices], ring_offsets, object_ring_offsets)

    def segments(self, *, closed: bool) -> tuple[Ints, Ints]:
        """First and second vertex i64[M] of every segment; ``closed`` joins last vertex to first."""
        start = np.arange(len(self.vertices))
        following = start + 1
        some = np.diff(self.ring_offsets) > 0
        last = self.ring_offsets[1:][some] - 1
        following[last] = self.ring_offsets[:-1][some]
        return (start, following) if closed else (np.delete(start, last), np.delete(following, last))

    def edges(self, *, closed: bool) -> tuple[Floats, Floats, Ints]:
        """Start f64[M,2], end f64[M,2] and object i64[M] of every segment."""
        start, end = self.segments(closed=closed)
        return self.vertices[start], self.vertices[end], self.ring_object[self.vertex_ring[start]]


def ranges(offsets: Ints, chosen: Ints) -> tuple[Ints, Ints]:
    """Flat indices of the slices ``offsets[c]:offsets[c+1]`` of each chosen c, and their own offsets."""
    return spans(offsets[:-1][chosen], offsets[1:][chosen])


def spans(first: Ints, last: Ints) -> tuple[Ints, Ints]:
    """Flat indices of the slices ``first[i]:last[i]``, and their own offsets."""
    lengths = last - first
    ends = np.concatenate(([0], np.cumsum(lengths)))
    return np.arange(ends[-1]) + np.repeat(first - ends[:-1], lengths), ends


def expand(counts: Ints) -> tuple[Ints, Ints]:
    """For counts n_0, n_1 …: the row and the position within the row of each of the sum(n) elements."""
    row = np.repeat(np.arange(len(counts)), counts)
    start = np.concatenate(([0], np.cumsum(counts)))[:-1]
    return row, np.arange(len(row)) - start[row]


def changes(*columns: NDArray[np.generic]) -> NDArray[np.bool_]:
    """Rows of equally long columns that differ from the row before, bool[N]; the first does."""
    first = np.ones(len(columns[0]), bool)
    first[1:] = np.any([c[1:] != c[:-1] for c in columns], axis=0)
    return first


def ranks(values: Ints) -> Ints:
    """Place of each value among the distinct ones in order, i64[N]."""
    order = np.argsort(values)
    result = np.empty(len(values), np.int64)
    result[order] = np.cumsum(changes(values[order])) - 1
    return result
