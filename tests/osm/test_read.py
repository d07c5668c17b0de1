"""The area rule, the drops and the accounting law of the reader."""

from __future__ import annotations

import bz2
import gzip
from pathlib import Path
from typing import Any

import osmium
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.osm.extracts.read import Extract, read_extract
from schemas.errors import InputError
from schemas.features import DROPS, FEATURES
from tests.osm.opl import GRID, RULES, encoded, opl, read
from tests.osm.tables import table_of

SQUARE = "Nn1,n3,n9,n7,n1"
INNER = "\n".join(
    f"n{11 + i + 2 * j} v1 x{9.0005 + i / 1000} y{47.0005 + j / 1000}" for j in range(2) for i in range(2)
)
HOLE = "Nn11,n12,n14,n13,n11"


def features(extract: Extract) -> dict[tuple[str, int], dict[str, Any]]:
    rows = table_of(extract).to_pylist()
    result = {(r["osm_type"], r["osm_id"]): r for r in rows}
    assert len(result) == len(rows)  # each object once
    return result


def dropped(extract: Extract) -> dict[tuple[str, int], str]:
    return {(d["osm_type"], d["osm_id"]): d["reason"] for d in extract.drops.to_pylist() if d["osm_id"] is not None}


def counted(extract: Extract) -> dict[tuple[str, str, str], int]:
    return {
        (d["osm_type"], d["reason"], d["detail"]): d["count"] for d in extract.drops.to_pylist() if d["osm_id"] is None
    }


def accounted(extract: Extract) -> bool:
    """Every object read is a feature, a named drop or part of a count."""
    assert table_of(extract).schema.equals(FEATURES)
    assert extract.drops.schema.equals(DROPS)
    return table_of(extract).num_rows + sum(extract.drops["count"].to_pylist()) == extract.objects


@pytest.mark.parametrize(
    ("tags", "nodes", "kind"),
    [
        ("building=yes", SQUARE, "polygon"),
        ("building=no,sport=tennis", SQUARE, "line"),
        ("highway=residential", SQUARE, "line"),
        ("highway=pedestrian,area=yes", SQUARE, "polygon"),
        ("highway=services", SQUARE, "polygon"),
        ("building=yes,area=no", SQUARE, "line"),
        ("building=yes", "Nn1,n3,n9,n7", "line"),
        ("building=yes", "Nn1,n3,n1", "line"),
        ("natural=water", SQUARE, "polygon"),
        ("natural=coastline", SQUARE, "line"),
        ("natural=tree_row", SQUARE, "line"),
        ("barrier=fence", SQUARE, "line"),
        ("barrier=hedge", SQUARE, "polygon"),
        ("waterway=dam", SQUARE, "polygon"),
        ("waterway=river", SQUARE, "line"),
        ("junction=roundabout", SQUARE, "line"),
        ("building=yes", "Nn3,n1,n7,n9,n3", "polygon"),
    ],
)
def test_a_way_is_what_the_area_rule_says(tmp_path: Path, tags: str, nodes: str, kind: str) -> None:
    extract = read(tmp_path, f"{GRID}\nw5 v1 T{tags} {nodes}")
    assert {k: r["kind"] for k, r in features(extract).items()} == {("way", 5): kind}
    assert accounted(extract)


def test_a_feature_is_whole_with_its_tags_box_version_and_time(tmp_path: Path) -> None:
    extract = read(tmp_path, f"{GRID}\nw5 v7 t2022-07-24T01:02:03Z Tbuilding=yes,name=Rathaus {SQUARE}")
    row = features(extract)["way", 5]
    assert dict(row["tags"]) == {"building": "yes", "name": "Rathaus"}
    assert row["bbox"] == pytest.approx({"xmin": 9.0, "ymin": 47.0, "xmax": 9.002, "ymax": 47.002})
    assert row["version"] == 7
    assert row["timestamp"].isoformat() == "2022-07-24T01:02:03+00:00"
    geometry = shapely.from_wkb(row["geometry"])
    assert geometry.equals(shapely.box(9.0, 47.0, 9.002, 47.002))
    assert extract.snapshot == "2022-07-24T01:02:03Z"
    assert extract.extents == [pytest.approx((9.0, 47.0, 9.002, 47.002))]


def test_a_tagged_node_is_a_point(tmp_path: Path) -> None:
    extract = read(tmp_path, "n1 v2 x9.5 y47.5 Tnatural=tree")
    row = features(extract)["node", 1]
    assert row["kind"] == "point"
    assert shapely.from_wkb(row["geometry"]).equals(shapely.Point(9.5, 47.5))
    assert row["timestamp"] is None
    assert accounted(extract)


@pytest.mark.parametrize("kind", ["multipolygon", "boundary"])
def test_a_relation_of_areas_is_a_polygon_with_its_holes(tmp_path: Path, kind: str) -> None:
    text = f"{GRID}\n{INNER}\nw1 v1 {SQUARE}\nw2 v1 {HOLE}\nr9 v1 Ttype={kind},landuse=forest Mw1@outer,w2@inner"
    extract = read(tmp_path, text)
    found = features(extract)
    assert list(found) == [("relation", 9)]
    geometry = shapely.from_wkb(found["relation", 9]["geometry"])
    expected = shapely.box(9.0, 47.0, 9.002, 47.002).difference(shapely.box(9.0005, 47.0005, 9.0015, 47.0015))
    assert geometry.symmetric_difference(expected).area < 1e-14
    assert accounted(extract)


def test_rings_of_a_relation_may_consist_of_several_ways(tmp_path: Path) -> None:
    text = f"{GRID}\nw1 v1 Nn1,n3,n9\nw2 v1 Nn1,n7,n9\nr9 v1 Ttype=multipolygon,natural=water Mw1@outer,w2@outer"
    extract = read(tmp_path, text)
    assert shapely.from_wkb(features(extract)["relation", 9]["geometry"]).area == pytest.approx(4e-6)
    assert accounted(extract)


def test_a_way_that_is_an_object_and_a_ring_comes_out_as_both(tmp_path: Path) -> None:
    text = f"{GRID}\nw1 v1 Tbuilding=yes {SQUARE}\nr9 v1 Ttype=multipolygon,landuse=forest Mw1@outer"
    extract = read(tmp_path, text)
    assert set(features(extract)) == {("way", 1), ("relation", 9)}
    assert accounted(extract)


@pytest.mark.parametrize(
    ("line", "key", "reason", "detail"),
    [
        ("w5 v1 Thighway=path Nn1,n404", ("way", 5), "missing_nodes", "1 of 2"),
        ("w5 v1 Thighway=path Nn404,n405", ("way", 5), "missing_nodes", "2 of 2"),
        ("w5 v1 Thighway=path Nn1", ("way", 5), "too_few_nodes", "1 nodes"),
        ("w5 v1 Thighway=path N", ("way", 5), "too_few_nodes", "0 nodes"),
        ("w5 v1 Thighway=path Nn1,n1", ("way", 5), "too_few_nodes", "2 nodes"),
        ("w5 v1 Tbuilding=yes Nn1,n9,n3,n7,n1", ("way", 5), "invalid_area", "crosses itself"),
        ("w5 v1 Tbuilding=yes Nn1,n3,n404,n7,n1", ("way", 5), "invalid_area", "1 of 5 nodes missing"),
        ("w5 v1 Tbuilding=yes Nn1,n2,n3,n1", ("way", 5), "invalid_area", ""),
        ("w5 v1 Tbuilding=yes Nn1,n1,n1,n1", ("way", 5), "invalid_area", ""),
        (
            "r5 v1 Ttype=multipolygon,landuse=forest Mw404@outer",
            ("relation", 5),
            "invalid_area",
            "1 of 1 member ways missing",
        ),
        ("r5 v1 Ttype=multipolygon,landuse=forest Mn1@outer", ("relation", 5), "invalid_area", "0 ways"),
        ("r5 v1 Ttype=boundary,boundary=administrative M", ("relation", 5), "invalid_area", "0 ways"),
        ("n5000 v1 Tnatural=tree", ("node", 5000), "coordinate_out_of_range", ""),
    ],
)
def test_what_cannot_be_built_is_one_drop_with_its_reason(
    tmp_path: Path, line: str, key: tuple[str, int], reason: str, detail: str
) -> None:
    extract = read(tmp_path, f"{GRID}\n{line}")
    assert not features(extract)
    assert dropped(extract) == {key: reason}
    row = next(d for d in extract.drops.to_pylist() if d["osm_id"] is not None)
    assert detail in row["detail"]
    assert row["source"] == "x.opl"
    assert row["stage"] == "features"
    assert row["count"] == 1
    assert accounted(extract)


@pytest.mark.parametrize(
    ("box", "extent"),
    [
        ((9.0, 47.0, 9.5, 47.5), (9.1, 47.1, 9.5, 47.5)),  # whole ways reach out of it
        ((8.0, 46.0, 10.0, 48.0), (9.1, 47.1, 9.9, 47.9)),  # a region that is mostly empty
        ((1.0, 1.0, 2.0, 2.0), (9.1, 47.1, 9.9, 47.9)),  # a wrong one
        ((9.0, 1.0, 9.5, 2.0), (9.1, 47.1, 9.9, 47.9)),
        ((-180.0, 47.5, 180.0, 90.0), (9.1, 47.5, 9.9, 47.9)),  # all around the world
        ((-180.0, -90.0, 180.0, 47.5), (9.1, 47.1, 9.9, 47.5)),
        (None, (9.1, 47.1, 9.9, 47.9)),
    ],
)
def test_the_extent_is_the_box_of_the_header_cut_to_the_nodes(
    tmp_path: Path, box: tuple[float, ...] | None, extent: tuple[float, ...]
) -> None:
    header = osmium.io.Header()
    if box is not None:
        header.add_box(osmium.osm.Box(*box))
    path = tmp_path / "x.osm.pbf"
    with osmium.SimpleWriter(str(path), header=header) as writer:
        for i, place in enumerate([(9.1, 47.1), (9.9, 47.9)], 1):
            writer.add_node(osmium.osm.mutable.Node(id=i, location=place))
    assert read_extract(path, RULES, tmp_path / "parts").extents == [extent]


@pytest.mark.parametrize("other", ["n99 v2 dD x50 y60", "n99 v2 dD", "n99 v1", "n99 v1 x190 y47 Tshop=x"])
def test_a_node_that_is_nowhere_widens_no_extent(tmp_path: Path, other: str) -> None:
    assert read(tmp_path, f"{GRID}\n{other}").extents == [pytest.approx((9.0, 47.0, 9.002, 47.002))]


def test_nothing_but_the_parts_is_left_behind(tmp_path: Path) -> None:
    """Neither what the passes leave for each other nor the copy that OPL is converted to."""
    extract = read(tmp_path, f"{GRID}\nw1 v1 Tbuilding=yes {SQUARE}")
    left = {p for p in (tmp_path / "x.opl.parts").rglob("*") if p.is_file()}
    assert left == {Path(p.path) for p in extract.parts}


def test_drops_are_listed_by_type_and_id_as_files_are(tmp_path: Path) -> None:
    lost = ["r1 v1 Ttype=multipolygon,landuse=forest Mw404@", "r3 v1 Ttype=multipolygon,landuse=forest Mw404@"]
    lost += [f"w{i} v1 Thighway=path Nn1,n404" for i in (6, 2)] + [f"n{i} v1 Tshop=a" for i in (5000, 4000)]
    extract = read(tmp_path, "\n".join([GRID, *lost]))
    found = [(d["osm_type"], d["osm_id"]) for d in extract.drops.to_pylist() if d["osm_id"] is not None]
    assert found == [("node", 4000), ("node", 5000), ("way", 2), ("way", 6), ("relation", 1), ("relation", 3)]


def test_a_relation_that_lacks_a_member_is_dropped_whole(tmp_path: Path) -> None:
    text = f"{GRID}\nw1 v1 Nn1,n3,n9\nr9 v1 Ttype=multipolygon,natural=water Mw1@outer,w404@outer"
    extract = read(tmp_path, text)
    assert dropped(extract) == {("relation", 9): "invalid_area"}
    assert accounted(extract)


def test_objects_without_a_kept_key_are_counted_by_type(tmp_path: Path) -> None:
    text = f"""{GRID}
        n90 v1 x9 y47 Tname=Nowhere,addr:city=Vaduz
        n91 v1 x9 y47 Tnote=x
        w1 v1 Tname=Ring {SQUARE}
        w2 v1 Nn1,n2
        r1 v1 Ttype=multipolygon,name=X Mw1@outer
        r2 v1 M"""
    extract = read(tmp_path, text)
    assert not features(extract)
    assert counted(extract) == {
        ("node", "no_tags", ""): 9, ("node", "no_kept_key", ""): 2, ("way", "no_kept_key", ""): 1,
        ("way", "no_tags", ""): 1,
        ("relation", "no_kept_key", ""): 1, ("relation", "no_tags", ""): 1,
    }  # fmt: skip
    assert accounted(extract)


def test_relations_out_of_scope_are_counted_by_their_type(tmp_path: Path) -> None:
    text = f"""{GRID}
        w1 v1 Thighway=path Nn1,n2
        r1 v1 Ttype=route,route=bus Mw1@
        r2 v1 Ttype=route,route=hiking Mw1@
        r3 v1 Ttype=restriction,restriction=no_left_turn Mw1@from
        r4 v1 Tnatural=water Mw1@"""
    extract = read(tmp_path, text)
    assert counted(extract) == {
        ("node", "no_tags", ""): 9, ("relation", "type_out_of_scope", "route"): 2,
        ("relation", "type_out_of_scope", "restriction"): 1, ("relation", "type_out_of_scope", ""): 1,
    }  # fmt: skip
    assert accounted(extract)


WEIRD_TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), min_size=1, max_size=255)


@settings(max_examples=60)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(("n", "w", "r")),
            st.lists(st.integers(1, 11), max_size=6),
            st.dictionaries(
                st.sampled_from(("building", "highway", "area", "name", "type", "landuse"))
                | WEIRD_TEXT.map(lambda t: t[:60]),
                st.sampled_from(("yes", "no", "multipolygon", "route", "boundary")) | WEIRD_TEXT, max_size=3,
            ),
        ),
        max_size=8,
    ).map(lambda rows: list(enumerate(rows, 100)))
)  # fmt: skip
def test_nothing_is_lost_whatever_the_file_says(tmp_path: Path, rows: list[Any]) -> None:
    """Random ways through existing and missing nodes, random relations, odd tags."""
    lines = [GRID]
    ways = [n for n, (kind, _, _) in rows if kind == "w"]
    for n, (kind, refs, tags) in rows:
        text = ",".join(f"{encoded(k)}={encoded(v)}" for k, v in tags.items())
        tail = {
            "n": f"x{9 + n / 1e4} y47",
            "w": "N" + ",".join(f"n{r}" for r in (refs + refs[:1] if n % 2 else refs)),
            "r": "M" + ",".join(f"w{ways[r % len(ways)] if ways else r}@outer" for r in refs),
        }[kind]
        lines.append(f"{kind}{n} v1 T{text} {tail}")
    extract = read(tmp_path, "\n".join(lines))
    assert extract.objects == 9 + len(rows)
    assert accounted(extract)
    named = [*features(extract), *dropped(extract)]
    assert len(named) == len(set(named))
    kept = {
        ({"n": "node", "w": "way", "r": "relation"}[kind], n)
        for n, (kind, _, tags) in rows
        if any(RULES.tags.keeps(k) for k in tags) and (kind != "r" or tags.get("type") in ("multipolygon", "boundary"))
    }
    assert set(named) == kept
    assert {k: dict(r["tags"]) for k, r in features(extract).items()} == {
        k: next(t for n, (_, _, t) in rows if n == k[1]) for k in features(extract)
    }


def test_an_empty_file_is_an_empty_extract(tmp_path: Path) -> None:
    extract = read(tmp_path, "")
    assert extract.objects == 0
    assert extract.extents == [None]
    assert extract.snapshot is None
    assert accounted(extract)


@pytest.mark.parametrize(
    ("name", "data"), [("x.osm.pbf", b"no pbf"), ("x.osm", b"<osm"), ("x.opl", b"q1\n"), ("x.osm.bz2", b"BZ")]
)
def test_a_broken_file_is_refused_by_its_name(tmp_path: Path, name: str, data: bytes) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(InputError, match=name):
        read_extract(tmp_path / name, RULES, tmp_path / "parts")
    with pytest.raises(InputError, match="does not exist"):
        read_extract(tmp_path / "other.osm.pbf", RULES, tmp_path / "parts")


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("x.json", b'{"elements": []}'),
        ("x.osm", b'<osm version="0.5"/>'),
        ("x.osm.pbf.gz", gzip.compress(b"a", mtime=0)),
    ],
)
def test_a_sound_file_that_is_not_read_is_told_what_is(tmp_path: Path, name: str, data: bytes) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(InputError, match=rf"{name}.* or give it as \.osm\.pbf, \.osm, \.opl"):
        read_extract(tmp_path / name, RULES, tmp_path / "parts")


def test_the_order_of_opl_lines_is_that_of_osm_files() -> None:
    assert opl(" r1 v1\n w10 v1\n w9 v1\n\n n1 v1 ") == "n1 v1\nw9 v1\nw10 v1\nr1 v1\n"


@pytest.mark.parametrize("name", ["x.osm", "x.osm.gz", "x.osm.bz2", "x.osh"])
@pytest.mark.parametrize("doctype", ['<!DOCTYPE osm SYSTEM "x.dtd">', '<!DOCTYPE osm [<!ENTITY a "b">]>'])
def test_an_extract_with_a_document_type_is_refused(tmp_path: Path, name: str, doctype: str) -> None:
    """An entity declared elsewhere would be read as nothing."""
    text = f'<?xml version="1.0"?>{doctype}<osm version="0.6"><node id="1" version="1" lat="1" lon="1">'
    data = f'{text}<tag k="name" v="&a;"/></node></osm>'.encode()
    packed = {".gz": gzip.compress, ".bz2": bz2.compress}.get(Path(name).suffix, bytes)
    (tmp_path / name).write_bytes(packed(data))
    with pytest.raises(InputError, match=rf"^OSM extract .*{name} declares a document type"):
        read_extract(tmp_path / name, RULES, tmp_path / "parts")
