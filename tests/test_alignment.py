"""Vectors and images meet: a checkerboard of known lon/lat cells in UTM comes out where it belongs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pyproj import Geod, Transformer

from geometry.tiles import lonlat_to_tile, tile_to_lonlat, xyz_footprint
from pipeline.alignment import place
from pipeline.driver.shards import make_shards
from pipeline.samples.config import PlanConfig, ShardsConfig
from schemas.footprint import Footprint
from schemas.keys import XyzKey
from schemas.sample import OSM_TOKENS
from schemas.tokens import OsmTokens, unsnap
from storage.dataset import read_samples, sample_rows
from storage.store import Store
from tests.grounds import lonlat_to_normalised, pixel_to_lonlat
from tests.imagery.scenes import write_utm
from tests.osm.opl import write_opl

ZOOM = 17
# Latitude, longitude at the rim of its UTM zone (grid turned against north), zone, checkerboard cell in degrees.
PLACES = [(0.02, 5.6, "EPSG:32631", 4e-4), (47.1, 11.6, "EPSG:32632", 4e-4), (69.3, 17.6, "EPSG:32633", 6e-4)]


def _world(folder: Path, lat: float, lon: float, crs: str, cell: float) -> tuple[Path, Path, tuple[int, int]]:
    """A UTM checkerboard that covers one tile with a margin, and ways along its cells' edges."""
    x, y = np.floor(lonlat_to_tile(np.array([lon, lat]), ZOOM)).astype(int)
    (west, north), (east, south) = tile_to_lonlat(np.array([[x, y], [x + 1, y + 1]], float), ZOOM)
    pad = 0.2 * (east - west)
    box = (west - pad, south - pad, east + pad, north + pad)
    back = Transformer.from_crs(crs, "EPSG:4326", always_xy=True)

    def board(xs: np.ndarray, ys: np.ndarray) -> np.ndarray:
        lons, lats = back.transform(xs, ys)
        white = (np.floor(lons / cell) + np.floor(lats / cell)) % 2 == 0
        return np.repeat(np.where(white, 230, 20).astype(np.uint8)[None], 3, axis=0)

    image = write_utm(folder / "board.tif", box, 0.25, crs, board)
    nodes: list[tuple[int, float, float, str]] = []
    ways: list[tuple[int, list[int], str]] = []
    for k in np.arange(np.ceil(box[0] / cell), np.floor(box[2] / cell) + 1):
        ids = [len(nodes) + 1, len(nodes) + 2]
        nodes += [(ids[0], k * cell, box[1], ""), (ids[1], k * cell, box[3], "")]
        ways.append((len(ways) + 1, ids, "barrier=fence"))
    for k in np.arange(np.ceil(box[1] / cell), np.floor(box[3] / cell) + 1):
        ids = [len(nodes) + 1, len(nodes) + 2]
        nodes += [(ids[0], box[0], k * cell, ""), (ids[1], box[2], k * cell, "")]
        ways.append((len(ways) + 1, ids, "barrier=wall"))
    return write_opl(folder / "lines.opl", nodes, ways), image, (int(x), int(y))


@pytest.mark.parametrize(("lat", "lon", "crs", "cell"), PLACES)
def test_checkerboard_and_vectors_on_it_agree_within_half_a_pixel(
    tmp_path: Path, lat: float, lon: float, crs: str, cell: float
) -> None:
    osm, image, (x, y) = _world(tmp_path, lat, lon, crs, cell)
    config = ShardsConfig(
        region=str(osm),
        imagery=str(image),
        zoom=ZOOM,
        size=256,
        out=str(tmp_path / "out"),
        workers=1,
        plan=PlanConfig(min_objects=1),
    )
    make_shards(config, quiet=True)
    store = Store(tmp_path / "out")
    key = str(XyzKey(ZOOM, x, y, 256))
    row = next(r for r in sample_rows(store) if r["key"] == key)
    _, members = next(read_samples(store, [row]))
    (tmp_path / "rs.jpg").write_bytes(members["rs.jpg"])
    gray = np.asarray(Image.open(tmp_path / "rs.jpg").convert("L"), np.float64)

    shift = _best_shift(gray, xyz_footprint(XyzKey(ZOOM, x, y, 256)), cell)
    assert np.abs(shift).max() < 0.5, f"image is off by {shift} px"

    errors = _edge_errors(gray, OsmTokens.from_bytes(members[OSM_TOKENS]))
    assert len(errors) > 100
    assert np.abs(np.median(errors)) < 0.2
    assert np.percentile(np.abs(errors), 99) < 0.5, f"vectors miss edges by up to {np.abs(errors).max():.2f} px"


def _best_shift(gray: np.ndarray, footprint: Footprint, cell: float) -> np.ndarray:
    """Shift (x, y) in pixels at which the analytic checkerboard fits the image best."""
    column, row = np.meshgrid(np.arange(256) + 0.5, np.arange(256) + 0.5)
    best, found = np.inf, np.zeros(2)
    for dy in np.arange(-1.5, 1.51, 0.25):
        for dx in np.arange(-1.5, 1.51, 0.25):
            lonlat = pixel_to_lonlat(footprint, np.stack((column.ravel() - dx, row.ravel() - dy), axis=1))
            white = ((np.floor(lonlat / cell)).sum(axis=1) % 2 == 0).reshape(256, 256)
            error = np.abs(gray - np.where(white, 230, 20)).mean()
            if error < best:
                best, found = error, np.array([dx, dy])
    return found


def _edge_errors(gray: np.ndarray, tokens: OsmTokens) -> np.ndarray:
    """Signed distance in pixels from each vector line to the grey edge beside it, sampled along the line."""
    errors = []
    xy = unsnap(tokens.vertices) * 256
    lines = [xy[tokens.ring_offsets[r] : tokens.ring_offsets[r + 1]] for r in range(len(tokens.ring_offsets) - 1)]
    upright = [float(p[0, 0]) for p in lines if np.ptp(p[:, 0]) < 0.1]
    level = [float(p[0, 1]) for p in lines if np.ptp(p[:, 1]) < 0.1]
    for places, across, image in ((upright, level, gray), (level, upright, gray.T)):
        for place_ in (p for p in places if 6 < p < 250):
            for row in range(4, 252, 5):
                if min((abs(row + 0.5 - a) for a in across), default=99) < 4:
                    continue  # near a corner the edge is ambiguous
                first = int(place_) - 4
                profile = image[row, first : first + 9] - 125
                crossing = np.flatnonzero(np.sign(profile[:-1]) != np.sign(profile[1:]))
                if len(crossing):
                    i = crossing[0]
                    at = first + 0.5 + i + profile[i] / (profile[i] - profile[i + 1])
                    errors.append(at - place_)
    return np.array(errors)


@pytest.mark.parametrize(("lat", "lon", "crs", "cell"), PLACES)
def test_gsd_is_true_metres_on_the_ground(lat: float, lon: float, crs: str, cell: float) -> None:
    x, y = np.floor(lonlat_to_tile(np.array([lon, lat]), ZOOM)).astype(int)
    footprint = xyz_footprint(XyzKey(ZOOM, int(x), int(y), 256))
    placement = place([footprint])
    west, _, east, _ = placement.bbox[0]
    centre = placement.centre[0, 1]
    _, _, width = Geod(ellps="WGS84").inv(west, centre, east, centre)
    assert placement.gsd[0, 0] == pytest.approx(width / 256, rel=1e-5)
    # Web-mercator takes the ellipsoid for a sphere: at the equator its pixels are 0.7 % longer than high.
    assert placement.gsd[0, 1] / placement.gsd[0, 0] == pytest.approx(
        1 - 0.00669 * np.cos(np.radians(lat)) ** 2, abs=2e-4
    )


def test_position_in_a_rotated_footprint_survives_the_round_trip() -> None:
    footprint = Footprint("chip-a", "EPSG:32632", (0.4, 0.1, 5e5, 0.1, -0.4, 52e5), 300, 200)
    xy = np.random.default_rng(0).uniform(0, 1, (50, 2))
    lonlat = pixel_to_lonlat(footprint, xy * (footprint.width, footprint.height))
    np.testing.assert_allclose(lonlat_to_normalised(footprint, lonlat), xy, atol=1e-7)


@pytest.mark.parametrize(("crs", "x", "y"), [("EPSG:32632", 5e5, 68e5), ("EPSG:32732", 5e5, 32e5)])
def test_the_box_of_a_footprint_holds_its_sides_and_not_only_its_corners(crs: str, x: float, y: float) -> None:
    """Centred on its zone's meridian, so that the side towards the pole reaches farthest in its middle."""
    footprint = Footprint("a", crs, (100.0, 0.0, x - 5e4, 0.0, -100.0, y + 5e4), 1000, 1000)
    t, ones = np.linspace(0, 1000, 101), np.full(101, 1000.0)
    sides = np.concatenate([np.stack(p, axis=1) for p in ((t, 0 * t), (t, ones), (0 * t, t), (ones, t))])
    lonlat = pixel_to_lonlat(footprint, sides)
    corners = pixel_to_lonlat(footprint, np.array([[0, 0], [1000, 0], [1000, 1000], [0, 1000]]))
    assert np.abs(lonlat[:, 1]).max() > np.abs(corners[:, 1]).max() + 1e-3
    (box,) = place([footprint]).bbox
    np.testing.assert_allclose(box, [*lonlat.min(axis=0), *lonlat.max(axis=0)], atol=1e-9)
