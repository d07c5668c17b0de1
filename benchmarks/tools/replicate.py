#!/usr/bin/env python3
"""Not a race: writes N copies of an extract into one, with shifted ids and places, as input for the races.

Usage: python benchmarks/tools/replicate.py IN.osm.pbf OUT.osm.pbf --copies 20 [--first 0]

With ``--first 19`` the copies are those from the 20th on: neighbours with 0, 19, 38 … share a copy each.
They lie side by side from west to east, in rows of 80. Nodes, then ways, then relations, each rising by id, as OSM
files are sorted. Blocks are copied, not decoded: ids, references and places are running differences, so that a shift
changes the first of each list alone. 200 copies of Liechtenstein (68 million objects, 0.5 GB) take about two minutes.
"""

from __future__ import annotations

import argparse
import os
import zlib
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from pipeline.formats.pbf.blobs import Blob, unpack
from pipeline.formats.pbf.header import blobs
from pipeline.formats.wire import varint, zigzag

_ID_STEP = 20_000_000_000  # above every id in use
#: Degrees from copy to copy in a row, and from row to row; copies in a row.
_EAST, _NORTH, _ROW = 0.2, 0.25, 80
_DENSE, _WAY, _RELATION = 2, 3, 4  # fields of a group, in the order of the file


def _number(value: int) -> bytes:
    """A varint."""
    value &= (1 << 64) - 1
    data = bytearray()
    while value >= 128:
        data.append(value & 127 | 128)
        value >>= 7
    data.append(value)
    return bytes(data)


def _field(field: int, value: int | bytes) -> bytes:
    if isinstance(value, int):
        return _number(field << 3) + _number(value)
    return _number(field << 3 | 2) + _number(len(value)) + value


def _fields(data: bytes) -> Iterator[tuple[int, Any]]:
    """(field number, value) of a message: an int for varints, bytes for lists and messages."""
    position = 0
    while position < len(data):
        tag, position = varint(data, position)
        value, position = varint(data, position)
        if tag & 7 == 2:
            begin, position = position, position + value
            yield tag >> 3, data[begin:position]
        else:
            yield tag >> 3, value


def _shifted(packed: bytes, shift: int) -> bytes:
    """A packed list of running differences, all of whose numbers are ``shift`` larger."""
    if not packed:
        return packed
    first, rest = varint(packed, 0)
    value = zigzag(first) + shift
    return _number(value << 1 ^ value >> 63) + packed[rest:]


def _message(kind: int, message: bytes, shifts: dict[int, int]) -> bytes:
    """Dense nodes, a way or a relation, shifted: by field of dense nodes (1 ids, 8 latitudes, 9 longitudes)."""
    found = []
    for field, value in _fields(message):
        if kind == _DENSE and field in shifts:
            value = _shifted(value, shifts[field])
        elif kind != _DENSE and field == 1:
            value += shifts[1]
        elif (kind, field) in ((_WAY, 8), (_RELATION, 9)):
            value = _shifted(value, shifts[1])
        found.append(_field(field, value))
    return b"".join(found)


def _copy(block: bytes, kind: int, copy: int) -> bytes:
    """The groups of one kind of a PrimitiveBlock, shifted; empty if there are none."""
    granularity = dict(_fields(block)).get(17, 100)
    row, column = divmod(copy, _ROW)
    north, east = (round(d * 1e9) // granularity for d in (row * _NORTH, column * _EAST))
    shifts = {1: copy * _ID_STEP, 8: north, 9: east}
    parts, there = [], False
    for field, value in _fields(block):
        if field == 2:
            messages = [(f, m) for f, m in _fields(value) if f == kind]
            value = b"".join(_field(f, _message(kind, m, shifts)) for f, m in messages)
            there |= bool(messages)
        parts.append(_field(field, value))
    return b"".join(parts) if there else b""


def _framed(kind: bytes, content: bytes) -> bytes:
    """A blob with its header."""
    blob = _field(2, len(content)) + _field(3, zlib.compress(content, 6))
    header = _field(1, kind) + _field(3, len(blob))
    return len(header).to_bytes(4, "big") + header + blob


def _blocks(source: Path, found: list[Blob]) -> Iterator[bytes]:
    with source.open("rb") as file:
        for blob in found:
            file.seek(blob.offset)
            yield unpack(file.read(blob.size), source)


def _one(job: tuple[Path, int, int]) -> bytes:
    """All blobs of one kind of one copy."""
    source, kind, copy = job
    copies = (_copy(block, kind, copy) for block in _blocks(source, blobs(source)[1]))
    return b"".join(_framed(b"OSMData", block) for block in copies if block)


def replicate(source: Path, target: Path, copies: int, first: int = 0) -> None:
    """Write the copies from ``first`` on. The source has dense nodes, as every extract that osmium writes."""
    jobs = [(source, kind, copy) for kind in (_DENSE, _WAY, _RELATION) for copy in range(first, first + copies)]
    header = b"".join(_field(4, f) for f in (b"OsmSchema-V0.6", b"DenseNodes")) + _field(5, b"Sort.Type_then_ID")
    workers = len(os.sched_getaffinity(0))
    with target.open("wb") as file, ProcessPoolExecutor(workers, get_context("spawn")) as pool:
        file.write(_framed(b"OSMHeader", header))
        for data in pool.map(_one, jobs):
            file.write(data)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path)
    parser.add_argument("--copies", type=int, default=20)
    parser.add_argument("--first", type=int, default=0)
    args = parser.parse_args()
    replicate(args.source, args.target, args.copies, args.first)


if __name__ == "__main__":
    main()
