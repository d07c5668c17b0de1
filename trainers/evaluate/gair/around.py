"""What OpenStreetMap says of the ground around a photo: nearest road, buildings, land use.

They are weak labels: what nobody mapped is absent, and ground beyond the tile's edge is not seen.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from geometry.packed import PackedGeometry
from schemas.features import Kind
from schemas.tokens import OsmTokens, unsnap
from trainers.evaluate.gair.members import objects
from trainers.evaluate.gair.places import GOLDEN, Places
from trainers.evaluate.labels import UNKNOWN, Legend, class_of
from trainers.stream.stream import GeoStream

#: Metres around a photo that are looked at.
REACH = 50.0
#: Points of that disc, each of which stands for as much ground (a sunflower's seeds).
_POINTS = 64
Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Around:
    """Labels of N photos."""

    road_class: Tensor  # i64 [N] of trainers.evaluate.labels.ROADS: the nearest road within reach; UNKNOWN: unmapped
    land_use: Tensor  # i64 [N] of LAND_USE: the one with most ground within reach, UNKNOWN where there is none
    building_density: Tensor  # f64 [N] share of the ground within reach under buildings; NaN: unmapped


@dataclass(frozen=True, eq=False)
class _Mapped:
    """The objects of one tile in metres from its upper left corner."""

    roads: PackedGeometry
    road_class: NDArray[np.int64]
    grounds: PackedGeometry  # polygons
    land_use: NDArray[np.int64]  # UNKNOWN: none
    building: NDArray[np.bool_]
    box: Floats  # [2,G,2] least and greatest corner of each of these


def labels_around(stream: GeoStream, legend: Legend, places: Places) -> Around:
    """Labels of the photos at ``places``, which lie in the samples of ``stream``."""
    found = Around(
        torch.full((len(places),), UNKNOWN), torch.full((len(places),), UNKNOWN),
        torch.full((len(places),), math.nan, dtype=torch.float64),
    )  # fmt: skip
    number = {key: tile for tile, key in enumerate(places.key)}
    for key, tokens in objects(stream):
        if key not in number or not len(tokens):
            continue
        size = places.size[number[key]].numpy()
        mapped = _mapped(tokens, legend, size)
        for row in (places.tile == number[key]).nonzero().squeeze(1).tolist():
            at = places.xy[row].numpy() * size
            found.road_class[row] = _nearest_road(mapped, at)
            density, use = _ground(mapped, at, size)
            found.building_density[row], found.land_use[row] = density, use
    return found


def _mapped(tokens: OsmTokens, legend: Legend, size: Floats) -> _Mapped:
    owner = np.repeat(np.arange(len(tokens)), np.diff(tokens.tag_offsets))
    ids = torch.from_numpy(tokens.tag_ids.astype(np.int64))

    def of(table: Tensor) -> NDArray[np.int64]:
        found = np.full(len(tokens), UNKNOWN)
        np.maximum.at(found, owner, class_of(ids, table).numpy())
        return found

    whole = PackedGeometry(
        tokens.kind, unsnap(tokens.vertices) * size, tokens.ring_offsets.astype(np.int64),
        tokens.object_ring_offsets.astype(np.int64),
    )  # fmt: skip
    road, use, built = of(legend.roads), of(legend.land_use), of(legend.buildings) != UNKNOWN
    lines = np.flatnonzero((tokens.kind == Kind.LINE) & (road != UNKNOWN))
    areas = np.flatnonzero((tokens.kind == Kind.POLYGON) & (built | (use != UNKNOWN)))
    grounds = whole.take(areas)
    start, _, part = grounds.edges(closed=True)
    first = np.flatnonzero(np.diff(part, prepend=-1))  # every object has a vertex
    box = np.stack([f.reduceat(start, first) if len(first) else np.zeros((0, 2)) for f in (np.minimum, np.maximum)])
    return _Mapped(whole.take(lines), road[lines], grounds, use[areas], built[areas], box)


def _nearest_road(mapped: _Mapped, at: Floats) -> int:
    """Class of the road nearest to ``at`` f64[2] within reach; 0 where there is none."""
    start, end, road = mapped.roads.edges(closed=False)
    if not len(road):
        return 0
    along = end - start
    share = ((at - start) * along).sum(1) / np.maximum((along**2).sum(1), 1e-12)
    apart = np.hypot(*(at - start - np.clip(share, 0, 1)[:, None] * along).T)
    best = int(apart.argmin())
    return int(mapped.road_class[road[best]]) if apart[best] <= REACH else 0


def _ground(mapped: _Mapped, at: Floats, size: Floats) -> tuple[float, int]:
    """Share under buildings, and the land use, of the ground around ``at`` f64[2] in a tile of ``size`` f64[2]."""
    seed = np.arange(_POINTS)
    radius = REACH * np.sqrt((seed + 0.5) / _POINTS)
    points = at + radius[:, None] * np.stack((np.cos(GOLDEN * seed), np.sin(GOLDEN * seed)), 1)
    points = points[((points >= 0) & (points < size)).all(1)]
    if not len(points):
        return math.nan, UNKNOWN
    near = np.flatnonzero(((mapped.box[0] <= at + REACH) & (mapped.box[1] >= at - REACH)).all(1))
    inside = _inside(mapped.grounds.take(near), points)
    built, own = inside[:, mapped.building[near]].any(1), mapped.land_use[near]
    uses = np.unique(own[own != UNKNOWN])
    amount = [int(inside[:, own == use].any(1).sum()) for use in uses]
    use = int(uses[int(np.argmax(amount))]) if any(amount) else UNKNOWN
    return float(built.mean()), use


def _inside(polygons: PackedGeometry, points: Floats) -> NDArray[np.bool_]:
    """Which of ``points`` f64[K,2] lie in each of G polygons, bool[K,G]: an odd number of edges lies to their right."""
    if not len(polygons):
        return np.zeros((len(points), 0), bool)
    start, end, owner = polygons.edges(closed=True)
    x, y = points[:, :1], points[:, 1:]
    crossed = (start[:, 1] > y) != (end[:, 1] > y)
    rise = np.where(end[:, 1] == start[:, 1], 1.0, end[:, 1] - start[:, 1])
    crossed &= x < start[:, 0] + (y - start[:, 1]) / rise * (end[:, 0] - start[:, 0])
    return np.logical_xor.reduceat(crossed, np.flatnonzero(np.diff(owner, prepend=-1)), axis=1)
