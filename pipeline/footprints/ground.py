"""Ground on which footprints may lie, as quads of the tile pyramid: pure functions.

Never a box around everything: what lies far apart (on both sides of 180°, or of the world) is apart here too, and costs
what it holds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

from geometry.packed import Floats, Ints, changes
from geometry.tiles import tile_bounds, tile_codes, tile_ranges, tiles_between
from pipeline.footprints.quads import Start, cells_on
from schemas.errors import ConfigError

Box = tuple[float, float, float, float]  # west, south, east, north in degrees

#: Degrees without content that part two boxes of `Ground.boxes`.
_APART = 3.0
#: Share of a tile's side, negative, by which boxes are drawn in: what only touches shares no ground.
_DRAWN_IN = -1e-9


@dataclass(frozen=True, eq=False)
class Ground:
    """Q quads that share no ground, and what matters in each. Sorted by level, row, column."""

    quad: Ints  # [Q,3] level, column, row
    bounds: Floats  # [Q,4] west, south, east, north in degrees, inside the quad

    @classmethod
    def of(cls, quad: Ints, bounds: Floats) -> Ground:
        """Of quads [N,3] with bounds f64[N,4] that may come several times, or lie in one another: one that holds others
        counts as whole."""
        code = tile_codes(quad[:, 1:], quad[:, 0])
        order = np.lexsort((code, quad[:, 0]))
        quad, bounds, code = quad[order], bounds[order], code[order]
        first = np.flatnonzero(changes(quad[:, 0], code)) if len(quad) else np.zeros(0, np.int64)
        merged = np.concatenate(
            (np.minimum.reduceat(bounds[:, :2], first), np.maximum.reduceat(bounds[:, 2:], first)), axis=1
        ) if len(first) else np.zeros((0, 4))  # fmt: skip
        quad, code = quad[first], code[first]
        alone = np.ones(len(quad), bool)
        levels = np.unique(quad[:, 0]).tolist()
        for number, level in enumerate(levels):
            own = quad[:, 0] == level
            for above in levels[:number]:
                parents = tile_codes(quad[own, 1:] >> (level - above), above)
                alone[own] &= ~np.isin(parents, code[quad[:, 0] == above])
        return cls(quad[alone], merged[alone])

    @classmethod
    def around(cls, boxes: Sequence[Box] | Floats, level: int) -> Ground:
        """Of boxes in degrees, in quads of a level; one across 180° is two boxes."""
        quad, bounds = quads_around(np.array(boxes, np.float64).reshape(-1, 4), level)
        return cls.of(quad, bounds)

    def __len__(self) -> int:
        return len(self.quad)

    def take(self, rows: NDArray[Any]) -> Ground:
        """The chosen quads (a mask)."""
        return Ground(self.quad[rows], self.bounds[rows])

    def coarser(self, level: int) -> Ground:
        """The same in quads of at most ``level``."""
        if not len(self) or self.quad[-1, 0] <= level:
            return self
        up = np.maximum(self.quad[:, 0] - level, 0)
        return Ground.of(np.stack((self.quad[:, 0] - up, *(self.quad[:, 1:] >> up[:, None]).T), axis=1), self.bounds)

    def cut(self, boxes: Sequence[Box]) -> Ground:
        """What lies in any of the boxes; in a quad, the box around all that does."""
        limit = np.array(boxes, np.float64).reshape(-1, 4)
        row, box = shapely.STRtree(shapely.box(*limit.T)).query(shapely.box(*self.bounds.T), predicate="intersects")
        low = np.maximum(self.bounds[row, :2], limit[box, :2])
        high = np.minimum(self.bounds[row, 2:], limit[box, 2:])
        return Ground.of(self.quad[row], np.concatenate((low, high), axis=1))

    def meets(self, areas: NDArray[Any] | Sequence[Any]) -> NDArray[np.bool_]:
        """Which quads meet any of some lon/lat polygons, bool[Q]."""
        tree = shapely.STRtree(np.asarray(areas, object))
        result = np.zeros(len(self), bool)
        result[tree.query(shapely.box(*self.bounds.T), predicate="intersects")[0]] = True
        return result

    def boxes(self) -> list[Box]:
        """Few boxes that hold it, parted where three degrees or more hold nothing: for searches, which cost by box."""
        return [(*part[:, :2].min(axis=0).tolist(), *part[:, 2:].max(axis=0).tolist()) for part in _parted(self.bounds)]

    def ranges(self, zoom: int) -> tuple[Ints, Ints]:
        """First and last tile (column, row) of each quad, i64[Q,2] each, that its bounds meet; no deeper than the zoom.

        No tile is in two of them.
        """
        down = zoom - self.quad[:, :1]
        first, last = tile_ranges(self.bounds, zoom)
        low = self.quad[:, 1:] << down
        high = ((self.quad[:, 1:] + 1) << down) - 1
        return np.clip(first, low, high), np.clip(last, low, high)

    def count(self, zoom: int) -> int:
        """How many tiles meet it."""
        first, last = self.coarser(zoom).ranges(zoom)
        return int((last - first + 1).prod(axis=1).sum())


def quads_around(boxes: Floats, level: int) -> tuple[Ints, Floats]:
    """Quads i64[N,3] of a level that boxes f64[B,4] in degrees meet, and the part of the box in each, f64[N,4]."""
    owner, tiles = tiles_between(*tile_ranges(boxes, level))
    edge = tile_bounds(tiles, level)
    low, high = np.maximum(boxes[owner, :2], edge[:, :2]), np.minimum(boxes[owner, 2:], edge[:, 2:])
    # what lies on an edge may round beside it; ±180° and ±85.05° are edges too
    bounds = np.concatenate((np.minimum(low, high), np.maximum(low, high)), axis=1)
    return np.concatenate((np.full((len(tiles), 1), level), tiles), axis=1), bounds


def _parted(boxes: Floats) -> list[Floats]:
    """Groups of boxes f64[B,4] between which there is a gap in longitude or latitude."""
    for axis in (0, 1):
        own = boxes[np.argsort(boxes[:, axis], kind="stable")]
        reach = np.maximum.accumulate(own[:, axis + 2])
        gaps = np.flatnonzero(own[1:, axis] - reach[:-1] >= _APART) + 1
        if len(gaps):
            return [group for part in np.split(own, gaps) for group in _parted(part)]
    return [boxes] if len(boxes) else []


def tiles_on(ground: Ground | None, area: Any, zoom: int, max_tiles: int) -> Ints:
    """Tiles (x, y) that meet the ground (None: the world) and share ground with an area (lon/lat polygon; None: the
    world), i64[T,2], each once.

    Raises:
        ConfigError: more than ``max_tiles``.
    """
    way_out = f"over plan.max_tiles={max_tiles:,}; lower the zoom or raise plan.max_tiles"
    refusal = f"the region holds tiles at zoom {zoom} {way_out}"
    if area is not None:
        area = shapely.make_valid(area)
    if ground is None:
        world = shapely.box(-180.0, -90.0, 180.0, 90.0)
        return cells_on(world if area is None else area, lambda q, at: _inner(q, at, zoom), zoom, max_tiles, refusal)
    ground = ground.coarser(zoom)
    first, last = ground.ranges(zoom)
    whole = np.ones(len(ground), bool)
    if area is not None:
        shapely.prepare(area)
        corners = tile_bounds(first, zoom, _DRAWN_IN), tile_bounds(last, zoom, _DRAWN_IN)
        boxes = shapely.box(corners[0][:, 0], corners[1][:, 1], corners[1][:, 2], corners[0][:, 3])
        there = shapely.intersects(area, boxes)
        ground, first, last = ground.take(there), first[there], last[there]
        whole = np.asarray(shapely.contains_properly(area, boxes[there]))
    count = int((last - first + 1).prod(axis=1)[whole].sum())
    if count > max_tiles:
        raise ConfigError(f"objects lie on up to {count:,} tiles at zoom {zoom}, {way_out}")
    found = [tiles_between(first[whole], last[whole])[1]]
    for level in np.unique(ground.quad[~whole, 0]).tolist():
        rows = np.flatnonzero(~whole & (ground.quad[:, 0] == level))
        own = _crossing(area, zoom, level, ground.quad[rows, 1:], first[rows], last[rows], max_tiles - count, refusal)
        found.append(own)
        count += len(own)
    return np.concatenate(found)


def _crossing(area: Any, zoom: int, level: int, quads: Ints, first: Ints, last: Ints, most: int, refusal: str) -> Ints:
    """Tiles i64[T,2] from ``first`` to ``last`` of each quad [Q,2] of a level, in order, that share ground with an
    area."""
    codes = tile_codes(quads, level)

    def within(cells: Ints, at: int) -> tuple[NDArray[Any], NDArray[Any]]:
        own = np.searchsorted(codes, tile_codes(cells >> (at - level), level))
        low, high = cells << (zoom - at), ((cells + 1) << (zoom - at)) - 1
        meets, inside = (high >= first[own]) & (low <= last[own]), (low >= first[own]) & (high <= last[own])
        return np.asarray(meets.all(axis=1)), np.asarray(inside.all(axis=1))

    return cells_on(area, lambda q, at: _inner(q, at, zoom), zoom, most, refusal, Start(quads, level, within))


def _inner(quads: Ints, level: int, zoom: int) -> NDArray[Any]:
    """Quads as lon/lat boxes, smaller by a billionth of a tile of ``zoom``."""
    return np.asarray(shapely.box(*tile_bounds(quads, level, _DRAWN_IN / (1 << (zoom - level))).T))
