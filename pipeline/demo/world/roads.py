"""Streets as they are seen: surfaces, markings, crossings, trees, lamps, signs, cars; and on the map."""

from __future__ import annotations

import numpy as np
import shapely
from numpy.typing import NDArray

from pipeline.demo.geo import FloatArray, rectangle
from pipeline.demo.town.block import MARKING, PATH, ROAD, SIDEWALK, Block, Tags
from pipeline.demo.town.streets import along, band, length_of
from pipeline.demo.world.draft import Draft
from pipeline.demo.world.streets import DRIVEN, Street

_STYLE = {"pedestrian": "paving", "track": "track", "path": "path"}
_SPEED = {"primary": "60", "secondary": "50", "tertiary": "50", "residential": "30", "living_street": "20"}
_MINOR = ("living_street", "service", "pedestrian", "track", "path")
_CAR_M_S = 9.0  # so that vehicles a day give vehicles to a metre


def lay(draft: Draft, street: Street, others: shapely.STRtree, mapped: bool) -> None:
    """Put a street into a block of its own; others: lines of all streets, by which junctions are kept clear."""
    block = draft.block(street.highway)
    c, half = street.character, street.half
    if c.walk:
        draft.paint(block, SIDEWALK, "sidewalk", band(street.line, street.wide))
    style = _STYLE.get(street.highway, "asphalt")
    draft.paint(
        block,
        PATH if style != "asphalt" else ROAD,
        style,
        band(street.line, half),
        tone=float(draft.rng.uniform(0.92, 1.06)),
    )
    total = length_of(street.line)
    if c.dashes and street.highway in DRIVEN:
        for (x, y), angle in zip(*along(street.line, np.arange(9.0, total - 9, 9.0)), strict=True):
            draft.paint(block, MARKING, "marking", rectangle((x, y), 4.5, 0.3, angle))
    crossings = _crossings(draft, block, street, total)
    _furniture(draft, block, street, total, others)
    if street.highway in DRIVEN:
        _cars(draft, block, street, total)
    if mapped:
        _on_the_map(draft, street, crossings)


def _clear(xy: FloatArray, others: shapely.STRtree, room: float) -> NDArray[np.bool_]:
    """Which places are away from the middle of every street."""
    first, _ = others.query(shapely.points(xy), predicate="dwithin", distance=room)
    return np.asarray(np.bincount(first, minlength=len(xy)) == 0)


def _furniture(draft: Draft, block: Block, street: Street, total: float, others: shapely.STRtree) -> None:
    c = street.character
    if c.trees:
        d = np.arange(7.0, total - 6, c.trees)
        for side in (-1, 1)[: c.tree_sides]:
            xy, _ = along(street.line, d + draft.rng.uniform(-0.7, 0.7, len(d)), side * (street.wide + 0.8))
            xy = xy[_clear(xy, others, street.wide + 0.3) & (draft.rng.random(len(xy)) < 0.92)]
            draft.trees(block, xy, (0.85 * c.crown, 1.15 * c.crown), c.hue)
            for at in xy[draft.rng.random(len(xy)) < draft.settings.mapped_trees]:
                draft.points.append((at, {"natural": "tree"}))
    rows = []
    if c.lamps:
        xy, _ = along(street.line, np.arange(4.0, total - 4, c.lamps), street.half + 0.4)
        rows.append((xy, 8.5 if c.lamp < 2 else 4.2, c.lamp))
    if c.signs:
        xy, _ = along(street.line, np.arange(14.0, total - 8, c.signs), -street.half - 0.5)
        rows.append((xy, 2.7, 3))
    for xy, high, kind in rows:
        xy = xy[_clear(xy, others, street.half + 0.2)]
        n = np.ones(len(xy))
        block.posts = np.concatenate([block.posts, np.column_stack([xy, n * high, n * kind])])


def _cars(draft: Draft, block: Block, street: Street, total: float) -> None:
    """Parked ones along the kerbs, driving ones by the street's traffic."""
    c = street.character
    for side in (-1, 1)[: c.parking]:
        d = np.arange(14.0, total - 12, 6.0)
        d = d[draft.rng.random(len(d)) < c.parked]
        if len(d):
            draft.cars(block, *along(street.line, d, side * (street.half - 1.0)))
    n = int(draft.rng.poisson(c.traffic / 86_400 / _CAR_M_S * total * 2))
    if n:
        right = int(draft.rng.binomial(n, 0.5))
        for s, count in ((-1.0, right), (1.0, n - right)):
            d = draft.rng.uniform(6, max(total - 6, 7), count)
            draft.cars(block, *along(street.line, d, s * min(street.half - 1.2, 1.9)))


def _crossings(draft: Draft, block: Block, street: Street, total: float) -> list[FloatArray]:
    """Zebra crossings of main streets near their nodes; their places."""
    if street.highway not in ("primary", "secondary", "tertiary") or not street.character.walk or total < 60:
        return []
    found = []
    for share in (0.12, 0.37, 0.63, 0.88):
        if draft.rng.random() < 0.45:
            (at,), (angle,) = along(street.line, np.array([share * total]))
            for offset in np.arange(-street.half + 0.5, street.half - 0.2, 1.1):
                side = at + offset * np.array([-np.sin(angle), np.cos(angle)])
                draft.paint(block, MARKING, "zebra", rectangle(side, 4.0, 0.6, float(angle)))
            found.append(at)
    return found


def _on_the_map(draft: Draft, street: Street, crossings: list[FloatArray]) -> None:
    if street.highway in _MINOR and draft.rng.random() < draft.settings.unmapped_streets:
        return
    tags: Tags = {"highway": street.highway}
    if street.name:
        tags["name"] = street.name
    if street.highway in _SPEED and draft.rng.random() < 0.6:
        tags["maxspeed"] = _SPEED[street.highway]
    if draft.rng.random() < 0.4:
        tags["surface"] = "paving_stones" if street.highway == "pedestrian" else "asphalt"
    draft.lines.append((street.line, tags))
    for at in crossings:
        if draft.rng.random() < 0.7:
            draft.points.append((at, {"highway": "crossing"}))
