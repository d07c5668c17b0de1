"""OSM PBF blocks as numpy arrays: bytes in, arrays out (https://wiki.openstreetmap.org/wiki/PBF_Format).

All objects of a block are decoded at once, in the plain form in which known programs write them. A block in any other
legal encoding (fields in any order, unknown or split ones, lists that are not packed, numbers longer than need be) is
read by the protobuf library instead, which is slower and has the last word on what is damaged. Raw, zlib and lz4 blobs
are read. A size is believed only up to what the format allows.
"""

from __future__ import annotations

import os
import re
import zlib
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain, pairwise
from pathlib import Path
from typing import Any, BinaryIO, Protocol, TypeVar

import numpy as np
import pyarrow as pa
from google.protobuf.unknown_fields import UnknownFieldSet
from numpy.typing import NDArray

from pipeline.formats.messages import declare, parse
from pipeline.formats.wire import Ints, Stream, signed, undelta, varints
from schemas.errors import InputError
from schemas.features import ObjectType

T = TypeVar("T")

#: Largest blob, packed and unpacked, and blob header that the format allows, in bytes.
_MAX_BLOB, _MAX_HEADER = 32 << 20, 64 << 10
#: Coordinates are kept in OSM's own unit, 1e-7 degree.
UNITS = 10_000_000
#: Coordinate of what has no place, or one that 64 bits do not hold; beyond every valid one.
NOWHERE = (1 << 31) - 1
_NANO = 100  # nanodegrees a unit
#: Last second of a date: libosmium's and OSM's dates have 32 bits.
_LAST_SECOND = (1 << 32) - 1
#: Messages, and bytes of them about, that are decoded at once: their arrays take up to 40 times as much.
_MESSAGES, _RUN = 1 << 15, 2 << 20
#: What files may require of their reader.
_FEATURES = frozenset({"OsmSchema-V0.6", "DenseNodes", "HistoricalInformation", "LocationsOnWays"})
#: Compressions that are not read, and what to do.
_ANEW = "write it anew with zlib, from what it was made of: osmium cat SOURCE -o NEW.osm.pbf"
_REFUSED = {
    "lzma_data": f"lzma, which no common tool reads; {_ANEW}",
    "bzip2_data": f"bzip2, which the format gave up in 2010; {_ANEW}",
    "zstd_data": "zstd, which osmium does not read either; convert it: pbfhogg cat --compression zlib -o NEW.osm.pbf",
}
#: fileformat.proto and osmformat.proto, as far as they are read.
_PROTO = """
message BlobHeader { optional string type = 1; optional int32 datasize = 3; }
message Blob {
    optional bytes raw = 1;
    optional int32 raw_size = 2;
    optional bytes zlib_data = 3;
    optional bytes lzma_data = 4;
    optional bytes bzip2_data = 5;
    optional bytes lz4_data = 6;
    optional bytes zstd_data = 7;
}
message HeaderBBox {
    optional sint64 left = 1;
    optional sint64 right = 2;
    optional sint64 top = 3;
    optional sint64 bottom = 4;
}
message HeaderBlock {
    optional HeaderBBox bbox = 1;
    repeated bytes required_features = 4;
    repeated bytes optional_features = 5;
    optional int64 osmosis_replication_timestamp = 32;
}
message StringTable { repeated bytes s = 1; }
message PrimitiveGroup {
    repeated bytes nodes = 1;
    repeated bytes dense = 2;
    repeated bytes ways = 3;
    repeated bytes relations = 4;
}
message PrimitiveBlock {
    repeated bytes stringtable = 1;
    repeated bytes primitivegroup = 2;
    optional int32 granularity = 17 [default = 100];
    optional int32 date_granularity = 18 [default = 1000];
    optional int64 lat_offset = 19;
    optional int64 lon_offset = 20;
}
message Info { optional int32 version = 1; optional int64 timestamp = 2; optional bool visible = 6 [default = true]; }
message Node {
    optional sint64 id = 1;
    repeated uint32 keys = 2;
    repeated uint32 vals = 3;
    optional Info info = 4;
    optional sint64 lat = 8;
    optional sint64 lon = 9;
}
message Way {
    optional int64 id = 1;
    repeated uint32 keys = 2;
    repeated uint32 vals = 3;
    optional Info info = 4;
    repeated sint64 refs = 8;
    repeated sint64 lat = 9;
    repeated sint64 lon = 10;
}
message Relation {
    optional int64 id = 1;
    repeated uint32 keys = 2;
    repeated uint32 vals = 3;
    optional Info info = 4;
    repeated int32 roles_sid = 8;
    repeated sint64 memids = 9;
    repeated int32 types = 10;
}
message DenseInfo {
    repeated int32 version = 1;
    repeated sint64 timestamp = 2;
    repeated sint64 changeset = 3;
    repeated sint32 uid = 4;
    repeated sint32 user_sid = 5;
    repeated bool visible = 6;
}
message DenseNodes {
    repeated sint64 id = 1;
    repeated bytes denseinfo = 5;
    repeated sint64 lat = 8;
    repeated sint64 lon = 9;
    repeated int32 keys_vals = 10;
}
"""
_PBF = declare(_PROTO)
#: The same with each list as bytes, which a packed one is on the wire: to be decoded as an array.
_PACKED = declare(re.sub(r"repeated (s?int32|sint64|bool) ", "repeated bytes ", _PROTO))
#: Of each message that becomes arrays: its fields and whether they are written zigzag, by number.
_FIELDS = {
    kind: {f.number: (f.name, f.type == f.TYPE_SINT64) for f in kind.DESCRIPTOR.fields}
    for kind in (_PBF.Node, _PBF.Way, _PBF.Relation, _PBF.DenseNodes, _PBF.DenseInfo)
}


@dataclass(frozen=True, slots=True)
class Blob:
    """Where one blob lies in its file."""

    offset: int  # of the Blob message
    size: int  # bytes


@dataclass(frozen=True)
class Header:
    """What a file says of itself."""

    box: tuple[float, float, float, float] | None  # west, south, east, north in degrees
    snapshot: int | None  # seconds since 1970, of 32 bits: osmosis_replication_timestamp
    features: frozenset[str]  # required and optional


@dataclass(frozen=True, eq=False)
class Tags:
    """Tags of N objects of one block as indices into its strings; no object has a key twice."""

    offsets: Ints  # [N+1]
    keys: Ints  # [T]
    values: Ints  # [T]


@dataclass(frozen=True, eq=False)
class Objects:
    """What nodes, ways and relations have in common."""

    ids: Ints  # [N]
    tags: Tags
    versions: NDArray[np.int32]  # [N] 0 where unknown
    timestamps: Ints  # [N] seconds since 1970, of 32 bits, 0 where unknown
    visible: NDArray[np.bool_]  # [N] False of a version that deletes its object


@dataclass(frozen=True, eq=False)
class Nodes:
    """Nodes of one block."""

    objects: Objects
    lon: Ints  # [N] units of 1e-7 degree
    lat: Ints


@dataclass(frozen=True, eq=False)
class Ways:
    """Ways of one block."""

    objects: Objects
    offsets: Ints  # [N+1] into refs
    refs: Ints  # [R] node ids
    lon: Ints  # [R] units of 1e-7 degree where a way carries the places of its nodes, else NOWHERE; or [0] if none does
    lat: Ints


@dataclass(frozen=True, eq=False)
class Relations:
    """Relations of one block."""

    objects: Objects
    offsets: Ints  # [N+1] into the members
    members: Ints  # [M] ids
    types: NDArray[np.uint8]  # [M] ObjectType
    roles: Ints  # [M] indices into the strings


@dataclass(frozen=True, eq=False)
class Block:
    """One primitive block; a kind that it lacks, or that was not wanted, has no objects."""

    holds: frozenset[ObjectType]  # kinds in the block, wanted or not
    strings: list[str]  # each text once
    nodes: Nodes
    ways: Ways
    relations: Relations


def walk(file: BinaryIO, where: str) -> Iterator[tuple[str, Blob]]:
    """Kind and place of each blob, by the blobs' headers alone; between two of them ``file`` may be read elsewhere.

    Raises:
        InputError: the file is no PBF, or is truncated; ``where`` begins the message.
    """
    offset, size = 0, os.fstat(file.fileno()).st_size
    while offset < size:
        file.seek(offset)
        length = int.from_bytes(file.read(4), "big")
        try:
            header = parse(_PBF.BlobHeader, file.read(length) if 0 < length <= _MAX_HEADER else b"")
        except ValueError:
            header = _PBF.BlobHeader()
        if not 0 < header.datasize <= _MAX_BLOB:
            raise InputError(f"{where} is no OSM PBF file, or is damaged at byte {offset}; download it again")
        blob = Blob(file.tell(), header.datasize)
        offset = blob.offset + blob.size
        if offset > size:
            raise InputError(f"{where} is truncated: its blob at byte {blob.offset} ends beyond it; download it again")
        yield header.type, blob


def blobs(path: Path) -> tuple[Header, list[Blob]]:
    """The header and where every data blob lies; reads blob headers only.

    Raises:
        InputError: the file is no PBF, is truncated, or requires what is not read here.
    """
    found: list[Blob] = []
    header: Header | None = None
    with path.open("rb") as file:
        for kind, blob in walk(file, f"OSM extract {path}"):
            if kind == "OSMHeader":
                header = _read(file, blob, path, lambda data: _header(data, path))
            elif kind == "OSMData":
                found.append(blob)
    if header is None:
        raise InputError(f"OSM extract {path} has no OSMHeader; it is no PBF file")
    return header, found


def read_block(file: BinaryIO, blob: Blob, path: Path, wanted: Collection[ObjectType] = tuple(ObjectType)) -> Block:
    """Decode the wanted kinds of one blob.

    Raises:
        InputError: it is damaged, or compressed as is not read here.
    """
    return _read(file, blob, path, lambda data: decode_block(data, wanted))


def _read(file: BinaryIO, blob: Blob, path: Path, decode: Callable[[bytes], T]) -> T:
    file.seek(blob.offset)
    try:
        return decode(unpack(file.read(blob.size), path))
    except (ValueError, zlib.error) as error:
        raise InputError(
            f"OSM extract {path} is damaged in the blob at byte {blob.offset} ({error}); download it again"
        ) from None


def unpack(blob: bytes, path: Path) -> bytes:
    """Content of a Blob message.

    Raises:
        InputError: its compression is not read here.
        ValueError: it is damaged, or larger than the format allows.
        zlib.error: it is damaged.
    """
    found = parse(_PBF.Blob, blob)
    size = found.raw_size if found.HasField("raw_size") else _MAX_BLOB
    if not 0 <= size <= _MAX_BLOB:
        raise ValueError(f"it is to unpack to {size} bytes, of {_MAX_BLOB} that the format allows")
    if found.HasField("raw"):
        return bytes(found.raw)
    if found.HasField("zlib_data"):
        stream = zlib.decompressobj()
        data = stream.decompress(found.zlib_data, size + 1)
        if len(data) > size or (found.HasField("raw_size") and len(data) < size):
            raise ValueError(f"it does not unpack to the {size} bytes that it says or the format allows")
        if not stream.eof:
            raise ValueError("its zlib data are cut")
        return data
    if found.HasField("lz4_data"):
        if not found.HasField("raw_size"):
            raise ValueError("it is lz4 without its size")
        try:
            return bytes(pa.Codec("lz4_raw").decompress(found.lz4_data, size, asbytes=True))
        except OSError:
            raise ValueError("its lz4 data are damaged") from None
    for name, way_out in _REFUSED.items():
        if found.HasField(name):
            raise InputError(f"OSM extract {path} is compressed by {way_out}")
    raise ValueError("it holds no data that are known here")


def read_header(path: Path) -> Header | None:
    """The header, if there is one before the first data blob, which is unpacked to see whether it can be.

    Raises:
        InputError: the file is no PBF, is truncated, or requires or is compressed as what is not read here.
    """
    header = None
    with path.open("rb") as file:
        for kind, blob in walk(file, f"OSM extract {path}"):
            if kind == "OSMHeader":
                header = _read(file, blob, path, lambda data: _header(data, path))
            elif kind == "OSMData":
                _read(file, blob, path, len)
                break
    return header


def _header(data: bytes, path: Path) -> Header:
    found = parse(_PBF.HeaderBlock, data)
    required, optional = (
        {f.decode(errors="replace") for f in features}
        for features in (found.required_features, found.optional_features)
    )
    if unknown := sorted(required - _FEATURES):
        told = ", ".join(ascii(name)[1:-1] for name in unknown)[:200]
        raise InputError(
            f"OSM extract {path} requires of its reader what is not known here: {told}; "
            "get it without, or convert it with a program that knows it"
        )
    stamp = found.osmosis_replication_timestamp
    return Header(_box(found.bbox), stamp if 0 < stamp <= _LAST_SECOND else None, frozenset(required | optional))


def _box(found: Any) -> tuple[float, float, float, float] | None:
    """The header's box; None if it has none, or one that is none."""
    west, south, east, north = (round(v / _NANO) / UNITS for v in (found.left, found.bottom, found.right, found.top))
    sound = -180 <= west < east <= 180 and -90 <= south < north <= 90
    return (west, south, east, north) if sound else None


def decode_block(data: bytes, wanted: Collection[ObjectType] = tuple(ObjectType)) -> Block:
    """Arrays of one PrimitiveBlock, of the wanted kinds; without any of them, its strings stay unread.

    Of a key that an object has twice, the first value counts, as libosmium looks it up.

    Raises:
        ValueError: it is damaged.
    """
    block = parse(_PBF.PrimitiveBlock, data)
    # Messages one after the other are one that has the lists of all, whatever kinds each group mixes.
    group = parse(_PBF.PrimitiveGroup, b"".join(block.primitivegroup))
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
    frame, strings = _Frame.of(block, b"".join(block.stringtable) if chosen else b"")
    if ObjectType.NODE in chosen:
        nodes = _decode(_PBF.Node, partial(_plain_nodes, frame), group.nodes)
        nodes += [_dense(frame, dense) for dense in group.dense]
    if ObjectType.WAY in chosen:
        ways = _decode(_PBF.Way, partial(_ways, frame), group.ways)
    if ObjectType.RELATION in chosen:
        relations = _decode(_PBF.Relation, partial(_relations, frame), group.relations)
    return Block(holds, strings, _join(Nodes, nodes), _join(Ways, ways), _join(Relations, relations))


class _Fields(Protocol):
    """Fields of M messages of one kind, by their numbers in it."""

    def number(self, field: int) -> Ints:
        """[M] of a field that each has."""

    def numbers(self, field: int) -> tuple[Ints, Ints]:
        """Lists one after the other, and where each begins, i64[M+1]."""

    def infos(self) -> tuple[Ints, Ints, Ints]:
        """[M] versions, timestamps as they are written, and whether it is visible, of Info."""


def _decode(kind: Any, build: Callable[[_Fields], T], messages: Sequence[bytes]) -> list[T]:
    """Messages of one kind as arrays, some megabytes at a time."""
    built = []
    for start in range(0, len(messages), _MESSAGES):
        few = messages[start : start + _MESSAGES]
        sizes = np.fromiter(map(len, few), np.int64, len(few))
        ends = np.cumsum(sizes)
        for begin, end in pairwise((0, *(np.flatnonzero(np.diff(ends // _RUN)) + 1).tolist(), len(few))):
            run, begins = few[begin:end], ends[begin:end] - sizes[begin:end]
            try:
                built.append(build(_Plain.of(kind, run, begins - begins[0], ends[begin:end] - begins[0])))
            except ValueError:
                built.append(build(_Exact(kind, [parse(kind, m) for m in run])))
    return built


@dataclass(frozen=True)
class _Plain:
    """Fields that all messages have in their plain form."""

    kind: Any
    stream: Stream
    found: dict[int, tuple[Ints, Ints]]

    @classmethod
    def of(cls, kind: Any, messages: Sequence[bytes], begin: Ints, end: Ints) -> _Plain:
        stream = Stream.of(b"".join(messages))
        return cls(kind, stream, stream.scan(begin, end, _FIELDS[kind]))

    def _value(self, field: int, values: Ints) -> Ints:
        _, zigzag = _FIELDS[self.kind][field]
        return signed(values.view(np.uint64)) if zigzag else values

    def number(self, field: int) -> Ints:
        value, mark = self.found[field]
        if (mark != -1).any():
            raise ValueError("a message lacks a number")
        return self._value(field, value)

    def numbers(self, field: int) -> tuple[Ints, Ints]:
        values, offsets = self.stream.numbers(*self.found[field])
        return self._value(field, values), offsets

    def infos(self) -> tuple[Ints, Ints, Ints]:
        """All fields of a plain Info are varints: tags and values alternate."""
        flat, offsets = self.stream.numbers(*self.found[4])
        tags, values = flat[0::2], flat[1::2]
        if (np.diff(offsets) % 2).any() or (tags & 7).any():
            raise ValueError("an Info holds more than varints")
        count = len(offsets) - 1
        owner = np.repeat(np.arange(count), np.diff(offsets) // 2)
        found = np.zeros(count, np.int64), np.zeros(count, np.int64), np.ones(count, np.int64)
        for field, target in zip((1, 2, 6), found, strict=True):
            at = np.flatnonzero(tags == field << 3)
            target[owner[at]] = values[at]
        return found


@dataclass(frozen=True)
class _Exact:
    """Fields of messages in any legal encoding."""

    kind: Any
    messages: list[Any]

    def number(self, field: int) -> Ints:
        name, _ = _FIELDS[self.kind][field]
        if not all(m.HasField(name) for m in self.messages):
            raise ValueError(f"a {self.kind.DESCRIPTOR.name.lower()} has no {name}")
        return self._array(getattr(m, name) for m in self.messages)

    def numbers(self, field: int) -> tuple[Ints, Ints]:
        name, _ = _FIELDS[self.kind][field]
        lists = [getattr(m, name) for m in self.messages]
        offsets = np.concatenate(([0], np.cumsum([len(values) for values in lists])))
        return self._array(chain.from_iterable(lists)), offsets.astype(np.int64)

    def infos(self) -> tuple[Ints, Ints, Ints]:
        infos = [m.info for m in self.messages]
        names = "version", "timestamp", "visible"
        versions, stamps, visible = (self._array(getattr(i, name) for i in infos) for name in names)
        return versions, stamps, visible

    @staticmethod
    def _array(values: Iterator[int]) -> Ints:
        return np.fromiter(values, np.int64)


@dataclass(frozen=True)
class _Frame:
    """How a block writes coordinates, dates and texts."""

    granularity: int  # nanodegrees
    lon_offset: int  # nanodegrees
    lat_offset: int
    dates: int  # milliseconds a unit of its dates
    size: int  # of the string table
    text: Ints | None  # [size] which text each string is, if some are the same

    @classmethod
    def of(cls, block: Any, table: bytes) -> tuple[_Frame, list[str]]:
        """And the texts of a string table, each once."""
        strings = [s.decode("utf-8", "replace") for s in parse(_PBF.StringTable, table).s]
        size, text = len(strings), None
        seen = dict.fromkeys(strings)
        if len(seen) < size:
            place = {s: i for i, s in enumerate(seen)}
            text = np.fromiter(map(place.__getitem__, strings), np.int64, size)
            strings = list(seen)
        return cls(block.granularity, block.lon_offset, block.lat_offset, block.date_granularity, size, text), strings

    def texts(self, index: Ints) -> Ints:
        """Indices into the string table as ones into the texts."""
        if len(index) and not 0 <= index.min() <= index.max() < self.size:
            raise ValueError("a text is not in the string table")
        return index if self.text is None else self.text[index]

    def tags(self, offsets: Ints, keys: Ints, values: Ints) -> Tags:
        """The first value counts of a key that an object has twice."""
        keys, values = self.texts(keys), self.texts(values)
        pairs = np.repeat(np.arange(len(offsets) - 1) * self.size, np.diff(offsets)) + keys
        rising = np.sort(pairs)
        if (rising[1:] == rising[:-1]).any():
            rows = np.sort(np.unique(pairs, return_index=True)[1])
            offsets, keys, values = np.searchsorted(rows, offsets), keys[rows], values[rows]
        return Tags(offsets, keys, values)

    def lon(self, written: Ints) -> Ints:
        """In units."""
        return self._units(written, self.lon_offset)

    def lat(self, written: Ints) -> Ints:
        """In units."""
        return self._units(written, self.lat_offset)

    def _units(self, written: Ints, offset: int) -> Ints:
        """Cut towards zero, as libosmium does; NOWHERE is what takes more than some 61 bits."""
        if not len(written) or (self.granularity == _NANO and not offset):
            return written
        if max(abs(offset + self.granularity * int(end)) for end in (written.min(), written.max())) >> 62:
            near = np.abs(offset + float(self.granularity) * written) < 1 << 61
            units = np.full(len(written), NOWHERE)
            units[near] = self._units(written[near], offset)
            return units
        nano = offset + self.granularity * written
        return np.sign(nano) * (np.abs(nano) // _NANO)

    def seconds(self, written: Ints) -> Ints:
        """Since 1970; 0 for what 32 bits do not hold."""
        if self.dates != 1000:
            most = _LAST_SECOND * 1000 // max(1, abs(self.dates))
            written = np.where((written >= -most) & (written <= most), written, 0) * self.dates // 1000
        if len(written) and not 0 <= written.min() <= written.max() <= _LAST_SECOND:
            return np.where((written > 0) & (written <= _LAST_SECOND), written, 0)
        return written

    def objects(self, ids: Ints, tags: Tags, versions: Ints, stamps: Ints, visible: Ints) -> Objects:
        known = np.maximum(versions.astype(np.int32), np.int32(0))  # some programs write -1 for an unknown one
        return Objects(ids, tags, known, self.seconds(stamps), visible != 0)


def _common(frame: _Frame, fields: _Fields) -> Objects:
    """What plain nodes, ways and relations have in the same fields."""
    keys, offsets = fields.numbers(2)
    values, value_offsets = fields.numbers(3)
    if not np.array_equal(offsets, value_offsets):
        raise ValueError("an object has more keys than values, or fewer")
    return frame.objects(fields.number(1), frame.tags(offsets, keys, values), *fields.infos())


def _plain_nodes(frame: _Frame, fields: _Fields) -> Nodes:
    return Nodes(_common(frame, fields), frame.lon(fields.number(9)), frame.lat(fields.number(8)))


def _ways(frame: _Frame, fields: _Fields) -> Ways:
    refs, offsets = fields.numbers(8)
    (lat, lat_offsets), (lon, lon_offsets) = fields.numbers(9), fields.numbers(10)
    if len(lat) or len(lon):
        size, located = np.diff(offsets), np.diff(lat_offsets)
        carries = located > 0
        if not np.array_equal(lat_offsets, lon_offsets) or (carries & (located != size)).any():
            raise ValueError("a way has more nodes than places, or fewer")
        own = np.repeat(carries, size)
        places = np.full((2, len(refs)), NOWHERE)
        places[0, own], places[1, own] = frame.lon(undelta(lon, lon_offsets)), frame.lat(undelta(lat, lat_offsets))
        lon, lat = places
    return Ways(_common(frame, fields), offsets, undelta(refs, offsets), lon, lat)


def _relations(frame: _Frame, fields: _Fields) -> Relations:
    roles, role_offsets = fields.numbers(8)
    members, offsets = fields.numbers(9)
    types, type_offsets = fields.numbers(10)
    if not (np.array_equal(offsets, role_offsets) and np.array_equal(offsets, type_offsets)):
        raise ValueError("a relation has more members than roles or types, or fewer")
    if len(types) and not 0 <= types.min() <= types.max() <= max(ObjectType):
        raise ValueError("a member is of no known type")
    objects = _common(frame, fields)
    return Relations(objects, offsets, undelta(members, offsets), types.astype(np.uint8), frame.texts(roles))


def _lists(kind: Any, data: bytes, found: Any) -> Callable[[int], Ints]:
    """The lists of one message, by number; ``found`` has them as bytes."""
    if len(UnknownFieldSet(found)):  # a list that is not packed is one of them
        exact = parse(kind, data)
        return lambda field: np.fromiter(getattr(exact, _FIELDS[kind][field][0]), np.int64)

    def decoded(field: int) -> Ints:
        name, zigzag = _FIELDS[kind][field]
        values = varints(b"".join(getattr(found, name)))
        return signed(values) if zigzag else values.view(np.int64)

    return decoded


def _dense(frame: _Frame, data: bytes) -> Nodes:
    found = parse(_PACKED.DenseNodes, data)
    lists = _lists(_PBF.DenseNodes, data, found)
    ids, lat, lon = (np.cumsum(lists(field)) for field in (1, 8, 9))
    count = len(ids)
    if not count == len(lat) == len(lon):
        raise ValueError("dense nodes have more ids than coordinates, or fewer")
    infos = b"".join(found.denseinfo)
    info = _lists(_PBF.DenseInfo, infos, parse(_PACKED.DenseInfo, infos))

    def of_each(field: int, unknown: int) -> Ints:
        values = info(field)
        if len(values) != count and len(values):
            raise ValueError(f"{count} dense nodes have {len(values)} versions, dates or marks of deletion")
        return values if len(values) else np.full(count, unknown)

    versions, stamps, visible = of_each(1, 0), np.cumsum(of_each(2, 0)), of_each(6, 1)
    tags = frame.tags(*_dense_tags(lists(10), count))
    return Nodes(frame.objects(ids, tags, versions, stamps, visible), frame.lon(lon), frame.lat(lat))


def _dense_tags(flat: Ints, count: int) -> tuple[Ints, Ints, Ints]:
    """Offsets [N+1], keys and values of keys_vals: key, value, key, value … 0 for each node."""
    if not len(flat):
        return np.zeros(count + 1, np.int64), flat, flat
    # A zero ends a node. A key is never 0; a value that is (an empty text) stands at an odd place within its node.
    zero = np.flatnonzero(flat == 0)
    starts = np.concatenate(([0], zero + 1))
    if len(zero) != count or starts[-1] != len(flat) or ((zero - starts[:-1]) & 1).any():
        zero = _node_ends(flat, count)
        starts = np.concatenate(([0], zero + 1))
    keep = np.ones(len(flat), bool)
    keep[zero] = False
    rest = flat[keep]
    return np.concatenate(([0], np.cumsum((zero - starts[:-1]) // 2))), rest[0::2], rest[1::2]


def _node_ends(flat: Ints, count: int) -> Ints:
    """Ends of nodes where some value is an empty text."""
    ends, position, numbers = [], 0, flat.tolist()
    while position < len(numbers):
        if numbers[position] == 0:
            ends.append(position)
            position += 1
        else:
            position += 2
    if len(ends) != count or ends[-1:] != [len(numbers) - 1]:
        raise ValueError("dense nodes have more or fewer tag lists than ids")
    return np.array(ends, np.int64)


def _join(kind: type[Any], parts: list[Any]) -> Any:
    """Several runs of one kind as one; none as an empty one."""
    if len(parts) == 1:
        return parts[0]
    none = np.zeros(0, np.int64)

    def offsets(pieces: list[Ints]) -> Ints:
        return np.concatenate([np.zeros(1, np.int64), *(np.diff(p) for p in pieces)]).cumsum()

    def flat(pieces: list[NDArray[Any]], like: NDArray[Any] = none) -> NDArray[Any]:
        return np.concatenate(pieces) if pieces else like

    def places(name: str) -> Ints:
        if not any(len(getattr(p, name)) for p in parts):
            return none
        return np.concatenate([x if len(x := getattr(p, name)) else np.full(len(p.refs), NOWHERE) for p in parts])

    own = [p.objects for p in parts]
    tags = Tags(
        offsets([o.tags.offsets for o in own]), flat([o.tags.keys for o in own]), flat([o.tags.values for o in own])
    )
    versions = flat([o.versions for o in own], np.zeros(0, np.int32))
    visible = flat([o.visible for o in own], np.zeros(0, np.bool_))
    objects = Objects(flat([o.ids for o in own]), tags, versions, flat([o.timestamps for o in own]), visible)
    if kind is Nodes:
        return Nodes(objects, flat([p.lon for p in parts]), flat([p.lat for p in parts]))
    if kind is Ways:
        refs = flat([p.refs for p in parts])
        return Ways(objects, offsets([p.offsets for p in parts]), refs, places("lon"), places("lat"))
    types = flat([p.types for p in parts], np.zeros(0, np.uint8))
    members, roles = flat([p.members for p in parts]), flat([p.roles for p in parts])
    return Relations(objects, offsets([p.offsets for p in parts]), members, types, roles)
