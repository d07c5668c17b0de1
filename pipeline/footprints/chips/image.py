"""A chip's image: its size, bands and georeference for the plan; its bytes for the sample.

JPEG and PNG chips of three 8-bit bands keep their bytes. Everything else is decoded and written anew.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import rasterio
from numpy.typing import NDArray
from PIL import ExifTags, Image
from rasterio.windows import Window

from pipeline.footprints.chips.georeference import Affine
from pipeline.imagery.config import ImageryConfig
from pipeline.imagery.encode import encode
from pipeline.imagery.grids.check import check_colours
from pipeline.imagery.local import band_names
from pipeline.imagery.nodata import Stated, check_palette, find_valid, settle_alpha, weigh
from pipeline.imagery.raster import GDAL, check_bands
from pipeline.imagery.scene import DTYPES
from pipeline.times import tag_time
from schemas.bands import RGB, channels
from schemas.errors import InputError, at_the_door

#: Pixels of the largest chip, which is what the trainers decode at most.
MAX_PIXELS = 1 << 26
_ENDINGS = {"JPEG": "jpg", "PNG": "png"}
#: No listing of a folder with a million chips at every open.
_GDAL = GDAL | {"GDAL_DISABLE_READDIR_ON_OPEN": "TRUE"}
#: First bytes of a format, and its driver: by itself GDAL might take the file for any format, and follow its links.
_MAGIC = {
    b"II*\0": "GTiff",
    b"MM\0*": "GTiff",
    b"II+\0": "GTiff",
    b"MM\0+": "GTiff",
    b"\xff\xd8\xff": "JPEG",
    b"\x89PNG": "PNG",
}


@dataclass(frozen=True)
class ImageHeader:
    """What a chip's image says before it is decoded."""

    width: int
    height: int
    bands: tuple[str, ...]  # as the sample will hold them
    dtype: str
    crs: str | None
    transform: Affine | None
    time: str | None = None  # ISO 8601, when it was taken


@dataclass(frozen=True, eq=False)
class ChipImage:
    """What a sample holds of it."""

    member: str  # rs.jpg | rs.png | rs.npy
    data: bytes
    valid: NDArray[np.bool_] | None  # [height,width]; None: all

    @property
    def nodata_share(self) -> float:
        """Of the pixels, 0..1."""
        return 0.0 if self.valid is None else 1.0 - float(self.valid.mean())


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """The file in rasterio."""
    driver, _ = _form(path)
    if driver is None:
        raise InputError("it is no TIFF, JPEG or PNG")
    with warnings.catch_warnings(), rasterio.Env(**_GDAL):
        warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
        with rasterio.open(path, driver=driver) as source:
            check_bands(source, "it")
            yield source


def _form(path: Path) -> tuple[str | None, bool]:
    """GDAL's driver of a file, and whether Pillow reads it as it is: a JPEG, or a PNG of at most 8 bits a sample."""
    with path.open("rb") as file:
        head = file.read(26)
    driver = next((name for magic, name in _MAGIC.items() if head.startswith(magic)), None)
    return driver, driver == "JPEG" or (driver == "PNG" and len(head) == 26 and head[24] <= 8)


@at_the_door("it cannot be read")
def read_header(path: Path, sidecars: bool, config: ImageryConfig = ImageryConfig()) -> ImageHeader:
    """Size, bands and georeference of one image; ``sidecars`` says that files beside it may hold a georeference.

    An alpha band is one of its bands where ``rs.alpha`` says so, or by what it holds.

    Raises:
        InputError: it is no image, too large, or of a type that no sample holds.
    """
    if not _form(path)[1]:
        with _opened(path) as source:
            header = _raster_header(source, config)
    else:
        with _picture(path, "ignore") as image:
            header = ImageHeader(image.width, image.height, RGB, "uint8", None, None, _exif_time(image))
        if sidecars:
            with _opened(path) as source:
                crs, transform = _place(source)
            header = replace(header, crs=crs, transform=transform)
    if header.width * header.height > MAX_PIXELS:
        raise InputError(
            f"{header.width} × {header.height} px are no chip, {MAX_PIXELS:,} pixels are the most; cut it, or build "
            "tiles of it with `geoshards shards`"
        )
    return header


@contextmanager
def _picture(file: Path | io.BytesIO, large: Literal["ignore", "error"]) -> Iterator[Image.Image]:
    """The file in Pillow; what to do where it is large."""
    with warnings.catch_warnings():
        warnings.simplefilter(large, Image.DecompressionBombWarning)
        with Image.open(file, formats=tuple(_ENDINGS)) as image:
            yield image


def _exif_time(image: Image.Image) -> str | None:
    """When a picture was taken, by its EXIF under the names that GDAL gives them."""
    exif = image.getexif()
    own = {**exif, **exif.get_ifd(ExifTags.IFD.Exif)}
    named = {f"EXIF_{ExifTags.TAGS[k]}": str(v) for k, v in own.items() if k in ExifTags.TAGS}
    return tag_time(named)


def _raster_header(source: Any, config: ImageryConfig) -> ImageHeader:
    names = band_names(source, settle_alpha(source, config.alpha))
    check_palette(source, list(names), config.resampling, "it")
    check_colours(source, "it")
    channels(list(names.values()), "it")
    dtypes = {source.dtypes[b - 1] for b in names}
    if len(dtypes) != 1 or not dtypes <= set(DTYPES):
        found = ", ".join(sorted(dtypes)) or "alpha alone"
        raise InputError(
            f"its bands are {found}; samples hold one of {', '.join(DTYPES)}. Convert it with gdal_translate"
        )
    time = tag_time(source.tags(), source.tags(ns="IMAGERY"))
    return ImageHeader(source.width, source.height, tuple(names.values()), dtypes.pop(), *_place(source), time)


def _place(source: Any) -> tuple[str | None, Affine | None]:
    """CRS and transform of an opened raster; the identity is no georeference."""
    a, b, c, d, e, f = (float(v) for v in source.transform[:6])
    transform = None if source.transform.is_identity else (a, b, c, d, e, f)
    if source.crs is None:
        return None, transform
    code = source.crs.to_epsg(confidence_threshold=100)
    return (f"EPSG:{code}" if code else str(source.crs.to_wkt())), transform


@at_the_door("it cannot be read")
def read_image(path: Path, config: ImageryConfig) -> ChipImage:
    """The image as a member: its own bytes where they need no change.

    Raises:
        InputError: it cannot be decoded to its end.
    """
    if not _form(path)[1]:
        with _opened(path) as source:
            alpha = settle_alpha(source, config.alpha)
            bands = list(band_names(source, alpha))
            pixels, window = source.read(bands), Window(0, 0, source.width, source.height)
            evidence = weigh(source, bands, Stated(config.nodata, alpha=alpha))
            valid = find_valid(source, evidence, pixels, window)
    else:
        data = path.read_bytes()
        with _picture(io.BytesIO(data), "error") as image:
            image.load()
        ending = _ENDINGS[str(image.format)]
        own, value = _unchanged(data, image) and config.format in ("auto", ending), config.nodata
        if own and (value is None or value == "none"):
            return ChipImage(f"rs.{ending}", data, None)
        rgba = np.asarray(image.convert("RGBA"))
        pixels, valid = rgba[..., :3].transpose(2, 0, 1), None
        if config.alpha != "ignore":
            valid = rgba[..., 3] > 0
        if value is not None and value != "none":
            there = (pixels != value).any(axis=0)
            valid = there if valid is None else valid & there
        valid = None if valid is None or valid.all() else valid
        if own:
            return ChipImage(f"rs.{ending}", data, valid)
        if config.format == "auto":  # what was decoded is kept to the bit
            config = replace(config, format="png")
    member, encoded = encode(pixels, config)
    return ChipImage(member, encoded, valid)


def _unchanged(data: bytes, image: Image.Image) -> bool:
    """Whether a picture is what ``rs.jpg`` or ``rs.png`` should be: three 8-bit bands, nothing transparent."""
    if image.mode != "RGB" or "transparency" in image.info:
        return False
    return image.format == "JPEG" or data[24] == 8
