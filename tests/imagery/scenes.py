"""Rasters whose pixels say where they lie, footprints on them, and Sentinel-2-like granules for a mirror."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from affine import Affine
from numpy.typing import NDArray
from pyproj import Transformer
from rasterio.shutil import copy

from geometry.tiles import lonlat_to_tile, xyz_footprint
from pipeline.imagery.stac.presets import PRESETS
from schemas.footprint import Footprint
from schemas.keys import XyzKey, chip_key

LON, LAT = 10.3, 47.2
UTM = "EPSG:32632"


def write_raster(
    path: Path,
    data: NDArray[Any],
    crs: str = UTM,
    transform: Affine | None = None,
    names: tuple[str, ...] = (),
    tags: dict[str, str] | None = None,
    mask: NDArray[Any] | None = None,
    **profile: Any,
) -> Path:
    """A GeoTIFF of data [B,h,w]."""
    path.parent.mkdir(parents=True, exist_ok=True)
    count, height, width = data.shape
    with (
        rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True),
        rasterio.open(
            path, "w", driver="GTiff", width=width, height=height, count=count, dtype=data.dtype, crs=crs,
            transform=transform or around(LON, LAT, crs, width, height, 1.0), **profile,
        ) as target,
    ):  # fmt: skip
        target.write(data)
        target.descriptions = tuple(names) or (None,) * count
        target.update_tags(**(tags or {}))
        if mask is not None:
            target.write_mask(mask)
    return path


def write_utm(path: Path, box: tuple[float, float, float, float], gsd: float, crs: str, pixels: object = None) -> Path:
    """A GeoTIFF in a UTM zone that contains the lon/lat box; ``pixels(x, y)`` gives u8[3,H,W] from CRS coordinates."""
    west, south, east, north = box
    x, y = Transformer.from_crs("EPSG:4326", crs, always_xy=True).transform(
        [west, west, east, east], [south, north, south, north]
    )
    left, top = min(x) - 20, max(y) + 20
    width, height = int((max(x) + 20 - left) / gsd), int((top - min(y) + 20) / gsd)
    if callable(pixels):
        xs, ys = np.meshgrid(left + (np.arange(width) + 0.5) * gsd, top - (np.arange(height) + 0.5) * gsd)
        data = pixels(xs, ys)
    else:
        data = np.random.default_rng(3).integers(0, 255, (3, height // 8 + 1, width // 8 + 1), dtype=np.uint8)
        data = data.repeat(8, axis=1).repeat(8, axis=2)[:, :height, :width]
    profile = {"driver": "GTiff", "width": width, "height": height, "count": 3, "dtype": "uint8", "crs": crs,
               "transform": rasterio.transform.from_origin(left, top, gsd, gsd), "photometric": "RGB"}  # fmt: skip
    with rasterio.open(path, "w", **profile) as target:
        target.write(data)
        target.update_tags(LICENSE="CC0-1.0")
    return path


def own_footprint(path: Path) -> Footprint:
    """The footprint that is a raster's own grid: its pixels are read as they are."""
    with rasterio.open(path) as source:
        crs = source.crs.to_string()
        return Footprint(chip_key(path.stem), crs, tuple(source.transform[:6]), source.width, source.height)


def write_cog(path: Path, data: NDArray[Any], quality: int = 85, **where: Any) -> Path:
    """A cloud-optimised GeoTIFF; JPEG for three bands of 8 bits, else deflate."""
    plain = write_raster(path.with_name(f"plain-{path.name}"), data, **where)
    jpeg = (
        {"compress": "JPEG", "quality": quality}
        if data.dtype == np.uint8 and len(data) == 3
        else {"compress": "DEFLATE"}
    )
    copy(plain, path, driver="COG", blocksize=256, **jpeg)
    plain.unlink()
    return path


def around(lon: float, lat: float, crs: str, width: int, height: int, gsd: float, turn: float = 0.0) -> Affine:
    """The transform of a raster whose middle lies at a place; ``turn`` in degrees."""
    x, y = Transformer.from_crs("EPSG:4326", crs, always_xy=True).transform(lon, lat)
    return (
        Affine.translation(x, y)
        @ Affine.rotation(turn)
        @ Affine.scale(gsd, -gsd)
        @ Affine.translation(-width / 2, -height / 2)
    )


def places(width: int, height: int, transform: Affine) -> NDArray[np.float64]:
    """CRS coordinates [2,h,w] of pixel centres."""
    column, row = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    a, b, c, d, e, f = transform[:6]
    return np.stack((a * column + b * row + c, d * column + e * row + f))


def ramp(width: int, height: int) -> NDArray[np.float32]:
    """Two bands: each pixel's own column and row, in pixels from the outer edge."""
    column, row = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    return np.stack((column, row)).astype(np.float32)


def expected(footprint: Footprint, crs: str, transform: Affine) -> NDArray[np.float64]:
    """Source column and row [2,h,w] of each of the footprint's pixel centres, by PROJ, pixel by pixel."""
    own = Affine(*footprint.transform)
    x, y = places(footprint.width, footprint.height, own)
    x, y = Transformer.from_crs(footprint.crs, crs, always_xy=True).transform(x, y)
    a, b, c, d, e, f = (~transform)[:6]
    return np.stack((a * x + b * y + c, d * x + e * y + f))


def tiles(lon: float, lat: float, zoom: int, size: int, count: int = 1) -> dict[tuple[int, int], Footprint]:
    """count × count tiles, the middle one at a place."""
    x, y = np.floor(lonlat_to_tile(np.array([lon, lat]), zoom)).astype(int) - count // 2
    return {
        (i, j): xyz_footprint(XyzKey(zoom, int(i), int(j), size))
        for j in range(y, y + count) for i in range(x, x + count)
    }  # fmt: skip


def texture(seed: int, shape: tuple[int, ...], low: int = 1, high: int = 255, dtype: Any = np.uint8) -> NDArray[Any]:
    """Blocks of 4 × 4 equal random pixels."""
    *rest, height, width = shape
    small = np.random.default_rng(seed).integers(low, high, (*rest, -(-height // 4), -(-width // 4)), dtype=dtype)
    return small.repeat(4, axis=-1).repeat(4, axis=-2)[..., :height, :width]


def write_granule(
    folder: Path,
    name: str,
    when: str,
    *,
    preset: str = "earth-search",
    collection: str = "sentinel-2-l2a",
    cloud: float = 1.0,
    value: int = 2000,
    side: int = 420,
    shift: tuple[float, float] = (0.0, 0.0),  # metres
    clouds: NDArray[np.bool_] | None = None,  # [side,side]: where SCL says 9
    empty: NDArray[np.bool_] | None = None,  # where there is no data
    properties: dict[str, Any] | None = None,
    leave_out: tuple[str, ...] = (),
    place: tuple[float, float] = (LON, LAT),
    nodata: int | None = 0,  # that the files name
) -> dict[str, Any]:
    """Twelve bands of 10, 20 and 60 m and the scene classes; band number n holds value + n everywhere."""
    own = PRESETS[preset]
    coarse = {"B1": 6, "B9": 6, "B2": 1, "B3": 1, "B4": 1, "B8": 1}
    base = around(*place, UTM, side, side, 10.0)
    base = Affine.translation(*shift) @ base
    files: dict[str, str] = {}
    for n, (band, key) in enumerate([*own.bands.items(), ("SCL", own.mask)], 1):
        if band in leave_out:
            continue
        step = coarse.get(band, 2)
        data = np.full((1, side // step, side // step), value + n, np.uint16)
        if band == "SCL":
            data = np.full_like(data, 4).astype(np.uint8)
            if clouds is not None:
                data[0][clouds[::step, ::step]] = 9
        if empty is not None:
            data[0][empty[::step, ::step]] = 0
        files[key] = f"{name}/{band}.tif"
        write_cog(folder / collection / files[key], data, transform=base @ Affine.scale(step), nodata=nodata)
    facts = {"eo:cloud_cover": cloud, "s2:processing_baseline": "05.09", "earthsearch:boa_offset_applied": True}
    return {"id": name, "datetime": when, "properties": facts | (properties or {}), "assets": files}


def write_manifest(folder: Path, items: list[dict[str, Any]], collection: str = "sentinel-2-l2a", **facts: Any) -> None:
    """The mirror's manifest of one collection."""
    (folder / collection).mkdir(parents=True, exist_ok=True)
    (folder / collection / "manifest.json").write_text(json.dumps({"items": items, **facts}))
