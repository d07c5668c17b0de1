"""Arrow schemas and names of the catalog's files."""

from __future__ import annotations

import datetime
import io
import json
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.catalog import SHARDS_PER_FILE, TABLES, catalog_file, pending_file, shard_name
from schemas.features import CELLS, DROPS, FEATURES, drop_row, geoparquet_metadata

SCHEMAS = {**TABLES, "features": FEATURES, "cells": CELLS}
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
UTC = datetime.UTC


def values(kind: pa.DataType) -> st.SearchStrategy[Any]:
    """Any value of an Arrow type, null included."""
    if pa.types.is_string(kind):
        some: st.SearchStrategy[Any] = TEXT
    elif pa.types.is_binary(kind):
        some = st.binary(max_size=8)
    elif pa.types.is_boolean(kind):
        some = st.booleans()
    elif pa.types.is_floating(kind):
        some = st.floats(allow_nan=False)
    elif pa.types.is_timestamp(kind):
        some = st.datetimes(datetime.datetime(1971, 1, 1), datetime.datetime(2100, 1, 1)).map(
            lambda t: t.replace(microsecond=0, tzinfo=UTC)
        )
    elif pa.types.is_integer(kind):
        bits = kind.bit_width
        some = (
            st.integers(0, 2**bits - 1)
            if pa.types.is_unsigned_integer(kind)
            else st.integers(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
        )
    elif pa.types.is_map(kind):
        some = st.dictionaries(TEXT, values(kind.item_type), max_size=3).map(lambda d: list(d.items()))
    elif pa.types.is_list(kind):
        some = st.lists(values(kind.value_type), max_size=3)
    else:
        some = st.fixed_dictionaries({kind.field(i).name: values(kind.field(i).type) for i in range(kind.num_fields)})
    return st.none() | some


@pytest.mark.parametrize("name", sorted(SCHEMAS))
@settings(max_examples=25)
@given(data=st.data())
def test_a_table_survives_parquet(name: str, data: st.DataObject) -> None:
    schema = SCHEMAS[name]
    rows = data.draw(st.lists(st.fixed_dictionaries({f.name: values(f.type) for f in schema}), max_size=4))
    table = pa.Table.from_pylist(rows, schema=schema)
    buffer = io.BytesIO()
    pq.write_table(table, buffer)
    buffer.seek(0)
    read = pq.read_table(buffer)
    assert read.schema.equals(schema)
    assert read.to_pylist() == table.to_pylist()


def test_every_table_has_distinct_columns() -> None:
    for name, schema in SCHEMAS.items():
        assert len(set(schema.names)) == len(schema.names), name


def test_a_drop_has_the_columns_of_the_drops_table() -> None:
    row = drop_row("features", "x.osm.pbf", "too_few_nodes", osm_type="way", osm_id=3)
    assert list(row) == DROPS.names
    assert pa.Table.from_pylist([row], schema=DROPS).to_pylist() == [row]
    assert row["count"] == 1


@given(st.integers(0, 9_999_999), st.integers(0, 9_999_999))
def test_shard_names_sort_as_their_numbers(a: int, b: int) -> None:
    assert (shard_name(a) < shard_name(b)) == (a < b)
    assert len(shard_name(a)) == len("part-0000000")


@given(st.integers(0, 99_999), st.integers(0, 99_999), st.sampled_from(sorted(TABLES)), st.sampled_from(sorted(TABLES)))
def test_catalog_files_are_distinct_and_sort_as_their_groups(a: int, b: int, table: str, other: str) -> None:
    assert (catalog_file(table, a) == catalog_file(other, b)) == ((table, a) == (other, b))
    assert (catalog_file(table, a) < catalog_file(table, b)) == (a < b)
    assert catalog_file(table, a).startswith(f"catalog/{table}/")
    assert catalog_file(table, a).endswith(".parquet")


def test_pending_rows_lie_out_of_the_way_of_readers_of_a_table() -> None:
    """A glob over catalog/<table>/*.parquet must not see rows twice, before and after they are folded."""
    names = {pending_file(table, i) for table in TABLES for i in range(3)}
    assert len(names) == 3 * len(TABLES)
    assert all(name.split("/")[1].startswith(".") for name in names)


def test_a_catalog_file_holds_many_shards() -> None:
    assert SHARDS_PER_FILE == 256


@given(st.lists(st.sampled_from(("Point", "LineString", "Polygon")), unique=True))
def test_geoparquet_metadata_names_its_column_encoding_and_covering(kinds: list[str]) -> None:
    document = json.loads(geoparquet_metadata(kinds)[b"geo"])
    assert document["version"] == "1.1.0"
    column = document["columns"][document["primary_column"]]
    assert column["encoding"] == "WKB"
    assert column["geometry_types"] == sorted(kinds)
    for side, (field, leaf) in column["covering"]["bbox"].items():
        assert FEATURES.field(field).type.field(leaf).name == side
