"""What the settings leave out, each photo named with its reason; thinning against its own definition."""

from __future__ import annotations

import math

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyproj import Geod

from pipeline.streetview.config import StreetviewConfig
from pipeline.streetview.filters import LOOKS_APART, filter_photos
from pipeline.streetview.record import Drops
from schemas.errors import ConfigError
from tests.streetview.makers import placed, reasons

GEOD = Geod(ellps="WGS84")


def run(rows: list[dict[str, object]], **settings: object) -> tuple[list[str], dict[str, str]]:
    """Ids left in, and reasons of the others."""
    drops = Drops()
    kept = filter_photos(placed(rows), StreetviewConfig(**settings), drops)  # type: ignore[arg-type]
    return kept.column("id").to_pylist(), reasons(drops.rows())


def at(lon: float = 9.5, lat: float = 47.1, **more: object) -> dict[str, object]:
    return {"lon": lon, "lat": lat, **more}


def test_without_settings_nothing_is_left_out_and_photos_come_in_order_of_time() -> None:
    kept, dropped = run(
        [at(captured_at="2024-02-01"), at(captured_at="2024-01-01"), at(), at(captured_at="2024-01-01")]
    )
    assert (kept, dropped) == (["2", "1", "3", "0"], {})


def test_positions_that_are_too_rough_are_left_out() -> None:
    kept, dropped = run([at(accuracy_m=4.0), at(accuracy_m=30.0), at(), at(accuracy_m=10.0)], max_accuracy=10.0)
    assert kept == ["0", "2", "3"]
    assert dropped == {"1": "gps_accuracy"}


def test_dates_are_a_half_open_span() -> None:
    times = ["2019-12-31T23:59:59Z", "2020-01-01T00:00:00Z", "2021-06-01", "2022-01-01T00:00:00Z", None]
    kept, dropped = run([at(captured_at=t) for t in times], after="2020-01-01", before="2022-01-01")
    assert kept == ["1", "2"]
    assert dropped == {"0": "too_old", "3": "too_new", "4": "no_time"}


@pytest.mark.parametrize(
    "settings", [{"after": "noon"}, {"before": "2020-13-01"}, {"min_sun": 95.0}, {"spacing": -1.0}]
)
def test_settings_without_a_meaning_are_refused(settings: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=f"sv.{next(iter(settings))} must be"):
        StreetviewConfig(**settings)  # type: ignore[arg-type]


def test_photos_of_the_night_are_left_out() -> None:
    rows = [
        at(captured_at="2024-06-21T12:00:00Z"),  # noon
        at(captured_at="2024-06-21T00:00:00Z"),  # midnight in Liechtenstein
        at(lon=-170.0, lat=20.0, captured_at="2024-06-21T00:00:00Z"),  # noon in the Pacific at that moment
        at(captured_at="2024-12-21T16:00:00"),  # local: the sun about to set
        at(captured_at="2024-12-21T18:30:00"),  # local, and dark
        at(captured_at="2024-06-21T23:30:00", night=False),  # a zone that we misjudge: the source knows better
        at(captured_at="2024-06-21T12:00:00", night=True),
        at(captured_at="2024-06-21"),  # no time of day
        at(),
        at(lat=75.0, captured_at="2024-06-21T00:00:00Z"),  # midnight sun
    ]
    kept, dropped = run(rows, min_sun=0.0)
    assert dropped == {"1": "night", "4": "night", "6": "night"}
    assert sorted(kept) == ["0", "2", "3", "5", "7", "8", "9"]


def test_a_photo_that_is_listed_twice_comes_once() -> None:
    drops = Drops()
    table = placed([at(id="a"), at(id="b"), at(id="a")])
    kept = filter_photos(table, StreetviewConfig(), drops)
    assert kept.column("id").to_pylist() == ["a", "b"]
    assert reasons(drops.rows()) == {"a": "duplicate_id"}


def test_sequences_are_thinned_by_the_way_gone_and_each_by_itself() -> None:
    step = 1e-5  # 1.1 m
    rows = [at(lat=47.1 + step * i, sequence="a", index=i) for i in range(10)]
    rows += [at(lat=47.1 + step * i, sequence="b", index=i) for i in range(3)]
    rows += [at(lat=47.1), at(lat=47.1)]  # of no sequence
    kept, dropped = run(rows, sequence_spacing=3.0)
    assert [i for i in map(int, kept) if i < 10] == [0, 3, 6, 9]
    assert [i for i in map(int, kept) if i >= 10] == [10, 13, 14]
    assert set(dropped.values()) == {"duplicate_sequence"}


def test_the_order_in_a_sequence_is_its_index_and_not_its_name() -> None:
    rows = [at(lat=47.1 + 1e-4 * i, sequence="a", index=i) for i in (11, 2, 10, 1, 3)]
    kept, _ = run(rows, sequence_spacing=15.0)
    assert [rows[int(i)]["index"] for i in kept] == [10, 1, 3]


@given(
    st.lists(st.tuples(st.floats(-30, 30), st.floats(-30, 30), st.one_of(st.none(), st.integers(0, 359))), max_size=25),
    st.sampled_from([(9.5, 47.1), (180.0, 0.0), (20.0, 80.0), (-60.0, -40.0)]),
)
def test_of_photos_at_one_place_that_look_one_way_the_first_is_kept(
    steps: list[tuple[float, float, int | None]], origin: tuple[float, float]
) -> None:
    rows = []
    for east, north, heading in steps:
        lon, lat, _ = GEOD.fwd(*origin, math.degrees(math.atan2(east, north)), math.hypot(east, north))
        rows.append(at(lon, lat, heading=heading))
    kept, dropped = run(rows, spacing=12.0)
    chosen: list[int] = []
    unsure = False
    order = sorted(range(len(rows)), key=str)  # as ids sort
    for i in order:
        near = False
        for j in chosen:
            metres = GEOD.inv(rows[i]["lon"], rows[i]["lat"], rows[j]["lon"], rows[j]["lat"])[2]
            unsure |= abs(metres - 12.0) < 0.15  # the sphere against the ellipsoid
            a, b = rows[i]["heading"], rows[j]["heading"]
            same = a is None or b is None or abs((a - b + 180) % 360 - 180) < LOOKS_APART  # type: ignore[operator]
            near |= metres < 12.0 and same
        if not near:
            chosen.append(i)
    if not unsure:
        assert sorted(map(int, kept)) == sorted(chosen)
        assert set(dropped.values()) <= {"duplicate_place"}
        assert len(kept) + len(dropped) == len(rows)


def test_every_photo_is_either_kept_or_named_once() -> None:
    rng = np.random.default_rng(7)
    rows = [
        at(9.5 + rng.uniform(0, 1e-3), 47.1 + rng.uniform(0, 1e-3), accuracy_m=float(rng.uniform(1, 40)),
           captured_at=f"20{rng.integers(15, 25)}-06-01T{rng.integers(0, 24):02d}:00:00Z",
           sequence=f"s{rng.integers(4)}", index=int(rng.integers(100)), heading=float(rng.uniform(0, 360)))
        for _ in range(300)
    ]  # fmt: skip
    drops = Drops()
    table = placed(rows)
    settings = StreetviewConfig(
        max_accuracy=30, after="2018-01-01", before="2024-01-01", min_sun=5.0, sequence_spacing=5, spacing=5
    )
    kept = filter_photos(table, settings, drops)
    named = [str(r["key"]) for r in drops.rows()]
    assert len(named) == len(set(named))
    assert sorted([*kept.column("id").to_pylist(), *named]) == sorted(table.column("id").to_pylist())
    assert {r["reason"] for r in drops.rows()} == {
        "gps_accuracy", "too_old", "too_new", "night", "duplicate_sequence", "duplicate_place",
    }  # fmt: skip
    assert isinstance(kept, pa.Table)
