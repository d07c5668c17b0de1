"""Tags come out of every kind of vector file as OSM has them, and metadata pickles are read without being unpickled."""

from __future__ import annotations

import datetime
import json
import pickle
import pickletools
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pipeline.footprints.chips.literal import read_literal
from pipeline.footprints.chips.metadata import read_metadata
from pipeline.osm.vectors.tags import feature_id, feature_tags
from pipeline.rules import load_rules
from schemas.errors import InputError
from schemas.features import ObjectType
from schemas.tags import format_key, format_tag, tag_id

RULES = load_rules()
KEYS = st.sampled_from(
    ["building", "roof:shape", "sport", "surface", "sidewalk:both", "name", "addr:street", "natural"]
)
VALUES = st.text(st.sampled_from("abcé_-: 7"), min_size=1, max_size=8).map(str.strip).filter(bool) | st.just("yes")
OSM = st.dictionaries(
    KEYS, VALUES | st.lists(VALUES.filter(lambda v: ":" not in v), min_size=1, max_size=3).map(";".join)
)


def label_of(tags: dict[str, str]) -> str:
    """GeoLink's form: yes becomes the key, a colon in a key a space, tags are joined by semicolons."""
    return ";".join(f"{format_key(k)}:{format_key(k) if v == 'yes' else v}" for k, v in tags.items())


def hstore(tags: dict[str, str]) -> str:
    """The text of an hstore, as GDAL's OSM driver writes it."""
    quoted = (
        (k.replace("\\", "\\\\").replace('"', '\\"'), v.replace("\\", "\\\\").replace('"', '\\"'))
        for k, v in tags.items()
    )
    return ",".join(f'"{k}"=>"{v}"' for k, v in quoted)


@given(OSM)
@example({"building": "yes"})
def test_every_form_gives_the_tag_texts_of_osm(tags: dict[str, str]) -> None:
    wanted = RULES.tags.texts(tags)
    forms: dict[str, dict[str, Any]] = {
        "label": {"label": label_of(tags)}, "columns": {**tags, "osm_id": "5", "fid": 3}, "object": {"tags": tags},
        "json": {"tags": json.dumps(tags)}, "hstore": {"other_tags": hstore(tags)},
    }  # fmt: skip
    for name, properties in forms.items():
        assert RULES.tags.texts(feature_tags(properties)) == wanted, name


def test_a_label_has_the_tag_id_of_its_osm_tag() -> None:
    (text,) = RULES.tags.texts(feature_tags({"label": "building:building"}))
    assert tag_id(text) == tag_id(format_tag("building", "yes")[0])
    assert RULES.paint.value(*next(iter(feature_tags({"label": "building:building"}).items()))) == RULES.paint.value(
        "building", "yes"
    )


@given(st.dictionaries(st.text(min_size=1, max_size=6), st.text(min_size=1, max_size=6)))
def test_hstore_keeps_any_text(tags: dict[str, str]) -> None:
    found = feature_tags({"other_tags": hstore(tags)})
    assert found == {k: v for k, v in _encodable(tags).items() if k and v}


def _encodable(tags: dict[str, str]) -> dict[str, str]:
    return {k.encode("utf-8", "replace").decode(): v.encode("utf-8", "replace").decode() for k, v in tags.items()}


@given(
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.integers() | st.text(),
        lambda v: st.lists(v) | st.dictionaries(st.text(), v),
        max_leaves=6,
    ),
    st.sampled_from(["label", "tags", "other_tags", "highway", "osm_id", "@id", "osm_way_id"]),
)
def test_no_property_breaks_the_reader(value: Any, name: str) -> None:
    for key, text in feature_tags({name: value}).items():
        assert key
        assert text
        f"{key}{text}".encode()
    found = feature_id({name: value}, value, 1)
    assert found is None or found[1] > 0


@pytest.mark.parametrize(
    ("properties", "member", "dimension", "wanted"),
    [
        ({}, "way/12", 1, (ObjectType.WAY, 12)),
        ({"@id": "relation/7"}, None, 2, (ObjectType.RELATION, 7)),
        ({"@id": 12, "@type": "node"}, None, 0, (ObjectType.NODE, 12)),
        ({}, "w99", 1, (ObjectType.WAY, 99)),
        ({"osm_id": "5"}, None, 0, (ObjectType.NODE, 5)),
        ({"osm_id": "5"}, None, 1, (ObjectType.WAY, 5)),
        ({"osm_id": None, "osm_way_id": "6"}, None, 2, (ObjectType.WAY, 6)),
        ({"osm_id": "5", "osm_way_id": None}, None, 2, (ObjectType.RELATION, 5)),
        ({"osm_id": 5.0, "osm_way_id": float("nan")}, None, 2, (ObjectType.RELATION, 5)),
        ({"osm_id": -8}, None, 2, (ObjectType.RELATION, 8)),  # osm2pgsql
        ({"id": 4, "osm_type": "way"}, None, 2, (ObjectType.WAY, 4)),  # pyrosm
        ({"osmid": 4, "element": "node"}, None, 0, (ObjectType.NODE, 4)),  # osmnx
        ({"feature_id": "node/3"}, None, 0, (ObjectType.NODE, 3)),  # QuackOSM
        ({"id": 4}, 17, 1, None),  # a row number
        ({"osm_id": 0}, None, 1, None),
        ({"@id": "way/x"}, "abc", 1, None),
        ({"osm_id": "99999999999999999999"}, None, 1, None),
    ],
)
def test_osm_ids_are_recognised(
    properties: dict[str, Any], member: Any, dimension: int, wanted: tuple[ObjectType, int] | None
) -> None:
    assert feature_id(properties, member, dimension) == wanted


NUMBERS = st.floats(allow_nan=False)
PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | NUMBERS | st.text() | NUMBERS.map(np.float64)
    | st.floats(width=32, allow_nan=False).map(np.float32) | st.integers(-(2**63), 2**63 - 1).map(np.int64),
    lambda v: st.lists(v, max_size=4) | st.dictionaries(st.text(max_size=3), v) | st.tuples(v, v) | st.tuples(v),
    max_leaves=12,
)  # fmt: skip


@given(PLAIN, st.integers(0, pickle.HIGHEST_PROTOCOL))
def test_plain_values_come_out_of_a_pickle_as_they_went_in(value: Any, protocol: int) -> None:
    assert read_literal(pickle.dumps(value, protocol)) == value


class _Fires:
    """Unpickled, it would leave a trace."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (pytest.fail, ("it was unpickled",))


@pytest.mark.parametrize(
    "value",
    [
        _Fires(),
        {"bbox": _Fires()},
        datetime.datetime(2020, 1, 1),
        np.zeros(3),
        print,
        {1, 2},
        1j,
        bytearray(b"x"),
        Exception("x"),
    ],
)
def test_a_pickle_with_anything_else_is_refused(value: Any) -> None:
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        with pytest.raises(InputError, match="JSON"):
            read_literal(pickle.dumps(value, protocol))


@given(st.binary(max_size=60) | st.binary(max_size=60).map(lambda b: b"\x80\x04" + b + b"."))
def test_no_bytes_break_the_pickle_reader(data: bytes) -> None:
    try:
        read_literal(data)
    except InputError:
        return


@given(st.lists(st.sampled_from(pickletools.opcodes), max_size=12), st.binary(max_size=30))
def test_no_opcodes_break_the_pickle_reader(opcodes: list[Any], tail: bytes) -> None:
    test_no_bytes_break_the_pickle_reader.hypothesis.inner_test(  # type: ignore[attr-defined]
        b"".join(o.code.encode("latin-1") + tail[i : i + 2] for i, o in enumerate(opcodes)) + b"."
    )


def test_skyscript_metadata_are_read() -> None:
    meta = {
        "bbox": (np.float64(72.4), 37.1, np.float64(72.42), 37.13), "time": (2020, 8, 6, 6, 8),
        "center_tags": {"natural": "glacier"}, "surrounding_tags": [{"natural": "glacier"}],
    }  # fmt: skip
    found = read_metadata(pickle.dumps(meta), "a1_S2_20.pickle")
    assert (found.bbox, found.time) == ((72.4, 37.1, 72.42, 37.13), "2020-08-06T06:08:00Z")
    assert read_metadata(pickle.dumps(meta | {"time": None}), "a.pkl").time is None
