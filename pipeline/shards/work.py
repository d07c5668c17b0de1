"""One shard: its planned tiles in, one tar and its index rows out."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import numpy as np
import pyarrow as pa
import shapely
from numpy.typing import NDArray

from pipeline.alignment import lonlat_to_normalised, place
from pipeline.catalog.store import Store
from pipeline.config import ShardsConfig
from pipeline.imagery.local import Scene, TileImage, encode, read_tiles
from pipeline.osm.stage import read_cell
from pipeline.rules import PaintRules
from pipeline.shards.tar import TarWriter
from pipeline.streetview.photos import Photo, encode_photo
from pipeline.tokens.build import build_tokens
from pipeline.tokens.raster import encode_png
from schemas.catalog import TABLES, pending_file, shard_name
from schemas.errors import InputError
from schemas.features import drop_row
from schemas.footprint import Footprint, xyz_footprint
from schemas.keys import XyzKey
from schemas.sample import (
    JSON,
    OSM_RASTER,
    OSM_TOKENS,
    RsInfo,
    SampleMeta,
    StreetviewInfo,
    member_order,
    rounded,
    sample_hash,
)
from schemas.splits import assign_split
from schemas.tokens import OsmTokens

Tile = tuple[int, int]

#: Pixels of class raster that are painted at once: 256 tiles of 256 px amortise the calls and stay below 1 GB.
_PIXELS = 256 * 256 * 256


@dataclass(frozen=True)
class ShardJob:
    """Everything one task needs."""

    out: str
    index: int
    tiles: NDArray[np.int64]  # [T,2] x, y in shard order
    config: ShardsConfig
    paint: PaintRules
    cells: str  # Parquet file
    cell_zoom: int
    scenes: list[Scene]
    photos: dict[Tile, list[Photo]]
    min_objects: int
    osm_time: str | None
    licences: dict[str, str]  # osm | rs | sv
    source: str  # region name


@dataclass(frozen=True)
class ShardResult:
    """What the driver is told."""

    index: int
    planned: int
    samples: int
    photos: int
    bytes: int
    drops: int
    write_seconds: float


@dataclass(frozen=True, eq=False)
class _Tokens:
    tokens: OsmTokens
    raster: NDArray[np.uint8] | None


def build_shard(job: ShardJob) -> ShardResult:
    """Build and write one shard: the tar first, its index rows after it, the row of ``shards`` last."""
    drops: list[dict[str, Any]] = []
    footprints = {
        (int(x), int(y)): xyz_footprint(XyzKey(job.config.zoom, int(x), int(y), job.config.size)) for x, y in job.tiles
    }
    images = _images(job, footprints, drops)
    tiles = [t for t in footprints if not job.scenes or t in images]
    tokens = _tokens(job, footprints, tiles, drops)
    tiles = [t for t in tiles if t in tokens]
    tar = TarWriter()
    samples: list[dict[str, Any]] = []
    streetview: list[dict[str, Any]] = []
    if tiles:
        placement = place([footprints[t] for t in tiles])
    for position, tile in enumerate(tiles):
        members, meta = _members(
            job, footprints[tile], images.get(tile), tokens[tile], tile, placement, position, drops
        )
        samples.append(_sample_row(job, tar, members, meta, tokens[tile].tokens, placement.corners[position], position))
        streetview += [_photo_row(job, meta.footprint.key, info) for info in meta.streetview]
    started = time.monotonic()
    size = _write(job, tar, samples, streetview, drops)
    spent = time.monotonic() - started
    return ShardResult(job.index, len(job.tiles), len(samples), len(streetview), size, len(drops), spent)


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
    features = read_cell(job.cells, cell)
    b = shapely.bounds(features.geometry).reshape(-1, 4)
    west, south = placement.bbox[:, :2].min(axis=0)
    east, north = placement.bbox[:, 2:].max(axis=0)
    near = np.flatnonzero((b[:, 0] <= east) & (b[:, 2] >= west) & (b[:, 1] <= north) & (b[:, 3] >= south))
    settings = job.config.tokens
    built = build_tokens(
        features.take(near), chosen, settings.grid,
        paint=job.paint if settings.raster else None, gsd=placement.gsd.mean(axis=1), seed=settings.seed,
    )  # fmt: skip
    rasters = built.rasters if built.rasters is not None else [None] * len(tiles)
    return {t: _Tokens(tokens, raster) for t, tokens, raster in zip(tiles, built.tokens, rasters, strict=True)}


def _members(
    job: ShardJob,
    footprint: Footprint,
    image: TileImage | None,
    osm: _Tokens,
    tile: Tile,
    placement: Any,
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
    bbox = tuple(rounded(v) for v in placement.bbox[position])
    meta = SampleMeta(
        footprint=footprint,
        gsd=(rounded(placement.gsd[position, 0]), rounded(placement.gsd[position, 1])),
        lon=rounded(placement.centre[position, 0]),
        lat=rounded(placement.centre[position, 1]),
        bbox=(bbox[0], bbox[1], bbox[2], bbox[3]),
        split=assign_split((bbox[0], bbox[1], bbox[2], bbox[3]), job.config.split),
        osm_time=job.osm_time,
        rs=rs,
        streetview=streetview,
        provenance={"region": job.source},
    )
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


def _sample_row(
    job: ShardJob,
    tar: TarWriter,
    members: dict[str, bytes],
    meta: SampleMeta,
    tokens: OsmTokens,
    corners: NDArray[np.float64],
    position: int,
) -> dict[str, Any]:
    """Append the sample to the tar; its row of ``samples``."""
    index = []
    for name in sorted(members, key=member_order):
        offset = tar.add(f"{meta.footprint.key}.{name}", members[name])
        index.append({"name": name, "offset": offset, "size": len(members[name])})
    n_point, n_line, n_polygon = tokens.counts()
    licences = {job.licences["osm"]} if len(tokens) and "osm" in job.licences else set()
    if meta.rs and (rs_licence := job.config.rs.licence or job.licences.get("rs")):
        licences.add(rs_licence)
    licences |= {info.licence for info in meta.streetview if info.licence}
    return {
        "key": meta.footprint.key, "shard": f"{shard_name(job.index)}.tar", "position": position, "members": index,
        "sha256": sample_hash(members), "bbox": dict(zip(("xmin", "ymin", "xmax", "ymax"), meta.bbox, strict=True)),
        "lon": meta.lon, "lat": meta.lat, "gsd_x": meta.gsd[0], "gsd_y": meta.gsd[1], "split": meta.split,
        "n_rs": len(meta.rs), "n_point": n_point, "n_line": n_line, "n_polygon": n_polygon,
        "n_edges": len(tokens.relation), "n_streetview": len(meta.streetview),
        "rs_time": meta.rs[0].acquired if meta.rs else None, "osm_time": meta.osm_time,
        "licences": sorted(licences), "geometry": shapely.to_wkb(shapely.Polygon(corners)),
    }  # fmt: skip


def _photo_row(job: ShardJob, key: str, info: StreetviewInfo) -> dict[str, Any]:
    row = {name: getattr(info, name) for name in TABLES["streetview"].names if hasattr(info, name)}
    return row | {"key": key, "shard": f"{shard_name(job.index)}.tar"}


def _write(
    job: ShardJob,
    tar: TarWriter,
    samples: list[dict[str, Any]],
    streetview: list[dict[str, Any]],
    drops: list[dict[str, Any]],
) -> int:
    """Put the tar, then its rows; ``shards`` comes last and says that all of it is there."""
    store = Store(job.out)
    name = f"{shard_name(job.index)}.tar"
    data = tar.finish()
    store.write(f"shards/{name}", data)
    rows = {"samples": samples, "streetview": streetview, "drops": drops}
    rows["shards"] = [_shard_row(job, name, data, samples)]
    for table in ("samples", "streetview", "drops", "shards"):
        store.write_table(pending_file(table, job.index), pa.Table.from_pylist(rows[table], schema=TABLES[table]))
    return len(data)


def _shard_row(job: ShardJob, name: str, data: bytes, samples: list[dict[str, Any]]) -> dict[str, Any]:
    totals: Counter[str] = Counter()
    for row in samples:
        totals.update({k: row[k] for k in ("n_rs", "n_point", "n_line", "n_polygon", "n_edges", "n_streetview")})
    boxes = np.array([list(row["bbox"].values()) for row in samples]).reshape(-1, 4)
    bbox = None
    if len(boxes):
        bounds = [*boxes[:, :2].min(axis=0), *boxes[:, 2:].max(axis=0)]
        bbox = dict(zip(("xmin", "ymin", "xmax", "ymax"), map(float, bounds), strict=True))
    counts = {k: totals[k] for k in ("n_rs", "n_point", "n_line", "n_polygon", "n_edges", "n_streetview")}
    return {
        "shard": name, "index": job.index, "planned": len(job.tiles), "samples": len(samples), "bytes": len(data),
        "sha256": sha256(data).hexdigest(), "bbox": bbox, **counts,
    }  # fmt: skip
