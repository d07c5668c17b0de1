"""Ground as quads: its tiles are those of its boxes, whatever level it is kept in, and cost what it holds."""

from __future__ import annotations

import mercantile
import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st

from geometry.tiles import tile_bounds
from pipeline.footprints.ground import Box, Ground, tiles_on
from schemas.errors import ConfigError

BOXES = st.lists(
    st.tuples(st.floats(-180, 179), st.floats(-84, 83), st.floats(0, 0.3), st.floats(0, 0.3)).map(
        lambda b: (b[0], b[1], b[0] + b[2], b[1] + b[3])
    ),
    min_size=1,
    max_size=4,
)


def tiles_of(boxes: list[Box], zoom: int) -> set[tuple[int, int]]:
    return {tuple(t) for t in tiles_on(Ground.around(boxes, zoom), None, zoom, 10**7).tolist()}


@given(BOXES, st.integers(3, 12))
def test_tiles_of_boxes_are_those_of_mercantile_each_once(boxes: list[Box], zoom: int) -> None:
    expected = {(t.x, t.y) for box in boxes for t in mercantile.tiles(*box, zooms=zoom)}
    tiles = tiles_on(Ground.around(boxes, zoom), None, zoom, 10**7)
    assert len(np.unique(tiles, axis=0)) == len(tiles)
    assert expected <= tiles_of(
        boxes, zoom
    )  # mercantile shrinks boxes by 1e-9 of a degree: an edge tile may be missing


@given(BOXES, st.integers(3, 13), st.integers(3, 12))
def test_ground_kept_in_quads_of_any_level_has_all_its_tiles_and_none_beyond_its_quads(
    boxes: list[Box], level: int, zoom: int
) -> None:
    ground = Ground.around(boxes, level)
    tiles = tiles_on(ground, None, zoom, 10**7)
    found = {tuple(t) for t in tiles.tolist()}
    assert len(found) == len(tiles) == ground.count(zoom)
    assert tiles_of(boxes, zoom) <= found
    up = min(level, zoom)
    quads = {(x >> (zoom - up), y >> (zoom - up)) for x, y in tiles_of(boxes, zoom)}
    assert {(x >> (zoom - up), y >> (zoom - up)) for x, y in found} == quads


def test_a_quad_that_lies_in_another_is_counted_once() -> None:
    quad = np.array([[3, 2, 2], [5, 9, 9], [5, 20, 1], [5, 20, 1]])
    bounds = np.concatenate([tile_bounds(q[None, 1:], int(q[0])) for q in quad])
    ground = Ground.of(quad, bounds)
    assert ground.quad.tolist() == [[3, 2, 2], [5, 20, 1]]
    tiles = tiles_on(ground, None, 6, 10**6)
    assert len(tiles) == len(np.unique(tiles, axis=0))
    assert {(x >> 3, y >> 3) for x, y in tiles.tolist()} >= {(2, 2)}


@settings(max_examples=50)
@given(
    st.floats(8, 9), st.floats(46, 47), st.floats(0.01, 0.5), st.booleans(), st.sampled_from([None, 4, 8, 10]), BOXES
)
def test_tiles_of_an_area_are_those_that_share_ground_with_it(
    west: float, south: float, size: float, hollow: bool, level: int | None, boxes: list[Box]
) -> None:
    """And, where the ground is known, those of them that meet it."""
    area = shapely.Point(west + size, south + size).buffer(size)
    area = area.difference(area.centroid.buffer(size / 2)) if hollow else area
    near = [
        (8 + (b[0] + 180) / 300, 46 + (b[1] + 84) / 160, 8.3 + (b[2] + 180) / 300, 46.1 + (b[3] + 84) / 160)
        for b in boxes
    ]
    ground = None if level is None else Ground.around(near, level)
    tiles = tiles_on(ground, area, 11, 10**6)
    found = {tuple(t) for t in tiles.tolist()}
    assert len(found) == len(tiles)
    every = tiles_on(Ground.around([area.bounds], 11) if ground is None else ground, None, 11, 10**6)
    assert found <= {tuple(t) for t in every.tolist()}
    for x, y in every.tolist():
        shared = shapely.box(*mercantile.bounds(x, y, 11)).intersection(area).area
        assert ((x, y) in found) == (shared > 0) or shared < 1e-12


@pytest.mark.parametrize("tile", [(8624, 5742, 14), (0, 0, 3), (69001, 45840, 17)])
def test_an_area_that_is_a_tile_has_none_of_those_that_it_touches(tile: tuple[int, int, int]) -> None:
    area = shapely.box(*tile_bounds(np.array([tile[:2]]), tile[2])[0])
    for ground in (None, Ground.around([area.buffer(0.001).bounds], min(10, tile[2]))):
        assert tiles_on(ground, area, tile[2], 10**6).tolist() == [list(tile[:2])]


def test_a_continent_of_tiles_is_counted_without_looking_at_each() -> None:
    area = shapely.box(-10.0, 36.0, 30.0, 60.0)
    tiles = tiles_on(None, area, 12, 10**7)
    assert {tuple(t) for t in tiles.tolist()} == tiles_of([area.bounds], 12)


def test_the_most_tiles_are_judged_by_those_that_there_are() -> None:
    """Specks in an outline of millions of tiles, some of them in quads that its edge crosses."""
    area = shapely.box(-10.0, 36.0, 30.0, 60.0)
    specks = [(x, y, x, y) for x in (-10.001, -9.3, 3.3, 29.99) for y in (36.0001, 44.4)]
    own = [tuple(mercantile.tile(x, y, 17)[:2]) for x, y, *_ in specks]
    there = {t for t in own if shapely.box(*mercantile.bounds(*t, 17)).intersection(area).area > 0}
    assert len(there) == 6
    assert {tuple(t) for t in tiles_on(Ground.around(specks, 10), area, 17, 6).tolist()} == there
    with pytest.raises(ConfigError, match=r"over plan\.max_tiles=5; lower the zoom"):
        tiles_on(Ground.around(specks, 10), area, 17, 5)


def test_ground_is_cut_to_boxes_and_goes_where_none_is() -> None:
    ground = Ground.around([(8.0, 46.0, 9.2, 48.0), (0.0, 0.0, 1.0, 1.0)], 6)
    cut = ground.cut([(9.0, 47.0, 9.5, 47.5)])
    assert cut.boxes() == [(9.0, 47.0, 9.2, 47.5)]
    assert len(ground.cut([(50.0, 47.0, 51.0, 47.5)])) == 0


def test_what_lies_far_apart_is_searched_apart() -> None:
    """Both sides of 180°, and of the world; what a few degrees part is one box."""
    near = [(177.0, -18.0, 178.0, -17.0), (179.0, -17.0, 180.0, -16.0)]
    far = [(-180.0, -17.0, -179.0, -16.0), (0.0, 0.0, 0.0, 0.0)]
    assert sorted(Ground.around([*near, *far], 10).boxes()) == [*far, (177.0, -18.0, 180.0, -16.0)]


def test_what_a_wide_box_spans_is_not_parted_by_the_small_ones_in_it() -> None:
    boxes = [(0.0, 0.0, 50.0, 1.0), (1.0, 0.0, 2.0, 1.0), (20.0, 0.0, 21.0, 1.0), (60.0, 0.0, 61.0, 1.0)]
    assert Ground(np.zeros((4, 3), np.int64), np.array(boxes)).boxes() == [boxes[0], boxes[3]]


def test_an_outline_that_crosses_itself_has_the_tiles_of_what_it_encloses() -> None:
    bow = shapely.Polygon([(8, 46), (9, 47), (9, 46), (8, 47)])
    expected = {tuple(t) for t in tiles_on(None, shapely.make_valid(bow), 12, 10**5).tolist()}
    for ground in (None, Ground.around([bow.bounds], 8)):
        found = {tuple(t) for t in tiles_on(ground, bow, 12, 10**5).tolist()}
        assert found == expected
    for x, y in expected:
        assert shapely.box(*mercantile.bounds(x, y, 12)).intersects(shapely.make_valid(bow))


def test_points_on_the_edges_of_the_map_have_their_tiles() -> None:
    edges = [(180.0, 10.0, 180.0, 10.0), (-180.0, 10.0, -180.0, 10.0), (0.0, 85.05, 0.0, 85.06)]
    for level in (10, 14):
        x, y = tiles_on(Ground.around(edges, level), None, 14, 10).T
        assert set(x.tolist()) == {0, (1 << 14) - 1, 1 << 13}
        assert 0 in y
