"""Laws of the order, over all sizes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.errors import ConfigError
from trainers.stream.order import (
    FEW,
    Order,
    Place,
    batch_positions,
    draw,
    epoch_key,
    permute,
    places_at,
    slot_seeds,
    slots,
    steps_per_epoch,
)  # fmt: skip

COUNTS = st.integers(1, 700)
KEYS = st.integers(0, 2**64 - 1)
ORDERS = st.builds(
    Order,
    shuffle=st.sampled_from(["global", "block", "spread", "near", "none"]),
    block=st.integers(1, 40), window=st.integers(1, 9), strata=st.integers(1, 80), near=st.integers(1, 9),
)  # fmt: skip


@given(COUNTS, KEYS, ORDERS)
@settings(max_examples=300, deadline=None)
def test_every_position_holds_one_sample_exactly_once(count: int, key: int, order: Order) -> None:
    found = places_at(np.arange(count), count, key, order)
    assert sorted(found.tolist()) == list(range(count))


@given(COUNTS, KEYS, ORDERS, st.data())
@settings(max_examples=100, deadline=None)
def test_random_access_agrees_with_the_whole_epoch(count: int, key: int, order: Order, data: st.DataObject) -> None:
    position = data.draw(st.integers(0, count - 1))
    whole = places_at(np.arange(count), count, key, order)
    assert places_at(np.array([position]), count, key, order)[0] == whole[position]


@given(COUNTS, st.integers(1, 6), st.integers(1, 4), st.integers(1, 8))
@settings(max_examples=80, deadline=None)
def test_parts_cover_each_batch_once_with_a_masked_tail(count: int, world: int, micro: int, each: int) -> None:
    parts, size = world * micro, world * micro * each
    seen: list[int] = []
    for step in range(steps_per_epoch(count, size)):
        taken = [batch_positions(step * size, count, size, part, parts) for part in range(parts)]
        assert {len(positions) for positions, _ in taken} == {each}
        batch = np.concatenate([positions[valid] for positions, valid in taken])
        assert sorted(batch) == list(range(step * size, min(count, step * size + size)))
        masked = [int((~valid).sum()) for _, valid in taken]
        assert max(masked) - min(masked) <= 1
        seen += batch.tolist()
    assert sorted(seen) == list(range(count))


@given(st.integers(1, 4), st.integers(1, 4), st.integers(1, 4))
def test_accumulation_and_ranks_make_the_same_micro_batches(world: int, micro: int, each: int) -> None:
    parts = world * micro
    by_ranks = [slots(parts * each, part, parts).tolist() for part in range(parts)]
    by_one = [slots(parts * each, m, parts).tolist() for m in range(parts)]
    assert by_ranks == by_one


def test_a_batch_that_ranks_do_not_divide_is_refused() -> None:
    with pytest.raises(ConfigError, match="choose batch_size=12"):
        slots(10, 0, 4)


def test_an_order_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"stream.shuffle=gobal: choose one of global, block"):
        Order(shuffle="gobal")  # type: ignore[arg-type]


def test_a_rank_outside_its_world_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"rank 2 is outside 0..1"):
        Place(rank=2, world=2)


@pytest.mark.parametrize("changed", ["content", "selection", "shuffle", "seed", "epoch"])
def test_everything_that_fixes_the_order_changes_it(changed: str) -> None:
    base = {"content": "c", "selection": "s", "shuffle": "global", "seed": 0, "epoch": 0}
    other = base | {changed: 1 if changed in ("seed", "epoch") else "none" if changed == "shuffle" else "x"}
    assert epoch_key(**base) != epoch_key(**other)  # type: ignore[arg-type]


def test_small_permutations_are_about_uniform() -> None:
    count, trials = 6, 6000
    keys = np.repeat(np.arange(trials, dtype=np.uint64), count)
    places = permute(np.tile(np.arange(count), trials), count, keys)
    table = np.bincount(np.tile(np.arange(count), trials) * count + places).reshape(count, count)
    expected = trials / count
    chi2 = ((table - expected) ** 2 / expected).sum()
    assert chi2 < 60  # 25 degrees of freedom: far beyond the 99.9 % point of 52.6 is a fault


def test_neighbours_in_the_index_are_spread() -> None:
    found = places_at(np.arange(10_000), 10_000, 7, Order())
    near = np.abs(np.diff(found)) <= 10
    assert near.mean() < 0.005  # chance: 0.002


@given(st.integers(0, (1 << 64) - 1), st.integers(0, 9), st.integers(1, FEW))
def test_a_few_draws_are_the_first_of_many(seed: int, use: int, size: int) -> None:
    np.testing.assert_array_equal(draw(np.uint64(seed), use, size), draw(seed, use, FEW + 9)[:size])


def test_draws_are_uniform_and_differ_by_slot_and_use() -> None:
    seeds = slot_seeds(5, np.arange(4000))
    values = np.array([draw(seed, 0)[0] for seed in seeds])
    assert abs(values.mean() - 0.5) < 0.02
    assert abs(values.var() - 1 / 12) < 0.005
    assert len(set(seeds.tolist())) == 4000
    other = np.array([draw(seed, 1)[0] for seed in seeds])
    assert abs(np.corrcoef(values, other)[0, 1]) < 0.06
