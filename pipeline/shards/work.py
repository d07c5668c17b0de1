"""One shard: its planned tiles in, one tar and its index rows out."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.alignment import Placement, lonlat_to_normalised, place
from pipeline.imagery.local import TileImage, encode, read_tiles
from pipeline.osm.stage import read_cell, read_edit_times
from pipeline.shards.job import ShardJob, Tile
from pipeline.shards.reuse import adopt, shard_inputs
from pipeline.shards.write import ShardResult, ShardWriter, sample_meta
from pipeline.streetview.photos import encode_photo
from pipeline.tokens.build import build_tokens
from pipeline.tokens.raster import encode_png
from schemas.errors import InputError
from schemas.features import ObjectType, drop_row
from schemas.footprint import Footprint, xyz_footprint
from schemas.keys import XyzKey
from schemas.sample import JSON, OSM_RASTER, OSM_TOKENS, RsInfo, SampleMeta, StreetviewInfo, rounded
from schemas.tokens import OsmTokens

#: Pixels of class raster that are painted at once: 256 tiles of 256 px amortise the calls and stay below 1 GB.
_PIXELS = 256 * 256 * 256


@dataclass(frozen=True, eq=False)
class _Tokens:
    tokens: OsmTokens
    raster: NDArray[np.uint8] | None
    edited: str | None  # newest edit of its objects, ISO 8601


def build_shard(job: ShardJob) -> ShardResult:
    """Build and write one shard, or take it over from an earlier version of the dataset."""
    inputs = shard_inputs(job)
    if job.previous is not None and (kept := adopt(job, job.previous, inputs)) is not None:
        return kept
    writer = ShardWriter(job.out, job.index, job.osm_time, inputs)
    footprints = {
        (int(x), int(y)): xyz_footprint(XyzKey(job.config.zoom, int(x), int(y), job.config.size)) for x, y in job.tiles
    }
    images = _images(job, footprints, writer.drops)
    tiles = [t for t in footprints if not job.scenes or t in images]
    tokens = _tokens(job, footprints, tiles, writer.drops)
    tiles = [t for t in tiles if t in tokens]
    if tiles:
        placement = place([footprints[t] for t in tiles])
    for position, tile in enumerate(tiles):
        osm = tokens[tile]
        members, meta = _members(job, footprints[tile], images.get(tile), osm, tile, placement, position, writer.drops)
        writer.add(members, meta, osm.tokens, placement.corners[position], _licences(job, meta, osm.tokens))
    return writer.finish(len(job.tiles))


def _licences(job: ShardJob, meta: SampleMeta, tokens: OsmTokens) -> set[str]:
    """Licences of a sample's image and OSM data."""
    licences = {job.licences["osm"]} if len(tokens) and "osm" in job.licences else set()
    if meta.rs and (rs_licence := job.config.rs.licence or job.licences.get("rs")):
        licences.add(rs_licence)
    return licences


def _images(job: ShardJob, footprints: dict[Tile, Footprint], drops: list[dict[str, Any]]) -> dict[Tile, TileImage]:
    """Images that may be used; a tile without one, or with too much nodata, is a drop."""
    if not job.scenes:
        return {}
    found = read_tiles(job.scenes, footprints, job.config.rs)
    for tile, footprint in footprints.items():
        image = found.get(tile)
        if image is None:
            drops.append(drop_row("samples", job.source, "no_imagery", key=footprint.key))
        elif image.nodata_share > job.config.rs.max_nodata:
            detail = f"{image.nodata_share:.4f} of the pixels, over rs.max_nodata={job.config.rs.max_nodata}"
            drops.append(drop_row("samples", image.scene.name, "nodata", key=footprint.key, detail=detail))
            del found[tile]
    return found


def _tokens(
    job: ShardJob, footprints: dict[Tile, Footprint], tiles: list[Tile], drops: list[dict[str, Any]]
) -> dict[Tile, _Tokens]:
    """Tokens of ``tiles``, built cell by cell."""
    shift = job.config.zoom - job.cell_zoom
    cells: dict[int, list[Tile]] = {}
    for x, y in tiles:
        cells.setdefault((y >> shift) * (1 << job.cell_zoom) + (x >> shift), []).append((x, y))
    result: dict[Tile, _Tokens] = {}
    batch = min(256, max(1, _PIXELS // job.config.size**2))
    for cell, members in cells.items():
        for first in range(0, len(members), batch):
            result |= _token_batch(job, cell, members[first : first + batch], footprints)
    for tile in tiles:
        count = len(result[tile].tokens)
        if count < job.min_objects:
            detail = f"{count} objects, under plan.min_objects={job.min_objects}"
            drops.append(drop_row("samples", job.source, "too_few_objects", key=footprints[tile].key, detail=detail))
            del result[tile]
    return {t: result[t] for t in tiles if t in result}


def _token_batch(job: ShardJob, cell: int, tiles: list[Tile], footprints: dict[Tile, Footprint]) -> dict[Tile, _Tokens]:
    chosen = [footprints[t] for t in tiles]
    placement = place(chosen)
    west, south = placement.bbox[:, :2].min(axis=0)
    east, north = placement.bbox[:, 2:].max(axis=0)
    near = read_cell(job.cells, cell).near(west, south, east, north)
    settings = job.config.tokens
    built = build_tokens(
        near, chosen, settings.grid, paint=job.paint if settings.raster else None, gsd=placement.gsd.mean(axis=1),
        seed=settings.seed, explode=settings.explode,
    )  # fmt: skip
    rasters = built.rasters if built.rasters is not None else [None] * len(tiles)
    return {
        t: _Tokens(tokens, raster, _edited(job, cell, tokens))
        for t, tokens, raster in zip(tiles, built.tokens, rasters, strict=True)
    }


def _edited(job: ShardJob, cell: int, tokens: OsmTokens) -> str | None:
    """Newest edit of the objects of a tile, ISO 8601; None without objects, or where the extract has no times."""
    identity, times = read_edit_times(job.cells, cell)
    own = tokens.osm_id * len(ObjectType) + tokens.osm_type
    newest = int(times[np.searchsorted(identity, own)].max(initial=0))
    return datetime.fromtimestamp(newest, UTC).strftime("%Y-%m-%dT%H:%M:%SZ") if newest else None


def _members(
    job: ShardJob,
    footprint: Footprint,
    image: TileImage | None,
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
    if image is not None:
        name, members_bytes = encode(image.pixels, job.config.rs)
        members[name] = members_bytes
        acquired = job.config.rs.acquired or image.scene.acquired
        rs.append(
            RsInfo(
                name,
                image.scene.bands,
                str(image.pixels.dtype),
                image.scene.name,
                acquired,
                rounded(image.nodata_share),
            )
        )
    streetview = _streetview(job, footprint, tile, members, drops)
    meta = sample_meta(
        footprint, placement, position, job.config.split,
        osm_edited=osm.edited, rs=rs, streetview=streetview, provenance={"region": job.source},
    )  # fmt: skip
    members[JSON] = meta.to_bytes()
    return members, meta


def _streetview(
    job: ShardJob, footprint: Footprint, tile: Tile, members: dict[str, bytes], drops: list[dict[str, Any]]
) -> list[StreetviewInfo]:
    """Encode the tile's photos into ``members``."""
    infos: list[StreetviewInfo] = []
    photos = job.photos.get(tile, [])
    if not photos:
        return infos
    xy = lonlat_to_normalised(footprint, np.array([[p.lon, p.lat] for p in photos]))
    # The plan decided whose photo it is; on an edge the two ways of reckoning differ in the last digits.
    within = np.abs(xy - 0.5).max(axis=1) < 0.5 + 1e-6
    for photo, (x, y), there in zip(photos, xy, within, strict=True):
        if not there or len(infos) >= job.config.sv.max_per_tile:
            reason = "over_max_per_tile" if there else "outside_footprint"
            drops.append(drop_row("streetview", "photos", reason, key=photo.id, detail=footprint.key))
            continue
        try:
            data = encode_photo(photo.path, job.config.sv.size, job.config.sv.quality)
        except InputError as error:
            drops.append(drop_row("streetview", "photos", "unreadable_image", key=photo.id, detail=str(error)[:200]))
            continue
        name = f"sv.{len(infos)}.jpg"
        members[name] = data
        infos.append(
            StreetviewInfo(
                name,
                photo.id,
                rounded(photo.lon),
                rounded(photo.lat),
                _position(x),
                _position(y),
                None if photo.heading is None else rounded(photo.heading, 4),
                photo.captured_at,
                photo.projection,
                photo.licence or job.config.sv.licence or job.licences.get("sv"),
                photo.author,
            )
        )
    return infos


def _position(value: float) -> float:
    """A normalised coordinate for the JSON document: rounding never moves a photo out of its tile."""
    return min(max(rounded(value), 0.0), 1.0 - 1e-9)
