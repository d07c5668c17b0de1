"""What lies across 180° is the same place on a flat map as on a round earth."""

from __future__ import annotations

import numpy as np
import pytest
import shapely
from hypothesis import given
from hypothesis import strategies as st

from pipeline.meridian import eastwards, on_the_map, quadrilaterals, split_boxes, wrapped


def turned(geometry: shapely.Geometry, degrees: float) -> shapely.Geometry:
    """The same so far eastwards, each longitude within ±180°."""
    return shapely.transform(geometry, lambda xy: np.stack(((xy[:, 0] + degrees + 180) % 360 - 180, xy[:, 1]), axis=1))


@given(st.floats(-8, 8), st.floats(-60, 60), st.floats(0.5, 6), st.integers(3, 9), st.booleans())
def test_an_object_across_180_is_the_one_at_0_turned_half_around(
    lon: float, lat: float, size: float, sides: int, line: bool
) -> None:
    ring = shapely.Point(lon, lat).buffer(size, quad_segs=sides)
    shape = shapely.LineString(ring.exterior.coords) if line else ring.difference(ring.centroid.buffer(size / 3))
    found = turned(wrapped(np.array([turned(shape, 180)]))[0], 180)
    assert found.bounds == pytest.approx(shape.bounds, abs=1e-9)
    assert found.area == pytest.approx(shape.area, rel=1e-9)
    if not line:
        assert found.buffer(0).symmetric_difference(shape).area < 1e-9


@pytest.mark.parametrize(
    ("xy", "length"),
    [
        ([(179, 0), (-180, 0), (-180, 1), (179, 1), (179, 0)], 4),
        ([(-179, 0), (180, 0), (180, 1), (-179, 1), (-179, 0)], 4),
        ([(179, 0), (180, 0), (180, 1), (-179, 1)], 3),  # between two crossings
        ([(-179, 0), (-180, 0), (-180, 1), (179, 1)], 3),
        ([(179, 0), (-180, 0), (-180, 1), (-179, 1)], 3),
        ([(179, 0), (180, 0), (180, 1), (179, 1)], 3),  # that does not cross
        ([(-179, 0), (-180, 0), (-180, 1), (-179, 1)], 3),
        ([(180, 0), (180, 1)], 1),
        ([(-180, 0), (-180, 1)], 1),
    ],
)
@pytest.mark.parametrize("back", [False, True])
def test_a_stretch_along_180_is_there_once_where_points_at_180_are(
    xy: list[tuple[int, int]], length: int, back: bool
) -> None:
    (found,) = wrapped(np.array([shapely.LineString(xy[::-1] if back else xy)]))
    assert found.length == pytest.approx(length)
    assert found.intersection(shapely.LineString([(-180, 0), (-180, 1)])).length == pytest.approx(1)
    assert found.intersection(shapely.LineString([(180, 0), (180, 1)])).length == 0


def test_longitudes_that_run_on_are_the_other_side() -> None:
    shapes = [shapely.Point(200, 5), shapely.MultiPoint([(190, 1), (-200, 2)]), shapely.box(179, 0, 182, 1),
              shapely.LineString([(-182, 0), (-179, 0)]), shapely.box(370, 0, 371, 1)]  # fmt: skip
    wanted = [shapely.Point(-160, 5), shapely.MultiPoint([(-170, 1), (160, 2)]),
              shapely.MultiPolygon([shapely.box(179, 0, 180, 1), shapely.box(-180, 0, -178, 1)]),
              shapely.MultiLineString([[(178, 0), (180, 0)], [(-180, 0), (-179, 0)]]),
              shapely.box(10, 0, 11, 1)]  # fmt: skip
    for found, right in zip(wrapped(np.array(shapes)), wanted, strict=True):
        assert found.equals(right), found


def test_what_is_not_across_stays_as_it_is() -> None:
    shapes = np.array([
        shapely.box(-180, -80, 180, 80), shapely.LineString([(-180, 0), (0, 1), (180, 0)]), shapely.box(170, 1, 180, 2),
        shapely.Point(10, 10), shapely.Polygon([(-120, 80), (0, 75), (120, 80)]),
    ])  # fmt: skip
    assert all(a is b for a, b in zip(wrapped(shapes), shapes, strict=True))


@pytest.mark.parametrize("side", [1, -1])
def test_a_hole_on_the_other_side_stays_in_its_polygon(side: int) -> None:
    """Whichever side the outer ring begins on."""
    outer = [(179 * side, 0), (-179 * side, 0), (-179 * side, 1), (179 * side, 1)]
    holes = [[(-179.8, 0.2), (-179.2, 0.2), (-179.5, 0.8)], [(179.2, 0.2), (179.8, 0.2), (179.5, 0.8)]]
    (found,) = wrapped(np.array([shapely.Polygon(outer, holes)]))
    assert found.area == pytest.approx(2 - 2 * 0.18)
    assert not found.covers(shapely.Point(-179.5, 0.4))
    assert not found.covers(shapely.Point(179.5, 0.4))


def test_a_point_at_180_is_where_its_tile_begins() -> None:
    found = wrapped(shapely.points([[180, 1], [-180, 2], [179.9999999, 3]]))
    assert shapely.get_coordinates(found).tolist() == [[-180, 1], [-180, 2], [179.9999999, 3]]


def test_boxes_across_are_two_that_know_whose_they_are() -> None:
    boxes = np.array([[1.0, 0, 2, 1], [179.0, 0, -178, 1]])
    parts, owner = split_boxes(boxes)
    assert sorted(zip(owner.tolist(), map(tuple, parts.tolist()), strict=True)) == [
        (0, (1.0, 0.0, 2.0, 1.0)), (1, (-180.0, 0.0, -178.0, 1.0)), (1, (179.0, 0.0, 180.0, 1.0)),
    ]  # fmt: skip
    assert eastwards(boxes).tolist() == [[1.0, 0, 2, 1], [179.0, 0, 182, 1]]
    again, whose = on_the_map(eastwards(boxes))
    assert sorted(zip(whose.tolist(), map(tuple, again.tolist()), strict=True)) == sorted(
        zip(owner.tolist(), map(tuple, parts.tolist()), strict=True)
    )


def test_corners_across_are_an_outline_of_two_parts() -> None:
    corners = np.array([[[179.0, 1], [-179, 1], [-179, 0], [179, 0]], [[1.0, 1], [2, 1], [2, 0], [1, 0]]])
    across, plain = quadrilaterals(corners)
    assert (across.area, across.bounds) == (pytest.approx(2), (-180.0, 0.0, 180.0, 1.0))
    assert plain.equals(shapely.box(1, 0, 2, 1))


def test_what_only_touches_180_from_beyond_leaves_no_line_there() -> None:
    hook = [(179, 2), (-178, 2), (-178, 0), (180, 0), (180, 0.5), (-179, 0.5), (-179, 1), (179, 1)]
    (found,) = wrapped(np.array([shapely.Polygon(hook)]))
    assert {part.geom_type for part in shapely.get_parts(found)} == {"Polygon"}
    assert found.area == pytest.approx(3 + 1 + 0.5)
    assert found.bounds == (-180, 0, 180, 2)


def test_a_bow_tie_across_180_is_what_it_encloses() -> None:
    bow = shapely.Polygon([(-1, 0), (1.5, 2), (1.5, 0), (-1, 2)])
    (found,) = wrapped(np.array([turned(bow, 180)]))
    assert found.is_valid
    assert turned(found, 180).area == pytest.approx(shapely.make_valid(bow).area)
