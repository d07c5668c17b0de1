"""The files of a world: the same for any number of workers, whole, and as other tools read them."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import osmium
import pyarrow.parquet as pq
import pytest
import rasterio
import shapely
from PIL import Image
from scipy.ndimage import gaussian_gradient_magnitude

from pipeline.cli.main import main
from pipeline.demo.pictures.ground import rasterise
from pipeline.demo.world.aerial import render_sheet, shift_of
from pipeline.demo.world.build import WorldFiles, build_world
from pipeline.demo.world.district import World
from pipeline.demo.world.plan import Plan
from pipeline.demo.world.settings import WorldSettings

SETTINGS = WorldSettings(tiles=9, photos=6, seed=5, style="village", shift_m=2.5)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> WorldFiles:
    return build_world(tmp_path_factory.mktemp("world") / "small", SETTINGS, workers=1)


def _bytes(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_a_world_is_the_same_for_any_number_of_workers(small: WorldFiles, tmp_path: Path) -> None:
    build_world(tmp_path / "again", SETTINGS, workers=2)
    assert _bytes(tmp_path / "again") == _bytes(small.osm.parent)


class _Reader(osmium.SimpleHandler):
    def __init__(self) -> None:
        super().__init__()
        self.nodes: list[int] = []
        self.ways: list[int] = []
        self.refs: dict[int, list[int]] = {}
        self.used: dict[int, int] = {}

    def node(self, n: osmium.osm.Node) -> None:
        self.nodes.append(n.id)

    def way(self, w: osmium.osm.Way) -> None:
        self.ways.append(w.id)
        self.refs[w.id] = [n.ref for n in w.nodes]
        if "highway" in w.tags:
            for ref in set(self.refs[w.id]):
                self.used[ref] = self.used.get(ref, 0) + 1


def test_the_map_is_sorted_whole_and_its_streets_share_nodes(small: WorldFiles) -> None:
    read = _Reader()
    read.apply_file(str(small.osm))
    for ids in (read.nodes, read.ways):
        assert ids == sorted(set(ids))
    assert {ref for refs in read.refs.values() for ref in refs} <= set(read.nodes)
    assert sum(n > 1 for n in read.used.values()) >= 5


def test_photos_and_their_table_agree(small: WorldFiles) -> None:
    rows = list(csv.DictReader(small.streetview.open()))
    assert [r["id"] for r in rows] == [f"{n:07d}" for n in range(SETTINGS.photos)]
    for row in rows:
        with Image.open(small.streetview.parent / row["file"]) as image:
            assert image.size == (512, 384)
            assert not image.getexif()
        assert row["licence"] == "CC0-1.0"
        assert row["author"]
    assert pq.read_table(small.photo_labels).column("id").to_pylist() == [r["id"] for r in rows]
    labels = pq.read_table(small.tile_labels)
    assert labels.num_rows == 9
    assert b'"primary_column": "geometry"' in labels.schema.metadata[b"geo"]


def test_sheets_meet_the_tiles_of_the_map_to_the_pixel(small: WorldFiles) -> None:
    tiles = pq.read_table(small.tile_labels).to_pydict()
    with rasterio.open(next(small.imagery.iterdir())) as sheet:
        assert sheet.crs.to_epsg() == 3857
        side = 2 * 20037508.342789244 / 2**17
        assert sheet.transform.a * 256 == pytest.approx(side, abs=1e-9)
        assert sheet.transform.c == pytest.approx(min(tiles["x"]) * side - 20037508.342789244, abs=1e-6)
        assert sheet.transform.f == pytest.approx(20037508.342789244 - min(tiles["y"]) * side, abs=1e-6)
        assert sheet.tags()["LICENSE"] == "CC0-1.0"


def test_an_aerial_sheet_is_displaced_by_its_error_of_registration_and_no_more() -> None:
    """Brightness changes where walls stand, wherever the light comes from."""
    plan = Plan(SETTINGS)
    world = World(plan)
    grey = render_sheet(world, (0, 0)).astype(np.float32).mean(axis=2)
    bounds = (0.0, 0.0, *plan.size)
    rings = [b.ring for block in world.blocks_in(bounds) for b in block.buildings if b.style != "hedge"]
    edges = [(shapely.buffer(shapely.boundary(shapely.Polygon(r)), 0.6), 1) for r in rings]
    pixel = plan.tile_m / 256
    walls = rasterise(edges, bounds, pixel, "uint8").astype(np.float32)
    slope = np.minimum(gaussian_gradient_magnitude(grey, 1.0), 30.0)
    n = 8
    score = {
        (dx, dy): float((walls[n:-n, n:-n] * np.roll(slope, (-dy, -dx), (0, 1))[n:-n, n:-n]).mean())
        for dx in range(-n, n + 1)
        for dy in range(-n, n + 1)
    }
    dx, dy = max(score, key=lambda at: score[at])
    east, north = shift_of(plan, (0, 0))
    assert np.hypot(dx * pixel - east, -dy * pixel - north) < 1.3
    assert np.hypot(east, north) > 1.5  # or it would show nothing


def test_a_world_is_made_once_and_copied_from_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("GEOSHARDS_CACHE", str(tmp_path / "cache"))
    words = ["--world", "tiles=1", "photos=1", "style=fields"]
    assert main(["demo", str(tmp_path / "a"), *words]) == 0
    stamps = {p: p.stat().st_mtime_ns for p in (tmp_path / "cache").rglob("*.tif")}
    assert main(["demo", str(tmp_path / "b"), *words]) == 0
    assert stamps == {p: p.stat().st_mtime_ns for p in (tmp_path / "cache").rglob("*.tif")}
    assert _bytes(tmp_path / "a") == _bytes(tmp_path / "b")
    assert f"streetview: {tmp_path / 'b' / 'photos.csv'}" in capsys.readouterr().out
    assert main(["demo", str(tmp_path / "c"), "--scale", "2", *words]) != 0
    assert "tiles=" in capsys.readouterr().err
