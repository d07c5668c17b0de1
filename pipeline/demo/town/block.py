"""One block of the demo world, as map objects and as things to paint.

A `Block` holds what OpenStreetMap knows of a block (nodes, ways, relations) and what is
really there (surfaces, buildings, trees, cars). The two differ by the named rates below,
as they do in reality. Coordinates are metres from `Region.origin` (x east, y north).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pipeline.demo.geo import FloatArray
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
ID_STRIDE = 20_000  # ids reserved for one block, for each object type
_FIRST_LOCAL = 8  # 0: lattice vertex, 1-3: east edge, 4-6: north edge

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


@dataclass
class Block:
    """Everything in block (i, j).

    trees is (n, 5): x, y, crown radius m, height m, hue 0-1; cars is (n, 4): x, y,
    direction in radians, colour number. bounds encloses all of it (xmin, ymin, xmax, ymax).
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
    bounds: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)
    cache: dict[str, Any] = field(default_factory=dict)


class Builder:
    """Collects the content of one block. (s, t) in 0..1 are coordinates across the block."""

    def __init__(self, plan: Plan, i: int, j: int) -> None:
        self.plan, self.i, self.j = plan, i, j
        self.block = Block(i, j, plan.kind(i, j))
        self.rng = np.random.default_rng([plan.seed, 200, i & 0xFFFF, j & 0xFFFF])
        self.u0, self.v0 = plan.line(0, i), plan.line(1, j)
        self.du, self.dv = plan.line(0, i + 1) - self.u0, plan.line(1, j + 1) - self.v0
        self._base = self.base(i, j)
        self._next_node = _FIRST_LOCAL
        self.turned = False
        self._next_way = 0
        self._next_relation = 0
        self._at: dict[tuple[int, int], int] = {}
        self._trees: list[FloatArray] = []
        self._cars: list[tuple[float, float, float, float]] = []

    # -- places -----------------------------------------------------------------------

    def base(self, i: int, j: int) -> int:
        return (self.plan.linear(i, j) + 1) * ID_STRIDE

    def turn(self) -> None:
        """From here on, block coordinates are a quarter turn counter-clockwise."""
        self.turned = True
        self.du, self.dv = self.dv, self.du

    def xy(self, st: Any) -> FloatArray:
        """(n, 2) block coordinates -> (n, 2) metres."""
        st = np.asarray(st, dtype=np.float64).reshape(-1, 2)
        if self.turned:
            st = np.column_stack([1.0 - st[:, 1], st[:, 0]])
            return self.plan.warp(st * (self.dv, self.du) + (self.u0, self.v0))
        return self.plan.warp(st * (self.du, self.dv) + (self.u0, self.v0))

    def heading(self, st: Any, axis: int) -> FloatArray:
        """Directions in radians (counter-clockwise from east) of the block's s or t axis."""
        st = np.asarray(st, dtype=np.float64).reshape(-1, 2)
        step = np.zeros(2)
        step[axis] = 0.02
        d = self.xy(st + step) - self.xy(st - step)
        return np.arctan2(d[:, 1], d[:, 0])

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
        return self.plan.warp(np.array([self.lattice_uv(r) for r in refs]))

    def lattice_id(self, ref: Ref) -> int:
        return self.base(ref[0], ref[1]) + ref[2]

    def outline(self, i0: int, j0: int, i1: int, j1: int) -> list[Ref]:
        """Lattice nodes around blocks [i0, i1) x [j0, j1), counter-clockwise, not closed."""
        south = [(i, j0, k) for i in range(i0, i1) for k in range(4)]
        east = [(i1, j, k) for j in range(j0, j1) for k in (0, 4, 5, 6)]
        north = [(i, j1, k) for i in range(i0, i1) for k in range(4)]
        west = [(i0, j, k) for j in range(j0, j1) for k in (0, 4, 5, 6)]
        return south + east + [(i1, j1, 0)] + north[:0:-1] + [(i0, j1, 0)] + west[:0:-1]

    def inset(self, metres: float) -> FloatArray:
        """The block's quadrangle pulled in by a distance: (n, 2) ring, not closed."""
        s, t = metres / self.du, metres / self.dv
        n = np.linspace(0, 1, 5)[:-1]
        side = s + n * (1 - 2 * s)
        up = t + n * (1 - 2 * t)
        ones = np.ones(4)
        return self.xy(
            np.concatenate(
                [
                    np.column_stack([side, ones * t]),
                    np.column_stack([ones * (1 - s), up]),
                    np.column_stack([1 - side, ones * (1 - t)]),
                    np.column_stack([ones * s, 1 - up]),
                ]
            )
        )

    def rect(self, s0: float, t0: float, s1: float, t1: float) -> FloatArray:
        """A quadrangle in block coordinates: (4, 2) metres, counter-clockwise."""
        return self.xy([(s0, t0), (s1, t0), (s1, t1), (s0, t1)])

    # -- map objects ------------------------------------------------------------------

    def node(self, x: float, y: float, tags: Tags | None = None, *, own: bool = False) -> int:
        """The id of the node at a place; a new one with own=True even where one is already."""
        key = (round(x * 100), round(y * 100))
        found = None if own else self._at.get(key)
        if found is None:
            found = self._base + self._next_node
            self._next_node += 1
            self.block.node_ids.append(found)
            self.block.node_xy.append((float(x), float(y)))
            if not own:
                self._at[key] = found
        if tags:
            self.block.node_tags.setdefault(found, {}).update(tags)
        return found

    def register(self, node: int, x: float, y: float) -> None:
        """Make an existing node the one at its place."""
        self._at[round(x * 100), round(y * 100)] = node

    def nodes(self, xy: FloatArray) -> list[int]:
        return [self.node(x, y) for x, y in xy]

    def way(self, refs: list[int], tags: Tags) -> int:
        way = Way(self._base + self._next_way, tuple(refs), tags)
        self._next_way += 1
        self.block.ways.append(way)
        return way.id

    def relation(self, members: list[tuple[str, int, str]], tags: Tags) -> int:
        relation = Relation(self._base + self._next_relation, tuple(members), tags)
        self._next_relation += 1
        self.block.relations.append(relation)
        return relation.id

    def area(self, xy: FloatArray, tags: Tags) -> int:
        """A closed way along a ring that is not closed yet."""
        refs = self.nodes(xy)
        return self.way([*refs, refs[0]], tags)

    def multipolygon(self, outer: FloatArray, inners: list[FloatArray], tags: Tags) -> int:
        ring = self.nodes(outer)
        half = len(ring) // 2
        # The outer ring in two ways: readers have to join them.
        members = [
            ("w", self.way(ring[: half + 1], {}), "outer"),
            ("w", self.way([*ring[half:], ring[0]], {}), "outer"),
        ]
        members += [("w", self.area(inner, {}), "inner") for inner in inners]
        return self.relation(members, {"type": "multipolygon", **tags})

    # -- things -----------------------------------------------------------------------

    def paint(self, layer: int, style: str, *rings: FloatArray, tone: float | None = None, angle: float = 0.0) -> None:
        shade = float(self.rng.uniform(0.94, 1.06)) if tone is None else tone
        self.block.surfaces.append(Surface(tuple(rings), layer, style, shade, angle))

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
            self.node(xy[k, 0], xy[k, 1], tags, own=True)

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
        every = np.concatenate(points)
        lo, hi = every.min(axis=0) - 8.0, every.max(axis=0) + 8.0
        block.bounds = (float(lo[0]), float(lo[1]), float(hi[0]), float(hi[1]))
        return block
