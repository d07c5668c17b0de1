"""One block of the demo world, as map objects and as things to paint.

A `Block` holds what OpenStreetMap knows of a block (nodes, ways, relations) and what is
really there (surfaces, buildings, trees, cars). The two differ by the named rates below,
as they do in reality. Coordinates are metres from `Region.origin` (x east, y north).
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pipeline.demo.geo import Bounds, FloatArray, bounds_of
from pipeline.demo.town.plan import EDGE_FRACTIONS, RAIL_FRACTIONS, Plan

# What the map leaves out of the world, as shares.
MISSING_BUILDING_RATE = 0.04
GARDEN_TREE_MAPPED_RATE = 0.06
STREET_TREE_MAPPED_RATE = 0.6
PARK_TREE_MAPPED_RATE = 0.5
POOL_MAPPED_RATE = 0.5
# Shares of mapped buildings that carry the attribute.
LEVELS_TAGGED_RATE = 0.55
ROOF_SHAPE_TAGGED_RATE = 0.45
ROOF_COLOUR_TAGGED_RATE = 0.35
HEIGHT_TAGGED_RATE = 0.08
ADDRESS_TAGGED_RATE = 0.5

LEVEL_M = 3.0  # height of one storey
#: Roof materials, and how many radians of rows a metre of roof has: courses across the slope, negative: seams down it.
ROOF_SEAMS = {"tiles": 16.0, "metal": -5.2, "slate": 0.0, "gravel": 0.0}
ID_STRIDE = 20_000  # ids reserved for one block, for each object type
_FIRST_LOCAL = 8  # 0: lattice vertex, 1-3: east edge, 4-6: north edge

# Paint layers, low to high.
LAND, PATCH, WATER, PATH, SIDEWALK, ROAD, BALLAST, DECK_SIDE, DECK, MARKING = range(10)

Tags = dict[str, str]
Ref = tuple[int, int, int]  # a lattice node: block i, block j, index 0-6


@dataclass(frozen=True)
class Way:
    """An OSM way: node ids in order."""

    id: int
    refs: tuple[int, ...]
    tags: Tags


@dataclass(frozen=True)
class Relation:
    """An OSM relation: members are (type 'n'|'w'|'r', id, role)."""

    id: int
    members: tuple[tuple[str, int, str], ...]
    tags: Tags


@dataclass(frozen=True)
class Surface:
    """A flat area of the ground: polygon rings, paint layer (low first), style name.

    tone is a brightness factor near 1, angle the direction of its rows in radians.
    """

    rings: tuple[FloatArray, ...]
    layer: int
    style: str
    tone: float = 1.0
    angle: float = 0.0


@dataclass(frozen=True)
class Building:
    """A building: counter-clockwise footprint, walls up to eaves_m, then a roof of rise_m.

    roof is 'flat', 'gabled' (four corners, ridge along edge 0) or 'pyramidal' (four
    corners). Colours are RGB in 0-255. style picks the windows.
    """

    ring: FloatArray
    hole: FloatArray | None
    eaves_m: float
    rise_m: float
    roof: str
    roof_rgb: tuple[int, int, int]
    wall_rgb: tuple[int, int, int]
    style: str
    levels: int
    osm_id: int
    material: str = "tiles"  # of the roof, one of ROOF_SEAMS


@dataclass
class Block:
    """Everything in block (i, j).

    trees is (n, 5): x, y, crown radius m, height m, hue 0-1; cars is (n, 4): x, y,
    direction in radians, colour number; posts is (n, 4): x, y,
    height m, kind (0-2: lamps, 3: a sign). bounds encloses all of it (xmin, ymin, xmax, ymax).
    """

    i: int
    j: int
    kind: str
    node_ids: list[int] = field(default_factory=list)
    node_xy: list[tuple[float, float]] = field(default_factory=list)
    node_tags: dict[int, Tags] = field(default_factory=dict)
    ways: list[Way] = field(default_factory=list)
    relations: list[Relation] = field(default_factory=list)
    surfaces: list[Surface] = field(default_factory=list)
    buildings: list[Building] = field(default_factory=list)
    trees: FloatArray = field(default_factory=lambda: np.empty((0, 5)))
    cars: FloatArray = field(default_factory=lambda: np.empty((0, 4)))
    posts: FloatArray = field(default_factory=lambda: np.empty((0, 4)))
    bounds: Bounds = (0.0, 0.0, 0.0, 0.0)
    cache: dict[str, Any] = field(default_factory=dict)


class Builder:
    """Collects the content of one block. (s, t) in 0..1 are coordinates across the block."""

    def __init__(self, plan: Plan, i: int, j: int) -> None:
        self.plan, self.i, self.j = plan, i, j
        self.block = Block(i, j, plan.kind(i, j))
        self.rng = np.random.default_rng([plan.seed, 200, i & 0xFFFF, j & 0xFFFF])
        u, v = plan.line(0, i), plan.line(1, j)
        self.du, self.dv = plan.line(0, i + 1) - u, plan.line(1, j + 1) - v
        self._corner, self._axes = (u, v), np.diag([self.du, self.dv])
        self._next_node = itertools.count(self.base(i, j) + _FIRST_LOCAL)
        self._at: dict[tuple[int, int], int] = {}
        self._trees: list[FloatArray] = []
        self._cars: list[tuple[float, float, float, float]] = []
        self.ring = self.lattice_xy(self.outline(i, j, i + 1, j + 1))  # (16, 2) metres, counter-clockwise, not closed

    # -- places -----------------------------------------------------------------------

    def base(self, i: int, j: int) -> int:
        return (self.plan.linear(i, j) + 1) * ID_STRIDE

    def turn(self) -> None:
        """From here on, block coordinates are a quarter turn counter-clockwise."""
        self._corner = (self._corner[0] + self.du, self._corner[1])
        self._axes = np.array([(0.0, self.dv), (-self.du, 0.0)])
        self.du, self.dv = self.dv, self.du

    def xy(self, st: Any) -> FloatArray:
        """(n, 2) block coordinates -> (n, 2) metres."""
        return self.plan.warp(np.reshape(np.asarray(st, np.float64), (-1, 2)) @ self._axes + self._corner)

    def heading(self, s: float, t: float, axis: int = 0) -> float:
        """Direction in radians (counter-clockwise from east) of the block's s or t axis at a place."""
        step = np.array([(-0.02, 0.0), (0.02, 0.0)])[:, :: -1 if axis else 1]
        d = np.diff(self.xy(np.add(step, (s, t))), axis=0)[0]
        return math.atan2(d[1], d[0])

    def lattice_uv(self, ref: Ref) -> tuple[float, float]:
        i, j, k = ref
        u, v = self.plan.line(0, i), self.plan.line(1, j)
        if 1 <= k <= 3:
            cell, a, _ = self.plan.locate(i, j)
            fractions = RAIL_FRACTIONS if a == cell.rail else EDGE_FRACTIONS
            u += fractions[k - 1] * (self.plan.line(0, i + 1) - u)
        elif k >= 4:
            v += EDGE_FRACTIONS[k - 4] * (self.plan.line(1, j + 1) - v)
        return u, v

    def lattice_xy(self, refs: list[Ref]) -> FloatArray:
        """(n, 2) metres; from here on `node` knows these nodes by their places."""
        xy = self.plan.warp(np.array([self.lattice_uv(r) for r in refs]))
        self._at.update(zip(map(_centimetres, xy[:, 0], xy[:, 1]), map(self.lattice_id, refs), strict=True))
        return xy

    def lattice_id(self, ref: Ref) -> int:
        return self.base(ref[0], ref[1]) + ref[2]

    def edge(self, axis: int, i: int, j: int) -> list[Ref]:
        """The five lattice nodes of the edge from vertex (i, j) eastward (axis 0) or northward (axis 1)."""
        inner = [(i, j, k) for k in ((0, 1, 2, 3) if axis == 0 else (0, 4, 5, 6))]
        return [*inner, (i + 1, j, 0) if axis == 0 else (i, j + 1, 0)]

    def outline(self, i0: int, j0: int, i1: int, j1: int) -> list[Ref]:
        """Lattice nodes around blocks [i0, i1) x [j0, j1), counter-clockwise, not closed."""
        south, north = ([r for i in range(i0, i1) for r in self.edge(0, i, j)[:-1]] for j in (j0, j1))
        west, east = ([r for j in range(j0, j1) for r in self.edge(1, i, j)[:-1]] for i in (i0, i1))
        return south + east + [(i1, j1, 0)] + north[:0:-1] + [(i0, j1, 0)] + west[:0:-1]

    def rect(self, s0: float, t0: float, s1: float, t1: float, parts: int = 1) -> FloatArray:
        """A quadrangle in block coordinates: metres, counter-clockwise, each side in equal parts."""
        corners = np.array([(s0, t0), (s1, t0), (s1, t1), (s0, t1)])
        sides = np.roll(corners, -1, axis=0) - corners
        return self.xy(corners[:, None] + sides[:, None] * (np.arange(parts) / parts)[:, None])

    # -- map objects ------------------------------------------------------------------

    def node(self, at: Any, tags: Tags | None = None, *, own: bool = False) -> int:
        """The id of the node at a place; a new one with own=True even where one is already."""
        x, y = at
        key = _centimetres(x, y)
        found = None if own else self._at.get(key)
        if found is None:
            found = next(self._next_node)
            self.block.node_ids.append(found)
            self.block.node_xy.append((float(x), float(y)))
            if not own:
                self._at[key] = found
        if tags:
            self.block.node_tags.setdefault(found, {}).update(tags)
        return found

    def nodes(self, xy: FloatArray) -> list[int]:
        return [self.node(at) for at in xy]

    def way(self, refs: list[int], tags: Tags) -> int:
        way = Way(self.base(self.i, self.j) + len(self.block.ways), tuple(refs), tags)
        self.block.ways.append(way)
        return way.id

    def relation(self, members: list[tuple[str, int, str]], tags: Tags) -> int:
        number = self.base(self.i, self.j) + len(self.block.relations)
        self.block.relations.append(Relation(number, tuple(members), tags))
        return number

    def area(self, xy: FloatArray, tags: Tags) -> int:
        """A closed way along a ring that is not closed yet."""
        refs = self.nodes(xy)
        return self.way([*refs, refs[0]], tags)

    def multipolygon(self, outer: FloatArray, inners: list[FloatArray], tags: Tags, inner_tags: Tags) -> int:
        ring = self.nodes(outer)
        half = len(ring) // 2
        # The outer ring in two ways: readers have to join them.
        members = [("w", self.way(part, {}), "outer") for part in (ring[: half + 1], [*ring[half:], ring[0]])]
        members += [("w", self.area(inner, inner_tags), "inner") for inner in inners]
        return self.relation(members, {"type": "multipolygon", **tags})

    # -- things -----------------------------------------------------------------------

    def paint(
        self,
        layer: int,
        style: str,
        *rings: FloatArray,
        tone: float | None = None,
        angle: float = 0.0,
        tags: Tags | None = None,
    ) -> None:
        """A surface of the ground; with tags, its outline is an area of the map as well."""
        if tags:
            self.area(rings[0], tags)
        shade = float(self.rng.uniform(0.94, 1.06)) if tone is None else tone
        self.block.surfaces.append(Surface(rings, layer, style, shade, angle))

    def landuse(self, style: str, tags: Tags) -> None:
        """The block's outline as a land use area that shares its nodes with the neighbours."""
        self.paint(LAND, style, self.ring, tags=tags)

    def trees(self, xy: FloatArray, radius: tuple[float, float], mapped: float, hue: float | None = None) -> None:
        """Trees at (n, 2) metres with crown radii from a range; a share of them on the map."""
        n = len(xy)
        if n == 0:
            return
        r = self.rng.uniform(*radius, n)
        h = r * self.rng.uniform(2.0, 2.9, n) + 1.0
        tint = self.rng.uniform(0, 1, n) if hue is None else np.full(n, hue)
        self._trees.append(np.column_stack([xy, r, h, tint]))
        for k in np.flatnonzero(self.rng.random(n) < mapped) if mapped > 0 else ():
            tags = {"natural": "tree"}
            if self.rng.random() < 0.4:
                tags["leaf_type"] = "broadleaved" if tint[k] < 0.7 else "needleleaved"
            self.node(xy[k], tags, own=True)

    def car(self, x: float, y: float, angle: float) -> None:
        self._cars.append((x, y, angle, float(self.rng.integers(0, 8))))

    def finish(self) -> Block:
        block = self.block
        if self._trees:
            block.trees = np.concatenate(self._trees)
        if self._cars:
            block.cars = np.array(self._cars)
        points = [r for s in block.surfaces for r in s.rings[:1]] + [b.ring for b in block.buildings]
        points += [block.trees[:, :2], block.cars[:, :2]]
        block.bounds = bounds_of(np.concatenate(points), 8.0)
        return block


def _centimetres(x: float, y: float) -> tuple[int, int]:
    return round(x * 100), round(y * 100)
