"""A district in the making: what is there, as blocks to be painted, and what a map may say of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import shapely

from pipeline.demo.geo import FloatArray, bounds_of
from pipeline.demo.town.block import Block, Building, Surface, Tags
from pipeline.demo.world.settings import WorldSettings

LEVEL_M = 3.0
_ROOF_RGB = {"tiles": (156, 88, 64), "metal": (150, 156, 164), "slate": (86, 86, 92), "gravel": (164, 160, 150)}
_WALLS = ((236, 228, 212), (226, 206, 172), (214, 186, 160), (206, 196, 184), (188, 200, 190), (200, 160, 140))


@dataclass
class Draft:
    """Blocks, and map objects as (coordinates, tags): areas are rings that are not closed."""

    settings: WorldSettings
    rng: np.random.Generator
    number: int  # of the district
    blocks: list[Block] = field(default_factory=list)
    areas: list[tuple[FloatArray, Tags]] = field(default_factory=list)
    lines: list[tuple[FloatArray, Tags]] = field(default_factory=list)
    points: list[tuple[FloatArray, Tags]] = field(default_factory=list)

    def block(self, kind: str) -> Block:
        """A new block."""
        block = Block(self.number, len(self.blocks), kind)
        self.blocks.append(block)
        return block

    def paint(
        self, block: Block, layer: int, style: str, *rings: FloatArray, tone: float = 1.0, angle: float = 0.0
    ) -> None:
        """A surface of the ground."""
        block.surfaces.append(Surface(rings, layer, style, tone, angle))

    def paint_shape(
        self, block: Block, layer: int, style: str, shape: Any, tone: float = 1.0, angle: float = 0.0
    ) -> None:
        """Surfaces of a polygon or several."""
        for part in shapely.get_parts(shape):
            if shapely.get_type_id(part) == 3 and not part.is_empty:
                self.paint(block, layer, style, *rings_of(part), tone=tone, angle=angle)

    def trees(self, block: Block, xy: FloatArray, radius: tuple[float, float], hue: float | None = None) -> None:
        """Trees at (n, 2) places; hue None: of all kinds."""
        n = len(xy)
        r = self.rng.uniform(*radius, n)
        high = r * self.rng.uniform(2.0, 2.9, n) + 1.0
        tint = self.rng.uniform(0, 1, n) if hue is None else np.clip(hue + self.rng.normal(0, 0.05, n), 0, 1)
        block.trees = np.concatenate([block.trees, np.column_stack([xy, r, high, tint])])

    def cars(self, block: Block, xy: FloatArray, angle: Any) -> None:
        """Cars at (n, 2) places."""
        turn = np.broadcast_to(angle, len(xy)) + self.rng.normal(0, 0.02, len(xy))
        block.cars = np.concatenate([block.cars, np.column_stack([xy, turn, self.rng.integers(0, 8, len(xy))])])

    def building(
        self,
        block: Block,
        ring: FloatArray,
        levels: int,
        roof: str,
        material: str,
        facade: str,
        tags: Tags | None,
        *,
        eaves: float | None = None,
        rise: float | None = None,
    ) -> None:
        """A building, and on the map what its tags say unless it is unmapped; tags None: never on the map."""
        short = float(np.hypot(*np.diff(ring[:3], axis=0).T).min())
        up = 0.0 if roof == "flat" else min(short * float(self.rng.uniform(0.28, 0.45)), 7.0) if rise is None else rise
        high = levels * LEVEL_M + 0.6 if eaves is None else eaves
        rgb = tuple(int(v) for v in np.clip(np.array(_ROOF_RGB[material]) + self.rng.normal(0, 12, 3), 20, 235))
        wall = tuple(int(v) for v in _WALLS[int(self.rng.integers(len(_WALLS)))])
        block.buildings.append(
            Building(ring, None, high, up, roof, rgb, wall, facade, levels, 0, material)  # type: ignore[arg-type]
        )
        if tags is not None and self.rng.random() >= self.settings.unmapped:
            known = {"building:levels": str(levels), "roof:shape": roof}
            said = {key: value for key, value in known.items() if self.rng.random() < self.settings.tagged}
            self.areas.append((ring, tags | said))

    def gone(self, ring: FloatArray, tags: Tags) -> None:
        """A building that the map has and the world has no more."""
        self.areas.append((ring, tags))

    def finish(self) -> list[Block]:
        """The blocks, with their bounds; empty ones are left out."""
        found = []
        for block in self.blocks:
            points = [s.rings[0] for s in block.surfaces] + [b.ring for b in block.buildings]
            points += [block.trees[:, :2], block.cars[:, :2], block.posts[:, :2]]
            xy = np.concatenate(points)
            if len(xy):
                block.bounds = bounds_of(xy, 8.0)
                found.append(block)
        return found


def rings_of(polygon: Any) -> list[FloatArray]:
    """Rings of a polygon, not closed, the outer one first and counter-clockwise."""
    oriented = shapely.orient_polygons(polygon) if hasattr(shapely, "orient_polygons") else shapely.normalize(polygon)
    rings = [shapely.get_exterior_ring(oriented), *(oriented.interiors)]
    return [shapely.get_coordinates(r)[:-1] for r in rings]


def scatter(rng: np.random.Generator, shape: Any, per_m2: float) -> FloatArray:
    """(n, 2) places by chance in a shape."""
    x0, y0, x1, y1 = shapely.bounds(shape)
    if not np.isfinite(x0):
        return np.empty((0, 2))
    xy = rng.uniform((x0, y0), (x1, y1), (int(rng.poisson((x1 - x0) * (y1 - y0) * per_m2)), 2))
    shapely.prepare(shape)
    return np.asarray(xy[shapely.contains_xy(shape, xy[:, 0], xy[:, 1])])
