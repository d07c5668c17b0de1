"""Blocks of objects as arrays."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from functools import partial
from itertools import chain, pairwise
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import numpy as np

from pipeline.formats.messages import parse
from pipeline.formats.pbf.arrays import Block, Heads, Nodes, Relations, Ways, cut, entries, join, rows
from pipeline.formats.pbf.blobs import Blob, TooMuch, reading
from pipeline.formats.pbf.dense import dense_nodes
from pipeline.formats.pbf.frame import Frame
from pipeline.formats.pbf.objects import heads_of, plain_nodes, relations_of, ways_of
from pipeline.formats.pbf.parsed import ParsedFields
from pipeline.formats.pbf.plain import PlainFields, PlainHeads
from pipeline.formats.pbf.schema import PBF
from pipeline.formats.wire import Ints
from schemas.features import ObjectType

T = TypeVar("T", Heads, Nodes, Ways, Relations)

#: Messages, and bytes of them about, that are decoded at once: their arrays take up to 40 times as much.
_MESSAGES, _RUN = 1 << 15, 2 << 20
#: Objects, and entries of their lists, of a piece, about: real blocks have fewer, 8,000 objects at most.
_PIECE = 1 << 20
#: Bytes of one node, way or relation: OSM's own bounds, 2,000 nodes and 32,000 members, take 20 and 300 KB.
_MOST_BYTES = 4 << 20
#: Messages of a block, of which known programs write 8,000, and one of dense nodes, each of which takes 0.2 ms; and
#: those of one type that the library reads, in 10 µs each.
_MOST = {"nodes": 1_000_000, "dense": 10_000, "ways": 1_000_000, "relations": 1_000_000}
_MOST_PARSED = 250_000
#: Where in a Block each kind of part stands.
_NAMES = {Nodes: "nodes", Ways: "ways", Relations: "relations", Heads: "way_heads"}


def read_blocks(
    file: BinaryIO,
    blob: Blob,
    path: Path | str,
    wanted: Collection[ObjectType] = tuple(ObjectType),
    *,
    way_heads: bool = False,
) -> Iterator[Block]:
    """`decode_block` of one blob.

    Raises:
        InputError: it is damaged, or compressed as is not read here, or beyond any map.
    """
    with reading(file, blob, path) as data:
        yield from decode_block(data, wanted, way_heads=way_heads)


def decode_block(
    data: bytes, wanted: Collection[ObjectType] = tuple(ObjectType), *, way_heads: bool = False
) -> Iterator[Block]:
    """Arrays of one PrimitiveBlock, by type, of the wanted ones; without any of them its strings stay unread.

    Of a key that an object has twice, the first value counts, as libosmium looks it up. Very many objects come in
    several pieces, in their order; a block without any wanted ones is one piece without objects.

    Args:
        way_heads: of ways, ids and versions alone.

    Raises:
        ValueError: it is damaged.
        TooMuch: it has what no map has; each bound is some ten times what real files hold at most.
    """
    block = parse(PBF.PrimitiveBlock, data)
    group = block.primitivegroup
    there = {
        ObjectType.NODE: len(group.nodes) + len(group.dense),
        ObjectType.WAY: len(group.ways),
        ObjectType.RELATION: len(group.relations),
    }
    holds = frozenset(kind for kind, count in there.items() if count)
    chosen = holds & frozenset(wanted)
    frame, strings = Frame.of(block, texts=bool(chosen))
    for name, most in _MOST.items():
        if (count := len(getattr(group, name))) > most:
            raise TooMuch(f"{count:,} messages of {name}, of {most:,} that are read")
    found = False
    for first, part in _parts(frame, group, chosen, way_heads):
        found = True
        yield Block(holds, strings, first, **{_NAMES[type(part)]: part})
    if not found:
        yield Block(holds, strings)


def _parts(frame: Frame, group: Any, chosen: frozenset[ObjectType], way_heads: bool) -> Iterator[tuple[int, Any]]:
    """What a block has of each type, in pieces, and the row at which each begins."""
    if ObjectType.NODE in chosen:
        plain = _decode(PBF.Node, (PlainFields.of,), partial(plain_nodes, frame), group.nodes)
        dense = (nodes for message in group.dense for nodes in _cut(dense_nodes(frame, message)))
        yield from _pieces(Nodes, chain(plain, dense))
    if way_heads:
        readers = PlainHeads.of, PlainFields.of
        yield from _pieces(Heads, _decode(PBF.Way, readers, partial(heads_of, frame), group.ways))
    if ObjectType.WAY in chosen:
        yield from _pieces(Ways, _decode(PBF.Way, (PlainFields.of,), partial(ways_of, frame), group.ways))
    if ObjectType.RELATION in chosen:
        relations = _decode(PBF.Relation, (PlainFields.of,), partial(relations_of, frame), group.relations)
        yield from _pieces(Relations, relations)


def _cut(nodes: Nodes) -> Iterator[Nodes]:
    count = len(nodes.objects.ids)
    return (cut(nodes, i, i + _PIECE) for i in range(0, count, _PIECE)) if count > _PIECE else iter([nodes])


def _pieces(kind: type[T], runs: Iterator[T]) -> Iterator[tuple[int, T]]:
    """Runs joined to pieces, and how many objects are before each."""
    first, held, size = 0, list[T](), 0
    for run in runs:
        held.append(run)
        size += entries(run)
        if size >= _PIECE:
            yield first, join(kind, held)
            first += sum(map(rows, held))
            held, size = [], 0
    if held:
        yield first, join(kind, held)


def _decode(kind: Any, readers: Sequence[Any], build: Callable[[Any], T], messages: Sequence[bytes]) -> Iterator[T]:
    """Messages of one kind as arrays, some megabytes at a time, by the first reader that can, or by the library."""
    parsed = 0
    for start in range(0, len(messages), _MESSAGES):
        few = messages[start : start + _MESSAGES]
        sizes = np.fromiter(map(len, few), np.int64, len(few))
        if (most := int(sizes.max())) > _MOST_BYTES:
            raise TooMuch(f"a {kind.DESCRIPTOR.name.lower()} of {most:,} bytes, of {_MOST_BYTES:,} that are read")
        ends: Ints = np.cumsum(sizes)
        for begin, end in pairwise((0, *(np.flatnonzero(np.diff(ends // _RUN)) + 1).tolist(), len(few))):
            run, begins = few[begin:end], ends[begin:end] - sizes[begin:end]
            for reader in readers:
                try:
                    built = build(reader(kind, run, begins - begins[0], ends[begin:end] - begins[0]))
                    break
                except ValueError:
                    continue
            else:
                if (parsed := parsed + len(run)) > _MOST_PARSED:
                    raise TooMuch(f"more than {_MOST_PARSED:,} objects that are not encoded as is usual")
                built = build(ParsedFields(kind, [parse(kind, m) for m in run]))
            yield built
