"""Streets, railway and river of a block: everything that runs along the lattice."""

from __future__ import annotations

from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

from pipeline.demo.geo import FloatArray
from pipeline.demo.town.block import STREET_TREE_MAPPED_RATE, Builder, Ref, Tags
from pipeline.demo.town.names import street_name
from pipeline.demo.town.plan import CELL

HALF_WIDTH_M = {
    "primary": 5.0, "secondary": 4.2, "tertiary": 3.6, "residential": 3.0, "unclassified": 2.6, "service": 2.0,
    "pedestrian": 2.6, "living_street": 2.6, "footway": 1.0, "cycleway": 1.3, "track": 1.4,
}  # fmt: skip
SIDEWALK_M = {"primary": 2.4, "secondary": 2.2, "tertiary": 2.0, "residential": 1.6}
STYLE = {"footway": "path", "cycleway": "cycleway", "track": "track", "pedestrian": "paving"}
RUN = 4  # a street way is at most this many lattice edges long

# Paint layers, low to high.
LAND, PATCH, WATER, PATH, SIDEWALK, ROAD, BALLAST, DECK_SIDE, DECK, MARKING = range(10)


def band(line: FloatArray, half_width: float, *, flat: bool = False) -> FloatArray:
    """The outline of a line widened to a band: (n, 2) ring, not closed."""
    cap = "flat" if flat else "round"
    shape = shapely.buffer(shapely.linestrings(line), half_width, quad_segs=2, cap_style=cap, join_style="round")
    return shapely.get_coordinates(shapely.get_exterior_ring(shape))[:-1]


def along(line: FloatArray, distances: NDArray[np.floating[Any]]) -> tuple[FloatArray, FloatArray]:
    """Points (n, 2) and directions (n,) in radians at distances in metres along a line."""
    step = np.diff(line, axis=0)
    length = np.hypot(step[:, 0], step[:, 1])
    ends = np.concatenate([[0.0], np.cumsum(length)])
    k = np.clip(np.searchsorted(ends, distances, side="right") - 1, 0, len(step) - 1)
    f = (distances - ends[k]) / length[k]
    return line[k] + step[k] * f[:, None], np.arctan2(step[k, 1], step[k, 0])


def length_of(line: FloatArray) -> float:
    return float(np.hypot(*np.diff(line, axis=0).T).sum())


def edge_refs(axis: int, i: int, j: int) -> list[Ref]:
    """Lattice nodes of an edge from its first vertex up to, not including, its last."""
    return [(i, j, k) for k in ((0, 1, 2, 3) if axis == 0 else (0, 4, 5, 6))]


def edge_line(b: Builder, axis: int, i: int, j: int) -> FloatArray:
    """(5, 2) metres: the centreline of a lattice edge."""
    end: Ref = (i + 1, j, 0) if axis == 0 else (i, j + 1, 0)
    return b.lattice_xy([*edge_refs(axis, i, j), end])


def add_streets(b: Builder) -> list[int]:
    """The streets on the block's south and west edges; the ids of the ways that begin here."""
    begun: list[int] = []
    for axis in (0, 1):
        kind = b.plan.street(axis, b.i, b.j)
        if kind is None:
            continue
        begun += _street_way(b, axis, kind)
        line = edge_line(b, axis, b.i, b.j)
        bridge = _is_bridge(b, axis, b.i, b.j)
        paint_street(b, line, kind, bridge=bridge)
        if not bridge:
            _street_life(b, axis, line, kind)
    _vertex_tags(b)
    return begun


def _is_bridge(b: Builder, axis: int, i: int, j: int) -> bool:
    cell, _, row = b.plan.locate(i, j)
    return axis == 1 and row == cell.river


def _street_way(b: Builder, axis: int, kind: str) -> list[int]:
    """One OSM way for each run of equal lattice edges, made by the run's first block."""
    i, j = b.i, b.j

    def key(n: int) -> tuple[str | None, bool]:
        at = (i + n, j) if axis == 0 else (i, j + n)
        return b.plan.street(axis, *at), _is_bridge(b, axis, *at)

    here = i if axis == 0 else j
    first = key(0)
    if here % RUN and key(-1) == first:
        return []
    n = 1
    while (here + n) % RUN and key(n) == first:
        n += 1
    refs: list[int] = []
    for m in range(n):
        at = (i + m, j) if axis == 0 else (i, j + m)
        refs += [b.lattice_id(r) for r in edge_refs(axis, *at)]
    refs.append(b.lattice_id((i + n, j, 0) if axis == 0 else (i, j + n, 0)))
    tags: Tags = {"highway": kind}
    if kind in ("primary", "secondary", "tertiary", "residential", "unclassified"):
        tags["name"] = street_name(axis, j if axis == 0 else i, b.plan.seed)
        tags["maxspeed"] = {"primary": "60", "secondary": "50", "tertiary": "50"}.get(kind, "30")
        tags["surface"] = "asphalt"
        if kind in SIDEWALK_M:
            tags["sidewalk"] = "both"
    if kind == "primary":
        tags |= {"ref": "13", "lanes": "2", "lanes:forward": "1", "lanes:backward": "1"}
    if kind == "track":
        tags |= {"tracktype": f"grade{2 + here % 3}", "surface": "gravel"}
    if first[1]:
        tags |= {"bridge": "yes", "layer": "1"}
    return [b.way(refs, tags)]


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
        total = length_of(line)
        starts = np.arange(9.0, total - 12.0, 9.0)
        p, _ = along(line, starts)
        q, _ = along(line, starts + 4.5)
        for a, c in zip(p, q, strict=True):
            b.paint(MARKING, "marking", band(np.array([a, c]), 0.12, flat=True), tone=1.0)


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
                p, a = along(line, d)
                p = p + side * (half + SIDEWALK_M[kind] + 1.0) * np.column_stack([-np.sin(a), np.cos(a)])
                b.trees(p[b.rng.random(len(p)) < 0.85], (1.9, 2.8), STREET_TREE_MAPPED_RATE)
    elif kind in ("tertiary", "track", "secondary", "primary") and b.rng.random() < 0.3:
        d = np.arange(10.0, total - 8.0, 15.0)
        p, a = along(line, d)
        p = p + (half + 4.0) * np.column_stack([-np.sin(a), np.cos(a)])
        b.trees(p, (2.0, 3.6), STREET_TREE_MAPPED_RATE)
    if town and kind in ("primary", "secondary", "tertiary"):
        _crossing(b, axis, line, half)
        if b.rng.random() < 0.5:
            p, a = along(line, np.array([total * 0.6]))
            x, y = (p + (half + 1.2) * np.column_stack([np.sin(a), -np.cos(a)]))[0]
            name = street_name(1 - axis, b.i + b.j, b.plan.seed)
            b.node(
                x, y, {"highway": "bus_stop", "public_transport": "platform", "name": name, "shelter": "yes"}, own=True
            )


def _parked_cars(b: Builder, line: FloatArray, offset: float, total: float, share: float) -> None:
    d = np.arange(14.0, total - 12.0, 6.2)
    d = d[b.rng.random(len(d)) < share]
    if len(d):
        p, a = along(line, d)
        p = p + offset * np.column_stack([-np.sin(a), np.cos(a)])
        for (x, y), angle in zip(p, a, strict=True):
            b.car(x, y, angle + b.rng.normal(0, 0.02))


def _crossing(b: Builder, axis: int, line: FloatArray, half: float) -> None:
    """A zebra crossing at the edge's first inner node."""
    ref: Ref = (b.i, b.j, 1 if axis == 0 else 4)
    b.block.node_tags[b.lattice_id(ref)] = {"highway": "crossing", "crossing": "zebra", "crossing:markings": "zebra"}
    centre = line[1]
    d = line[2] - line[0]
    d = d / np.hypot(*d)
    n = np.array([-d[1], d[0]])
    for offset in np.arange(-half + 0.5, half - 0.2, 1.0):
        p = centre + n * offset
        b.paint(MARKING, "zebra", band(np.array([p - d * 1.8, p + d * 1.8]), 0.26, flat=True), tone=1.0)


def _vertex_tags(b: Builder) -> None:
    """Traffic signals where the main roads cross."""
    kinds = {b.plan.street(0, b.i, b.j), b.plan.street(1, b.i, b.j)}
    if "primary" in kinds and kinds & {"secondary", "tertiary"}:
        b.block.node_tags[b.lattice_id((b.i, b.j, 0))] = {"highway": "traffic_signals"}


# -- railway ------------------------------------------------------------------------------


def add_rail(b: Builder) -> None:
    """The rail strip of a block: tracks, ballast, level crossings."""
    cell, _, row = b.plan.locate(b.i, b.j)
    bridge = row == cell.river
    station = abs(row - cell.secondary) <= 1
    tracks = (1, 2, 3) if station else (1, 2)
    if row == cell.river + 1:
        _cycleway(b)
    if not bridge:
        ring = [b.lattice_id(r) for r in b.outline(b.i, b.j, b.i + 1, b.j + 1)]
        b.way([*ring, ring[0]], {"landuse": "railway"})
        b.paint(LAND, "scrub", b.lattice_xy(b.outline(b.i, b.j, b.i + 1, b.j + 1)))
    t = np.linspace(0, 1, 5)
    for k in tracks:
        s = (0.4, 0.5, 0.6)[k - 1]
        line = b.xy(np.column_stack([np.full(5, s), t]))
        refs = [b.lattice_id((b.i, b.j, k)), *b.nodes(line[1:-1]), b.lattice_id((b.i, b.j + 1, k))]
        tags = {
            "railway": "rail",
            "gauge": "1435",
            "electrified": "contact_line",
            "usage": "main" if k < 3 else "branch",
        }
        if bridge:
            tags |= {"bridge": "yes", "layer": "1"}
        b.way(refs, tags)
        b.paint(DECK if bridge else BALLAST, "ballast", band(line, 1.9))
        for side in (-0.72, 0.72):
            d = np.gradient(line, axis=0)
            n = np.column_stack([-d[:, 1], d[:, 0]]) / np.hypot(d[:, 0], d[:, 1])[:, None]
            b.paint(MARKING, "rail", band(line + side * n, 0.12), tone=1.0)
        crossing = b.plan.street(0, b.i, b.j)
        if crossing is not None:
            b.block.node_tags[b.lattice_id((b.i, b.j, k))] = {"railway": "level_crossing", "crossing:barrier": "half"}
    if station:
        platform = b.rect(0.68, 0.06, 0.80, 0.94)
        b.area(platform, {"railway": "platform", "public_transport": "platform", "area": "yes", "ref": "2;3"})
        b.paint(MARKING, "platform", platform)
    elif not bridge:
        n = int(b.rng.integers(2, 9))
        st = np.column_stack([b.rng.choice([0.12, 0.86], n), b.rng.uniform(0.1, 0.9, n)])
        b.trees(b.xy(st), (1.2, 2.2), 0.0)


# -- river --------------------------------------------------------------------------------


def add_river(b: Builder) -> None:
    """The river strip: water, centreline and, for each half town cell, the river's relation."""
    _cell, column, _ = b.plan.locate(b.i, b.j)
    ring = b.lattice_xy(b.outline(b.i, b.j, b.i + 1, b.j + 1))
    island = column == 2
    rings = [ring]
    if island:
        hole = _island(b)
        b.area(hole, {"place": "islet"})
        rings.append(hole)
        b.paint(LAND, "meadow", hole)
        st = b.rng.uniform((0.4, 0.42), (0.6, 0.58), (7, 2))
        b.trees(b.xy(st), (1.8, 3.4), 0.3)
    b.paint(WATER, "river", *rings, tone=1.0)
    line = b.xy(np.column_stack([(0.25, 0.5, 0.75), (0.5, 0.68 if island else 0.5, 0.5)]))
    # The centreline passes the island on its north side.
    if island:
        line = b.xy(np.array([(0.25, 0.72), (0.5, 0.8), (0.75, 0.72)]))
    refs = [b.lattice_id((b.i, b.j, 5)), *b.nodes(line), b.lattice_id((b.i + 1, b.j, 5))]
    b.way(refs, {"waterway": "river", "name": "Albach", "name:fr": "Rivière d'Alb"})
    (i0, i1), _ = b.plan.extent
    run = CELL // 2
    if b.i == i0 or b.i % run == 0:
        _river_relation(b, b.i, min(i1, (b.i // run + 1) * run))


def _island(b: Builder) -> FloatArray:
    a = np.linspace(0, 2 * np.pi, 17)[:-1]
    return b.xy(np.column_stack([0.5 + 0.17 * np.cos(a), 0.48 + 0.2 * np.sin(a)]))


def _river_relation(b: Builder, i0: int, i1: int) -> None:
    j = b.j

    def bank(row: int) -> list[int]:
        return [b.lattice_id((i, row, k)) for i in range(i0, i1) for k in range(4)] + [b.lattice_id((i1, row, 0))]

    def end(i: int) -> list[int]:
        return [b.lattice_id((i, j, k)) for k in (0, 4, 5, 6)] + [b.lattice_id((i, j + 1, 0))]

    members = [("w", b.way(refs, {}), "outer") for refs in (bank(j), end(i1), bank(j + 1), end(i0))]
    holes = [i for i in range(i0, i1) if i % CELL == 2]
    for i in holes:
        # An island's outline is always the first way of its block.
        members.append(("w", b.base(i, j), "inner"))
    b.relation(members, {"type": "multipolygon", "natural": "water", "water": "river", "name": "Albach"})


def add_embankment(b: Builder) -> None:
    """The grass strip beside the river, with the cycleway on the north bank."""
    cell, _, row = b.plan.locate(b.i, b.j)
    ring = b.outline(b.i, b.j, b.i + 1, b.j + 1)
    refs = [b.lattice_id(r) for r in ring]
    b.way([*refs, refs[0]], {"landuse": "grass"})
    b.paint(LAND, "lawn", b.lattice_xy(ring))
    north = row == cell.river + 1
    if north:
        _cycleway(b)
    n = int(b.rng.integers(2, 8))
    t = b.rng.uniform(0.15, 0.3, n) if north else b.rng.uniform(0.4, 0.85, n)
    s_at = b.rng.uniform(0.08, 0.92, n)
    b.trees(b.xy(np.column_stack([s_at, t])), (2.0, 3.6), 0.3)


def _cycleway(b: Builder) -> None:
    """The riverside cycleway along the middle of the block."""
    inner = b.nodes(b.xy([(s, 0.5) for s in (0.25, 0.5, 0.75)]))
    refs = [b.lattice_id((b.i, b.j, 5)), *inner, b.lattice_id((b.i + 1, b.j, 5))]
    b.way(refs, {"highway": "cycleway", "name": "Uferweg", "surface": "asphalt", "foot": "yes"})
    b.paint(PATH, "cycleway", band(b.xy([(s, 0.5) for s in np.linspace(0, 1, 5)]), HALF_WIDTH_M["cycleway"]))
