"""One district, whole: blocks to be painted, map objects, streets, and what labels need."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import shapely

from pipeline.demo.geo import Bounds, FloatArray, grown, overlaps
from pipeline.demo.town.block import ROOF_SEAMS, Block, Tags
from pipeline.demo.town.streets import along, length_of
from pipeline.demo.world.draft import Draft
from pipeline.demo.world.land import use_land
from pipeline.demo.world.plan import Plan
from pipeline.demo.world.roads import lay
from pipeline.demo.world.settings import BUILT
from pipeline.demo.world.streets import Street, network

MATERIALS = tuple(ROOF_SEAMS)
_KEPT = 40  # districts in memory
_LEAST_M2 = 120.0  # smaller pieces of land stay bare


@dataclass(frozen=True)
class Facts:
    """What labels are made of."""

    buildings: FloatArray  # (n, 5): x, y, m2, height m, number of the roof's material in MATERIALS
    trees: FloatArray  # (n, 2): x, y
    traffic: FloatArray  # (n, 3): x, y, vehicles a day, every 10 m of street


@dataclass(frozen=True)
class District:
    """District (i, j). Map objects are (coordinates in metres, tags)."""

    i: int
    j: int
    kind: str
    blocks: list[Block]
    streets: list[Street]
    areas: list[tuple[FloatArray, Tags]]  # rings, not closed
    lines: list[tuple[FloatArray, Tags]]
    points: list[tuple[FloatArray, Tags]]
    facts: Facts


def make_district(plan: Plan, i: int, j: int) -> District:
    """A function of the settings and the district's number alone."""
    net = network(plan, i, j)
    kind = plan.kind(i, j)
    draft = Draft(plan.settings, plan.rng(9, i, j), i + j * plan.extent[0])
    streets = [_level(plan, s) for s in net.streets]
    lines = [shapely.linestrings(s.line) for s in streets]
    tree = shapely.STRtree(lines)
    bands = shapely.union_all([shapely.buffer(line, s.wide + 0.3) for line, s in zip(lines, streets, strict=True)])
    for land in shapely.get_parts(shapely.difference(net.cell, bands)):
        if shapely.area(land) > _LEAST_M2:
            use_land(draft, land, streets, tree, kind)
    own = [s for s in streets if s.lattice is None or _owner(plan, s.lattice) == (i, j)]
    for street in own:
        lay(draft, street, tree, mapped=True)
    blocks = draft.finish()
    return District(i, j, kind, blocks, own, draft.areas, draft.lines, draft.points, _facts(blocks, own))


def _owner(plan: Plan, edge: tuple[int, int, int]) -> tuple[int, int]:
    """The district that paints and maps an edge of the lattice."""
    _, i, j = edge
    return min(i, plan.extent[0] - 1), min(j, plan.extent[1] - 1)


def _level(plan: Plan, street: Street) -> Street:
    """A lattice road has pavements of one width, whichever district asks."""
    if street.lattice is None:
        return street
    axis, i, j = street.lattice
    built = any(plan.kind(*d) in BUILT for d in ((i, j), (i, j - 1) if axis == 0 else (i - 1, j)))
    walk = float(plan.rng(10 + axis, i, j).uniform(1.4, 3.2)) if built else 0.0
    return replace(street, character=replace(street.character, walk=walk))


def _facts(blocks: list[Block], streets: list[Street]) -> Facts:
    houses = [b for block in blocks for b in block.buildings if b.style != "hedge"]
    areas = shapely.area(shapely.polygons(np.array([b.ring for b in houses]).reshape(-1, 4, 2)))
    rows = [
        (*b.ring.mean(axis=0), area, b.eaves_m + b.rise_m, MATERIALS.index(b.material))
        for b, area in zip(houses, areas.tolist(), strict=True)
    ]
    steps = []
    for s in streets:
        xy, _ = along(s.line, np.arange(0.0, length_of(s.line), 10.0))
        steps.append(np.column_stack([xy, np.full(len(xy), s.character.traffic)]))
    trees = np.concatenate([np.empty((0, 2)), *(block.trees[:, :2] for block in blocks)])
    return Facts(np.array(rows).reshape(-1, 5), trees, np.concatenate([np.empty((0, 3)), *steps]))


class World:
    """Districts of a plan, made on demand; a bounded number of them is kept."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        make: Callable[[int, int], District] = lru_cache(maxsize=_KEPT)(lambda i, j: make_district(plan, i, j))
        self.district = make

    def blocks_in(self, bounds: Bounds) -> list[Block]:
        """Blocks that may show in a box, in the order of their districts."""
        districts = [self.district(i, j) for i, j in self.plan.near(grown(bounds, 30.0))]
        return [block for d in districts for block in d.blocks if overlaps(block.bounds, bounds)]
