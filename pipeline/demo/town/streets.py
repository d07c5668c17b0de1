"""Streets, railway and river of a block: everything that runs along the lattice."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

from pipeline.demo.geo import FloatArray, rectangle
from pipeline.demo.town.block import (
    BALLAST,
    DECK,
    DECK_SIDE,
    LAND,
    MARKING,
    PATH,
    ROAD,
    SIDEWALK,
    STREET_TREE_MAPPED_RATE,
    WATER,
    Builder,
    Ref,
    Tags,
)
from pipeline.demo.town.names import street_name
from pipeline.demo.town.plan import CELL, RAIL_FRACTIONS

HALF_WIDTH_M = {
    "primary": 5.0, "secondary": 4.2, "tertiary": 3.6, "residential": 3.0, "unclassified": 2.6, "service": 2.0,
    "pedestrian": 2.6, "living_street": 2.6, "footway": 1.0, "cycleway": 1.3, "track": 1.4,
}  # fmt: skip
SIDEWALK_M = {"primary": 2.4, "secondary": 2.2, "tertiary": 2.0, "residential": 1.6}
STYLE = {"footway": "path", "cycleway": "cycleway", "track": "track", "pedestrian": "paving"}
_PAVED = {"surface": "asphalt", "sidewalk": "both"}
STREET_TAGS: dict[str, Tags] = {
    "primary": {
        "maxspeed": "60", **_PAVED, "ref": "13", "lanes": "2", "lanes:forward": "1", "lanes:backward": "1",
    },
    "secondary": {"maxspeed": "50", **_PAVED},
    "tertiary": {"maxspeed": "50", **_PAVED},
    "residential": {"maxspeed": "30", **_PAVED},
    "unclassified": {"maxspeed": "30", "surface": "asphalt"},
    "track": {"surface": "gravel"},
}  # fmt: skip
BRIDGE_TAGS = {"bridge": "yes", "layer": "1"}
_ISLAND = 2  # column of the town cell where the river has an island
RUN = 4  # a street way is at most this many lattice edges long


def band(line: FloatArray, half_width: float) -> FloatArray:
    """The outline of a line widened to a band: (n, 2) ring, not closed."""
    shape = shapely.buffer(shapely.linestrings(line), half_width, quad_segs=2)
    return shapely.get_coordinates(shapely.get_exterior_ring(shape))[:-1]


def along(line: FloatArray, distances: NDArray[np.floating[Any]], left: float = 0.0) -> tuple[FloatArray, FloatArray]:
    """Points (n, 2) and directions (n,) in radians at distances in metres along a line, left metres beside it."""
    step = np.diff(line, axis=0)
    length = np.hypot(step[:, 0], step[:, 1])
    ends = np.concatenate([[0.0], np.cumsum(length)])
    k = np.clip(np.searchsorted(ends, distances, side="right") - 1, 0, len(step) - 1)
    direction = step[k] / length[k, None]
    points = line[k] + direction * (distances - ends[k])[:, None] + left * direction[:, ::-1] * (-1, 1)
    return points, np.arctan2(direction[:, 1], direction[:, 0])


def length_of(line: FloatArray) -> float:
    return float(shapely.length(shapely.linestrings(line)))


def add_streets(b: Builder) -> list[int]:
    """The streets on the block's south and west edges; the ids of the ways that begin here."""
    begun: list[int] = []
    kinds = [b.plan.street(axis, b.i, b.j) for axis in range(2)]
    for axis, kind in enumerate(kinds):
        if kind is not None:
            begun += _street_way(b, axis, kind)
            line = b.lattice_xy(b.edge(axis, b.i, b.j))
            bridge = _is_bridge(b, axis, b.j)
            paint_street(b, line, kind, bridge=bridge)
            if not bridge:
                _street_life(b, axis, line, kind)
    if "primary" in kinds and not {"secondary", "tertiary"}.isdisjoint(kinds):
        b.block.node_tags[b.lattice_id((b.i, b.j, 0))] = {"highway": "traffic_signals"}
    return begun


def _is_bridge(b: Builder, axis: int, j: int) -> bool:
    cell, _, row = b.plan.locate(b.i, j)
    return axis == 1 and row == cell.river


def _street_way(b: Builder, axis: int, kind: str) -> list[int]:
    """One OSM way for each run of equal lattice edges, made by the run's first block."""

    def at(n: int) -> tuple[int, int]:
        return (b.i + n, b.j) if axis == 0 else (b.i, b.j + n)

    def key(n: int) -> tuple[str | None, bool]:
        return b.plan.street(axis, *at(n)), _is_bridge(b, axis, at(n)[1])

    here = at(0)[axis]
    first = key(0)
    if here % RUN and key(-1) == first:
        return []
    n = 1
    while (here + n) % RUN and key(n) == first:
        n += 1
    refs = [b.lattice_id(r) for m in range(n) for r in b.edge(axis, *at(m))[:-1]] + [b.lattice_id((*at(n), 0))]
    tags: Tags = {"highway": kind, **STREET_TAGS.get(kind, {})}
    if "maxspeed" in tags:
        tags["name"] = street_name(axis, at(0)[1 - axis], b.plan.seed)
    if kind == "track":
        tags["tracktype"] = f"grade{2 + here % 3}"
    if first[1]:
        tags |= BRIDGE_TAGS
    return [b.way(refs, tags)]


def add_path(b: Builder, kind: str, st: Any, tags: Tags) -> None:
    """A street or path along block coordinates."""
    line = b.xy(st)
    b.way(b.nodes(line), {"highway": kind, **tags})
    paint_street(b, line, kind)


def paint_street(b: Builder, line: FloatArray, kind: str, *, bridge: bool = False) -> None:
    """The road surface, its sidewalks and its markings."""
    half = HALF_WIDTH_M[kind]
    walk = SIDEWALK_M.get(kind, 0.0)
    if bridge:
        b.paint(DECK_SIDE, "sidewalk", band(line, half + max(walk, 0.8)))
    elif walk:
        b.paint(SIDEWALK, "sidewalk", band(line, half + walk), tone=1.0)
    style = STYLE.get(kind, "asphalt")
    layer = DECK if bridge else (PATH if kind in STYLE else ROAD)
    b.paint(layer, style, band(line, half), tone=float(b.rng.uniform(0.95, 1.04)))
    if kind in ("primary", "secondary", "tertiary"):
        for (x, y), angle in zip(*along(line, np.arange(11.25, length_of(line) - 9.75, 9.0)), strict=True):
            b.paint(MARKING, "marking", rectangle((x, y), 4.5, 0.24, angle), tone=1.0)


def _street_life(b: Builder, axis: int, line: FloatArray, kind: str) -> None:
    """Trees, parked cars, crossings and bus stops along a street."""
    kinds = {b.plan.kind(b.i, b.j), b.plan.kind(b.i, b.j - 1) if axis == 0 else b.plan.kind(b.i - 1, b.j)}
    town = bool(kinds & {"centre", "plaza", "apartments", "residential", "station", "school", "park"})
    total = length_of(line)
    half = HALF_WIDTH_M[kind]
    if town and kind in SIDEWALK_M:
        for side in (-1, 1):
            _parked_cars(b, line, side * (half - 1.1), total, 0.28 if kind == "residential" else 0.0)
        if kind != "residential" or b.rng.random() < 0.3:
            d = np.arange(16.0, total - 14.0, 13.0) + b.rng.uniform(-1, 1)
            for side in (-1, 1):
                p, _ = along(line, d, side * (half + SIDEWALK_M[kind] + 1.0))
                b.trees(p[b.rng.random(len(p)) < 0.85], (1.9, 2.8), STREET_TREE_MAPPED_RATE)
    elif kind in ("tertiary", "track", "secondary", "primary") and b.rng.random() < 0.3:
        d = np.arange(10.0, total - 8.0, 15.0)
        b.trees(along(line, d, half + 4.0)[0], (2.0, 3.6), STREET_TREE_MAPPED_RATE)
    if town and kind in ("primary", "secondary", "tertiary"):
        _crossing(b, axis, line, half)
        if b.rng.random() < 0.5:
            p, _ = along(line, np.array([total * 0.6]), -half - 1.2)
            name = street_name(1 - axis, b.i + b.j, b.plan.seed)
            stop = {"highway": "bus_stop", "public_transport": "platform", "name": name, "shelter": "yes"}
            b.node(p[0], stop, own=True)


def _parked_cars(b: Builder, line: FloatArray, offset: float, total: float, share: float) -> None:
    d = np.arange(14.0, total - 12.0, 6.2)
    d = d[b.rng.random(len(d)) < share]
    for (x, y), angle in zip(*along(line, d, offset), strict=True):
        b.car(x, y, angle + b.rng.normal(0, 0.02))


def _crossing(b: Builder, axis: int, line: FloatArray, half: float) -> None:
    """A zebra crossing at the edge's first inner node."""
    ref: Ref = (b.i, b.j, 1 if axis == 0 else 4)
    b.block.node_tags[b.lattice_id(ref)] = {"highway": "crossing", "crossing": "zebra", "crossing:markings": "zebra"}
    for offset in np.arange(-half + 0.5, half - 0.2, 1.0):
        p, angle = along(line, np.array([length_of(line) / 4]), offset)
        b.paint(MARKING, "zebra", rectangle(p[0], 3.6, 0.52, float(angle[0])), tone=1.0)


# -- railway ------------------------------------------------------------------------------


def add_rail(b: Builder) -> None:
    """The rail strip of a block: tracks, ballast, level crossings."""
    cell, _, row = b.plan.locate(b.i, b.j)
    bridge = row == cell.river
    station = abs(row - cell.secondary) <= 1
    if row == cell.river + 1:
        _cycleway(b)
    if not bridge:
        b.landuse("scrub", {"landuse": "railway"})
    for k in (1, 2, 3) if station else (1, 2):
        line = b.xy([(RAIL_FRACTIONS[k - 1], t) for t in np.linspace(0, 1, 5)])
        tags = {"railway": "rail", "gauge": "1435", "electrified": "contact_line"}
        tags |= {"usage": "main" if k < 3 else "branch", **(BRIDGE_TAGS if bridge else {})}
        refs = b.nodes(line)
        b.way(refs, tags)
        b.paint(DECK if bridge else BALLAST, "ballast", band(line, 1.9))
        for side in (-0.72, 0.72):
            beside = shapely.offset_curve(shapely.linestrings(line), side)
            b.paint(MARKING, "rail", band(shapely.get_coordinates(beside), 0.12), tone=1.0)
        if b.plan.street(0, b.i, b.j) is not None:
            b.block.node_tags[refs[0]] = {"railway": "level_crossing", "crossing:barrier": "half"}
    if station:
        platform = b.rect(0.68, 0.06, 0.80, 0.94)
        tags = {"railway": "platform", "public_transport": "platform", "area": "yes", "ref": "2;3"}
        b.paint(MARKING, "platform", platform, tags=tags)
    elif not bridge:
        n = int(b.rng.integers(2, 9))
        st = np.column_stack([b.rng.choice([0.12, 0.86], n), b.rng.uniform(0.1, 0.9, n)])
        b.trees(b.xy(st), (1.2, 2.2), 0.0)


# -- river --------------------------------------------------------------------------------


def add_river(b: Builder) -> None:
    """The river strip: water, centreline and, for each half town cell, the river's relation."""
    _, column, _ = b.plan.locate(b.i, b.j)
    rings, middle = [b.ring], (0.5, 0.5, 0.5)
    if column == _ISLAND:
        a = np.linspace(0, 2 * np.pi, 17)[:-1]
        hole = b.xy(np.column_stack([0.5 + 0.17 * np.cos(a), 0.48 + 0.2 * np.sin(a)]))
        b.paint(LAND, "meadow", hole, tags={"place": "islet"})
        b.trees(b.xy(b.rng.uniform((0.4, 0.42), (0.6, 0.58), (7, 2))), (1.8, 3.4), 0.3)
        # The centreline passes the island on its north side.
        rings, middle = [b.ring, hole], (0.72, 0.8, 0.72)
    b.paint(WATER, "river", *rings, tone=1.0)
    line = b.xy(np.column_stack([np.linspace(0, 1, 5), (0.5, *middle, 0.5)]))
    b.way(b.nodes(line), {"waterway": "river", "name": "Albach", "name:fr": "Rivière d'Alb"})
    (i0, i1), _ = b.plan.extent
    run = CELL // 2
    if b.i == i0 or b.i % run == 0:
        _river_relation(b, b.i, min(i1, (b.i // run + 1) * run))


def _river_relation(b: Builder, i0: int, i1: int) -> None:
    ring = [b.lattice_id(r) for r in b.outline(i0, b.j, i1, b.j + 1)]
    bank = 4 * (i1 - i0)
    corners = (0, bank, bank + 4, 2 * bank + 4, 2 * bank + 8)
    sides = [[*ring, ring[0]][a : c + 1] for a, c in itertools.pairwise(corners)]
    members = [("w", b.way(refs, {}), "outer") for refs in sides]
    # An island's outline is always the first way of its block.
    members += [("w", b.base(i, b.j), "inner") for i in range(i0, i1) if i % CELL == _ISLAND]
    b.relation(members, {"type": "multipolygon", "natural": "water", "water": "river", "name": "Albach"})


def add_embankment(b: Builder) -> None:
    """The grass strip beside the river, with the cycleway on the north bank."""
    cell, _, row = b.plan.locate(b.i, b.j)
    b.landuse("lawn", {"landuse": "grass"})
    north = row == cell.river + 1
    if north:
        _cycleway(b)
    n = int(b.rng.integers(2, 8))
    t = b.rng.uniform(0.15, 0.3, n) if north else b.rng.uniform(0.4, 0.85, n)
    s_at = b.rng.uniform(0.08, 0.92, n)
    b.trees(b.xy(np.column_stack([s_at, t])), (2.0, 3.6), 0.3)


def _cycleway(b: Builder) -> None:
    """The riverside cycleway along the middle of the block."""
    tags = {"name": "Uferweg", "surface": "asphalt", "foot": "yes"}
    add_path(b, "cycleway", [(s, 0.5) for s in np.linspace(0, 1, 5)], tags)
