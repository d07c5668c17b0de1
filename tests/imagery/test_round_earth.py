"""Rasters that lie at 180° or around a pole give every side its pixels, in their place; GDAL's warper is the judge."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import shapely
from affine import Affine
from numpy.typing import NDArray
from PIL import Image
from pyproj import Transformer
from rasterio.enums import Resampling
from rasterio.warp import reproject

from geometry.tiles import tile_bounds
from pipeline.footprints.grid import grid_cells
from pipeline.imagery.config import ImageryConfig
from pipeline.imagery.local import open_scene
from pipeline.imagery.raster import Patch, read_footprints
from pipeline.imagery.read import read_images
from pipeline.imagery.sources import find_imagery
from pipeline.mirror.messages import Request, Response
from pipeline.net.config import NetConfig
from schemas.footprint import Footprint
from tests.imagery.scenes import around, places, tiles, write_raster
from tests.mirror.server import Mirror

#: CRS, place of the middle, units a pixel: 200 pixels a side.
ACROSS = {
    "UTM zone 60": ("EPSG:32760", (180.0, -17.0), 400.0),
    "UTM zone 1": ("EPSG:32701", (180.0, -17.0), 400.0),
    "a mercator of the Pacific": ("EPSG:3832", (180.0, -17.0), 400.0),
    "web-mercator that runs on": ("EPSG:3857", (180.0, -17.0), 400.0),
    "degrees that run on to the east": ("EPSG:4326", (180.0, -17.0), 0.004),
    "degrees that run on to the west": ("EPSG:4326", (-180.0, -17.0), 0.004),
    "a plate carrée that runs on": ("EPSG:4087", (180.0, -17.0), 400.0),
    "polar stereographic": ("EPSG:3413", (180.0, 72.0), 200.0),
    "polar stereographic of the south": ("EPSG:3031", (180.0, -75.0), 200.0),
}
SIDE = 200


def lonlat_of(crs: str, xy: NDArray[np.float64]) -> NDArray[np.float64]:
    """Degrees east of 180° (±180) and latitudes, f32[2,h,w]."""
    lon, lat = Transformer.from_crs(crs, "EPSG:4326", always_xy=True).transform(*xy)
    return np.stack(((np.asarray(lon) + 360) % 360 - 180, lat)).astype(np.float32)


def write_lonlat(path: Path, crs: str, transform: Affine, width: int = SIDE, height: int = SIDE) -> Path:
    """A raster whose pixels say where they lie."""
    return write_raster(path, lonlat_of(crs, places(width, height, transform)), crs, transform)


def read(path: Path, footprints: dict[Any, Footprint], resampling: str = "bilinear") -> dict[Any, Patch]:
    with rasterio.open(path) as source:
        return dict(read_footprints(source, [1, 2], footprints, resampling))


def error(patch: Patch, footprint: Footprint) -> float:
    """Most degrees by which a pixel with data is out of its place."""
    there = lonlat_of(footprint.crs, places(footprint.width, footprint.height, Affine(*footprint.transform)))
    off = np.abs(patch.pixels - there)
    off[0] *= np.cos(np.radians(there[1]))
    return float(off[:, patch.valid if patch.valid is not None else ...].max())


@pytest.mark.parametrize("kind", ACROSS)
@pytest.mark.parametrize("resampling", ["bilinear", "cubic"])
def test_a_raster_across_180_gives_both_sides_their_pixels(tmp_path: Path, kind: str, resampling: str) -> None:
    crs, (lon, lat), unit = ACROSS[kind]
    path = write_lonlat(tmp_path / "a.tif", crs, around(lon, lat, crs, SIDE, SIDE, unit))
    area = open_scene(path).area
    west, _, east, _ = area.bounds
    assert (west, east) == (-180.0, 180.0)
    assert area.area < 2 if abs(lat) < 20 else 6
    both = {side: next(iter(tiles(side * 179.9, lat, 11, 64).values())) for side in (1, -1)}
    for key in tiles(179.9, lat, 11, 64) | tiles(-179.9, lat, 11, 64):
        assert area.covers(shapely.box(*tile_bounds(np.array([key]), 11)[0]))
    found = read(path, both, resampling)
    for side, footprint in both.items():
        assert found[side].valid is None, side
        assert error(found[side], footprint) < 5e-5  # 5 m, of pixels of 200 to 400 m


def test_a_world_that_begins_anywhere_gives_what_gdal_makes_of_one_that_overlaps_itself(tmp_path: Path) -> None:
    data = np.random.default_rng(0).integers(1, 200, (1, 120, 360), dtype=np.uint8)
    wide = np.concatenate((data, data, data), axis=2)[:, :, 300:780]  # -240° to 240°
    judge = write_raster(tmp_path / "wide.tif", wide, "EPSG:4326", Affine(1, 0, -240, 0, -1, 60))
    both = {lon: next(iter(tiles(lon, 20, 7, 32).values())) for lon in (-178.0, -90.0, -4.0, 4.0, 95.0, 178.0)}
    for first in (0, 90, -270):
        path = write_raster(
            tmp_path / "a.tif", np.roll(data, -180 - first, axis=2), "EPSG:4326", Affine(1, 0, first, 0, -1, 60)
        )
        for resampling in ("nearest", "bilinear", "cubic"):
            found = _plain(path, both, resampling)
            for lon, footprint in both.items():
                gdal = _gdal(judge, footprint, resampling)
                assert found[lon].valid is None
                off = np.abs(found[lon].pixels.astype(int) - gdal) > 2  # the nearest of two is a matter of 0.01 px
                assert off.mean() <= (0.04 if resampling == "nearest" else 0), (resampling, lon, first)


def _gdal(path: Path, footprint: Footprint, resampling: str) -> NDArray[np.uint8]:
    """GDAL's warp of a grid of degrees."""
    with rasterio.open(path) as source:
        data, transform = source.read(), source.transform
    out = np.zeros((len(data), footprint.height, footprint.width), np.uint8)
    reproject(
        data, out, src_crs="EPSG:4326", src_transform=transform, dst_crs=footprint.crs,
        dst_transform=Affine(*footprint.transform), resampling=Resampling[resampling], tolerance=0.0,
    )  # fmt: skip
    return out


def _plain(path: Path, footprints: dict[Any, Footprint], resampling: str) -> dict[Any, Patch]:
    with rasterio.open(path) as source:
        return dict(read_footprints(source, [1], footprints, resampling))


def test_a_footprint_across_the_seam_of_a_raster_has_both_halves(tmp_path: Path) -> None:
    """A metric cell at 180°, of a world from -180 to 180, of one from 0 to 360, and of one that runs on."""
    cells = grid_cells([(179.9, -17.1, 180.0, -16.9)], None, 500.0, 64, 100)
    middle = cells.transform[:, [2, 5]].T + np.array([[16_000.0], [-16_000.0]])
    column = int(np.argmin(np.abs(lonlat_of("EPSG:32760", middle)[0])))
    cell = Footprint("grid-a", f"EPSG:{cells.epsg[column]}", tuple(cells.transform[column]), 64, 64)
    own = lonlat_of(cell.crs, places(64, 64, Affine(*cell.transform)))
    assert own[0].min() < 0 < own[0].max()
    for first in (-180.0, 0.0, 90.0, -270.0):
        transform = Affine(0.05, 0, first, 0, -0.05, -10)
        path = write_lonlat(tmp_path / "world.tif", "EPSG:4326", transform, 7200, 300)
        (patch,) = read(path, {0: cell}, "nearest").values()
        assert patch.valid is None, first
        assert error(patch, cell) < 0.0255


@pytest.mark.parametrize(("crs", "lat"), [("EPSG:3413", 84.0), ("EPSG:3995", 84.0), ("EPSG:3031", -84.0)])
def test_the_outline_around_a_pole_reaches_to_the_pole(tmp_path: Path, crs: str, lat: float) -> None:
    """A ring around it has no inside on a flat map."""
    transform = around(0, np.sign(lat) * 90, crs, SIDE, SIDE, 10_000.0)
    path = write_lonlat(tmp_path / "pole.tif", crs, transform)
    area = open_scene(path).area
    for lon in (-180, -135.5, -90, -10, 0, 45, 90, 179.99):
        assert area.covers(shapely.Point(lon, lat))
        assert area.covers(shapely.Point(lon, np.sign(lat) * 89.999))
        assert not area.covers(shapely.Point(lon, lat * 0.85))
    for lon in (-179.9, 179.9, 3.0):
        (footprint,) = tiles(lon, lat, 8, 32).values()
        (patch,) = read(path, {0: footprint}).values()
        assert patch.valid is None
        assert error(patch, footprint) < 0.01  # of pixels of 0.09°, bent


def test_a_raster_beside_a_pole_is_not_around_it(tmp_path: Path) -> None:
    transform = around(100, 88.0, "EPSG:3413", SIDE, SIDE, 1_000.0)
    area = open_scene(write_lonlat(tmp_path / "near.tif", "EPSG:3413", transform)).area
    assert area.covers(shapely.Point(100, 88))
    assert not area.covers(shapely.Point(-80, 89.9))
    assert not area.covers(shapely.Point(100, 89.99))


def test_map_tiles_of_both_sides_make_the_image_of_a_footprint_across_180(tmp_path: Path) -> None:
    """East of 180° tiles are bright, west of it dark."""

    def answer(request: Request) -> Response:
        zoom, x, _ = (int(v) for v in request.path.removesuffix(".png").split("/"))
        buffer = io.BytesIO()
        Image.new("RGB", (64, 64), (200 if x < 1 << (zoom - 1) else 50,) * 3).save(buffer, "PNG")
        return Response(200, buffer.getvalue(), "image/png")

    cell = Footprint("grid-a", "EPSG:32760", tuple(around(180.0, -17.0, "EPSG:32760", 64, 64, 10.0)[:6]), 64, 64)
    with Mirror(tmp_path, services={"xyz": answer}) as mirror:
        url = f"{mirror.url}/xyz/{{z}}/{{x}}/{{y}}.png"
        config = ImageryConfig(xyz_url=url, xyz_size=64, licence="CC0-1.0", resampling="nearest")
        scenes, _ = find_imagery("xyz", [], config, NetConfig(retries=0))
        ((image,),) = read_images(scenes, {0: cell}, config, NetConfig(retries=0))[0].values()
        assert len(mirror.log) <= 12
    east = lonlat_of(cell.crs, places(64, 64, Affine(*cell.transform)))[0]
    sure = np.abs(east) > 2e-4
    np.testing.assert_array_equal(image.pixels[0][sure], np.where(east > 0, 200, 50)[sure])
