"""Files as they come: values of any depth, layout and codec are kept; what has no place on Earth is refused."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from affine import Affine
from numpy.typing import NDArray
from PIL import Image
from rasterio.control import GroundControlPoint
from rasterio.enums import Resampling
from rasterio.rpc import RPC
from rasterio.warp import reproject

from pipeline.footprints.chips.image import read_header
from pipeline.formats.pictures import in_8_bits
from pipeline.imagery.config import ImageryConfig
from pipeline.imagery.local import open_scene
from pipeline.imagery.raster import read_footprints
from pipeline.imagery.read import read_images
from pipeline.net.config import NetConfig
from schemas.errors import InputError
from tests.imagery.scenes import LAT, LON, UTM, around, own_footprint, texture, tiles, write_raster

NET = NetConfig(retries=0)
SIDE = 64
THERE = around(LON, LAT, UTM, SIDE, SIDE, 1.0)
DATA = texture(1, (3, SIDE, SIDE))
POINTS = [GroundControlPoint(r, c, *(THERE @ (c, r))) for r in (0, 32, 64) for c in (0, 32, 64)]
SENSOR = RPC(
    height_off=0, height_scale=1, lat_off=47, lat_scale=1, line_den_coeff=[1.0] + [0.0] * 19, line_off=32,
    line_num_coeff=[0.0, 0.0, 1.0] + [0.0] * 17, line_scale=1, long_off=10, long_scale=1, samp_off=32, samp_scale=1,
    samp_den_coeff=[1.0] + [0.0] * 19, samp_num_coeff=[0.0, 1.0] + [0.0] * 18, err_bias=None, err_rand=None,
)  # fmt: skip
ENGINEERING = 'ENGCRS["the site",EDATUM["x"],CS[Cartesian,2],AXIS["x",east],AXIS["y",north],LENGTHUNIT["metre",1]]'


def write(path: Path, data: NDArray[Any] = DATA, driver: str = "GTiff", **profile: Any) -> Path:
    """As GDAL writes it, with no place but what is given."""
    count, height, width = data.shape
    with rasterio.open(
        path, "w", driver=driver, width=width, height=height, count=count, dtype=data.dtype, **profile
    ) as target:
        target.write(data)
    return path


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
@pytest.mark.parametrize(
    ("profile", "reason"),
    [
        ({"transform": THERE}, "no coordinate reference system; assign one with gdal_edit"),
        ({"crs": UTM}, "names a coordinate reference system, but not where .* gdal_edit.py -a_ullr"),
        ({"crs": UTM, "gcps": POINTS}, r"placed by 9 ground control points, .* gdalwarp -tps -t_srs"),
        ({"rpcs": SENSOR}, r"placed by RPCs, .* gdalwarp -rpc -to RPC_DEM=dem\.tif"),
        ({"crs": 'LOCAL_CS["site grid",UNIT["metre",1]]', "transform": THERE}, "is in site grid, which is no map of"),
        ({"crs": ENGINEERING, "transform": THERE}, "is in the site, which is no map of the Earth; assign its true CRS"),
        ({"crs": "EPSG:4978", "transform": THERE}, "is in WGS 84, which is no map of the Earth"),
        ({"crs": UTM, "transform": Affine(1, 2, 0, 2, 4, 0)}, "has pixels of no area"),
        ({"crs": UTM, "transform": Affine(1e-310, 0, 6e5, 0, -3e154, 5e6)}, "farther than any map .* -a_ullr"),
        ({"crs": UTM, "transform": THERE, "photometric": "MINISWHITE"}, "counts 0 as white .* -scale 0 255 255 0"),
    ],
)  # fmt: skip
def test_a_raster_that_does_not_say_where_it_lies_is_refused_with_the_way_out(
    tmp_path: Path, profile: dict[str, Any], reason: str
) -> None:
    path = write(tmp_path / "odd.tif", DATA[:1] if "photometric" in profile else DATA, **profile)
    with pytest.raises(InputError, match=rf"odd\.tif .*{reason}") as refusal:
        open_scene(path)
    assert "\n" not in str(refusal.value)


def test_the_way_out_of_ground_control_points_works(tmp_path: Path) -> None:
    """What GDAL's warper makes of them is read, and lies where they say."""
    path = write(tmp_path / "gcps.tif", crs=UTM, gcps=POINTS)
    with rasterio.open(path) as source:
        out = np.zeros((3, SIDE, SIDE), np.uint8)
        reproject(
            rasterio.band(source, [1, 2, 3]), out, gcps=POINTS, src_crs=UTM, dst_crs=UTM, dst_transform=THERE,
            resampling=Resampling.nearest,
        )  # fmt: skip
    warped = write_raster(tmp_path / "warped.tif", out, transform=THERE)
    np.testing.assert_array_equal(images_of(warped), DATA)


def images_of(path: Path, config: ImageryConfig = ImageryConfig()) -> NDArray[Any]:
    """A file's own pixels, by the way that a build takes."""
    (images,) = read_images([open_scene(path, config)], {0: own_footprint(path)}, config, NET)[0].values()
    return images[0].pixels


@pytest.mark.parametrize("codec", ["LERC", "ZSTD", "WEBP", "LZMA", "LZW", "PACKBITS", "LERC_ZSTD"])
def test_every_lossless_codec_of_gdal_keeps_the_values(tmp_path: Path, codec: str) -> None:
    lossless = {"WEBP_LOSSLESS": "YES"} if codec == "WEBP" else {}
    path = write(tmp_path / "a.tif", crs=UTM, transform=THERE, compress=codec, **lossless)
    np.testing.assert_array_equal(images_of(path), DATA)


@pytest.mark.parametrize(
    "layout",
    [
        {"interleave": "band"}, {"interleave": "pixel", "blockysize": 7}, {"bigtiff": "YES", "endianness": "BIG"},
        {"tiled": True, "blockxsize": 32, "blockysize": 16, "interleave": "band"},
        {"tiled": True, "blockxsize": 16, "blockysize": 48, "sparse_ok": True},
    ],
)  # fmt: skip
def test_strips_tiles_planes_and_missing_blocks_keep_the_values(tmp_path: Path, layout: dict[str, Any]) -> None:
    data = DATA.copy()
    data[:, :48, :16] = 0  # a block that a sparse file leaves out
    np.testing.assert_array_equal(images_of(write(tmp_path / "a.tif", data, crs=UTM, transform=THERE, **layout)), data)


@pytest.mark.parametrize(
    ("bits", "kind", "held"),
    [(2, "uint8", "uint8"), (4, "uint8", "uint8"), (12, "uint16", "uint16"), (16, "float32", "float32"),
     (24, "float32", "float32")],
)  # fmt: skip
def test_samples_of_any_bits_keep_their_values(tmp_path: Path, bits: int, kind: str, held: str) -> None:
    data = (DATA[:1].astype(int) * 13 % (1 << min(bits, 11))).astype(kind)
    found = images_of(write(tmp_path / "a.tif", data, crs=UTM, transform=THERE, nbits=bits))
    assert found.dtype == held
    np.testing.assert_array_equal(found, data)


@pytest.mark.parametrize("count", [1, 3])
def test_a_png_of_16_bits_keeps_its_values_as_raster_and_as_chip(tmp_path: Path, count: int) -> None:
    data = DATA[:count].astype(np.uint16) * 200
    path = write(tmp_path / "a.png", data, "PNG", crs=UTM, transform=THERE)
    np.testing.assert_array_equal(images_of(path), data)
    assert read_header(path, False).dtype == "uint16"


def test_a_picture_of_16_bits_keeps_its_greys_and_is_not_white(tmp_path: Path) -> None:
    """Map tiles and photos, which Pillow reads."""
    grey = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    Image.fromarray(grey).save(tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as image:
        np.testing.assert_array_equal(np.asarray(in_8_bits(image)), grey >> 8)
    eight = Image.fromarray((grey >> 8).astype(np.uint8))
    assert in_8_bits(eight) is eight


@pytest.mark.parametrize(
    "make", [lambda: Affine.shear(20, 5), lambda: Affine.scale(1, -1), lambda: Affine.scale(-1, 1)]
)
@pytest.mark.parametrize("resampling", ["bilinear", "cubic"])
def test_sheared_and_mirrored_grids_lie_where_gdal_s_warp_puts_them(
    tmp_path: Path, make: Callable[[], Affine], resampling: str
) -> None:
    grid = around(LON, LAT, UTM, 0, 0, 2.0) @ make() @ Affine.translation(-200, -200)
    path = write_raster(tmp_path / "a.tif", texture(3, (3, 400, 400)), transform=grid)
    (footprint,) = tiles(LON, LAT, 17, 128).values()
    gdal = np.zeros((3, 128, 128), np.uint8)
    with rasterio.open(path) as source:
        (patch,) = dict(read_footprints(source, [1, 2, 3], {0: footprint}, resampling)).values()
        reproject(
            rasterio.band(source, [1, 2, 3]), gdal, dst_crs=footprint.crs, dst_transform=Affine(*footprint.transform),
            resampling=Resampling[resampling], tolerance=0.0, XSCALE=1, YSCALE=1,
        )  # fmt: skip
    assert patch.valid is None
    assert np.abs(patch.pixels.astype(int) - gdal).max() <= 3


def test_a_codec_that_gdal_has_not_is_said_to_be_missing(tmp_path: Path) -> None:
    """As JPEG XL is in many builds: a file whose header names what none has."""
    path = write(tmp_path / "a.tif", crs=UTM, transform=THERE, compress="DEFLATE")
    data = bytearray(path.read_bytes())
    (first,) = struct.unpack_from("<I", data, 4)
    (count,) = struct.unpack_from("<H", data, first)
    entry = next(e for e in range(first + 2, first + 2 + 12 * count, 12) if struct.unpack_from("<H", data, e)[0] == 259)
    struct.pack_into("<H", data, entry + 8, 65000)
    path.write_bytes(data)
    with pytest.raises(InputError, match=r"a\.tif cannot be read: .*no decoder for it: write it anew") as refusal:
        open_scene(path)
    assert "truncated" not in str(refusal.value)


def test_complex_numbers_are_refused_with_what_makes_amounts_of_them(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tif", DATA.astype(np.complex64), crs=UTM, transform=THERE)
    for config in (ImageryConfig(), ImageryConfig(stretch="percentile")):
        with pytest.raises(InputError, match=r"a\.tif is complex64; make amounts .*abs\(A\)"):
            open_scene(path, config)


def test_scale_and_offset_of_a_file_change_no_value(tmp_path: Path) -> None:
    data = DATA.astype(np.uint16)
    path = write(tmp_path / "a.tif", data, crs=UTM, transform=THERE)
    with rasterio.open(path, "r+") as target:
        target.scales, target.offsets = (1e-4,) * 3, (-0.1,) * 3
    np.testing.assert_array_equal(images_of(path), data)
