"""One job, its bytes: the same whoever does it and however often it is stopped."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import duckdb
import numpy as np
import pytest
import webdataset
from PIL import Image

from pipeline.catalog.verify import find_problems
from pipeline.cli.inspect import describe
from pipeline.cli.query import connect
from pipeline.cli.stats import write_statistics
from pipeline.driver.shards import Outcome, make_shards
from pipeline.imagery.config import ImageryConfig
from pipeline.rules import load_rules
from pipeline.samples.config import PlanConfig, ShardsConfig
from pipeline.tokens.config import TokensConfig
from schemas.catalog import TABLES
from schemas.errors import ConfigError, DatasetError, LockError
from schemas.index import IndexPart, index_file
from schemas.sample import OSM_TOKENS, SampleMeta, content_hash, is_member, sample_hash
from schemas.splits import SplitConfig
from schemas.tokens import OsmTokens
from storage.dataset import read_catalog, read_samples, sample_rows
from storage.locks import one_writer
from storage.manifest import MANIFEST, amend_manifest
from storage.owner import Owner
from storage.store import Store
from storage.text import markdown
from tests.driver.village import Village
from trainers.stream.batch import View
from trainers.stream.stream import GeoStream


def config_of(village: Village, out: Path, **changes: object) -> ShardsConfig:
    base = ShardsConfig(
        region=str(village.osm), imagery=str(village.imagery), streetview=str(village.photos), zoom=18, size=128,
        out=str(out), workers=1, plan=PlanConfig(per_shard=10),
    )  # fmt: skip
    return dataclasses.replace(base, **changes)  # type: ignore[arg-type]


def bytes_of(folder: Path) -> dict[str, bytes]:
    """Every file of a dataset but the timings."""
    files = {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}
    lines = files[MANIFEST].splitlines() if MANIFEST in files else []
    files[MANIFEST] = b"\n".join(line for line in lines if b"catalog/stages/" not in line)
    return {name: data for name, data in files.items() if not name.startswith("catalog/stages/")}


@pytest.fixture(scope="module")
def built(village: Village, tmp_path_factory: pytest.TempPathFactory) -> tuple[Outcome, Path]:
    out = tmp_path_factory.mktemp("built") / "village"
    return make_shards(config_of(village, out), quiet=True), out


def test_running_twice_gives_the_same_bytes(built: tuple[Outcome, Path], village: Village, tmp_path: Path) -> None:
    make_shards(config_of(village, tmp_path / "again"), quiet=True)
    assert bytes_of(tmp_path / "again") == bytes_of(built[1])


def test_two_workers_write_the_bytes_of_one(
    built: tuple[Outcome, Path], village: Village, tmp_path: Path, ray_session: None
) -> None:
    make_shards(config_of(village, tmp_path / "two", workers=2), quiet=True)
    assert bytes_of(tmp_path / "two") == bytes_of(built[1])


def test_two_workers_count_the_bands_as_one_does(
    built: tuple[Outcome, Path], tmp_path: Path, ray_session: None
) -> None:
    root = tmp_path / "village"
    shutil.copytree(built[1], root)
    tables = [write_statistics(str(root), "all", workers) for workers in (1, 2)]
    assert tables[0].equals(tables[1])
    assert [r["band"] for r in tables[0].to_pylist()] == ["blue", "green", "red"]
    assert len(list((root / "shards").iterdir())) > 1
    assert find_problems(str(root)) == []


def test_another_shard_size_keeps_the_content_hash_and_changes_the_layout_hash(
    built: tuple[Outcome, Path], village: Village, tmp_path: Path
) -> None:
    other = make_shards(config_of(village, tmp_path / "other", plan=PlanConfig(per_shard=7)), quiet=True)
    assert other.document["content_hash"] == built[0].document["content_hash"]
    assert other.document["layout_hash"] != built[0].document["layout_hash"]


def test_another_split_leaves_every_tar_as_it_is(built: tuple[Outcome, Path], village: Village, tmp_path: Path) -> None:
    out = tmp_path / "validation"
    other = make_shards(config_of(village, out, split=SplitConfig(val=1.0, test=0.0)), quiet=True)
    assert other.document["splits"].keys() == {"val"} != built[0].document["splits"].keys()
    for name in ("content_hash", "layout_hash"):
        assert other.document[name] == built[0].document[name]
    for tar in sorted((built[1] / "shards").iterdir()):
        assert (out / "shards" / tar.name).read_bytes() == tar.read_bytes()


def test_a_split_that_is_changed_in_the_catalog_alone_leaves_a_whole_dataset(
    built: tuple[Outcome, Path], tmp_path: Path
) -> None:
    out = tmp_path / "resplit"
    shutil.copytree(built[1], out)
    store = Store(out)
    rows = store.read_table("catalog/samples/part-00000.parquet")
    dealt = ["test" if i % 2 else "val" for i in range(rows.num_rows)]
    rows = rows.set_column(rows.column_names.index("split"), "split", [dealt])
    store.write_table("catalog/samples/part-00000.parquet", rows, rows.schema.metadata)
    amend_manifest(store, ["catalog/samples/part-00000.parquet"])
    index = "catalog/index/part-00000.safetensors: not that of catalog/samples/part-00000.parquet"
    assert index in map(str, find_problems(str(out)))
    store.write(index_file(0), IndexPart.of(rows).to_bytes())
    amend_manifest(store, [index_file(0)])
    changed = [str(problem).partition(",")[0] for problem in find_problems(str(out))]  # by hand, and all else is whole
    split = f"catalog/samples/part-00000.parquet: the split of {rows.num_rows} samples is not that of the settings: "
    assert [c.startswith(split) or c == "dataset.json: splits is not that of the catalog" for c in changed] == [
        True
    ] * 2
    for key, split in zip(rows["key"].to_pylist()[:2], dealt, strict=False):
        assert describe(str(out), key)["split"] == split


def test_patches_that_are_not_stored_leave_the_rest_and_a_view_of_them_names_the_setting(
    built: tuple[Outcome, Path], village: Village, tmp_path: Path
) -> None:
    out = tmp_path / "bare"
    make_shards(config_of(village, out, tokens=TokensConfig(patches=False)), quiet=True)
    assert find_problems(str(out)) == []
    stores = Store(built[1]), Store(out)
    for (_, full), (_, bare) in zip(*(read_samples(s, sample_rows(s)) for s in stores), strict=True):
        tokens = OsmTokens.from_bytes(full[OSM_TOKENS], ("relations", "region"))
        assert bare[OSM_TOKENS] == tokens.to_bytes()
        assert len(bare[OSM_TOKENS]) < len(full[OSM_TOKENS])
    assert sum(b.samples for b in GeoStream(out, View(32, osm=("objects", "relations")), batch_size=8)) > 0
    with pytest.raises(ConfigError, match=r"bare: .*no patches.*tokens\.patches=true"):
        next(iter(GeoStream(out, View(32, osm=("patches",)), batch_size=8)))


def test_a_finished_run_is_not_repeated(built: tuple[Outcome, Path], village: Village) -> None:
    before = {p: p.stat().st_mtime_ns for p in built[1].rglob("*") if p.is_file()}
    again = make_shards(config_of(village, built[1]), quiet=True)
    assert again.built == 0
    assert {p: m for p, m in before.items() if "catalog/samples" in str(p) or p.suffix == ".tar"}.items() <= {
        p: p.stat().st_mtime_ns for p in built[1].rglob("*") if p.is_file()
    }.items()


def test_a_killed_run_goes_on_and_ends_with_the_same_bytes(
    built: tuple[Outcome, Path], village: Village, tmp_path: Path
) -> None:
    out = tmp_path / "killed"
    words = [
        sys.executable, "-m", "pipeline.cli.main", "shards", "--region", str(village.osm),
        "--imagery", str(village.imagery),
        "--streetview", str(village.photos), "--zoom", "18", "--size", "128", "--out", str(out), "--workers", "1",
        "plan.per_shard=10",
    ]  # fmt: skip
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not list(out.glob("catalog/.pending/*.shards.parquet")):
        time.sleep(0.002)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, "the run was over before it could be killed"
    finished = len(list(out.glob("catalog/.pending/*.shards.parquet")))
    assert not (out / "dataset.json").exists()
    rest = make_shards(config_of(village, out), quiet=True)
    assert rest.built == rest.document["shards"] - finished
    assert bytes_of(out) == bytes_of(built[1])


def test_a_run_killed_while_folding_goes_on(built: tuple[Outcome, Path], village: Village, tmp_path: Path) -> None:
    out = tmp_path / "folding"
    make_shards(config_of(village, out), quiet=True)
    leftover = out / "catalog/.pending/part-0000001.samples.parquet"
    leftover.write_bytes((out / "catalog/samples/part-00000.parquet").read_bytes())
    begun = {"fingerprint": json.loads((out / "dataset.json").read_text())["fingerprint"]}
    (out / "catalog/.pending/run.json").write_text(json.dumps(begun))
    (out / "dataset.json").unlink()
    assert make_shards(config_of(village, out), quiet=True).built == 0
    assert bytes_of(out) == bytes_of(built[1])


def test_stock_webdataset_reads_every_sample_and_member(built: tuple[Outcome, Path]) -> None:
    store = Store(built[1])
    rows = {r["key"]: r for r in sample_rows(store)}
    shards = sorted(str(p) for p in (built[1] / "shards").glob("*.tar"))
    seen: dict[str, dict[str, bytes]] = {}
    for sample in webdataset.WebDataset(shards, shardshuffle=False):
        key = sample["__key__"].rsplit("/", 1)[-1]
        seen[key] = {name: data for name, data in sample.items() if not name.startswith("__")}
    assert seen.keys() == rows.keys()
    for key, members in seen.items():
        assert {m["name"]: m["size"] for m in rows[key]["members"]} == {n: len(d) for n, d in members.items()}
        assert sample_hash(members) == rows[key]["sha256"]
        assert all(is_member(n) for n in members)


def test_offsets_in_the_catalog_are_those_of_the_tar(built: tuple[Outcome, Path]) -> None:
    store = Store(built[1])
    expected = {
        f"{r['key']}.{m['name']}": (r["shard"], m["offset"], m["size"])
        for r in sample_rows(store)
        for m in r["members"]
    }
    found = {}
    for path in sorted((built[1] / "shards").glob("*.tar")):
        with tarfile.open(path) as tar:
            for member in tar:
                assert (member.mtime, member.uid, member.gid, member.uname, member.gname) == (0, 0, 0, "", "")
                found[member.name] = (path.name, member.offset_data, member.size)
    assert found == expected


def test_counts_in_the_catalog_are_those_of_the_samples(built: tuple[Outcome, Path]) -> None:
    store = Store(built[1])
    photos = read_catalog(store, "streetview").to_pylist()
    for row, members in read_samples(store, sample_rows(store)):
        tokens, meta = OsmTokens.from_bytes(members[OSM_TOKENS]), SampleMeta.from_bytes(members["json"])
        assert (row["n_point"], row["n_line"], row["n_polygon"]) == tokens.counts()
        assert row["n_edges"] == len(tokens.relation)
        assert row["n_rs"] == len(meta.rs) == sum(n.startswith("rs.") for n in members)
        own = [p for p in photos if p["key"] == row["key"]]
        assert [p["id"] for p in own] == [p.id for p in meta.streetview]
        assert row["n_streetview"] == len(own) == sum(n.startswith("sv.") for n in members)
        assert all(0 <= p["x"] < 1 and 0 <= p["y"] < 1 for p in own)
    document = json.loads((built[1] / "dataset.json").read_text())
    samples = read_catalog(store, "samples")
    assert document["content_hash"] == content_hash(
        zip(samples["key"].to_pylist(), samples["sha256"].to_pylist(), strict=True)
    )


def test_every_photo_is_in_one_sample_or_in_drops(built: tuple[Outcome, Path]) -> None:
    store = Store(built[1])
    drops = {r["key"]: r["reason"] for r in read_catalog(store, "drops").to_pylist() if r["stage"] == "streetview"}
    placed = read_catalog(store, "streetview")["id"].to_pylist()
    assert drops == {"far.jpg": "outside_tiles", "broken.jpg": "unreadable_image"}
    assert sorted(placed) == [f"{i}.jpg" for i in range(6)]


def test_every_planned_tile_is_a_sample_or_a_drop(built: tuple[Outcome, Path]) -> None:
    store = Store(built[1])
    shards = read_catalog(store, "shards").to_pylist()
    dropped = [r["key"] for r in read_catalog(store, "drops").to_pylist() if r["stage"] == "samples"]
    kept = [r["key"] for r in sample_rows(store)]
    assert sum(s["planned"] for s in shards) == len(kept) + len(dropped)
    assert not set(kept) & set(dropped)


def test_queries_see_every_table_of_a_build(built: tuple[Outcome, Path]) -> None:
    connection = connect(str(built[1]))
    for table in TABLES.keys() - {"statistics"}:  # which `geoshards stats` writes
        assert connection.sql(f"SELECT count(*) FROM {table}").fetchall()[0][0] > 0, table
    total = connection.sql("SELECT count(*) FROM samples JOIN shards USING (shard)").fetchall()
    assert total == [(built[0].document["samples"],)]


def test_the_class_raster_explains_itself(built: tuple[Outcome, Path]) -> None:
    """Names and colours of its values stand in catalog/classes, on the card, and in the palette of every PNG."""
    store = Store(built[1])
    classes = read_catalog(store, "classes").to_pylist()
    assert classes == load_rules().paint.rows()
    card = (built[1] / "README.md").read_text()
    assert all(f"| {c['value']} | {markdown(c['name'])} | `{c['colour']}` |" in card for c in classes)
    colours = [bytes.fromhex(c["colour"][1:]) for c in classes]
    seen = set[int]()
    for _, members in read_samples(store, sample_rows(store)):
        raster = Image.open(io.BytesIO(members["osm.png"]))
        assert raster.mode == "P"
        assert raster.palette is not None
        assert raster.palette.palette[: 3 * len(classes)] == b"".join(colours)
        seen |= set(np.unique(np.asarray(raster)).tolist())
    assert len(seen) >= 3
    assert max(seen) < len(classes)


def test_samples_table_is_geoparquet_with_footprints(built: tuple[Outcome, Path]) -> None:
    path = built[1] / "catalog/samples/part-00000.parquet"
    inside = duckdb.sql(
        f"SELECT count(*) FROM '{path}' WHERE bbox.xmin <= lon AND lon <= bbox.xmax "
        "AND bbox.ymin <= lat AND lat <= bbox.ymax"
    )
    assert inside.fetchall() == [(built[0].document["samples"],)]


def test_no_absolute_path_is_written(built: tuple[Outcome, Path], village: Village) -> None:
    words = [str(village.osm.parent).encode(), str(built[1].parent).encode(), str(Path.home() / "x")[:-1].encode()]
    for name, data in bytes_of(built[1]).items():
        assert not any(word in data for word in words), name


def test_a_second_writer_is_refused(village: Village, tmp_path: Path) -> None:
    with (
        one_writer(str(tmp_path / "locked")),
        pytest.raises(LockError, match=f"is being written by process {os.getpid()} on"),
    ):
        make_shards(config_of(village, tmp_path / "locked"), quiet=True)


def test_the_lock_of_a_dead_process_is_taken_over(village: Village, tmp_path: Path) -> None:
    out = tmp_path / "stale"
    out.mkdir()
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    (out / ".lock").write_text(dataclasses.replace(Owner.here(), pid=dead.pid).text())
    assert make_shards(config_of(village, out), quiet=True).built > 0
    assert not (out / ".lock").exists()


def test_another_dataset_in_out_is_not_overwritten(built: tuple[Outcome, Path], village: Village) -> None:
    with pytest.raises(DatasetError, match="choose another out"):
        make_shards(config_of(village, built[1], size=64), quiet=True)


def test_a_flipped_byte_is_found_by_verify(built: tuple[Outcome, Path], village: Village, tmp_path: Path) -> None:
    out = tmp_path / "flipped"
    make_shards(config_of(village, out), quiet=True)
    assert find_problems(str(out)) == []
    row = sample_rows(Store(out))[3]
    path = out / "shards" / row["shard"]
    data = bytearray(path.read_bytes())
    data[row["members"][-1]["offset"] + 5] ^= 0xFF
    path.write_bytes(data)
    assert any(row["key"] in problem.what for problem in find_problems(str(out)))


def test_a_changed_index_is_found_by_verify_and_a_lost_one_is_made_again(village: Village, tmp_path: Path) -> None:
    out = tmp_path / "lost"
    make_shards(config_of(village, out), quiet=True)
    file = out / index_file(0)
    whole = file.read_bytes()
    file.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    assert f"{index_file(0)}: not that of catalog/samples/part-00000.parquet" in map(str, find_problems(str(out)))
    file.unlink()
    assert list(map(str, find_problems(str(out)))) == [f"{index_file(0)}: missing"]
    make_shards(config_of(village, out), quiet=True)
    assert file.read_bytes() == whole
    file.with_name("part-00001.safetensors").write_bytes(whole)
    assert "catalog/index/part-00001.safetensors: without its samples" in map(str, find_problems(str(out)))


def test_tiles_without_imagery_are_named_in_drops(village: Village, tmp_path: Path) -> None:
    from tests.driver.village import SOUTH, WEST
    from tests.imagery.scenes import write_utm

    image = write_utm(tmp_path / "part.tif", (WEST, SOUTH, WEST + 0.006, SOUTH + 0.004), 1.0, "EPSG:32632")
    holes = tmp_path / "holes.tif"
    import rasterio

    with rasterio.open(image) as source:
        data, profile = source.read(), source.profile | {"nodata": 0}
    data[data == 0] = 1
    data[:, 150:260, 150:260] = 0
    with rasterio.open(holes, "w", **profile) as target:
        target.write(data)
    rs = ImageryConfig(licence="CC0-1.0", max_nodata=0)
    outcome = make_shards(config_of(village, tmp_path / "out", imagery=str(holes), rs=rs), quiet=True)
    reasons = {
        r["reason"] for r in read_catalog(Store(tmp_path / "out"), "drops").to_pylist() if r["stage"] == "samples"
    }
    assert reasons == {"nodata"}
    for row, members in read_samples(Store(tmp_path / "out"), sample_rows(Store(tmp_path / "out"))):
        assert SampleMeta.from_bytes(members["json"]).rs[0].nodata_share == 0
        assert row["n_rs"] == 1
    assert outcome.document["samples"] > 0


def test_an_image_has_the_licence_that_its_file_declares(built: tuple[Outcome, Path]) -> None:
    rows = [r for r in sample_rows(Store(built[1])) if not r["n_streetview"]]
    assert {tuple(r["licences"]) for r in rows} == {("CC0-1.0", "ODbL-1.0")}
