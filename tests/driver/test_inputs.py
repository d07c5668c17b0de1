"""Odd inputs: used as they should be, or refused and counted with their names."""

from __future__ import annotations

import dataclasses
import io
import shutil
from pathlib import Path

import mercantile
import numpy as np
import pytest
import rasterio
from PIL import Image

from pipeline.catalog.verify import find_problems
from pipeline.cli.main import main
from pipeline.driver.shards import make_shards
from pipeline.footprints.sampling import SamplingConfig
from pipeline.imagery.local import open_scene
from pipeline.rules import RulesConfig
from pipeline.samples.config import PlanConfig, ShardsConfig
from schemas.errors import ConfigError, InputError
from storage.dataset import read_catalog, read_samples, sample_rows
from storage.store import Store
from tests.driver.test_shards import bytes_of, config_of
from tests.driver.village import SOUTH, WEST, Village
from tests.osm.opl import write_opl
from tests.streetview.makers import read_photos

PARENT = mercantile.tile(WEST + 0.006, SOUTH + 0.004, 16)  # 16 tiles of zoom 18


def aligned(path: Path, data: np.ndarray, **profile: object) -> Path:
    """A raster in web-mercator that is exactly the PARENT tile."""
    bands, height, width = data.shape
    transform = rasterio.transform.from_bounds(*mercantile.xy_bounds(PARENT), width, height)
    options = {"driver": "GTiff", "width": width, "height": height, "count": bands, "dtype": data.dtype,
               "crs": "EPSG:3857",
               "transform": transform}  # fmt: skip
    with rasterio.open(path, "w", **(options | profile)) as target:
        target.write(data)
        target.update_tags(LICENSE="CC0-1.0")
    return path


def noise(dtype: str, bands: int = 3) -> np.ndarray:
    return np.random.default_rng(1).integers(1, 200, (bands, 512, 512)).astype(dtype)


def build(village: Village, folder: Path, **changes: object) -> Store:
    make_shards(config_of(village, folder, **changes), quiet=True)
    return Store(folder)


def test_an_image_cut_along_tile_edges_fills_all_its_tiles(village: Village, tmp_path: Path) -> None:
    image = aligned(tmp_path / "a.tif", noise("uint8"), photometric="RGB")
    store = build(village, tmp_path / "out", imagery=str(image), streetview="none")
    assert {r["key"] for r in sample_rows(store)} == {
        f"xyz-18-{t.x}-{t.y}-128" for t in mercantile.children(PARENT, zoom=18)
    }
    drops = {r["reason"]: r["count"] for r in read_catalog(store, "drops").to_pylist() if r["stage"] == "plan"}
    assert drops["no_imagery"] > 0


@pytest.mark.parametrize("dtype", ["uint16", "int16", "float32"])
def test_bands_that_are_no_8_bit_rgb_are_kept_as_they_are(village: Village, tmp_path: Path, dtype: str) -> None:
    data = noise(dtype, 4)
    data[:, :256] += 1000 if dtype != "uint8" else 0
    image = aligned(tmp_path / "a.tif", data)
    store = build(village, tmp_path / "out", imagery=str(image), streetview="none")
    for _, members in read_samples(store, sample_rows(store)):
        kept = np.load(io.BytesIO(members["rs.npy"]), allow_pickle=False)
        assert kept.shape == (4, 128, 128)
        assert kept.dtype == dtype


@pytest.mark.parametrize("dtype", ["float64", "uint32", "complex64", "int8"])
def test_values_that_the_stream_cannot_read_are_refused_by_file_and_dtype(tmp_path: Path, dtype: str) -> None:
    with pytest.raises(InputError, match=f"a.tif is {dtype}"):
        open_scene(aligned(tmp_path / "a.tif", noise("uint8").astype(dtype)))


def test_pixels_that_are_no_number_are_no_data(village: Village, tmp_path: Path) -> None:
    data = noise("float32")
    data[:, :, :256] = np.nan
    store = build(village, tmp_path / "out", imagery=str(aligned(tmp_path / "a.tif", data)), streetview="none")
    rows = sample_rows(store)
    assert 4 <= len(rows) <= 8
    for _, members in read_samples(store, rows):
        assert np.isfinite(np.load(io.BytesIO(members["rs.npy"]))).all()
    assert {r["reason"] for r in read_catalog(store, "drops").to_pylist() if r["stage"] == "samples"} <= {
        "nodata",
        "no_imagery",
    }


def test_scenes_of_different_bands_are_refused(village: Village, tmp_path: Path) -> None:
    images = aligned(tmp_path / "a.tif", noise("uint16")), aligned(tmp_path / "b.tif", noise("uint16", 1))
    with pytest.raises(InputError, match=r"a\.tif .* and b\.tif .* differ in bands"):
        build(village, tmp_path / "out", imagery=",".join(map(str, images)))


def test_a_photo_on_a_tile_edge_belongs_to_one_tile(village: Village, tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    rows = []
    for t in mercantile.children(PARENT, zoom=18):
        box = mercantile.bounds(t)
        rows += [
            f"a.png,{(box.west + box.east) / 2!r},{box.south!r},s{t.x}-{t.y}",
            f"a.png,{box.west!r},{(box.south + box.north) / 2!r},w{t.x}-{t.y}",
        ]
    (tmp_path / "t.csv").write_text("file,lon,lat,id,licence\n" + "".join(f"{r},CC0-1.0\n" for r in rows))
    store = build(
        village, tmp_path / "out", imagery="none", streetview=str(tmp_path / "t.csv"), plan=PlanConfig(min_objects=0)
    )
    placed = read_catalog(store, "streetview").to_pylist()
    dropped = [r["key"] for r in read_catalog(store, "drops").to_pylist() if r["stage"] == "streetview"]
    assert dropped == []
    assert sorted(p["id"] for p in placed) == sorted(r.rsplit(",", 1)[1] for r in rows)
    assert all(0 <= p["x"] < 1 and 0 <= p["y"] < 1 for p in placed)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2020-01-01T00:00:00.123+02:00", "2019-12-31T22:00:00.123Z"),
        ("2020-01-01 10:00:00+00:00", "2020-01-01T10:00:00Z"),
        ("2020-01-01T10:00:00Z", "2020-01-01T10:00:00Z"), ("2020-01-01 10:00:00", "2020-01-01T10:00:00"),
        ("1577872800000", "2020-01-01T10:00:00Z"), ("2020:01:01 10:00:00", "2020-01-01T10:00:00"), ("noon", None),
    ],
)  # fmt: skip
def test_capture_times_keep_their_meaning(tmp_path: Path, text: str, expected: str | None) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    (tmp_path / "t.csv").write_text(f"file,lon,lat,captured_at\na.png,9,47,{text}\n")
    (photo,), _ = read_photos(tmp_path / "t.csv")
    assert photo.captured_at == expected


@pytest.mark.parametrize("nodes", [[], [(1, WEST, SOUTH, ""), (2, WEST + 0.002, SOUTH + 0.001, "")]])
def test_a_region_without_features_is_refused(tmp_path: Path, nodes: list[tuple[int, float, float, str]]) -> None:
    osm = write_opl(tmp_path / "empty.opl", nodes, [])
    for least in (None, 0):
        plan = PlanConfig(min_objects=least)
        config = ShardsConfig(region=str(osm), zoom=18, size=64, workers=1, out=str(tmp_path / "out"), plan=plan)
        with pytest.raises(InputError, match=r"no footprint is left to build: none meets"):
            make_shards(config, quiet=True)


def test_a_region_of_which_nothing_is_left_names_why(tmp_path: Path) -> None:
    osm = write_opl(tmp_path / "pole.opl", [(1, 9.5, 85.0, "amenity=cafe"), (2, 9.501, 85.001, "amenity=cafe")], [])
    config = ShardsConfig(region=str(osm), footprints=("grid",), size=64, workers=1, out=str(tmp_path / "out"))
    with pytest.raises(InputError, match=r"no footprint is left to build: [\d,]+ beyond_utm"):
        make_shards(config, quiet=True)


@pytest.mark.parametrize("min_objects", [0, 1])
def test_land_only_leaves_tiles_of_nothing_but_water_out(tmp_path: Path, min_objects: int) -> None:
    a, b, _ = sorted(mercantile.children(PARENT, zoom=18), key=lambda t: (t.y, t.x))[:3]
    assert (a.x + 1, a.y) == (b.x, b.y)
    ways, nodes = [], []
    for tile, tags in ((a, "natural=water"), (b, "building=house")):
        w, s, e, n = mercantile.bounds(tile)
        dx, dy = (e - w) / 4, (n - s) / 4
        ring = [(w + dx, s + dy), (e - dx, s + dy), (e - dx, n - dy), (w + dx, n - dy)]
        own = list(range(len(nodes) + 1, len(nodes) + 5))
        nodes += [(i, lon, lat, "") for i, (lon, lat) in zip(own, ring, strict=True)]
        ways.append((len(ways) + 1, [*own, own[0]], tags))
    osm = write_opl(tmp_path / "lake.opl", nodes, ways)
    config = ShardsConfig(region=str(osm), zoom=18, size=64, workers=1, out=str(tmp_path / "out"),
        plan=PlanConfig(min_objects=min_objects, sampling=SamplingConfig(land_only=True)))  # fmt: skip
    make_shards(config, quiet=True)
    store = Store(tmp_path / "out")
    assert [r["key"] for r in sample_rows(store)] == [f"xyz-18-{b.x}-{b.y}-64"]
    dropped = {r["reason"]: r["count"] for r in read_catalog(store, "drops").to_pylist() if r["stage"] == "plan"}
    assert dropped["no_land"] >= 1


def test_photos_only_without_photos_is_refused(village: Village, tmp_path: Path) -> None:
    plan = PlanConfig(sampling=SamplingConfig(photos_only=True))
    with pytest.raises(ConfigError, match="name their source with --streetview"):
        build(village, tmp_path / "out", streetview="none", plan=plan)


@pytest.mark.parametrize("name", ["file", "file/below"])
def test_an_out_that_cannot_be_written_is_an_error_with_its_path(
    village: Village, tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("x")
    words = ["--region", str(village.osm), "--zoom", "16", "--workers", "1", "--out", str(tmp_path / name)]
    assert main(["shards", *words]) == 1
    assert "cannot be written" in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize("harm", ["missing", "short"])
def test_a_lost_shard_is_built_again(village: Village, tmp_path: Path, harm: str) -> None:
    store = build(village, tmp_path / "out")
    before = bytes_of(tmp_path / "out")
    shard = tmp_path / "out/shards/part-0000002.tar"
    shard.unlink() if harm == "missing" else shard.write_bytes(shard.read_bytes()[:-512])
    assert find_problems(store.root)
    build(village, tmp_path / "out")
    assert find_problems(store.root) == []
    assert bytes_of(tmp_path / "out") == before


def test_a_run_that_failed_on_a_setting_claims_nothing(village: Village, tmp_path: Path) -> None:
    from pipeline.samples.config import ImageryConfig

    image = aligned(tmp_path / "a.tif", noise("uint16"))
    with pytest.raises(InputError, match=r"rs\.format=npy"):
        build(village, tmp_path / "out", imagery=str(image), rs=ImageryConfig(format="jpg"))
    assert sample_rows(build(village, tmp_path / "out", imagery=str(image)))


def test_the_place_of_a_rules_file_does_not_matter(village: Village, tmp_path: Path) -> None:
    source = Path(__file__).parents[2] / "pipeline/rules/tags.yaml"
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        shutil.copy(source, tmp_path / name / "tags.yaml")
    build(village, tmp_path / "out", rules=RulesConfig(tags=str(tmp_path / "a/tags.yaml")))
    again = make_shards(
        config_of(village, tmp_path / "out", rules=RulesConfig(tags=str(tmp_path / "b/tags.yaml"))), quiet=True
    )
    assert again.built == 0
    assert str(tmp_path).encode() not in (tmp_path / "out/dataset.json").read_bytes()


def test_temporary_files_of_killed_runs_are_swept(village: Village, tmp_path: Path) -> None:
    build(village, tmp_path / "out")
    for name in ("shards/.part-0000000.tar.1.ab.tmp", "catalog/samples/.x.1.ab.tmp"):
        (tmp_path / "out" / name).write_bytes(b"half")
    build(village, tmp_path / "out")
    assert not list((tmp_path / "out").rglob("*.tmp"))


def test_a_dataset_in_memory_is_written_and_read_by_one_process(village: Village) -> None:
    config = dataclasses.replace(config_of(village, Path("x")), out="memory://datasets/village")
    make_shards(config, quiet=True)
    assert find_problems("memory://datasets/village") == []
