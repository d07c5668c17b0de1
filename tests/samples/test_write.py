"""What the catalog says of a shard is what lies in it: splits of the ground, sums over samples, every licence."""

from __future__ import annotations

import math
import tarfile
from pathlib import Path

import pytest

from pipeline.catalog.fold import fold
from schemas.catalog import catalog_file, pending_file
from schemas.footprint import Footprint
from schemas.splits import block_split
from storage.store import Store
from tests.samples.shards import SPLIT, square, write


def test_the_split_of_a_sample_is_that_of_the_block_it_lies_in(tmp_path: Path) -> None:
    """In a grid of blocks about a degree high and wide, no sample near an edge; east is not north."""
    places, expected = [], []
    for row in range(-3, 60, 7):
        columns = max(1, round(360 * math.cos(math.radians(abs(row + 0.5)))))
        for column in range(0, 40, 9):
            places.append(((column + 0.5) * 360 / columns, row + 0.5))
            expected.append(block_split(row, column, SPLIT))
    write(tmp_path, 0, places)
    assert len(set(expected)) == 3
    assert Store(str(tmp_path)).read_table(pending_file("samples", 0))["split"].to_pylist() == expected


def test_the_row_of_a_shard_sums_its_samples_and_bounds_them(tmp_path: Path) -> None:
    result = write(tmp_path, 3, [(9.5, 47.1), (9.7, 46.9), (9.6, 47.5)], drops=2)
    store = Store(str(tmp_path))
    (row,) = store.read_table(pending_file("shards", 3)).to_pylist()
    counts = {name: row[name] for name in ("n_rs", "n_point", "n_line", "n_polygon", "n_edges", "n_streetview")}
    assert counts == {"n_rs": 0, "n_point": 3, "n_line": 6, "n_polygon": 9, "n_edges": 12, "n_streetview": 3}
    assert tuple(row["bbox"].values()) == pytest.approx((9.49, 46.895, 9.71, 47.505))
    assert (row["planned"], row["samples"], row["n_drops"], row["index"]) == (5, 3, 2, 3)
    assert (result.planned, result.samples, result.drops) == (5, 3, 2)
    samples = store.read_table(pending_file("samples", 3)).to_pylist()
    assert [s["licences"] for s in samples] == [["CC0-1.0", "ODbL-1.0"]] + [["CC-BY-4.0", "CC0-1.0", "ODbL-1.0"]] * 2
    assert [s["gsd_x"] > 2 * s["gsd_y"] for s in samples] == [True] * 3  # 0.002 by 0.0005 degrees at 47 degrees
    assert [(s["lon"], s["lat"]) for s in samples] == [(9.5, 47.1), (9.7, 46.9), (9.6, 47.5)]
    with tarfile.open(tmp_path / "shards" / samples[0]["shard"]) as tar:
        found = {m.name: (m.offset_data, m.size) for m in tar.getmembers()}
    listed = {f"{s['key']}.{m['name']}": (m["offset"], m["size"]) for s in samples for m in s["members"]}
    assert listed == found


def test_a_shard_that_reaches_across_the_180th_meridian_is_bounded_by_the_whole_circle(tmp_path: Path) -> None:
    """One of UTM's last zone, 4 km wide."""
    write(tmp_path, 0, [(179.9, 10.0), (-179.5, 11.0)], make=lambda key, lon, lat: (
        square(key, lon, lat) if lon < 0 else Footprint(key, "EPSG:32660", (400.0, 0, 827e3, 0, -100.0, 1107e3), 10, 20)
    ))  # fmt: skip
    store = Store(str(tmp_path))
    box = store.read_table(pending_file("samples", 0)).to_pylist()[0]["bbox"]
    assert box["xmin"] > 179
    assert box["xmax"] < -179
    (row,) = store.read_table(pending_file("shards", 0)).to_pylist()
    assert tuple(row["bbox"].values()) == pytest.approx((-180, box["ymin"], 180, 11.005))


def test_a_folded_group_holds_the_rows_of_all_of_its_shards_in_their_order(tmp_path: Path) -> None:
    for index, drops in ((2, 1), (0, 3), (1, 0)):
        write(tmp_path, index, [(9.5, 47.1), (9.6, 47.1)], drops)
    store = Store(str(tmp_path))
    fold(store, 0, range(3))
    assert store.read_table(catalog_file("shards", 0))["n_drops"].to_pylist() == [3, 0, 1]
    rows = {table: store.read_table(catalog_file(table, 0)).to_pylist() for table in ("samples", "streetview", "drops")}
    assert [r["key"] for r in rows["samples"]] == [f"f{i}-{k}" for i in range(3) for k in range(2)]
    assert [r["id"] for r in rows["streetview"]] == ["0-1-0", "1-1-0", "2-1-0"]
    assert [r["key"] for r in rows["drops"]] == ["d0-0", "d0-1", "d0-2", "d2-0"]
    assert not list((tmp_path / "catalog/.pending").iterdir())
