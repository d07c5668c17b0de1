"""Which footprints are built: under imagery, with enough on them, sampled.

In: candidates, scenes, cells, rules. Out: those that are left, and DROPS rows that count the others by reason.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

from pipeline.footprints.candidates import Candidates
from pipeline.footprints.config import PlanConfig
from pipeline.footprints.sampling import by_share, choose, lots
from pipeline.imagery.choice.order import covered
from pipeline.imagery.config import ImageryConfig
from pipeline.imagery.scene import Scene
from pipeline.osm.cells.near import Block, blocks_of, features_near
from pipeline.osm.stage import Cells
from pipeline.rules import PaintRules
from pipeline.run.ray_map import Runner
from schemas.errors import ConfigError
from schemas.features import VALUE, drop_row

Ints = NDArray[np.int64]
Mask = NDArray[np.bool_]

#: Footprints that one process counts in about the time that Ray takes to start.
_SMALL = 200_000
#: Footprints whose outlines are held at once.
_OUTLINES = 200_000
#: Share of a side by which an outline is drawn in before images must cover it.
_INSET = 1e-6


@dataclass(frozen=True, eq=False)
class CountJob:
    """What one task needs to count the objects on the footprints of some cells."""

    cells: str  # as `read_cell` takes it
    zoom: int  # of the cells
    block: Block
    candidates: Candidates  # [N]
    water: tuple[int, ...]  # values of the class raster


def count_objects(job: CountJob) -> Ints:
    """Objects that meet each footprint, and those of them that say that there is land, i64[N,2]; touching counts."""
    outlines = job.candidates.outlines()
    if job.block[2] >> job.zoom:  # across the 180th meridian: as the features are
        outlines = shapely.transform(outlines, lambda xy: xy + (xy[:, :1] < 0) * np.array((360.0, 0.0)))
    near = features_near(job.cells, job.zoom, job.block, shapely.total_bounds(outlines))
    hit, feature = shapely.STRtree(near.geometry).query(outlines, predicate="intersects")
    value = near.paint & VALUE
    land = ((value > 0) & ~np.isin(value, job.water))[feature]
    count = len(outlines)
    return np.stack((np.bincount(hit, minlength=count), np.bincount(hit[land], minlength=count)), axis=1)


@dataclass
class _Choice:
    """The footprints that are left, and what was left out."""

    left: Candidates
    drops: list[dict[str, Any]] = field(default_factory=list)

    def keep(self, chosen: Mask, reason: str) -> None:
        """Leave out those that are not chosen."""
        if lost := int((~chosen).sum()):
            self.drops.append(drop_row("plan", self.left.name, reason, detail="footprints in the extent", count=lost))
            self.left = self.left.take(chosen)


@dataclass(frozen=True, eq=False)
class Choosing:
    """What decides which footprints are built."""

    plan: PlanConfig
    rs: ImageryConfig
    scenes: Sequence[Scene]  # none: footprints need no image
    cells: Cells | None  # of the features; None: objects are known only when a sample is built
    paint: PaintRules  # classes of the raster, which tell land from water
    runner: Runner  # counts objects side by side
    pictured: Callable[[Candidates], Mask] | None = None  # in which a photo was taken; None: there is no street view

    def __call__(self, candidates: Candidates) -> tuple[Candidates, list[dict[str, Any]]]:
        """The footprints to build, and DROPS rows of the others.

        Raises:
            ConfigError: ``photos_only`` has no street view to go by, or a rule no objects to count.
        """
        sampling, choice = self.plan.sampling, _Choice(candidates)
        if sampling.photos_only and self.pictured is None:
            raise ConfigError("plan.sampling.photos_only needs photos; name their source with --streetview")
        if sampling.counts_objects and self.cells is None:
            raise ConfigError(
                "plan.sampling.strata and land_only count the objects of OSM extracts; name them with region or --osm"
            )
        if self.scenes and not candidates.pictured:
            choice.keep(self._under_images(choice.left), "no_imagery")
        if sampling.share < 1:
            choice.keep(by_share(lots(choice.left.words(), sampling.seed), sampling.share), "not_in_share")
        least = self.plan.least_objects(bool(self.scenes) or candidates.pictured)
        objects: Ints | None = None
        if self.cells is not None and (least or sampling.counts_objects):
            counts = self._counted(choice.left, self.cells)
            enough, land = counts[:, 0] >= least, counts[:, 1] > 0
            choice.keep(enough, "too_few_objects")
            if sampling.land_only:
                choice.keep(land[enough], "no_land")
            objects = counts[enough & (land | (not sampling.land_only)), 0]
        if sampling.photos_only and self.pictured is not None:
            there = self.pictured(choice.left)
            choice.keep(there, "no_photo")
            objects = None if objects is None else objects[there]
        start, left = choice.left, np.ones(len(choice.left), bool)
        for reason, mask in choose(sampling, lots(start.words(), sampling.seed), start.centre(), objects).items():
            choice.keep(mask[left], reason)
            left &= mask
        return choice.left, choice.drops

    def _under_images(self, candidates: Candidates) -> Mask:
        """Which of them the scenes of one day cover, bool[N]."""
        result = np.zeros(len(candidates), bool)
        for first in range(0, len(result), _OUTLINES):
            part = slice(first, first + _OUTLINES)
            result[part] = covered(candidates.take(part).outlines(_INSET), self.scenes, self.rs)
        return result

    def _counted(self, candidates: Candidates, cells: Cells) -> Ints:
        """`count_objects` of all, i64[N,2]; cells are counted side by side."""
        counts = np.zeros((len(candidates), 2), np.int64)
        blocks, owner = np.unique(blocks_of(candidates.bbox(), cells.zoom), axis=0, return_inverse=True)
        order = np.argsort(owner.ravel(), kind="stable")
        groups = (
            np.split(order, np.cumsum(np.bincount(owner.ravel(), minlength=len(blocks)))[:-1]) if len(order) else []
        )
        water = tuple(i for i, c in enumerate(self.paint.classes, 1) if c.water)
        jobs = [
            CountJob(cells.path, cells.zoom, (x0, y0, x1, y1), candidates.take(own), water)
            for (x0, y0, x1, y1), own in zip(blocks.tolist(), groups, strict=True)
        ]
        for index, found, _ in self.runner.map(count_objects, jobs, small=len(candidates) < _SMALL):
            counts[groups[index]] = found
        return counts
