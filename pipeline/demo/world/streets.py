"""The streets of a district: lines from gate to gate by its kind, and what each street is like. Pure."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import shapely

from pipeline.demo.geo import FloatArray
from pipeline.demo.town.names import STREETS
from pipeline.demo.town.streets import along, length_of
from pipeline.demo.world.plan import Plan

HALF_M = {
    "primary": 5.5, "secondary": 4.6, "tertiary": 3.8, "residential": 3.0, "unclassified": 2.8, "living_street": 2.4,
    "pedestrian": 2.2, "service": 2.0, "track": 1.5, "path": 0.9,
}  # fmt: skip
DRIVEN = ("primary", "secondary", "tertiary", "residential", "unclassified", "living_street")
_TRAFFIC = {  # vehicles a day, the middle of what is drawn
    "primary": 14_000, "secondary": 8_000, "tertiary": 3_500, "residential": 700, "unclassified": 500,
    "living_street": 250, "service": 120, "pedestrian": 0, "track": 8, "path": 0,
}  # fmt: skip


@dataclass(frozen=True)
class Character:
    """What makes a street differ from others. Lengths in metres."""

    walk: float  # width of its pavements, 0: none
    front: float  # width of a building
    depth: float
    gap: float  # between buildings, 0: a closed row
    setback: float
    levels: int
    roof: str  # flat, gabled, pyramidal
    material: str  # of the roofs
    facade: str  # style of `facades`
    ridge_across: bool  # gables face the street
    shops: float  # share of buildings with a shop
    trees: float  # distance between its trees, 0: none
    tree_sides: int  # 1, 2
    crown: float
    hue: float
    lamps: float  # distance between its lamps, 0: none
    lamp: int  # kind of its lamps
    parking: int  # sides with parked cars
    parked: float  # share of places taken
    hedge: float  # height of hedges or walls along its plots, 0: none
    dashes: bool  # a marked middle
    signs: float  # distance between its signs, 0: none
    traffic: float  # vehicles a day


@dataclass(frozen=True)
class Street:
    """A street or path."""

    line: FloatArray  # (n, 2) metres
    highway: str
    character: Character
    name: str = ""
    lattice: tuple[int, int, int] | None = None  # axis, i, j of the edge it runs along

    @property
    def half(self) -> float:
        """Half its width in metres, without pavements."""
        return HALF_M[self.highway]

    @property
    def wide(self) -> float:
        """Half its width in metres, with pavements."""
        return self.half + self.character.walk


#: kind -> fronts, depths, gaps, setbacks, storeys, share of flat roofs, facades, share of streets with trees, shops
_LOTS: dict[str, tuple[Any, ...]] = {
    "organic": ((6, 11), (8, 12), (0, 0), (0, 0.5), (2, 4), 0.08, ("house", "tall", "shop"), 0.2, 0.4),
    "radial": ((12, 20), (11, 15), (0, 0), (0, 2), (4, 6), 0.35, ("tall", "flats", "shop", "arcade"), 0.8, 0.45),
    "grid": ((9, 18), (10, 14), (0, 3), (0, 4), (2, 5), 0.5, ("house", "flats", "shop", "ribbon"), 0.6, 0.35),
    "suburb": ((9, 14), (8, 11), (5, 13), (4, 9), (1, 2), 0.15, ("house", "house", "ribbon"), 0.45, 0.02),
    "slabs": ((34, 70), (11, 14), (14, 26), (8, 16), (4, 9), 0.9, ("flats", "ribbon", "balcony"), 0.7, 0.06),
    "industrial": ((28, 70), (24, 50), (10, 24), (6, 16), (1, 2), 0.75, ("hall", "hall", "ribbon"), 0.25, 0.05),
    "village": ((9, 15), (9, 13), (4, 18), (2, 8), (1, 2), 0.04, ("house", "tall"), 0.35, 0.08),
    "fields": ((12, 22), (10, 16), (90, 240), (8, 20), (1, 2), 0.1, ("house", "hall"), 0.3, 0.0),
}  # fmt: skip
_LOTS["forest"] = _LOTS["lake"] = _LOTS["fields"]


def draw_character(rng: np.random.Generator, kind: str, highway: str) -> Character:
    """What a street is like in a district of a kind."""
    front, depth, gap, setback, levels, flat, facades, green, shops = _LOTS[kind]
    town = kind in ("organic", "radial", "grid", "suburb", "slabs", "industrial")
    main = highway in ("primary", "secondary", "tertiary")
    is_flat = rng.random() < flat
    roof = "flat" if is_flat else str(rng.choice(["gabled", "pyramidal"], p=[0.78, 0.22]))
    traffic = _TRAFFIC[highway] * float(rng.lognormal(0, 0.7)) * (1.0 if town else 0.5)
    return Character(
        walk=float(rng.uniform(1.2, 3.2)) if town and highway in DRIVEN and rng.random() < 0.85 else 0.0,
        front=float(rng.uniform(*front)), depth=float(rng.uniform(*depth)), gap=float(rng.uniform(*gap)),
        setback=float(rng.uniform(*setback)), levels=int(rng.integers(levels[0], levels[1] + 1)), roof=roof,
        material=str(rng.choice(["gravel", "metal"] if is_flat else ["tiles", "metal", "slate"])),
        facade=str(rng.choice(facades)), ridge_across=bool(rng.random() < 0.35),
        shops=shops * float(rng.choice([0.0, 1.0, 2.0])) * (1.0 if main or kind != "suburb" else 0.3),
        trees=float(rng.choice([7.0, 11.0, 16.0, 24.0])) if rng.random() < green and highway != "path" else 0.0,
        tree_sides=int(rng.integers(1, 3)), crown=float(rng.uniform(1.3, 4.2)), hue=float(rng.uniform(0, 1)),
        lamps=float(rng.uniform(18, 42)) if town or kind == "village" else 0.0, lamp=int(rng.integers(3)),
        parking=int(rng.integers(0, 3)) if town and highway in DRIVEN else 0, parked=float(rng.uniform(0.15, 0.95)),
        hedge=float(rng.choice([0.0, 0.0, 1.0, 1.7])) if setback[1] > 2 and kind != "fields" else 0.0,
        dashes=bool(main or rng.random() < 0.1), signs=float(rng.choice([0.0, 35.0, 70.0])), traffic=traffic,
    )  # fmt: skip


@dataclass
class Network:
    """The streets of one district in the making."""

    plan: Plan
    i: int
    j: int
    rng: np.random.Generator
    cell: Any  # polygon
    gates: FloatArray  # (4, 3, 2): south, east, north, west, each from the edge's beginning
    streets: list[Street] = field(default_factory=list)

    def add(self, line: Any, highway: str, kind: str) -> None:
        """A street of a character of its own."""
        xy = np.round(np.asarray(line, np.float64), 2)
        xy = xy[np.concatenate([[True], np.hypot(*np.diff(xy, axis=0).T) > 0.05])]
        if len(xy) > 1 and length_of(xy) > 8:
            name = STREETS[int(self.rng.integers(len(STREETS)))] if highway in DRIVEN else ""
            self.streets.append(Street(xy, highway, draw_character(self.rng, kind, highway), name))

    def at(self, s: float, t: float) -> FloatArray:
        """(2,) metres of shares of the cell, 0..1 each way."""
        (a, b), (d, c) = ((self.plan.vertex(self.i + p, self.j + q) for p in (0, 1)) for q in (0, 1))
        return np.asarray((1 - t) * ((1 - s) * a + s * b) + t * ((1 - s) * d + s * c))


def network(plan: Plan, i: int, j: int) -> Network:
    """The lattice roads around a district, then its own streets."""
    edges = [plan.edge(0, i, j), plan.edge(1, i + 1, j), plan.edge(0, i, j + 1), plan.edge(1, i, j)]
    ring = np.concatenate([edges[0][:-1], edges[1][:-1], edges[2][:0:-1], edges[3][:0:-1]])
    net = Network(plan, i, j, plan.rng(6, i, j), shapely.polygons(ring), np.array([e[[3, 6, 9]] for e in edges]))
    kind = plan.kind(i, j)
    for axis, a, b in ((0, i, j), (1, i + 1, j), (0, i, j + 1), (1, i, j)):
        highway = plan.road(axis, a, b)
        character = draw_character(plan.rng(7 + axis, a, b, len(kind)), kind, highway)
        net.streets.append(Street(plan.edge(axis, a, b), highway, character, STREETS[(a + 3 * b) % 21], (axis, a, b)))
    _KINDS[kind](net)
    net.streets = [s if s.lattice else _noded(s, net.streets) for s in net.streets]
    return net


def _noded(street: Street, others: list[Street]) -> Street:
    """The street with a node where it meets others."""
    line = shapely.linestrings(street.line)
    lines = [shapely.linestrings(o.line) for o in others]
    met = shapely.intersection(line, np.array([o for o in lines if not o.equals(line)]))
    points = shapely.get_coordinates(met[shapely.get_type_id(met) != 1])
    if not len(points):
        return street
    at = shapely.line_locate_point(line, shapely.points(points))
    own = shapely.line_locate_point(line, shapely.points(street.line))
    fresh = np.round(points[np.abs(at[:, None] - own).min(axis=1) > 0.05], 2)
    where = shapely.line_locate_point(line, shapely.points(fresh))
    xy = np.concatenate([street.line, fresh])[np.argsort(np.concatenate([own, where]), kind="stable")]
    xy = xy[np.concatenate([[True], (np.diff(xy, axis=0) != 0).any(axis=1)])]
    return Street(xy, street.highway, street.character, street.name)


def _curve(rng: np.random.Generator, a: FloatArray, b: FloatArray, bend: float, n: int = 9) -> FloatArray:
    """(n, 2) points from a to b along an S."""
    t = np.linspace(0, 1, n)[:, None]
    d = b - a
    normal = np.array([-d[1], d[0]])
    wave = rng.normal(0, bend) * np.sin(np.pi * t) + rng.normal(0, 0.6 * bend) * np.sin(2 * np.pi * t)
    return np.asarray(a + t * d + wave * normal)


def _grid(net: Network) -> None:
    for k in range(3):
        for first, last in ((0, 2), (3, 1)):
            highway = "tertiary" if k == 1 and net.rng.random() < 0.5 else "residential"
            net.add(_curve(net.rng, net.gates[first, k], net.gates[last, k], 0.008), highway, "grid")
    for s, t in itertools.product(range(4), range(4)):  # some blocks are halved
        if net.rng.random() < 0.45:
            a, b = ((s + 0.5, t), (s + 0.5, t + 1)) if net.rng.random() < 0.5 else ((s, t + 0.5), (s + 1, t + 0.5))
            ends = np.array([net.at(*(np.array(p) / 4)) for p in (a, b)])
            net.add(_joined(net, ends[0] * 1.3 - ends[1] * 0.3, ends[1] * 1.3 - ends[0] * 0.3), "living_street", "grid")


def _joined(net: Network, a: FloatArray, b: FloatArray) -> FloatArray:
    """The part of a line between the first streets on both sides of its middle."""
    line, mid = shapely.linestrings([a, b]), (a + b) / 2
    others = shapely.multilinestrings([shapely.linestrings(s.line) for s in net.streets])
    met = shapely.get_coordinates(shapely.intersection(line, others))
    along_line = (met - mid) @ (b - a)
    if not (along_line < 0).any() or not (along_line > 0).any():
        return np.array([a * 0.9 + b * 0.1, b * 0.9 + a * 0.1])
    return met[
        [np.where(along_line < 0, along_line, -np.inf).argmax(), np.where(along_line > 0, along_line, np.inf).argmin()]
    ]


def _radial(net: Network) -> None:
    centre = net.at(*net.rng.uniform(0.42, 0.58, 2))
    gates = [net.gates[side, k] for side in range(4) for k in range(3)]
    gates.sort(key=lambda g: math.atan2(g[1] - centre[1], g[0] - centre[0]))
    rings = np.array([0.16, *sorted(net.rng.uniform(0.35, 0.8, 2))])
    rays = [_curve(net.rng, centre + 0.12 * (g - centre), g, 0.02) for g in gates]
    for n, ray in enumerate(rays):
        net.add(ray, "secondary" if n % 4 == 0 else "residential", "radial")
    for share in rings:
        points = [along(ray, np.array([length_of(ray) * share]))[0][0] for ray in rays]
        net.add([*points, points[0]], "residential", "radial")
    net.add([rays[0][0], *(r[0] for r in rays[1:]), rays[0][0]], "tertiary", "radial")


def _organic(net: Network) -> None:
    core = shapely.buffer(net.cell, -60)
    n = int(net.rng.integers(34, 60))
    (x0, y0, x1, y1) = core.bounds
    middle = np.array([(x0 + x1) / 2, (y0 + y1) / 2])
    # Denser in the middle, where the lanes are short.
    spread = net.rng.normal(0, 0.26, (n, 2)) * (x1 - x0, y1 - y0) + middle
    cells = shapely.voronoi_polygons(shapely.multipoints(spread), extend_to=core, only_edges=True)
    edges = shapely.get_parts(shapely.line_merge(shapely.intersection(cells, core)))
    for edge in edges:
        xy = shapely.get_coordinates(edge)
        if net.rng.random() < 0.87:
            net.add(
                _wobbled(net.rng, xy), str(net.rng.choice(["residential", "living_street", "pedestrian"])), "organic"
            )
    rim = shapely.get_coordinates(shapely.segmentize(core.exterior, 40.0))
    net.add(rim, "residential", "organic")
    for gate in net.gates.reshape(-1, 2):
        net.add([gate, rim[np.hypot(*(rim - gate).T).argmin()]], "residential", "organic")


def _wobbled(rng: np.random.Generator, xy: FloatArray) -> FloatArray:
    """A line with bends between its ends."""
    if len(xy) == 2 and np.hypot(*(xy[1] - xy[0])) > 30:
        xy = _curve(rng, xy[0], xy[1], 0.05, 4)
    return xy


def _spine(net: Network, kind: str, bend: float, highway: str) -> list[FloatArray]:
    """A road from west to east and one from south to north that ends there."""
    k = net.rng.integers(3, size=4)
    first = _curve(net.rng, net.gates[3, k[0]], net.gates[1, k[1]], bend, 13)
    net.add(first, highway, kind)
    joint = first[int(net.rng.integers(4, 9))]
    second = _curve(net.rng, net.gates[0, k[2]], joint, bend, 9)
    third = _curve(net.rng, first[int(net.rng.integers(4, 9))], net.gates[2, k[3]], bend, 9)
    for line in (second, third):
        net.add(line, highway, kind)
    return [first, second, third]


def _branches(
    net: Network, roads: list[FloatArray], kind: str, step: float, reach: tuple[float, float], turn: bool
) -> None:
    """Dead ends from the gates and to both sides of roads, where there is room for them."""
    rng, centre = net.rng, net.at(0.5, 0.5)
    starts = []
    for gate in net.gates.reshape(-1, 2):
        d = centre - gate
        starts.append((gate, math.atan2(d[1], d[0]) + rng.normal(0, 0.25), rng.uniform(1.3, 1.7) * reach[1]))
    for road in roads:
        d = np.arange(step * 0.5, length_of(road) - 20, step * 0.4)
        feet, angles = along(road, d + rng.uniform(-8, 8, len(d)))
        turns = angles + rng.choice([-1.0, 1.0], len(d)) * (np.pi / 2 + rng.normal(0, 0.2, len(d)))
        starts += zip(feet, turns.tolist(), rng.uniform(*reach, len(d)).tolist(), strict=True)
    taken = shapely.union_all([shapely.buffer(shapely.linestrings(r), 28.0) for r in roads])
    border = shapely.difference(net.cell, shapely.buffer(net.cell, -45))
    for foot, a, far in starts:
        line = _curve(rng, foot, foot + far * np.array([np.cos(a), np.sin(a)]), 0.08, 6)
        path = shapely.linestrings(line)
        room = shapely.difference(shapely.buffer(path, 26.0), shapely.buffer(shapely.points(foot), 60.0))
        ahead = shapely.difference(path, shapely.buffer(shapely.points(foot), 34.0))
        if shapely.area(shapely.intersection(room, taken)) > 80 or shapely.intersects(
            ahead, shapely.union(taken, border)
        ):
            continue
        taken = shapely.union(taken, shapely.buffer(path, 28.0))
        if turn:  # a turning circle
            t = np.linspace(0, 2 * np.pi, 9) + a + np.pi
            line = np.concatenate([line[:-1], line[-1] + 7.0 * np.column_stack([np.cos(t), np.sin(t)])])
        net.add(line, "residential" if turn else "service", kind)


def _suburb(net: Network) -> None:
    roads = _spine(net, "suburb", 0.09, "residential")
    _branches(net, roads, "suburb", 62.0, (90, 190), True)


def _slabs(net: Network) -> None:
    roads = _spine(net, "slabs", 0.05, "tertiary")
    _branches(net, roads, "slabs", 110.0, (80, 170), False)


def _industrial(net: Network) -> None:
    roads = _spine(net, "industrial", 0.01, "unclassified")
    _branches(net, roads, "industrial", 150.0, (80, 160), False)


def _village(net: Network) -> None:
    roads = _spine(net, "village", 0.07, "tertiary")
    _branches(net, roads, "village", 120.0, (60, 120), False)


def _fields(net: Network) -> None:
    kind = net.plan.kind(net.i, net.j)
    highway = "track" if kind == "fields" else "path"
    for k in range(3):
        if net.rng.random() < 0.75:
            first = int(net.rng.integers(2))
            ends = net.gates[(0, 2) if first else (3, 1), k]
            net.add(_curve(net.rng, ends[0], ends[1], 0.02 if kind == "fields" else 0.09), highway, kind)


_KINDS = {
    "grid": _grid, "radial": _radial, "organic": _organic, "suburb": _suburb, "slabs": _slabs,
    "industrial": _industrial, "village": _village, "fields": _fields, "forest": _fields, "lake": _fields,
}  # fmt: skip
