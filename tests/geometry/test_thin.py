"""Thinned outlines: fewer vertices, the same inside the box."""

from __future__ import annotations

from typing import Any

import numpy as np
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st

from geometry.thin import MIN_VERTICES, Outlines, outer_sides, thin

BOX = (0.0, 0.0, 10.0, 10.0)


def outlines(shapes: list[list[Any]]) -> Outlines:
    """Each shape a list of parts: LineStrings, or Polygons."""
    xy: list[np.ndarray] = []
    shell: list[int] = []
    ring: list[bool] = []
    feature_offsets = [0]
    for parts in shapes:
        for part in parts:
            begin = len(xy)
            lines = [part.exterior, *part.interiors] if part.geom_type == "Polygon" else [part]
            xy += [np.asarray(line.coords) for line in lines]
            shell += [begin] * len(lines)
            ring += [part.geom_type == "Polygon"] * len(lines)
        feature_offsets.append(len(xy))
    offsets = np.cumsum([0] + [len(r) for r in xy])
    return Outlines(np.concatenate(xy), offsets, np.array(shell), np.array(ring), np.array(feature_offsets))


def left_of(shapes: list[list[Any]], feature: list[int], boxes: list[tuple[float, ...]]) -> list[dict[int, np.ndarray]]:
    """Per request: vertices that are left of each outline."""
    every = outlines(shapes)
    found = thin(every, np.array(feature), np.array(boxes, float))
    result: list[dict[int, np.ndarray]] = [{} for _ in feature]
    for n, (outline, request) in enumerate(zip(found.outline.tolist(), found.request.tolist(), strict=True)):
        result[request][outline] = every.vertices[found.vertex[found.offsets[n] : found.offsets[n + 1]]]
    return result


def wiggle(seed: int, count: int, reach: float, closed: bool) -> Any:
    """A long outline that passes the box: a star, the banks of a winding river, or a walk that may cross itself."""
    rng = np.random.default_rng(seed)
    if closed and seed % 2:
        angle = (np.arange(count) + rng.uniform(0, 0.9, count)) * (2 * np.pi / count)
        radius = reach * (0.15 + 0.85 * rng.random(count) ** rng.integers(1, 4))
        return shapely.Polygon(
            np.stack((np.cos(angle), np.sin(angle)), axis=1) * radius[:, None] + rng.uniform(0, 10, 2)
        )
    walk = np.cumsum(rng.normal(0, reach / count**0.5, (count // 3 if closed else count, 2)), axis=0)
    walk += rng.uniform(0, 10, 2) - walk[rng.integers(0, len(walk))]
    if closed:
        banks = shapely.LineString(walk).buffer(reach / count**0.5 / 4, quad_segs=1)
        return shapely.Polygon(np.roll(np.asarray(banks.exterior.coords)[:-1], int(rng.integers(0, count)), axis=0))
    return shapely.LineString(walk)


LONG = st.tuples(
    st.integers(0, 2**32), st.integers(2 * MIN_VERTICES, 900), st.sampled_from([20.0, 60.0, 300.0, 2000.0])
)


@settings(max_examples=200)
@given(LONG, st.booleans())
def test_an_overlay_with_the_box_gives_the_same_bytes(long: tuple[int, int, float], closed: bool) -> None:
    """Vertices, their order and the ring's first one included."""
    shape = wiggle(*long, closed)
    left = left_of([[shape]], [0], [BOX])[0]
    expected = shapely.intersection(shape, shapely.box(*BOX))
    if not left:
        assert expected.is_empty
        return
    thinned = shapely.Polygon(left[0]) if closed else shapely.LineString(left[0])
    found = shapely.intersection(thinned, shapely.box(*BOX))
    assert (found.is_empty and expected.is_empty) or found.wkb == expected.wkb


@given(LONG, st.booleans())
def test_every_segment_that_meets_the_box_is_kept_and_vertices_keep_their_order(
    long: tuple[int, int, float], closed: bool
) -> None:
    shape = wiggle(*long, closed)
    xy = np.asarray(shape.exterior.coords if closed else shape.coords)
    kept = left_of([[shape]], [0], [BOX])[0].get(0, np.zeros((0, 2)))
    pairs = {(*a, *b) for a, b in zip(kept[:-1].tolist(), kept[1:].tolist(), strict=True)}
    for a, b in zip(xy[:-1].tolist(), xy[1:].tolist(), strict=True):
        if shapely.LineString([a, b]).intersects(shapely.box(*BOX)):
            assert (*a, *b) in pairs
    place = {tuple(p): n for n, p in reversed(list(enumerate(xy.tolist())))}
    order = [place[tuple(p)] for p in kept.tolist()]
    assert order[:-1] == sorted(order[:-1])
    if len(kept):
        assert tuple(kept[0]) == tuple(xy[0])
        assert tuple(kept[-1]) == tuple(xy[-1])


@given(LONG)
def test_a_ring_keeps_its_direction_and_encloses_every_place_of_the_box_as_before(long: tuple[int, int, float]) -> None:
    shape = wiggle(*long, True)
    for ring in (shape.exterior, shape.exterior.reverse()):
        left = left_of([[shapely.Polygon(ring)]], [0], [BOX])[0]
        if left:
            assert shapely.is_ccw(shapely.LinearRing(left[0])) == shapely.is_ccw(ring)
            assert len(left[0]) >= 4


def test_a_long_coast_costs_a_box_little() -> None:
    angle = np.linspace(0, 2 * np.pi, 40_001)
    coast = shapely.Polygon(np.stack((np.cos(angle), np.sin(angle)), axis=1) * 50_000 + (50_000, 0))
    assert len(left_of([[coast]], [0], [BOX])[0][0]) < 2_500
    # The extremes say which way it turns; far from it nothing is left.
    assert left_of([[coast]], [0], [(-90.0, 0.0, -80.0, 10.0)])[0] == {}


def test_parts_and_holes_elsewhere_are_left_out_and_short_outlines_kept_whole() -> None:
    holes = [shapely.box(1, 1, 2, 2).exterior, shapely.box(250, 250, 260, 260).exterior]
    near = shapely.Polygon(shapely.box(-50, -50, 300, 300).exterior, holes)
    far = shapely.Polygon(shapely.box(900, 0, 999, 99).exterior, [shapely.box(910, 10, 920, 20).exterior])
    left = left_of([[far, near], [shapely.LineString([(5, 5), (6, 6)])]], [0, 1, 0], [BOX, BOX, (910, 0, 950, 50)])
    assert sorted(left[0]) == [2, 3]
    assert len(left[0][2]) == 5
    assert sorted(left[1]) == [5]
    assert sorted(left[2]) == [0, 1]


def test_a_box_without_bounds_keeps_everything() -> None:
    shape = wiggle(5, 500, 9000.0, True)
    everywhere = (-np.inf, -np.inf, np.inf, np.inf)
    left = left_of([[shape]], [0, 0], [everywhere, BOX])
    assert np.array_equal(left[0][0], np.asarray(shape.exterior.coords))
    assert len(left[1][0]) < len(left[0][0])


@given(st.lists(st.tuples(*[st.sampled_from([-1.0, 0.0, 5.0, 10.0, 11.0])] * 2), min_size=2, max_size=20))
def test_the_ends_of_a_segment_share_an_outer_side_if_its_bounds_miss_the_box(
    places: list[tuple[float, float]],
) -> None:
    xy = np.array(places)
    sides = outer_sides(xy[:, 0], xy[:, 1], BOX)
    for n in range(len(xy) - 1):
        low, high = xy[n : n + 2].min(axis=0), xy[n : n + 2].max(axis=0)
        meets = (low <= 10).all() and (high >= 0).all()
        assert bool(sides[n] & sides[n + 1]) != meets
