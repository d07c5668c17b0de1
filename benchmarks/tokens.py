#!/usr/bin/env python3
"""Race: tokens alone, from cells in memory, one core, against a plain batched prototype of the same.

Usage: python benchmarks/tokens.py [--places liechtenstein,monaco,andorra] [--runs 3] [--parts tokens,scale,raster]
       [--tiles 500]

Prints one JSON line of medians and ratios. CPU seconds of one thread are counted, so that what else runs on the machine
weighs less. The extracts are of the real test data (tests/real/README.md says where to get them).

tokens  Batches of up to 256 tiles of a cell, cut from it by bounds, as the shards stage makes them. The prototype does
        for all tiles of a batch at once what shapely offers: one tree for tile-feature pairs, intersection for those
        not inside, one tree over the tiles' objects moved apart, one `relate` of the pairs that intersect; 14 × 14
        cover by intersection with the cells, except where one lies inside the other; anchors by its own functions. It
        neither snaps, nor sums up, nor cuts its arrays into samples. Its objects, relations and cover (within 1e-6)
        are compared with ours in every run; a difference ends it.
scale   Time a tile in a region and in 40 copies of it side by side, all in one batch of features.
raster  Class raster of 1024 px against 31 bands of one class each: a rasterio call a band, and feature by feature as
        OlmoEarth draws it (allenai/olmoearth_pretrain, rasterize_openstreetmap.py), if scikit-image is installed.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import rasterio.features
import shapely

from geometry.tiles import xyz_footprint
from pipeline.alignment import place, project
from pipeline.driver.plan import make_plan
from pipeline.osm.cells.near import coastline_of
from pipeline.osm.coast import Coastline
from pipeline.osm.features import FeatureBatch
from pipeline.osm.stage import read_cell
from pipeline.rules import load_rules
from pipeline.run.ray_map import Runner
from pipeline.samples.config import ShardsConfig
from pipeline.tokens.build import build_tokens
from pipeline.tokens.clip import clip
from pipeline.tokens.pack import pack
from pipeline.tokens.raster import class_rasters
from schemas.features import VALUE, Kind
from schemas.footprint import Footprint
from schemas.keys import XyzKey
from schemas.relations import DISJOINT, Relation, classify_all
from schemas.tokens import OsmTokens

_ROOT = Path(__file__).resolve().parents[1]
_DATA = Path(os.environ.get("GEOSHARDS_TEST_DATA") or _ROOT / "../shared/data")
_PLACES = {
    "liechtenstein": ("osm/liechtenstein/liechtenstein_2022-07-24.osm.pbf", 16),
    "monaco": ("osm/monaco/monaco_2023-12-25.osm.pbf", 17),
    "andorra": ("osm/andorra/andorra_2019.osm.pbf", 16),
}
_SIZE, _GRID, _TILES = 256, (14, 14), 256
_RASTER_SIZE, _RASTER_TILES, _COPIES = 1024, 32, 40
PAINT = load_rules().paint


@dataclass(frozen=True)
class Region:
    """Cells in memory and the tiles to build of each."""

    zoom: int
    cells: list[tuple[FeatureBatch, np.ndarray, Coastline | None]]  # features; tiles i64[T,2]; coastline


@dataclass(frozen=True)
class Batch:
    """What one call builds."""

    features: FeatureBatch
    footprints: list[Footprint]
    gsd: np.ndarray
    centre: np.ndarray
    coast: Coastline | None

    def at_sea(self) -> np.ndarray | None:
        """As the shards stage asks it."""
        return None if self.coast is None else self.coast.at_sea(self.centre)


@dataclass(frozen=True)
class Plain:
    """Result of the prototype: flat arrays over the objects of all tiles."""

    tile: np.ndarray
    feature: np.ndarray
    edges: tuple[np.ndarray, np.ndarray, np.ndarray]  # i, j, code
    cover: tuple[np.ndarray, np.ndarray, np.ndarray]  # object, cell, value
    anchors: np.ndarray


def place_of(name: str) -> tuple[Path, int]:
    """Extract and zoom of a place by its name, or of an extract by its path."""
    if name not in _PLACES:
        return Path(name), 16
    path, zoom = _PLACES[name]
    return _DATA / path, zoom


def read_region(name: str, work: Path) -> Region:
    """Cells of a place and its tiles, as `make shards` plans them."""
    path, zoom = place_of(name)
    config = ShardsConfig(
        region=str(path), zoom=zoom, size=_SIZE, out=str(work / "out"), workers=1, cache=str(work / "cache")
    )
    with Runner(1) as runner:
        plan = make_plan(config, runner, quiet=True)
    keys = [XyzKey.parse(key) for key in plan.footprints.footprints().keys]
    tiles, cells = np.array([(key.x, key.y) for key in keys]), plan.cells[-1]
    shift, side = zoom - cells.zoom, 1 << cells.zoom
    cell = (tiles[:, 1] >> shift) * side + (tiles[:, 0] >> shift)
    return Region(zoom, [
        (read_cell(cells.path, c), tiles[cell == c], coastline_of(cells.path, cells.zoom, (c % side, c // side) * 2))
        for c in np.unique(cell).tolist()
    ])  # fmt: skip


def batch_of(
    features: FeatureBatch, tiles: np.ndarray, zoom: int, coast: Coastline | None = None, size: int = _SIZE
) -> Batch:
    """One call's tiles and the features near them."""
    footprints = [xyz_footprint(XyzKey(zoom, int(x), int(y), size)) for x, y in tiles]
    placement = place(footprints)
    box = [*placement.bbox[:, :2].min(axis=0), *placement.bbox[:, 2:].max(axis=0)]
    return Batch(features.near(*box), footprints, placement.gsd.mean(axis=1), placement.centre, coast)


def batches_of(region: Region) -> Iterator[Batch]:
    """All batches of a region."""
    for features, tiles, coast in region.cells:
        for first in range(0, len(tiles), _TILES):
            yield batch_of(features, tiles[first : first + _TILES], region.zoom, coast)


def plain_tokens(batch: Batch) -> Plain:
    """The prototype."""
    w = h = _SIZE
    tile, feature, kind, objects = _plain_objects(batch)
    apart = shapely.transform(objects, _mover(objects, tile * (2.0 * w)))
    i, j = shapely.STRtree(apart).query(apart, predicate="intersects")
    i, j = i[i < j], j[i < j]
    matrices = np.asarray(shapely.relate(objects[i], objects[j]), dtype="U9")
    code = classify_all(matrices, kind[i], kind[j])
    met = code != DISJOINT
    cover = _plain_cover(objects, kind, w, h)
    return Plain(tile, feature, (i[met], j[met], code[met]), cover, _plain_anchors(objects, kind))


def _mover(objects: Any, by: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    _, row = shapely.get_coordinates(objects, return_index=True)
    return lambda xy: xy + np.stack((by[row], np.zeros(len(row))), axis=1)


def _plain_objects(batch: Batch) -> tuple[np.ndarray, np.ndarray, np.ndarray, Any]:
    """Tile, feature, kind and clipped geometry in pixels of every object."""
    features, footprints = batch.features, batch.footprints
    geometry = project(features.geometry, footprints[0].crs)
    boxes = shapely.box(*np.array([f.bounds() for f in footprints]).T)
    tile, feature = shapely.STRtree(geometry).query(boxes)
    order = np.lexsort((feature, tile))
    tile, feature = tile[order], feature[order]
    kind, objects = features.kind[feature], geometry[feature]
    b, t = shapely.bounds(objects), shapely.bounds(boxes)[tile]
    cut = np.flatnonzero((b[:, :2] < t[:, :2]).any(axis=1) | (b[:, 2:] > t[:, 2:]).any(axis=1))
    objects[cut] = shapely.intersection(objects[cut], boxes[tile[cut]])
    for i in np.flatnonzero(shapely.get_type_id(objects) == 7):  # a collection: keep what has the object's dimension
        parts = [p for p in shapely.get_parts(objects[i]) if shapely.get_dimensions(p) == kind[i]]
        objects[i] = shapely.union_all(parts)
    keep = ~shapely.is_empty(objects) & (shapely.get_dimensions(objects) == kind)
    tile, feature, kind, objects = tile[keep], feature[keep], kind[keep], objects[keep]
    affine = np.array([f.transform for f in footprints])[tile]
    xy, row = shapely.get_coordinates(objects, return_index=True)
    objects = shapely.set_coordinates(objects, (xy - affine[row][:, [2, 5]]) / affine[row][:, [0, 4]])
    b, noise = shapely.bounds(objects), 1e-6
    here = ((b[:, :2] >= 0) & (b[:, :2] < _SIZE)).all(axis=1)
    length, left = shapely.length(objects) > noise, (b[:, :2] < _SIZE - noise).all(axis=1)
    keep = np.select([kind == Kind.POINT, kind == Kind.LINE], [here, length & left], shapely.area(objects) > noise)
    return tile[keep], feature[keep], kind[keep], objects[keep]


def _plain_cover(objects: Any, kind: np.ndarray, w: int, h: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rows, columns = _GRID
    cw, ch = w / columns, h / rows
    x, y = np.meshgrid(np.arange(columns) * cw, np.arange(rows) * ch)
    cells = shapely.box(x.ravel(), y.ravel(), x.ravel() + cw, y.ravel() + ch)
    o, c = shapely.STRtree(cells).query(objects, predicate="intersects")
    a, b = shapely.bounds(objects)[o], shapely.bounds(cells)[c]
    inside = (a[:, :2] >= b[:, :2]).all(axis=1) & (a[:, 2:] <= b[:, 2:]).all(axis=1)
    shapely.prepare(objects)
    full = np.zeros(len(o), bool)
    rest = np.flatnonzero(~inside & (kind[o] == Kind.POLYGON))
    full[rest] = shapely.covers(objects[o[rest]], cells[c[rest]])
    parts = np.where(full, cells[c], objects[o])
    cut = np.flatnonzero(~inside & ~full)
    parts[cut] = shapely.intersection(parts[cut], cells[c[cut]])
    area, length = shapely.area(parts) / (cw * ch), shapely.length(parts) / np.sqrt(cw * ch)
    value = np.select([kind[o] == Kind.POLYGON, kind[o] == Kind.LINE], [area, length], 1.0)
    keep = value > 1e-9
    return o[keep], c[keep], value[keep]


def _plain_anchors(objects: Any, kind: np.ndarray) -> np.ndarray:
    """Point; middle and ends of a line; representative point and three places drawn until they lie inside."""
    result = np.full((len(objects), 4, 2), np.nan)
    points, lines, polygons = (np.flatnonzero(kind == k) for k in Kind)
    result[points, 0] = shapely.get_coordinates(objects[points])
    first = shapely.get_geometry(objects[lines], 0)
    result[lines, 0] = shapely.get_coordinates(shapely.line_interpolate_point(first, 0.5, normalized=True))
    xy, row = shapely.get_coordinates(objects[lines], return_index=True)
    result[lines, 1] = xy[np.searchsorted(row, np.arange(len(lines)))]
    result[lines, 2] = xy[np.searchsorted(row, np.arange(len(lines)), side="right") - 1]
    result[polygons, 0] = shapely.get_coordinates(shapely.point_on_surface(objects[polygons]))
    bounds, rng = shapely.bounds(objects), np.random.default_rng(0)
    wanted, slot = np.repeat(polygons, 3), np.tile([1, 2, 3], len(polygons))
    while len(wanted):
        at = rng.uniform(bounds[wanted, :2], bounds[wanted, 2:])
        hit = shapely.contains_xy(objects[wanted], at[:, 0], at[:, 1])
        result[wanted[hit], slot[hit]] = at[hit]
        wanted, slot = wanted[~hit], slot[~hit]
    return result


def compare(tokens: list[OsmTokens], plain: Plain, features: FeatureBatch) -> int:
    """Number of objects, if both sides have the same objects, relations and, within 1e-6, cover."""
    first = np.cumsum([0] + [len(t) for t in tokens])
    tile = np.repeat(np.arange(len(tokens)), np.diff(first))
    osm_id = np.concatenate([t.osm_id for t in tokens])
    if not np.array_equal(tile, plain.tile) or not np.array_equal(osm_id, features.osm_id[plain.feature]):
        raise SystemExit("error: the prototype has other objects")
    edges = np.concatenate([t.edges.astype(np.int64) + a for t, a in zip(tokens, first[:-1], strict=True)], axis=1)
    code = np.concatenate([t.relation for t in tokens])
    ground = code != Relation.DELAUNAY
    order = np.lexsort((plain.edges[1], plain.edges[0]))
    if not np.array_equal(np.stack((*edges, code))[:, ground], np.stack(plain.edges)[:, order]):
        raise SystemExit("error: the prototype has other relations")
    dense = np.zeros((2, int(first[-1]) * _GRID[0] * _GRID[1]))
    cells = _GRID[0] * _GRID[1]
    for t, a in zip(tokens, first[:-1], strict=True):
        dense[0, (t.patch_object.astype(np.int64) + a) * cells + t.patch_cell] = t.patch_cover
    dense[1, plain.cover[0] * cells + plain.cover[1]] = plain.cover[2]
    if (np.abs(dense[0] - dense[1]) > 1e-6 * np.maximum(1.0, dense[1])).any():
        raise SystemExit("error: the prototype has another cover")
    return int(first[-1])


def seconds_of(work: Callable[[], Any]) -> tuple[float, Any]:
    """CPU seconds, and the result."""
    start = time.process_time()
    result = work()
    return time.process_time() - start, result


def race_tokens(region: Region, runs: int, least: int) -> dict[str, Any]:
    """Tiles a second of the three sides, in turn batch by batch; a place of fewer than ``least`` is built
    several times a run."""
    batches = list(batches_of(region))
    tiles = sum(len(b.footprints) for b in batches)
    rounds = -(-least // tiles)
    rates: dict[str, list[float]] = {"plain": [], "ours": [], "ours_raster": []}
    objects = 0
    for _ in range(runs):
        spent, objects = dict.fromkeys(rates, 0.0), 0
        for b in batches * rounds:
            plain_s, plain = seconds_of(lambda: plain_tokens(b))  # noqa: B023
            ours_s, ours = seconds_of(lambda: build_tokens(b.features, b.footprints, _GRID))  # noqa: B023
            with_raster = partial(build_tokens, b.features, b.footprints, _GRID, paint=PAINT, gsd=b.gsd)
            raster_s, _ = seconds_of(lambda: with_raster(at_sea=b.at_sea()))  # noqa: B023
            objects += compare(ours.tokens, plain, b.features)
            for name, s in zip(rates, (plain_s, ours_s, raster_s), strict=True):
                spent[name] += s
        for name, s in spent.items():
            rates[name].append(rounds * tiles / s)
    median = {name: statistics.median(found) for name, found in rates.items()}
    return {
        "tiles": tiles, "objects_per_tile": round(objects / tiles / rounds, 1),
        "plain_tiles_per_s": round(median["plain"], 1), "geoshards_tiles_per_s": round(median["ours"], 1),
        "geoshards_with_raster_tiles_per_s": round(median["ours_raster"], 1),
        "ratio": round(median["ours"] / median["plain"], 2),
        "ratio_with_raster": round(median["ours_raster"] / median["plain"], 2),
    }  # fmt: skip


def copies_of(features: FeatureBatch, count: int, degrees: float) -> FeatureBatch:
    """Features beside each other, moved east; sorted by kind as every batch is."""
    parts = [
        shapely.transform(features.geometry, lambda xy, n=n: xy + np.array([n * degrees, 0.0])) for n in range(count)
    ]
    n = len(features)
    rows = np.argsort(np.tile(features.kind, count), kind="stable")
    every = FeatureBatch(
        np.tile(features.osm_type, count), np.tile(features.osm_id, count) + np.repeat(np.arange(count) << 40, n),
        np.tile(features.kind, count),
        np.concatenate([[0]] + [features.tag_offsets[1:] + i * features.tag_offsets[-1] for i in range(count)]),
        np.tile(features.tag_ids, count), np.tile(features.paint, count), np.concatenate(parts),
    )  # fmt: skip
    return every.take(rows)


def race_scale(region: Region, runs: int) -> dict[str, Any]:
    """Milliseconds a tile, features near it looked up, in the region's largest cell and in 40 of it side by side."""
    features, tiles, _ = max(region.cells, key=lambda c: len(c[0]))
    bounds = shapely.total_bounds(features.geometry)
    columns = int(np.ceil((bounds[2] - bounds[0]) / 360 * (1 << region.zoom))) + 1
    many = copies_of(features, _COPIES, columns * 360 / (1 << region.zoom))
    index_s, _ = seconds_of(lambda: many.near(0, 0, 0, 0))  # builds the index
    each: dict[str, list[float]] = {"one": [], "many": []}
    for run in range(runs):
        for name, batch, copy in (("one", replace(features), 0), ("many", many, (7 * run + 20) % _COPIES)):

            def build(batch: FeatureBatch = batch, copy: int = copy) -> None:
                for first in range(0, len(tiles), _TILES):
                    chosen = tiles[first : first + _TILES] + np.array([copy * columns, 0])
                    b = batch_of(batch, chosen, region.zoom)
                    build_tokens(b.features, b.footprints, _GRID, paint=PAINT, gsd=b.gsd)

            seconds, _ = seconds_of(build)
            each[name].append(seconds / len(tiles) * 1e3 + (name == "many") * index_s / _COPIES / len(tiles) * 1e3)
    one, forty = (statistics.median(each[name]) for name in ("one", "many"))
    return {
        "copies": _COPIES, "features": len(many), "ms_per_tile_1x": round(one, 3),
        "ms_per_tile_40x": round(forty, 3), "40x_over_1x": round(forty / one, 3),
    }  # fmt: skip


def race_raster(region: Region, runs: int) -> dict[str, Any]:
    """Class rasters of some tiles; every side starts from clipped objects in pixels."""
    features, tiles, _ = max(region.cells, key=lambda c: len(c[0]))
    chosen = tiles[np.random.default_rng(0).permutation(len(tiles))[:_RASTER_TILES]]
    b = batch_of(features, chosen, region.zoom, size=_RASTER_SIZE)
    objects = clip(project(b.features.geometry, "EPSG:3857"), b.features.kind, b.footprints, False)
    codes = b.features.paint[objects.feature]
    paint = (codes & VALUE).astype(np.uint8)
    size = (_RASTER_SIZE, _RASTER_SIZE)
    sizes = np.full((len(chosen), 2), _RASTER_SIZE)
    rows = [np.flatnonzero((objects.tile == t) & (paint > 0)) for t in range(len(chosen))]

    def ours() -> None:
        class_rasters(pack(objects.geometry, objects.kind), codes, objects.tile, b.gsd, sizes, PAINT)

    def band_by_band() -> None:
        for own in rows:
            bands = np.zeros((len(PAINT.classes), *size), np.uint8)
            for value in np.unique(paint[own]):
                shapes = objects.geometry[own[paint[own] == value]]
                rasterio.features.rasterize(shapes, out=bands[value - 1])

    def one_by_one() -> None:
        for own in rows:
            bands = np.zeros((len(PAINT.classes), *size), np.uint8)
            for shape, value in zip(objects.geometry[own], paint[own], strict=True):
                draw(bands[value - 1], shape)

    sides: dict[str, Callable[[], None]] = {"geoshards": ours, "rasterio_band_by_band": band_by_band}
    if importlib.util.find_spec("skimage"):
        sides["feature_by_feature"] = one_by_one
    rates: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(runs):
        for name, side in sides.items():
            rates[name].append(len(chosen) / seconds_of(side)[0])
    median = {name: statistics.median(found) for name, found in rates.items()}
    result: dict[str, Any] = {f"{name}_tiles_per_s": round(rate, 1) for name, rate in median.items()}
    for name in list(sides)[1:]:
        result[f"ratio_to_{name}"] = round(median["geoshards"] / median[name], 2)
    return result


def draw(band: np.ndarray, shape: Any) -> None:
    """One feature into its band: whole-pixel corners, rings by point-in-polygon, lines one pixel wide."""
    import skimage.draw

    for part in shapely.get_parts(shape):
        if part.geom_type == "Polygon":
            rings = [np.asarray(r.coords).astype(np.int32) for r in (part.exterior, *part.interiors)]
            inside = [skimage.draw.polygon(r[:, 1], r[:, 0], shape=band.shape) for r in rings]
            if len(rings) == 1:
                band[inside[0]] = 1
                continue
            mask = np.zeros(band.shape, bool)
            mask[inside[0]] = True
            for hole in inside[1:]:
                mask[hole] = False
            band[mask] = 1
            continue
        xy = np.minimum(np.asarray(part.coords).astype(np.int32), len(band) - 1)
        if len(xy) == 1:
            band[xy[0, 1], xy[0, 0]] = 1
        for a, b in pairwise(xy):
            band[skimage.draw.line(a[1], a[0], b[1], b[0])] = 1


def main() -> None:
    """Run the race and print its line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--places", default=",".join(_PLACES), help="or extracts; the first is the other races' too")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--tiles", type=int, default=500, help="that a run of the tokens race builds at least")
    parser.add_argument("--parts", default="tokens,scale,raster")
    args = parser.parse_args()
    names, parts = args.places.split(","), args.parts.split(",")
    for name in names:
        if not place_of(name)[0].is_file():
            parser.error(f"no extract {name}, nor {', '.join(_PLACES)} under {_DATA}; set GEOSHARDS_TEST_DATA")
    result: dict[str, Any] = {"race": "tokens", "runs": args.runs}
    with tempfile.TemporaryDirectory(prefix="geoshards-bench-") as work:
        regions = {name: read_region(name, Path(work)) for name in names}
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    if "tokens" in parts:
        result["tokens"] = {name: race_tokens(region, args.runs, args.tiles) for name, region in regions.items()}
    if "scale" in parts:
        result["scale"] = {"place": names[0], **race_scale(regions[names[0]], args.runs)}
    if "raster" in parts:
        result["raster"] = {"place": names[0], "size": _RASTER_SIZE, **race_raster(regions[names[0]], args.runs)}
    print(json.dumps(result))


if __name__ == "__main__":
    main()
