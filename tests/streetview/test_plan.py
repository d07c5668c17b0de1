"""From a source to the photos of each footprint: all of it together, with every photo accounted for."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from geometry.tiles import lonlat_to_tile, tile_to_lonlat
from pipeline.mirror.messages import Request, Response
from pipeline.net.client import Unavailable
from pipeline.streetview.config import StreetviewConfig
from pipeline.streetview.files.folder import FolderSource
from pipeline.streetview.plan import ChosenPhotos
from pipeline.streetview.services.web import WebSource
from pipeline.streetview.sources import open_source
from schemas.errors import ConfigError
from schemas.footprint import Footprint
from tests.grounds import TileArea, photos_of_footprints, photos_of_tiles, pixel_to_lonlat
from tests.mirror import faults
from tests.mirror.server import Mirror
from tests.streetview.conftest import SERVICES, Open
from tests.streetview.makers import FAST, picture, reasons, town, write_photo, write_table

ROOT = Path(__file__).resolve().parents[2]


def names(found: ChosenPhotos) -> dict[int, list[str]]:
    return {k: [p.id for p in own] for k, own in found.photos.items()}


def table_source(folder: Path, rows: list[dict[str, Any]], **settings: Any) -> tuple[Any, StreetviewConfig]:
    """A source of a table with these rows, and the settings."""
    config = StreetviewConfig(**settings)
    columns = sorted({k for row in rows for k in row})
    return open_source(str(write_table(folder / "t.csv", rows, columns)), config, FAST, folder / "cache"), config


@pytest.mark.parametrize("name", [*SERVICES, "table"])
def test_each_photo_is_with_the_tile_that_it_stands_in(
    name: str, open_service: Open, area: TileArea, tmp_path: Path, rows: list[dict[str, Any]]
) -> None:
    config = StreetviewConfig()
    path = str(tmp_path / "rows" / "photos.csv")
    source = open_source(path, config, FAST, tmp_path) if name == "table" else open_service(name)
    found = photos_of_tiles(source, config, area.tiles, area.zoom)
    expected: dict[int, list[str]] = {}
    for row in sorted(rows, key=lambda r: (r["captured_at"], r["id"])):
        better = name != "panoramax" and "computed_lon" in row
        lonlat = [row["computed_lon"], row["computed_lat"]] if better else [row["lon"], row["lat"]]
        tile = np.floor(lonlat_to_tile(np.array(lonlat), area.zoom))
        expected.setdefault(int(np.flatnonzero((area.tiles == tile).all(axis=1))[0]), []).append(row["id"])
    assert names(found) == expected
    assert not found.drops
    assert all(Path(p.path).read_bytes()[:2] == b"\xff\xd8" for own in found.photos.values() for p in own)


def test_photos_of_rotated_footprints_are_those_inside_them(tmp_path: Path) -> None:
    """A chip turned by 45° holds the photos at its middle and its corners' insides, not those beside its edges."""
    chip = Footprint("chip-a", "EPSG:32632", (0.7, 0.7, 540_000.0, 0.7, -0.7, 5_220_000.0), 100, 100)
    at = {"middle": (50, 50), "corner": (2, 2), "beside": (50, -8), "far": (400, 400), "edge": (0, 50)}
    rows = []
    for name, xy in at.items():
        lon, lat = pixel_to_lonlat(chip, np.array([xy], float))[0]
        picture(tmp_path / f"{name}.jpg")
        rows.append({"file": f"{name}.jpg", "id": name, "lon": lon, "lat": lat, "licence": "CC0-1.0"})
    source, config = table_source(tmp_path, rows)
    found = photos_of_footprints(source, config, [chip])
    assert sorted(names(found)[0]) == ["corner", "edge", "middle"]
    assert reasons(found.drops) == {"beside": "outside_footprint", "far": "outside_tiles"}
    source, config = table_source(tmp_path, rows, margin=12.0)
    assert "beside" in names(photos_of_footprints(source, config, [chip]))[0]


def test_a_photo_near_an_edge_is_in_both_tiles_with_a_margin(tmp_path: Path) -> None:
    lon, lat = tile_to_lonlat(np.array([68999.999, 45943.5]), 17)
    picture(tmp_path / "a.jpg")
    rows = [{"file": "a.jpg", "lon": lon, "lat": lat, "licence": "CC0-1.0"}]
    tiles = np.array([[68999, 45943], [69000, 45943]])
    for margin, expected in ((0.0, {0}), (5.0, {0, 1})):
        source, config = table_source(tmp_path, rows, margin=margin)
        assert set(photos_of_tiles(source, config, tiles, 17).photos) == expected


def test_a_source_without_a_licence_is_refused_and_a_photo_without_one_is_dropped(tmp_path: Path) -> None:
    tiles = np.array([[68999, 45943]])
    lon, lat = tile_to_lonlat(np.array([68999.5, 45943.5]), 17)
    write_photo(tmp_path / "photos" / "a.jpg", float(lon), float(lat), licence=None)
    folder = open_source(str(tmp_path / "photos"), StreetviewConfig(), FAST, tmp_path)
    with pytest.raises(ConfigError, match=r"street view photos declares no licence .* give sv\.licence="):
        photos_of_tiles(folder, StreetviewConfig(), tiles, 17)
    stated = StreetviewConfig(licence="CC0-1.0")
    found = photos_of_tiles(open_source(str(tmp_path / "photos"), stated, FAST, tmp_path), stated, tiles, 17)
    assert [p.licence for p in found.photos[0]] == ["CC0-1.0"]
    by_region = open_source(str(tmp_path / "photos"), StreetviewConfig(), FAST, tmp_path, licence="CC-BY-4.0")
    assert photos_of_tiles(by_region, StreetviewConfig(), tiles, 17).photos[0][0].licence == "CC-BY-4.0"
    rows = [
        {"file": "photos/a.jpg", "id": i, "lon": lon, "lat": lat, "licence": x}
        for i, x in (("own", "MIT"), ("other", ""))
    ]
    source, config = table_source(tmp_path, rows)
    found = photos_of_tiles(source, config, tiles, 17)
    assert names(found) == {0: ["own"]}
    assert reasons(found.drops) == {"other": "no_licence"}
    assert not photos_of_tiles(folder, StreetviewConfig(), tiles + 5, 17).photos  # nobody's licence is needed for none


def test_every_photo_of_a_table_is_with_a_footprint_or_named_once(tmp_path: Path) -> None:
    rng = np.random.default_rng(11)
    tiles = np.array([[68999, 45943], [69000, 45943], [69001, 45944]])
    rows = []
    picture(tmp_path / "a.jpg")
    for i in range(200):
        lon, lat = tile_to_lonlat(rng.uniform((68998, 45942), (69003, 45946)), 17).tolist()
        rows.append({"file": "a.jpg" if i % 17 else "gone.jpg", "id": f"p{i:03d}", "lon": lon, "lat": lat,
                     "licence": "MIT", "captured_at": f"20{rng.integers(10, 25)}-05-05",
                     "accuracy_m": rng.uniform(1, 30), "heading": rng.uniform(0, 360)})  # fmt: skip
    lon, lat = tile_to_lonlat(np.array([69000.5, 45943.5]), 17).tolist()
    rows[3] |= {"lon": lat, "lat": lon}
    rows[4] |= {"lon": 0, "lat": 0}
    rows[5] |= {"lon": "", "lat": ""}
    source, config = table_source(tmp_path, rows, max_accuracy=20.0, after="2012-01-01", spacing=15.0, max_per_tile=4)
    found = photos_of_tiles(source, config, tiles, 17)
    placed = [p.id for own in found.photos.values() for p in own]
    named = [str(r["key"]) for r in found.drops]
    assert sorted(placed + named) == sorted(r["id"] for r in rows)
    assert all(len(own) <= 4 for own in found.photos.values())
    assert {r["reason"] for r in found.drops} == {
        "swapped_coordinates", "coordinate_out_of_range", "no_position", "outside_tiles", "missing_file",
        "gps_accuracy", "too_old", "duplicate_place", "over_max_per_tile",
    }  # fmt: skip


def test_only_the_photos_that_are_chosen_are_fetched(open_service: Open, area: TileArea, mirror: Mirror) -> None:
    config = StreetviewConfig(max_per_tile=1)
    planned = photos_of_tiles(open_service("panoramax"), config, area.tiles, area.zoom, fetch=False)
    assert not [s.path for s in mirror.log if "pictures" in s.path]
    found = photos_of_tiles(open_service("panoramax"), config, area.tiles, area.zoom)
    assert names(found) == names(planned)
    assert sum("pictures" in s.path for s in mirror.log) == len(found.photos) < 24


def test_the_same_plan_comes_from_an_empty_and_a_full_cache_at_another_address(
    open_service: Open, area: TileArea, tmp_path: Path
) -> None:
    """What decides the dataset's bytes has neither the cache's path nor the service's address in it."""

    def plan(source: Any) -> list[dict[str, Any]]:
        found = photos_of_tiles(source, StreetviewConfig(), area.tiles, area.zoom)
        return [asdict(p) | {"path": Path(p.path).name} for own in found.photos.values() for p in own]

    first = plan(open_service("panoramax"))
    assert plan(open_service("panoramax")) == first
    town(tmp_path / "other" / "panoramax")
    with Mirror(tmp_path / "other", services=SERVICES) as other:
        config = StreetviewConfig(panoramax_url=f"{other.url}/panoramax")
        assert plan(open_source("panoramax", config, FAST, tmp_path / "other-cache")) == first


def test_a_source_asks_nothing_twice_and_says_nothing_unless_it_is_told_to(
    area: TileArea, mirror: Mirror, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = StreetviewConfig(panoramax_url=f"{mirror.url}/panoramax")
    for asked in (True, False):
        mirror.log.clear()
        photos_of_tiles(open_source("panoramax", config, FAST, cache), config, area.tiles, area.zoom)
        assert bool(mirror.log) == asked
    said = capsys.readouterr()
    assert (said.out, said.err) == ("", "")
    photos_of_tiles(open_source("panoramax", config, FAST, cache, renew=True), config, area.tiles, area.zoom)
    assert mirror.log


def test_a_run_that_ends_early_ends_the_requests_that_are_under_way(
    open_service: Open, area: TileArea, mirror: Mirror
) -> None:
    for status, ended in ((200, False), (404, False), (503, True)):
        source = open_service("panoramax", net=replace(FAST, retries=0), renew=True)
        assert isinstance(source, WebSource)
        if status == 404:  # each is a drop
            mirror.faults[:] = [faults.only("*/pictures/*0/*", faults.status(status))]
        elif status == 503:
            mirror.faults[:] = [faults.only("*/pictures/*", faults.status(status))]
        source.store.folder = source.store.folder / str(status)
        try:
            photos_of_tiles(source, StreetviewConfig(), area.tiles, area.zoom)
        except Unavailable:
            assert ended
        assert source.client.stop.is_set() == ended


def test_a_folder_of_photos_says_where_when_and_which_way(tmp_path: Path) -> None:
    lon, lat = tile_to_lonlat(np.array([68999.5, 45943.5]), 17).tolist()
    write_photo(tmp_path / "in" / "a.jpg", lon, lat, 77.0)
    picture(tmp_path / "in" / "b.jpg")
    write_photo(tmp_path / "in" / "sub" / "c.jpg", lon + 5, lat)
    (tmp_path / "in" / "d.jpg").write_bytes(b"no photo")
    source = FolderSource(tmp_path / "in", "CC0-1.0")
    found = photos_of_tiles(source, StreetviewConfig(), np.array([[68999, 45943]]), 17)
    ((photo,),) = found.photos.values()
    assert (photo.id, photo.heading, photo.captured_at) == ("a.jpg", 77.0, "2024-06-01T10:00:00")
    assert reasons(found.drops) == {"b.jpg": "no_position", "sub/c.jpg": "outside_tiles", "d.jpg": "unreadable_image"}


RUN = """
import sys, json
from pathlib import Path
import numpy as np
from pipeline.net.config import NetConfig
from pipeline.streetview.config import StreetviewConfig
from tests.grounds import photos_of_tiles
from pipeline.streetview.sources import open_source
config = StreetviewConfig(panoramax_url=sys.argv[1])
source = open_source("panoramax", config, NetConfig(parallel=2), Path(sys.argv[2]))
found = photos_of_tiles(source, config, np.array(json.loads(sys.argv[3])), 17)
print(sum(map(len, found.photos.values())))
"""


def test_a_killed_run_goes_on_where_it_was(area: TileArea, mirror: Mirror, cache: Path) -> None:
    """kill -9 after 5 photos, after 12, and then let it end: each photo is fetched once."""
    words = [sys.executable, "-c", RUN, f"{mirror.url}/panoramax", str(cache), str(area.tiles.tolist())]
    env, opened = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{os.environ['PYTHONPATH']}"}, threading.Event()
    for photos in (5, 12):
        gate = Gate(photos - len(kept(cache)), opened)
        mirror.faults[:] = [faults.only("api/pictures/*", gate)]
        process = subprocess.Popen(words, env=env, cwd=ROOT, stdout=subprocess.DEVNULL)
        while len(kept(cache)) < photos:
            assert process.poll() is None
            time.sleep(0.01)
        process.kill()
        process.wait()
        assert len(kept(cache)) == photos
    mirror.faults.clear()
    mirror.log.clear()
    out = subprocess.run(words, env=env, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert out.split() == ["24"]
    fetched = [s.path for s in mirror.log]
    assert len(fetched) == len(set(fetched)) == 24 - 12
    assert not [path for path in fetched if "search" in path]
    assert len(kept(cache)) == 24
    opened.set()


class Gate:
    """Lets some answers through and holds all others back until it is opened."""

    def __init__(self, count: int, opened: threading.Event) -> None:
        self.left, self.lock, self.opened = count, threading.Lock(), opened

    def __call__(self, request: Request, answer: Response) -> Response:
        with self.lock:
            self.left -= 1
            through = self.left >= 0
        if not through:
            self.opened.wait(60)
        return answer


def kept(cache: Path) -> set[str]:
    """Photos that the cache has and knows the names of."""
    return {p.name for p in (cache / "photos" / "names").rglob("*.json")}
