"""Pixels of one raster on footprints: as they are where the grids agree, else resampled.

There are three ways, and the tile alone decides which: a plain window where its grid is the raster's own; `resample`
where its pixels are about as large as the raster's and nothing is missing; GDAL's warper for everything else.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Hashable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeVar

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.enums import ColorInterp, Resampling
from rasterio.transform import Affine
from rasterio.vrt import WarpedVRT
from rasterio.windows import Window

from pipeline.imagery import resample, words
from pipeline.imagery.grids.check import check_colours, check_place
from pipeline.imagery.grids.turns import turns
from pipeline.imagery.jpeg import JpegTiles, open_tiles
from pipeline.imagery.nodata import Evidence, Stated, find_valid, view, weigh
from pipeline.imagery.zoom import SLACK
from schemas.errors import InputError, at_the_door
from schemas.footprint import Footprint

K = TypeVar("K", bound=Hashable)

#: Pixels a side of the blocks of footprints that are read at once: their windows overlap and share TIFF tiles.
_BLOCK = 2048
#: Bytes of the largest piece of a raster that is held.
MEMORY = 1 << 28
#: Bands of a raster; hyperspectral ones have some hundreds.
_MOST_BANDS = 4096
#: Raster pixels a pixel up to which the nearest one is taken of a window in memory.
_SPARSE = 2.0
#: Raster pixels by which GDAL's warper may miss a place.
_TOLERANCE = 0.01
#: Pixels by which the grids of footprint and raster may differ and still be one.
_SAME_GRID = 1e-3
#: Settings of GDAL: 256 MB of decoded blocks (in bytes: rasterio has its own way with it), one thread (a task has one
#: core), no code in VRTs, and patience with what a user's VRT may fetch by itself.
GDAL = {
    "GDAL_CACHEMAX": 256 << 20, "GDAL_NUM_THREADS": 1, "GDAL_VRT_ENABLE_PYTHON": "NO", "GDAL_HTTP_CONNECTTIMEOUT": 30,
    "GDAL_HTTP_TIMEOUT": 120, "GDAL_HTTP_MAX_RETRY": 3, "GDAL_HTTP_RETRY_DELAY": 1,
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class Patch:
    """A footprint's pixels from one raster."""

    pixels: NDArray[Any]  # [bands,height,width]
    valid: NDArray[np.bool_] | None  # [height,width]; None: all of them


@dataclass(frozen=True, eq=False)
class _Raster:
    """An opened raster and the channels that are wanted of it."""

    source: Any
    bands: list[int]
    resampling: str
    evidence: Evidence
    transform: resample.Affine  # where it lies, or what of it lies around the world
    tiles: JpegTiles | None = None  # a faster way to the same pixels

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype(self.source.dtypes[self.bands[0] - 1])

    @property
    def packed(self) -> bool:
        """Whether it is for `words.bilinear_words`."""
        return self.dtype == np.uint8 and self.resampling == "bilinear" and len(self.bands) in (3, 4)


def _unraised(found: Any, before: Any = sys.unraisablehook) -> None:
    """rasterio logs what GDAL remarks; where that quotes a damaged file it may be no UTF-8. Nothing is lost then, but
    Python would print a traceback."""
    if not (isinstance(found.exc_value, UnicodeDecodeError) and "rasterio" in str(found.object)):
        before(found)


sys.unraisablehook = _unraised


def check_bands(source: Any, where: str) -> None:
    """Refuse a raster that claims more bands than any has: each is asked for what it is.

    Raises:
        InputError: it is such a raster.
    """
    if source.count > _MOST_BANDS:
        raise InputError(f"{where} claims {source.count:,} bands, {_MOST_BANDS:,} are the most; it may be damaged")


def check_raster(source: Any, where: str) -> None:
    """Refuse a raster of too many bands, or that has no place on Earth, or whose values grow with darkness, or whose
    smallest readable piece does not fit in memory.

    Raises:
        InputError: it is such a raster.
    """
    check_bands(source, f"imagery {where}")
    check_place(source, where)
    check_colours(source, f"imagery {where}")
    size = max(h * w * np.dtype(t).itemsize for (h, w), t in zip(source.block_shapes, source.dtypes, strict=True))
    if source.interleaving is not None and source.interleaving.name == "pixel":
        size *= source.count
    if size > MEMORY:
        raise InputError(
            f"imagery {where} has pieces of {size / 1e6:,.0f} MB; write it in tiles with gdal_translate -of COG"
        )


def without_codec(error: Exception) -> str:
    """What helps where GDAL has no decoder for a file; empty where that was not the reason."""
    if "missing codec" not in f"{error} {error.__cause__}":
        return ""
    return "the GDAL here has no decoder for it: write it anew with gdal_translate -co COMPRESS=DEFLATE where one has"


@contextmanager
def open_raster(path: str) -> Iterator[Any]:
    """A local raster in rasterio.

    Raises:
        InputError: it cannot be read, then or in the block, or not in pieces that fit in memory.
    """
    advice = "it may be truncated: fetch it again, or give another GeoTIFF, COG or VRT"
    with at_the_door(f"imagery {path} cannot be read", advice):
        try:
            with rasterio.Env(**GDAL, GDAL_DISABLE_READDIR_ON_OPEN="TRUE"), rasterio.open(path) as source:
                check_raster(source, path)
                yield source
        except rasterio.errors.RasterioError as error:
            if other := without_codec(error):
                raise InputError(f"imagery {path} cannot be read: {other}") from None
            raise


@dataclass(frozen=True, eq=False)
class Layer:
    """Bands of one of several rasters that are read together."""

    source: Any  # opened in rasterio
    bands: list[int]  # numbers from 1, of one dtype
    stated: Stated = Stated()  # what is said of its nodata outside of it

    @property
    def grid(self) -> tuple[Any, ...]:
        """What layers that are read together have in common."""
        own = self.source
        return str(own.crs.to_wkt()), tuple(own.transform[:6]), own.width, own.height, own.dtypes[self.bands[0] - 1]


def read_footprints(
    source: Any, bands: list[int], footprints: Mapping[K, Footprint], resampling: str, stated: Stated = Stated()
) -> Iterator[tuple[K, Patch]]:
    """Pixels of each footprint, in blocks of neighbours; one that the raster does not meet is left out.

    A footprint's pixels do not depend on which others are read with it.

    Args:
        source: opened in rasterio.
        bands: band numbers from 1, of one dtype.
        footprints: by key.
        resampling: a name of rasterio's `Resampling`.
        stated: what is said of its nodata outside of it.

    Raises:
        rasterio.errors.RasterioError: the file cannot be read there.
    """
    for _, key, patch in read_together([Layer(source, bands, stated)], footprints, resampling):
        yield key, patch


def read_together(
    layers: Sequence[Layer], footprints: Mapping[K, Footprint], resampling: str
) -> Iterator[tuple[int, K, Patch]]:
    """As `read_footprints`, of several rasters of one `Layer.grid`: places and weights are reckoned once for all.

    Gives the number of the layer with each footprint and its pixels, which are those of the layer by itself.
    """
    with ExitStack() as stack:
        opened = []
        for layer in layers:
            file = open_tiles(layer.source, layer.bands)
            tiles = JpegTiles(layer.source, stack.enter_context(file)) if file else None
            opened.append((layer, weigh(layer.source, layer.bands, layer.stated), tiles))
        source = layers[0].source
        a, b, c, d, e, f = (float(v) for v in source.transform[:6])
        places = turns(str(source.crs.to_wkt()), (a, b, c, d, e, f), source.width, source.height)
        world = [
            [_Raster(layer.source, layer.bands, resampling, own, place, tiles) for layer, own, tiles in opened]
            for place in places
        ]
        for frame, keys in _blocks(footprints, world[0][0]).items():
            yield from _read_around(world, frame, {k: footprints[k] for k in keys})


def _read_around(
    world: list[list[_Raster]], frame: _Frame, footprints: dict[K, Footprint]
) -> Iterator[tuple[int, K, Patch]]:
    """Of rasters that lie on the map in several places: the rest of each footprint from the next."""
    if len(world) == 1:
        yield from _read_block(world[0], frame, footprints)
        return
    parts: dict[tuple[int, K], Patch] = {}
    for rasters in world:
        for number, key, patch in _read_block(rasters, frame, footprints):
            at = number, key
            parts[at] = _joined(parts[at], patch) if at in parts else patch
        footprints = {
            k: f
            for k, f in footprints.items()
            if any((n, k) not in parts or parts[n, k].valid is not None for n in range(len(rasters)))
        }
        if not footprints:
            break
    for (number, key), patch in parts.items():
        yield number, key, patch


def _joined(first: Patch, second: Patch) -> Patch:
    """The second where the first has no data."""
    if first.valid is None:
        return first
    valid = first.valid if second.valid is None else first.valid | second.valid
    pixels = np.where(first.valid, first.pixels, second.pixels)
    return Patch(pixels, None if second.valid is None or valid.all() else valid)


@dataclass(frozen=True)
class _Frame:
    """A block's place on the endless grid of footprints of one size: no footprint moves it."""

    crs: str
    transform: resample.Affine
    width: int
    height: int


def _blocks(footprints: Mapping[K, Footprint], raster: _Raster) -> dict[_Frame, list[K]]:
    """Footprints in square blocks of a grid through the origin of their CRS; one on no such grid stands alone."""
    blocks: dict[_Frame, list[K]] = {}
    per_pixel = len(raster.bands) * raster.dtype.itemsize
    for key, f in footprints.items():
        a, b, c, d, e, top = f.transform
        side = _BLOCK
        while side > max(f.width, f.height) and side * side * per_pixel > MEMORY // 4:
            side //= 2
        columns, rows = max(1, side // f.width), max(1, side // f.height)
        frame = _Frame(f.crs, f.transform, f.width, f.height)
        column, row = c / (a * f.width) if a else 0.5, top / (e * f.height) if e else 0.5
        if b == d == 0 and abs(column - round(column)) < 1e-6 and abs(row - round(row)) < 1e-6:
            left, up = round(column) // columns * columns, round(row) // rows * rows
            origin = left * (a * f.width), up * (e * f.height)  # the same for all of the block, to the last bit
            frame = _Frame(f.crs, (a, b, origin[0], d, e, origin[1]), columns * f.width, rows * f.height)
        blocks.setdefault(frame, []).append(key)
    return blocks


@lru_cache(maxsize=64)
def _crs(text: str) -> Any:
    return rasterio.crs.CRS.from_user_input(text)


def _read_block(
    rasters: list[_Raster], frame: _Frame, footprints: dict[K, Footprint]
) -> Iterator[tuple[int, K, Patch]]:
    raster = rasters[0]
    lines: dict[K, resample.Lines] = {}
    windows: dict[K, Window] = {}
    warped: dict[K, Footprint] = {}
    own = raster.source.crs == _crs(frame.crs)
    for key, f in footprints.items():
        if own and (window := _aligned(raster, f)) is not None:
            for number, layer in enumerate(rasters):
                if (patch := _copy(layer, window)) is not None:
                    yield number, key, patch
        else:
            warped[key] = f
    crs = frame.crs if own else str(raster.source.crs.to_wkt())
    step = resample.step(frame.crs, frame.transform, (frame.width, frame.height), crs, raster.transform)
    if (raster.resampling == "bilinear" and step <= SLACK) or (raster.resampling == "nearest" and step <= _SPARSE):
        placed = resample.place_lines(list(warped.values()), crs, raster.transform)
        for key, found in zip(list(warped), placed, strict=True):
            if found is None:
                continue
            window = _window(raster.source, found)
            if window is None:
                del warped[key]
            else:
                lines[key], windows[key] = found, window
        done: list[set[K]] = [set() for _ in rasters]
        for number, key, patch in _resample(rasters, footprints, lines, windows):
            done[number].add(key)
            yield number, key, patch
    else:
        done = [set() for _ in rasters]
    for number, layer in enumerate(rasters):
        if left := {k: f for k, f in warped.items() if k not in done[number]}:
            for key, patch in _warp(layer, frame, left, step):
                yield number, key, patch


def _aligned(raster: _Raster, footprint: Footprint) -> Window | None:
    """The raster's window that is the footprint pixel by pixel, if there is one; it may reach out of the raster."""
    a, b, c, d, e, f = raster.transform
    if any(abs(o) > 0 for o in (b, d, footprint.transform[1], footprint.transform[3])):
        return None
    x0, y0, x1, y1 = footprint.bounds()
    left, right = ((x - c) / a for x in ((x0, x1) if a > 0 else (x1, x0)))
    top, bottom = ((y - f) / e for y in ((y1, y0) if e < 0 else (y0, y1)))
    same_way = footprint.transform[0] * a > 0 and footprint.transform[4] * e > 0
    edges = (left, top, right, bottom)
    if not same_way or max(abs(v - round(v)) for v in edges) > _SAME_GRID:
        return None
    window = Window(round(left), round(top), round(right) - round(left), round(bottom) - round(top))
    return window if (window.width, window.height) == (footprint.width, footprint.height) else None


def _window(source: Any, lines: resample.Lines) -> Window | None:
    """The part of the raster that lines lie in, with two pixels around them; None outside of it."""
    x0, y0 = (max(math.floor(v) - 2, 0) for v in lines.low)
    x1, y1 = (min(math.ceil(v) + 2, n) for v, n in zip(lines.high, source.shape[::-1], strict=True))
    return Window(x0, y0, x1 - x0, y1 - y0) if x0 < x1 and y0 < y1 else None


def _copy(raster: _Raster, window: Window) -> Patch | None:
    """The raster's own pixels; what lies outside of it has no data."""
    x0, y0 = max(window.col_off, 0), max(window.row_off, 0)
    x1 = min(window.col_off + window.width, raster.source.width)
    y1 = min(window.row_off + window.height, raster.source.height)
    if x0 >= x1 or y0 >= y1:
        return None
    inner = Window(x0, y0, x1 - x0, y1 - y0)
    pixels = raster.source.read(raster.bands, window=inner)
    valid = find_valid(raster.source, raster.evidence, pixels, inner)
    if valid is not None and not valid.any():
        return None
    if (inner.width, inner.height) == (window.width, window.height):
        return Patch(pixels, valid)
    at = (slice(y0 - window.row_off, y1 - window.row_off), slice(x0 - window.col_off, x1 - window.col_off))
    whole = np.full((len(raster.bands), window.height, window.width), raster.evidence.fill, pixels.dtype)
    there = np.zeros(whole.shape[1:], bool)
    whole[(slice(None), *at)] = pixels
    there[at] = True if valid is None else valid
    return Patch(whole, there)


def _resample(
    rasters: list[_Raster], footprints: dict[K, Footprint], lines: dict[K, resample.Lines], windows: dict[K, Window]
) -> Iterator[tuple[int, K, Patch]]:
    """Those footprints whose every pixel has all its neighbours in the raster, and all with data."""
    for group in _windows(windows):
        window = _union([windows[k] for k in group])
        if max(window.width, window.height) > resample.MAX_WINDOW:
            continue
        loaded = [_load(raster, window) for raster in rasters]
        valid = [find_valid(r.source, r.evidence, own, window) for r, own in zip(rasters, loaded, strict=True)]
        origin = (window.col_off, window.row_off)
        packed = [r.packed for r in rasters]
        if rasters[0].resampling == "bilinear":  # once for all footprints of the window
            real = resample.weight_type(rasters[0].dtype)
            loaded = [p if own else p.astype(real, copy=False) for p, own in zip(loaded, packed, strict=True)]
        width, height = footprints[group[0]].width, footprints[group[0]].height
        largest = max(windows[k].width * windows[k].height for k in group)
        room = words.Room(largest, width) if any(packed) else None
        # in one piece, which costs the system half of what many cost
        sheets = [np.empty((len(group), height, width, 4), np.uint8) if own else None for own in packed]
        for place, key in enumerate(group):
            own = windows[key]
            rows = slice(own.row_off - origin[1], own.row_off - origin[1] + own.height)
            columns = slice(own.col_off - origin[0], own.col_off - origin[0] + own.width)
            whole = [i for i, v in enumerate(valid) if v is None or v[rows, columns].all()]
            if not whole:
                continue
            if not _inside(lines[key], rasters[0]):
                continue
            places = taps = None
            for number in whole:
                raster, pixels, sheet = rasters[number], loaded[number], sheets[number]
                if room is not None and sheet is not None:
                    corner = (own.col_off, own.row_off)
                    words.bilinear_words(pixels[:, rows, columns], lines[key], corner, room, sheet[place])
                    yield number, key, Patch(sheet[place].transpose(2, 0, 1)[: len(raster.bands)], None)
                    continue
                out = np.empty((len(raster.bands), height, width), raster.dtype)
                if places is None:
                    places = lines[key].positions(origin)
                if raster.resampling == "bilinear":
                    taps = taps or resample.Taps.at(places[0], places[1], window.width, raster.dtype)
                    resample.bilinear(pixels, taps, out)
                else:
                    resample.nearest(pixels, places[0], places[1], out)
                yield number, key, Patch(out, None)


def _load(raster: _Raster, window: Window) -> NDArray[Any]:
    """A window [bands,h,w]."""
    found = raster.tiles.read(window) if raster.tiles is not None and raster.packed else None
    if found is not None:
        return found.transpose(2, 0, 1)[: len(raster.bands)]
    return np.asarray(raster.source.read(raster.bands, window=window))


def _inside(lines: resample.Lines, raster: _Raster) -> bool:
    """Whether all positions have the neighbours that they need in the raster."""
    rim = 0.5 if raster.resampling == "bilinear" else 0.0
    ends = (n - rim - 1 / 256 for n in raster.source.shape[::-1])
    return min(lines.low) >= rim and all(v < end for v, end in zip(lines.high, ends, strict=True))


def _union(windows: list[Window]) -> Window:
    x0, y0 = min(w.col_off for w in windows), min(w.row_off for w in windows)
    x1, y1 = max(w.col_off + w.width for w in windows), max(w.row_off + w.height for w in windows)
    return Window(x0, y0, x1 - x0, y1 - y0)


def _windows(windows: dict[K, Window]) -> list[list[K]]:
    """All at once where they fill their common window, else one by one: few of a block are wanted."""
    if not windows:
        return []
    whole = _union(list(windows.values()))
    if whole.width * whole.height <= 2 * sum(w.width * w.height for w in windows.values()):
        return [list(windows)]
    return [[k] for k in windows]


def _warp(raster: _Raster, frame: _Frame, footprints: dict[K, Footprint], step: float) -> Iterator[tuple[K, Patch]]:
    """GDAL's warper, on the block's own grid: it works in pieces that are anchored there.

    Its low-pass filter, which takes three times as long as none, is told the true scale: it would guess one from the
    piece's bounds, and those of a turned piece are larger than it is.
    """
    scale = 1.0 if step <= SLACK or not np.isfinite(step) else 1 / step
    a, b, c, d, e, f = frame.transform
    with ExitStack() as stack:
        own = stack.enter_context(rasterio.open(view(raster.source, raster.evidence, raster.transform)))
        vrt = stack.enter_context(
            WarpedVRT(
                own, src_crs=raster.source.crs, crs=frame.crs, transform=Affine(a, b, c, d, e, f), width=frame.width,
                height=frame.height, resampling=Resampling[raster.resampling],
                add_alpha=ColorInterp.alpha not in own.colorinterp, tolerance=_TOLERANCE, warp_mem_limit=64,
                XSCALE=scale, YSCALE=scale,
            )
        )  # fmt: skip
        for key, footprint in footprints.items():
            place = (0.0, 0.0)
            if b == d == 0:
                place = (footprint.transform[2] - c) / a, (footprint.transform[5] - f) / e
            window = Window(round(place[0]), round(place[1]), footprint.width, footprint.height)
            every = vrt.read(window=window)
            pixels, valid = np.ascontiguousarray(every[:-1]), every[-1] > 0
            if pixels.dtype.kind == "f":
                valid &= np.isfinite(pixels).all(axis=0)
            if valid.any():
                pixels[:, ~valid] = raster.evidence.fill
                yield key, Patch(pixels, None if valid.all() else valid)
