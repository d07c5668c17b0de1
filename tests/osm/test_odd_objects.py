"""Odd but legal objects: each comes out as what it is, or is dropped with its reason; none is lost without a word."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import osmium
import pytest
import shapely

from pipeline.osm.extracts import areas
from pipeline.osm.extracts.read import Extract, read_extract
from tests.osm.opl import GRID, RULES, encoded, opl, read
from tests.osm.test_read import INNER, SQUARE, accounted, counted, dropped, features


def shape(row: dict[str, Any]) -> Any:
    return shapely.from_wkb(row["geometry"])


def ring(first: int, west: float, south: float, size: float) -> str:
    """Nodes ``first`` to ``first + 3`` of a square, as OPL lines."""
    corners = ((0, 0), (1, 0), (1, 1), (0, 1))
    return "\n".join(
        f"n{first + i} v1 x{west + x * size:.7f} y{south + y * size:.7f}" for i, (x, y) in enumerate(corners)
    )


def around(first: int) -> str:
    return f"Nn{first},n{first + 1},n{first + 2},n{first + 3},n{first}"


def area_relation(text: str, members: str) -> str:
    return f"{text}\nr9 v1 Ttype=multipolygon,landuse=forest M{members}"


@pytest.mark.parametrize(
    "tags",
    [
        {"never_seen_before": "yes"},
        {"a:b:c": "d", "seamark:light:1:colour": "red"},
        {"shop": "x" * 255},
        {"k" * 255: "v" * 255},
        {"shop": "a\x01b\x1f\x7f"},
        {"shop": "line\nbreak\ttab"},
        {"shop": "🍞🥖", "🦄": "yes"},
        {"shop": "बेकरी", "amenity": "مخبز", "natural": "\u202eeert"},
        {"shop": 'a,b=c@d%e"f\\g'},
        {"shop": ""},
    ],
)
def test_tags_come_out_as_they_are(tmp_path: Path, tags: dict[str, str]) -> None:
    text = ",".join(f"{encoded(k)}={encoded(v)}" for k, v in tags.items())
    extract = read(tmp_path, f"{GRID}\nn10 v1 x9 y47 T{text}\nw5 v1 T{text} Nn1,n2\nr6 v1 T{text} Mw5@")
    found = features(extract)
    assert accounted(extract)
    if any(map(RULES.tags.keeps, tags)):
        assert dict(found["node", 10]["tags"]) == tags
        assert dict(found["way", 5]["tags"]) == tags
    else:
        assert counted(extract)["node", "no_kept_key", ""] == 1


def test_a_relation_of_twenty_thousand_members_is_one_area_with_its_holes(tmp_path: Path) -> None:
    """An outer ring of 10,000 ways, and 10,000 holes."""
    side = 2500
    border = [(i, 0) for i in range(side)] + [(side, i) for i in range(side)]
    border += [(side - i, side) for i in range(side)] + [(0, side - i) for i in range(side)]
    lines = [f"n{i + 1} v1 x{x / 1e4:.7f} y{y / 1e4:.7f}" for i, (x, y) in enumerate(border)]
    lines += [f"w{i + 1} v1 Nn{i + 1},n{(i + 1) % 10_000 + 1}" for i in range(10_000)]
    for i in range(10_000):
        first = 20_001 + 4 * i
        lines.append(ring(first, (5 + 20 * (i % 100)) / 1e4, (5 + 20 * (i // 100)) / 1e4, 0.001))
        lines.append(f"w{20_001 + i} v1 {around(first)}")
    members = (
        ",".join(f"w{i + 1}@outer" for i in range(10_000))
        + ","
        + ",".join(f"w{20_001 + i}@inner" for i in range(10_000))
    )
    extract = read(tmp_path, area_relation("\n".join(lines), members))
    area = shape(features(extract)["relation", 9])
    assert len(area.interiors) == 10_000
    assert area.area == pytest.approx(0.25**2 - 10_000 * 0.001**2)
    assert accounted(extract)


@pytest.mark.parametrize(
    ("nodes", "detail"),
    [
        ("Nn1,n2,n3,n1", "no area|crosses itself"),  # on one line
        ("Nn1,n2,n1,n2,n1", "no area"),  # to and fro
        ("Nn1,n9,n3,n7,n1", "crosses itself"),  # a bow tie
        ("Nn1,n1,n1,n1,n1", "no area"),
    ],
)
def test_rings_without_an_area_are_dropped_by_name(tmp_path: Path, nodes: str, detail: str) -> None:
    extract = read(tmp_path, f"{GRID}\nw5 v1 Tbuilding=yes {nodes}")
    assert dropped(extract) == {("way", 5): "invalid_area"}
    (row,) = [d for d in extract.drops.to_pylist() if d["osm_id"] is not None]
    assert any(part in row["detail"] for part in detail.split("|"))
    assert accounted(extract)


def test_a_ring_that_touches_itself_in_a_node_is_two_areas_or_one_with_a_hole(tmp_path: Path) -> None:
    eight = f"{GRID}\nw5 v1 Tbuilding=yes Nn1,n2,n5,n4,n1,n1\nw6 v1 Tbuilding=yes Nn5,n2,n1,n4,n5,n6,n9,n8,n5"
    found = features(read(tmp_path, eight))
    assert shape(found["way", 5]).area == pytest.approx(1e-6)
    assert shape(found["way", 6]).geom_type == "MultiPolygon"
    assert shape(found["way", 6]).area == pytest.approx(2e-6)


@pytest.mark.parametrize(
    ("nodes", "detail"), [("Nn1,n20", "2 nodes at one place"), ("Nn1", "1 nodes"), ("N", "0 nodes")]
)
def test_a_line_without_two_places_is_dropped_with_the_reason(tmp_path: Path, nodes: str, detail: str) -> None:
    extract = read(tmp_path, f"{GRID}\nn20 v1 x9 y47\nw5 v1 Thighway=path {nodes}")
    assert [(d["reason"], d["detail"]) for d in extract.drops.to_pylist() if d["osm_id"] == 5] == [
        ("too_few_nodes", detail)
    ]


def test_nodes_named_twice_in_a_row_are_named_once(tmp_path: Path) -> None:
    text = f"""{GRID}
        n10 v1 x9.001 y47
        w5 v1 Thighway=path Nn1,n1,n2,n2,n10,n3
        w6 v1 Tbuilding=yes Nn1,n3,n3,n9,n9,n7,n1"""
    found = features(read(tmp_path, text))
    assert shape(found["way", 5]).equals_exact(shapely.LineString([(9, 47), (9.001, 47), (9.002, 47)]), 0)
    assert shapely.get_num_coordinates(shape(found["way", 6])) == 5


def test_inner_rings_that_share_a_side_are_one_hole(tmp_path: Path) -> None:
    text = f"""{GRID}
        n11 v1 x9.0005 y47.0005\nn12 v1 x9.001 y47.0005\nn13 v1 x9.0015 y47.0005
        n14 v1 x9.0005 y47.0015\nn15 v1 x9.001 y47.0015\nn16 v1 x9.0015 y47.0015
        w1 v1 {SQUARE}\nw2 v1 Nn11,n12,n15,n14,n11\nw3 v1 Nn12,n13,n16,n15,n12"""
    area = shape(features(read(tmp_path, area_relation(text, "w1@outer,w2@inner,w3@inner")))["relation", 9])
    assert len(area.interiors) == 1
    assert area.area == pytest.approx(3e-6)


def test_an_inner_ring_may_touch_the_outer_one_in_a_node(tmp_path: Path) -> None:
    text = f"{GRID}\nn11 v1 x9.001 y47.0005\nn12 v1 x9.0005 y47.001\nw1 v1 {SQUARE}\nw2 v1 Nn1,n11,n12,n1"
    area = shape(features(read(tmp_path, area_relation(text, "w1@outer,w2@inner")))["relation", 9])
    assert area.is_valid
    assert area.area == pytest.approx(4e-6 - 3.75e-7)


@pytest.mark.parametrize("role", ["outer", "", "inner", "nonsense"])
def test_several_outers_and_wrong_roles_are_seen_by_their_place(tmp_path: Path, role: str) -> None:
    text = f"{ring(1, 9, 47, 0.001)}\n{ring(11, 9.01, 47, 0.001)}\n{ring(21, 9.0002, 47.0002, 0.0005)}"
    ways = f"w1 v1 {around(1)}\nw2 v1 {around(11)}\nw3 v1 {around(21)}"
    extract = read(tmp_path, area_relation(f"{text}\n{ways}", f"w1@{role},w2@outer,w3@{role}"))
    area = shape(features(extract)["relation", 9])
    assert area.geom_type == "MultiPolygon"
    assert area.area == pytest.approx(2e-6 - 0.25e-6)
    assert accounted(extract)


def test_an_island_in_a_lake_in_a_forest_is_forest(tmp_path: Path) -> None:
    text = f"{ring(1, 9, 47, 0.003)}\n{ring(11, 9.001, 47.001, 0.001)}\n{ring(21, 9.0012, 47.0012, 0.0005)}"
    ways = f"w1 v1 {around(1)}\nw2 v1 {around(11)}\nw3 v1 {around(21)}"
    extract = read(tmp_path, area_relation(f"{text}\n{ways}", "w1@outer,w2@inner,w3@outer"))
    assert shape(features(extract)["relation", 9]).area == pytest.approx(9e-6 - 1e-6 + 0.25e-6)


def test_outers_that_cross_are_dropped(tmp_path: Path) -> None:
    text = f"{ring(1, 9, 47, 0.001)}\n{ring(11, 9.0005, 47.0005, 0.001)}\nw1 v1 {around(1)}\nw2 v1 {around(11)}"
    extract = read(tmp_path, area_relation(text, "w1@outer,w2@outer"))
    assert dropped(extract) == {("relation", 9): "invalid_area"}
    assert accounted(extract)


@pytest.mark.parametrize("vertices", [1, 7, 500_000])
@pytest.mark.parametrize("relations", [1, 3, 2000])
def test_areas_are_the_same_however_many_are_assembled_at_a_time_or_in_a_task(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, vertices: int, relations: int
) -> None:
    monkeypatch.setattr(areas, "_VERTICES", vertices)
    monkeypatch.setattr("pipeline.osm.extracts.read._RELATIONS", relations)
    count = 9
    lines = [ring(10 * i, 9 + i / 100, 47, 0.001) for i in range(1, count)]
    lines += [f"w{i} v1 {around(10 * i)}" for i in range(1, count)]
    lines += [f"r{i} v1 Ttype=multipolygon,natural=water Mw{i}@,w{i % 8 + 1}@" for i in range(1, count) if i != 4]
    lines += ["r4 v1 Ttype=multipolygon,natural=water Mw404@", "r90 v1 Ttype=multipolygon,natural=water M"]
    extract = read(tmp_path, "\n".join(lines))
    found = features(extract)
    assert list(found) == [("relation", i) for i in range(1, count) if i != 4]
    for (_, i), row in found.items():
        west = sorted(9 + n / 100 for n in (i, i % 8 + 1))
        assert [p.bounds[0] for p in sorted(shape(row).geoms, key=lambda p: p.bounds)] == pytest.approx(west)
    assert dropped(extract) == {("relation", 4): "invalid_area", ("relation", 90): "invalid_area"}
    assert accounted(extract)


def test_a_boundary_may_have_members_that_are_no_ways(tmp_path: Path) -> None:
    text = f"""{GRID}\n{INNER}\nw1 v1 Nn1,n3,n9\nw2 v1 Nn9,n7,n1
        r8 v1 Ttype=boundary,boundary=administrative,admin_level=8 Mw2@outer,n5@admin_centre,r9@subarea,w1@outer
        r9 v1 Ttype=multipolygon,landuse=forest Mr8@outer"""
    extract = read(tmp_path, text)
    assert shape(features(extract)["relation", 8]).area == pytest.approx(4e-6)
    assert dropped(extract) == {("relation", 9): "invalid_area"}
    assert accounted(extract)


def test_area_no_keeps_a_ring_a_line_but_a_multipolygon_an_area(tmp_path: Path) -> None:
    text = f"{GRID}\nw1 v1 Tlanduse=forest,area=no {SQUARE}\nr9 v1 Ttype=multipolygon,natural=wood,area=no Mw1@outer"
    assert {k: r["kind"] for k, r in features(read(tmp_path, text)).items()} == {
        ("way", 1): "line",
        ("relation", 9): "polygon",
    }


def test_what_spans_the_antimeridian_or_the_poles_comes_out_whole(tmp_path: Path) -> None:
    """The cells refuse or cut them by name; the reader does not judge."""
    text = """n1 v1 x179.9 y10\nn2 v1 x-179.9 y10.1\nn3 v1 x180 y-90\nn4 v1 x-180 y90 Tnatural=peak\nn5 v1 x179.9 y11
        w1 v1 Troute=ferry Nn1,n2\nw2 v1 Tnatural=bay Nn1,n2,n5,n1\nw3 v1 Tboundary=maritime Nn3,n4"""
    extract = read(tmp_path, text)
    found = features(extract)
    assert {k: r["bbox"]["xmax"] - r["bbox"]["xmin"] for k, r in found.items()} == pytest.approx(
        {("node", 4): 0, ("way", 1): 359.8, ("way", 2): 359.8, ("way", 3): 360}
    )
    assert shape(found["way", 3]).bounds == (-180, -90, 180, 90)
    assert extract.extents == [(-180, -90, 180, 90)]
    assert accounted(extract)


KEPT = "an equal or newer version is kept"
HISTORY = """n1 v1 x9 y47 Tshop=bakery
    n1 v2 x9.5 y47.5 Tshop=kiosk
    n2 v1 x9.1 y47
    w1 v3 Thighway=track Nn2,n1
    w1 v4 Thighway=path Nn1,n2
    r1 v1 Ttype=multipolygon,natural=water Mw1@
    r1 v2 Ttype=route,natural=water Mw1@"""


def test_of_several_versions_in_one_file_the_newest_is_read(tmp_path: Path) -> None:
    extract = read(tmp_path, HISTORY)
    assert accounted(extract)
    rows = features(extract)
    assert {k: r["version"] for k, r in rows.items()} == {("node", 1): 2, ("way", 1): 4}
    assert shape(rows["node", 1]).coords[0] == (9.5, 47.5)
    assert list(shape(rows["way", 1]).coords) == [(9.5, 47.5), (9.1, 47)]  # through the newest place of its nodes
    assert {k: n for k, n in counted(extract).items() if k[1] == "repeated_in_extracts"} == {
        ("node", "repeated_in_extracts", KEPT): 1,
        ("way", "repeated_in_extracts", KEPT): 1,
        ("relation", "repeated_in_extracts", KEPT): 1,
    }


def history(folder: Path, name: str, text: str) -> Extract:
    (folder / "x.osh.opl").write_text(opl(text))
    path = folder / name
    if name != "x.osh.opl":
        with osmium.SimpleWriter(str(path)) as writer:
            for o in osmium.FileProcessor(str(folder / "x.osh.opl")):
                writer.add(o)
    return read_extract(path, RULES, folder / "parts")


@pytest.mark.parametrize("name", ["x.osh.opl", "x.osh.pbf", "x.osh"])
def test_of_a_history_file_the_last_versions_are_read_unless_they_are_deletions(tmp_path: Path, name: str) -> None:
    deleted = "\nn3 v1 dV x9 y47 Tshop=gone\nn3 v2 dD\nw2 v1 dV Thighway=path Nn1,n2\nw2 v2 dD"
    extract = history(tmp_path, name, HISTORY + deleted)
    assert {k: r["version"] for k, r in features(extract).items()} == {("node", 1): 2, ("way", 1): 4}
    assert counted(extract) == {
        ("node", "older_version", ""): 2,
        ("node", "deleted", ""): 1,
        ("node", "no_tags", ""): 1,
        ("way", "older_version", ""): 2,
        ("way", "deleted", ""): 1,
        ("relation", "older_version", ""): 1,
        ("relation", "type_out_of_scope", "route"): 1,
    }
    assert extract.objects == 11
    assert accounted(extract)
