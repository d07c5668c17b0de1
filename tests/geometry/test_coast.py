"""The sea to the right of coastlines, against shapely: the land is known, its outline is the coastline."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import shapely
from hypothesis import given
from hypothesis import strategies as st
from rasterio.features import rasterize

from geometry.coast import Coast, coasts, fill_edges
from geometry.paint import fill
from tests.geometry.shapes import pack, random_polygon, star

W, H = 48, 48
SIZE = np.array([[W, H]])
BOX = shapely.box(0, 0, W, H)
TURNS: dict[str, tuple[Callable[[Any], Any], Callable[[np.ndarray], np.ndarray], bool]] = {
    # of the world, of the picture, whether left becomes right
    "quarter turn": (lambda xy: np.stack((H - xy[:, 1], xy[:, 0]), 1), lambda a: np.rot90(a, -1), False),
    "half turn": (lambda xy: (W, H) - xy, lambda a: np.rot90(a, 2), False),
    "mirrored": (lambda xy: xy * (-1, 1) + (W, 0), np.fliplr, True),
    "upside down": (lambda xy: xy * (1, -1) + (0, H), np.flipud, True),
}


def coastline(land: Any) -> list[Any]:
    """The outline of land with it on the left, seen with y up: rings turn clockwise by the axes of pixels."""
    rings = []
    for part in shapely.get_parts(land):
        turned = shapely.orient_polygons(part, exterior_cw=True)  # by pixel axes: the shoelace sees y down as y up
        rings += [shapely.LineString(r.coords) for r in (turned.exterior, *turned.interiors)]
    return rings


def ways_of(lines: list[Any], rng: np.random.Generator, most: int = 3) -> list[Any]:
    """Lines cut at some of their vertices into ways that go on from each other, in any order."""
    ways = []
    for line in lines:
        xy = np.asarray(line.coords)
        cuts = np.unique(rng.integers(1, max(2, len(xy) - 1), int(rng.integers(0, most))))
        ends = [0, *(int(c) for c in cuts if c < len(xy) - 1), len(xy) - 1]
        ways += [shapely.LineString(xy[a : b + 1]) for a, b in pairwise(ends)]
    return [ways[i] for i in rng.permutation(len(ways))]


def cut(lines: list[Any]) -> list[Any]:
    """What an image holds of lines."""
    found = [shapely.intersection(line, BOX) for line in lines]
    parts = [[p for p in shapely.get_parts(f) if p.geom_type == "LineString" and p.length > 0] for f in found]
    return [shapely.MultiLineString(p) for p in parts if p]


def sea_of(shapes: list[Any]) -> tuple[int, np.ndarray]:
    """State, and the sea bool[H,W]."""
    state, edges = coasts(pack(shapes), np.zeros(len(shapes), np.int64), SIZE)
    return int(state[0]), fill(fill_edges(edges, 3, 1), 1, W, H)[0] == 1


def expected(land: Any) -> np.ndarray:
    shown = land.intersection(BOX)
    if shown.is_empty or shown.area == 0:
        return np.ones((H, W), bool)
    return np.asarray(rasterize([(shown, 1)], (H, W), fill=0, dtype="uint8") == 0)


def decided(land: Any) -> np.ndarray:
    """Pixels whose centre is not on the coastline itself."""
    x, y = np.meshgrid(np.arange(W) + 0.5, np.arange(H) + 0.5)
    return np.asarray(shapely.distance(shapely.points(x, y), land.boundary) > 1e-6)


def world(seed: int) -> Any:
    """Land with lakes of the sea, in one or several parts, some of it outside of the image."""
    rng = np.random.default_rng(seed)
    if seed % 3 == 0:
        shape = random_polygon(seed, (W, H))
        return shape
    parts = [
        star(rng, tuple(rng.uniform(-20, W + 20, 2)), rng.uniform(5, 50), int(rng.integers(3, 14)))
        for _ in range(int(rng.integers(1, 5)))
    ]
    land = shapely.union_all(parts)
    if seed % 2:
        land = land.difference(star(rng, tuple(rng.uniform(0, W, 2)), 12, 6))
    return land if land.area and land.is_valid else None


@given(st.integers(0, 2**32))
def test_the_sea_is_what_the_land_leaves_whatever_ways_its_outline_is_cut_into(seed: int) -> None:
    land = world(seed)
    if land is None:
        return
    right, sure = expected(land), decided(land)
    state, sea = sea_of(cut(ways_of(coastline(land), np.random.default_rng(seed))))
    shown = right[sure]
    if shown.all() or not shown.any():  # no pixel on the other side: the coastline does not say on which these are
        assert state == Coast.NONE or (sea == right)[sure].all()
        return
    assert state == Coast.PARTS
    assert (sea == right)[sure].all()


@pytest.mark.parametrize("turn", TURNS)
@given(seed=st.integers(0, 2**32))
def test_turned_and_mirrored_worlds_have_their_sea_turned_and_mirrored(turn: str, seed: int) -> None:
    land = world(seed)
    if land is None:
        return
    move, picture, swaps = TURNS[turn]
    ways = ways_of(coastline(land), np.random.default_rng(seed))
    moved = [shapely.transform(w, move) for w in ways]
    moved = [shapely.reverse(w) for w in moved] if swaps else moved
    (before, sea), (after, turned) = sea_of(cut(ways)), sea_of(cut(moved))
    sure = decided(land)
    assert before == after
    assert (picture(sea) == turned)[picture(sure)].all()


@given(st.integers(0, 2**32))
def test_islands_that_are_polygons_are_land_like_those_that_are_lines(seed: int) -> None:
    rng = np.random.default_rng(seed)
    main = shapely.box(-10, -10, rng.uniform(5, 20), H + 10)
    island = star(rng, (rng.uniform(28, 60), rng.uniform(0, H)), 7, 7)
    if not island.intersects(BOX) or island.intersection(BOX).area < 9:
        return
    lines = cut(coastline(main))
    _, by_lines = sea_of([*lines, *cut(coastline(island))])
    state, by_polygon = sea_of([*lines, island.intersection(BOX)])
    assert state == Coast.PARTS
    assert (by_lines == by_polygon)[decided(shapely.union_all([main, island]))].all()
    assert (by_polygon == expected(shapely.union_all([main, island])))[decided(island) & decided(main)].all()


BAY = shapely.Polygon([(-9, -9), (57, -9), (57, 57), (30, 57), (30, 12), (15, 12), (15, 57), (-9, 57)])


def test_a_bay_is_sea_and_the_land_around_it_is_not() -> None:
    state, sea = sea_of(cut(coastline(BAY)))
    assert state == Coast.PARTS
    x, y = np.meshgrid(np.arange(W), np.arange(H))
    assert (sea == ((x >= 15) & (x < 30) & (y >= 12))).all()


def test_a_coastline_along_a_side_of_the_image_leaves_all_of_it_on_one_side() -> None:
    for land in (shapely.box(-9, -9, 0, 57), shapely.box(-9, 48, 57, 60), shapely.box(0, -5, 48, 60)):
        state, sea = sea_of(cut(coastline(land)))
        assert state == Coast.NONE
        assert not sea.any()


@pytest.mark.parametrize("corner", [(0, 0), (W, 0), (W, H), (0, H)])
def test_a_coastline_through_a_corner_is_whole(corner: tuple[int, int]) -> None:
    far = (W - corner[0], H - corner[1])
    for a, b in ((corner, far), (far, corner)):
        line = shapely.LineString([a, (W / 2 + 3, H / 2 - 1), b])
        state, sea = sea_of([line])
        assert state == Coast.PARTS
        other, turned = sea_of([shapely.reverse(line)])
        assert other == Coast.PARTS
        assert (sea == ~turned).all()


@given(st.integers(0, 2**32))
def test_a_coastline_with_a_piece_missing_or_turned_round_is_broken(seed: int) -> None:
    rng = np.random.default_rng(seed)
    island = star(rng, (24, 24), 20, 9)
    xy = np.asarray(coastline(island)[0].coords)
    pieces = [shapely.LineString(xy[a : b + 1]) for a, b in ((0, 3), (3, 6), (6, 9))]
    assert sea_of(pieces)[0] == Coast.PARTS
    for wrong in (pieces[1:], [shapely.reverse(pieces[0]), *pieces[1:]], [*pieces, pieces[0]]):
        state, sea = sea_of(wrong)
        assert state == Coast.BROKEN
        assert not sea.any()


def test_coastlines_that_contradict_each_other_are_broken() -> None:
    one, other = shapely.box(5, 5, 20, 20), shapely.box(25, 25, 40, 40)
    lake = [shapely.reverse(line) for line in coastline(other)]  # land around it, which the first calls sea
    assert sea_of([*coastline(one), *lake])[0] == Coast.BROKEN
    assert sea_of([*coastline(one), *coastline(other)])[0] == Coast.PARTS
    twice = coastline(one) + coastline(shapely.box(10, 10, 30, 30))  # they cross
    assert sea_of(twice)[0] == Coast.BROKEN


def test_images_of_several_sizes_have_their_own_sea() -> None:
    sizes = np.array([[W, H], [16, 8], [W, H]])
    lines = [shapely.LineString([(20, H), (20, 0)]), shapely.LineString([(4, 0), (4, 8)])]
    state, edges = coasts(pack(lines), np.array([0, 1]), sizes)
    assert state.tolist() == [Coast.PARTS, Coast.PARTS, Coast.NONE]
    sea = fill(fill_edges(edges, 0, 7), 3, W, H) == 7
    assert sea[0, :, 20:].all()
    assert not sea[0, :, :20].any()
    assert sea[1, :8, :4].all()
    assert sea[1].sum() == 32
    assert not sea[2].any()
