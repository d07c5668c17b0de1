"""Points of Mapbox Vector Tiles, read and written.

The format is version 2 of https://github.com/mapbox/vector-tile-spec: a protocol buffer of layers, each with features
whose tags are pairs of numbers into the layer's lists of keys and values.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from pipeline.formats.wire import varint, zigzag
from schemas.errors import InputError

Value = str | float | int | bool

#: Units a side of a tile that are written, and that are read where a layer does not say.
EXTENT = 4096
_POINT, _MOVE_TO = 1, 1
#: Features of one tile that are read: Mapillary's densest have some ten thousand.
_MOST = 4_000_000


@dataclass(frozen=True)
class TilePoint:
    """One point of a tile."""

    x: float  # share of the tile from its left edge; beyond 0..1 in the buffer around the tile
    y: float  # from its upper edge
    properties: Mapping[str, Value] = field(default_factory=dict)


def decode_points(data: bytes, layer: str, where: str) -> list[TilePoint]:
    """The points of one layer; none where the tile lacks it.

    Raises:
        InputError: the tile is damaged; ``where`` stands in the message.
    """
    try:
        points: list[TilePoint] = []
        for number, message in _fields(data):
            if number == 3 and isinstance(message, bytes):
                points += _layer(message, layer)
        return points
    except (ValueError, IndexError, UnicodeDecodeError, OverflowError, struct.error) as error:
        raise InputError(f"{where} is no vector tile that can be read: {error}") from None


def encode_points(points: Sequence[TilePoint], layer: str) -> bytes:
    """A tile of one layer. Integers must fit 64 bits."""
    keys: dict[str, int] = {}
    values: dict[tuple[type, Value], int] = {}
    features = bytearray()
    for point in points:
        tags = bytearray()
        for key, value in point.properties.items():
            tags += _number(keys.setdefault(key, len(keys)))
            tags += _number(values.setdefault((type(value), value), len(values)))
        place = b"".join(_number(_zagged(round(v * EXTENT))) for v in (point.x, point.y))
        geometry = _number(_MOVE_TO | 1 << 3) + place
        feature = _bytes(2, bytes(tags)) + _number(3 << 3) + _number(_POINT) + _bytes(4, geometry)
        features += _bytes(2, feature)
    body = _bytes(1, layer.encode()) + bytes(features)
    body += b"".join(_bytes(3, key.encode()) for key in keys)
    body += b"".join(_bytes(4, _value(value)) for _, value in values)
    body += _number(5 << 3) + _number(EXTENT) + _number(15 << 3) + _number(2)
    return _bytes(3, body)


def _layer(message: bytes, wanted: str) -> list[TilePoint]:
    name, extent = "", EXTENT
    keys: list[str] = []
    values: list[Value | None] = []
    features: list[bytes] = []
    for number, content in _fields(message):
        if number == 1 and isinstance(content, bytes):
            name = content.decode()
        elif number == 2 and isinstance(content, bytes):
            features.append(content)
        elif number == 3 and isinstance(content, bytes):
            keys.append(content.decode())
        elif number == 4 and isinstance(content, bytes):
            values.append(_read_value(content))
        elif number == 5 and isinstance(content, int):
            extent = content
    if name != wanted:
        return []
    if not 0 < extent < 1 << 32 or len(features) > _MOST:
        raise ValueError("a layer has no extent, or too many features")
    return [p for feature in features for p in _points(feature, keys, values, extent)]


def _points(message: bytes, keys: list[str], values: list[Value | None], extent: int) -> Iterator[TilePoint]:
    kind, tags, geometry = 0, b"", b""
    for number, content in _fields(message):
        if number == 2 and isinstance(content, bytes):
            tags += content
        elif number == 3 and isinstance(content, int):
            kind = content
        elif number == 4 and isinstance(content, bytes):
            geometry += content
    if kind != _POINT:
        return
    numbers = list(_numbers(tags))
    if len(numbers) % 2:
        raise ValueError("a feature has half a tag")
    found = {keys[k]: values[v] for k, v in zip(numbers[::2], numbers[1::2], strict=True)}
    properties = {k: v for k, v in found.items() if v is not None}
    commands = list(_numbers(geometry))
    if not commands or commands[0] & 7 != _MOVE_TO or len(commands) != 1 + 2 * (commands[0] >> 3):
        raise ValueError("a point's geometry is none")
    x = y = 0
    for dx, dy in zip(commands[1::2], commands[2::2], strict=True):
        x, y = x + zigzag(dx), y + zigzag(dy)
        yield TilePoint(x / extent, y / extent, properties)


def _read_value(message: bytes) -> Value | None:
    """A value; None for a kind that the format does not know."""
    for number, content in _fields(message):
        if number == 1 and isinstance(content, bytes):
            return content.decode()
        if number == 2 and isinstance(content, bytes) and len(content) == 4:
            return float(struct.unpack("<f", content)[0])
        if number == 3 and isinstance(content, bytes) and len(content) == 8:
            return float(struct.unpack("<d", content)[0])
        if number in (4, 5, 6, 7) and isinstance(content, int):
            if number == 4:
                return content - (1 << 64) if content >> 63 else content
            return zigzag(content) if number == 6 else bool(content) if number == 7 else content
    return None


def _value(value: Value) -> bytes:
    if isinstance(value, bool):
        return _number(7 << 3) + _number(int(value))
    if isinstance(value, int):
        return _number(4 << 3) + _number(value & (1 << 64) - 1)
    if isinstance(value, float):
        return _number(3 << 3 | 1) + struct.pack("<d", value)
    return _bytes(1, value.encode())


def _fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """(field number, value) of a message: an int for varints, bytes for all else."""
    position, end = 0, len(data)
    while position < end:
        tag, position = varint(data, position)
        kind = tag & 7
        if kind == 0:
            value, position = varint(data, position)
            yield tag >> 3, value & (1 << 64) - 1
            continue
        if kind == 2:
            size, position = varint(data, position)
        elif kind in (1, 5):
            size = 8 if kind == 1 else 4
        else:
            raise ValueError(f"unknown wire type {kind}")
        if position + size > end:
            raise ValueError("a field ends beyond its message")
        yield tag >> 3, data[position : position + size]
        position += size


def _numbers(data: bytes) -> Iterator[int]:
    position = 0
    while position < len(data):
        value, position = varint(data, position)
        yield value


def _number(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def _bytes(number: int, content: bytes) -> bytes:
    return _number(number << 3 | 2) + _number(len(content)) + content


def _zagged(value: int) -> int:
    return value << 1 if value >= 0 else (-value << 1) - 1
