"""Tokens of many footprints as if of one, cut apart again, and some of their objects: as their fields say."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geometry.packed import Ints, expand, ranges
from schemas.features import Kind
from schemas.tokens import FIELDS, OsmTokens, empty_tokens

#: Fields that follow from the objects: the summary of a footprint.
SUMMARY = frozenset(name for name, f in FIELDS.items() if f.granularity == "region")
_NONE = empty_tokens((0, 0))


def joined(parts: Sequence[OsmTokens], name: str) -> NDArray[Any]:
    """One field of one or more footprints end to end; offsets and row numbers count through."""
    f = FIELDS[name]
    arrays = [getattr(t, name) for t in parts]
    if f.axis is None:
        return np.asarray(arrays[0])
    if f.runs:
        steps = np.concatenate([np.diff(a) for a in arrays])
        return np.concatenate(([0], np.cumsum(steps))).astype(f.dtype)
    if f.into:
        counts = np.array([t.rows(f.into) for t in parts])
        before = (np.cumsum(counts) - counts).astype(f.dtype)
        arrays = [a + b for a, b in zip(arrays, before, strict=True)]
    return np.concatenate(arrays, f.axis)


def split(tokens: OsmTokens, counts: Ints, summarise: bool) -> list[OsmTokens]:
    """The footprints of ``counts`` objects each: the inverse of joining. Summaries are made anew, or left out.

    Whatever names objects has the order of the footprints, and names those of one alone.
    """
    ends = {"N": np.concatenate(([0], np.cumsum(counts)))}
    for name, f in FIELDS.items():
        if f.runs:
            ends[f.into] = getattr(tokens, name)[ends[f.rows]].astype(np.int64)
        elif f.into and f.rows not in ends:
            first = np.atleast_2d(getattr(tokens, name))[0]
            footprint = np.searchsorted(ends["N"], first, "right") - 1
            ends[f.rows] = np.searchsorted(footprint, np.arange(len(counts) + 1))
    places = {letter: end.tolist() for letter, end in ends.items()}
    columns = summaries(tokens, counts) if summarise else {n: [getattr(_NONE, n)] * len(counts) for n in SUMMARY}
    for name, f in FIELDS.items():
        if name in columns:
            continue
        array = getattr(tokens, name)
        if f.axis is None:
            columns[name] = [array] * len(counts)
            continue
        if f.into and not f.runs:
            array = array - np.repeat(ends[f.into][:-1].astype(f.dtype), np.diff(ends[f.rows]))
        pieces = [array[..., i:j] if f.axis else array[i : j + f.runs] for i, j in pairwise(places[f.rows])]
        if f.runs:  # neighbours share an end
            pieces = [piece - first for piece, first in zip(pieces, ends[f.into].astype(f.dtype), strict=False)]
        columns[name] = pieces
    return [OsmTokens(**dict(zip(columns, row, strict=True))) for row in zip(*columns.values(), strict=True)]


def take_objects(tokens: OsmTokens, chosen: Ints) -> OsmTokens:
    """Tokens of the ``chosen`` objects i64[M], rising, as they are; the summary is reckoned again."""
    taken = take(tokens, chosen, SUMMARY)
    if not tokens.rows("K"):
        return taken
    return replace(taken, **{name: only for name, (only,) in summaries(taken, np.array([len(taken)])).items()})


def take(tokens: OsmTokens, chosen: Ints, without: Collection[str]) -> OsmTokens:
    """The ``chosen`` objects i64[M], rising, and what names none but them; the fields ``without`` are left empty."""
    number = np.full(len(tokens), -1, np.int32)
    number[chosen] = np.arange(len(chosen), dtype=np.int32)
    rows: dict[str, Ints] = {"N": chosen}
    found: dict[str, NDArray[Any]] = {name: getattr(_NONE, name) for name in without}
    links = {name: f for name, f in FIELDS.items() if f.into and name not in without}
    for name, f in links.items():
        if f.runs:
            rows[f.into], offsets = ranges(getattr(tokens, name).astype(np.int64), rows[f.rows])
            found[name] = offsets.astype(f.dtype)
        else:
            ends = number[getattr(tokens, name)]
            rows[f.rows] = np.flatnonzero((np.atleast_2d(ends) >= 0).all(axis=0))
            found[name] = ends[..., rows[f.rows]]
    for name, f in FIELDS.items():
        if name not in found:
            array = getattr(tokens, name)
            found[name] = array if f.axis is None else np.take(array, rows[f.rows], f.axis)
    return OsmTokens(**found)


def summaries(tokens: OsmTokens, counts: Ints) -> dict[str, list[NDArray[Any]]]:
    """The fields of the region, each of many footprints of ``counts`` objects."""
    owner, _ = expand(np.diff(tokens.tag_offsets))
    ids, tag = np.unique(tokens.tag_ids, return_inverse=True)
    footprint = np.repeat(np.arange(len(counts)), counts)[owner]
    rows, where = np.unique(footprint * len(ids) + tag.reshape(-1), return_inverse=True)
    where, kind, extent = where.reshape(-1), tokens.kind[owner], tokens.extent.astype(np.float64)[owner]
    sums = {
        "region_tag_id": ids[rows % max(1, len(ids))],
        "region_count": np.bincount(where, minlength=len(rows)),
        "region_area": np.bincount(where, np.where(kind == Kind.POLYGON, extent, 0), len(rows)),
        "region_length": np.bincount(where, np.where(kind == Kind.LINE, extent, 0), len(rows)),
    }
    ends = np.searchsorted(rows, np.arange(len(counts) + 1) * max(1, len(ids))).tolist()
    sums = {name: values.astype(FIELDS[name].dtype) for name, values in sums.items()}
    return {name: [values[a:b] for a, b in pairwise(ends)] for name, values in sums.items()}
