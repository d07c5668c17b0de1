"""The stages before the first sample, each of which makes a part of the plan: footprints, images, photos, objects."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import shapely
from numpy.typing import NDArray

from pipeline.alignment import place
from pipeline.driver.sources import Region
from pipeline.footprints.candidates import Candidates, Listed, Mixture
from pipeline.footprints.chips.plan import (
    CHIPS,
    DescribeJob,
    columns_of,
    describe_chips,
    drop_overlapping,
    same_bands,
)
from pipeline.footprints.chips.scan import find_chips
from pipeline.footprints.content import AROUND, NEAR, content_of
from pipeline.footprints.estimate import cells_of_boxes
from pipeline.footprints.ground import Box, Ground
from pipeline.footprints.producers import PRODUCERS, Drops, Wish
from pipeline.imagery.choice.usage import Use, drops_of, uses
from pipeline.imagery.scene import Scene
from pipeline.imagery.sources import find_imagery, licence_of, natural_zoom_of
from pipeline.meridian import quadrilaterals, split_boxes
from pipeline.net.stores import fetch_folder
from pipeline.osm.stage import Features
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
from storage.nodes.held import hold_by_hash
from storage.progress import Progress, StageRow
from storage.store import Store
from storage.urls import expand, is_local, shared_cache, shown

#: Chips that one task describes, and how many one process does in the time that Ray takes to start.
_GROUP, _SMALL = 512, 4000
#: Candidates whose photos are looked for at once.
_PICTURED = 500_000


def count_drops(drops: Sequence[dict[str, Any]]) -> int:
    """What DROPS rows stand for together."""
    return sum(int(d["count"]) for d in drops)


@dataclass(frozen=True, eq=False)
class ChipsFound:
    """Chips of a folder whose place is known."""

    folder: Path
    table: pa.Table  # CHIPS, sorted by key
    drops: Drops  # of the others

    @cached_property
    def rows(self) -> dict[str, dict[str, Any]]:
        """CHIPS rows by key."""
        return {row["key"]: row for row in self.table.to_pylist()}

    def candidates(self, own_images: bool) -> Listed:
        """The chips as footprints."""
        return Listed.of("chips", columns_of(list(self.rows.values())), own_images)


def chips_stage(config: ShardsConfig, cache: Path, runner: Runner, quiet: bool, stages: list[StageRow]) -> ChipsFound:
    """Describe the chips of ``chips.folder``, a copy of it where it is a URL.

    Raises:
        ConfigError: nobody says under which licence the images may be used.
        InputError: the folder holds no chip that can be used.
    """
    start = time.monotonic()
    url, vectors = config.chips.folder, config.region == "none"
    folder = Path(expand(url)) if is_local(url) else None
    files, drops = find_chips(folder) if folder is not None else ([], [])
    if config.chips.image == "own" and not config.rs.licence:  # refused before the work begins
        raise ConfigError(
            f"the chips of {shown(url)} declare no licence; say under which you may use them: --licence CC-BY-4.0, say"
        )
    if folder is None:
        folder = fetch_folder(url, cache / "chips", "chips.folder", config.net, quiet)
        files, drops = find_chips(folder)
    if not vectors and (unused := sum(bool(f.vectors) for f in files)):
        detail = "the extracts name the objects of all chips"
        drops.append(drop_row("chips", folder.name, "vector_files_unused", detail=detail, count=unused))
    jobs = [
        DescribeJob(folder, files[i : i + _GROUP], config.chips.crs, config.rs, vectors)
        for i in range(0, len(files), _GROUP)
    ]
    progress = Progress("chips", len(files), "chips", quiet)
    found, memory = runner.run(describe_chips, jobs, progress, lambda job: len(job.chips), small=len(files) < _SMALL)
    chips = pa.concat_tables([CHIPS.empty_table(), *(table for table, _ in found)]).combine_chunks()
    drops += [row for _, rows in found for row in rows]
    drops.sort(key=lambda d: (d["source"], d["reason"]))
    if not chips.num_rows:
        raise InputError(f"no chip of {folder} can be used; the first: {drops[0]['source']}: {drops[0]['detail']}")
    if config.chips.image == "own":
        same_bands(chips, config.rs.format)
    chips, overlapping = drop_overlapping(chips, config.chips.max_overlap)
    drops += overlapping
    stages.append(StageRow.since(start, "chips", chips.num_rows, "chips", memory, count_drops(drops)))
    return ChipsFound(folder, chips, drops)


def imagery_stage(
    config: ShardsConfig, region: Region, boxes: list[Box], cache: Path, quiet: bool, stages: list[StageRow]
) -> tuple[list[Scene], Drops]:
    """Scenes that meet the boxes, and DROPS rows of those that cannot be used."""
    if not region.imagery:
        return [], []
    start = time.monotonic()
    renew = config.sources.refresh == "newer"
    scenes, drops = find_imagery(region.imagery, boxes, config.rs, config.net, cache, renew, quiet)
    for scene in scenes:  # before anything else is fetched
        licence_of(scene, config.rs, region.licences.get("rs"))
    stages.append(StageRow.since(start, "imagery", len(scenes), "scenes", drops=count_drops(drops)))
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


def ground_stage(config: ShardsConfig, region: Region, features: Features, runner: Runner) -> tuple[Ground, Drops]:
    """Where the features of a region lie, and DROPS rows of those outside of the extracts' own boxes, for which these
    do not speak: of what reaches over a border they hold a part. An outline decides in the boxes' place."""
    level = NEAR if config.plan.least_objects(bool(region.imagery)) else AROUND
    return content_of(features, level, features.extents if region.clip is None else [], runner)


def searched(ground: Ground, clip: Any) -> list[Box]:
    """Few boxes around the ground of a region in which to look for images."""
    if clip is None:
        return ground.boxes()
    return ground.cut(shapely.bounds(shapely.get_parts(clip)).tolist()).boxes()


def under_images(config: ShardsConfig, ground: Ground, clip: Any, scenes: list[Scene]) -> tuple[Ground, Drops]:
    """The ground that scenes meet, and DROPS rows that count the footprints on the rest, which are never planned."""
    there = ground.meets([s.area for s in scenes])
    lost = ground.take(~there)
    lost = lost if clip is None else lost.take(lost.meets(shapely.get_parts(clip)))
    counts = {
        "tiles": lost.count(config.zoom or 0),
        "grid": cells_of_boxes(lost.bounds, (config.grid.gsd or 0.0) * config.size),
    }
    detail = "about so many, on ground that no image meets"
    return ground.take(there), [
        drop_row("plan", name, "no_imagery", detail=detail, count=counts[name])
        for name in config.footprints
        if counts.get(name)
    ]


def used_images(config: ShardsConfig, scenes: list[Scene], planned: Mixture, imagery: str) -> tuple[list[Use], Drops]:
    """What the planned footprints will take of each scene, and DROPS rows of the scenes of which they take nothing."""
    if not scenes:
        return [], []
    rows = np.flatnonzero(~np.array([p.pictured for p in planned.parts], bool)[planned.part])
    found = uses(scenes, (_outlined(planned.take(rows[i : i + _PICTURED])) for i in range(0, len(rows), _PICTURED)),
                 config.rs)  # fmt: skip
    return found, drops_of(found, imagery)


def _outlined(footprints: Mixture) -> tuple[NDArray[Any], NDArray[np.float64]]:
    """Lon/lat outlines, and metres a pixel."""
    placement = place(footprints.footprints())
    return quadrilaterals(placement.corners), placement.gsd.mean(axis=1)


def wish_of(config: ShardsConfig, ground: Ground | None, clip: Any, chips: ChipsFound | None = None) -> Wish:
    """What settings whose zoom and gsd are known ask of producers on this ground (None: everywhere)."""
    own = None if chips is None else chips.candidates(config.chips.image == "own")
    zoom, gsd = config.zoom or 0, config.grid.gsd or 0.0
    return Wish(ground, clip, zoom, gsd, config.size, config.plan.max_tiles, own)


def candidates_of(config: ShardsConfig, wish: Wish) -> tuple[list[Candidates], Drops]:
    """Candidates of each producer that the settings name, and DROPS rows of ground that none can have.

    Raises:
        ConfigError: there are more than ``plan.max_tiles``.
    """
    made = [PRODUCERS[name].make(wish) for name in config.footprints]
    return [candidates for candidates, _ in made], [row for _, rows in made for row in rows]


def boxes_around(chips: ChipsFound) -> list[Box]:
    """Few boxes (degrees) that hold all chips: one a square degree that has any."""
    bbox, _ = split_boxes(chips.candidates(False).bbox())
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
    source: Source, config: ShardsConfig, planned: Listed, fetch: bool, quiet: bool, stages: list[StageRow]
) -> tuple[dict[str, list[Photo]], Drops]:
    """Photos of each footprint by its key, fetched, and DROPS rows of the others."""
    start = time.monotonic()
    chosen = photos_of(source, config.sv, planned.columns, planned.placement, fetch, quiet)
    photos = {str(planned.columns.keys[i]): own for i, own in chosen.photos.items()}
    if fetch and not is_local(config.cache):  # for the nodes of a cluster
        paths = sorted({photo.path for own in photos.values() for photo in own})
        urls = hold_by_hash(Store(shared_cache(config.cache)), "photos", paths)
        photos = {key: [replace(photo, path=urls[photo.path]) for photo in own] for key, own in photos.items()}
    count = sum(map(len, photos.values()))
    stages.append(StageRow.since(start, "photos", count, "photos", drops=count_drops(chosen.drops)))
    return photos, list(chosen.drops)


def vectors_stage(
    config: ShardsConfig,
    chips: ChipsFound,
    shards: Sequence[NDArray[np.object_]],
    rules: Rules,
    cache: Path,
    runner: Runner,
    quiet: bool,
    stages: list[StageRow],
) -> tuple[list[PartJob], NamedParts]:
    """Read the vector files of every shard's chips (by key), count and name their tags."""
    start = time.monotonic()
    code = code_fingerprint("pipeline.osm.vectors.features")
    files = {key: (key, row["vectors"], row["vectors_hash"]) for key, row in chips.rows.items()}
    parts = [PartJob(i, chips.folder, cache, [files[k] for k in keys], rules, code) for i, keys in enumerate(shards)]
    progress = Progress("objects", len(files), "chips", quiet)
    results, memory = runner.run(read_part, parts, progress, lambda job: len(job.chips), small=len(files) < _SMALL)
    drops, cached = sum(r.drops for r in results), all(r.cached for r in results)
    read = time.monotonic()
    named = name_parts(parts, config.osm.min_tag_count, config.osm.min_key_count)
    tags, cleaned = len(named.vocabulary.texts), count_drops(named.drops) - drops
    stages.append(StageRow("objects", named.objects, "objects", read - start, memory, drops, cached))
    stages.append(StageRow.since(read, "vocabulary", tags, "tags", drops=cleaned))
    return parts, named


def meeting(scenes: list[Scene], outlines: NDArray[Any]) -> list[Scene]:
    """The scenes that meet an outline (lon/lat polygons)."""
    hit = np.unique(shapely.STRtree([s.area for s in scenes]).query(outlines, predicate="intersects")[1])
    return [scenes[i] for i in hit.tolist()]
