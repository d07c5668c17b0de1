"""Which pixels are data: one answer, whatever says it and however the raster is read."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from numpy.typing import NDArray
from PIL import Image
from rasterio.enums import ColorInterp, Resampling
from rasterio.vrt import WarpedVRT

from pipeline.footprints.chips.image import read_header, read_image
from pipeline.imagery.config import ImageryConfig
from pipeline.imagery.local import open_scene
from pipeline.imagery.nodata import Stated, weigh
from pipeline.imagery.raster import Patch, open_raster, read_footprints
from pipeline.imagery.read import _fill, _Part, hidden, read_images
from pipeline.imagery.scene import Asset, Mask, Scene, TileImage
from pipeline.net.config import NetConfig
from schemas.errors import InputError
from schemas.footprint import Footprint
from tests.imagery.scenes import LAT, LON, UTM, around, expected, own_footprint, texture, tiles, write_raster

SIDE, GSD = 800, 0.8
PLACE = around(LON, LAT, UTM, SIDE, SIDE, GSD)
NET = NetConfig(retries=0)
#: Two holes: one that a value says, one that a mask or alpha says.
FIRST, SECOND = np.zeros((SIDE, SIDE), bool), np.zeros((SIDE, SIDE), bool)
FIRST[300:390, 310:470] = True
SECOND[420:500, 360:420] = True
KERNELS = ("nearest", "bilinear", "cubic")
LOWEST = float(np.finfo(np.float32).min)


def picture() -> NDArray[np.uint8]:
    return texture(7, (3, SIDE, SIDE), low=10)


def write(folder: Path, kind: str) -> tuple[Path, Stated, NDArray[np.bool_]]:
    """A file that says of pixels that they are no data, what is said beside it, and which pixels they are."""
    path, stated = folder / f"{kind}.tif", Stated()
    opaque = np.where(SECOND, 0, 255).astype(np.uint8)
    if "soft" in kind:  # as the rims of mosaics are
        opaque[:, : SIDE // 2] = np.minimum(opaque[:, : SIDE // 2], 1)
    emptied = np.where(FIRST, 7, picture()).astype(np.uint8)
    value = {"nodata": 7} if "nodata" in kind else {}
    data = emptied if value or "declared" in kind else picture()
    if "declared" in kind:
        stated = Stated(declared=(7.0,))
    if "alpha" in kind:
        write_raster(
            path, np.concatenate((data, opaque[None])), transform=PLACE, photometric="RGB", alpha="YES", **value
        )
    elif "external" in kind:
        write_raster(path, data, transform=PLACE, **value)
        with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=False), rasterio.open(path, "r+") as target:
            target.write_mask(opaque)
        assert path.with_suffix(".tif.msk").exists()
    else:
        write_raster(path, data, transform=PLACE, mask=opaque if "internal" in kind else None, **value)
    missing = (FIRST if value or stated.declared else np.zeros_like(FIRST)) | (
        SECOND if {"alpha", "external", "internal"} & set(kind.split("-")) else np.zeros_like(FIRST)
    )
    return path, stated, missing


KINDS = ("none", "nodata", "alpha", "internal", "external", "declared", "nodata-alpha", "nodata-internal",
         "nodata-external", "declared-alpha", "declared-internal",
         "soft-alpha")  # fmt: skip


def gdal_missing(folder: Path, missing: NDArray[np.bool_], footprint: Footprint, kernel: str) -> NDArray[np.bool_]:
    """What GDAL's warper leaves empty of a raster with nothing but these holes."""
    plain = write_raster(
        folder / "plain.tif", np.where(missing, 0, 255).astype(np.uint8)[None], transform=PLACE, nodata=0
    )
    with (
        rasterio.open(plain) as source,
        WarpedVRT(
            source, crs=footprint.crs, transform=rasterio.Affine(*footprint.transform), width=footprint.width,
            height=footprint.height, resampling=Resampling[kernel], add_alpha=True,
        ) as warped,
    ):  # fmt: skip
        return np.asarray(warped.read(2) == 0)


def border(missing: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Pixels beside one of the other kind."""
    padded = np.pad(missing, 1, mode="edge")
    shifted = [
        padded[1 + dy : padded.shape[0] - 1 + dy, 1 + dx : padded.shape[1] - 1 + dx]
        for dy, dx in itertools.product((-1, 0, 1), repeat=2)
    ]
    return np.asarray(np.any(shifted, axis=0) & ~np.all(shifted, axis=0))


def missing_of(patch: Patch, footprint: Footprint) -> NDArray[np.bool_]:
    return np.zeros((footprint.height, footprint.width), bool) if patch.valid is None else ~patch.valid


@pytest.mark.parametrize("kind", KINDS)
def test_the_share_without_data_is_gdal_s_whatever_says_it(tmp_path: Path, kind: str) -> None:
    """At five zooms and by three kernels."""
    path, stated, missing = write(tmp_path, kind)
    for zoom, kernel in itertools.product((15, 16, 17, 18, 19), KERNELS):
        (footprint,) = tiles(LON, LAT, zoom, 128).values()
        with rasterio.open(path) as source:
            patch = dict(read_footprints(source, [1, 2, 3], {0: footprint}, kernel, stated))[0]
        ours, theirs = missing_of(patch, footprint), gdal_missing(tmp_path, missing, footprint, kernel)
        wrong = (ours != theirs) & ~border(theirs)
        assert not wrong.any(), (
            f"zoom {zoom}, {kernel}: {wrong.sum()} pixels, {ours.mean():.3f} not {theirs.mean():.3f}"
        )


@pytest.mark.parametrize("kind", KINDS)
def test_at_its_own_grid_a_raster_lacks_just_what_is_said(tmp_path: Path, kind: str) -> None:
    path, stated, missing = write(tmp_path, kind)
    footprint = own_footprint(path)
    with rasterio.open(path) as source:
        patch = dict(read_footprints(source, [1, 2, 3], {0: footprint}, "bilinear", stated))[0]
    np.testing.assert_array_equal(missing_of(patch, footprint), missing)
    config = ImageryConfig(nodata=7.0 if stated.declared else None, format="npy")
    assert read_image(path, config).nodata_share == pytest.approx(missing.mean())  # as a chip


@pytest.mark.parametrize("kernel", KERNELS)
def test_no_value_of_a_hole_is_blended_into_the_picture(tmp_path: Path, kernel: str) -> None:
    """Holes hold 0 below a picture of 200, so whatever is darker than that was mixed with one."""
    data = np.where(FIRST | SECOND, 0, 200).astype(np.uint8)[None].repeat(3, axis=0)
    data[:, FIRST] = 7
    alpha = np.where(SECOND, 0, 255).astype(np.uint8)[None]
    path = write_raster(
        tmp_path / "both.tif", np.concatenate((data, alpha)), transform=PLACE, photometric="RGB", alpha="YES", nodata=7
    )
    for zoom in (15, 17, 18):
        (footprint,) = tiles(LON, LAT, zoom, 128).values()
        with rasterio.open(path) as source:
            patch = dict(read_footprints(source, [1, 2, 3], {0: footprint}, kernel))[0]
        assert patch.valid is not None
        assert set(np.unique(patch.pixels[:, patch.valid])) == {200}


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("stated", ["-3.40282306e+38", "-3.4028235e+38", "-9999"])
def test_a_value_in_rounded_decimals_is_the_value_of_the_pixels(tmp_path: Path, kernel: str, stated: str) -> None:
    value = -9999.0 if stated == "-9999" else LOWEST
    heights = np.where(FIRST, value, texture(3, (1, SIDE, SIDE)).astype(np.float32)).astype(np.float32)
    path = write_raster(tmp_path / "heights.tif", heights, transform=PLACE, nodata=float(stated))
    footprints = {z: f for z in (15, 16, 17, 18, 19) for f in tiles(LON, LAT, z, 128).values()} | {
        0: own_footprint(path)
    }
    with rasterio.open(path) as source:
        for zoom, footprint in footprints.items():
            patch = dict(read_footprints(source, [1], {0: footprint}, kernel))[0]
            assert patch.valid is not None, zoom
            assert patch.pixels[:, patch.valid].min() > -100, zoom  # a cubic swings over by no more
    assert read_image(path, ImageryConfig()).nodata_share == pytest.approx(FIRST.mean())


def test_a_pixel_lacks_data_where_all_the_bands_that_are_read_hold_the_value(tmp_path: Path) -> None:
    """The bands that are not asked for have no say, at native zoom as resampled."""
    data = np.concatenate((np.where(FIRST, 0, picture()), picture()[:1]))
    data[0, SECOND] = 0  # one band alone: a dark red
    path = write_raster(tmp_path / "four.tif", data.astype(np.uint16), transform=PLACE, nodata=0)
    for footprint, kernel in itertools.product(
        [own_footprint(path), *tiles(LON, LAT, 17, 128).values(), *tiles(LON, LAT, 16, 128).values()], KERNELS
    ):
        theirs = gdal_missing(tmp_path, FIRST, footprint, kernel)
        with rasterio.open(path) as source:
            three = dict(read_footprints(source, [1, 2, 3], {0: footprint}, kernel))[0]
            four = dict(read_footprints(source, [1, 2, 3, 4], {0: footprint}, kernel))[0]
        assert not ((missing_of(three, footprint) != theirs) & ~border(theirs)).any()
        outside = gdal_missing(tmp_path, np.zeros_like(FIRST), footprint, kernel)
        assert not (missing_of(four, footprint) & ~outside).any()


def one_image(scene: Scene, footprint: Footprint, **settings: Any) -> TileImage:
    found, rows = read_images([scene], {0: footprint}, ImageryConfig(max_nodata=1.0, **settings), NET)
    assert not rows
    return found[0][0]


def test_the_user_has_the_last_word_on_the_value(tmp_path: Path) -> None:
    path = write_raster(tmp_path / "x.tif", np.where(FIRST, 0, picture()).astype(np.uint8), transform=PLACE, nodata=200)
    (tile,) = tiles(LON, LAT, 18, 128).values()
    for footprint in (own_footprint(path), tile):
        share = float(gdal_missing(tmp_path, FIRST, footprint, "bilinear").mean())
        config = ImageryConfig(nodata=0.0)
        assert one_image(open_scene(path, config), footprint).nodata_share == pytest.approx(share, abs=0.02)
        for never in (0.5, -1.0, 256.0, "none"):  # no pixel of 8 bits can hold it
            config = ImageryConfig(nodata=never)  # type: ignore[arg-type]
            assert one_image(open_scene(path, config), footprint).nodata_share == 0


def near_infrared(folder: Path) -> Path:
    """Red, green, blue and near infrared, dark over water, as GDAL writes four bands of 8 bits by default."""
    data = texture(9, (4, SIDE, SIDE), low=30)
    data[3, FIRST] = 0
    path = write_raster(folder / "rgbn.tif", data, transform=PLACE)
    with rasterio.open(path) as source:
        assert source.colorinterp[3] == ColorInterp.alpha  # GDAL says so of it
    return path


def test_near_infrared_that_gdal_calls_alpha_is_a_band_and_water_is_data(tmp_path: Path) -> None:
    path = near_infrared(tmp_path)
    scene = open_scene(path)
    assert scene.bands == ["red", "green", "blue", "band4"]
    (tile,) = tiles(LON, LAT, 18, 128).values()
    for footprint in (own_footprint(path), tile):
        image = one_image(scene, footprint)
        assert (len(image.pixels), image.nodata_share) == (4, 0)
        colours = one_image(open_scene(path, ImageryConfig(bands=("red", "green", "blue"))), footprint)
        assert (len(colours.pixels), colours.nodata_share) == (3, 0)
    assert read_header(path, False).bands == ("red", "green", "blue", "band4")
    assert read_image(path, ImageryConfig()).nodata_share == 0


def test_a_true_alpha_band_masks_and_is_no_band_unless_it_is_asked_for(tmp_path: Path) -> None:
    path, _, missing = write(tmp_path, "alpha")
    footprint = own_footprint(path)
    image = one_image(open_scene(path), footprint)
    assert image.scene.bands == ["red", "green", "blue"]
    assert image.nodata_share == pytest.approx(missing.mean())
    four = one_image(open_scene(path, ImageryConfig(bands=("1", "2", "3", "4"))), footprint)
    assert (len(four.pixels), four.nodata_share) == (4, 0)
    for alpha, bands, share in (("band", 4, 0.0), ("ignore", 3, 0.0), ("mask", 3, missing.mean())):
        config = ImageryConfig(alpha=alpha, format="npy")  # type: ignore[arg-type]
        own = one_image(open_scene(path, config), footprint)
        assert (len(own.pixels), own.nodata_share) == (bands, pytest.approx(share))
        assert len(read_header(path, False, config).bands) == bands
        assert read_image(path, config).nodata_share == pytest.approx(share)
    near = open_scene(near_infrared(tmp_path), ImageryConfig(alpha="mask"))
    assert one_image(near, footprint).nodata_share == pytest.approx(FIRST.mean())


def test_a_mask_that_no_one_calls_alpha_is_one_where_the_user_says_so(tmp_path: Path) -> None:
    data = np.concatenate((picture(), np.where(SECOND, 0, 255).astype(np.uint8)[None]))
    path = write_raster(tmp_path / "x.tif", data, transform=PLACE, photometric="MINISBLACK")
    (tile,) = tiles(LON, LAT, 18, 128).values()
    for footprint in (own_footprint(path), tile):
        share = float(gdal_missing(tmp_path, SECOND, footprint, "bilinear").mean())
        image = one_image(open_scene(path, ImageryConfig(alpha="mask")), footprint)
        assert (len(image.pixels), image.nodata_share) == (3, pytest.approx(share, abs=0.02))


def test_numbers_of_colours_are_never_averaged(tmp_path: Path) -> None:
    path = write_raster(tmp_path / "palette.tif", texture(4, (1, SIDE, SIDE), high=3), transform=PLACE)
    with rasterio.open(path, "r+") as target:
        target.write_colormap(1, {0: (0, 0, 0, 255), 1: (255, 0, 0, 255), 2: (0, 0, 255, 255)})
    with pytest.raises(InputError, match="-expand rgb"):
        open_scene(path)
    with pytest.raises(InputError, match="-expand rgb"):
        read_header(path, False)
    scene = open_scene(path, ImageryConfig(resampling="nearest"))
    for zoom in (15, 17, 19):
        (footprint,) = tiles(LON, LAT, zoom, 64).values()
        image = one_image(scene, footprint, resampling="nearest")
        assert set(np.unique(image.pixels[:, ~image.missing] if image.missing is not None else image.pixels)) <= {1, 2}


def test_specks_without_data_cost_no_tile_by_default(tmp_path: Path) -> None:
    """A mosaic of real photos has some; more of them than one pixel in a hundred are a hole."""
    specks = np.random.default_rng(5).random((SIDE, SIDE)) < 0.002
    for name, missing, kept in (("specks", specks, True), ("hole", FIRST, False)):
        alpha = np.where(missing, 0, 255).astype(np.uint8)[None]
        path = write_raster(
            tmp_path / f"{name}.tif",
            np.concatenate((picture(), alpha)),
            transform=PLACE,
            photometric="RGB",
            alpha="YES",
        )
        found, rows = read_images([open_scene(path)], {0: own_footprint(path)}, ImageryConfig(), NET)
        assert [bool(found), [r["reason"] for r in rows]] == [kept, [] if kept else ["nodata"]]


def test_percentiles_are_of_data_alone_whoever_says_what_it_is(tmp_path: Path) -> None:
    data = np.where(FIRST, 0, texture(2, (1, SIDE, SIDE), 1000, 2000, np.uint16)).astype(np.uint16)
    path = write_raster(tmp_path / "x.tif", data, transform=PLACE)
    settings = {"stretch": "percentile", "percentiles": (0.0, 100.0)}
    config = ImageryConfig(nodata=0.0, **settings)  # type: ignore[arg-type]
    image = one_image(open_scene(path, config), own_footprint(path), **settings)
    assert image.stretch is not None
    assert image.stretch.endswith(": 1000..1999")
    scene = open_scene(path, replace(config, nodata=None))
    assert str(one_image(scene, own_footprint(path), **settings).stretch).endswith(": 0..1999")


@pytest.mark.parametrize("kernel", ["bilinear", "cubic"])
def test_a_half_empty_file_is_half_empty_every_time_it_is_read(tmp_path: Path, kernel: str) -> None:
    """What lies beside its seam by more than a pixel is known by construction, whatever memory held before."""
    data = np.full((1, 300, 300), 7, np.uint8)
    data[:, :, 150:] = 0
    where = around(LON, LAT, UTM, 300, 300, 3.1)
    path = write_raster(tmp_path / "half.tif", data, transform=where, nodata=0)
    for _ in range(4):
        with open_raster(str(path)) as source:
            found = dict(read_footprints(source, [1], tiles(LON, LAT, 17, 64, 3), kernel))
        assert 0 < len(found) < 9
        for key, footprint in tiles(LON, LAT, 17, 64, 3).items():
            column, valid = expected(footprint, UTM, where)[0], np.zeros((64, 64), bool)
            if key in found:
                valid |= True if found[key].valid is None else found[key].valid
                assert set(np.unique(found[key].pixels[0][valid])) == {7}
            clear = np.abs(column - 150) > 2
            np.testing.assert_array_equal(valid[clear], (column < 150)[clear])


@pytest.mark.parametrize("settings", [{}, {"format": "npy"}])
def test_a_picture_that_keeps_its_bytes_still_lacks_what_the_user_calls_nodata(
    tmp_path: Path, settings: dict[str, Any]
) -> None:
    """As the same pixels do in a TIFF."""
    data = np.where(FIRST, 0, picture()).astype(np.uint8)
    path = tmp_path / "a.png"
    Image.fromarray(data.transpose(1, 2, 0)).save(path)
    whole, holed = (read_image(path, ImageryConfig(nodata=v, **settings)) for v in ("none", 0.0))
    assert (whole.nodata_share, holed.nodata_share) == (0.0, pytest.approx(FIRST.mean()))
    assert whole.data == holed.data
    assert (holed.data == path.read_bytes()) == (not settings)


def test_each_band_has_its_own_value_and_each_file_its_alpha_whoever_names_them(tmp_path: Path) -> None:
    """``NODATA_VALUES`` is GDAL's item for it; a catalog counts where the file says nothing."""
    path = write_raster(tmp_path / "a.tif", texture(5, (4, 64, 64)), transform=PLACE, photometric="RGB", alpha="YES")
    with rasterio.open(path) as source:
        for declared, values in (((1.0, 2.0, 3.0), (3, 1)), ((9.0,), (9, 9)), ((1.0, 2.0, None), ()), ((), ())):
            assert weigh(source, [3, 1], Stated(declared=declared)).nodata == values
        assert [weigh(source, [1], Stated(described=n)).alpha for n in (3, 4)] == [4, None]
        assert [weigh(source, own, Stated()).alpha for own in ([1, 2, 3], [1, 4])] == [4, None]
    with rasterio.open(path, "r+") as target:
        target.update_tags(NODATA_VALUES="1 2 3 4")
    with rasterio.open(path) as source:
        for stated in (Stated(), Stated(declared=(9.0,))):
            assert weigh(source, [3, 1], stated).nodata == (3, 1)


@pytest.mark.parametrize("first", ["Byte", "Int16"])
def test_a_value_is_held_to_the_type_of_its_own_band(tmp_path: Path, first: str) -> None:
    """-9999 is a value of the band of 16 bits alone, whichever comes first; 0 is one of both."""
    types = (first, "Int16" if first == "Byte" else "Byte")
    bands = "".join(
        f'<VRTRasterBand dataType="{kind}" band="{i}"><NoDataValue>{-9999 if kind == "Int16" else 0}</NoDataValue>'
        "</VRTRasterBand>"
        for i, kind in enumerate(types, 1)
    )
    placed = "<GeoTransform>0, 1, 0, 0, 0, -1</GeoTransform>"
    (tmp_path / "a.vrt").write_text(f'<VRTDataset rasterXSize="4" rasterYSize="4">{placed}{bands}</VRTDataset>')
    with rasterio.open(tmp_path / "a.vrt") as source:
        for own in ([1, 2], [2, 1]):
            values = tuple(-9999.0 if types[b - 1] == "Int16" else 0.0 for b in own)
            assert weigh(source, own, Stated()).nodata == values
        assert weigh(source, [1, 2], Stated(nodata=-9999.0)).nodata == ()


@pytest.mark.parametrize("whose", ["file", "catalog"])
def test_a_pixel_is_no_data_where_each_band_has_its_own_value(tmp_path: Path, whose: str) -> None:
    """Neither where one band has its value, nor where all have that of the first; read as it lies, and warped."""
    data = texture(3, (2, SIDE, SIDE), low=10)
    data[:, FIRST] = [[7], [9]]
    data[0, SECOND] = 7
    data[:, ~FIRST & (np.arange(SIDE) > 700)] = 7
    path, stated = write_raster(tmp_path / "a.tif", data, transform=PLACE), Stated(declared=(7.0, 9.0))
    if whose == "file":
        place = (PLACE.c, PLACE.a, PLACE.b, PLACE.f, PLACE.d, PLACE.e)
        bands = "".join(
            f'<VRTRasterBand dataType="Byte" band="{i}"><NoDataValue>{value}</NoDataValue><SimpleSource>'
            f"<SourceFilename>{path}</SourceFilename><SourceBand>{i}</SourceBand></SimpleSource></VRTRasterBand>"
            for i, value in ((1, 7), (2, 9))
        )
        (tmp_path / "a.vrt").write_text(
            f'<VRTDataset rasterXSize="{SIDE}" rasterYSize="{SIDE}"><SRS>{UTM}</SRS>'
            f"<GeoTransform>{', '.join(map(repr, place))}</GeoTransform>{bands}</VRTDataset>"
        )
        stated = Stated()
    with rasterio.open(tmp_path / "a.vrt" if whose == "file" else path) as source:
        for bands_read in ([1, 2], [2, 1]):
            own = own_footprint(path)
            patch = dict(read_footprints(source, bands_read, {0: own}, "nearest", stated))[0]
            np.testing.assert_array_equal(missing_of(patch, own), FIRST)
            (footprint,) = tiles(LON, LAT, 17, 128).values()
            patch = dict(read_footprints(source, bands_read, {0: footprint}, "bilinear", stated))[0]
            theirs = gdal_missing(tmp_path, FIRST, footprint, "bilinear")
            assert not ((missing_of(patch, footprint) != theirs) & ~border(theirs)).any()


@pytest.mark.parametrize("kernel", KERNELS)
def test_a_pixel_of_which_one_band_is_no_number_is_no_data(tmp_path: Path, kernel: str) -> None:
    data = texture(3, (2, SIDE, SIDE)).astype(np.float32)
    data[1, FIRST] = np.nan
    path = write_raster(tmp_path / "a.tif", data, transform=PLACE)
    for zoom in (15, 18):
        (footprint,) = tiles(LON, LAT, zoom, 128).values()
        with rasterio.open(path) as source:
            patch = dict(read_footprints(source, [1, 2], {0: footprint}, kernel))[0]
        theirs = gdal_missing(tmp_path, FIRST, footprint, kernel)
        assert not ((missing_of(patch, footprint) != theirs) & ~border(theirs)).any()


def test_a_transparent_picture_masks_unless_its_alpha_is_ignored(tmp_path: Path) -> None:
    rgba = np.concatenate((picture(), np.where(SECOND, 0, 1).astype(np.uint8)[None]))
    Image.fromarray(rgba.transpose(1, 2, 0)).save(tmp_path / "a.png")
    for alpha, share in (("auto", SECOND.mean()), ("ignore", 0.0)):
        config = ImageryConfig(alpha=alpha, format="npy")  # type: ignore[arg-type]
        assert read_image(tmp_path / "a.png", config).nodata_share == pytest.approx(share)


def test_a_mask_hides_of_an_image_what_its_own_scene_gave_to_it() -> None:
    first, second = (Scene(name, None, ["red"], "uint8", None) for name in "ab")
    missing = np.array([[False, True, True, True]])
    image = TileImage(np.zeros((1, 1, 4), np.uint8), missing, np.array([[True, False, False, False]]), [first], None)
    valid, masked = np.array([[True, True, True, False]]), np.array([[True, False, True, True]])
    _fill(image, np.full((1, 1, 4), 9, np.uint8), _Part(np.zeros(0), valid, masked, None, None), second)
    assert image.pixels.tolist() == [[[0, 9, 9, 0]]]
    assert image.masked is not None
    assert image.masked.tolist() == [[True, False, True, False]]
    assert image.missing is not None
    assert image.missing.tolist() == [[False, False, False, True]]
    assert image.sources == ["a", "b"]
    _fill(image, np.full((1, 1, 4), 7, np.uint8), _Part(np.zeros(0), valid, None, None, None), first)
    assert image.sources == ["a", "b"]  # it gave nothing more


def test_where_a_mask_has_no_data_it_hides_nothing() -> None:
    scene = Scene("a", None, ["red"], "uint8", None, mask=Mask(Asset("m.tif", (1,)), values=(0,), bits=(2,)))
    values, valid = np.array([[[0, 0, 4, 4, 3]]], np.uint8), np.array([[True, False, True, False, True]])
    found = hidden(Patch(values, valid), scene)
    assert found is not None
    assert found.tolist() == [[True, False, True, False, False]]
    assert hidden(Patch(values, np.zeros((1, 5), bool)), scene) is None
