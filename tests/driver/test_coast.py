"""A dataset at a coast: what is said of a coastline that is broken, and of rasters that are not made."""

from __future__ import annotations

from pathlib import Path

from pipeline.driver.shards import make_shards
from pipeline.samples.config import ShardsConfig
from pipeline.tokens.config import TokensConfig
from storage.dataset import read_catalog, sample_rows
from storage.store import Store
from tests.osm.opl import opl
from tests.tokens.test_seen import TILE, buoy, opl_of, westward


def dataset(folder: Path, raster: bool) -> Store:
    """Tiles along a coastline with a gap in the middle one."""
    ways = [westward(0.5, 0.6, 2.5), westward(0.5, -1.5, 0.4), buoy(0.1, 0.1)]
    path = folder / "coast.opl"
    path.write_text(opl(opl_of(ways)))
    config = ShardsConfig(
        region=str(path), zoom=TILE.zoom, size=64, out=str(folder / str(raster)), workers=1,
        cache=str(folder / "cache"), tokens=TokensConfig(raster=raster),
    )  # fmt: skip
    return Store(make_shards(config, quiet=True).out)


def test_a_sample_with_a_broken_coastline_is_kept_and_named(tmp_path: Path) -> None:
    store = dataset(tmp_path, True)
    keys = {r["key"] for r in sample_rows(store)}
    drops = read_catalog(store, "drops").to_pylist()
    named = {d["key"] for d in drops if d["reason"] == "coastline_broken"}
    assert named < keys
    assert f"{TILE}" in named
    stops = [d["osm_id"] for d in drops if d["reason"] == "coastline_stops"]
    assert sorted(stops) == [1, 1, 2, 2]  # both ends of either


def test_a_dataset_without_rasters_has_no_classes(tmp_path: Path) -> None:
    store = dataset(tmp_path, False)
    assert read_catalog(store, "classes").num_rows == 0
    assert "osm.png" not in store.read("README.md").decode()
    assert not [d for d in read_catalog(store, "drops").to_pylist() if d["reason"] == "coastline_broken"]
