"""What the world is made of: towns of several kinds, buildings on their plots, and a map that lacks some of them."""

from __future__ import annotations

import dataclasses
from collections import Counter

import numpy as np
import pytest
import shapely
from pyproj import Geod

from pipeline.demo.world.district import MATERIALS, District, make_district
from pipeline.demo.world.labels import TileLabels, tile_sums
from pipeline.demo.world.photos import Pose, camera, poses, shares
from pipeline.demo.world.plan import Plan
from pipeline.demo.world.settings import BUILT, STYLES, WorldSettings
from pipeline.demo.world.streets import network
from schemas.errors import ConfigError


def district(**settings: object) -> District:
    return make_district(Plan(WorldSettings(tiles=16, **settings)), 0, 0)  # type: ignore[arg-type]


@pytest.mark.parametrize("style", STYLES)
def test_buildings_overlap_neither_each_other_nor_a_carriageway(style: str) -> None:
    made = district(style=style, seed=2)
    houses = [b for block in made.blocks for b in block.buildings if b.style not in ("hedge", "church")]
    shapes = shapely.polygons(np.array([b.ring for b in houses]).reshape(-1, 4, 2))
    if style in BUILT:
        assert len(houses) > 50
    a, b = shapely.STRtree(shapes).query(shapes, predicate="intersects")
    first = a < b
    shared = shapely.area(shapely.intersection(shapes[a[first]], shapes[b[first]]))
    assert (shared > 12).sum() <= 0.02 * len(houses)
    roads = shapely.union_all([shapely.buffer(shapely.linestrings(s.line), s.half - 0.3) for s in made.streets])
    on_road = shapely.area(shapely.intersection(shapes, roads)) / np.maximum(shapely.area(shapes), 1)
    assert (on_road > 0.05).sum() <= 0.02 * len(houses)


def test_styles_differ_in_their_streets_and_a_district_in_its_own() -> None:
    made = {style: district(style=style, seed=1) for style in BUILT}
    blocks = {style: len(d.blocks) for style, d in made.items()}
    assert blocks["organic"] > blocks["grid"] > blocks["industrial"]
    assert _dead_ends("suburb") >= 3 > _dead_ends("grid")
    for d in made.values():
        looks = {dataclasses.replace(s.character, traffic=0, crown=0, hue=0, lamps=0, parked=0) for s in d.streets}
        assert len(looks) > len(d.streets) / 2


def _dead_ends(style: str) -> int:
    lines = [
        shapely.linestrings(s.line) for s in network(Plan(WorldSettings(tiles=16, seed=1, style=style)), 0, 0).streets
    ]
    met = [shapely.distance(lines, shapely.get_point(line, n)) < 1 for line in lines[4:] for n in (0, -1)]
    return sum(int(near.sum()) == 1 for near in met)


def test_a_world_of_its_default_size_has_several_towns_and_open_country() -> None:
    plan = Plan(WorldSettings())
    kinds = Counter(plan.kind(i, j) for i in range(plan.extent[0]) for j in range(plan.extent[1]))
    assert set(kinds) == set(STYLES)
    assert plan.columns * plan.rows >= 2000
    rural = sum(kinds[k] for k in ("fields", "forest", "lake", "village"))
    assert 0.3 < rural / kinds.total() < 0.75


def test_the_map_lacks_and_keeps_what_its_rates_say() -> None:
    whole = district(style="grid", unmapped=0.0, outdated=0.0)
    houses = sum(b.style != "hedge" for block in whole.blocks for b in block.buildings)
    mapped = sum("building" in tags for _, tags in whole.areas)
    assert houses - 8 <= mapped <= houses  # a church's tower is none of its own
    assert not any("building" in tags for _, tags in district(style="grid", unmapped=1.0, outdated=0.0).areas)
    old = district(style="grid", unmapped=0.0, outdated=0.5)
    standing = shapely.union_all([shapely.polygons(b.ring) for block in old.blocks for b in block.buildings])
    gone = [r for r, tags in old.areas if "building" in tags and not shapely.intersects(shapely.Polygon(r), standing)]
    rows = [t for _, t in old.areas if t.get("building", "shed") != "shed"]
    assert 0.25 < len(gone) / len(rows) < 0.65  # those between others touch them


def test_a_label_is_what_stands_in_its_tile_and_is_no_tag() -> None:
    plan = Plan(WorldSettings(tiles=9, style="suburb"))
    made = make_district(plan, 0, 0)
    labels = TileLabels(plan)
    labels.add(tile_sums(plan, made))
    box = shapely.box(plan.tile_m, plan.tile_m, 2 * plan.tile_m, 2 * plan.tile_m)  # the one in the middle
    houses = [b for block in made.blocks for b in block.buildings if b.style != "hedge"]
    inside = [b for b in houses if shapely.contains(box, shapely.Point(b.ring.mean(axis=0)))]
    areas = np.array([shapely.Polygon(b.ring).area for b in inside])
    heights = np.array([b.eaves_m + b.rise_m for b in inside])
    trees = np.concatenate([block.trees[:, :2] for block in made.blocks])
    roofs = [areas[[b.material == m for b in inside]].sum() for m in MATERIALS]
    sums = labels._sums[4]
    np.testing.assert_allclose(sums[:2], [areas.sum(), areas @ heights])
    assert sums[2] == shapely.contains_xy(box, trees[:, 0], trees[:, 1]).sum()
    np.testing.assert_allclose(sums[3:], roofs)
    said = {key for _, tags in (*made.areas, *made.lines, *made.points) for key in tags}
    assert said.isdisjoint({"height", "roof:material", "building:material", "traffic"})


def test_a_heading_on_the_ellipsoid_is_the_cameras_bearing() -> None:
    plan = Plan(WorldSettings(tiles=400, photos=30, style="grid"))
    made = make_district(plan, 3, 3)
    for pose in poses(plan, made, 12, 0):
        lon, lat, _ = Geod(ellps="WGS84").fwd(pose.lon, pose.lat, pose.heading, 80.0)
        ahead = Pose(0, lon, lat, 0.0, pose.captured_at, "", 0.0)
        (x, y, bearing), (east, north, _) = camera(plan, pose), camera(plan, ahead)
        apart = np.array([east - x, north - y])
        assert np.hypot(*apart) == pytest.approx(80.0, rel=0.01)
        assert abs(apart @ [np.cos(bearing), -np.sin(bearing)]) < 0.5


def test_every_photo_asked_for_is_taken_on_a_street_of_its_district() -> None:
    plan = Plan(WorldSettings(tiles=100, photos=333))
    assert sum(n for _, _, n in shares(plan)) == 333
    made = make_district(plan, 1, 1)
    lines = shapely.union_all([shapely.linestrings(s.line) for s in made.streets])
    places = np.array([camera(plan, p)[:2] for p in poses(plan, made, 40, 0)])
    assert (shapely.distance(lines, shapely.points(places)) < 4).all()
    assert len({tuple(p) for p in places.round(2).tolist()}) == 40


@pytest.mark.parametrize(("key", "value"), [("tiles", 0), ("photos", -1), ("style", "big"), ("unmapped", 1.5)])
def test_a_setting_beyond_its_range_is_refused_by_name(key: str, value: object) -> None:
    with pytest.raises(ConfigError, match=key):
        WorldSettings(**{key: value})  # type: ignore[arg-type]
