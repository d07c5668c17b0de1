"""Tables as text: CSV with commas, semicolons, tabs or bars, in UTF-8 or UTF-16, in pieces of bounded size.

A record is a line, or several of which a quoted value holds the breaks. A quote that is opened and not closed costs its
own line and no other: the lines behind it are rows by themselves, and that is how it is known.
"""

from __future__ import annotations

import codecs
import csv
import io
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.csv

from pipeline.streetview.record import Drops, number, point
from schemas.errors import InputError

_DELIMITERS = (",", ";", "\t", "|")
_MARKS = {codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}
#: Bytes of a file that are read at once, and characters of its longest record.
_BLOCK, _LONGEST = 8 << 20, 16 << 20


class Records(NamedTuple):
    """Records of a table, and the number of each one's first line, from 1."""

    texts: list[str]
    lines: list[int]


class TextTable:
    """Columns and rows of a text file."""

    #: What its rows are called by.
    unit = "line"

    def __init__(self, path: Path, known: Collection[str]) -> None:
        """``known`` column names decide which delimiter the header has.

        Raises:
            InputError: it is no text, or has a known column twice.
        """
        self.path = path
        with path.open("rb") as file:
            start = file.read(4)
        self._coding = next((c for mark, c in _MARKS.items() if start.startswith(mark)), "utf-8")
        first, _ = next(self._blocks())
        skip = next((i for i, text in enumerate(first.texts) if text), 0)
        skip += first.texts[skip : skip + 1] != [] and first.texts[skip].lower().startswith("sep=")  # Excel's own word
        heads = {d: [n.strip() for n in next(csv.reader(first.texts[skip:], delimiter=d), [])] for d in _DELIMITERS}
        self.delimiter = max(_DELIMITERS, key=lambda d: (sum(n in known for n in heads[d]), len(heads[d])))
        self.names = heads[self.delimiter]
        self._skip = skip + 1
        double = sorted({n for n in self.names if self.names.count(n) > 1 and n in known})
        if double:
            raise InputError(f"{path} has column {double[0]} more than once; rename one of them")

    def pieces(self, wanted: Sequence[str], place: Sequence[str], drops: Drops) -> Iterator[tuple[pa.Table, list[int]]]:
        """The columns ``wanted`` as text, piece by piece, and the line of each row; bad rows are added to ``drops``.

        ``place`` are the columns of a position, by which a line is known as a row of its own.
        """
        self._place = [self.names.index(n) for n in place]
        rest, skip = Records([], []), self._skip
        for block, last in self._blocks():
            texts, lines = rest.texts + block.texts, rest.lines + block.lines
            records, rest = self._records(Records(texts[skip:], lines[skip:]), last, drops)
            skip = 0
            full = [i for i, record in enumerate(records.texts) if record]
            if full:
                whole = Records([records.texts[i] for i in full], [records.lines[i] for i in full])
                yield self._parse(whole, wanted, drops)

    def _blocks(self) -> Iterator[tuple[Records, bool]]:
        """Lines of the file, block by block, and whether it is the last.

        Raises:
            InputError: it is in another encoding, or no text.
        """
        decoder = io.IncrementalNewlineDecoder(codecs.getincrementaldecoder(self._coding)(), translate=True)
        line, rest = 1, ""
        with self.path.open("rb") as file:
            while True:
                data = file.read(_BLOCK)
                try:
                    text = rest + decoder.decode(data, final=not data)
                except UnicodeDecodeError as error:
                    near = line + error.object[: error.start].count(b"\n")
                    kind = self._coding.removesuffix("-sig").upper()
                    raise InputError(f"{self.path} is not {kind}; save it as UTF-8 (it fails in line {near})") from None
                if "\0" in text:
                    raise InputError(f"{self.path} holds zero bytes; it is no text in UTF-8 or marked UTF-16")
                lines = text.split("\n")
                rest = lines.pop() if data else ""
                if len(rest) > _LONGEST:
                    raise InputError(f"{self.path} has over {_LONGEST:,} characters in line {line + len(lines)}")
                yield Records(lines, list(range(line, line + len(lines)))), not data
                line += len(lines)
                if not data:
                    return

    def _records(self, found: Records, last: bool, drops: Drops) -> tuple[Records, Records]:
        """Whole records of lines, and the lines of one that may go on in the next block."""
        lines, at = found
        odd = [i for i, text in enumerate(lines) if text.count('"') % 2]
        if not odd:
            return found, Records([], [])
        records, done = Records([], []), 0
        for i in odd:
            if i < done:
                continue
            records.texts.extend(lines[done:i])
            records.lines.extend(at[done:i])
            end = self._end(lines, i)
            if end is None and not last and sum(map(len, lines[i:])) < _LONGEST:
                return records, Records(lines[i:], at[i:])
            if end is None or end < 0:
                drops.add("bad_row", f"line {at[i]}", "a quote is opened and not closed")
                done = i + 1
            else:
                records.texts.append("\n".join(lines[i : end + 1]))
                records.lines.append(at[i])
                done = end + 1
        records.texts.extend(lines[done:])
        records.lines.extend(at[done:])
        return records, Records([], [])

    def _end(self, lines: Sequence[str], first: int) -> int | None:
        """The last line of the record that begins in a line of odd quotes; -1: it has none, None: none among these."""
        if self._fields(lines[first]) is not None:  # a quote inside a value is a character
            return first
        for i in range(first + 1, len(lines)):
            if self._is_row(lines[i]):
                return -1
            if lines[i].count('"') % 2:
                return i if self._fields("\n".join(lines[first : i + 1])) is not None else -1
        return None

    def _is_row(self, line: str) -> bool:
        """Whether a line is a row by itself, with a position."""
        fields = self._fields(line) or self._fields(line.replace('"', ""))
        if fields is None:
            return False
        values = [fields[i] for i in self._place]
        return all(number(v.replace(",", ".")) is not None or point(v) != (None, None) for v in values)

    def _fields(self, text: str) -> list[str] | None:
        """The values of a record, one a column; None if it is none."""
        try:
            found = list(csv.reader(io.StringIO(text, newline=""), delimiter=self.delimiter, strict=True))
        except csv.Error:
            return None
        return found[0] if len(found) == 1 and len(found[0]) == len(self.names) else None

    def _parse(self, records: Records, wanted: Sequence[str], drops: Drops) -> tuple[pa.Table, list[int]]:
        bad: list[int] = []

        def skip(row: pyarrow.csv.InvalidRow) -> str:
            bad.append(row.number - 1)
            return "skip"

        columns = [str(self.names.index(n)) for n in wanted]
        data = "\n".join(records.texts).encode()
        found = pa.csv.read_csv(
            io.BytesIO(data),
            pa.csv.ReadOptions(
                column_names=[str(i) for i in range(len(self.names))], block_size=len(data) + 1, use_threads=False
            ),
            pa.csv.ParseOptions(
                delimiter=self.delimiter, newlines_in_values=True, ignore_empty_lines=False, invalid_row_handler=skip
            ),
            pa.csv.ConvertOptions(
                include_columns=columns, column_types=dict.fromkeys(columns, pa.string()), strings_can_be_null=True,
                null_values=[""],
            ),
        )  # fmt: skip
        if len(found) + len(bad) != len(records.texts):  # a quote inside a value, and another that opens one
            rows = [self._fields(text) for text in records.texts]
            bad = [i for i, row in enumerate(rows) if row is None]
            own = [[row[int(c)] or None for row in rows if row is not None] for c in columns]
            found = pa.table([pa.array(values, pa.string()) for values in own], columns)
        for i in bad:
            drops.add("bad_row", f"line {records.lines[i]}", f"not {len(self.names)} values, as the header has")
        return found.rename_columns(list(wanted)), np.delete(records.lines, bad).tolist()
