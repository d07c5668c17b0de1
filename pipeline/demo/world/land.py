"""What each piece of land between the streets is used for."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import shapely

from pipeline.demo.geo import FloatArray, placed, rectangle
from pipeline.demo.town.block import LAND, MARKING, PATCH, PATH, WATER, Block, Tags
from pipeline.demo.world.draft import Draft, rings_of, scatter
from pipeline.demo.world.lots import build_up, car_park
from pipeline.demo.world.streets import Street

_GROUND = {
    "organic": "court", "radial": "court", "grid": "court", "suburb": "garden", "slabs": "lawn", "industrial": "yard",
    "village": "garden",
}  # fmt: skip
_LANDUSE = {
    "organic": "residential", "radial": "commercial", "grid": "residential", "suburb": "residential",
    "slabs": "residential", "industrial": "industrial", "village": "residential",
}  # fmt: skip
_CROPS = ("wheat", "barley", "maize", "rape", "potato", "beet", "bare", "vine", "meadow", "meadow2")
_OTHERWISE = (("park", 0.05), ("pitch", 0.03), ("car_park", 0.03), ("square", 0.04))


def use_land(draft: Draft, land: Any, streets: list[Street], tree: shapely.STRtree, kind: str) -> None:
    """Fill a piece of land (a polygon) in a district of a kind."""
    block = draft.block(kind)
    if kind in _GROUND:
        use, left = "lots", float(draft.rng.random())
        for name, share in _OTHERWISE:
            left -= share
            if left < 0:
                use = name
                break
        if kind == "village" and shapely.area(land) > 40_000:
            _village_edge(draft, block, land, streets, tree)
        elif use == "lots":
            _ground(draft, block, land, str(_GROUND[kind]), {"landuse": _LANDUSE[kind]})
            build_up(draft, block, land, streets, tree, kind)
        else:
            {"park": _park, "pitch": _pitch, "car_park": _car_park, "square": _square}[use](draft, block, land)
    elif kind == "fields":
        _fields(draft, block, land)
        if draft.rng.random() < 0.5:
            build_up(draft, block, land, streets, tree, kind)
    elif kind == "forest":
        _forest(draft, block, land)
    else:
        _lake(draft, block, land)


def _ground(draft: Draft, block: Block, land: Any, style: str, tags: Tags) -> None:
    draft.paint_shape(block, LAND, style, land, float(draft.rng.uniform(0.9, 1.1)))
    if draft.rng.random() >= draft.settings.unmapped:
        draft.areas.append((rings_of(land)[0], tags))


def _village_edge(draft: Draft, block: Block, land: Any, streets: list[Street], tree: shapely.STRtree) -> None:
    """Houses along the road, fields behind them."""
    near = shapely.difference(land, shapely.buffer(land, -45))
    _fields(draft, block, shapely.buffer(land, -45))
    draft.paint_shape(block, LAND, "garden", near)
    build_up(draft, block, near if shapely.get_type_id(near) == 3 else land, streets, tree, "village")


def _park(draft: Draft, block: Block, land: Any) -> None:
    _ground(draft, block, land, "lawn", {"leisure": "park"})
    groves = shapely.union_all(shapely.buffer(shapely.points(scatter(draft.rng, land, 0.0006)), 14.0))
    draft.trees(block, scatter(draft.rng, shapely.intersection(groves, shapely.buffer(land, -3)), 0.02), (2.0, 4.6))
    centre = shapely.get_coordinates(shapely.point_on_surface(land))[0]
    for gate in rings_of(land)[0][:: max(1, len(rings_of(land)[0]) // 4)]:
        path = shapely.buffer(shapely.linestrings([gate, centre]), 1.1)
        draft.paint_shape(block, PATH, "path", shapely.intersection(path, land))
        draft.lines.append((np.array([gate, centre]), {"highway": "footway"}))
    if draft.rng.random() < 0.5:
        pond = _blob(draft.rng, centre, 12.0)
        draft.paint(block, WATER, "pond", pond)
        draft.areas.append((pond, {"natural": "water"}))


def _pitch(draft: Draft, block: Block, land: Any) -> None:
    _ground(draft, block, land, "lawn2", {"leisure": "sports_centre"})
    centre = shapely.get_coordinates(shapely.point_on_surface(land))[0]
    angle = float(draft.rng.uniform(0, np.pi))
    ring = rectangle(centre, 70.0, 44.0, angle)
    if shapely.covers(land, shapely.polygons(ring)):
        draft.paint(block, PATCH, "pitch", ring, angle=angle)
        for shape in (shapely.polygons(ring).boundary, shapely.linestrings((ring[[0, 2]] + ring[[1, 3]]) / 2)):
            draft.paint_shape(block, MARKING, "marking", shapely.buffer(shape, 0.35))
        draft.areas.append((ring, {"leisure": "pitch"}))
    rim = shapely.difference(shapely.buffer(land, -3), shapely.buffer(land, -9))
    draft.trees(block, scatter(draft.rng, rim, 0.006), (2.0, 3.8))


def _car_park(draft: Draft, block: Block, land: Any) -> None:
    _ground(draft, block, land, "asphalt2", {"amenity": "parking"})
    car_park(draft, block, land, 1.0)
    draft.trees(block, scatter(draft.rng, shapely.buffer(land, -4), 0.0006), (1.4, 2.4))


def _square(draft: Draft, block: Block, land: Any) -> None:
    """A paved square with a church or a fountain."""
    _ground(draft, block, land, "paving", {"place": "square"})
    centre = shapely.get_coordinates(shapely.point_on_surface(land))[0]
    angle = float(draft.rng.uniform(0, np.pi))
    nave = rectangle(centre, 26.0, 12.0, angle)
    if shapely.covers(land, shapely.buffer(shapely.polygons(nave), 6.0)):
        draft.building(
            block,
            nave,
            3,
            "gabled",
            "slate",
            "church",
            {"building": "church", "amenity": "place_of_worship"},
            eaves=9.0,
        )
        tower = placed([(15.5, 0.0)], centre, angle)[0]
        draft.building(
            block, rectangle(tower, 5.0, 5.0, angle), 8, "pyramidal", "slate", "church", None, eaves=22.0, rise=10.0
        )
    else:
        basin = _blob(draft.rng, centre, 4.0)
        draft.paint(block, WATER, "pool", basin)
        draft.areas.append((basin, {"amenity": "fountain"}))
    draft.trees(
        block,
        scatter(draft.rng, shapely.difference(shapely.buffer(land, -3), shapely.buffer(land, -7)), 0.008),
        (1.6, 2.6),
    )


def _fields(draft: Draft, block: Block, land: Any) -> None:
    """Strips of crops between hedgerows."""
    rng = draft.rng
    angle = float(rng.uniform(0, np.pi))
    centre = shapely.get_coordinates(shapely.centroid(land))
    if not len(centre):
        return
    draft.paint_shape(block, LAND, "meadow", land)
    edges = np.concatenate([[-600.0], np.sort(rng.uniform(-330, 330, int(rng.integers(2, 9)))), [600.0]])
    for a, b in itertools.pairwise(edges):
        strip = placed([(-600, a + 1), (600, a + 1), (600, b - 1), (-600, b - 1)], centre[0], angle)
        field = shapely.intersection(shapely.polygons(strip), shapely.buffer(land, -1.5))
        draft.paint_shape(block, PATCH, str(rng.choice(_CROPS)), field, float(rng.uniform(0.85, 1.15)), angle)
        for part in shapely.get_parts(field):
            if shapely.get_type_id(part) == 3 and rng.random() > 0.3:
                value = str(rng.choice(["farmland", "farmland", "meadow", "orchard"]))
                draft.areas.append((rings_of(part)[0], {"landuse": value}))
        if rng.random() < 0.4:
            row = placed([(-600, b), (600, b)], centre[0], angle)
            line = shapely.intersection(shapely.linestrings(row), shapely.buffer(land, -4))
            at = shapely.line_interpolate_point(line, np.arange(4, shapely.length(line), float(rng.uniform(6, 18))))
            draft.trees(block, shapely.get_coordinates(at) + rng.normal(0, 0.6, (len(at), 2)), (1.6, 4.0))


def _forest(draft: Draft, block: Block, land: Any) -> None:
    _ground(draft, block, land, "forest_floor", {"landuse": "forest"})
    hue = float(draft.rng.choice([0.15, 0.5, 0.95])) if draft.rng.random() < 0.6 else None
    clear = shapely.union_all(
        shapely.buffer(shapely.points(scatter(draft.rng, land, 1 / 120_000)), float(draft.rng.uniform(18, 60)))
    )
    draft.paint_shape(block, PATCH, "scrub", shapely.intersection(clear, land))
    inner = shapely.difference(shapely.buffer(land, -4), clear)
    draft.trees(block, scatter(draft.rng, inner, 0.016), (2.2, 4.4), hue)


def _lake(draft: Draft, block: Block, land: Any) -> None:
    """Water in meadows, with trees on its shores."""
    rng = draft.rng
    _ground(draft, block, land, "meadow2", {"landuse": "grass"})
    water = shapely.intersection(
        shapely.polygons(_blob(rng, shapely.get_coordinates(shapely.centroid(land))[0], float(rng.uniform(60, 190)))),
        shapely.buffer(land, -10),
    )
    for part in shapely.get_parts(water):
        if shapely.get_type_id(part) == 3 and shapely.area(part) > 200:
            ring = rings_of(part)[0]
            draft.paint(block, WATER, "lake", ring)
            draft.areas.append((ring, {"natural": "water", "water": "lake"}))
    shore = shapely.difference(shapely.intersection(shapely.buffer(water, 16), land), shapely.buffer(water, 2))
    draft.trees(block, scatter(rng, shore, float(rng.choice([0.001, 0.006, 0.014]))), (1.8, 4.0))
    draft.trees(
        block, scatter(rng, shapely.difference(shapely.buffer(land, -4), shapely.buffer(water, 2)), 0.0007), (1.8, 4.4)
    )


def _blob(rng: np.random.Generator, at: FloatArray, radius: float) -> FloatArray:
    """A round outline with bays, (32, 2) metres."""
    t = np.linspace(0, 2 * np.pi, 33)[:-1]
    waves = [rng.uniform(0, 0.22) * np.sin(k * t + rng.uniform(0, 6.3)) for k in (1, 2, 3, 5)]
    r = radius * (1 + np.sum(waves, axis=0))
    return np.asarray(at + r[:, None] * np.column_stack([np.cos(t), np.sin(t)]))
