"""The order in which scenes are tried for a footprint, and which of them are put together in one image.

Pure: outlines and what is known of the scenes in, numbers out. A mosaic is what one image may be made of: scenes of one
day and about one resolution; of scenes without a time, those that hardly overlap, as sheets of one map do.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

from pipeline.imagery.config import ImageryConfig
from pipeline.imagery.scene import Scene

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

#: Pixels of one resolution differ by less than this factor: those of a projection change with latitude.
_ONE_RESOLUTION = 1.25
#: Two scenes without a time are of one mosaic where they share at most so much of the smaller one.
_SHEETS_SHARE = 0.2
#: A scene is as good as the finest of a footprint, or as its pixels, up to pixels so many times as large.
_SUITABLE = 2.0
#: Outlines are drawn with few points: a scene that covers so much of a box may cover all of it.
WHOLE = 1 - 1e-3
#: Share of a box that outlines of satellite scenes may leave out at their rims although the image has it.
_ROUGH = 0.02


def day_of(scene: Scene, config: ImageryConfig) -> str:
    """Day of a scene, YYYY-MM-DD, or the year or month that is known of it; empty where it has no time."""
    return (config.acquired or scene.acquired or "")[:10]


def mosaic_of(scene: Scene, config: ImageryConfig) -> tuple[str, int]:
    """What the scenes of one image have in common: the day, and the number among the mosaics of that day."""
    return day_of(scene, config), scene.mosaic


def join(scenes: Sequence[Scene], config: ImageryConfig) -> list[Scene]:
    """The scenes with their ``mosaic`` numbers, the finest of a day first; by name among those without a time."""
    size = resolutions([s.gsd for s in scenes])
    timed = np.array([bool(day_of(s, config)) for s in scenes], bool)
    order = sorted(range(len(scenes)), key=lambda i: (size[i], scenes[i].name, scenes[i].path))
    apart = _overlapping(scenes, np.flatnonzero(~timed), size)
    number = dict.fromkeys(np.flatnonzero(timed).tolist(), 0)
    for i in order:
        if not timed[i]:
            taken = {number[j] for j in apart.get(i, ()) if j in number}
            number[i] = next(n for n in range(len(taken) + 1) if n not in taken)
    keys = {i: (day_of(s, config), size[i], number[i]) for i, s in enumerate(scenes)}
    own: dict[str, list[tuple[str, int, int]]] = {}
    for key in sorted(set(keys.values())):
        own.setdefault(key[0], []).append(key)
    return [replace(s, mosaic=own[keys[i][0]].index(keys[i])) for i, s in enumerate(scenes)]


def _overlapping(scenes: Sequence[Scene], undated: Ints, size: list[int]) -> dict[int, list[int]]:
    """Scenes of the same resolution that each of the undated ones overlaps too much to be a sheet beside it."""
    areas = np.array([scenes[i].area for i in undated.tolist()], dtype=object)
    shapely.prepare(areas)
    a, b = shapely.STRtree(areas).query(areas, predicate="intersects")
    kinds = np.array([size[i] for i in undated.tolist()], np.int64)
    pair = (a != b) & (kinds[a] == kinds[b]) if len(kinds) else np.zeros(0, bool)
    a, b = a[pair], b[pair]
    shared = shapely.area(shapely.intersection(areas[a], areas[b]))
    over = shared > _SHEETS_SHARE * np.minimum(shapely.area(areas[a]), shapely.area(areas[b]))
    found: dict[int, list[int]] = {}
    for i, j in zip(undated[a[over]].tolist(), undated[b[over]].tolist(), strict=True):
        found.setdefault(i, []).append(j)
    return found


def resolutions(sizes: Sequence[float | None]) -> list[int]:
    """Number of each pixel size's resolution, the finest 0; those that are unknown are one, the last.

    >>> resolutions([10.0, 0.5, 10.4, None, 0.5])
    [1, 0, 1, 2, 0]
    """
    known = sorted({s for s in sizes if s})
    number, numbers = 0, dict[float | None, int]()
    for before, own in zip([*known[:1], *known], known, strict=False):
        number += own > before * _ONE_RESOLUTION
        numbers[own] = number
    return [numbers.get(s, number + bool(known)) if s else number + bool(known) for s in sizes]


@dataclass(frozen=True, eq=False)
class Ranked:
    """Pairs of a box and a scene that meets it, box by box, the first choice first."""

    box: Ints  # [P] rising
    scene: Ints  # [P]
    part: Floats  # [P] of the box that the scene covers, 0..1
    mosaic: Ints  # [P] number of the scene's mosaic, of all days


def rank(scenes: Sequence[Scene], boxes: NDArray[Any], pixels: Floats, config: ImageryConfig) -> Ranked:
    """Scenes of each box in the order in which they are tried.

    Scenes fine enough for the box come first, then by mosaic: by day, or (``rs.prefer=clearest``) by the clearest scene
    that the day has there; without a time last; the finest first. Within a mosaic those that cover the box whole, then
    by cloud, then by the part that they cover, then by name.

    Args:
        scenes: with their mosaics, as `join` numbers them.
        boxes: lon/lat shapely polygons [N].
        pixels: metres on the ground a pixel of each box's image, f64[N].
        config: settings.
    """
    areas = np.array([s.area for s in scenes], dtype=object)
    box, scene = shapely.STRtree(areas).query(boxes, predicate="intersects")
    part = shapely.area(shapely.intersection(areas[scene], boxes[box])) / shapely.area(boxes[box])
    mosaics = sorted({mosaic_of(s, config) for s in scenes}, key=lambda m: m[1])
    mosaics.sort(key=lambda m: m[0], reverse=config.prefer != "oldest")
    mosaics.sort(key=lambda m: m[0] == "")
    place = {mosaic: i for i, mosaic in enumerate(mosaics)}
    mosaic = np.array([place[mosaic_of(s, config)] for s in scenes], np.int64)[scene]
    cloud = np.array([s.cloud or 0.0 for s in scenes])[scene]
    day = np.zeros(len(box))
    if config.prefer == "clearest":
        own = np.array([100.0 if s.cloud is None else s.cloud for s in scenes])[scene]
        undated = np.array([m[0] == "" for m in mosaics], bool)[mosaic]
        _, group = np.unique(np.stack((box, _days(mosaics)[mosaic])), axis=1, return_inverse=True)
        clearest = np.full(len(box), np.inf)
        np.minimum.at(clearest, group.ravel(), own)
        day = np.where(undated, np.inf, clearest[group.ravel()])
    names = np.empty(len(scenes), np.int64)
    names[sorted(range(len(scenes)), key=lambda i: (scenes[i].name, scenes[i].path))] = np.arange(len(scenes))
    coarse = _coarse(scenes, box, scene, pixels)
    order = np.lexsort((names[scene], -part, cloud, part < WHOLE, mosaic, day, coarse, box))
    return Ranked(box[order], scene[order], part[order], mosaic[order])


def _days(mosaics: Sequence[tuple[str, int]]) -> Ints:
    """A number of each mosaic's day, i64."""
    numbers = {day: i for i, day in enumerate(dict.fromkeys(m[0] for m in mosaics))}
    return np.array([numbers[m[0]] for m in mosaics], np.int64)


def _coarse(scenes: Sequence[Scene], box: Ints, scene: Ints, pixels: Floats) -> Ints:
    """How far each pair is from suiting its box, i64[P]: 0 as the finest there or as the box's own pixels, 1 as the
    finest of what is left, and so on; a size that is unknown suits."""
    size = resolutions([s.gsd for s in scenes])
    kinds = np.array(size, np.int64)[scene]
    metres: dict[int, float] = {}
    for own_size, s in zip(size, scenes, strict=True):
        if s.gsd:
            metres[own_size] = min(s.gsd, metres.get(own_size, s.gsd))
    result = np.zeros(len(box), np.int64)
    step, finest = np.full(len(pixels), -1), np.zeros(len(pixels))
    for kind, gsd in sorted(metres.items()):
        own = kinds == kind
        there = np.zeros(len(pixels), bool)
        there[box[own]] = True
        new = there & ((step < 0) | (gsd > _SUITABLE * finest))
        step[new] += 1
        finest[new] = np.maximum(gsd, pixels[new])
        result[own] = step[box[own]]
    return result


def candidates(scenes: Sequence[Scene], boxes: NDArray[Any], pixels: Floats, config: ImageryConfig) -> list[list[int]]:
    """Numbers of the scenes of each box, the first choice first; arguments as of `rank`."""
    found = rank(scenes, boxes, pixels, config)
    ends = np.searchsorted(found.box, np.arange(1, len(boxes)))
    return [own.tolist() for own in np.split(found.scene, ends)] if len(boxes) else []


def covered(boxes: NDArray[Any], scenes: Sequence[Scene], config: ImageryConfig) -> NDArray[np.bool_]:
    """Which boxes (lon/lat shapely polygons) the scenes of one mosaic cover but for ``rs.max_nodata``, bool[N].

    Outlines are rough, so what this lets through may still turn out to have too little data; what it leaves out has.
    """
    need = 1 - allowed(scenes, config)
    result = np.zeros(len(boxes), bool)
    areas = np.array([s.area for s in scenes], dtype=object)
    shapely.prepare(areas)
    tree = shapely.STRtree(areas)
    result[np.unique(tree.query(boxes, predicate="covered_by")[0])] = True
    left = np.flatnonzero(~result)
    box, scene = tree.query(boxes[left], predicate="intersects")
    numbers = {m: i for i, m in enumerate({mosaic_of(s, config) for s in scenes})}
    mosaics = np.array([numbers[mosaic_of(s, config)] for s in scenes], np.int64)
    for i in np.unique(box):
        own = scene[box == i]
        whole = boxes[left[i]]
        result[left[i]] = any(_share(whole, areas[own[mosaics[own] == m]]) >= need for m in np.unique(mosaics[own]))
    return result


def allowed(scenes: Sequence[Scene], config: ImageryConfig) -> float:
    """Share of a box that outlines may leave uncovered."""
    return max(config.max_nodata, _ROUGH if any(s.identity for s in scenes) else 1 - WHOLE)


def _share(box: Any, areas: NDArray[Any]) -> float:
    return float(shapely.area(shapely.intersection(box, shapely.union_all(areas))) / shapely.area(box))
