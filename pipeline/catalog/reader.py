"""Samples read back by offset, as the trainers do."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from pipeline.catalog.describe import read_catalog
from schemas.errors import DatasetError
from schemas.sample import is_member
from storage.store import Store


def sample_rows(store: Store) -> list[dict[str, Any]]:
    """Rows of ``samples`` in shard order."""
    return list(read_catalog(store, "samples").to_pylist())


def read_samples(store: Store, rows: Sequence[dict[str, Any]]) -> Iterator[tuple[dict[str, Any], dict[str, bytes]]]:
    """(row, members by name) of each row; a shard is opened once where its rows follow each other.

    Raises:
        DatasetError: a shard is missing or shorter than its index says.
    """
    name, data = "", b""
    for row in rows:
        if row["shard"] != name:
            name = row["shard"]
            data = store.read(f"shards/{name}")
        members: dict[str, bytes] = {}
        for member in row["members"]:
            end = member["offset"] + member["size"]
            if not is_member(member["name"]) or not 0 <= member["offset"] <= end <= len(data):
                raise DatasetError(
                    f"{store.root}/shards/{name}: {row['key']}.{member['name']} lies outside the shard; build it again"
                )
            members[member["name"]] = data[member["offset"] : end]
        yield row, members
