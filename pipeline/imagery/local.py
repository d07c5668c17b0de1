"""Local rasters (GeoTIFF, COG, VRT; any CRS) read onto footprints by GDAL's warper, blocks of tiles at a time."""

from __future__ import annotations

import io
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import shapely
import simplejpeg
from numpy.typing import NDArray
from PIL import Image
from rasterio.enums import ColorInterp, Resampling
from rasterio.transform import Affine
from rasterio.vrt import WarpedVRT
from rasterio.warp import transform as warp_transform

from pipeline.config import ImageryConfig
from schemas.errors import InputError
from schemas.footprint import Footprint

#: Pixels a side of the blocks of tiles that are warped at once: one warp of 8 × 8 tiles costs less than 64 warps.
_BLOCK = 2048
#: What rs.npy holds; the stream reads these.
_DTYPES = ("uint8", "uint16", "int16", "float32")


@dataclass(frozen=True)
class Scene:
    """One raster file, as the plan sees it."""

    path: str
    name: str  # file name
    area: Any  # shapely polygon of its outline, lon/lat degrees
    bands: list[str]  # of the data bands; alpha is none
    dtype: str
    acquired: str | None  # ISO 8601


def open_scene(path: Path) -> Scene:
    """Describe one raster.

    Raises:
        InputError: it cannot be read, or has no CRS.
    """
    try:
        with rasterio.open(path) as source:
            if source.crs is None:
                raise InputError(
                    f"imagery {path} has no coordinate reference system; assign one with gdal_edit.py -a_srs"
                )
            t = np.linspace(0, 1, 17)[:-1]  # an outline is bent in lon/lat: 16 points a side
            z, o = np.zeros_like(t), np.ones_like(t)
            x = np.concatenate((t, o, 1 - t, z)) * source.width
            y = np.concatenate((z, t, o, 1 - t)) * source.height
            a, b, c, d, e, f = source.transform[:6]
            lon, lat = warp_transform(source.crs, "EPSG:4326", a * x + b * y + c, d * x + e * y + f)
            bands = _data_bands(source)
            names = [source.descriptions[b - 1] or _colour_name(source, b) for b in bands]
            dtype = source.dtypes[bands[0] - 1]
            if dtype not in _DTYPES:
                raise InputError(
                    f"imagery {path} is {dtype}; rs.npy holds {', '.join(_DTYPES)}. Convert it with gdal_translate -ot"
                )
            acquired = _acquired(source.tags().get("TIFFTAG_DATETIME"))
    except rasterio.errors.RasterioIOError as error:
        raise InputError(
            f"imagery {path} cannot be read: {error}; check that it is a complete GeoTIFF, COG or VRT"
        ) from None
    return Scene(str(path), path.name, shapely.Polygon(np.stack((lon, lat), axis=1)), names, dtype, acquired)


def _data_bands(source: Any) -> list[int]:
    return [b for b, c in zip(source.indexes, source.colorinterp, strict=True) if c != ColorInterp.alpha]


def _colour_name(source: Any, band: int) -> str:
    name = source.colorinterp[band - 1].name
    return name if name in ("red", "green", "blue", "gray") else f"band{band}"


def _acquired(text: str | None) -> str | None:
    """TIFFTAG_DATETIME (YYYY:MM:DD HH:MM:SS) as ISO 8601."""
    match = re.fullmatch(r"(\d{4}):(\d\d):(\d\d) (\d\d:\d\d:\d\d)", (text or "").strip())
    return f"{match[1]}-{match[2]}-{match[3]}T{match[4]}Z" if match else None


@dataclass(frozen=True, eq=False)
class TileImage:
    """One tile's pixels."""

    pixels: NDArray[Any]  # [bands,height,width] in the source's dtype
    nodata_share: float  # 0..1
    scene: Scene


def read_tiles(
    scenes: list[Scene], footprints: dict[tuple[int, int], Footprint], config: ImageryConfig
) -> dict[tuple[int, int], TileImage]:
    """Images of XYZ tiles of one zoom and size, by (x, y); a tile that no scene meets is left out.

    Of several scenes the one with the smallest nodata share is taken, the first named among equals.
    """
    best: dict[tuple[int, int], TileImage] = {}
    for scene in scenes:
        for tile, image in _read_scene(scene, footprints, config).items():
            if tile not in best or image.nodata_share < best[tile].nodata_share:
                best[tile] = image
    return best


def _read_scene(
    scene: Scene, footprints: dict[tuple[int, int], Footprint], config: ImageryConfig
) -> dict[tuple[int, int], TileImage]:
    blocks: dict[tuple[int, int], list[tuple[int, int]]] = {}
    side = 1
    for (x, y), footprint in footprints.items():
        side = max(1, _BLOCK // footprint.width)
        blocks.setdefault((x // side, y // side), []).append((x, y))
    images: dict[tuple[int, int], TileImage] = {}
    try:
        with rasterio.open(scene.path) as source:
            for _, tiles in sorted(blocks.items()):
                images |= _read_block(source, scene, tiles, footprints, config, side)
    except rasterio.errors.RasterioIOError as error:
        raise InputError(f"imagery {scene.path} cannot be read: {error}; the file may be truncated") from None
    return images


def _read_block(
    source: Any,
    scene: Scene,
    tiles: list[tuple[int, int]],
    footprints: dict[tuple[int, int], Footprint],
    config: ImageryConfig,
    count: int,
) -> dict[tuple[int, int], TileImage]:
    """Warp the rectangle that holds ``tiles`` and cut it.

    The warper works on the block's own grid, which is anchored to the absolute tile grid: a tile's pixels do not
    depend on which other tiles are read with it.
    """
    x0, y0 = (min(t[i] for t in tiles) // count * count for i in (0, 1))
    any_tile = tiles[0]
    first = footprints[any_tile]
    size = first.width
    a, b, c, d, e, f = first.transform
    origin = (c + (x0 - any_tile[0]) * size * a, f + (y0 - any_tile[1]) * size * e)
    masked = source.nodata is not None or any(i == ColorInterp.alpha for i in source.colorinterp)
    side = count * size
    images: dict[tuple[int, int], TileImage] = {}
    with WarpedVRT(
        source,
        crs=first.crs,
        transform=Affine(a, b, origin[0], d, e, origin[1]),
        width=side,
        height=side,
        resampling=Resampling[config.resampling],
        add_alpha=not masked,
        tolerance=0.01,  # pixels by which the warper may approximate the projection
    ) as vrt:
        bands = _data_bands(source)
        left, top = (min(t[i] for t in tiles) for i in (0, 1))
        right, bottom = (max(t[i] for t in tiles) + 1 for i in (0, 1))
        window = rasterio.windows.Window(
            (left - x0) * size, (top - y0) * size, (right - left) * size, (bottom - top) * size
        )
        if masked:
            pixels, mask = vrt.read(bands, window=window), vrt.dataset_mask(window=window)
        else:  # the added alpha band is the mask: one pass for all
            every = vrt.read([*bands, vrt.count], window=window)
            pixels, mask = every[:-1], every[-1]
    if pixels.dtype.kind == "f":  # a pixel that is no number is no data, whatever the file says
        mask = np.where(np.isfinite(pixels).all(axis=0), mask, 0)
    for x, y in tiles:
        rows, columns = (slice((v - first_) * size, (v - first_ + 1) * size) for v, first_ in ((y, top), (x, left)))
        share = float((mask[rows, columns] == 0).mean())
        if share < 1:
            images[x, y] = TileImage(pixels[:, rows, columns], share, scene)
    return images


def encode(pixels: NDArray[Any], config: ImageryConfig) -> tuple[str, bytes]:
    """Member name and bytes of one image [bands,height,width].

    Raises:
        InputError: jpg or png was asked for something else than three 8-bit bands.
    """
    rgb = pixels.dtype == np.uint8 and len(pixels) == 3
    form = config.format
    if form == "auto":
        form = "jpg" if rgb else "npy"
    if form == "npy":
        buffer = io.BytesIO()
        np.save(buffer, np.ascontiguousarray(pixels), allow_pickle=False)
        return "rs.npy", buffer.getvalue()
    if not rgb:
        raise InputError(
            f"rs.format={form} needs three 8-bit bands, the imagery has {len(pixels)} of {pixels.dtype}; "
            "use rs.format=npy"
        )
    interleaved = np.ascontiguousarray(pixels.transpose(1, 2, 0))
    if form == "jpg":
        return "rs.jpg", simplejpeg.encode_jpeg(interleaved, quality=config.quality, colorspace="RGB")
    buffer = io.BytesIO()
    Image.fromarray(interleaved).save(buffer, "PNG", compress_level=3)
    return "rs.png", buffer.getvalue()
