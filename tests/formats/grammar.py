"""PBF files from a grammar of the format: what a file says, and every legal way to write it down.

A file is written plainly, as known programs do, or oddly: fields in any order, unknown ones of every wire type, numbers
longer than need be, lists packed, split or not packed, messages in parts that are to be merged, scalars written twice,
texts twice in a string table, blobs in any compression that is read. Both forms say the same.
"""

from __future__ import annotations

import random
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain

import pyarrow as pa

Tag = tuple[str, str]
Part = tuple[int, bytes]  # a field: its number, and all of its bytes

_WORDS = (
    "building",
    "yes",
    "highway",
    "path",
    "type",
    "multipolygon",
    "natural",
    "water",
    "name",
    "",
    "área",
    "🦄",
    "no",
)


@dataclass(frozen=True)
class Object:
    """A node, way or relation as a block writes it."""

    id: int
    tags: list[Tag]
    version: int
    stamp: int  # in the block's unit of dates
    visible: bool
    lon: int = 0  # in the block's unit of places
    lat: int = 0
    refs: list[int] = field(default_factory=list)
    places: list[tuple[int, int]] | None = None  # of the refs
    members: list[tuple[int, int, str]] = field(default_factory=list)  # type, id, role


@dataclass(frozen=True)
class Group:
    """Objects by how they are written."""

    nodes: list[Object]
    dense: list[list[Object]]  # one message each; the format wants one at most, libosmium reads several
    ways: list[Object]
    relations: list[Object]
    informed: bool  # the dense nodes have versions and dates


@dataclass(frozen=True)
class Block:
    """Groups with one scale."""

    granularity: int
    lon_offset: int
    lat_offset: int
    dates: int
    groups: list[Group]


@dataclass(frozen=True)
class File:
    """What a file says."""

    box: tuple[int, int, int, int] | None  # left, right, top, bottom in nanodegrees
    stamp: int | None
    blocks: list[Block]


def some_file(rng: random.Random) -> File:
    """Any file; small."""
    box = tuple(rng.randint(-180, 180) * 10**9 // (1 + i // 2) for i in range(4)) if rng.random() < 0.5 else None
    return File(box, rng.choice([None, 1_600_000_000]), [_block(rng) for _ in range(rng.randint(1, 3))])


def _block(rng: random.Random) -> Block:
    # Of the unit 1e-7 degree: the same, finer, coarser, none of its multiples, backwards.
    granularity = rng.choice([100, 100, 100, 1, 1000, 250, 7, -100])
    lon, lat = (rng.choice([0, 0, rng.randint(-180 * 10**9, 180 * 10**9)]) for _ in range(2))
    count = rng.randint(0, 3)
    groups = [_group(rng, _Places(rng, granularity, lon, lat)) for _ in range(count)]
    return Block(granularity, lon, lat, rng.choice([1000, 1000, 1, 500, 1500]), groups)


@dataclass(frozen=True)
class _Places:
    """Places as a block writes them, of which libosmium's 32 bits hold the units."""

    rng: random.Random
    granularity: int
    lon: int
    lat: int

    def some(self) -> tuple[int, int]:
        """Longitude and latitude."""
        lon, lat = ((self.rng.randint(-200 * 10**9, 200 * 10**9) - o) // self.granularity for o in (self.lon, self.lat))
        return lon, lat


def _group(rng: random.Random, places: _Places) -> Group:
    kinds = rng.choice(["n", "d", "w", "r", "ndwr", "dw", ""])
    nodes, first, second, ways, relations = (
        [_object(rng, k, places) for _ in range(rng.randint(0, 4))] if k in kinds else [] for k in "nddwr"
    )
    dense = [first, second][: rng.choice([1, 1, 2])] if "d" in kinds else []
    return Group(nodes, dense, ways, relations, rng.random() < 0.8)


def _object(rng: random.Random, kind: str, places: _Places) -> Object:
    tags = [(rng.choice(_WORDS), rng.choice(_WORDS)) for _ in range(rng.choice([0, 0, 1, 2, 5]))]
    tags = [t for t in tags if t[0]]  # an empty key has the index 0, which ends a dense node
    ids = [_id(rng) for _ in range(rng.choice([0, 1, 2, 4, 9]))]
    stamp = rng.choice([0, rng.randint(0, 2_000_000_000)])
    o = Object(_id(rng), tags, rng.randint(0, 300), stamp, rng.random() < 0.9)
    if kind in "nd":
        lon, lat = places.some()
        return replace(o, lon=lon, lat=lat)
    if kind == "w":
        return replace(o, refs=ids, places=[places.some() for _ in ids] if rng.random() < 0.3 else None)
    return replace(o, members=[(rng.randint(0, 2), i, rng.choice(["", "outer", "inner", "yes"])) for i in ids])


def _id(rng: random.Random) -> int:
    return rng.choice([rng.randint(1, 50), rng.randint(-50, 1 << 40), -rng.randint(1, 1 << 60)])


class Plain:
    """As known programs write."""

    def odd(self) -> bool:
        """Whether to be odd here."""
        return False

    def number(self, value: int) -> bytes:
        """A varint of 64 bits."""
        value &= (1 << 64) - 1
        data = bytearray()
        while value >= 128:
            data.append(value & 127 | 128)
            value >>= 7
        return bytes([*data, value])

    def short(self, value: int) -> bytes:
        """A varint of 32 bits: a tag or a length."""
        return self.number(value)

    def scalar(self, number: int, value: int) -> list[Part]:
        """A number."""
        return [(number, self.short(number << 3) + self.number(value))]

    def blob(self, number: int, content: bytes) -> list[Part]:
        """Bytes, text or a message."""
        return [(number, self.short(number << 3 | 2) + self.short(len(content)) + content)]

    def list(self, number: int, values: Sequence[int]) -> list[Part]:
        """A list of numbers."""
        return self.blob(number, b"".join(map(self.number, values))) if values else []

    def message(self, parts: Iterable[Part]) -> bytes:
        """Fields as a message."""
        return b"".join(data for _, data in parts)

    def split(self, number: int, parts: Sequence[Part]) -> list[Part]:
        """A message that is there once."""
        return self.blob(number, self.message(parts))

    def strings(self, texts: list[str]) -> tuple[list[str], dict[str, list[int]]]:
        """A string table, and where each text stands in it."""
        table = ["", *dict.fromkeys(t for t in texts if t)]
        return table, {t: [i] for i, t in enumerate(table)}

    def choose(self, index: list[int]) -> int:
        """Which of the places of a text."""
        return index[0]

    def packed(self, content: bytes) -> list[Part]:
        """The data of a Blob."""
        return [*self.scalar(2, len(content)), *self.blob(3, zlib.compress(content))]


class Odd(Plain):
    """As the format allows; ``rate`` is how often something is odd."""

    def __init__(self, rng: random.Random, rate: float) -> None:
        self.rng, self.rate = rng, rate

    def odd(self) -> bool:
        return self.rng.random() < self.rate

    def number(self, value: int) -> bytes:
        return self._longer(super().number(value), 10)

    def short(self, value: int) -> bytes:
        return self._longer(super().number(value), 5)

    def _longer(self, data: bytes, most: int) -> bytes:
        if len(data) == most or not self.odd():
            return data
        return data[:-1] + bytes([data[-1] | 128]) + b"\x80" * self.rng.randint(0, most - len(data) - 1) + b"\0"

    def scalar(self, number: int, value: int) -> list[Part]:
        """The last one counts."""
        before = super().scalar(number, self.rng.randint(0, 1 << 31)) if self.odd() else []
        return [*before, *super().scalar(number, value)]

    def list(self, number: int, values: Sequence[int]) -> list[Part]:
        if not self.odd():
            return super().list(number, values)
        parts: list[Part] = []
        rest = list(values)
        while rest or self.odd():
            take = self.rng.randint(0, len(rest))
            run, rest = rest[:take], rest[take:]
            if self.rng.random() < 0.5:
                parts += self.blob(number, b"".join(map(self.number, run)))
            else:
                parts += [p for value in run for p in super(Odd, self).scalar(number, value)]
        return parts

    def message(self, parts: Iterable[Part]) -> bytes:
        """In any order, but equal fields keep theirs; with fields that no reader knows."""
        parts = list(parts)
        if self.odd():
            order = [number for number, _ in parts]
            self.rng.shuffle(order)
            queues = {n: iter([data for number, data in parts if number == n]) for n in order}
            parts = [(n, next(queues[n])) for n in order]
        while self.odd():
            number = self.rng.choice([60, 67, 536_870_911])
            wire = self.rng.choice([0, 1, 2, 5])
            size = {0: 0, 1: 8, 2: self.rng.randint(0, 9), 5: 4}[wire]
            content = bytes(self.rng.choice([0, 8, 0x2A, 127, 128, 255]) for _ in range(size))
            head = self.short(number << 3 | wire)
            head += self.number(self.rng.getrandbits(64)) if wire == 0 else self.short(size) if wire == 2 else b""
            parts.insert(self.rng.randint(0, len(parts)), (number, head + content))
        return super().message(parts)

    def split(self, number: int, parts: Sequence[Part]) -> list[Part]:
        """In several parts, which are merged."""
        if not self.odd():
            return super().split(number, parts)
        at = self.rng.randint(0, len(parts))
        return [*self.blob(number, self.message(parts[:at])), *self.blob(number, self.message(parts[at:]))]

    def strings(self, texts: list[str]) -> tuple[list[str], dict[str, list[int]]]:
        table, _ = super().strings(texts)
        while self.odd():
            table.append(self.rng.choice([*table, "unused"]))
        if self.odd():
            table[0] = self.rng.choice(["", "unused"])
        if "" not in table:
            table.append("")
        places: dict[str, list[int]] = {}
        for i, text in enumerate(table):
            places.setdefault(text, []).append(i)
        return table, places

    def choose(self, index: list[int]) -> int:
        return self.rng.choice(index)

    def packed(self, content: bytes) -> list[Part]:
        way = self.rng.choice(["zlib", "raw", "lz4", "no size"])
        if way == "raw":
            return self.blob(1, content)
        if way == "lz4":
            return [*self.scalar(2, len(content)), *self.blob(6, pa.Codec("lz4_raw").compress(content, asbytes=True))]
        size = self.scalar(2, len(content)) if way == "zlib" else []
        return [*size, *self.blob(3, zlib.compress(content))]


def write(file: File, form: Plain) -> bytes:
    """The bytes of a file."""
    blocks = [framed(form, "OSMData", written(block, form)) for block in file.blocks]
    return framed(form, "OSMHeader", header(file, form)) + b"".join(blocks)


def header(file: File, form: Plain, required: Sequence[str] = ("OsmSchema-V0.6", "DenseNodes")) -> bytes:
    """A HeaderBlock."""
    located = any(w.places is not None for b in file.blocks for g in b.groups for w in g.ways)
    parts = [p for name in required for p in form.blob(4, name.encode())]
    parts += form.blob(5, b"LocationsOnWays") if located else []
    if file.box is not None:
        parts += form.split(1, [p for n, v in enumerate(file.box, 1) for p in form.scalar(n, zigzag(v))])
    return form.message(parts + (form.scalar(32, file.stamp) if file.stamp is not None else []))


def framed(form: Plain, kind: str, content: bytes) -> bytes:
    """A blob with its header."""
    blob = form.message(form.packed(content))
    header = form.message([*form.blob(1, kind.encode()), *form.scalar(3, len(blob))])
    return len(header).to_bytes(4, "big") + header + blob


def zigzag(value: int) -> int:
    """A signed number as an unsigned one."""
    return (value << 1) ^ (value >> 63)


def deltas(values: Sequence[int]) -> list[int]:
    """Differences to the one before, zigzag."""
    return [zigzag(b - a) for a, b in zip([0, *values], values)]  # noqa: B905  # the last has none behind it


def written(block: Block, form: Plain) -> bytes:
    """A PrimitiveBlock."""
    objects = [o for g in block.groups for o in (*g.nodes, *chain(*g.dense), *g.ways, *g.relations)]
    texts = [t for o in objects for tag in o.tags for t in tag] + [role for o in objects for _, _, role in o.members]
    table, places = form.strings(texts)
    parts = form.split(1, [p for s in table for p in form.blob(1, s.encode())])
    parts += [p for g in block.groups for p in form.blob(2, form.message(_group_parts(g, form, places)))]
    scale = (17, block.granularity, 100), (18, block.dates, 1000), (19, block.lat_offset, 0), (20, block.lon_offset, 0)
    for number, value, default in scale:
        if value != default or form.odd():
            parts += form.scalar(number, value)
    return form.message(parts)


def _group_parts(group: Group, form: Plain, places: dict[str, list[int]]) -> list[Part]:
    parts = [p for n in group.nodes for p in form.blob(1, form.message(_node(n, form, places)))]
    for dense in group.dense:
        parts += form.blob(2, form.message(_dense(dense, group.informed, form, places)))
    parts += [p for w in group.ways for p in form.blob(3, form.message(_way(w, form, places)))]
    parts += [p for r in group.relations for p in form.blob(4, form.message(_relation(r, form, places)))]
    if form.odd():
        parts += form.blob(5, form.message(form.scalar(1, 77)))  # a changeset
    return parts


def _tags(o: Object, form: Plain, places: dict[str, list[int]]) -> list[list[int]]:
    return [[form.choose(places[t]) for t in tag] for tag in o.tags]


def _common(o: Object, form: Plain, places: dict[str, list[int]], identity: int) -> list[Part]:
    tags = _tags(o, form, places)
    info = [*form.scalar(1, o.version), *form.scalar(2, o.stamp)]
    info += form.scalar(6, int(o.visible)) if not o.visible or form.odd() else []
    return [*form.scalar(1, identity), *form.list(2, [k for k, _ in tags]), *form.list(3, [v for _, v in tags]),
            *form.split(4, info)]  # fmt: skip


def _node(o: Object, form: Plain, places: dict[str, list[int]]) -> list[Part]:
    return [*_common(o, form, places, zigzag(o.id)), *form.scalar(8, zigzag(o.lat)), *form.scalar(9, zigzag(o.lon))]


def _way(o: Object, form: Plain, places: dict[str, list[int]]) -> list[Part]:
    parts = [*_common(o, form, places, o.id), *form.list(8, deltas(o.refs))]
    if o.places is not None:
        parts += form.list(9, deltas([lat for _, lat in o.places])) + form.list(
            10, deltas([lon for lon, _ in o.places])
        )
    return parts


def _relation(o: Object, form: Plain, places: dict[str, list[int]]) -> list[Part]:
    return [
        *_common(o, form, places, o.id),
        *form.list(8, [form.choose(places[role]) for _, _, role in o.members]),
        *form.list(9, deltas([i for _, i, _ in o.members])),
        *form.list(10, [kind for kind, _, _ in o.members]),
    ]


def _dense(nodes: list[Object], informed: bool, form: Plain, places: dict[str, list[int]]) -> list[Part]:
    # A value may have the index 0, a key may not.
    keys = {text: [i for i in index if i] for text, index in places.items()}
    tags = [[x for k, v in n.tags for x in (form.choose(keys[k]), form.choose(places[v]))] for n in nodes]
    parts = form.list(1, deltas([n.id for n in nodes]))
    if informed:
        info = form.list(1, [n.version for n in nodes]) + form.list(2, deltas([n.stamp for n in nodes]))
        for number in (3, 4, 5):  # changeset, user and name; libosmium wants them
            info += form.list(number, [0] * len(nodes)) if not form.odd() else []
        if not all(n.visible for n in nodes) or form.odd():
            info += form.list(6, [int(n.visible) for n in nodes])
        parts += form.split(5, info)
    parts += form.list(8, deltas([n.lat for n in nodes])) + form.list(9, deltas([n.lon for n in nodes]))
    return parts + (form.list(10, [x for own in tags for x in (*own, 0)]) if any(tags) or form.odd() else [])
