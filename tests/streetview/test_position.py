"""Where photos are wanted and where they are: areas against brute force, positions that are wrong named as such."""

from __future__ import annotations

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from pyproj import Geod

from geometry.tiles import lonlat_to_tile, tile_to_lonlat, xyz_footprint
from pipeline.streetview.position import METRES_A_DEGREE, Area, place, widened
from pipeline.streetview.record import Drops, to_table
from schemas.keys import XyzKey
from tests.grounds import TileArea, area_of
from tests.streetview.makers import reasons

TILES = np.array([[8624, 5742], [8625, 5742], [8624, 5743], [8700, 5800]])
AREA = TileArea(TILES, 14)
GEOD = Geod(ellps="WGS84")


def photo(name: str, lon: float | None, lat: float | None, **more: object) -> dict[str, object]:
    return {"source": "t", "id": name, "lon_original": lon, "lat_original": lat, "projection": "perspective"} | more


def inside_of(tile: tuple[int, int], x: float, y: float, zoom: int = 14) -> tuple[float, float]:
    lon, lat = tile_to_lonlat(np.array([tile[0] + x, tile[1] + y]), zoom)
    return float(lon), float(lat)


def test_positions_that_are_wrong_are_named_with_their_reason() -> None:
    lon, lat = inside_of((8624, 5742), 0.5, 0.5)
    rows = [
        photo("good", lon, lat), photo("none", None, None), photo("half", lon, None), photo("zero", 0.0, 0.0),
        photo("swapped", lat, lon), photo("beyond", 9.5, 95.0 + 90.0), photo("far", lon + 20, lat),
        photo("lat over 90", 47.0, 109.5), photo("both over", 200.0, 100.0), photo("lon over", 181.0, 0.5),
    ]  # fmt: skip
    drops = Drops()
    found = place(to_table(rows), "corrected", AREA, drops)
    assert found.column("id").to_pylist() == ["good"]
    assert reasons(drops.rows()) == {
        "none": "no_position", "half": "no_position", "zero": "coordinate_out_of_range",
        "swapped": "swapped_coordinates", "beyond": "coordinate_out_of_range", "far": "outside_tiles",
        "lat over 90": "swapped_coordinates", "both over": "coordinate_out_of_range",
        "lon over": "coordinate_out_of_range",
    }  # fmt: skip


def test_the_corrected_position_is_used_where_there_is_one_and_where_it_is_asked_for() -> None:
    rows = [
        photo("both", 9.5, 47.1, heading_original=10.0, lon_corrected=9.6, lat_corrected=47.2, heading_corrected=20.0),
        photo("original", 9.5, 47.1, heading_original=10.0),
        photo("no heading", 9.5, 47.1, heading_original=10.0, lon_corrected=9.6, lat_corrected=47.2),
        photo("half", 9.5, 47.1, lon_corrected=9.6),
        photo("heading alone", 9.5, 47.1, heading_original=10.0, heading_corrected=20.0),
    ]
    better = place(to_table(rows), "corrected", None, None).select(["lon", "lat", "heading"]).to_pylist()
    assert [tuple(r.values()) for r in better] == [
        (9.6, 47.2, 20.0), (9.5, 47.1, 10.0), (9.6, 47.2, 10.0), (9.5, 47.1, None), (9.5, 47.1, 10.0),
    ]  # fmt: skip
    plain = place(to_table(rows), "original", None, None).select(["lon", "lat", "heading"]).to_pylist()
    assert {(r["lon"], r["lat"]) for r in plain} == {(9.5, 47.1)}
    assert plain[0]["heading"] == 10.0


@given(
    st.lists(st.tuples(st.floats(-0.5, 2.5), st.floats(-0.5, 2.5)), min_size=1, max_size=20),
    st.sampled_from([0, 30, 3000]),
)
def test_a_tile_area_holds_what_its_tiles_widened_by_the_margin_hold(
    places: list[tuple[float, float]], margin: float
) -> None:
    at = np.array(places) + np.array([8624, 5742])
    lonlat = tile_to_lonlat(at, 14)
    reach = margin * (1 << 14) / (360 * METRES_A_DEGREE * np.cos(np.radians(lonlat[:, 1])))
    expected = np.zeros(len(at), bool)
    clear = np.ones(len(at), bool)  # not within two centimetres of an edge, where the footprint judges
    for x, y in TILES:
        edges = np.stack(
            (at[:, 0] - x + reach, x + 1 + reach - at[:, 0], at[:, 1] - y + reach, y + 1 + reach - at[:, 1])
        )
        expected |= (edges > 0).all(axis=0)
        clear &= (np.abs(edges) > 2e-5).all(axis=0)
    found = TileArea(TILES, 14, margin).holds(lonlat)
    assert (found == expected)[clear].all()


@pytest.mark.parametrize("zoom", [10, 14, 16])
@pytest.mark.parametrize("margin", [0.0, 500.0])
def test_every_place_of_an_area_is_in_the_box_of_its_tile(zoom: int, margin: float) -> None:
    area = TileArea(TILES, 14, margin)
    boxes = area.boxes(zoom)
    assert list(boxes) == sorted(boxes)
    rng = np.random.default_rng(3)
    at = np.concatenate([rng.uniform(-0.4, 1.4, (200, 2)) + t for t in TILES])
    lonlat = tile_to_lonlat(at, 14)
    for (lon, lat), wanted in zip(lonlat, area.holds(lonlat), strict=True):
        if wanted:
            x, y = np.floor(lonlat_to_tile(np.array([lon, lat]), zoom)).astype(int)
            west, south, east, north = boxes[int(x), int(y)]
            assert west - 1e-9 <= lon <= east + 1e-9
            assert south - 1e-9 <= lat <= north + 1e-9


def test_boxes_are_no_larger_than_what_is_wanted() -> None:
    """One z17 tile asks for 1/64 of a z14 tile's area, not for all of it."""
    ((tile, box),) = TileArea(np.array([[68999, 45943]]), 17).boxes(14).items()
    west, _, east, _ = box
    assert tile == (68999 >> 3, 45943 >> 3)
    assert (east - west) == pytest.approx(360 / (1 << 17), rel=1e-9)
    children = TileArea(np.array([[1, 2]]), 2).boxes(4)
    assert len(children) == 16
    assert {(x >> 2, y >> 2) for x, y in children} == {(1, 2)}


@settings(max_examples=50)
@given(
    st.lists(
        st.tuples(st.floats(-179, 178), st.floats(-80, 79), st.floats(1e-4, 1), st.floats(1e-4, 1)),
        min_size=1,
        max_size=6,
    )
)
def test_a_box_area_holds_what_its_boxes_hold(boxes: list[tuple[float, float, float, float]]) -> None:
    bounds = np.array([(w, s, w + a, s + b) for w, s, a, b in boxes])
    rng = np.random.default_rng(1)
    points = np.concatenate([rng.uniform((w - 0.5, s - 0.5), (e + 0.5, n + 0.5), (20, 2)) for w, s, e, n in bounds])
    expected = [any(shapely.box(*b).covers(shapely.Point(p)) for b in bounds) for p in points]
    assert Area(bounds).holds(np.vstack((points, [[np.nan, 1.0]]))).tolist() == [*expected, False]


@pytest.mark.parametrize("box", [(10.0, 40.0, 11.0, 70.0), (10.0, -70.0, 11.0, -40.0), (10.0, -5.0, 11.0, 1.0)])
def test_a_box_is_wider_by_no_less_than_the_margin_at_any_of_its_places(
    box: tuple[float, float, float, float],
) -> None:
    """Degrees of longitude are shortest at the end that is nearer to a pole."""
    west, south, east, north = box
    w, s, e, n = widened(np.array([box]), 1000.0)[0].tolist()
    for latitude in np.linspace(south, north, 5):
        for a, b in ((w, west), (east, e)):
            assert GEOD.inv(a, latitude, b, latitude)[2] > 1000 * 0.993
    assert GEOD.inv(west, s, west, south)[2] == pytest.approx(1000, rel=7e-3)
    assert GEOD.inv(west, north, west, n)[2] == pytest.approx(1000, rel=7e-3)


def test_a_footprint_across_the_180th_meridian_wants_both_sides_of_it() -> None:
    area = Area.around(np.array([[179.8, 10.0, -179.9, 11.0], [1.0, 2.0, 3.0, 4.0]]))
    assert sorted(map(tuple, area.bounds.tolist())) == [
        (-180.0, 10.0, -179.9, 11.0), (1.0, 2.0, 3.0, 4.0), (179.8, 10.0, 180.0, 11.0),
    ]  # fmt: skip
    assert area.holds(np.array([[179.95, 10.5], [-179.95, 10.5], [0.0, 10.5]])).tolist() == [True, True, False]


def test_a_box_area_around_footprints_holds_their_corners() -> None:
    footprints = [xyz_footprint(XyzKey(17, 68999 + i, 45943, 64)) for i in range(3)]
    corners = tile_to_lonlat(np.array([[68999, 45943], [69002, 45944]], np.float64), 17)
    assert area_of(footprints).holds(corners).all()
    beside = corners + np.array([[-1e-5, 0], [1e-5, 0]])
    assert not area_of(footprints).holds(beside).any()
    assert area_of(footprints, 5.0).holds(beside).all()


def test_a_photo_on_the_180th_meridian_is_in_the_first_tile_however_its_longitude_is_written() -> None:
    area = TileArea(np.array([[0, 512]]), 10)
    rows = [photo("east", 180.0, -0.1), photo("west", -180.0, -0.1)]
    found = place(to_table(rows), "original", area, Drops())
    assert found.select(["id", "lon"]).to_pylist() == [{"id": "east", "lon": -180.0}, {"id": "west", "lon": -180.0}]
