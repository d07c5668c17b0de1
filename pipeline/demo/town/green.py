"""Open blocks: fields, meadows, woods, forest, lake, park, cemetery, allotments, farm."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import shapely

from pipeline.demo.geo import FloatArray, rectangle
from pipeline.demo.town.block import LAND, PARK_TREE_MAPPED_RATE, PATCH, WATER, Builder, Tags
from pipeline.demo.town.built import add_building
from pipeline.demo.town.streets import add_path

CROPS = ("wheat", "maize", "rape", "barley", "potato", "bare", "beet")
FOREST_SPACING_M = 6.6


def circle(b: Builder, s: float, t: float, radius: float, n: int, wobble: float) -> FloatArray:
    """A lobed round outline: (n, 2) metres, counter-clockwise; radius in metres."""
    a = np.linspace(0, 2 * np.pi, n + 1)[:-1]
    shape = radius * (
        1 + wobble * np.sin(2 * a + b.rng.uniform(0, 6)) + wobble * 0.6 * np.sin(3 * a + b.rng.uniform(0, 6))
    )
    return b.xy([(s, t)]) + shape[:, None] * np.column_stack([np.cos(a), np.sin(a)])


def outside(xy: FloatArray, *rings: FloatArray) -> np.ndarray:
    """Which of (n, 2) points lie in none of the rings."""
    return ~shapely.contains_xy(shapely.multipolygons([shapely.Polygon(r) for r in rings]), xy[:, 0], xy[:, 1])


def grid(b: Builder, margin: float, spacing: float, jitter: float) -> FloatArray:
    """(n, 2) block coordinates of a jittered grid that stays margin metres inside the block."""
    s = np.arange(margin, b.du - margin, spacing)
    t = np.arange(margin, b.dv - margin, spacing)
    xy = np.stack(np.meshgrid(s, t), axis=-1).reshape(-1, 2)
    return (xy + b.rng.uniform(-jitter, jitter, xy.shape)) / (b.du, b.dv)


def farmland(b: Builder) -> None:
    """Strips of different crops that share their borders' nodes."""
    across = b.rng.random() < 0.5
    # From the south-west corner along one side (0-4) and back along the other (8-12).
    ring = b.ring if across else np.roll(b.ring[::-1], 1, axis=0)
    cuts = [(0, 4), (0, 2, 4), (0, 1, 4), (0, 1, 3, 4), (0, 3, 4), (0, 1, 2, 3, 4)][int(b.rng.integers(6))]
    angle = b.heading(0.5, 0.5, 1 if across else 0)
    for c0, c1 in itertools.pairwise(cuts):
        ends = [*range(5, 8)] if c1 == 4 else []
        starts = [*range(13, 16)] if c0 == 0 else []
        strip = ring[[*range(c0, c1 + 1), *ends, *range(12 - c1, 13 - c0), *starts]]
        crop = CROPS[int(b.rng.integers(len(CROPS)))]
        tags: Tags = {"landuse": "farmland"}
        if crop != "bare" and b.rng.random() < 0.6:
            tags["crop"] = crop
        turn = angle + (np.pi / 2 if b.rng.random() < 0.2 else 0.0)
        b.paint(LAND, crop, strip, tone=float(b.rng.uniform(0.9, 1.1)), angle=turn, tags=tags)
    if b.rng.random() < 0.15:
        b.trees(b.xy(b.rng.uniform(0.1, 0.9, (2, 2))), (2.5, 4.2), 0.4)


def meadow(b: Builder) -> None:
    b.landuse("meadow" if b.rng.random() < 0.6 else "meadow2", {"landuse": "meadow"})
    if b.rng.random() < 0.4:
        ring = circle(b, 0.5, 0.5, 0.3 * min(b.du, b.dv), 14, 0.12)
        b.paint(PATCH, "meadow2", ring)
    clump = b.rng.uniform(0.15, 0.85, (1, 2)) + b.rng.normal(0, 0.07, (int(b.rng.integers(0, 14)), 2))
    b.trees(b.xy(np.clip(clump, 0.05, 0.95)), (1.8, 3.8), 0.3)


def orchard(b: Builder) -> None:
    b.landuse("meadow", {"landuse": "orchard", "trees": "apple_trees"})
    b.trees(b.xy(grid(b, 12.0, float(b.rng.uniform(8, 10)), 0.4)), (1.7, 2.3), 0.02, hue=0.35)


def vineyard(b: Builder) -> None:
    b.landuse("meadow2", {"landuse": "vineyard", "crop": "grape"})
    s, t = 9.0 / b.du, 9.0 / b.dv
    b.paint(PATCH, "vine", b.rect(s, t, 1 - s, 1 - t, 4), angle=b.heading(0.5, 0.5, 1))


def wood(b: Builder) -> None:
    """A wood that fills one block."""
    tags = {"natural": "wood"} if b.rng.random() < 0.5 else {"landuse": "forest"}
    tags["leaf_type"] = "mixed"
    xy = b.xy(grid(b, 7.0, FOREST_SPACING_M, 1.7))
    if b.rng.random() < 0.35:
        s, t, radius = b.rng.uniform((0.38, 0.38, 18), (0.62, 0.62, 32))
        clearing = circle(b, s, t, radius, 14, 0.14)
        b.multipolygon(b.ring, [clearing], tags, {"natural": "grassland"})
        b.paint(LAND, "forest_floor", b.ring)
        b.paint(PATCH, "meadow2", clearing)
        xy = xy[outside(xy, clearing)]
    else:
        b.landuse("forest_floor", tags)
    b.trees(xy, (2.9, 4.3), 0.0)


def superblock(b: Builder) -> None:
    """A block of a merged forest or lake; the first block also makes the relation."""
    merged = b.plan.superblock(b.i, b.j)
    assert merged is not None
    kind, i0, j0, side = merged
    outer = b.lattice_xy(b.outline(i0, j0, i0 + side, j0 + side))
    make = _forest if kind == "forest" else _lake
    make(b, Builder(b.plan, i0, j0), outer, (b.i, b.j) == (i0, j0))


def _forest(b: Builder, first: Builder, outer: FloatArray, is_first: bool) -> None:
    holes = [circle(first, 0.9, 1.3, 52.0, 18, 0.16), circle(first, 2.1, 2.2, 38.0, 14, 0.12)]
    b.paint(LAND, "forest_floor", b.ring, tone=1.0)
    xy = b.xy(grid(b, 3.0, FOREST_SPACING_M, 1.8))
    keep = outside(xy, *holes)
    conifer = b.rng.random(len(xy)) < b.rng.uniform(0.0, 0.6)
    b.trees(xy[keep & ~conifer], (2.9, 4.5), 0.0)
    b.trees(xy[keep & conifer], (2.5, 3.6), 0.0, hue=0.95)
    for hole in holes:
        b.paint(PATCH, "meadow2", hole, tone=1.0)
    if is_first:
        tags = {"landuse": "forest", "leaf_type": "mixed", "name": "Albwald"}
        b.multipolygon(outer, holes, tags, {"landuse": "meadow"})


def _lake(b: Builder, first: Builder, outer: FloatArray, is_first: bool) -> None:
    middle = outer.mean(axis=0)
    # The lobes reach a ninth beyond the radius: the shore keeps clear of the streets around.
    radius = 0.78 * float(np.hypot(*(outer - middle).T).min())
    to_middle = middle - first.xy([(0.5, 0.5)])[0]
    shore = circle(first, 0.5, 0.5, radius, 40, 0.07) + to_middle
    island = circle(first, 0.5, 0.5, 30.0, 14, 0.1) + to_middle + (0.2 * radius, -0.1 * radius)
    b.paint(LAND, "meadow", b.ring, tone=1.0)
    xy = b.xy(grid(b, 8.0, 16.0, 7.0))
    centre = shore.mean(axis=0)
    dry = outside(xy, centre + (shore - centre) * 1.06)
    b.trees(xy[dry & (b.rng.random(len(xy)) < 0.3)], (1.8, 3.6), 0.3)
    if not is_first:
        return
    b.paint(PATCH, "sand", centre + (shore - centre) * 1.03, tone=1.0)
    b.paint(WATER, "lake", shore, island, tone=1.0)
    b.paint(PATCH, "meadow2", island, tone=1.0)
    b.trees(island.mean(axis=0) + b.rng.normal(0, 9, (14, 2)), (2.2, 3.8), 0.0)
    water = b.area(shore, {})
    islet = b.area(island, {"place": "islet", "name": "Möweninsel"})
    around = b.area(outer, {})
    lake = {"natural": "water", "water": "lake", "name": "Moossee", "name:en": "Moss Lake"}
    b.relation([("w", water, "outer"), ("w", islet, "inner")], {"type": "multipolygon", **lake})
    # The shore is the lake's outer ring and the meadow's inner ring.
    b.relation([("w", around, "outer"), ("w", water, "inner")], {"type": "multipolygon", "landuse": "meadow"})


def _footway(b: Builder, st: Any, **tags: str) -> None:
    add_path(b, "footway", st, {"surface": "fine_gravel", **tags})


def _wave(x: FloatArray) -> FloatArray:
    """How the park's paths wind across their block."""
    return np.asarray(0.5 + 0.14 * np.sin(2 * np.pi * x) * np.sin(np.pi * x))


def park(b: Builder) -> None:
    """A town park: two winding paths, a pond, a playground and many trees."""
    b.landuse("lawn", {"leisure": "park", "name": "Stadtpark", "name:uk": "Міський парк"})
    x = np.linspace(0, 1, 13)
    _footway(b, np.column_stack([x, _wave(x)]))
    _footway(b, np.column_stack([1 - _wave(x), x]), lit="yes")
    pond = circle(b, 0.74, 0.74, 24.0, 18, 0.14)
    b.paint(WATER, "pond", pond, tags={"natural": "water", "water": "pond"})
    play = rectangle(b.xy([(0.26, 0.26)])[0], 24.0, 18.0, 0.3)
    b.paint(PATCH, "sand", play, tags={"leisure": "playground"})
    s, t = st = b.rng.uniform(0.06, 0.94, (2, 90))
    clear = (np.abs(t - _wave(s)) > 0.03) & (np.abs(1 - s - _wave(t)) > 0.03)
    xy = b.xy(st.T)
    b.trees(xy[clear & outside(xy, pond, play)], (2.4, 4.4), PARK_TREE_MAPPED_RATE)
    for bench in b.xy([(0.45, 0.6), (0.6, 0.4), (0.3, 0.45)]):
        b.node(bench, {"amenity": "bench", "backrest": "yes"}, own=True)


def cemetery(b: Builder) -> None:
    b.landuse("lawn", {"landuse": "cemetery", "religion": "christian", "name": "Friedhof"})
    for c in (0.25, 0.5, 0.75):
        for s, t in ((1, 0), (0, 1)):
            _footway(b, [(x * s + c * t, x * t + c * s) for x in np.linspace(0.06, 0.94, 5)])
    for s, t in grid(b, 16.0, 5.0, 0.3):
        if min(abs(s * 4 % 1), 1 - abs(s * 4 % 1)) > 0.1 and b.rng.random() < 0.55:
            grave = rectangle(b.xy([(s, t)])[0], 2.2, 1.3, 0.0)
            b.paint(PATCH, "grave", grave, tone=float(b.rng.uniform(0.8, 1.2)))
    chapel = rectangle(b.xy([(0.38, 0.62)])[0], 14, 9, 0.2)
    add_building(b, chapel, 2, "gabled", "chapel", style="church", tags={"amenity": "place_of_worship"})
    hedges = [(s, t) for t in (0.06, 0.94) for s in np.linspace(0.06, 0.94, 14)]
    b.trees(b.xy(hedges), (1.8, 2.6), 0.3, hue=0.95)
    b.trees(b.xy(b.rng.uniform(0.1, 0.9, (16, 2))), (1.8, 3.4), 0.3)


def allotments(b: Builder) -> None:
    """Small gardens with beds and huts."""
    b.landuse("lawn2", {"landuse": "allotments", "name": "Gartenverein; Sonnenschein"})
    cuts_s = np.linspace(10 / b.du, 1 - 10 / b.du, 10)
    cuts_t = np.linspace(10 / b.dv, 1 - 10 / b.dv, 7)
    for m, (t0, t1) in enumerate(itertools.pairwise(cuts_t)):
        if m:
            _footway(b, [(s, t0) for s in (0.05, 0.5, 0.95)])
        for s0, s1 in itertools.pairwise(cuts_s):
            style = str(b.rng.choice(["bed", "lawn", "garden", "potato"]))
            b.paint(
                PATCH, style, b.rect(s0 + 0.004, t0 + 0.012, s1 - 0.004, t1 - 0.012), angle=float(b.rng.uniform(0, 3))
            )
            if b.rng.random() < 0.8:
                place = b.xy([((s0 + s1) / 2, t0 * 0.72 + t1 * 0.28)])[0]
                ring = rectangle(place, 4.4, 3.4, b.heading(s0, t0))
                add_building(b, ring, 1, "gabled", "allotment_house", eaves=2.2, rise=1.1)
    b.trees(b.xy(b.rng.uniform(0.07, 0.93, (40, 2))), (0.9, 1.8), 0.02)


def farm(b: Builder) -> None:
    b.landuse("meadow", {"landuse": "farmyard"})
    b.paint(PATCH, "gravel", b.rect(0.3, 0.3, 0.72, 0.7))
    a = b.heading(0.5, 0.5)
    for s, t, length, width, value in (
        (0.36, 0.62, 36, 16, "barn"),
        (0.6, 0.6, 28, 14, "farm_auxiliary"),
        (0.42, 0.38, 16, 11, "farm"),
    ):
        add_building(b, rectangle(b.xy([(s, t)])[0], length, width, a), 2, "gabled", value)
    add_path(b, "service", [(0, 0.5), (0.2, 0.5), (0.4, 0.5)], {"service": "driveway"})
    b.trees(b.xy(b.rng.uniform(0.1, 0.9, (18, 2)) * (1, 0.25)), (2.0, 3.6), 0.2)


def oddities_meadow(b: Builder) -> None:
    """A plain meadow: the odd and invalid map objects lie here."""
    b.landuse("meadow", {"landuse": "meadow"})
