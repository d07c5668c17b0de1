"""Sampling of tiles: shares, blocks and strata."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.footprints.candidates import Listed, Tiles
from pipeline.footprints.sampling import SamplingConfig, blocks, by_share, choose, density_stratum, lots, per_group
from schemas.errors import ConfigError

GRID = np.stack(np.meshgrid(np.arange(8600, 8640), np.arange(5700, 5740)), axis=-1).reshape(-1, 2)


def kept(config: SamplingConfig, tiles: np.ndarray = GRID, objects: np.ndarray | None = None) -> np.ndarray:
    candidates = Tiles(tiles, 14, 256)
    lot = lots(candidates.words(), config.seed)
    mask = by_share(lot, config.share)
    for rule in choose(config, lot, candidates.centre(), objects).values():
        mask &= rule
    return mask


def test_all_tiles_are_built_by_default() -> None:
    assert kept(SamplingConfig()).all()


@given(st.floats(0.05, 0.95), st.integers(0, 5))
def test_a_share_is_a_share_and_a_tile_keeps_its_lot_when_the_region_grows(share: float, seed: int) -> None:
    config = SamplingConfig(share=share, seed=seed)
    whole = kept(config)
    assert whole.mean() == pytest.approx(share, abs=0.06)
    part = np.arange(len(GRID)) % 3 == 0
    np.testing.assert_array_equal(kept(config, GRID[part]), whole[part])


def test_a_smaller_share_is_part_of_a_larger_one() -> None:
    small, large = (kept(SamplingConfig(share=s)) for s in (0.2, 0.5))
    assert (large | ~small).all()


@given(st.integers(1, 9))
def test_no_block_has_more_than_its_number_and_none_is_empty(most: int) -> None:
    config = SamplingConfig(per_block=most, block_degrees=0.2)
    chosen = kept(config)
    block = blocks(Tiles(GRID, 14, 256).centre(), 0.2)
    sizes, left = Counter(block.tolist()), Counter(block[chosen].tolist())
    assert {b: min(most, n) for b, n in sizes.items()} == dict(left)


@given(st.lists(st.integers(0, 1000), min_size=30, max_size=200), st.integers(0, 60))
def test_strata_get_the_same_number_each(counts: list[int], most: int) -> None:
    tiles, objects = GRID[: len(counts)], np.array(counts)
    stratum = density_stratum(objects)
    chosen = kept(SamplingConfig(strata="density", max_tiles=most), tiles, objects)
    sizes, left = Counter(stratum.tolist()), Counter(stratum[chosen].tolist())
    each = max(1, most // len(sizes)) if most else min(sizes.values())
    assert dict(left) == {s: min(each, n) for s, n in sizes.items()}


def test_strata_go_from_none_to_a_centre() -> None:
    assert density_stratum(np.array([0, 1, 4, 5, 16, 17, 64, 65, 256, 257, 10**6])).tolist() == [
        0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5,
    ]  # fmt: skip


def test_most_tiles_are_drawn_at_random_and_by_the_seed() -> None:
    a, b = (kept(SamplingConfig(max_tiles=100, seed=s)) for s in (0, 1))
    assert a.sum() == b.sum() == 100
    assert (a != b).any()
    assert len(np.unique(lots(Tiles(GRID, 14, 256).words(), 0))) == len(GRID)


def test_a_lot_is_drawn_from_what_a_footprint_is_alone() -> None:
    """Zoom, column and row of a tile, the key of another; not its number among others, and not its size in pixels."""
    tiles = Tiles(GRID, 14, 256)
    words = tiles.words()
    assert not np.isin(Tiles(GRID, 15, 256).words(), words).any()
    assert not np.isin(Tiles(GRID[:, ::-1].copy(), 14, 256).words(), words).any()
    np.testing.assert_array_equal(Tiles(GRID, 14, 128).words(), words)
    order = np.random.default_rng(0).permutation(len(GRID))[:100]
    for candidates in (tiles, Listed.of("chips", tiles.footprints())):
        np.testing.assert_array_equal(candidates.take(order).words(), candidates.words()[order])
        assert len(np.unique(candidates.words())) == len(GRID)


def test_nothing_to_choose_from_is_nothing() -> None:
    none = np.zeros((0, 2), np.int64)
    assert kept(SamplingConfig(share=0.5, per_block=1, max_tiles=1), none).tolist() == []
    assert per_group(np.zeros(0, np.uint64), np.zeros(0, np.int64), 3).tolist() == []


@pytest.mark.parametrize("wrong", [{"share": 0.0}, {"share": 1.5}, {"max_tiles": -1}, {"block_degrees": 0.0}])
def test_settings_out_of_range_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        SamplingConfig(**wrong)  # type: ignore[arg-type]
