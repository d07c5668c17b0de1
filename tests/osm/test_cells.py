"""Features cut to cells."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import shapely
from hypothesis import given
from hypothesis import strategies as st

from geometry.tiles import tile_bounds, tile_to_lonlat
from pipeline.osm.cells.cut import CUT, MARGIN, MAX_SEGMENT, WholeFeatures, cut_to_cells, densify, whole_features
from schemas.features import CELL_ZOOM, DROPS, Kind, ObjectType
from tests.osm.opl import RULES, encoded, read
from tests.osm.tables import table_of, tag_features
from tests.tokens.oracle import mapped

LON, LAT = st.floats(-20, 20), st.floats(40, 70)
NEAR = st.tuples(st.floats(8.9, 9.9), st.floats(46.9, 47.6))
KIND = {"Point": Kind.POINT, "LineString": Kind.LINE, "MultiPolygon": Kind.POLYGON, "Polygon": Kind.POLYGON}


def cut(shapes: list[Any], zoom: int = CELL_ZOOM) -> tuple[pa.Table, pa.Table]:
    """Feature i is way i, edited at second i, carries the one tag i and is painted as i."""
    n = len(shapes)
    kind = np.array([KIND[s.geom_type] for s in shapes], np.uint8)
    geometry = np.empty(n, object)
    geometry[:] = shapes
    features = WholeFeatures(np.ones(n, np.uint8), np.arange(n), kind, np.arange(n), geometry)
    return cut_to_cells(features, np.arange(n + 1), np.arange(n), np.arange(n).astype(np.uint16), zoom)


def cell_box(cell: int, margin: float = 0.0, zoom: int = CELL_ZOOM) -> Any:
    x, y = cell % (1 << zoom), cell // (1 << zoom)
    (west, north), (east, south) = tile_to_lonlat(
        np.array([[x - margin, y - margin], [x + 1 + margin, y + 1 + margin]]), zoom
    )
    return shapely.box(west, south, east, north)


@st.composite
def shapes(draw: st.DrawFn) -> Any:
    kind = draw(st.integers(0, 3))
    if kind == 0:
        return shapely.Point(draw(NEAR))
    if kind == 1:
        line = shapely.LineString(draw(st.lists(NEAR, min_size=2, max_size=5)))
        return line if line.length > 1e-6 else shapely.Point(9, 47)
    hull = shapely.convex_hull(shapely.MultiPoint(draw(st.lists(NEAR, min_size=3, max_size=6))))
    if hull.geom_type != "Polygon" or hull.area < 1e-6:
        return shapely.Point(9, 47)
    return hull.difference(hull.centroid.buffer(0.01)) if kind == 3 else hull


@given(st.lists(st.tuples(LON, LAT), min_size=2, max_size=5))
def test_densified_lines_turned_round_have_the_same_vertices(xy: list[tuple[float, float]]) -> None:
    forward, back = densify(np.array([shapely.LineString(xy), shapely.LineString(xy[::-1])], object))
    assert shapely.get_coordinates(forward).tolist() == shapely.get_coordinates(back)[::-1].tolist()


def test_what_lies_in_cells_is_densified() -> None:
    """So that a long straight line follows the bend that it has in every projection."""
    found = shapely.from_wkb(cut([shapely.LineString([(9.0, 47.0), (9.9, 47.5)])], 10)[0]["geometry"].to_numpy())
    assert len(found) > 1
    for shape in found:
        assert np.abs(np.diff(shapely.get_coordinates(shape), axis=0)).max() <= MAX_SEGMENT * (1 + 1e-9)


@given(st.lists(st.tuples(LON, LAT), min_size=2, max_size=5))
def test_densified_lines_keep_their_vertices_and_have_only_short_segments_on_the_line(
    xy: list[tuple[float, float]],
) -> None:
    line = shapely.LineString(xy)
    found = shapely.get_coordinates(densify(np.array([line], object))[0])
    assert np.abs(np.diff(found, axis=0)).max(initial=0) <= MAX_SEGMENT * (1 + 1e-9)
    rest = iter(map(tuple, found.tolist()))
    assert all(any(p == q for q in rest) for p in xy)  # in order
    if line.length > 1e-6:
        assert shapely.distance(line, shapely.points(found)).max() < 1e-12


@given(shapes())
def test_densifying_agrees_with_the_rule_written_down_again(shape: Any) -> None:
    assert shapely.get_coordinates(densify(np.array([shape], object))[0]).tolist() == pytest.approx(
        shapely.get_coordinates(mapped(shape, lambda p: p)), abs=1e-13
    )


@given(st.lists(shapes(), min_size=1, max_size=4))
def test_the_pieces_in_all_cells_are_the_whole_feature(features: list[Any]) -> None:
    table, drops = cut(features)
    assert table.schema.equals(CUT)
    assert drops.num_rows == 0
    for n, whole in enumerate(features):
        rows = [r for r in table.to_pylist() if r["osm_id"] == n]
        assert rows
        pieces = {r["cell"]: shapely.from_wkb(r["geometry"]) for r in rows}
        for cell, piece in pieces.items():
            assert shapely.get_dimensions(piece) == shapely.get_dimensions(whole)
            own = cell_box(cell, MARGIN)
            if len(pieces) > 1:
                assert piece.difference(own.buffer(1e-9)).is_empty
        for cell, piece in pieces.items():  # in its own square nothing is missing and nothing is added
            square = cell_box(cell)
            a, b = whole.intersection(square), piece.intersection(square)
            assert a.symmetric_difference(b).area < 1e-9
            assert a.length == pytest.approx(b.length, abs=1e-6)
        joined = shapely.union_all(list(pieces.values()))
        assert joined.area == pytest.approx(whole.area, abs=1e-9)
        assert whole.difference(joined.buffer(1e-7)).is_empty
        assert all(
            r["tag_ids"] == [n] and r["paint"] == r["timestamp"] == n and r["kind"] == KIND[whole.geom_type]
            for r in rows
        )


@given(st.lists(shapes(), max_size=5))
def test_rows_are_sorted_by_cell_kind_type_and_id(features: list[Any]) -> None:
    table, _ = cut(features)
    rows = [(r["cell"], r["kind"], r["osm_type"], r["osm_id"]) for r in table.to_pylist()]
    assert rows == sorted(set(rows))


def test_a_place_near_a_cells_side_lies_in_both_cells() -> None:
    west = cell_box(357 * 1024 + 537).bounds[0]
    width = 360 / 1024
    for offset, cells in ((0.5 * MARGIN, 2), (2 * MARGIN, 1), (-0.5 * MARGIN, 2), (-2 * MARGIN, 1)):
        table, _ = cut([shapely.Point(west + offset * width, 47.3)])
        assert table.num_rows == cells


def test_a_neighbours_corner_is_no_part_of_a_cell() -> None:
    """A polygon whose box meets a cell though it does not itself: no row."""
    table, _ = cut([shapely.Polygon([(8.6, 46.9), (10.4, 46.9), (8.6, 48.3)])])
    boxes = [cell_box(c, MARGIN) for c in table["cell"].to_pylist()]
    assert all(b.intersection(shapely.Polygon([(8.6, 46.9), (10.4, 46.9), (8.6, 48.3)])).area > 0 for b in boxes)
    assert len(boxes) < 6 * 6


def test_an_area_that_touches_a_cells_box_from_outside_too_keeps_what_it_has_inside() -> None:
    """A box's intersection with it is an area and a line, of which the line is no part of it."""
    cell = 357 * 1024 + 537
    _, south, east, _ = tile_bounds(np.array([[537, 357]]), CELL_ZOOM, MARGIN)[0].tolist()
    hook = [(-1, 2), (2, 2), (2, 0), (0, 0), (0, 0.5), (1, 0.5), (1, 1), (-1, 1)]
    area = shapely.Polygon([(east + x / 100, south + 0.1 + y / 100) for x, y in hook])
    table, _ = cut([area])
    (piece,) = (shapely.from_wkb(r["geometry"]) for r in table.to_pylist() if r["cell"] == cell)
    assert piece.geom_type == "Polygon"
    assert piece.area == pytest.approx(1e-4)


@pytest.mark.parametrize(
    ("shape", "reason"),
    [
        (shapely.Polygon([(-120, 80), (0, 75), (120, 80)]), "antimeridian"),  # a ring around the pole
        (shapely.Point(10, 86), "beyond_mercator"),
        (shapely.Point(10, -86), "beyond_mercator"),
        (shapely.box(10, 86, 11, 87), "beyond_mercator"),
        (shapely.LineString([(10, 10), (10, 10)]), "no_extent"),
        (shapely.Polygon([(10, 10), (11, 10), (10.5, 10)]), "invalid_geometry"),
        (shapely.Polygon([(10, 10), (10, 10), (10, 10)]), "invalid_geometry"),
        (shapely.Polygon(), "invalid_geometry"),
    ],
)
def test_what_has_no_place_in_a_cell_is_dropped_with_a_reason(shape: Any, reason: str) -> None:
    table, drops = cut([shape, shapely.Point(9, 47)])
    assert table["osm_id"].to_pylist() == [1] * table.num_rows
    assert drops.schema.equals(DROPS)
    assert drops.select(["osm_type", "osm_id", "reason"]).to_pylist() == [
        {"osm_type": "way", "osm_id": 0, "reason": reason}
    ]


@pytest.mark.parametrize(
    "shape",
    [
        shapely.Point(180, 0), shapely.Point(-180, 0), shapely.Point(0, 85.0511),
        shapely.Point(0, -85.0511), shapely.Point(0, 0),
        shapely.LineString([(10, 84), (10, 86)]), shapely.box(170, -1, 180, 1),
    ],
)  # fmt: skip
def test_the_edges_of_the_world_belong_to_a_cell(shape: Any) -> None:
    table, drops = cut([shape])
    assert table.num_rows > 0
    assert drops.num_rows == 0


@pytest.mark.parametrize("side", [1, -1])
def test_what_reaches_beyond_a_pole_of_the_map_keeps_its_cells(side: int) -> None:
    south, north = sorted((side * 84.9, side * 86.0))
    table, drops = cut([shapely.box(10, south, 10.1, north)])
    assert table.num_rows
    assert not drops.num_rows


def test_a_bow_tie_is_repaired_to_its_two_parts_and_counted() -> None:
    table, drops = cut([shapely.Polygon([(9, 47), (9.1, 47.1), (9.1, 47), (9, 47.1)])])
    assert drops["reason"].to_pylist() == ["geometry_repaired"]
    pieces = shapely.from_wkb(np.array(table["geometry"].to_pylist(), object))
    assert shapely.is_valid(pieces).all()
    assert shapely.union_all(pieces).area == pytest.approx(0.005)


def test_no_features_have_no_cells() -> None:
    table, drops = cut([])
    assert table.num_rows == drops.num_rows == 0


def test_odd_objects_reach_the_cells_or_the_drops(tmp_path: Path) -> None:
    """Emoji, control characters, 255 characters, colons, doubled nodes, flat areas: nothing is lost on the way."""
    tags = [
        ("building", "🏠"),
        ("a:b:c", "x\x07y"),
        ("k" * 255, "v" * 255),
        ("é", "yes"),
        (":x", ";;a;"),
        ("sport", ";"),
    ]
    lines = [f"n{1 + i} v1 x{9 + i / 1000} y{47 + i % 2 / 1000}" for i in range(6)]
    for n, (key, value) in enumerate(tags):
        lines.append(f"n{10 + n} v1 x9.{n} y47 T{encoded(key)}={encoded(value)}")
        lines.append(f"w{10 + n} v1 T{encoded(key)}={encoded(value)},area=yes Nn1,n1,n2,n3,n3,n4,n1")
        lines.append(f"w{20 + n} v1 T{encoded(key)}={encoded(value)} Nn1,n2,n2,n1,n3")
    lines.append("w30 v1 Tbuilding=yes Nn1,n3,n5,n1")
    lines.append("w31 v1 Tbuilding=yes Nn1,n2,n1,n2,n1")
    extract = read(tmp_path, "\n".join(lines))
    assert table_of(extract).num_rows + sum(extract.drops["count"].to_pylist()) == extract.objects
    table = table_of(extract)
    tagged = tag_features(table["tags"], RULES, 1)
    features = whole_features(table)
    cells, drops = cut_to_cells(features, tagged.offsets, tagged.ids, tagged.paint)
    reached = set(zip(cells["osm_type"].to_pylist(), cells["osm_id"].to_pylist(), strict=True))
    gone = {
        (ObjectType[t.upper()], i)
        for t, i in zip(drops["osm_type"].to_pylist(), drops["osm_id"].to_pylist(), strict=True)
    }
    every = set(zip(features.osm_type.tolist(), features.osm_id.tolist(), strict=True))
    assert reached | gone == every
    assert not reached & gone
