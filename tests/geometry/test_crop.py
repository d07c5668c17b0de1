"""Crops: tokens of a window are the tokens that the window's own footprint would have."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest
import shapely
from hypothesis import given
from hypothesis import strategies as st

from geometry.anchors import anchors
from geometry.clip import line_length, signed_area
from geometry.cover import patch_cover
from geometry.crop import Window, crop_each
from geometry.tokens import summaries, take_objects
from schemas.relations import Relation
from schemas.tokens import FIELDS, OsmTokens, empty_tokens, snap
from tests.geometry.shapes import pack, random_line, random_polygon

WINDOW = st.tuples(st.floats(0, 0.6), st.floats(0, 0.6), st.floats(0.2, 0.4), st.floats(0.2, 0.4)).map(
    lambda w: (w[0], w[1], w[0] + w[2], w[1] + w[3])
)
SEEDS = st.lists(st.integers(0, 10**9), max_size=5)


def crop_tokens(
    tokens: OsmTokens, window: Window, size: tuple[float, float] = (1.0, 1.0), grid: tuple[int, int] | None = None,
    seed: int = 0,
) -> OsmTokens:  # fmt: skip
    """Of one footprint."""
    return crop_each([tokens], [window], [size], grid, [seed])[0]


def tokens_of(shapes: list[Any], grid: tuple[int, int] = (4, 4)) -> OsmTokens:
    """Tokens of shapes in the unit square, sorted by kind; tag n on object n; a relation between neighbours."""
    shapes = sorted(shapes, key=shapely.get_dimensions)
    packed = pack(shapes)
    n = len(shapes)
    offsets, ids = np.arange(n + 1), np.arange(n, dtype=np.int64) * 7
    extent = np.where(packed.kind == 2, signed_area(packed), line_length(packed))
    patch_object, patch_cell, cover = patch_cover(packed, (1, 1), grid)
    tokens = replace(
        empty_tokens(grid),
        kind=packed.kind, osm_type=np.ones(n, np.uint8), osm_id=np.arange(n), tag_offsets=offsets.astype(np.int32),
        tag_ids=ids, anchors=anchors(packed, np.arange(n, dtype=np.uint64)).astype(np.float32),
        extent=extent.astype(np.float32), vertices=snap(packed.vertices),
        ring_offsets=packed.ring_offsets.astype(np.int32),
        object_ring_offsets=packed.object_ring_offsets.astype(np.int32),
        edges=np.stack((np.arange(n - 1), np.arange(1, n))).astype(np.int32) if n > 1 else np.zeros((2, 0), np.int32),
        relation=np.full(max(0, n - 1), Relation.TOUCHES, np.uint8), patch_cell=patch_cell.astype(np.uint16),
        patch_object=patch_object.astype(np.int32), patch_cover=cover.astype(np.float32),
    )  # fmt: skip
    return replace(tokens, **{name: only for name, (only,) in summaries(tokens, np.array([n])).items()})


def shapes_of(seeds: list[int], points: list[tuple[float, float]]) -> list[Any]:
    made = [random_polygon(s, (24, 24)) for s in seeds] + [random_line(s, (24, 24)) for s in seeds]
    scaled = [shapely.transform(s, lambda xy: xy / 24) for s in made if s is not None]
    return scaled + [shapely.Point(p) for p in points]


POINTS = st.lists(st.tuples(st.floats(0, 0.999), st.floats(0, 0.999)), max_size=3)


@given(SEEDS, POINTS, WINDOW)
def test_a_crop_holds_what_meets_the_window_with_its_share(
    seeds: list[int], points: list[tuple[float, float]], window: tuple[float, float, float, float]
) -> None:
    shapes = sorted(shapes_of(seeds, points), key=shapely.get_dimensions)
    tokens = tokens_of(shapes)
    cropped = crop_tokens(tokens, window)
    assert cropped.problem() is None
    width, height = window[2] - window[0], window[3] - window[1]
    box = shapely.box(*window)
    found = dict(zip(cropped.osm_id.tolist(), cropped.extent.tolist(), strict=True))
    for n, shape in enumerate(shapes):
        inside = shape.intersection(box)
        if shape.geom_type == "Point":
            continue
        if "Polygon" in shape.geom_type:
            expected, slack = inside.area / (width * height), 4e-4 * (1 + shape.length)
        else:
            flat = shapely.transform(inside, lambda xy: (xy - window[:2]) / (width, height))
            expected, slack = flat.length, 1e-3
            if not inside.is_empty and (flat.bounds[0] > 1 - 1e-3 or flat.bounds[1] > 1 - 1e-3):
                continue  # along a side that is the neighbour's
            if flat.length and min(abs(v - round(v)) for v in flat.bounds) < 1e-3 and shape.length > 0:
                continue  # along a side: a step of the snapped vertices decides
        assert found.get(n, 0.0) == pytest.approx(expected, abs=slack)


@given(SEEDS, POINTS, WINDOW)
def test_relations_between_survivors_stay_and_all_else_goes(
    seeds: list[int], points: list[tuple[float, float]], window: tuple[float, float, float, float]
) -> None:
    tokens = tokens_of(shapes_of(seeds, points))
    cropped = crop_tokens(tokens, window)
    left = set(cropped.osm_id.tolist())
    expected = [(a, b) for a, b in tokens.edges.T.tolist() if a in left and b in left]
    assert [(int(cropped.osm_id[a]), int(cropped.osm_id[b])) for a, b in cropped.edges.T] == expected
    assert cropped.tag_ids.tolist() == [7 * i for i in cropped.osm_id.tolist()]
    assert cropped.region_tag_id.tolist() == sorted(cropped.tag_ids.tolist())


@given(st.lists(st.tuples(SEEDS, POINTS, WINDOW, st.integers(2, 5)), max_size=5), st.booleans())
def test_footprints_cropped_together_are_those_cropped_alone(
    drawn: list[tuple[list[int], list[tuple[float, float]], tuple[float, float, float, float], int]], one_grid: bool
) -> None:
    parts = [tokens_of(shapes_of(s, p), (4, 4) if one_grid else (g, 4)) for s, p, _, g in drawn]
    windows = [w for *_, w, _ in drawn]
    sizes = [(float(g), 3.0) for *_, g in drawn]
    together = crop_each(parts, windows, sizes, None, [g * 7 for *_, g in drawn])
    for n, found in enumerate(together):
        alone = crop_tokens(parts[n], windows[n], sizes[n], None, drawn[n][3] * 7)
        for field in fields(OsmTokens):
            a, b = getattr(alone, field.name), getattr(found, field.name)
            assert a.dtype == b.dtype
            np.testing.assert_array_equal(a, b, err_msg=field.name)


@given(SEEDS, POINTS)
def test_the_whole_footprint_cropped_is_itself(seeds: list[int], points: list[tuple[float, float]]) -> None:
    tokens = tokens_of(shapes_of(seeds, points))
    cropped = crop_tokens(tokens, (0.0, 0.0, 1.0, 1.0))
    for name in ("kind", "osm_id", "tag_ids", "vertices", "ring_offsets", "object_ring_offsets", "edges", "relation"):
        np.testing.assert_array_equal(getattr(cropped, name), getattr(tokens, name), err_msg=name)
    np.testing.assert_allclose(cropped.extent, tokens.extent, atol=1e-3)


@given(st.lists(st.integers(0, 10**9), min_size=1, max_size=4), WINDOW)
def test_graph_and_picture_agree_after_a_crop(seeds: list[int], window: tuple[float, float, float, float]) -> None:
    """Painted from the cropped tokens, or painted whole and then cropped: edges lie within 1/16 of a pixel."""
    shapes = [s for s in shapes_of(seeds, []) if "Polygon" in s.geom_type]
    cropped = crop_tokens(tokens_of(shapes), window, (64, 64))
    for n, osm_id in enumerate(cropped.osm_id.tolist()):
        rings = range(cropped.object_ring_offsets[n], cropped.object_ring_offsets[n + 1])
        ours = shapely.Polygon()
        for r in rings:
            xy = cropped.vertices[cropped.ring_offsets[r] : cropped.ring_offsets[r + 1]] / 65535 * 64
            if len(xy) > 2:
                ours = ours.symmetric_difference(shapely.make_valid(shapely.Polygon(xy)))
        width, height = window[2] - window[0], window[3] - window[1]
        own = sorted(shapes, key=shapely.get_dimensions)[osm_id].intersection(shapely.box(*window))
        theirs = shapely.transform(own, lambda xy: (xy - window[:2]) / (width, height) * 64)
        if ours.is_empty or theirs.is_empty:
            assert max(ours.area, theirs.area) < 0.1
            continue
        assert ours.difference(theirs.buffer(1 / 16)).area < 1e-9
        assert theirs.difference(ours.buffer(1 / 16)).area < 1e-9


@given(SEEDS, POINTS, WINDOW)
def test_anchors_lie_in_their_objects_and_cover_sums_to_the_extent(
    seeds: list[int], points: list[tuple[float, float]], window: tuple[float, float, float, float]
) -> None:
    cropped = crop_tokens(tokens_of(shapes_of(seeds, points)), window, (100, 60))
    total = np.bincount(cropped.patch_object, cropped.patch_cover, len(cropped)) / 16
    polygon = cropped.kind == 2
    np.testing.assert_allclose(total[polygon], cropped.extent[polygon], atol=1e-5)
    used = cropped.anchors[~np.isnan(cropped.anchors)]
    assert used.size == 0 or (used.min() >= -1e-6 and used.max() <= 1 + 1e-6)
    assert not np.isnan(cropped.anchors[:, 0]).any()


def test_an_empty_footprint_stays_empty() -> None:
    cropped = crop_tokens(tokens_of([]), (0.1, 0.1, 0.5, 0.5), grid=(7, 7))
    assert len(cropped) == 0
    assert cropped.patch_grid.tolist() == [7, 7]


@given(SEEDS, POINTS, st.data())
def test_chosen_objects_are_those_objects_unchanged(
    seeds: list[int], points: list[tuple[float, float]], data: st.DataObject
) -> None:
    tokens = tokens_of(shapes_of(seeds, points))
    keep = data.draw(st.lists(st.booleans(), min_size=len(tokens), max_size=len(tokens)))
    chosen = np.flatnonzero(np.array(keep, bool))
    taken = take_objects(tokens, chosen)
    assert taken.problem() is None
    assert taken.osm_id.tolist() == tokens.osm_id[chosen].tolist()
    np.testing.assert_array_equal(taken.anchors, tokens.anchors[chosen])
    for n, old in enumerate(chosen):
        own, before = ((t.patch_object == i) for t, i in ((taken, n), (tokens, old)))
        np.testing.assert_array_equal(taken.patch_cover[own], tokens.patch_cover[before])
        rings = [
            t.ring_offsets[t.object_ring_offsets[i] : t.object_ring_offsets[i + 1] + 1]
            for t, i in ((taken, n), (tokens, old))
        ]
        np.testing.assert_array_equal(
            taken.vertices[rings[0][0] : rings[0][-1]], tokens.vertices[rings[1][0] : rings[1][-1]]
        )
    pairs = {(int(tokens.osm_id[a]), int(tokens.osm_id[b])) for a, b in tokens.edges.T}
    left = set(taken.osm_id.tolist())
    assert {(int(taken.osm_id[a]), int(taken.osm_id[b])) for a, b in taken.edges.T} == {
        p for p in pairs if set(p) <= left
    }
    assert taken.region_tag_id.tolist() == sorted(taken.tag_ids.tolist())


@given(SEEDS, POINTS)
def test_patches_that_were_not_stored_are_made_again_by_a_crop_of_the_whole(
    seeds: list[int], points: list[tuple[float, float]]
) -> None:
    tokens = crop_tokens(tokens_of(shapes_of(seeds, points)), (0.0, 0.0, 1.0, 1.0))
    bare = OsmTokens.from_bytes(tokens.to_bytes(), ("objects", "relations", "region"))
    assert not bare.patch_grid.any()
    again = crop_tokens(bare, (0.0, 0.0, 1.0, 1.0), grid=(4, 4))
    for name in ("patch_grid", "patch_cell", "patch_object"):
        np.testing.assert_array_equal(getattr(again, name), getattr(tokens, name))
    np.testing.assert_allclose(again.patch_cover, tokens.patch_cover, atol=1e-6)


@given(SEEDS, POINTS, WINDOW)
def test_a_crop_makes_no_granularity_that_the_tokens_lack(
    seeds: list[int], points: list[tuple[float, float]], window: tuple[float, float, float, float]
) -> None:
    tokens = tokens_of(shapes_of(seeds, points))
    whole, bare = crop_tokens(tokens, window), crop_tokens(OsmTokens.from_bytes(tokens.to_bytes(), ()), window)
    for name, f in FIELDS.items():
        if f.granularity == "objects":
            np.testing.assert_array_equal(getattr(bare, name), getattr(whole, name))
        else:
            assert not getattr(bare, name).any()
            assert name == "patch_grid" or not getattr(bare, name).size


def test_lengths_and_areas_of_a_crop_do_not_depend_on_the_unit_of_its_size() -> None:
    tokens = tokens_of([shapely.LineString([(0.1, 0.2), (0.9, 0.2)]), shapely.box(0.3, 0.3, 0.6, 0.8)])
    one, pixels = (crop_tokens(tokens, (0.0, 0.0, 1.0, 1.0), size) for size in ((1.0, 1.0), (256.0, 256.0)))
    np.testing.assert_allclose(one.extent, [0.8, 0.15], atol=1e-4)
    np.testing.assert_allclose(pixels.extent, one.extent, rtol=1e-5)
