"""What will be built: all stages before the first sample."""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import shapely

from pipeline.driver.reasons import way_out
from pipeline.driver.snapshots import snapshots_stage
from pipeline.driver.sources import Region, chosen_sources, resolve
from pipeline.driver.stages import (
    ChipsFound,
    boxes_around,
    candidates_of,
    chips_stage,
    count_drops,
    ground_stage,
    imagery_stage,
    meeting,
    open_photos,
    own_gsd,
    own_zoom,
    photos_stage,
    pictured,
    searched,
    under_images,
    used_images,
    vectors_stage,
    wish_of,
)
from pipeline.footprints.candidates import Candidates, Listed, Mixture
from pipeline.footprints.choose import Choosing
from pipeline.footprints.ground import Box, Ground
from pipeline.footprints.plan import along_curve, cut_shards
from pipeline.footprints.sampling import WEB_TILES
from pipeline.imagery.choice.usage import Use
from pipeline.imagery.scene import Scene
from pipeline.imagery.sources import of_the_web
from pipeline.meridian import split_boxes
from pipeline.osm.stage import Cells, Features, features_stage
from pipeline.osm.vectors.features import NamedParts, PartJob
from pipeline.rules import Rules, load_rules
from pipeline.run.ray_map import Runner
from pipeline.samples.config import ShardsConfig
from pipeline.samples.job import ExtractObjects, VectorObjects
from pipeline.streetview.record import Photo
from schemas.catalog import CLASSES
from schemas.errors import InputError
from schemas.features import DROPS
from storage.nodes.copies import node_cache
from storage.progress import StageRow
from storage.urls import shared_cache


@dataclass
class Plan:
    """What will be built."""

    config: ShardsConfig  # with what it left open: zoom, gsd, number of footprints
    region: Region
    rules: Rules
    features: Features | None  # of all extracts, the newest of each
    cells: list[Cells]  # one, one a snapshot, or none without extracts
    objects: ExtractObjects | None
    chips: ChipsFound | None
    parts: list[PartJob]  # vector files by shard; none with an extract
    named: NamedParts | None  # their tags
    vocabulary: pa.Table
    scenes: list[Scene]  # that meet a footprint
    footprints: Mixture  # in the order of the shards
    shards: list[slice]  # of the footprints
    photos: dict[str, list[Photo]]  # by key
    drops: list[dict[str, Any]]  # of planning: footprints, scenes and photos
    images: list[Use]  # what the footprints take of each scene that was found
    stages: list[StageRow] = field(default_factory=list)

    def objects_of(self, shard: int) -> ExtractObjects | VectorObjects:
        """Where the OSM objects of a shard lie."""
        if self.objects is not None:
            return self.objects
        if self.named is None:
            raise InputError("the footprints have neither extracts nor vector files")
        return VectorObjects(self.parts[shard], self.named.ids[shard], self.config.vectors.time)

    def tables(self) -> tuple[pa.Table, pa.Table, pa.Table]:
        """Vocabulary, what was dropped before there were samples, and the classes of the rasters."""
        own = [c.store.read_table("drops.parquet") for c in self.cells]
        drops = pa.concat_tables([*own, pa.Table.from_pylist(self.drops, schema=DROPS)])
        classes = self.rules.paint.rows() if self.config.tokens.raster else []
        return self.vocabulary, drops, pa.Table.from_pylist(classes, schema=CLASSES)


def make_plan(
    config: ShardsConfig,
    runner: Runner,
    quiet: bool = False,
    region: Region | None = None,
    fetch: bool = True,
    told: Callable[[Region], object] | None = None,
) -> Plan:
    """All stages before the first sample.

    Args:
        config: settings.
        runner: of the stages that work side by side.
        quiet: no progress.
        region: its files; resolved from the settings where it is not given.
        fetch: download photos; without, they are only listed.
        told: called with the region once it is known.

    Raises:
        GeoshardsError: an input cannot be used, or none of it declares a licence.
    """
    cache, stages, start = node_cache(config.cache), list[StageRow](), time.monotonic()
    shared = shared_cache(config.cache)
    region = region or _region(config, cache, runner, quiet)
    if told is not None:
        told(region)
    rules = load_rules(config.rules)
    inputs = len(region.extracts) + bool(region.imagery) + bool(region.streetview)
    stages.append(StageRow.since(start, "regions", inputs, "inputs"))
    chips = chips_stage(config, cache, runner, quiet, stages) if "chips" in config.footprints else None
    features: Features | None = None
    ground, outside, boxes = Ground.around([], 0), list[dict[str, Any]](), list[Box]()
    if region.extracts:
        features, row = features_stage(region.extracts, rules, shared, runner, quiet)
        stages.append(row)
    if features is not None and config.footprints != ("chips",):
        ground, outside = ground_stage(config, region, features, runner)
        boxes = searched(ground, region.clip)
    if chips is not None and config.chips.image != "own":
        boxes += boxes_around(chips)
    scenes, drops = imagery_stage(config, region, boxes, cache, quiet, stages)
    zoom, gsd = own_zoom(config, region.imagery, scenes), own_gsd(config, scenes)
    config = replace(with_cap(config, region.imagery), zoom=zoom, grid=replace(config.grid, gsd=gsd))
    if scenes:
        ground, bare = under_images(config, ground, region.clip, scenes)
        outside += bare
    candidates, beyond = candidates_of(config, wish_of(config, ground, region.clip, chips))
    drops += [*(chips.drops if chips is not None else ()), *outside, *beyond]
    cells, objects, vocabulary = list[Cells](), None, pa.table({})
    if features is not None:
        cell_zoom = min(c.cell_zoom() for c in candidates)
        cells, snapshots, vocabulary, rows = snapshots_stage(
            config, region, features, _days(scenes, chips, config), rules, cell_zoom, shared, runner, quiet
        )
        objects = ExtractObjects(snapshots, cell_zoom)
        stages += rows
    source = open_photos(config, region, cache, quiet)
    planned, shards, left = _choose(drops, config, candidates, scenes, cells, rules, runner, source, quiet, stages)
    photos, drops = dict[str, list[Photo]](), [*drops, *left]
    if source is not None:
        photos, lost = photos_stage(source, config, Listed.of("", planned.footprints()), fetch, quiet, stages)
        drops += lost
    parts, named = list[PartJob](), None
    if features is None and chips is not None:
        keys = planned.footprints().keys
        parts, named = vectors_stage(config, chips, [keys[s] for s in shards], rules, cache, runner, quiet, stages)
        vocabulary, drops = named.vocabulary.table(), [*drops, *named.drops]
    images, unused = used_images(config, scenes, planned, region.imagery)
    met = meeting(scenes, shapely.box(*split_boxes(planned.bbox())[0].T))
    return Plan(
        config, region, rules, features, cells, objects, chips, parts, named, vocabulary, met, planned, shards, photos,
        [*drops, *unused], images, stages,
    )  # fmt: skip


def _choose(
    lost: Sequence[dict[str, Any]],
    config: ShardsConfig,
    candidates: Sequence[Candidates],
    scenes: list[Scene],
    cells: list[Cells],
    rules: Rules,
    runner: Runner,
    source: Any,
    quiet: bool,
    stages: list[StageRow],
) -> tuple[Mixture, list[slice], list[dict[str, Any]]]:
    """The footprints to build in the order of their shards, the shards, and DROPS rows of the others.

    Raises:
        InputError: none is left; the message names the reasons, those of the ``lost`` before too.
    """
    start = time.monotonic()
    rule = Choosing(
        config.plan, config.rs, scenes, cells[-1] if cells else None, rules.paint, runner,
        None if source is None else partial(pictured, source, config, quiet),
    )  # fmt: skip
    chosen = [rule(c) for c in candidates]
    drops = [row for _, rows in chosen for row in rows]
    planned = Mixture.of([left for left, _ in chosen])
    if not len(planned):
        reasons = Counter[str]()
        for row in (*lost, *drops):
            reasons[row["reason"]] += row["count"]
        if len(reasons) > 1:
            del reasons["outside_extract"]  # those are objects
        found = ", ".join(f"{n:,} {reason}" for reason, n in reasons.most_common())
        way = way_out(reasons, config, scenes)
        raise InputError(
            f"no footprint is left to build: {found or 'none meets the region'}; {way or 'see docs/shards.md'}"
        )
    distance = along_curve(planned.centre())
    order = np.argsort(distance, kind="stable")
    shards = cut_shards(distance[order], config.plan.per_shard)
    unit = config.footprints[0] if len(config.footprints) == 1 else "footprints"
    unit = "cells" if unit == "grid" else unit
    stages.append(StageRow.since(start, "plan", len(planned), unit, drops=count_drops(drops)))
    return planned.take(order), shards, drops


def _region(config: ShardsConfig, cache: Path, runner: Runner, quiet: bool) -> Region:
    """The files of the settings; without a region, those of chips alone."""
    if config.region != "none":
        return resolve(config, cache, runner, quiet)
    licences = {"osm": config.vectors.licence}
    return Region(name_of(Path(config.chips.folder).expanduser()), [], *chosen_sources(config, "", ""), licences)


def _days(scenes: list[Scene], chips: ChipsFound | None, config: ShardsConfig) -> list[str]:
    """Days of the images, YYYY-MM-DD, rising."""
    own = chips.table["acquired"].to_pylist() if chips is not None and config.chips.image == "own" else []
    times = [config.rs.acquired or t for t in (*(s.acquired for s in scenes), *own)]
    return sorted({t[:10] for t in times if t and len(t) >= 10})


def with_cap(config: ShardsConfig, imagery: str) -> ShardsConfig:
    """The settings with a number of footprints at most: a build from the web is sampled unless it is told not to."""
    sampling = config.plan.sampling
    if sampling.max_tiles is None:
        sampling = replace(sampling, max_tiles=WEB_TILES if of_the_web(imagery) else 0)
    return replace(config, plan=replace(config.plan, sampling=sampling))


def name_of(folder: Path) -> str:
    """Name of a dataset of chips, from their folder: [a-z0-9_-]+."""
    return re.sub("[^a-z0-9_-]+", "-", folder.resolve().name.lower()).strip("-")[:60] or "chips"
