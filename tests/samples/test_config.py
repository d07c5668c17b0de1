"""Settings of a build: each has its range, and what lies just beyond it is refused by its name."""

from __future__ import annotations

from typing import Any

import pytest

from pipeline.samples.config import ShardsConfig
from schemas.config import build, content, key_paths, merge
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


def test_where_things_are_fetched_from_is_no_part_of_what_is_made() -> None:
    made = [
        path for path in flat(content(ShardsConfig())) if path.endswith(("_url", "url", "token", "retries", "workers"))
    ]
    assert made == ["rs.stac_url", "rs.xyz_url"]  # which say what images there are
    assert "sv.kartaview_url" in key_paths(ShardsConfig)


def flat(values: dict[str, Any], before: str = "") -> list[str]:
    groups = [(f"{before}{name}", value) for name, value in values.items()]
    return [p for name, v in groups for p in (flat(v, f"{name}.") if isinstance(v, dict) else [name])]
