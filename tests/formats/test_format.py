"""The whole PBF format: what its files say becomes features or named drops, or is refused in one line."""

from __future__ import annotations

import bz2
import lzma
import subprocess
import sys
import tracemalloc
import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import duckdb
import osmium
import pyarrow as pa
import pytest
import shapely

from pipeline.osm.extracts.read import Extract, read_extract
from schemas.errors import InputError
from tests.formats.grammar import Block, File, Group, Object, Part, Plain, framed, header, write, written
from tests.osm.opl import GRID, RULES
from tests.osm.opl import read as read_opl
from tests.osm.test_read import accounted, counted, dropped, features

PLACES = {1 + i + 3 * j: (90_000_000 + i * 10_000, 470_000_000 + j * 10_000) for j in range(3) for i in range(3)}
RING, PATH = [1, 3, 9, 7, 1], [1, 5, 9]
AREA = [("type", "multipolygon"), ("landuse", "forest")]


def node(osm_id: int, *tags: tuple[str, str], **more: Any) -> Object:
    lon, lat = PLACES.get(osm_id, (90_000_000, 470_000_000))
    return replace(Object(osm_id, list(tags), 1, 0, True, lon, lat), **more)


def way(osm_id: int, refs: list[int], *tags: tuple[str, str], located: bool = False, **more: Any) -> Object:
    places = [PLACES[r] for r in refs] if located else None
    return replace(Object(osm_id, list(tags), 1, 0, True, refs=refs, places=places), **more)


def area(osm_id: int, *ways: int, **more: Any) -> Object:
    return replace(Object(osm_id, AREA, 1, 0, True, members=[(1, w, "outer") for w in ways]), **more)


def nodes() -> list[Object]:
    return [node(i) for i in PLACES]


def block(
    dense: list[Object],
    ways: Sequence[Object] = (),
    relations: Sequence[Object] = (),
    scale: tuple[int, int, int, int] = (100, 0, 0, 1000),
) -> Block:
    return Block(*scale, [Group([], [dense], list(ways), list(relations), True)])


def extract(folder: Path, what: Block | File | bytes, form: Plain | None = None) -> Extract:
    if isinstance(what, Block):
        what = File(None, None, [what])
    path = folder / "x.osm.pbf"
    path.write_bytes(what if isinstance(what, bytes) else write(what, form or Plain()))
    return read_extract(path, RULES, folder / "parts")


def refusal(folder: Path, data: bytes) -> str:
    with pytest.raises(InputError, match=r"x\.osm\.pbf") as error:
        extract(folder, data)
    assert "\n" not in str(error.value)
    return str(error.value)


WORLD = block(
    [*nodes(), node(20, ("shop", "bakery"))],
    [way(5, RING, ("building", "yes")), way(6, PATH, ("highway", "path")), way(7, RING)],
    [area(9, 7)],
)
WORLD_OPL = f"""{GRID}
n20 v1 x9 y47 Tshop=bakery
w5 v1 Tbuilding=yes Nn1,n3,n9,n7,n1
w6 v1 Thighway=path Nn1,n5,n9
w7 v1 Nn1,n3,n9,n7,n1
r9 v1 Ttype=multipolygon,landuse=forest Mw7@outer"""


def shapes(of: Extract) -> dict[tuple[str, int], Any]:
    return {key: (row["kind"], dict(row["tags"]), row["geometry"]) for key, row in features(of).items()}


def test_ways_and_areas_are_built_from_the_places_that_ways_carry(tmp_path: Path) -> None:
    """LocationsOnWays drops the nodes without tags."""
    ways = [
        way(5, RING, ("building", "yes"), located=True),
        way(6, PATH, ("highway", "path"), located=True),
        way(7, RING, located=True),
    ]
    found = extract(tmp_path, block([node(20, ("shop", "bakery"))], ways, [area(9, 7)]))
    right = read_opl(tmp_path, WORLD_OPL)
    assert shapes(found) == shapes(right)
    assert found.extents == right.extents
    assert accounted(found)


def test_osmiums_own_places_on_ways_give_the_features_of_the_whole(tmp_path: Path) -> None:
    right = read_opl(tmp_path, WORLD_OPL)
    path = tmp_path / "located.osm.pbf"
    with osmium.SimpleWriter(osmium.io.File(str(path), "osm.pbf,locations_on_ways=true")) as writer:
        for o in osmium.FileProcessor(str(tmp_path / "x.opl")).with_locations():
            if not o.is_node() or len(o.tags):
                writer.add(o)
    found = read_extract(path, RULES, tmp_path / "parts")
    assert shapes(found) == shapes(right)
    assert found.extents == right.extents


def test_a_place_that_a_way_lacks_is_that_of_its_node(tmp_path: Path) -> None:
    nowhere = (1 << 31) - 1
    ways = [
        way(5, PATH, ("highway", "path"), located=True),
        way(6, PATH, ("highway", "path"), places=[PLACES[1], (nowhere, nowhere), PLACES[9]]),
        way(7, PATH, ("highway", "path")),
        way(8, [1, 404], ("highway", "path"), places=[PLACES[1], (nowhere, nowhere)]),
    ]
    found = extract(tmp_path, block(nodes(), ways))
    assert len({row["geometry"] for row in features(found).values()}) == 1
    assert list(features(found)) == [("way", 5), ("way", 6), ("way", 7)]
    assert dropped(found) == {("way", 8): "missing_nodes"}


@pytest.mark.parametrize("feature", ["FancyNewEncoding", "DenseNodes2", "a\nb", "\x00" * 3000])
def test_an_unknown_required_feature_is_refused_by_name(tmp_path: Path, feature: str) -> None:
    file = File(None, None, [WORLD])
    head = framed(Plain(), "OSMHeader", header(file, Plain(), ["OsmSchema-V0.6", feature]))
    message = refusal(tmp_path, head + framed(Plain(), "OSMData", written(WORLD, Plain())))
    assert ascii(feature)[1:-1][:40] in message
    assert "download" not in message


class TwiceInTable(Plain):
    """Each text stands in the string table twice, and the second is used."""

    def strings(self, texts: list[str]) -> tuple[list[str], dict[str, list[int]]]:
        table, _ = super().strings(texts)
        return [*table, *table], {text: [i + len(table)] for i, text in enumerate(table)}


class OncePerUse(Plain):
    """Each use of a text has an entry of its own."""

    def strings(self, texts: list[str]) -> tuple[list[str], dict[str, list[int]]]:
        table = ["", *texts]
        return table, {text: [i for i, t in enumerate(table) if t == text] for text in table}

    def choose(self, index: list[int]) -> int:
        return index.pop() if len(index) > 1 else index[0]


@pytest.mark.parametrize("form", [TwiceInTable, OncePerUse])
def test_texts_are_compared_not_their_places_in_the_table(tmp_path: Path, form: type[Plain]) -> None:
    found = extract(tmp_path, replace(WORLD, groups=WORLD.groups * 1), form())
    assert shapes(found) == shapes(read_opl(tmp_path, WORLD_OPL))


def test_deleted_objects_are_counted_and_used_for_nothing(tmp_path: Path) -> None:
    world = block(
        [*nodes(), node(20, ("shop", "bakery"), visible=False), node(21, visible=False)],
        [
            way(5, RING, ("building", "yes"), visible=False),
            way(6, [1, 21], ("highway", "path")),
            way(7, RING, visible=False),
            way(8, PATH, ("highway", "path")),
        ],
        [area(9, 7), area(10, 7, visible=False)],
    )
    found = extract(tmp_path, world)
    assert list(features(found)) == [("way", 8)]
    assert dropped(found) == {("way", 6): "missing_nodes", ("relation", 9): "invalid_area"}
    assert counted(found) == {
        ("node", "deleted", ""): 2,
        ("node", "no_tags", ""): 9,
        ("way", "deleted", ""): 2,
        ("relation", "deleted", ""): 1,
    }
    assert accounted(found)


class Packed(Plain):
    """Blobs packed in one way after the other."""

    def __init__(self, *ways: Callable[[bytes], list[Part]]) -> None:
        self.ways = list(ways)

    def packed(self, content: bytes) -> list[Part]:
        return self.ways.pop(0)(content)


def sized(field: int, pack: Callable[[bytes], bytes]) -> Callable[[bytes], list[Part]]:
    return lambda content: [*Plain().scalar(2, len(content)), *Plain().blob(field, pack(content))]


RAW, ZLIB = sized(1, bytes), sized(3, zlib.compress)
LZ4 = sized(6, lambda data: bytes(pa.Codec("lz4_raw").compress(data, asbytes=True)))


@pytest.mark.parametrize("order", [(RAW, ZLIB, LZ4), (ZLIB, LZ4, RAW), (LZ4, RAW, ZLIB)])
def test_raw_zlib_and_lz4_blobs_are_read_in_any_mixture(tmp_path: Path, order: Any) -> None:
    halves = [block(nodes()), block([node(20, ("shop", "bakery"))], WORLD.groups[0].ways, WORLD.groups[0].relations)]
    # Blobs of the data are packed before the header's.
    found = extract(tmp_path, File(None, None, halves), Packed(*order))
    assert shapes(found) == shapes(read_opl(tmp_path, WORLD_OPL))


@pytest.mark.parametrize("pack", [ZLIB, LZ4])
@pytest.mark.parametrize("error", [-1, 1, 40])
def test_a_blob_that_does_not_unpack_to_what_it_says_is_damaged(tmp_path: Path, pack: Any, error: int) -> None:
    def lying(content: bytes) -> list[Part]:
        _, data = pack(content)
        return [*Plain().scalar(2, len(content) + error), data]

    message = refusal(tmp_path, write(File(None, None, [WORLD]), Packed(lying, ZLIB)))
    assert "damaged" in message
    assert "unpack to the" in message


def test_a_blob_whose_zlib_data_are_cut_is_damaged(tmp_path: Path) -> None:
    """Also one that does not say to how much it unpacks; what is lost is the checksum alone."""
    form = Packed(lambda content: list(Plain().blob(3, zlib.compress(content)[:-1])), ZLIB)
    assert "damaged" in refusal(tmp_path, write(File(None, None, [WORLD]), form))


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize(
    ("name", "field", "pack"),
    [
        ("lzma", 4, lzma.compress),
        ("bzip2", 5, bz2.compress),
        ("zstd", 7, lambda data: bytes(pa.Codec("zstd").compress(data, asbytes=True))),
    ],
)
def test_other_compressions_are_refused_with_the_command_that_converts_them(
    tmp_path: Path, name: str, field: int, pack: Any, first: bool
) -> None:
    blocks = [WORLD, block(nodes())]
    form = Packed(*([sized(field, pack), ZLIB] if first else [ZLIB, sized(field, pack)]), ZLIB)
    message = refusal(tmp_path, write(File(None, None, blocks), form))
    assert name in message
    assert " cat " in message
    assert "download" not in message


@cache
def zeros(size: int) -> bytes:
    packer = zlib.compressobj(9)
    return b"".join(packer.compress(bytes(1 << 20)) for _ in range(size >> 20)) + packer.flush()


def bomb(size: int, told: int | None) -> bytes:
    """A blob that unpacks to ``size`` bytes and tells of ``told``."""
    packed = zeros(size)
    content = b"".join(
        data for _, data in Plain().blob(3, packed) + (Plain().scalar(2, told) if told is not None else [])
    )
    head = b"".join(data for _, data in Plain().blob(1, b"OSMData") + Plain().scalar(3, len(content)))
    return write(File(None, None, []), Plain()) + len(head).to_bytes(4, "big") + head + content


@pytest.mark.parametrize("told", [None, 300 << 20, 1000, 32 << 20, -1, 0])
def test_a_blob_that_unpacks_to_more_than_it_may_is_refused_before_memory_grows(
    tmp_path: Path, told: int | None
) -> None:
    data = bomb(300 << 20, told)
    assert len(data) < 1 << 20
    tracemalloc.start()
    message = refusal(tmp_path, data)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert "bytes" in message
    assert peak < 120 << 20


def test_a_blob_of_32_mib_is_read(tmp_path: Path) -> None:
    pad = Plain().blob(60, bytes((32 << 20) - 4000))
    content = written(WORLD, Plain()) + b"".join(data for _, data in pad)
    assert len(content) < 32 << 20
    data = framed(Plain(), "OSMHeader", header(File(None, None, []), Plain())) + framed(Plain(), "OSMData", content)
    assert shapes(extract(tmp_path, data)) == shapes(read_opl(tmp_path, WORLD_OPL))


#: Reads one extract: processor seconds, most memory in MB, what came of it.
MEASURED = """
import sys, time
from pathlib import Path
from pipeline.osm.extracts.read import read_extract
from pipeline.rules import load_rules
from schemas.errors import InputError
rules = load_rules()
for path in map(Path, sys.argv[1:]):
    begin = time.process_time()
    try:
        result = f"{read_extract(path, rules, path.parent / 'parts').objects} objects"
    except InputError as error:
        result = str(error)
    most = next(int(l.split()[1]) // 1024 for l in open("/proc/self/status") if l.startswith("VmHWM:"))
    print(f"{time.process_time() - begin} {most} {result}")
"""


def fields(*parts: list[Part]) -> bytes:
    return b"".join(data for part in parts for _, data in part)


def test_what_no_map_has_takes_neither_time_nor_memory(tmp_path: Path) -> None:
    """Blocks of 32 MiB: a way of 32 million nodes; ways with fields that no one knows; empty groups."""
    plain = Plain()
    table = plain.blob(1, fields(plain.blob(1, b"")))
    long = fields(plain.scalar(1, 7), plain.blob(8, b"\2" * (31 << 20)))
    odd = fields(plain.blob(3, fields(plain.scalar(1, 7)) + b"\xe5\x03abcd"))
    contents = [
        fields(table, plain.blob(2, fields(plain.blob(3, long)))),
        fields(table, plain.blob(2, odd * 3_000_000)), fields(table) + b"\x12\0" * (16_700_000),
    ]  # fmt: skip
    head = framed(plain, "OSMHeader", header(File(None, None, []), plain))
    paths = [tmp_path / f"{number}.osm.pbf" for number in range(len(contents))]
    for path, content in zip(paths, contents, strict=True):
        assert len(content) <= 32 << 20
        path.write_bytes(head + framed(plain, "OSMData", content))
    words = [sys.executable, "-c", MEASURED, *map(str, paths)]
    output = subprocess.run(words, check=True, capture_output=True, text=True).stdout.splitlines()
    found = [line.split(" ", 2) for line in output]
    assert max(float(seconds) for seconds, _, _ in found) < 5
    assert max(int(megabytes) for _, megabytes, _ in found) < 1000
    for (_, _, told), own in zip(
        found,
        ("a way of 32,505,", "3,000,000 messages of ways", "0 objects"),
        strict=True,
    ):
        assert own in told


@pytest.mark.parametrize(
    ("name", "bound", "told"),
    [("block._MOST_BYTES", 8, "bytes, of 8 that are read"), ("block._MOST_PARSED", 0, "more than 0 objects"),
     ("block._MOST", {"dense": 0}, "1 messages of dense, of 0"), ("block._MOST", {"ways": 2}, "3 messages of ways"),
     ("frame._MOST_TEXTS", 3, "texts, of 3 that are read"), ("dense._MOST", 9, "numbers in one list of dense nodes")],
)  # fmt: skip
def test_what_is_beyond_a_bound_is_refused_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, bound: Any, told: str
) -> None:
    monkeypatch.setattr(f"pipeline.formats.pbf.{name}", bound)
    message = refusal(tmp_path, write(File(None, None, [WORLD]), Unusual() if "PARSED" in name else Plain()))
    assert told in message
    assert f"osmium cat {tmp_path / 'x.osm.pbf'}" in message


class Unusual(Plain):
    """Fields backwards."""

    def message(self, parts: Iterable[Part]) -> bytes:
        return super().message(reversed(list(parts)))


@pytest.mark.parametrize(
    "data",
    [b"\xff\xff\xff\xff", b"\x00\x01\x00\x01" + bytes(1 << 17), b"\x00\x00\x00\x00" * 9,
     b"\x00\x00\x00\x0d\x0a\x07OSMData\x18\xff\xff\xff\xff\x07",
     b"\x00\x00\x00\x12\x0a\x07OSMData\x18" + b"\xff" * 9 + b"\x01"],
)  # fmt: skip
def test_sizes_beyond_the_formats_bounds_are_refused(tmp_path: Path, data: bytes) -> None:
    assert "damaged" in refusal(tmp_path, write(File(None, None, []), Plain()) + data)


@pytest.mark.parametrize("stamp", [-1, -(1 << 63), 1 << 32, (1 << 63) - 1, 0])
def test_a_date_that_is_none_is_no_date(tmp_path: Path, stamp: int) -> None:
    for scale in ((100, 0, 0, 1000), (100, 0, 0, -1000), (100, 0, 0, (1 << 31) - 1), (100, 0, 0, 0)):
        changed = (node(20, ("shop", "bakery"), stamp=stamp), way(5, RING, ("building", "yes"), stamp=stamp))
        if stamp == -1 and scale[3] < 0:
            continue  # that one is a second after 1970
        world = block([*nodes(), changed[0]], [changed[1]], scale=scale)
        found = extract(tmp_path, File(None, stamp, [world]))
        assert [row["timestamp"] for row in features(found).values()] == [None, None]
        assert found.snapshot is None


def test_without_a_sound_replication_time_the_newest_object_tells_the_time(tmp_path: Path) -> None:
    world = block([node(20, ("shop", "bakery"), stamp=1_600_000_000)])
    for stamp in (None, -5, 1 << 62):
        assert extract(tmp_path, File(None, stamp, [world])).snapshot == "2020-09-13T12:26:40Z"
    assert extract(tmp_path, File(None, 1_500_000_000, [world])).snapshot == "2017-07-14T02:40:00Z"


def test_of_a_key_that_an_object_has_twice_the_first_value_stays_and_duckdb_reads_the_tags(tmp_path: Path) -> None:
    twice = ("shop", "bakery"), ("name", "A"), ("shop", "kiosk"), ("name", "B"), ("shop", "bakery")
    world = block([*nodes(), node(20, *twice)], [way(5, RING, ("building", "yes"), ("area", "no"), ("building", "no"))])
    found = extract(tmp_path, world, OncePerUse())
    rows = features(found)
    assert rows["node", 20]["tags"] == [("shop", "bakery"), ("name", "A")]
    assert (rows["way", 5]["kind"], dict(rows["way", 5]["tags"])) == ("line", {"building": "yes", "area": "no"})
    parts = [p.path for p in found.parts]
    assert duckdb.sql(
        "select tags['shop'] from read_parquet($p) where osm_id = 20", params={"p": parts}
    ).fetchall() == [("bakery",)]


def test_texts_that_are_no_utf8_are_one_key_if_they_read_the_same(tmp_path: Path) -> None:
    class Bytes(Plain):
        def blob(self, number: int, content: bytes) -> list[Part]:
            return super().blob(number, content.replace(b"K1", b"\xff\xfe").replace(b"K2", b"\xfd\xfc"))

    found = extract(tmp_path, block([node(20, ("shop", "x"), ("K1", "a"), ("K2", "b"))]), Bytes())
    assert features(found)["node", 20]["tags"] == [("shop", "x"), ("\ufffd\ufffd", "a")]


@pytest.mark.parametrize(
    ("scale", "lon", "there"),
    [
        (((1 << 31) - 1, 0, 0, 1000), 1 << 62, False),
        ((-(1 << 31), 0, 0, 1000), -(1 << 62), False),
        ((100, 0, (1 << 63) - 1, 1000), 1, False),
        ((100, -(1 << 63), 0, 1000), -1, False),
        ((100, (1 << 62) + 5, 0, 1000), -((1 << 62) // 100), True),
        ((1, 0, 0, 1000), 1_799_999_999_99, True),
        ((1, 0, 0, 1000), -1_799_999_999_99, True),
        ((0, 9_000_000_000, 47_000_000_000, 1000), 1 << 62, True),
        ((-100, 18_000_000_000, 94_000_000_000, 1000), 90_000_000, True),
    ],
)
def test_places_are_those_of_exact_arithmetic_or_out_of_range(
    tmp_path: Path, scale: tuple[int, int, int, int], lon: int, there: bool
) -> None:
    granularity, lon_offset, lat_offset, _ = scale
    lat = 470_000_000
    world = block([node(20, ("shop", "x"), lon=lon, lat=lat), node(21, ("shop", "y"), lon=0, lat=0)], scale=scale)
    found = extract(tmp_path, world)
    exact = [lon_offset + granularity * lon, lat_offset + granularity * lat]
    fits = abs(exact[0]) <= 180 * 10**9 and abs(exact[1]) <= 90 * 10**9
    assert fits == there
    if there:
        x, y = (abs(v) // 100 / 1e7 * (1 if v > 0 else -1) for v in exact)
        assert shapely.from_wkb(features(found)["node", 20]["geometry"]).equals(shapely.Point(x, y))
    else:
        assert dropped(found)["node", 20] == "coordinate_out_of_range"
    assert accounted(found)


def test_every_beginning_of_a_file_is_read_or_refused(tmp_path: Path) -> None:
    whole = write(File((0, 1, 1, 0), 5, [block(nodes()), WORLD]), Packed(RAW, RAW, RAW))
    ends = 0
    for size in range(len(whole)):
        try:
            found = extract(tmp_path, whole[:size])
        except InputError as error:
            assert "x.osm.pbf" in str(error)  # noqa: PT017  # either outcome is right
        else:
            assert accounted(found)
            ends += 1
    assert ends == 2  # after the header, and after the first block


@pytest.mark.parametrize(
    "box",
    [
        (1 << 62, -(1 << 62), 0, 0),
        (-(1 << 63), (1 << 63) - 1, (1 << 63) - 1, -(1 << 63)),
        (5, 5, 5, 5),
        (10**9, 0, 0, 10**9),
        (9_001_000_000, 190 * 10**9, 48 * 10**9, 46 * 10**9),  # across 180°
        (8 * 10**9, 10 * 10**9, 91 * 10**9, 47_001_000_000),
    ],
)
def test_a_box_that_is_none_cuts_nothing(tmp_path: Path, box: tuple[int, int, int, int]) -> None:
    assert extract(tmp_path, File(box, None, [WORLD])).extents == [(9.0, 47.0, 9.002, 47.002)]
