"""Tokens of synthetic places against the brute-force oracle, and the laws that every sample keeps."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyproj
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st

from geometry.tiles import xyz_footprint
from pipeline.tokens.build import build_tokens
from pipeline.tokens.relate import delaunay_edges
from schemas.footprint import Footprint
from schemas.keys import XyzKey
from schemas.relations import Relation
from tests.osm.opl import opl
from tests.tokens.building import (
    EAST,
    NORTH,
    TILE,
    WEST,
    agree,
    around,
    at,
    batch_of,
    cell_of,
    differences,
    in_pixels,
    place_of,
    read_place,
    tokens_of,
)
from tests.tokens.oracle import brute_force, delaunay_fault, mapped

EIGHTH = st.integers(-4, 12).map(lambda n: n / 8)
CORNER = st.tuples(EIGHTH, EIGHTH)
FREE = st.tuples(st.floats(-0.5, 1.5), st.floats(-0.5, 1.5))


@st.composite
def shapes(draw: st.DrawFn) -> Any:
    """On a lattice of eighths contacts are frequent, borders of the tile included; free places lie anywhere."""
    place = CORNER if draw(st.booleans()) else FREE
    kind = draw(st.integers(0, 4))
    if kind == 0:
        return shapely.Point(draw(place))
    if kind == 1:
        xy = draw(st.lists(place, min_size=2, max_size=4))
        return (
            shapely.LineString(xy)
            if max(abs(a - b) for p in xy for a, b in zip(p, xy[0], strict=True)) > 0.01
            else shapely.Point(0.5, 0.5)
        )
    if kind == 2:
        (x, y), (w, h) = draw(CORNER), draw(st.tuples(st.integers(1, 8), st.integers(1, 8)))
        return shapely.box(x, y, x + w / 8, y + h / 8)
    if kind == 3:
        x, y = draw(CORNER)
        return shapely.box(x, y, x + 0.75, y + 0.5).difference(shapely.box(x + 0.125, y + 0.125, x + 0.5, y + 0.25))
    hull = shapely.convex_hull(shapely.MultiPoint(draw(st.lists(place, min_size=3, max_size=5))))
    return hull if hull.geom_type == "Polygon" and hull.area > 1e-3 else shapely.Point(0.25, 0.75)


@settings(max_examples=150)
@given(st.lists(shapes(), min_size=1, max_size=7), st.sampled_from(((14, 14), (16, 16), (3, 5))))
def test_tokens_of_random_shapes_agree_with_the_oracle(found: list[Any], grid: tuple[int, int]) -> None:
    agree(place_of(found), grid=grid)


@settings(max_examples=40)
@given(st.lists(shapes(), min_size=1, max_size=5))
def test_tiles_built_together_agree_each_with_the_oracle_and_with_themselves_alone(found: list[Any]) -> None:
    place = place_of(found)
    keys = [XyzKey(17, TILE.x + i, TILE.y + j, 256) for j in (-1, 0, 1) for i in (-1, 0, 1)]
    together = agree(place, keys)
    for key in keys:
        assert tokens_of(place, [key])[key].to_bytes() == together[key].to_bytes()


@settings(max_examples=60)
@given(st.lists(shapes(), min_size=1, max_size=6))
def test_neighbouring_tiles_share_out_points_lengths_and_areas(found: list[Any]) -> None:
    """Half-open tiles: nothing twice, nothing lost. Shapes reach at most 3 tiles around.

    Lines that run over themselves are left out: cut, they count once; whole, they count twice.
    """
    place = place_of(found)
    keys = [XyzKey(17, TILE.x + i, TILE.y + j, 256) for j in range(-3, 5) for i in range(-3, 5)]
    total: Counter[tuple[int, int]] = Counter()
    points: Counter[int] = Counter()
    for tokens in tokens_of(place, keys).values():
        for kind, osm_id, extent in zip(
            tokens.kind.tolist(), tokens.osm_id.tolist(), tokens.extent.tolist(), strict=True
        ):
            total[kind, osm_id] += extent
            points[osm_id] += kind == 0
    mercator = pyproj.Transformer.from_crs("EPSG:4326", "EPSG:3857", always_xy=True)
    side = xyz_footprint(TILE).transform[0] * 256
    for f in place.features:
        metres = mapped(f.geometry, lambda p: mercator.transform(*p))
        if f.kind == 0:
            assert points[f.osm_id] == 1
        elif metres.is_simple:
            expected = metres.area / side**2 if f.kind == 2 else metres.length / side
            assert total[f.kind, f.osm_id] == pytest.approx(expected, rel=1e-5, abs=1e-6)


def test_an_inline_village_agrees_with_the_oracle(tmp_path: Path) -> None:
    """Buildings in a row, a road through a forest with a clearing, a lake over the border, trees, benches."""
    lines, ways = [], []

    def node(u: float, v: float, tags: str = "") -> str:
        lon, lat = at(u, v)
        lines.append(f"n{len(lines) + 1} v1 x{lon} y{lat} T{tags}")
        return f"n{len(lines)}"

    def way(tags: str, *refs: str) -> None:
        ways.append(f"w{len(ways) + 1} v1 T{tags} N{','.join(refs)}")

    row = [node(0.1 * i, 0.2) for i in range(1, 6)], [node(0.1 * i, 0.3) for i in range(1, 6)]
    for i in range(4):
        way("building=house", row[0][i], row[0][i + 1], row[1][i + 1], row[1][i], row[0][i])
    corners = [node(u, v) for u, v in ((0.2, 0.4), (0.9, 0.4), (0.9, 0.9), (0.2, 0.9))]
    way("", *corners, corners[0])
    clearing = [node(u, v) for u, v in ((0.4, 0.5), (0.6, 0.5), (0.6, 0.7), (0.4, 0.7))]
    way("natural=scrub", *clearing, clearing[0])
    way("highway=residential", node(-0.4, 0.61), node(0.5, 0.6), node(1.7, 0.58))
    lake = [node(u, v) for u, v in ((0.8, -0.5), (1.5, -0.4), (1.4, 0.35), (0.75, 0.1))]
    way("natural=water", *lake, lake[0])
    for i in range(12):
        node(0.3 + 0.05 * (i % 4), 0.75 + 0.03 * (i // 4), "natural=tree")
    for u, v in ((0.5, 0.6), (0.4, 0.5), (0.5, 0.5), (0.5, 0.6)):
        node(u, v, "amenity=bench")
    forest = "r1 v1 Ttype=multipolygon,landuse=forest Mw5@outer,w6@inner"
    path = tmp_path / "village.opl"
    path.write_text(opl("\n".join([*lines, *ways, forest])))
    place = read_place(path)
    tokens = agree(place, [TILE, XyzKey(17, TILE.x + 1, TILE.y, 256), XyzKey(17, TILE.x, TILE.y + 9, 256)])
    assert set(tokens[TILE].relation.tolist()) >= {
        Relation.TOUCHES, Relation.WITHIN, Relation.CROSSES, Relation.EQUALS, Relation.DELAUNAY,
    }  # fmt: skip
    assert tokens[TILE].counts() == (16, 1, 7)
    assert len(tokens[XyzKey(17, TILE.x, TILE.y + 9, 256)]) == 0
    assert tokens[XyzKey(17, TILE.x, TILE.y + 9, 256)].problem() is None


@pytest.mark.parametrize(
    ("shape", "belongs"),
    [
        (shapely.Point(0, 0.5), True),
        (shapely.Point(1.0001, 0.5), False),
        (shapely.Point(-0.002, 0.5), False),
        (shapely.box(1.001, 0, 2, 1), False),
        (shapely.box(-1, -1, 2, 2), True),
        (shapely.LineString([(-1, 0.5), (2, 0.5)]), True),
        (shapely.LineString([(-1, 1.5), (2, 1.5)]), False),
        (shapely.LineString([(-0.5, 0.7), (0.7, -0.5)]), True),
        (shapely.LineString([(-0.7, 0.5), (0.5, -0.7)]), False),
    ],
)
def test_an_object_belongs_to_a_tile_if_it_meets_it(shape: Any, belongs: bool) -> None:
    place = place_of([shapely.transform(shape, lambda xy: xy + 1e-3)])
    assert len(agree(place)[TILE]) == belongs


@pytest.mark.parametrize(
    ("shape", "belongs"),
    [
        (shapely.Point(0, 0), True),
        (shapely.Point(64, 10), False),
        (shapely.Point(10, 64), False),
        (shapely.LineString([(0, 5), (0, 9)]), True),
        (shapely.LineString([(5, 0), (9, 0)]), True),
        (shapely.LineString([(64, 5), (64, 9)]), False),
        (shapely.LineString([(5, 64), (9, 64)]), False),
        (shapely.LineString([(64, 5), (80, 5)]), False),
        (shapely.LineString([(60, 5), (64, 5)]), True),
        (shapely.box(64, 0, 80, 10), False),
        (shapely.box(-10, 0, 0, 10), False),
        (shapely.box(63, 63, 80, 80), True),
    ],
)
def test_what_lies_on_the_right_or_lower_side_belongs_to_the_neighbour(shape: Any, belongs: bool) -> None:
    batch, footprint = in_pixels([shape])
    tokens = build_tokens(batch, [footprint], (4, 4)).tokens[0]
    assert len(tokens) == belongs
    assert tokens.problem() is None


def test_a_line_that_touches_the_tile_in_one_place_is_not_in_it() -> None:
    batch, footprint = in_pixels(
        [shapely.LineString([(-5, 5), (5, -5)]), shapely.Polygon([(-9, 9), (9, -9), (-9, -9)])]
    )
    assert len(build_tokens(batch, [footprint], (4, 4)).tokens[0]) == 0


def test_what_clipping_cuts_apart_stays_one_object() -> None:
    comb = shapely.Polygon([(-9, 10), (30, 10), (30, 20), (-1, 20), (-1, 30), (30, 30), (30, 40), (-9, 40)])
    zigzag = shapely.LineString([(10, 50), (10, 70), (20, 70), (20, 50), (30, 50), (30, 70)])
    batch, footprint = in_pixels([comb, zigzag])
    tokens = build_tokens(batch, [footprint], (4, 4)).tokens[0]
    assert len(tokens) == 2
    assert np.diff(tokens.object_ring_offsets).tolist() == [2, 2]
    assert tokens.extent.tolist() == pytest.approx([(14 + 14 + 14 + 10) / 64, 600 / 64**2])


@given(st.lists(st.tuples(st.integers(0, 31), st.integers(0, 31)), min_size=1, max_size=12, unique=True))
def test_delaunay_edges_are_a_triangulation_by_its_definition(places: list[tuple[int, int]]) -> None:
    places.sort()
    i, j = delaunay_edges(np.array(places, float), np.zeros(len(places), np.int64))
    edges = {(min(a, b), max(a, b)) for a, b in zip(i.tolist(), j.tolist(), strict=True)}
    assert len(edges) == len(i)
    assert delaunay_fault(places, edges) is None


def test_the_oracle_refuses_what_is_no_triangulation() -> None:
    points = [(0.0, 0.0), (4.0, 0.0), (2.0, 1.0), (2.0, -9.0)]
    good = {(0, 2), (1, 2), (0, 1), (0, 3), (1, 3)}
    assert delaunay_fault(points, good) is None
    assert delaunay_fault(points, good - {(0, 2)}) is not None
    assert delaunay_fault(points, good - {(0, 1)} | {(2, 3)}) is not None


def test_features_elsewhere_do_not_change_a_byte() -> None:
    rng = np.random.default_rng(4)
    found = [shapely.box(x, y, x + 0.2, y + 0.1) for x, y in rng.uniform(-0.2, 1.5, (30, 2))]
    found += [shapely.Point(p) for p in rng.uniform(0, 1, (20, 2))]
    place = place_of(found)
    batch = batch_of(place, cell_of(TILE))
    fewer = batch.take(np.flatnonzero(shapely.bounds(batch.geometry)[:, 0] < EAST))
    one, two = (build_tokens(b, [xyz_footprint(TILE)]).tokens[0] for b in (batch, fewer))
    assert len(fewer) < len(batch)
    assert one.to_bytes() == two.to_bytes()


def test_another_seed_moves_the_samples_and_nothing_else() -> None:
    place = place_of(
        [shapely.box(0.1, 0.1, 0.9, 0.8), shapely.Point(0.5, 0.5), shapely.LineString([(0, 0.2), (0.9, 0.9)])]
    )
    batch = batch_of(place, cell_of(TILE))
    a, b = (build_tokens(batch, [xyz_footprint(TILE)], seed=s).tokens[0] for s in (0, 1))
    changed = [n for n in vars(a) if getattr(a, n).tobytes() != getattr(b, n).tobytes()]
    assert changed == ["anchors"]
    assert (a.anchors[2, 0] == b.anchors[2, 0]).all()
    assert (a.anchors[2, 1:] != b.anchors[2, 1:]).any()


def test_a_rotated_chip_in_degrees_agrees_with_the_oracle() -> None:
    found = [
        shapely.box(0.2, 0.2, 0.6, 0.5),
        shapely.LineString([(0, 0), (1, 1)]),
        shapely.Point(0.5, 0.6),
        shapely.Point(0.4, 0.4),
    ]
    place = place_of(found)
    step, turn = (EAST - WEST) / 200, 0.2
    chip = Footprint(
        "chip-1", "EPSG:4326",
        (step * np.cos(turn), step * np.sin(turn), WEST, step * np.sin(turn), -step * np.cos(turn), NORTH), 150, 100,
    )  # fmt: skip
    tokens = build_tokens(batch_of(place, cell_of(TILE)), [chip], (5, 7)).tokens[0]
    assert len(tokens) > 1
    assert differences(tokens, brute_force(place.features, chip, (5, 7), around(TILE)), chip) == []
