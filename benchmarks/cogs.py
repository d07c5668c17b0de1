#!/usr/bin/env python3
"""Race: twelve bands of Sentinel-2 as COGs over HTTP to pixels of map tiles, one core, against a plain rasterio loop.

Usage: python benchmarks/cogs.py [--runs 3] [--side 4096] [--blocks 1024]

Bands of 10, 20 and 60 m are drawn and written as Earth Search has them: DEFLATE with a predictor, tiles of --blocks
px, overviews. A server on the loopback, in a process of its own, sends ranges and counts requests and bytes. Both sides
read the same tiles of zoom 14 in the order of a build, shards of 256, bilinearly, into u16[12,256,256]. The loop keeps
its twelve files open, with the settings that GDAL's manual and titiler's give for COGs, and makes a WarpedVRT a tile
and band. Our shards are read as tasks are: they share nothing but the cache folder. Sides take turns; every run has
URLs of its own, so that nothing kept by an earlier one serves it.

Prints one JSON line: tiles a second of wall time and of CPU time; requests and bytes a tile; and bytes read over bytes
needed: the TIFF tiles that hold a neighbour of a pixel that is asked for, by their sizes in the files, each once
however many shards need it.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import socket
import statistics
import sys
import tempfile
import time
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import mercantile
import numpy as np
import rasterio
from affine import Affine
from numpy.typing import NDArray
from PIL import Image
from pyproj import Transformer
from rasterio.enums import Resampling
from rasterio.shutil import copy
from rasterio.transform import from_origin
from rasterio.vrt import WarpedVRT

from pipeline.footprints.candidates import Tiles
from pipeline.footprints.plan import along_curve
from pipeline.imagery.choice.order import covered
from pipeline.imagery.config import ImageryConfig
from pipeline.imagery.local import outline
from pipeline.imagery.read import read_images
from pipeline.imagery.scene import Asset, Scene
from pipeline.imagery.stac.presets import PRESETS
from pipeline.net.config import NetConfig
from schemas.footprint import Footprint

_SIZE, _SHARD, _ZOOM = 256, 256, 14
_METRES = {"B1": 60, "B9": 60, "B2": 10, "B3": 10, "B4": 10, "B8": 10}  # the others 20
BANDS = list(PRESETS["earth-search"].bands)
#: What GDAL's manual says of COGs over HTTP: https://gdal.org/user/configoptions.html, https://developmentseed.org/titiler
_SANE = {
    "GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR", "CPL_VSIL_CURL_ALLOWED_EXTENSIONS": ".tif", "VSI_CACHE": "TRUE",
    "VSI_CACHE_SIZE": 5_000_000, "GDAL_HTTP_MERGE_CONSECUTIVE_RANGES": "YES", "GDAL_HTTP_MULTIPLEX": "YES",
    "GDAL_INGESTED_BYTES_AT_OPEN": 32_768, "GDAL_CACHEMAX": 256 << 20, "GDAL_NUM_THREADS": 1,
}  # fmt: skip
Shards = list[dict[Any, Footprint]]


def draw(folder: Path, side: int, blocks: int) -> None:
    """The bands: noise of several scales, of reflectances times 10,000."""
    for number, band in enumerate(BANDS):
        metres = _METRES.get(band, 20)
        count = side * 10 // metres
        rng, ground = np.random.default_rng(number), np.full((count, count), 1500, np.float32)
        for cell, amplitude in ((256, 300), (32, 200), (4, 120), (1, 25)):
            small = rng.normal(size=(count // cell + 2,) * 2).astype(np.float32)
            size = (small.shape[1] * cell, small.shape[0] * cell)
            large = Image.fromarray(small).resize(size, Image.Resampling.BICUBIC)
            ground += amplitude * np.asarray(large)[:count, :count]
        plain = folder / "plain.tif"
        with rasterio.open(
            plain, "w", driver="GTiff", width=count, height=count, count=1, dtype="uint16", crs="EPSG:32632", nodata=0,
            transform=from_origin(600_000, 5_240_040, metres, metres), tiled=True,
        ) as target:  # fmt: skip
            target.write(np.clip(ground, 1, 10_000).astype(np.uint16), 1)
        copy(plain, folder / f"{band}.tif", driver="COG", compress="DEFLATE", predictor="YES", blocksize=blocks)
        plain.unlink()


class Server:
    """A server of a folder's files by range, in a process of its own; paths may begin with a folder that is none."""

    def __init__(self, folder: Path) -> None:
        context = multiprocessing.get_context("fork")
        self._requests, self._bytes = context.Value("q", 0), context.Value("q", 0)
        server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler(folder))
        server.daemon_threads = True
        self.url = f"http://127.0.0.1:{server.server_address[1]}"
        self._process = context.Process(target=server.serve_forever, daemon=True)
        self._process.start()
        server.socket.close()

    def _handler(self, folder: Path) -> type[BaseHTTPRequestHandler]:
        files = {p.name: p.read_bytes() for p in folder.glob("*.tif")}
        requests, sent = self._requests, self._bytes

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def setup(self) -> None:
                super().setup()
                self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

            def do_HEAD(self) -> None:
                self._answer(False)

            def do_GET(self) -> None:
                self._answer(True)

            def _answer(self, body: bool) -> None:
                data = files.get(self.path.rsplit("/", 1)[-1])
                start, stop, status = 0, len(data or b""), 200 if data is not None else 404
                asked = self.headers.get("Range", "")
                if data is not None and asked.startswith("bytes="):
                    first, _, last = asked.removeprefix("bytes=").partition("-")
                    start, stop, status = int(first), min(int(last or len(data)) + 1, len(data)), 206
                part = (data or b"")[start:stop]
                lines = [f"HTTP/1.1 {status} X", f"Content-Length: {len(part)}", "Accept-Ranges: bytes", 'ETag: "1"']
                if status == 206:
                    lines.append(f"Content-Range: bytes {start}-{stop - 1}/{len(data or b'')}")
                head = ("\r\n".join(lines) + "\r\n\r\n").encode()
                with requests.get_lock():
                    requests.value += 1
                    sent.value += len(part) * body
                self.wfile.write(head + part if body else head)

            def log_message(self, *_: Any) -> None:
                pass

        return Handler

    def counts(self) -> tuple[int, int]:
        """Requests and bytes of bodies until now."""
        return self._requests.value, self._bytes.value

    def stop(self) -> None:
        """End it."""
        self._process.terminate()
        self._process.join()


def scene_at(folder: Path, url: str) -> Scene:
    """The item, with its assets below a URL."""
    with rasterio.open(folder / "B2.tif") as source:
        area = outline(source, "B2.tif")
    assets = tuple(Asset(f"{url}/{band}.tif", (1,)) for band in BANDS)
    return Scene("item", area, BANDS, "uint16", "2024-07-01T10:20:00Z", assets, gsd=10.0, identity=url)


def plan(scene: Scene) -> Shards:
    """Shards of the tiles that lie in the scene."""
    tiles = np.array([(t.x, t.y) for t in mercantile.tiles(*scene.area.bounds, _ZOOM)])
    under = Tiles(tiles, _ZOOM, _SIZE)
    under = under.take(covered(under.outlines(), [scene], ImageryConfig(max_nodata=0)))
    ordered = under.take(np.argsort(along_curve(under.centre())))
    every = list(enumerate(ordered.footprints()))
    return [dict(every[i : i + _SHARD]) for i in range(0, len(every), _SHARD)]


def ours(folder: Path, url: str, shards: Shards) -> dict[Any, NDArray[Any]]:
    """This project's way."""
    scene, result = scene_at(folder, url), {}
    for shard in shards:
        found, rows = read_images([scene], shard, ImageryConfig(max_nodata=1.0), NetConfig(), cache=folder / "cache")
        assert not rows
        result |= {key: images[0].pixels for key, images in found.items()}
    return result


def loop(folder: Path, url: str, shards: Shards) -> dict[Any, NDArray[Any]]:
    """A WarpedVRT a tile and band, of files that stay open."""
    result = {}
    with rasterio.Env(**_SANE), ExitStack() as stack:
        sources = [stack.enter_context(rasterio.open(a.href)) for a in scene_at(folder, url).assets]
        for shard in shards:
            for key, f in shard.items():
                pixels = np.empty((len(sources), f.height, f.width), np.uint16)
                for band, source in zip(pixels, sources, strict=True):
                    with WarpedVRT(source, crs=f.crs, transform=Affine(*f.transform), width=f.width, height=f.height,
                                   resampling=Resampling.bilinear) as vrt:  # fmt: skip
                        vrt.read(1, out=band)
                result[key] = pixels
    return result


def needed(folder: Path, shards: Shards) -> int:
    """Bytes of the TIFF tiles that the shards need, each once."""
    total = 0
    to_utm = Transformer.from_crs("EPSG:3857", "EPSG:32632", always_xy=True)
    rim = np.linspace(0, 1, 33)
    for band in BANDS:
        with rasterio.open(folder / f"{band}.tif") as source:
            (height, width), every = source.block_shapes[0], set[tuple[int, int]]()
            for f in (f for shard in shards for f in shard.values()):
                west, south, east, north = f.bounds()
                x = np.concatenate((west + (east - west) * rim, np.full(33, east), np.full(33, west)))
                x = np.concatenate((x, west + (east - west) * rim))
                y = np.concatenate((np.full(33, north), *[south + (north - south) * rim] * 2, np.full(33, south)))
                column, row = ~source.transform * np.array(to_utm.transform(x, y))
                x0, x1 = (int(v) // width for v in (max(column.min() - 0.5, 0), column.max() + 0.5))
                y0, y1 = (int(v) // height for v in (max(row.min() - 0.5, 0), row.max() + 0.5))
                x1, y1 = min(x1, (source.width - 1) // width), min(y1, (source.height - 1) // height)
                every |= {(i, j) for i in range(x0, x1 + 1) for j in range(y0, y1 + 1)}
            total += sum(_block_bytes(source, block) for block in every)
    return total


def _block_bytes(source: Any, block: tuple[int, int]) -> int:
    return int(source.get_tag_item(f"BLOCK_SIZE_{block[0]}_{block[1]}", "TIFF", bidx=1) or 0)


def race(folder: Path, runs: int) -> dict[str, Any]:
    """Both sides in turn, after one round that is not counted."""
    server = Server(folder)
    try:
        if hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
        shards = plan(scene_at(folder, server.url))
        count = sum(map(len, shards))
        sides = (ours, loop)
        times: dict[str, list[tuple[float, float]]] = {side.__name__: [] for side in sides}
        traffic: dict[str, tuple[int, int]] = {}
        pixels: dict[str, dict[Any, NDArray[Any]]] = {}
        for turn in range(runs + 1):
            for side in sides:
                before = server.counts()
                wall, cpu = time.perf_counter(), time.process_time()
                pixels[side.__name__] = side(folder, f"{server.url}/{side.__name__}-{turn}", shards)
                if turn:
                    times[side.__name__].append((time.perf_counter() - wall, time.process_time() - cpu))
                a, b = server.counts()
                traffic[side.__name__] = a - before[0], b - before[1]
    finally:
        server.stop()
    least = needed(folder, shards)
    rate, cpu_rate = (
        {name: round(count / statistics.median(t[i] for t in own), 2) for name, own in times.items()} for i in (0, 1)
    )
    off = 0  # where both have data: at the rim of a scene they differ in what they call missing
    for key, own in pixels["ours"].items():
        other = pixels["loop"][key]
        off = max(off, int(np.abs(own.astype(int) - other)[(own > 0) & (other > 0)].max(initial=0)))
    return {
        "race": "cogs", "tiles": count, "bands": len(BANDS), "shards": len(shards), "runs": runs,
        "tiles_per_second": rate, "tiles_per_cpu_second": cpu_rate, "ratio": round(rate["ours"] / rate["loop"], 2),
        "ratio_cpu": round(cpu_rate["ours"] / cpu_rate["loop"], 2), "largest_difference": off,
        "requests_per_tile": {k: round(a / count, 2) for k, (a, _) in traffic.items()},
        "bytes_per_tile": {k: round(b / count) for k, (_, b) in traffic.items()},
        "bytes_per_byte_needed": {k: round(b / least, 3) for k, (_, b) in traffic.items()},
    }  # fmt: skip


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--side", type=int, default=4096, help="pixels of 10 m a side of the scene that is drawn")
    parser.add_argument("--blocks", type=int, default=1024, help="pixels a side of the TIFF tiles")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="geoshards-bench-") as folder:
        draw(Path(folder), args.side, args.blocks)
        print(json.dumps(race(Path(folder), args.runs)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
