"""Blocks of objects as arrays."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import numpy as np

from pipeline.formats.messages import parse
from pipeline.formats.pbf.arrays import Block, Nodes, Relations, Ways, join
from pipeline.formats.pbf.blobs import Blob, read_blob
from pipeline.formats.pbf.dense import dense_nodes
from pipeline.formats.pbf.frame import Frame
from pipeline.formats.pbf.objects import Fields, plain_nodes, relations_of, ways_of
from pipeline.formats.pbf.parsed import ParsedFields
from pipeline.formats.pbf.plain import PlainFields
from pipeline.formats.pbf.schema import PBF
from schemas.features import ObjectType

T = TypeVar("T")

#: Messages, and bytes of them about, that are decoded at once: their arrays take up to 40 times as much.
_MESSAGES, _RUN = 1 << 15, 2 << 20


def read_block(file: BinaryIO, blob: Blob, path: Path, wanted: Collection[ObjectType] = tuple(ObjectType)) -> Block:
    """Decode the wanted kinds of one blob.

    Raises:
        InputError: it is damaged, or compressed as is not read here.
    """
    return read_blob(file, blob, path, lambda data: decode_block(data, wanted))


def decode_block(data: bytes, wanted: Collection[ObjectType] = tuple(ObjectType)) -> Block:
    """Arrays of one PrimitiveBlock, of the wanted kinds; without any of them, its strings stay unread.

    Of a key that an object has twice, the first value counts, as libosmium looks it up.

    Raises:
        ValueError: it is damaged.
    """
    block = parse(PBF.PrimitiveBlock, data)
    # Messages one after the other are one that has the lists of all, whatever kinds each group mixes.
    group = parse(PBF.PrimitiveGroup, b"".join(block.primitivegroup))
    there = {
        ObjectType.NODE: len(group.nodes) + len(group.dense),
        ObjectType.WAY: len(group.ways),
        ObjectType.RELATION: len(group.relations),
    }
    holds = frozenset(kind for kind, count in there.items() if count)
    chosen = holds & frozenset(wanted)
    nodes: list[Nodes] = []
    ways: list[Ways] = []
    relations: list[Relations] = []
    frame, strings = Frame.of(block, b"".join(block.stringtable) if chosen else b"")
    if ObjectType.NODE in chosen:
        nodes = _decode(PBF.Node, partial(plain_nodes, frame), group.nodes)
        nodes += [dense_nodes(frame, dense) for dense in group.dense]
    if ObjectType.WAY in chosen:
        ways = _decode(PBF.Way, partial(ways_of, frame), group.ways)
    if ObjectType.RELATION in chosen:
        relations = _decode(PBF.Relation, partial(relations_of, frame), group.relations)
    return Block(holds, strings, join(Nodes, nodes), join(Ways, ways), join(Relations, relations))


def _decode(kind: Any, build: Callable[[Fields], T], messages: Sequence[bytes]) -> list[T]:
    """Messages of one kind as arrays, some megabytes at a time."""
    built = []
    for start in range(0, len(messages), _MESSAGES):
        few = messages[start : start + _MESSAGES]
        sizes = np.fromiter(map(len, few), np.int64, len(few))
        ends = np.cumsum(sizes)
        for begin, end in pairwise((0, *(np.flatnonzero(np.diff(ends // _RUN)) + 1).tolist(), len(few))):
            run, begins = few[begin:end], ends[begin:end] - sizes[begin:end]
            try:
                built.append(build(PlainFields.of(kind, run, begins - begins[0], ends[begin:end] - begins[0])))
            except ValueError:
                built.append(build(ParsedFields(kind, [parse(kind, m) for m in run])))
    return built
