"""What a dataset is made from: every part of it counts, and a run that would make another is told which."""

from __future__ import annotations

import dataclasses
import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from pipeline.driver.inputs import Inputs, keep_inputs, read_inputs
from pipeline.driver.run import Identity, Run
from pipeline.driver.sources import Region
from pipeline.osm.stage import Features
from pipeline.samples.config import ShardsConfig
from schemas.config import content
from schemas.errors import DatasetError, InputError
from storage.files import file_sha256
from storage.store import Store

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


OTHER = dataclasses.replace(MINE, config={"size": 512, "rs": {"quality": 90}})


def begin(folder: Path, identity: Identity = MINE, shard: bool = True) -> None:
    """A run that is stopped after its first shard, or before it."""
    with suppress(KeyboardInterrupt), Run(Store(folder), "n", identity, 0.0).writing():
        if shard:
            Store(folder).write("shards/part-0000000.tar", b"")
        raise KeyboardInterrupt


def test_the_run_that_began_a_folder_goes_on_with_it_and_another_is_told_in_what_it_differs(tmp_path: Path) -> None:
    begin(tmp_path)
    with (
        pytest.raises(DatasetError, match=r"size \(256 there, 512 here\); choose another out"),
        Run(Store(tmp_path), "n", OTHER, 0.0).writing(),
    ):
        pass
    begin(tmp_path)
    with Run(Store(tmp_path), "n", MINE, 0.0).writing():
        pass
    assert not (tmp_path / "catalog/.pending/run.json").exists()


def test_a_folder_of_shards_that_nobody_says_what_they_are_of_is_left_alone(tmp_path: Path) -> None:
    Store(tmp_path).write("shards/part-0000000.tar", b"")
    with pytest.raises(DatasetError, match="which it does not say"), Run(Store(tmp_path), "n", MINE, 0.0).writing():
        pass


def test_a_run_that_was_stopped_before_its_first_shard_claims_nothing(tmp_path: Path) -> None:
    begin(tmp_path, shard=False)
    begin(tmp_path, OTHER)
    with pytest.raises(DatasetError, match="another dataset"), Run(Store(tmp_path), "n", MINE, 0.0).writing():
        pass


@pytest.fixture
def made_from(tmp_path: Path) -> tuple[Path, Inputs]:
    """An extract, and what is remembered of a dataset that was made from it."""
    extract = tmp_path / "a.osm.pbf"
    extract.write_bytes(b"old")
    config = ShardsConfig(cache=str(tmp_path / "cache"), workers=3, out="there", zoom=14)
    features = Features(tmp_path, [], [extract.name], [file_sha256(extract)], [], None, 0)
    keep_inputs("f" * 64, config, Region("n", [extract]), features)
    return extract, read_inputs("f" * 64, config.cache)


def test_what_a_dataset_was_made_from_is_remembered_but_not_how_it_was_run(
    made_from: tuple[Path, Inputs], tmp_path: Path
) -> None:
    extract, inputs = made_from
    assert inputs.config == ShardsConfig(cache=str(tmp_path / "cache"), zoom=14)
    assert inputs.region == Region("n", [extract.resolve()])


def test_an_extract_is_found_where_its_bytes_are_the_same(made_from: tuple[Path, Inputs]) -> None:
    extract, inputs = made_from
    extract.unlink()
    extract.write_bytes(b"new")
    assert inputs.base(0).read_bytes() == b"old"  # the cache keeps it
    kept = inputs.base(0)
    kept.unlink()
    kept.write_bytes(b"damaged")
    with pytest.raises(InputError, match=r"a\.osm\.pbf has changed, .*give a newer extract"):
        inputs.base(0)
    extract.write_bytes(b"old")
    assert inputs.base(0) == extract.resolve()
