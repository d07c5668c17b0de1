"""Selections: an SQL condition over the samples table to a mask.

Comparisons joined by AND are evaluated by pyarrow alone; everything else by DuckDB, where it is installed. Both give
the same mask. A condition whose answer may change from run to run is refused.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from schemas.config import unknown_key
from schemas.errors import ConfigError, DependencyError

_LITERAL = re.compile(r"'(?:[^']|'')*'")
_COMMENT = re.compile(r"--|/\*|;")
_WORD = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_COMPARISON = re.compile(
    r"\s*([A-Za-z_]\w*)\s*(<=|>=|<>|!=|==|=|<|>)\s*('(?:[^']|'')*'|[-+]?\d+(?:\.\d*)?(?:[eE][-+]?\d+)?)\s*"
)
_OPERATORS: dict[str, Callable[[Any, Any], Any]] = {
    "<": pc.less, "<=": pc.less_equal, ">": pc.greater, ">=": pc.greater_equal,
    "=": pc.equal, "==": pc.equal, "!=": pc.not_equal, "<>": pc.not_equal,
}  # fmt: skip
#: Words that make an answer depend on the clock, chance, or the order of rows. DuckDB's own list of functions that are
#: not constant is added to them.
_VOLATILE = {
    "select", "limit", "tablesample", "sample", "random", "setseed", "uuid", "gen_random_uuid", "uuidv4", "uuidv7",
    "now", "today", "current_date", "current_time", "current_timestamp", "get_current_time", "get_current_timestamp",
    "localtime", "localtimestamp", "transaction_timestamp", "nextval", "currval", "getenv", "current_setting",
}  # fmt: skip


def _bare(select: str) -> str:
    """The condition without its string literals."""
    return _LITERAL.sub("''", select)


def words(select: str) -> list[str]:
    """Names and keywords of the condition, its string literals left out.

    >>> words("n_rs > 0 AND key = 'a b'")
    ['n_rs', 'AND', 'key']
    """
    return _WORD.findall(_bare(select))


def mentions_split(select: str) -> bool:
    """Whether the condition itself names the column ``split``.

    >>> mentions_split("split = 'val'"), mentions_split("key = 'split'")
    (True, False)
    """
    return "split" in {w.lower() for w in words(select)}


def refuse_volatile(select: str, volatile: set[str]) -> None:
    """Raise ConfigError if the condition uses one of the words ``volatile``, a comment or a semicolon."""
    bare = _bare(select)
    if _COMMENT.search(bare):
        raise ConfigError(f"select={select!r}: give one condition, without comments and semicolons")
    for word in _WORD.findall(bare):
        if word.lower() in volatile:
            raise ConfigError(
                f"select={select!r}: {word} may answer differently each time, and the order of samples would not "
                "repeat; use columns of the samples table only"
            )


def evaluate(table: pa.Table, select: str) -> NDArray[np.bool_]:
    """Mask bool[rows] of ``table`` where the condition holds; null counts as no.

    Raises:
        ConfigError: the condition cannot be read, names an unknown column, or is volatile.
        DependencyError: it needs DuckDB, which is not installed.
    """
    refuse_volatile(select, _VOLATILE)
    simple = _simple(table, select)
    return simple if simple is not None else _duckdb(table, select)


def _simple(table: pa.Table, select: str) -> NDArray[np.bool_] | None:
    """The mask if the condition is comparisons of a column with a literal joined by AND, else None."""
    mask: Any = np.ones(table.num_rows, bool)
    rest = select
    while True:
        match = _COMPARISON.match(rest)
        if match is None:
            return None
        column, symbol, literal = match.groups()
        if column not in table.column_names:
            raise ConfigError(unknown_key(column, table.column_names).replace("setting", "column"))
        text = literal.startswith("'")
        if pa.types.is_string(table[column].type) != text:
            return None  # a comparison across types: DuckDB knows the rules
        value = literal[1:-1].replace("''", "'") if text else float(literal)
        answer = _OPERATORS[symbol](table[column], value)
        mask = operator.and_(mask, np.asarray(pc.fill_null(answer, False)))
        rest = rest[match.end() :]
        if not rest:
            return mask
        joint = re.match(r"and\b", rest, re.IGNORECASE)
        if joint is None:
            return None
        rest = rest[joint.end() :]


def _duckdb(table: pa.Table, select: str) -> NDArray[np.bool_]:
    try:
        import duckdb
    except ImportError:
        raise DependencyError(
            f"select={select!r} needs DuckDB: pip install duckdb, or write comparisons joined by AND"
        ) from None
    numbered = table.append_column("_row", pa.array(np.arange(table.num_rows)))
    with duckdb.connect(config={"threads": 1}) as connection:
        rows = connection.execute("SELECT function_name, stability FROM duckdb_functions()").fetchall()
        refuse_volatile(select, _VOLATILE | {name for name, stability in rows if stability not in (None, "CONSISTENT")})
        connection.register("samples", numbered)
        # A condition reads the table and nothing else: no file, no network, no other setting.
        connection.execute("SET enable_external_access = false; SET lock_configuration = true")
        try:
            found = connection.execute(f"SELECT _row FROM samples WHERE ({select})").fetchnumpy()["_row"]
        except duckdb.Error as error:
            first = str(error).splitlines()[0]
            raise ConfigError(f"select={select!r} cannot be answered: {first}") from None
    mask = np.zeros(table.num_rows, bool)
    mask[np.asarray(found, np.int64)] = True
    return mask
