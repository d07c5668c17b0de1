"""``geoshards chips``: a folder of chips to a dataset, its bytes, and what becomes of bad chips."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import webdataset
from PIL import Image

from pipeline.catalog.verify import find_problems
from pipeline.cli.main import main
from pipeline.driver.forecast import exact_forecast
from pipeline.driver.shards import Outcome, make_shards
from pipeline.footprints.chips.config import ChipsConfig
from pipeline.footprints.chips.scan import find_chips
from pipeline.footprints.config import PlanConfig
from pipeline.footprints.estimate import RATES
from pipeline.imagery.config import ImageryConfig
from pipeline.net.stores import fetch_folder
from pipeline.osm.vocabulary import CleaningConfig
from pipeline.samples.config import ShardsConfig
from schemas.errors import ConfigError, DatasetError, InputError, LockError
from schemas.keys import chip_key
from schemas.sample import OSM_TOKENS, SampleMeta, is_member, sample_hash
from schemas.tokens import OsmTokens
from storage.dataset import read_catalog, read_samples, sample_rows
from storage.locks import one_writer
from storage.manifest import MANIFEST
from storage.store import Store
from tests.buckets import s3_server
from tests.footprints.chips import GROUND, geojson, geotiff, picture, point, ring, write_chips
from tests.osm.opl import write_opl


def config_of(folder: Path, out: Path, crs: str = "auto", max_overlap: float = 1.0, **changes: Any) -> ShardsConfig:
    base = ShardsConfig(
        region="none", footprints=("chips",), imagery="none", streetview="none",
        chips=ChipsConfig(str(folder), crs, max_overlap), out=str(out), workers=1, plan=PlanConfig(per_shard=3),
        osm=CleaningConfig(1), rs=ImageryConfig(licence="CC0-1.0"),
    )  # fmt: skip
    return dataclasses.replace(base, **changes)


def bytes_of(folder: Path) -> dict[str, bytes]:
    """Every file of a dataset but the timings."""
    files = {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}
    lines = files[MANIFEST].splitlines() if MANIFEST in files else []
    files[MANIFEST] = b"\n".join(line for line in lines if b"catalog/stages/" not in line)
    return {name: data for name, data in files.items() if not name.startswith("catalog/stages/")}


def samples_of(out: Path) -> dict[str, tuple[SampleMeta, OsmTokens, dict[str, bytes]]]:
    """Every sample by key."""
    store = Store(out)
    return {
        row["key"]: (SampleMeta.from_bytes(m["json"]), OsmTokens.from_bytes(m[OSM_TOKENS]), m)
        for row, m in read_samples(store, sample_rows(store))
    }


def drops_of(out: Path) -> list[tuple[str, str, str, int]]:
    """Stage, key, reason and count of every drop."""
    rows = read_catalog(Store(out), "drops").to_pylist()
    return sorted((r["stage"], r["key"] or "", r["reason"], r["count"]) for r in rows)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_chips(tmp_path_factory.mktemp("town"))


@pytest.fixture(scope="module")
def built(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Outcome, Path]:
    out = tmp_path_factory.mktemp("built") / "chips"
    return make_shards(config_of(folder, out), quiet=True), out


def test_every_chip_is_a_sample_that_verify_and_stock_readers_accept(built: tuple[Outcome, Path]) -> None:
    outcome, out = built
    assert find_problems(str(out)) == []
    assert outcome.document["samples"] == 12
    assert drops_of(out) == []
    rows = {r["key"]: r for r in sample_rows(Store(out))}
    seen = 0
    for sample in webdataset.WebDataset(sorted(str(p) for p in (out / "shards").glob("*.tar")), shardshuffle=False):
        row = rows[sample["__key__"].rsplit("/", 1)[-1]]
        members = {name: data for name, data in sample.items() if not name.startswith("__")}
        assert sample_hash(members) == row["sha256"]
        assert all(is_member(name) for name in members)
        assert {"osm.safetensors", "osm.png", "json"} < members.keys()
        assert row["n_polygon"] > 2
        seen += 1
    assert seen == 12
    assert {s["stage"] for s in read_catalog(Store(out), "stages").to_pylist()} == {
        "regions", "chips", "plan", "objects", "vocabulary", "samples", "shards", "catalog", "total",
    }  # fmt: skip
    for name in ("README.md", "ATTRIBUTION.md", "croissant.json", "dataset.json"):
        assert (out / name).stat().st_size > 100


def test_the_stream_reads_them(built: tuple[Outcome, Path]) -> None:
    from trainers.stream.members.decode import decode_rgb

    for meta, tokens, members in samples_of(built[1]).values():
        name = meta.rs[0].member
        image = decode_rgb(members[name], name)
        assert image.shape == (3, meta.footprint.height, meta.footprint.width)
        assert tokens.problem() is None
        raster = np.asarray(Image.open(io.BytesIO(members["osm.png"])))
        assert raster.shape == image.shape[1:]
        assert (raster > 0).any()


def test_a_chip_that_needs_no_change_keeps_its_bytes(built: tuple[Outcome, Path], folder: Path) -> None:
    kept = 0
    for meta, _, members in samples_of(built[1]).values():
        source = next(folder.rglob(f"{meta.provenance.stem}.*[gf]"), None)
        files = [p for p in folder.rglob("*") if p.stem == meta.provenance.stem and p.suffix in (".jpg", ".png")]
        if files:
            assert members[f"rs{files[0].suffix}"] == files[0].read_bytes()
            kept += 1
        else:
            assert source is not None
            assert "rs.jpg" in members
    assert kept == 8


def test_times_sources_and_licences_are_told(folder: Path, tmp_path: Path) -> None:
    make_shards(config_of(folder, tmp_path / "out", rs=ImageryConfig(licence="CC-BY-4.0")), quiet=True)
    samples = samples_of(tmp_path / "out")
    assert {m.rs[0].acquired for m, _, _ in samples.values()} == {
        *(f"2020-08-06T06:0{k}:00Z" for k in range(4)), None, "2021",
    }  # fmt: skip
    assert {m.rs[0].source for m, _, _ in samples.values()} >= {"S2", "own-0.tif"}
    assert {m.provenance.footprint for m, _, _ in samples.values()} == {"skyscript S2", "raster", "bbox"}
    rows = read_catalog(Store(tmp_path / "out"), "samples").to_pylist()
    assert {tuple(r["licences"]) for r in rows} == {("CC-BY-4.0", "ODbL-1.0")}
    text = (tmp_path / "out/ATTRIBUTION.md").read_text()
    assert "OpenStreetMap contributors" in text
    assert "(S2). Licence: CC-BY-4.0" in text


def test_running_twice_and_with_two_workers_gives_the_same_bytes(
    built: tuple[Outcome, Path], folder: Path, tmp_path: Path
) -> None:
    shutil.copytree(folder, tmp_path / "moved" / folder.name)
    make_shards(
        config_of(tmp_path / "moved" / folder.name, tmp_path / "again", workers=2, cache=str(tmp_path / "c")),
        quiet=True,
    )
    assert bytes_of(tmp_path / "again") == bytes_of(built[1])


def test_another_shard_size_keeps_the_content_hash(built: tuple[Outcome, Path], folder: Path, tmp_path: Path) -> None:
    """Chips stand beside others then, and are the same."""
    for per_shard in (1, 100):
        other = make_shards(
            config_of(folder, tmp_path / str(per_shard), plan=PlanConfig(per_shard=per_shard)), quiet=True
        )
        assert other.document["content_hash"] == built[0].document["content_hash"]
        assert other.document["layout_hash"] != built[0].document["layout_hash"]


def test_a_finished_run_is_not_repeated_and_another_one_refused(
    built: tuple[Outcome, Path], folder: Path, tmp_path: Path
) -> None:
    make_shards(config_of(folder, tmp_path / "fills-the-cache"), quiet=True)
    again = make_shards(config_of(folder, built[1]), quiet=True)
    assert again.built == 0
    assert [s.cached for s in again.stages if s.stage in ("objects", "samples")] == [True, True]
    with pytest.raises(DatasetError, match=r"differs in plan\.min_objects"):
        make_shards(config_of(folder, built[1], plan=PlanConfig(min_objects=1)), quiet=True)
    with one_writer(str(tmp_path / "locked")), pytest.raises(LockError):
        make_shards(config_of(folder, tmp_path / "locked"), quiet=True)


def test_a_killed_run_goes_on_and_ends_with_the_same_bytes(
    built: tuple[Outcome, Path], folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "killed"
    words = [
        sys.executable, "-m", "pipeline.cli.main", "chips", str(folder), "--out", str(out), "--workers", "1",
        "--licence", "CC0-1.0",
        "plan.per_shard=3", "osm.min_tag_count=1",
    ]  # fmt: skip
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not list(out.glob("catalog/.pending/*.shards.parquet")):
        time.sleep(0.001)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, "the run was over before it could be killed"
    finished = len(list(out.glob("catalog/.pending/*.shards.parquet")))
    rest = make_shards(config_of(folder, out), quiet=True)
    assert rest.built == rest.document["shards"] - finished
    assert bytes_of(out) == bytes_of(built[1])


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder with one good chip."""
    chip(tmp_path / "chips", "good")
    return tmp_path / "chips"


def chip(folder: Path, stem: str, bbox: Any = (9.5, 47.1, 9.501, 47.1006), **metadata: Any) -> None:
    """A JPEG with metadata and one house."""
    picture(folder / f"{stem}.jpg", 40, 32)
    (folder / f"{stem}.json").write_text(json.dumps({"bbox": bbox, "crs": "EPSG:32632"} | metadata))
    w, s = GROUND[:2]
    house = ring((w + 1e-4, s + 1e-4), (w + 4e-4, s + 1e-4), (w + 4e-4, s + 3e-4), (w + 1e-4, s + 3e-4))
    geojson(folder / f"{stem}_polygon.geojson", [(house, {"building": "yes"})])


def test_bad_chips_are_named_with_their_reasons(place: Path, tmp_path: Path) -> None:
    wanted = set()

    def bad(stem: str, reason: str, stage: str = "chips", **metadata: Any) -> None:
        chip(place, stem, **metadata)
        wanted.add((stage, f"chip-{stem}", reason, 1))

    bad("no_image", "unreadable_image")
    (place / "no_image.jpg").write_bytes(b"no image")
    bad("cut", "unreadable_image", "samples")
    (place / "cut.jpg").write_bytes((place / "cut.jpg").read_bytes()[:-200])
    bad("cut_header", "unreadable_image")
    (place / "cut_header.jpg").write_bytes((place / "cut_header.jpg").read_bytes()[:40])
    bad("alone", "no_metadata")
    (place / "alone.json").unlink()
    bad("garbled", "bad_metadata")
    (place / "garbled.json").write_text("{bbox")
    bad("short", "bad_metadata", bbox=[9, 47, 9.1])
    bad("nowhere", "no_bbox", bbox=None)
    bad("far", "bbox_out_of_range", bbox=[9, 47, 9.1, 147])
    bad("turned", "bbox_inverted", bbox=[9.1, 47, 9, 47.1])
    bad("date_line", "antimeridian", bbox=[179.99, 47, -179.99, 47.01], crs="EPSG:3857")
    bad("crs", "unknown_crs", crs="EPSG:123456")
    bad("crsless", "no_crs", crs=None)
    bad("vectors", "unreadable_vectors")
    (place / "vectors_line.geojson").write_text('{"type": "FeatureCollection"')
    bad("twice", "repeated_stem")
    picture(place / "sub" / "twice.png", 40, 32)
    bad("meta_twice", "repeated_metadata")
    (place / "meta_twice_meta.json").write_text("{}")
    bad("clear", "nodata", "samples")
    (place / "clear.jpg").unlink()
    clear = np.full((32, 40, 4), 200, np.uint8)
    clear[:, :4, 3] = 0
    Image.fromarray(clear).save(place / "clear.png")
    hole = geotiff(place / "hole.tif", "EPSG:32632", 537900, 5216100, 2.0, (16, 16), nodata=0)
    with rasterio.open(hole, "r+") as target:
        target.write(np.zeros((3, 4, 4), np.uint8), window=rasterio.windows.Window(0, 0, 4, 4))
    wanted.add(("samples", "chip-hole", "nodata", 1))
    (place / "stray_line.geojson").write_text("{}")
    wanted.add(("chips", "", "no_chip", 1))
    outcome = make_shards(config_of(place, tmp_path / "out"), quiet=True)
    assert {d for d in drops_of(tmp_path / "out") if d[2] != "outside_footprint"} == wanted
    assert list(samples_of(tmp_path / "out")) == ["chip-good"]
    assert find_problems(str(tmp_path / "out")) == []
    assert sum(s.drops for s in outcome.stages) == len(drops_of(tmp_path / "out"))


def test_objects_that_cannot_be_used_are_counted(place: Path, tmp_path: Path) -> None:
    w, s = GROUND[:2]
    bow = ring((w + 1e-4, s + 1e-4), (w + 4e-4, s + 3e-4), (w + 4e-4, s + 1e-4), (w + 1e-4, s + 3e-4))
    rows = [
        (bow, {"building": "yes"}),
        (point(w + 1, s), {"natural": "tree"}),
        (point(w + 1e-4, s + 1e-4), {"name": "Anna"}),
    ]
    geojson(place / "good.geojson", rows)
    make_shards(config_of(place, tmp_path / "out"), quiet=True)
    assert drops_of(tmp_path / "out") == [
        ("features", "chip-good", "geometry_repaired", 1), ("features", "chip-good", "no_kept_key", 1),
        ("samples", "chip-good", "outside_footprint", 1),
    ]  # fmt: skip


def test_a_folder_without_any_usable_chip_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no folder"):
        make_shards(config_of(tmp_path / "nowhere", tmp_path / "out"), quiet=True)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no image"):
        make_shards(config_of(tmp_path / "empty", tmp_path / "out"), quiet=True)
    picture(tmp_path / "bare" / "a.jpg", 8, 8)
    with pytest.raises(InputError, match=r"a\.jpg: neither the image nor its metadata"):
        make_shards(config_of(tmp_path / "bare", tmp_path / "out"), quiet=True)


def test_chips_of_other_bands_are_refused(place: Path, tmp_path: Path) -> None:
    geotiff(
        place / "four.tif",
        "EPSG:32632",
        537900,
        5216100,
        2.0,
        (16, 16),
        count=4,
        dtype="uint16",
        photometric="MINISBLACK",
    )
    with pytest.raises(InputError, match="differ in bands"):
        make_shards(config_of(place, tmp_path / "out"), quiet=True)
    (place / "good.jpg").unlink()
    with pytest.raises(InputError, match=r"rs\.format=jpg needs three"):
        make_shards(config_of(place, tmp_path / "out", rs=ImageryConfig(format="jpg", licence="CC0-1.0")), quiet=True)
    make_shards(config_of(place, tmp_path / "out"), quiet=True)
    ((meta, _, members),) = samples_of(tmp_path / "out").values()
    assert np.load(io.BytesIO(members["rs.npy"])).shape == (4, 16, 16)
    assert (meta.rs[0].dtype, len(meta.rs[0].bands)) == ("uint16", 4)


def test_pictures_of_other_modes_are_decoded_without_loss(place: Path, tmp_path: Path) -> None:
    for stem, mode in (("grey", "L"), ("clear", "RGBA")):
        chip(place, stem)
        (place / f"{stem}.jpg").unlink()
        picture(place / f"{stem}.png", 40, 32, mode=mode)
    make_shards(config_of(place, tmp_path / "out", rs=ImageryConfig(max_nodata=1.0, licence="CC0-1.0")), quiet=True)
    samples = samples_of(tmp_path / "out")
    for stem in ("grey", "clear"):
        meta, _, members = samples[f"chip-{stem}"]
        source = np.asarray(Image.open(place / f"{stem}.png").convert("RGBA"))
        np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(members["rs.png"]))), source[..., :3])
        assert meta.rs[0].nodata_share == pytest.approx(float((source[..., 3] == 0).mean()))
        if (source[..., 3] == 0).any():
            plane = np.asarray(Image.open(io.BytesIO(members["rs.valid.png"])))
            np.testing.assert_array_equal(plane, source[..., 3] > 0)
        else:
            assert "rs.valid.png" not in members
    assert samples["chip-good"][2]["rs.jpg"] == (place / "good.jpg").read_bytes()


def test_overlapping_chips_go_by_share_of_the_smaller_one(tmp_path: Path) -> None:
    folder, (w, s) = tmp_path / "chips", GROUND[:2]
    for stem, west, size in (("a", 0.0, 10), ("b", 8.0, 10), ("c", 16.0, 10), ("d", 2.0, 2), ("e", 26.0, 10)):
        chip(folder, stem, (w + west * 1e-4, s, w + (west + size) * 1e-4, s + size * 1e-4), crs="EPSG:4326")
    kept = {}
    for share in (1.0, 0.5, 0.1, 0.0):
        out = tmp_path / f"out-{share}"
        make_shards(config_of(folder, out, max_overlap=share), quiet=True)
        kept[share] = "".join(sorted(key[-1] for key in samples_of(out)))
    # a and b share a fifth, b and c too; d lies in a; c and e touch along a side.
    assert kept == {1.0: "abcde", 0.5: "abce", 0.1: "ace", 0.0: "ace"}
    rows = read_catalog(Store(tmp_path / "out-0.1"), "drops").filter(
        read_catalog(Store(tmp_path / "out-0.1"), "drops")["reason"].to_numpy(zero_copy_only=False) == "overlaps"
    )
    assert [(r["key"], "chip-a" in r["detail"]) for r in rows.to_pylist()] == [("chip-b", True), ("chip-d", True)]


def test_chips_of_two_collections_may_overlap(tmp_path: Path) -> None:
    for stem, source in (("a", "one"), ("b", "two"), ("c", "one")):
        chip(tmp_path / "chips", stem, source=source)
    make_shards(config_of(tmp_path / "chips", tmp_path / "out", max_overlap=0), quiet=True)
    assert sorted(samples_of(tmp_path / "out")) == ["chip-a", "chip-b"]


def test_chips_without_objects_stay_unless_a_number_is_asked_for(place: Path, tmp_path: Path) -> None:
    chip(place, "bare")
    (place / "bare_polygon.geojson").unlink()
    make_shards(config_of(place, tmp_path / "all"), quiet=True)
    assert len(samples_of(tmp_path / "all")["chip-bare"][1]) == 0
    licences = {r["key"]: r["licences"] for r in sample_rows(Store(tmp_path / "all"))}
    assert licences == {"chip-bare": ["CC0-1.0"], "chip-good": ["CC0-1.0", "ODbL-1.0"]}
    make_shards(config_of(place, tmp_path / "some", plan=PlanConfig(min_objects=1)), quiet=True)
    assert list(samples_of(tmp_path / "some")) == ["chip-good"]
    assert drops_of(tmp_path / "some") == [("samples", "chip-bare", "too_few_objects", 1)]


def test_objects_come_from_an_extract_where_one_is_given(place: Path, tmp_path: Path) -> None:
    w, s = GROUND[:2]
    nodes = [
        (1, w + 2e-4, s + 2e-4, "natural=tree"),
        (2, w - 1, s, ""),
        (3, w + 1, s + 4e-4, ""),
        (4, w + 0.5, s, "shop=yes"),
    ]
    osm = write_opl(tmp_path / "town.opl", nodes, [(9, [2, 3], "highway=path")])
    make_shards(config_of(place, tmp_path / "out", region=str(osm)), quiet=True)
    ((meta, tokens, _),) = samples_of(tmp_path / "out").values()
    assert list(zip(tokens.osm_type.tolist(), tokens.osm_id.tolist(), strict=True)) == [(0, 1), (1, 9)]
    assert meta.osm_edited == "2024-06-01T00:00:00Z"
    assert ("chips", "", "vector_files_unused", 1) in drops_of(tmp_path / "out")
    assert find_problems(str(tmp_path / "out")) == []


def test_files_are_found_by_stem_wherever_they_lie(tmp_path: Path) -> None:
    for name in (
        "i/a.JPG", "m/a_meta.json", "v/a_line.geojson", "v/a_polygon.shp", "v/a_polygon.dbf", "w/a_polygon.prj",
        "v/A.gpkg",
        "i/a_line.jpg", "i/b.c.tif", "m/b.c.json", ".hidden/d.jpg", "x_point.gpkg", "notes.txt", "y.json",
    ):  # fmt: skip
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    chips, drops = find_chips(tmp_path)
    found = {c.stem: c for c in chips}
    assert found.keys() == {"a", "a_line", "b.c"}
    assert (found["a"].metadata, found["a"].vectors) == ("m/a_meta.json", ("v/a_polygon.shp",))
    assert found["a"].parts == ("v/a_polygon.dbf",)  # beside the shapefile alone
    assert found["a_line"].vectors == ("v/a_line.geojson",)  # a chip of its own, not the lines of a
    assert found["b.c"].key == chip_key("b.c") != "chip-b.c"
    assert [(d["source"], d["reason"]) for d in drops] == [("v/A.gpkg", "no_chip"), ("x_point.gpkg", "no_chip")]


def test_a_plan_counts_the_chips_own_pixels_and_names_their_licence(tmp_path: Path) -> None:
    for k in range(3):
        geotiff(
            tmp_path / "chips" / f"{k}.tif", "EPSG:32632", 5e5 + 200 * k, 52e5, 2.0, (64, 32), count=5, dtype="uint16"
        )
    config = config_of(tmp_path / "chips", tmp_path / "out")
    found, _ = exact_forecast(config, quiet=True)
    images = 3 * 64 * 32 * 5 * 2
    assert found.estimate.disk_bytes == images + 3 * RATES.osm_bytes
    assert found.licences["chips"] == "CC0-1.0"


def test_the_command_line(place: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    words = ["--out", str(tmp_path / "out"), "--licence", "CC0-1.0", "osm.min_tag_count=1"]
    command = [sys.executable, "-m", "pipeline.cli.main", "chips", str(place), *words, "--workers", "1"]
    done = subprocess.run(command, text=True, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "1 samples" in done.stdout
    shard, head, *_ = done.stderr.splitlines()
    assert shard.startswith("part-0000000: 1 tiles")
    assert head.split()[0] == "stage"
    # From here on in this process.
    assert main(["chips", str(place), *words, "--json"]) == 0
    again = capfd.readouterr()
    assert json.loads(again.out)["samples"] == 1
    assert (json.loads(again.out)["built"], again.err) == (0, "")
    assert main(["chips", str(place), *words, "--quiet"]) == 0
    assert capfd.readouterr() == ("", "")
    with pytest.raises(SystemExit):
        main(["chips", "--help"])
    helped = capfd.readouterr().out
    for word in ("_meta.json", "chips.max_overlap", "--osm", "SkyScript"):
        assert word in helped
    assert main(["chips", str(place), "chips.maxoverlap=0"]) == 2
    assert "did you mean chips.max_overlap" in capfd.readouterr().err
    assert main(["chips", str(tmp_path / "nowhere")]) == 1


@pytest.mark.parametrize(
    "settings",
    [
        {"max_overlap": 1.5},
        {"footprints": ("chips", "cells")},
        {"footprints": ("tiles", "chips")},
        {"footprints": ("grid",)},
        {"workers": -1},
        {"rs": ImageryConfig(bands=("red",))},
        {"rs": ImageryConfig(dates=2)},
        {"rs": ImageryConfig(stretch="percentile")},
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(ConfigError):
        config_of(tmp_path, tmp_path, **settings)


def test_a_build_that_leaves_no_sample_is_no_success(place: Path, tmp_path: Path) -> None:
    config = config_of(place, tmp_path / "out", plan=PlanConfig(min_objects=50))
    for _ in range(2):  # built, and found as it was left
        with pytest.raises(InputError, match=r"no sample: .*: 1 too_few_objects .*; lower plan\.min_obj"):
            make_shards(config, quiet=True)
    assert [d[2] for d in drops_of(tmp_path / "out")].count("too_few_objects") == 1


def test_chips_in_a_bucket_are_copied_once_and_give_the_bytes_of_the_folder(tmp_path: Path) -> None:
    folder, cache = write_chips(tmp_path / "plots"), tmp_path / "cache"
    make_shards(config_of(folder, tmp_path / "near", cache=str(cache)), quiet=True)
    with s3_server("geoshards-chips") as fs:
        fs.put(f"{folder}/", "geoshards-chips/plots/", recursive=True)
        fs.pipe_file("geoshards-chips/plots/.trash/../a.jpg", b"a name that would leave the folder")
        config = config_of(Path("x"), tmp_path / "far", cache=str(cache))
        config = dataclasses.replace(config, chips=ChipsConfig("s3://geoshards-chips/plots/"))
        make_shards(config, quiet=True)
        assert bytes_of(tmp_path / "far") == bytes_of(tmp_path / "near")
        (copy,) = (cache / "chips").iterdir()
        image = next(p for p in folder.rglob("*.jpg"))
        held = copy / "plots" / image.relative_to(folder)
        assert held.read_bytes() == image.read_bytes()
        before = held.stat().st_mtime_ns
        url = "s3://geoshards-chips/plots"
        assert fetch_folder(url, cache / "chips", "chips.folder", config.net, True) == copy / "plots"
        assert held.stat().st_mtime_ns == before
        picture(image, *Image.open(image).size, seed=99)
        fs.put(str(image), f"geoshards-chips/plots/{image.relative_to(folder)}")
        other = fetch_folder(url, cache / "chips", "chips.folder", config.net, True)
        assert (other / image.relative_to(folder)).read_bytes() == image.read_bytes() != held.read_bytes()
        fs.pipe_file("geoshards-chips/odd/a", b"")
        fs.pipe_file("geoshards-chips/odd/a/b.jpg", b"")
        for place, reason in (
            ("s3://geoshards-chips/none", "holds no file"), ("s3://geoshards-chips/odd", "cannot hold a/b.jpg"),
            ("https://h.org/plots/", "a web server lists no files; download"), ("what://h/plots", "of no store"),
        ):  # fmt: skip
            with pytest.raises(InputError, match=f"^chips.folder={place.rstrip('/')}.*{reason}") as caught:
                make_shards(dataclasses.replace(config, chips=ChipsConfig(place)), quiet=True)
            assert "\n" not in str(caught.value)
        least = dataclasses.replace(config.net, max_gb=1e-6)
        with pytest.raises(InputError, match=r"over net\.max_gb"):
            fetch_folder(url, cache / "chips", "chips.folder", least, True)
