"""``geoshards query DIR "SELECT …"``: DuckDB over a dataset's catalog."""

from __future__ import annotations

import argparse
import csv
import json
import sys

import duckdb

from schemas.catalog import TABLES
from schemas.command import Command
from schemas.errors import DatasetError, InputError
from storage.store import Store


def connect(root: str) -> duckdb.DuckDBPyConnection:
    """An in-memory DuckDB with one view a catalog table: those of schemas.catalog that it has.

    Raises:
        DatasetError: ``root`` is no dataset.
    """
    store = Store(root)
    connection = duckdb.connect()
    if store.remote:
        import fsspec

        connection.register_filesystem(fsspec.core.url_to_fs(store.root)[0])
    found = 0
    for table in TABLES:
        names = [n for n in store.names(f"catalog/{table}") if n.endswith(".parquet")]
        found += len(names)
        if names:
            files = ", ".join("'" + store.path(f"catalog/{table}/{n}").replace("'", "''") + "'" for n in names)
            connection.execute(f"CREATE VIEW {table} AS SELECT * FROM read_parquet([{files}])")
    if not found:
        raise DatasetError(f"{root} has no catalog; give a directory that `geoshards shards` wrote")
    return connection


def _configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("dataset", help="dataset directory or fsspec URL")
    parser.add_argument("sql", help=f"a query over {', '.join(TABLES)}")
    parser.add_argument("--csv", action="store_true", help="print CSV")
    parser.epilog = (
        "examples:\n"
        '  geoshards query data/demo "SELECT split, count(*) AS n FROM samples GROUP BY split"\n'
        '  geoshards query data/demo "SELECT reason, sum(count) AS n FROM drops GROUP BY reason ORDER BY n DESC"\n'
        '  geoshards query data/demo "SELECT key FROM samples WHERE n_streetview > 0 AND gsd_y < 2"'
    )


def _run(args: argparse.Namespace) -> int:
    connection = connect(args.dataset)
    try:
        relation = connection.sql(args.sql)
        if relation is None:
            raise InputError("the statement returns no rows; write a SELECT")
        if args.json:
            print(json.dumps([dict(zip(relation.columns, r, strict=True)) for r in relation.fetchall()], default=str))
        elif args.csv:
            csv.writer(sys.stdout, lineterminator="\n").writerows([relation.columns, *relation.fetchall()])
        else:
            relation.show(max_width=200, max_rows=100)
    except duckdb.Error as error:
        raise InputError(f"DuckDB: {error}") from None
    return 0


COMMAND = Command("Query a dataset's catalog with SQL (DuckDB)", _configure, _run)
