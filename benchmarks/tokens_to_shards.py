#!/usr/bin/env python3
"""Race: from cached features to written shards, one core, against a plain tile-by-tile loop over the same cells.

Usage: python benchmarks/tokens_to_shards.py [EXTRACT.osm.pbf] [--zoom 16] [--runs 3]

The default extract is Liechtenstein 2022 of the real test data (tests/real/README.md says where to get it). No RS
image; class raster at 256 px. Prints one JSON line: medians over the runs and their ratio. The loop does the same work
a tile: objects, relations, 14 × 14 cover by polygon intersection, class raster by rasterio; it writes nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import rasterio.features
import shapely

from geometry.tiles import xyz_footprint
from pipeline.alignment import project
from pipeline.driver.plan import make_plan
from pipeline.driver.shards import make_shards
from pipeline.osm.stage import read_cell
from pipeline.rules import load_rules
from pipeline.run.ray_map import Runner
from pipeline.samples.config import ShardsConfig
from schemas.features import VALUE
from schemas.keys import XyzKey

_ROOT = Path(__file__).resolve().parents[1]
_DATA = Path(os.environ.get("GEOSHARDS_TEST_DATA") or _ROOT / "../shared/data")
_DEFAULT = _DATA / "osm/liechtenstein/liechtenstein_2022-07-24.osm.pbf"
_GRID, _SIZE = 14, 256


def plain_tile(features: Any, geometry: Any, tree: Any, footprint: Any, widths: Any) -> int:
    """One tile by per-tile calls; returns its number of objects."""
    west, south, east, north = footprint.bounds()
    box = shapely.box(west, south, east, north)
    near = np.sort(tree.query(box, predicate="intersects"))
    objects = shapely.intersection(geometry[near], box)
    keep = ~shapely.is_empty(objects)
    near, objects = near[keep], objects[keep]
    i, j = shapely.STRtree(objects).query(objects)
    upper = i < j
    shapely.relate(objects[i[upper]], objects[j[upper]])
    step = (east - west) / _GRID
    x, y = np.meshgrid(west + np.arange(_GRID) * step, south + np.arange(_GRID) * step)
    cells = shapely.box(x.ravel(), y.ravel(), x.ravel() + step, y.ravel() + step)
    o, c = shapely.STRtree(cells).query(objects, predicate="intersects")
    part = shapely.intersection(objects[o], cells[c])
    np.where(features.kind[near][o] == 2, shapely.area(part), shapely.length(part))
    paint = features.paint[near] & VALUE
    lines = (features.kind[near] == 1) & ~np.isnan(widths[paint])
    fills = (features.kind[near] == 2) & (paint > 0)
    shapes = [(g, int(p)) for g, p in zip(objects[fills], paint[fills], strict=True)]
    shapes += [
        (g, int(p))
        for g, p in zip(
            shapely.buffer(objects[lines], widths[paint[lines]] / 2, cap_style="flat"), paint[lines], strict=True
        )
    ]
    if shapes:
        rasterio.features.rasterize(sorted(shapes, key=lambda s: s[1]), (_SIZE, _SIZE), transform=footprint.transform)
    return len(objects)


def race(extract: Path, zoom: int, runs: int, sample: int) -> dict[str, Any]:
    """Both sides in turn, ``runs`` times each; the loop takes a fixed random sample of the tiles."""
    work = Path(tempfile.mkdtemp(prefix="geoshards-bench-"))
    config = ShardsConfig(
        region=str(extract), zoom=zoom, size=_SIZE, out=str(work / "out"), workers=1, cache=str(work / "cache")
    )
    with Runner(1) as runner:
        plan = make_plan(config, runner, quiet=True)
    keys = [XyzKey.parse(key) for key in plan.footprints.footprints().keys]
    tiles, cells = np.array([(key.x, key.y) for key in keys]), plan.cells[-1]
    chosen = tiles[np.random.default_rng(0).permutation(len(tiles))[:sample]]
    widths = load_rules().paint.widths
    ours, loop, objects = [], [], 0
    for _ in range(runs):
        shutil.rmtree(work / "out", ignore_errors=True)
        outcome = make_shards(config, quiet=True)
        stages = {s.stage: s for s in outcome.stages}
        ours.append(outcome.document["samples"] / (stages["samples"].seconds + stages["plan"].seconds))
        projected: dict[int, Any] = {}
        seconds, objects = 0.0, 0
        for x, y in chosen.tolist():
            cell = (y >> (zoom - cells.zoom)) * (1 << cells.zoom) + (x >> (zoom - cells.zoom))
            features = read_cell(cells.path, cell)
            if cell not in projected:
                geometry = project(features.geometry, "EPSG:3857")
                projected[cell] = geometry, shapely.STRtree(geometry)
            start = time.perf_counter()
            objects += plain_tile(features, *projected[cell], xyz_footprint(XyzKey(zoom, x, y, _SIZE)), widths)
            seconds += time.perf_counter() - start
        loop.append(len(chosen) / seconds)
    shutil.rmtree(work)
    fast, slow = statistics.median(ours), statistics.median(loop)
    return {
        "race": "tokens_to_shards", "extract": extract.name, "zoom": zoom, "tiles": len(tiles),
        "objects_per_tile": round(objects / len(chosen), 1),
        "geoshards_tiles_per_s": round(fast, 1), "plain_loop_tiles_per_s": round(slow, 1),
        "ratio": round(fast / slow, 2), "runs": runs,
    }  # fmt: skip


def main() -> None:
    """Run the race and print its line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("extract", nargs="?", type=Path, default=_DEFAULT)
    parser.add_argument("--zoom", type=int, default=16)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--sample", type=int, default=150, help="tiles that the plain loop takes")
    args = parser.parse_args()
    if not args.extract.is_file():
        parser.error(f"{args.extract} does not exist; give an extract, or set GEOSHARDS_TEST_DATA")
    print(json.dumps(race(args.extract, args.zoom, args.runs, args.sample)))


if __name__ == "__main__":
    main()
