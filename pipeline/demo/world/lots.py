"""Buildings along the streets around a block of land, by the streets' characters."""

from __future__ import annotations

from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

from pipeline.demo.geo import FloatArray, rectangle
from pipeline.demo.town.block import PATCH, PATH, Block, Tags
from pipeline.demo.world.draft import Draft, rings_of, scatter
from pipeline.demo.world.streets import Character, Street

_BUILDING = {
    "organic": ("house", "residential", "yes"), "radial": ("apartments", "yes", "commercial"),
    "grid": ("residential", "apartments", "yes"), "suburb": ("house", "detached", "yes"),
    "slabs": ("apartments", "residential", "yes"), "industrial": ("industrial", "warehouse", "yes"),
    "village": ("house", "farm", "yes"), "fields": ("farm_auxiliary", "barn", "yes"),
}  # fmt: skip
_BUILDING["forest"] = _BUILDING["lake"] = _BUILDING["fields"]
_SHOPS = (
    {"shop": "bakery"}, {"shop": "supermarket"}, {"shop": "clothes"}, {"amenity": "cafe"}, {"amenity": "restaurant"},
    {"amenity": "pharmacy"}, {"shop": "hairdresser"}, {"amenity": "bank"}, {"shop": "books"},
)  # fmt: skip


def build_up(draft: Draft, block: Block, land: Any, streets: list[Street], tree: shapely.STRtree, kind: str) -> None:
    """Rows of buildings along the edges of a piece of land (a polygon), then what lies behind them."""
    rows = _rows(draft, land, streets, tree)
    if rows:
        rings, characters, angles = rows
        kept = _kept(land, rings)
        for n in kept.tolist():
            _one(draft, block, rings[n], characters[n], kind)
        _fronts(draft, block, land, [(rings[n], characters[n], angles[n]) for n in kept.tolist()])
    houses = [shapely.polygons(b.ring) for b in block.buildings]
    free = shapely.difference(shapely.buffer(land, -2.0), shapely.union_all([shapely.buffer(h, 1.2) for h in houses]))
    _behind(draft, block, free, kind)


def _rows(
    draft: Draft, land: Any, streets: list[Street], tree: shapely.STRtree
) -> tuple[FloatArray, list[Character], list[float]] | None:
    """Candidate footprints (n, 4, 2) along every edge of a piece of land, edge 0 of each along its ridge."""
    ring = rings_of(shapely.simplify(land, 0.8))[0]
    rings, characters, angles = [], [], []
    ends = np.roll(ring, -1, axis=0)
    nearest = tree.nearest(shapely.points((ring + ends) / 2))
    for a, b, k in zip(ring, ends, nearest.tolist(), strict=True):
        c = streets[k].character
        length = float(np.hypot(*(b - a)))
        if length < 7 or streets[k].highway in ("path", "track"):
            continue
        d = (b - a) / length
        inward = np.array([-d[1], d[0]])
        angle = float(np.arctan2(d[1], d[0]))
        x = float(draft.rng.uniform(0, 3))
        while x + 5 < length:
            front = min(c.front * float(draft.rng.uniform(0.8, 1.2)), max(length - x, 6.0))
            depth = c.depth * float(draft.rng.uniform(0.88, 1.12))
            back = c.setback + float(draft.rng.uniform(0, 0.25 * c.setback))
            middle = a + d * (x + front / 2) + inward * (back + depth / 2)
            if c.ridge_across:
                rings.append(rectangle(middle, depth, front, angle + np.pi / 2))
            else:
                rings.append(rectangle(middle, front, depth, angle))
            characters.append(c)
            angles.append(angle)
            x += front + c.gap * float(draft.rng.uniform(0.6, 1.4))
    return (np.array(rings), characters, angles) if rings else None


def _kept(land: Any, rings: FloatArray) -> NDArray[np.intp]:
    """Numbers of the footprints that lie on the land and overlap none before them."""
    shapes = shapely.polygons(rings)
    shapely.prepare(land)
    inside = shapely.covers(shapely.buffer(land, 0.3), shapes)
    chosen = np.flatnonzero(inside)
    small = shapely.buffer(shapes[chosen], -0.25)
    first, second = shapely.STRtree(small).query(small, predicate="intersects")
    kept = np.ones(len(chosen), bool)
    for n in range(len(chosen)):
        if kept[n]:
            kept[second[(first == n) & (second > n)]] = False
    return chosen[kept]


def _one(draft: Draft, block: Block, ring: FloatArray, c: Character, kind: str) -> None:
    rng = draft.rng
    value = str(rng.choice(_BUILDING[kind]))
    tags: Tags = {"building": value}
    if rng.random() < draft.settings.outdated:
        draft.gone(ring, tags)
        return
    levels = max(1, c.levels + int(rng.integers(-1, 2)) * (rng.random() < 0.5))
    facade = c.facade
    if rng.random() < c.shops:
        facade = "shop"
        if rng.random() > draft.settings.unmapped:
            draft.points.append((ring.mean(axis=0), dict(_SHOPS[int(rng.integers(len(_SHOPS)))])))
    eaves = float(rng.uniform(5, 11)) if facade == "hall" else None
    draft.building(block, ring, levels, c.roof, c.material, facade, tags, eaves=eaves)


def _fronts(draft: Draft, block: Block, land: Any, houses: list[tuple[FloatArray, Character, float]]) -> None:
    """Hedges and walls along the plots, drives, cars in front of houses."""
    border = shapely.boundary(land)
    for ring, c, angle in houses:
        if c.setback < 3:
            continue
        middle = ring.mean(axis=0)
        foot = shapely.get_coordinates(
            shapely.line_interpolate_point(border, shapely.line_locate_point(border, shapely.points(middle)))
        )[0]
        d, out = (
            np.array([np.cos(angle), np.sin(angle)]),
            (foot - middle) / max(float(np.hypot(*(foot - middle))), 1e-6),
        )
        side = float(draft.rng.choice([-1, 1])) * 0.32 * c.front
        if c.front < 20:
            half = c.setback / 2
            draft.paint(
                block,
                PATH,
                "gravel" if c.hedge else "paving",
                rectangle(foot - out * half + d * side, 2.6, 2 * half, angle),
            )
            if draft.rng.random() < 0.5:
                draft.cars(block, (foot - out * (half + 0.4) + d * side)[None], angle + np.pi / 2)
        if c.hedge:
            length = c.front + min(c.gap, 10.0) - 4.0
            at = foot - out * 0.7 - d * np.sign(side) * 2.0
            draft.building(
                block, rectangle(at, max(length, 3.0), 0.8, angle), 1, "flat", "slate", "hedge", None, eaves=c.hedge
            )  # fmt: skip


#: kind -> ground behind the houses, trees to a square metre
_BEHIND = {
    "organic": ("court", 0.0015), "radial": ("court", 0.003), "grid": ("court", 0.003), "suburb": ("garden", 0.006),
    "slabs": ("lawn", 0.004), "industrial": ("yard", 0.0004), "village": ("garden", 0.005), "fields": ("meadow", 0.001),
}  # fmt: skip


def _behind(draft: Draft, block: Block, free: Any, kind: str) -> None:
    """Gardens, sheds, trees and parked cars on the land that is left."""
    rng = draft.rng
    _, density = _BEHIND.get(kind, _BEHIND["fields"])
    draft.trees(block, scatter(rng, free, density * float(rng.choice([0.1, 0.5, 1.0, 2.0]))), (1.2, 3.4))
    deep = shapely.buffer(free, -4.0)
    places = scatter(rng, deep, 0.0006 if kind != "industrial" else 0.0002)
    sheds = [rectangle(xy, rng.uniform(3, 7), rng.uniform(3, 5), rng.uniform(0, np.pi)) for xy in places]
    for n in _kept(deep, np.array(sheds)).tolist() if sheds else ():
        draft.building(block, sheds[n], 1, "flat", "gravel", "house", {"building": "shed"}, eaves=2.5)
    for xy in scatter(rng, deep, 0.0012):
        style = str(rng.choice(["garden", "lawn", "lawn2", "bed", "gravel", "paving"]))
        ring = rectangle(xy, rng.uniform(6, 22), rng.uniform(5, 14), rng.uniform(0, np.pi))
        draft.paint_shape(
            block, PATCH, style, shapely.intersection(shapely.polygons(ring), free), float(rng.uniform(0.85, 1.1))
        )
    if kind in ("industrial", "slabs"):
        car_park(draft, block, deep, 0.5)


def car_park(draft: Draft, block: Block, land: Any, share: float, angle: float | None = None) -> None:
    """Rows of parked cars, as far as the land goes."""
    rng = draft.rng
    turn = float(rng.uniform(0, np.pi)) if angle is None else angle
    x0, y0, x1, y1 = shapely.bounds(land)
    if not np.isfinite(x0) or rng.random() > share:
        return
    middle = np.array([(x0 + x1) / 2, (y0 + y1) / 2])
    u, v = np.meshgrid(
        np.arange(-25, 25, 2.7), np.concatenate([np.arange(-24, 24, 16.0), np.arange(-24, 24, 16.0) + 5.2])
    )
    d = np.array([np.cos(turn), np.sin(turn)])
    xy = middle + u.reshape(-1, 1) * d + v.reshape(-1, 1) * np.array([-d[1], d[0]])
    room = shapely.buffer(land, -3.0)
    shapely.prepare(room)
    xy = xy[shapely.contains_xy(room, xy[:, 0], xy[:, 1])]
    if len(xy) > 8:
        hull = shapely.convex_hull(shapely.multipoints(xy))
        draft.paint_shape(block, PATCH, "asphalt2", shapely.intersection(shapely.buffer(hull, 4.0), land))
        draft.cars(block, xy[rng.random(len(xy)) < rng.uniform(0.2, 0.9)], turn + np.pi / 2)
