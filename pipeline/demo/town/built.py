"""Built-up blocks: houses, terraces, flats, halls, school, station, church."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np

from pipeline.demo.geo import FloatArray
from pipeline.demo.town.block import (
    ADDRESS_TAGGED_RATE,
    GARDEN_TREE_MAPPED_RATE,
    HEIGHT_TAGGED_RATE,
    LEVEL_M,
    LEVELS_TAGGED_RATE,
    MISSING_BUILDING_RATE,
    PARK_TREE_MAPPED_RATE,
    POOL_MAPPED_RATE,
    ROOF_COLOUR_TAGGED_RATE,
    ROOF_SHAPE_TAGGED_RATE,
    Builder,
    Building,
    Tags,
)
from pipeline.demo.town.names import CONTROL_VALUE, LONG_VALUE, POI_NAMES, POIS, street_name
from pipeline.demo.town.streets import (
    HALF_WIDTH_M,
    LAND,
    MARKING,
    PATCH,
    PATH,
    ROAD,
    WATER,
    band,
    edge_line,
    paint_street,
)

RGB = tuple[int, int, int]
TILE_ROOFS: tuple[tuple[RGB, str], ...] = (
    ((172, 92, 66), "red"), ((156, 78, 58), "#9c4e3a"), ((134, 84, 64), "brown"), ((104, 74, 62), "#684a3e"),
    ((92, 90, 92), "grey"), ((74, 74, 80), "darkgrey"),
)  # fmt: skip
FLAT_ROOFS: tuple[tuple[RGB, str], ...] = (
    ((164, 160, 150), "grey"), ((184, 182, 176), "lightgrey"), ((138, 134, 126), "#8a867e"), ((118, 128, 104), "green"),
)  # fmt: skip
HALL_ROOFS: tuple[tuple[RGB, str], ...] = (
    ((206, 206, 202), "white"), ((150, 156, 164), "#969ca4"), ((120, 136, 152), "blue"), ((176, 172, 164), "grey"),
)  # fmt: skip
WALLS: tuple[RGB, ...] = (
    (236, 228, 212), (226, 206, 172), (214, 186, 160), (240, 238, 232), (206, 196, 184), (222, 180, 150),
    (188, 200, 190), (236, 214, 150), (200, 160, 140), (176, 188, 204),
)  # fmt: skip


def oriented(x: float, y: float, length: float, width: float, angle: float) -> FloatArray:
    """A rectangle's corners, counter-clockwise, edge 0 along the length."""
    c, s = np.cos(angle), np.sin(angle)
    corners = np.array([(-length, -width), (length, -width), (length, width), (-length, width)]) / 2
    return corners @ np.array([[c, s], [-s, c]]) + (x, y)


def add_building(
    b: Builder,
    ring: FloatArray,
    levels: int,
    roof: str,
    value: str,
    *,
    style: str = "house",
    hole: FloatArray | None = None,
    tags: Tags | None = None,
    eaves: float | None = None,
    rise: float | None = None,
    address: str | None = None,
    keep: bool = False,
) -> Building:
    """A building in the world and, unless it is one of the missing few, on the map."""
    rng = b.rng
    palette = HALL_ROOFS if style == "hall" else (FLAT_ROOFS if roof == "flat" else TILE_ROOFS)
    weights = np.array([3.0, 2.5, 2.0, 1.0, 1.2, 0.6][: len(palette)])
    rgb, colour = palette[int(rng.choice(len(palette), p=weights / weights.sum()))]
    shift = rng.normal(0, 7, 1) + rng.normal(0, 3, 3)
    roof_rgb = tuple(int(v) for v in np.clip(np.array(rgb) + shift, 20, 235))
    wall = np.array(WALLS[int(rng.integers(len(WALLS)))]) if style != "hall" else np.array((196, 198, 200))
    wall_rgb = tuple(int(v) for v in np.clip(wall + rng.normal(0, 6, 3), 60, 250))
    high = levels * LEVEL_M + 0.6 if eaves is None else eaves
    short = min(float(np.hypot(*(ring[1] - ring[0]))), float(np.hypot(*(ring[2] - ring[1]))))
    up = 0.0 if roof == "flat" else (short * float(rng.uniform(0.32, 0.42)) if rise is None else rise)
    mapped = keep or bool(rng.random() >= MISSING_BUILDING_RATE)
    all_tags: Tags = {"building": value}
    if rng.random() < LEVELS_TAGGED_RATE:
        all_tags["building:levels"] = str(levels)
    if rng.random() < ROOF_SHAPE_TAGGED_RATE:
        all_tags["roof:shape"] = roof
    if rng.random() < ROOF_COLOUR_TAGGED_RATE:
        all_tags["roof:colour"] = colour
    if rng.random() < HEIGHT_TAGGED_RATE:
        all_tags["height"] = f"{high + up:.1f}"
    if address is not None and rng.random() < ADDRESS_TAGGED_RATE:
        all_tags |= {
            "addr:street": address,
            "addr:housenumber": str(int(rng.integers(1, 120))),
            "addr:postcode": "9499",
        }
    all_tags |= tags or {}
    osm_id = 0
    if mapped:
        osm_id = b.area(ring, all_tags) if hole is None else b.multipolygon(ring, [hole], all_tags)
    building = Building(ring, hole, high, up, roof, roof_rgb, wall_rgb, style, levels, osm_id)  # type: ignore[arg-type]
    b.block.buildings.append(building)
    return building


def landuse(b: Builder, tags: Tags, style: str) -> None:
    """The block's outline as a land use area that shares its nodes with the neighbours."""
    ring = b.outline(b.i, b.j, b.i + 1, b.j + 1)
    refs = [b.lattice_id(r) for r in ring]
    b.way([*refs, refs[0]], tags)
    b.paint(LAND, style, b.lattice_xy(ring))


def inner_street(b: Builder, kind: str, *, axis: int = 0, tags: Tags | None = None) -> None:
    """A street across the block between the middles of two opposite edges."""
    st = np.linspace(0, 1, 5)
    line_st = np.column_stack([st, np.full(5, 0.5)] if axis == 0 else [np.full(5, 0.5), st])
    line = b.xy(line_st)
    west_east, south_north = ((b.i, b.j, 5), (b.i + 1, b.j, 5)), ((b.i, b.j, 2), (b.i, b.j + 1, 2))
    ends = west_east if axis == 0 else south_north
    if b.turned:
        ends = south_north if axis == 0 else west_east[::-1]
    refs = [b.lattice_id(ends[0]), *b.nodes(line[1:-1]), b.lattice_id(ends[1])]
    extra = {"name": street_name(axis, b.i * 3 + b.j * 5, b.plan.seed)} if kind in ("residential", "pedestrian") else {}
    b.way(refs, {"highway": kind, **extra, **(tags or {})})
    paint_street(b, line, kind)


def residential(b: Builder) -> None:
    """Detached houses in gardens on both sides of a middle street."""
    landuse(b, {"landuse": "residential"}, "garden")
    inner_street(b, "residential")
    rows = ((15.0 / b.dv, 1), (0.5 - 13.5 / b.dv, -1), (0.5 + 13.5 / b.dv, 1), (1 - 15.0 / b.dv, -1))
    terrace_row = int(b.rng.integers(0, 8))
    places, facing = [], []
    for number, (t, side) in enumerate(rows):
        n = max(2, int((b.du - 34) / float(b.rng.uniform(20.5, 25))))
        s = (17 + (np.arange(n) + 0.5) * (b.du - 34) / n) / b.du
        keep = b.rng.random(n) < 0.93
        if number == terrace_row:
            _terrace(b, t)
            continue
        for x in s[keep]:
            places.append((x, t))
            facing.append(side)
    xy, heading = b.xy(places), b.heading(places, 0)
    street = street_name(0, b.j, b.plan.seed)
    for (x, y), a, side in zip(xy, heading, facing, strict=True):
        _house(b, x, y, a, side, street)
    n = int(b.rng.integers(25, 55))
    st = b.rng.uniform(0.08, 0.92, (n, 2))
    _garden_trees(b, st)
    _garden_plots(b)


def _house(b: Builder, x: float, y: float, angle: float, side: int, street: str) -> None:
    rng = b.rng
    angle = float(angle + rng.normal(0, 0.04) + (np.pi / 2 if rng.random() < 0.35 else 0.0))
    length, width = rng.uniform(9.5, 13.5), rng.uniform(7.5, 10)
    kind = rng.random()
    levels = int(rng.choice([1, 2, 2, 2, 3]))
    value = str(rng.choice(["house", "detached", "yes", "residential"], p=[0.4, 0.25, 0.25, 0.1]))
    if kind < 0.62:
        add_building(b, oriented(x, y, length, width, angle), levels, "gabled", value, address=street)
    elif kind < 0.8:
        add_building(b, oriented(x, y, width + 1.5, width, angle), levels, "pyramidal", value, address=street)
    else:
        c, s = np.cos(angle), np.sin(angle)
        h, w = length / 2, width / 2
        ell = np.array([(-h, -w), (h, -w), (h, w * 0.1), (h * 0.1, w * 0.1), (h * 0.1, w), (-h, w)])
        ring = ell @ np.array([[c, s], [-s, c]]) + (x, y)
        add_building(b, ring, levels, "flat", value, address=street)
    normal = np.array([-np.sin(angle), np.cos(angle)])
    if rng.random() < 0.3:
        gx, gy = np.array([x, y]) + np.array([np.cos(angle), np.sin(angle)]) * (length / 2 + 3.4)
        if rng.random() < 0.6:
            add_building(b, oriented(gx, gy, 3.4, 5.6, angle), 1, "flat", "garage", eaves=2.6)
        else:
            b.car(gx, gy, angle + np.pi / 2)
    if rng.random() < 0.12:
        px, py = np.array([x, y]) + normal * (side * (width / 2 + 6.5))
        ring = oriented(px, py, 8.0, 4.0, angle)
        b.paint(WATER, "pool", ring, tone=1.0)
        b.paint(PATH, "paving", oriented(px, py, 10.0, 6.0, angle))
        if rng.random() < POOL_MAPPED_RATE:
            b.area(ring, {"leisure": "swimming_pool", "access": "private"})


def _terrace(b: Builder, t: float) -> None:
    """A row of houses that share their walls."""
    n = max(3, int((b.du - 46) / 7.5))
    s = np.linspace(23, b.du - 23, n + 1) / b.du
    half = 5.0 / b.dv
    lower = b.xy(np.column_stack([s, np.full(n + 1, t - half)]))
    upper = b.xy(np.column_stack([s, np.full(n + 1, t + half)]))
    for k in range(n):
        ring = np.array([lower[k], lower[k + 1], upper[k + 1], upper[k]])
        add_building(b, ring, 2, "gabled", "terrace", rise=3.6)


def _garden_trees(b: Builder, st: FloatArray, radius: tuple[float, float] = (1.2, 3.0)) -> None:
    """Trees where they touch neither a building nor a street."""
    xy = b.xy(st)
    keep = np.ones(len(xy), dtype=bool)
    for building in b.block.buildings:
        centre = building.ring.mean(axis=0)
        reach = np.hypot(*(building.ring - centre).T).max() + 1.6
        keep &= np.hypot(*(xy - centre).T) > reach
    off_street = (np.abs(st[:, 1] - 0.5) * b.dv > 7.0) & (np.abs(st[:, 0] - 0.5) * b.du > 0.0)
    b.trees(xy[keep & off_street], radius, GARDEN_TREE_MAPPED_RATE)


def _garden_plots(b: Builder) -> None:
    """Gardens differ from plot to plot: lawns, beds, gravel."""
    edges = np.linspace(9 / b.du, 1 - 9 / b.du, 8)
    bands = ((7 / b.dv, 0.25), (0.25, 0.5 - 6 / b.dv), (0.5 + 6 / b.dv, 0.75), (0.75, 1 - 7 / b.dv))
    for s0, s1 in itertools.pairwise(edges):
        for t0, t1 in bands:
            style = str(b.rng.choice(["garden", "lawn", "lawn2", "bed", "gravel"], p=[0.35, 0.3, 0.22, 0.07, 0.06]))
            if style in ("bed", "gravel"):
                b.paint(PATCH, "garden", b.rect(s0, t0, s1, t1))
                f, g = b.rng.uniform(0.1, 0.5, 2)
                b.paint(PATCH, style, b.rect(s0 + f * (s1 - s0), t0 + g * (t1 - t0), s1, t1 - 0.2 * (t1 - t0)))
            else:
                b.paint(PATCH, style, b.rect(s0, t0, s1, t1), tone=float(b.rng.uniform(0.88, 1.1)))


def centre(b: Builder) -> None:
    """Old town: four closed rows of houses around each of four courts, lanes between."""
    landuse(b, {"landuse": "retail" if b.rng.random() < 0.5 else "residential"}, "court")
    inner_street(b, "pedestrian", axis=0, tags={"surface": "paving_stones"})
    inner_street(b, "pedestrian", axis=1, tags={"surface": "sett"})
    for s0, s1 in ((9 / b.du, 0.5 - 4.5 / b.du), (0.5 + 4.5 / b.du, 1 - 9 / b.du)):
        for t0, t1 in ((9 / b.dv, 0.5 - 4.5 / b.dv), (0.5 + 4.5 / b.dv, 1 - 9 / b.dv)):
            if b.rng.random() < 0.12:
                _court_house(b, s0, t0, s1, t1)
            else:
                _perimeter(b, s0, t0, s1, t1)
                _back_yards(b, s0 + 13 / b.du, t0 + 13 / b.dv, s1 - 13 / b.du, t1 - 13 / b.dv)


def _back_yards(b: Builder, s0: float, t0: float, s1: float, t1: float) -> None:
    """Behind the houses: small gardens, yards, trees and a few back buildings."""
    s, t = np.linspace(s0, s1, 5), np.linspace(t0, t1, 3)
    for m in range(2):
        for n in range(4):
            style = str(b.rng.choice(["garden", "lawn", "court", "paving", "gravel"], p=[0.3, 0.25, 0.25, 0.1, 0.1]))
            b.paint(PATCH, style, b.rect(s[n], t[m], s[n + 1], t[m + 1]), tone=float(b.rng.uniform(0.85, 1.1)))
            middle = ((s[n] + s[n + 1]) / 2, (t[m] + t[m + 1]) / 2)
            if b.rng.random() < 0.3:
                x, y = b.xy([middle])[0]
                a = float(b.heading([middle], int(b.rng.integers(2)))[0])
                roof = "flat" if b.rng.random() < 0.5 else "gabled"
                add_building(b, oriented(x, y, 9.0, 6.0, a), 1, roof, "yes")
            elif b.rng.random() < 0.7:
                spread = b.rng.uniform(-0.4, 0.4, (3, 2)) * (s[1] - s[0], t[1] - t[0])
                b.trees(b.xy(spread + middle), (1.4, 2.9), GARDEN_TREE_MAPPED_RATE)


def _court_house(b: Builder, s0: float, t0: float, s1: float, t1: float) -> None:
    """One large building around a courtyard: a multipolygon with a hole."""
    ds, dt = 13.0 / b.du, 13.0 / b.dv
    outer = b.rect(s0 + 3 / b.du, t0 + 3 / b.dv, s1 - 3 / b.du, t1 - 3 / b.dv)
    inner = b.rect(s0 + ds + 3 / b.du, t0 + dt + 3 / b.dv, s1 - ds - 3 / b.du, t1 - dt - 3 / b.dv)
    use = {"name": "Rathaus", "amenity": "townhall"} if b.rng.random() < 0.3 else {"name": "Kaufhaus; Passage"}
    add_building(b, outer, 4, "flat", "commercial", style="flats", hole=inner, tags=use, keep=True)
    b.paint(PATCH, "paving", inner)


def _perimeter(b: Builder, s0: float, t0: float, s1: float, t1: float) -> None:
    """Closed rows along the four sides; the east and west rows stand between the others."""
    ds, dt = 11.5 / b.du, 11.5 / b.dv
    rows: list[tuple[Callable[[float, float], tuple[float, float]], float]] = [
        (lambda p, q: (s0 + p * (s1 - s0), t0 + q * dt), (s1 - s0) * b.du),
        (lambda p, q: (s1 - p * (s1 - s0), t1 - q * dt), (s1 - s0) * b.du),
        (lambda p, q: (s1 - q * ds, t0 + dt + p * (t1 - t0 - 2 * dt)), (t1 - t0 - 2 * dt) * b.dv),
        (lambda p, q: (s0 + q * ds, t1 - dt - p * (t1 - t0 - 2 * dt)), (t1 - t0 - 2 * dt) * b.dv),
    ]
    for place, length in rows:
        n = max(2, int(length / b.rng.uniform(8.5, 14)))
        cut = np.concatenate([[0.0], np.sort(np.arange(1, n) / n + b.rng.uniform(-0.2, 0.2, n - 1) / n), [1.0]])
        front = b.xy([place(p, 0.0) for p in cut])
        back = b.xy([place(p, 1.0) for p in cut])
        for k in range(n):
            if b.rng.random() < 0.05:
                continue
            ring = np.array([front[k], front[k + 1], back[k + 1], back[k]])
            levels = int(b.rng.integers(2, 5))
            shop = b.rng.random() < 0.35
            style = "shop" if shop else "house"
            value = str(b.rng.choice(["yes", "house", "residential", "retail" if shop else "apartments"]))
            add_building(b, ring, levels, "gabled", value, style=style, address=street_name(1, b.i, b.plan.seed))
            if shop:
                _poi(b, ring)


def _poi(b: Builder, ring: FloatArray) -> None:
    """A shop or office on the ground floor, near the front wall (edge 0)."""
    x, y = (ring[0] + ring[1]) / 2 * 0.8 + (ring[2] + ring[3]) / 2 * 0.2
    key, value = POIS[int(b.rng.integers(len(POIS)))]
    tags: Tags = {key: value, "name": POI_NAMES[int(b.rng.integers(len(POI_NAMES)))]}
    odd = b.rng.random()
    if value in ("restaurant", "fast_food"):
        tags["cuisine"] = "pizza;pasta;regional"
    if odd < 0.3:
        tags["opening_hours"] = "Mo-Fr 08:00-12:00,13:30-18:30; Sa 09:00-16:00; PH off"
    elif odd < 0.4:
        tags |= {
            "payment:cards:contactless": "yes",
            "payment:notes": "no",
            "contact:website": "https://example.org/?a=1&b=ü",
        }
    elif odd < 0.43:
        tags["description"] = LONG_VALUE
    elif odd < 0.45:
        tags["note"] = CONTROL_VALUE
    b.node(x, y, tags, own=True)


def apartments(b: Builder) -> None:
    """Slabs of flats on lawns, with a car park."""
    landuse(b, {"landuse": "residential", "residential": "apartments"}, "lawn")
    inner_street(b, "service", axis=1)
    flip = b.rng.random() < 0.5
    for s in (0.26, 0.74):
        for t in (0.2, 0.5, 0.8):
            (x, y), a = b.xy([(s, t)])[0], float(b.heading([(s, t)], 0)[0])
            if t == 0.5 and (s < 0.5) == flip:
                car_park(b, s - 0.16, t - 0.09, s + 0.16, t + 0.09)
                continue
            levels = int(b.rng.integers(3, 8))
            ring = oriented(x, y, b.rng.uniform(42, 58), b.rng.uniform(11.5, 14), a + b.rng.normal(0, 0.03))
            add_building(b, ring, levels, "flat", "apartments", style="flats", address=street_name(1, b.i, b.plan.seed))
    play = b.rect(0.53, 0.33, 0.6, 0.4)
    b.area(play, {"leisure": "playground"})
    b.paint(PATCH, "sand", play)
    _garden_trees(b, b.rng.uniform(0.07, 0.93, (45, 2)), (1.8, 3.6))


def car_park(b: Builder, s0: float, t0: float, s1: float, t1: float, *, fill: float = 0.5) -> None:
    """A car park with rows of cars (which no map shows)."""
    ring = b.rect(s0, t0, s1, t1)
    b.area(ring, {"amenity": "parking", "parking": "surface", "surface": "asphalt"})
    b.paint(PATH, "asphalt2", ring)
    angle = float(b.heading([((s0 + s1) / 2, (t0 + t1) / 2)], 1)[0])
    for t in np.arange(t0 + 3.4 / b.dv, t1 - 2.5 / b.dv, 8.2 / b.dv):
        s = np.arange(s0 + 2 / b.du, s1 - 1.5 / b.du, 2.7 / b.du)
        spots = b.xy(np.column_stack([s, np.full(len(s), t)]))
        for (x, y), full in zip(spots, b.rng.random(len(s)) < fill, strict=True):
            if full:
                b.car(x, y, angle + b.rng.normal(0, 0.03))


def industrial(b: Builder) -> None:
    """Large halls, a yard and a car park."""
    landuse(b, {"landuse": "industrial"}, "yard")
    inner_street(b, "service")
    cut = float(b.rng.uniform(0.4, 0.6))
    halls = [(0.08, 0.56, cut, 0.93), (cut + 0.07, 0.58, 0.93, 0.92), (0.08, 0.08, 0.42, 0.43)]
    if b.rng.random() < 0.35:
        halls = [(0.08, 0.56, 0.93, 0.93), (0.08, 0.1, 0.42, 0.42)]
    for s0, t0, s1, t1 in halls:
        grow = b.rng.uniform(0.8, 1.0)
        ring = b.rect(s0, t0, s0 + (s1 - s0) * grow, t1)
        x, y = ring.mean(axis=0)
        a = float(np.arctan2(*(ring[1] - ring[0])[::-1]))
        length, width = np.hypot(*(ring[1] - ring[0])) * 0.94, np.hypot(*(ring[2] - ring[1])) * 0.92
        value = str(b.rng.choice(["industrial", "warehouse", "commercial"]))
        add_building(b, oriented(x, y, length, width, a), int(b.rng.integers(2, 4)), "flat", value, style="hall")
    car_park(b, 0.5, 0.1, 0.92, 0.42, fill=0.45)
    b.paint(PATCH, "gravel", b.rect(0.1, 0.44, 0.4, 0.48))
    _garden_trees(b, b.rng.uniform(0.05, 0.95, (8, 2)), (1.6, 2.8))


def plaza(b: Builder) -> None:
    """The market square with its church."""
    landuse(b, {"landuse": "retail", "place": "square", "name": "Marktplatz"}, "court")
    ring = b.inset(10.0)
    b.area(ring, {"highway": "pedestrian", "area": "yes", "name": "Marktplatz", "surface": "sett"})
    b.paint(PATH, "paving", ring)
    (x, y), a = b.xy([(0.5, 0.66)])[0], float(b.heading([(0.5, 0.66)], 0)[0])
    church = {"amenity": "place_of_worship", "religion": "christian", "name": "St. Alban", "name:ar": "القديس ألبان"}
    add_building(
        b, oriented(x, y, 34, 15, a), 4, "gabled", "church", style="church", tags=church, eaves=11.0, keep=True
    )
    tx, ty = np.array([x, y]) - np.array([np.cos(a), np.sin(a)]) * 20.5
    add_building(b, oriented(tx, ty, 7, 7, a), 9, "pyramidal", "yes", style="church", eaves=27.0, rise=13.0, keep=True)
    for s0, s1 in ((9 / b.du, 0.36), (0.64, 1 - 9 / b.du)):
        _perimeter(b, s0, 9 / b.dv, s1, 0.36)
    fountain = b.xy(np.array([(0.5, 0.3)]))[0]
    circle = np.linspace(0, 2 * np.pi, 13)[:-1]
    pond = fountain + 4.0 * np.column_stack([np.cos(circle), np.sin(circle)])
    b.area(pond, {"amenity": "fountain", "natural": "water"})
    b.paint(WATER, "pool", pond)
    b.trees(b.xy([(s, 0.42) for s in np.linspace(0.15, 0.85, 9)]), (2.2, 3.0), PARK_TREE_MAPPED_RATE)


def school(b: Builder) -> None:
    landuse(b, {"amenity": "school", "name": "Schule Lindach"}, "lawn")
    c, a = b.xy([(0.3, 0.68)])[0], float(b.heading([(0.3, 0.68)], 0)[0])
    shape = np.array([(-30, -22), (30, -22), (30, -8), (-16, -8), (-16, 22), (-30, 22)])
    turn = np.array([[np.cos(a), np.sin(a)], [-np.sin(a), np.cos(a)]])
    add_building(b, shape @ turn + c, 3, "flat", "school", style="flats", keep=True)
    yard = b.rect(0.25, 0.65, 0.6, 0.88)
    b.paint(PATCH, "asphalt2", yard)
    gym = b.xy([(0.8, 0.76)])[0]
    add_building(
        b, oriented(gym[0], gym[1], 32, 22, a), 2, "flat", "yes", style="hall", tags={"leisure": "sports_hall"}
    )
    pitch(b, 0.5, 0.27)
    _garden_trees(b, b.rng.uniform(0.06, 0.94, (40, 2)), (2.0, 3.4))


def pitch(b: Builder, s: float, t: float) -> None:
    """A football pitch with its white lines."""
    (x, y), a = b.xy([(s, t)])[0], float(b.heading([(s, t)], 0)[0])
    b.area(oriented(x, y, 90, 52, a), {"leisure": "pitch", "sport": "soccer", "surface": "grass"})
    b.paint(PATH, "pitch", oriented(x, y, 90, 52, a), angle=a)
    outline = oriented(x, y, 84, 46, a)
    lines = [outline[[k, (k + 1) % 4]] for k in range(4)]
    lines += [np.array([(outline[0] + outline[1]) / 2, (outline[2] + outline[3]) / 2])]
    for line in lines:
        b.paint(MARKING, "marking", band(line, 0.2), tone=1.0)


def sports(b: Builder) -> None:
    landuse(b, {"leisure": "sports_centre", "name": "Sportanlage"}, "lawn2")
    pitch(b, 0.5, 0.27)
    pitch(b, 0.5, 0.68)
    x, y = b.xy([(0.12, 0.92)])[0]
    add_building(b, oriented(x, y, 24, 8, float(b.heading([(0.1, 0.9)], 0)[0])), 1, "flat", "yes", style="hall")
    edge = np.linspace(0.1, 0.9, 12)
    b.trees(b.xy(np.column_stack([edge, np.full(12, 0.47)])), (2.0, 3.0), PARK_TREE_MAPPED_RATE)


def station(b: Builder) -> None:
    """The station square: station building, platform, car park, bus stops."""
    landuse(b, {"landuse": "commercial", "name": "Bahnhof"}, "court")
    a = float(b.heading([(0.86, 0.5)], 1)[0])
    x, y = b.xy([(0.84, 0.5)])[0]
    tags = {"name": "Sankt Alban", "public_transport": "station", "operator": "DB;SBB;ÖBB"}
    add_building(b, oriented(x, y, 46, 13, a), 3, "gabled", "train_station", style="flats", tags=tags, keep=True)
    px, py = b.xy([(0.97, 0.5)])[0]
    b.node(
        px,
        py,
        {"railway": "station", "name": "Sankt Alban", "name:ja": "ザンクト・アルバン", "uic_ref": "8501234"},
        own=True,
    )
    square = b.rect(0.52, 0.2, 0.76, 0.8)
    b.area(square, {"highway": "pedestrian", "area": "yes", "surface": "paving_stones"})
    b.paint(PATH, "paving", square)
    car_park(b, 0.1, 0.55, 0.46, 0.9, fill=0.8)
    _perimeter(b, 9 / b.du, 9 / b.dv, 0.42, 0.45)
    lane = edge_line(b, 1, b.i + 1, b.j)
    b.paint(ROAD, "asphalt", band(lane, HALF_WIDTH_M["residential"]))
    b.trees(b.xy([(s, t) for s in (0.56, 0.72) for t in np.linspace(0.25, 0.75, 5)]), (2.0, 2.8), PARK_TREE_MAPPED_RATE)
