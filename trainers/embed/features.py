"""Features and weights of tags: an embedding table where there is one, else a numpy hash encoder.

In: 64-bit tag ids. Out: f16 vectors, the same on every machine, and f32 weights by the counts of keys.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from geometry.mix import mix, uniform
from schemas.errors import ConfigError, DatasetError
from trainers.embed.table import TagVectors, open_table, table_path
from trainers.embed.vocabulary import Vocabulary, compare_keys, counts_by_key, read_key_counts, read_vocabulary

Counts = NDArray[np.float64]
TagWeight = Literal["auto", "ours", "paper", "released", "count", "ln_count", "uniform"]


def _log_count(count: Counts) -> Counts:
    return np.log(np.maximum(count, 1.0))


#: Weight of a tag from the count of its key over the dataset (docs/papers/geolink.md#tags). ``released`` takes
#: ln(count), which is 0 for a key seen once; ``ours`` takes ln(1 + count), so that no tag is lost.
TAG_WEIGHTS: Mapping[str, Callable[[Counts], Counts]] = {
    "ours": np.log1p,
    "paper": np.positive,
    "count": np.positive,
    "released": _log_count,
    "ln_count": _log_count,
    "uniform": np.ones_like,
}


class TagTable:
    """Features and weights of tags.

    Args:
        width: features a tag, 512 in the paper.
        key_counts: tag id to the count of its key; empty gives uniform weights.
        weighting: a key of ``TAG_WEIGHTS``.
        vectors: tables of one encoder, looked up in turn; none gives hash features.

    Attributes:
        notes: one line a fact that a run should say.
    """

    def __init__(
        self,
        width: int,
        key_counts: Mapping[int, int] | None = None,
        weighting: str = "ours",
        vectors: Sequence[TagVectors] = (),
    ) -> None:
        self.width, self.vectors = width, tuple(vectors)
        counts = dict(sorted((key_counts or {}).items()))
        self.weighting = weighting if counts else "uniform"
        self._ids = np.array(list(counts), np.int64)
        self._counts = np.array(list(counts.values()), np.float64)
        self._hashed: dict[int, NDArray[np.float16]] = {}
        self.notes: list[str] = []

    @property
    def encoder(self) -> str:
        """Kind and name of the encoder."""
        return self.vectors[0].encoder.label if self.vectors else "hash"

    @property
    def identity(self) -> str:
        """What decides the features; a run goes on only with the same."""
        return f"{self.encoder}-{self.vectors[0].encoder.identity}" if self.vectors else f"hash-{self.width}"

    def describe(self) -> dict[str, Any]:
        """What a run records of its tags, as plain JSON values."""
        return {"encoder": self.encoder, "width": self.width, "weight": self.weighting, "notes": self.notes}

    def features(self, tag_ids: NDArray[np.int64]) -> NDArray[np.float16]:
        """f16[K,width] of K tag ids.

        Hash features are uniform in ±sqrt(3); vectors of unit length are scaled by sqrt(width). So an element has a
        mean square of 1, and the loss that predicts them the same weight with either; other vectors stay as they are
        (CLIP's have one of 0.7, docs/papers/geolink.md#tags).

        Raises:
            DatasetError: no table has a tag.
        """
        if not self.vectors:
            return self._hash(tag_ids)
        result = np.zeros((len(tag_ids), self.width), np.float16)
        missing = np.ones(len(tag_ids), bool)
        for table in self.vectors:
            rows = table.rows(tag_ids)
            here = missing & (rows >= 0)
            result[here] = table.vectors[rows[here]]
            missing &= ~here
        if missing.any():
            raise DatasetError(
                f"{self.vectors[0].path} lacks tag {tag_ids[missing][0]} of a sample, and so does catalog/vocabulary; "
                "build the dataset again, or go on with stream.tags=hash"
            )
        if self.vectors[0].encoder.unit_length:
            result = (result.astype(np.float32) * np.float32(np.sqrt(self.width))).astype(np.float16)
        return result

    def _hash(self, tag_ids: NDArray[np.int64]) -> NDArray[np.float16]:
        missing = [int(t) for t in tag_ids if int(t) not in self._hashed]
        if missing:
            for tag, row in zip(missing, hash_features(np.array(missing, np.int64), self.width), strict=True):
                self._hashed[tag] = row
        if not len(tag_ids):
            return np.zeros((0, self.width), np.float16)
        return np.stack([self._hashed[int(t)] for t in tag_ids])

    def weights(self, tag_ids: NDArray[np.int64]) -> NDArray[np.float32]:
        """f32[K] weights; a tag that the vocabulary lacks counts as one occurrence."""
        counts = np.ones(len(tag_ids))
        if len(self._ids):
            at = np.minimum(np.searchsorted(self._ids, tag_ids), len(self._ids) - 1)
            counts = np.where(self._ids[at] == tag_ids, self._counts[at], 1.0)
        return TAG_WEIGHTS[self.weighting](counts).astype(np.float32)


def hash_features(tag_ids: NDArray[np.int64], width: int) -> NDArray[np.float16]:
    """f16[K,width]: a pseudo-random vector a tag id, by SplitMix64 counted over the dimensions."""
    unit = uniform(mix(tag_ids.astype(np.int64).view(np.uint64)), width)
    return ((2.0 * unit - 1.0) * np.sqrt(3.0)).astype(np.float16)


def find_vectors(roots: Sequence[str], source: str) -> list[TagVectors]:
    """The embedding tables of one or several datasets; none where hash features serve.

    Args:
        roots: dataset directories or URLs.
        source: ``auto``: the table of each directory, if there is one; ``hash``: none; else the path of a table.

    Raises:
        DatasetError: a table is damaged, some directories have one and others not, or their encoders differ.
        ConfigError: the path holds no table, or there are several directories.
    """
    if source == "hash":
        return []
    if source != "auto":
        if len(roots) > 1:
            raise ConfigError(f"stream.tags={source} is one table for {len(roots)} datasets; leave it out")
        given = open_table(source)
        if given is None:
            raise ConfigError(f"stream.tags={source} does not exist; give auto, hash or the path of a table")
        return [given]
    found = {root: open_table(table_path(root)) for root in roots}
    tables = {root: table for root, table in found.items() if table is not None}
    for root in found if tables else ():
        first = next(iter(tables.values()))
        if root not in tables:
            raise DatasetError(
                f"{root} has no tag table, {first.path} is one; run geoshards embed {root} --encoder "
                f"{first.encoder.label}, or go on with stream.tags=hash"
            )
        if tables[root].encoder.identity != first.encoder.identity:
            raise DatasetError(
                f"{tables[root].path} is made by {tables[root].encoder.label}, {first.path} by {first.encoder.label}; "
                "make both with one encoder"
            )
    return list(tables.values())


def open_tag_table(
    roots: Sequence[str], width: int, weighting: str = "ours", source: str = "auto", key_counts: str = ""
) -> TagTable:
    """The tags of one or several datasets as a model of ``width`` features takes them.

    Args:
        roots: dataset directories or URLs.
        width: features that the model takes.
        weighting: a key of ``TAG_WEIGHTS``.
        source: see :func:`find_vectors`.
        key_counts: JSON file of counts by key that replaces the datasets' own; empty: their own.

    Raises:
        DatasetError: a table is damaged or made for another vocabulary.
        ConfigError: it has another width, or the file of key counts cannot be used.
    """
    vectors = find_vectors(roots, source)
    held = [read_vocabulary(root) for root in roots]
    for root, table, own in zip(roots, vectors, held, strict=False):
        _check_table(table, root, own, width)
    vocabularies = [v for v in held if v is not None]
    counts, notes = counts_by_key(vocabularies), []
    if key_counts:
        given = read_key_counts(key_counts)
        notes = [compare_keys(counts, given, key_counts)]
        counts = {key: given.get(key, 1) for key in counts}
    by_tag = {
        tag: counts[key] for v in vocabularies for tag, key in zip(v.tag_ids.tolist(), v.keys.to_pylist(), strict=True)
    }
    result = TagTable(width, by_tag, weighting, vectors)
    where = ", ".join(t.path for t in vectors) or "no tag table is used; geoshards embed makes one"
    result.notes = [f"tags: {result.encoder}, {width} features, weight {result.weighting} ({where})", *notes]
    return result


def source_of(source: str, trained_with: str) -> str:
    """A model's own ``source``: it stays with hash features where a table was made since.

    Args:
        source: that of its run, see :func:`find_vectors`.
        trained_with: identity of the tags of its run.
    """
    return "hash" if source == "auto" and re.fullmatch(r"hash-\d+", trained_with) else source


def require_tags(identity: str, trained_with: str, where: str) -> None:
    """Refuse other vectors than those that a model was trained with.

    Raises:
        DatasetError: they are of another encoder.
    """
    if identity != trained_with:
        raise DatasetError(
            f"{where} has tag vectors of {identity}, the model was trained with {trained_with}; make those of the "
            "model with geoshards embed"
        )


def _check_table(table: TagVectors, root: str, vocabulary: Vocabulary | None, width: int) -> None:
    if vocabulary is None or table.vocabulary != vocabulary.digest:
        raise DatasetError(
            f"{table.path} was made for another vocabulary than that of {root}; run geoshards embed {root} --encoder "
            f"{table.encoder.label}, or go on with stream.tags=hash"
        )
    if table.encoder.width != width:
        raise ConfigError(
            f"{table.path} has {table.encoder.width} features a tag, the model takes {width}; leave arch.tag_width "
            "out, or go on with stream.tags=hash"
        )
