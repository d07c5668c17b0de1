"""OSM PBF, change files, and vector tiles."""

from __future__ import annotations

import gzip
import random
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import osmium

from pipeline.formats.mvt import TilePoint, decode_points, encode_points
from pipeline.osm.clip import clip_changes
from pipeline.osm.extracts.changes import apply_changes
from pipeline.osm.extracts.read import read_extract
from pipeline.regions.replication import check_diff, parse_state
from tests.formats.grammar import Block, File, Group, Object, Odd, Part, Plain, framed, header, some_file, written
from tests.fuzz.damage import Files, Rng, Target, by_bytes, by_text, ended, of_files
from tests.osm.opl import GRID, RULES, opl
from tests.osm.tables import table_of

#: Inputs that are damage to one file: to write one costs as much as to read it.
_EACH = 4
#: What is more likely to be taken wrong than any byte: ends of ranges as varints, signs, tags of each wire type.
_TRICKY = (
    b"\xff" * 9 + b"\x01", b"\xff" * 9 + b"\x7f", b"\x80" * 10, b"\x80" * 9 + b"\x01", b"\xff\xff\xff\xff\x07",
    b"\xff\xff\xff\xff\x0f", b"\x80\x80\x80\x10", b"\x00", b"\x01", b"\x7f", b"\x80", b"\xff", b"\x03", b"\x04",
    b"\x0a", b"\x12", b"\x1a", b"\x22", b"\x2a", b"\x08", b"\x0d", b"\x09", b"\x88\x01", b"\x90\x01\x00",
)  # fmt: skip


def village(rng: random.Random) -> File:
    """Points, lines, areas and a multipolygon, with and without their nodes' places on ways."""
    xy = {1 + i + 4 * j: (90_000_000 + i * 10_000, 470_000_000 + j * 10_000) for j in range(4) for i in range(4)}
    rings = {1: [1, 4, 16, 13, 1], 2: [6, 7, 11, 10, 6], 3: [1, 2, 3], 4: [3, 4, 16], 5: [16, 13, 1]}
    tags = [[], [("building", "yes")], [("highway", "path")], [("natural", "water"), ("name", "")]]
    located = rng.random() < 0.3
    nodes = [Object(i, rng.choice(tags), 1, 1000 * i, rng.random() < 0.98, *place) for i, place in xy.items()]
    ways = [
        Object(i, rng.choice(tags), 2, 9, True, refs=refs, places=[xy[r] for r in refs] if located else None)
        for i, refs in rings.items()
    ]
    area = [("type", "multipolygon"), ("natural", "water")]
    members = [[(1, 1, "outer"), (1, 2, "inner")], [(1, 3, ""), (1, 4, ""), (1, 5, "outer")]]
    relations = [Object(i, area, 3, 9, True, members=m) for i, m in enumerate(members, 1)]
    group = Group([], [nodes], ways, relations, True)
    return File((-(10**9), 10**9, 10**9, -(10**9)), 1_600_000_000, [Block(100, 0, 0, 1000, [group])])


class Wild(Odd):
    """Sound messages of unsound numbers: any of any field, and lists that are too long or too short."""

    def scalar(self, number: int, value: int) -> list[Part]:
        return super().scalar(number, self._wild(value))

    def list(self, number: int, values: Sequence[int]) -> list[Part]:
        changed = [self._wild(v) for v in values]
        if self.odd():
            changed = changed[self.rng.randint(0, 2) :] + changed[: self.rng.randint(0, 2)]
        return super().list(number, changed)

    def _wild(self, value: int) -> int:
        if not self.odd():
            return value
        end = 1 << self.rng.choice([7, 8, 15, 16, 30, 31, 32, 33, 53, 61, 62, 63, 64])
        near = [0, 1, 2, -value, value + 1, value - 1]
        return self.rng.choice([*near, end, end - 1, end + 1, -end, self.rng.getrandbits(64)])


@lru_cache(maxsize=2)
def _file(number: int) -> tuple[Plain, list[bytes]]:
    """How a file is written, and its header and blocks."""
    rng = random.Random(number)
    file = village(rng) if rng.random() < 0.8 else some_file(rng)
    form = rng.choice([Plain(), Odd(rng, 0.05), Wild(rng, 0.003), Wild(rng, 0.03)])
    return form, [header(file, form), *(written(block, form) for block in file.blocks)]


def mutated(number: int) -> bytes:
    """One PBF file."""
    form, contents = _file(number // _EACH)
    rng = random.Random(number)
    contents = list(contents)
    at = rng.randrange(len(contents)) if rng.random() < 0.1 else len(contents) - 1
    if not isinstance(form, Wild) or number % _EACH or rng.random() < 0.2:
        # Lengths and checksums of blobs hold, so that what is within is read.
        contents[at] = _changed(contents[at], rng)
    frame = form if rng.random() < 0.2 else Plain()
    data = b"".join(framed(frame, "OSMData" if i else "OSMHeader", content) for i, content in enumerate(contents))
    return _changed(data, rng) if rng.random() < 0.2 else data


def _changed(data: bytes, rng: random.Random) -> bytes:
    raw = bytearray(data)
    for _ in range(rng.choice([1, 1, 1, 2, 3, 8])):
        at = rng.randrange(len(raw) + 1)
        to = min(len(raw), at + rng.choice([1, 1, 2, 4, 8, 30]))
        match rng.randrange(8):
            case 0:
                raw[at:to] = rng.randbytes(to - at)
            case 1 if at < len(raw):
                raw[at] ^= 1 << rng.randrange(8)
            case 2 if at < len(raw):
                raw[at] = (raw[at] + rng.choice([1, -1, 2, -2])) % 256
            case 3:
                raw[at:at] = rng.choice(_TRICKY)
            case 4:
                raw[at : at + 1] = rng.choice(_TRICKY)
            case 5:
                del raw[at:to]
            case 6:
                raw[at:at] = raw[at:to] * rng.choice([1, 2, 50])
            case 7 if rng.random() < 0.3:
                del raw[at:]
            case _:
                raw[at:to] = bytes(rng.choice(_TRICKY)[:1] * (to - at))
    return bytes(raw)


def whole() -> bytes:
    """A village as it should be."""
    rng = random.Random(0)
    file, form = village(rng), Plain()
    contents = [("OSMHeader", header(file, form)), *(("OSMData", written(block, form)) for block in file.blocks)]
    return b"".join(framed(form, kind, content) for kind, content in contents)


def read_pbf(path: Path) -> str:
    """Features and named drops, which are all of its objects."""

    def found() -> str:
        extract = read_extract(path, RULES, path.parent / "parts")
        features, named = table_of(extract).num_rows, sum(extract.drops["count"].to_pylist())
        assert features + named == extract.objects, f"{extract.objects} objects, {features} features, {named} drops"
        return "read" if features else "dropped"

    return ended(found, lambda text: str(path) in text)


def changes() -> list[Files]:
    """A change file, and the extract that it changes."""
    change = """<?xml version="1.0" encoding="UTF-8"?><osmChange version="0.6" generator="x">
<modify><node id="5" version="2" timestamp="2024-06-02T00:00:00Z" lat="47.0015" lon="9.0012"><tag k="natural" v="tree"/>
</node></modify><create><node id="20" version="1" timestamp="2024-06-02T00:00:01Z" lat="47.001" lon="9.002"/>
<way id="7" version="1" timestamp="2024-06-02T00:00:02Z"><nd ref="1"/><nd ref="5"/><nd ref="20"/>
<tag k="highway" v="path"/></way><relation id="3" version="1"><member type="way" ref="7" role="outer"/>
<tag k="type" v="multipolygon"/></relation></create>
<delete><node id="9" version="2" timestamp="2024-06-02T00:00:03Z" lat="47.002" lon="9.002"/></delete></osmChange>"""
    with TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "a.opl").write_text(opl(GRID + "\nw1 v1 Tbuilding=yes Nn1,n2,n5,n4,n1"), encoding="utf-8")
        header = osmium.io.Header()
        header.add_box(osmium.osm.Box(9, 47, 9.0015, 47.0015))
        with osmium.SimpleWriter(str(folder / "base.osm.pbf"), header=header) as writer:
            for thing in osmium.FileProcessor(str(folder / "a.opl")):
                writer.add(thing)
        base = (folder / "base.osm.pbf").read_bytes()
    return [{"x.osc": change.encode(), "base.osm.pbf": base}]


def by_xml(data: bytes, name: str, rng: Rng) -> bytes:
    """Damage of the text, most often; of the extract, of any byte."""
    return by_text(data, name, rng) if name.endswith(".osc") else by_bytes(data, name, rng)


def read_changes(path: Path) -> str:
    """Clipped to the extract and applied, and what comes out read."""
    base, own, target = (path.parent / name for name in ("base.osm.pbf", "own.osc.gz", "new.osm.pbf"))

    def found() -> str:
        clip_changes(base, [path], own)
        apply_changes(base, [own], target)
        return "read" if read_extract(target, RULES, path.parent / "parts").objects else "dropped"

    return ended(found, of_files(path))


def states() -> list[Files]:
    """What a replication server sends: a diff, and a state."""
    state = b"#Tue Jan 06 20:21:51 UTC 2026\ntimestamp=2026-01-06T20\\:21\\:51Z\nsequenceNumber=3402\n"
    return [{"x.osc": changes()[0]["x.osc"]}, {"x.state.txt": state}]


def read_state(path: Path) -> str:
    """A diff as it is checked once it is packed and sent; or a state."""

    def found() -> str:
        if path.suffix == ".txt":
            parse_state(path.read_bytes(), str(path))
        else:
            packed = path.with_suffix(".osc.gz")
            packed.write_bytes(gzip.compress(path.read_bytes()))
            check_diff(packed)
        return "read"

    return ended(found, lambda text: bool(text))  # the download names the diff's URL


def texts() -> list[Files]:
    """Extracts as XML, plain and packed, and as OPL."""
    grid = opl(GRID + "\nw1 v1 Tbuilding=yes Nn1,n2,n5,n4,n1\nr1 v1 Ttype=multipolygon,natural=water Mw1@outer")
    with TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "a.opl").write_text(grid, encoding="utf-8")
        for target in ("x.osm", "x.osm.gz"):
            with osmium.SimpleWriter(str(folder / target)) as writer:
                for thing in osmium.FileProcessor(str(folder / "a.opl")):
                    writer.add(thing)
        return [{n: (folder / n).read_bytes()} for n in ("x.osm", "a.opl", "x.osm.gz")]


def by_name(data: bytes, name: str, rng: Rng) -> bytes:
    """Damage of the text, and sometimes another head of it; of what is packed, of any byte."""
    if name.endswith("gz"):
        return by_bytes(data, name, rng)
    made = by_text(data, name, rng)
    heads = (
        b"<!DOCTYPE osm SYSTEM 'file:///etc/hostname'>",
        b"<!DOCTYPE x [<!ENTITY a 'b'>]>",
        b"<?xml version='1.1'?>",
    )
    return heads[int(rng.integers(3))] + made if rng.random() < 0.05 else made


def tiles() -> list[Files]:
    """A vector tile of photos, as Mapillary serves them."""
    values: dict[str, Any] = {"id": 2**60 + 1, "is_pano": True, "sequence_id": "ä", "compass_angle": -3, "x": 0.5}
    return [{"a.mvt": encode_points([TilePoint(0.25, 0.5, values), TilePoint(0.75, 0.125, values)], "image")}]


def read_tile(path: Path) -> str:
    """Its points."""
    return ended(lambda: "read" if decode_points(path.read_bytes(), "image", "a.mvt") else "dropped", of_files(path))


TARGETS = {
    "pbf": Target(
        lambda: [{"x.osm.pbf": whole()}], read_pbf, make=lambda number: {"x.osm.pbf": mutated(number)}, cost=0.2
    ),
    "osc": Target(changes, read_changes, by_xml), "states": Target(states, read_state, by_text),
    "xml": Target(texts, read_pbf, by_name),
    "mvt": Target(tiles, read_tile),
}  # fmt: skip
