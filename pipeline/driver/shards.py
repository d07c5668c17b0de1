"""From settings to a dataset directory: regions → features → images → vocabulary → plan → photos → samples → shards →
catalog.

Each stage is one call. What an earlier run finished is not done again: downloads, features, cells, vector files and
photos are cached by the hash of their inputs, and a shard exists if its index rows, written last, do.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import numpy as np
import pyarrow.compute as pc
import shapely

from pipeline.driver.inputs import keep_inputs
from pipeline.driver.log import planned_drops
from pipeline.driver.plan import Plan, make_plan
from pipeline.driver.reasons import way_out
from pipeline.driver.run import Identity, Run, open_out
from pipeline.driver.sources import Region
from pipeline.imagery.sources import scene_digest, source_rows
from pipeline.meridian import split_boxes
from pipeline.run.metrics import RayMetrics
from pipeline.run.ray_map import Runner
from pipeline.run.versions import code_fingerprint, encoder_versions
from pipeline.samples.config import ShardsConfig
from pipeline.samples.job import Chips, Previous, ShardJob
from pipeline.samples.reuse import is_kept
from pipeline.streetview.plan import photos_row
from schemas.config import content
from schemas.errors import InputError
from storage.cache import using
from storage.dataset import read_catalog
from storage.nodes.copies import node_cache
from storage.progress import Progress, StageRow
from storage.status import Status
from storage.store import Store

#: Modules that decide a dataset's bytes, with all that they import.
_DECIDE = (
    "pipeline.samples.work", "pipeline.footprints.choose", "pipeline.footprints.producers",
    "pipeline.footprints.chips.plan", "pipeline.osm.cells.slabs", "pipeline.streetview.plan", "pipeline.catalog.fold",
)  # fmt: skip
#: Footprints that are hashed at a time: their columns take a kilobyte each.
_DIGESTED = 1 << 14


@dataclass(frozen=True)
class Outcome:
    """What a run did."""

    out: str
    document: dict[str, Any]  # dataset.json
    stages: list[StageRow]
    built: int  # shards written by this run, those taken over among them
    adopted: int = 0  # shards taken over from the earlier version


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
    with opened(config, quiet, region, previous) as (runner, plan, job, run), run.writing():
        keep_inputs(job.identity.fingerprint, plan.config, plan.region, plan.features)
        run.build(runner, [s.stop - s.start for s in plan.shards], job, quiet)
        document = run.finish(*plan.tables())
    require_samples(document, plan, run.store)
    return Outcome(run.store.root, document, run.stages, run.built, run.adopted)


@contextmanager
def opened(
    config: ShardsConfig, quiet: bool, region: Region | None = None, previous: Previous | None = None
) -> Iterator[tuple[Runner, Plan, Jobs, Run]]:
    """What a build needs: all that comes before the first shard is done, nothing is written to ``config.out`` yet.

    Raises:
        GeoshardsError: as `make_shards`.
    """
    began = time.monotonic()
    with using(node_cache(config.cache)), Runner(config.workers) as runner, _telling(config, runner) as status:

        def known(region: Region) -> None:
            status.name = config.name or region.name
            status.at(open_out(config.out, status.name, runner).root)

        plan = make_plan(config, runner, quiet, region, told=known)
        status.drops = planned_drops(plan)
        store = open_out(config.out, status.name, runner)
        job = Jobs(plan, store, previous)
        yield runner, plan, job, Run(store, status.name, job.identity, began, list(plan.stages), status=status)


def require_samples(document: dict[str, Any], plan: Plan, store: Store) -> None:
    """Refuse a dataset without a sample: nothing empty is called success.

    Raises:
        InputError: it is one; the message says why, and what helps.
    """
    if not document["samples"]:
        raise InputError(_no_sample(store, plan))


@contextmanager
def _telling(config: ShardsConfig, runner: Runner) -> Iterator[Status]:
    """What a build says of itself while it works: a document beside its dataset, and numbers for Prometheus on Ray."""
    meter = runner.meter
    status = Status("shards", lambda: meter.usage, lambda: meter.memory_mb, [RayMetrics()])
    status.name, status.stage = config.name, "plan"
    with status.telling(config.out):
        yield status


def _no_sample(store: Store, plan: Plan) -> str:
    """Why no footprint of a plan became a sample, and what helps."""
    drops = read_catalog(store, "drops")
    own = drops.filter(pc.and_(pc.equal(drops["stage"], "samples"), pc.is_valid(drops["key"]))).to_pylist()
    last = {row["key"]: row for row in own}  # of several, what became of it in the end
    counts = Counter(row["reason"] for row in last.values())
    found = ", ".join(f"{n:,} {reason}" for reason, n in counts.most_common())
    first = next((row["detail"] for row in last.values() if row["reason"] == counts.most_common(1)[0][0]), None)
    return (
        f"{store.root} holds no sample: all {len(plan.footprints):,} footprints were dropped: {found}"
        f"{f' ({first})' if first else ''}; {way_out(counts, plan.config, plan.scenes) or 'see docs/shards.md'}"
    )


@dataclass(frozen=True)
class Rehearsal:
    """What a build would do."""

    kept: int  # shards taken over from the earlier version
    built: list[list[str]]  # keys of the footprints of each other shard
    keys: list[str]  # of all footprints


def rehearse_shards(config: ShardsConfig, quiet: bool, region: Region | None, previous: Previous) -> Rehearsal:
    """What `make_shards` with the same arguments would do: all that comes before the first shard is done.

    Raises:
        GeoshardsError: as `make_shards`.
    """
    with using(node_cache(config.cache)), Runner(config.workers) as runner:
        plan = make_plan(config, runner, quiet, region)
        job = Jobs(plan, Store(config.out), previous)
        jobs = [job(i) for i in range(len(plan.shards))]
        kept, _ = runner.run(is_kept, jobs, Progress("shards", len(jobs), "shards", quiet), small=True)
    built = [list(j.footprints.keys) for j, taken in zip(jobs, kept, strict=True) if not taken]
    return Rehearsal(sum(kept), built, list(plan.footprints.footprints().keys))


class Jobs:
    """The job of each shard, by its number."""

    def __init__(self, plan: Plan, store: Store, previous: Previous | None) -> None:
        self.plan, self.store, self.previous = plan, store, previous
        self.digests = [scene_digest(s) for s in plan.scenes]
        self.identity = _identity(plan, _sources(plan, self.digests))
        self.areas = shapely.STRtree([s.area for s in plan.scenes])

    def __call__(self, index: int) -> ShardJob:
        plan, planned = self.plan, self.plan.footprints.take(self.plan.shards[index])
        footprints = planned.footprints()
        photos = {key: plan.photos[key] for key in footprints.keys if key in plan.photos}
        boxes = shapely.box(*split_boxes(planned.bbox())[0].T)
        near = np.unique(self.areas.query(boxes, predicate="intersects")[1]).tolist()
        order = {m: n for n, m in enumerate(sorted({s.mosaic for s in (plan.scenes[i] for i in near)}))}
        facts = [f"{self.digests[i]} {plan.scenes[i].acquired} {order[plan.scenes[i].mosaic]}" for i in near]
        imagery = sha256(" ".join(facts).encode()).hexdigest()
        chips = None
        if plan.chips is not None:
            rows = plan.chips.rows
            chips = Chips(plan.chips.folder, {k: rows[k] for k in footprints.keys if k in rows})
        return ShardJob(
            self.store.root, index, footprints, plan.config, plan.rules.paint, plan.objects_of(index),
            plan.region.licences, [plan.scenes[i] for i in near], bool(plan.scenes), chips, photos,
            self.identity.salt, imagery, self.previous,
        )  # fmt: skip


def _sources(plan: Plan, digests: list[str]) -> list[dict[str, Any]]:
    """Every input with its hash, licence and date; the chips of one collection are one."""
    region, rows = plan.region, []
    if plan.chips is not None and plan.config.chips.image == "own":
        by_source: dict[str, list[str]] = {}
        for row in plan.chips.rows.values():
            by_source.setdefault(row["source"], []).append(f"{row['key']} {row['image_hash']}")
        folder = plan.chips.folder.resolve().name
        for source, lines in sorted(by_source.items()):
            name = f"{folder} ({source})" if source else folder
            rows.append(_source("imagery", name, _digest(lines), plan.config.rs.licence, None))
    if plan.features is not None:
        for digest, name in sorted(zip(plan.features.hashes, plan.features.names, strict=True)):
            rows.append(_source("osm", name, digest, region.licences.get("osm"), plan.features.snapshot))
    elif plan.chips is not None and (own_files := [r for r in plan.chips.rows.values() if r["vectors"]]):
        lines = [f"{r['key']} {r['vectors_hash']}" for r in own_files]
        name, own = f"vector files of {plan.chips.folder.resolve().name}", plan.config.vectors
        rows.append(_source("osm", name, _digest(lines), own.licence, own.time))
    rows += source_rows(plan.scenes, plan.config.rs, region.licences.get("rs"), digests)
    photos = [p for own in plan.photos.values() for p in own]
    return rows + ([photos_row(photos)] if photos else [])


def _source(kind: str, name: str, digest: str, licence: str | None, date: str | None) -> dict[str, Any]:
    return {"kind": kind, "name": name, "sha256": digest, "licence": licence, "date": date}


def _digest(lines: list[str]) -> str:
    return sha256("\n".join(sorted(lines)).encode()).hexdigest()


def _identity(plan: Plan, sources: list[dict[str, Any]]) -> Identity:
    """What decides the dataset's bytes: settings, inputs, footprints, rules, code and libraries.

    The footprints stand for the region's outline, which may change in the index without changing one of them.
    """
    digest = sha256()
    for first in range(0, len(plan.footprints), _DIGESTED):
        digest.update(plan.footprints.take(slice(first, first + _DIGESTED)).footprints().to_bytes())
    digest.update(json.dumps([[s.start, s.stop] for s in plan.shards]).encode())
    settings = content(plan.config) | {"rules": plan.rules.fingerprint}
    versions = encoder_versions() | {"geoshards code": code_fingerprint(*_DECIDE)}
    return Identity(settings, sources, digest.hexdigest(), versions)
