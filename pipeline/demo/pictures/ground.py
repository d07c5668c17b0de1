"""The ground as rasters: which surface lies where, its colour, and what is in shadow.

Both the aerial image and the street views look the ground up here, so they show the same.
Rasters are row 0 = north; a pixel belongs to the surface that covers its centre.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import shapely
from affine import Affine
from numpy.typing import NDArray
from rasterio.features import rasterize

from pipeline.demo.geo import Bounds, FloatArray, bounds_of, grown, overlaps, rectangle
from pipeline.demo.pictures.look import (
    CAR_SIZE_M,
    INDEX,
    STYLE_ROW_DEPTH,
    STYLE_ROW_M,
    Look,
)
from pipeline.demo.town.block import Block, Building, Surface

SHADOW_REACH_M = 60.0  # longest cast shadow


def _mapping(*rings: FloatArray) -> dict[str, Any]:
    closed = [np.concatenate([r, r[:1]]).tolist() for r in rings]
    return {"type": "Polygon", "coordinates": closed}


def _surface_shapes(block: Block) -> list[tuple[Surface, dict[str, Any], Bounds]]:
    """A block's surfaces, ready to be rasterised, made once."""
    if "surfaces" not in block.cache:
        block.cache["surfaces"] = [(s, _mapping(*s.rings), bounds_of(s.rings[0])) for s in block.surfaces]
    return block.cache["surfaces"]


def building_shapes(block: Block) -> list[tuple[Building, dict[str, Any], Bounds]]:
    """A block's buildings, ready to be rasterised, with their bounds."""
    if "buildings" not in block.cache:
        block.cache["buildings"] = [
            (k, _mapping(k.ring) if k.hole is None else _mapping(k.ring, k.hole), bounds_of(k.ring))
            for k in block.buildings
        ]
    return block.cache["buildings"]


def shadow_shapes(block: Block, look: Look) -> list[tuple[dict[str, Any], Bounds]]:
    """Cast shadows of a block's buildings and cars: the hull of footprint and moved footprint."""
    if block.cache.get("sun") is not look:
        block.cache["sun"] = look
        found = []
        for k in block.buildings:
            top = k.eaves_m + 0.6 * k.rise_m
            moved = look.shadow_per_m * top
            # Wall by wall, since the hull of an L or a courtyard would be too large.
            if len(k.ring) == 4 and k.hole is None:
                found.append(_hull(k.ring, moved))
            else:
                for ring in (k.ring,) if k.hole is None else (k.ring, k.hole):
                    for a, c in zip(ring, np.roll(ring, -1, axis=0), strict=True):
                        found.append(_hull(np.array([a, c]), moved))
        moved = look.shadow_per_m * CAR_SIZE_M[2]
        found += [_hull(car_ring(car), moved) for car in block.cars]
        block.cache["shadows"] = [(_mapping(r), bounds_of(r)) for r in found if len(r) >= 3]
    return block.cache["shadows"]


def _hull(ring: FloatArray, moved: FloatArray) -> FloatArray:
    hull = shapely.convex_hull(shapely.multipoints(np.concatenate([ring, ring + moved])))
    return np.asarray(shapely.get_coordinates(hull)[:-1])


def car_ring(car: FloatArray) -> FloatArray:
    """Footprint of a car row (x, y, direction, colour): (4, 2) metres, counter-clockwise."""
    return rectangle(car[:2], CAR_SIZE_M[0], CAR_SIZE_M[1], car[2])


@dataclass
class Ground:
    """Rasters of one box: surface ids (row 0 north), their attributes by id, shadow 0-1.

    ids indexes style, rgb (float32, tone applied) and angle. shadow is the share of
    sunlight that is missing because of buildings and trees.
    """

    bounds: Bounds
    resolution: float
    ids: NDArray[np.uint16]
    style: NDArray[np.uint8]
    rgb: NDArray[np.float32]
    angle: NDArray[np.float32]
    shadow: NDArray[np.uint8]


def rasterise(shapes: list[tuple[Any, int]], bounds: Bounds, resolution: float, dtype: str) -> NDArray[Any]:
    """Burn (geometry, value) pairs in order; pixels by their centres."""
    shape = round((bounds[3] - bounds[1]) / resolution), round((bounds[2] - bounds[0]) / resolution)
    if not shapes:
        return np.zeros(shape, dtype=dtype)
    transform = Affine(resolution, 0.0, bounds[0], 0.0, -resolution, bounds[3])
    return np.asarray(rasterize(shapes, out_shape=shape, transform=transform, dtype=dtype))


def make_ground(blocks: list[Block], bounds: Bounds, resolution: float, look: Look, *, min_size: float = 0.0) -> Ground:
    """Rasterise the ground of a box; surfaces smaller than min_size metres are left out."""
    found: list[tuple[int, int, Surface, dict[str, Any]]] = []
    for block in blocks:
        if overlaps(block.bounds, bounds):
            for surface, mapping, box in _surface_shapes(block):
                if overlaps(box, bounds) and max(box[2] - box[0], box[3] - box[1]) >= min_size:
                    found.append((surface.layer, len(found), surface, mapping))
    found.sort(key=lambda f: f[:2])
    shapes = [(mapping, n) for n, (_, _, _, mapping) in enumerate(found, start=1)]
    ids = rasterise(shapes, bounds, resolution, "uint16")
    surfaces = [f[2] for f in found]
    style = np.array([INDEX["ground"]] + [INDEX[s.style] for s in surfaces], dtype=np.uint8)
    tone = np.array([1.0] + [s.tone for s in surfaces], dtype=np.float32)
    angle = np.array([0.0] + [s.angle for s in surfaces], dtype=np.float32)
    near = [block for block in blocks if look.shade and overlaps(grown(block.bounds, SHADOW_REACH_M), bounds)]
    dark = [(m, 1) for block in near for m, box in shadow_shapes(block, look) if overlaps(box, bounds)]
    shadow = rasterise(dark, bounds, resolution, "uint8")
    return Ground(bounds, resolution, ids, style, look.styles[style] * tone[:, None], angle, shadow)


def row_factor(ground: Ground, ids: NDArray[Any], x: NDArray[Any], y: NDArray[Any]) -> NDArray[np.float32]:
    """Brightness factor of crop rows for pixels of surface ids at places x, y (metres); 1 where there are none."""
    turns = 2 * np.pi / np.maximum(STYLE_ROW_M[ground.style], 1.0)
    depth = np.take(STYLE_ROW_DEPTH[ground.style], ids)
    if not depth.any():
        return depth + 1
    phase = np.take(-np.sin(ground.angle) * turns, ids) * x
    phase += np.take(np.cos(ground.angle) * turns, ids) * y
    depth *= np.sin(phase, out=phase)
    depth += 1
    return depth


@lru_cache(maxsize=8)
def noise_texture(seed: int, size: int, slope: float) -> NDArray[np.float32]:
    """A periodic (size, size) noise of mean 0 and deviation 1, amplitude ~ 1 / frequency**slope."""
    rng = np.random.default_rng([seed, 301, size])
    white = np.fft.rfft2(rng.standard_normal((size, size)))
    fy, fx = np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size)[None, :]
    f = np.hypot(fx, fy)
    f[0, 0] = 1.0
    white /= f**slope
    white[0, 0] = 0.0
    out = np.fft.irfft2(white, s=(size, size))
    return (out / out.std()).astype(np.float32)


def tiled(texture: NDArray[np.float32], lines: NDArray[Any], columns: NDArray[Any]) -> NDArray[np.float32]:
    """Lines and columns of an endlessly repeated texture."""
    return np.take(np.take(texture, lines, axis=0, mode="wrap"), columns, axis=1, mode="wrap")


def luma(image: NDArray[np.float32]) -> NDArray[np.float32]:
    """Brightness (h, w) of an image (3, h, w); written out, since BLAS threads would fight for the cores."""
    grey = image[0] * np.float32(0.3)
    grey += image[1] * np.float32(0.59)
    grey += image[2] * np.float32(0.11)
    return grey


def blur(plane: NDArray[np.float32], middle: float) -> None:
    """The optics' point spread in place: a kernel of 1, middle, 1 both ways."""
    for view in (plane, plane.T):
        total = view[:-2] + view[2:]
        inner = view[1:-1]
        inner *= middle
        inner += total
        inner *= 1 / (middle + 2)


# -- trees -----------------------------------------------------------------------------


def trees_in(blocks: list[Block], bounds: Bounds) -> FloatArray:
    """Trees (n, 5) that touch a box or cast their shadow into it, low ones first."""
    every = np.concatenate([b.trees for b in blocks] or [np.empty((0, 5))])
    reach = 16.0
    keep = (every[:, 0] > bounds[0] - reach) & (every[:, 0] < bounds[2] + reach)
    keep &= (every[:, 1] > bounds[1] - reach) & (every[:, 1] < bounds[3] + reach)
    every = every[keep]
    return every[np.argsort(every[:, 3], kind="stable")]


@lru_cache(maxsize=4096)
def _disc(radius_q: int, fx: int, fy: int) -> NDArray[np.float32]:
    """Shadow 0-0.9 of a disc of radius_q / 4 pixels, moved by quarters of a pixel."""
    radius, half = radius_q / 4.0, half_of(radius_q)
    grid = np.arange(-half, half + 1, dtype=np.float32)
    d = np.hypot(grid[None, :] - fx / 4.0, grid[:, None] - fy / 4.0)
    return (np.clip(radius + 0.5 - d, 0, 1) * 0.9).astype(np.float32)


def stamps_in(
    x: FloatArray, y: FloatArray, radius: FloatArray, bounds: Bounds, resolution: float, shape: tuple[int, ...]
) -> tuple[NDArray[np.intp], list[tuple[int, ...]]]:
    """Round things that touch a raster: their numbers, and of each its radius, its middle's rest east and south in
    quarters of a pixel, then its column and line.
    """
    at = np.column_stack([(x - bounds[0]) / resolution - 0.5, (bounds[3] - y) / resolution - 0.5, radius / resolution])
    quarters = np.rint(at * 4).astype(np.intp)
    pixel = (quarters[:, :2] + 2) // 4
    half = half_of(quarters[:, 2:])
    touching = np.flatnonzero(((pixel + half >= 0) & (pixel - half < shape[1::-1])).all(axis=1))
    table = np.column_stack([quarters[:, 2], quarters[:, :2] - 4 * pixel, pixel])[touching]
    return touching, [tuple(row) for row in table.tolist()]


def half_of(radius_q: Any) -> Any:
    """Pixels from the middle of a stamp to its edge."""
    return 1 - -radius_q // 4


def stamp_slices(column: int, line: int, half: int, shape: tuple[int, ...]) -> tuple[slice, slice, slice, slice]:
    """Where a stamp lies in the image and which part of it does."""
    c0, l0 = max(0, column - half), max(0, line - half)
    c1, l1 = min(shape[1], column + half + 1), min(shape[0], line + half + 1)
    left, top = column - half, line - half
    return slice(l0, l1), slice(c0, c1), slice(l0 - top, l1 - top), slice(c0 - left, c1 - left)


def tree_shadows(shadow: NDArray[np.float32], trees: FloatArray, bounds: Bounds, resolution: float, look: Look) -> None:
    """Stamp the shadows of tree crowns into a shadow raster (row 0 north)."""
    reach = trees[:, 3] - trees[:, 2]
    x, y = (trees[:, axis] + look.shadow_per_m[axis] * reach for axis in range(2))
    for radius, fx, fy, column, line in stamps_in(x, y, trees[:, 2], bounds, resolution, shadow.shape)[1]:
        lines, columns, *part = stamp_slices(column, line, half_of(radius), shadow.shape)
        view = shadow[lines, columns]
        np.maximum(view, _disc(radius, fx, fy)[part[0], part[1]], out=view)
