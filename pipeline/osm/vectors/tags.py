"""Tags of a vector feature, from the ways in which vector files hold them, as OSM has them.

- GeoLink's ``label`` (docs/papers/geolink.md#objects): ``key:value;key:value``, where ``yes`` was replaced by the key
  and ``:`` in a key by a space. Both are undone, so that the rules see OSM's tags; the texts come out as they were.
- ``other_tags`` of GDAL's OSM driver and ``tags`` of osm2pgsql: ``"key"=>"value","key"=>"value"``.
- ``tags`` as an object, or its JSON text.
- Every other property is a tag of its name, but for ids and bookkeeping.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

from schemas.features import ObjectType

#: Properties that are no tags: identifiers, and what programs add.
_BOOKKEEPING = frozenset({
    "@changeset", "@id", "@timestamp", "@type", "@uid", "@user", "@version", "all_tags", "changeset", "element",
    "element_type", "feature_id", "fid", "full_id", "gid", "id", "label", "layer_id", "ogc_fid", "objectid", "osm_id",
    "osm_type", "osm_way_id", "osmid", "other_tags", "shape_area", "shape_leng", "shape_length", "tags",
    "timestamp", "uid", "user", "version", "visible", "way_area", "z_order",
})  # fmt: skip
_PACKED = ("tags", "all_tags", "other_tags")
_PAIR = re.compile(r'"((?:[^"\\]|\\.)*)"\s*=>\s*(?:"((?:[^"\\]|\\.)*)"|NULL)\s*(?:,|$)', re.DOTALL)
_ESCAPE = re.compile(r"\\(.)", re.DOTALL)
_TYPES = {"n": ObjectType.NODE, "w": ObjectType.WAY, "r": ObjectType.RELATION}
_ID = re.compile(r"(?:(n|w|r)(?:ode|ay|elation)?[/ ]?)?(-?\d{1,18})", re.IGNORECASE)


def feature_tags(properties: Mapping[str, Any]) -> dict[str, str]:
    """OSM tags of one feature; the first of several properties that name the same key wins."""
    tags: dict[str, str] = {}
    label = properties.get("label")
    pairs = list(label_tags(label)) if isinstance(label, str) else []
    for name in _PACKED:
        pairs += packed_tags(properties.get(name))
    pairs += ((k, t) for k, v in properties.items() if k.lower() not in _BOOKKEEPING and (t := _text(v)) is not None)
    for key, value in pairs:
        if key and value:
            tags.setdefault(_utf8(key), _utf8(value))
    return tags


def _utf8(text: str) -> str:
    """Text without the lone surrogates that JSON can write and no file hold."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode("utf-8")


def label_tags(label: str) -> Iterator[tuple[str, str]]:
    """The tags of a GeoLink label.

    >>> list(label_tags("building:building;roof shape:hipped;sport:soccer;tennis"))
    [('building', 'yes'), ('roof:shape', 'hipped'), ('sport', 'soccer;tennis')]
    """
    found: list[list[str]] = []
    for part in label.split(";"):
        key, colon, value = part.partition(":")
        if colon and key.strip():
            found.append([key.strip(), value.strip()])
        elif found:  # the list of one tag's values was joined as the tags are
            found[-1][1] += f";{part.strip()}"
    for key, value in found:
        yield re.sub(r"\s+", ":", key), "yes" if value == key else value


def packed_tags(value: Any) -> list[tuple[str, str]]:
    """Tags of a property that holds several: an object, its JSON text, or hstore text; none where it is neither."""
    if isinstance(value, str):
        text = value.strip()
        if not text.startswith("{"):
            return [(_plain(k), _plain(v)) for k, v in _PAIR.findall(text)]
        try:
            value = json.loads(text)
        except (ValueError, RecursionError):
            return []
    if not isinstance(value, Mapping):
        return []
    return [(str(k), t) for k, v in value.items() if (t := _text(v)) is not None]


def _plain(text: str) -> str:
    return _ESCAPE.sub(r"\1", text)


def _text(value: Any) -> str | None:
    """A property's value as a tag value; None where it has none."""
    match value:
        case str():
            return value.strip() or None
        case bool():
            return "yes" if value else "no"
        case int():
            return str(value)
        case float() if math.isfinite(value):
            return str(int(value)) if value == int(value) else repr(value)
    return None


def feature_id(properties: Mapping[str, Any], member: Any, dimension: int) -> tuple[ObjectType, int] | None:
    """OSM type and id of a feature, where its file has them.

    Understood are ``way/123``, ``w123`` and 123 with a type beside it (osmtogeojson, osmium, osmnx, pyrosm, QuackOSM);
    ``osm_id`` and ``osm_way_id`` of GDAL's OSM driver, where lines are ways and polygons relations or ways; and the
    negative ``osm_id`` that osm2pgsql gives relations.

    Args:
        properties: of the feature.
        member: the feature's own ``id``, if it has one.
        dimension: 0 point, 1 line, 2 polygon.
    """
    kind = next((str(v) for n in ("@type", "osm_type", "element_type", "element") if (v := properties.get(n))), "")
    for value in (properties.get("@id"), properties.get("feature_id"), properties.get("full_id"), member):
        found = _parse_id(value, kind)
        if found is not None:
            return found
    way = _parse_id(properties.get("osm_way_id"), "way")
    if way is not None:
        return way
    text = _text(properties.get("osm_id")) or ""
    relation = "osm_way_id" in properties or text.startswith("-")
    given = kind or ("node", "way", "relation" if relation else "way")[dimension]
    found = _parse_id(text.removeprefix("-"), given)
    return found or (_parse_id(properties.get("osmid", properties.get("id")), kind) if kind else None)


def _parse_id(value: Any, kind: str) -> tuple[ObjectType, int] | None:
    """``way/123``, or 123 with its type in ``kind``; an id of OSM is positive."""
    match = _ID.fullmatch(_text(value) or "")
    if match is None or int(match[2]) <= 0:
        return None
    letter = (match[1] or kind[:1]).lower()
    return (_TYPES[letter], int(match[2])) if letter in _TYPES else None
