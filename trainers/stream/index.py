"""The index of a dataset: catalog rows of the selected samples, sorted by key, as flat arrays.

In: a dataset directory (local path or fsspec URL) and a selection. Out: an :class:`Index`. Opens ``dataset.json`` and
``catalog/**.parquet``; never a shard. The index of a large catalog is built once into the cache and mapped from there.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq

from schemas.catalog import SCHEMA_VERSION
from schemas.errors import ConfigError, DatasetError
from trainers.stream.build import Builder
from trainers.stream.flat import Arrays, cache_folder, make_folder, open_folder

#: Version of the arrays in the cache.
_FORMAT = 1
#: Bytes of catalog from which the index is kept in the cache: some 50,000 samples, half a second of reading.
CACHED_FROM = 1 << 23
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
    """Selected samples of one dataset, sorted by key. Safe to pickle: arrays in the cache are mapped again."""

    root: str  # path or URL of the dataset directory, no trailing slash
    content_hash: str  # of dataset.json
    layout_hash: str  # of dataset.json
    selection_hash: str  # of the selected keys: two texts that select the same samples are one selection
    shard_names: list[str]  # distinct shard files, sorted
    layouts: list[tuple[str, ...]]  # distinct sequences of member names, e.g. (json, osm.safetensors, rs.jpg)
    arrays: Arrays  # see trainers.stream.build
    digests: ShardDigests
    folder: str = ""  # where the arrays are mapped from; empty: memory

    def __len__(self) -> int:
        return len(self.arrays["shard"])

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "arrays": {} if self.folder else self.arrays}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if self.folder:
            self.__dict__["arrays"] = open_folder(Path(self.folder))[0]

    def key(self, sample: int) -> str:
        """Key of one sample."""
        offsets = self.arrays["key_offsets"]
        return self.arrays["key_bytes"][offsets[sample] : offsets[sample + 1]].tobytes().decode()

    def keys(self) -> list[str]:
        """Keys of all samples, sorted."""
        return [self.key(i) for i in range(len(self))]

    def shard_of(self, sample: int) -> str:
        """File name of the shard that holds one sample."""
        return self.shard_names[self.arrays["shard"][sample]]

    def names(self, sample: int) -> tuple[str, ...]:
        """Member names of one sample, in the order of the tar."""
        return self.layouts[self.arrays["layout"][sample]]

    def members(self, sample: int) -> dict[str, tuple[int, int]]:
        """Member name to (offset, size) of one sample."""
        rows = slice(self.arrays["member_offsets"][sample], self.arrays["member_offsets"][sample + 1])
        start, size = self.arrays["member_start"][rows].tolist(), self.arrays["member_size"][rows].tolist()
        return dict(zip(self.names(sample), zip(start, size, strict=True), strict=True))


def open_text(url: str) -> str:
    """Contents of a small text file of a dataset.

    Raises:
        DatasetError: it does not exist.
    """
    try:
        with fsspec.open(url, "rb") as file:
            return file.read().decode()
    except (FileNotFoundError, NotADirectoryError):
        raise DatasetError(
            f"{url} does not exist; give a dataset directory, or make one with: make shards REGION=demo"
        ) from None


def dataset_info(root: str) -> dict[str, Any]:
    """``dataset.json`` as a mapping.

    Raises:
        DatasetError: missing, no JSON, without its hashes, or of a newer version.
    """
    url = f"{root}/dataset.json"
    try:
        info = json.loads(open_text(url))
        version = int(info["schema_version"])
        missing = [name for name in ("content_hash", "layout_hash") if not isinstance(info.get(name), str)]
    except (ValueError, KeyError, TypeError) as error:
        raise DatasetError(f"{url} cannot be read ({error!r}); build the dataset again") from None
    if missing:
        raise DatasetError(f"{url} lacks {' and '.join(missing)}: the run that made it did not finish; run it again")
    if version > SCHEMA_VERSION:
        raise DatasetError(f"{url} has schema version {version}, this reader knows {SCHEMA_VERSION}; update geoshards")
    return dict(info)


def read_table(root: str, name: str, without: frozenset[str] = frozenset()) -> pa.Table | None:
    """A catalog table, its columns ``without`` left unread, or None where the dataset has none."""
    fs, path = fsspec.core.url_to_fs(root)
    files = sorted(fs.glob(f"{path}/catalog/{name}/*.parquet"))
    if not files:
        return None
    try:
        columns = [c for c in pq.read_schema(files[0], filesystem=fs).names if c not in without]
        return pa.concat_tables(pq.read_table(file, columns=columns, filesystem=fs) for file in files)
    except (pa.ArrowException, OSError) as error:
        first = str(error).splitlines()[0]
        raise DatasetError(f"{root}/catalog/{name} cannot be read ({first}); build the dataset again") from None


def load_index(
    root: str, select: str = "", split: str = "train", limit: int | None = None, cached_from: int = CACHED_FROM
) -> Index:
    """The index of ``root`` restricted to ``select`` (an SQL condition over the samples table) and to ``split``.

    A condition that names the column ``split`` itself overrides ``split``. Samples of the buffer are never selected.
    ``limit`` keeps so many of the selected samples, spread evenly over the keys. A catalog of ``cached_from`` bytes or
    more is read once and its arrays are mapped from the cache (``GEOSHARDS_CACHE``) from then on.

    Raises:
        DatasetError: the dataset is incomplete, or nothing is selected.
        ConfigError: the condition cannot be read, or would not select the same samples every time.
    """
    root = root.rstrip("/")
    if limit is not None and limit < 1:
        raise ConfigError(f"limit={limit} must be at least 1")
    info = dataset_info(root)
    fs, path = fsspec.core.url_to_fs(root)
    files = _listing(fs, f"{path}/catalog/samples")
    if not files:
        raise DatasetError(f"{root}/catalog/samples holds no Parquet file; build the dataset again")

    def build(folder: Path | None) -> tuple[Arrays, dict[str, Any]]:
        builder = Builder(root, select, split, folder)
        for file in files:
            builder.read(file, fs)
        if not builder.chosen:
            raise DatasetError(_nothing(builder))
        arrays, meta = builder.finish(limit)
        return arrays, {**meta, "digests": _digests(root)}

    if sum(size for size, _ in files.values()) < cached_from:
        return _index(root, info, *build(None))
    named = [_FORMAT, info["content_hash"], info["layout_hash"], select, split, limit, sorted(files.items())]
    name = blake2b(json.dumps(named).encode(), digest_size=16).hexdigest()
    folder = cache_folder().absolute() / "index" / name
    try:
        make_folder(folder, lambda fresh: build(fresh)[1])
    except OSError as error:
        print(f"the index is held in memory: {folder.parent} cannot be written ({error})", file=sys.stderr)
        return _index(root, info, *build(None))
    return _index(root, info, *open_folder(folder), str(folder))


def _index(root: str, info: Mapping[str, Any], arrays: Arrays, meta: Mapping[str, Any], folder: str = "") -> Index:
    held = meta["digests"]
    return Index(
        root=root, content_hash=info["content_hash"], layout_hash=info["layout_hash"],
        selection_hash=meta["selection_hash"], shard_names=list(meta["shard_names"]),
        layouts=[tuple(names) for names in meta["layouts"]], arrays=arrays, folder=folder,
        digests=ShardDigests(held["shards"], tuple(held["digest"]), tuple((a, b) for a, b in held["names"])),
    )  # fmt: skip


def _listing(fs: Any, path: str) -> dict[str, tuple[int, str]]:
    """Parquet files of a folder with their size and what tells one version of a file from another."""
    try:
        found = fs.find(path, detail=True, maxdepth=1)
    except FileNotFoundError:
        return {}
    return {
        name: (int(facts.get("size") or 0), str(facts.get("mtime") or facts.get("ETag") or facts.get("created") or ""))
        for name, facts in sorted(found.items())
        if name.endswith(".parquet")
    }


def _digests(root: str) -> dict[str, Any]:
    """ShardDigests of the dataset as plain values; empty where it has no table of shards."""
    table = read_table(root, "shards", frozenset({"bbox"}))
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


def _nothing(held: Builder) -> str:
    """Why a selection is empty, and the way out."""
    if not held.total:
        return f"{held.root} holds no samples; build it from a larger region"
    if not held.met:
        return (
            f"none of the {held.total} samples of {held.root} meets select={held.select!r}; loosen it with "
            "stream.select=…"
        )
    counts = ", ".join(f"{name} {count}" for name, count in held.splits.items() if count)
    return (
        f"no selected sample of {held.root} is in split {held.split!r} (held: {counts}); choose stream.split=…, or "
        "build the dataset with other shares, for example split.val=0 split.test=0"
    )
