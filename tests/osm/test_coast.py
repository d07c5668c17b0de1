"""On which side of the nearest coastline a place lies, against the land whose outline it is; over borders of cells."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shapely
from hypothesis import given
from hypothesis import strategies as st

from geometry.tiles import lonlat_to_tile, tile_to_lonlat
from pipeline.alignment import place
from pipeline.osm.coast import Coastline, LooseEnds
from pipeline.osm.features import FeatureBatch
from pipeline.osm.stage import coast_cells
from pipeline.tokens.config import TokensConfig
from pipeline.tokens.sheet import TokenMaker, extract_tokens
from schemas.features import CELL_ZOOM, COASTLINE, DOUBTFUL, Kind, ObjectType
from schemas.footprint import Footprint
from tests.geometry.shapes import star
from tests.osm.opl import RULES
from tests.osm.test_slabs import build

#: A cell at 60° N, where a degree of longitude is half one of latitude.
BORDER = (10.0, 59.9, 10.4, 60.1)
BOX = shapely.box(*BORDER)


def batch(
    shapes: list[Any], kind: Kind = Kind.LINE, osm_type: ObjectType = ObjectType.WAY, code: int = COASTLINE
) -> Any:
    n = len(shapes)
    geometry = np.empty(n, object)
    geometry[:] = shapes
    return FeatureBatch(
        np.full(n, osm_type, np.uint8), np.arange(n), np.full(n, kind, np.uint8), np.zeros(n + 1, np.int64),
        np.zeros(0, np.int64), np.full(n, code, np.uint16), geometry,
    )  # fmt: skip


def land_of(seed: int) -> Any:
    """Islands with lakes of the sea, and headlands that reach beyond the cell."""
    rng = np.random.default_rng(seed)
    parts = [
        star(rng, tuple(rng.uniform(BORDER[:2], BORDER[2:])), rng.uniform(0.005, 0.15), int(rng.integers(3, 12)))
        for _ in range(int(rng.integers(1, 5)))
    ]
    land = shapely.union_all(parts)
    return land.difference(star(rng, tuple(rng.uniform(BORDER[:2], BORDER[2:])), 0.02, 5)) if seed % 2 else land


def outline(land: Any) -> list[Any]:
    """Its coastline inside of the cell: land on the left."""
    turned = shapely.orient_polygons(shapely.get_parts(land))
    rings = [shapely.LineString(r.coords) for p in turned for r in (p.exterior, *p.interiors)]
    cut = shapely.intersection(np.array(rings, object), BOX)
    return [c for c in cut if c.length > 0]


@given(st.integers(0, 2**32))
def test_a_place_is_at_sea_if_it_is_on_no_land(seed: int) -> None:
    land = land_of(seed)
    lines = outline(land)
    if not lines:
        return
    places = np.random.default_rng(seed).uniform(BORDER[:2], BORDER[2:], (300, 2))
    coast = Coastline.of(batch(lines), BORDER)
    assert coast is not None
    wet = ~shapely.contains_xy(land, *places.T)
    found = coast.at_sea(places)
    assert not (found & ~wet).any()
    # Not decided is what is nearest to where the cell's border cuts the coastline.
    assert len(coast.ends) == 0
    cut_ends = [p for line in lines for part in shapely.get_parts(line) for p in (part.coords[0], part.coords[-1])]
    on = shapely.multipoints([p for p in cut_ends if shapely.Point(p).distance(BOX.boundary) < 1e-9] or [(99.0, 0.0)])
    shrunk = [shapely.transform(g, lambda xy: xy * (0.5, 1)) for g in (on, shapely.multilinestrings(
        [part for line in lines for part in shapely.get_parts(line)]))]  # fmt: skip
    points = shapely.points(places * (0.5, 1))
    sure = shapely.distance(points, shrunk[0]) > 1.001 * shapely.distance(points, shrunk[1])
    assert (found == wet)[sure].all()


@given(st.integers(0, 2**32))
def test_islands_as_areas_and_as_lines_say_the_same(seed: int) -> None:
    rng = np.random.default_rng(seed)
    land = star(rng, (10.2, 60.0), 0.05, 8)
    places = rng.uniform(BORDER[:2], BORDER[2:], (100, 2))
    lines, area = (Coastline.of(b, BORDER) for b in (batch(outline(land)), batch([land], Kind.POLYGON)))
    assert lines is not None
    assert area is not None
    assert (lines.at_sea(places) == area.at_sea(places)).all()


def test_doubtful_coastlines_and_those_of_relations_decide_nothing() -> None:
    line = shapely.LineString([(10.4, 60), (10.0, 60)])
    north = np.array([[10.2, 60.05]])
    coast = Coastline.of(batch([line]), BORDER)
    assert coast is not None
    assert coast.at_sea(north).tolist() == [True]
    doubtful = Coastline.of(batch([line], code=COASTLINE | DOUBTFUL), BORDER)
    assert doubtful is not None
    assert doubtful.at_sea(north).tolist() == [False]
    assert Coastline.of(batch([BOX], Kind.POLYGON, ObjectType.RELATION), BORDER) is None
    assert Coastline.of(batch([line], code=0), BORDER) is None


def test_a_coastline_is_believed_up_to_half_as_far_as_where_it_stops() -> None:
    stop, east = (BORDER[0] + BORDER[2]) / 2, BORDER[2]
    coast = Coastline.of(batch([shapely.LineString([(east, 60), (stop, 60)])]), BORDER)
    assert coast is not None
    aside = (east - stop) / 2
    half = aside * coast.shrink / np.sqrt(3)  # from the coastline; then the end of it is twice as far
    places = [(stop + aside, 60 + half * share) for share in (0.5, 0.99, 1.01, 1.5)]
    assert coast.at_sea(np.array(places)).tolist() == [True, True, False, False]


@pytest.mark.parametrize(
    ("lines", "places", "wanted"),
    [
        ([[(10.4, 60), (10.2, 60), (10.0, 60)]], [(10.2, 60.05), (10.2, 59.95)], [True, False]),  # straight on
        ([[(10.4, 60), (10.2, 60)], [(10.2, 60), (10.0, 60)]], [(10.2, 60.05), (10.2, 59.95)], [True, False]),
        ([[(10.4, 60), (10.2, 60), (10.2, 60), (10.0, 60)]], [(10.2, 60.05), (10.2, 59.95)], [True, False]),
        ([[(10.4, 60), (10.2, 60), (10.4, 60)]], [(10.1, 60.01), (10.1, 59.99)], [False, False]),  # there and back
        ([[(10.3, 60.1), (10.2, 60), (10.3, 59.9)]], [(10.1, 60), (10.3, 60)], [True, False]),  # a headland
        ([[(10.3, 59.9), (10.2, 60), (10.3, 60.1)]], [(10.1, 60), (10.3, 60)], [False, False]),  # a bay
        (
            [[(10.2, 60.1), (10.3, 60)], [(10.3, 60), (10.2, 59.9)]],
            [(10.15, 60.09)],
            [False],
        ),  # goes on beyond the cell
    ],
)
def test_a_place_nearest_to_a_corner_of_the_coastline_lies_outside_of_where_it_turns_to(
    lines: list[Any], places: list[Any], wanted: list[bool]
) -> None:
    coast = Coastline.of(batch([shapely.LineString(line) for line in lines]), BORDER)
    assert coast is not None
    with np.errstate(all="raise"):
        assert coast.at_sea(np.array(places)).tolist() == wanted


def test_a_corner_with_one_doubtful_side_decides_nothing() -> None:
    lines = [shapely.LineString(line) for line in ([(10.3, 60.1), (10.2, 60)], [(10.2, 60), (10.3, 59.9)])]
    own = batch(lines)
    for doubtful in (0, 1):
        paint = own.paint.copy()
        paint[doubtful] |= DOUBTFUL
        coast = Coastline.of(replace(own, paint=paint), BORDER)
        assert coast is not None
        assert coast.at_sea(np.array([[10.1, 60.0]])).tolist() == [False]


def test_an_island_that_a_cell_cuts_says_as_an_area_what_it_says_as_lines() -> None:
    """The sides along which the cell closes it are no coastline."""
    for seed in range(10):
        rng = np.random.default_rng(seed)
        land = star(rng, (10.0, 60.0), 0.05, 8)
        places = rng.uniform(BORDER[:2], BORDER[2:], (300, 2))
        lines = Coastline.of(batch(outline(land)), BORDER)
        area = Coastline.of(batch([land.intersection(BOX)], Kind.POLYGON), BORDER)
        assert lines is not None
        assert area is not None
        assert (lines.at_sea(places) == area.at_sea(places)).all()


def test_places_beyond_180_lie_beside_a_coastline_that_is_counted_on() -> None:
    border = (179.8, 59.9, 180.2, 60.1)
    coast = Coastline.of(batch([shapely.LineString([(180.2, 60), (179.8, 60)])]), border)
    assert coast is not None
    places = np.array([(x, y) for x in (179.9, -179.9) for y in (60.05, 59.95)])
    assert coast.at_sea(places).tolist() == [True, False] * 2


@pytest.mark.parametrize(
    ("lines", "wanted"),
    [
        ([[(10.1, 60), (10.2, 60)], [(10.2, 60), (10.3, 60)]], [(10.1, True, False), (10.3, False, False)]),
        ([[(10.1, 60), (10.2, 60)], [(10.3, 60), (10.2, 60)]],
         [(10.1, True, False), (10.2, False, True), (10.2, False, True), (10.3, True, False)]),
        ([[(10.0, 60), (10.4, 60)]], []),  # cut by the cell's border at both ends
        ([[(10.1, 60), (10.2, 60), (10.2, 60.05), (10.1, 60)]], []),
        ([[(10.0, 60), (10.2, 60)], [(10.2, 60), (10.4, 60)], [(10.2, 60), (10.2, 60.1)]],
         [(10.2, False, True), (10.2, True, True), (10.2, True, True)]),
    ],
)  # fmt: skip
def test_loose_ends_are_where_no_other_goes_on(lines: list[Any], wanted: list[Any]) -> None:
    ends = LooseEnds.of(np.array([shapely.LineString(line) for line in lines], object), BORDER)
    found = zip(ends.xy[:, 0].tolist(), ends.begins.tolist(), ends.met.tolist(), strict=True)
    assert sorted(found) == sorted(wanted)


@pytest.mark.parametrize("column", [540, 1024], ids=["anywhere", "at 180°"])
def test_a_footprint_across_four_cells_has_one_sea(tmp_path: Path, column: int) -> None:
    """The corner where they meet stands in its middle; the coastline runs over their borders, past it or through it."""
    lon, lat = tile_to_lonlat(np.array([[column, 360]]), CELL_ZOOM)[0].tolist()
    size, step = 64, 0.01
    crs, middle = ("EPSG:4326", lon) if column < 1024 else ("+proj=longlat +lon_0=180 +datum=WGS84 +no_defs", 0.0)
    footprint = Footprint("a", crs, (step, 0, middle - step * size / 2, 0, -step, lat + step * size / 2), size, size)
    for row, name in ((16, "through"), (48, "below"), (-2, "beyond"), (66, "under")):
        y = lat + step * (size / 2 - row)
        nodes = [(1, lon + 1.0, y), (2, lon + 0.1, y), (3, lon - 1.0, y)]
        text = [f"n{i} v1 x{(a + 180) % 360 - 180:.7f} y{b:.7f}" for i, a, b in nodes] + [
            "w1 v1 Tnatural=coastline Nn1,n2", "w2 v1 Tnatural=coastline Nn2,n3",
            f"n9 v1 Tnatural=tree x{lon - 0.001:.7f} y{lat + 0.001:.7f}",
        ]  # fmt: skip
        cells, _ = build(tmp_path / name, ["\n".join(text)])
        maker = TokenMaker(TokensConfig(), RULES.paint)
        (made,) = extract_tokens(maker, [footprint], place([footprint]), [cells.path], cells.zoom)
        assert made.raster is not None
        assert (made.raster > 0).sum() == size * min(max(row, 0), size)
        assert not made.broken_coast


def test_cells_with_a_coastline_are_known_whatever_else_lies_in_them(tmp_path: Path) -> None:
    text = """n1 v1 x10.1 y60.1 Tnatural=tree\nn2 v1 x10.11 y60.1\nn3 v1 x12.1 y60.1\nn4 v1 x12.11 y60.1
        w1 v1 Tnatural=coastline Nn1,n2\nw2 v1 Thighway=motorway,bridge=yes,layer=5 Nn1,n2
        w3 v1 Thighway=motorway,bridge=yes,layer=5 Nn3,n4"""
    cells, _ = build(tmp_path, [text])
    x, y = lonlat_to_tile(np.array([[10.1, 60.1]]), CELL_ZOOM)[0].astype(int).tolist()
    assert coast_cells(cells.path) == {(y << CELL_ZOOM) + x}
