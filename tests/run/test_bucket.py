"""A cluster whose nodes share nothing but a bucket: what it builds is what one process builds."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.driver.plan import make_plan
from pipeline.driver.shards import make_shards
from pipeline.footprints.config import PlanConfig
from pipeline.osm.extracts.read import as_pbf
from pipeline.run.ray_map import Runner
from pipeline.samples.config import ShardsConfig
from tests.buckets import s3_server
from tests.driver.test_shards import bytes_of
from tests.osm.opl import write_opl
from tests.run.nodes import apart, nodes

ROOT = Path(__file__).resolve().parents[2]
#: Roads of a country, and places along one; tiles of zoom 17 are 210 m wide there.
_ROWS, _HOUSES = 10, 14
#: Shards that are there when nodes come and go.
_FIRST = 5


def write_country(folder: Path, name: str, first: int, west: float) -> Path:
    """Houses along roads on 3 km × 3 km."""
    nodes_: list[tuple[int, float, float, str]] = []
    ways: list[tuple[int, list[int], str]] = []
    rng = np.random.default_rng(first)

    def add(lon: float, lat: float, tags: str = "") -> int:
        nodes_.append((first + len(nodes_), lon, lat, tags))
        return nodes_[-1][0]

    for k in range(_ROWS):
        lat = 47.1 + k * 0.003
        road = [add(west + i * 0.003, lat + rng.normal() * 1e-5) for i in range(_HOUSES)]
        ways.append((first + len(ways), road, "highway=residential,name=Weg"))
        for i in range(_HOUSES - 1):
            lon, base, s = west + i * 0.003 + 5e-4, lat + 3e-4, 1e-4
            ring = [add(lon, base), add(lon + s, base), add(lon + s, base + s), add(lon, base + s)]
            ways.append((first + len(ways), [*ring, ring[0]], f"building=house,height={i % 3}"))
            if i % 4 == 0:
                add(lon + s / 2, base + s / 2, "amenity=cafe")
    opl = write_opl(folder / f"{name}.opl", nodes_, ways)
    pbf, _ = as_pbf(opl, folder)
    return pbf.rename(folder / f"{name}.osm.pbf")


@dataclass
class Bucket:
    """A store with two countries, and how often each file of theirs was asked for whole."""

    name: str
    fs: Any = None
    asked: Counter[str] = field(default_factory=Counter)
    most: int = 1 << 30  # shards of the cluster's that are let in; others wait
    waiting: set[str] = field(default_factory=set)  # of those that do, the sources
    lock: threading.Lock = field(default_factory=threading.Lock)

    def pass_by(self, method: str, path: str) -> str:
        """Note whole files of countries that are asked for; let so many shards in."""
        name = path.partition("?")[0].rpartition("/")[2]
        with self.lock:
            if method == "GET" and path.startswith(f"/{self.name}/in/") and name.endswith(".osm.pbf"):
                self.asked[name] += 1
            if method != "PUT" or not path.startswith(f"/{self.name}/out/shards/"):
                return ""
            self.most -= 1
            if self.most >= 0:
                return ""
            self.waiting.add(name)
        while self.most < 0:
            time.sleep(0.05)
        return ""

    def shards(self) -> int:
        """Shards of the cluster's dataset that are there."""
        self.fs.invalidate_cache()
        found = self.fs.glob(f"{self.name}/out/shards/*.tar")
        return len(found)

    def copied(self, folder: Path) -> Path:
        """The cluster's dataset, on this disk."""
        self.fs.invalidate_cache()
        self.fs.get(f"{self.name}/out/", str(folder), recursive=True)
        return folder


@contextmanager
def bucket(folder: Path, called: str) -> Iterator[Bucket]:
    """The store; its server lies behind `Bucket.pass_by`."""
    store = Bucket(called)
    with s3_server(called, store.pass_by) as fs:
        store.fs = fs
        for name, first, west in (("east", 1, 9.5), ("west", 100_001, 9.461)):
            fs.put_file(str(write_country(folder, name, first, west)), f"{called}/in/{name}.osm.pbf")
        yield store


def config_of(called: str, **settings: str) -> ShardsConfig:
    """Of a build from the bucket of that name."""
    return ShardsConfig(
        region=f"s3://{called}/in/east.osm.pbf,s3://{called}/in/west.osm.pbf", name="two", imagery="none",
        streetview="none", zoom=17, workers=1, plan=PlanConfig(per_shard=16), **settings,
    )  # fmt: skip


def test_a_cache_in_a_bucket_gives_the_bytes_of_one_on_a_disk(tmp_path: Path) -> None:
    with bucket(tmp_path, "alone") as store:
        make_shards(config_of("alone", out=str(tmp_path / "disk"), cache=str(tmp_path / "cache")), quiet=True)
        config = config_of("alone", out="s3://alone/out", cache="s3://alone/cache")
        make_shards(config, quiet=True)
        assert bytes_of(store.copied(tmp_path / "copied")) == bytes_of(tmp_path / "disk")
        again = make_plan(config, Runner(1), quiet=True)
        assert {"features", "vocabulary"} <= {row.stage for row in again.stages if row.cached}
        assert store.asked == {"east.osm.pbf": 2, "west.osm.pbf": 2}  # once for the disk, once for the bucket
        assert not [name for name in store.fs.find("alone/cache") if "/.work" in name or "/slabs/" in name]


def test_two_countries_are_built_while_a_node_joins_one_is_lost_and_the_driver_dies(tmp_path: Path) -> None:
    """Nodes see folders of their own alone; each process of a node and the driver end by SIGKILL."""
    if apart() is None:
        pytest.skip("the kernel lets nobody have mounts of his own, so nodes could share a folder unseen")
    words = [
        sys.executable, "-m", "pipeline.cli.main", "shards", f"region={config_of('shared').region}", "name=two",
        "imagery=none", "streetview=none", "zoom=17", "plan.per_shard=16", "out=s3://shared/out",
        "cache=s3://shared/cache", "--quiet",
    ]  # fmt: skip
    with bucket(tmp_path, "shared") as store:
        make_shards(config_of("shared", out=str(tmp_path / "alone"), cache=str(tmp_path / "cache")), quiet=True)
        store.asked.clear()
        variables = {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
        variables |= {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
        with nodes(variables, ["head", "lost", "late"]) as cluster:
            cluster.start("head", 1)
            cluster.start("lost", 1)

            def worked(name: str) -> bool:
                return any((cluster.root / name / "cache" / "copies").glob("*/cells-*"))

            store.most = _FIRST
            driver = cluster.run("head", words)
            cluster.wait(lambda: len(store.waiting) == 2 or driver.poll() is not None, "a shard of each node")
            assert driver.poll() is None, driver.communicate()[0]
            cluster.start("late", 1)
            cluster.wait(lambda: len(store.waiting) == 3, "a shard of the node that has joined")
            assert worked("lost")
            cluster.kill("lost")
            cluster.kill("head: command")
            assert store.shards() == _FIRST
            store.most = 1 << 30
            driver = cluster.run("head", words)
            said, _ = driver.communicate(timeout=240)
            assert driver.returncode == 0, said
            assert worked("late")
        assert bytes_of(store.copied(tmp_path / "copied")) == bytes_of(tmp_path / "alone")
        assert store.asked == {"east.osm.pbf": 1, "west.osm.pbf": 1}
