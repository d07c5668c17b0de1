"""A dataset directory read back: dataset.json, catalog tables, and samples by their offsets in the shards."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa

from schemas.catalog import COUNTS, SCHEMA_VERSION, TABLES, is_shard_file
from schemas.errors import DatasetError, at_the_door
from schemas.sample import is_member
from storage.store import Store

#: Says which run began a dataset, until dataset.json does; and that an update exchanges the versions.
BEGUN, EXCHANGE = "catalog/.pending/run.json", ".next/.complete.json"
#: Columns without which a row of these tables says nothing.
_NEVER_NULL = {
    "samples": ("key", "shard", "members", "sha256", "bbox", "lon", "lat", "gsd_x", "gsd_y", "split", *COUNTS),
    "shards": ("shard", "index", "samples", "bytes", "sha256"),
    "vocabulary": ("tag_id", "text", "key", "key_count"),
}
#: Bytes of a tar member's header.
_HEADER = 512


def load_dataset(store: Store) -> dict[str, Any]:
    """``dataset.json`` as a mapping.

    Raises:
        DatasetError: missing, no JSON, without its hashes, or of a newer layout than this code reads.
    """
    where = store.path("dataset.json")
    try:
        data = store.read("dataset.json")
    except DatasetError as error:
        raise DatasetError(unfinished(store) or str(error)) from None
    try:
        document = json.loads(data)
        version = int(document["schema_version"])
        missing = [name for name in ("content_hash", "layout_hash") if not isinstance(document.get(name), str)]
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise DatasetError(f"{where} cannot be read ({error!r}); build the dataset again") from None
    if missing:
        raise DatasetError(f"{where} lacks {' and '.join(missing)}: the run that made it did not finish; run it again")
    if version > SCHEMA_VERSION:
        raise DatasetError(
            f"{where} has schema version {version}, this reader knows {SCHEMA_VERSION}; update geoshards"
        )
    return dict(document)


def read_begun(store: Store) -> dict[str, Any]:
    """What the run that began a dataset says of itself.

    Raises:
        DatasetError: it cannot be read.
    """
    with at_the_door(f"{store.path(BEGUN)} cannot be read", "delete the dataset, and build it again", DatasetError):
        return dict(json.loads(store.read(BEGUN)))


def unfinished(store: Store) -> str | None:
    """That a run is at a dataset, or was stopped, in one line; None: there is no sign of it."""
    if store.exists(EXCHANGE):
        return f"{store.root} is being updated, or the update was stopped; run that `geoshards update` again first"
    if store.exists(BEGUN):
        return f"{store.root} is not whole: the run that makes it goes on, or was stopped; wait for it, or run it again"
    return None


def find_catalog(store: Store, table: str, without: Collection[str] = ()) -> pa.Table | None:
    """A whole catalog table, its columns ``without`` left unread; None where the dataset has none.

    Raises:
        DatasetError: it cannot be read, has other columns, or lacks a value that every row has.
    """
    names = [name for name in store.names(f"catalog/{table}") if name.endswith(".parquet")]
    if not names:
        return None
    where = f"{store.root}/catalog/{table}"
    schema = pa.schema([f for f in TABLES[table] if f.name not in without])
    with at_the_door(f"{where} has other columns than it should", "build the dataset again", DatasetError):
        found = pa.concat_tables(store.read_table(f"catalog/{table}/{n}", without) for n in names)
        found = found.select(schema.names).cast(schema)
    if lacking := [n for n in _NEVER_NULL.get(table, ()) if n in schema.names and found[n].null_count]:
        raise DatasetError(f"{where} lacks values in {', '.join(lacking)}; build the dataset again")
    return found


def read_catalog(store: Store, table: str, without: Collection[str] = ()) -> pa.Table:
    """A whole catalog table, its columns ``without`` left unread.

    Raises:
        DatasetError: the dataset has none, or as of `find_catalog`.
    """
    found = find_catalog(store, table, without)
    if found is None:
        raise DatasetError(f"{store.root} has no catalog/{table}; is it a dataset that `geoshards shards` finished?")
    return found


def sample_rows(store: Store) -> list[dict[str, Any]]:
    """Rows of ``samples`` of a whole dataset, in shard order.

    Raises:
        DatasetError: it is not whole.
    """
    load_dataset(store)
    return list(read_catalog(store, "samples").to_pylist())


def read_members(
    store: Store, shard: str, rows: Sequence[dict[str, Any]], whole: bool = True
) -> list[dict[str, bytes] | DatasetError]:
    """Members by name of each row of one shard, or what is wrong with them: unlike `read_samples` it looks at the
    headers before them.

    Args:
        whole: read the shard at once; else of each row the bytes that it names.

    Raises:
        DatasetError: the shard cannot be read.
    """
    name = f"shards/{_shard_of(store, shard)}"
    data = store.read(name) if whole else b""
    found: list[dict[str, bytes] | DatasetError] = []
    for row in rows:
        if not _is_placed(row):
            found.append(DatasetError(f"catalog/samples does not say where the members of {row['key']} lie"))
            continue
        first = min((m["offset"] for m in row["members"]), default=_HEADER) - _HEADER
        end = max((m["offset"] + m["size"] for m in row["members"]), default=0)
        part = data[first:end] if whole else store.read_range(name, first, end) if 0 <= first <= end else b""
        members: dict[str, bytes] = {}
        for member in row["members"]:
            at, size = member["offset"] - first, member["size"]
            header = f"{row['key']}.{member['name']}".encode() + b"\0", b"%011o\0" % max(size, 0)
            block = part[max(0, at - _HEADER) : at]
            if (
                not is_member(member["name"]) or at < _HEADER or size < 0 or at + size > len(part)
                or not block.startswith(header[0]) or block[124:136] != header[1]
            ):  # fmt: skip
                found.append(DatasetError(f"{row['key']}.{member['name']} does not lie where catalog/samples says"))
                break
            members[member["name"]] = part[at : at + size]
        else:
            found.append(members)
    return found


def _is_placed(row: Mapping[str, Any]) -> bool:
    """Whether a row says of each member what it is called and where it lies."""
    members = row["members"]
    return members is not None and all(
        m is not None and None not in (m["name"], m["offset"], m["size"]) for m in members
    )


def _shard_of(store: Store, name: Any) -> str:
    if not is_shard_file(name):
        raise DatasetError(f"{store.root}: catalog/samples names the shard {name!r}; one is called part-0000000.tar")
    return str(name)


def read_samples(store: Store, rows: Sequence[dict[str, Any]]) -> Iterator[tuple[dict[str, Any], dict[str, bytes]]]:
    """(row, members by name) of each row; a shard is opened once where its rows follow each other.

    Raises:
        DatasetError: a shard is missing or shorter than its index says.
    """
    name, data = "", b""
    for row in rows:
        if row["shard"] != name:
            name = _shard_of(store, row["shard"])
            data = store.read(f"shards/{name}")
        members: dict[str, bytes] = {}
        if not _is_placed(row):
            raise DatasetError(f"{store.root}/catalog/samples does not say where the members of {row['key']} lie")
        for member in row["members"]:
            end = member["offset"] + member["size"]
            if not is_member(member["name"]) or not 0 <= member["offset"] <= end <= len(data):
                raise DatasetError(
                    f"{store.root}/shards/{name}: {row['key']}.{member['name']} lies outside the shard; build it again"
                )
            members[member["name"]] = data[member["offset"] : end]
        yield row, members
