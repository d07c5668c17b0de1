"""Map tiles (XYZ, WMTS) onto footprints: fetched at the zoom that fits, put side by side, and resampled if need be."""

from __future__ import annotations

import io
import math
import os
import re
from collections.abc import Hashable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from rasterio.io import MemoryFile
from rasterio.transform import Affine
from rasterio.warp import transform as warp_transform

from geometry.tiles import metres_to_tile, tile_side, tile_transforms
from pipeline.formats.pictures import in_8_bits
from pipeline.imagery.raster import Patch, read_footprints
from pipeline.imagery.scene import Tiles
from pipeline.imagery.zoom import SLACK
from pipeline.net.client import Client, Refused, looks_like_html
from schemas.errors import ConfigError, GeoshardsError, InputError
from schemas.footprint import Footprint
from storage.urls import is_web, shown

K = TypeVar("K", bound=Hashable)
Box = tuple[int, int, int, int]  # x0, y0, x1, y1 of tiles, the last two excluded

_KEY = "GEOSHARDS_XYZ_KEY"
#: Names in a template, in the spelling of XYZ, TMS and WMTS.
_NAMES = {"z": "z", "x": "x", "y": "y", "-y": "-y", "tilematrix": "z", "tilecol": "x", "tilerow": "y", "key": "key"}
#: Bytes of one tile, and map tiles of one footprint.
_MOST_BYTES = 8 << 20
_MOST_TILES = 1024
#: Footprints whose map tiles are held at once.
_BATCH = 16


def check_template(url: str) -> str:
    """The template with its names in one spelling.

    Raises:
        ConfigError: it is no http(s) URL with the place of a tile in it.
    """
    found: set[str] = set()

    def name(match: re.Match[str]) -> str:
        plain = _NAMES.get(match[1].lower())
        if plain is None:
            raise ConfigError(
                f"rs.xyz_url: {{{match[1]}}} is unknown; {{z}}, {{x}}, {{y}}, {{-y}} and {{key}} are known"
            )
        found.add(plain)
        return f"{{{plain}}}"

    plain = re.sub(r"\{([^{}]*)\}", name, url)
    if not is_web(plain) or not (found >= {"z", "x"} and found & {"y", "-y"}):
        raise ConfigError(f"rs.xyz_url={shown(url)!r} is no address of tiles: https://…/{{z}}/{{x}}/{{y}}.jpg")
    if "key" in found and not os.environ.get(_KEY):
        raise ConfigError(f"rs.xyz_url has {{key}}, but {_KEY} is not set; export {_KEY}=… (it is written nowhere)")
    return plain


def tile_url(url: str, zoom: int, x: int, y: int) -> str:
    """Address of one tile, the key filled in."""
    values = {"z": zoom, "x": x, "y": y, "-y": (1 << zoom) - 1 - y, "key": os.environ.get(_KEY, "")}
    for name, value in values.items():
        url = url.replace(f"{{{name}}}", str(value))
    return url


def read_tiles(
    tiles: Tiles, footprints: Mapping[K, Footprint], resampling: str, client: Client, pool: ThreadPoolExecutor
) -> Iterator[tuple[K, Patch, bytes | None]]:
    """Pixels u8[3,height,width] of each footprint, and the JPEG file where they are just one tile's.

    A footprint with no tile at all is left out.

    Raises:
        Unavailable: the server does not answer, now.
        InputError: an answer is no image of the size that was said.
    """
    keys = list(footprints)
    for first in range(0, len(keys), _BATCH):
        plans = {k: _cover(tiles, footprints[k]) for k in keys[first : first + _BATCH]}
        wanted = sorted({(zoom, x, y) for zoom, box in plans.values() for x, y in _places(box)})
        found_at = pool.map(lambda p: _fetch(tiles, p[0], p[1] % (1 << p[0]), p[2], client), wanted)
        files = dict(zip(wanted, found_at, strict=True))
        for key, (zoom, box) in plans.items():
            found = {place: data for place in _places(box) if (data := files[zoom, *place])}
            for patch, original in _compose(tiles, footprints[key], zoom, box, found, resampling):
                yield key, patch, original


def _places(box: Box) -> list[tuple[int, int]]:
    x0, y0, x1, y1 = box
    return [(x, y) for y in range(y0, y1) for x in range(x0, x1)]


def _compose(
    tiles: Tiles, footprint: Footprint, zoom: int, box: Box, files: Mapping[tuple[int, int], bytes], resampling: str
) -> Iterator[tuple[Patch, bytes | None]]:
    """The footprint from the files of map tiles; nothing where there are none."""
    x0, y0, x1, y1 = box
    if not files:
        return
    if len(_places(box)) == 1 and _same(tiles, footprint, zoom, x0, y0):
        data = files[x0, y0]
        image = _decode(data, tiles)
        yield _patch(image), data if (image.mode, image.format) == ("RGB", "JPEG") else None
        return
    mosaic = np.zeros((4, (y1 - y0) * tiles.size, (x1 - x0) * tiles.size), np.uint8)
    for (x, y), data in files.items():
        rows = slice((y - y0) * tiles.size, (y - y0 + 1) * tiles.size)
        columns = slice((x - x0) * tiles.size, (x - x0 + 1) * tiles.size)
        mosaic[:, rows, columns] = np.asarray(_decode(data, tiles).convert("RGBA")).transpose(2, 0, 1)
    for patch in _onto(mosaic, _transform(zoom, x0, y0, tiles.size), footprint, resampling):
        yield patch, None


def _cover(tiles: Tiles, footprint: Footprint) -> tuple[int, Box]:
    """The zoom that fits a footprint, and the range x0, y0, x1, y1 of the tiles that it meets there; columns run on
    beyond the world."""
    w, h = footprint.width, footprint.height
    rim = np.concatenate([
        np.stack((np.linspace(0, w, 17), np.full(17, side)), axis=1) for side in (0.0, h / 2, float(h))
    ])  # fmt: skip
    places = footprint.pixel_to_crs(rim)
    xy = np.stack(warp_transform(footprint.crs, "EPSG:3857", places[:, 0], places[:, 1]), axis=1)
    if not np.isfinite(xy).all():
        raise InputError(f"footprint {footprint.key} lies outside of web-mercator, where map tiles are")
    world = tile_side(0)
    xy[:, 0] -= world * np.rint((xy[:, 0] - xy[0, 0]) / world)  # across 180° it runs on
    wanted = (np.ptp(xy, axis=0) / (w, h)).max()  # metres of the projection a pixel
    zooms = range(tiles.max_zoom)
    zoom = next((z for z in zooms if tile_side(z) / tiles.size <= wanted * SLACK), tiles.max_zoom)
    column, row = metres_to_tile(xy, zoom).T
    x0, x1 = math.floor(column.min() + 1e-6), math.ceil(column.max() - 1e-6)
    y0, y1 = max(0, math.floor(row.min() + 1e-6)), min(1 << zoom, math.ceil(row.max() - 1e-6))
    if (x1 - x0) * (y1 - y0) > _MOST_TILES:
        raise InputError(f"footprint {footprint.key} needs {(x1 - x0) * (y1 - y0):,} map tiles; lower the size")
    return zoom, (x0, y0, x1, y1)


def _same(tiles: Tiles, footprint: Footprint, zoom: int, x: int, y: int) -> bool:
    """Whether the tile's grid is the footprint's."""
    if footprint.crs != "EPSG:3857" or (footprint.width, footprint.height) != (tiles.size, tiles.size):
        return False
    own = _transform(zoom, x, y, tiles.size)[:6]
    return np.allclose(footprint.transform, own, rtol=0, atol=1e-3 * abs(footprint.transform[0]) / tiles.size)


def _transform(zoom: int, x: int, y: int, size: int) -> Affine:
    return Affine(*tile_transforms(np.array([[x, y]]), zoom, size)[0].tolist())


def _fetch(tiles: Tiles, zoom: int, x: int, y: int, client: Client) -> bytes | None:
    """A tile's file; None where the server says that it has none."""
    try:
        answer = client.get(tile_url(tiles.url, zoom, x, y), max_bytes=_MOST_BYTES)
    except InputError as error:
        if isinstance(error, Refused) and error.status in (404, 410):
            return None
        if key := os.environ.get(_KEY):
            error.args = tuple(str(a).replace(key, "{key}") for a in error.args)
        raise
    return answer or None


def _decode(data: bytes, tiles: Tiles) -> Image.Image:
    try:
        image = Image.open(io.BytesIO(data), formats=("JPEG", "PNG", "WEBP"))
        if image.size != (tiles.size, tiles.size):
            raise InputError(
                f"a map tile of {shown(tiles.url)} has {image.width} × {image.height} px; set rs.xyz_size={image.width}"
            )
        image.load()
        return image if image.mode == "RGB" else in_8_bits(image)
    except GeoshardsError:
        raise
    except Exception:  # noqa: BLE001  # whatever Pillow meets in it
        what = "a web page (a login page, perhaps)" if looks_like_html(data) else "no JPEG, PNG or WebP image"
        raise InputError(f"a map tile of {shown(tiles.url)} is {what}") from None


def _patch(image: Image.Image) -> Patch:
    rgba = np.asarray(image.convert("RGBA")).transpose(2, 0, 1)
    valid = rgba[3] > 0
    return Patch(np.ascontiguousarray(rgba[:3]), None if valid.all() else valid)


def _onto(mosaic: NDArray[np.uint8], transform: Affine, footprint: Footprint, resampling: str) -> list[Patch]:
    profile: dict[str, Any] = {
        "driver": "GTiff", "dtype": "uint8", "count": 4, "crs": "EPSG:3857", "width": mosaic.shape[2],
        "height": mosaic.shape[1], "transform": transform, "photometric": "RGB", "alpha": "YES",
    }  # fmt: skip
    with MemoryFile() as memory:
        with memory.open(**profile) as target:
            target.write(mosaic)
        with memory.open() as source:
            return [patch for _, patch in read_footprints(source, [1, 2, 3], {0: footprint}, resampling)]
