"""Points of Mapbox Vector Tiles, read and written.

The format is version 2 of https://github.com/mapbox/vector-tile-spec: a protocol buffer of layers, each with features
whose tags are pairs of numbers into the layer's lists of keys and values.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pipeline.formats.messages import declare, parse
from pipeline.formats.wire import zigzag
from schemas.errors import at_the_door

Value = str | float | int | bool

#: Units a side of a tile that are written, and that are read where a layer does not say.
EXTENT = 4096
#: Longest tile that is read, in bytes: Mapillary's densest have some ten thousand features in a megabyte.
MOST_BYTES = 8 << 20
_POINT, _MOVE_TO = 1, 1
_KINDS = {bool: "bool_value", int: "int_value", float: "double_value", str: "string_value"}
_MVT = declare("""
message Value {
    optional bytes string_value = 1;
    optional float float_value = 2;
    optional double double_value = 3;
    optional int64 int_value = 4;
    optional uint64 uint_value = 5;
    optional sint64 sint_value = 6;
    optional bool bool_value = 7;
}
message Feature {
    repeated uint32 tags = 2;
    optional uint32 type = 3;
    repeated uint32 geometry = 4;
}
message Layer {
    optional bytes name = 1;
    repeated Feature features = 2;
    repeated bytes keys = 3;
    repeated Value values = 4;
    optional uint32 extent = 5 [default = 4096];
    optional uint32 version = 15;
}
message Tile { repeated Layer layers = 3; }
""")


@dataclass(frozen=True)
class TilePoint:
    """One point of a tile."""

    x: float  # share of the tile from its left edge; beyond 0..1 in the buffer around the tile
    y: float  # from its upper edge
    properties: Mapping[str, Value] = field(default_factory=dict)


def decode_points(data: bytes, layer: str, where: str) -> list[TilePoint]:
    """The points of one layer; none where the tile lacks it.

    Raises:
        InputError: the tile is damaged, or longer than any; ``where`` stands in the message.
    """
    with at_the_door(f"{where} is no vector tile that can be read"):
        if len(data) > MOST_BYTES:
            raise ValueError(f"it has over {MOST_BYTES >> 20} MiB")
        return [p for own in parse(_MVT.Tile, data).layers if own.name == layer.encode() for p in _points(own)]


def encode_points(points: Sequence[TilePoint], layer: str) -> bytes:
    """A tile of one layer. Integers must fit 64 bits."""
    keys: dict[str, int] = {}
    values: dict[tuple[type, Value], int] = {}
    features = []
    for point in points:
        tags: list[int] = []
        for key, value in point.properties.items():
            tags += (keys.setdefault(key, len(keys)), values.setdefault((type(value), value), len(values)))
        steps = (round(v * EXTENT) for v in (point.x, point.y))
        geometry = [_MOVE_TO | 1 << 3, *(v << 1 ^ v >> 31 for v in steps)]
        features.append(_MVT.Feature(tags=tags, type=_POINT, geometry=geometry))
    written = [
        _MVT.Value(**{_KINDS[kind]: value.encode() if isinstance(value, str) else value}) for kind, value in values
    ]
    names = [key.encode() for key in keys]
    own = _MVT.Layer(name=layer.encode(), features=features, keys=names, values=written, extent=EXTENT, version=2)
    content: bytes = _MVT.Tile(layers=[own]).SerializeToString()
    return content


def _points(layer: Any) -> Iterator[TilePoint]:
    if not layer.extent:
        raise ValueError("a layer has no extent")
    keys = [key.decode() for key in layer.keys]
    contents = (next((content for _, content in value.ListFields()), None) for value in layer.values)
    values = [content.decode() if isinstance(content, bytes) else content for content in contents]
    for feature in layer.features:
        if feature.type != _POINT:
            continue
        tags, commands = list(feature.tags), list(feature.geometry)
        if len(tags) % 2:
            raise ValueError("a feature has half a tag")
        if not commands or commands[0] & 7 != _MOVE_TO or len(commands) != 1 + 2 * (commands[0] >> 3):
            raise ValueError("a point's geometry is none")
        found = {keys[k]: values[v] for k, v in zip(tags[::2], tags[1::2], strict=True)}
        properties = {k: v for k, v in found.items() if v is not None}
        x = y = 0
        for dx, dy in zip(commands[1::2], commands[2::2], strict=True):
            x, y = x + zigzag(dx), y + zigzag(dy)
            yield TilePoint(x / layer.extent, y / layer.extent, properties)
