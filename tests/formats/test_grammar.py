"""Every legal encoding says what its plain form says to libosmium."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import osmium
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.formats.pbf import block
from pipeline.formats.pbf.arrays import NOWHERE
from pipeline.formats.pbf.block import read_blocks
from pipeline.formats.pbf.header import blobs
from pipeline.formats.wire import scan
from pipeline.osm.extracts.read import read_extract
from schemas.features import ObjectType
from tests.formats.grammar import File, Group, Odd, Plain, some_file, write
from tests.fuzz.osm import village
from tests.osm.opl import RULES
from tests.osm.tables import table_of


def by_libosmium(path: Path) -> list[Any]:
    """Objects as (type, id, version, seconds, visible, tags, what it is made of)."""
    found = []
    for o in osmium.FileProcessor(str(path)):
        tags: dict[str, str] = {}
        for t in o.tags:
            tags.setdefault(t.k, t.v)
        kind = o.type_str()
        if kind == "n":
            content: Any = (o.location.x, o.location.y) if o.visible else None
        elif kind == "w":
            content = [(n.ref, n.location.x, n.location.y) for n in o.nodes]
        else:
            content = [(m.type, m.ref, m.role) for m in o.members]
        found.append((kind, o.id, o.version, int(o.timestamp.timestamp()), o.visible, sorted(tags.items()), content))
    return sorted(found, key=repr)


def by_us(path: Path) -> list[Any]:
    """The same, through our blocks."""
    found = []
    with path.open("rb") as file:
        for b in (b for blob in blobs(path)[1] for b in read_blocks(file, blob, path)):
            r, w, n = b.relations, b.ways, b.nodes
            places = (w.lon, w.lat) if len(w.lon) else ([NOWHERE] * len(w.refs),) * 2
            refs = [(int(i), int(x), int(y)) for i, x, y in zip(w.refs, *places, strict=True)]
            members = zip(r.types, r.members, r.roles, strict=True)
            roles = [("nwr"[t], int(m), b.strings[role]) for t, m, role in members]
            contents = (
                ("n", n.objects, [(int(x), int(y)) for x, y in zip(n.lon, n.lat, strict=True)], None),
                ("w", w.objects, refs, w.offsets),
                ("r", r.objects, roles, r.offsets),
            )
            for kind, objects, content, offsets in contents:
                for i, identity in enumerate(objects.ids.tolist()):
                    t = slice(*objects.tags.offsets[i : i + 2].tolist())
                    keys, values = objects.tags.keys[t].tolist(), objects.tags.values[t].tolist()
                    tags = [(b.strings[k], b.strings[v]) for k, v in zip(keys, values, strict=True)]
                    visible = bool(objects.visible[i])
                    own = content[i] if offsets is None else content[offsets[i] : offsets[i + 1]]
                    found.append((
                        kind, identity, int(objects.versions[i]), int(objects.timestamps[i]), visible, sorted(tags),
                        own if kind != "n" or visible else None,
                    ))  # fmt: skip
    return sorted(found, key=repr)


def stored(path: Path, file: File, form: Plain) -> Path:
    path.write_bytes(write(file, form))
    return path


@settings(max_examples=500)
@given(st.integers(0, 1 << 62), st.sampled_from([0.02, 0.1, 0.4]))
def test_every_legal_encoding_says_what_libosmium_reads_in_the_plain_one(
    tmp_path: Path, seed: int, rate: float
) -> None:
    rng = random.Random(seed)
    file = some_file(rng)
    right = by_libosmium(stored(tmp_path / "plain.osm.pbf", file, Plain()))
    assert by_us(tmp_path / "plain.osm.pbf") == right
    assert by_us(stored(tmp_path / "odd.osm.pbf", file, Odd(rng, rate))) == right


@pytest.mark.parametrize(("messages", "size"), [(1, 1 << 20), (2, 30), (100, 1)])
def test_a_block_says_the_same_however_many_of_its_messages_are_decoded_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, messages: int, size: int
) -> None:
    for seed in range(40):
        rng = random.Random(seed)
        path = stored(tmp_path / "x.osm.pbf", some_file(rng), Odd(rng, 0.02))
        whole = by_us(path)
        with monkeypatch.context() as patched:
            patched.setattr(block, "_MESSAGES", messages)
            patched.setattr(block, "_RUN", size)
            patched.setattr(block, "_PIECE", size)
            assert by_us(path) == whole


@pytest.mark.parametrize("piece", [1, 3])
def test_versions_are_told_apart_in_a_block_that_is_read_in_pieces(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, piece: int
) -> None:
    """Of three objects of a type, in any order and version, with nodes of their own and dense ones."""
    for seed in range(3):
        rng = random.Random(seed)
        block_of = village(rng).blocks[0]
        own = block_of.groups[0]
        nodes = [replace(o, version=rng.randint(1, 3), lon=o.lon + 1) for o in own.dense[0]]
        ways = [replace(o, version=rng.randint(1, 3), refs=o.refs[::-1], places=None) for o in own.ways]
        relations = [replace(o, version=rng.randint(1, 4), members=o.members[:1]) for o in own.relations]
        group = Group(nodes, own.dense, [*ways, *own.ways], [*relations, *own.relations], True)
        path = stored(tmp_path / "x.osm.pbf", File(None, None, [replace(block_of, groups=[group])]), Plain())
        whole = read_extract(path, RULES, tmp_path / "whole")
        with monkeypatch.context() as patched:
            patched.setattr(block, "_PIECE", piece)
            patched.setattr(block, "_MESSAGES", 1)
            pieces = read_extract(path, RULES, tmp_path / "pieces")
        assert len(whole.parts) > 1
        assert table_of(pieces).equals(table_of(whole))
        assert pieces.drops.equals(whole.drops)


@settings(max_examples=80)
@given(st.integers(0, 1 << 62), st.sampled_from([0.0, 0.01, 0.1]))
def test_heads_of_ways_are_those_of_the_whole_ways(tmp_path: Path, seed: int, rate: float) -> None:
    rng = random.Random(seed)
    path = stored(tmp_path / "x.osm.pbf", some_file(rng), Odd(rng, rate))
    with path.open("rb") as file:
        for blob in blobs(path)[1]:
            heads = [b.way_heads for b in read_blocks(file, blob, path, (), way_heads=True)]
            whole = [b.ways.objects for b in read_blocks(file, blob, path, (ObjectType.WAY,))]
            for name in ("ids", "versions", "timestamps", "visible"):
                assert [getattr(h, name).tolist() for h in heads] == [getattr(w, name).tolist() for w in whole]


@pytest.mark.parametrize(
    "changed",
    [b"\x08", b"\x08\x01\x22", b"\x08\x01\x22\x05\x08\x01", b"\x22\x00\x08\x01", b"\x0d\x01\x01\x01\x01",
     b"\x08" + b"\xff" * 8 + b"\x01", b"\x08\x01\x08\x02", b"\x10\x01" * 101, b"\x12\xff\xff\xff\xff\x7f"],
)  # fmt: skip
def test_heads_are_read_from_plain_messages_alone(changed: bytes) -> None:
    with pytest.raises(ValueError, match=r"field|varint|message"):
        scan(np.frombuffer(changed, np.uint8), np.array([0]), np.array([len(changed)]), (1, 4))
