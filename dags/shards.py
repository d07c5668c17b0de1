"""From a region to a dataset directory: regions → features → vocabulary → plan → samples → shards → catalog.

Each stage is one call. What an earlier run finished is not done again: features and cells are cached by the hash of
their inputs, and a shard exists if its index rows, written last, do.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from dags.inputs import keep_inputs
from pipeline.catalog.describe import dataset_document, load_dataset, write_documents
from pipeline.catalog.fold import finished, fold, groups, purge
from pipeline.catalog.store import Lock, Store, is_remote
from pipeline.config import ShardsConfig
from pipeline.imagery.local import Scene, open_scene
from pipeline.osm.stage import (
    Cells,
    Features,
    cache_folder,
    cell_ids,
    code_fingerprint,
    features_stage,
    file_sha256,
    read_cell,
    vocabulary_stage,
)
from pipeline.regions.resolve import Region, resolve
from pipeline.rules import Rules, load_rules
from pipeline.run.ray_map import Progress, Runner, StageRow, peak_memory_mb
from pipeline.run.versions import encoder_versions
from pipeline.shards.job import Previous, ShardJob, Tile
from pipeline.shards.plan import covered_by, cut_extents, cut_shards, extent_tiles, meeting, occupied, order_tiles
from pipeline.shards.work import build_shard
from pipeline.streetview.photos import Photo, read_photos
from schemas.catalog import SHARDS_PER_FILE, STAGES, catalog_file
from schemas.errors import ConfigError, DatasetError, InputError
from schemas.features import CELL_ZOOM, DROPS, drop_row
from schemas.footprint import lonlat_to_tile

#: Rooms whose code decides a dataset's bytes.
_ROOMS = tuple(f"pipeline/{r}" for r in ("catalog", "imagery", "osm", "rules", "shards", "streetview", "tokens"))

#: Tiles that one process builds in about the time that Ray takes to start.
_SMALL = 500


@dataclass
class Plan:
    """What will be built."""

    region: Region
    rules: Rules
    features: Features
    cells: Cells
    scenes: list[Scene]
    shards: list[NDArray[np.int64]]  # tiles [T,2] of each shard
    photos: dict[Tile, list[Photo]]
    drops: list[dict[str, Any]]  # of planning: photos that no tile holds
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


def make_plan(config: ShardsConfig, runner: Runner, quiet: bool = False, region: Region | None = None) -> Plan:
    """All stages before the first sample; ``region`` is resolved from the settings where it is not given."""
    cache = cache_folder(config.cache)
    start = time.monotonic()
    region = region or resolve(config, cache, quiet)
    if config.name:
        region = replace(region, name=config.name)
    rules = load_rules(config.rules)
    inputs = len(region.extracts) + len(region.imagery) + (region.streetview is not None)
    stages = [StageRow("regions", inputs, "inputs", time.monotonic() - start, peak_memory_mb())]
    features, row = features_stage(region.extracts, rules, cache, runner, quiet)
    stages.append(row)
    zoom = min(CELL_ZOOM, config.zoom)
    cells, row = vocabulary_stage(features, rules, config.osm, zoom, cache, runner, quiet)
    stages.append(row)
    start = time.monotonic()
    scenes = open_scenes(region.imagery)
    min_objects = config.plan.min_objects
    if min_objects is None:
        min_objects = 0 if scenes else 1
    tiles, unplanned = plan_tiles(config, features, cells, scenes, min_objects, region.clip)
    photos, drops = plan_photos(config, region, tiles)
    drops += unplanned
    shards = cut_shards(order_tiles(tiles, config.zoom), config.zoom, config.plan.tiles_per_shard)
    seconds = time.monotonic() - start
    stages.append(StageRow("plan", len(tiles), "tiles", seconds, peak_memory_mb(), sum(int(d["count"]) for d in drops)))
    return Plan(region, rules, features, cells, scenes, shards, photos, drops, min_objects, stages)


def plan_tiles(
    config: ShardsConfig, features: Features, cells: Cells, scenes: list[Scene], min_objects: int, area: Any = None
) -> tuple[NDArray[np.int64], list[dict[str, Any]]]:
    """Tiles (x, y) to build, i64[T,2]: in the extracts' extents and the area, inside the imagery, with enough objects.

    The others are counted in DROPS rows.
    """
    extents = features.extents if area is None else cut_extents(features.extents, area)
    tiles = extent_tiles(extents, config.zoom, config.plan.max_tiles)
    drops: list[dict[str, Any]] = []

    def keep(chosen: NDArray[np.bool_], reason: str) -> None:
        nonlocal tiles
        left = int((~chosen).sum())
        if left:
            detail = f"tiles of zoom {config.zoom} in the extent"
            drops.append(drop_row("plan", ",".join(features.names)[:200], reason, detail=detail, count=left))
        tiles = tiles[chosen]

    if area is not None:
        keep(meeting(tiles, config.zoom, area), "outside_region")
    if scenes:
        keep(covered_by(tiles, config.zoom, [s.area for s in scenes]), "no_imagery")
    if min_objects == 0 or not len(tiles):
        return tiles, drops
    shift = config.zoom - cells.zoom
    cell = (tiles[:, 1] >> shift) * (1 << cells.zoom) + (tiles[:, 0] >> shift)
    count = np.zeros(len(tiles), np.int64)
    for c in cell_ids(cells.path):
        own = np.flatnonzero(cell == c)
        if len(own):
            count[own] = occupied(tiles[own], config.zoom, read_cell(cells.path, c).geometry)
    keep(count >= min_objects, "too_few_objects")
    return tiles, drops


def open_scenes(paths: list[Path]) -> list[Scene]:
    """Describe the rasters of a run.

    Raises:
        InputError: one cannot be read, or they differ in bands or dtype.
    """
    scenes = [open_scene(path) for path in paths]
    for scene in scenes[1:]:
        if (scene.bands, scene.dtype) != (scenes[0].bands, scenes[0].dtype):
            raise InputError(
                f"imagery {scenes[0].name} ({', '.join(scenes[0].bands)}; {scenes[0].dtype}) and {scene.name} "
                f"({', '.join(scene.bands)}; {scene.dtype}) differ in bands; stack them with gdalbuildvrt -separate, "
                "or build a dataset each"
            )
    return scenes


def plan_photos(
    config: ShardsConfig, region: Region, tiles: NDArray[np.int64]
) -> tuple[dict[Tile, list[Photo]], list[dict[str, Any]]]:
    """Photos by tile, and DROPS rows of those that no planned tile holds."""
    if region.streetview is None:
        return {}, []
    photos, drops = read_photos(region.streetview, config.sv.licence)
    planned = {(int(x), int(y)) for x, y in tiles}
    by_tile: dict[Tile, list[Photo]] = {}
    for photo in photos:
        place = lonlat_to_tile(np.array([photo.lon, photo.lat]), config.zoom)
        x, y = np.floor(np.round(place, 8)).astype(np.int64)  # an edge is an edge although its arithmetic rounds
        if (int(x), int(y)) in planned:
            by_tile.setdefault((int(x), int(y)), []).append(photo)
        else:
            detail = f"{photo.lon:.6f}, {photo.lat:.6f} lies in no planned tile"
            drops.append(drop_row("streetview", "photos", "outside_tiles", key=photo.id, detail=detail))
    return by_tile, drops


def open_out(config: ShardsConfig, name: str, runner: Runner) -> Store:
    """The dataset directory of a run."""
    if not is_remote(config.out):
        return Store(Path(config.out or f"data/{name}").expanduser())
    if config.out.startswith("memory://") and runner.workers > 1:
        raise ConfigError("out=memory://… is seen by one process alone; give workers=1")
    return Store(config.out)


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
        GeoshardsError: an input cannot be used, or ``out`` holds another dataset.
    """
    began = time.monotonic()
    with Runner(config.workers) as runner:
        plan = make_plan(config, runner, quiet, region)
        store = open_out(config, plan.region.name, runner)
        sources = _sources(plan, config)
        fingerprint = _fingerprint(config, plan, sources)
        with Lock(store):
            store.sweep()
            _claim(store, fingerprint)
            stages = list(plan.stages)
            keep_inputs(fingerprint, config, plan.region, plan.features)
            salt = _salt(config, plan, sources)
            jobs = partial(_job, config, plan, store, salt, previous)
            built, adopted = _samples_stage(plan, store, runner, jobs, stages, quiet)
            start = time.monotonic()
            _catalog_stage(plan, store)
            settings = config.content() | {"rules": plan.rules.fingerprint}
            document = dataset_document(store, plan.region.name, settings, sources, encoder_versions(), fingerprint)
            stages.append(
                StageRow("catalog", document["samples"], "samples", time.monotonic() - start, peak_memory_mb())
            )
            total = StageRow(
                "total", document["samples"], "samples", time.monotonic() - began, max(s.peak_memory_mb for s in stages)
            )
            stages.append(total)
            if built or not store.exists("dataset.json"):
                rows = pa.Table.from_pylist([s.as_dict() for s in stages], schema=STAGES)
                store.write_table(catalog_file("stages", 0), rows)
                write_documents(store, document)
            store.remove("catalog/.pending/run.json")
            store.sweep()
    return Outcome(store.root, document, stages, built, adopted)


def _samples_stage(
    plan: Plan, store: Store, runner: Runner, job: Callable[[int], ShardJob], stages: list[StageRow], quiet: bool
) -> tuple[int, int]:
    """Build the shards that are missing; fold each group of them as soon as it is whole."""
    start = time.monotonic()
    done, folded = finished(store)
    members = groups(len(plan.shards))
    jobs = [job(i) for i in range(len(plan.shards)) if i not in done]
    progress = Progress("samples", sum(len(j.tiles) for j in jobs), "tiles", quiet)
    counts = {"samples": 0, "photos": 0, "drops": 0, "bytes": 0}
    memory, write_seconds, adopted = 0.0, 0.0, 0
    small = sum(len(j.tiles) for j in jobs) < _SMALL
    for _, result, worker_memory in runner.map(build_shard, jobs, small=small):
        done.add(result.index)
        memory = max(memory, worker_memory)
        write_seconds += result.write_seconds
        adopted += result.adopted
        for name in counts:
            counts[name] += getattr(result, name)
        progress.advance(result.planned)
        number = result.index // SHARDS_PER_FILE
        if done.issuperset(members[number]):
            fold(store, number, members[number])
            folded.add(number)
    progress.close()
    for number, group in enumerate(members):  # what an interrupted run left
        if number in folded:
            purge(store, group)
        else:
            fold(store, number, group)
    seconds = time.monotonic() - start
    stages.append(StageRow("samples", counts["samples"], "samples", seconds, memory, counts["drops"], cached=not jobs))
    stages.append(StageRow("shards", len(jobs), "shards", write_seconds, memory, 0, cached=not jobs))
    return len(jobs), adopted


def _job(config: ShardsConfig, plan: Plan, store: Store, salt: str, previous: Previous | None, index: int) -> ShardJob:
    tiles = plan.shards[index]
    photos = {t: plan.photos[t] for x, y in tiles if (t := (int(x), int(y))) in plan.photos}
    return ShardJob(
        store.root, index, tiles, config, plan.rules.paint, plan.cells.path, plan.cells.zoom, plan.scenes, photos,
        plan.min_objects, plan.features.snapshot, plan.region.licences, plan.region.name, salt, previous,
    )  # fmt: skip


def _catalog_stage(plan: Plan, store: Store) -> None:
    """Tables that belong to no shard: the vocabulary, and what was dropped before there were tiles."""
    vocabulary = pq.read_table(plan.cells.folder / "vocabulary.parquet").replace_schema_metadata(None)
    store.write_table(catalog_file("vocabulary", 0), vocabulary)
    drops = [pq.read_table(plan.cells.folder / "drops.parquet").replace_schema_metadata(None)]
    drops.append(pa.Table.from_pylist(plan.drops, schema=DROPS))
    store.write_table("catalog/drops/before-tiles.parquet", pa.concat_tables(drops).cast(DROPS))


def _sources(plan: Plan, config: ShardsConfig) -> list[dict[str, Any]]:
    """Every input with its hash, licence and date."""
    region, rows = plan.region, []
    for name, digest in zip(plan.features.names, plan.features.hashes, strict=True):
        rows.append(
            {
                "kind": "osm",
                "name": name,
                "sha256": digest,
                "licence": region.licences.get("osm"),
                "date": plan.features.snapshot,
            }
        )
    for scene in plan.scenes:
        licence = config.rs.licence or region.licences.get("rs")
        rows.append({"kind": "imagery", "name": scene.name, "sha256": file_sha256(Path(scene.path)), "licence": licence,
                     "date": config.rs.acquired or scene.acquired})  # fmt: skip
    if region.streetview is not None:
        photos = sorted(
            (p.path, json.dumps(asdict(p) | {"path": ""}, sort_keys=True)) for own in plan.photos.values() for p in own
        )
        digest = sha256("\n".join(f"{file_sha256(Path(path))} {row}" for path, row in photos).encode()).hexdigest()
        licence = config.sv.licence or region.licences.get("sv")
        rows.append(
            {"kind": "streetview", "name": region.streetview.name, "sha256": digest, "licence": licence, "date": None}
        )
    return rows


def _fingerprint(config: ShardsConfig, plan: Plan, sources: list[dict[str, Any]]) -> str:
    """What decides the dataset's bytes: settings, inputs, tiles, rules, code and libraries.

    The tiles stand for the region's outline, which may change in the index without changing one of them.
    """
    tiles = sha256(b"".join(np.ascontiguousarray(s).tobytes() for s in plan.shards)).hexdigest()
    return _digest(config, plan, {"tiles": tiles, "sources": sources})


def _salt(config: ShardsConfig, plan: Plan, sources: list[dict[str, Any]]) -> str:
    """What decides the bytes of every shard: the fingerprint less tiles, OSM data and photos, which each has its own
    share of."""
    return _digest(config, plan, {"sources": [s for s in sources if s["kind"] == "imagery"]})


def _digest(config: ShardsConfig, plan: Plan, parts: dict[str, Any]) -> str:
    parts |= {
        "config": config.content(), "name": plan.region.name, "rules": plan.rules.fingerprint,
        "code": code_fingerprint("schemas", "geometry", *_ROOMS), "libraries": encoder_versions(),
    }  # fmt: skip
    return sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _claim(store: Store, fingerprint: str) -> None:
    """Make sure that ``out`` is empty, or was begun or finished with the same settings and inputs."""
    found = None
    if store.exists("dataset.json"):
        found = load_dataset(store).get("fingerprint")
    elif store.exists("catalog/.pending/run.json"):
        found = json.loads(store.read("catalog/.pending/run.json")).get("fingerprint")
    elif store.names("shards"):
        found = "unknown"
    if not store.exists("dataset.json") and not store.names("shards"):
        found = None  # a run that wrote nothing claims nothing
    if found not in (None, fingerprint):
        raise DatasetError(
            f"{store.root} holds a dataset of other inputs, settings or versions; "
            "choose another out, or delete that folder"
        )
    if found is None:
        store.write("catalog/.pending/run.json", json.dumps({"fingerprint": fingerprint}).encode())
