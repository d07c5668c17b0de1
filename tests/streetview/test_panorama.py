"""Views of a panorama against the scene itself: a function of direction, drawn as a panorama and through a pinhole."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from pipeline.streetview.pictures.panorama import View, cut_view, rays, reduction, views_around

WHOLE = (0.0, 0.0, 1.0, 1.0)
Floats = NDArray[np.float64]


def scene(direction: Floats) -> Floats:
    """A smooth picture f64[...,3] of the world around, in 0..255, from unit vectors east, north, up [...,3]."""
    e, n, u = np.moveaxis(direction, -1, 0)
    waves = np.stack((np.sin(3 * e + 2 * u), np.cos(4 * n - e), np.sin(5 * u + 2 * n) * np.cos(2 * e)), axis=-1)
    return 127.5 + 100.0 * waves


def toward(turn: Floats, elevation: Floats) -> Floats:
    """Unit vectors from degrees clockwise from north and above the horizon."""
    t, e = np.radians(turn), np.radians(elevation)
    return np.stack((np.sin(t) * np.cos(e), np.cos(t) * np.cos(e), np.sin(e)), axis=-1)


def draw_panorama(width: int, heading: float = 0.0) -> NDArray[np.uint8]:
    """The scene as a panorama whose middle column looks at ``heading``."""
    height = width // 2
    turn = heading + ((np.arange(width) + 0.5) / width - 0.5) * 360.0
    elevation = (0.5 - (np.arange(height) + 0.5) / height) * 180.0
    return np.rint(scene(toward(*np.meshgrid(turn, elevation)))).astype(np.uint8)


def draw_view(heading: float, fov: float, size: int) -> Floats:
    """The scene through a pinhole: the camera's axes in the world, and a ray for every pixel."""
    h = math.radians(heading)
    forward, right, up = (
        np.array([math.sin(h), math.cos(h), 0]),
        np.array([math.cos(h), -math.sin(h), 0]),
        np.array([0, 0, 1]),
    )
    focal = size / 2 / math.tan(math.radians(fov) / 2)
    i = np.arange(size) + 0.5 - size / 2
    ray = forward + right * (i / focal)[None, :, None] - up * (i / focal)[:, None, None]
    return scene(ray / np.linalg.norm(ray, axis=-1, keepdims=True))


@settings(max_examples=30)
@given(st.floats(0, 359.9), st.floats(0, 359.9), st.sampled_from([40.0, 90.0, 120.0]), st.sampled_from([32, 65]))
def test_every_pixel_of_a_view_shows_its_direction(heading: float, turn: float, fov: float, size: int) -> None:
    found = cut_view(draw_panorama(1024, heading), WHOLE, View(turn, fov, size))
    assert found is not None
    assert (
        np.abs(found - draw_view(heading + turn, fov, size)).max() < 1.6
    )  # rounding twice, and 1/3° of a smooth scene


def test_a_view_to_the_back_has_no_seam() -> None:
    panorama = draw_panorama(512)
    found = cut_view(panorama, WHOLE, View(180.0, 90.0, 64))
    assert found is not None
    assert np.abs(found - draw_view(180.0, 90.0, 64)).max() < 2.0


def test_a_view_is_not_mirrored_and_not_upside_down() -> None:
    panorama = np.zeros((64, 128, 3), np.uint8)
    panorama[:32, :, 2] = 200  # blue sky
    panorama[:, 64:, 0] = 200  # red to the right of the middle
    found = cut_view(panorama, WHOLE, View(0.0, 90.0, 32))
    assert found is not None
    assert found[4, 28].tolist() == [200, 0, 200]
    assert found[28, 4].tolist() == [0, 0, 0]


@pytest.mark.parametrize("visible", [(0.2, 0.1, 0.8, 0.9), (0.0, 0.2, 1.0, 0.75), (0.0, 0.0, 0.6, 1.0)])
def test_a_part_of_a_panorama_gives_the_same_views_or_none(visible: tuple[float, float, float, float]) -> None:
    whole = draw_panorama(1000)
    left, top, right, bottom = (round(v * s) for v, s in zip(visible, (1000, 500, 1000, 500), strict=True))
    part = whole[top:bottom, left:right]
    given_some = 0
    for turn in range(0, 360, 15):
        view = View(float(turn), 50.0, 24)
        full, some = cut_view(whole, WHOLE, view), cut_view(part, visible, view)
        u, v = rays(view)
        u, v = u / 360 + 0.5, 0.5 - v / 180
        sees_only_that = (
            (u >= visible[0]).all() and (u <= visible[2]).all() and (v >= visible[1]).all() and (v <= visible[3]).all()
        )
        assert (some is not None) == bool(sees_only_that)
        if some is not None:
            assert full is not None
            assert np.abs(some.astype(int) - full).max() <= 1
            given_some += 1
    assert given_some > 0
    assert cut_view(part, (0.0, 0.0, 0.0, 0.0), View(0.0, 50.0, 24)) is None


def test_views_around_start_ahead_and_share_the_circle() -> None:
    assert [v.turn for v in views_around(4, 90.0, 512)] == [0.0, 90.0, 180.0, 270.0]
    assert [v.turn for v in views_around(3, 120.0, 8)] == [0.0, 120.0, 240.0]
    assert views_around(1, 90.0, 8) == [View(0.0, 90.0, 8)]


@pytest.mark.parametrize(
    ("width", "fov", "size", "factor"), [(8192, 90.0, 512, 5), (2048, 90.0, 512, 1), (4096, 90.0, 128, 10)]
)
def test_a_panorama_is_made_smaller_only_as_far_as_a_view_keeps_its_detail(
    width: int, fov: float, size: int, factor: int
) -> None:
    assert reduction(width, WHOLE, View(0.0, fov, size)) == factor
    assert width / factor * math.degrees(2 * math.tan(math.radians(fov) / 2) / size) / 360 >= 1
    assert reduction(width // 2, (0.0, 0.0, 0.5, 1.0), View(0.0, fov, size)) == factor
