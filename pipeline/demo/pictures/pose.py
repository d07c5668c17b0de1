"""Where the street views are taken, their EXIF, and their cameras."""

from __future__ import annotations

import datetime as dt
import math
from dataclasses import dataclass

import numpy as np
from PIL import Image
from PIL.TiffImagePlugin import IFDRational

from pipeline.demo.geo import grid_convergence, to_lonlat, to_utm
from pipeline.demo.town.block import Builder
from pipeline.demo.town.plan import BUILT, Plan
from pipeline.demo.town.streets import along, length_of

PHOTO_WIDTH = 512
PHOTO_HEIGHT = 384
FOCAL_35MM = 26  # 36 mm wide film: a horizontal field of view of 69.4 degrees
HFOV_DEG = math.degrees(2 * math.atan(18.0 / FOCAL_35MM))
FOCAL_PX = PHOTO_WIDTH / 2 / math.tan(math.radians(HFOV_DEG) / 2)
EYE_HEIGHT_M = 2.4
SIDEWAYS_RATE = 0.3  # share of photos taken across the street
GROUP = 3  # photos in a row along one street, STEP_M apart
STEP_M = 21.0
DRIVEN = ("primary", "secondary", "tertiary", "residential", "unclassified")
#: In the place of a copyright notice.
LICENCE = "CC0-1.0"
CAMERA = "geoshards demo"
_FIRST_DAY = dt.datetime(2024, 8, 19, 9, 30, 0)
_SECONDS = 36_000_000  # parts of a degree that EXIF keeps: 1e-4 arc seconds, about 3 mm


@dataclass(frozen=True)
class PhotoPose:
    """A level pinhole camera: degrees, heading clockwise from true north, taken_at local time."""

    lon: float
    lat: float
    heading_deg: float
    taken_at: dt.datetime


def camera_of(pose: PhotoPose) -> tuple[float, float, float]:
    """Easting, northing (metres) and grid bearing (radians clockwise from grid north)."""
    x, y = to_utm(np.array([[pose.lon, pose.lat]]))[0]
    bearing = math.radians(pose.heading_deg - grid_convergence(pose.lon, pose.lat))
    return float(x), float(y), bearing


def default_photo_count(plan: Plan) -> int:
    """About one photo for two tiles."""
    return max(1, round(plan.side_tiles**2 / 2))


def photo_poses(plan: Plan, count: int) -> list[PhotoPose]:
    """The poses of all photos; photo k depends on the plan and k only."""
    poses: list[PhotoPose] = []
    group = 0
    while len(poses) < count:
        poses += _group_poses(plan, group)
        group += 1
    return poses[:count]


def _group_poses(plan: Plan, group: int) -> list[PhotoPose]:
    """A few photos in a row along one street edge inside the region."""
    rng = np.random.default_rng([plan.seed, 401, group])
    (i0, i1), (j0, j1) = plan.extent
    width, height = plan.region.size
    for _ in range(10_000):
        i, j, axis = int(rng.integers(i0, i1)), int(rng.integers(j0, j1)), int(rng.integers(2))
        urban = plan.kind(i, j) in BUILT
        if plan.street(axis, i, j) not in DRIVEN or (not urban and rng.random() < 0.6):
            continue
        b = Builder(plan, i, j)
        line = b.lattice_xy(b.edge(axis, i, j))
        if rng.random() < 0.5:
            line = line[::-1]
        total = length_of(line)
        if total < 30.0:
            continue
        start = rng.uniform(4.0, max(5.0, total - GROUP * STEP_M))
        distances = start + STEP_M * np.arange(GROUP)
        points, directions = along(line, distances[distances < total - 2.0])
        inside = (points > 5.0).all() and (points[:, 0] < width - 5).all() and (points[:, 1] < height - 5).all()
        if len(points) and inside:
            return [_pose(plan, rng, group, n, p, a) for n, (p, a) in enumerate(zip(points, directions, strict=True))]
    raise ValueError("the region has no street to take photos on")


def _pose(
    plan: Plan, rng: np.random.Generator, group: int, number: int, point: np.ndarray, direction: float
) -> PhotoPose:
    normal = np.array([-math.sin(direction), math.cos(direction)])
    place = point + normal * rng.uniform(-0.7, 0.7)
    lon, lat = to_lonlat(place + plan.region.origin)[0]
    # Position and heading are those that EXIF can hold: the photo is rendered from there.
    lon, lat = round(lon * _SECONDS) / _SECONDS, round(lat * _SECONDS) / _SECONDS
    bearing = 90.0 - math.degrees(direction) + rng.normal(0, 3.0)
    if rng.random() < SIDEWAYS_RATE:
        bearing += float(rng.choice([-1.0, 1.0])) * rng.uniform(60, 105)
    heading = round((bearing + grid_convergence(lon, lat)) * 100) % 36_000 / 100
    taken = _FIRST_DAY + dt.timedelta(days=group % 5, minutes=group // 5 % 300, seconds=6 * number)
    return PhotoPose(float(lon), float(lat), heading, taken)


def _degrees(value: float) -> tuple[IFDRational, IFDRational, IFDRational]:
    parts = round(abs(value) * _SECONDS)
    degrees, rest = divmod(parts, _SECONDS)
    minutes, rest = divmod(rest, _SECONDS // 60)
    return IFDRational(degrees, 1), IFDRational(minutes, 1), IFDRational(rest, 10_000)


def exif_bytes(pose: PhotoPose) -> bytes:
    """The photo's EXIF block."""
    exif = Image.Exif()
    stamp = pose.taken_at.strftime("%Y:%m:%d %H:%M:%S")
    exif.update({0x010F: CAMERA, 0x0110: CAMERA, 0x0112: 1, 0x0132: stamp, 0x8298: LICENCE})
    exif.get_ifd(0x8769).update(
        {0x9003: stamp, 0x9004: stamp, 0x9011: "+02:00", 0x920A: IFDRational(FOCAL_35MM * 10, 100), 0xA405: FOCAL_35MM}
    )
    exif.get_ifd(0x8825).update(
        {
            0: b"\x02\x03\x00\x00", 1: "N" if pose.lat >= 0 else "S", 2: _degrees(pose.lat),
            3: "E" if pose.lon >= 0 else "W", 4: _degrees(pose.lon), 5: b"\x00", 6: IFDRational(4520, 10),
            16: "T", 17: IFDRational(round(pose.heading_deg * 100), 100), 18: "WGS-84",
        }
    )  # fmt: skip
    return exif.tobytes()
