"""`geoshards shards --region europe` on a mirror of three real countries: whole, once, and going on after kills."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import mercantile
import osmium
import pyarrow.parquet as pq
import pytest

from pipeline.catalog.verify import find_problems
from pipeline.rules import load_rules
from schemas.keys import XyzKey
from storage.dataset import sample_rows
from storage.store import Store
from tests.driver.test_shards import bytes_of
from tests.mirror.server import Mirror
from tests.real.test_downloads import COUNTRIES, ROOT


@pytest.fixture
def mirror(real_file: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Mirror]:
    europe = tmp_path / "mirror" / "geofabrik" / "europe"
    europe.mkdir(parents=True)
    for name, path in COUNTRIES.items():
        (europe / f"{name}-latest.osm.pbf").symlink_to(real_file(path))
    with Mirror(tmp_path / "mirror") as server:
        monkeypatch.setenv("GEOSHARDS_MIRROR", server.url)
        yield server


def command(cache: Path, out: Path, region: str = "europe") -> tuple[list[str], dict[str, str]]:
    flags = {"region": region, "imagery": "none", "streetview": "none", "zoom": "13", "out": str(out), "workers": "1"}
    words = [sys.executable, "-m", "pipeline.cli.main", "shards", "--quiet"]
    words += [f"--{name}={value}" for name, value in flags.items()]
    words += ["tokens.raster=false", "plan.per_shard=16"]
    return words, os.environ | {"GEOSHARDS_CACHE": str(cache)}


def test_europe_is_built_once_however_often_it_is_killed(
    mirror: Mirror, real_file: Callable[[str], Path], tmp_path: Path
) -> None:
    words, env = command(tmp_path / "cache", tmp_path / "whole")
    began = time.monotonic()
    subprocess.run(words, env=env, cwd=ROOT, check=True, timeout=240)
    whole = time.monotonic() - began
    served = mirror.served(".osm.pbf")
    assert served == sum(real_file(p).stat().st_size for p in COUNTRIES.values())

    rng = random.Random(4)
    words, env = command(tmp_path / "cache2", tmp_path / "killed")
    for _ in range(3):
        process = subprocess.Popen(words, env=env, cwd=ROOT)
        time.sleep(rng.uniform(0.2, 0.9) * whole)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    subprocess.run(words, env=env, cwd=ROOT, check=True, timeout=240)
    assert bytes_of(tmp_path / "killed") == bytes_of(tmp_path / "whole")
    assert mirror.served(".osm.pbf") - served <= served + 3 * 3 * (1 << 17)

    rows = list(sample_rows(Store(tmp_path / "whole")))
    keys = [r["key"] for r in rows]
    assert len(keys) == len(set(keys)) > 50
    places = [mercantile.ul(*mercantile.Tile(k.x, k.y, k.zoom)) for k in map(XyzKey.parse, keys)]
    assert {round(p.lng) for p in places} >= {1, 2, 7, 9, 10}  # all three countries
    assert find_problems(str(tmp_path / "whole")) == []


def test_what_neighbours_share_is_there_once(real_file: Callable[[str], Path], tmp_path: Path) -> None:
    """Monaco 2021 and 2023 as two extracts: the newer version of each object, and the older one counted."""
    old, new = (real_file(f"osm/monaco/monaco_{d}.osm.pbf") for d in ("2021-04-21", "2023-12-25"))
    words, env = command(tmp_path / "cache", tmp_path / "both", f"{old},{new}")
    subprocess.run([*words, "name=monaco"], env=env, cwd=ROOT, check=True, timeout=240)
    drops = pq.read_table(tmp_path / "both" / "catalog" / "drops" / "before-tiles.parquet").to_pylist()
    repeated = Counter[str]()
    for row in drops:
        if row["reason"] == "repeated_in_extracts":
            repeated[row["source"]] += row["count"]
    kept, rules = [], load_rules()
    for path in (old, new):
        things = osmium.FileProcessor(str(path))
        kept.append({(o.type_str(), o.id): o.version for o in things if any(rules.tags.keeps(t.k) for t in o.tags)})
    assert all(kept[1][k] >= kept[0][k] for k in kept[0].keys() & kept[1].keys())
    there = {(o.type_str(), o.id) for o in osmium.FileProcessor(str(new))}
    assert repeated == {old.name: len(kept[0].keys() & there)}  # of equal versions the newer extract's counts
