"""Turns of the square: pictures, points, headings and tokens move together."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from geometry.clip import signed_area
from geometry.cover import patch_cover
from geometry.packed import PackedGeometry
from geometry.turn import Turn, turn_tokens
from schemas.tokens import unsnap
from tests.geometry.test_crop import POINTS, SEEDS, shapes_of, tokens_of

TURNS = [Turn(*flags) for flags in itertools.product((False, True), repeat=3)]
TURN = st.sampled_from(TURNS)


@pytest.mark.parametrize("turn", TURNS)
def test_a_pixel_goes_where_its_place_goes(turn: Turn) -> None:
    image = np.arange(16, dtype=np.uint8).reshape(1, 4, 4)
    turned = turn.image(image)
    for row, column in itertools.product(range(4), repeat=2):
        x, y = turn.points(np.array([(column + 0.5) / 4, (row + 0.5) / 4]))
        assert turned[0, int(y * 4), int(x * 4)] == image[0, row, column]


@given(TURN, st.floats(0, 359.9))
def test_a_direction_goes_where_its_arrow_goes(turn: Turn, degrees: float) -> None:
    angle = np.radians(degrees)
    start, arrow = np.array([0.5, 0.5]), 0.3 * np.array([np.sin(angle), -np.cos(angle)])
    moved = turn.points(start + arrow) - turn.points(start)
    assert turn.directions(arrow) == pytest.approx(moved, abs=1e-12)


@pytest.mark.parametrize("times", range(4))
def test_quarter_turns_are_clockwise(times: int) -> None:
    image = np.arange(9, dtype=np.uint8).reshape(3, 3)
    np.testing.assert_array_equal(Turn.quarter(times).image(image), np.rot90(image, -times))


@given(TURN, SEEDS, POINTS)
def test_turned_tokens_are_the_tokens_of_the_turned_map(
    turn: Turn, seeds: list[int], points: list[tuple[float, float]]
) -> None:
    tokens = tokens_of(shapes_of(seeds, points), (2, 5))
    turned = turn_tokens(tokens, turn)
    assert turned.problem() is None
    packed = PackedGeometry(
        turned.kind, unsnap(turned.vertices), turned.ring_offsets.astype(np.int64),
        turned.object_ring_offsets.astype(np.int64),
    )  # fmt: skip
    polygon = turned.kind == 2
    np.testing.assert_allclose(signed_area(packed)[polygon], tokens.extent[polygon], atol=2e-4)
    grid = (int(turned.patch_grid[0]), int(turned.patch_grid[1]))
    assert grid == ((5, 2) if turn.transpose else (2, 5))
    dense, found = np.zeros((2, len(turned), 10))
    rows, cells, cover = patch_cover(packed, (1, 1), grid)
    dense[rows, cells] = cover
    found[turned.patch_object, turned.patch_cell] = turned.patch_cover
    np.testing.assert_allclose(found[polygon], dense[polygon], atol=2e-3)
    assert (np.diff(turned.patch_object.astype(np.int64) * 10 + turned.patch_cell) > 0).all()


@given(TURN, SEEDS, POINTS)
def test_a_turn_and_its_inverse_change_nothing(turn: Turn, seeds: list[int], points: list[tuple[float, float]]) -> None:
    tokens = tokens_of(shapes_of(seeds, points))
    back = Turn(turn.transpose, turn.flip_y, turn.flip_x) if turn.transpose else turn
    again = turn_tokens(turn_tokens(tokens, turn), back)
    for name in ("vertices", "patch_cell", "patch_cover", "patch_object", "patch_grid"):
        np.testing.assert_array_equal(getattr(again, name), getattr(tokens, name))
    np.testing.assert_allclose(again.anchors, tokens.anchors, atol=1e-6)
