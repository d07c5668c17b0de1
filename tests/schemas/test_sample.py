"""The JSON member, member names and hashes."""

from __future__ import annotations

import contextlib
import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.errors import CorruptSampleError
from schemas.footprint import Footprint
from schemas.sample import (
    Provenance,
    RsInfo,
    SampleMeta,
    StreetviewInfo,
    canonical_json,
    content_hash,
    is_member,
    layout_hash,
    member_order,
    rounded,
    sample_hash,
)

NUMBER = st.floats(-1e7, 1e7)
UNIT = st.floats(0, 1, exclude_max=True)
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
MAYBE = st.none() | TEXT

RS = st.builds(
    RsInfo, member=st.sampled_from(("rs.jpg", "rs.0.npy")), bands=st.lists(TEXT, max_size=4), dtype=TEXT, source=TEXT,
    acquired=MAYBE, nodata_share=UNIT, stretch=MAYBE,
)  # fmt: skip
SV = st.builds(
    StreetviewInfo, member=TEXT, id=TEXT, lon=NUMBER, lat=NUMBER, x=UNIT, y=UNIT, heading=st.none() | st.floats(0, 359),
    captured_at=MAYBE, projection=TEXT, licence=MAYBE, author=MAYBE,
)  # fmt: skip
FOOTPRINTS = st.builds(
    lambda a, c, f, w, h: Footprint("xyz-1-0-0-256", "EPSG:3857", (a, 0.0, c, 0.0, -a, f), w, h),
    st.floats(1e-3, 1e3), NUMBER, NUMBER, st.integers(1, 999), st.integers(1, 999),
)  # fmt: skip
META = st.builds(
    SampleMeta, footprint=FOOTPRINTS, gsd=st.tuples(NUMBER, NUMBER), lon=NUMBER, lat=NUMBER,
    bbox=st.tuples(NUMBER, NUMBER, NUMBER, NUMBER),
    osm_edited=MAYBE, rs=st.lists(RS, max_size=2), streetview=st.lists(SV, max_size=2),
    provenance=st.builds(Provenance, MAYBE, MAYBE),
)  # fmt: skip
JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=12,
)


def meta() -> SampleMeta:
    fp = Footprint("xyz-1-0-0-256", "EPSG:3857", (1.0, 0.0, 0.0, 0.0, -1.0, 0.0), 256, 256)
    return SampleMeta(fp, (1.0, 1.0), 1.0, 2.0, (0.0, 0.0, 1.0, 1.0), rs=[RsInfo("rs.jpg", ["red"], "uint8", "s")])


@given(META)
def test_sample_metadata_survives_its_json(value: SampleMeta) -> None:
    data = value.to_bytes()
    read = SampleMeta.from_bytes(data)
    assert read == value
    assert read.to_bytes() == data


@given(META, st.floats(0, 1, exclude_max=True))
def test_truncated_metadata_is_refused_with_a_reason(value: SampleMeta, share: float) -> None:
    data = value.to_bytes()
    with pytest.raises(CorruptSampleError, match="build the sample again"):
        SampleMeta.from_bytes(data[: int(len(data) * share)])


@given(META, st.data())
def test_flipped_bits_in_metadata_are_refused_or_read(value: SampleMeta, data: st.DataObject) -> None:
    buffer = bytearray(value.to_bytes())
    at = data.draw(st.integers(0, len(buffer) * 8 - 1))
    buffer[at // 8] ^= 1 << at % 8
    with contextlib.suppress(CorruptSampleError):
        SampleMeta.from_bytes(bytes(buffer))


def _without(name: str) -> dict[str, Any]:
    d = json.loads(meta().to_bytes())
    del d[name]
    return d


@pytest.mark.parametrize("name", ["footprint", "gsd", "lon", "bbox", "rs", "streetview"])
def test_metadata_that_lacks_a_field_is_refused(name: str) -> None:
    with pytest.raises(CorruptSampleError, match=name):
        SampleMeta.from_bytes(canonical_json(_without(name)))


@pytest.mark.parametrize(
    ("group", "name", "value"),
    [
        ("", "surprise", 1),
        ("footprint", "key", "no/such key"),
        ("footprint", "width", 0),
        ("footprint", "width", "256"),
        ("footprint", "transform", [0, 0, 0, 0, 0, 0]),
        ("footprint", "transform", [1, 2]),
        ("", "gsd", 1.0),
        ("", "rs", [{"member": "rs.jpg"}]),
        ("", "footprint", None),
    ],
)
def test_metadata_with_a_bad_value_is_refused_as_a_corrupt_sample(group: str, name: str, value: Any) -> None:
    """The stream masks a slot on this error alone; another one would end the run."""
    d = json.loads(meta().to_bytes())
    (d[group] if group else d)[name] = value
    with pytest.raises(CorruptSampleError):
        SampleMeta.from_bytes(canonical_json(d))


@pytest.mark.parametrize("data", [b"", b"null", b"[]", b"3", b"\xff", b"{}", b"[" * 100_000])
def test_metadata_that_is_no_object_is_refused(data: bytes) -> None:
    with pytest.raises(CorruptSampleError):
        SampleMeta.from_bytes(data)


@given(JSON_VALUES)
def test_canonical_json_reads_back_and_is_a_fixed_point(value: Any) -> None:
    data = canonical_json(value)
    assert json.loads(data) == value
    assert canonical_json(json.loads(data)) == data


@given(st.dictionaries(TEXT, st.integers(), max_size=6))
def test_canonical_json_does_not_depend_on_the_order_of_keys(value: dict[str, int]) -> None:
    assert canonical_json(value) == canonical_json(dict(reversed(value.items())))


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_canonical_json_refuses_what_json_has_no_word_for(value: float) -> None:
    with pytest.raises(ValueError, match="JSON"):
        canonical_json({"a": value})
    with pytest.raises(ValueError, match="finite"):
        rounded(value)


def test_rounded_has_no_negative_zero() -> None:
    assert math.copysign(1, rounded(-1e-12)) == 1


MEMBERS = st.dictionaries(st.sampled_from(("json", "rs.jpg", "osm.png", "sv.0.jpg")), st.binary(max_size=8), min_size=1)


@given(MEMBERS, st.data())
def test_sample_hash_changes_with_any_name_or_byte_and_not_with_order(
    members: dict[str, bytes], data: st.DataObject
) -> None:
    first = sample_hash(members)
    assert sample_hash(dict(reversed(members.items()))) == first
    name = data.draw(st.sampled_from(sorted(members)))
    assert sample_hash(members | {name: members[name] + b"\0"}) != first
    assert sample_hash({k: v for k, v in members.items() if k != name}) != first
    renamed = {("sv.9.jpg" if k == name else k): v for k, v in members.items()}
    assert sample_hash(renamed) != first


SAMPLES = st.dictionaries(
    st.text("abc019-", min_size=1, max_size=6), st.text("0123456789abcdef", min_size=4, max_size=4), min_size=2
)


@given(SAMPLES, st.randoms(use_true_random=False), st.integers(1, 4))
def test_content_hash_survives_resharding_and_layout_hash_does_not(
    samples: dict[str, str], random: Any, cuts: int
) -> None:
    rows = sorted(samples.items())
    moved = rows.copy()
    random.shuffle(moved)
    assert content_hash(iter(moved)) == content_hash(rows)

    def layout(order: list[tuple[str, str]], size: int) -> str:
        shards = [order[i : i + size] for i in range(0, len(order), size)]
        return layout_hash((f"part-{i:07d}", sample_hash({k: v.encode() for k, v in s})) for i, s in enumerate(shards))

    assert layout(rows, len(rows)) != layout(rows, len(rows) - 1)
    assert layout(rows, 1) == layout(rows, 1)
    if moved != rows:
        assert layout(moved, 1) != layout(rows, 1)


@given(SAMPLES, st.data())
def test_content_hash_changes_when_any_sample_changes_joins_or_leaves(
    samples: dict[str, str], data: st.DataObject
) -> None:
    first = content_hash(samples.items())
    key = data.draw(st.sampled_from(sorted(samples)))
    assert content_hash((samples | {key: samples[key] + "0"}).items()) != first
    assert content_hash((samples | {"new_key": "00"}).items()) != first
    assert content_hash((k, v) for k, v in samples.items() if k != key) != first
    assert content_hash((("renamed" if k == key else k), v) for k, v in samples.items()) != first


@pytest.mark.parametrize(
    "name",
    [
        "json",
        "rs.jpg",
        "rs.png",
        "rs.npy",
        "rs.0.npy",
        "rs.12.npy",
        "osm.safetensors",
        "osm.png",
        "sv.0.jpg",
        "sv.10.jpg",
    ],
)
def test_every_member_of_the_contract_is_known(name: str) -> None:
    assert is_member(name)


@pytest.mark.parametrize(
    "name", ["", "rs", "rs.tif", "sv.jpg", "osm", "json.x", "sv.-1.jpg", "xrs.jpg", "rs.jpg\n", "sv.0.png"]
)
def test_other_members_are_not(name: str) -> None:
    assert not is_member(name)


def test_members_are_ordered_by_modality_then_number() -> None:
    names = ["sv.10.jpg", "sv.9.jpg", "rs.jpg", "osm.safetensors", "osm.png", "json", "sv.0.jpg"]
    assert sorted(names, key=member_order) == [
        "json",
        "osm.png",
        "osm.safetensors",
        "rs.jpg",
        "sv.0.jpg",
        "sv.9.jpg",
        "sv.10.jpg",
    ]
