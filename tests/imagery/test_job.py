"""Images of the web through the whole job: several dates, bands as they are, their times, licences and drops."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest

from pipeline.catalog.verify import find_problems
from pipeline.driver.shards import make_shards
from pipeline.imagery.config import ImageryConfig
from pipeline.samples.config import PlanConfig, ShardsConfig
from schemas.sample import SampleMeta
from storage.dataset import read_catalog, read_samples, sample_rows
from storage.store import Store
from tests.imagery.scenes import LAT, LON
from tests.mirror.server import Mirror
from trainers.stream.members.decode import decode_npy


def test_two_days_of_a_tile_are_two_members_with_their_times(
    mirror: Mirror, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GEOSHARDS_MIRROR", mirror.url)
    osm = tmp_path / "place.opl"
    places = [(LON + i * 1e-3, LAT + j * 1e-3) for i in (-4, 0, 4) for j in (-4, 0, 4)]
    osm.write_text(
        "".join(
            f"n{n} v1 dV c1 t2024-01-01T00:00:00Z i1 utest Tnatural=tree x{lon:.7f} y{lat:.7f}\n"
            for n, (lon, lat) in enumerate(places, 1)
        )
    )
    config = ShardsConfig(
        region=str(osm), imagery="earth-search", size=64, out=str(tmp_path / "out"), workers=1,
        cache=str(tmp_path / "cache"), plan=PlanConfig(min_objects=0, per_shard=4),
        rs=ImageryConfig(dates=2, bands=("B4", "B3", "B2", "B8")),
    )  # fmt: skip
    document = make_shards(config, quiet=True).document
    store = Store(tmp_path / "out")
    assert document["config"]["zoom"] == 16  # of 64 px tiles of 10 m
    assert find_problems(store.root) == []
    rows = sample_rows(store)
    assert rows
    for row, members in read_samples(store, rows):
        meta = SampleMeta.from_bytes(members["json"])
        assert [i.member for i in meta.rs] == ["rs.0.npy", "rs.1.npy"][: len(meta.rs)]
        assert [i.bands for i in meta.rs] == [["B4", "B3", "B2", "B8"]] * len(meta.rs)
        times = [i.acquired for i in meta.rs]
        assert times == sorted(times, reverse=True)  # the newest first
        assert times[0] == "2024-07-01T10:20:00Z" == row["rs_time"]
        assert row["n_rs"] == len(meta.rs)
        assert any("Copernicus" in licence for licence in row["licences"])
        for info in meta.rs:
            pixels = np.load(io.BytesIO(members[info.member]), allow_pickle=False)
            assert (pixels.shape, pixels.dtype) == ((4, 64, 64), np.uint16)
            np.testing.assert_array_equal(decode_npy(members[info.member], info.member), pixels)
    assert max(r["n_rs"] for r in rows) == 2
    passed = {d["reason"] for d in read_catalog(store, "drops").to_pylist() if d["stage"] == "imagery"}
    assert passed <= {"too_cloudy", "outranked"}
