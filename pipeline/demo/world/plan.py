"""Where the world lies, its lattice of main roads, and which kind of district lies between them. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
from numpy.typing import NDArray

from geometry.tiles import lonlat_to_tile, tile_to_lonlat
from pipeline.demo.geo import CENTRE_LAT, CENTRE_LON, TILE_ZOOM, Bounds, FloatArray
from pipeline.demo.world.settings import WorldSettings

SHEET_TILES = 4  # tiles a side of an aerial sheet
DISTRICT_M = 640.0
_EDGE_M = 80.0  # the lattice goes on this far beyond the tiles
_JITTER_M = 60.0
_BULGE_M = 22.0
_EARTH_M = 40_075_016.685578488
GATES = (0.25, 0.5, 0.75)  # shares of an edge near which streets may join it
_TOWN = 5  # districts between towns
# Shares of districts in the open country.
_COUNTRY = (("village", 0.2), ("fields", 0.42), ("forest", 0.26), ("lake", 0.12))


@dataclass(frozen=True)
class Plan:
    """A world's geography. Places are metres from the south-west corner in a Mercator plane of true scale there."""

    settings: WorldSettings

    # -- the ground -------------------------------------------------------------------

    @cached_property
    def columns(self) -> int:
        """Tiles from west to east."""
        return math.ceil(math.sqrt(self.settings.tiles))

    @cached_property
    def rows(self) -> int:
        """Tiles from north to south."""
        return math.ceil(self.settings.tiles / self.columns)

    @cached_property
    def corner(self) -> tuple[int, int]:
        """Column and row of the north-western tile, multiples of a sheet's."""
        x, y = lonlat_to_tile(np.array([[CENTRE_LON, CENTRE_LAT]]), TILE_ZOOM)[0].tolist()
        left, top = int(x) - self.columns // 2, int(y) - self.rows // 2
        return left - left % SHEET_TILES, top - top % SHEET_TILES

    @cached_property
    def tile_m(self) -> float:
        """Metres a side of a tile."""
        return _EARTH_M / 2**TILE_ZOOM * math.cos(math.radians(CENTRE_LAT))

    @property
    def size(self) -> tuple[float, float]:
        """Metres from west to east and from south to north."""
        return self.columns * self.tile_m, self.rows * self.tile_m

    def to_lonlat(self, xy: FloatArray) -> FloatArray:
        """(n, 2) metres -> (n, 2) degrees."""
        left, top = self.corner
        tiles = np.column_stack([left + xy[:, 0] / self.tile_m, top + self.rows - xy[:, 1] / self.tile_m])
        return np.asarray(tile_to_lonlat(tiles, TILE_ZOOM))

    def tile_of(self, xy: FloatArray) -> NDArray[np.int64]:
        """(n, 2) metres -> (n, 2) column and row of the tile, counted from the north-western one."""
        return np.floor(np.column_stack([xy[:, 0], self.size[1] - xy[:, 1]]) / self.tile_m).astype(np.int64)

    def inside(self, xy: FloatArray, margin: float = 0.0) -> NDArray[np.bool_]:
        """Which of (n, 2) places lie on the world's tiles, so far from their border."""
        return np.asarray(((xy > margin) & (xy < np.array(self.size) - margin)).all(axis=1))

    # -- the lattice ------------------------------------------------------------------

    @cached_property
    def extent(self) -> tuple[int, int]:
        """Districts from west to east and from south to north."""
        width, height = ((v + 2 * _EDGE_M) / DISTRICT_M for v in self.size)
        return math.ceil(width), math.ceil(height)

    def rng(self, what: int, i: int, j: int, k: int = 0) -> np.random.Generator:
        """Chance for one thing at one place."""
        return np.random.default_rng([self.settings.seed, 500, what, i + 16, j + 16, k])

    def vertex(self, i: int, j: int) -> FloatArray:
        """(2,) metres of a corner of districts."""
        return (
            np.array([i, j]) * DISTRICT_M
            - _EDGE_M
            + self.rng(1, i, j).uniform(-1, 1, 2)
            * (_JITTER_M if 0 < i < self.extent[0] and 0 < j < self.extent[1] else 0)
        )

    @lru_cache(maxsize=256)  # noqa: B019 - a plan lives as long as its process
    def edge(self, axis: int, i: int, j: int) -> FloatArray:
        """(13, 2) metres from vertex (i, j) eastward (axis 0) or northward (1); the gates are 3, 6 and 9."""
        rng = self.rng(2 + axis, i, j)
        a, b = self.vertex(i, j), self.vertex(i + (axis == 0), j + (axis == 1))
        knots = [0.0, *(g + d for g, d in zip(GATES, rng.uniform(-0.05, 0.05, 3), strict=True)), 1.0]
        t = np.interp(np.arange(13), np.arange(0, 13, 3), knots)
        d = b - a
        normal = np.array([-d[1], d[0]]) / np.hypot(*d)
        bend = rng.normal(0, _BULGE_M) * np.sin(np.pi * t) + rng.normal(0, 0.4 * _BULGE_M) * np.sin(2 * np.pi * t)
        return np.round(a + t[:, None] * d + bend[:, None] * normal, 2)

    def road(self, axis: int, i: int, j: int) -> str:
        """Class of the road along an edge."""
        line = j if axis == 0 else i
        sides = (self.kind(i, j), self.kind(i, j - 1) if axis == 0 else self.kind(i - 1, j))
        if line % 4 == 2:
            return "primary"
        if line % 2 == 0:
            return "secondary"
        return "tertiary" if any(s not in ("fields", "forest", "lake") for s in sides) else "unclassified"

    def near(self, bounds: Bounds) -> list[tuple[int, int]]:
        """Districts that may reach into a box, row by row."""
        reach = _JITTER_M + 3 * _BULGE_M
        lo = [math.floor((v - reach + _EDGE_M) / DISTRICT_M) for v in bounds[:2]]
        hi = [math.floor((v + reach + _EDGE_M) / DISTRICT_M) for v in bounds[2:]]
        columns, rows = (range(max(lo[a], 0), min(hi[a], self.extent[a] - 1) + 1) for a in range(2))
        return [(i, j) for j in rows for i in columns]

    def district_at(self, xy: FloatArray) -> tuple[int, int]:
        """The district of a place, as if the lattice were even."""
        i, j = np.floor((xy + _EDGE_M) / DISTRICT_M).astype(int).tolist()
        return min(max(i, 0), self.extent[0] - 1), min(max(j, 0), self.extent[1] - 1)

    # -- kinds ------------------------------------------------------------------------

    @lru_cache(maxsize=4096)  # noqa: B019
    def kind(self, i: int, j: int) -> str:
        """The kind of a district, one of `STYLES`."""
        if self.settings.style != "mixed":
            return self.settings.style
        rng = self.rng(4, i, j)
        a, b = i // _TOWN, j // _TOWN
        towns = [self._town(a + p, b + q) for p in (-1, 0, 1) for q in (-1, 0, 1)]
        far, town = min((math.hypot(i - t[0], j - t[1]) / t[2], t) for t in towns)
        angle = (math.atan2(j - town[1], i - town[0]) - town[4]) % (2 * math.pi)
        if far < 0.45:
            return town[3]
        if far < 1.0:
            if angle < 0.9:
                return "industrial"
            return str(rng.choice(["suburb", "slabs", "grid"], p=[0.56, 0.24, 0.2]))
        return str(rng.choice([k for k, _ in _COUNTRY], p=[p for _, p in _COUNTRY]))

    def _town(self, a: int, b: int) -> tuple[float, float, float, str, float]:
        """Middle, radius in districts, the core's kind and where its industry lies, in radians."""
        rng = self.rng(5, a, b)
        x, y = (n * _TOWN + rng.uniform(0.6, _TOWN - 1.6) for n in (a, b))
        core = ("organic", "radial", "grid")[(a + 2 * b + int(rng.integers(2))) % 3]
        return x, y, float(rng.uniform(1.2, 2.4)), core, float(rng.uniform(0, 2 * math.pi))
