"""Tags of a feature table as ids, the vocabulary that names them, and the class each feature is painted in."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from geometry.packed import ranges
from pipeline.rules import Rules
from schemas.errors import DatasetError
from schemas.features import VOCABULARY
from schemas.tags import format_key, format_tag, split_text, tag_id


@dataclass(frozen=True, eq=False)
class TaggedFeatures:
    """Tokens of F features, in the table's order."""

    offsets: NDArray[np.int64]  # [F+1] into ids
    ids: NDArray[np.int64]  # [T] tag ids, sorted and distinct within a feature
    paint: NDArray[np.uint8]  # [F] pixel value of the class raster
    vocabulary: pa.Table  # schemas.features.VOCABULARY, sorted by text


def tag_features(tags: pa.ChunkedArray, rules: Rules, min_count: int) -> TaggedFeatures:
    """Tag ids, paint class and vocabulary of a FEATURES ``tags`` column.

    A tag text on fewer than ``min_count`` features falls back to its key alone (``key:key``, as for value ``yes``).

    Raises:
        DatasetError: two texts share one 64-bit id (expected once in 10⁹ datasets of a million tags).
    """
    column = tags.combine_chunks() if isinstance(tags, pa.ChunkedArray) else tags
    if isinstance(column, pa.ChunkedArray):  # no chunk at all
        column = pa.array([], tags.type)
    offsets = column.offsets.to_numpy().astype(np.int64)
    feature = np.repeat(np.arange(len(column)), np.diff(offsets))
    first, last = (int(offsets[0]), int(offsets[-1])) if len(column) else (0, 0)
    pair, pairs = _distinct_pairs(column.keys.slice(first, last - first), column.items.slice(first, last - first))
    texts, text_offsets, text_of = _texts(pairs, rules)
    paint_of = np.array([rules.paint.value(k, v) for k, v in pairs], np.uint8)
    paint = np.zeros(len(column), np.uint8)
    np.maximum.at(paint, feature, paint_of[pair] if len(pair) else np.zeros(0, np.uint8))

    at, spans = ranges(text_offsets, pair)
    owner, text = _distinct_rows(np.repeat(feature, np.diff(spans)), text_of[at])
    count = np.bincount(text, minlength=len(texts))
    names = np.array([format_key(split_text(t)[0]) for t in texts], object)
    keys, key_index = np.unique(names, return_inverse=True) if len(names) else (names, np.zeros(0, np.int64))
    _, key = _distinct_rows(owner, key_index.reshape(-1)[text])
    key_count = np.bincount(key, minlength=len(keys))

    fallback = [f"{k}:{k}" for k in keys]
    every = sorted({t for t, n in zip(texts, count, strict=True) if n >= min_count} | {
        fallback[k] for k, n in zip(key_index.reshape(-1), count, strict=True) if 0 < n < min_count
    })  # fmt: skip
    place = {t: i for i, t in enumerate(every)}
    final = np.array(
        [
            place.get(t if n >= min_count else fallback[k], -1)
            for t, n, k in zip(texts, count, key_index.reshape(-1), strict=True)
        ],
        np.int64,
    )
    owner, text = _distinct_rows(owner, final[text])
    ids = np.array([tag_id(t) for t in every], np.int64)
    _check_collisions(every, ids)
    order = np.lexsort((ids[text], owner)) if len(text) else np.zeros(0, np.int64)
    counts = np.bincount(text, minlength=len(every))
    by_key = dict(zip(keys, key_count, strict=True))
    split = [split_text(t) for t in every]
    vocabulary = pa.table(
        [ids, [k for k, _ in split], [v for _, v in split], every, counts, [int(by_key[k]) for k, _ in split]],
        schema=VOCABULARY,
    )
    starts = np.concatenate(([0], np.cumsum(np.bincount(owner, minlength=len(column)))))
    return TaggedFeatures(starts, ids[text][order], paint, vocabulary)


def _distinct_pairs(keys: pa.Array, values: pa.Array) -> tuple[NDArray[np.int64], list[tuple[str, str]]]:
    """Index of each (key, value) among the distinct pairs, and those pairs."""
    k, v = keys.dictionary_encode(), values.dictionary_encode()
    code = k.indices.to_numpy().astype(np.int64) * max(1, len(v.dictionary)) + v.indices.to_numpy()
    distinct, where = np.unique(code, return_inverse=True)
    key_names, value_names = k.dictionary.to_pylist(), v.dictionary.to_pylist()
    width = max(1, len(value_names))
    return where.reshape(-1), [(key_names[c // width], value_names[c % width]) for c in distinct]


def _texts(pairs: list[tuple[str, str]], rules: Rules) -> tuple[list[str], NDArray[np.int64], NDArray[np.int64]]:
    """Distinct texts, and for each pair the slice of text indices that it stands for."""
    place: dict[str, int] = {}
    offsets, flat = [0], []
    for key, value in pairs:
        for text in format_tag(key, value) if rules.tags.keeps(key) else ():
            flat.append(place.setdefault(text, len(place)))
        offsets.append(len(flat))
    return list(place), np.array(offsets, np.int64), np.array(flat, np.int64)


def _distinct_rows(a: NDArray[np.int64], b: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Distinct (a, b), sorted."""
    if not len(a):
        return a.astype(np.int64), b.astype(np.int64)
    width = int(b.max()) + 1
    code = np.unique(a * width + b)
    return code // width, code % width


def _check_collisions(texts: list[str], ids: NDArray[np.int64]) -> None:
    distinct, first = np.unique(ids, return_index=True)
    if len(distinct) < len(ids):
        clash = next(t for i, t in enumerate(texts) if i not in set(first.tolist()))
        raise DatasetError(f"tag {clash!r} shares its 64-bit id with another tag; drop one of them in tags.yaml")
