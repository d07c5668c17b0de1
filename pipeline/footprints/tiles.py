"""Which tiles of a region are built: in its extents and outline, under imagery, with enough on them, sampled.

In: extents, outline, scenes, cells, rules. Out: tiles, and DROPS rows that count the others by reason.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pipeline.footprints.plan import Box, Ints, Mask, area_tiles, cut_extents, extent_tiles, inner_boxes, occupied
from pipeline.footprints.sampling import by_share, choose, lots
from pipeline.imagery.config import ImageryConfig
from pipeline.imagery.scene import Scene, covered
from pipeline.osm.stage import Cells, cell_ids, read_cell
from pipeline.rules import PaintRules
from pipeline.run.ray_map import Runner
from pipeline.samples.config import ShardsConfig
from schemas.errors import ConfigError
from schemas.features import drop_row

#: Classes of the raster that are no land.
WATER = frozenset({"water", "river", "stream"})
#: Tiles that one process counts in about the time that Ray takes to start.
_SMALL = 200_000
#: Tiles whose boxes are held at once.
_BOXES = 200_000


@dataclass(frozen=True, eq=False)
class CountJob:
    """What one task needs to count the objects on the tiles of one cell."""

    cells: str  # as `read_cell` takes it
    cell: int
    tiles: Ints  # [T,2] x, y
    zoom: int
    water: tuple[int, ...]  # values of the class raster


def count_objects(job: CountJob) -> Ints:
    """Objects that meet each tile, and those of them that say that there is land, i64[T,2]; touching counts."""
    batch = read_cell(job.cells, job.cell)
    land = (batch.paint > 0) & ~np.isin(batch.paint, job.water)
    every = occupied(job.tiles, job.zoom, batch.geometry)
    return np.stack((every, occupied(job.tiles, job.zoom, batch.geometry[land])), axis=1)


@dataclass
class TileChoice:
    """The tiles that are left, and what was left out."""

    zoom: int
    source: str  # names of the extracts
    tiles: Ints  # [T,2] x, y
    drops: list[dict[str, Any]] = field(default_factory=list)

    def keep(self, chosen: Mask, reason: str, detail: str = "") -> None:
        """Leave out the tiles that are not chosen."""
        left = int((~chosen).sum())
        if left:
            detail = detail or f"tiles of zoom {self.zoom} in the extent"
            self.drops.append(drop_row("plan", self.source[:200], reason, detail=detail, count=left))
        self.tiles = self.tiles[chosen]


def choose_tiles(
    config: ShardsConfig,
    zoom: int,
    extents: Sequence[Box],
    area: Any,
    scenes: Sequence[Scene],
    min_objects: int,
    cells: Cells,
    paint: PaintRules,
    source: str,
    runner: Runner,
    pictured: Callable[[Ints], Mask] | None = None,
) -> TileChoice:
    """Tiles to build.

    Args:
        config: settings.
        zoom: of the tiles.
        extents: of the extracts.
        area: lon/lat (multi)polygon; None: all of the extents.
        scenes: imagery; none: tiles need no image.
        min_objects: OSM objects that meet a tile.
        cells: of the extracts' features.
        paint: classes of the raster, which tell land from water.
        source: names of the extracts, for DROPS.
        runner: counts objects side by side.
        pictured: tells which tiles i64[T,2] a photo was taken in; None: there is no street view.

    Raises:
        ConfigError: there are more tiles than ``plan.max_tiles``, or ``photos_only`` has no street view to go by.
    """
    plan, sampling = config.plan, config.plan.sampling
    if sampling.photos_only and pictured is None:
        raise ConfigError("plan.sampling.photos_only needs photos; name their source with --streetview")
    ground = cut_extents(extents, area)
    tiles = (
        extent_tiles(ground, zoom, plan.max_tiles) if area is None else area_tiles(ground, area, zoom, plan.max_tiles)
    )
    choice = TileChoice(zoom, source, tiles)
    if scenes:
        choice.keep(_under(scenes, choice.tiles, zoom, config.rs), "no_imagery")
    if sampling.share < 1:
        choice.keep(by_share(lots(choice.tiles, zoom, sampling.seed), sampling.share), "not_in_share")
    objects: Ints | None = None
    if min_objects or sampling.counts_objects:
        counts = _counted(choice.tiles, zoom, cells, paint, runner)
        enough, land = counts[:, 0] >= min_objects, counts[:, 1] > 0
        choice.keep(enough, "too_few_objects")
        if sampling.land_only:
            choice.keep(land[enough], "no_land")
        objects = counts[enough & (land | (not sampling.land_only)), 0]
    if sampling.photos_only and pictured is not None:
        there = pictured(choice.tiles)
        choice.keep(there, "no_photo")
        objects = None if objects is None else objects[there]
    start, left = choice.tiles, np.ones(len(choice.tiles), bool)
    for reason, mask in choose(sampling, start, zoom, objects).items():
        choice.keep(mask[left], reason)
        left &= mask
    return choice


def _under(scenes: Sequence[Scene], tiles: Ints, zoom: int, config: ImageryConfig) -> Mask:
    """Which tiles the scenes of one day cover, bool[T]."""
    result = np.zeros(len(tiles), bool)
    for first in range(0, len(tiles), _BOXES):
        part = slice(first, first + _BOXES)
        result[part] = covered(inner_boxes(tiles[part], zoom), scenes, config)
    return result


def _counted(tiles: Ints, zoom: int, cells: Cells, paint: PaintRules, runner: Runner) -> Ints:
    """`count_objects` of all tiles, i64[T,2]; cells are counted side by side."""
    counts = np.zeros((len(tiles), 2), np.int64)
    shift = zoom - cells.zoom
    cell = (tiles[:, 1] >> shift) * (1 << cells.zoom) + (tiles[:, 0] >> shift)
    order = np.argsort(cell, kind="stable")
    present, starts = np.unique(cell[order], return_index=True)
    known = set(cell_ids(cells.path))
    groups = np.split(order, starts[1:]) if len(present) else []
    rows = [own for c, own in zip(present.tolist(), groups, strict=True) if c in known]
    water = tuple(i for i, c in enumerate(paint.classes, 1) if c.name in WATER)
    jobs = [CountJob(cells.path, int(cell[own[0]]), tiles[own], zoom, water) for own in rows]
    for index, found, _ in runner.map(count_objects, jobs, small=len(tiles) < _SMALL):
        counts[rows[index]] = found
    return counts
