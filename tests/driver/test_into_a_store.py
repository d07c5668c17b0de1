"""A build by two workers into an object store, which others list while it is written."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.catalog.verify import find_problems
from pipeline.driver.repair import repair
from pipeline.driver.shards import make_shards
from schemas.errors import InputError
from storage.dataset import load_dataset
from storage.store import Store
from tests.buckets import s3_server
from tests.driver.test_shards import bytes_of, config_of
from tests.driver.village import Village

ROOT = Path(__file__).resolve().parents[2]


def test_two_workers_leave_in_a_bucket_what_one_leaves_on_a_disk(village: Village, tmp_path: Path) -> None:
    alone = make_shards(config_of(village, tmp_path / "alone"), quiet=True)
    words = [
        sys.executable, "-m", "pipeline.cli.main", "shards", f"region={village.osm}", f"imagery={village.imagery}",
        f"streetview={village.photos}", "zoom=18", "size=128", "workers=2", "plan.per_shard=10", "out=s3://bucket/v",
        "--quiet",
    ]  # fmt: skip
    with s3_server("bucket") as fs:
        ran = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False, timeout=240)
        assert ran.returncode == 0, ran.stderr
        assert find_problems("s3://bucket/v") == []
        document = load_dataset(Store("s3://bucket/v"))
        assert [document[n] for n in ("content_hash", "layout_hash")] == [
            alone.document[n] for n in ("content_hash", "layout_hash")
        ]
        assert not fs.exists("bucket/v/.lock")
        assert [n for n in fs.find("bucket/v") if "/." in n] == []


def test_a_cache_in_a_bucket_is_enough_for_a_repair_on_another_machine(
    village: Village, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    extract = tmp_path / village.osm.name
    shutil.copy(village.osm, extract)
    cache, out = "s3://bucket/cache", tmp_path / "out"
    with s3_server("bucket") as fs:
        monkeypatch.setenv("GEOSHARDS_CACHE", str(tmp_path / "one"))
        make_shards(config_of(village, out, region=str(extract), cache=cache, streetview="none"), quiet=True)
        whole = bytes_of(out)
        shutil.rmtree(tmp_path / "one")
        extract.unlink()
        monkeypatch.setenv("GEOSHARDS_CACHE", str(tmp_path / "another"))
        repair(str(out), ["shards/part-0000000.tar"], 1, cache, quiet=True)
        assert bytes_of(out) == whole
        shutil.rmtree(tmp_path / "another")
        fs.rm("bucket/cache/inputs-held", recursive=True)
        with pytest.raises(InputError, match="is gone"):
            repair(str(out), ["shards/part-0000000.tar"], 1, cache, quiet=True)
