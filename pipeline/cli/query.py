"""``geoshards query DIR "SELECT …"``: DuckDB over a dataset's catalog."""

from __future__ import annotations

import argparse
import csv
import io
import json
import re
import sys
import tempfile
import uuid
from contextlib import redirect_stdout

import duckdb
import pyarrow as pa

from schemas.catalog import TABLES
from schemas.command import Command
from schemas.errors import DatasetError, InputError
from storage.dataset import load_dataset
from storage.store import Store
from storage.text import visible

_ELUSIVE = re.compile("WITH TIME ZONE|INTERVAL")


def connect(root: str, sql: str | None = None, unsafe: bool = False) -> duckdb.DuckDBPyConnection:
    """An in-memory DuckDB with one view a catalog table: those of schemas.catalog that it has.

    It reaches the dataset alone, and its configuration is locked: it reads no other file or address and writes none.
    Tables behind a URL are read by ourselves, only those that ``sql`` names where it is given.

    Args:
        root: dataset directory or URL.
        sql: the query to come.
        unsafe: let it reach whatever DuckDB can.

    Raises:
        DatasetError: ``root`` is no dataset.
        InputError: ``sql`` cannot be parsed.
    """
    store = Store(root)
    load_dataset(store)  # a part of one would be counted as if it were whole
    connection = duckdb.connect(config={"python_enable_replacements": False, "allow_community_extensions": False})
    wanted = TABLES.keys() if sql is None or not store.remote else _tables_of(connection, sql)
    found = 0
    for table in TABLES:
        names = [n for n in store.names(f"catalog/{table}") if n.endswith(".parquet")]
        found += len(names)
        if names and not store.remote:
            files = ", ".join("'" + store.path(f"catalog/{table}/{n}").replace("'", "''") + "'" for n in names)
            try:
                connection.execute(f"CREATE VIEW {table} AS SELECT * FROM read_parquet([{files}])")
            except duckdb.Error as error:
                where = store.path(f"catalog/{table}")
                raise DatasetError(f"{where} cannot be read ({_reason(error)}); build the dataset again") from None
        elif names and table in wanted:
            connection.register(table, pa.concat_tables(store.read_table(f"catalog/{table}/{n}") for n in names))
    if not found:
        raise DatasetError(f"{root} has no catalog; give a directory that `geoshards shards` wrote")
    if not unsafe:
        if not store.remote:
            connection.execute("SET allowed_directories = ?", [[store.path("catalog/")]])
        # DuckDB may read the folder that it spills to: one that nobody has, not the default, `.tmp` here.
        spill = f"{tempfile.gettempdir()}/geoshards-{uuid.uuid4().hex}"
        connection.execute("SET temp_directory = ?", [spill])
        connection.execute("SET enable_external_access = false")
        connection.execute("SET lock_configuration = true")
    return connection


def _tables_of(connection: duckdb.DuckDBPyConnection, sql: str) -> set[str]:
    try:
        return {name.lower() for name in connection.get_table_names(sql)}
    except duckdb.Error as error:
        raise InputError(_reason(error)) from None


def _reason(error: duckdb.Error) -> str:
    """In one line, without the place in the query that DuckDB draws below it."""
    return f"DuckDB: {' '.join(str(error).partition(chr(10) * 2 + 'LINE ')[0].split())}"


def _check(connection: duckdb.DuckDBPyConnection, sql: str) -> None:
    """Let one query pass.

    Raises:
        InputError: it is something else, or several.
    """
    try:
        statements = connection.extract_statements(sql)
    except duckdb.Error as error:
        raise InputError(_reason(error)) from None
    if [s.type for s in statements] != [duckdb.StatementType.SELECT]:
        raise InputError("only one SELECT is run over a dataset; --unsafe runs what DuckDB can")


def _of_plain_values(relation: duckdb.DuckDBPyRelation) -> duckdb.DuckDBPyRelation:
    """Times with a zone and intervals as DuckDB writes them: Python lacks a package for them, or the range."""
    if not any(_ELUSIVE.search(str(t)) for t in relation.types):
        return relation
    columns = [
        f'#{n}{"::VARCHAR" if _ELUSIVE.search(str(kind)) else ""} AS "{name.replace(chr(34), chr(34) * 2)}"'
        for n, (name, kind) in enumerate(zip(relation.columns, relation.types, strict=True), 1)
    ]
    return relation.project(", ".join(columns))


def _configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("dataset", help="dataset directory or fsspec URL")
    parser.add_argument("sql", help=f"a query over {', '.join(TABLES)}")
    parser.add_argument("--csv", action="store_true", help="print CSV")
    parser.add_argument(
        "--unsafe",
        action="store_true",
        help="run any statement, over any file or address: for SQL that you trust",
    )
    parser.epilog = (
        "examples:\n"
        '  geoshards query data/demo "SELECT split, count(*) AS n FROM samples GROUP BY split"\n'
        '  geoshards query data/demo "SELECT reason, sum(count) AS n FROM drops GROUP BY reason ORDER BY n DESC"\n'
        '  geoshards query data/demo "SELECT key FROM samples WHERE n_streetview > 0 AND gsd_y < 2"'
    )


def _run(args: argparse.Namespace) -> int:
    connection = connect(args.dataset, args.sql, args.unsafe)
    if not args.unsafe:
        _check(connection, args.sql)
    try:
        relation = connection.sql(args.sql)
        if relation is None:
            raise InputError("the statement returns no rows; write a SELECT")
        if args.json or args.csv:
            relation = _of_plain_values(relation)
        if args.json:
            print(json.dumps([dict(zip(relation.columns, r, strict=True)) for r in relation.fetchall()], default=str))
        elif args.csv:
            rows = [relation.columns, *relation.fetchall()]
            if sys.stdout.isatty():
                rows = [[visible(v) if isinstance(v, str) else v for v in row] for row in rows]
            csv.writer(sys.stdout, lineterminator="\n").writerows(rows)
        else:
            with redirect_stdout(io.StringIO()) as shown:
                relation.show(max_width=200, max_rows=100)
            print(visible(shown.getvalue(), keep="\n"), end="")
    except duckdb.Error as error:
        raise InputError(_reason(error)) from None
    return 0


COMMAND = Command("Query a dataset's catalog with SQL (DuckDB)", _configure, _run)
