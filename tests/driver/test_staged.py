"""A build stage by stage, as schedulers run it, writes what one run writes."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.driver.shards import make_shards
from pipeline.driver.staged import run_stage
from pipeline.samples.config import PlanConfig
from schemas.errors import ConfigError, DatasetError
from storage.dataset import load_dataset
from storage.store import Store
from tests.driver.test_shards import bytes_of, config_of
from tests.driver.village import Village


@pytest.fixture(autouse=True)
def small_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("pipeline.catalog.fold", "pipeline.driver.run"):
        monkeypatch.setattr(f"{module}.SHARDS_PER_FILE", 2)


def test_stages_in_any_portions_write_the_bytes_of_one_run(village: Village, tmp_path: Path) -> None:
    config = config_of(village, tmp_path / "whole", plan=PlanConfig(per_shard=8))
    make_shards(config, quiet=True)
    config = config_of(village, tmp_path / "parts", plan=PlanConfig(per_shard=8))
    names = run_stage(config, "plan", quiet=True).facts["items"]
    assert [run_stage(config, "extracts", name, True).facts["extracts"].keys() for name in names] == [{names[0]}]
    numbers = run_stage(config, "features", quiet=True).facts["items"]
    assert len(numbers) > 2
    assert not (tmp_path / "parts").exists()
    for number in reversed(numbers):
        assert run_stage(config, "samples", number, True).rows[-1].items > 0
    assert run_stage(config, "samples", numbers[0], True).rows[-1].items == 0
    done = run_stage(config, "catalog", quiet=True)
    assert bytes_of(tmp_path / "parts") == bytes_of(tmp_path / "whole")
    assert run_stage(config, "samples", quiet=True).rows[-1].items == 0
    assert run_stage(config, "catalog", quiet=True).facts == done.facts
    assert bytes_of(tmp_path / "parts") == bytes_of(tmp_path / "whole")


def test_no_catalog_is_written_of_a_part(village: Village, tmp_path: Path) -> None:
    config = config_of(village, tmp_path / "d", plan=PlanConfig(per_shard=8))
    run_stage(config, "samples", "1", True)
    with pytest.raises(DatasetError, match=r"lacks .* shards, the first part-0000000; run --stage samples first"):
        run_stage(config, "catalog", quiet=True)
    with pytest.raises(DatasetError, match="is not whole"):
        load_dataset(Store(config.out))


@pytest.mark.parametrize(
    ("stage", "only", "reason"),
    [
        ("sampels", "", "did you mean samples"),
        ("samples", "99", "there is no group 99"),
        ("extracts", "monaco", "there is no extract monaco; choose of"),
        ("catalog", "0", "done as a whole"),
    ],
)
def test_an_unknown_stage_or_part_is_named(
    stage: str, only: str, reason: str, village: Village, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=reason):
        run_stage(config_of(village, tmp_path / "d"), stage, only, True)
