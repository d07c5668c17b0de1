"""What a dataset is made from: every part of it counts, and a run that would make another is told which."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest

from pipeline.driver.run import Identity
from pipeline.samples.config import ShardsConfig
from schemas.config import content

SOURCE = {"kind": "osm", "name": "a.pbf", "sha256": "1", "licence": "ODbL-1.0", "date": None}
MINE = Identity({"size": 256, "rs": {"quality": 90}}, [SOURCE], "footprints", {"numpy": "2"})


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"config": {"size": 256, "rs": {"quality": 70}}}, "rs.quality (70 there, 90 here)"),
        ({"config": {"size": 256}}, 'rs (null there, {"quality": 90} here)'),
        ({"sources": [SOURCE | {"sha256": "2"}]}, "input a.pbf"),
        ({"sources": [SOURCE | {"licence": "CC0-1.0"}]}, "input a.pbf"),
        ({"sources": [SOURCE, SOURCE | {"name": "b.pbf"}]}, "input b.pbf"),
        ({"footprints": "others"}, "the footprints that are planned"),
        ({"versions": {"numpy": "3"}}, "version of numpy"),
    ],
)
def test_another_part_is_another_dataset_and_named(change: dict[str, Any], said: str) -> None:
    other = dataclasses.replace(MINE, **change)
    assert other.fingerprint != MINE.fingerprint
    assert MINE.differs(other.as_dict()) == said
    assert (other.salt == MINE.salt) == (not change.keys() & {"config", "versions"})


def test_an_identity_survives_json() -> None:
    assert json.loads(json.dumps(MINE.as_dict())) == MINE.as_dict()
    assert MINE.as_dict()["fingerprint"] == MINE.fingerprint


def test_settings_that_say_how_and_from_where_are_no_part_of_a_dataset() -> None:
    """Written down again: a setting that joins or leaves this list changes which runs go on with which datasets."""
    every, kept = dataclasses.asdict(ShardsConfig()), content(ShardsConfig())
    assert every.keys() - kept.keys() == {
        "region", "name", "imagery", "streetview", "out", "workers", "cache", "rules", "sources", "net",
    }  # fmt: skip
    groups = {name: own for name, own in kept.items() if isinstance(own, dict)}
    left = {f"{group}.{name}" for group, own in groups.items() for name in every[group].keys() - own.keys()}
    assert left == {
        "chips.folder", "plan.ask_gb", "plan.max_tiles", "rs.max_items", "sv.kartaview_url", "sv.mapillary_tiles_url",
        "sv.mapillary_url", "sv.panoramax_url",
    }  # fmt: skip
