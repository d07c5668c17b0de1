"""Class rasters from OPL to pixel: what no image shows is not painted, layers and bridges lie over what is below, the
sea lies to the right of the coastline."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shapely
from rasterio.features import rasterize

from geometry.tiles import tile_to_lonlat, xyz_footprint
from pipeline.alignment import place, project
from pipeline.osm.stage import Cells, coast_cells
from pipeline.tokens.config import TokensConfig
from pipeline.tokens.sheet import FootprintTokens, TokenMaker, extract_tokens
from schemas.keys import XyzKey
from tests.osm.opl import RULES, encoded
from tests.osm.test_slabs import build

TILE = XyzKey(17, 69000, 46100, 64)  # 46.98° N; its cell of zoom 10 spans 128 tiles around it
NAMES = ["unmapped", *(c.name for c in RULES.paint.classes)]
WATER = NAMES.index("water")
Way = tuple[list[tuple[float, float]], dict[str, str]]  # corners in sides of the tile, y down; tags


def lonlat(u: float, v: float) -> tuple[float, float]:
    lon, lat = tile_to_lonlat(np.array([[TILE.x + u, TILE.y + v]]), TILE.zoom)[0].tolist()
    return round(lon, 7), round(lat, 7)


def opl_of(ways: list[Way]) -> str:
    """Ways by their corners; equal corners are one node."""
    nodes: dict[tuple[float, float], int] = {}
    lines = []
    for number, (corners, tags) in enumerate(ways, 1):
        refs = [nodes.setdefault(lonlat(*c), len(nodes) + 1) for c in corners]
        text = ",".join(f"{encoded(k)}={encoded(v)}" for k, v in tags.items())
        lines.append(f"w{number} v1 T{text} N{','.join(f'n{r}' for r in refs)}")
    return "\n".join([f"n{i} v1 x{x} y{y}" for (x, y), i in nodes.items()] + lines)


def tokens_of(cells: Cells, keys: list[XyzKey]) -> list[FootprintTokens]:
    footprints = [xyz_footprint(k) for k in keys]
    maker = TokenMaker(TokensConfig(), RULES.paint)
    return extract_tokens(maker, footprints, place(footprints), [cells.path] * len(keys), cells.zoom)


def painted(folder: Path, ways: list[Way], keys: list[XyzKey] | None = None) -> list[np.ndarray]:
    """Rasters u8[64,64] of some tiles."""
    cells, _ = build(folder, [opl_of(ways)])
    found = [t.raster for t in tokens_of(cells, keys or [TILE])]
    return [r for r in found if r is not None]


def tile(dx: int, dy: int) -> XyzKey:
    return XyzKey(TILE.zoom, TILE.x + dx, TILE.y + dy, TILE.size)


def square(x: float, y: float, side: float) -> list[tuple[float, float]]:
    return [(x, y), (x + side, y), (x + side, y + side), (x, y + side), (x, y)]


ALL = square(-0.5, -0.5, 2)


@pytest.mark.parametrize(
    ("tags", "name"),
    [
        ({"building": "yes"}, "building"),
        ({"building": "yes", "location": "underground"}, "unmapped"),
        ({"building": "yes", "tunnel": "yes"}, "unmapped"),
        ({"building": "yes", "covered": "yes"}, "building"),  # its roof is seen
        ({"building": "yes", "level": "-1"}, "building"),
        ({"amenity": "parking", "parking": "underground"}, "unmapped"),
        ({"amenity": "parking", "parking": "surface"}, "parking"),
        ({"amenity": "parking", "covered": "yes"}, "unmapped"),
        ({"amenity": "parking", "covered": "no"}, "parking"),
        ({"amenity": "parking", "indoor": "yes"}, "unmapped"),
        ({"amenity": "parking", "location": "indoor"}, "unmapped"),
        ({"amenity": "parking", "level": "-2;-1"}, "unmapped"),
        ({"amenity": "parking", "level": "-2--1"}, "unmapped"),
        ({"amenity": "parking", "level": "-1;0"}, "parking"),
        ({"amenity": "parking", "level": "-1-0"}, "parking"),
        ({"natural": "water", "tunnel": "culvert"}, "unmapped"),
        ({"natural": "water", "tunnel": "no"}, "water"),
        ({"building": "construction"}, "construction"),
        ({"building": "demolished"}, "unmapped"),
        ({"building": "proposed"}, "unmapped"),
        ({"building": "yes", "demolished": "yes"}, "unmapped"),
        ({"building": "yes", "razed": "yes"}, "unmapped"),
        ({"building": "yes", "proposed": "yes"}, "unmapped"),
        ({"building": "yes", "construction": "yes"}, "unmapped"),
        ({"landuse": "construction", "construction": "yes"}, "construction"),
        ({"demolished:building": "yes", "area": "yes"}, "unmapped"),
        ({"razed:building": "yes", "landuse": "grass"}, "grass"),  # what is there now
        ({"demolished:building": "yes", "building": "yes", "landuse": "grass"}, "grass"),
        ({"demolished:building": "no", "building": "yes"}, "building"),
        ({"proposed:landuse": "residential", "landuse": "farmland"}, "farmland"),
        ({"was:building": "yes", "area": "yes"}, "unmapped"),
        ({"was:amenity": "school", "building": "yes"}, "building"),
        ({"abandoned:amenity": "parking", "removed:landuse": "farmland", "area": "yes"}, "unmapped"),
        ({"building": "yes", "abandoned": "yes"}, "building"),  # it stands
        ({"building": "ruins", "historic": "ruins"}, "building"),
        ({"natural": "water;wetland"}, "water"),
        ({"natural": "wetland; water"}, "water"),
        ({"natural": " water "}, "water"),
        ({"landuse": "grass\t"}, "grass"),
        ({"buidling": "yes"}, "building"),
        ({"landuse": "forrest"}, "forest"),
        ({"building": "no", "landuse": "grass"}, "grass"),
        ({"building": "?", "landuse": "grass"}, "grass"),  # malformed: no token, no paint
    ],
)
def test_an_area_is_painted_as_what_an_image_shows_of_it(tmp_path: Path, tags: dict[str, str], name: str) -> None:
    """A closed way over the whole tile. It must be an area first: the rule for areas judges the same cleaned tags."""
    (raster,) = painted(tmp_path, [(ALL, tags), ([(0.1, 0.1), (0.2, 0.1)], {"barrier": "fence"})])
    assert {NAMES[v] for v in np.unique(raster)} == {name}


def test_tags_that_say_area_once_cleaned_make_areas_and_only_those() -> None:
    for tags, area in (
        ({"buidling": "yes"}, True), ({"natural": "tree_row;water"}, True), ({"natural": "tree_row"}, False),
        ({"natural": " water"}, True), ({"area": " no ", "building": "yes"}, False), ({"area": "yes "}, True),
        ({"building ": "yes"}, True), ({"building": "no"}, False), ({"highway": "services;path"}, True),
        ({"building": "yes;no"}, True), ({"aeroway": "taxiway"}, False), ({"leisure": "picth"}, True),
    ):  # fmt: skip
        assert RULES.is_area(tags) == area, tags


NORTH_SOUTH, WEST_EAST = [(0.508, -0.2), (0.508, 1.2)], [(-0.2, 0.508), (1.2, 0.508)]


@pytest.mark.parametrize(
    ("one", "other", "upper"),
    [
        ({"highway": "path"}, {"highway": "primary"}, "major_road"),  # the order of the classes
        ({"highway": "path", "bridge": "yes"}, {"highway": "primary"}, "path"),  # a bridge lies at layer 1
        ({"highway": "path", "bridge": "yes"}, {"highway": "primary", "layer": "2"}, "major_road"),
        ({"highway": "path", "bridge": "no"}, {"highway": "primary"}, "major_road"),
        ({"highway": "path", "layer": "1"}, {"highway": "primary"}, "path"),
        ({"highway": "path", "layer": " 1 "}, {"highway": "primary", "layer": "up"}, "path"),
        ({"highway": "path"}, {"highway": "primary", "layer": "-1"}, "path"),
        ({"highway": "path", "bridge": "yes"}, {"railway": "rail", "bridge": "yes", "layer": "2"}, "rail"),
        ({"highway": "path", "bridge": "yes", "layer": "-1"}, {"highway": "primary"}, "path"),
        ({"waterway": "river"}, {"highway": "path", "layer": "-1"}, "path"),  # what covers the ground lies lowest
        ({"waterway": "canal", "layer": "3"}, {"highway": "path"}, "path"),
        ({"waterway": "canal", "bridge": "aqueduct"}, {"highway": "primary"}, "river"),
        ({"highway": "primary", "tunnel": "yes", "layer": "5"}, {"highway": "path"}, "path"),
        ({"highway": "path", "layer": "99"}, {"highway": "primary", "layer": "5"}, "path"),
    ],
)
def test_where_two_lines_cross_the_upper_one_is_seen(
    tmp_path: Path, one: dict[str, str], other: dict[str, str], upper: str
) -> None:
    for swap, ways in enumerate(([(NORTH_SOUTH, one), (WEST_EAST, other)], [(WEST_EAST, other), (NORTH_SOUTH, one)])):
        (raster,) = painted(tmp_path / str(swap), ways)
        assert NAMES[raster[32, 32]] == upper


def test_a_roof_garden_lies_under_its_roof_and_a_rooftop_car_park_on_it(tmp_path: Path) -> None:
    roof = (ALL, {"building": "yes"})
    for name, tags, seen in (
        ("garden", {"leisure": "garden", "layer": "1"}, "building"),
        ("parking", {"amenity": "parking", "layer": "1"}, "parking"),
        ("river", {"natural": "water", "layer": "-1"}, "building"),
    ):
        (raster,) = painted(tmp_path / name, [roof, (square(0.2, 0.2, 0.6), tags)])
        assert NAMES[raster[32, 32]] == seen


COAST = {"natural": "coastline"}


def westward(y: float, west: float = -40.0, east: float = 40.0) -> Way:
    """A straight coastline with land in the south and the sea in the north."""
    return [(east, y), ((west + east) / 2, y), (west, y)], COAST


def test_the_coast_of_a_mainland_parts_sea_from_land(tmp_path: Path) -> None:
    (raster,) = painted(tmp_path, [westward(0.25)])
    assert (raster[:16] == WATER).all()
    assert (raster[16:] == 0).all()


def test_an_island_is_no_water_whether_it_is_a_line_or_an_area(tmp_path: Path) -> None:
    ring = square(0.25, 0.25, 0.5)[::-1]  # land inside is to the left of a ring that turns counter-clockwise
    for name, tags in (("line", COAST), ("area", COAST | {"place": "islet"})):
        (raster,) = painted(tmp_path / name, [(ring, tags)])
        assert (raster[16:48, 16:48] == 0).all()
        assert (raster == WATER).sum() == 64 * 64 - 32 * 32


def test_an_enclosed_sea_is_water_inside(tmp_path: Path) -> None:
    (raster,) = painted(tmp_path, [(square(0.25, 0.25, 0.5), COAST)])
    assert (raster[16:48, 16:48] == WATER).all()
    assert (raster == WATER).sum() == 32 * 32


def test_a_bay_made_of_several_ways_is_water(tmp_path: Path) -> None:
    corners = [(2.0, 0.25), (0.75, 0.25), (0.75, 0.75), (0.25, 0.75), (0.25, 0.25), (-2.0, 0.25)]
    ways: list[Way] = [(corners[:3], COAST), (corners[4:], COAST), (corners[2:5], COAST)]
    (raster,) = painted(tmp_path, ways)
    assert (raster[:16] == WATER).all()
    assert (raster[16:48, 16:48] == WATER).all()
    assert (raster == WATER).sum() == 16 * 64 + 32 * 32


def test_beaches_piers_and_bridges_lie_on_the_sea_and_a_reserve_does_not_cover_it(tmp_path: Path) -> None:
    ways: list[Way] = [
        westward(0.5), (square(0.0, 0.25, 0.25), {"natural": "beach"}), (square(0.5, 0.0, 0.25), {"building": "yes"}),
        (ALL, {"leisure": "nature_reserve"}),
    ]  # fmt: skip
    (raster,) = painted(tmp_path, ways)
    assert NAMES[raster[20, 4]] == "bare_ground"
    assert NAMES[raster[4, 40]] == "building"
    assert NAMES[raster[4, 4]] == "water"
    assert NAMES[raster[60, 4]] == "park"


def buoy(x: float, y: float) -> Way:
    """Something that no class paints, so that a tile has an object."""
    return [(x, y), (x + 0.1, y)], {"barrier": "fence"}


def test_tiles_without_a_coastline_are_sea_to_its_right_and_never_inland(tmp_path: Path) -> None:
    keys = [tile(0, -3), tile(0, -1), tile(0, 1), tile(0, 8), tile(5, -2), tile(-5, 3)]
    rasters = painted(tmp_path, [westward(0.5), *(buoy(k.x - TILE.x + 0.5, k.y - TILE.y + 0.5) for k in keys)], keys)
    assert [np.unique(r).tolist() for r in rasters] == [[WATER], [WATER], [0], [0], [WATER], [0]]


def test_a_tile_behind_a_headland_is_on_the_side_of_its_tip(tmp_path: Path) -> None:
    """Nearest is a corner: the sea is outside of it, on land it is inside of it."""
    tip = [(30.0, 10.5), (0.5, 0.5), (-30.0, 10.5)]
    keys = [tile(0, -2), tile(3, -3), tile(0, 3)]
    inlet = [(30.0, -9.5), (0.5, 0.5), (-30.0, -9.5)]
    for name, line in (("head", tip), ("inlet", inlet)):
        rasters = painted(tmp_path / name, [(line, COAST)], keys)
        assert [np.unique(r).tolist() for r in rasters] == [[WATER], [WATER], [0]]


def test_a_tile_with_a_street_is_no_sea_and_one_with_a_bridge_or_a_sandbank_is(tmp_path: Path) -> None:
    keys = [tile(0, -2), tile(2, -2), tile(4, -2), tile(6, -2)]
    street = [(0.2, -1.5), (0.8, -1.5)]
    shifted = [[(x + d, y) for x, y in street] for d in (0, 2)]
    ways: list[Way] = [
        westward(0.5), (shifted[0], {"highway": "residential"}),
        (shifted[1], {"highway": "residential", "bridge": "yes"}),
        (square(4.2, -1.8, 0.5), {"natural": "wetland"}), (square(6.2, -1.8, 0.5), {"landuse": "farmland"}),
    ]  # fmt: skip
    rasters = painted(tmp_path, ways, keys)
    assert [bool((r == WATER).any()) for r in rasters] == [False, True, True, False]


def test_a_coastline_that_leaves_the_extract_says_nothing_near_its_end(tmp_path: Path) -> None:
    """It stops 6 tiles to the east; whatever lies nearer to that than twice its distance from the coastline is open."""
    keys = [tile(0, -2), tile(5, -5), tile(9, -2), tile(9, 2)]
    ways = [westward(0.5, -40.0, 6.5), *(buoy(k.x - TILE.x + 0.5, k.y - TILE.y + 0.5) for k in keys)]
    cells, drops = build(tmp_path, [opl_of(ways)])
    rasters = [t.raster for t in tokens_of(cells, keys)]
    assert [np.unique(r).tolist() for r in rasters if r is not None] == [[WATER], [0], [0], [0]]
    found = [(d["osm_type"], d["osm_id"], d["detail"]) for d in drops if d["reason"] == "coastline_stops"]
    lon, lat = lonlat(6.5, 0.5)
    assert ("way", 1, f"begins at {lon:.7f},{lat:.7f} where no other goes on; kept, no sea is painted there") in found
    assert len(found) == 2  # its other end, too


def test_a_broken_coastline_leaves_its_tile_unpainted_and_is_named(tmp_path: Path) -> None:
    gap: list[Way] = [westward(0.5, 0.6, 40.0), westward(0.5, -40.0, 0.4), (square(0.1, 0.7, 0.2), {"building": "yes"})]
    cells, drops = build(tmp_path, [opl_of(gap)])
    (found,) = tokens_of(cells, [TILE])
    assert found.raster is not None
    assert found.broken_coast
    assert not (found.raster == WATER).any()
    assert (found.raster == NAMES.index("building")).any()
    places = {d["detail"].split(" where")[0] for d in drops if d["reason"] == "coastline_stops"}
    for what, u in (("begins", 0.4), ("ends", 0.6)):
        lon, lat = lonlat(u, 0.5)
        assert f"{what} at {lon:.7f},{lat:.7f}" in places


def test_a_way_that_runs_against_the_others_floods_no_land(tmp_path: Path) -> None:
    """Neither where it runs through nor beside it, though it is whole in itself there."""
    against: Way = ([(-3.0, 0.5), (3.0, 0.5)], COAST)
    ways = [westward(0.5, 3.0, 40.0), against, westward(0.5, -40.0, -3.0), buoy(0.5, 1.5), buoy(0.5, 2.5)]
    cells, drops = build(tmp_path, [opl_of(ways)])
    through, beside, further = tokens_of(cells, [TILE, tile(0, 1), tile(0, 2)])
    assert through.broken_coast
    for found in (through, beside, further):
        assert found.raster is not None
        assert not (found.raster == WATER).any()
    named = {d["osm_id"] for d in drops if "beside others that do" in d["detail"]}
    assert named == {1, 2, 3}


def test_a_relation_of_coastlines_does_not_count_them_twice(tmp_path: Path) -> None:
    text = opl_of([(square(0.25, 0.25, 0.5)[::-1], COAST)])
    cells, _ = build(tmp_path, [text + "\nr1 v1 Ttype=multipolygon,natural=coastline,place=island Mw1@outer"])
    (found,) = tokens_of(cells, [TILE])
    assert found.raster is not None
    assert (found.raster == WATER).sum() == 64 * 64 - 32 * 32


def test_the_sea_goes_on_over_the_borders_of_cells(tmp_path: Path) -> None:
    """A tile pyramid's cells of zoom 10: the tile stands in the corner of one, its coast is another's."""
    corner = XyzKey(17, (TILE.x >> 7) << 7, (TILE.y >> 7) << 7, 64)
    dx, dy = corner.x - TILE.x, corner.y - TILE.y
    keys = [tile(dx - 1, dy - 2), tile(dx, dy - 2), tile(dx, dy), tile(dx - 1, dy + 1), tile(dx - 1, dy)]
    ways = [westward(dy + 0.5, dx - 60, dx + 60), *(buoy(k.x - TILE.x + 0.5, k.y - TILE.y + 0.5) for k in keys)]
    rasters = painted(tmp_path, ways, keys)
    share = [float((r == WATER).mean()) for r in rasters]
    assert share == [1.0, 1.0, 0.5, 0.0, 0.5]


def test_open_sea_is_known_from_the_coastline_of_the_next_cell(tmp_path: Path) -> None:
    """Cells of zoom 10 that hold no coastline; two cells away nothing is said, nor where the next ones are inland."""
    keys = [tile(0, -60), tile(-100, -60), tile(150, -30), tile(0, 130), tile(0, -160), tile(0, 300)]
    buoys = [buoy(k.x - TILE.x + 0.5, k.y - TILE.y + 0.5) for k in keys]
    cells, _ = build(tmp_path, [opl_of([westward(0.5, -400.0, 400.0), *buoys])])
    own = {(k.y >> 7 << 10) + (k.x >> 7) for k in keys}
    assert coast_cells(cells.path)
    assert not coast_cells(cells.path) & own
    rasters = [t.raster for t in tokens_of(cells, keys)]
    assert [np.unique(r).tolist() for r in rasters if r is not None] == [[WATER]] * 3 + [[0]] * 3


def test_a_wild_archipelago_is_what_shapely_leaves_of_the_sea(tmp_path: Path) -> None:
    """Every tile of a block, with and without coastline, against the difference of box and islands."""
    rng = np.random.default_rng(5)
    islands: list[Any] = []
    ways: list[Way] = []
    for x in range(-6, 12, 4):
        for y in range(-6, 12, 4):
            angle = -np.arange(12) * (2 * math.pi / 12)  # counter-clockwise seen with y up
            reach = rng.uniform(1.2, 1.95, 12)
            ring = [(float(x + r * math.cos(a)), float(y + r * math.sin(a))) for a, r in zip(angle, reach, strict=True)]
            ring.append(ring[0])
            at = int(rng.integers(1, 11))
            ways += [(ring[: at + 1], COAST), (ring[at:], COAST)]
            islands.append(shapely.Polygon([lonlat(*c) for c in ring]))
    keys = [tile(x, y) for x in range(-6, 8) for y in range(-6, 8)]
    ways += [buoy(k.x - TILE.x + 0.5, k.y - TILE.y + 0.5) for k in keys]
    land = project(np.array([shapely.union_all(islands)], object), "EPSG:3857")[0]
    share = []
    for key, raster in zip(keys, painted(tmp_path, ways, keys), strict=True):
        footprint = xyz_footprint(key)
        a, _, c, _, e, f = footprint.transform
        shown = shapely.transform(land, lambda xy, a=a, c=c, e=e, f=f: (xy - (c, f)) / (a, e))
        wanted = rasterize([(shown, 0)], (64, 64), fill=WATER, dtype="uint8")
        assert (wanted != raster).sum() <= 2, key  # centres on the coastline
        share.append((raster == WATER).mean())
    assert {0.0, 1.0} <= set(share)
