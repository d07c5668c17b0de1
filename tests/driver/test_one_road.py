"""One road for every footprint: tiles, metric cells and chips side by side, each with what the others have."""

from __future__ import annotations

import dataclasses
import io
import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import rasterio
from PIL import Image
from pyproj import Transformer
from rasterio.vrt import WarpedVRT
from rasterio.windows import Window

from pipeline.catalog.verify import find_problems
from pipeline.driver.shards import Outcome, make_shards
from pipeline.driver.update import update
from pipeline.footprints.chips.config import ChipsConfig
from pipeline.footprints.config import GridConfig, PlanConfig
from pipeline.footprints.sampling import SamplingConfig
from pipeline.imagery.config import ImageryConfig
from pipeline.osm.extracts.changes import apply_changes
from pipeline.osm.vocabulary import CleaningConfig
from pipeline.samples.config import ShardsConfig
from schemas.errors import ConfigError, DatasetError
from schemas.sample import OSM_TOKENS, SampleMeta
from schemas.splits import SplitConfig
from schemas.tokens import OsmTokens
from storage.dataset import read_catalog, read_samples, sample_rows
from storage.manifest import MANIFEST
from storage.store import Store
from tests.driver.test_shards import bytes_of, config_of
from tests.driver.test_update import village_change
from tests.driver.village import Village
from tests.imagery.scenes import write_utm

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def chips(village: Village, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four chips cut out of the aerial image."""
    folder = tmp_path_factory.mktemp("cut") / "chips"
    folder.mkdir()
    with rasterio.open(village.imagery) as source:
        for k in range(4):
            window = Window(100 + 150 * k, 200 + 60 * k, 96, 96)
            profile = {"driver": "GTiff", "width": 96, "height": 96, "count": 3, "dtype": "uint8", "crs": source.crs,
                       "transform": source.window_transform(window)}  # fmt: skip
            with rasterio.open(folder / f"cut-{k}.tif", "w", **profile) as chip:
                chip.write(source.read(window=window))
    return folder


def mixed(village: Village, folder: Path, out: Path, **changes: object) -> ShardsConfig:
    base = config_of(
        village, out, footprints=("tiles", "grid", "chips"), grid=GridConfig(1.25), size=128,
        chips=ChipsConfig(str(folder)), rs=ImageryConfig(licence="CC0-1.0", format="png"),
        split=SplitConfig(block_degrees=0.003, val=0.2, test=0.2),
    )  # fmt: skip
    return dataclasses.replace(base, **changes)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def built(village: Village, chips: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Outcome, Path]:
    out = tmp_path_factory.mktemp("mixed") / "out"
    return make_shards(mixed(village, chips, out), quiet=True), out


def kinds(out: Path) -> Counter[str]:
    return Counter(r["key"].split("-")[0] for r in sample_rows(Store(out)))


def test_one_dataset_holds_tiles_cells_and_chips(built: tuple[Outcome, Path]) -> None:
    outcome, out = built
    assert find_problems(str(out)) == []
    found = kinds(out)
    assert found["chip"] == 4
    assert min(found["xyz"], found["utm"]) > 10
    assert outcome.document["samples"] == sum(found.values())
    by_shard: dict[str, set[str]] = {}
    for row in sample_rows(Store(out)):
        by_shard.setdefault(row["shard"], set()).add(row["key"].split("-")[0])
    assert any(len(k) > 1 for k in by_shard.values())  # neighbours on the ground share a shard, whoever made them


def test_the_image_of_a_cell_is_gdal_s_and_its_photos_stand_where_pyproj_puts_them(
    built: tuple[Outcome, Path], village: Village
) -> None:
    store, photos = Store(built[1]), 0
    for row, members in read_samples(store, sample_rows(store)):
        meta = SampleMeta.from_bytes(members["json"])
        f = meta.footprint
        assert OsmTokens.from_bytes(members[OSM_TOKENS]).problem() is None
        if row["key"].startswith("utm-"):
            assert (f.crs, f.width, f.transform[0]) == ("EPSG:32632", 128, 1.25)
            assert meta.gsd == pytest.approx((1.25, 1.25), rel=1e-3)  # the scale of UTM
            pixels = np.asarray(Image.open(io.BytesIO(members["rs.png"])), np.float64).transpose(2, 0, 1)
            with (
                rasterio.open(village.imagery) as source,
                WarpedVRT(
                    source, crs=f.crs, transform=rasterio.Affine(*f.transform), width=f.width, height=f.height,
                    resampling=rasterio.enums.Resampling.bilinear,
                ) as warped,
            ):  # fmt: skip
                assert np.abs(pixels - warped.read()).mean() < 1
        for photo in meta.streetview:
            x, y = Transformer.from_crs("EPSG:4326", f.crs, always_xy=True).transform(photo.lon, photo.lat)
            column, line = ~rasterio.Affine(*f.transform) @ (x, y)
            assert (photo.x * f.width, photo.y * f.height) == pytest.approx((column, line), abs=1e-3)
            photos += 1
    assert photos > 10


@pytest.mark.parametrize("trainer", ["geolink", "gair"])
def test_both_trainers_read_it(built: tuple[Outcome, Path], tmp_path: Path, trainer: str) -> None:
    words = [
        sys.executable, f"trainers/{trainer}.py", f"data={built[1]}", "model=tiny", "steps=2", "batch_size=4",
        f"out={tmp_path / 'run'}", "threads=1", "eval.every=0", "--json",
    ]  # fmt: skip
    done = subprocess.run(words, cwd=ROOT, text=True, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert json.loads(done.stdout)["step"] == 2
    assert (tmp_path / "run/checkpoint.pt").exists()


def test_two_workers_and_other_company_give_the_same_samples(
    built: tuple[Outcome, Path], village: Village, chips: Path, tmp_path: Path, ray_session: None
) -> None:
    make_shards(mixed(village, chips, tmp_path / "two", workers=2), quiet=True)
    assert bytes_of(tmp_path / "two") == bytes_of(built[1])
    alone = mixed(village, chips, tmp_path / "grid", footprints=("grid",), chips=ChipsConfig())
    make_shards(alone, quiet=True)
    every = {r["key"]: r["sha256"] for r in sample_rows(Store(built[1]))}
    cells = {r["key"]: r["sha256"] for r in sample_rows(Store(tmp_path / "grid"))}
    assert cells
    assert cells.items() <= every.items()


def test_an_update_of_cells_and_chips_gives_the_bytes_of_a_full_build_under_any_name(
    village: Village, chips: Path, tmp_path: Path
) -> None:
    config = mixed(village, chips, tmp_path / "data", footprints=("grid", "chips"), plan=PlanConfig(per_shard=4))
    make_shards(dataclasses.replace(config, name="before"), quiet=True)
    newer = tmp_path / "elsewhere.osm.pbf"
    apply_changes(village.osm, [village_change(village, tmp_path / "c.osc")], newer)
    outcome = update(str(tmp_path / "data"), [newer], workers=1, quiet=True)
    assert 0 < outcome.adopted < outcome.document["shards"]
    full = dataclasses.replace(config, region=str(newer), name="another", out=str(tmp_path / "full"))
    document = make_shards(full, quiet=True).document
    assert document["content_hash"] == outcome.document["content_hash"]
    assert document["layout_hash"] == outcome.document["layout_hash"]
    mine, theirs = bytes_of(tmp_path / "data"), bytes_of(tmp_path / "full")
    named = {"dataset.json", "README.md", "croissant.json", MANIFEST}  # which say the name
    assert {n for n in mine if mine[n] != theirs.get(n)} <= named


def test_chips_are_sampled_and_planned_as_tiles_are(village: Village, chips: Path, tmp_path: Path) -> None:
    plan = PlanConfig(sampling=SamplingConfig(photos_only=True))
    config = mixed(village, chips, tmp_path / "out", footprints=("chips",), imagery="none", plan=plan)
    with_photos = {r["key"] for r in sample_rows(Store(make_shards(config, quiet=True).out))}
    whole = mixed(village, chips, tmp_path / "all", footprints=("chips",), imagery="none")
    rows = sample_rows(Store(make_shards(whole, quiet=True).out))
    assert with_photos == {r["key"] for r in rows if r["n_streetview"]}
    assert 0 < len(with_photos) < len(rows) == 4
    drops = read_catalog(Store(tmp_path / "out"), "drops").to_pylist()
    assert {(d["source"], d["reason"], d["count"]) for d in drops} >= {("chips", "no_photo", 4 - len(with_photos))}
    done = subprocess.run(
        [sys.executable, "-m", "pipeline.cli.main", "plan", "--region", str(village.osm), "--imagery", "none",
         "--streetview", "none", "--footprints", "chips", "--chips", str(chips), "--json", "rs.licence=CC0-1.0"],
        text=True, capture_output=True, check=True,
    )  # fmt: skip
    assert json.loads(done.stdout)["samples"] == 4


def test_chips_have_images_of_any_source_and_of_several_days(chips: Path, village: Village, tmp_path: Path) -> None:
    from tests.driver.village import EAST, NORTH, SOUTH, WEST

    box = (WEST, SOUTH, EAST, NORTH)
    for day, value in (("2023-05-01", 60), ("2024-05-01", 120), ("2022-05-01", 180)):
        path = write_utm(
            tmp_path / f"{day}.tif", box, 2.0, "EPSG:32632", lambda x, y, v=value: np.full((3, *x.shape), v, np.uint8)
        )
        with rasterio.open(path, "r+") as target:
            target.update_tags(TIFFTAG_DATETIME=f"{day.replace('-', ':')} 10:00:00")
    config = mixed(
        village, chips, tmp_path / "out", footprints=("chips",), imagery=str(tmp_path / "*.tif"), streetview="none",
        chips=ChipsConfig(str(chips), image="imagery"), rs=ImageryConfig(dates=2, licence="CC-BY-4.0", format="png"),
    )  # fmt: skip
    make_shards(config, quiet=True)
    store = Store(tmp_path / "out")
    rows = list(read_samples(store, sample_rows(store)))
    assert len(rows) == 4
    for row, members in rows:
        assert row["n_rs"] == 2
        assert row["licences"] == ["CC-BY-4.0", "ODbL-1.0"]  # the setting goes before what the files declare
        newest, before = (np.asarray(Image.open(io.BytesIO(members[f"rs.{k}.png"]))) for k in (0, 1))
        assert (newest.shape, newest.max(), before.min()) == ((96, 96, 3), 120, 60)


def test_settings_of_execution_change_nothing_and_others_are_named(
    built: tuple[Outcome, Path], village: Village, chips: Path
) -> None:
    config = mixed(village, chips, built[1])
    plan = dataclasses.replace(config.plan, ask_gb=1e6, max_tiles=10**6)
    again = make_shards(dataclasses.replace(config, plan=plan, name=config.name, workers=2), quiet=True)
    assert again.built == 0
    changed = dataclasses.replace(config, rs=dataclasses.replace(config.rs, quality=70), osm=CleaningConfig(3))
    with pytest.raises(
        DatasetError, match=r"osm\.min_tag_count \(2 there, 3 here\), rs\.quality \(90 there, 70 here\)"
    ):
        make_shards(changed, quiet=True)
    with pytest.raises(DatasetError, match=r"differs in input "):
        make_shards(dataclasses.replace(config, streetview="none"), quiet=True)
    fewer = dataclasses.replace(config, plan=dataclasses.replace(config.plan, per_shard=11))
    with pytest.raises(DatasetError, match=r"plan\.per_shard \(10 there, 11 here\)"):
        make_shards(fewer, quiet=True)


def test_a_producer_that_is_unknown_is_refused_with_those_that_are(village: Village, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="tiles, grid, chips"):
        config_of(village, tmp_path, footprints=("hexagons",))
