"""``geoshards chips``: image chips and their vector files, or an extract, to a dataset.

Scan → chips (where each lies) → objects → vocabulary → samples → shards → catalog. What an earlier run finished is not
done again: parsed vector files and cells are cached by the hash of their inputs, and a shard exists if its index rows,
written last, do.
"""

from __future__ import annotations

import argparse
import inspect
import json
import re
import sys
import time
from dataclasses import dataclass, field, replace
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.driver.run import Run, open_out
from pipeline.footprints.chips.plan import (
    CHIPS,
    DescribeJob,
    cut_chips,
    describe_chips,
    drop_overlapping,
    footprint_of,
    same_bands,
)
from pipeline.footprints.chips.scan import find_chips
from pipeline.osm.stage import Cells, Features, code_fingerprint, features_stage, vocabulary_stage
from pipeline.osm.vectors.features import NamedParts, PartJob, name_parts, read_part
from pipeline.rules import Rules, load_rules
from pipeline.run.ray_map import Runner
from pipeline.run.versions import encoder_versions
from pipeline.samples.chips_config import ChipsConfig
from pipeline.samples.chips_work import ChipShardJob, build_chip_shard
from pipeline.streetview.plan import photos_of_footprints, photos_row
from pipeline.streetview.record import Photo
from pipeline.streetview.sources import open_source
from schemas.command import Command
from schemas.config import build, merge, parse_yaml, settings_help
from schemas.errors import ConfigError, InputError
from schemas.features import CELL_ZOOM, DROPS, drop_row
from storage.progress import Progress, StageRow, format_table, peak_memory_mb
from storage.store import Store
from storage.urls import cache_folder

#: Rooms whose code decides what a chip's objects are, and what decides a dataset's bytes.
_OBJECTS = (
    "schemas",
    "geometry",
    "storage",
    "pipeline/formats",
    "pipeline/osm",
    "pipeline/rules",
    "pipeline/footprints",
    "pipeline/tokens",
)
_ROOMS = (
    *_OBJECTS,
    "pipeline/catalog",
    "pipeline/imagery",
    "pipeline/samples",
    "pipeline/streetview",
    "pipeline/tokens",
)
#: Chips that one task describes, and how many one process does in the time that Ray takes to start.
_GROUP, _SMALL = 512, 4000


@dataclass
class ChipPlan:
    """What will be built."""

    folder: Path
    name: str
    rules: Rules
    shards: list[pa.Table]  # CHIPS rows of each shard
    drops: list[dict[str, Any]]  # of scanning, describing, overlaps and reading vector files
    parts: list[PartJob]  # vector files by shard; none with an extract
    named: NamedParts | None
    features: Features | None  # of the extracts
    cells: Cells | None
    stages: list[StageRow]
    photos: dict[str, list[Photo]] = field(default_factory=dict)  # by key of the chip

    @property
    def chips(self) -> int:
        """Number of planned chips."""
        return sum(s.num_rows for s in self.shards)


@dataclass(frozen=True)
class ChipsOutcome:
    """What a run did."""

    out: str
    document: dict[str, Any]  # dataset.json
    stages: list[StageRow]
    built: int  # shards written by this run


def plan_chips(config: ChipsConfig, runner: Runner, quiet: bool = False) -> ChipPlan:
    """All stages before the first sample.

    Raises:
        InputError: the folder holds no chip that can be used, or an extract cannot be read.
    """
    folder, cache = Path(config.folder).expanduser(), cache_folder(config.cache)
    rules = load_rules(config.rules)
    shards, drops, row = _chips_stage(config, folder, runner, quiet)
    name = re.sub("[^a-z0-9_-]+", "-", folder.resolve().name.lower()).strip("-")[:60] or "chips"
    plan = ChipPlan(folder, name, rules, shards, drops, [], None, None, None, [row])
    if config.extracts:
        paths = [Path(p).expanduser() for p in config.extracts.split(",") if p]
        plan.features, row = features_stage(paths, rules, cache, runner, quiet)
        plan.stages.append(row)
        plan.cells, row = vocabulary_stage(plan.features, rules, config.osm, CELL_ZOOM, cache, runner, quiet)
        plan.stages.append(row)
    else:
        _vectors_stages(config, plan, cache, runner, quiet)
    if config.streetview not in ("", "none"):
        _photos_stage(config, plan, cache, quiet)
    return plan


def _photos_stage(config: ChipsConfig, plan: ChipPlan, cache: Path, quiet: bool) -> None:
    """Photos that stand in the chips, fetched."""
    start = time.monotonic()
    source = open_source(config.streetview, config.sv, config.net, cache, quiet=quiet)
    rows = [row for shard in plan.shards for row in shard.to_pylist()]
    chosen = photos_of_footprints(source, config.sv, [footprint_of(row) for row in rows], quiet=quiet)
    plan.photos = {rows[i]["key"]: own for i, own in chosen.photos.items()}
    plan.drops += chosen.drops
    count, left = sum(len(own) for own in plan.photos.values()), sum(int(d["count"]) for d in chosen.drops)  # type: ignore[call-overload]
    plan.stages.append(StageRow("photos", count, "photos", time.monotonic() - start, peak_memory_mb(), left))


def _chips_stage(
    config: ChipsConfig, folder: Path, runner: Runner, quiet: bool
) -> tuple[list[pa.Table], list[dict[str, Any]], StageRow]:
    """Chips whose place is known, in shards, and DROPS rows of the others."""
    start = time.monotonic()
    files, drops = find_chips(folder)
    _licences(config)  # refused before the work begins
    if config.extracts and (unused := sum(bool(f.vectors) for f in files)):
        detail = "--osm names the objects of all chips"
        drops.append(drop_row("chips", folder.name, "vector_files_unused", detail=detail, count=unused))
    jobs = [DescribeJob(folder, files[i : i + _GROUP], config) for i in range(0, len(files), _GROUP)]
    found: list[tuple[int, pa.Table]] = []
    memory = peak_memory_mb()
    with Progress("chips", len(files), "chips", quiet) as progress:
        for index, (table, left_out), used in runner.map(describe_chips, jobs, small=len(files) < _SMALL):
            found.append((index, table))
            drops += left_out
            memory = max(memory, used)
            progress.advance(len(jobs[index].chips))
    tables = [table for _, table in sorted(found, key=lambda f: f[0])]
    chips = pa.concat_tables([CHIPS.empty_table(), *tables]).combine_chunks()
    drops.sort(key=lambda d: (d["source"], d["reason"]))
    if not chips.num_rows:
        raise InputError(f"no chip of {folder} can be used; the first: {drops[0]['source']}: {drops[0]['detail']}")
    same_bands(chips, config.rs.format)
    chips, overlapping = drop_overlapping(chips, config.chips.max_overlap)
    drops += overlapping
    shards = cut_chips(chips, config.chips.per_shard)
    seconds = time.monotonic() - start
    return shards, drops, StageRow("chips", chips.num_rows, "chips", seconds, memory, sum(d["count"] for d in drops))


def _vectors_stages(config: ChipsConfig, plan: ChipPlan, cache: Path, runner: Runner, quiet: bool) -> None:
    """Read the vector files of every shard, count and name their tags."""
    start = time.monotonic()
    code = code_fingerprint(*_OBJECTS)
    for index, shard in enumerate(plan.shards):
        columns = (shard[c].to_pylist() for c in ("key", "vectors", "vectors_hash"))
        chips = list(zip(*columns, strict=True))
        plan.parts.append(PartJob(index, plan.folder, cache, chips, plan.rules, code))
    memory, drops, cached = peak_memory_mb(), 0, True
    with Progress("objects", plan.chips, "chips", quiet) as progress:
        for index, result, used in runner.map(read_part, plan.parts, small=plan.chips < _SMALL):
            memory, drops, cached = max(memory, used), drops + result.drops, cached and result.cached
            progress.advance(plan.shards[index].num_rows)
    read = time.monotonic()
    plan.named = name_parts(plan.parts, config.osm.min_tag_count, config.osm.min_key_count)
    plan.drops += plan.named.drops
    count = len(plan.named.vocabulary.texts)
    cleaned = sum(int(d["count"]) for d in plan.named.drops) - drops
    plan.stages += [
        StageRow("objects", plan.named.objects, "objects", read - start, memory, drops, cached),
        StageRow("vocabulary", count, "tags", time.monotonic() - read, peak_memory_mb(), cleaned),
    ]


def make_chips(config: ChipsConfig, quiet: bool = False) -> ChipsOutcome:
    """Build the dataset of ``config`` into ``config.out``; a finished part is not repeated.

    Raises:
        GeoshardsError: an input cannot be used, or ``out`` holds another dataset.
    """
    with Runner(config.workers) as runner:
        began = time.monotonic()
        plan = plan_chips(config, runner, quiet)
        store = open_out(config.out, plan.name, runner)
        sources = _sources(plan, config)
        settings = config.content() | {"rules": plan.rules.fingerprint}
        run = Run(store, plan.name, settings, sources, _fingerprint(plan, settings, sources), began, list(plan.stages))
        with run.writing():
            job = partial(_job, config, plan, store)
            run.build(runner, len(plan.shards), job, build_chip_shard, "chips", quiet)
            document = run.finish(*_tables(plan))
    return ChipsOutcome(store.root, document, run.stages, run.built)


def _licences(config: ChipsConfig) -> dict[str, str]:
    if not config.rs.licence:
        raise ConfigError(
            f"the chips of {config.folder} declare no licence; say under which you may use them: --licence CC-BY-4.0, "
            "say"
        )
    return {"rs": config.rs.licence, "osm": "ODbL-1.0" if config.extracts else config.vectors.licence}


def _job(config: ChipsConfig, plan: ChipPlan, store: Store, index: int) -> ChipShardJob:
    part, ids = (None, None) if plan.named is None else (plan.parts[index], plan.named.ids[index])
    cells = None if plan.cells is None else (plan.cells.path, plan.cells.zoom)
    time_of = config.vectors.time if plan.features is None else plan.features.snapshot
    photos = {key: plan.photos[key] for key in plan.shards[index]["key"].to_pylist() if key in plan.photos}
    return ChipShardJob(
        store.root, index, plan.folder, plan.shards[index], config, plan.rules.paint, part, ids, cells, time_of,
        _licences(config), plan.name, photos,
    )  # fmt: skip


def _tables(plan: ChipPlan) -> tuple[pa.Table, pa.Table]:
    """Vocabulary and drops that belong to no shard."""
    drops = pa.Table.from_pylist(plan.drops, schema=DROPS)
    if plan.named is not None:
        return plan.named.vocabulary.table(), drops
    if plan.cells is None:
        raise InputError("the chips have neither vector files nor an extract")
    own = pq.read_table(plan.cells.folder / "drops.parquet").replace_schema_metadata(None)
    return pq.read_table(plan.cells.folder / "vocabulary.parquet"), pa.concat_tables([own, drops])


def _sources(plan: ChipPlan, config: ChipsConfig) -> list[dict[str, Any]]:
    """Every input with its hash, licence and date; the chips of one collection are one."""
    licences, rows = _licences(config), []
    by_source: dict[str, list[str]] = {}
    vectors: list[str] = []
    for shard in plan.shards:
        columns = (shard[c].to_pylist() for c in ("key", "source", "image_hash", "vectors", "vectors_hash"))
        for key, source, image, files, digest in zip(*columns, strict=True):
            by_source.setdefault(source, []).append(f"{key} {image}")
            vectors += [f"{key} {digest}"] if files else []
    for source, lines in sorted(by_source.items()):
        name = f"{plan.name} ({source})" if source else plan.name
        rows.append(_source("imagery", name, _digest(lines), licences.get("rs"), None))
    if plan.features is not None:
        for name, digest in zip(plan.features.names, plan.features.hashes, strict=True):
            rows.append(_source("osm", name, digest, licences["osm"], plan.features.snapshot))
    elif vectors:
        rows.append(
            _source("osm", f"vector files of {plan.name}", _digest(vectors), licences["osm"], config.vectors.time)
        )
    photos = [photo for own in plan.photos.values() for photo in own]
    return rows + ([photos_row(photos)] if photos else [])


def _source(kind: str, name: str, digest: str, licence: str | None, date: str | None) -> dict[str, Any]:
    return {"kind": kind, "name": name, "sha256": digest, "licence": licence, "date": date}


def _digest(lines: list[str]) -> str:
    return sha256("\n".join(sorted(lines)).encode()).hexdigest()


def _fingerprint(plan: ChipPlan, settings: dict[str, Any], sources: list[dict[str, Any]]) -> str:
    """What decides the dataset's bytes: settings, inputs, rules, code and libraries."""
    parts = {
        "config": settings, "name": plan.name, "sources": sources, "code": code_fingerprint(*_ROOMS),
        "libraries": encoder_versions(),
    }  # fmt: skip
    return sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


_OSM = "OSM extracts that hold the objects of all chips (default: each chip's own vector files)"
_FLAGS = {
    "out": "dataset directory or fsspec URL (default data/NAME of the folder)",
    "licence": "of the images, for ATTRIBUTION.md",
    "streetview": "photos: a folder with EXIF GPS, a CSV or Parquet table, panoramax, mapillary, kartaview",
    "workers": "processes (default: one a core)",
}
_HELP = """\
A chip is an image (.jpg, .png, .tif) with, by its stem:
  where it lies   in the GeoTIFF itself, a world file and CRS, or STEM_meta.json, STEM.json: {"bbox": [west, south,
                  east, north], "crs": "EPSG:3067"}; names and metadata of SkyScript are understood without a CRS
  its objects     STEM_point, STEM_line, STEM_polygon or STEM, as .geojson, .gpkg or .shp; or --osm
Subfolders are searched too. A chip that cannot be used is a row of `drops` with its reason.

settings:
"""


def _configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", help="folder of chips")
    parser.add_argument("--osm", nargs="+", metavar="FILE", help=_OSM)
    for name, text in _FLAGS.items():
        parser.add_argument(f"--{name}", help=text)
    parser.add_argument("--config", type=Path, help="YAML file of settings; flags and key=value go over it")
    parser.add_argument("settings", nargs="*", metavar="key=value", help="any setting below")
    parser.epilog = _HELP + settings_help(ChipsConfig(), inspect.getsource)


def read_chips_config(args: argparse.Namespace) -> ChipsConfig:
    """Settings from --config, then flags, then key=value."""
    given: dict[str, Any] = {}
    if args.config is not None:
        try:
            given = parse_yaml(args.config.read_text(encoding="utf-8"), str(args.config))
        except OSError as error:
            raise InputError(f"settings file {args.config} cannot be read: {error.strerror}") from None
    given["folder"] = args.folder
    words = list(args.osm or [])
    settings = [w for w in words if "=" in w and not Path(w).exists()]  # key=value just behind the files
    if words:
        given["extracts"] = ",".join(w for w in words if w not in settings)
    for name in ("out", "streetview"):
        if (value := getattr(args, name)) is not None:
            given[name] = value
    if args.workers is not None:
        given["workers"] = int(args.workers) if args.workers.lstrip("-").isdigit() else args.workers
    config = build(ChipsConfig, merge(given, [*settings, *args.settings]))
    return config if args.licence is None else replace(config, rs=replace(config.rs, licence=args.licence))


def _run(args: argparse.Namespace) -> int:
    outcome = make_chips(read_chips_config(args), quiet=args.quiet or args.json)
    d = outcome.document
    if args.json:
        result = {k: d[k] for k in ("samples", "shards", "bytes", "content_hash", "layout_hash")}
        stages = [s.as_dict() for s in outcome.stages]
        print(json.dumps({"out": outcome.out, "built": outcome.built, **result, "stages": stages}))
    elif not args.quiet:
        print(format_table(outcome.stages), file=sys.stderr)
        done = "nothing left to do: " if not outcome.built else ""
        size = f"{d['samples']:,} samples, {d['shards']:,} shards, {d['bytes'] / 1e6:,.1f} MB"
        print(f"{done}{outcome.out}: {size}, content {d['content_hash'][:12]}")
    return 0


COMMAND = Command("Build a dataset from image chips and their OSM objects", _configure, _run)
