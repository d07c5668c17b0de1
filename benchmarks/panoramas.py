#!/usr/bin/env python3
"""Race: equirectangular panoramas, JPEG files, to JPEG views as a pinhole camera has them, against a plain remap.

Usage: python benchmarks/panoramas.py [--runs 5] [--width 5760] [--count 3]

Panoramas of noise and lines are drawn. All is done on one core. The peer decodes a file, samples every view bilinearly
from all of its pixels, whose places are computed once, and encodes with the same quality: `cv2.remap` where OpenCV can
be imported, else `scipy.ndimage.map_coordinates`. Ours is what a build does, hash of the photo included. Sides take
turns. Prints one JSON line: medians, views a second of wall time and of CPU time, milliseconds to sample a view of the
same pixels, and by how much the views differ: from the peer's, which skips pixels where the panorama is finer than the
view, and from the exact bilinear values of the pixels that ours samples.
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

import numpy as np
from PIL import Image, ImageDraw
from scipy.ndimage import map_coordinates

from pipeline.streetview.config import StreetviewConfig
from pipeline.streetview.pictures.encode import encode_photos
from pipeline.streetview.pictures.panorama import cut_view, rays, views_around
from pipeline.streetview.record import Drops, Photo

try:
    import cv2
except ImportError:
    cv2 = None
WHOLE = (0.0, 0.0, 1.0, 1.0)


def draw_panorama(path: Path, width: int, seed: int) -> None:
    """Sky, ground of noise, and lines; twice as wide as high."""
    rng, height = np.random.default_rng(seed), width // 2
    small = rng.integers(40, 220, (height // 16 + 1, width // 16 + 1, 3), dtype=np.uint8)
    image = Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)
    pen = ImageDraw.Draw(image)
    for _ in range(200):
        x, y = rng.integers(0, width), rng.integers(0, height)
        w, h = rng.integers(2, width // 20 + 3), rng.integers(2, height // 8 + 3)
        pen.rectangle((x, y, x + w, y + h), tuple(rng.integers(0, 255, 3).tolist()))
    image.save(path, "JPEG", quality=92)


def places(width: int, height: int, config: StreetviewConfig) -> list[tuple[Any, Any]]:
    """Column and row in a panorama of each pixel of each view."""
    found = []
    for view in views_around(config.views, config.view_fov, config.size):
        turn, elevation = rays(view)
        found.append(((turn / 360 + 0.5) * width - 0.5, (0.5 - elevation / 180) * height - 0.5))
    return found


def remap(pixels: Any, u: Any, v: Any) -> Any:
    """Bilinear samples u8[S,S,3], the seam closed."""
    if cv2 is not None:
        return cv2.remap(
            pixels, u.astype(np.float32), v.astype(np.float32), cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP
        )
    bands = [map_coordinates(pixels[..., b], (v, u), order=1, mode="grid-wrap") for b in range(3)]
    return np.stack(bands, axis=-1)


def ours(path: Path, config: StreetviewConfig, _: list[tuple[Any, Any]]) -> list[bytes]:
    """As a build does it."""
    photo = Photo(str(path), path.stem, 0.0, 0.0, 0.0, projection="equirectangular", licence="CC0-1.0")
    return [image.data for image in encode_photos([photo], config, Drops())]


def plain(path: Path, config: StreetviewConfig, where: list[tuple[Any, Any]]) -> list[bytes]:
    """Decode, remap, encode."""
    pixels = np.asarray(Image.open(path).convert("RGB"))
    found = []
    for u, v in where:
        buffer = io.BytesIO()
        Image.fromarray(remap(pixels, u, v)).save(buffer, "JPEG", quality=config.quality)
        found.append(buffer.getvalue())
    return found


def sampling(path: Path, config: StreetviewConfig, runs: int) -> tuple[dict[str, float], float]:
    """Milliseconds a view of each side from the same pixels, and the largest difference of ours from exact values."""
    with Image.open(path) as image:
        image.thumbnail((1440, 720))
        pixels = np.asarray(image.convert("RGB"))
    views = views_around(config.views, config.view_fov, config.size)
    maps = places(pixels.shape[1], pixels.shape[0], config)
    sides: dict[str, Callable[[int], Any]] = {
        "ours": lambda k: cut_view(pixels, WHOLE, views[k]), "plain": lambda k: remap(pixels, *maps[k]),
    }  # fmt: skip
    times: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(runs + 1):
        for name, cut in sides.items():
            began = time.process_time()
            for k in range(len(views)):
                cut(k)
            if turn:
                times[name].append((time.process_time() - began) / len(views) * 1000)
    exact = [np.stack([map_coordinates(pixels[..., b].astype(float), (v, u), order=1, mode="grid-wrap")
                       for b in range(3)], axis=-1) for u, v in maps]  # fmt: skip
    worst = max(float(np.abs(np.asarray(sides["ours"](k), float) - exact[k]).max()) for k in range(len(views)))
    return {name: round(statistics.median(own), 2) for name, own in times.items()}, round(worst, 2)


def race(folder: Path, runs: int, width: int, count: int) -> dict[str, Any]:
    """All sides in turn, ``runs`` times each, after one round that is not counted."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    config = StreetviewConfig(panorama="views", licence="CC0-1.0")
    paths = [folder / f"{i}.jpg" for i in range(count)]
    for i, path in enumerate(paths):
        draw_panorama(path, width, i)
    where = places(width, width // 2, config)
    times: dict[str, list[tuple[float, float]]] = {"ours": [], "plain": []}
    cut: dict[str, list[bytes]] = {}
    for turn in range(runs + 1):
        for side in (ours, plain):
            wall, cpu = time.perf_counter(), time.process_time()
            cut[side.__name__] = [data for path in paths for data in side(path, config, where)]
            if turn:
                times[side.__name__].append((time.perf_counter() - wall, time.process_time() - cpu))
    views = len(cut["plain"])
    assert len(cut["ours"]) == views
    both = [[np.asarray(Image.open(io.BytesIO(data)), np.int16) for data in own] for own in cut.values()]
    apart = float(np.mean([np.abs(a - b).mean() for a, b in zip(*both, strict=True)]))
    rates = [
        {name: round(views / statistics.median(t[i] for t in own), 1) for name, own in times.items()} for i in (0, 1)
    ]
    milliseconds, worst = sampling(paths[0], config, runs)
    return {
        "race": "panoramas", "width": width, "panoramas": count, "views": views, "size": config.size, "runs": runs,
        "peer": "scipy" if cv2 is None else "cv2", "views_per_second": rates[0], "views_per_cpu_second": rates[1],
        "ratio": round(rates[0]["ours"] / rates[0]["plain"], 2),
        "ratio_cpu": round(rates[1]["ours"] / rates[1]["plain"], 2),
        "sampling_ms": milliseconds, "mean_difference": round(apart, 2), "largest_difference_from_exact": worst,
    }  # fmt: skip


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--width", type=int, default=5760, help="pixels of the panoramas")
    parser.add_argument("--count", type=int, default=3, help="panoramas")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="geoshards-bench-") as folder:
        print(json.dumps(race(Path(folder), args.runs, args.width, args.count)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
