"""Built-up blocks: houses, terraces, flats, halls, school, station, church."""

from __future__ import annotations

import itertools

import numpy as np
import shapely

from pipeline.demo.geo import FloatArray, placed, rectangle
from pipeline.demo.town.block import (
    ADDRESS_TAGGED_RATE,
    GARDEN_TREE_MAPPED_RATE,
    HEIGHT_TAGGED_RATE,
    LEVEL_M,
    LEVELS_TAGGED_RATE,
    MARKING,
    MISSING_BUILDING_RATE,
    PARK_TREE_MAPPED_RATE,
    PATCH,
    PATH,
    POOL_MAPPED_RATE,
    ROAD,
    ROOF_COLOUR_TAGGED_RATE,
    ROOF_SHAPE_TAGGED_RATE,
    Builder,
    Building,
    Tags,
)
from pipeline.demo.town.names import POI_EXTRAS, POI_NAMES, POIS, street_name
from pipeline.demo.town.streets import HALF_WIDTH_M, add_path, band

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
) -> None:
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
    short = float(np.hypot(*np.diff(ring[:3], axis=0).T).min())
    up = 0.0 if roof == "flat" else (short * float(rng.uniform(0.32, 0.42)) if rise is None else rise)
    mapped = keep or bool(rng.random() >= MISSING_BUILDING_RATE)
    known = {
        "building:levels": (LEVELS_TAGGED_RATE, str(levels)),
        "roof:shape": (ROOF_SHAPE_TAGGED_RATE, roof),
        "roof:colour": (ROOF_COLOUR_TAGGED_RATE, colour),
        "height": (HEIGHT_TAGGED_RATE, f"{high + up:.1f}"),
    }
    all_tags = {"building": value} | {key: text for key, (rate, text) in known.items() if rng.random() < rate}
    if address is not None and rng.random() < ADDRESS_TAGGED_RATE:
        all_tags |= {
            "addr:street": address,
            "addr:housenumber": str(int(rng.integers(1, 120))),
            "addr:postcode": "9499",
        }
    all_tags |= tags or {}
    osm_id = 0
    if mapped:
        osm_id = b.area(ring, all_tags) if hole is None else b.multipolygon(ring, [hole], all_tags, {})
    building = Building(ring, hole, high, up, roof, roof_rgb, wall_rgb, style, levels, osm_id)  # type: ignore[arg-type]
    b.block.buildings.append(building)


def inner_street(b: Builder, kind: str, *, axis: int = 0, tags: Tags | None = None) -> None:
    """A street across the block between the middles of two opposite edges."""
    st = [(s, 0.5) if axis == 0 else (0.5, s) for s in np.linspace(0, 1, 5)]
    name = {} if kind == "service" else {"name": street_name(axis, b.i * 3 + b.j * 5, b.plan.seed)}
    add_path(b, kind, st, {**name, **(tags or {})})


def residential(b: Builder) -> None:
    """Detached houses in gardens on both sides of a middle street."""
    b.landuse("garden", {"landuse": "residential"})
    inner_street(b, "residential")
    rows = ((15.0 / b.dv, 1), (0.5 - 13.5 / b.dv, -1), (0.5 + 13.5 / b.dv, 1), (1 - 15.0 / b.dv, -1))
    terrace_row = int(b.rng.integers(0, 8))
    houses: list[tuple[float, float, float, int]] = []
    for number, (t, side) in enumerate(rows):
        n = max(2, int((b.du - 34) / float(b.rng.uniform(20.5, 25))))
        s = (17 + (np.arange(n) + 0.5) * (b.du - 34) / n) / b.du
        keep = b.rng.random(n) < 0.93
        if number == terrace_row:
            _terrace(b, t)
        else:
            houses += [(*b.xy([(x, t)])[0], b.heading(x, t), side) for x in s[keep]]
    for house in houses:
        _house(b, *house)
    _garden_trees(b, b.rng.uniform(0.08, 0.92, (int(b.rng.integers(25, 55)), 2)))
    _garden_plots(b)


def _house(b: Builder, x: float, y: float, angle: float, side: int) -> None:
    rng = b.rng
    street = street_name(0, b.j, b.plan.seed)
    angle = float(angle + rng.normal(0, 0.04) + (np.pi / 2 if rng.random() < 0.35 else 0.0))
    length, width = rng.uniform(9.5, 13.5), rng.uniform(7.5, 10)
    kind = rng.random()
    levels = int(rng.choice([1, 2, 2, 2, 3]))
    value = str(rng.choice(["house", "detached", "yes", "residential"], p=[0.4, 0.25, 0.25, 0.1]))
    ring, roof = rectangle((x, y), length, width, angle), "gabled"
    if kind >= 0.8:
        h, w = length / 2, width / 2
        ell = [(-h, -w), (h, -w), (h, w * 0.1), (h * 0.1, w * 0.1), (h * 0.1, w), (-h, w)]
        ring, roof = placed(ell, (x, y), angle), "flat"
    elif kind >= 0.62:
        ring, roof = rectangle((x, y), width + 1.5, width, angle), "pyramidal"
    add_building(b, ring, levels, roof, value, address=street)
    if rng.random() < 0.3:
        gx, gy = placed([(length / 2 + 3.4, 0.0)], (x, y), angle)[0]
        if rng.random() < 0.6:
            add_building(b, rectangle((gx, gy), 3.4, 5.6, angle), 1, "flat", "garage", eaves=2.6)
        else:
            b.car(gx, gy, angle + np.pi / 2)
    if rng.random() < 0.12:
        px, py = placed([(0.0, side * (width / 2 + 6.5))], (x, y), angle)[0]
        b.paint(PATH, "paving", rectangle((px, py), 10.0, 6.0, angle))
        pool = {"leisure": "swimming_pool", "access": "private"} if rng.random() < POOL_MAPPED_RATE else None
        b.paint(PATH, "pool", rectangle((px, py), 8.0, 4.0, angle), tone=1.0, tags=pool)


def _terrace(b: Builder, t: float) -> None:
    """A row of houses that share their walls."""
    n = max(3, int((b.du - 46) / 7.5))
    s = np.linspace(23, b.du - 23, n + 1) / b.du
    for ring in _row(b, np.column_stack([s, np.full(n + 1, t - 5.0 / b.dv)]), (0.0, 10.0 / b.dv)):
        add_building(b, ring, 2, "gabled", "terrace", rise=3.6)


def _row(b: Builder, front: FloatArray, depth: tuple[float, float]) -> FloatArray:
    """Footprints (n, 4, 2) in metres of a closed row between places along its front, as deep as given."""
    near, far = b.xy(front), b.xy(front + depth)
    return np.stack([near[:-1], near[1:], far[1:], far[:-1]], axis=1)


def _garden_trees(b: Builder, st: FloatArray, radius: tuple[float, float] = (1.2, 3.0)) -> None:
    """Trees where they touch neither a building nor a street."""
    xy = b.xy(st)
    keep = np.ones(len(xy), dtype=bool)
    for building in b.block.buildings:
        centre = building.ring.mean(axis=0)
        reach = np.hypot(*(building.ring - centre).T).max() + 1.6
        keep &= np.hypot(*(xy - centre).T) > reach
    b.trees(xy[keep & (np.abs(st[:, 1] - 0.5) * b.dv > 7.0)], radius, GARDEN_TREE_MAPPED_RATE)


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
    b.landuse("court", {"landuse": "retail" if b.rng.random() < 0.5 else "residential"})
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
                a = b.heading(*middle, int(b.rng.integers(2)))
                roof = "flat" if b.rng.random() < 0.5 else "gabled"
                add_building(b, rectangle(b.xy([middle])[0], 9.0, 6.0, a), 1, roof, "yes")
            elif b.rng.random() < 0.7:
                spread = b.rng.uniform(-0.4, 0.4, (3, 2)) * (s[1] - s[0], t[1] - t[0])
                b.trees(b.xy(spread + middle), (1.4, 2.9), GARDEN_TREE_MAPPED_RATE)


def _court_house(b: Builder, s0: float, t0: float, s1: float, t1: float) -> None:
    """One large building around a courtyard: a multipolygon with a hole."""
    outer, inner = (b.rect(s0 + m / b.du, t0 + m / b.dv, s1 - m / b.du, t1 - m / b.dv) for m in (3, 16))
    use = {"name": "Rathaus", "amenity": "townhall"} if b.rng.random() < 0.3 else {"name": "Kaufhaus; Passage"}
    add_building(b, outer, 4, "flat", "commercial", style="flats", hole=inner, tags=use, keep=True)
    b.paint(PATCH, "paving", inner)


def _perimeter(b: Builder, s0: float, t0: float, s1: float, t1: float) -> None:
    """Closed rows along the four sides; the east and west rows stand between the others."""
    ds, dt = 11.5 / b.du, 11.5 / b.dv
    rows = (
        ((s0, t0), (s1, t0), (0.0, dt)),
        ((s1, t1), (s0, t1), (0.0, -dt)),
        ((s1, t0 + dt), (s1, t1 - dt), (-ds, 0.0)),
        ((s0, t1 - dt), (s0, t0 + dt), (ds, 0.0)),
    )
    for start, end, depth in rows:
        along = np.subtract(end, start)
        n = max(2, int(np.hypot(*(along * (b.du, b.dv))) / b.rng.uniform(8.5, 14)))
        cut = np.concatenate([[0.0], np.sort(np.arange(1, n) / n + b.rng.uniform(-0.2, 0.2, n - 1) / n), [1.0]])
        for ring in _row(b, start + cut[:, None] * along, depth):
            if b.rng.random() < 0.05:
                continue
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
    tags |= next((extra for share, extra in POI_EXTRAS if odd < share), {})
    b.node((x, y), tags, own=True)


def apartments(b: Builder) -> None:
    """Slabs of flats on lawns, with a car park."""
    b.landuse("lawn", {"landuse": "residential", "residential": "apartments"})
    inner_street(b, "service", axis=1)
    flip = b.rng.random() < 0.5
    for s in (0.26, 0.74):
        for t in (0.2, 0.5, 0.8):
            if t == 0.5 and (s < 0.5) == flip:
                car_park(b, s - 0.16, t - 0.09, s + 0.16, t + 0.09)
                continue
            levels = int(b.rng.integers(3, 8))
            length, width = b.rng.uniform((42, 11.5), (58, 14))
            ring = rectangle(b.xy([(s, t)])[0], length, width, b.heading(s, t) + b.rng.normal(0, 0.03))
            add_building(b, ring, levels, "flat", "apartments", style="flats", address=street_name(1, b.i, b.plan.seed))
    b.paint(PATCH, "sand", b.rect(0.53, 0.33, 0.6, 0.4), tags={"leisure": "playground"})
    _garden_trees(b, b.rng.uniform(0.07, 0.93, (45, 2)), (1.8, 3.6))


def car_park(b: Builder, s0: float, t0: float, s1: float, t1: float, *, fill: float = 0.5) -> None:
    """A car park with rows of cars (which no map shows)."""
    tags = {"amenity": "parking", "parking": "surface", "surface": "asphalt"}
    b.paint(PATH, "asphalt2", b.rect(s0, t0, s1, t1), tags=tags)
    angle = b.heading((s0 + s1) / 2, (t0 + t1) / 2, 1)
    for t in np.arange(t0 + 3.4 / b.dv, t1 - 2.5 / b.dv, 8.2 / b.dv):
        s = np.arange(s0 + 2 / b.du, s1 - 1.5 / b.du, 2.7 / b.du)
        spots = b.xy(np.column_stack([s, np.full(len(s), t)]))
        for x, y in spots[b.rng.random(len(s)) < fill]:
            b.car(x, y, angle + b.rng.normal(0, 0.03))


def industrial(b: Builder) -> None:
    """Large halls, a yard and a car park."""
    b.landuse("yard", {"landuse": "industrial"})
    inner_street(b, "service")
    cut = float(b.rng.uniform(0.4, 0.6))
    halls = [(0.08, 0.56, cut, 0.93), (cut + 0.07, 0.58, 0.93, 0.92), (0.08, 0.08, 0.42, 0.43)]
    if b.rng.random() < 0.35:
        halls = [(0.08, 0.56, 0.93, 0.93), (0.08, 0.1, 0.42, 0.42)]
    for s0, t0, s1, t1 in halls:
        grow = b.rng.uniform(0.8, 1.0)
        ring = b.rect(s0, t0, s0 + (s1 - s0) * grow, t1)
        along, across = np.diff(ring[:3], axis=0)
        size = 0.94 * np.hypot(*along), 0.92 * np.hypot(*across)
        ring = rectangle(ring.mean(axis=0), *size, np.arctan2(along[1], along[0]))
        value = str(b.rng.choice(["industrial", "warehouse", "commercial"]))
        add_building(b, ring, int(b.rng.integers(2, 4)), "flat", value, style="hall")
    car_park(b, 0.5, 0.1, 0.92, 0.42, fill=0.45)
    b.paint(PATCH, "gravel", b.rect(0.1, 0.44, 0.4, 0.48))
    _garden_trees(b, b.rng.uniform(0.05, 0.95, (8, 2)), (1.6, 2.8))


def plaza(b: Builder) -> None:
    """The market square with its church."""
    b.landuse("court", {"landuse": "retail", "place": "square", "name": "Marktplatz"})
    s, t = 10.0 / b.du, 10.0 / b.dv
    market = {"highway": "pedestrian", "area": "yes", "name": "Marktplatz", "surface": "sett"}
    b.paint(PATH, "paving", b.rect(s, t, 1 - s, 1 - t, 4), tags=market)
    (x, y), a = b.xy([(0.5, 0.66)])[0], b.heading(0.5, 0.66)
    church = {"amenity": "place_of_worship", "religion": "christian", "name": "St. Alban", "name:ar": "القديس ألبان"}
    add_building(
        b, rectangle((x, y), 34, 15, a), 4, "gabled", "church", style="church", tags=church, eaves=11.0, keep=True
    )
    tower = placed([(-24, -3.5), (-17, -3.5), (-17, 3.5), (-24, 3.5)], (x, y), a)
    add_building(b, tower, 9, "pyramidal", "yes", style="church", eaves=27.0, rise=13.0, keep=True)
    for s0, s1 in ((9 / b.du, 0.36), (0.64, 1 - 9 / b.du)):
        _perimeter(b, s0, 9 / b.dv, s1, 0.36)
    fountain = shapely.get_coordinates(shapely.Point(b.xy([(0.5, 0.3)])[0]).buffer(4.0, quad_segs=3))[:0:-1]
    b.paint(PATH, "pool", fountain, tags={"amenity": "fountain", "natural": "water"})
    b.trees(b.xy([(s, 0.42) for s in np.linspace(0.15, 0.85, 9)]), (2.2, 3.0), PARK_TREE_MAPPED_RATE)


def school(b: Builder) -> None:
    b.landuse("lawn", {"amenity": "school", "name": "Schule Lindach"})
    a = b.heading(0.3, 0.68)
    ell = [(-30, -22), (30, -22), (30, -8), (-16, -8), (-16, 22), (-30, 22)]
    add_building(b, placed(ell, b.xy([(0.3, 0.68)])[0], a), 3, "flat", "school", style="flats", keep=True)
    b.paint(PATCH, "asphalt2", b.rect(0.25, 0.65, 0.6, 0.88))
    add_building(
        b,
        rectangle(b.xy([(0.8, 0.76)])[0], 32, 22, a),
        2,
        "flat",
        "yes",
        style="hall",
        tags={"leisure": "sports_hall"},
    )
    pitch(b, 0.5, 0.27)
    _garden_trees(b, b.rng.uniform(0.06, 0.94, (40, 2)), (2.0, 3.4))


def pitch(b: Builder, s: float, t: float) -> None:
    """A football pitch with its white lines."""
    (x, y), a = b.xy([(s, t)])[0], b.heading(s, t)
    tags = {"leisure": "pitch", "sport": "soccer", "surface": "grass"}
    b.paint(PATH, "pitch", rectangle((x, y), 90, 52, a), angle=a, tags=tags)
    for dx, dy, length, width in (
        (0, -23, 84, 0.4),
        (0, 23, 84, 0.4),
        (-42, 0, 0.4, 46),
        (0, 0, 0.4, 46),
        (42, 0, 0.4, 46),
    ):
        b.paint(MARKING, "marking", rectangle(placed([(dx, dy)], (x, y), a)[0], length, width, a), tone=1.0)


def sports(b: Builder) -> None:
    b.landuse("lawn2", {"leisure": "sports_centre", "name": "Sportanlage"})
    pitch(b, 0.5, 0.27)
    pitch(b, 0.5, 0.68)
    hut = rectangle(b.xy([(0.12, 0.92)])[0], 24, 8, b.heading(0.1, 0.9))
    add_building(b, hut, 1, "flat", "yes", style="hall")
    b.trees(b.xy([(s, 0.47) for s in np.linspace(0.1, 0.9, 12)]), (2.0, 3.0), PARK_TREE_MAPPED_RATE)


def station(b: Builder) -> None:
    """The station square: station building, platform, car park, bus stops."""
    b.landuse("court", {"landuse": "commercial", "name": "Bahnhof"})
    house = rectangle(b.xy([(0.84, 0.5)])[0], 46, 13, b.heading(0.86, 0.5, 1))
    tags = {"name": "Sankt Alban", "public_transport": "station", "operator": "DB;SBB;ÖBB"}
    add_building(b, house, 3, "gabled", "train_station", style="flats", tags=tags, keep=True)
    stop = {"railway": "station", "name": "Sankt Alban", "name:ja": "ザンクト・アルバン", "uic_ref": "8501234"}
    b.node(b.xy([(0.97, 0.5)])[0], stop, own=True)
    square = {"highway": "pedestrian", "area": "yes", "surface": "paving_stones"}
    b.paint(PATH, "paving", b.rect(0.52, 0.2, 0.76, 0.8), tags=square)
    car_park(b, 0.1, 0.55, 0.46, 0.9, fill=0.8)
    _perimeter(b, 9 / b.du, 9 / b.dv, 0.42, 0.45)
    lane = b.lattice_xy(b.edge(1, b.i + 1, b.j))
    b.paint(ROAD, "asphalt", band(lane, HALF_WIDTH_M["residential"]))
    b.trees(b.xy([(s, t) for s in (0.56, 0.72) for t in np.linspace(0.25, 0.75, 5)]), (2.0, 2.8), PARK_TREE_MAPPED_RATE)
