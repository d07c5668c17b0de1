#!/usr/bin/env python3
"""Race: a local JPEG COG at its native resolution to JPEG tiles of 256 px, one core, against plain rasterio loops.

Usage: python benchmarks/imagery.py [COG.tif] [--runs 5] [--side 6144]

Without a file a scene of noise, fields and roofs is drawn, 0.8 m in UTM, and written as a COG with JPEG tiles of 512
px. The peers: one WarpedVRT a tile, the recipe of most tutorials; and windows of one WarpedVRT of the whole scene. All
read the same tiles, resample bilinearly and encode quality 90 with chroma halved, as Pillow does by default; the tiles
of a shard (256) come in the order that a build has them in. Sides take turns. Prints one JSON line: medians, rates a
second of wall time and of CPU time, and the ratio to the faster peer.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mercantile
import numpy as np
import rasterio
from affine import Affine
from PIL import Image
from rasterio.enums import Resampling
from rasterio.shutil import copy
from rasterio.transform import from_origin
from rasterio.vrt import WarpedVRT

from pipeline.footprints.candidates import Tiles
from pipeline.footprints.plan import along_curve
from pipeline.imagery.choice.order import covered
from pipeline.imagery.config import ImageryConfig
from pipeline.imagery.encode import encode
from pipeline.imagery.local import open_scene
from pipeline.imagery.read import read_images
from pipeline.imagery.scene import Scene
from pipeline.imagery.zoom import natural_zoom
from pipeline.net.config import NetConfig
from schemas.footprint import Footprint

_SIZE, _SHARD, _QUALITY = 256, 256, 90


def draw_scene(path: Path, side: int) -> None:
    """A COG: noise of several scales, and rectangles of one colour on it."""
    rng = np.random.default_rng(0)
    ground = np.zeros((side, side), np.float32)
    for cell, amplitude in ((512, 30), (128, 20), (32, 14), (8, 10), (2, 6)):
        small = rng.normal(size=(side // cell + 2,) * 2).astype(np.float32)
        large = Image.fromarray(small).resize((small.shape[1] * cell, small.shape[0] * cell), Image.Resampling.BICUBIC)
        ground += amplitude * np.asarray(large)[:side, :side]
    image = np.stack((ground * 0.9 + 110, ground + 115, ground * 0.8 + 95))
    for _ in range(side * side // 4000):
        x, y = rng.integers(0, side - 60, 2)
        w, h = rng.integers(6, 50, 2)
        image[:, y : y + h, x : x + w] = rng.integers(60, 220, (3, 1, 1)) + 4 * rng.normal(size=(1, h, w))
    profile = {"driver": "GTiff", "width": side, "height": side, "count": 3, "dtype": "uint8", "crs": "EPSG:32632",
               "transform": from_origin(560_000, 5_220_000, 0.8, 0.8), "photometric": "RGB", "tiled": True}  # fmt: skip
    plain = path.with_suffix(".plain.tif")
    with rasterio.open(plain, "w", **profile) as target:
        target.write(np.clip(image, 0, 255).astype(np.uint8))
    copy(plain, path, driver="COG", compress="JPEG", quality=85, blocksize=512)
    plain.unlink()


def plan(scene: Scene) -> list[dict[Any, Footprint]]:
    """Shards of the tiles that lie in the scene, at its natural zoom."""
    west, south, east, north = scene.area.bounds
    zoom = natural_zoom(scene.gsd or 0, (south + north) / 2)
    tiles = np.array([(t.x, t.y) for t in mercantile.tiles(west, south, east, north, zoom)])
    under = Tiles(tiles, zoom, _SIZE)
    under = under.take(covered(under.outlines(), [scene], ImageryConfig()))
    ordered = under.take(np.argsort(along_curve(under.centre())))
    every = list(enumerate(ordered.footprints()))
    return [dict(every[i : i + _SHARD]) for i in range(0, len(every), _SHARD)]


def ours(scene: Scene, shards: list[dict[Any, Footprint]]) -> int:
    """This project's way; returns bytes."""
    config, total = ImageryConfig(quality=_QUALITY, max_nodata=1.0), 0
    for shard in shards:
        for images in read_images([scene], shard, config, NetConfig())[0].values():
            total += len(encode(images[0].pixels, config)[1])
    return total


def a_vrt_a_tile(scene: Scene, shards: list[dict[Any, Footprint]]) -> int:
    """A WarpedVRT a tile, encoded by Pillow."""
    total = 0
    with rasterio.open(scene.path) as source:
        for shard in shards:
            for f in shard.values():
                with WarpedVRT(source, crs=f.crs, transform=Affine(*f.transform), width=f.width, height=f.height,
                               resampling=Resampling.bilinear) as vrt:  # fmt: skip
                    total += _pillow(vrt.read())
    return total


def windows_of_one_vrt(scene: Scene, shards: list[dict[Any, Footprint]]) -> int:
    """Windows of one WarpedVRT, encoded by Pillow."""
    total = 0
    with rasterio.open(scene.path) as source, WarpedVRT(source, crs="EPSG:3857", resampling=Resampling.bilinear) as vrt:
        for shard in shards:
            for f in shard.values():
                total += _pillow(vrt.read(window=vrt.window(*f.bounds()), out_shape=(3, f.height, f.width)))
    return total


def _pillow(pixels: Any) -> int:
    buffer = io.BytesIO()
    Image.fromarray(pixels.transpose(1, 2, 0)).save(buffer, "JPEG", quality=_QUALITY)
    return buffer.tell()


def race(path: Path, runs: int) -> dict[str, Any]:
    """All sides in turn, ``runs`` times each, after one round that is not counted."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    scene = open_scene(path)
    shards = plan(scene)
    count = sum(map(len, shards))
    sides: dict[str, Callable[[Scene, list[dict[Any, Footprint]]], int]] = {
        f.__name__: f for f in (ours, a_vrt_a_tile, windows_of_one_vrt)
    }
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in sides}
    for turn in range(runs + 1):
        for name, function in sides.items():
            wall, cpu = time.perf_counter(), time.process_time()
            function(scene, shards)
            if turn:
                times[name].append((time.perf_counter() - wall, time.process_time() - cpu))
    wall_rate, cpu_rate = (
        {name: round(count / statistics.median(t[i] for t in own), 1) for name, own in times.items()} for i in (0, 1)
    )
    peers = [name for name in sides if name != "ours"]
    return {
        "race": "imagery", "tiles": count, "runs": runs, "tiles_per_second": wall_rate,
        "tiles_per_cpu_second": cpu_rate,
        "ratio": round(wall_rate["ours"] / max(wall_rate[p] for p in peers), 2),
        "ratio_cpu": round(cpu_rate["ours"] / max(cpu_rate[p] for p in peers), 2),
    }  # fmt: skip


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cog", nargs="?", type=Path, help="a JPEG COG; default: drawn")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--side", type=int, default=6144, help="pixels a side of the scene that is drawn")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="geoshards-bench-") as folder:
        path = args.cog
        if path is None:
            path = Path(folder) / "scene.tif"
            draw_scene(path, args.side)
        print(json.dumps(race(path, args.runs)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
