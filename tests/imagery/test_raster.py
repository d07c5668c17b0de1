"""Pixels of one raster on footprints: in their place, complete, and the same whoever else is read."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import simplejpeg
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from pyproj import Transformer

from pipeline.imagery import raster, resample, words
from pipeline.imagery.jpeg import JpegTiles, doubles_alike, open_tiles
from pipeline.imagery.raster import Patch, read_footprints
from schemas.errors import InputError
from schemas.footprint import Footprint
from tests.imagery.scenes import (
    LAT,
    LON,
    UTM,
    around,
    expected,
    own_footprint,
    ramp,
    texture,
    tiles,
    write_cog,
    write_raster,
)


def read(path: Path, footprints: dict[Any, Footprint], resampling: str = "bilinear") -> dict[Any, Patch]:
    with rasterio.open(path) as source:
        return dict(read_footprints(source, list(source.indexes), footprints, resampling))


def never(*_: Any) -> Any:
    raise AssertionError("this way was not to be taken")


@given(
    st.sampled_from([(0.0, 9.0, "EPSG:32632"), (47.2, 11.9, "EPSG:32632"), (-33.9, 18.4, "EPSG:4326"),
                     (69.5, 17.5, "EPSG:32633"), (60.2, 24.9, "EPSG:3067"), (46.9, 7.4, "EPSG:2056"),
                     (78.2, 15.6, "EPSG:3995"), (51.0, 3.7, "EPSG:3857")]),
    st.floats(-180, 180), st.floats(0.55, 1.04), st.integers(10, 19),
)  # fmt: skip
@settings(max_examples=40)
def test_every_pixel_is_taken_from_its_place(
    tmp_path_factory: pytest.TempPathFactory, where: tuple[float, float, str], turn: float, fine: float, zoom: int
) -> None:
    """Rasters of any CRS and rotation, whose values are their own columns and rows."""
    lat, lon, crs = where
    (footprint,) = tiles(lon, lat, zoom, 96).values()
    exact = expected(footprint, crs, around(lon, lat, crs, 2, 2, 1.0))
    unit = max(np.hypot(*np.gradient(exact[0])).max(), np.hypot(*np.gradient(exact[1])).max())  # CRS units a pixel
    side = 340
    centre = footprint.pixel_to_crs(np.array([48.0, 48.0]))
    own = np.array(tiles_centre(footprint.crs, centre))
    transform = around(float(own[0]), float(own[1]), crs, side, side, unit / fine, turn)
    path = write_raster(tmp_path_factory.mktemp("ramp") / "ramp.tif", ramp(side, side), crs, transform)
    patch = read(path, {0: footprint})[0]
    assert patch.valid is None
    error = np.abs(patch.pixels - expected(footprint, crs, transform))
    assert error.max() < 0.02, f"off by {error.max()} source pixels"


def tiles_centre(crs: str, xy: NDArray[np.float64]) -> tuple[float, float]:
    lon, lat = Transformer.from_crs(crs, "EPSG:4326", always_xy=True).transform(xy[0], xy[1])
    return float(lon), float(lat)


@pytest.mark.parametrize("dtype", ["uint8", "int8", "uint16", "int16", "uint32", "int32", "float32", "float64"])
def test_a_raster_on_its_own_grid_keeps_every_value_and_its_type(tmp_path: Path, dtype: str) -> None:
    rng = np.random.default_rng(1)
    data = rng.integers(0, 120, (5, 37, 61)).astype(dtype)
    if dtype.startswith("float"):
        data += rng.random(data.shape).astype(dtype)
    path = write_raster(tmp_path / "own.tif", data, "EPSG:4326", Affine(9e-5, 0, 8.1, 0, -9e-5, 47.3))
    footprint = own_footprint(path)
    assert (footprint.key, footprint.width, footprint.height) == ("chip-own", 61, 37)
    patch = read(path, {"a": footprint})["a"]
    assert patch.valid is None
    assert patch.pixels.dtype == dtype
    np.testing.assert_array_equal(patch.pixels, data)


def test_a_rotated_raster_on_its_own_grid_keeps_every_value(tmp_path: Path) -> None:
    data = texture(2, (3, 40, 50))
    path = write_raster(tmp_path / "turned.tif", data, UTM, around(LON, LAT, UTM, 50, 40, 0.5, 23.0))
    patch = read(path, {0: own_footprint(path)})[0]
    inner = np.s_[:, 1:-1, 1:-1]
    np.testing.assert_array_equal(patch.pixels[inner], data[inner])


@given(st.sets(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=25), st.integers(0, 3))
@settings(max_examples=25)
def test_a_tile_does_not_depend_on_its_company(
    company: dict[str, Path], chosen: set[tuple[int, int]], which: int
) -> None:
    name = sorted(company)[which]
    footprints = tiles(LON, LAT, 17, 64, 5)
    everyone = read(company[name], footprints)
    keys = [k for i, k in enumerate(footprints) if divmod(i, 5) in chosen]
    some = read(company[name], {k: footprints[k] for k in reversed(keys)})
    assert set(some) == set(keys) & set(everyone)
    for key, patch in some.items():
        np.testing.assert_array_equal(patch.pixels, everyone[key].pixels)
        assert (patch.valid is None) == (everyone[key].valid is None)


@pytest.fixture(scope="module")
def company(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Rasters that are read in each of the ways."""
    folder = tmp_path_factory.mktemp("company")
    where = {"transform": around(LON, LAT, UTM, 500, 500, 3.1)}
    holes = texture(6, (3, 500, 500), dtype=np.uint8)
    holes[:, 200:260, 100:420] = 0
    return {
        "jpeg": write_cog(folder / "jpeg.tif", texture(3, (3, 500, 500)), **where),
        "deep": write_raster(folder / "deep.tif", texture(4, (4, 500, 500), 1, 9000, np.uint16), **where),
        "fine": write_raster(
            folder / "fine.tif", texture(5, (1, 500, 500)), transform=around(LON, LAT, UTM, 500, 500, 2.2)
        ),
        "holes": write_raster(folder / "holes.tif", holes, nodata=0, **where),
    }  # fmt: skip


def test_holes_are_found_however_the_file_says_them(tmp_path: Path) -> None:
    """By a nodata value, an internal mask, an alpha band, NaN, or the end of the raster."""
    footprints = tiles(LON, LAT, 17, 128, 1)
    (key,) = footprints
    side, gsd = 800, 0.8
    where = {"transform": around(LON, LAT, UTM, side, side, gsd)}
    data = texture(7, (3, side, side))
    hole = np.zeros((side, side), bool)
    hole[350:430, 320:460] = True
    emptied = np.where(hole, 0, data)
    alpha = np.where(hole, 0, 255).astype(np.uint8)
    files = {
        "nodata": write_raster(tmp_path / "nodata.tif", emptied, nodata=0, **where),
        "mask": write_raster(tmp_path / "mask.tif", data, mask=alpha, **where),
        "alpha": write_raster(
            tmp_path / "alpha.tif", np.concatenate((data, alpha[None])), photometric="RGB", alpha="YES", **where
        ),
        "nan": write_raster(tmp_path / "nan.tif", np.where(hole, np.nan, data).astype(np.float32), **where),
    }  # fmt: skip
    column, row = expected(footprints[key], UTM, where["transform"])
    inside = hole[row.astype(int), column.astype(int)]
    for name, path in files.items():
        with rasterio.open(path) as source:
            patch = dict(read_footprints(source, [1, 2, 3], footprints, "bilinear"))[key]
        assert patch.valid is not None, name
        wrong = np.flatnonzero(patch.valid == inside)
        assert len(wrong) < 2.5 * 128, name  # at most a pixel's width along the rim
        assert (patch.pixels[:, ~patch.valid] == (0 if name != "mask" else patch.pixels[:, ~patch.valid])).all(), name


def test_a_hole_changes_only_the_tiles_that_it_touches(tmp_path: Path) -> None:
    footprints = tiles(LON, LAT, 17, 64, 5)
    where = {"transform": around(LON, LAT, UTM, 500, 500, 3.1)}
    data = texture(8, (3, 500, 500))
    whole = read(write_raster(tmp_path / "whole.tif", data, **where), footprints)
    data[:, 245:255, 245:255] = 0
    holed = read(write_raster(tmp_path / "holed.tif", data, nodata=0, **where), footprints)
    touched = [k for k in footprints if holed[k].valid is not None]
    assert 1 <= len(touched) <= 4
    for key in set(footprints) - set(touched):  # one beside the hole is GDAL's to read, which rounds otherwise
        assert np.abs(holed[key].pixels.astype(int) - whole[key].pixels).max() <= 3


def test_the_fast_way_and_gdal_s_give_the_same_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    footprints = tiles(LON, LAT, 17, 96, 3)
    where = {"transform": around(LON, LAT, UTM, 600, 600, 2.1)}
    for dtype, high in ((np.uint8, 255), (np.uint16, 9000)):
        path = write_raster(tmp_path / f"{dtype.__name__}.tif", texture(9, (3, 600, 600), 1, high, dtype), **where)
        with monkeypatch.context() as patch:
            patch.setattr(raster, "_warp", never)
            fast = read(path, footprints)
        with monkeypatch.context() as patch:
            patch.setattr(resample, "place_lines", lambda f, *_: [None] * len(f))
            slow = read(path, footprints)
        for key in footprints:
            difference = np.abs(fast[key].pixels.astype(int) - slow[key].pixels)
            assert difference.max() <= (3 if dtype is np.uint8 else 0.012 * high + 1)
            assert difference.mean() < high / 500


@given(st.integers(0, 2**32 - 1), st.integers(3, 4))
@settings(max_examples=20)
def test_packed_channels_are_weighed_as_single_ones(seed: int, count: int) -> None:
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 256, (count, 34, 45), dtype=np.uint8)
    turn = Affine.translation(1006, 2006) @ Affine.rotation(rng.uniform(-9, 9)) @ Affine.scale(rng.uniform(0.9, 1.1))
    footprint = Footprint("a", "EPSG:3857", tuple(turn[:6]), 23, 17)
    (lines,) = resample.place_lines([footprint], "EPSG:3857", (1.0, 0.0, 0.0, 0.0, 1.0, 0.0))
    assert lines is not None
    origin = (1000, 2000)
    exact = np.empty((count, 17, 23), np.float32)
    taps = resample.Taps.at(*lines.positions(origin), pixels.shape[2], np.float32)
    resample.bilinear(pixels.astype(np.float32), taps, exact)
    packed = _packed(pixels, lines, origin, (17, 23))
    assert np.abs(packed - exact).max() <= 1.5 + 255 / 256  # rounding twice, and the nearest 256th of a pixel
    assert abs((packed - exact).mean()) < 0.15


def _packed(
    pixels: NDArray[np.uint8], lines: resample.Lines, origin: tuple[int, int], shape: tuple[int, int]
) -> NDArray[np.uint8]:
    out = np.empty((*shape, 4), np.uint8)
    room = words.Room(pixels[0].size, shape[1])
    words.bilinear_words(pixels, lines, origin, room, out)
    return out.transpose(2, 0, 1)[: len(pixels)]


@pytest.mark.parametrize(("width", "height"), [(20_001, 2), (100, 401)])
def test_packed_channels_of_more_pixels_than_a_strip_holds_are_those_of_single_ones(width: int, height: int) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (3, height // 2 + 4, width // 2 + 4), dtype=np.uint8)
    footprint = Footprint("a", "EPSG:3857", (0.5, 0.0, 1.3, 0.0, 0.5, 1.4), width, height)
    (lines,) = resample.place_lines([footprint], "EPSG:3857", (1.0, 0.0, 0.0, 0.0, 1.0, 0.0))
    assert lines is not None
    exact = np.empty((3, height, width), np.float32)
    resample.bilinear(
        pixels.astype(np.float32), resample.Taps.at(*lines.positions((0, 0)), width // 2 + 4, "f4"), exact
    )
    packed = _packed(pixels, lines, (0, 0), (height, width))
    assert np.abs(packed - exact).max() <= 1.5 + 255 / 256
    assert abs((packed - exact).mean()) < 0.15


@pytest.mark.parametrize("crs", ["EPSG:32632", "EPSG:4326", "EPSG:3035", "EPSG:3995"])
@pytest.mark.parametrize("zoom", [4, 8, 10, 12, 14, 17])
def test_a_position_is_exact_to_a_thousandth_of_a_pixel_or_unknown(zoom: int, crs: str) -> None:
    """In conformal maps too, whose bends along both axes cancel out in the middle between four places."""
    (whole,) = tiles(LON, 62.0, zoom, 256).values()
    x, y = expected(whole, crs, Affine.identity())[:, 0, :2]
    transform = Affine.scale(float(np.hypot(x[1] - x[0], y[1] - y[0])))
    for width, height in ((256, 256), (100, 129), (1, 70)):
        footprint = Footprint("a", whole.crs, whole.transform, width, height)
        (lines,) = resample.place_lines([footprint], crs, tuple(transform[:6]))
        assert lines is not None or zoom < 8
        if lines is None:
            continue
        assert lines.alike > 1 or zoom < 14 or height % 2  # lines share their steps where the map hardly turns
        exact = expected(footprint, crs, transform)
        origin = np.floor(exact.min(axis=(1, 2))).astype(int)
        found = lines.positions((origin[0], origin[1])) / 65536 + origin[:, None, None]
        assert np.abs(found - exact).max() < 0.0011
        assert np.abs(lines.low - exact.min(axis=(1, 2))).max() < 0.0011
        assert np.abs(lines.high - exact.max(axis=(1, 2))).max() < 0.0011


def test_coarser_tiles_are_averages_not_samples(tmp_path: Path) -> None:
    data = np.zeros((1, 2600, 2600), np.uint8)
    data[0, ::2, ::2] = data[0, 1::2, 1::2] = 200
    path = write_raster(tmp_path / "board.tif", data, transform=around(LON, LAT, UTM, 2600, 2600, 0.2))
    for resampling in ("bilinear", "cubic", "average", "lanczos"):
        (patch,) = read(path, tiles(LON, LAT, 17, 64, 1), resampling).values()
        assert patch.valid is None
        assert np.abs(patch.pixels.astype(int) - 100).max() <= 12, resampling
    (patch,) = read(path, tiles(LON, LAT, 17, 64, 1), "nearest").values()
    assert set(np.unique(patch.pixels)) <= {0, 200}


@pytest.mark.parametrize("tables", [0, 3])
def test_a_jpeg_raster_is_read_as_gdal_reads_it_whichever_decoder_has_it(tmp_path: Path, tables: int) -> None:
    """At sharp edges of colour, of which GDAL's own JPEG tiles hold a half."""
    path = write_raster(
        tmp_path / "a.tif", texture(10, (3, 500, 500)), tiled=True, blockxsize=128, blockysize=64, compress="JPEG",
        photometric="YCBCR", jpegtablesmode=tables, transform=around(LON, LAT, UTM, 500, 500, 3.1),
    )  # fmt: skip
    with rasterio.open(path) as source:
        bare = write_raster(tmp_path / "bare.tif", source.read(), transform=source.transform)
    footprints = tiles(LON, LAT, 17, 64, 5)
    found, wanted = read(path, footprints), read(bare, footprints)
    assert found.keys() == wanted.keys()
    for key, patch in found.items():
        assert np.abs(patch.pixels.astype(int) - wanted[key].pixels).max() <= 2


@pytest.mark.parametrize("chroma", ["444", "422", "420", "440"])
def test_the_fast_decoder_has_a_file_only_where_it_sees_gdal_s_colours(tmp_path: Path, chroma: str) -> None:
    path, side = tmp_path / "a.tif", 64
    data = texture(11, (3, 2 * side, 2 * side)).transpose(1, 2, 0)
    parts = [data[y : y + side, x : x + side] for y in (0, side) for x in (0, side)]
    streams = [simplejpeg.encode_jpeg(np.ascontiguousarray(p), 90, "RGB", chroma) for p in parts]
    _write_jpeg_tiles(path, streams, side, chroma)
    window = rasterio.windows.Window(10, 20, 100, 90)
    with rasterio.open(path) as source:
        file = open_tiles(source, [1, 2, 3])
        assert (file is not None) == (chroma == "444" or doubles_alike())
        if file is not None:
            with file:
                own = JpegTiles(source, file).read(window)
            assert own is not None
            assert np.abs(own[..., :3].transpose(2, 0, 1).astype(int) - source.read(window=window)).max() <= 2


def _write_jpeg_tiles(path: Path, streams: list[bytes], side: int, chroma: str) -> None:
    """A TIFF of 2 × 2 JPEG tiles in YCbCr, by the specification (TIFF 6.0)."""
    halves = {"444": (1, 1), "422": (2, 1), "420": (2, 2), "440": (1, 2)}[chroma]
    starts = np.cumsum([8, *map(len, streams)]).tolist()
    lists = {258: ("H", [8] * 3), 324: ("I", starts[:4]), 325: ("I", [len(s) for s in streams])}
    extra, at = b"", {}
    for tag, (kind, values) in lists.items():
        at[tag] = starts[-1] + len(extra)
        extra += struct.pack(f"<{len(values)}{kind}", *values)
    word = {256: 2 * side, 257: 2 * side, 259: 7, 262: 6, 277: 3, 284: 1, 322: side, 323: side}
    entries = {tag: struct.pack("<HHIHH", tag, 3, 1, value, 0) for tag, value in word.items()}
    entries |= {
        tag: struct.pack("<HHII", tag, {"H": 3, "I": 4}[kind], len(values), at[tag])
        for tag, (kind, values) in lists.items()
    }
    entries[530] = struct.pack("<HHIHH", 530, 3, 2, *halves)
    directory = struct.pack("<H", len(entries)) + b"".join(entries[t] for t in sorted(entries)) + bytes(4)
    first = starts[-1] + len(extra)
    path.write_bytes(struct.pack("<2sHI", b"II", 42, first) + b"".join(streams) + extra + directory)


def test_pieces_that_do_not_fit_in_memory_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_raster(
        tmp_path / "strip.tif", np.zeros((1, 256, 4096), np.uint8), blockxsize=4096, blockysize=256, tiled=True
    )
    monkeypatch.setattr(raster, "MEMORY", 1 << 20)
    with rasterio.open(path) as source:
        raster.check_raster(source, "x.tif")
    monkeypatch.setattr(raster, "MEMORY", 1 << 19)
    with rasterio.open(path) as source, pytest.raises(InputError, match=r"x\.tif .*-of COG"):
        raster.check_raster(source, "x.tif")
