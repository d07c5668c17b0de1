"""Dated extracts and histories: each image gets the OSM data of its own time."""

from __future__ import annotations

import random
import shutil
import subprocess
from datetime import UTC, datetime
from pathlib import Path

import mercantile
import numpy as np
import osmium
import pytest
import rasterio
from hypothesis import given
from hypothesis import strategies as st

from pipeline.driver.shards import make_shards
from pipeline.imagery.config import ImageryConfig
from pipeline.osm.extracts.history import cut_history, is_history, versions_at
from pipeline.samples.config import PlanConfig, ShardsConfig
from schemas.errors import ConfigError
from schemas.sample import OSM_TOKENS
from schemas.tokens import OsmTokens
from storage.dataset import read_catalog, read_samples, sample_rows
from storage.store import Store

#: Four tiles of zoom 18; the images are of zoom 16 tiles beside each other.
WEST = mercantile.Tile(34500, 22970, 16)
EAST = mercantile.Tile(34501, 22970, 16)


def image(path: Path, tile: mercantile.Tile, when: str) -> Path:
    """A raster that is one tile, with its time."""
    transform = rasterio.transform.from_bounds(*mercantile.xy_bounds(tile), 256, 256)
    with rasterio.open(path, "w", "GTiff", 256, 256, 3, "EPSG:3857", transform, "uint8", photometric="RGB") as target:
        target.write(np.full((3, 256, 256), 90, np.uint8))
        target.update_tags(TIFFTAG_DATETIME=when, LICENSE="CC0-1.0")
    return path


def node(number: int, tile: mercantile.Tile, when: str, tag: str, version: int = 1, deleted: bool = False) -> str:
    """One OPL line: a node near the middle of a tile."""
    box = mercantile.bounds(tile)
    lon, lat = (box.west + box.east) / 2 + 1e-5 * number, (box.south + box.north) / 2
    return f"n{number} v{version} d{'D' if deleted else 'V'} c1 t{when}Z i1 utest T{tag} x{lon:.7f} y{lat:.7f}"


def tags_of(store: Store) -> dict[str, tuple[set[int], str]]:
    """OSM ids and time by key."""
    rows = sample_rows(store)
    times = {r["key"]: r["osm_time"] for r in rows}
    return {
        r["key"]: (set(OsmTokens.from_bytes(m[OSM_TOKENS]).osm_id.tolist()), times[r["key"]])
        for r, m in read_samples(store, rows)
    }


def both_images(tmp_path: Path) -> str:
    """The western one of 2021, the eastern one of 2024."""
    west = image(tmp_path / "west.tif", WEST, "2021:06:01 10:00:00")
    return f"{west},{image(tmp_path / 'east.tif', EAST, '2024:06:01 10:00:00')}"


def config_of(tmp_path: Path, region: str, snapshots: str = "image") -> ShardsConfig:
    return ShardsConfig(
        region=region, imagery=both_images(tmp_path), zoom=16, out=str(tmp_path / "out"), workers=1,
        cache=str(tmp_path / "cache"), plan=PlanConfig(min_objects=0, snapshots=snapshots), rs=ImageryConfig(),
    )  # fmt: skip


def test_each_image_gets_the_last_extract_that_is_not_younger(tmp_path: Path) -> None:
    old = [node(1, WEST, "2020-01-01T00:00:00", "natural=tree"), node(2, EAST, "2020-01-01T00:00:00", "natural=tree")]
    new = [line.replace("v1 ", "v2 ").replace("2020-", "2023-").replace("tree", "peak") for line in old]
    new += [node(n, t, "2023-02-01T00:00:00", "amenity=bench") for n, t in ((3, WEST), (4, EAST))]
    (tmp_path / "a2020.opl").write_text("\n".join(old) + "\n")
    (tmp_path / "b2023.opl").write_text("\n".join(new) + "\n")
    make_shards(config_of(tmp_path, f"{tmp_path}/b2023.opl,{tmp_path}/a2020.opl"), quiet=True)
    store = Store(tmp_path / "out")
    found = tags_of(store)
    assert found[f"xyz-16-{WEST.x}-{WEST.y}-256"] == ({1}, "2020-01-01T00:00:00Z")
    assert found[f"xyz-16-{EAST.x}-{EAST.y}-256"] == ({2, 4}, "2023-02-01T00:00:00Z")
    assert set(read_catalog(store, "vocabulary")["text"].to_pylist()) == {
        "natural:tree",
        "natural:peak",
        "amenity:bench",
    }


def test_a_history_is_cut_for_each_image(tmp_path: Path) -> None:
    lines = [
        node(1, WEST, "2020-01-01T00:00:00", "natural=tree"),
        node(1, WEST, "2022-01-01T00:00:00", "natural=tree", 2, deleted=True),
        node(2, EAST, "2020-01-01T00:00:00", "natural=tree"),
        node(3, EAST, "2023-01-01T00:00:00", "amenity=bench"),
        node(4, WEST, "2023-01-01T00:00:00", "amenity=bench"),
    ]
    (tmp_path / "town.osh.opl").write_text("\n".join(lines) + "\n")
    make_shards(config_of(tmp_path, f"{tmp_path}/town.osh.opl"), quiet=True)
    found = tags_of(Store(tmp_path / "out"))
    assert found[f"xyz-16-{WEST.x}-{WEST.y}-256"][0] == {1}
    assert found[f"xyz-16-{EAST.x}-{EAST.y}-256"][0] == {2, 3}


def test_images_without_a_time_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.opl").write_text(node(1, WEST, "2020-01-01T00:00:00", "natural=tree") + "\n")
    config = ShardsConfig(
        region=f"{tmp_path}/a.opl", zoom=16, out=str(tmp_path / "out"), workers=1, cache=str(tmp_path / "cache"),
        plan=PlanConfig(snapshots="image"),
    )  # fmt: skip
    with pytest.raises(ConfigError, match=r"no image has one; set rs\.acquired"):
        make_shards(config, quiet=True)


VERSIONS = st.lists(
    st.lists(st.tuples(st.integers(1, 30), st.booleans()), min_size=1, max_size=5), min_size=0, max_size=6
)


@given(VERSIONS, st.lists(st.integers(0, 32), min_size=1, max_size=4), st.randoms(use_true_random=False))
def test_the_map_at_a_time_has_the_highest_version_of_each_object_that_is_there_in_any_order_of_the_file(
    objects: list[list[tuple[int, bool]]], ends: list[int], dice: random.Random
) -> None:
    rows = [(number, version, *row) for number, own in enumerate(objects) for version, row in enumerate(own)]
    dice.shuffle(rows)
    rank = np.array([10 * number + version for number, version, _, _ in rows], np.int64)
    seconds, deleted = np.array([r[2] for r in rows], float), np.array([r[3] for r in rows], bool)
    found = versions_at(rank, seconds, deleted, np.array(ends, float))
    for d, end in enumerate(ends):
        newest = {number: max(v for v, (when, _) in enumerate(own) if when <= end)
                  for number, own in enumerate(objects) if any(when <= end for when, _ in own)}  # fmt: skip
        expected = {(n, v) for n, v in newest.items() if not objects[n][v][1]}
        assert {rows[i][:2] for i in np.flatnonzero(found[:, d])} == expected


def test_a_history_out_of_order_is_cut_as_one_in_order(tmp_path: Path) -> None:
    """Versions of an object may fall, and others may stand between them."""
    lines = [
        node(1, WEST, "2022-01-01T00:00:00", "natural=tree,ref=2", 2),
        node(1, WEST, "2020-01-01T00:00:00", "natural=tree,ref=1", 1),
        node(3, EAST, "2020-01-01T00:00:00", "amenity=bench"),
        node(2, EAST, "2020-01-01T00:00:00", "amenity=bench"),
        node(3, EAST, "2021-01-01T00:00:00", "", 2, deleted=True),
    ]
    (tmp_path / "h.osh.opl").write_text("\n".join(lines) + "\n")
    ends = {str(y): datetime(y, 6, 1, tzinfo=UTC) for y in (2019, 2020, 2021, 2022)}
    found = cut_history(tmp_path / "h.osh.opl", ends, tmp_path / "cut")
    held = [sorted((o.id, o.version) for o in osmium.FileProcessor(str(p))) for p in found]
    assert held == [[], [(1, 1), (2, 1), (3, 1)], [(1, 1), (2, 1)], [(1, 2), (2, 1)]]


@pytest.mark.skipif(shutil.which("osmium") is None, reason="osmium-tool is not installed")
def test_a_snapshot_is_what_osmium_time_filter_gives(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    lines = []
    for number in range(1, 80):
        years = np.sort(rng.choice(np.arange(2010, 2025), rng.integers(1, 5), replace=False))
        for version, year in enumerate(years.tolist(), 1):
            gone = version > 1 and rng.random() < 0.3
            tag = f"natural=tree,ref={version}"
            lines.append(node(number, WEST, f"{year}-03-01T00:00:00", "" if gone else tag, version, gone))
    history = tmp_path / "h.osh.opl"
    history.write_text("\n".join(lines) + "\n")
    assert is_history(history)
    ends = {str(y): datetime(y, 6, 1, tzinfo=UTC) for y in (2012, 2018, 2024)}
    for path, (name, end) in zip(cut_history(history, ends, tmp_path / "cut"), ends.items(), strict=True):
        oracle = tmp_path / f"{name}.osm.pbf"
        when = end.strftime("%Y-%m-%dT%H:%M:%SZ")
        subprocess.run(["osmium", "time-filter", str(history), when, "-o", str(oracle)], check=True)
        versions = [[(o.id, o.version) for o in osmium.FileProcessor(str(p))] for p in (path, oracle)]
        assert versions[0] == versions[1]
        assert versions[0]
