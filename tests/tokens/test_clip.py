"""Clipping against one plain intersection a footprint and feature."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.tokens.clip import clip
from pipeline.tokens.pack import assemble, outlines, pack
from schemas.footprint import Footprint

SQUARE = shapely.box(0, 0, 64, 64)
KIND = {"LineString": 1, "MultiLineString": 1, "Polygon": 2, "MultiPolygon": 2}


def tiles(count: int = 3, step: tuple[float, float] = (1.0, -1.0), turn: float = 0.0) -> list[Footprint]:
    """A block of footprints of 64 px, turned about its first corner by ``turn`` degrees; ``step`` in metres a pixel."""
    cos, sin = np.cos(np.radians(turn)) if turn else 1.0, np.sin(np.radians(turn)) if turn else 0.0
    a, b, d, e = cos * step[0], -sin * step[1], sin * step[0], cos * step[1]
    return [
        Footprint(f"chip-{i}-{j}", "EPSG:3857", (a, b, 64 * (a * i + b * j), d, e, 64 * (d * i + e * j)), 64, 64)
        for j in range(count)
        for i in range(count)
    ]


def shapes_of(seed: int) -> list[Any]:
    """Long coasts with islands, bays and lakes, and long roads, over a block of 192 px, y down."""
    rng = np.random.default_rng(seed)

    def ring(centre: Any, reach: float, count: int) -> np.ndarray:
        angle = (np.arange(count) + rng.uniform(0, 0.9, count)) * (2 * np.pi / count)
        radius = reach * rng.uniform(0.5, 1, count)
        return np.asarray(centre) + np.stack((np.cos(angle), np.sin(angle)), axis=1) * radius[:, None]

    coast = shapely.Polygon(ring((128, 128), 400, 700))
    lakes = [shapely.Polygon(ring(rng.uniform(0, 256, 2), 40, int(rng.integers(5, 200)))) for _ in range(6)]
    ponds = [shapely.Polygon(ring(rng.uniform(0, 192, 2), 12, 80)) for _ in range(8)]
    walk = np.cumsum(rng.normal(0, 12, (300, 2)), axis=0)
    river = shapely.LineString(walk - walk[rng.integers(0, 300)] + 96).buffer(4, quad_segs=1)
    islands = [shapely.Polygon(ring(rng.uniform(-200, 500, 2), 60, int(rng.integers(5, 200)))) for _ in range(6)]
    land = coast.difference(shapely.union_all(lakes)).union(shapely.union_all(islands))
    roads, walks = [], [(9, 9), (900, 9), *[(80, 20)] * 5]
    for count, step in walks:
        xy = rng.uniform(0, 192, 2) + np.cumsum(rng.normal(0, step, (count, 2)), axis=0)
        roads.append(shapely.LineString(xy))
    routes = shapely.MultiLineString(roads[2:])
    return [*roads[:2], routes, land, shapely.MultiPolygon(islands).buffer(0), river, *ponds]


def clipped(shapes: list[Any], footprints: list[Footprint]) -> dict[tuple[int, int], Any]:
    """(tile, feature) -> shape in pixels; shapes are given in the footprints' CRS."""
    kind = np.array([KIND[s.geom_type] for s in shapes], np.uint8)
    found = clip(np.array(shapes, object), kind, footprints, False)
    assert (np.diff(found.tile * len(shapes) + found.feature) > 0).all()
    return {(int(t), int(f)): g for t, f, g in zip(found.tile, found.feature, found.geometry, strict=True)}


def in_crs(shapes: list[Any], first: Footprint) -> list[Any]:
    """Shapes in pixels of the first footprint, moved to its CRS."""
    return [shapely.transform(s, first.pixel_to_crs) for s in shapes]


@settings(max_examples=25)
@given(
    st.integers(0, 2**32),
    st.sampled_from([(1.0, -1.0), (1.0, 1.0), (0.5, -2.0)]),
    st.sampled_from([0.0, 0.0, 30.0, 170.0]),
)
def test_every_share_is_the_intersection_of_the_whole_to_the_last_byte(
    seed: int, step: tuple[float, float], turn: float
) -> None:
    footprints = tiles(step=step, turn=turn)
    shapes = in_crs(shapes_of(seed), footprints[0])
    found = clipped(shapes, footprints)
    for n, footprint in enumerate(footprints):
        for m, shape in enumerate(shapes):
            moved = shapely.transform(shape, footprint.crs_to_pixel)
            whole = moved if SQUARE.covers(moved) else shapely.intersection(moved, SQUARE)
            parts = [p for p in shapely.get_parts(whole) if KIND.get(p.geom_type) == KIND[shape.geom_type]]
            if (n, m) not in found:
                assert sum(p.area if KIND[shape.geom_type] == 2 else p.length for p in parts) < 1e-5
            elif len(parts) == shapely.get_num_geometries(whole):
                assert found[n, m].wkb == whole.wkb
            else:  # what merely touches the side is no part of it
                assert found[n, m].equals(shapely.union_all(parts))


@pytest.mark.parametrize(("seed", "turn"), [(26, 30.0), (27, 170.0), (5, 0.0)])
def test_winding_rivers_keep_their_inside_in_turned_footprints(seed: int, turn: float) -> None:
    """What is left of a ring crosses itself elsewhere: taken by that, two of these would turn inside out."""
    rng, rivers = np.random.default_rng(seed), []
    for _ in range(12):
        walk = np.cumsum(rng.normal(0, 12, (300, 2)), axis=0)
        rivers.append(shapely.LineString(walk - walk[rng.integers(0, 300)] + 96).buffer(4, quad_segs=1))
    footprints = tiles(turn=turn)
    shapes = in_crs(rivers, footprints[0])
    for (n, m), shape in clipped(shapes, footprints).items():
        moved = shapely.transform(shapes[m], footprints[n].crs_to_pixel)
        assert shape.area == pytest.approx(shapely.intersection(moved, SQUARE).area, rel=1e-9)


def refused() -> list[Any]:
    """Self-crossing polygons that GEOS does not intersect."""
    rng, result = np.random.default_rng(1), []
    while len(result) < 3:
        shape = shapely.Polygon(np.round(rng.uniform(-60, 120, (60, 2)), 1))
        try:
            shapely.intersection(shape, SQUARE)
        except shapely.errors.GEOSException:
            result.append(shape)
    return result


def test_a_shape_that_geos_refuses_is_repaired_and_touches_no_other() -> None:
    first = tiles(1)
    bad, good = refused(), shapes_of(3)
    with_bad, alone = clipped(in_crs([*good, *bad], first[0]), first), clipped(in_crs(good, first[0]), first)
    for n in range(len(good)):
        assert ((0, n) in alone) == ((0, n) in with_bad)
        assert (0, n) not in alone or alone[0, n].wkb == with_bad[0, n].wkb
    for n, shape in enumerate(bad, len(good)):
        repaired = shapely.intersection(shapely.make_valid(shape, method="structure", keep_collapsed=False), SQUARE)
        assert with_bad[0, n].area == pytest.approx(repaired.area, rel=1e-9)


@settings(max_examples=30)
@given(st.integers(0, 2**32))
def test_outlines_assemble_to_the_shapes_they_were(seed: int) -> None:
    shapes = np.array(shapes_of(seed), object)
    kind = np.array([KIND[s.geom_type] for s in shapes], np.uint8)
    every = outlines(shapes, kind)
    row = np.repeat(np.arange(len(shapes)), np.diff(every.feature_offsets))
    built = assemble(every.vertices, every.offsets, row, every.shell, every.ring, len(shapes) + 1)
    assert built[-1] is None
    for shape, again in zip(shapes, built[:-1], strict=True):
        single = shape.geoms[0] if shapely.get_num_geometries(shape) == 1 and hasattr(shape, "geoms") else shape
        assert again.wkb == single.wkb


def test_packed_rings_are_open_and_turn_by_their_role() -> None:
    shapes = np.array(
        [shapely.box(0, 0, 9, 9).difference(shapely.box(2, 2, 4, 4)), shapely.box(20, 0, 30, 9, ccw=False)]
    )
    packed = pack(shapes, np.array([2, 2], np.uint8))
    assert np.diff(packed.object_ring_offsets).tolist() == [2, 1]
    signed = []
    for a, b in zip(packed.ring_offsets[:-1], packed.ring_offsets[1:], strict=True):
        x, y = packed.vertices[a:b].T
        assert len(x) == 4
        signed.append(float(np.sum(x * np.roll(y, -1) - y * np.roll(x, -1)) / 2))
    assert signed == [-81, 4, -90]  # y down: counter-clockwise seen with y up is negative
