"""Open blocks: fields, meadows, woods, forest, lake, park, cemetery, allotments, farm."""

from __future__ import annotations

import itertools

import numpy as np

from pipeline.demo.geo import FloatArray
from pipeline.demo.town.block import PARK_TREE_MAPPED_RATE, Builder, Ref, Tags
from pipeline.demo.town.built import add_building, landuse, oriented
from pipeline.demo.town.streets import HALF_WIDTH_M, LAND, PATCH, PATH, WATER, band

CROPS = ("wheat", "maize", "rape", "barley", "potato", "bare", "beet")
FOREST_SPACING_M = 6.6


def circle(b: Builder, s: float, t: float, radius: float, n: int, wobble: float) -> FloatArray:
    """A lobed round outline: (n, 2) metres, counter-clockwise; radius in metres."""
    a = np.linspace(0, 2 * np.pi, n + 1)[:-1]
    shape = radius * (
        1 + wobble * np.sin(2 * a + b.rng.uniform(0, 6)) + wobble * 0.6 * np.sin(3 * a + b.rng.uniform(0, 6))
    )
    return b.xy([(s, t)]) + shape[:, None] * np.column_stack([np.cos(a), np.sin(a)])


def inside(points: FloatArray, ring: FloatArray) -> np.ndarray:
    """Which of (n, 2) points lie in a ring (even-odd rule)."""
    x, y = points[:, 0][:, None], points[:, 1][:, None]
    x0, y0 = ring[:, 0], ring[:, 1]
    x1, y1 = np.roll(x0, -1), np.roll(y0, -1)
    across = (y0 > y) != (y1 > y)
    with np.errstate(divide="ignore", invalid="ignore"):
        at = x0 + (y - y0) * (x1 - x0) / (y1 - y0)
    return np.asarray((across & (x < at)).sum(axis=1) % 2 == 1)


def grid(b: Builder, margin: float, spacing: float, jitter: float) -> FloatArray:
    """(n, 2) block coordinates of a jittered grid that stays margin metres inside the block."""
    s = np.arange(margin, b.du - margin, spacing)
    t = np.arange(margin, b.dv - margin, spacing)
    xy = np.stack(np.meshgrid(s, t), axis=-1).reshape(-1, 2)
    xy = xy + b.rng.uniform(-jitter, jitter, xy.shape)
    return xy / (b.du, b.dv)


def farmland(b: Builder) -> None:
    """Strips of different crops that share their borders' nodes."""
    south: list[Ref] = [(b.i, b.j, k) for k in range(4)] + [(b.i + 1, b.j, 0)]
    north: list[Ref] = [(b.i, b.j + 1, k) for k in range(4)] + [(b.i + 1, b.j + 1, 0)]
    west: list[Ref] = [(b.i, b.j, k) for k in (0, 4, 5, 6)] + [(b.i, b.j + 1, 0)]
    east: list[Ref] = [(b.i + 1, b.j, k) for k in (0, 4, 5, 6)] + [(b.i + 1, b.j + 1, 0)]
    across = b.rng.random() < 0.5
    one, two = (south, north) if across else (west, east)
    first, last = (west, east) if across else (south, north)
    cuts = [(0, 4), (0, 2, 4), (0, 1, 4), (0, 1, 3, 4), (0, 3, 4), (0, 1, 2, 3, 4)][int(b.rng.integers(6))]
    angle = float(b.heading([(0.5, 0.5)], 1 if across else 0)[0])
    for c0, c1 in itertools.pairwise(cuts):
        end = last[1:4] if c1 == 4 else []
        start = first[1:4][::-1] if c0 == 0 else []
        refs = one[c0 : c1 + 1] + end + two[c0 : c1 + 1][::-1] + start
        crop = CROPS[int(b.rng.integers(len(CROPS)))]
        ids = [b.lattice_id(r) for r in refs]
        tags: Tags = {"landuse": "farmland"}
        if crop != "bare" and b.rng.random() < 0.6:
            tags["crop"] = crop
        b.way([*ids, ids[0]], tags)
        turn = angle + (np.pi / 2 if b.rng.random() < 0.2 else 0.0)
        b.paint(LAND, crop, b.lattice_xy(refs), tone=float(b.rng.uniform(0.9, 1.1)), angle=turn)
    if b.rng.random() < 0.15:
        b.trees(b.xy(b.rng.uniform(0.1, 0.9, (2, 2))), (2.5, 4.2), 0.4)


def meadow(b: Builder) -> None:
    landuse(b, {"landuse": "meadow"}, "meadow" if b.rng.random() < 0.6 else "meadow2")
    if b.rng.random() < 0.4:
        ring = circle(b, 0.5, 0.5, 0.3 * min(b.du, b.dv), 14, 0.12)
        b.paint(PATCH, "meadow2", ring)
    clump = b.rng.uniform(0.15, 0.85, (1, 2)) + b.rng.normal(0, 0.07, (int(b.rng.integers(0, 14)), 2))
    b.trees(b.xy(np.clip(clump, 0.05, 0.95)), (1.8, 3.8), 0.3)


def orchard(b: Builder) -> None:
    landuse(b, {"landuse": "orchard", "trees": "apple_trees"}, "meadow")
    b.trees(b.xy(grid(b, 12.0, float(b.rng.uniform(8, 10)), 0.4)), (1.7, 2.3), 0.02, hue=0.35)


def vineyard(b: Builder) -> None:
    landuse(b, {"landuse": "vineyard", "crop": "grape"}, "meadow2")
    angle = float(b.heading([(0.5, 0.5)], 1)[0])
    b.paint(PATCH, "vine", b.inset(9.0), angle=angle)


def _clearing(b: Builder) -> FloatArray:
    s, t = b.rng.uniform(0.38, 0.62, 2)
    return circle(b, float(s), float(t), float(b.rng.uniform(18, 32)), 14, 0.14)


def wood(b: Builder) -> None:
    """A wood that fills one block."""
    tags = {"natural": "wood"} if b.rng.random() < 0.5 else {"landuse": "forest"}
    tags["leaf_type"] = "mixed"
    xy = b.xy(grid(b, 7.0, FOREST_SPACING_M, 1.7))
    if b.rng.random() < 0.35:
        clearing = _clearing(b)
        ids = [b.lattice_id(r) for r in b.outline(b.i, b.j, b.i + 1, b.j + 1)]
        members = [
            ("w", b.way([*ids, ids[0]], {}), "outer"),
            ("w", b.area(clearing, {"natural": "grassland"}), "inner"),
        ]
        b.relation(members, {"type": "multipolygon", **tags})
        b.paint(LAND, "forest_floor", b.lattice_xy(b.outline(b.i, b.j, b.i + 1, b.j + 1)))
        b.paint(PATCH, "meadow2", clearing)
        xy = xy[~inside(xy, clearing)]
    else:
        landuse(b, tags, "forest_floor")
    b.trees(xy, (2.9, 4.3), 0.0)


def superblock(b: Builder) -> None:
    """A block of a merged forest or lake; the first block also makes the relation."""
    merged = b.plan.superblock(b.i, b.j)
    assert merged is not None
    kind, i0, j0, side = merged
    first = Builder(b.plan, i0, j0)
    if kind == "forest":
        _forest(b, first, side)
    else:
        _lake(b, first, side)


def _forest(b: Builder, first: Builder, side: int) -> None:
    holes = [circle(first, 0.9, 1.3, 52.0, 18, 0.16), circle(first, 2.1, 2.2, 38.0, 14, 0.12)]
    ring = b.outline(b.i, b.j, b.i + 1, b.j + 1)
    b.paint(LAND, "forest_floor", b.lattice_xy(ring), tone=1.0)
    xy = b.xy(grid(b, 3.0, FOREST_SPACING_M, 1.8))
    keep = ~(inside(xy, holes[0]) | inside(xy, holes[1]))
    conifer = b.rng.random(len(xy)) < b.rng.uniform(0.0, 0.6)
    b.trees(xy[keep & ~conifer], (2.9, 4.5), 0.0)
    b.trees(xy[keep & conifer], (2.5, 3.6), 0.0, hue=0.95)
    for hole in holes:
        b.paint(PATCH, "meadow2", hole, tone=1.0)
    if (b.i, b.j) != (first.i, first.j):
        return
    outer = b.outline(b.i, b.j, b.i + side, b.j + side)
    ids = [b.lattice_id(r) for r in outer]
    half = len(ids) // 2
    members = [("w", b.way(ids[: half + 1], {}), "outer"), ("w", b.way([*ids[half:], ids[0]], {}), "outer")]
    members += [("w", b.area(hole, {"landuse": "meadow"}), "inner") for hole in holes]
    b.relation(members, {"type": "multipolygon", "landuse": "forest", "leaf_type": "mixed", "name": "Albwald"})


def _lake(b: Builder, first: Builder, side: int) -> None:
    frame = first.lattice_xy(first.outline(first.i, first.j, first.i + side, first.j + side))
    middle = frame.mean(axis=0)
    # The lobes reach a ninth beyond the radius: the shore keeps clear of the streets around.
    radius = 0.78 * float(np.hypot(*(frame - middle).T).min())
    to_middle = middle - first.xy([(0.5, 0.5)])[0]
    shore = circle(first, 0.5, 0.5, radius, 40, 0.07) + to_middle
    island = circle(first, 0.5, 0.5, 30.0, 14, 0.1) + to_middle + (0.2 * radius, -0.1 * radius)
    ring = b.outline(b.i, b.j, b.i + 1, b.j + 1)
    b.paint(LAND, "meadow", b.lattice_xy(ring), tone=1.0)
    xy = b.xy(grid(b, 8.0, 16.0, 7.0))
    centre = shore.mean(axis=0)
    dry = ~inside(xy, centre + (shore - centre) * 1.06)
    b.trees(xy[dry & (b.rng.random(len(xy)) < 0.3)], (1.8, 3.6), 0.3)
    if (b.i, b.j) != (first.i, first.j):
        return
    b.paint(PATCH, "sand", centre + (shore - centre) * 1.03, tone=1.0)
    b.paint(WATER, "lake", shore, island, tone=1.0)
    b.paint(PATCH, "meadow2", island, tone=1.0)
    b.trees(island.mean(axis=0) + b.rng.normal(0, 9, (14, 2)), (2.2, 3.8), 0.0)
    water = b.area(shore, {})
    islet = b.area(island, {"place": "islet", "name": "Möweninsel"})
    outer = [b.lattice_id(r) for r in b.outline(b.i, b.j, b.i + side, b.j + side)]
    around = b.way([*outer, outer[0]], {})
    lake = {"natural": "water", "water": "lake", "name": "Moossee", "name:en": "Moss Lake"}
    b.relation([("w", water, "outer"), ("w", islet, "inner")], {"type": "multipolygon", **lake})
    # The shore is the lake's outer ring and the meadow's inner ring.
    b.relation([("w", around, "outer"), ("w", water, "inner")], {"type": "multipolygon", "landuse": "meadow"})


def _path(b: Builder, st: FloatArray, tags: Tags, *, ends: tuple[Ref, Ref] | None = None) -> None:
    line = b.xy(st)
    refs = b.nodes(line[1:-1])
    if ends is not None:
        refs = [b.lattice_id(ends[0]), *refs, b.lattice_id(ends[1])]
    else:
        refs = [b.node(*line[0]), *refs, b.node(*line[-1])]
    b.way(refs, {"highway": "footway", "surface": "fine_gravel", **tags})
    b.paint(PATH, "path", band(line, HALF_WIDTH_M["footway"] + 0.2))


def park(b: Builder) -> None:
    """A town park: two winding paths, a pond, a playground and many trees."""
    landuse(b, {"leisure": "park", "name": "Stadtpark", "name:uk": "Міський парк"}, "lawn")
    x = np.linspace(0, 1, 13)
    wave = 0.5 + 0.14 * np.sin(2 * np.pi * x) * np.sin(np.pi * x)
    _path(b, np.column_stack([x, wave]), {}, ends=((b.i, b.j, 5), (b.i + 1, b.j, 5)))
    _path(b, np.column_stack([1 - wave, x]), {"lit": "yes"}, ends=((b.i, b.j, 2), (b.i, b.j + 1, 2)))
    pond = circle(b, 0.74, 0.74, 24.0, 18, 0.14)
    b.area(pond, {"natural": "water", "water": "pond"})
    b.paint(WATER, "pond", pond)
    x0, y0 = b.xy([(0.26, 0.26)])[0]
    play = oriented(x0, y0, 24.0, 18.0, 0.3)
    b.area(play, {"leisure": "playground"})
    b.paint(PATCH, "sand", play)
    st = b.rng.uniform(0.06, 0.94, (90, 2))
    wave_at = 0.5 + 0.14 * np.sin(2 * np.pi * st) * np.sin(np.pi * st)
    clear = (np.abs(st[:, 1] - wave_at[:, 0]) > 0.03) & (np.abs(1 - st[:, 0] - wave_at[:, 1]) > 0.03)
    xy = b.xy(st)
    clear &= ~inside(xy, pond) & ~inside(xy, play)
    b.trees(xy[clear], (2.4, 4.4), PARK_TREE_MAPPED_RATE)
    for s, t in ((0.45, 0.6), (0.6, 0.4), (0.3, 0.45)):
        x0, y0 = b.xy([(s, t)])[0]
        b.node(x0, y0, {"amenity": "bench", "backrest": "yes"}, own=True)


def cemetery(b: Builder) -> None:
    landuse(b, {"landuse": "cemetery", "religion": "christian", "name": "Friedhof"}, "lawn")
    for axis in range(2):
        for c in (0.25, 0.5, 0.75):
            x = np.linspace(0.06, 0.94, 5)
            st = np.column_stack([x, np.full(5, c)] if axis == 0 else [np.full(5, c), x])
            _path(b, st, {})
    for s, t in grid(b, 16.0, 5.0, 0.3):
        if min(abs(s * 4 % 1), 1 - abs(s * 4 % 1)) > 0.1 and b.rng.random() < 0.55:
            x0, y0 = b.xy([(s, t)])[0]
            b.paint(PATCH, "grave", oriented(x0, y0, 2.2, 1.3, 0.0), tone=float(b.rng.uniform(0.8, 1.2)))
    x, y = b.xy([(0.38, 0.62)])[0]
    add_building(
        b, oriented(x, y, 14, 9, 0.2), 2, "gabled", "chapel", style="church", tags={"amenity": "place_of_worship"}
    )
    edge = np.linspace(0.06, 0.94, 14)
    for t in (0.06, 0.94):
        b.trees(b.xy(np.column_stack([edge, np.full(14, t)])), (1.8, 2.6), 0.3, hue=0.95)
    b.trees(b.xy(b.rng.uniform(0.1, 0.9, (16, 2))), (1.8, 3.4), 0.3)


def allotments(b: Builder) -> None:
    """Small gardens with beds and huts."""
    landuse(b, {"landuse": "allotments", "name": "Gartenverein; Sonnenschein"}, "lawn2")
    cuts_s = np.linspace(10 / b.du, 1 - 10 / b.du, 10)
    cuts_t = np.linspace(10 / b.dv, 1 - 10 / b.dv, 7)
    for m, (t0, t1) in enumerate(itertools.pairwise(cuts_t)):
        if m:
            _path(b, np.array([(0.05, t0), (0.5, t0), (0.95, t0)]), {})
        for s0, s1 in itertools.pairwise(cuts_s):
            style = str(b.rng.choice(["bed", "lawn", "garden", "potato"]))
            b.paint(
                PATCH, style, b.rect(s0 + 0.004, t0 + 0.012, s1 - 0.004, t1 - 0.012), angle=float(b.rng.uniform(0, 3))
            )
            if b.rng.random() < 0.8:
                x, y = b.xy([((s0 + s1) / 2, t0 * 0.72 + t1 * 0.28)])[0]
                ring = oriented(x, y, 4.4, 3.4, float(b.heading([(s0, t0)], 0)[0]))
                add_building(b, ring, 1, "gabled", "allotment_house", eaves=2.2, rise=1.1)
    b.trees(b.xy(b.rng.uniform(0.07, 0.93, (40, 2))), (0.9, 1.8), 0.02)


def farm(b: Builder) -> None:
    landuse(b, {"landuse": "farmyard"}, "meadow")
    yard = b.rect(0.3, 0.3, 0.72, 0.7)
    b.paint(PATCH, "gravel", yard)
    a = float(b.heading([(0.5, 0.5)], 0)[0])
    for s, t, length, width, value in (
        (0.36, 0.62, 36, 16, "barn"),
        (0.6, 0.6, 28, 14, "farm_auxiliary"),
        (0.42, 0.38, 16, 11, "farm"),
    ):
        x, y = b.xy([(s, t)])[0]
        add_building(b, oriented(x, y, length, width, a), 2, "gabled", value)
    line = b.xy([(0, 0.5), (0.2, 0.5), (0.4, 0.5)])
    b.way([b.lattice_id((b.i, b.j, 5)), *b.nodes(line[1:])], {"highway": "service", "service": "driveway"})
    b.paint(PATH, "track", band(line, 2.0))
    b.trees(b.xy(b.rng.uniform(0.1, 0.9, (18, 2)) * (1, 0.25)), (2.0, 3.6), 0.2)


def oddities_meadow(b: Builder) -> None:
    """A plain meadow: the odd and invalid map objects lie here."""
    landuse(b, {"landuse": "meadow"}, "meadow")
