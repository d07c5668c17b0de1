"""OSM PBF blocks as numpy arrays: bytes in, arrays out (https://wiki.openstreetmap.org/wiki/PBF_Format).

Fields are decoded for a whole block at once; Python walks only over the lengths of messages. Only zlib and raw blobs
are read: other compressions are turned into zlib by `pipeline.osm.extracts.read.as_pbf` first.
"""

from __future__ import annotations

import zlib
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from pipeline.formats.wire import Ints, Stream, fields, signed, undelta, varint, varints, zigzag
from schemas.errors import InputError
from schemas.features import ObjectType

#: Largest blob and blob header that the format allows, in bytes.
_MAX_BLOB, _MAX_HEADER = 32 << 20, 64 << 10
#: Coordinates are kept in OSM's own unit, 1e-7 degree.
UNITS = 10_000_000
_NANO = 100  # nanodegrees a unit
#: First byte of a group: the tag of its first message.
_DENSE = 0x12
_GROUPS = {0x0A: ObjectType.NODE, _DENSE: ObjectType.NODE, 0x1A: ObjectType.WAY, 0x22: ObjectType.RELATION}


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


def blobs(path: Path) -> tuple[Header, list[Blob]]:
    """The header and where every data blob lies; reads blob headers only.

    Raises:
        InputError: the file is no PBF, or is truncated.
    """
    found: list[Blob] = []
    header: Header | None = None
    size = path.stat().st_size
    with path.open("rb") as file:
        while length := file.read(4):
            count = int.from_bytes(length, "big")
            if len(length) < 4 or not 0 < count <= _MAX_HEADER:
                raise InputError(
                    f"OSM extract {path} is no PBF file, or is damaged at byte {file.tell() - len(length)}"
                )
            kind, data_size = _blob_header(file.read(count), path)
            offset = file.tell()
            if data_size > _MAX_BLOB or offset + data_size > size:
                raise InputError(
                    f"OSM extract {path} is truncated: a blob at byte {offset} ends beyond the file; download it again"
                )
            if kind == b"OSMHeader":
                try:
                    header = _header(unpack(file.read(data_size), path))
                except (IndexError, ValueError, zlib.error) as error:
                    raise InputError(f"OSM extract {path} has a damaged header ({error}); download it again") from None
            elif kind == b"OSMData":
                found.append(Blob(offset, data_size))
            file.seek(offset + data_size)
    if header is None:
        raise InputError(f"OSM extract {path} has no OSMHeader; it is no PBF file")
    return header, found


def read_block(file: BinaryIO, blob: Blob, path: Path, wanted: Collection[ObjectType] = tuple(ObjectType)) -> Block:
    """Decode the wanted kinds of one blob.

    Raises:
        InputError: it is damaged.
    """
    file.seek(blob.offset)
    try:
        return decode_block(unpack(file.read(blob.size), path), wanted)
    except (IndexError, ValueError, zlib.error) as error:
        raise InputError(
            f"OSM extract {path} is damaged in the blob at byte {blob.offset} ({error}); download it again"
        ) from None


def unpack(blob: bytes, path: Path) -> bytes:
    """Content of a Blob message."""
    for field, value in fields(blob):
        if field == 1:
            return bytes(value)
        if field == 3:
            return zlib.decompress(value)
        if field in (4, 5, 6, 7):
            raise InputError(
                f"OSM extract {path} uses a compression that is not read here; convert it with `osmium cat`"
            )
    raise InputError(f"OSM extract {path} has a blob without data; it is damaged")


def zlib_header(path: Path) -> Header | None:
    """The header, if every blob up to the first data blob is raw or zlib; None if it must be converted."""
    header = None
    with path.open("rb") as file:
        while length := file.read(4):
            kind, size = _blob_header(file.read(int.from_bytes(length, "big")), path)
            data = file.read(size)
            if any(field in (4, 5, 6, 7) for field, _ in fields(data)):
                return None
            if kind == b"OSMHeader":
                header = _header(unpack(data, path))
            elif kind == b"OSMData":
                break
    return header


def _blob_header(data: bytes, path: Path) -> tuple[bytes, int]:
    kind, size = b"", -1
    try:
        for field, value in fields(data):
            if field == 1:
                kind = bytes(value)
            elif field == 3:
                size = value
    except (IndexError, ValueError):
        size = -1
    if size < 0:
        raise InputError(f"OSM extract {path} is no PBF file, or is damaged")
    return kind, size


def _header(data: bytes) -> Header:
    box, snapshot, features = None, None, set()
    for field, value in fields(data):
        if field == 1:
            sides = {f: round(zigzag(v) / _NANO) / UNITS for f, v in fields(value)}
            box = sides.get(1, 0.0), sides.get(4, 0.0), sides.get(2, 0.0), sides.get(3, 0.0)
        elif field in (4, 5):
            features.add(bytes(value).decode(errors="replace"))
        elif field == 32:
            snapshot = value
    return Header(box, snapshot, frozenset(features))


def decode_block(data: bytes, wanted: Collection[ObjectType] = tuple(ObjectType)) -> Block:
    """Arrays of one PrimitiveBlock, of the wanted kinds; without any of them, its strings stay unread."""
    table = b""
    groups: list[bytes] = []
    granularity, lon_offset, lat_offset, dates = 100, 0, 0, 1000
    for field, value in fields(data):
        if field == 1:
            table = value
        elif field == 2:
            groups.append(value)
        elif field == 17:
            granularity = value
        elif field == 18:
            dates = value
        elif field == 19:
            lat_offset = value
        elif field == 20:
            lon_offset = value
    grid = _Grid(granularity, lon_offset, lat_offset)
    nodes, ways, relations = [], [], []
    holds = {_GROUPS[group[0]] for group in groups if group and group[0] in _GROUPS}
    chosen = [group for group in groups if group and _GROUPS.get(group[0]) in wanted]  # a group holds one kind
    for group in chosen:
        begin, end = _messages(group)
        if group[0] == _DENSE:
            nodes += [_dense(group[i:j], grid, dates) for i, j in zip(begin, end, strict=True)]
            continue
        stream, span = Stream.of(group), (np.array(begin, np.int64), np.array(end, np.int64))
        kind = _GROUPS[group[0]]
        if kind == ObjectType.NODE:
            nodes.append(_plain_nodes(stream, span, grid, dates))
        elif kind == ObjectType.WAY:
            ways.append(_ways(stream, span, dates))
        else:
            relations.append(_relations(stream, span, dates))
    strings = _strings(table) if chosen else []
    for objects in (*(p.objects for p in nodes), *(p.objects for p in ways), *(p.objects for p in relations)):
        for index in (objects.tags.keys, objects.tags.values):
            if len(index) and not 0 <= index.min() <= index.max() < len(strings):
                raise ValueError("a tag is not in the string table")
    return Block(frozenset(holds), strings, _join(Nodes, nodes), _join(Ways, ways), _join(Relations, relations))


def _strings(table: bytes) -> list[bytes]:
    """The string table; every entry is field 1."""
    found: list[bytes] = []
    position, end = 0, len(table)
    while position < end:
        if table[position] != 0x0A:
            raise ValueError("the string table holds something else")
        size = table[position + 1]
        position += 2
        if size >= 128:
            size, position = varint(table, position - 1)
        found.append(table[position : position + size])
        position += size
    return found


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
    parts: dict[int, bytes] = {f: v for f, v in fields(data) if isinstance(v, bytes)}
    ids = np.cumsum(signed(varints(parts.get(1, b""))))
    lat, lon = (np.cumsum(signed(varints(parts.get(f, b"")))) for f in (8, 9))
    if not len(ids) == len(lat) == len(lon):
        raise ValueError("dense nodes have more ids than coordinates")
    info = {f: v for f, v in fields(parts.get(5, b"")) if isinstance(v, bytes)}
    versions = varints(info.get(1, b"")).astype(np.int32)
    stamps = np.cumsum(signed(varints(info.get(2, b"")))) * dates // 1000
    objects = Objects(ids, _dense_tags(parts.get(10, b""), len(ids)), _full(versions, ids), _full(stamps, ids))
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
