"""A small dataset directory made from ``schemas`` alone: for tests and benchmarks on machines without geodata.

What an image and a photo show depends on the tokens, so that a model can learn from it: polygons are painted in the
colour of their tag, lines and points over them, and a photo has the colour of the ground where it was taken.
"""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal
from zlib import crc32

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from geometry.tiles import tile_bounds, tile_to_lonlat, xyz_footprint
from schemas.bands import RGB, canonical, published
from schemas.catalog import SAMPLES, SCHEMA_VERSION, SHARDS, STREETVIEW, catalog_file, shard_name
from schemas.features import VOCABULARY, Kind
from schemas.footprint import Footprint
from schemas.index import IndexPart, index_file
from schemas.keys import XyzKey
from schemas.relations import Relation
from schemas.sample import (
    JSON,
    OSM_TOKENS,
    RsInfo,
    SampleMeta,
    StreetviewInfo,
    canonical_json,
    content_hash,
    layout_hash,
    member_order,
    sample_hash,
)  # fmt: skip
from schemas.tags import split_text, tag_id
from schemas.tokens import OsmTokens, empty_tokens, snap

#: Tag text, kind and colour of what is painted.
CLASSES: tuple[tuple[str, Kind, tuple[int, int, int]], ...] = (
    ("natural:water", Kind.POLYGON, (30, 60, 200)),
    ("landuse:forest", Kind.POLYGON, (20, 110, 30)),
    ("landuse:farmland", Kind.POLYGON, (210, 190, 80)),
    ("building:building", Kind.POLYGON, (170, 60, 50)),
    ("landuse:residential", Kind.POLYGON, (150, 150, 160)),
    ("highway:residential", Kind.LINE, (245, 245, 245)),
    ("railway:rail", Kind.LINE, (30, 30, 30)),
    ("natural:tree", Kind.POINT, (90, 220, 90)),
    ("amenity:restaurant", Kind.POINT, (250, 120, 220)),
)
BACKGROUND = (110, 100, 90)
#: Corners of a synthetic polygon, and sub-samples a side of a grid cell for its cover.
CORNERS, SUBSAMPLES = 12, 4


Made = tuple[SampleMeta, dict[str, bytes], OsmTokens]


@dataclass(frozen=True)
class SyntheticSettings:
    """What the dataset holds."""

    samples: int = 64
    size: int = 128  # pixels a side of an image
    photo_size: int = 64
    photos: int = 2  # most photos a sample; the first sample of every eight has none
    objects: int = 12  # mean objects a sample; every 16th sample has none
    samples_per_shard: int = 32
    grid: int = 14  # patches a side
    zoom: int = 16
    seed: int = 0
    splits: tuple[str, ...] = ("train",)  # given to the samples in turn
    bands: tuple[str, ...] = ("R", "G", "B")  # of an image, as it calls them, in channel order
    dtype: Literal["uint8", "uint16"] = "uint8"
    form: Literal["jpg", "png", "npy"] = "jpg"  # of an image; npy for any bands and types


@dataclass(frozen=True, eq=False)
class _Object:
    kind: Kind
    colour: tuple[int, int, int]
    tag: int
    path: NDArray[np.float64]  # [V,2] normalised: corners of a polygon, vertices of a line, or the point
    centre: NDArray[np.float64]  # [2]
    radius: float  # of a polygon's circle; 0 otherwise


def write_dataset(root: str | Path, settings: SyntheticSettings | None = None) -> Path:
    """Write the dataset to the directory ``root`` and return it."""
    s = settings or SyntheticSettings()
    starts = range(0, s.samples, s.samples_per_shard)
    every = ([make_sample(i, s) for i in range(at, min(s.samples, at + s.samples_per_shard))] for at in starts)
    return write_samples(Path(root), every, s)


def write_samples(root: Path, groups: Iterable[Sequence[Made]], s: SyntheticSettings) -> Path:
    """Write a dataset of samples that are there, group by group into shards."""
    (root / "shards").mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = []
    shards: list[dict[str, Any]] = []
    photos: list[dict[str, Any]] = []
    for made in groups:
        name = shard_name(len(shards)) + ".tar"
        part, digest = _write_shard(root / "shards" / name, name, made)
        rows += part
        photos += [_photo_row(name, meta, p) for meta, _, _ in made for p in meta.streetview]
        shards.append(_shard_row(name, len(shards), part, digest, (root / "shards" / name).stat().st_size))
    for number, row in enumerate(rows):
        row["split"] = s.splits[number % len(s.splits)]
    for table, schema, content in (
        ("samples", SAMPLES, rows), ("shards", SHARDS, shards), ("streetview", STREETVIEW, photos),
        ("vocabulary", VOCABULARY, _vocabulary(s)),
    ):  # fmt: skip
        path = root / catalog_file(table, 0)
        path.parent.mkdir(parents=True, exist_ok=True)
        written = pa.Table.from_pylist(content, schema)
        pq.write_table(written, path)
        if table == "samples":
            (root / index_file(0)).parent.mkdir(parents=True, exist_ok=True)
            (root / index_file(0)).write_bytes(IndexPart.of(written).to_bytes())
    info = {
        "schema_version": SCHEMA_VERSION,
        "content_hash": content_hash((r["key"], r["sha256"]) for r in rows),
        "layout_hash": layout_hash((r["shard"], r["sha256"]) for r in shards),
        "config": {"synthetic": {"samples": s.samples, "size": s.size, "seed": s.seed}},
        "sources": [{"name": "synthetic", "licence": "CC0-1.0"}],
    }
    (root / "dataset.json").write_bytes(canonical_json(info))
    return root


def _rng(s: SyntheticSettings, index: int) -> np.random.Generator:
    return np.random.default_rng([s.seed, index])


def _objects(index: int, s: SyntheticSettings) -> list[_Object]:
    if index % 16 == 15:
        return []
    rng = _rng(s, index)
    found = []
    for number in range(max(1, int(rng.poisson(s.objects)))):
        text, kind, colour = CLASSES[int(rng.integers(5 if number < 2 else len(CLASSES)))]
        centre = rng.uniform(0.1, 0.9, 2)
        radius = 0.0
        if kind is Kind.POLYGON:
            radius = float(rng.uniform(0.08, 0.4) if number < 2 else rng.uniform(0.03, 0.12))
            angle = np.linspace(0, 2 * np.pi, CORNERS, endpoint=False)
            path = np.clip(centre + radius * np.stack((np.cos(angle), -np.sin(angle)), 1), 0, 1)
        elif kind is Kind.LINE:
            path = rng.uniform(0, 1, (2, 2))
            centre = path.mean(0)
        else:
            path = centre[None]
        found.append(_Object(kind, colour, tag_id(text), path, centre, radius))
    return sorted(found, key=lambda o: o.kind)


def _paint(objects: Sequence[_Object], s: SyntheticSettings, rng: np.random.Generator) -> NDArray[np.uint8]:
    image = Image.new("RGB", (s.size, s.size), BACKGROUND)
    pen = ImageDraw.Draw(image)
    for o in sorted(objects, key=lambda o: (-o.kind, -o.radius)):
        points = [(float(x) * s.size, float(y) * s.size) for x, y in o.path]
        if o.kind is Kind.POLYGON:
            pen.polygon(points, fill=o.colour)
        elif o.kind is Kind.LINE:
            pen.line(points, fill=o.colour, width=max(1, s.size // 32))
        else:
            r = s.size / 40
            x, y = points[0]
            pen.ellipse((x - r, y - r, x + r, y + r), fill=o.colour)
    noise = rng.normal(0, 6, (s.size, s.size, 1))
    return np.clip(np.asarray(image, np.float64) + noise, 0, 255).astype(np.uint8)


def _edges(objects: Sequence[_Object]) -> tuple[NDArray[np.int32], NDArray[np.uint8]]:
    """Relations that circles and points decide exactly; lines are linked to circles that they pass."""
    pairs, codes = [], []
    for i, a in enumerate(objects):
        for j in range(i + 1, len(objects)):
            b = objects[j]
            gap = float(np.hypot(*(a.centre - b.centre)))
            code = None
            if a.kind is b.kind is Kind.POLYGON and gap < a.radius + b.radius:
                inner = gap <= abs(a.radius - b.radius)
                code = (Relation.COVERED_BY if a.radius < b.radius else Relation.COVERS) if inner else Relation.OVERLAPS
            elif a.kind is Kind.POINT and b.kind is Kind.POLYGON and gap < b.radius:
                code = Relation.WITHIN
            elif a.kind is Kind.LINE and b.kind is Kind.POLYGON and _distance(a.path, b.centre) < b.radius:
                code = Relation.CROSSES
            elif a.kind is b.kind is Kind.POINT and gap < 0.3:
                code = Relation.DELAUNAY
            if code is not None:
                pairs.append((i, j))
                codes.append(code)
    return np.array(pairs, np.int32).reshape(-1, 2).T, np.array(codes, np.uint8)


def _distance(segment: NDArray[np.float64], point: NDArray[np.float64]) -> float:
    a, b = segment
    t = float(np.clip(np.dot(point - a, b - a) / max(float(np.dot(b - a, b - a)), 1e-12), 0, 1))
    return float(np.hypot(*(a + t * (b - a) - point)))


def _patches(objects: Sequence[_Object], grid: int) -> tuple[list[int], list[int], list[float]]:
    """Incidence (cell, object, cover): circles by sub-samples, lines by points along them."""
    side = (np.arange(grid * SUBSAMPLES) + 0.5) / (grid * SUBSAMPLES)
    y, x = np.meshgrid(side, side, indexing="ij")
    cell, owner, cover = [], [], []
    for k, o in enumerate(objects):
        if o.kind is Kind.POLYGON:
            inside = (x - o.centre[0]) ** 2 + (y - o.centre[1]) ** 2 < o.radius**2
            share = inside.reshape(grid, SUBSAMPLES, grid, SUBSAMPLES).mean((1, 3)).reshape(-1)
        else:
            steps = 256 if o.kind is Kind.LINE else 1
            t = (np.arange(steps) + 0.5)[:, None] / steps
            along = o.path[0] + t * (o.path[-1] - o.path[0])
            where = np.clip((along * grid).astype(int), 0, grid - 1)
            length = float(np.hypot(*(o.path[-1] - o.path[0]))) * grid if o.kind is Kind.LINE else 1.0
            share = np.bincount(where[:, 1] * grid + where[:, 0], minlength=grid * grid) * (length / steps)
        held = np.flatnonzero(share)
        cell += held.tolist()
        owner += [k] * len(held)
        cover += share[held].tolist()
    return cell, owner, cover


def _tokens(objects: Sequence[_Object], s: SyntheticSettings, rng: np.random.Generator) -> OsmTokens:
    if not objects:
        return empty_tokens((s.grid, s.grid))
    n = len(objects)
    anchors = np.full((n, 4, 2), np.nan, np.float32)
    extent = np.zeros(n, np.float32)
    for k, o in enumerate(objects):
        anchors[k, 0] = o.centre
        if o.kind is Kind.LINE:
            anchors[k, 1:3] = o.path
            extent[k] = np.hypot(*(o.path[1] - o.path[0]))
        elif o.kind is Kind.POLYGON:
            anchors[k, 1:] = np.clip(o.centre + rng.uniform(-0.6, 0.6, (3, 2)) * o.radius, 0, 1)
            extent[k] = min(1.0, np.pi * o.radius**2)
    edges, relation = _edges(objects)
    cell, owner, cover = _patches(objects, s.grid)
    tags = np.array([o.tag for o in objects], np.int64)
    kind = np.array([o.kind for o in objects], np.uint8)
    distinct, row = np.unique(tags, return_inverse=True)

    def total(which: Kind) -> NDArray[np.float32]:
        return np.bincount(row, np.where(kind == which, extent, 0), len(distinct)).astype(np.float32)

    rings = np.arange(n + 1, dtype=np.int32)
    return OsmTokens(
        kind=kind, osm_type=np.minimum(kind, 1).astype(np.uint8), osm_id=np.arange(1, n + 1),
        tag_offsets=rings, tag_ids=tags, anchors=anchors, extent=extent,
        vertices=snap(np.concatenate([o.path for o in objects])),
        ring_offsets=np.concatenate(([0], np.cumsum([len(o.path) for o in objects]))).astype(np.int32),
        object_ring_offsets=rings, edges=edges, relation=relation,
        patch_grid=np.array([s.grid, s.grid], np.uint16), patch_cell=np.array(cell, np.uint16),
        patch_object=np.array(owner, np.int32), patch_cover=np.array(cover, np.float32),
        region_tag_id=distinct, region_count=np.bincount(row, minlength=len(distinct)).astype(np.int32),
        region_area=total(Kind.POLYGON), region_length=total(Kind.LINE),
    )  # fmt: skip


def _encoded(pixels: NDArray[Any], form: str = "jpg") -> bytes:
    """An image [H,W,C]."""
    out = io.BytesIO()
    if form == "npy":
        np.save(out, np.ascontiguousarray(pixels.transpose(2, 0, 1)), allow_pickle=False)
    else:
        Image.fromarray(pixels).save(out, "JPEG" if form == "jpg" else "PNG", quality=90)
    return out.getvalue()


def _image_info(s: SyntheticSettings) -> RsInfo:
    return RsInfo(f"rs.{s.form}", list(s.bands), s.dtype, "synthetic")


def _measured(painted: NDArray[np.uint8], s: SyntheticSettings) -> NDArray[Any]:
    """What an image [H,W,C] holds of its bands, by what each is, wherever it stands; u8[H,W,3] is what it shows."""
    planes = []
    for name in _image_info(s).names:
        plain = canonical(name)
        shift = sum(plain.encode()) % 64 - 32  # bands that no eye sees differ, too
        seen = painted[..., RGB.index(plain)] if plain in RGB else np.clip(painted.mean(2) + shift, 0, 255)
        mean, deviation = published(name, s.dtype) or (10_000.0, 2_000.0)
        planes.append(seen if s.dtype == "uint8" else np.clip(mean + (seen - 127.5) / 63.75 * deviation, 1, 65535))
    return np.rint(np.stack(planes, 2)).astype(s.dtype)


def make_sample(index: int, s: SyntheticSettings) -> Made:
    """One sample: its document, its members and its tokens."""
    rng = _rng(s, index + 1_000_000)
    objects = _objects(index, s)
    # Tiles spread over Europe, so that neighbours in a batch are not neighbours on the ground.
    column, row = 33000 + (index * 37) % 2500, 21500 + (index * 91) % 2000
    footprint = xyz_footprint(XyzKey(s.zoom, column, row, s.size))
    image = _paint(objects, s, rng)
    tokens = _tokens(objects, s, rng)
    members = {f"rs.{s.form}": _encoded(_measured(image, s), s.form), OSM_TOKENS: tokens.to_bytes()}
    streetview = []
    for k in range(0 if index % 8 == 0 else int(rng.integers(1, s.photos + 1)) if s.photos else 0):
        x, y = rng.uniform(0.02, 0.98, 2)
        colour = image[int(y * s.size), int(x * s.size)].astype(np.float64)
        pixels = np.clip(colour + rng.normal(0, 10, (s.photo_size, s.photo_size, 3)), 0, 255).astype(np.uint8)
        members[f"sv.{k}.jpg"] = _encoded(pixels)
        lon, lat = tile_to_lonlat(np.array([column + x, row + y]), s.zoom)
        streetview.append(
            StreetviewInfo(f"sv.{k}.jpg", f"synthetic-{index}-{k}", float(lon), float(lat), float(x), float(y),
                           heading=float(rng.uniform(0, 360)), licence="CC0-1.0")
        )  # fmt: skip
    meta = _meta(footprint, (column, row), s, streetview)
    members[JSON] = meta.to_bytes()
    return meta, members, tokens


def _meta(
    footprint: Footprint, tile: tuple[int, int], s: SyntheticSettings, streetview: list[StreetviewInfo]
) -> SampleMeta:
    west, south, east, north = tile_bounds(np.array([tile]), s.zoom)[0].tolist()
    lon, lat = tile_to_lonlat(np.add(tile, 0.5), s.zoom)
    gsd = float(footprint.transform[0] * np.cos(np.radians(lat)))
    return SampleMeta(
        footprint=footprint, gsd=(gsd, gsd), lon=float(lon), lat=float(lat),
        bbox=(west, south, east, north),
        rs=[_image_info(s)], streetview=streetview,
    )  # fmt: skip


def _write_shard(path: Path, name: str, made: Sequence[Made]) -> tuple[list[dict[str, Any]], str]:
    rows = []
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for position, (meta, members, tokens) in enumerate(made):
            places = []
            for member in sorted(members, key=member_order):
                info = tarfile.TarInfo(f"{meta.footprint.key}.{member}")
                info.size = len(members[member])
                tar.addfile(info, io.BytesIO(members[member]))
                end = buffer.tell()
                place = {"name": member, "offset": end - -(-info.size // 512) * 512, "size": info.size}
                places.append({**place, "crc32": crc32(members[member])})
            rows.append(_sample_row(name, position, meta, members, tokens, places))
    path.write_bytes(buffer.getvalue())
    return rows, sha256(buffer.getvalue()).hexdigest()


def _sample_row(
    shard: str, position: int, meta: SampleMeta, members: dict[str, bytes], tokens: OsmTokens, places: list[Any]
) -> dict[str, Any]:
    points, lines, polygons = tokens.counts()
    return {
        "key": meta.footprint.key, "shard": shard, "position": position, "members": places,
        "sha256": sample_hash(members), "bbox": dict(zip(("xmin", "ymin", "xmax", "ymax"), meta.bbox, strict=True)),
        "lon": meta.lon, "lat": meta.lat, "gsd_x": meta.gsd[0], "gsd_y": meta.gsd[1],
        "n_rs": 1, "n_point": points, "n_line": lines, "n_polygon": polygons, "n_edges": len(tokens.relation),
        "n_streetview": len(meta.streetview), "licences": ["CC0-1.0"],
    }  # fmt: skip


def _photo_row(shard: str, meta: SampleMeta, photo: StreetviewInfo) -> dict[str, Any]:
    return {"key": meta.footprint.key, "shard": shard, **vars(photo)}


def _shard_row(name: str, index: int, rows: list[dict[str, Any]], digest: str, size: int) -> dict[str, Any]:
    boxes = np.array([[r["bbox"][side] for side in ("xmin", "ymin", "xmax", "ymax")] for r in rows])
    bbox = (*boxes[:, :2].min(0).tolist(), *boxes[:, 2:].max(0).tolist())
    counts = ("n_rs", "n_point", "n_line", "n_polygon", "n_edges", "n_streetview")
    return {
        "shard": name, "index": index, "planned": len(rows), "samples": len(rows), "bytes": size, "sha256": digest,
        "bbox": dict(zip(("xmin", "ymin", "xmax", "ymax"), bbox, strict=True)),
        **{c: sum(r[c] for r in rows) for c in counts},
    }  # fmt: skip


def _vocabulary(s: SyntheticSettings) -> list[dict[str, Any]]:
    tags = [o.tag for i in range(s.samples) for o in _objects(i, s)]
    rows = []
    for text, _, _ in CLASSES:
        key, value = split_text(text)
        same_key = [tag_id(t) for t, _, _ in CLASSES if split_text(t)[0] == key]
        rows.append({
            "tag_id": tag_id(text), "key": key, "value": value, "text": text,
            "tag_count": tags.count(tag_id(text)), "key_count": sum(tags.count(t) for t in same_key),
        })  # fmt: skip
    return sorted(rows, key=lambda r: r["tag_id"])
