"""`make shards REGION=europe` with nothing else said, on a mirror of all its services over three real countries."""

from __future__ import annotations

import io
import json
import os
import pty
import subprocess
from pathlib import Path

import mercantile
import numpy as np
import pytest

from pipeline.catalog.verify import find_problems
from pipeline.cli.main import main
from pipeline.imagery.stac.presets import PRESETS
from pipeline.net.config import base_url
from schemas.sample import SampleMeta
from storage.dataset import read_catalog, read_samples, sample_rows
from storage.store import Store
from tests.driver.test_shards import bytes_of
from tests.imagery.scenes import write_granule, write_manifest, write_utm
from tests.mirror.server import Mirror
from tests.real.test_downloads import COUNTRIES, ROOT
from tests.real.test_europe import command
from tests.streetview.makers import picture, write_table

#: Middle of each country, and the pixels of 10 m that cover it.
GROUND = {"andorra": ((1.58, 42.54), 3600), "liechtenstein": ((9.55, 47.16), 2800), "monaco": ((7.42, 43.73), 600)}


@pytest.fixture(scope="module")
def services(real_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A mirror's folder: extracts, a clear granule of each country, photos all over Liechtenstein."""
    folder = tmp_path_factory.mktemp("services")
    (folder / "geofabrik/europe").mkdir(parents=True)
    for name, path in COUNTRIES.items():
        (folder / f"geofabrik/europe/{name}-latest.osm.pbf").symlink_to(real_data / path)
    stac = folder / "earth-search"
    write_manifest(stac, [
        write_granule(stac, f"S2_{name}", "2024-06-01T10:20:00Z", value=1000 * i, side=side, place=place)
        for i, (name, (place, side)) in enumerate(GROUND.items(), 1)
    ])  # fmt: skip
    picture(folder / "panoramax/a.jpg")
    rows = [
        {"file": "a.jpg", "id": f"p{i}-{j}", "lon": 9.47 + 0.022 * i, "lat": 47.05 + 0.015 * j, "heading": 10 * i,
         "captured_at": "2024-06-11T10:00:00Z", "author": "walker", "licence": "CC-BY-SA-4.0"}
        for i in range(8) for j in range(15)
    ]  # fmt: skip
    write_table(folder / "panoramax/photos.csv", rows)
    return folder


@pytest.fixture(scope="module")
def read_once(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A cache for builds that share the features of the three countries."""
    return str(tmp_path_factory.mktemp("cache"))


@pytest.fixture
def mirror(services: Path, monkeypatch: pytest.MonkeyPatch) -> Mirror:
    with Mirror(services) as server:
        monkeypatch.setenv("GEOSHARDS_MIRROR", server.url)
        yield server  # type: ignore[misc]


def test_a_named_region_gets_sentinel_2_and_photos_at_its_own_zoom(
    mirror: Mirror, read_once: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("GEOSHARDS_CACHE", read_once)
    words = ["shards", "--region", "europe", "--out", str(tmp_path / "out"), "--workers", "1"]
    settings = ["plan.sampling.max_tiles=10", "tokens.raster=false", "net.retries=1"]
    assert main([*words, *settings]) == 0
    said = capfd.readouterr().err
    assert "sampled to 10" in said
    assert "at zoom 14, 256 px" in said
    assert "ODbL" in said
    assert "Copernicus" in said
    assert "CC BY-SA" in said
    store = Store(tmp_path / "out")
    assert find_problems(store.root) == []
    rows = sample_rows(store)
    assert 5 <= len(rows) <= 10
    document = json.loads((tmp_path / "out/dataset.json").read_text())
    assert document["config"]["zoom"] == 14
    assert {s["kind"]: s["licence"] for s in document["sources"]}["streetview"] == "CC-BY-SA-4.0"
    assert all(s["licence"] for s in document["sources"])
    assert document["counts"]["n_streetview"] > 0
    offsets = {"S2_andorra": 1000, "S2_liechtenstein": 2000, "S2_monaco": 3000}
    for row, members in read_samples(store, rows):
        meta = SampleMeta.from_bytes(members["json"])
        pixels = np.load(io.BytesIO(members["rs.npy"]), allow_pickle=False)
        assert (pixels.shape, pixels.dtype) == ((12, 256, 256), np.uint16)
        np.testing.assert_array_equal(pixels[:, 100, 100], offsets[meta.rs[0].source] + np.arange(1, 13))
        assert row["rs_time"] == "2024-06-01T10:20:00Z"
        assert row["osm_time"] is not None
        for photo in meta.streetview:
            assert (photo.source, photo.gap_days, photo.author) == ("panoramax", 9.99, "walker")
            assert 0 <= photo.x < 1
            assert 0 <= photo.y < 1
    # The same again asks for nothing.
    before = len(mirror.log)
    assert main([*words, *settings, "--quiet"]) == 0
    asked = [s.path for s in list(mirror.log)[before:] if "pictures" in s.path or s.path.endswith((".pbf", ".tif"))]
    assert asked == []


def test_a_killed_default_build_ends_with_the_same_bytes(mirror: Mirror, tmp_path: Path) -> None:
    def build(cache: str, out: str, limit: float | None) -> None:
        words, env = command(tmp_path / cache, tmp_path / out, "monaco")
        kept = [w for w in words if not w.startswith(("--imagery", "--streetview", "--zoom"))]
        sampled = [*kept, "plan.sampling.max_tiles=6", "plan.per_shard=2"]
        try:
            done = subprocess.run(sampled, env=env, timeout=limit or 240, check=False)
            assert done.returncode == 0
        except subprocess.TimeoutExpired:  # killed by SIGKILL
            assert limit is not None

    build("a", "whole", None)
    for limit in (3.0,):
        build("b", "killed", limit)
    build("b", "killed", None)
    assert bytes_of(tmp_path / "killed") == bytes_of(tmp_path / "whole")


def test_plan_downloads_nothing_large(
    mirror: Mirror, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("GEOSHARDS_CACHE", str(tmp_path / "cache"))
    assert main(["plan", "--region", "europe", "--json", "plan.sampling.max_tiles=40"]) == 0
    found = json.loads(capfd.readouterr().out)
    assert sum(s.bytes for s in mirror.log) < 50_000
    assert (found["zoom"], found["chosen"], found["shards"]) == (14, 40, 1)
    assert found["tiles"] > 100
    assert found["disk_bytes"] > 40 * 12 * 256 * 256 * 2
    assert len(found["extracts"]) == 3
    assert all(e["bytes"] > 100_000 and not e["present"] for e in found["extracts"])
    assert set(found["licences"]) == {"osm", "earth-search", "panoramax"}
    assert found["core_hours"] > 0


def test_plan_of_a_named_region_takes_zoom_and_ground_from_local_imagery(
    mirror: Mirror, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("GEOSHARDS_CACHE", str(tmp_path / "cache"))
    box = (9.50, 47.10, 9.52, 47.11)
    image = write_utm(tmp_path / "vaduz.tif", box, 1.0, "EPSG:32632")
    assert main(["plan", "--region", "liechtenstein", "--imagery", str(image), "--json"]) == 0
    found = json.loads(capfd.readouterr().out)
    assert found["zoom"] == 17
    across = list(mercantile.tiles(*box, 17))
    # The image is square in UTM, a little more than the box in degrees.
    assert len(across) - 20 <= found["tiles"] <= len(across) + 20


@pytest.mark.parametrize(("answer", "yes", "goes_on"), [("n", False, False), ("", False, False), ("n", True, True)])
def test_a_person_at_the_terminal_is_asked_before_a_large_build(
    mirror: Mirror, tmp_path: Path, answer: str, yes: bool, goes_on: bool
) -> None:
    words, env = command(tmp_path / "cache", tmp_path / "out", "monaco")
    words = [w for w in words if w != "--quiet" and not w.startswith("--imagery")] + ["--yes"] * yes
    here, there = pty.openpty()
    os.write(here, f"{answer}\n".encode())
    # A build that goes on ends soon: there is no image of that time.
    words += ["plan.ask_gb=0", "rs.datetime=1990-01-01/1990-02-01"]
    process = subprocess.run(words, env=env, cwd=ROOT, stdin=there, stderr=there, check=False, timeout=120)
    said = os.read(here, 1 << 16).decode()
    os.close(there)
    os.close(here)
    assert process.returncode != 0
    assert ("not confirmed; give --yes" in said) == (not goes_on)
    assert ("has no item" in said) == goes_on


def test_every_service_of_the_web_has_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GEOSHARDS_MIRROR", raising=False)
    for service in ("geofabrik", "panoramax", "mapillary", "kartaview"):
        assert base_url(service).startswith("https://")
    assert all(preset.url.startswith("https://") for preset in PRESETS.values())


def test_photos_only_leaves_the_tiles_with_photos(
    mirror: Mirror, read_once: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GEOSHARDS_CACHE", read_once)
    words = ["shards", "--region", "europe", "--imagery", "none", "--streetview", "panoramax", "--quiet"]
    settings = ["plan.sampling.photos_only=true", "plan.sampling.land_only=true", "tokens.raster=false"]
    assert main([*words, "--zoom", "14", "--out", str(tmp_path / "out"), "--workers", "1", *settings]) == 0
    store = Store(tmp_path / "out")
    rows = sample_rows(store)
    assert len(rows) > 10
    assert all(r["n_streetview"] > 0 for r in rows)
    counts: dict[str, int] = {}
    for d in read_catalog(store, "drops").to_pylist():
        counts[d["reason"]] = counts.get(d["reason"], 0) + d["count"]
    assert counts["no_photo"] > 0
