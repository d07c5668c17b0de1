"""Writes a world's files, by several processes, district by district and sheet by sheet."""

from __future__ import annotations

import csv
import hashlib
import json
import multiprocessing
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from pipeline.demo.folder import have_folder, in_order
from pipeline.demo.geo import FloatArray
from pipeline.demo.world.aerial import LICENCE, render_sheet, sheets, write_sheet
from pipeline.demo.world.district import World
from pipeline.demo.world.labels import Sums, TileLabels, photo_id, photo_labels, tile_sums, write_photo_labels
from pipeline.demo.world.mapping import MapPart, map_part, write_map
from pipeline.demo.world.photos import Pose, poses, shares, take
from pipeline.demo.world.plan import Plan
from pipeline.demo.world.settings import WorldSettings
from schemas.config import to_mapping

WORLD_VERSION = 1  # raise it when the same settings give other bytes
JPEG_QUALITY = 82
_RUN = 8  # districts or sheets side by side that one process makes, so that neighbours are planned once
_FOLDER = 1000  # photos a folder


@dataclass(frozen=True)
class WorldFiles:
    """Paths of a built world."""

    osm: Path  # .osm.pbf
    imagery: Path  # folder of GeoTIFF sheets
    streetview: Path  # table of photos, which lie in photos/ beside it
    tile_labels: Path  # GeoParquet
    photo_labels: Path


def build_world(
    out: Path,
    settings: WorldSettings,
    *,
    workers: int | None = None,
    progress: Callable[[int, int], None] | None = None,
    built: Path | None = None,
) -> WorldFiles:
    """Build a world in out, or return the one that is already there.

    workers is the number of processes (by default one a core); it does not change the result. More than one starts
    processes by spawning, so a calling script needs its `__main__` guard. progress is called with the steps done and
    their total. built is a folder that may hold the same world already: it is copied then.

    Raises:
        InputError: out holds other files.
    """
    have_folder(out, _asked(settings), lambda fresh: _write(Plan(settings), fresh, workers, progress), built)
    return WorldFiles(
        out / "world.osm.pbf", out / "aerial", out / "photos.csv", out / "tiles.parquet", out / "photos.parquet"
    )


def world_in(cache: Path, settings: WorldSettings) -> Path:
    """Folder of a world in the cache, named by its content."""
    name = hashlib.sha256(json.dumps(_asked(settings), sort_keys=True).encode()).hexdigest()
    return cache / f"world-{name[:16]}"


def _asked(settings: WorldSettings) -> dict[str, Any]:
    return {"world_version": WORLD_VERSION, **to_mapping(settings)}


# -- the whole ----------------------------------------------------------------------------

District = tuple[int, int, int, int]  # i, j, photos, number of the first


def _write(
    plan: Plan, folder: Path, workers: int | None, progress: Callable[[int, int], None] | None
) -> dict[str, int]:
    (folder / "aerial").mkdir()
    for n in range(0, plan.settings.photos, _FOLDER):
        (folder / f"photos/{n // _FOLDER:04d}").mkdir(parents=True)
    districts = _runs(_numbered(plan))
    images = _runs(sheets(plan))
    done, total = 0, len(districts) + len(images)

    def told(items: Iterator[Any]) -> Iterator[Any]:
        nonlocal done
        for item in items:
            yield item
            done += 1
            if progress is not None:
                progress(done, total)

    with ExitStack() as stack:
        n = (os.cpu_count() or 1) if workers is None else workers
        if n > 1:
            spawn = multiprocessing.get_context("spawn")
            pool = stack.enter_context(ProcessPoolExecutor(n, spawn, _start, (plan.settings, folder)))
            each: Callable[[Any, Any], Iterator[Any]] = partial(in_order, pool)
        else:
            _start(plan.settings, folder)
            each = map
        counts = _write_districts(plan, folder, told(each(_make_districts, districts)))
        for _ in told(each(_make_sheets, images)):
            pass
    return counts | {"sheets": len(sheets(plan))}


def _numbered(plan: Plan) -> list[District]:
    """Districts with their photos and the number of the first of them."""
    found, first = [], 0
    for i, j, n in shares(plan):
        found.append((i, j, n, first))
        first += n
    return found


def _runs(items: list[Any]) -> list[list[Any]]:
    """Items (column, row, ...) or (i, j, ...) in runs of neighbours of one row."""
    runs: list[list[Any]] = []
    for item in items:
        if runs and len(runs[-1]) < _RUN and runs[-1][0][1] == item[1]:
            runs[-1].append(item)
        else:
            runs.append([item])
    return runs


def _write_districts(plan: Plan, folder: Path, made: Iterator[list[Made]]) -> dict[str, int]:
    labels = TileLabels(plan)
    shots: list[Pose] = []
    around: list[FloatArray] = []

    def parts() -> Iterator[MapPart]:
        for run in made:
            for one in run:
                labels.add(one.sums)
                shots.extend(one.poses)
                around.append(one.around)
                yield one.part

    counts = write_map(plan, parts(), folder / "world.osm.pbf")
    labels.write(folder / "tiles.parquet")
    _write_table(shots, folder / "photos.csv")
    write_photo_labels(shots, np.concatenate(around), folder / "photos.parquet")
    return counts | {"photos": len(shots)}


def _write_table(shots: list[Pose], path: Path) -> None:
    with path.open("w", encoding="utf-8", newline="") as out:
        table = csv.writer(out, lineterminator="\n")
        table.writerow(("file", "id", "lon", "lat", "heading", "captured_at", "licence", "author"))
        for p in shots:
            place = (f"{p.lon:.7f}", f"{p.lat:.7f}", f"{p.heading:.2f}")
            when = p.captured_at.strftime("%Y-%m-%dT%H:%M:%SZ")
            table.writerow((_photo_path(p.number), photo_id(p.number), *place, when, LICENCE, p.author))


def _photo_path(number: int) -> str:
    return f"photos/{number // _FOLDER:04d}/{photo_id(number)}.jpg"


# -- in the worker processes --------------------------------------------------------------


@dataclass(frozen=True)
class Made:
    """What a district adds to the whole."""

    part: MapPart
    sums: Sums
    poses: list[Pose]
    around: FloatArray  # as `photo_labels`


_here: tuple[World, Path] | None = None


def _start(settings: WorldSettings, folder: Path) -> None:
    global _here
    _here = World(Plan(settings)), folder


def _make_districts(run: list[District]) -> list[Made]:
    """Map and labels of districts; their photos are written."""
    assert _here is not None
    world, folder = _here
    made = []
    for i, j, n, first in run:
        district = world.district(i, j)
        shots = poses(world.plan, district, n, first) if n else []
        for pose in shots:
            image = Image.fromarray(take(world, pose))
            image.save(folder / _photo_path(pose.number), "JPEG", quality=JPEG_QUALITY, subsampling=2)
        part, sums = map_part(world.plan, district), tile_sums(world.plan, district)
        made.append(Made(part, sums, shots, photo_labels(world, shots)))
    return made


def _make_sheets(run: list[tuple[int, int]]) -> None:
    assert _here is not None
    world, folder = _here
    for sheet in run:
        write_sheet(world.plan, sheet, render_sheet(world, sheet), folder / "aerial")
