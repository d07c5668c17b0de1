"""OSM PBF blocks as numpy arrays: bytes in, arrays out (https://wiki.openstreetmap.org/wiki/PBF_Format).

Fields are decoded for a whole block at once; Python walks only over the lengths of messages. Only zlib and raw blobs
are read: other compressions are turned into zlib by `pipeline.osm.extracts.read.as_pbf` first.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import numpy as np
from numpy.typing import NDArray

from pipeline.formats.messages import declare, parse
from pipeline.formats.wire import Ints, Stream, signed, undelta, varint, varints
from schemas.errors import InputError
from schemas.features import ObjectType

T = TypeVar("T")

#: Largest blob and blob header that the format allows, in bytes.
_MAX_BLOB, _MAX_HEADER = 32 << 20, 64 << 10
#: Coordinates are kept in OSM's own unit, 1e-7 degree.
UNITS = 10_000_000
_NANO = 100  # nanodegrees a unit
#: First byte of a group: the tag of its first message.
_DENSE = 0x12
_GROUPS = {0x0A: ObjectType.NODE, _DENSE: ObjectType.NODE, 0x1A: ObjectType.WAY, 0x22: ObjectType.RELATION}
#: fileformat.proto and osmformat.proto. What becomes arrays, and what is not always read, is declared as bytes.
_PBF = declare("""
message BlobHeader { optional string type = 1; optional int32 datasize = 3; }
message Blob {
    optional bytes raw = 1;
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
message PrimitiveBlock {
    optional bytes stringtable = 1;
    repeated bytes primitivegroup = 2;
    optional int32 granularity = 17 [default = 100];
    optional int32 date_granularity = 18 [default = 1000];
    optional int64 lat_offset = 19;
    optional int64 lon_offset = 20;
}
message DenseInfo { optional bytes version = 1; optional bytes timestamp = 2; }
message DenseNodes {
    optional bytes id = 1;
    optional DenseInfo denseinfo = 5;
    optional bytes lat = 8;
    optional bytes lon = 9;
    optional bytes keys_vals = 10;
}
""")


@dataclass(frozen=True, slots=True)
class Blob:
    """Where one blob lies in its file."""

    offset: int  # of the Blob message
    size: int  # bytes


@dataclass(frozen=True)
class Header:
    """What a file says of itself."""

    box: tuple[float, float, float, float] | None  # west, south, east, north in degrees
    snapshot: int | None  # seconds since 1970: osmosis_replication_timestamp
    features: frozenset[str]  # required and optional


@dataclass(frozen=True, eq=False)
class Tags:
    """Tags of N objects of one block as indices into its string table."""

    offsets: Ints  # [N+1]
    keys: Ints  # [T]
    values: Ints  # [T]


@dataclass(frozen=True, eq=False)
class Objects:
    """What nodes, ways and relations have in common."""

    ids: Ints  # [N]
    tags: Tags
    versions: NDArray[np.int32]  # [N] 0 where unknown
    timestamps: Ints  # [N] seconds since 1970, 0 where unknown


@dataclass(frozen=True, eq=False)
class Nodes:
    """Nodes of one block."""

    objects: Objects
    lon: NDArray[np.int64]  # [N] units of 1e-7 degree
    lat: NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Ways:
    """Ways of one block."""

    objects: Objects
    offsets: Ints  # [N+1] into refs
    refs: Ints  # node ids


@dataclass(frozen=True, eq=False)
class Relations:
    """Relations of one block."""

    objects: Objects
    offsets: Ints  # [N+1] into the members
    members: Ints  # ids
    types: NDArray[np.uint8]  # ObjectType of each member
    roles: Ints  # string table indices


@dataclass(frozen=True, eq=False)
class Block:
    """One primitive block; a kind that it lacks, or that was not wanted, has no objects."""

    holds: frozenset[ObjectType]  # kinds in the block, wanted or not
    strings: list[bytes]
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
        InputError: the file is no PBF, or is truncated.
    """
    found: list[Blob] = []
    header: Header | None = None
    with path.open("rb") as file:
        for kind, blob in walk(file, f"OSM extract {path}"):
            if kind == "OSMHeader":
                header = _read(file, blob, path, _header)
            elif kind == "OSMData":
                found.append(blob)
    if header is None:
        raise InputError(f"OSM extract {path} has no OSMHeader; it is no PBF file")
    return header, found


def read_block(file: BinaryIO, blob: Blob, path: Path, wanted: Collection[ObjectType] = tuple(ObjectType)) -> Block:
    """Decode the wanted kinds of one blob.

    Raises:
        InputError: it is damaged.
    """
    return _read(file, blob, path, lambda data: decode_block(data, wanted))


def _read(file: BinaryIO, blob: Blob, path: Path, decode: Callable[[bytes], T]) -> T:
    file.seek(blob.offset)
    try:
        return decode(unpack(file.read(blob.size), path))
    except (IndexError, ValueError, zlib.error) as error:
        raise InputError(
            f"OSM extract {path} is damaged in the blob at byte {blob.offset} ({error}); download it again"
        ) from None


def unpack(blob: bytes, path: Path) -> bytes:
    """Content of a Blob message."""
    found = parse(_PBF.Blob, blob)
    if found.HasField("raw"):
        return bytes(found.raw)
    if found.HasField("zlib_data"):
        return zlib.decompress(found.zlib_data)
    if found.ListFields():
        raise InputError(f"OSM extract {path} uses a compression that is not read here; convert it with `osmium cat`")
    raise InputError(f"OSM extract {path} has a blob without data; it is damaged")


def zlib_header(path: Path) -> Header | None:
    """The header, if every blob up to the first data blob is raw or zlib; None if it must be converted."""
    header = None
    with path.open("rb") as file:
        for kind, blob in walk(file, f"OSM extract {path}"):
            file.seek(blob.offset)
            data = file.read(blob.size)
            if not {"raw", "zlib_data"} & {f.name for f, _ in parse(_PBF.Blob, data).ListFields()}:
                return None
            if kind == "OSMData":
                break
            if kind == "OSMHeader":
                header = _header(unpack(data, path))
    return header


def _header(data: bytes) -> Header:
    found = parse(_PBF.HeaderBlock, data)
    sides = (found.bbox.left, found.bbox.bottom, found.bbox.right, found.bbox.top)
    box = tuple(round(v / _NANO) / UNITS for v in sides) if found.HasField("bbox") else None
    features = (bytes(f).decode(errors="replace") for f in (*found.required_features, *found.optional_features))
    return Header(box, found.osmosis_replication_timestamp or None, frozenset(features))


def decode_block(data: bytes, wanted: Collection[ObjectType] = tuple(ObjectType)) -> Block:
    """Arrays of one PrimitiveBlock, of the wanted kinds; without any of them, its strings stay unread."""
    block = parse(_PBF.PrimitiveBlock, data)
    grid = _Grid(block.granularity, block.lon_offset, block.lat_offset)
    dates = block.date_granularity
    nodes, ways, relations = [], [], []
    groups = [group for group in block.primitivegroup if group and group[0] in _GROUPS]  # a group holds one kind
    chosen = [group for group in groups if _GROUPS[group[0]] in wanted]
    for group in chosen:
        kind, (begin, end) = _GROUPS[group[0]], _messages(group)
        if group[0] == _DENSE:
            nodes += [_dense(group[i:j], grid, dates) for i, j in zip(begin, end, strict=True)]
            continue
        stream, span = Stream.of(group), (np.array(begin, np.int64), np.array(end, np.int64))
        if kind == ObjectType.NODE:
            nodes.append(_plain_nodes(stream, span, grid, dates))
        elif kind == ObjectType.WAY:
            ways.append(_ways(stream, span, dates))
        else:
            relations.append(_relations(stream, span, dates))
    strings = list(parse(_PBF.StringTable, block.stringtable).s) if chosen else []
    for objects in (*(p.objects for p in nodes), *(p.objects for p in ways), *(p.objects for p in relations)):
        for index in (objects.tags.keys, objects.tags.values):
            if len(index) and not 0 <= index.min() <= index.max() < len(strings):
                raise ValueError("a tag is not in the string table")
    holds = frozenset(_GROUPS[group[0]] for group in groups)
    return Block(holds, strings, _join(Nodes, nodes), _join(Ways, ways), _join(Relations, relations))


def _messages(group: bytes) -> tuple[list[int], list[int]]:
    """Where each message of a group begins and ends: one field, repeated."""
    begin: list[int] = []
    ends: list[int] = []
    position, end, tag = 0, len(group), group[0]
    while position < end:
        if group[position] != tag:
            raise ValueError("a group holds two kinds of objects")
        size = group[position + 1]
        position += 2
        if size >= 128:
            size, position = varint(group, position - 1)
        begin.append(position)
        position += size
        ends.append(position)
    if position > end:
        raise ValueError("a message ends beyond its group")
    return begin, ends


@dataclass(frozen=True)
class _Grid:
    """How a block writes coordinates."""

    granularity: int  # nanodegrees
    lon_offset: int
    lat_offset: int

    def units(self, lon: Ints, lat: Ints) -> tuple[Ints, Ints]:
        lon, lat = self.lon_offset + self.granularity * lon, self.lat_offset + self.granularity * lat
        return lon // _NANO, lat // _NANO


def _dense(data: bytes, grid: _Grid, dates: int) -> Nodes:
    found = parse(_PBF.DenseNodes, data)
    ids, lat, lon = (np.cumsum(signed(varints(packed))) for packed in (found.id, found.lat, found.lon))
    if not len(ids) == len(lat) == len(lon):
        raise ValueError("dense nodes have more ids than coordinates")
    versions = varints(found.denseinfo.version).astype(np.int32)
    stamps = np.cumsum(signed(varints(found.denseinfo.timestamp))) * dates // 1000
    objects = Objects(ids, _dense_tags(found.keys_vals, len(ids)), _full(versions, ids), _full(stamps, ids))
    return Nodes(objects, *grid.units(lon, lat))


def _full(values: NDArray[Any], ids: Ints) -> NDArray[Any]:
    return values if len(values) == len(ids) else np.zeros(len(ids), values.dtype)


def _dense_tags(data: bytes, count: int) -> Tags:
    """keys_vals: key, value, key, value … 0 for each node."""
    flat = varints(data).astype(np.int64)
    if not len(flat):
        return Tags(np.zeros(count + 1, np.int64), flat, flat)
    # A zero ends a node. A key is never 0; a value that is (the empty string) stands at an odd place within its node.
    zero = np.flatnonzero(flat == 0)
    if len(zero) != count:
        zero = _node_ends(flat, count)
    starts = np.concatenate(([0], zero[:-1] + 1))
    pairs = (zero - starts) // 2
    keep = np.ones(len(flat), bool)
    keep[zero] = False
    rest = flat[keep]
    return Tags(np.concatenate(([0], np.cumsum(pairs))), rest[0::2], rest[1::2])


def _node_ends(flat: Ints, count: int) -> Ints:
    """Ends of nodes where some value is the empty string."""
    ends, position, numbers = [], 0, flat.tolist()
    while position < len(numbers):
        if numbers[position] == 0:
            ends.append(position)
            position += 1
        else:
            position += 2
    if len(ends) != count:
        raise ValueError("dense nodes have more or fewer tag lists than ids")
    return np.array(ends, np.int64)


_Found = dict[int, tuple[Ints, Ints]]


def _plain_nodes(stream: Stream, span: tuple[Ints, Ints], grid: _Grid, dates: int) -> Nodes:
    found = stream.scan(*span, (1, 2, 3, 4, 8, 9))
    ids, lat, lon = (signed(found[f][0].view(np.uint64)) for f in (1, 8, 9))
    return Nodes(_objects(stream, found, ids, dates), *grid.units(lon, lat))


def _objects(stream: Stream, found: _Found, ids: Ints, dates: int) -> Objects:
    """Common part of ways, relations and plain nodes: keys, values and Info are fields 2, 3 and 4."""
    keys, offsets = stream.numbers(*found[2])
    values, value_offsets = stream.numbers(*found[3])
    if not np.array_equal(offsets, value_offsets):
        raise ValueError("an object has more keys than values")
    versions, stamps = _infos(stream, *found[4])
    return Objects(ids, Tags(offsets, keys, values), versions, stamps * dates // 1000)


def _infos(stream: Stream, low: Ints, high: Ints) -> tuple[NDArray[np.int32], Ints]:
    """Versions and raw timestamps of Info messages. All their fields are varints: tags and values alternate."""
    flat, offsets = stream.numbers(low, high)
    if (np.diff(offsets) % 2).any():
        raise ValueError("an Info message ends within a field")
    owner = np.repeat(np.arange(len(low)), np.diff(offsets) // 2)
    versions, stamps = np.zeros(len(low), np.int32), np.zeros(len(low), np.int64)
    for tag, target in ((0x08, versions), (0x10, stamps)):
        at = np.flatnonzero(flat[0::2] == tag)
        target[owner[at]] = flat[2 * at + 1]
    return versions, stamps


def _ways(stream: Stream, span: tuple[Ints, Ints], dates: int) -> Ways:
    found = stream.scan(*span, (1, 2, 3, 4, 8))
    refs, offsets = stream.numbers(*found[8])
    return Ways(_objects(stream, found, found[1][0], dates), offsets, undelta(signed(refs.view(np.uint64)), offsets))


def _relations(stream: Stream, span: tuple[Ints, Ints], dates: int) -> Relations:
    found = stream.scan(*span, (1, 2, 3, 4, 8, 9, 10))
    roles, role_offsets = stream.numbers(*found[8])
    members, offsets = stream.numbers(*found[9])
    types, type_offsets = stream.numbers(*found[10])
    if not (np.array_equal(offsets, role_offsets) and np.array_equal(offsets, type_offsets)):
        raise ValueError("a relation has more members than roles or types")
    objects = _objects(stream, found, found[1][0], dates)
    members = undelta(signed(members.view(np.uint64)), offsets)
    return Relations(objects, offsets, members, types.astype(np.uint8), roles)


def _join(kind: type[Any], parts: list[Any]) -> Any:
    """Several groups of one kind as one; none as an empty one."""
    if len(parts) == 1:
        return parts[0]
    none = np.zeros(0, np.int64)

    def offsets(pieces: list[Ints]) -> Ints:
        return np.concatenate([np.zeros(1, np.int64), *(np.diff(p) for p in pieces)]).cumsum()

    def flat(pieces: list[NDArray[Any]], like: NDArray[Any] = none) -> NDArray[Any]:
        return np.concatenate(pieces) if pieces else like

    own = [p.objects for p in parts]
    tags = Tags(
        offsets([o.tags.offsets for o in own]), flat([o.tags.keys for o in own]), flat([o.tags.values for o in own])
    )
    versions = flat([o.versions for o in own], np.zeros(0, np.int32))
    objects = Objects(flat([o.ids for o in own]), tags, versions, flat([o.timestamps for o in own]))
    if kind is Nodes:
        return Nodes(objects, flat([p.lon for p in parts]), flat([p.lat for p in parts]))
    if kind is Ways:
        return Ways(objects, offsets([p.offsets for p in parts]), flat([p.refs for p in parts]))
    types = flat([p.types for p in parts], np.zeros(0, np.uint8))
    members, roles = flat([p.members for p in parts]), flat([p.roles for p in parts])
    return Relations(objects, offsets([p.offsets for p in parts]), members, types, roles)
