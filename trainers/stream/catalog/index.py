"""The index of a dataset: the selected samples in an order that no layout changes, over its mapped index files.

In: a dataset directory (local path or fsspec URL) and a selection. Out: an :class:`Index`. Opens ``dataset.json`` and
``catalog/``; never a shard. Which rows of a large dataset are selected is found once and mapped from the cache.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np

from schemas.errors import ConfigError, DatasetError
from schemas.index import IndexPart
from storage.dataset import find_catalog, load_dataset
from storage.store import Store
from storage.urls import absolute, cache_folder
from trainers.stream.catalog.choose import NothingSelectedError, choose_rows, split_digest
from trainers.stream.catalog.flat import REMEDY, Column, keep, kept_column
from trainers.stream.catalog.parts import Entries, Ints, Parts

#: Version of what is kept in the cache.
_FORMAT = 3
#: Bytes of index files from which the cache is used: some 50,000 samples.
CACHED_FROM = 1 << 23
_FOLDER = "catalog/index"
#: Groups of shards whose digests a state keeps, so that a shard that changed can be named.
GROUPS = 64


@dataclass(frozen=True)
class ShardDigests:
    """Digests of groups of consecutive shards of the whole dataset, selected or not."""

    shards: int  # of the dataset
    digest: tuple[str, ...]  # one a group, 8 hexadecimal digits
    names: tuple[tuple[str, str], ...]  # first and last shard of each group


@dataclass(frozen=True, eq=False)
class Index:
    """Selected samples of one dataset, by the hash of their keys. Safe to pickle: what is mapped is mapped again."""

    root: str  # path or URL of the dataset directory, no trailing slash
    content_hash: str  # of dataset.json
    layout_hash: str  # of dataset.json
    selection_hash: str  # of the selected keys: two texts that select the same samples are one selection
    split_hash: str  # of what split each sample of the dataset is in, selected or not
    parts: Parts  # the index files of the whole dataset
    held: Column  # [n] the catalog row of each selected sample
    digests: ShardDigests

    def __len__(self) -> int:
        return len(self.held)

    def rows(self, samples: Ints | None = None) -> Ints:
        """Catalog rows i64[K] of ``samples`` i64[K], or of all: they lie by shard and by position in it."""
        return self.held.take(samples)

    def column(self, name: str, samples: Ints | None = None) -> np.ndarray:
        """Values [K,...] of an array with one row a sample, see schemas.index, ``shard`` and ``layout`` as numbers in
        the dataset; of all samples where ``samples`` is None."""
        if samples is None:
            return self.parts.column(name)[self.rows()]
        return self.parts.column(name, self.rows(samples))

    def entries(self, samples: Ints) -> Entries:
        """Where the members of ``samples`` i64[K] lie."""
        return self.parts.entries(self.rows(samples))

    def key(self, sample: int) -> str:
        """Key of one sample."""
        return self.parts.keys(self.rows(np.array([sample])))[0].decode()

    def keys(self) -> list[str]:
        """Keys of all samples, in the order of the index."""
        return [key.decode() for key in self.parts.keys(self.rows())]

    def names(self, sample: int) -> tuple[str, ...]:
        """Member names of one sample, in the order of the tar."""
        return self.parts.layouts[self.parts.layout_of(int(self.rows(np.array([sample]))[0]))]

    def release(self) -> None:
        """Give back mapped pages that were touched."""
        self.parts.release()
        self.held.release()


def load_index(
    root: str, select: str = "", split: str = "train", limit: int | None = None, cached_from: int = CACHED_FROM,
    within: bool = False,
) -> Index:  # fmt: skip
    """The index of ``root`` restricted to ``select`` (an SQL condition over the samples table) and to ``split``.

    A condition that names the column ``split`` itself overrides ``split``, unless ``within`` says that both hold.
    Samples of the buffer are never selected. ``limit`` keeps so many of the selected samples, the same ones for every
    layout, and those of a smaller limit are among those of a larger one. For index files of ``cached_from`` bytes or
    more the rows that are selected, and the files of a remote dataset, are kept in the cache (``GEOSHARDS_CACHE``) and
    mapped from there.

    Raises:
        DatasetError: the dataset is incomplete, holds a key twice, or nothing is selected.
        ConfigError: the condition cannot be read, or would not select the same samples every time.
    """
    dataset = Store(root)
    if limit is not None and limit < 1:
        raise ConfigError(f"limit={limit} must be at least 1")
    info = load_dataset(dataset)
    listing = _listing(dataset)
    if not listing:
        raise DatasetError(f"{dataset.path('catalog/index')} holds no index; build the dataset again")
    large = sum(size for size, _ in listing.values()) >= cached_from
    identity = [_FORMAT, absolute(dataset.root), info["content_hash"], info["layout_hash"], sorted(listing.items())]

    def choose() -> tuple[Ints, dict[str, Any]]:
        rows, selection = choose_rows(dataset, parts, select, split, limit, within)
        return rows, {"selection": selection, "split": split_digest(parts), "digests": _digests(dataset)}

    try:
        parts = _open_parts(dataset, listing, identity if large else None)
        # What lies in the files counts too: a split may change while hashes, sizes and times stay.
        held = (
            kept_column(_file("rows", [identity, parts.sums, select, split, limit, within]), choose) if large else None
        )
        about = held.about if held else {}
        parts.release()
    except OSError as error:
        print(f"the index is held in memory: {cache_folder()} cannot be written ({error})", file=sys.stderr)
        parts, held = _open_parts(dataset, listing, None), None
    if held is None:
        rows, about = choose()
    digests = about["digests"]
    return Index(
        root=dataset.root, content_hash=info["content_hash"], layout_hash=info["layout_hash"],
        selection_hash=about["selection"], split_hash=about["split"], parts=parts, held=held or Column(rows),
        digests=ShardDigests(digests["shards"], tuple(digests["digest"]), tuple((a, b) for a, b in digests["names"])),
    )  # fmt: skip


def having(select: str, roots: Sequence[str], split: str) -> list[str]:
    """Those of the datasets ``roots`` that have a sample in ``split`` that ``select`` chooses.

    Raises:
        GeoshardsError: one of them cannot be read.
    """
    found = []
    for root in roots:
        with suppress(NothingSelectedError):
            load_index(root, select, split, within=True)
            found.append(root)
    return found


def _file(kind: str, named: Any, name: str = "") -> Path:
    """Of the cache."""
    digest = blake2b(json.dumps([kind, named]).encode(), digest_size=16).hexdigest()
    return cache_folder().absolute() / "index" / f"{digest}.{name or 'safetensors'}"


def _open_parts(dataset: Store, listing: Mapping[str, tuple[int, str]], identity: Any) -> Parts:
    """The index files: local ones mapped where they lie, those of a URL read, or, with an ``identity``, kept in the
    cache and mapped. What comes from afar is checked whole."""
    if not dataset.remote:
        return Parts(files=[dataset.path(f"{_FOLDER}/{name}") for name in listing])

    def fetched(name: str) -> tuple[bytes, IndexPart]:
        data = dataset.read(f"{_FOLDER}/{name}", listing[name][0])
        return data, IndexPart.from_buffer(data, dataset.path(f"{_FOLDER}/{name}")).whole()

    if identity is None:
        return Parts([fetched(name)[1] for name in listing])
    files = {name: _file("part", identity, name) for name in listing}
    for name, file in files.items():
        keep(file, lambda name=name: [fetched(name)[0]])  # type: ignore[misc]  # called at once
    return Parts(files=list(map(str, files.values())), remedy=REMEDY)


def _listing(dataset: Store) -> dict[str, tuple[int, str]]:
    """Index files with their size and what tells one version of a file from another."""
    return {
        name: (int(facts.get("size") or 0), str(facts.get("mtime") or facts.get("ETag") or facts.get("created") or ""))
        for name, facts in dataset.files(_FOLDER).items()
        if name.endswith(".safetensors")
    }


def _digests(dataset: Store) -> dict[str, Any]:
    """ShardDigests of the dataset as plain values; empty where it has no table of shards."""
    table = find_catalog(dataset, "shards", {"bbox"})
    if table is None:
        return {"shards": 0, "digest": [], "names": []}
    rows = sorted(zip(table["shard"].to_pylist(), table["sha256"].to_pylist(), strict=True))
    groups = min(GROUPS, len(rows))
    parts = [rows[g * len(rows) // groups : (g + 1) * len(rows) // groups] for g in range(groups)]
    return {
        "shards": len(rows),
        "digest": [blake2b(json.dumps(part).encode(), digest_size=4).hexdigest() for part in parts],
        "names": [(part[0][0], part[-1][0]) for part in parts],
    }
