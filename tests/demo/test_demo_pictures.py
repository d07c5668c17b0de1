from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import rasterio
import shapely
from PIL import Image
from pyproj import Geod

from pipeline.demo import DemoFiles
from pipeline.demo.geo import CENTRE_LAT, CENTRE_LON, grid_convergence, to_lonlat, to_utm
from pipeline.demo.pictures.aerial import PIXEL_M
from pipeline.demo.pictures.ground import make_ground, rasterise
from pipeline.demo.pictures.look import TOWN
from pipeline.demo.pictures.pose import (
    CAMERA,
    DRIVEN,
    EYE_HEIGHT_M,
    FOCAL_35MM,
    FOCAL_PX,
    HFOV_DEG,
    PHOTO_HEIGHT,
    PHOTO_WIDTH,
    PhotoPose,
    camera_of,
    photo_poses,
)
from pipeline.demo.pictures.streetview import render_photo
from pipeline.demo.town.block import Block, Builder, Building, Surface
from pipeline.demo.town.plan import Plan
from pipeline.demo.town.plan import Plan as PlanType
from pipeline.demo.town.world import World
from tests.demo.conftest import PHOTOS


def project_to_photo(pose: PhotoPose, lon: float, lat: float, height_m: float) -> tuple[float, float] | None:
    """Pixel (column, row; the image's top left corner is 0, 0) of a place, None if it is behind."""
    x, y, bearing = camera_of(pose)
    east, north = to_utm(np.array([[lon, lat]]))[0] - (x, y)
    depth = east * math.sin(bearing) + north * math.cos(bearing)
    right = east * math.cos(bearing) - north * math.sin(bearing)
    if depth <= 0.1:
        return None
    column = PHOTO_WIDTH / 2 + FOCAL_PX * right / depth
    return column, PHOTO_HEIGHT / 2 - FOCAL_PX * (height_m - EYE_HEIGHT_M) / depth


def _degrees(parts: tuple[float, float, float]) -> float:
    return float(parts[0]) + float(parts[1]) / 60 + float(parts[2]) / 3600


def test_aerial_is_georeferenced_and_covers_the_box(small_demo: DemoFiles, small_plan: Plan) -> None:
    with rasterio.open(small_demo.imagery) as image:
        assert image.crs.to_epsg() == 32632
        assert image.count == 3
        assert image.dtypes == ("uint8",) * 3
        assert image.transform.a == PIXEL_M
        assert image.transform.e == -PIXEL_M
        r = small_plan.region
        corners = to_utm(np.array([(x, y) for x in (r.west, r.east) for y in (r.south, r.north)]))
        assert image.bounds.left < corners[:, 0].min()
        assert image.bounds.right > corners[:, 0].max()
        assert image.bounds.bottom < corners[:, 1].min()
        assert image.bounds.top > corners[:, 1].max()
        assert image.read(1).std() > 20


def _offset(peak: np.ndarray) -> tuple[float, float]:
    """Sub-pixel place of the peak of a (2n+1, 2n+1) table relative to its middle."""
    n = peak.shape[0] // 2
    line, column = np.unravel_index(peak.argmax(), peak.shape)
    assert 0 < line < 2 * n
    assert 0 < column < 2 * n

    def refine(low: float, mid: float, high: float) -> float:
        return 0.5 * (low - high) / (low - 2 * mid + high)

    dy = refine(peak[line - 1, column], peak[line, column], peak[line + 1, column])
    dx = refine(peak[line, column - 1], peak[line, column], peak[line, column + 1])
    return float(line - n + dy), float(column - n + dx)


def test_aerial_and_map_agree_to_half_a_pixel(small_demo: DemoFiles, small_plan: Plan, small_world: World) -> None:
    """Red roofs and the footprints of the map's buildings register at zero shift."""
    with rasterio.open(small_demo.imagery) as image:
        rgb = image.read().astype(np.float32)
        bounds = image.bounds
        shape = image.shape
    x0, y0 = small_plan.region.origin
    local = (bounds.left - x0, bounds.bottom - y0, bounds.left - x0 + shape[1] * PIXEL_M, bounds.top - y0)
    shapes = []
    for block in small_world.blocks_in(local):
        for k in block.buildings:
            if k.roof != "flat" and k.roof_rgb[0] > k.roof_rgb[2] + 40:
                shapes.append((shapely.Polygon(k.ring), 1))
    assert len(shapes) > 300
    footprint = rasterise(shapes, local, PIXEL_M, "uint8").astype(np.float32)
    # Hue, not brightness: the sunlit half of a roof must not count more than the other.
    redness = ((2 * rgb[0] - rgb[1] - rgb[2]) / rgb.sum(axis=0) > 0.2).astype(np.float32)
    n = 4
    score = np.zeros((2 * n + 1, 2 * n + 1))
    inner = footprint[n:-n, n:-n] - footprint.mean()
    for dy in range(-n, n + 1):
        for dx in range(-n, n + 1):
            moved = redness[n + dy : redness.shape[0] - n + dy, n + dx : redness.shape[1] - n + dx]
            score[dy + n, dx + n] = float((inner * moved).mean())
    dy, dx = _offset(score)
    assert abs(dy) < 0.5
    assert abs(dx) < 0.5


def test_ground_raster_uses_pixel_centres() -> None:
    block = Block(
        0, 0, "meadow", surfaces=[Surface((np.array([(2.0, 2.0), (6.0, 2.0), (6.0, 5.0), (2.0, 5.0)]),), 0, "lake")]
    )
    block.bounds = (0.0, 0.0, 10.0, 10.0)
    ids = make_ground([block], (0.0, 0.0, 10.0, 10.0), 1.0, TOWN).ids
    line, column = np.nonzero(ids)
    assert (line.min(), line.max(), column.min(), column.max()) == (5, 7, 2, 5)


def test_exif_keeps_position_and_heading(small_demo: DemoFiles, small_plan: Plan) -> None:
    photos = sorted(small_demo.streetview.iterdir())
    poses = photo_poses(small_plan, PHOTOS)
    assert len(photos) == len(poses) == PHOTOS
    geod = Geod(ellps="WGS84")
    for path, pose in zip(photos, poses, strict=True):
        exif = Image.open(path).getexif()
        gps, details = exif.get_ifd(0x8825), exif.get_ifd(0x8769)
        assert (gps[1], gps[3], gps[16]) == ("N", "E", "T")
        _, _, metres = geod.inv(_degrees(gps[4]), _degrees(gps[2]), pose.lon, pose.lat)
        assert metres < 0.1
        assert abs(float(gps[17]) - pose.heading_deg) < 0.1
        assert exif[0x0110] == CAMERA
        assert details[0xA405] == FOCAL_35MM
        assert details[0x9003] == pose.taken_at.strftime("%Y:%m:%d %H:%M:%S")
        assert 2 * math.degrees(math.atan(18 / details[0xA405])) == pytest.approx(HFOV_DEG)


def test_heading_is_from_true_north(small_plan: Plan) -> None:
    """A point ahead on the ellipsoid at the photo's heading is in the middle column."""
    pose = photo_poses(small_plan, 1)[0]
    lon, lat, _ = Geod(ellps="WGS84").fwd(pose.lon, pose.lat, pose.heading_deg, 80.0)
    at = project_to_photo(pose, lon, lat, EYE_HEIGHT_M)
    assert at is not None
    assert at[0] == pytest.approx(PHOTO_WIDTH / 2, abs=0.2)
    assert at[1] == pytest.approx(PHOTO_HEIGHT / 2, abs=0.01)
    assert grid_convergence(CENTRE_LON, CENTRE_LAT) == pytest.approx(0.37, abs=0.02)


class _OneHouse(World):
    """A world of one building on bare ground."""

    def __init__(self, plan: PlanType, building: Building) -> None:
        super().__init__(plan)
        self._only = Block(0, 0, "meadow", buildings=[building])

    def blocks_in(self, bounds: tuple[float, float, float, float]) -> list[Block]:
        return [self._only]


def test_building_is_drawn_where_the_projection_says(small_plan: Plan) -> None:
    pose = dataclasses.replace(photo_poses(small_plan, 1)[0], heading_deg=31.0)
    origin = np.array(small_plan.region.origin)
    eye = to_utm(np.array([[pose.lon, pose.lat]]))[0] - origin
    bearing = math.radians(pose.heading_deg - grid_convergence(pose.lon, pose.lat))
    forward, right = np.array([math.sin(bearing), math.cos(bearing)]), np.array([math.cos(bearing), -math.sin(bearing)])
    corners = np.array([eye + 24 * forward + s * right + d * forward for s, d in ((-7, 0), (5, 0), (5, 8), (-7, 8))])
    house = Building(corners, None, 8.0, 0.0, "flat", (200, 0, 0), (255, 0, 0), "church", 1, 1)
    image = render_photo(_OneHouse(small_plan, house), pose).astype(np.int32)
    red = (image[..., 0] - image[..., 1]) > 70
    line, column = np.nonzero(red)
    lonlat = to_lonlat(corners[:2] + origin)
    low_left = project_to_photo(pose, lonlat[0, 0], lonlat[0, 1], 0.0)
    high_right = project_to_photo(pose, lonlat[1, 0], lonlat[1, 1], 8.0)
    assert low_left is not None
    assert high_right is not None
    assert column.min() == pytest.approx(low_left[0], abs=1.6)
    assert column.max() + 1 == pytest.approx(high_right[0], abs=1.6)
    assert line.max() + 1 == pytest.approx(low_left[1], abs=1.6)
    assert line.min() == pytest.approx(high_right[1], abs=1.6)


def test_photos_are_taken_on_streets(small_plan: Plan) -> None:
    """Each camera is within a metre of the centreline of a street for cars."""
    lines = [
        shapely.LineString(b.lattice_xy(b.edge(axis, i, j)))
        for i, j in small_plan.index_range()
        for b in [Builder(small_plan, i, j)]
        for axis in (0, 1)
        if small_plan.street(axis, i, j) in DRIVEN
    ]
    tree = shapely.STRtree(lines)
    for pose in photo_poses(small_plan, 30):
        x, y = to_utm(np.array([[pose.lon, pose.lat]]))[0] - small_plan.region.origin
        _, distance = tree.query_nearest(shapely.Point(x, y), return_distance=True)
        assert distance.min() < 1.0


def test_photos_show_the_walls_of_the_world(small_plan: Plan, small_world: World) -> None:
    """Without its buildings the world gives other pictures."""

    class Bare(World):
        def blocks_in(self, bounds: tuple[float, float, float, float]) -> list[Block]:
            return [dataclasses.replace(b, buildings=[], cache={}) for b in small_world.blocks_in(bounds)]

    changed = 0
    for pose in photo_poses(small_plan, PHOTOS):
        full = render_photo(small_world, pose).astype(np.int32)
        bare = render_photo(Bare(small_plan), pose).astype(np.int32)
        changed += int((np.abs(full - bare).max(axis=2) > 25).mean() > 0.03)
    assert changed >= PHOTOS // 2
