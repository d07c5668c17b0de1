"""The laws of the simulation that forecasts builds: exact where a hand can count, bounded by what it says it is."""

from __future__ import annotations

import heapq
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from benchmarks.tools.simulate import Bucket, Cluster, Outcome, Stage, bounds_of, grouped, simulate

HOUR = 3600.0


def stage(*seconds: float, **facts: float) -> Stage:
    return Stage("samples", np.array(seconds, float), len(seconds), **facts)


def many(tasks: int, mean: float = 1.0, **facts: float) -> Stage:
    """Times as builds have them: most alike, some far longer."""
    return Stage("samples", np.random.default_rng(5).gamma(2.0, mean / 2, 300), tasks, **facts)


def listed(seconds: np.ndarray, workers: int) -> float:
    """List scheduling, in its definition: each task in turn goes to who is free first."""
    free = [0.0] * workers
    for own in seconds.tolist():
        heapq.heappush(free, heapq.heappop(free) + own)
    return max(free)


@pytest.mark.parametrize(
    ("seconds", "workers", "makespan"),
    [
        ((3, 2, 2), 1, 7),
        ((3, 2, 2), 2, 4),
        ((2, 3, 4, 6, 2, 2), 2, 10),  # 2 4 2 2 beside 3 6
        ((1, 1, 1, 1, 4), 2, 6),  # the long one last
        ((4, 1, 1, 1, 1), 2, 4),  # and first
        ((5,), 8, 5),
        ((), 3, 0),
    ],
)
def test_without_waits_and_failures_a_build_takes_what_list_scheduling_takes(
    seconds: tuple[float, ...], workers: int, makespan: float
) -> None:
    assert simulate([stage(*seconds)], Cluster(workers)).seconds == makespan


def test_list_scheduling_of_many_tasks_on_any_number_of_workers() -> None:
    times = np.random.default_rng(1).integers(1, 50, 400).astype(float)
    for workers in (1, 2, 3, 7, 64, 500):
        found = simulate([stage(*times)], Cluster(workers))
        assert found.seconds == pytest.approx(listed(times, workers))
        assert found.stages[0].busy == pytest.approx(times.sum())  # no work is lost, none is made


def test_stages_follow_each_other_and_a_driver_works_alone_before_each() -> None:
    built = simulate(
        [stage(2, 2, before=5), stage(3, before=1), Stage("catalog", np.array([]), 0, before=4)], Cluster(2)
    )
    assert [s.seconds for s in built.stages] == [7, 4, 4]
    assert built.utilisation == pytest.approx(7 / (2 * 15))


def test_a_driver_gives_out_no_more_than_it_can_handle() -> None:
    built = simulate([stage(*[1.0] * 1000, handling=0.1)], Cluster(100))
    assert built.seconds == pytest.approx(100 + 1)
    assert built.stages[0].limit == "driver"


def test_one_task_waits_for_each_answer_and_its_bytes() -> None:
    bucket = Bucket(latency=0.25, connection=10.0)
    built = simulate([stage(2, read=30, write=10, requests=2, copied=50)], Cluster(1, bucket=bucket))
    assert built.seconds == pytest.approx(5 + 0.5 + 3 + 2 + 0.5 + 1)
    assert (built.bytes, built.stages[0].moving) == (90, pytest.approx(10))


def test_transfers_share_the_bucket_equally() -> None:
    """Two of 10 bytes at once on 10 bytes a second, the second half a second behind the first."""
    alone, both = Bucket(connection=10, total=10), Bucket(connection=10, total=20)
    two = [stage(1, 1, read=10)]
    assert simulate(two, Cluster(2, bucket=alone)).seconds == pytest.approx(3)
    assert simulate(two, Cluster(2, bucket=both)).seconds == pytest.approx(2)
    staggered = [stage(1, 1, read=10, handling=0.5)]
    # from 0.5 alone, 5 bytes; from 1.0 together, until 2.0 (5 more, and 5 of the other), then the other's 5 alone
    assert simulate(staggered, Cluster(2, bucket=alone)).seconds == pytest.approx(2.5 + 1)


@pytest.mark.parametrize("workers", [1, 8, 100, 1000])
def test_no_build_is_faster_than_what_bounds_it_and_the_bucket_never_gives_more_than_it_has(workers: int) -> None:
    bucket = Bucket(latency=0.02, connection=50e6, total=400e6)
    own = many(2000, read=20e6, write=10e6, before=3.0, handling=0.002, copied=1e8)
    cluster = Cluster(workers, bucket=bucket)
    built = simulate([own], cluster)
    for limit, seconds in bounds_of(replace(own, seconds=np.full(1, 0.9)), cluster, 0.0).items():  # under its mean
        assert built.seconds >= seconds * 0.999, limit
    assert built.bytes / (built.seconds - 3) <= bucket.total * 1.001
    assert built.bytes == pytest.approx(2000 * 30e6 + -(-workers // 16) * 1e8)


def test_every_node_fetches_what_it_needs_once() -> None:
    bucket = Bucket(connection=10.0)
    built = simulate([stage(*[1.0] * 64, copied=100)], Cluster(32, per_node=8, bucket=bucket))
    assert (built.bytes, built.seconds) == (4 * 100, pytest.approx(10 + 2))


def test_failures_only_add() -> None:
    """Of tasks of equal length, for which no other order is shorter."""
    own, steady = [stage(*[60.0] * 3000, read=1e6)], Cluster(64, bucket=Bucket(0.1, 80e6, 4e9))
    calm = simulate(own, steady)
    for seed in range(5):
        failing = simulate(own, replace(steady, mtbf=HOUR), seed)
        assert failing.seconds > calm.seconds
        assert failing.stages[0].busy == pytest.approx(calm.stages[0].busy)  # what counts is done once
        assert failing.stages[0].lost > 0
        worse = simulate(own, replace(steady, mtbf=HOUR / 6), seed)
        assert worse.stages[0].lost > failing.stages[0].lost
    assert calm.stages[0].lost == 0


def test_nodes_that_come_later_work_from_then_on() -> None:
    late = Cluster(3, per_node=1, late=4.0)
    assert simulate([stage(2, 2, 2, 2, 2, 2)], late).seconds == pytest.approx(4 + 4)  # two alone, then four by three
    assert simulate([stage(2, 2)], late).seconds == 4


def test_what_all_nodes_lose_is_done_when_they_are_back() -> None:
    built = simulate([stage(*[50.0] * 40)], Cluster(4, per_node=4, mtbf=400.0, back=100.0), seed=3)
    assert built.stages[0].busy == 2000
    assert built.seconds > 500


def test_stragglers_only_add_and_come_from_the_longest_times() -> None:
    own = many(3000)
    assert own.slow().min() >= np.quantile(own.seconds, 0.95) / np.median(own.seconds)
    seconds = [simulate([own], Cluster(50, straggle=share)).seconds for share in (0.0, 0.02, 0.2)]
    assert seconds == sorted(seconds)
    assert (own.draw(1, 0.2) >= own.draw(1, 0.0)).all()


def test_more_workers_are_faster_on_average() -> None:
    own = [many(4000, read=5e6, before=2.0), many(300, 10.0)]
    cluster = Cluster(1, per_node=8, mtbf=2 * HOUR, straggle=0.01, bucket=Bucket(0.05, 80e6, 5e9))
    means = [
        np.mean([simulate(own, replace(cluster, workers=workers), seed).seconds for seed in range(3)])
        for workers in (1, 4, 16, 64, 256)
    ]
    assert all(after < before for before, after in pairwise(means))


def test_the_same_seed_gives_the_same_build_and_another_one_another() -> None:
    cluster = Cluster(30, mtbf=HOUR / 4, straggle=0.05, bucket=Bucket(0.05, 80e6, 1e9))

    def built(seed: int) -> Outcome:
        return simulate([many(500, 20.0, read=1e6)], cluster, seed)

    assert built(7) == built(7)
    assert built(7).seconds != built(8).seconds


def test_fewer_longer_tasks_stand_for_many() -> None:
    own = many(60_000, read=1e5, handling=1e-4)
    fewer = grouped(own, 20)
    assert fewer.tasks <= 4_100
    assert fewer.work == pytest.approx(own.work, rel=0.01)
    assert fewer.tasks * fewer.read == pytest.approx(own.tasks * own.read)
    whole, short = (simulate([s], Cluster(20)).seconds for s in (own, fewer))
    assert short == pytest.approx(whole, rel=0.03)
    assert grouped(many(500), 10).tasks == 500
