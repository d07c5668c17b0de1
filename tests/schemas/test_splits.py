"""Splits by geography."""

from __future__ import annotations

import itertools
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from geometry.tiles import tile_to_lonlat
from schemas import splits
from schemas.splits import BUFFER, SPLITS, SplitConfig, assign_split, assign_splits, block_split

CONFIGS = st.builds(
    lambda size, val, test, buffer, seed: SplitConfig(size, val, test, buffer * size, seed),
    st.sampled_from((0.05, 0.1, 0.37, 1.0)), st.floats(0, 0.5), st.floats(0, 0.5), st.floats(0, 0.9),
    st.integers(0, 99),
)  # fmt: skip


def tile_bbox(zoom: int, x: int, y: int) -> tuple[float, float, float, float]:
    west, north = tile_to_lonlat(np.array([x, y], float), zoom)
    east, south = tile_to_lonlat(np.array([x + 1, y + 1], float), zoom)
    return float(west), float(south), float(east), float(north)


@st.composite
def tiles(draw: st.DrawFn, low: int = 8, high: int = 18) -> tuple[int, int, int]:
    zoom = draw(st.integers(low, high))
    tile = st.integers(0, (1 << zoom) - 1)
    return zoom, draw(tile), draw(tile)


@given(tiles(), CONFIGS)
def test_a_split_depends_on_the_ground_and_the_settings_alone(tile: tuple[int, int, int], config: SplitConfig) -> None:
    bbox = tile_bbox(*tile)
    assert assign_split(bbox, config) == assign_split(tuple(bbox), SplitConfig(*vars(config).values()))
    assert assign_split(bbox, config) in (*SPLITS, BUFFER)


@pytest.mark.parametrize(
    ("shares", "split"), [((0.1, 0.1), BUFFER), ((0.0, 0.0), "train"), ((1.0, 0.0), "val"), ((0.0, 1.0), "test")]
)
def test_a_footprint_of_the_world_is_judged_without_a_look_at_each_of_its_blocks(
    monkeypatch: pytest.MonkeyPatch, shares: tuple[float, float], split: str
) -> None:
    looks: list[int] = []
    monkeypatch.setattr(splits, "block_split", lambda *block: (looks.append(1), block_split(*block))[1])
    assert assign_split(tile_bbox(0, 0, 0), SplitConfig(0.1, *shares)) == split
    assert len(looks) < 1000


@given(tiles(10, 17), CONFIGS, st.integers(1, 3), st.data())
def test_a_child_tile_is_in_its_parents_split(
    tile: tuple[int, int, int], config: SplitConfig, depth: int, data: st.DataObject
) -> None:
    zoom, x, y = tile
    parent = assign_split(tile_bbox(zoom, x, y), config)
    step = st.integers(0, (1 << depth) - 1)
    child = assign_split(
        tile_bbox(zoom + depth, (x << depth) + data.draw(step), (y << depth) + data.draw(step)), config
    )
    if parent != BUFFER:  # a buffered parent may have children on both sides of the border
        assert child == parent


@pytest.mark.parametrize(("val", "test"), [(0.1, 0.1), (0.0, 0.3), (0.25, 0.0), (0.5, 0.5)])
def test_shares_over_many_blocks_are_near_the_settings(val: float, test: float) -> None:
    config = SplitConfig(val=val, test=test, seed=7)
    n = 20_000
    count = Counter(block_split(i // 200, i % 200, config) for i in range(n))
    for name, share in (("val", val), ("test", test), ("train", 1 - val - test)):
        assert abs(count[name] / n - share) < 4 * np.sqrt(share * (1 - share) / n) + 1e-12


def test_another_seed_divides_the_ground_otherwise() -> None:
    splits = [[block_split(i, 3, SplitConfig(val=0.3, test=0.3, seed=s)) for i in range(200)] for s in range(5)]
    assert all(a != b for a, b in itertools.combinations(splits, 2))


@pytest.mark.parametrize("latitude", [0.0, 47.1, 69.3, -33.9])
@pytest.mark.parametrize("buffer", [0.0, 0.004, 0.02])
def test_no_val_or_test_tile_is_nearer_to_a_train_tile_than_the_buffer(latitude: float, buffer: float) -> None:
    """A block is as wide as it is high, in metres, within a rounding; so is the buffer."""
    config = SplitConfig(block_degrees=0.05, val=0.3, test=0.3, buffer_degrees=buffer, seed=5)
    zoom = 16
    scale = np.cos(np.radians(latitude))
    row = int((1 - np.arcsinh(np.tan(np.radians(latitude))) / np.pi) / 2 * (1 << zoom))
    found: dict[str, list[tuple[float, float, float, float]]] = {name: [] for name in (*SPLITS, BUFFER)}
    for x, y in itertools.product(range(36000, 36060), range(row, row + 60)):
        bbox = tile_bbox(zoom, x, y)
        found[assign_split(bbox, config)].append(bbox)
    present = [name for name in SPLITS if found[name]]
    assert len(present) > 1
    for a, b in itertools.combinations(present, 2):
        p, q = np.array(found[a])[:, None], np.array(found[b])[None]
        gap_x = np.maximum(p[..., 0] - q[..., 2], q[..., 0] - p[..., 2]) * scale
        gap_y = np.maximum(p[..., 1] - q[..., 3], q[..., 1] - p[..., 3])
        assert np.maximum(gap_x, gap_y).min() >= buffer * 0.99 - 1e-12


@given(st.integers(-60, 60), st.integers(-100, 100), CONFIGS)
def test_a_tile_that_ends_on_a_blocks_border_does_not_meet_the_next_block(
    row: int, column: int, config: SplitConfig
) -> None:
    config = SplitConfig(1.0, config.val, config.test, 0.0, config.seed)
    columns = max(1, round(360 * np.cos(np.radians(abs(row + 0.5)))))
    width = 360 / columns
    bbox = (column * width + 1e-9, float(row), (column + 1) * width - 1e-9, row + 1.0)
    assert assign_split(bbox, config) == block_split(row, column % columns, config)


def test_ground_has_one_split_on_both_sides_of_the_antimeridian() -> None:
    config = SplitConfig(block_degrees=1.0, val=0.4, test=0.3, buffer_degrees=0.5)
    seen = set()
    for latitude in range(-60, 60):
        west, east = (-180.5, latitude + 0.2, -180.4, latitude + 0.3), (179.5, latitude + 0.2, 179.6, latitude + 0.3)
        assert assign_split(west, config) == assign_split(east, config)
        seen.add(assign_split(west, config))
    assert len(seen) > 1


def test_every_latitude_has_a_split() -> None:
    for south in (-90.0, -89.95, 89.95, 89.999):
        assert assign_split((0.0, south, 0.01, min(90.0, south + 0.01)), SplitConfig()) in (*SPLITS, BUFFER)


BOXES = st.tuples(
    st.floats(-180, 180), st.floats(-90, 90), st.sampled_from((0.0, 1e-3, 0.04, 0.1, 0.9, 7.0)), st.floats(0, 3)
)


@given(st.lists(st.one_of(BOXES, tiles(2, 16)), min_size=1, max_size=30), CONFIGS)
def test_many_footprints_are_judged_as_each_alone(found: list[tuple[float, ...]], config: SplitConfig) -> None:
    """On borders of blocks, across 180°, around poles, over many rows."""
    boxes = [
        tile_bbox(*f) if len(f) == 3 else (f[0], f[1], (f[0] + f[2] * f[3] + 180) % 360 - 180, min(90.0, f[1] + f[2]))
        for f in found
    ]  # type: ignore[misc]
    assert assign_splits(np.array(boxes), config) == [assign_split(box, config) for box in boxes]


def test_a_box_that_is_not_finite_has_no_split() -> None:
    with pytest.raises(ValueError, match="not finite"):
        assign_splits(np.array([[0.0, 0.0, np.nan, 1.0]]), SplitConfig())
