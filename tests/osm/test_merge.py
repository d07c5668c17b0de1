"""Several extracts are read as one: what libosmium makes of their newest objects, whatever the order of the files."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from itertools import permutations
from pathlib import Path
from typing import Any

import osmium
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import shapely
from hypothesis import given
from hypothesis import strategies as st

from pipeline.osm.cells.parts import Part, load_slab, plan_slabs
from pipeline.osm.extracts import versions
from pipeline.osm.extracts.read import read_extracts
from pipeline.run.ray_map import Runner
from schemas.features import FEATURES
from tests.osm.opl import GRID, RULES, opl, read
from tests.osm.tables import feature_table
from tests.osm.test_read import INNER, SQUARE, accounted, counted, dropped, features

REPEATED = "repeated_in_extracts"


def written(folder: Path, texts: Sequence[str]) -> list[Path]:
    """OPL files 0.opl, 1.opl …"""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{n}.opl" for n in range(len(texts))]
    for path, text in zip(paths, texts, strict=True):
        path.write_text(opl(text), encoding="utf-8")
    return paths


def merged(folder: Path, *texts: str) -> dict[tuple[str, int], dict[str, Any]]:
    """Features by type and id of files that are read together; those of every order of the files are the same."""
    paths = written(folder, texts)
    found = []
    for n, order in enumerate(permutations(paths)):
        extract = read_extracts(order, RULES, folder / f"parts-{n}")
        assert accounted(extract)
        found.append(features(extract))
    assert all(other == found[0] for other in found)
    return found[0]


def place(row: dict[str, Any]) -> list[tuple[float, ...]]:
    return list(shapely.from_wkb(row["geometry"]).coords)


def test_a_lake_whose_halves_lie_in_two_files_is_one_area(tmp_path: Path) -> None:
    relation = "r9 v1 Ttype=multipolygon,natural=water Mw1@outer,w2@outer,w3@inner"
    found = merged(
        tmp_path,
        f"{GRID}\nw1 v1 Nn1,n3,n9\n{relation}",
        f"{GRID}\nw2 v1 Nn9,n7,n1\n{relation}",
        f"{INNER}\nw3 v1 Nn11,n12,n14,n13,n11",
    )
    assert list(found) == [("relation", 9)]
    assert shapely.from_wkb(found["relation", 9]["geometry"]).area == pytest.approx(3e-6)


def test_a_way_finds_its_nodes_in_whichever_file_they_lie(tmp_path: Path) -> None:
    found = merged(tmp_path, "n1 v1 x9 y47\nw5 v1 Thighway=path Nn1,n2,n3", "n2 v1 x9.1 y47", "n3 v1 x9.2 y47")
    assert place(found["way", 5]) == [(9, 47), (9.1, 47), (9.2, 47)]


def test_a_way_that_neighbours_share_is_there_once_in_its_newest_version(tmp_path: Path) -> None:
    nodes = "n1 v1 x9 y47\nn2 v1 x9.1 y47"
    old = f"{nodes}\nw5 v3 Thighway=path,state=old Nn1,n2"
    new = f"{nodes}\nw5 v4 Thighway=path,state=new Nn1,n2\nw6 v1 Thighway=path Nn2,n1"
    found = merged(tmp_path, old, new)
    assert set(found) == {("way", 5), ("way", 6)}
    assert dict(found["way", 5]["tags"])["state"] == "new"
    extract = read_extracts(written(tmp_path, [old, new]), RULES, tmp_path / "parts")
    repeated = [(d["source"], d["osm_type"], d["count"]) for d in extract.drops.to_pylist() if d["reason"] == REPEATED]
    assert repeated == [("0.opl", "way", 1)]


@pytest.mark.parametrize(
    "newer",
    [
        "n10 v2 x9 y47\nw5 v2 Nn1,n2\nr9 v2 Ttype=multipolygon Mw1@outer",  # lost its tags
        "n10 v2 Tnote=x x9 y47\nw5 v2 Tnote=x Nn1,n2\nr9 v2 Ttype=route,natural=water Mw1@outer",  # left scope
        "n10 v2 Tshop=a\nw5 v2 Thighway=path Nn1,n404\nr9 v2 Ttype=multipolygon,natural=water Mw404@outer",
    ],
)
def test_what_is_no_feature_any_more_in_its_newest_version_is_none(tmp_path: Path, newer: str) -> None:
    old = "n10 v1 Tshop=a x9 y47\nw5 v1 Thighway=path Nn1,n2\nr9 v1 Ttype=multipolygon,natural=water Mw1@outer"
    ring = f"{GRID}\nw1 v1 {SQUARE}"
    assert len(merged(tmp_path / "old", f"{ring}\n{old}", ring)) == 3
    assert merged(tmp_path / "new", f"{ring}\n{old}", f"{ring}\n{newer}") == {}
    assert merged(tmp_path / "apart", f"{ring}\n{old}", newer) == {}


def test_a_node_that_moved_takes_along_the_ways_and_areas_whose_version_did_not_change(tmp_path: Path) -> None:
    objects = f"w5 v1 Thighway=path Nn1,n2\nw1 v1 {SQUARE}\nr9 v1 Ttype=multipolygon,natural=water Mw1@outer"
    found = merged(tmp_path, f"{GRID}\n{objects}", f"{GRID}\n{objects}".replace("n1 v1 x9.0 y47.0", "n1 v2 x8.9 y47.0"))
    assert place(found["way", 5]) == [(8.9, 47), (9.001, 47)]
    assert shapely.from_wkb(found["relation", 9]["geometry"]).bounds[0] == 8.9


def test_a_node_that_is_only_in_the_other_file_any_more_does_not_hide_its_older_place(tmp_path: Path) -> None:
    """The file with the way has an old version of one of its nodes; a third file has the oldest."""
    found = merged(tmp_path, "n1 v2 x9 y47\nn2 v1 x9.1 y47\nw5 v1 Thighway=path Nn1,n2", "n1 v3 x8 y47", "n1 v1 x7 y47")
    assert place(found["way", 5]) == [(8, 47), (9.1, 47)]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("v3 t2020-01-01T00:00:00Z", "v2 t2024-01-01T00:00:00Z"),
        ("v2 t2024-01-01T00:00:00Z", "v2 t2020-01-01T00:00:00Z"),
        ("v2 t2024-01-01T00:00:00Z", "v2"),
        ("v1", ""),
    ],
)
def test_the_higher_version_counts_then_the_newer_timestamp(tmp_path: Path, one: str, other: str) -> None:
    found = merged(tmp_path, f"n1 {one} Tshop=one x9 y47", f"n1 {other} Tshop=other x8 y47")
    assert dict(found["node", 1]["tags"]) == {"shop": "one"}


def test_without_versions_and_times_the_extract_of_the_newer_replication_counts(tmp_path: Path) -> None:
    paths = []
    for name, shop, stamp in (("a", "old", "2023-05-05T00:00:00Z"), ("b", "new", "2024-05-05T00:00:00Z")):
        paths.append(tmp_path / f"{name}.osm.pbf")
        header = osmium.io.Header()
        header.set("osmosis_replication_timestamp", stamp)
        with osmium.SimpleWriter(str(paths[-1]), header=header) as writer:
            if name == "a":  # its object lies further back
                writer.add_node(osmium.osm.mutable.Node(id=-1, location=(9, 47)))
            writer.add_node(osmium.osm.mutable.Node(id=1, location=(9, 47), tags={"shop": shop}))
    for n, order in enumerate(permutations(paths)):
        extract = read_extracts(order, RULES, tmp_path / str(n))
        assert dict(features(extract)["node", 1]["tags"]) == {"shop": "new"}
        assert extract.snapshot == "2024-05-05T00:00:00Z"
        assert extract.snapshots == [f"{2023 + 'ab'.index(p.name[0])}-05-05T00:00:00Z" for p in order]


def test_equal_versions_of_other_content_are_decided_by_the_files_not_their_order_or_names(tmp_path: Path) -> None:
    """`merged` compares the orders."""
    for n in range(5):
        texts = [f"n1 v1 Tshop={k}{n} x{k} y47\nn2 v1 x9 y47\nw1 v1 Thighway=path Nn1,n2" for k in range(2)]
        found = merged(tmp_path / str(n), *texts)
        shop = dict(found["node", 1]["tags"])["shop"]
        assert place(found["way", 1])[0] == (float(shop[0]), 47)  # way and node agree on the version
        renamed = merged(tmp_path / f"{n}-renamed", *reversed(texts))
        assert dict(renamed["node", 1]["tags"])["shop"] == shop


def test_of_equal_versions_in_one_file_the_last_counts(tmp_path: Path) -> None:
    way = "w1 v1 Thighway=path,state={} Nn{},n2"
    text = f"n1 v1 Tshop=first x9 y47\nn1 v1 Tshop=last x8 y47\nn2 v1 x7 y47\n{way.format('first', 2)}"
    found = merged(tmp_path, f"{text}\n{way.format('last', 1)}")
    assert dict(found["node", 1]["tags"]) == {"shop": "last"}
    assert dict(found["way", 1]["tags"])["state"] == "last"
    assert place(found["way", 1]) == [(8, 47), (7, 47)]


def test_extents_and_times_of_each_extract_stay_as_they_were_named(tmp_path: Path) -> None:
    texts = ["n1 v1 t2021-01-01T00:00:00Z Tshop=a x1 y1", "", "n1 v2 t2022-01-01T00:00:00Z Tshop=a x2 y2"]
    paths = written(tmp_path, texts)
    extents, stamps = [(1, 1, 1, 1), None, (2, 2, 2, 2)], ["2021-01-01T00:00:00Z", None, "2022-01-01T00:00:00Z"]
    for n, order in enumerate(permutations(range(3))):
        extract = read_extracts([paths[i] for i in order], RULES, tmp_path / str(n))
        assert extract.extents == [extents[i] for i in order]
        assert extract.snapshots == [stamps[i] for i in order]
        assert extract.snapshot == "2022-01-01T00:00:00Z"


def test_what_cannot_be_built_of_all_files_is_named_once_with_the_file_that_has_it(tmp_path: Path) -> None:
    way = "w5 v{} Thighway=path Nn1,n2,n3"
    texts = [f"n1 v1 x9 y47\n{way.format(1)}\nw6 v1 Thighway=path Nn1,n4", f"n2 v1 x9 y48\n{way.format(2)}"]
    paths = written(tmp_path, texts)
    extract = read_extracts(paths, RULES, tmp_path / "parts")
    assert dropped(extract) == {("way", 5): "missing_nodes", ("way", 6): "missing_nodes"}
    rows = {d["osm_id"]: (d["source"], d["detail"]) for d in extract.drops.to_pylist() if d["osm_id"] is not None}
    assert rows == {5: ("1.opl", "1 of 3 nodes missing"), 6: ("0.opl", "1 of 2 nodes missing")}
    assert counted(extract)["way", REPEATED, "an equal or newer version is kept"] == 1
    assert accounted(extract)


def test_a_deletion_that_is_the_newest_version_counts_and_an_older_one_does_not(tmp_path: Path) -> None:
    old = f"""{GRID}\nn10 v1 Tshop=a x9 y47\nw5 v1 Thighway=path Nn1,n2\nw6 v1 Thighway=path Nn2,n3\nw1 v1 {SQUARE}
        r9 v1 Ttype=multipolygon,natural=water Mw1@outer"""
    deleted = "n10 v2 dD\nn2 v2 dD\nw5 v2 dD\nr9 v2 dD"
    assert set(merged(tmp_path / "old", old)) == {("node", 10), ("way", 5), ("way", 6), ("relation", 9)}
    assert merged(tmp_path / "new", old, deleted) == {}  # a way through a deleted node is cut
    assert merged(tmp_path / "ring", old, "w1 v2 dD\nn10 v2 dD\nw5 v2 dD\nw6 v2 dD") == {}
    again = "n10 v3 Tshop=b x9 y47\nn2 v3 x9 y48\nw5 v3 Thighway=path Nn1,n3\nr9 v3 Ttype=boundary,natural=water Mw1@"
    found = merged(tmp_path / "again", old, deleted, again)
    assert set(found) == {("node", 10), ("way", 5), ("way", 6), ("relation", 9)}
    assert place(found["way", 6])[0] == (9, 48)


@pytest.mark.parametrize("copies", [2, 3])
def test_a_file_that_is_written_twice_behind_itself_is_read_once(tmp_path: Path, copies: int) -> None:
    """As `cat` leaves it: the very same objects again, after all others."""
    text = f"""{GRID}\nn10 v1 Tshop=a x9 y47\nw5 v1 Thighway=path Nn1,n2\nw1 v1 {SQUARE}
        r9 v1 Ttype=multipolygon,natural=water Mw1@outer"""
    path = tmp_path / "0.osm.pbf"
    with osmium.SimpleWriter(str(path)) as writer:
        for _ in range(copies):
            for thing in osmium.FileProcessor(str(written(tmp_path, [text])[0])):
                writer.add(thing)
    extract = read_extracts([path], RULES, tmp_path / "parts")
    assert features(extract) == features(read(tmp_path, text))
    assert sum(n for (_, reason, _), n in counted(extract).items() if reason == REPEATED) == 3 * (copies - 1)
    assert accounted(extract)


def test_files_that_are_not_sorted_are_read_as_sorted_ones(tmp_path: Path) -> None:
    """Negative ids in the order of osmium, ids that fall, types that alternate."""
    lines = opl(f"{GRID}\nw5 v1 Thighway=path Nn1,n-2\nw7 v1 Tbuilding=yes {SQUARE}").splitlines()
    lines += ["n-1 v1 x9 y47 Tshop=a", "n-2 v1 x8 y47", "w-1 v1 Thighway=path Nn9,n-1"]
    (tmp_path / "fallen.opl").write_text("\n".join(reversed(lines)) + "\n")
    found = features(read_extracts([tmp_path / "fallen.opl"], RULES, tmp_path / "parts"))
    assert set(found) == {("node", -1), ("way", 5), ("way", 7), ("way", -1)}
    assert place(found["way", 5]) == [(9, 47), (8, 47)]


# The law: worlds of squares, each of four nodes, two ways and one relation, whose objects have versions in any of the
# files. Places are far apart, so that areas are simple and libosmium has no doubt about them.


def world(rng: random.Random) -> list[str]:
    """OPL lines of all versions of all objects; no two alike in type, id, version and time."""
    lines = []

    def versioned(count: int, line: Callable[[int], str]) -> None:
        number = rng.randrange(1, 4)
        for _ in range(rng.choice((1, 1, 2, 3))):
            head, tail = line(count).split(" ", 1)
            lines.append(f"{head} v{number} t20{rng.randrange(10, 25)}-01-{rng.randrange(1, 28):02}T00:00:00Z {tail}")
            number += rng.choice((0, 1, 1))

    def node(n: int) -> str:
        corner = ((0, 0), (1, 0), (1, 1), (0, 1))[n % 4]
        x, y = (c * 1e-3 + rng.uniform(-3e-4, 3e-4) for c in corner)
        return f"n{n} T{rng.choice(('', '', 'shop=a', 'note=b'))} x{9 + n // 4 / 100 + x:.7f} y{47 + y:.7f}"

    def way(n: int) -> str:
        first = 4 * (n // 2)
        refs = [first, first + 1, first + 2] if n % 2 == 0 else [first + 2, first + 3, first]
        if rng.random() < 0.2:
            refs = [first, first + 1, first + 2, first + 3, first]
        tags = rng.choice(("", "highway=path", "building=yes", "note=a", "natural=water,name=b"))
        return f"w{n} T{tags} N{','.join(f'n{r}' for r in refs)}"

    def relation(n: int) -> str:
        kind = rng.choice(("multipolygon", "multipolygon", "boundary", "route"))
        members = [2 * n, 2 * n + 1, *([2 * n + 2] if rng.random() < 0.1 else [])]
        tags = rng.choice(("natural=wood", "natural=wood,name=c", "note=d"))
        return f"r{n} Ttype={kind},{tags} M{','.join(f'w{m}@outer' for m in members)}"

    places = rng.randrange(1, 6)
    for n in range(4, 4 * places + 4):
        versioned(n, node)
    for n in range(2, 2 * places + 2):
        versioned(n, way)
    for n in range(1, places + 1):
        versioned(n, relation)
    return list({tuple(line.split()[:3]): line for line in lines}.values())


def judged(path: Path) -> dict[tuple[str, int], tuple[str, Any]]:
    """Kind and geometry of the features that libosmium builds, without areas of ways that are lines by our rule."""
    factory, found = osmium.geom.WKBFactory(), {}
    areas: set[int] = set()
    for thing in osmium.FileProcessor(str(path)).with_areas():
        if thing.type_str() == "a":
            if thing.from_way() and thing.orig_id() not in areas:
                continue
            key = "way" if thing.from_way() else "relation", thing.orig_id()
            if any(map(RULES.tags.keeps, dict(thing.tags))) and sum(thing.num_rings()):
                found[key] = "polygon", factory.create_multipolygon(thing)
            continue
        tags = dict(thing.tags)
        if not any(map(RULES.tags.keeps, tags)):
            continue
        if thing.is_node():
            found["node", thing.id] = "point", factory.create_point(thing)
        elif thing.is_way() and thing.is_closed() and RULES.is_area(tags):
            areas.add(thing.id)
        elif thing.is_way() and all(node.location.valid() for node in thing.nodes):
            found["way", thing.id] = "line", factory.create_linestring(thing)
    return {key: (kind, shapely.normalize(shapely.from_wkb(wkb))) for key, (kind, wkb) in found.items()}


@pytest.mark.parametrize("seed", range(16))
def test_features_of_several_files_are_those_of_libosmium_on_their_newest_objects(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    lines = world(rng)
    count = rng.choice((1, 2, 3))
    files: list[list[str]] = [[] for _ in range(count)]
    for line in lines:
        for n in {rng.randrange(count) for _ in range(rng.choice((1, 1, 2)))}:  # borders are in several
            files[n].append(line)
    newest: dict[str, tuple[int, str]] = {}
    for line in lines:
        head, version, stamp, *_ = line.split()
        newest[head] = max(newest.get(head, (0, "", "")), (int(version[1:]), stamp, line))
    (tmp_path / "newest.opl").write_text(opl("\n".join(line for *_, line in newest.values())))
    expected = judged(tmp_path / "newest.opl")
    found = merged(tmp_path, *("\n".join(own) for own in files))
    assert set(found) == set(expected)
    for key, row in found.items():
        kind, geometry = expected[key]
        assert row["kind"] == kind
        ours = shapely.normalize(shapely.from_wkb(row["geometry"]))
        parts = [shapely.get_parts(g).tolist() for g in (ours, geometry)]  # theirs is always a multipolygon
        assert parts[0] == parts[1]
        assert row["version"] == newest["nwr"[("node", "way", "relation").index(key[0])] + str(key[1])][0]


@pytest.mark.parametrize("seed", range(3))
def test_however_few_ids_are_held_at_once_the_versions_are_the_same(
    tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = random.Random(seed)
    texts = ["\n".join(rng.sample(lines, len(lines) * 2 // 3)) for lines in [world(rng)] for _ in range(3)]
    whole = merged(tmp_path / "whole", *texts)
    monkeypatch.setattr(versions, "_CHUNK", 3)
    assert merged(tmp_path / "few", *texts) == whole


def test_two_workers_leave_the_files_of_one(tmp_path: Path) -> None:
    rng = random.Random(1)
    lines = world(rng)
    paths = written(tmp_path, ["\n".join(rng.sample(lines, len(lines) // 2)) for _ in range(3)])
    found = []
    for workers in (1, 2):
        with Runner(workers) as runner:
            extract = read_extracts(paths, RULES, tmp_path / str(workers), runner)
        found.append(([Path(p.path).read_bytes() for p in extract.parts], extract.drops))
    assert found[0] == found[1]


#: Neighbours, some of them at the ends of what 64 bits hold and where floating point has no whole numbers any more.
IDS = (
    st.integers(1, 30)
    | st.integers(2**53, 2**53 + 5)
    | st.integers(2**63 - 5, 2**63 - 1)
    | st.integers(-(2**63), 1 - 2**63)
)
ROW = st.tuples(st.sampled_from(("node", "way", "relation")), IDS)


@given(st.sets(ROW, min_size=1, max_size=20), st.randoms(use_true_random=False), st.integers(1, 12))
def test_slabs_together_are_all_features_in_order_whatever_their_size(
    tmp_path_factory: pytest.TempPathFactory, rows: set[tuple[str, int]], rng: random.Random, size: int
) -> None:
    """Of files with ids that interleave, as extracts that are read together leave them."""
    folder = tmp_path_factory.mktemp("parts")
    ordered = sorted(rows, key=lambda r: (("node", "way", "relation").index(r[0]), r[1]))
    whole = feature_table(
        [r[0] for r in ordered], [r[1] for r in ordered], ["point"] * len(rows), [{"id": str(r[1])} for r in ordered],
        shapely.points([[1.0, 2.0]] * len(rows)), [1] * len(rows), [None] * len(rows),
    )  # fmt: skip
    file = [rng.randrange(3) for _ in ordered]
    paths = []
    for osm_type in ("node", "way", "relation"):
        for n in range(3):
            own = pc.and_(pc.equal(whole["osm_type"], osm_type), pa.array([f == n for f in file]))
            if (part := whole.filter(own)).num_rows:
                paths.append(Part.of(folder / f"{osm_type}-{n}.parquet", part))
                pq.write_table(part, paths[-1].path)
    slabs = plan_slabs(paths, size)
    assert pa.concat_tables([FEATURES.empty_table(), *map(load_slab, slabs)]).equals(whole)
    ranges = [(("node", "way", "relation").index(s.osm_type), s.first, s.last) for s in slabs]
    assert ranges == sorted(ranges)
