"""The stages before the first sample, each of which makes a part of the plan: footprints, images, photos, objects."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import shapely
from numpy.typing import NDArray

from pipeline.driver.sources import Region
from pipeline.footprints.candidates import Candidates, Listed
from pipeline.footprints.chips.plan import (
    CHIPS,
    DescribeJob,
    columns_of,
    describe_chips,
    drop_overlapping,
    same_bands,
)
from pipeline.footprints.chips.scan import find_chips
from pipeline.footprints.plan import Box, cut_extents
from pipeline.footprints.producers import PRODUCERS, Drops, Wish
from pipeline.imagery.scene import Scene
from pipeline.imagery.sources import find_imagery, licence_of, natural_zoom_of
from pipeline.osm.vectors.features import NamedParts, PartJob, name_parts, read_part
from pipeline.rules import Rules
from pipeline.run.ray_map import Runner
from pipeline.run.versions import code_fingerprint
from pipeline.samples.config import ShardsConfig
from pipeline.streetview.plan import photos_of
from pipeline.streetview.record import Photo
from pipeline.streetview.sources import Source, open_source
from schemas.errors import ConfigError, InputError
from schemas.features import drop_row
from storage.progress import Progress, StageRow, peak_memory_mb

#: Chips that one task describes, and how many one process does in the time that Ray takes to start.
_GROUP, _SMALL = 512, 4000
#: Candidates whose photos are looked for at once.
_PICTURED = 500_000


def count_drops(drops: Sequence[dict[str, Any]]) -> int:
    """What DROPS rows stand for together."""
    return sum(int(d["count"]) for d in drops)


@dataclass
class Stages:
    """Rows of the closing table, in the making."""

    rows: list[StageRow]

    def add(self, stage: str, items: int, unit: str, start: float, drops: int = 0, memory: float = 0.0) -> None:
        """A stage that began at ``start`` (time.monotonic()) is done."""
        memory = max(memory, peak_memory_mb())
        self.rows.append(StageRow(stage, items, unit, time.monotonic() - start, memory, drops))


@dataclass(frozen=True, eq=False)
class ChipsFound:
    """Chips of a folder whose place is known."""

    folder: Path
    table: pa.Table  # CHIPS, sorted by key
    drops: Drops  # of the others

    def candidates(self, own_images: bool) -> Listed:
        """The chips as footprints."""
        return Listed.of("chips", columns_of(self.table.to_pylist()), own_images)


def chips_stage(config: ShardsConfig, runner: Runner, quiet: bool, stages: Stages) -> ChipsFound:
    """Describe the chips of ``chips.folder``.

    Raises:
        ConfigError: nobody says under which licence the images may be used.
        InputError: the folder holds no chip that can be used.
    """
    start = time.monotonic()
    folder, vectors = Path(config.chips.folder).expanduser(), config.region == "none"
    files, drops = find_chips(folder)
    if config.chips.image == "own" and not config.rs.licence:  # refused before the work begins
        raise ConfigError(
            f"the chips of {config.chips.folder} declare no licence; say under which you may use them: --licence "
            "CC-BY-4.0, say"
        )
    if not vectors and (unused := sum(bool(f.vectors) for f in files)):
        detail = "the extracts name the objects of all chips"
        drops.append(drop_row("chips", folder.name, "vector_files_unused", detail=detail, count=unused))
    jobs = [
        DescribeJob(folder, files[i : i + _GROUP], config.chips.crs, config.rs.acquired, vectors)
        for i in range(0, len(files), _GROUP)
    ]
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
    if config.chips.image == "own":
        same_bands(chips, config.rs.format)
    chips, overlapping = drop_overlapping(chips, config.chips.max_overlap)
    drops += overlapping
    stages.add("chips", chips.num_rows, "chips", start, count_drops(drops), memory)
    return ChipsFound(folder, chips, drops)


def imagery_stage(
    config: ShardsConfig, region: Region, boxes: list[Box], cache: Path, quiet: bool, stages: Stages
) -> tuple[list[Scene], Drops]:
    """Scenes that meet the boxes, and DROPS rows of those that cannot be used."""
    if not region.imagery:
        return [], []
    start = time.monotonic()
    renew = config.sources.refresh == "newer"
    scenes, drops = find_imagery(region.imagery, boxes, config.rs, config.net, cache, renew, quiet)
    for scene in scenes:  # before anything else is fetched
        licence_of(scene, config.rs, region.licences.get("rs"))
    stages.add("imagery", len(scenes), "scenes", start, count_drops(drops))
    return scenes, drops


def own_zoom(config: ShardsConfig, imagery: str, scenes: list[Scene]) -> int:
    """Zoom of the tiles: the setting's, else the imagery's own, else 16, at which a pixel of 256 is 2.4 m."""
    if config.zoom is not None:
        return config.zoom
    own = natural_zoom_of(imagery, scenes, config.rs, config.size) if imagery else None
    return 16 if own is None else own


def own_gsd(config: ShardsConfig, scenes: list[Scene]) -> float:
    """Metres a pixel of grid cells: the setting's, else the finest imagery's to a millimetre, else 10."""
    known = [s.gsd for s in scenes if s.gsd]
    return config.grid.gsd or (max(0.01, round(min(known), 3)) if known else 10.0)


def wish_of(config: ShardsConfig, extents: list[Box], clip: Any, chips: ChipsFound | None = None) -> Wish:
    """What settings whose zoom and gsd are known ask of producers on this ground."""
    own = None if chips is None else chips.candidates(config.chips.image == "own")
    zoom, gsd = config.zoom or 0, config.grid.gsd or 0.0
    return Wish(cut_extents(extents, clip), clip, zoom, gsd, config.size, config.plan.max_tiles, own)


def candidates_of(config: ShardsConfig, wish: Wish) -> tuple[list[Candidates], Drops]:
    """Candidates of each producer that the settings name, and DROPS rows of ground that none can have.

    Raises:
        ConfigError: there are more than ``plan.max_tiles``.
    """
    made = [PRODUCERS[name].make(wish) for name in config.footprints]
    return [candidates for candidates, _ in made], [row for _, rows in made for row in rows]


def boxes_around(bbox: NDArray[Any]) -> list[Box]:
    """Few boxes that hold all of f64[N,4] (degrees): one a square degree that has any."""
    block = np.floor(bbox[:, :2]).astype(np.int64)
    _, owner = np.unique(block, axis=0, return_inverse=True)
    groups = [bbox[owner.ravel() == i] for i in range(int(owner.max(initial=-1)) + 1)]
    return [(*g[:, :2].min(axis=0).tolist(), *g[:, 2:].max(axis=0).tolist()) for g in groups]


def open_photos(config: ShardsConfig, region: Region, cache: Path, quiet: bool) -> Source | None:
    """The source of photos, if there is one."""
    if not region.streetview:
        return None
    renew = config.sources.refresh == "newer"
    return open_source(
        region.streetview, config.sv, config.net, cache, licence=region.licences.get("sv"), renew=renew, quiet=quiet
    )


def pictured(source: Source, config: ShardsConfig, quiet: bool, candidates: Candidates) -> NDArray[np.bool_]:
    """In which footprints a photo was taken that may be used, bool[N]."""
    result = np.zeros(len(candidates), bool)
    for first in range(0, len(candidates), _PICTURED):
        part = Listed.of("", candidates.take(slice(first, first + _PICTURED)).footprints())
        chosen = photos_of(source, config.sv, part.columns, part.placement, fetch=False, quiet=quiet)
        result[[first + i for i in chosen.photos]] = True
    return result


def photos_stage(
    source: Source | None, config: ShardsConfig, planned: Listed, fetch: bool, quiet: bool, stages: Stages
) -> tuple[dict[str, list[Photo]], Drops]:
    """Photos of each footprint by its key, fetched, and DROPS rows of the others."""
    if source is None:
        return {}, []
    start = time.monotonic()
    chosen = photos_of(source, config.sv, planned.columns, planned.placement, fetch, quiet)
    photos = {str(planned.columns.keys[i]): own for i, own in chosen.photos.items()}
    drops: Drops = list(chosen.drops)
    stages.add("photos", sum(len(own) for own in photos.values()), "photos", start, count_drops(drops))
    return photos, drops


def vectors_stage(
    config: ShardsConfig,
    chips: ChipsFound,
    shards: Sequence[NDArray[np.object_]],
    rules: Rules,
    cache: Path,
    runner: Runner,
    quiet: bool,
    stages: Stages,
) -> tuple[list[PartJob], NamedParts]:
    """Read the vector files of every shard's chips (by key), count and name their tags."""
    start = time.monotonic()
    code = code_fingerprint("pipeline.osm.vectors.features")
    columns = (chips.table[c].to_pylist() for c in ("key", "vectors", "vectors_hash"))
    files = {row[0]: row for row in zip(*columns, strict=True)}
    parts = [PartJob(i, chips.folder, cache, [files[k] for k in keys], rules, code) for i, keys in enumerate(shards)]
    memory, drops, cached = peak_memory_mb(), 0, True
    with Progress("objects", len(files), "chips", quiet) as progress:
        for index, result, used in runner.map(read_part, parts, small=len(files) < _SMALL):
            memory, drops, cached = max(memory, used), drops + result.drops, cached and result.cached
            progress.advance(len(shards[index]))
    read = time.monotonic()
    named = name_parts(parts, config.osm.min_tag_count, config.osm.min_key_count)
    stages.rows.append(StageRow("objects", named.objects, "objects", read - start, memory, drops, cached))
    stages.add("vocabulary", len(named.vocabulary.texts), "tags", read, count_drops(named.drops) - drops)
    return parts, named


def meeting(scenes: list[Scene], outlines: NDArray[Any]) -> list[Scene]:
    """The scenes that meet an outline (lon/lat polygons)."""
    if not scenes:
        return []
    areas = np.array([s.area for s in scenes], dtype=object)
    hit = np.unique(shapely.STRtree(areas).query(outlines, predicate="intersects")[1])
    return [scenes[i] for i in hit.tolist()]
