"""The town as laws: what a block holds by its kind, what keeps apart, and that a place looks the same in any window."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import shapely
from numpy.typing import NDArray

from pipeline.demo.geo import grown
from pipeline.demo.pictures import aerial, ground
from pipeline.demo.pictures.aerial import PIXEL_M, aerial_grid
from pipeline.demo.pictures.look import TOWN
from pipeline.demo.town.block import Block, Builder
from pipeline.demo.town.plan import Plan
from pipeline.demo.town.world import World

#: Fewest buildings of a block by its kind: closed rows of plots of at most 14 m along the four streets of the centre,
#: rows of houses, two columns of three slabs less one car park.
FEWEST = {"centre": 50, "plaza": 25, "residential": 15, "apartments": 5, "industrial": 2, "school": 2, "station": 10}
OPEN = {"park", "meadow", "farmland", "vineyard", "rail"}


@pytest.fixture(scope="module")
def blocks(small_plan: Plan, small_world: World) -> list[Block]:
    return [small_world.block(i, j) for i, j in small_plan.index_range()]


def outlines(block: Block) -> NDArray[np.object_]:
    return np.array([shapely.Polygon(k.ring) for k in block.buildings], object)


def test_a_block_is_built_up_as_its_kind_says(blocks: list[Block]) -> None:
    kinds = {block.kind for block in blocks}
    assert kinds > FEWEST.keys()
    for block in blocks:
        assert len(block.buildings) >= FEWEST.get(block.kind, 0), block.kind
        assert not (block.kind in OPEN and block.buildings), block.kind
        assert all(shapely.is_valid(outlines(block)))


def test_buildings_stand_in_their_block_and_on_no_other(blocks: list[Block], small_plan: Plan) -> None:
    for block in blocks:
        own = outlines(block)
        if not len(own):
            continue
        tree = shapely.STRtree(own)
        a, b = tree.query(own, predicate="intersects")
        shared = shapely.area(shapely.intersection(own[a[a < b]], own[b[a < b]]))
        assert shared.max(initial=0.0) < 0.5, block.kind
        west, south, east, north = block.bounds
        assert shapely.covers(shapely.box(west, south, east, north), shapely.multipolygons(own))


def test_trees_and_cars_stand_apart(blocks: list[Block]) -> None:
    for block in blocks:
        for places, least in ((block.trees[:, :2], 0.5), (block.cars[:, :2], 1.0)):
            if len(places) < 2:
                continue
            points = shapely.points(places)
            a, b = shapely.STRtree(points).query(points, predicate="dwithin", distance=least)
            assert len(set(a[a != b].tolist())) <= 0.1 * len(points) + 2, (block.kind, block.i, block.j)


def test_what_is_mapped_of_a_block_lies_in_it_or_beside_it(blocks: list[Block], small_plan: Plan) -> None:
    for block in blocks:
        ground = shapely.Polygon(Builder(small_plan, block.i, block.j).ring).buffer(60.0)
        nodes = np.array(block.node_xy).reshape(-1, 2)
        surfaces = [place for surface in block.surfaces for ring in surface.rings for place in ring]
        for places in (nodes, block.trees[:, :2], block.cars[:, :2], np.array(surfaces).reshape(-1, 2)):
            assert shapely.contains_xy(ground, *places.T).all(), (block.kind, block.i, block.j)


def test_a_town_has_one_main_road_and_one_that_crosses_it(small_plan: Plan) -> None:
    """Each of them a single line of the lattice, all the way through."""
    kinds = [
        (small_plan.street(axis, i, j), axis, (j, i)[axis]) for i, j in small_plan.index_range() for axis in (0, 1)
    ]
    for kind, axis in (("primary", 1), ("secondary", 0)):
        assert {own[1] for own in kinds if own[0] == kind} == {axis}
        assert len({own for own in kinds if own[0] == kind}) == 1


WINDOWS = [(300, 300, 64, 32), (150, 500, 40, 72), (620, 210, 96, 24)]


@pytest.mark.parametrize(("column", "row", "right", "down"), WINDOWS)
def test_a_place_looks_the_same_in_whichever_window_it_is_drawn(
    small_world: World, column: int, row: int, right: int, down: int
) -> None:
    """Ground, roofs, cars and shadows, before the camera's noise; the windows overlap."""
    left, top, _, _ = aerial_grid(small_world.plan)
    side = 224

    def drawn(c: int, r: int) -> Iterator[NDArray[np.float32]]:
        west, north = left + c * PIXEL_M, top - r * PIXEL_M
        bounds = (west, north - side * PIXEL_M, west + side * PIXEL_M, north)
        near = small_world.blocks_in(grown(bounds, ground.SHADOW_REACH_M))
        yield from aerial._scene(near, bounds, PIXEL_M, (c, r), small_world.plan.seed, TOWN)

    for one, other in zip(drawn(column, row), drawn(column + right, row + down), strict=True):
        np.testing.assert_allclose(one[..., down:, right:], other[..., :-down, :-right], atol=0.5)
        assert one.std() > 0.02
