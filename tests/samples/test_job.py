"""Which OSM snapshot belongs to an image."""

from __future__ import annotations

import pytest

from pipeline.samples.job import ExtractObjects, Snapshot

SNAPSHOTS = [Snapshot(f"{day}T12:00:00Z", day) for day in ("2020-01-01", "2022-01-01", "2024-01-01")]


@pytest.mark.parametrize(
    ("acquired", "day"),
    [
        ("2021-06-01T00:00:00Z", "2020-01-01"), ("2023-06-01T00:00:00Z", "2022-01-01"),
        ("2030-01-01T00:00:00Z", "2024-01-01"),
        ("2022-01-01T12:00:00Z", "2022-01-01"), ("2022-01-01T11:59:59Z", "2020-01-01"),  # at or before
        ("2022-01-01", "2022-01-01"), ("2021-12-31", "2020-01-01"),  # a day lasts to its end
        ("2010-01-01T00:00:00Z", "2020-01-01"),  # older than all
        (None, "2024-01-01"),  # of an unknown time
    ],
)  # fmt: skip
def test_an_image_has_the_last_snapshot_that_is_not_younger(acquired: str | None, day: str) -> None:
    assert ExtractObjects(tuple(SNAPSHOTS), 10).at(acquired).cells == day


def test_a_single_extract_serves_images_of_any_time() -> None:
    for snapshot in (SNAPSHOTS[1], Snapshot(None, "undated")):
        for acquired in ("2010-01-01", "2030-01-01", None):
            assert ExtractObjects((snapshot,), 10).at(acquired) == snapshot
