"""Settings of a build: each has its range, and what lies just beyond it is refused by its name."""

from __future__ import annotations

import pytest

from pipeline.samples.config import ShardsConfig
from schemas.config import build, merge
from schemas.errors import ConfigError

RANGES = {
    "zoom": (0, 22), "size": (16, 4096), "workers": (0, None), "demo.scale": (1, 100), "osm.min_tag_count": (1, None),
    "osm.min_key_count": (1, None),
}  # fmt: skip


@pytest.mark.parametrize("name", RANGES)
def test_a_setting_may_be_the_ends_of_its_range_and_nothing_beyond(name: str) -> None:
    for value, step in zip(RANGES[name], (-1, 1), strict=True):
        if value is not None:
            build(ShardsConfig, merge({}, [f"{name}={value}"]))
            with pytest.raises(ConfigError, match=name):
                build(ShardsConfig, merge({}, [f"{name}={value + step}"]))


def test_a_build_takes_every_core_unless_it_is_told_otherwise() -> None:
    assert ShardsConfig().workers == 0
