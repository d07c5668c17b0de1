"""64-bit hashes of geometries and of rows, for many at once: what is a duplicate, and what has changed."""

from __future__ import annotations

from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

from geometry.mix import GOLDEN, mix
from geometry.packed import expand

Words = NDArray[np.uint64]


def exact_hash(geometry: NDArray[Any]) -> Words:
    """u64[N]: equal for geometries with the same vertices in the same order, rings and parts."""
    xy, row = shapely.get_coordinates(geometry, return_index=True)
    place = np.arange(len(row)) - np.searchsorted(row, row)
    with np.errstate(over="ignore"):
        words = mix(_vertex_words(xy) + GOLDEN * place.astype(np.uint64))
        return mix(_sums(words, row, len(geometry)) + _structure(geometry))


def shape_hash(geometry: NDArray[Any], kind: NDArray[np.uint8]) -> Words:
    """u64[N]: equal for objects of one kind with the same vertices and length, wherever a ring or line begins.

    A duplicate is most often the same nodes clicked again, from another start or the other way round.
    """
    xy, row = shapely.get_coordinates(geometry, return_index=True)
    words = _vertex_words(xy)
    closing = np.zeros(len(words), bool)
    ends = np.searchsorted(row, np.arange(len(geometry)), side="right") - 1
    simple = np.flatnonzero((shapely.get_type_id(geometry) == 3) & (shapely.get_num_interior_rings(geometry) == 0))
    closing[ends[simple][ends[simple] >= 0]] = True  # a ring's last vertex repeats its first
    words[closing] = 0
    length = np.rint(np.nan_to_num(shapely.length(geometry)) * 1e9).astype(np.int64).view(np.uint64)
    with np.errstate(over="ignore"):
        return mix(_sums(words, row, len(geometry)) + mix(length + GOLDEN) + kind.astype(np.uint64))


def list_hash(offsets: NDArray[np.int64], values: NDArray[np.int64]) -> Words:
    """u64[N] of N sets of integers."""
    row, _ = expand(np.diff(offsets))
    with np.errstate(over="ignore"):
        return _sums(mix(values.astype(np.int64).view(np.uint64) + GOLDEN), row, len(offsets) - 1)


def combine(*words: NDArray[Any]) -> Words:
    """u64[N] of N rows of integer columns."""
    result = np.zeros(len(words[0]), np.uint64)
    with np.errstate(over="ignore"):
        for column in words:
            word = column if column.dtype == np.uint64 else column.astype(np.int64).view(np.uint64)
            result = mix(result + GOLDEN + word)
    return result


def _vertex_words(xy: NDArray[np.float64]) -> Words:
    bits = (xy + 0.0).view(np.uint64)  # no negative zero
    with np.errstate(over="ignore"):
        return np.asarray(mix(mix(bits[:, 0] + GOLDEN) ^ bits[:, 1]))


def _sums(words: Words, row: NDArray[np.int64], count: int) -> Words:
    """Sum modulo 2^64 of the words of each row, u64[count]; ``row`` rises."""
    with np.errstate(over="ignore"):
        before = np.concatenate((np.zeros(1, np.uint64), np.cumsum(words, dtype=np.uint64)))
        ends = np.searchsorted(row, np.arange(count + 1))
        return np.asarray(before[ends[1:]] - before[ends[:-1]])


def _structure(geometry: NDArray[Any]) -> Words:
    """Type, and of all but simple ones the sizes of parts and rings: the same vertices may be one line or two."""
    kinds = shapely.get_type_id(geometry).astype(np.int64)
    with np.errstate(over="ignore"):
        result: Words = mix(kinds.view(np.uint64) + GOLDEN)
        several = np.flatnonzero((kinds > 3) | ((kinds == 3) & (shapely.get_num_interior_rings(geometry) > 0)))
        parts, owner = shapely.get_parts(geometry[several], return_index=True)
        rings, part_of = shapely.get_rings(parts, return_index=True)
        flat = np.concatenate((owner, owner[part_of])).astype(np.int64)
        sizes = np.concatenate((shapely.get_num_coordinates(parts), shapely.get_num_coordinates(rings)))
        order = np.argsort(flat, kind="stable")
        flat = flat[order]
        place = np.arange(len(flat)) - np.searchsorted(flat, flat)
        words = mix(sizes[order].astype(np.uint64) + GOLDEN * place.astype(np.uint64))
        result[several] += _sums(words, flat, len(several))
    return result
