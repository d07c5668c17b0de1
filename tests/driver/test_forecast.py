"""What a plan says before anything is fetched: units that people read, and the cap on builds from the web."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pipeline.driver.forecast import _hours, _size
from pipeline.driver.plan import WEB_TILES, with_cap
from pipeline.footprints.sampling import SamplingConfig
from pipeline.samples.config import PlanConfig, ShardsConfig


@pytest.mark.parametrize(
    ("given", "imagery", "most"),
    [
        (None, "earth-search", WEB_TILES), (None, "", 0), (None, "town.tif", 0), (0, "earth-search", 0),
        (7, "earth-search", 7), (7, "town.tif", 7),
    ],
)  # fmt: skip
def test_a_build_from_the_web_is_sampled_unless_a_number_is_given(given: int | None, imagery: str, most: int) -> None:
    config = ShardsConfig(plan=PlanConfig(sampling=SamplingConfig(max_tiles=given, seed=5)))
    capped = with_cap(config, imagery)
    assert capped.plan.sampling.max_tiles == most
    assert replace(capped, plan=config.plan) == config
    assert replace(capped.plan.sampling, max_tiles=given) == config.plan.sampling


@pytest.mark.parametrize(
    ("hours", "said"),
    [
        (0.0, "0.0 core-minutes"), (0.5, "30.0 core-minutes"), (0.99, "59.4 core-minutes"), (1.0, "1.0 core-hours"),
        (1.5, "1.5 core-hours"), (12345.0, "12,345.0 core-hours"),
    ],
)  # fmt: skip
def test_work_is_told_in_minutes_below_an_hour_and_in_hours_from_there(hours: float, said: str) -> None:
    assert _hours(hours) == said


@pytest.mark.parametrize(
    ("count", "said"), [(0, "0.0 MB"), (999e6, "999.0 MB"), (1e9, "1.0 GB"), (2.55e9, "2.5 GB"), (1e13, "10,000.0 GB")]
)
def test_sizes_are_told_in_megabytes_below_a_gigabyte(count: float, said: str) -> None:
    assert _size(count) == said
