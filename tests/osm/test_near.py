"""Objects of a footprint that lies in several cells: which cells they are, and when any of its own was last edited."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import shapely

from geometry.tiles import tile_bounds
from pipeline.osm.cells.cut import MARGIN
from pipeline.osm.cells.near import blocks_of, cells_of, coastline_of, features_near, newest_edit
from pipeline.osm.stage import Cells, features_stage, vocabulary_stage
from pipeline.osm.vocabulary import CleaningConfig
from pipeline.run.ray_map import Runner
from schemas.features import ObjectType
from schemas.tokens import OsmTokens, empty_tokens
from tests.osm.opl import RULES, opl

ZOOM = 10
#: Corner where four cells meet.
LON, LAT = tile_bounds(np.array([[539, 358]]), ZOOM)[0, [0, 3]].tolist()
BLOCK = (538, 357, 539, 358)


def at(x: float, y: float) -> str:
    return f"x{LON + x:.7f} y{LAT + y:.7f}"


@pytest.fixture(scope="module")
def cells(tmp_path_factory: pytest.TempPathFactory) -> Cells:
    """Nodes 1 and 3 and way 3 in the cell of the north-west, node 2 in that of the south-east."""
    folder = tmp_path_factory.mktemp("near")
    text = f"""
    n1 v1 t2020-01-01T00:00:00Z {at(-0.1, 0.1)} Tnatural=tree
    n2 v1 t2022-01-01T00:00:00Z {at(0.1, -0.1)} Tnatural=tree
    n3 v1 t2025-01-01T00:00:00Z {at(-0.1, 0.11)} Tnatural=tree
    n8 v1 t2010-01-01T00:00:00Z {at(-0.12, 0.1)}
    n9 v1 t2010-01-01T00:00:00Z {at(-0.12, 0.11)}
    w3 v1 t2021-01-01T00:00:00Z Thighway=path Nn8,n9
    """
    return cells_of_text(folder, text)


def cells_of_text(folder: Path, text: str) -> Cells:
    folder.mkdir(exist_ok=True)
    (folder / "a.opl").write_text(opl(text))
    runner = Runner(1)
    features, _ = features_stage([folder / "a.opl"], RULES, folder, runner, True)
    return vocabulary_stage(features, RULES, CleaningConfig(1, 1), ZOOM, folder, runner, True)[0]


def tokens(*objects: tuple[ObjectType, int]) -> OsmTokens:
    own = vars(empty_tokens())
    types = np.array([t for t, _ in objects], np.uint8)
    return OsmTokens(**own | {"osm_type": types, "osm_id": np.array([i for _, i in objects], np.int64)})


@pytest.mark.parametrize(
    ("objects", "year"),
    [
        ([(ObjectType.NODE, 1)], "2020"), ([(ObjectType.WAY, 3)], "2021"),
        ([(ObjectType.NODE, 1), (ObjectType.NODE, 2)], "2022"), ([(ObjectType.NODE, 2), (ObjectType.WAY, 3)], "2022"),
        ([(ObjectType.NODE, 3)], "2025"), ([], None),
    ],
)  # fmt: skip
def test_the_last_edit_is_that_of_the_footprints_own_objects_in_whichever_cell(
    cells: Cells, objects: list[tuple[ObjectType, int]], year: str | None
) -> None:
    expected = None if year is None else f"{year}-01-01T00:00:00Z"
    assert newest_edit(cells.path, ZOOM, BLOCK, tokens(*objects)) == expected


def test_objects_of_one_number_that_lie_across_cells_come_once_each(tmp_path: Path) -> None:
    """A closed way 5 and a relation 5, both around the corner where the cells meet."""
    corners = dict(enumerate(((-1, -1), (1, -1), (1, 1), (-1, 1)), 1))
    nodes = [f"n{10 * n + k} v1 {at(x * n / 50, y * n / 50)}" for n in (1, 2) for k, (x, y) in corners.items()]
    text = "\n".join([
        *nodes, "w5 v1 Tbuilding=yes Nn11,n12,n13,n14,n11", "w6 v1 Nn21,n22,n23,n24,n21",
        "r5 v1 Ttype=multipolygon,landuse=forest Mw6@outer",
    ])  # fmt: skip
    path = cells_of_text(tmp_path, text).path
    near = features_near(path, ZOOM, BLOCK, (LON - 0.2, LAT - 0.2, LON + 0.2, LAT + 0.2))
    assert list(zip(near.osm_type.tolist(), near.osm_id.tolist(), strict=True)) == [(1, 5), (2, 5)]
    np.testing.assert_allclose(shapely.area(near.geometry), [0.04**2, 0.08**2], rtol=1e-9)


@pytest.mark.parametrize("turn", [0.6, 1.0])
@pytest.mark.parametrize("corners", [2, 3, 4, 5])
def test_an_object_across_cells_has_its_own_vertices_and_no_others(tmp_path: Path, corners: int, turn: float) -> None:
    """A road of two nodes and areas of few, around the corner where four cells meet."""
    angles = turn + np.arange(corners) * 2 * np.pi / corners
    own = np.round(np.stack((LON + 0.0028 * np.cos(angles), LAT + 0.0028 * np.sin(angles)), axis=1), 7)
    nodes = [f"n{i} v1 x{x:.7f} y{y:.7f}" for i, (x, y) in enumerate(own, 1)]
    way = ",".join(f"n{i}" for i in range(1, corners + 1))
    text = f"w1 v1 Tbuilding=yes N{way},n1" if corners > 2 else f"w1 v1 Thighway=path N{way}"
    path = cells_of_text(tmp_path, "\n".join([*nodes, text])).path
    near = features_near(path, ZOOM, BLOCK, (LON - 0.2, LAT - 0.2, LON + 0.2, LAT + 0.2))
    (shape,) = near.geometry
    found = shapely.get_coordinates(shape)
    assert len(found) == corners + (corners > 2)
    np.testing.assert_allclose(sorted(map(tuple, found[:corners])), sorted(map(tuple, own)), atol=1e-9)


def test_the_coastline_of_cells_without_one_is_that_of_the_cells_around_them(tmp_path: Path) -> None:
    """And none where these have none either; columns run on across the 180th meridian."""
    last = (1 << ZOOM) - 1
    for column in (539, last, 0):
        west, south, east, north = tile_bounds(np.array([[column, 358]]), ZOOM)[0].tolist()
        x, y = (west + east) / 2, (south + north) / 2
        text = f"n1 v1 x{x:.7f} y{y:.7f}\nn2 v1 x{x + 0.01:.7f} y{y:.7f}\nw1 v1 Tnatural=coastline Nn1,n2"
        path = cells_of_text(tmp_path / str(column), text).path
        for left, top, wide, high in itertools.product(range(-3, 3), range(-3, 3), (0, 1), (0, 1)):
            x0, y0 = column + left + (last + 1) * (column + left < 0), 358 + top
            block = (x0, y0, x0 + wide, y0 + high)
            wanted = left <= 1 and top <= 1 and left + wide >= -1 and top + high >= -1
            assert (coastline_of(path, ZOOM, block) is not None) == wanted, block


def test_objects_of_one_number_and_several_types_stay_apart(cells: Cells) -> None:
    near = features_near(cells.path, ZOOM, BLOCK, (LON - 0.2, LAT - 0.2, LON + 0.2, LAT + 0.2))
    assert sorted(zip(near.osm_type.tolist(), near.osm_id.tolist(), strict=True)) == [(0, 1), (0, 2), (0, 3), (1, 3)]


def test_boxes_at_the_edges_of_the_world_have_cells(cells: Cells) -> None:
    last = (1 << ZOOM) - 1
    boxes = [(-180.0, 84.9, -179.9, 86.0), (179.9, -86.0, 180.0, -84.9), (10.0, 88.0, 10.1, 89.0)]
    blocks = blocks_of(np.array(boxes), ZOOM)
    assert blocks.min() >= 0
    assert blocks.max() <= last
    assert (blocks[0, :2].tolist(), blocks[1, 2:].tolist(), blocks[2, [1, 3]].tolist()) == (
        [0, 0],
        [last, last],
        [0, 0],
    )
    assert all(cells_of(tuple(b), ZOOM) for b in blocks.tolist())  # type: ignore[arg-type]


def test_a_box_that_reaches_a_few_metres_over_180_has_the_cells_of_both_sides() -> None:
    """Margins end at the meridian: what lies beyond is in the first column alone."""
    last = (1 << ZOOM) - 1
    over = 360 / (1 << ZOOM) * MARGIN / 4
    boxes = np.array([(179.99, 10.0, -180 + over, 10.01), (180 - over, 10.0, -179.99, 10.01)])
    assert blocks_of(boxes, ZOOM)[:, [0, 2]].tolist() == [[last, last + 1]] * 2
    for block in blocks_of(boxes, ZOOM).tolist():
        assert {cell % (1 << ZOOM) for cell in cells_of(tuple(block), ZOOM)} == {0, last}  # type: ignore[arg-type]


@pytest.mark.parametrize(("beyond", "cells"), [(-0.3, 1), (0.4, 1), (0.6, 2), (1.5, 2)])
def test_a_box_is_in_one_cell_up_to_the_middle_of_its_margin(beyond: float, cells: int) -> None:
    west, _, east, north = tile_bounds(np.array([[539, 358]]), ZOOM)[0].tolist()
    reach = (east - west) * MARGIN * beyond
    for box in (
        (west - reach, north - 0.1, west + 0.1, north - 0.05),
        (east - 0.1, north - 0.1, east + reach, north - 0.05),
    ):
        (block,) = blocks_of(np.array([box]), ZOOM).tolist()
        assert len(cells_of(tuple(block), ZOOM)) == cells
