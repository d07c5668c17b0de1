"""Shapes that mappers draw and that break geometry code: nothing crashes, and what belongs to a tile is in it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import shapely
from hypothesis import given
from hypothesis import strategies as st

from pipeline.osm.features import FeatureBatch
from pipeline.rules import load_rules
from pipeline.tokens.build import build_tokens
from schemas.errors import InputError
from schemas.footprint import Footprint
from schemas.keys import XyzKey
from schemas.relations import DISJOINT, Relation, classify_all
from schemas.tokens import OsmTokens
from tests.tokens.building import STEP, TILE, agree, agree_in_pixels, in_pixels, place_of, tokens_of


def ids(tokens: OsmTokens) -> list[int]:
    return tokens.osm_id.tolist()


def related(shapes: list[Any], kind: np.ndarray) -> dict[tuple[int, int], int]:
    """Relations of all pairs whose bounds meet, by numpy and one relate."""
    b = shapely.bounds(shapes)
    low, high = b[:, None, :2], b[:, None, 2:]
    i, j = np.nonzero(((low <= b[None, :, 2:]) & (b[None, :, :2] <= high)).all(axis=2))
    i, j = i[i < j], j[i < j]
    geometry = np.array(shapes, object)
    code = classify_all(np.asarray(shapely.relate(geometry[i], geometry[j]), "U9"), kind[i], kind[j])
    return {(a, b): c for a, b, c in zip(i.tolist(), j.tolist(), code.tolist(), strict=True) if c != DISJOINT}


def test_a_tile_of_five_thousand_objects_has_them_all_and_their_relations() -> None:
    rng = np.random.default_rng(3)
    x, y = np.meshgrid(np.arange(50), np.arange(60))
    shapes: list[Any] = [shapely.Point(*p) for p in rng.integers(0, 256, (500, 2))]
    starts = rng.integers(9, 247, (1500, 1, 2))
    shapes += [shapely.LineString(p) for p in starts + [[0, 0], [1, 0]] + rng.integers(0, 8, (1500, 2, 2)) * [[0], [1]]]
    shapes += [shapely.box(a * 5, b * 4, a * 5 + 5, b * 4 + 3) for a, b in zip(x.ravel(), y.ravel(), strict=True)]
    batch, footprint = in_pixels(shapes, (256, 256))
    tokens = build_tokens(batch, [footprint], paint=load_rules().paint, gsd=np.ones(1)).tokens[0]
    assert ids(tokens) == list(range(len(shapes)))
    assert len(tokens) > 4990
    ground = tokens.relation != Relation.DELAUNAY
    pairs = zip(*tokens.edges[:, ground].tolist(), strict=True)
    assert dict(zip(pairs, tokens.relation[ground].tolist(), strict=True)) == related(shapes, tokens.kind)
    total = np.bincount(tokens.patch_object, tokens.patch_cover, len(tokens)) * (256 / 14) ** 2
    polygons = tokens.kind == 2
    assert np.allclose(total[polygons], 15, rtol=1e-5)


@pytest.fixture(scope="module")
def archipelago() -> Any:
    """A multipolygon of 20,000 islands of 1 px² every 2 px."""
    side = 142
    x, y = np.meshgrid(np.arange(side) * 2.0, np.arange(side) * 2.0)
    islands = shapely.box(x.ravel() - 10, y.ravel() - 10, x.ravel() - 9, y.ravel() - 9)[:20_000]
    return shapely.MultiPolygon(list(islands))


def test_a_multipolygon_of_twenty_thousand_members_leaves_each_tile_its_own(archipelago: Any) -> None:
    batch, first = in_pixels([archipelago], (256, 256))
    footprints = [
        Footprint(
            f"chip-{i}-{j}", first.crs, (STEP, 0, 9.0 + i * 256 * STEP, 0, -STEP, 47.0 - j * 256 * STEP), 256, 256
        )
        for j in range(-1, 2)
        for i in range(-1, 2)
    ]
    built = build_tokens(batch, footprints, (8, 8)).tokens
    for n, tokens in enumerate(built):
        box = shapely.box(*(np.array([n % 3 - 1, n // 3 - 1, n % 3, n // 3]) * 256))
        own = shapely.intersection(archipelago, box)
        assert len(tokens) == (own.area > 0)
        if len(tokens):
            assert tokens.extent[0] * 256**2 == pytest.approx(own.area, rel=1e-6)
            assert tokens.object_ring_offsets[1] == sum(p.geom_type == "Polygon" for p in shapely.get_parts(own))
            assert np.sum(tokens.patch_cover) * 1024 == pytest.approx(own.area, rel=1e-5)
    assert sum(float(t.extent.sum()) for t in built) * 256**2 == pytest.approx(20_000, rel=1e-6)


def test_a_polygon_of_five_thousand_holes_keeps_those_of_each_tile() -> None:
    x, y = np.meshgrid(np.arange(71) * 3.0, np.arange(71) * 3.0)
    holes = [
        np.asarray(b.exterior.coords)
        for b in shapely.box(x.ravel() - 70, y.ravel() - 70, x.ravel() - 69, y.ravel() - 69)
    ]
    tokens = agree_in_pixels([shapely.Polygon(shapely.box(-100, -100, 200, 200).exterior, holes)])
    inside = sum(0 <= a - 70 < 64 and 0 <= b - 70 < 64 for a, b in zip(x.ravel(), y.ravel(), strict=True))
    assert tokens.extent[0] * 64**2 == 64**2 - inside
    assert len(holes) > 5000


@pytest.mark.parametrize(
    "flat",
    [
        shapely.Polygon([(3, 3), (9, 3), (6, 3)]),
        shapely.Polygon([(3, 3), (3, 3), (3, 3)]),
        shapely.Polygon([(-9, 5), (80, 5), (-9, 5)]),
        shapely.LineString([(5, 5), (5, 5)]),
        shapely.LineString([(0, 0), (0, 0), (0, 0)]),
    ],
)
def test_what_has_no_extent_is_no_object_and_harms_no_other(flat: Any) -> None:
    others = [shapely.Point(3, 3), shapely.LineString([(0, 0), (64, 64)]), shapely.box(2, 2, 8, 8)]
    batch, footprint = in_pixels([*others, flat])
    tokens = build_tokens(batch, [footprint], (4, 4), paint=load_rules().paint, gsd=np.ones(1)).tokens[0]
    alone = agree_in_pixels(others)
    assert tokens.to_bytes() == alone.to_bytes()


#: Rings that cross or touch themselves, in sides of the tile, and the area they enclose an odd number of times.
CROSSED = [
    ([(0.1, 0.1), (0.5, 0.5), (0.5, 0.1), (0.1, 0.5)], 0.08),  # a bow tie
    ([(0.1, 0.1), (0.9, 0.9), (0.9, 0.1), (0.1, 0.9)], 0.32),
    ([(-0.5, 0.2), (0.7, 0.8), (0.7, 0.2), (-0.5, 0.8)], None),  # its knot in, one half out
    ([(0.7, 0.2), (1.4, 0.8), (1.4, 0.2), (0.7, 0.8)], None),  # its knot on the side
    ([(0.1, 0.1), (0.4, 0.1), (0.4, 0.4), (0.2, 0.4), (0.2, 0.05), (0.1, 0.05)], None),
    ([(0.2, 0.2), (0.6, 0.2), (0.6, 0.6), (0.8, 0.8), (0.6, 0.6), (0.2, 0.6)], 0.16),  # a spike
    ([(0.2, 0.2), (0.5, 0.2), (0.5, 0.4), (0.35, 0.2), (0.2, 0.4)], None),  # touches its own side
    ([(0.2, 0.2), (0.2, 0.2), (0.5, 0.2), (0.5, 0.2), (0.5, 0.5), (0.2, 0.5), (0.2, 0.5)], 0.09),  # vertices twice
]


@pytest.mark.parametrize(("ring", "area"), CROSSED)
def test_a_ring_that_crosses_itself_is_the_area_it_encloses(
    ring: list[tuple[float, float]], area: float | None
) -> None:
    tokens = agree(place_of([shapely.Polygon(ring), shapely.Point(0.3, 0.25)]))[TILE]
    assert tokens.counts() == (1, 0, 1)
    if area is not None:
        assert tokens.extent[1] == pytest.approx(area, rel=1e-3)


@given(st.integers(0, 2**32))
def test_tangled_rings_are_there_wherever_they_enclose_something(seed: int) -> None:
    """Whatever make_valid takes for their inside: never less than what is enclosed an odd number of times."""
    rng = np.random.default_rng(seed)
    ring = shapely.Polygon(rng.uniform(-0.5, 1.5, (int(rng.integers(4, 9)), 2)))
    place = place_of([ring])
    keys = [XyzKey(17, TILE.x + i, TILE.y + j, 256) for j in (-1, 0, 1) for i in (-1, 0, 1)]
    for key, tokens in tokens_of(place, keys).items():
        inside = shapely.intersection(
            shapely.make_valid(ring),
            shapely.box(key.x - TILE.x, key.y - TILE.y, key.x - TILE.x + 1, key.y - TILE.y + 1),
        )
        if inside.area > 1e-6:
            assert len(tokens) == 1
            assert tokens.extent[0] >= inside.area * 0.999 - 1e-5
        assert tokens.problem() is None


HOLED = [
    shapely.Polygon([(8, 8), (40, 8), (40, 40), (8, 40)], [[(8, 8), (20, 12), (12, 20)]]),  # at a corner
    shapely.Polygon([(8, 8), (40, 8), (40, 40), (8, 40)], [[(24, 8), (28, 16), (20, 16)]]),  # on a side
    shapely.Polygon([(-8, -8), (70, -8), (70, 70), (-8, 70)], [[(0, 0), (64, 0), (64, 64), (0, 64)]]),  # the tile
    shapely.Polygon([(-8, -8), (70, -8), (70, 70), (-8, 70)], [[(0, 10), (20, 10), (20, 20), (0, 20)]]),  # on its side
    shapely.Polygon(
        [(8, 8), (40, 8), (40, 40), (8, 40)], [[(8, 8), (24, 24), (24, 12)], [(24, 24), (36, 36), (36, 24)]]
    ),
]


@pytest.mark.parametrize("shape", HOLED)
def test_holes_may_touch_the_outer_ring_each_other_and_the_tile(shape: Any) -> None:
    assert shape.is_valid
    tokens = agree_in_pixels([shape, shapely.Point(10, 9), shapely.LineString([(0, 12), (64, 12)])])
    expected = shapely.intersection(shape, shapely.box(0, 0, 64, 64)).area
    assert (2 in tokens.kind) == (expected > 0)


def test_a_hole_along_the_outer_ring_is_cut_out_of_it() -> None:
    """Invalid as drawn: the cells stage repairs it."""
    shape = shapely.Polygon(
        [(0.1, 0.1), (0.5, 0.1), (0.5, 0.5), (0.1, 0.5)], [[(0.1, 0.2), (0.3, 0.2), (0.3, 0.4), (0.1, 0.4)]]
    )
    assert agree(place_of([shape]))[TILE].extent[0] == pytest.approx(0.12, rel=1e-3)


CORNERS = [(x, y) for x in (0.0, 32.0, 64.0) for y in (0.0, 32.0, 64.0)]


def test_what_lies_on_sides_and_corners_to_the_last_bit_goes_to_one_tile_each() -> None:
    """Points, lines and polygons with all vertices on the lattice of half tiles, over four tiles."""
    shapes: list[Any] = [shapely.Point(p) for p in CORNERS]
    shapes += [shapely.LineString([p, q]) for n, p in enumerate(CORNERS) for q in CORNERS[n + 1 :]]
    shapes += [shapely.box(x, y, x + w, y + h) for x, y in CORNERS for w in (32, 64, 96) for h in (32, 64)]
    agree_in_pixels(shapes)
    batch, first = in_pixels(shapes)
    tiles = [
        Footprint(f"chip-{i}-{j}", first.crs, (STEP, 0, 9.0 + i * 64 * STEP, 0, -STEP, 47.0 - j * 64 * STEP), 64, 64)
        for j in range(-1, 4)
        for i in range(-1, 4)
    ]
    built = build_tokens(batch, tiles, (4, 4)).tokens
    for n, shape in enumerate(shapes):
        here = [t for t in built if n in ids(t)]
        kind = shapely.get_dimensions(shape)
        total = sum(float(t.extent[ids(t).index(n)]) for t in here)
        measure = len(here) if kind == 0 else total * 64 if kind == 1 else total * 64**2
        assert measure == pytest.approx((1, shape.length, shape.area)[kind], rel=1e-6), shape


@pytest.mark.parametrize("reach", [65, 300, 5_000, 1_000_000])
def test_features_larger_than_the_tile_leave_it_their_share(reach: float) -> None:
    rng = np.random.default_rng(int(reach))
    angle = np.sort(rng.uniform(0, 2 * np.pi, 700))
    ring = 32 + np.stack((np.cos(angle), np.sin(angle)), 1) * rng.uniform(0.2, 1, 700)[:, None] * reach
    coast, road = shapely.Polygon(ring), shapely.LineString(ring)
    batch, footprint = in_pixels([coast, road, shapely.box(-reach, -reach, reach, reach)])
    tokens = build_tokens(batch, [footprint], (4, 4)).tokens[0]
    box, found = shapely.box(0, 0, 64, 64), dict(zip(ids(tokens), tokens.extent.tolist(), strict=True))
    for n, shape in enumerate((coast, road, shapely.box(-reach, -reach, reach, reach))):
        left = shapely.intersection(shape, box)
        expected = left.length / 64 if n == 1 else left.area / 64**2
        assert found.get(n, 0.0) == pytest.approx(expected, rel=1e-6, abs=1e-9)
    assert tokens.problem() is None


def test_one_feature_may_stand_in_a_batch_twice() -> None:
    """As it does where cells of one region are joined: equal in every respect, both are kept and related."""
    batch, footprint = in_pixels([shapely.box(4, 4, 20, 20)])
    tokens = build_tokens(batch.take(np.array([0, 0])), [footprint], (4, 4)).tokens[0]
    assert tokens.relation.tolist() == [Relation.EQUALS]


def test_a_batch_without_features_gives_empty_tokens_and_rasters() -> None:
    batch, footprint = in_pixels([shapely.Point(-1, -1)])
    for features in (batch, batch.take(np.zeros(0, np.int64))):
        built = build_tokens(features, [footprint, footprint], (4, 4), paint=load_rules().paint, gsd=np.ones(2))
        assert [len(t) for t in built.tokens] == [0, 0]
        assert built.rasters is not None
        assert not built.rasters.any()
        assert [t.problem() for t in built.tokens] == [None, None]


def in_utm(shapes: list[Any]) -> tuple[FeatureBatch, Footprint]:
    n, kind = len(shapes), shapely.get_dimensions(shapes).astype(np.uint8)
    batch = FeatureBatch(
        np.ones(n, np.uint8), np.arange(n), kind, np.zeros(n + 1, np.int64), np.zeros(0, np.int64),
        np.zeros(n, np.uint16), np.array(shapes, object),
    )  # fmt: skip
    return batch, Footprint("utm-a", "EPSG:32632", (10.0, 0, 500_000.0, 0, -10.0, 5_200_000.0), 256, 256)


def test_a_point_that_the_projection_cannot_map_is_nowhere() -> None:
    batch, footprint = in_utm([shapely.Point(99, 0), shapely.Point(9.001, 46.95)])
    assert ids(build_tokens(batch, [footprint]).tokens[0]) == [1]


@pytest.mark.parametrize(
    "shape", [shapely.LineString([(9.0, 46.9), (99, 0)]), shapely.Polygon([(9.0, 46.9), (9.02, 46.9), (99, 0)])]
)
def test_a_shape_that_the_projection_cannot_map_is_named(shape: Any) -> None:
    batch, footprint = in_utm([shapely.Point(9.001, 46.95), shape])
    with pytest.raises(InputError, match="way 1 reaches where EPSG:32632 has no coordinates; cut it"):
        build_tokens(batch, [footprint])
