"""JPEG tiles of a GeoTIFF decoded by libjpeg-turbo, in a third of the time that GDAL takes, where both agree.

One decoder has the whole of a file, whichever windows are read of it: ours where it gives GDAL's colours, else GDAL's.
How halved chroma is doubled is left open by the standard: libjpeg-turbo and libjpeg 6b interpolate, libjpeg 7 and
later, which the wheels of rasterio bring, scale it as frequencies, and differ by tens of levels at sharp edges. A tile
in the file is a JPEG stream without its tables, which the tag JPEGTables holds once for all; the two are joined without
the end of the one and the start of the other (Adobe Photoshop TIFF Technical Note 2, 2002).
"""

from __future__ import annotations

import os
import warnings
from functools import lru_cache, partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, BinaryIO

import numpy as np
import rasterio
import simplejpeg
from numpy.typing import NDArray
from rasterio.enums import Compression, PhotometricInterp
from rasterio.windows import Window

from schemas.errors import InputError

Pixels = NDArray[np.uint8]
#: Bytes of decoded tiles that are kept: the windows of neighbours share them.
_KEPT = 96 << 20
#: Bytes of one tile's stream, and pixels a side of a tile.
_MOST_BYTES = 16 << 20
_MOST_SIDE = 4096
#: Levels by which two decoders may differ and see the same colours: they round.
_SAME = 2


class JpegTiles:
    """The tiles of one opened file."""

    def __init__(self, source: Any, file: BinaryIO) -> None:
        self._side = height, width = source.block_shapes[0]
        self._tile = lru_cache(_KEPT // (4 * height * width))(partial(_read_tile, source, file))

    def read(self, window: Window) -> Pixels | None:
        """A window inside the raster, u8[h,w,4], the fourth channel without meaning; None: a tile is not there.

        Raises:
            InputError: a tile is damaged.
        """
        height, width = self._side
        out = np.empty((window.height, window.width, 4), np.uint8)
        bottom, right = window.row_off + window.height, window.col_off + window.width
        for row in range(window.row_off // height, -(-bottom // height)):
            for column in range(window.col_off // width, -(-right // width)):
                tile = self._tile(column, row)
                if tile is None:
                    return None
                y0, x0 = max(row * height, window.row_off), max(column * width, window.col_off)
                y1, x1 = min((row + 1) * height, bottom), min((column + 1) * width, right)
                own = tile[y0 - row * height : y1 - row * height, x0 - column * width : x1 - column * width]
                out[y0 - window.row_off : y1 - window.row_off, x0 - window.col_off : x1 - window.col_off] = own
        return out


def _stream(source: Any, file: BinaryIO, column: int, row: int) -> bytes | None:
    """A tile as a JPEG file; None: it is not there."""
    offset, size = (source.get_tag_item(f"BLOCK_{what}_{column}_{row}", "TIFF", bidx=1) for what in ("OFFSET", "SIZE"))
    if not offset or not size or int(size) > _MOST_BYTES:
        return None
    stream = os.pread(file.fileno(), int(size), int(offset))
    tables = bytes.fromhex(source.get_tag_item("JPEGTABLES", "TIFF", bidx=1) or "")
    return tables[:-2] + stream[2:] if tables else stream


def _read_tile(source: Any, file: BinaryIO, column: int, row: int) -> Pixels | None:
    stream = _stream(source, file, column, row)
    if stream is None:
        return None
    try:
        found = simplejpeg.decode_jpeg_header(stream)[:2]
        if found != source.block_shapes[0]:  # before anything is allocated for it
            raise ValueError(f"it has {found}, not {source.block_shapes[0]} px")
        return np.asarray(simplejpeg.decode_jpeg(stream, colorspace="RGBX"), np.uint8)
    except Exception as error:  # noqa: BLE001  # whatever the decoder says
        raise InputError(f"imagery {file.name}: its JPEG tile {column}, {row} is damaged: {error}") from None


def open_tiles(source: Any, bands: list[int]) -> BinaryIO | None:
    """The file of a local GeoTIFF whose bands 1 to 3 are JPEG tiles that GDAL decodes to the same colours; None for
    every other raster."""
    fits = (
        source.driver in ("GTiff", "COG") and bands == [1, 2, 3] and source.count == 3 and source.dtypes[0] == "uint8"
        and source.compression == Compression.jpeg and source.photometric == PhotometricInterp.ycbcr
        and source.block_shapes[0][1] < source.width  # tiles: a strip is as wide as the raster
        and max(source.block_shapes[0]) <= _MOST_SIDE and Path(source.name).is_file()
    )  # fmt: skip
    if not fits:
        return None
    path = Path(source.name)
    with path.open("rb") as file:
        agree = _agree(source, file)
    return path.open("rb") if agree else None


def _agree(source: Any, file: BinaryIO) -> bool:
    """Whether both decoders see the same colours in a file, by its first tile and by how they double chroma."""
    stream = _stream(source, file, 0, 0)
    try:
        if stream is None or not (simplejpeg.decode_jpeg_header(stream)[3] == "444" or doubles_alike()):
            return False
        own = simplejpeg.decode_jpeg(stream, colorspace="RGB")
    except ValueError:
        return False
    height, width = (min(own.shape[i], n) for i, n in enumerate(source.shape))
    gdal = source.read([1, 2, 3], window=Window(0, 0, width, height)).transpose(1, 2, 0)
    return bool(np.abs(own[:height, :width].astype(np.int16) - gdal).max() <= _SAME)


@lru_cache(maxsize=1)
def doubles_alike() -> bool:
    """Whether GDAL's libjpeg doubles halved chroma as ours does; by a picture that is all edges of colour."""
    colours = np.random.default_rng(0).integers(0, 256, (3, 8, 8), dtype=np.uint8).repeat(4, axis=1).repeat(4, axis=2)
    profile = {"driver": "GTiff", "width": 32, "height": 32, "count": 3, "dtype": "uint8", "tiled": True,
               "blockxsize": 32, "blockysize": 32, "compress": "JPEG", "photometric": "YCBCR"}  # fmt: skip
    with TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
        path = Path(folder) / "edges.tif"
        with rasterio.open(path, "w", **profile) as target:
            target.write(colours)
        with rasterio.open(path) as source, path.open("rb") as file:
            own = _read_tile(source, file, 0, 0)
            return own is not None and bool(
                np.abs(own[..., :3].astype(np.int16) - source.read().transpose(1, 2, 0)).max() <= _SAME
            )
