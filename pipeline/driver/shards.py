"""From a region to a dataset directory: regions → features → imagery → vocabulary → plan → photos → samples → shards →
catalog.

Each stage is one call. What an earlier run finished is not done again: downloads, features, cells and photos are cached
by the hash of their inputs, and a shard exists if its index rows, written last, do.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field, replace
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import shapely
from numpy.typing import NDArray

from pipeline.driver.inputs import keep_inputs
from pipeline.driver.run import Run, open_out
from pipeline.driver.snapshots import snapshots_stage
from pipeline.footprints.plan import Ints, Mask, cut_extents, cut_shards, order_tiles, tile_boxes
from pipeline.footprints.sampling import WEB_TILES
from pipeline.footprints.tiles import choose_tiles
from pipeline.imagery.scene import Scene
from pipeline.imagery.sources import find_imagery, licence_of, natural_zoom_of, of_the_web, scene_digest, source_rows
from pipeline.osm.stage import Cells, Features, code_fingerprint, features_stage
from pipeline.regions.resolve import Region, resolve
from pipeline.rules import Rules, load_rules
from pipeline.run.ray_map import Runner
from pipeline.run.versions import encoder_versions
from pipeline.samples.config import ShardsConfig
from pipeline.samples.job import Previous, ShardJob, Snapshot, Tile
from pipeline.samples.work import build_shard
from pipeline.streetview.plan import photos_of_tiles, photos_row
from pipeline.streetview.record import Photo
from pipeline.streetview.sources import Source, open_source
from schemas.features import CELL_ZOOM, DROPS
from storage.progress import StageRow, peak_memory_mb
from storage.store import Store
from storage.urls import cache_folder

#: Rooms whose code decides a dataset's bytes.
_ROOMS = tuple(
    f"pipeline/{r}"
    for r in ("catalog", "footprints", "formats", "imagery", "osm", "rules", "samples", "streetview", "tokens")
)


@dataclass
class Plan:
    """What will be built."""

    config: ShardsConfig  # with what it left open: zoom, number of tiles
    region: Region
    rules: Rules
    zoom: int  # of the tiles
    features: Features  # of all extracts, the newest of each
    cells: list[Cells]  # one, or one a snapshot
    snapshots: tuple[Snapshot, ...]  # by time
    vocabulary: pa.Table
    scenes: list[Scene]  # that meet a tile
    shards: list[NDArray[np.int64]]  # tiles [T,2] of each shard
    photos: dict[Tile, list[Photo]]
    drops: list[dict[str, Any]]  # of planning: tiles, scenes and photos
    min_objects: int
    stages: list[StageRow] = field(default_factory=list)

    @property
    def tiles(self) -> int:
        """Number of planned tiles."""
        return sum(len(s) for s in self.shards)


@dataclass(frozen=True)
class Outcome:
    """What a run did."""

    out: str
    document: dict[str, Any]  # dataset.json
    stages: list[StageRow]
    built: int  # shards written by this run, those taken over among them
    adopted: int = 0  # shards taken over from the earlier version


def make_plan(
    config: ShardsConfig, runner: Runner, quiet: bool = False, region: Region | None = None, fetch: bool = True
) -> Plan:
    """All stages before the first sample.

    Args:
        config: settings.
        runner: of the stages that work side by side.
        quiet: no progress.
        region: its files; resolved from the settings where it is not given.
        fetch: download photos; without, they are only listed.

    Raises:
        GeoshardsError: an input cannot be used, or none of it declares a licence.
    """
    cache = cache_folder(config.cache)
    start = time.monotonic()
    region = region or resolve(config, cache, quiet)
    if config.name:
        region = replace(region, name=config.name)
    rules = load_rules(config.rules)
    inputs = len(region.extracts) + bool(region.imagery) + bool(region.streetview)
    stages = [StageRow("regions", inputs, "inputs", time.monotonic() - start, peak_memory_mb())]
    features, row = features_stage(region.extracts, rules, cache, runner, quiet)
    stages.append(row)
    extents = cut_extents(features.extents, region.clip)
    scenes, drops = _imagery_stage(config, region, extents, cache, quiet, stages)
    zoom = own_zoom(config, region.imagery, scenes)
    config = replace(with_cap(config, region.imagery), zoom=zoom)
    cells, snapshots, vocabulary, rows = snapshots_stage(
        config, region, features, scenes, rules, min(CELL_ZOOM, zoom), cache, runner, quiet
    )
    stages += rows
    start = time.monotonic()
    min_objects = config.plan.min_objects
    if min_objects is None:
        min_objects = 0 if scenes else 1
    source = _open_photos(config, region, cache, quiet)
    choice = choose_tiles(
        config, zoom, extents, region.clip, scenes, min_objects, cells[-1], rules.paint, ",".join(features.names),
        runner, None if source is None else partial(_pictured, source, config, zoom, quiet),
    )  # fmt: skip
    tiles = order_tiles(choice.tiles, zoom)
    shards = cut_shards(tiles, zoom, config.plan.tiles_per_shard)
    seconds = time.monotonic() - start
    stages.append(StageRow("plan", len(tiles), "tiles", seconds, peak_memory_mb(), _count(choice.drops)))
    photos, left = _photos_stage(source, config, tiles, zoom, fetch, quiet, stages)
    return Plan(
        config, region, rules, zoom, features, cells, snapshots, vocabulary, _meeting(scenes, tiles, zoom), shards,
        photos, drops + choice.drops + left, min_objects, stages,
    )  # fmt: skip


def with_cap(config: ShardsConfig, imagery: str) -> ShardsConfig:
    """The settings with a number of tiles at most: a build from the web is sampled unless it is told not to."""
    sampling = config.plan.sampling
    if sampling.max_tiles is None:
        sampling = replace(sampling, max_tiles=WEB_TILES if of_the_web(imagery) else 0)
    return replace(config, plan=replace(config.plan, sampling=sampling))


def _count(drops: list[dict[str, Any]]) -> int:
    return sum(int(d["count"]) for d in drops)


def _imagery_stage(
    config: ShardsConfig,
    region: Region,
    extents: list[tuple[float, float, float, float]],
    cache: Path,
    quiet: bool,
    stages: list[StageRow],
) -> tuple[list[Scene], list[dict[str, Any]]]:
    """Scenes that meet the extents, and DROPS rows of those that cannot be used."""
    if not region.imagery:
        return [], []
    start = time.monotonic()
    renew = config.sources.refresh == "newer"
    scenes, drops = find_imagery(region.imagery, extents, config.rs, config.net, cache, renew, quiet)
    for scene in scenes:  # before anything else is fetched
        licence_of(scene, config.rs, region.licences.get("rs"))
    stages.append(StageRow("imagery", len(scenes), "scenes", time.monotonic() - start, peak_memory_mb(), _count(drops)))
    return scenes, drops


def own_zoom(config: ShardsConfig, imagery: str, scenes: list[Scene]) -> int:
    """Zoom of the tiles: the setting's, else the imagery's own, else 16, at which a pixel of 256 is 2.4 m."""
    if config.zoom is not None:
        return config.zoom
    own = natural_zoom_of(imagery, scenes, config.rs, config.size) if imagery else None
    return 16 if own is None else own


def _open_photos(config: ShardsConfig, region: Region, cache: Path, quiet: bool) -> Source | None:
    if not region.streetview:
        return None
    renew = config.sources.refresh == "newer"
    return open_source(
        region.streetview, config.sv, config.net, cache, licence=region.licences.get("sv"), renew=renew, quiet=quiet
    )


def _photos_stage(
    source: Source | None,
    config: ShardsConfig,
    tiles: Ints,
    zoom: int,
    fetch: bool,
    quiet: bool,
    stages: list[StageRow],
) -> tuple[dict[Tile, list[Photo]], list[dict[str, Any]]]:
    """Photos of each tile, fetched, and DROPS rows of the others."""
    if source is None:
        return {}, []
    start = time.monotonic()
    chosen = photos_of_tiles(source, config.sv, tiles, zoom, fetch, quiet)
    photos = {(int(tiles[i, 0]), int(tiles[i, 1])): own for i, own in chosen.photos.items()}
    drops: list[dict[str, Any]] = list(chosen.drops)
    seconds, count = time.monotonic() - start, sum(len(own) for own in photos.values())
    stages.append(StageRow("photos", count, "photos", seconds, peak_memory_mb(), _count(drops)))
    return photos, drops


def _pictured(source: Source, config: ShardsConfig, zoom: int, quiet: bool, tiles: Ints) -> Mask:
    """In which tiles a photo was taken that may be used, bool[T]."""
    result = np.zeros(len(tiles), bool)
    result[list(photos_of_tiles(source, config.sv, tiles, zoom, fetch=False, quiet=quiet).photos)] = True
    return result


def _meeting(scenes: list[Scene], tiles: Ints, zoom: int) -> list[Scene]:
    """The scenes that meet a tile."""
    if not scenes:
        return []
    areas = np.array([s.area for s in scenes], dtype=object)
    hit = np.unique(shapely.STRtree(areas).query(tile_boxes(tiles, zoom), predicate="intersects")[1])
    return [scenes[i] for i in hit.tolist()]


def make_shards(
    config: ShardsConfig, quiet: bool = False, region: Region | None = None, previous: Previous | None = None
) -> Outcome:
    """Build the dataset of ``config`` into ``config.out``; a finished part is not repeated.

    Args:
        config: settings.
        quiet: no progress.
        region: its files; resolved from the settings where it is not given.
        previous: an earlier version; its shards of equal inputs are taken over.

    Raises:
        GeoshardsError: an input cannot be used, a source declares no licence, or ``out`` holds another dataset.
    """
    began = time.monotonic()
    with Runner(config.workers) as runner:
        plan = make_plan(config, runner, quiet, region)
        config = plan.config
        store = open_out(config.out, plan.region.name, runner)
        digests = [scene_digest(s) for s in plan.scenes]
        sources = _sources(plan, digests)
        settings = config.content() | {"rules": plan.rules.fingerprint}
        fingerprint = _fingerprint(plan, sources)
        run = Run(store, plan.region.name, settings, sources, fingerprint, began, list(plan.stages))
        with run.writing():
            keep_inputs(fingerprint, config, plan.region, plan.features)
            job = _Jobs(plan, store, _digest(plan, {}), digests, previous)
            run.build(runner, len(plan.shards), job, build_shard, "tiles", quiet)
            document = run.finish(plan.vocabulary, _drops(plan))
    return Outcome(store.root, document, run.stages, run.built, run.adopted)


class _Jobs:
    """The job of each shard, by its number."""

    def __init__(self, plan: Plan, store: Store, salt: str, digests: list[str], previous: Previous | None) -> None:
        self.plan, self.store, self.salt, self.digests, self.previous = plan, store, salt, digests, previous
        self.areas = shapely.STRtree([s.area for s in plan.scenes])

    def __call__(self, index: int) -> ShardJob:
        plan, tiles = self.plan, self.plan.shards[index]
        photos = {t: plan.photos[t] for x, y in tiles if (t := (int(x), int(y))) in plan.photos}
        near = np.unique(self.areas.query(tile_boxes(tiles, plan.zoom), predicate="intersects")[1]).tolist()
        imagery = sha256(" ".join(self.digests[i] for i in near).encode()).hexdigest()
        return ShardJob(
            self.store.root, index, tiles, plan.zoom, plan.config, plan.rules.paint, plan.snapshots,
            plan.cells[-1].zoom, [plan.scenes[i] for i in near], bool(plan.scenes), photos, plan.min_objects,
            plan.region.licences, plan.region.name, self.salt, imagery, self.previous,
        )  # fmt: skip


def _drops(plan: Plan) -> pa.Table:
    """What was dropped before there were samples."""
    own = [pq.read_table(c.folder / "drops.parquet").replace_schema_metadata(None) for c in plan.cells]
    return pa.concat_tables([*own, pa.Table.from_pylist(plan.drops, schema=DROPS)])


def _sources(plan: Plan, digests: list[str]) -> list[dict[str, Any]]:
    """Every input with its hash, licence and date."""
    region, rows = plan.region, []
    for name, digest in zip(plan.features.names, plan.features.hashes, strict=True):
        licence, date = region.licences.get("osm"), plan.features.snapshot
        rows.append({"kind": "osm", "name": name, "sha256": digest, "licence": licence, "date": date})
    rows += source_rows(plan.scenes, plan.config.rs, region.licences.get("rs"), digests)
    photos = [p for own in plan.photos.values() for p in own]
    return rows + ([photos_row(photos)] if photos else [])


def _fingerprint(plan: Plan, sources: list[dict[str, Any]]) -> str:
    """What decides the dataset's bytes: settings, inputs, tiles, rules, code and libraries.

    The tiles stand for the region's outline, which may change in the index without changing one of them.
    """
    tiles = sha256(b"".join(np.ascontiguousarray(s).tobytes() for s in plan.shards)).hexdigest()
    return _digest(plan, {"tiles": tiles, "sources": sources})


def _digest(plan: Plan, parts: dict[str, Any]) -> str:
    """SHA-256 (hex) of ``parts`` and of what decides the bytes of every shard; each has its own share of the rest."""
    parts |= {
        "config": plan.config.content(), "name": plan.region.name, "rules": plan.rules.fingerprint,
        "code": code_fingerprint("schemas", "geometry", *_ROOMS), "libraries": encoder_versions(),
    }  # fmt: skip
    return sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
