"""Unusual and invalid map objects, a fixed small number of each, at fixed ids."""

from __future__ import annotations

import mercantile
import numpy as np

from geometry.tiles import tile_to_lonlat
from pipeline.demo.geo import TILE_ZOOM, FloatArray, to_utm
from pipeline.demo.town.block import Block, Relation, Tags, Way
from pipeline.demo.town.names import CONTROL_VALUE, LONG_VALUE
from pipeline.demo.town.plan import Plan

_N = 9_000_000_000  # first id of the odd objects; the town's own ids stay below it
_MISSING = 9_900_000_000  # ids that no object has

INVALID_OBJECTS: tuple[tuple[str, int, str], ...] = (
    ("way", _N + 1, "self-crossing building outline (bow-tie)"),
    ("relation", _N + 1, "multipolygon with a missing member way"),
    ("relation", _N + 2, "multipolygon whose outer ring is not closed"),
    ("way", _N + 2, "way with one node"),
    ("way", _N + 3, "way whose nodes are all missing"),
    ("way", _N + 4, "way with duplicated consecutive nodes"),
    ("way", _N + 5, "closed way of zero area (a-b-a)"),
    ("way", _N + 6, "building with the same geometry as way 9000000007"),
    ("way", _N + 7, "building with the same geometry as way 9000000006"),
    ("way", _N + 8, "closed highway=pedestrian with area=no"),
    ("way", _N + 9, "closed highway=service with area=yes"),
    ("node", _N + 1, "node outside the valid coordinate range"),
    ("node", _N + 2, "node without tags that no way uses"),
    ("way", _N + 10, "way without tags"),
    ("node", _N + 3, "point of interest on the west edge of a zoom 17 tile"),
    ("node", _N + 4, "point of interest on the north edge of a zoom 17 tile"),
    ("node", _N + 5, "values with control characters and of 255 characters"),
    ("way", _N + 11, "way with some nodes missing"),
    ("relation", _N + 3, "relation that is a member of itself"),
    ("relation", _N + 4, "relation without members"),
)

# Degrees (longitude, latitude), written as they are.
OUT_OF_RANGE_LONLAT = (200.0, 95.0)


def tile_edge_points(plan: Plan) -> list[tuple[float, float]]:
    """Longitude/latitude of a point on a tile's west edge and of one on a north edge."""
    r = plan.region
    tile = mercantile.tile((r.west + r.east) / 2, (r.south + r.north) / 2, TILE_ZOOM)
    places = tile_to_lonlat(np.array([[tile.x, tile.y + 0.37], [tile.x + 0.61, tile.y]]), TILE_ZOOM)
    return [(round(lon, 7), round(lat, 7)) for lon, lat in places.tolist()]


def _field_corner(plan: Plan) -> FloatArray:
    """South-west corner in metres of a 120 m square for the odd objects, on a meadow if there is one."""
    blocks = plan.index_range()
    wanted = ("oddities", "meadow", "farmland")
    rank = [wanted.index(kind) if (kind := plan.kind(i, j)) in wanted else len(wanted) for i, j in blocks]
    found = [ij for ij, r in zip(blocks, rank, strict=True) if r == min(rank)]
    # Well inside: the block nearest to the middle of the region.
    middle = np.array(plan.region.size) / 2
    uv = [((plan.line(0, i) + plan.line(0, i + 1)) / 2, (plan.line(1, j) + plan.line(1, j + 1)) / 2) for i, j in found]
    xy = plan.warp(np.array(uv))
    return np.asarray(xy[np.hypot(*(xy - middle).T).argmin()] - 60.0)


_FIXED_TAGS = {
    _N + 1: {"amenity": "cafe", "name": "Nowhere"},
    _N + 3: {"amenity": "cafe", "name": "Edge west"},
    _N + 4: {"shop": "bakery", "name": "Edge north"},
    _N + 5: {"amenity": "bench", "note": CONTROL_VALUE, "description": LONG_VALUE, "inscription": "😀" * 40},
}

# Places in metres from the corner, their order in the way (negative: a node that is missing), tags.
_BOX = ((0, 0), (12, 0), (12, 9), (0, 9))
_SQUARE = ((0, 0), (20, 0), (20, 16), (0, 16))
_WAYS: tuple[tuple[int, tuple[int, int], tuple[tuple[int, int], ...], tuple[int, ...], Tags], ...] = (
    (1, (0, 0), ((0, 0), (14, 10), (14, 0), (0, 10)), (0, 1, 2, 3, 0), {"building": "yes"}),
    (2, (30, 0), ((0, 0),), (0,), {"highway": "footway"}),
    (3, (0, 0), (), (-1, -2, -3, -1), {"building": "yes"}),
    (4, (40, 0), _BOX, (0, 1, 1, 2, 2, 2, 3, 0, 0), {"building": "yes"}),
    (5, (60, 0), ((0, 0), (12, 6)), (0, 1, 0), {"landuse": "meadow"}),
    (6, (80, 0), _BOX, (0, 1, 2, 3, 0), {"building": "house"}),
    (7, (80, 0), _BOX, (0, 1, 2, 3, 0), {"building": "house", "source": "duplicate"}),
    (8, (0, 30), _SQUARE, (0, 1, 2, 3, 0), {"highway": "pedestrian", "area": "no"}),
    (9, (30, 30), _SQUARE, (0, 1, 2, 3, 0), {"highway": "service", "area": "yes"}),
    (10, (60, 30), ((0, 0), (20, 14)), (0, 1), {}),
    (11, (90, 30), ((0, 0), (20, 14)), (0, -4, 1, -5), {"highway": "path"}),
    (12, (0, 60), _SQUARE, (0, 1, 2), {}),
    (13, (40, 60), _SQUARE, (0, 1, 2, 3), {}),
)
_RELATIONS: tuple[tuple[int, tuple[tuple[str, int, str], ...], Tags], ...] = (
    (1, (("w", _N + 12, "outer"), ("w", _MISSING + 1, "outer")), {"type": "multipolygon", "landuse": "grass"}),
    (2, (("w", _N + 13, "outer"),), {"type": "multipolygon", "natural": "scrub"}),
    (3, (("r", _N + 3, "subarea"),), {"type": "collection", "name": "Ouroboros"}),
    (4, (), {"type": "multipolygon", "landuse": "forest"}),
)


def make_oddities(plan: Plan) -> Block:
    """The odd objects as a block; fixed nodes first, so that ids rise."""
    corner = _field_corner(plan)
    edge = to_utm(np.array(tile_edge_points(plan))) - plan.region.origin - corner
    places = dict(enumerate([(0.0, 0.0), (60.0, 118.0), *edge.tolist(), (64.0, 118.0)], _N + 1))
    number: dict[tuple[float, float], int] = {}
    block = Block(0, 0, "oddities", node_tags=_FIXED_TAGS)
    for way, (x, y), shape, order, tags in _WAYS:
        at = [number.setdefault((x + dx, y + dy), _N + 100 + len(number)) for dx, dy in shape]
        block.ways.append(Way(_N + way, tuple(at[k] if k >= 0 else _MISSING - k for k in order), tags))
    places |= {node: place for place, node in number.items()}
    block.node_ids += places
    block.node_xy += [(float(corner[0] + x), float(corner[1] + y)) for x, y in places.values()]
    block.relations += [Relation(_N + relation, members, tags) for relation, members, tags in _RELATIONS]
    return block
