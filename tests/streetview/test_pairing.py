"""Photos in footprints, against shapely and pyproj by brute force; tiles by number against tiles as footprints."""

from __future__ import annotations

import math

import mercantile
import numpy as np
import pyarrow as pa
import pytest
import shapely
from hypothesis import given
from hypothesis import strategies as st
from pyproj import Geod, Transformer

from geometry.tiles import tile_to_lonlat, xyz_footprint
from pipeline.alignment import place
from pipeline.footprints.candidates import Tiles
from pipeline.streetview.pairing import PAIRS
from pipeline.streetview.position import Area
from schemas.footprint import Footprint
from schemas.keys import XyzKey
from schemas.sample import StreetviewInfo
from tests.grounds import lonlat_to_normalised, pair, pixel_to_lonlat
from tests.streetview.makers import placed
from trainers.stream.sample import frame_of

GEOD = Geod(ellps="WGS84")


def chip(number: int, crs: str, x: float, y: float, turn: float, gsd: float, size: tuple[int, int]) -> Footprint:
    """A chip whose upper left corner is at (x, y), turned by degrees."""
    c, s = math.cos(math.radians(turn)) * gsd, math.sin(math.radians(turn)) * gsd
    return Footprint(f"chip-{number}", crs, (c, s, x, s, -c, y), *size)


def found(pairs: pa.Table) -> set[tuple[int, int]]:
    return set(zip(*(pairs.column(n).to_pylist() for n in ("photo", "footprint")), strict=True))


@given(st.integers(0, 10_000))
def test_pairs_are_those_of_brute_force_for_chips_of_any_crs_and_rotation(seed: int) -> None:
    rng = np.random.default_rng(seed)
    lon, lat = rng.uniform(9.2, 9.8), rng.uniform(46.9, 47.3)
    footprints = []
    for i in range(12):
        crs = ("EPSG:32632", "EPSG:3857", "EPSG:4326", "EPSG:32632")[i % 4]
        x, y = Transformer.from_crs(4326, crs, always_xy=True).transform(
            lon + rng.normal() * 3e-3, lat + rng.normal() * 2e-3
        )
        turn = 0.0 if crs == "EPSG:4326" else float(rng.uniform(-180, 180))
        gsd = 1e-5 if crs == "EPSG:4326" else 1.5
        footprints.append(chip(i, crs, x, y, turn, gsd, (200, 150) if i % 2 else (128, 128)))
    rows = [{"lon": lon + rng.normal() * 3e-3, "lat": lat + rng.normal() * 2e-3} for _ in range(60)]
    photos = placed(rows)
    expected = set()
    for j, f in enumerate(footprints):
        outline = shapely.Polygon(f.corners())
        xs, ys = Transformer.from_crs(4326, f.crs, always_xy=True).transform(
            [r["lon"] for r in rows], [r["lat"] for r in rows]
        )
        expected |= {(i, j) for i in np.flatnonzero(shapely.contains_xy(outline, xs, ys)).tolist()}
    pairs = pair(photos, footprints)
    assert found(pairs) == expected
    assert len(pairs) == len(expected)
    assert pairs.sort_by([("footprint", "ascending"), ("photo", "ascending")]).equals(pairs)
    assert pairs.schema == PAIRS
    for row in pairs.to_pylist():
        exact = lonlat_to_normalised(footprints[row["footprint"]], np.array([list(rows[row["photo"]].values())]))[0]
        assert (row["x"], row["y"]) == pytest.approx(tuple(exact), abs=1e-8)


@given(st.integers(0, 10_000))
def test_a_camera_looks_in_the_image_where_it_looks_on_the_ground(seed: int) -> None:
    """By the geodesic: a point ahead lies ahead in chips of any CRS and rotation, near a pole as well."""
    check_cameras(seed)


def check_cameras(seed: int) -> None:
    """Where each looks, in the image and on the ground."""
    rng = np.random.default_rng(seed)
    for crs in ("EPSG:32632", "EPSG:3857", "EPSG:4326", "EPSG:3413"):
        lat = float(rng.uniform(70, 84)) if crs == "EPSG:3413" else float(rng.uniform(-60, 60))
        lon, heading = float(rng.uniform(6, 12)), float(rng.uniform(0, 360))
        x, y = Transformer.from_crs(4326, crs, always_xy=True).transform(lon, lat)
        gsd = 1e-5 if crs == "EPSG:4326" else 1.5
        footprint = chip(0, crs, x, y, 0.0 if crs == "EPSG:4326" else float(rng.uniform(-180, 180)), gsd, (64, 64))
        at = pixel_to_lonlat(footprint, np.array([[20.0, 40.0]]))[0]
        row = pair(placed([{"lon": at[0], "lat": at[1]}]), [footprint]).to_pylist()[0]
        ahead = GEOD.fwd(*at, heading, 10.0)[:2]
        expected = lonlat_to_normalised(footprint, np.array([ahead]))[0] - (row["x"], row["y"])
        info = StreetviewInfo("sv.0.jpg", "1", *at, row["x"], row["y"], heading, row["north"])
        metres = place([footprint]).gsd[0] * 64
        assert 10 * frame_of(info, tuple(metres))[1] == pytest.approx(expected, abs=0.05 / 64)


def test_a_margin_is_in_true_metres_whatever_the_crs() -> None:
    """60° N: a metre of EPSG:3857 is half a metre, a degree of longitude half as long as one of latitude."""
    for crs, gsd in (("EPSG:3857", 2.0), ("EPSG:4326", 1e-5), ("EPSG:32633", 1.0)):
        x, y = Transformer.from_crs(4326, crs, always_xy=True).transform(15.0, 60.0)
        f = chip(0, crs, x, y, 0.0, gsd, (100, 100))
        west, north = pixel_to_lonlat(f, np.array([[0.0, 50.0], [50.0, 0.0]]))
        cases = []
        for start, azimuth in ((west, 270.0), (north, 0.0)):
            cases += [GEOD.fwd(*start, azimuth, metres)[:2] for metres in (9.7, 10.3)]
        photos = placed([{"lon": a, "lat": b} for a, b in cases])
        assert found(pair(photos, [f], margin_m=10.0)) == {(0, 0), (2, 0)}, crs
        assert found(pair(photos, [f])) == set()
        rows = pair(photos, [f], margin_m=10.0).to_pylist()
        assert rows[0]["x"] < 0 < rows[0]["y"] < 1
        assert rows[1]["y"] < 0


@given(st.integers(0, 1000), st.sampled_from([(69000, 45840, 17), (40000, 70000, 17), (8624, 5742, 14)]))
def test_photos_in_tiles_are_those_whose_tile_number_it_is(seed: int, origin: tuple[int, int, int]) -> None:
    """mercantile says in which tile a photo stands."""
    x0, y0, zoom = origin
    rng = np.random.default_rng(seed)
    tiles = np.unique(rng.integers(0, 4, (8, 2)), axis=0)[rng.permutation(2)[0] :] + np.array([x0, y0])
    at = rng.uniform(-0.5, 4.5, (50, 2)) + np.array([x0, y0])
    lonlat = tile_to_lonlat(at, zoom).tolist()
    photos = placed([{"lon": a, "lat": b} for a, b in lonlat])
    number = {(x, y): i for i, (x, y) in enumerate(tiles.tolist())}
    owners = [mercantile.tile(a, b, zoom) for a, b in lonlat]
    expected = {(i, number[t.x, t.y]) for i, t in enumerate(owners) if (t.x, t.y) in number}
    pairs = pair(photos, list(Tiles(tiles, zoom, 256).footprints()))
    assert found(pairs) == expected
    for r in pairs.to_pylist():
        assert (r["x"], r["y"]) == pytest.approx(tuple(at[r["photo"]] - tiles[r["footprint"]]), abs=2e-8)


def test_a_photo_on_an_edge_is_in_one_tile_and_its_position_in_range() -> None:
    tiles = np.array([[x, y] for x in range(69000, 69004) for y in range(45840, 45844)])
    corners = tile_to_lonlat(tiles.astype(float), 17)
    photos = placed([{"lon": a, "lat": b} for a, b in corners.tolist()])
    pairs = pair(photos, list(Tiles(tiles, 17, 256).footprints()))
    assert found(pairs) == {(i, i) for i in range(len(tiles))}
    for axis in ("x", "y"):
        at = pairs.column(axis).to_numpy()
        assert ((at >= 0) & (at < 1) & ~np.signbit(at)).all()  # samples say 0.0, never -0.0


def test_footprints_across_the_180th_meridian_have_their_photos() -> None:
    x, y = Transformer.from_crs(4326, 32601, always_xy=True).transform(179.999, -16.8)
    across = chip(0, "EPSG:32601", x, y, 0.0, 10.0, (100, 100))
    photos = placed(
        [{"lon": 179.9995, "lat": -16.801}, {"lon": -179.9995, "lat": -16.801}, {"lon": 0.0, "lat": -16.801}]
    )
    assert found(pair(photos, [across])) == {(0, 0), (1, 0)}


def test_pairs_know_the_heading_and_the_gap_to_the_image() -> None:
    footprint = xyz_footprint(XyzKey(17, 69000, 45840, 256))
    lon, lat = tile_to_lonlat(np.array([69000.25, 45840.75]), 17)
    photos = placed([
        {"lon": lon, "lat": lat, "heading": 120.0, "captured_at": "2024-06-03T12:00:00Z"},
        {"lon": lon, "lat": lat},
    ])  # fmt: skip
    rows = pair(photos, [footprint], times=["2024-06-01T12:00:00Z"]).to_pylist()
    assert [(r["heading"], r["gap_days"]) for r in rows] == [(120.0, 2.0), (None, None)]
    assert [(round(r["x"], 6), round(r["y"], 6)) for r in rows] == [(0.25, 0.75)] * 2
    assert pair(photos, [footprint], times=["2024-06-05"]).column("gap_days").to_pylist() == [-1.5, None]


def test_no_photos_or_no_footprints_are_no_pairs() -> None:
    some = placed([{"lon": 9.5, "lat": 47.1}])
    none = placed([])
    for pairs in (pair(some, []), pair(none, [xyz_footprint(XyzKey(1, 0, 0, 8))]), pair(none, [])):
        assert pairs.schema == PAIRS
        assert len(pairs) == 0


@pytest.mark.parametrize("crs", ["EPSG:3857", "EPSG:4326", "EPSG:32701"])
@pytest.mark.parametrize("side", [1, -1])
def test_a_margin_goes_on_across_the_180th_meridian(crs: str, side: int) -> None:
    """A footprint that ends there, and photos 4 m and 40 m beyond and 4 m inside; 1° of longitude is 106.5 km."""
    metre = 1 / 106_500
    west = -180.0 if side == 1 else 180.0 - 100 * metre
    to = Transformer.from_crs(4326, crs, always_xy=True)
    (x0, x1), (y, _) = to.transform([west, west + 100 * metre], [-17.0, -17.0])
    f = chip(0, crs, x0, y, 0.0, (x1 - x0) / 100, (100, 100))
    within, beyond, other = side * (180 - 4 * metre), side * (180 - 40 * metre), -side * (180 - 4 * metre)
    photos = placed([{"lon": lon, "lat": -17.0002} for lon in (within, beyond, other)])
    assert found(pair(photos, [f])) == {(2, 0)}
    pairs = pair(photos, [f], 10.0)
    assert found(pairs) == {(0, 0), (2, 0)}
    x = dict(zip(pairs["photo"].to_pylist(), pairs["x"].to_pylist(), strict=True))
    expected = (-0.04, 0.04) if side == 1 else (1.04, 0.96)
    assert (x[0], x[2]) == pytest.approx(expected, abs=5e-3)
    assert Area.around(place([f]).bbox, 10.0).holds(np.array([[within, -17.0002], [beyond, -17.0002]])).tolist() == [
        True, False,
    ]  # fmt: skip
