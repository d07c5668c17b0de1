"""Map tiles: addresses, zooms, whole tiles as they are, and what goes wrong."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from affine import Affine
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from pyproj import Transformer

from geometry.tiles import lonlat_to_tile
from pipeline.imagery.config import ImageryConfig
from pipeline.imagery.encode import encode
from pipeline.imagery.read import read_images
from pipeline.imagery.sources import find_imagery, source_rows
from pipeline.imagery.tiles import check_template, tile_url
from pipeline.net.client import Unavailable
from pipeline.net.config import NetConfig
from schemas.errors import ConfigError
from schemas.footprint import Footprint
from tests.imagery.conftest import SERVICES
from tests.imagery.scenes import LAT, LON, expected, tiles
from tests.mirror import faults
from tests.mirror.server import Mirror

FAST = NetConfig(timeout=2.0, retries=1, backoff=0.001, max_wait=0.02)
SIDE = 64


def colour(zoom: int, x: int, y: int) -> tuple[int, int, int]:
    return zoom * 10, x % 256, y % 256


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tiles of zooms 14 to 16 around a place, PNG, each in a colour that says which it is; and one JPEG."""
    root = tmp_path_factory.mktemp("xyz")
    for zoom in (14, 15, 16):
        x, y = np.floor(lonlat_to_tile(np.array([LON, LAT]), zoom)).astype(int)
        for i in range(x - 3, x + 4):
            for j in range(y - 3, y + 4):
                path = root / "xyz" / str(zoom) / str(i) / f"{j}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.new("RGB", (SIDE, SIDE), colour(zoom, int(i), int(j))).save(path)
    return root


@pytest.fixture
def mirror(folder: Path) -> Iterator[Mirror]:
    with Mirror(folder, services=SERVICES) as server:
        yield server


def config(mirror: Mirror, url: str = "{z}/{x}/{y}.png", **more: Any) -> ImageryConfig:
    return ImageryConfig(xyz_url=f"{mirror.url}/xyz/{url}", xyz_size=SIDE, licence="CC0-1.0", **more)


def fetch(own: ImageryConfig, footprints: dict[Any, Footprint]) -> tuple[dict[Any, Any], list[dict[str, Any]]]:
    scenes, _ = find_imagery("xyz", [], own, FAST)
    return read_images(scenes, footprints, own, FAST)


@pytest.mark.parametrize(
    "url",
    ["{z}/{x}/{y}.png", "{Z}/{X}/{Y}.png", "{TileMatrix}/{TileCol}/{TileRow}",
     "wmts?service=WMTS&TILEMATRIX={z}&TILECOL={x}&TILEROW={y}"],
)  # fmt: skip
def test_each_tile_is_the_one_of_its_place(mirror: Mirror, url: str) -> None:
    footprints = tiles(LON, LAT, 15, SIDE, 3)
    found, rows = fetch(config(mirror, url), footprints)
    assert rows == []
    for (x, y), (image,) in found.items():
        assert image.scene.bands == ["red", "green", "blue"]
        assert {tuple(p) for p in image.pixels.reshape(3, -1).T.tolist()} == {colour(15, x, y)}


def test_larger_images_are_of_deeper_tiles_and_put_together(mirror: Mirror) -> None:
    footprints = tiles(LON, LAT, 15, 2 * SIDE, 1)
    ((x, y),) = footprints
    ((image,),) = fetch(config(mirror), footprints)[0].values()
    for i, rows in enumerate((slice(0, SIDE), slice(SIDE, None))):
        for j, columns in enumerate((slice(0, SIDE), slice(SIDE, None))):
            part = image.pixels[:, rows, columns].reshape(3, -1).T
            assert {tuple(p) for p in part.tolist()} == {colour(16, 2 * x + j, 2 * y + i)}


def test_beyond_the_deepest_zoom_the_deepest_tiles_are_enlarged(mirror: Mirror) -> None:
    footprints = tiles(LON, LAT, 16, SIDE, 1)
    ((x, y),) = footprints
    ((image,),) = fetch(config(mirror, xyz_max_zoom=15, resampling="nearest"), footprints)[0].values()
    assert {tuple(p) for p in image.pixels.reshape(3, -1).T.tolist()} == {colour(15, x // 2, y // 2)}


def test_a_footprint_in_another_projection_is_resampled_from_the_tiles_below_it(mirror: Mirror) -> None:
    x, y = Transformer.from_crs("EPSG:4326", "EPSG:32632", always_xy=True).transform(LON, LAT)
    gsd = 40_075_016 / SIDE / 2**15 * np.cos(np.radians(LAT))
    footprint = Footprint("chip-utm", "EPSG:32632", (gsd, 0.0, x - 40 * gsd, 0.0, -gsd, y + 40 * gsd), 80, 80)
    ((image,),) = fetch(config(mirror, resampling="nearest"), {0: footprint})[0].values()
    side = 40_075_016.6855785 / 2**15
    grid = Affine(side, 0, -20037508.342789244, 0, -side, 20037508.342789244)
    column, row = np.floor(expected(footprint, "EPSG:3857", grid))
    wanted = np.stack((np.full_like(column, 150), column % 256, row % 256))
    assert (image.pixels == wanted).all(axis=0).mean() > 0.98  # a seam may be a pixel off


def test_a_jpeg_tile_that_is_the_footprint_keeps_its_bytes(tmp_path: Path) -> None:
    ((x, y),) = footprints = tiles(LON, LAT, 15, SIDE, 1)
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (8, 8, 3), dtype=np.uint8)).resize((SIDE, SIDE))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=55)
    path = tmp_path / "xyz" / "15" / str(x) / f"{y}.jpg"
    path.parent.mkdir(parents=True)
    path.write_bytes(buffer.getvalue())
    with Mirror(tmp_path, services=SERVICES) as mirror:
        ((own,),) = fetch(config(mirror, "{z}/{x}/{y}.jpg"), footprints)[0].values()
    assert own.original == buffer.getvalue()
    assert encode(own.pixels, ImageryConfig(), original=own.original) == ("rs.jpg", buffer.getvalue())
    name, data = encode(own.pixels, ImageryConfig(format="png"), original=own.original)
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(data))), np.asarray(Image.open(buffer)))
    assert name == "rs.png"


def test_tiles_that_are_not_there_are_no_imagery(mirror: Mirror) -> None:
    footprints = tiles(LON, LAT, 15, SIDE, 9)
    found, rows = fetch(config(mirror), footprints)
    assert (len(found), len(rows)) == (49, 32)
    assert {r["reason"] for r in rows} == {"no_imagery"}
    partly = tiles(LON, LAT, 14, 4 * SIDE, 1)  # of 16 tiles of zoom 16, of which some may be missing
    found, rows = fetch(config(mirror, max_nodata=0.9), partly)
    assert len(found) + len(rows) == 1


@pytest.mark.parametrize(
    ("fault", "reason"),
    [(faults.web_page("image/png"), "is a web page"), (faults.cut(0), ""), (faults.status(403), "answered 403"),
     (faults.redirect("file:///etc/hostname"), "no http")],
)  # fmt: skip
def test_a_bad_tile_is_a_counted_drop(mirror: Mirror, fault: faults.Fault, reason: str) -> None:
    ((x, y), *_) = footprints = tiles(LON, LAT, 15, SIDE, 2)
    mirror.faults.append(faults.only(f"15/{x}/{y}.png", fault))
    if not reason:
        with pytest.raises(Unavailable):
            fetch(config(mirror), footprints)
        return
    found, rows = fetch(config(mirror), footprints)
    assert set(found) == set(footprints) - {(x, y)}
    assert [r["reason"] for r in rows] == ["unreadable_imagery", "no_imagery"]
    assert reason in rows[0]["detail"]


def test_a_tile_of_another_size_and_a_bomb_are_refused(tmp_path: Path) -> None:
    ((x, y),) = footprints = tiles(LON, LAT, 15, SIDE, 1)
    path = tmp_path / "xyz" / "15" / str(x) / f"{y}.png"
    path.parent.mkdir(parents=True)
    Image.new("1", (20_000, 20_000)).save(path)
    assert path.stat().st_size < 200_000
    with Mirror(tmp_path, services=SERVICES) as mirror:
        found, rows = fetch(config(mirror), footprints)
        assert found == {}
        assert "20000 × 20000 px" in rows[0]["detail"] or "no JPEG" in rows[0]["detail"]
        Image.new("RGB", (128, 128)).save(path)
        _, rows = fetch(config(mirror), footprints)
        assert "set rs.xyz_size=128" in rows[0]["detail"]


def test_the_key_is_sent_and_written_nowhere(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "xyz" / "key.txt").write_text("s3cr3t\n")
    try:
        with Mirror(folder, services=SERVICES) as mirror:
            own = config(mirror, "{z}/{x}/{y}.png?key={key}")
            with pytest.raises(ConfigError, match="GEOSHARDS_XYZ_KEY is not set"):
                find_imagery("xyz", [], own, FAST)
            monkeypatch.setenv("GEOSHARDS_XYZ_KEY", "s3cr3t")
            scenes, _ = find_imagery("xyz", [], own, FAST)
            found, _ = read_images(scenes, tiles(LON, LAT, 15, SIDE, 1), own, FAST)
            assert len(found) == 1
            assert "s3cr3t" not in repr(scenes) + repr(source_rows(scenes, own, None)) + repr(own)
            monkeypatch.setenv("GEOSHARDS_XYZ_KEY", "wr0ng")
            path = replace(own, xyz_url=f"{mirror.url}/xyz/{{key}}/{{z}}/{{x}}/{{y}}.png?key={{key}}")
            mirror.faults.append(faults.only("*", faults.status(403)))
            scenes, _ = find_imagery("xyz", [], path, FAST)
            _, rows = read_images(scenes, tiles(LON, LAT, 15, SIDE, 1), path, FAST)
            assert "answered 403" in rows[0]["detail"]
            assert "wr0ng" not in repr(rows)
    finally:
        (folder / "xyz" / "key.txt").unlink()


def test_tiles_need_a_licence_and_an_address(mirror: Mirror) -> None:
    with pytest.raises(ConfigError, match=r"needs rs\.licence"):
        find_imagery("xyz", [], replace(config(mirror), licence=None), FAST)
    with pytest.raises(ConfigError, match=r"needs rs\.xyz_url"):
        find_imagery("xyz", [], ImageryConfig(licence="CC0-1.0"), FAST)
    with pytest.raises(ConfigError, match="have no use"):
        find_imagery("xyz", [], config(mirror, bands=("red",)), FAST)
    assert (
        source_rows(find_imagery("xyz", [], config(mirror), FAST)[0], config(mirror), None)[0]["licence"] == "CC0-1.0"
    )


@pytest.mark.parametrize(
    "url", ["file:///{z}/{x}/{y}.png", "https://host/{z}/{x}.png", "https://host/tiles", "{z}/{x}/{y}",
            "https://host/{z}/{x}/{y}/{token}", "https://host/{0.__class__}/{z}/{x}/{y}"],
)  # fmt: skip
def test_what_is_no_template_is_refused(url: str) -> None:
    with pytest.raises(ConfigError, match=r"rs\.xyz_url"):
        check_template(url)


@given(st.integers(0, 22), st.data())
def test_tms_rows_count_from_the_south(zoom: int, data: st.DataObject) -> None:
    x, y = (data.draw(st.integers(0, (1 << zoom) - 1)) for _ in range(2))
    url = check_template("https://host/{Z}/{x}/{-y}.jpg")
    assert tile_url(url, zoom, x, y) == f"https://host/{zoom}/{x}/{(1 << zoom) - 1 - y}.jpg"
