"""Tags as ids, the vocabulary that names them, and the class each feature is painted in.

Tags are read table by table (``read_tags``), counted over all tables (``Counted``), then named (``Vocabulary``): only
the counts need to be in one place.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from geometry.packed import changes, expand, ranges
from pipeline.rules import Rules
from pipeline.rules.paint import paint_codes
from schemas.errors import DatasetError
from schemas.features import VOCABULARY, drop_row
from schemas.tags import clean, format_key, split_text, tag_id

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class CleaningConfig:
    """From features to tags."""

    min_tag_count: int = 2  # a tag on fewer features falls back to its key
    min_key_count: int = 1  # a key on fewer features is left out


@dataclass(frozen=True, eq=False)
class LocalTags:
    """Tags of the F features of one table, as indices of its own list of texts."""

    offsets: Ints  # [F+1] into index
    index: Ints  # [T] into texts, rising and distinct within a feature
    texts: list[str]  # distinct, sorted
    paint: NDArray[np.uint16]  # [F] as in CELLS
    cleaned: Counter[tuple[str, str]]  # rule and what it did, to the number of tags

    @property
    def owner(self) -> Ints:
        """Feature of each entry of ``index``, i64[T]."""
        return np.repeat(np.arange(len(self.offsets) - 1), np.diff(self.offsets))


def list_arrays(column: pa.ChunkedArray) -> tuple[Ints, NDArray[Any]]:
    """Offsets i64[N+1], from 0 on, and values of a column of lists."""
    lists = column.combine_chunks()
    offsets = lists.offsets.to_numpy().astype(np.int64)
    return offsets - offsets[0], lists.flatten().to_numpy()


def read_tags(tags: pa.ChunkedArray | pa.Array, rules: Rules) -> LocalTags:
    """Correct, refuse and write as text the tags of a FEATURES ``tags`` column."""
    column = tags.combine_chunks() if isinstance(tags, pa.ChunkedArray) else tags
    offsets = column.offsets.to_numpy().astype(np.int64)
    feature = np.repeat(np.arange(len(column)), np.diff(offsets))
    pair, pairs = _distinct_pairs(*(c.slice(offsets[0], offsets[-1] - offsets[0]) for c in (column.keys, column.items)))
    signs = [rules.paint.sign(*rules.tags.cleaned(k, v)) for k, v in pairs]
    paint = paint_codes(signs, pair, feature, len(column), rules.paint).astype(np.uint16)
    readings = [rules.tags.read(k, v) for k, v in pairs]
    texts = sorted({text for reading in readings for text in reading.texts})
    place = {text: i for i, text in enumerate(texts)}
    text_of = np.array([place[text] for reading in readings for text in reading.texts], np.int64)
    text_offsets = np.concatenate(([0], np.cumsum([len(reading.texts) for reading in readings]))).astype(np.int64)
    cleaned: Counter[tuple[str, str]] = Counter()
    for reading, count in zip(readings, np.bincount(pair, minlength=len(pairs)).tolist(), strict=True):
        if reading.rule:
            cleaned[reading.rule, clean(reading.detail)[:200]] += count
    at, spans = ranges(text_offsets, pair)
    owner, index = _distinct_rows(np.repeat(feature, np.diff(spans)), text_of[at])
    return LocalTags(_starts(owner, len(column)), index, texts, paint, cleaned)


@dataclass
class Counted:
    """Features that carry each text, each key, and what cleaning did, summed over tables."""

    texts: Counter[str] = field(default_factory=Counter)
    keys: Counter[str] = field(default_factory=Counter)
    cleaned: Counter[tuple[str, str]] = field(default_factory=Counter)

    def add(self, local: LocalTags) -> None:
        """Count one table's features."""
        for text, count in zip(local.texts, np.bincount(local.index, minlength=len(local.texts)).tolist(), strict=True):
            self.texts[text] += count
        keys, key_of = _keys(local.texts)
        _, key = _distinct_rows(local.owner, key_of[local.index])
        for name, count in zip(keys, np.bincount(key, minlength=len(keys)).tolist(), strict=True):
            self.keys[name] += count
        self.cleaned.update(local.cleaned)


class Vocabulary:
    """The final text of every text: itself, its key where it is rare, or none where its key is.

    Args:
        counted: over all features.
        min_tag_count: a text on fewer features falls back to its key (``key:key``, as for value ``yes``).
        min_key_count: texts of a key on fewer features are dropped.

    Raises:
        DatasetError: two texts share one 64-bit id (expected once in 10⁹ datasets of a million tags).
    """

    def __init__(self, counted: Counted, min_tag_count: int, min_key_count: int = 1) -> None:
        self.keys = counted.keys
        self.final: dict[str, str] = {}
        for text, count in counted.texts.items():
            key, _ = split_text(text)
            if counted.keys[key] >= min_key_count:
                self.final[text] = text if count >= min_tag_count else f"{key}:{key}"
        self.texts = sorted(set(self.final.values()))
        self.ids = np.array([tag_id(t) for t in self.texts], np.int64)
        _check_collisions(self.texts, self.ids)
        self._place = {t: i for i, t in enumerate(self.texts)}
        self._counts = np.zeros(len(self.texts), np.int64)
        self.cleaned = counted.cleaned + Counter(
            {("rare_key", key): n for key, n in counted.keys.items() if n < min_key_count}
        )

    def index_of(self, texts: Iterable[str]) -> Ints:
        """Index of each text's final text, -1 for a dropped one."""
        final = self.final
        return np.array([self._place[final[t]] if t in final else -1 for t in texts], np.int64)

    def add(self, local: LocalTags) -> None:
        """Count the final texts of one table's features."""
        place = self.index_of(local.texts)[local.index]
        _, final = _distinct_rows(local.owner[place >= 0], place[place >= 0])
        self._counts += np.bincount(final, minlength=len(self.texts))

    def table(self) -> pa.Table:
        """VOCABULARY rows, sorted by text."""
        split = [split_text(t) for t in self.texts]
        columns = [
            self.ids, [k for k, _ in split], [v for _, v in split], self.texts, self._counts,
            [self.keys[k] for k, _ in split],
        ]  # fmt: skip
        return pa.table(columns, schema=VOCABULARY)

    def drops(self) -> list[dict[str, object]]:
        """What cleaning did, as DROPS rows."""
        return [
            drop_row("vocabulary", "tags", rule, detail=detail, count=count)
            for (rule, detail), count in sorted(self.cleaned.items())
            if count
        ]


def name_tags(offsets: Ints, index: Ints, ids: Ints) -> tuple[Ints, Ints]:
    """Tag lists as ids instead of local indices: offsets i64[N+1] and ids i64[T], sorted and distinct in a list.

    Args:
        offsets, index: N lists of local indices.
        ids: tag id of each local index as (id, kept) pairs: i64[L,2].
    """
    owner, _ = expand(np.diff(offsets))
    chosen = ids[index]
    kept = chosen[:, 1] != 0
    owner, value = owner[kept], chosen[kept, 0]
    order = np.lexsort((value, owner))
    owner, value = owner[order], value[order]
    new = changes(owner, value)
    return _starts(owner[new], len(offsets) - 1), value[new]


def id_pairs(vocabulary: Vocabulary, texts: Iterable[str]) -> Ints:
    """(tag id, kept) of each text, i64[L,2], as ``name_tags`` takes them."""
    place = vocabulary.index_of(texts)
    kept = place >= 0
    ids = np.zeros(len(place), np.int64)
    ids[kept] = vocabulary.ids[place[kept]]
    return np.stack((ids, kept.astype(np.int64)), axis=1)


def _keys(texts: list[str]) -> tuple[list[str], Ints]:
    """Distinct keys of some texts, and the index of each text's key."""
    names = [format_key(split_text(t)[0]) for t in texts]
    distinct = sorted(set(names))
    place = {k: i for i, k in enumerate(distinct)}
    return distinct, np.array([place[n] for n in names], np.int64)


def _distinct_pairs(keys: pa.Array, values: pa.Array) -> tuple[Ints, list[tuple[str, str]]]:
    """Index of each (key, value) among the distinct pairs, and those pairs."""
    k, v = keys.dictionary_encode(), values.dictionary_encode()
    code = k.indices.to_numpy().astype(np.int64) * max(1, len(v.dictionary)) + v.indices.to_numpy()
    distinct, where = np.unique(code, return_inverse=True)
    key_names, value_names = k.dictionary.to_pylist(), v.dictionary.to_pylist()
    width = max(1, len(value_names))
    return where.reshape(-1), [(key_names[c // width], value_names[c % width]) for c in distinct]


def _distinct_rows(a: Ints, b: Ints) -> tuple[Ints, Ints]:
    """Distinct (a, b), sorted."""
    width = int(b.max(initial=0)) + 1
    code = np.unique(a * width + b)
    return code // width, code % width


def _starts(owner: Ints, count: int) -> Ints:
    return np.concatenate(([0], np.cumsum(np.bincount(owner, minlength=count)))).astype(np.int64)


def _check_collisions(texts: list[str], ids: Ints) -> None:
    distinct, first = np.unique(ids, return_index=True)
    if len(distinct) < len(ids):
        clash = next(t for i, t in enumerate(texts) if i not in set(first.tolist()))
        raise DatasetError(f"tag {clash!r} shares its 64-bit id with another tag; drop one of them in tags.yaml")
