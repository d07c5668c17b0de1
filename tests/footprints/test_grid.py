"""Metric cells: no gap, no double ground inside a zone, a counted rule at its borders."""

from __future__ import annotations

import math

import numpy as np
import pytest
import shapely
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from pyproj import CRS, Geod, Transformer
from pyproj.database import query_utm_crs_info

from pipeline.footprints.grid import GridCells, grid_cells
from pipeline.footprints.ground import Ground
from pipeline.footprints.producers import PRODUCERS, Wish
from schemas.errors import ConfigError
from schemas.features import CELL_ZOOM
from schemas.footprint import Footprint
from schemas.keys import GridKey, check_key

WORLD = [(-180.0, -90.0, 180.0, 90.0)]
GEOD = Geod(ellps="WGS84")
#: To 1e-9 of a degree: closer to a border than a tenth of a millimetre, a projection rounds onto it.
LON = (
    st.floats(-180, 179.999).map(lambda v: round(v, 9))
    | st.integers(-30, 29).map(lambda z: 6.0 * z)
    | st.integers(-29, 30).map(lambda z: 6.0 * z - 1e-4)
)
LAT = st.floats(-80, 83.999).map(lambda v: round(v, 9)) | st.sampled_from([-80.0, 0.0, -1e-9, 1e-9, 83.999])
SIZES = st.sampled_from([(10.0, 256), (2.5, 224), (0.6, 512), (30.0, 100), (100.0, 500)])


def around(lon: float, lat: float, reach: float = 0.001) -> list[tuple[float, float, float, float]]:
    """Extents around a point, cut at the antimeridian."""
    boxes = [(lon - reach, lat - reach, lon + reach, lat + reach)]
    if lon - reach < -180:
        boxes = [(-180.0, lat - reach, lon + reach, lat + reach), (lon - reach + 360, lat - reach, 180.0, lat + reach)]
    return boxes


def cells_at(cells: GridCells, lon: float, lat: float) -> dict[int, int]:
    """How many cells of each CRS hold a point, half-open."""
    found: dict[int, int] = {}
    for epsg in np.unique(cells.epsg).tolist():
        x, y = Transformer.from_crs("EPSG:4326", epsg, always_xy=True).transform(lon, lat)
        own = cells.transform[cells.epsg == epsg]
        side = own[:, 0] * GridKey.parse(cells.keys[0]).size
        found[epsg] = int(((own[:, 2] <= x) & (x < own[:, 2] + side) & (own[:, 5] - side <= y) & (y < own[:, 5])).sum())
    return found


#: EPSG's own areas of use of the WGS84 zones, as pyproj's database has them.
ZONES = [(int(info.code), info.area_of_use) for info in query_utm_crs_info("WGS 84")]


@settings(deadline=None, max_examples=60)
@given(LON, LAT, SIZES)
def test_every_point_lies_in_exactly_one_cell_of_its_own_zone(
    lon: float, lat: float, gsd_size: tuple[float, int]
) -> None:
    cells = grid_cells(around(lon, lat), None, *gsd_size, 10**6)
    own = (32600 if lat >= 0 else 32700) + int((lon + 180) // 6) + 1
    counts = cells_at(cells, lon, lat)
    assert counts[own] == 1
    assert max(counts.values()) == 1  # and in no two of any other


@settings(deadline=None, max_examples=40)
@given(st.floats(-179.9, 179.9), st.floats(-79.9, 83.9))
def test_the_zone_is_the_one_that_pyproj_names(lon: float, lat: float) -> None:
    assume(min(lon % 6, -lon % 6, abs(lat)) > 0.02)
    epsg = np.unique(grid_cells(around(lon, lat), None, 10.0, 64, 10**6).epsg).tolist()
    assert epsg == [code for code, use in ZONES if use.west <= lon < use.east and use.south <= lat < use.north]


@settings(deadline=None, max_examples=30)
@given(LON, st.floats(-79, 83), SIZES)
def test_a_cell_is_as_large_on_the_ground_as_its_name_says(lon: float, lat: float, gsd_size: tuple[float, int]) -> None:
    gsd, size = gsd_size
    assume(gsd * size < 20_000)  # wider ones reach out of their strip
    cells = grid_cells(around(lon, lat), None, gsd, size, 10**6)
    side = gsd * size
    for epsg, (a, _, c, _, e, f) in zip(cells.epsg.tolist(), cells.transform.tolist(), strict=True):
        assert (a, e) == (gsd, -gsd)
        back = Transformer.from_crs(epsg, "EPSG:4326", always_xy=True)
        x, y = back.transform([c, c + side, c + side, c], [f, f, f - side, f - side])
        lengths = GEOD.line_lengths([*x, x[0]], [*y, y[0]])
        assert np.allclose(lengths, side, rtol=1.5e-3)  # 0.1 % at a strip's border, a little more beyond it
        area, _ = GEOD.polygon_area_perimeter(x, y)
        assert abs(area) == pytest.approx(side**2, rel=3e-3)


@pytest.mark.parametrize(("zone", "hemisphere", "name"), [(1, "n", "1N"), (60, "s", "60S"), (32, "n", "32N")])
def test_the_crs_of_a_key_is_its_zone(zone: int, hemisphere: str, name: str) -> None:
    assert CRS(GridKey(zone, hemisphere, 0, 0, 256, 1000).crs).name == f"WGS 84 / UTM zone {name}"


@settings(deadline=None, max_examples=30)
@given(st.floats(-170, 170), st.floats(-75, 75), SIZES)
def test_keys_name_the_cells_that_the_columns_hold(lon: float, lat: float, gsd_size: tuple[float, int]) -> None:
    gsd, size = gsd_size
    cells = grid_cells(around(lon, lat, 0.01), None, gsd, size, 10**6)
    assert len(set(cells.keys)) == len(cells.keys) == len(cells.epsg) == len(cells.transform)
    for key, epsg, (column, row), transform in zip(
        cells.keys, cells.epsg.tolist(), cells.columns_rows.tolist(), cells.transform.tolist(), strict=True
    ):
        name = GridKey.parse(check_key(key))
        assert (name.column, name.row, name.size, name.gsd_mm) == (column, row, size, round(gsd * 1000))
        assert name.crs == f"EPSG:{epsg}"
        west, south, east, north = Footprint(key, name.crs, tuple(transform), size, size).bounds()  # type: ignore[arg-type]
        side = gsd * size
        assert (west, south) == pytest.approx((column * side, row * side))
        assert (east, north) == pytest.approx((west + side, south + side))


def test_neighbours_meet_without_a_rounding_error() -> None:
    cells = grid_cells([(9.0, 47.0, 9.1, 47.1)], None, 0.6, 256, 10**6)
    wests = np.unique(cells.transform[:, 2])
    assert len(wests) == len(np.unique(cells.columns_rows[:, 0]))
    exact = cells.columns_rows[:, 0] * 153.6
    np.testing.assert_array_equal(cells.transform[:, 2], np.round(exact, 1))


BLOBS = st.builds(
    lambda lon, lat, w, h, hole: shapely.affinity.scale(shapely.Point(lon, lat).buffer(1), w, h).difference(
        shapely.Point(lon, lat).buffer(hole)
    ),
    st.floats(5.7, 12.3), st.floats(-0.3, 0.3) | st.floats(46, 48) | st.floats(-48, -46), st.floats(0.02, 0.4),
    st.floats(0.02, 0.4), st.floats(0.005, 0.01),
)  # fmt: skip


@settings(deadline=None, max_examples=25)
@given(BLOBS)
def test_cells_of_an_area_are_those_that_share_its_ground_in_their_zone(area: shapely.Geometry) -> None:
    """Against a test of each cell around, by polygons in the zone's CRS with ten times as many vertices."""
    cells = grid_cells(WORLD, area, 30.0, 100, 10**6)
    found = {(e, *cr) for e, cr in zip(cells.epsg.tolist(), cells.columns_rows.tolist(), strict=True)}
    expected = set()
    for zone in (31, 32, 33):
        for epsg, low, high in ((32600 + zone, 0, 84), (32700 + zone, -80, 0)):
            part = area.intersection(shapely.box(zone * 6 - 186, low, zone * 6 - 180, high))
            if part.area == 0:
                continue
            to = Transformer.from_crs("EPSG:4326", epsg, always_xy=True)
            there = shapely.transform(part.segmentize(0.001), lambda xy, to=to: np.stack(to.transform(*xy.T), axis=1))
            x0, y0, x1, y1 = (math.floor(v / 3000) for v in there.bounds)
            for x in range(x0 - 1, x1 + 2):
                for y in range(y0 - 1, y1 + 2):
                    cell = shapely.box(x * 3000, y * 3000, x * 3000 + 3000, y * 3000 + 3000)
                    shared = cell.intersection(there).area
                    if 0 < shared < 300 or (shared == 0 and cell.distance(there) < 0.03):
                        found.discard((epsg, x, y))  # outlines are true to 2 cm
                    elif shared:
                        expected.add((epsg, x, y))
    assert found == expected


@settings(deadline=None, max_examples=25)
@given(BLOBS, st.floats(5.8, 12.2), st.booleans())
def test_an_area_in_two_parts_has_the_cells_of_both(area: shapely.Geometry, cut: float, by_extent: bool) -> None:
    boxes = [(-180.0, -90.0, cut, 90.0), (cut, -90.0, 180.0, 90.0)]
    whole = set(grid_cells(WORLD, area, 30.0, 100, 10**6).keys)
    if by_extent:
        assert set(grid_cells(boxes, area, 30.0, 100, 10**6).keys) == whole
        parts = [grid_cells([box], area, 30.0, 100, 10**6) for box in boxes]
    else:
        halves = [area.intersection(shapely.box(*box)) for box in boxes]
        parts = [grid_cells(WORLD, half, 30.0, 100, 10**6) for half in halves if half.area]
    assert {key for part in parts for key in part.keys} == whole


def test_an_area_at_a_border_of_zones_takes_no_cell_of_the_zone_that_it_only_touches() -> None:
    cells = grid_cells(WORLD, shapely.box(6.0, 0.0, 6.1, 0.1), 10.0, 250, 10**6)
    assert set(cells.epsg.tolist()) == {32632}
    assert cells.columns_rows[:, 1].min() == 0


def test_the_equator_is_a_border_of_rows_where_the_side_divides_ten_million_metres() -> None:
    cells = grid_cells([(8.9, -0.1, 9.1, 0.1)], None, 10.0, 250, 10**6)
    north, south = (cells.columns_rows[cells.epsg == epsg] for epsg in (32632, 32732))
    assert north[:, 1].min() == 0
    assert south[:, 1].max() == 10_000_000 // 2500 - 1


def test_zones_60_and_1_meet_at_the_antimeridian() -> None:
    area = shapely.union(shapely.box(179.9, 51.0, 180.0, 51.1), shapely.box(-180.0, 51.0, -179.9, 51.1))
    cells = grid_cells(WORLD, area, 10.0, 256, 10**6)
    assert set(cells.epsg.tolist()) == {32660, 32601}
    for lon in np.linspace(-180, -179.9, 50, endpoint=False):
        assert cells_at(cells, lon, 51.05)[32601] == 1
        assert cells_at(cells, lon + 179.9 + 180, 51.05)[32660] == 1


def test_cells_across_the_antimeridian_are_candidates_and_have_an_outline_on_either_side() -> None:
    boxes = [(179.9, 51.0, 180.0, 51.1), (-180.0, 51.0, -179.9, 51.1)]
    wish = Wish(Ground.around(boxes, 12), None, 0, 10.0, 256, 10**6)
    candidates, drops = PRODUCERS["grid"].make(wish)
    assert drops == []
    assert set(candidates.footprints().keys) == set(grid_cells(boxes, None, 10.0, 256, 10**6).keys)
    west, _, east, _ = candidates.bbox().T
    across = west > east
    assert 0 < across.sum() < len(across)
    outlines = candidates.outlines()
    bounds = shapely.bounds(outlines)
    assert (bounds[across, ::2] == (-180.0, 180.0)).all()
    assert set(shapely.get_num_geometries(outlines[across]).tolist()) == {2}
    m2 = [abs(GEOD.geometry_area_perimeter(outline)[0]) for outline in outlines]
    np.testing.assert_allclose(m2, 2560.0**2, rtol=5e-3)
    assert candidates.cell_zoom() == CELL_ZOOM


def test_ground_beyond_utm_is_counted() -> None:
    wish = Wish(Ground.around([(0.0, 83.9, 1.0, 84.1)], 12), None, 0, 10.0, 256, 10**6)
    _, drops = PRODUCERS["grid"].make(wish)
    assert [(d["reason"], d["count"] > 0) for d in drops] == [("beyond_utm", True)]


def test_ground_that_no_zone_covers_is_counted() -> None:
    cells = grid_cells([(0.0, 83.0, 6.0, 85.0)], None, 100.0, 100, 10**6)
    lon = [*np.linspace(0, 6, 50), *np.linspace(6, 0, 50)]
    area, _ = GEOD.polygon_area_perimeter(lon, [84.0] * 50 + [85.0] * 50)
    assert cells.beyond == pytest.approx(area / 1e8, abs=1)
    assert len(cells.keys) > 0
    pole = grid_cells([(-180.0, -90.0, 180.0, -80.0)], None, 100.0, 100, 10**6)
    assert (len(pole.keys), pole.transform.shape, pole.columns_rows.shape) == (0, (0, 6), (0, 2))
    assert pole.beyond > 30_000
    assert grid_cells([(0.0, 0.0, 1.0, 1.0)], None, 100.0, 100, 10**6).beyond == 0


@pytest.mark.parametrize("latitude", [0.5, 47.0, 70.0, -47.0])
def test_double_ground_at_borders_is_what_is_said(latitude: float) -> None:
    """Ground of all cells of a strip's band against the band's own, by areas."""
    low, high = latitude - 0.4, latitude + 0.4
    cells = grid_cells([(6.0, low, 12.0, high)], None, 10.0, 256, 10**6)
    epsg = 32632 if latitude > 0 else 32732
    to = Transformer.from_crs("EPSG:4326", epsg, always_xy=True)
    strip = shapely.transform(
        shapely.box(6.0, low - 0.1, 12.0, high + 0.1).segmentize(0.1), lambda xy: np.stack(to.transform(*xy.T), axis=1)
    )
    west, north = cells.transform[:, 2], cells.transform[:, 5]
    boxes = shapely.box(west, north - 2560, west + 2560, north)
    over = shapely.difference(boxes[~shapely.contains_properly(strip, boxes)], strip)
    rows = len(np.unique(cells.columns_rows[:, 1]))
    width = GEOD.inv(6.0, latitude, 12.0, latitude)[2]
    share = shapely.area(over).sum() / (rows * 2560.0 * width)
    assert share == pytest.approx(2.56 / (667.9 * math.cos(math.radians(latitude))), rel=0.2)


@pytest.mark.parametrize("extent", [(9.0, 47.0, 9.0, 47.0), (9.0, 47.0, 9.0, 47.001), (6.0, 0.0, 6.0, 0.0)])
def test_an_extent_of_one_point_has_its_cell(extent: tuple[float, float, float, float]) -> None:
    cells = grid_cells([extent], None, 10.0, 256, 10)
    assert sum(cells_at(cells, *extent[:2]).values()) == 1


def test_a_line_along_the_antimeridian_has_cells() -> None:
    assert len(grid_cells([(180.0, 1.0, 180.0, 1.001)], None, 10.0, 256, 10).keys) == 1


def test_too_many_cells_are_refused_with_the_setting_to_change() -> None:
    with pytest.raises(ConfigError, match=r"plan\.max_tiles=1,000 grid cells of 25\.6 m"):
        grid_cells([(0.0, 40.0, 20.0, 60.0)], None, 0.1, 256, 1000)
    found = len(grid_cells([(5.9, 47.0, 6.1, 47.1)], None, 10.0, 256, 10**6).keys)
    assert len(grid_cells([(5.9, 47.0, 6.1, 47.1)], None, 10.0, 256, found).keys) == found
    with pytest.raises(ConfigError, match=r"plan\.max_tiles"):
        grid_cells([(5.9, 47.0, 6.1, 47.1)], None, 10.0, 256, found - 1)


@pytest.mark.parametrize(("gsd", "size"), [(0.0005, 256), (0.0, 256), (-1.0, 256), (1.0, 0), (1000.0, 256)])
def test_a_cell_that_has_no_name_is_refused(gsd: float, size: int) -> None:
    with pytest.raises(ConfigError, match="do not exist"):
        grid_cells(WORLD, None, gsd, size, 10**6)
