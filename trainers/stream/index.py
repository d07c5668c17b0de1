"""The index of a dataset: catalog rows of the selected samples, sorted by key, as flat arrays.

In: a dataset directory (local path or fsspec URL) and a selection. Out: an :class:`Index`. Opens ``dataset.json`` and
``catalog/**.parquet``; never a shard.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from schemas.catalog import SCHEMA_VERSION
from schemas.errors import DatasetError
from schemas.sample import is_member
from schemas.splits import BUFFER, SPLITS
from trainers.stream.select import evaluate, mentions_split

_SHARD = re.compile(r"[A-Za-z0-9_-]+\.tar")
#: Columns that the stream itself needs; a selection may use any other column of the samples table.
_COLUMNS = ["key", "shard", "members", "bbox", "lon", "lat", "gsd_x", "gsd_y"]


@dataclass(frozen=True, eq=False)
class Index:
    """Selected samples of one dataset, sorted by key. Symbols: n samples, m members of all of them."""

    root: str  # path or URL of the dataset directory, no trailing slash
    content_hash: str  # of dataset.json
    layout_hash: str  # of dataset.json
    selection_hash: str  # of the selected keys: two texts that select the same samples are one selection
    key: pa.Array  # string [n]
    shard_names: list[str]  # distinct shard files
    shard: NDArray[np.int32]  # [n] into shard_names
    member_names: list[str]  # distinct member names, e.g. rs.jpg
    member_offsets: NDArray[np.int64]  # [n+1] into the next three
    member_name: NDArray[np.int32]  # [m] into member_names
    member_start: NDArray[np.int64]  # [m] byte offset of the content in the shard
    member_size: NDArray[np.int64]  # [m] bytes
    lonlat: NDArray[np.float64]  # [n,2] centre, degrees
    bbox: NDArray[np.float64]  # [n,4] west, south, east, north, degrees
    gsd: NDArray[np.float64]  # [n,2] true metres a pixel along x and y

    def __len__(self) -> int:
        return len(self.shard)

    def members(self, sample: int) -> dict[str, tuple[int, int]]:
        """Member name to (offset, size) of one sample."""
        rows = slice(self.member_offsets[sample], self.member_offsets[sample + 1])
        return {
            self.member_names[name]: (int(start), int(size))
            for name, start, size in zip(
                self.member_name[rows], self.member_start[rows], self.member_size[rows], strict=True
            )
        }


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


def load_index(root: str, select: str = "", split: str = "train") -> Index:
    """The index of ``root`` restricted to ``select`` (an SQL condition over the samples table) and to ``split``.

    A condition that names the column ``split`` itself overrides ``split``. Samples of the buffer are never selected.

    Raises:
        DatasetError: the dataset is incomplete, or nothing is selected.
        ConfigError: the condition cannot be read, or would not select the same samples every time.
    """
    root = root.rstrip("/")
    info = dataset_info(root)
    table = read_table(root, "samples", frozenset({"geometry"}))
    if table is None:
        raise DatasetError(f"{root}/catalog/samples holds no Parquet file; build the dataset again")
    lacking = [c for c in [*_COLUMNS, "split"] if c not in table.column_names]
    if lacking:
        raise DatasetError(f"{root}/catalog/samples lacks the columns {', '.join(lacking)}; build the dataset again")
    total = table.num_rows
    mask = np.ones(total, bool) if not select.strip() else evaluate(table.drop_columns(["members"]), select)
    chosen = mask & ~_in_split(table, BUFFER)
    if not mentions_split(select):
        chosen &= _in_split(table, split)
    if not chosen.any():
        raise DatasetError(_nothing(root, table, mask, select, split))
    rows = table.select(_COLUMNS).filter(pa.array(chosen))
    return _build(root, info, rows.sort_by("key").combine_chunks())


def _in_split(table: pa.Table, split: str) -> NDArray[np.bool_]:
    return np.asarray(pc.fill_null(pc.equal(table["split"], split), False))


def _nothing(root: str, table: pa.Table, mask: NDArray[np.bool_], select: str, split: str) -> str:
    """Why a selection is empty, and the way out."""
    total = table.num_rows
    if not total:
        return f"{root} holds no samples; build it from a larger region"
    if not mask.any():
        return f"none of the {total} samples of {root} meets select={select!r}; loosen it with stream.select=…"
    counts = {name: int((mask & _in_split(table, name)).sum()) for name in (*SPLITS, BUFFER)}
    held = ", ".join(f"{name} {count}" for name, count in counts.items() if count)
    return (
        f"no selected sample of {root} is in split {split!r} (held: {held}); choose stream.split=…, or build the "
        "dataset with other shares, for example split.val=0 split.test=0"
    )


def _build(root: str, info: dict[str, Any], rows: pa.Table) -> Index:
    def column(name: str) -> pa.Array:
        value = rows[name]
        return value.combine_chunks() if isinstance(value, pa.ChunkedArray) else value

    key = column("key")
    shard = column("shard").dictionary_encode()
    shard_names = shard.dictionary.to_pylist()
    bad = [s for s in shard_names if not s or not _SHARD.fullmatch(s)]
    if bad:  # a name from a catalog is never a path or a command
        raise DatasetError(f"{root}/catalog/samples names the shard {bad[0]!r}; a shard is called part-0000000.tar")
    members = column("members")
    offsets = members.offsets.to_numpy().astype(np.int64)
    flat = members.values.slice(offsets[0], offsets[-1] - offsets[0])
    name = flat.field("name").dictionary_encode()
    member_names = name.dictionary.to_pylist()
    unknown = [m for m in member_names if not m or not is_member(m)]
    if unknown:
        raise DatasetError(f"{root}/catalog/samples names the member {unknown[0]!r}, which this version does not know")
    digest = blake2b(digest_size=16)
    digest.update("\n".join(key.to_pylist()).encode())
    bbox = column("bbox")
    return Index(
        root=root,
        content_hash=info["content_hash"],
        layout_hash=info["layout_hash"],
        selection_hash=digest.hexdigest(),
        key=key,
        shard_names=shard_names,
        shard=shard.indices.to_numpy().astype(np.int32),
        member_names=member_names,
        member_offsets=offsets - offsets[0],
        member_name=name.indices.to_numpy().astype(np.int32),
        member_start=flat.field("offset").to_numpy(),
        member_size=flat.field("size").to_numpy(),
        lonlat=_columns(column("lon"), column("lat")),
        bbox=_columns(*(bbox.field(side) for side in ("xmin", "ymin", "xmax", "ymax"))),
        gsd=_columns(column("gsd_x"), column("gsd_y")),
    )


def _columns(*parts: pa.Array) -> NDArray[np.float64]:
    return np.stack([np.asarray(p.to_numpy(zero_copy_only=False), np.float64) for p in parts], 1)
