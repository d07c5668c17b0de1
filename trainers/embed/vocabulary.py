"""The vocabulary of a dataset, and files of key counts that stand in for its own.

In: ``catalog/vocabulary`` of a dataset, or a JSON file of counts by key. Out: flat arrays. Needs no torch.
"""

from __future__ import annotations

import difflib
import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from schemas.errors import ConfigError, DatasetError
from schemas.tags import format_key, tag_id
from storage.dataset import find_catalog
from storage.store import Store

#: Keys that a note names before it says "…".
_NAMED = 5


@dataclass(frozen=True, eq=False)
class Vocabulary:
    """T tags of one dataset, sorted by id, each once."""

    root: str  # dataset directory or URL
    tag_ids: NDArray[np.int64]  # [T]
    texts: pa.Array  # string [T] key:value
    keys: pa.Array  # string [T]
    key_counts: NDArray[np.int64]  # [T] features that carry the key

    def __len__(self) -> int:
        return len(self.tag_ids)

    @property
    def digest(self) -> str:
        """BLAKE2b-128 of the ids, and so of the texts, whose hashes the ids are."""
        return blake2b(self.tag_ids.astype("<i8").tobytes(), digest_size=16).hexdigest()

    def check_texts(self) -> None:
        """Compare every id with its text.

        Raises:
            DatasetError: an id is not that of its text.
        """
        for number, text in zip(self.tag_ids.tolist(), self.texts.to_pylist(), strict=True):
            if tag_id(text) != number:
                raise DatasetError(
                    f"{self.root}/catalog/vocabulary: {number} is not the id of {text!r}; build the dataset again"
                )


def read_vocabulary(root: str) -> Vocabulary | None:
    """The vocabulary of a dataset, or None where it has none.

    Raises:
        DatasetError: a column is missing, of another type, or holds nulls.
    """
    root = root.rstrip("/")
    table = find_catalog(Store(root), "vocabulary", {"value"})
    if table is None:
        return None
    ids, first = np.unique(table["tag_id"].to_numpy(), return_index=True)
    rows = table.take(pa.array(first))
    texts, keys = (rows[name].combine_chunks() for name in ("text", "key"))
    return Vocabulary(root, ids, texts, keys, rows["key_count"].to_numpy())


def counts_by_key(vocabularies: Iterable[Vocabulary]) -> dict[str, int]:
    """Features that carry each key, summed over datasets."""
    total: Counter[str] = Counter()
    for vocabulary in vocabularies:
        total.update(dict(zip(vocabulary.keys.to_pylist(), vocabulary.key_counts.tolist(), strict=True)))
    return dict(total)


def read_key_counts(path: str) -> dict[str, int]:
    """Counts by key from a flat JSON object ``{"building": 725072, …}`` (GeoLink's: docs/papers/geolink.md#key-counts).

    Keys are brought to the form of a vocabulary (``schemas.tags.format_key``: ``:`` becomes a space, ends are
    stripped); the counts of keys that are one after that are added up.

    Raises:
        ConfigError: the file cannot be read, is no JSON, is not flat, names a key twice, or a count is no whole number
            of at least 1.
    """

    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        seen = dict(items)
        if len(seen) < len(items):
            names = [k for k, _ in items]
            raise ConfigError(f"{path} names the key {next(k for k in names if names.count(k) > 1)!r} twice; keep one")
        return seen

    try:
        document = json.loads(Path(path).read_text("utf-8"), object_pairs_hook=pairs)
    except OSError as error:
        raise ConfigError(f"key counts {path} cannot be read: {error.strerror}; check stream.key_counts") from None
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError is a ValueError
        raise ConfigError(f"key counts {path} are no JSON: {error}; see stream.key_counts") from None
    if not isinstance(document, dict) or not document:
        raise ConfigError(f'{path} must be one JSON object of counts by key, for example {{"building": 725072}}')
    counts: dict[str, int] = {}
    for name, count in document.items():
        key = format_key(name)
        if not key:
            raise ConfigError(f"{path}: {name!r} is no key; remove it")
        if type(count) is not int or count < 1:
            shown = json.dumps(count)[:40]
            raise ConfigError(f"{path}: the count of {name!r} is {shown}; it must be a whole number of at least 1")
        counts[key] = counts.get(key, 0) + count
    return counts


def compare_keys(own: Mapping[str, int], given: Mapping[str, int], path: str) -> str:
    """One line on the keys of the dataset, with their ``own`` counts, that the ``given`` counts lack.

    Raises:
        ConfigError: no key of the dataset is among the given ones.
    """
    missing = sorted((k for k in own if k not in given), key=lambda k: (-own[k], k))
    if own and len(missing) == len(own):
        raise ConfigError(
            f"{path} has none of the {len(own)} keys of the dataset, such as {missing[0]!r}{_near(missing[0], given)}; "
            "its keys must be OSM keys"
        )
    if not missing:
        return f"key counts from {path}: all {len(own)} keys of the dataset found"
    share = 100 * sum(own[k] for k in missing) / max(1, sum(own.values()))
    named = ", ".join(f"{k}{_near(k, given)}" for k in missing[:_NAMED]) + (", …" if len(missing) > _NAMED else "")
    return (
        f"key counts from {path}: {len(missing)} of {len(own)} keys of the dataset ({share:.1f} % of their "
        f"occurrences) are not in it and count as seen once: {named}"
    )


def _near(key: str, known: Mapping[str, int]) -> str:
    near = difflib.get_close_matches(key, known, 1, 0.85)
    return f" (nearest: {near[0]})" if near else ""
