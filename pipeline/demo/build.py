"""Writes the demo's files: in a temporary folder first, by several processes, then renamed."""

from __future__ import annotations

import io
import multiprocessing
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from itertools import chain, count
from pathlib import Path
from typing import Any, TypeVar

from PIL import Image

from pipeline.demo.folder import have_folder, in_order
from pipeline.demo.pictures.aerial import aerial_windows, render_window, write_aerial
from pipeline.demo.pictures.pose import PhotoPose, default_photo_count, exif_bytes, photo_poses
from pipeline.demo.pictures.streetview import render_photo
from pipeline.demo.town.osm_writer import write_osm
from pipeline.demo.town.plan import Plan
from pipeline.demo.town.world import World
from schemas.errors import InputError

GENERATOR_VERSION = 4  # raise it when the same parameters give other bytes
JPEG_QUALITY = 88
_RENDERERS = 2

Each = Callable[[Callable[[World, Any], Any], Sequence[Any]], Iterator[Any]]
T = TypeVar("T")


@dataclass(frozen=True)
class DemoFiles:
    """Paths of a built demo: town.osm.pbf, aerial.tif, and the folder photos/ of JPEGs."""

    osm: Path
    imagery: Path
    streetview: Path


def build_demo(
    out_dir: Path,
    *,
    seed: int = 7,
    scale: int = 1,
    photos: int | None = None,
    side_tiles: float | None = None,
    workers: int | None = None,
    progress: Callable[[int, int], None] | None = None,
    built: Path | None = None,
) -> DemoFiles:
    """Build the demo region in out_dir, or return the build that is already there.

    scale multiplies the area: 1 is about 300 tiles of zoom 17 (17.3 a side). photos is the
    number of street views, about one for two tiles by default. side_tiles sets the side
    directly, in tiles, for small builds. workers is the number of processes that render
    (by default 2 where there are 2 cores); it does not change the result. More than one
    starts processes by spawning, so a calling script needs its `__main__` guard. progress
    is called with the steps done and their total (aerial windows and photos). built is a folder that
    may hold the same demo already: it is copied then.

    The files appear in out_dir all at once or not at all. An out_dir with other files in
    it that are not a demo build, a scale below 1 or negative photos raise InputError.
    """
    if scale < 1:
        raise InputError(f"demo scale must be at least 1, not {scale}")
    out = Path(out_dir)
    files = DemoFiles(out / "town.osm.pbf", out / "aerial.tif", out / "photos")
    plan = Plan(seed, scale, side_tiles)
    if photos is None:
        photos = default_photo_count(plan)
    if photos < 0:
        raise InputError(f"demo photos must not be negative, not {photos}")
    asked = {"generator_version": GENERATOR_VERSION, "seed": seed, "side_tiles": plan.side_tiles, "photos": photos}
    photo_count = photos
    have_folder(out, asked, lambda fresh: _write_all(plan, fresh, photo_count, workers, progress), built)
    return files


def built_in(cache: Path, seed: int, scale: int) -> Path:
    """Folder of the demo in the cache, where builds of the region demo leave it."""
    return cache / f"demo-{seed}-{scale}"


def _write_all(
    plan: Plan, folder: Path, photos: int, workers: int | None, progress: Callable[[int, int], None] | None
) -> dict[str, int]:
    (folder / "photos").mkdir()
    name = str(folder / f"photos/{{:0{max(4, len(str(photos - 1)))}d}}.jpg")
    windows = aerial_windows(plan)
    steps = count(1)

    def told(items: Iterator[T]) -> Iterator[T]:
        for item in items:
            yield item
            if progress is not None:
                progress(next(steps), len(windows) + photos)

    world = World(plan)
    with ExitStack() as stack:
        each: Each = partial(_in_turn, world)
        n = min(_RENDERERS, os.cpu_count() or 1) if workers is None else workers
        if n > 1:
            spawn = multiprocessing.get_context("spawn")
            args = (plan.seed, plan.side_tiles)
            each = partial(_in_order, stack.enter_context(ProcessPoolExecutor(n, spawn, _start, args)))
        rendered = each(render_window, windows)
        first = [next(rendered)]  # sets the workers to work while this process writes the map
        counts = write_osm(world, folder / "town.osm.pbf")
        write_aerial(plan, folder / "aerial.tif", told(chain(first, rendered)))
        poses = [(name.format(k), pose) for k, pose in enumerate(photo_poses(plan, photos))]
        deque(told(each(_write_photo, poses)), maxlen=0)
    return counts | {"photos": photos}


def _in_turn(world: World, work: Callable[[World, Any], Any], items: Sequence[Any]) -> Iterator[Any]:
    return map(partial(work, world), items)


def _in_order(pool: ProcessPoolExecutor, work: Callable[[World, Any], Any], items: Sequence[Any]) -> Iterator[Any]:
    return in_order(pool, partial(_task, work), items)


def _write_photo(world: World, photo: tuple[str, PhotoPose]) -> None:
    path, pose = photo
    data = io.BytesIO()
    Image.fromarray(render_photo(world, pose)).save(
        data, "JPEG", quality=JPEG_QUALITY, subsampling=2, exif=exif_bytes(pose)
    )
    Path(path).write_bytes(data.getvalue())


# -- in the worker processes --------------------------------------------------------------

_world: World | None = None


def _start(seed: int, side_tiles: float) -> None:
    global _world
    _world = World(Plan(seed, side_tiles=side_tiles))


def _task(work: Callable[[World, Any], Any], item: Any) -> Any:
    assert _world is not None
    return work(_world, item)
