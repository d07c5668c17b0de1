"""Writes the demo's files: in a temporary folder first, by several processes, then renamed."""

from __future__ import annotations

import io
import json
import multiprocessing
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipeline.demo.pictures.aerial import aerial_windows, render_window, write_aerial
from pipeline.demo.pictures.pose import PhotoPose, default_photo_count, exif_bytes, photo_poses
from pipeline.demo.pictures.streetview import render_photo
from pipeline.demo.town.osm_writer import write_osm
from pipeline.demo.town.plan import Plan
from pipeline.demo.town.world import World
from schemas.errors import InputError
from storage.files import atomic_folder, file_sha256

GENERATOR_VERSION = 2  # raise it when the same parameters give other bytes
RECORD = "demo.json"
JPEG_QUALITY = 88
_PHOTOS_PER_TASK = 9
_AHEAD = 6  # rendered windows that may wait to be written
_RENDERERS = 2

Submit = Callable[..., "Future[Any]"]
T = TypeVar("T")


def build_files(
    out: Path,
    *,
    seed: int,
    scale: int,
    photos: int | None,
    side_tiles: float | None,
    workers: int | None,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Build into out unless a complete build of the same parameters is there."""
    if scale < 1:
        raise InputError(f"demo scale must be at least 1, not {scale}")
    plan = Plan(seed, scale, side_tiles)
    count = default_photo_count(plan) if photos is None else photos
    if count < 0:
        raise InputError(f"demo photos must not be negative, not {count}")
    asked = {"generator_version": GENERATOR_VERSION, "seed": seed, "side_tiles": plan.side_tiles, "photos": count}
    if is_complete(out, asked):
        return
    if out.exists() and (not out.is_dir() or (any(out.iterdir()) and not (out / RECORD).is_file())):
        raise InputError(f"{out} holds something other than a demo build; choose an empty folder")
    with atomic_folder(out) as fresh:
        counts = _write_all(plan, fresh, count, workers, _Steps(len(aerial_windows(plan)) + count, progress))
        record = {"parameters": asked, "counts": counts, "files": _digests(fresh)}
        (fresh / RECORD).write_text(json.dumps(record, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def is_complete(out: Path, asked: dict[str, Any]) -> bool:
    """Whether out holds a build of these parameters with all its files at their sizes."""
    try:
        record = json.loads((out / RECORD).read_text(encoding="utf-8"))
        if record["parameters"] != asked:
            return False
        return all((out / name).stat().st_size == entry["bytes"] for name, entry in record["files"].items())
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _digests(folder: Path) -> dict[str, dict[str, Any]]:
    found = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        found[path.relative_to(folder).as_posix()] = {"bytes": path.stat().st_size, "sha256": file_sha256(path)}
    return found


class _Steps:
    """Counts what is done and tells whoever wants to know."""

    def __init__(self, total: int, tell: Callable[[int, int], None] | None) -> None:
        self.total, self.tell, self.done = total, tell, 0

    def add(self, count: int) -> None:
        self.done += count
        if self.tell is not None:
            self.tell(self.done, self.total)

    def each(self, items: Iterator[T]) -> Iterator[T]:
        for item in items:
            yield item
            self.add(1)


def _write_all(plan: Plan, folder: Path, photos: int, workers: int | None, steps: _Steps) -> dict[str, int]:
    (folder / "photos").mkdir()
    n = min(_RENDERERS, os.cpu_count() or 1) if workers is None else max(1, workers)
    if n == 1:
        world = World(plan)
        counts = write_osm(world, folder / "town.osm.pbf")
        rendered = (render_window(world, w) for w in aerial_windows(plan))
        write_aerial(plan, folder / "aerial.tif", steps.each(rendered))
        _make_photos(world, photo_poses(plan, photos), range(photos), folder / "photos", photos)
        steps.add(photos)
        return counts | {"photos": photos}
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(n, mp_context=context, initializer=_start, initargs=(plan.seed, plan.side_tiles)) as pool:
        windows = _in_order(pool.submit, aerial_windows(plan))
        first = [next(windows)]  # sets the workers to work while this process writes the map
        counts = write_osm(World(plan), folder / "town.osm.pbf")
        write_aerial(plan, folder / "aerial.tif", steps.each(chain(first, windows)))
        parts = _parts(photos)
        for task, part in [(pool.submit(_photo_task, p, str(folder / "photos"), photos), p) for p in parts]:
            task.result()
            steps.add(part[1] - part[0])
    return counts | {"photos": photos}


def _in_order(submit: Submit, windows: Sequence[tuple[int, int, int, int]]) -> Iterator[NDArray[np.uint8]]:
    """Rendered windows in order, a few of them in the making at any time."""
    waiting: deque[Future[Any]] = deque()
    for window in windows:
        waiting.append(submit(_window_task, window))
        if len(waiting) > _AHEAD:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def _parts(photos: int) -> list[tuple[int, int]]:
    return [(k, min(k + _PHOTOS_PER_TASK, photos)) for k in range(0, photos, _PHOTOS_PER_TASK)]


# -- in the worker processes --------------------------------------------------------------

_world: World | None = None
_poses: list[PhotoPose] = []


def _start(seed: int, side_tiles: float) -> None:
    global _world
    _world = World(Plan(seed, side_tiles=side_tiles))


def _window_task(window: tuple[int, int, int, int]) -> NDArray[np.uint8]:
    assert _world is not None
    return render_window(_world, window)


def _photo_task(part: tuple[int, int], folder: str, photos: int) -> None:
    assert _world is not None
    if len(_poses) != photos:
        _poses[:] = photo_poses(_world.plan, photos)
    _make_photos(_world, _poses, range(*part), Path(folder), photos)


def _make_photos(world: World, poses: list[PhotoPose], numbers: range, folder: Path, photos: int) -> None:
    digits = max(4, len(str(max(photos - 1, 0))))
    for k in numbers:
        data = io.BytesIO()
        image = Image.fromarray(render_photo(world, poses[k]))
        image.save(data, "JPEG", quality=JPEG_QUALITY, subsampling=2, exif=exif_bytes(poses[k]))
        (folder / f"{k:0{digits}d}.jpg").write_bytes(data.getvalue())
