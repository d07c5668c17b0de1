"""Where photos are taken, and what they show."""

from __future__ import annotations

import datetime as dt
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from geometry.tiles import lonlat_to_tile
from pipeline.demo.geo import TILE_ZOOM, FloatArray
from pipeline.demo.pictures.streetview import paint_photo
from pipeline.demo.town.streets import along, length_of
from pipeline.demo.world.district import District, World
from pipeline.demo.world.looks import PHOTO, develop, draw_look
from pipeline.demo.world.plan import Plan
from pipeline.demo.world.streets import DRIVEN

#: Photos of a district beside those of a suburb of the same size.
_DENSITY = {
    "organic": 1.8, "radial": 1.6, "grid": 1.5, "suburb": 1.0, "slabs": 1.0, "industrial": 0.7, "village": 0.7,
    "fields": 0.25, "forest": 0.2, "lake": 0.25,
}  # fmt: skip
SIDEWAYS = 0.35  # share of photos taken across the street
_AUTHORS = 40
_BORDER_M = 12.0  # from the world's edge


@dataclass(frozen=True)
class Pose:
    """A level camera; what is stored of it is what it was rendered from."""

    number: int
    lon: float  # degrees, seven decimals
    lat: float
    heading: float  # degrees clockwise from north, two decimals
    captured_at: dt.datetime
    author: str
    traffic: float  # vehicles a day of its street


def shares(plan: Plan) -> list[tuple[int, int, int]]:
    """(i, j, photos) of every district, all the photos asked for; row by row."""
    nx, ny = plan.extent
    places = [(i, j) for j in range(ny) for i in range(nx)]
    weight = np.array([_DENSITY[plan.kind(i, j)] * _covered(plan, i, j) for i, j in places])
    ends = np.concatenate([[0], np.rint(np.cumsum(weight) / weight.sum() * plan.settings.photos)]).astype(int)
    return [(i, j, n) for (i, j), n in zip(places, np.diff(ends).tolist(), strict=True)]


def _covered(plan: Plan, i: int, j: int) -> float:
    """Share of a district that lies on the world's tiles, about."""
    a, b = plan.vertex(i, j), plan.vertex(i + 1, j + 1)
    inner = np.clip(b, 0, plan.size) - np.clip(a, 0, plan.size)
    return float(np.prod(np.maximum(inner, 0)) / np.prod(b - a))


def poses(plan: Plan, district: District, count: int, first: int) -> list[Pose]:
    """Cameras on a district's streets, along them or across; anywhere where none of them lies on the world's tiles."""
    rng = plan.rng(12, district.i, district.j)
    at, angle, half, traffic = _standing(plan, district)
    found = []
    for number in range(first, first + count):
        k = int(rng.integers(len(at)))
        d = np.array([math.cos(angle[k]), math.sin(angle[k])])
        side = float(rng.uniform(-0.6, 0.6)) * half[k]
        place = at[k] + rng.uniform(-2.5, 2.5) * d + side * np.array([-d[1], d[0]])
        bearing = 90 - math.degrees(angle[k]) + rng.normal(0, 4.0) + float(rng.choice([0.0, 180.0]))
        if rng.random() < SIDEWAYS:
            bearing += float(rng.choice([-1.0, 1.0])) * float(rng.uniform(55, 110))
        lon, lat = (round(float(v), 7) for v in plan.to_lonlat(place[None])[0])
        day, minute = (int(rng.integers(n)) for n in (2400, 600))
        when = dt.datetime(2018, 1, 1, 7, tzinfo=dt.UTC) + dt.timedelta(days=day, minutes=minute)
        author = f"contributor {int(rng.integers(_AUTHORS)) + 1}"
        found.append(Pose(number, lon, lat, round(bearing % 360, 2) % 360, when, author, traffic[k]))
    return found


def _standing(plan: Plan, district: District) -> tuple[FloatArray, list[float], list[float], list[float]]:
    """Places (n, 2) every 5 m of streets for cars, else of paths; their direction, half their width and traffic."""
    driven = [s for s in district.streets if s.highway in DRIVEN]
    for streets in (driven, district.streets):
        rows = []
        for s in streets:
            xy, angle = along(s.line, np.arange(4.0, length_of(s.line) - 3, 5.0))
            keep = plan.inside(xy, _BORDER_M)
            rows += [(p, a, s.half, s.character.traffic) for p, a in zip(xy[keep], angle[keep].tolist(), strict=True)]
        if rows:
            at, angles, half, traffic = zip(*rows, strict=True)
            return np.array(at), list(angles), list(half), list(traffic)
    middle = (plan.vertex(district.i, district.j) + plan.vertex(district.i + 1, district.j + 1)) / 2
    return np.clip(middle, _BORDER_M, np.array(plan.size) - _BORDER_M)[None], [0.0], [0.0], [0.0]


def camera(plan: Plan, pose: Pose) -> tuple[float, float, float]:
    """Metres east and north, and radians clockwise from north."""
    tile: FloatArray = lonlat_to_tile(np.array([[pose.lon, pose.lat]]), TILE_ZOOM)[0] - plan.corner
    return float(tile[0]) * plan.tile_m, (plan.rows - float(tile[1])) * plan.tile_m, math.radians(pose.heading)


def take(world: World, pose: Pose) -> NDArray[np.uint8]:
    """The photo (384, 512, 3) of a pose."""
    seed = world.plan.settings.seed
    rng = np.random.default_rng([seed, PHOTO, pose.number])
    view = paint_photo(world.blocks_in, *camera(world.plan, pose), seed, draw_look(rng))
    return develop(view.image, rng)
