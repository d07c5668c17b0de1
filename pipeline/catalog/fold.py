"""Index rows of finished shards folded into catalog files of 256 shards; what is finished and what is not."""

from __future__ import annotations

import re

import pyarrow as pa

from schemas.catalog import SHARDS_PER_FILE, TABLES, catalog_file, pending_file
from schemas.features import geoparquet_metadata
from schemas.index import IndexPart, index_file
from storage.store import Store

#: Tables that every shard adds to; ``shards`` last, as it marks a group as folded.
_TABLES = ("samples", "streetview", "drops", "shards")
_PENDING = re.compile(r"part-(\d{7})\.shards\.parquet")


def finished(store: Store) -> tuple[set[int], set[int]]:
    """Indices of the shards that are written, and the groups that are folded.

    A shard whose tar is missing, or not as long as its row says, counts as not written; its group is taken apart,
    so that the next fold makes it anew. An index that is missing is made from the samples of its group.
    """
    sizes = store.sizes("shards")
    shards: set[int] = set()
    for name in store.names("catalog/.pending"):
        if _PENDING.fullmatch(name):
            shards |= _present(store.read_table(f"catalog/.pending/{name}"), sizes)
    folded: set[int] = set()
    for name in store.names("catalog/shards"):
        rows = store.read_table(f"catalog/shards/{name}")
        present = _present(rows, sizes)
        number = int(name.removeprefix("part-").removesuffix(".parquet"))
        if len(present) == rows.num_rows:
            folded.add(number)
            shards |= present
            if not store.exists(index_file(number)):
                _write_index(store, number, store.read_table(catalog_file("samples", number)))
        else:
            for table in reversed(_TABLES):
                store.remove(catalog_file(table, number))
            store.remove(index_file(number))
    return shards, folded


def _present(rows: pa.Table, sizes: dict[str, int]) -> set[int]:
    columns = (rows[c].to_pylist() for c in ("index", "shard", "bytes"))
    return {index for index, name, size in zip(*columns, strict=True) if sizes.get(name) == size}


def groups(total: int) -> list[range]:
    """Shard indices of each catalog file."""
    return [range(i, min(i + SHARDS_PER_FILE, total)) for i in range(0, total, SHARDS_PER_FILE)]


def fold(store: Store, group: int, shards: range) -> None:
    """Fold one group whose shards are all written, and write the index of its samples.

    Doing it twice, or half and then again, gives the same files.
    """
    for table in _TABLES:
        rows = pa.concat_tables([store.read_table(pending_file(table, i)) for i in shards]).cast(TABLES[table])
        metadata = None
        if table == "samples" and rows.num_rows:
            metadata = geoparquet_metadata(["MultiPolygon", "Polygon"])
        store.write_table(catalog_file(table, group), rows, metadata)
        if table == "samples":
            _write_index(store, group, rows)
    purge(store, shards)


def _write_index(store: Store, group: int, samples: pa.Table) -> None:
    store.write(index_file(group), IndexPart.of(samples).to_bytes())


def purge(store: Store, shards: range) -> None:
    """Remove the index rows of shards that are folded; what an interrupted fold left behind, too."""
    left = set(store.names("catalog/.pending"))
    for index in shards:
        for table in reversed(_TABLES):
            if pending_file(table, index).rsplit("/", 1)[-1] in left:
                store.remove(pending_file(table, index))
