"""Which images a plan's footprints will have, as far as outlines say it before a pixel is read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.imagery.choice.order import WHOLE, Ranked, allowed, day_of, rank, resolutions
from pipeline.imagery.config import ImageryConfig
from pipeline.imagery.scene import Scene
from schemas.features import drop_row

Ints = NDArray[np.int64]
#: Scenes that are named one by one for people.
_NAMED = 8


@dataclass(frozen=True)
class Use:
    """What becomes of one scene."""

    name: str
    day: str  # YYYY-MM-DD; empty: it has no time
    gsd: float | None  # metres a pixel
    meets: int  # footprints that its outline meets
    serves: int  # of them, those whose images it is a part of, unless pixels turn out to be missing or hidden
    over: str = ""  # the scene that takes its place most often, where it serves none
    why: str = ""  # what makes that one better
    described: bool = False  # by a catalog; else it is a file

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)


def uses(
    scenes: Sequence[Scene], parts: Iterable[tuple[NDArray[Any], NDArray[np.float64]]], config: ImageryConfig
) -> list[Use]:
    """Of each scene, what the footprints take of it.

    ``parts``: of the footprints, outlines (lon/lat polygons [N]) and metres on the ground a pixel f64[N], as `rank`.
    """
    meets, serves = np.zeros(len(scenes), np.int64), np.zeros(len(scenes), np.int64)
    instead: dict[int, Counter[int]] = {}  # footprints by a scene that does not serve, and the first of those that do
    days = _numbers([day_of(s, config) for s in scenes])
    for boxes, pixels in parts if scenes else ():
        found = rank(scenes, boxes, pixels, config)
        chosen, first = _chosen(found, days, 1 - allowed(scenes, config), config.dates)
        meets += np.bincount(found.scene, minlength=len(scenes))
        serves += np.bincount(found.scene[chosen], minlength=len(scenes))
        best = np.full(len(boxes), -1)
        best[found.box[first][::-1]] = found.scene[first][::-1]
        other = best[found.box]
        left = ~chosen & (other >= 0)
        pairs, counts = np.unique(np.stack((found.scene[left], other[left])), axis=1, return_counts=True)
        for a, b, count in zip(*pairs.tolist(), counts.tolist(), strict=True):
            instead.setdefault(a, Counter())[b] += count
    result = []
    size = resolutions([s.gsd for s in scenes])
    for i, scene in enumerate(scenes):
        over, why = "", ""
        if not serves[i] and (better := instead.get(i)):
            j = min(better.items(), key=lambda own: (-own[1], scenes[own[0]].name))[0]
            over, why = scenes[j].name, _why(scenes[j], scene, size[j] < size[i], config)
        result.append(
            Use(scene.name, day_of(scene, config), scene.gsd, int(meets[i]), int(serves[i]), over, why,
                bool(scene.identity))
        )  # fmt: skip
    return result


def _numbers(days: Sequence[str]) -> Ints:
    """A number of each scene's day; -1 without one."""
    known = {day: i for i, day in enumerate(dict.fromkeys(days))}
    return np.array([known[day] if day else -1 for day in days], np.int64)


def _chosen(found: Ranked, days: Ints, need: float, dates: int) -> tuple[NDArray[np.bool_], Ints]:
    """Which pairs make the images of their box, bool[P], and the first pair of each image."""
    chosen = np.zeros(len(found.box), bool)
    if not len(chosen):
        return chosen, np.zeros(0, np.int64)
    begins = np.ones(len(chosen), bool)
    begins[1:] = (np.diff(found.box) != 0) | (np.diff(found.mosaic) != 0)
    starts, group = np.flatnonzero(begins), np.cumsum(begins) - 1
    enough = np.add.reduceat(found.part, starts) >= need
    day = days[found.scene[starts]]
    once = np.where(day >= 0, day, len(days) + found.mosaic[starts])  # a day gives one image
    _, first = np.unique(np.stack((found.box[starts], once, ~enough)), axis=1, return_index=True)
    takes = np.zeros(len(starts), bool)
    takes[first] = True
    takes &= enough
    box = found.box[starts]
    before = np.cumsum(takes) - takes
    takes &= before - before[np.searchsorted(box, box)] < dates
    total = np.cumsum(found.part) - found.part
    missing = total - total[starts][group] < WHOLE  # something, when its turn comes
    return takes[group] & missing, starts[takes]


def _why(better: Scene, scene: Scene, finer: bool, config: ImageryConfig) -> str:
    own, other = day_of(scene, config), day_of(better, config)
    if own == other:
        if finer:
            return "finer"
        if not own and scene.mosaic != better.mosaic:
            return "first by name, and neither has a time (rs.time_pattern, rs.acquired)"
        return "covers more, is clearer, or is first by name"
    if finer and (scene.gsd or 0) > 2 * (better.gsd or 0):
        return "finer"
    if not own:
        return "has a time"
    return {"newest": "newer", "oldest": "older", "clearest": "clearer"}[config.prefer]


def drops_of(found: Sequence[Use], source: str = "") -> list[dict[str, Any]]:
    """DROPS rows of scenes that serve no footprint: files by name, those of catalogs counted."""
    rows: list[dict[str, Any]] = []
    counted: dict[str, list[Use]] = {}
    for use in found:
        if use.serves:
            continue
        reason = "outranked" if use.over else "too_little_cover" if use.meets else "no_footprint"
        if use.described:
            counted.setdefault(reason, []).append(use)
        else:
            rows.append(drop_row("imagery", use.name, reason, detail=_words(use)))
    for reason, own in sorted(counted.items()):
        detail = f"{own[0].name}: {_words(own[0])}"
        rows.append(drop_row("imagery", source or "STAC", reason, detail=detail[:200], count=len(own)))
    return rows


def _words(use: Use) -> str:
    if not use.meets:
        return "no footprint lies on it"
    if not use.over:
        return f"too little of each of its {use.meets:,} footprints"
    return f"none of its {use.meets:,} footprints: {use.over} comes first ({use.why})"


def lines_of(found: Sequence[Use]) -> list[str]:
    """For people: the scenes that serve most, with day, pixels and footprints, and what outranks those that do not."""
    order = sorted(found, key=lambda u: (-u.serves, -u.meets, u.name))
    result = []
    for use in order[:_NAMED]:
        facts = f"{use.day or 'no time'}, {'unknown pixels' if use.gsd is None else f'{use.gsd:.4g} m'}"
        what = f"{use.serves:,} of {use.meets:,} footprints on it" if use.serves else _words(use)
        result.append(f"{use.name} ({facts}): {what}")
    if rest := order[_NAMED:]:
        unused = sum(not u.serves for u in rest)
        result.append(f"and {len(rest):,} more scenes, {unused:,} of them unused (--json names all)")
    return result
