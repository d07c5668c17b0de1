"""One shard from its inputs: what its samples hold is told with its licences, and what becomes no sample is a drop."""

from __future__ import annotations

import io
import json
import tarfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipeline.imagery.config import ImageryConfig
from pipeline.imagery.sources import find_imagery
from pipeline.net.config import NetConfig
from pipeline.samples.config import PlanConfig, ShardsConfig
from pipeline.samples.job import ExtractObjects, ShardJob
from pipeline.samples.work import build_shard
from schemas.catalog import pending_file, shard_name
from schemas.footprint import Footprint, Footprints
from schemas.sample import valid_member
from storage.store import Store
from tests.imagery.scenes import around, write_raster
from tests.osm.opl import RULES
from tests.samples.shards import extract

#: Squares of 0.001 degrees from west to east.
SQUARES = [Footprint(f"s{k}", "EPSG:4326", (1e-5, 0, 9.5 + k / 1000, 0, -1e-5, 47.101), 100, 100) for k in range(5)]


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> ShardJob:
    """Two sheets that meet within ``s1``; objects in ``s0`` and ``s1``; ``s3`` and ``s4`` have no image."""
    folder = tmp_path_factory.mktemp("work")
    for name, lon, licence in (("a", 9.5005, "CC-BY-4.0"), ("b", 9.5025, "CC0-1.0")):
        where = around(lon, 47.1005, "EPSG:4326", 200, 200, 1e-5)
        write_raster(
            folder / f"{name}.tif", np.full((3, 200, 200), 9, np.uint8), "EPSG:4326", where, tags={"LICENSE": licence}
        )
    rs = ImageryConfig(resampling="nearest", format="png")
    scenes, _ = find_imagery(f"{folder}/*.tif", [], rs, NetConfig(retries=0))
    cells = extract(folder / "osm", [(1, 9.5004, 47.1004, "natural=tree"), (2, 9.5014, 47.1004, "natural=tree")])
    return ShardJob(
        "", 0, Footprints.of(SQUARES, "xyz"), ShardsConfig(rs=rs, plan=PlanConfig(min_objects=0)), RULES.paint,
        ExtractObjects((cells,), 10), {"osm": "ODbL-1.0", "rs": "CC-BY-SA-4.0"}, scenes, True,
    )  # fmt: skip


def built(job: ShardJob, out: Path) -> tuple[dict[str, list[str]], list[tuple[Any, ...]]]:
    """Licences of each sample, and key, stage and reason of each drop."""
    result, store = build_shard(replace(job, out=str(out))), Store(str(out))
    samples, drops = (store.read_table(pending_file(t, 0)).to_pylist() for t in ("samples", "drops"))
    assert (result.planned, result.samples, result.drops) == (5, len(samples), len(drops))
    return {s["key"]: s["licences"] for s in samples}, [(d["key"], d["stage"], d["reason"]) for d in drops]


def documents(out: Path) -> list[dict[str, Any]]:
    """The JSON document of each sample of the first shard."""
    with tarfile.open(out / "shards" / f"{shard_name(0)}.tar") as tar:
        members = [m for m in tar.getmembers() if m.name.endswith(".json")]
        return [json.loads(tar.extractfile(m).read()) for m in members]  # type: ignore[union-attr]


def test_a_sample_says_when_its_own_objects_were_last_edited(job: ShardJob, tmp_path: Path) -> None:
    built(job, tmp_path)
    found = {d["footprint"]["key"]: d["osm_edited"] for d in documents(tmp_path)}
    assert found == {"s0": "2024-06-01T00:00:00Z", "s1": "2024-06-01T00:00:00Z", "s2": None}


def test_a_sample_has_the_licences_of_all_that_is_in_it_and_no_others(job: ShardJob, tmp_path: Path) -> None:
    found, drops = built(job, tmp_path)
    assert found == {
        "s0": ["CC-BY-4.0", "ODbL-1.0"], "s1": ["CC-BY-4.0", "CC0-1.0", "ODbL-1.0"], "s2": ["CC0-1.0"],
    }  # fmt: skip
    assert sorted(drops) == [("s3", "samples", "nodata"), ("s4", "samples", "no_imagery")]


def test_the_settings_licence_takes_the_place_of_those_that_files_state_and_the_regions_of_none(
    job: ShardJob, tmp_path: Path
) -> None:
    setting = replace(job, config=replace(job.config, rs=replace(job.config.rs, licence="MIT")))
    assert {x for own in built(setting, tmp_path / "a")[0].values() for x in own} == {"MIT", "ODbL-1.0"}
    silent = replace(job, scenes=[replace(s, licence=None) for s in job.scenes])
    assert {x for own in built(silent, tmp_path / "b")[0].values() for x in own} == {"CC-BY-SA-4.0", "ODbL-1.0"}


@pytest.fixture
def thirds(job: ShardJob, tmp_path: Path) -> Path:
    """A shard of one sample of three pixels in a row, of which the last two have no image."""
    step = 1e-3 / 3
    row = Footprint("t", "EPSG:4326", (step, 0, 9.5035 - step, 0, -step, 47.1005), 3, 1)
    rs = replace(job.config.rs, max_nodata=1.0)
    own = replace(job, out=str(tmp_path), footprints=Footprints.of([row], "xyz"), config=replace(job.config, rs=rs))
    assert build_shard(own).samples == 1
    return tmp_path


def test_no_number_of_a_sample_s_document_has_more_than_nine_decimals(thirds: Path) -> None:
    """1e-9 of a degree is 0.1 mm; the footprint alone is what was asked for, digit by digit."""
    (document,) = documents(thirds)
    assert document.pop("footprint")["transform"][0] == 1e-3 / 3
    assert document["rs"][0]["nodata_share"] == 0.666666667
    numbers: list[float] = []
    json.loads(json.dumps(document), parse_float=lambda text: numbers.append(float(text)))
    assert len(numbers) > 8
    assert [n for n in numbers if n != round(n, 9)] == []


def test_an_image_that_lacks_pixels_has_a_picture_of_those_it_has(thirds: Path) -> None:
    with tarfile.open(thirds / "shards" / f"{shard_name(0)}.tar") as tar:
        data = tar.extractfile(f"t.{valid_member('rs.png')}").read()  # type: ignore[union-attr]
    assert (np.asarray(Image.open(io.BytesIO(data))) > 0).tolist() == [[True, False, False]]


def test_a_footprint_with_too_few_objects_is_a_drop_that_says_so(job: ShardJob, tmp_path: Path) -> None:
    found, drops = built(replace(job, config=replace(job.config, plan=PlanConfig(min_objects=1))), tmp_path)
    assert set(found) == {"s0", "s1"}
    assert sorted(drops) == [
        ("s2", "samples", "too_few_objects"), ("s3", "samples", "nodata"), ("s4", "samples", "no_imagery"),
    ]  # fmt: skip
