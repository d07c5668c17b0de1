"""Town plan: a warped street lattice with a land use per block, as pure functions of the seed.

The plan is a lattice of blocks (i, j), about 190 m a side, grouped in town cells of
20 x 20 blocks (3.6 km). Lattice lines are straight in plan coordinates (u, v) and bent by a
smooth warp into world metres. Everything about a block follows from (seed, i, j), so that
any part of a region of any size can be made on its own, in any order.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np

from pipeline.demo.geo import TILES_PER_SIDE, FloatArray, Region, region_for

CELL = 20  # blocks along one side of a town cell
CELL_M = 3600.0  # metres along one side of a town cell
RAIL_STRIP_M = 40.0
RIVER_STRIP_M = 46.0
EMBANKMENT_M = 26.0
MARGIN_M = 80.0  # the world goes on this far beyond the region's box

# Nodes of a lattice edge between its end vertices, as fractions of its length.
EDGE_FRACTIONS = (0.25, 0.5, 0.75)
RAIL_FRACTIONS = (0.4, 0.5, 0.6)  # across the rail strip: where the tracks run

BUILT = frozenset(
    [
        "centre",
        "plaza",
        "apartments",
        "residential",
        "industrial",
        "school",
        "station",
        "cemetery",
        "allotments",
        "park",
        "sports",
    ]
)


@dataclass(frozen=True)
class CellPlan:
    """Where the landmarks of one town cell lie, as block indices within the cell."""

    rail: int  # column of the railway strip
    river: int  # row of the river strip
    primary: int  # vertical line of the main road
    secondary: int  # horizontal line of the cross road
    size: float  # size of the town: 1 is a radius of about 7 blocks
    special: dict[tuple[int, int], str]


def _hash01(*key: int) -> float:
    """A uniform number in [0, 1) from integers (negative ones allowed)."""
    h = 0xCBF29CE484222325
    for k in key:
        h = ((h ^ (k & 0xFFFFFFFF)) * 0x100000001B3) & 0xFFFFFFFFFFFFFFFF
        h ^= h >> 29
        h = (h * 0xBF58476D1CE4E5B9) & 0xFFFFFFFFFFFFFFFF
        h ^= h >> 32
    return h / 2.0**64


class Plan:
    """The plan of the whole region. Coordinates are metres from `region.origin`."""

    def __init__(self, seed: int = 7, scale: int = 1, side_tiles: float | None = None) -> None:
        self.seed = int(seed)
        self.side_tiles = TILES_PER_SIDE * math.sqrt(scale) if side_tiles is None else float(side_tiles)
        self.region: Region = region_for(self.side_tiles)
        # A small region shows the middle of town cell (0, 0), a large one starts at its corner.
        self.shift = max(0.0, (CELL_M - self.region.size[0]) / 2)
        rng = np.random.default_rng([self.seed, 101])
        waves = 6
        wavelength = rng.uniform(800.0, 3000.0, size=(2, waves))
        direction = rng.uniform(0, 2 * np.pi, size=(2, waves))
        phase = rng.uniform(0, 2 * np.pi, size=(2, waves))
        k = 2 * np.pi / wavelength
        # The slope of each wave is held at 0.11, so that the sum stays invertible.
        self._waves = (k * np.cos(direction), k * np.sin(direction), phase, 0.11 / k)
        self._bend = float(phase[0, 0])
        self._lines: dict[tuple[int, int], FloatArray] = {}

    # -- geometry ---------------------------------------------------------------------

    def warp(self, uv: FloatArray) -> FloatArray:
        """(n, 2) plan coordinates -> (n, 2) metres from the region's origin. Smooth, one to one."""
        ku, kv, phase, height = self._waves
        u, v = uv[:, 0], uv[:, 1]
        waves = np.sin(u[:, None, None] * ku + v[:, None, None] * kv + phase) * height
        out = uv - self.shift + waves.sum(axis=2)
        # The river's wide bends: a shear, which cannot fold the plane.
        k = 2 * np.pi / 3300.0
        out[:, 1] += 0.24 / k * np.sin(k * uv[:, 0] + self._bend)
        return out

    def line(self, axis: int, index: int) -> float:
        """Plan coordinate of lattice line `index` (axis 0: u of a vertical line, 1: v)."""
        cell, local = divmod(index, CELL)
        key = (axis, cell)
        if key not in self._lines:
            strips = {self.rail_column(cell): RAIL_STRIP_M}
            if axis == 1:
                r = self.river_row(cell)
                strips = {r - 1: EMBANKMENT_M, r: RIVER_STRIP_M, r + 1: EMBANKMENT_M}
            rng = np.random.default_rng([self.seed, 102, axis, cell & 0xFFFF])
            width = rng.uniform(0.85, 1.15, CELL)
            free = np.array([n not in strips for n in range(CELL)])
            width[free] *= (CELL_M - sum(strips.values())) / width[free].sum()
            for n, w in strips.items():
                width[n] = w
            self._lines[key] = np.concatenate([[0.0], np.cumsum(width)]) + cell * CELL_M
        return float(self._lines[key][local])

    @cached_property
    def extent(self) -> tuple[tuple[int, int], tuple[int, int]]:
        """Half-open block index ranges ((i0, i1), (j0, j1)) that cover the box and its margin."""
        spans: list[tuple[int, int]] = []
        for axis in range(2):
            length = self.region.size[axis]
            along = np.linspace(-600.0, max(self.region.size) + 600.0, 400) + self.shift
            lo, hi = 0, 1
            guess = int(self.shift // 190)
            lo = guess + 4
            while self._edge(axis, lo, along).max() > -MARGIN_M:
                lo -= 1
            hi = guess
            while self._edge(axis, hi, along).min() < length + MARGIN_M:
                hi += 1
            spans.append((lo, hi))
        return spans[0], spans[1]

    def _edge(self, axis: int, index: int, along: FloatArray) -> FloatArray:
        uv = np.empty((len(along), 2))
        uv[:, axis] = self.line(axis, index)
        uv[:, 1 - axis] = along
        return self.warp(uv)[:, axis]

    def index_range(self) -> list[tuple[int, int]]:
        """All blocks of the region in file order."""
        (i0, i1), (j0, j1) = self.extent
        return [(i, j) for j in range(j0, j1) for i in range(i0, i1)]

    def linear(self, i: int, j: int) -> int:
        """Rank of a lattice vertex; one more column and row than blocks."""
        (i0, i1), (j0, _) = self.extent
        return (j - j0) * (i1 - i0 + 1) + (i - i0)

    # -- land use ---------------------------------------------------------------------

    def rail_column(self, ci: int) -> int:
        return 12 + int(_hash01(self.seed, 1, ci) * 3)

    def river_row(self, cj: int) -> int:
        return 5 + int(_hash01(self.seed, 2, cj) * 3)

    def cell(self, ci: int, cj: int) -> CellPlan:
        return _cell_plan(self.seed, ci, cj, self.rail_column(ci), self.river_row(cj))

    def locate(self, i: int, j: int) -> tuple[CellPlan, int, int]:
        """The town cell of a block and the block's place in it."""
        (ci, a), (cj, b) = divmod(i, CELL), divmod(j, CELL)
        return self.cell(ci, cj), a, b

    def kind(self, i: int, j: int) -> str:
        """Land use of block (i, j)."""
        cell, a, b = self.locate(i, j)
        if b == cell.river:
            return "river"
        if a == cell.rail:
            return "rail"
        if b in (cell.river - 1, cell.river + 1):
            return "embankment"
        special = cell.special.get((a, b))
        if special in ("forest", "lake") and self.superblock(i, j) is None:
            return "wood" if special == "forest" else "meadow"
        if special is not None:
            return special
        d = math.hypot(a + 0.5 - cell.primary, b + 0.5 - cell.secondary) / cell.size
        d += 1.6 * (_hash01(self.seed, 3, i, j) - 0.5)
        h = _hash01(self.seed, 4, i, j)
        if d < 2.2:
            return "centre"
        if d < 4.5:
            return "apartments" if h < 0.3 else "residential"
        if d < 7.0:
            return "residential" if h > 0.16 else ("apartments" if h < 0.08 else "meadow")
        for name, share in (
            ("farmland", 0.55),
            ("meadow", 0.71),
            ("orchard", 0.80),
            ("vineyard", 0.87),
            ("wood", 0.95),
        ):
            if h < share:
                return name
        return "farm"

    def superblock(self, i: int, j: int) -> tuple[str, int, int, int] | None:
        """(kind, i0, j0, side) of the merged forest or lake that block (i, j) is part of.

        One that reaches beyond the region's blocks is not merged: its outline would be cut.
        """
        (i0, i1), (j0, j1) = self.extent
        cell, a, b = self.locate(i, j)
        kind = cell.special.get((a, b), "")
        if kind not in ("forest", "lake"):
            return None
        for name, a0, b0, n in _SUPERBLOCKS:
            if name == kind and a0 <= a < a0 + n and b0 <= b < b0 + n:
                left, low = i - a + a0, j - b + b0
                whole = i0 <= left and left + n <= i1 and j0 <= low and low + n <= j1
                return (kind, left, low, n) if whole else None
        return None

    # -- streets ----------------------------------------------------------------------

    def street(self, axis: int, i: int, j: int) -> str | None:
        """highway=* of the lattice edge from vertex (i, j) eastward (axis 0) or northward (axis 1)."""
        (i0, i1), (j0, j1) = self.extent
        if not (i0 <= i < i1 and j0 <= j < j1):
            return None
        return self._street_north(i, j) if axis == 1 else self._street_east(i, j)

    def _street_north(self, i: int, j: int) -> str | None:
        cell, a, b = self.locate(i, j)
        if a == cell.primary:
            return "primary"
        if a in (3, 17):
            return "tertiary"
        if cell.river - 1 <= b <= cell.river + 1:
            return "footway" if a == cell.primary - 3 else None
        return self._local_street(self.kind(i - 1, j), self.kind(i, j), (i - 1, j), (i, j), 5)

    def _street_east(self, i: int, j: int) -> str | None:
        cell, a, b = self.locate(i, j)
        if b == cell.secondary:
            return "secondary"
        if b in (3, 15):
            return "tertiary"
        if a == cell.rail or b in (cell.river, cell.river + 1):
            return None
        south, north = self.kind(i, j - 1), self.kind(i, j)
        if "embankment" in (south, north):
            return "residential" if BUILT & {south, north} else "track"
        return self._local_street(south, north, (i, j - 1), (i, j), 6)

    def _local_street(
        self, one: str, two: str, first: tuple[int, int], second: tuple[int, int], salt: int
    ) -> str | None:
        inside = self.superblock(*first)
        if inside is not None and inside == self.superblock(*second):
            return None
        if one in BUILT or two in BUILT:
            return "residential"
        if "farm" in (one, two):
            return "unclassified"
        return "track" if _hash01(self.seed, salt, *second) < 0.35 else None


_SUPERBLOCKS = (("forest", 0, 0, 3), ("forest", 16, 16, 3), ("forest", 5, 17, 3), ("lake", 1, 12, 2))


@lru_cache(maxsize=4096)
def _cell_plan(seed: int, ci: int, cj: int, rail: int, river: int) -> CellPlan:
    rng = np.random.default_rng([seed, 103, ci & 0xFFFF, cj & 0xFFFF])
    primary = 8 + int(_hash01(seed, 7, ci) * 3)
    secondary = 10 + int(_hash01(seed, 8, cj) * 3)
    size = 1.0 if (ci, cj) == (0, 0) else float(rng.uniform(0.45, 1.15))
    special: dict[tuple[int, int], str] = {}
    for name, a0, b0, n in _SUPERBLOCKS:
        special.update({(a, b): name for a in range(a0, a0 + n) for b in range(b0, b0 + n)})
    special[17, 1] = "oddities"
    special[primary, secondary] = "plaza"
    special[rail - 1, secondary] = "station"
    works = [(a, b) for a in range(rail + 1, min(rail + 4, 18)) for b in range(secondary - 2, secondary + 3)]
    special.update(dict.fromkeys(works[: int(6 + 9 * size)], "industrial"))
    wishes = [("park", 2.8), ("park", 3.6), ("school", 3.0), ("school", 4.6), ("cemetery", 5.4)]
    wishes += [("allotments", 5.8), ("allotments", 6.2), ("sports", 5.2), ("farm", 7.6), ("farm", 8.2)]
    for name, radius in wishes:
        for _ in range(50):
            angle = rng.uniform(0, 2 * math.pi)
            a = int(primary + radius * size * math.cos(angle))
            b = int(secondary + radius * size * math.sin(angle))
            strip = a == rail or abs(b - river) <= 1
            if 0 <= a < CELL and 0 <= b < CELL and not strip and (a, b) not in special:
                special[a, b] = name
                break
    return CellPlan(rail, river, primary, secondary, size, special)
