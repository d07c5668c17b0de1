"""Unusual and invalid map objects, a fixed small number of each, at fixed ids."""

from __future__ import annotations

import mercantile
import numpy as np

from geometry.tiles import tile_to_lonlat
from pipeline.demo.geo import TILE_ZOOM, FloatArray, to_utm
from pipeline.demo.town.block import Block, Relation, Way
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
    for kind in ("oddities", "meadow", "farmland"):
        found = [ij for ij in blocks if plan.kind(*ij) == kind]
        if found:
            break
    else:
        found = [blocks[len(blocks) // 2]]
    # Well inside: the block nearest to the middle of the region.
    middle = np.array(plan.region.size) / 2
    uv = [((plan.line(0, i) + plan.line(0, i + 1)) / 2, (plan.line(1, j) + plan.line(1, j + 1)) / 2) for i, j in found]
    xy = plan.warp(np.array(uv))
    return np.asarray(xy[np.hypot(*(xy - middle).T).argmin()] - 60.0)


class _Maker:
    def __init__(self, corner: FloatArray) -> None:
        self.block = Block(0, 0, "oddities")
        self.corner = corner
        self.next = _N + 100

    def node(self, x: float, y: float) -> int:
        self.block.node_ids.append(self.next)
        self.block.node_xy.append((float(self.corner[0] + x), float(self.corner[1] + y)))
        self.next += 1
        return self.next - 1

    def line(self, *xy: tuple[float, float]) -> list[int]:
        return [self.node(x, y) for x, y in xy]

    def way(self, number: int, refs: list[int], **tags: str) -> None:
        self.block.ways.append(Way(_N + number, tuple(refs), tags))

    def relation(self, number: int, members: list[tuple[str, int, str]], **tags: str) -> None:
        self.block.relations.append(Relation(_N + number, tuple(members), tags))


def make_oddities(plan: Plan) -> Block:
    """The odd objects as a block; fixed nodes first, so that ids rise."""
    m = _Maker(_field_corner(plan))
    edge = to_utm(np.array(tile_edge_points(plan))) - plan.region.origin
    fixed = [(0.0, 0.0), (60.0, 118.0), *((edge - m.corner).tolist()), (64.0, 118.0)]
    for n, (x, y) in enumerate(fixed, start=1):
        m.block.node_ids.append(_N + n)
        m.block.node_xy.append((float(m.corner[0] + x), float(m.corner[1] + y)))
    tags = m.block.node_tags
    tags[_N + 1] = {"amenity": "cafe", "name": "Nowhere"}
    tags[_N + 3] = {"amenity": "cafe", "name": "Edge west"}
    tags[_N + 4] = {"shop": "bakery", "name": "Edge north"}
    tags[_N + 5] = {"amenity": "bench", "note": CONTROL_VALUE, "description": LONG_VALUE, "inscription": "😀" * 40}
    bow = m.line((0, 0), (14, 10), (14, 0), (0, 10))
    m.way(1, [*bow, bow[0]], building="yes")
    m.way(2, m.line((30, 0)), highway="footway")
    m.way(3, [_MISSING + 1, _MISSING + 2, _MISSING + 3, _MISSING + 1], building="yes")
    a, b, c, d = m.line((40, 0), (52, 0), (52, 9), (40, 9))
    m.way(4, [a, b, b, c, c, c, d, a, a], building="yes")
    a, b = m.line((60, 0), (72, 6))
    m.way(5, [a, b, a], landuse="meadow")
    same = m.line((80, 0), (92, 0), (92, 9), (80, 9))
    m.way(6, [*same, same[0]], building="house")
    m.way(7, [*same, same[0]], building="house", source="duplicate")
    ring = m.line((0, 30), (20, 30), (20, 46), (0, 46))
    m.way(8, [*ring, ring[0]], highway="pedestrian", area="no")
    ring = m.line((30, 30), (50, 30), (50, 46), (30, 46))
    m.way(9, [*ring, ring[0]], highway="service", area="yes")
    m.way(10, m.line((60, 30), (80, 44)))
    a, b = m.line((90, 30), (110, 44))
    m.way(11, [a, _MISSING + 4, b, _MISSING + 5], highway="path")
    half = m.line((0, 60), (20, 60), (20, 76), (0, 76))
    m.way(12, half[:3])
    m.way(13, m.line((40, 60), (60, 60), (60, 76), (40, 76)))
    m.relation(1, [("w", _N + 12, "outer"), ("w", _MISSING + 1, "outer")], type="multipolygon", landuse="grass")
    m.relation(2, [("w", _N + 13, "outer")], type="multipolygon", natural="scrub")
    m.relation(3, [("r", _N + 3, "subarea")], type="collection", name="Ouroboros")
    m.relation(4, [], type="multipolygon", landuse="forest")
    return m.block
