"""At most K photos a footprint, chosen the same way every time."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.streetview.choice import How, choose, farthest_points
from pipeline.streetview.pairing import PAIRS
from pipeline.streetview.record import Drops
from tests.streetview.makers import placed, reasons


def pairs_of(owners: list[int]) -> pa.Table:
    """Photo i in footprint owners[i]."""
    n = len(owners)
    columns = {"photo": list(range(n)), "footprint": owners, "x": [0.5] * n, "y": [0.5] * n, "north": [0.0] * n,
               "heading": [None] * n, "gap_days": [None] * n}  # fmt: skip
    return pa.table(columns, schema=PAIRS)


def pick(rows: list[dict[str, object]], most: int, how: How) -> tuple[list[int], dict[str, str]]:
    drops = Drops()
    chosen = choose(pairs_of([0] * len(rows)), placed(rows), most, how, drops, lambda i: f"tile {i}")
    return chosen.get(0, []), reasons(drops.rows())


def walk(count: int) -> list[dict[str, object]]:
    """Photos a step of 1.1 m apart, going north."""
    return [
        {"lon": 9.5, "lat": 47.1 + 1e-5 * i, "heading": 0.0, "captured_at": f"2024-01-01T10:{i:02d}:00"}
        for i in range(count)
    ]


def test_the_first_are_the_first_by_time() -> None:
    rows = walk(6)[::-1]
    chosen, dropped = pick(rows, 2, "first")
    assert chosen == [5, 4]
    assert dropped == dict.fromkeys("0123", "over_max_per_tile")


def test_spread_takes_both_ends_and_the_middle() -> None:
    assert pick(walk(9), 3, "spread")[0] == [0, 4, 8]


@pytest.mark.parametrize("most", [2, 3])
def test_spread_takes_no_photo_twice_where_all_are_at_one_place(most: int) -> None:
    chosen, dropped = pick([walk(1)[0]] * 4, most, "spread")
    assert len(set(chosen)) == len(chosen) == most
    assert len(dropped) == 4 - most


def test_spread_prefers_another_view_to_a_step_further_on() -> None:
    rows = [*walk(4), {"lon": 9.5, "lat": 47.1, "heading": 180.0, "captured_at": "2024-01-01T11:00:00"}]
    assert pick(rows, 2, "spread")[0] == [0, 4]


def test_quality_takes_the_best_rated_then_the_most_accurate() -> None:
    rows = walk(5)
    for row, quality, accuracy in zip(rows, (0.2, 0.9, None, 0.9, 0.5), (1.0, 8.0, 1.0, 3.0, 1.0), strict=True):
        row |= {"quality": quality, "accuracy_m": accuracy}
    assert pick(rows, 1, "quality")[0] == [3]
    assert pick(rows, 3, "quality")[0] == [1, 3, 4]


@pytest.mark.parametrize("how", ["first", "spread", "quality"])
@given(st.integers(0, 1000), st.integers(0, 8))
def test_every_photo_is_chosen_or_named_and_the_order_they_come_in_is_no_matter(how: How, seed: int, most: int) -> None:
    rng = np.random.default_rng(seed)
    rows = [
        {"id": f"p{i}", "lon": 9.5 + rng.uniform(0, 1e-3), "lat": 47.1 + rng.uniform(0, 1e-3),
         "heading": float(rng.uniform(0, 360)) if rng.random() < 0.7 else None,
         "captured_at": f"2024-01-{rng.integers(1, 28):02d}", "quality": float(rng.random())}
        for i in range(20)
    ]  # fmt: skip
    owners = rng.integers(0, 3, 20).tolist()
    results = []
    for order in (range(20), rng.permutation(20).tolist()):
        drops = Drops()
        photos = placed([rows[i] for i in order])
        chosen = choose(pairs_of([owners[i] for i in order]), photos, most, how, drops, str)
        names = photos.column("id").to_pylist()
        results.append({k: [names[i] for i in v] for k, v in chosen.items()})
        assert all(len(v) == min(most, owners.count(k)) for k, v in chosen.items())
        assert sorted([n for v in results[-1].values() for n in v] + list(reasons(drops.rows()))) == sorted(names)
        times = {r["id"]: r["captured_at"] for r in rows}
        assert all(v == sorted(v, key=lambda n: (str(times[n]), n)) for v in results[-1].values())
    assert results[0] == results[1]


@given(st.integers(0, 1000), st.integers(1, 6))
def test_farthest_points_are_at_least_half_as_far_apart_as_any_can_be(seed: int, most: int) -> None:
    """The guarantee of Gonzalez (1985) for the farthest-point order."""
    features = np.random.default_rng(seed).normal(size=(9, 4))
    chosen = farthest_points(features, most).tolist()
    assert len(set(chosen)) == most
    assert chosen[0] == 0

    def nearest(rows: tuple[int, ...]) -> float:
        return min((float(np.linalg.norm(features[a] - features[b])) for a, b in combinations(rows, 2)), default=np.inf)

    best = max(nearest(rows) for rows in combinations(range(9), most))
    assert nearest(tuple(chosen)) >= best / 2 - 1e-12
