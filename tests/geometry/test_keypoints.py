"""Key points of the paper and the release: shapely as the oracle."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import shapely
from hypothesis import given
from hypothesis import strategies as st

from geometry.keypoints import centroids, with_key_points
from schemas.tokens import OsmTokens, empty_tokens, snap, unsnap
from tests.geometry.shapes import pack, random_line, random_polygon

SIZE = (256, 256)


def tokens_of(shapes: list[Any]) -> OsmTokens:
    """Tokens that hold what key points are made of; shapes in normalised coordinates."""
    packed, n = pack(shapes), len(shapes)
    anchors = np.full((n, 4, 2), 0.25, np.float32)
    return replace(
        empty_tokens(), kind=packed.kind, osm_type=np.ones(n, np.uint8), osm_id=np.arange(n), anchors=anchors,
        vertices=snap(packed.vertices), ring_offsets=packed.ring_offsets.astype(np.int32),
        object_ring_offsets=packed.object_ring_offsets.astype(np.int32),
    )  # fmt: skip


def snapped(tokens: OsmTokens) -> list[Any]:
    """Polygons of one ring as the tokens hold them."""
    return [shapely.Polygon(unsnap(v)) for v in np.split(tokens.vertices, tokens.ring_offsets[1:-1])]


@given(st.integers(0, 2**32))
def test_centroids_are_shapelys(seed: int) -> None:
    shapes = [s for s in (random_polygon(seed, SIZE), random_line(seed, SIZE), shapely.Point(3, 4)) if s is not None]
    expected = np.array([shapely.centroid(s).coords[0] for s in shapes])
    assert centroids(pack(shapes)) == pytest.approx(expected, abs=1e-6)


def test_a_shape_without_area_or_length_has_a_centroid() -> None:
    shapes = [shapely.Polygon([(0, 0), (2, 0), (4, 0)]), shapely.LineString([(1, 2), (1, 2)])]
    assert centroids(pack(shapes)) == pytest.approx(np.array([[2, 0], [1, 2]]))


def test_released_lines_have_centroid_and_ends() -> None:
    line = shapely.LineString([(0.1, 0.1), (0.5, 0.1), (0.5, 0.9)])
    found = with_key_points(tokens_of([line]), "released").anchors[0]
    assert found[0] == pytest.approx(shapely.centroid(line).coords[0], abs=1e-4)
    assert shapely.Point(found[0]).distance(line) > 0.05  # off a bent line, as released
    assert np.isnan(found[3]).all()


@pytest.mark.parametrize("rule", ["released", "paper"])
def test_samples_of_a_polygon_lie_in_it_at_half_the_distance_of_its_vertices(rule: Any) -> None:
    rng = np.random.default_rng(0)
    shapes = [shapely.Point(0.5, 0.5).buffer(0.3), shapely.box(0.1, 0.2, 0.9, 0.4)]
    shapes += [shapely.convex_hull(shapely.MultiPoint(rng.uniform(0.2, 0.8, (6, 2)))) for _ in range(30)]
    tokens = tokens_of(shapes)
    polygons = snapped(tokens)
    angles = []
    for seed in range(5):
        found = with_key_points(tokens, rule, seed).anchors.astype(float)
        for shape, points in zip(polygons, found, strict=True):
            middle = np.array(shapely.centroid(shape).coords[0])
            assert points[3] == pytest.approx(middle, abs=1e-6)
            reach = np.hypot(*(np.array(shape.exterior.coords) - middle).T)
            offset = points[:3] - middle
            radius = np.hypot(*offset.T)
            assert (radius <= reach.max() / 2 + 1e-6).all()
            for point, r, arm in zip(points[:3], radius, offset, strict=True):
                assert shape.distance(shapely.Point(point)) < 1e-6
                if r < reach.min() / 2 - 1e-6:  # drawn in: the next tenth outwards would lie outside
                    assert any(
                        not shape.covers(shapely.Point(middle + arm / k * (k + 1))) for k in range(1, 10)
                    )  # fmt: skip
            angles.append(np.degrees(np.arctan2(offset[:, 1], offset[:, 0])) % 360)
    fixed = np.abs((np.array(angles) - [0, 120, 240] + 180) % 360 - 180).max() < 0.1
    assert fixed == (rule == "released")


def test_where_the_centroid_lies_outside_the_samples_stand_beside_it() -> None:
    frame = shapely.box(0.1, 0.1, 0.9, 0.9).difference(shapely.box(0.11, 0.11, 0.89, 0.89))
    found = with_key_points(tokens_of([frame]), "released").anchors[0].astype(float)
    assert np.hypot(*(found[:3] - found[3]).T) == pytest.approx([np.hypot(0.4, 0.4) / 200] * 3, abs=1e-4)


def test_samples_follow_the_seed_and_the_objects_identity() -> None:
    tokens = tokens_of([shapely.Polygon([(0.1, 0.1), (0.9, 0.2), (0.3, 0.5)])] * 2)
    first, again, other = (with_key_points(tokens, "released", seed).anchors for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.isclose(first[:, :3], other[:, :3]).all(axis=(1, 2)).any()
    assert not np.allclose(first[0], first[1])


def test_circles_are_round_in_the_unit_given() -> None:
    tokens = tokens_of([shapely.box(0.1, 0.1, 0.9, 0.9)])
    found = with_key_points(tokens, "released", 3, (4.0, 1.0)).anchors[0].astype(float)
    offset = (found[:3] - found[3]) * (4.0, 1.0)
    assert np.degrees(np.arctan2(offset[:, 1], offset[:, 0])) % 360 == pytest.approx([0, 120, 240], abs=0.05)


def test_centroids_alone_and_our_own() -> None:
    shapes = [shapely.box(0.2, 0.2, 0.4, 0.6), shapely.LineString([(0, 0), (1, 0)]), shapely.Point(0.3, 0.7)]
    tokens = tokens_of(shapes)
    found = with_key_points(tokens, "centroid").anchors
    assert found[:, 0] == pytest.approx(np.array([[0.3, 0.4], [0.5, 0], [0.3, 0.7]]), abs=1e-4)
    assert np.isnan(found[:, 1:]).all()
    assert with_key_points(tokens, "ours") is tokens
    assert len(with_key_points(empty_tokens(), "released")) == 0
