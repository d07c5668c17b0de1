"""One shard: its planned tiles in, one tar and its index rows out."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.alignment import Placement, place
from pipeline.imagery.encode import encode
from pipeline.imagery.read import read_images
from pipeline.imagery.scene import TileImage
from pipeline.osm.stage import read_cell, read_edit_times
from pipeline.samples.job import ShardJob, Snapshot, Tile
from pipeline.samples.reuse import adopt, shard_inputs
from pipeline.samples.write import ShardResult, ShardWriter, sample_meta
from pipeline.streetview.members import add_photos
from pipeline.tokens.build import build_tokens
from pipeline.tokens.raster import encode_png
from schemas.features import ObjectType, drop_row
from schemas.footprint import Footprint, xyz_footprint
from schemas.keys import XyzKey
from schemas.sample import JSON, OSM_RASTER, OSM_TOKENS, RsInfo, SampleMeta, rounded
from schemas.tokens import OsmTokens

#: Pixels of class raster that are painted at once: 256 tiles of 256 px amortise the calls and stay below 1 GB.
_PIXELS = 256 * 256 * 256


@dataclass(frozen=True, eq=False)
class _Tokens:
    tokens: OsmTokens
    raster: NDArray[np.uint8] | None
    edited: str | None  # newest edit of its objects, ISO 8601
    snapshot: Snapshot


def build_shard(job: ShardJob) -> ShardResult:
    """Build and write one shard, or take it over from an earlier version of the dataset.

    Raises:
        Unavailable: a server of images does not answer, now; the next run goes on with this shard.
    """
    inputs = shard_inputs(job)
    if job.previous is not None and (kept := adopt(job, job.previous, inputs)) is not None:
        return kept
    writer = ShardWriter(job.out, job.index, job.config.split, inputs)
    footprints = {
        (int(x), int(y)): xyz_footprint(XyzKey(job.zoom, int(x), int(y), job.config.size)) for x, y in job.tiles
    }
    images: dict[Tile, list[TileImage]] = {}
    if job.with_imagery:
        images, rows = read_images(job.scenes, footprints, job.config.rs, job.config.net, job.source)
        writer.drops += rows
    tiles = [t for t in footprints if not job.with_imagery or t in images]
    tokens = _tokens(job, footprints, tiles, images, writer.drops)
    tiles = [t for t in tiles if t in tokens]
    if tiles:
        placement = place([footprints[t] for t in tiles])
    for position, tile in enumerate(tiles):
        osm, own = tokens[tile], images.get(tile, [])
        members, meta = _members(job, footprints[tile], own, osm, tile, placement, position, writer.drops)
        writer.add(
            members, meta, osm.tokens, placement.corners[position], _licences(job, own, osm.tokens), osm.snapshot.time
        )
    return writer.finish(len(job.tiles))


def _licences(job: ShardJob, images: list[TileImage], tokens: OsmTokens) -> set[str]:
    """Licences of a sample's images and OSM data."""
    licences = {job.licences["osm"]} if len(tokens) and "osm" in job.licences else set()
    named = (job.config.rs.licence or image.scene.licence or job.licences.get("rs") for image in images)
    return licences | {licence for licence in named if licence}


def _tokens(
    job: ShardJob,
    footprints: dict[Tile, Footprint],
    tiles: list[Tile],
    images: dict[Tile, list[TileImage]],
    drops: list[dict[str, Any]],
) -> dict[Tile, _Tokens]:
    """Tokens of ``tiles``, built cell by cell."""
    shift = job.zoom - job.cell_zoom
    cells: dict[tuple[Snapshot, int], list[Tile]] = {}
    for x, y in tiles:
        own = images.get((x, y))
        snapshot = job.snapshot_for(own[0].acquired if own else None)
        cells.setdefault((snapshot, (y >> shift) * (1 << job.cell_zoom) + (x >> shift)), []).append((x, y))
    result: dict[Tile, _Tokens] = {}
    batch = min(256, max(1, _PIXELS // job.config.size**2))
    for (snapshot, cell), members in cells.items():
        for first in range(0, len(members), batch):
            result |= _token_batch(job, snapshot, cell, members[first : first + batch], footprints)
    for tile in tiles:
        count = len(result[tile].tokens)
        if count < job.min_objects:
            detail = f"{count} objects, under plan.min_objects={job.min_objects}"
            drops.append(drop_row("samples", job.source, "too_few_objects", key=footprints[tile].key, detail=detail))
            del result[tile]
    return {t: result[t] for t in tiles if t in result}


def _token_batch(
    job: ShardJob, snapshot: Snapshot, cell: int, tiles: list[Tile], footprints: dict[Tile, Footprint]
) -> dict[Tile, _Tokens]:
    chosen = [footprints[t] for t in tiles]
    placement = place(chosen)
    west, south = placement.bbox[:, :2].min(axis=0)
    east, north = placement.bbox[:, 2:].max(axis=0)
    near = read_cell(snapshot.cells, cell).near(west, south, east, north)
    settings = job.config.tokens
    built = build_tokens(
        near, chosen, settings.patch_grid, paint=job.paint if settings.raster else None, gsd=placement.gsd.mean(axis=1),
        seed=settings.seed, explode=settings.explode,
    )  # fmt: skip
    rasters = built.rasters if built.rasters is not None else [None] * len(tiles)
    return {
        t: _Tokens(tokens, raster, _edited(snapshot, cell, tokens), snapshot)
        for t, tokens, raster in zip(tiles, built.tokens, rasters, strict=True)
    }


def _edited(snapshot: Snapshot, cell: int, tokens: OsmTokens) -> str | None:
    """Newest edit of the objects of a tile, ISO 8601; None without objects, or where the extract has no times."""
    identity, times = read_edit_times(snapshot.cells, cell)
    own = tokens.osm_id * len(ObjectType) + tokens.osm_type
    newest = int(times[np.searchsorted(identity, own)].max(initial=0))
    return datetime.fromtimestamp(newest, UTC).strftime("%Y-%m-%dT%H:%M:%SZ") if newest else None


def _members(
    job: ShardJob,
    footprint: Footprint,
    images: list[TileImage],
    osm: _Tokens,
    tile: Tile,
    placement: Placement,
    position: int,
    drops: list[dict[str, Any]],
) -> tuple[dict[str, bytes], SampleMeta]:
    """Members of one sample, and its JSON document as an object."""
    members = {OSM_TOKENS: osm.tokens.to_bytes()}
    if osm.raster is not None:
        members[OSM_RASTER] = encode_png(osm.raster, job.paint.palette)
    rs: list[RsInfo] = []
    for number, image in enumerate(images):
        name, data = encode(image.pixels, job.config.rs, number if job.config.rs.dates > 1 else None, image.original)
        members[name] = data
        source = ", ".join(image.sources) or image.scene.name
        share = rounded(image.nodata_share)
        rs.append(
            RsInfo(name, image.scene.bands, str(image.pixels.dtype), source, image.acquired, share, image.stretch)
        )
    taken = rs[0].acquired if rs else None
    streetview = add_photos(footprint, job.photos.get(tile, []), job.config.sv, taken, members, drops)
    meta = sample_meta(
        footprint, placement, position,
        osm_edited=osm.edited, rs=rs, streetview=streetview, provenance={"region": job.source},
    )  # fmt: skip
    members[JSON] = meta.to_bytes()
    return members, meta
