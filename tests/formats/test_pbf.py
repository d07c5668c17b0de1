"""Blocks as arrays: what osmium writes is what is read, and damage is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import osmium
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.formats.pbf.block import decode_block, read_blocks
from pipeline.formats.pbf.header import blobs
from pipeline.formats.wire import Stream, signed, varint, varints
from pipeline.osm.extracts.read import read_extract
from pipeline.rules import load_rules
from schemas.errors import InputError
from tests.osm.tables import table_of

RULES = load_rules()
FORMS = ["", ",pbf_dense_nodes=false", ",add_metadata=none", ",pbf_compression=none", ",locations_on_ways=false"]
TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=12)
TAGS = st.dictionaries(TEXT, st.just("") | TEXT, max_size=4)
IDS = st.integers(1, 1 << 40)
NODE = st.tuples(TAGS, st.integers(-1_800_000_000, 1_800_000_000), st.integers(-900_000_000, 900_000_000))
MEMBER = st.tuples(st.sampled_from("nwr"), IDS, TEXT)
WORLD = st.tuples(
    st.dictionaries(IDS, NODE, max_size=8),
    st.dictionaries(IDS, st.tuples(TAGS, st.lists(IDS, max_size=9)), max_size=5),
    st.dictionaries(IDS, st.tuples(TAGS, st.lists(MEMBER, max_size=5)), max_size=4),
)


def write(path: Path, world: Any, form: str) -> Path:
    """A PBF of a world, by osmium."""
    nodes, ways, relations = world
    path.unlink(missing_ok=True)
    with osmium.SimpleWriter(osmium.io.File(str(path), f"osm.pbf,pbf_compression=zlib{form}")) as writer:
        for i, (tags, lon, lat) in sorted(nodes.items()):
            writer.add_node(osmium.osm.mutable.Node(id=i, tags=tags, location=(lon / 1e7, lat / 1e7), version=3))
        for i, (tags, refs) in sorted(ways.items()):
            writer.add_way(osmium.osm.mutable.Way(id=i, tags=tags, nodes=refs, version=2))
        for i, (tags, members) in sorted(relations.items()):
            writer.add_relation(osmium.osm.mutable.Relation(id=i, tags=tags, members=members, version=1))
    return path


def read(path: Path) -> Any:
    """The world again, through our blocks."""
    nodes: dict[int, Any] = {}
    ways: dict[int, Any] = {}
    relations: dict[int, Any] = {}
    _, found = blobs(path)
    with path.open("rb") as file:
        for b in (b for blob in found for b in read_blocks(file, blob, path)):
            text = b.strings

            def tags(objects: Any, i: int, text: list[str] = text) -> dict[str, str]:
                t = objects.tags
                span = slice(t.offsets[i], t.offsets[i + 1])
                return {text[k]: text[v] for k, v in zip(t.keys[span], t.values[span], strict=True)}

            for i, n in enumerate(b.nodes.objects.ids.tolist()):
                nodes[n] = (tags(b.nodes.objects, i), int(b.nodes.lon[i]), int(b.nodes.lat[i]))
            for i, n in enumerate(b.ways.objects.ids.tolist()):
                ways[n] = (tags(b.ways.objects, i), b.ways.refs[b.ways.offsets[i] : b.ways.offsets[i + 1]].tolist())
            r = b.relations
            for i, n in enumerate(r.objects.ids.tolist()):
                span = slice(r.offsets[i], r.offsets[i + 1])
                members = zip(r.types[span].tolist(), r.members[span].tolist(), r.roles[span].tolist(), strict=True)
                relations[n] = (tags(r.objects, i), [("nwr"[t], m, text[role]) for t, m, role in members])
    return nodes, ways, relations


@pytest.mark.parametrize("form", FORMS)
@given(world=WORLD)
def test_what_osmium_writes_is_what_is_read(tmp_path: Path, form: str, world: Any) -> None:
    assert read(write(tmp_path / "x.osm.pbf", world, form)) == world


def number(n: int) -> bytes:
    """A varint."""
    data = bytearray()
    while n >= 128:
        data.append(n & 127 | 128)
        n >>= 7
    data.append(n)
    return bytes(data)


def message(parts: list[tuple[int, int | list[int]]]) -> bytes:
    """Fields that are numbers or packed numbers."""
    data = b""
    for field, value in parts:
        if isinstance(value, int):
            data += number(field << 3) + number(value)
        else:
            content = b"".join(map(number, value))
            data += number(field << 3 | 2) + number(len(content)) + content
    return data


#: Numbers of every length, so that each way of decoding them is taken.
NUMBERS = st.sampled_from([7, 14, 28, 56, 64]).flatmap(lambda bits: st.integers(0, (1 << bits) - 1))


@given(st.sampled_from([7, 14, 28, 56, 64]), st.lists(st.integers(0, (1 << 64) - 1)))
def test_varints_are_those_of_the_definition(bits: int, numbers: list[int]) -> None:
    numbers = [n & (1 << bits) - 1 for n in numbers]
    assert varints(b"".join(map(number, numbers))).tolist() == numbers


def test_a_varint_of_more_than_ten_bytes_is_refused() -> None:
    for data in (b"\x80" * 10 + b"\x01", b"\x01" + b"\x80" * 10 + b"\x01", b"\x80" * 11 + b"\x01"):
        for read in (varints, lambda own: varint(own, own[0] & 1), Stream.of):
            with pytest.raises(ValueError, match="a varint is longer than 10 bytes"):
                read(data)


MESSAGE = st.dictionaries(st.integers(1, 20), NUMBERS | st.lists(NUMBERS, max_size=4), max_size=6)


@given(st.lists(MESSAGE, min_size=1).filter(any))
def test_messages_side_by_side_are_the_messages_one_by_one(messages: list[dict[int, Any]]) -> None:
    raw = [message(sorted(m.items())) for m in messages]
    stream = Stream.of(b"".join(raw))
    ends = np.cumsum([len(r) for r in raw])
    found = stream.scan(ends - [len(r) for r in raw], ends, range(1, 21))
    for field, (low, high) in found.items():
        for i, m in enumerate(messages):
            value = m.get(field, [])
            if isinstance(value, int):
                assert (int(low[i]) & (1 << 64) - 1, high[i]) == (value, -1)
            else:
                flat, offsets = stream.numbers(low[i : i + 1], high[i : i + 1])
                assert flat.view(np.uint64).tolist() == value
                assert offsets.tolist() == [0, len(value)]


@pytest.mark.parametrize(
    "data",
    [b"", b"\x80", b"\x08", b"\x10\x01\x08\x01", b"\x08\x01\x08\x01", b"\x00\x01", b"\x0b\x0c",
     b"\x0a\x05\x01", b"\x0d\x01", b"\x0a\x01\x80\x01", b"\x08\x01" * 101,
     b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01\x01", b"\x0a" + b"\xff" * 10 + b"\x01"],
)  # fmt: skip
def test_a_damaged_message_and_one_that_is_not_plain_are_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"field|group|varint|message"):
        Stream.of(data).scan(np.array([0]), np.array([len(data)]), [1])


def test_a_tag_that_is_not_in_the_string_table_is_damage() -> None:
    strings = message([(1, list(b"")), (1, list(b"building")), (1, list(b"yes"))])
    for key in (3, 5, (1 << 64) - 1):  # it has 0 to 2
        way = message([(1, 7), (2, [key]), (3, [2]), (8, [2, 2])])
        group = b"\x1a" + number(len(way)) + way
        block = b"\x0a" + number(len(strings)) + strings + b"\x12" + number(len(group)) + group
        with pytest.raises(ValueError, match="string table"):
            list(decode_block(block))


def test_messages_that_meet_within_a_number_are_refused() -> None:
    """A text that ends above 127 takes the next message's first byte into its last number."""
    with pytest.raises(ValueError, match="ends within a number"):
        Stream.of(b"\x0a\x01\x80\x08\x01").scan(np.array([0, 3]), np.array([3, 5]), [1])


@given(st.lists(st.integers(-(1 << 63), (1 << 63) - 1)))
def test_zigzag_is_undone(numbers: list[int]) -> None:
    raw = np.array([(n << 1 ^ n >> 63) & ((1 << 64) - 1) for n in numbers], np.uint64)
    assert signed(raw).tolist() == numbers


def _village(path: Path) -> Path:
    nodes = {
        i: ({"shop": "bakery"} if i % 7 == 0 else {}, 90_000_000 + i * 100, 470_000_000 + i % 9 * 50)
        for i in range(1, 200)
    }
    ways = {i: ({"highway": "path"}, list(range(i, i + 5))) for i in range(1, 40)}
    relations = {1: ({"type": "multipolygon", "landuse": "forest"}, [("w", 1, "outer")])}
    return write(path, (nodes, ways, relations), ",pbf_compression=none")


@settings(max_examples=300)
@given(st.data())
def test_damage_is_refused_or_harmless_but_never_a_crash(tmp_path: Path, data: st.DataObject) -> None:
    raw = bytearray(_village(tmp_path / "good.osm.pbf").read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    if data.draw(st.booleans()):
        del raw[data.draw(st.integers(1, len(raw))) :]
    bad = tmp_path / "bad.osm.pbf"
    bad.write_bytes(raw)
    try:
        extract = read_extract(bad, RULES, tmp_path / "parts")
    except InputError as error:
        assert "bad.osm.pbf" in str(error)  # noqa: PT017  # either outcome is right
    else:
        assert table_of(extract).num_rows + sum(extract.drops["count"].to_pylist()) == extract.objects


def test_an_unsorted_extract_gives_the_same_features(tmp_path: Path) -> None:
    path = tmp_path / "u.osm.pbf"
    nodes = [(9, 9.0, 47.0), (3, 9.001, 47.0), (7, 9.001, 47.001), (1, 9.0, 47.001)]
    with osmium.SimpleWriter(osmium.io.File(str(path), "osm.pbf,pbf_compression=zlib")) as writer:
        for i, lon, lat in nodes:
            writer.add_node(osmium.osm.mutable.Node(id=i, location=(lon, lat), tags={"natural": "tree"}))
        writer.add_way(osmium.osm.mutable.Way(id=5, nodes=[9, 3, 7, 1, 9], tags={"building": "yes"}))
    features = table_of(read_extract(path, RULES, tmp_path / "parts")).to_pylist()
    assert [(r["osm_type"], r["osm_id"]) for r in features] == [
        ("node", 9),
        ("node", 3),
        ("node", 7),
        ("node", 1),
        ("way", 5),
    ]
    assert features[-1]["kind"] == "polygon"
    assert features[-1]["bbox"] == {"xmin": 9.0, "ymin": 47.0, "xmax": 9.001, "ymax": 47.001}
