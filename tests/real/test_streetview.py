"""Real photos: where they were taken, by table, by EXIF and through each service, and what is made of panoramas."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mercantile
import numpy as np
import pytest
import rasterio
from PIL import Image

from pipeline.mirror import kartaview, mapillary, panoramax
from pipeline.mirror.photos import number_of
from pipeline.net.config import NetConfig
from pipeline.streetview.config import StreetviewConfig
from pipeline.streetview.files.folder import FolderSource
from pipeline.streetview.files.table import TableSource
from pipeline.streetview.filters import filter_photos
from pipeline.streetview.pictures.encode import encode_photos
from pipeline.streetview.record import Drops, Photo
from pipeline.streetview.services.mapillary import TOKEN
from pipeline.streetview.sources import open_source
from schemas.footprint import Footprint
from tests.grounds import pair, photos_of_footprints, photos_of_tiles
from tests.mirror.server import Mirror
from tests.streetview.makers import placed

SERVICES = {"panoramax": panoramax.respond, "kartaview": kartaview.respond, "mapillary": mapillary.respond}
PLACES = {"stuttgart": 13, "lund": 15, "berlin": 3, "rennes": 5, "rome": 1}
#: The photos of GAIR's two released tiles: longitude, latitude and normalised position (data/README.md).
GAIR = {
    "sacramento": (-121.474012, 38.570138, 0.583, 0.720), "tokyo": (139.75009, 35.657349, 0.183, 0.996),
}  # fmt: skip


@pytest.fixture(scope="session")
def truth(real_data: Path) -> dict[str, dict[str, str]]:
    """What the table says of each photo, by its file's name."""
    with (real_data / "street_metadata.csv").open() as file:
        return {Path(row["file"]).name: row for row in csv.DictReader(file)}


def tiles_of(truth: dict[str, dict[str, str]], place: str, zoom: int) -> dict[str, tuple[int, int]]:
    """The tile of each photo of a place, by mercantile."""
    own = {n: r for n, r in truth.items() if r["place"] == place}
    assert len(own) == PLACES[place]
    found = {n: mercantile.tile(float(r["lon"]), float(r["lat"]), zoom) for n, r in own.items()}
    return {n: (t.x, t.y) for n, t in found.items()}


def check(found: Any, expected: dict[str, tuple[int, int]], tiles: np.ndarray) -> None:
    """Every photo is in its tile."""
    assert {Path(p.id).name: tuple(tiles[i].tolist()) for i, own in found.photos.items() for p in own} == expected


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("zoom", [14, 17, 19])
def test_photos_land_in_the_tile_they_were_taken_in(
    real_data: Path, truth: dict[str, dict[str, str]], tmp_path: Path, place: str, zoom: int
) -> None:
    """Stuttgart by the positions of its table, the others by their EXIF, among the tiles of all of them."""
    expected = tiles_of(truth, place, zoom)
    tiles = np.unique(np.array([t for p in PLACES for t in tiles_of(truth, p, zoom).values()]), axis=0)
    config = StreetviewConfig(licence="see the manifest", max_per_tile=100)
    name = real_data / ("street_metadata.csv" if place == "stuttgart" else f"street/{place}")
    found = photos_of_tiles(open_source(str(name), config, NetConfig(), tmp_path), config, tiles, zoom)
    if place == "stuttgart":
        everything = {n: t for p in PLACES for n, t in tiles_of(truth, p, zoom).items()}
        check(found, everything, tiles)
        assert [r["reason"] for r in found.drops] == ["outside_tiles"]  # the one of San Francisco
    else:
        check(found, expected, tiles)
        assert not found.drops


def test_exif_says_what_the_table_says(real_data: Path, truth: dict[str, dict[str, str]]) -> None:
    rows = [r for p in ("lund", "berlin", "rennes", "rome") for r in
            FolderSource(real_data / "street" / p).list(None, Drops()).to_pylist()]  # fmt: skip
    assert len(rows) == 24
    for row in rows:
        said = truth[Path(row["id"]).name]
        assert (row["lon"], row["lat"]) == pytest.approx((float(said["lon"]), float(said["lat"])), abs=1e-6)
        assert row["projection"] == said["projection"]
    times = {Path(r["id"]).name: r["captured_at"] for r in rows}
    assert times["rome_vittoriano_dmc-lx3.jpg"] == "2011-01-01T16:02:54"
    assert times["rennes_e1.jpg"] == "2022-10-19T07:56:34Z"  # its GPS clock; the camera's said 08:56:34
    assert times["lund_01.jpg"] is None


def test_photos_without_gps_are_dropped_by_name(real_data: Path) -> None:
    drops = Drops()
    assert len(FolderSource(real_data / "street" / "stuttgart").list(None, drops)) == 0
    assert Counter(r["reason"] for r in drops.rows()) == {"no_position": 13}


@pytest.fixture
def mirror(real_data: Path, truth: dict[str, dict[str, str]], tmp_path: Path) -> Iterator[Mirror]:
    """Every real photo in each of the services."""
    for name in SERVICES:
        folder = tmp_path / "mirror" / name
        folder.mkdir(parents=True)
        with (folder / "photos.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["file", "id", "lon", "lat", "heading", "captured_at", "projection", "licence", "author"])
            for n, r in truth.items():
                (folder / n).symlink_to(real_data / r["file"])
                values = (
                    r["lon"],
                    r["lat"],
                    r["heading_deg"],
                    r["captured"],
                    r["projection"],
                    "CC-BY-SA-4.0",
                    "somebody",
                )
                writer.writerow([n, n, *values])
    with Mirror(tmp_path / "mirror", services=SERVICES) as server:
        yield server


@pytest.mark.parametrize("name", SERVICES)
def test_real_photos_come_through_every_service(
    name: str, mirror: Mirror, truth: dict[str, dict[str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(TOKEN, "MLY|1|x")
    urls = {f"{service}_url": f"{mirror.url}/{service}" for service in SERVICES}
    config = StreetviewConfig(size=256, max_per_tile=100, **urls)  # type: ignore[arg-type]
    expected = {n: t for p in PLACES for n, t in tiles_of(truth, p, 17).items()}
    tiles = np.unique(np.array(list(expected.values())), axis=0)
    found = photos_of_tiles(open_source(name, config, NetConfig(), tmp_path / "cache"), config, tiles, 17)
    names = {str(n if name == "panoramax" else number_of(n)): n for n in truth}
    placed_in = {names[p.id]: tuple(tiles[i].tolist()) for i, own in found.photos.items() for p in own}
    assert placed_in == expected
    assert not found.drops
    drops = Drops()
    made = [i for own in found.photos.values() for i in encode_photos(own, config, drops)]
    assert len(made) == 37
    assert not drops.rows()
    for image in made:
        said = truth[names[image.photo.id]]
        assert image.projection == ("equirectangular" if said["projection"] == "spherical" else "perspective")
        assert max(Image.open(io.BytesIO(image.data)).size) == 256
        if said["heading_deg"]:
            assert image.heading == pytest.approx(float(said["heading_deg"]), abs=0.5)


def test_views_of_real_panoramas_meet_at_their_edges(real_data: Path) -> None:
    """Four views of 90°: the last column of one shows what the first of the next does."""
    table = TableSource(real_data / "street_metadata.csv").list(None, Drops())
    panoramas = [r for r in table.to_pylist() if r["projection"] == "equirectangular"]
    assert len(panoramas) == 5
    config = StreetviewConfig(size=256, panorama="views", quality=95)
    for row in panoramas:
        photo = Photo(row["path"], row["id"], row["lon"], row["lat"], row["heading"], projection=row["projection"])
        views = encode_photos([photo], config, Drops())
        turns = [(v.heading - row["heading"]) % 360 for v in views if v.heading is not None]
        assert turns == pytest.approx([0, 90, 180, 270])
        pixels = [np.asarray(Image.open(io.BytesIO(v.data)).convert("RGB"), np.float64) for v in views]
        for k in range(4):
            here, there = pixels[k][:, -1], pixels[(k + 1) % 4][:, 0]
            far = pixels[(k + 2) % 4][:, 0]
            assert np.abs(here - there).mean() < 0.35 * np.abs(here - far).mean()


def test_a_time_of_night_may_be_a_camera_that_is_wrong(real_data: Path) -> None:
    """Stuttgart's five panoramas say 03:25 in July, and show daylight: why sv.min_sun is off unless it is asked for."""
    table = TableSource(real_data / "street_metadata.csv").list(None, Drops())
    drops = Drops()
    kept = filter_photos(table, StreetviewConfig(min_sun=-6.0), drops)
    night = [str(r["key"]) for r in drops.rows()]
    assert len(night) == 5
    assert len(kept) == len(table) - 5
    for row in (r for r in table.to_pylist() if r["id"] in night):
        with Image.open(row["path"]) as image:
            sky = np.asarray(image.convert("L").resize((64, 32)))[2:8]
        assert sky.mean() > 120


@pytest.mark.parametrize("place", GAIR)
def test_a_photo_has_the_position_in_gairs_tiles_that_gair_gives_it(real_data: Path, place: str) -> None:
    """Within a pixel of the published 0.583, 0.720 and 0.183, 0.996."""
    lon, lat, x, y = GAIR[place]
    with rasterio.open(real_data / f"gair/sentinel2/{place}_rs.tif") as tile:
        footprint = Footprint(f"chip-{place}", tile.crs.to_string(), tuple(tile.transform[:6]), tile.width, tile.height)
    (row,) = pair(placed([{"lon": lon, "lat": lat}]), [footprint]).to_pylist()
    assert row["x"] == pytest.approx(x, abs=1 / footprint.width)
    assert row["y"] == pytest.approx(y, abs=1 / footprint.height)


def test_photos_of_chips_are_found_in_a_table(real_data: Path, tmp_path: Path) -> None:
    """Footprints in EPSG:4326 of 12 bands, and a table that has the photos of both and of neither."""
    footprints = []
    for place in GAIR:
        with rasterio.open(real_data / f"gair/sentinel2/{place}_rs.tif") as tile:
            footprints.append(
                Footprint(f"chip-{place}", tile.crs.to_string(), tuple(tile.transform[:6]), tile.width, tile.height)
            )
    (tmp_path / "a.png").write_bytes((real_data / "street/sfbay/sf_dashcam_comma2k19.png").read_bytes())
    rows = [("sacramento", *GAIR["sacramento"][:2]), ("tokyo", *GAIR["tokyo"][:2]), ("paris", 2.35, 48.85)]
    lines = [f"a.png,{n},{lon},{lat},MIT" for n, lon, lat in rows]
    (tmp_path / "t.csv").write_text("file,id,lon,lat,licence\n" + "\n".join(lines) + "\n")
    config = StreetviewConfig()
    found = photos_of_footprints(
        open_source(str(tmp_path / "t.csv"), config, NetConfig(), tmp_path), config, footprints
    )
    assert {i: [p.id for p in own] for i, own in found.photos.items()} == {0: ["sacramento"], 1: ["tokyo"]}
    assert [(r["key"], r["reason"]) for r in found.drops] == [("paris", "outside_tiles")]
