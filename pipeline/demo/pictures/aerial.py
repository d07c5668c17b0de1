"""Renders the world as an aerial photograph, window by window."""

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

import numpy as np
import rasterio
from affine import Affine
from numpy.typing import NDArray
from rasterio.windows import Window

from pipeline.demo.geo import UTM_CRS, Bounds, FloatArray, grown, overlaps
from pipeline.demo.pictures.ground import (
    CAR_RGB,
    STYLE_IS_WATER,
    STYLE_TEXTURE,
    TO_SUN,
    Ground,
    blur,
    building_shapes,
    car_ring,
    luma,
    make_ground,
    noise_texture,
    pixel_of,
    rasterise,
    sampled_rows,
    stamp_slices,
    tree_rgb,
    tree_shadows,
    trees_in,
)
from pipeline.demo.town.block import Block, Building
from pipeline.demo.town.plan import Plan
from pipeline.demo.town.world import World

PIXEL_M = 0.75
AERIAL_MARGIN_M = 60.0  # the image goes on this far beyond the region's box
WINDOW_PX = 1024  # windows are rendered one at a time; a multiple of the file's tiles
_TILE_PX = 512
_OVERSAMPLE = 2  # outlines are drawn finer by this factor, then averaged
_APRON_PX = 16  # rendered around each window, so that trees and blur cross its edges
_REACH_M = 60.0  # longest cast shadow
_SHADOW_DEPTH = 0.56
_SKY_TINT = np.array([0.90, 0.97, 1.12], dtype=np.float32)  # light in shadows is blue


def aerial_grid(plan: Plan) -> tuple[float, float, int, int]:
    """(left, top, width, height): the image's corner in metres from the region's origin, its pixels."""
    w, h = plan.region.size
    columns = math.ceil((w + 2 * AERIAL_MARGIN_M) / PIXEL_M)
    lines = math.ceil((h + 2 * AERIAL_MARGIN_M) / PIXEL_M)
    return -AERIAL_MARGIN_M, h + AERIAL_MARGIN_M, columns, lines


def aerial_windows(plan: Plan) -> list[tuple[int, int, int, int]]:
    """(column, row, width, height) of every window in file order."""
    _, _, columns, lines = aerial_grid(plan)
    return [
        (c, r, min(WINDOW_PX, columns - c), min(WINDOW_PX, lines - r))
        for r in range(0, lines, WINDOW_PX)
        for c in range(0, columns, WINDOW_PX)
    ]


def write_aerial(plan: Plan, path: Path, rendered: Iterable[NDArray[np.uint8]]) -> None:
    """Write rendered windows (height, width, 3), in the order of `aerial_windows`, as a GeoTIFF."""
    left, top, columns, lines = aerial_grid(plan)
    x0, y0 = plan.region.origin
    profile = {
        "driver": "GTiff", "dtype": "uint8", "count": 3, "width": columns, "height": lines, "crs": UTM_CRS,
        "transform": Affine(PIXEL_M, 0.0, x0 + left, 0.0, -PIXEL_M, y0 + top), "tiled": True, "blockxsize": _TILE_PX,
        "blockysize": _TILE_PX, "compress": "JPEG", "photometric": "YCBCR", "jpeg_quality": 90, "BIGTIFF": "IF_SAFER",
    }  # fmt: skip
    with rasterio.open(path, "w", **profile) as target:
        target.update_tags(LICENSE="CC0-1.0")
        for (c, r, w, h), image in zip(aerial_windows(plan), rendered, strict=True):
            target.write(np.ascontiguousarray(image.transpose(2, 0, 1)), window=Window(c, r, w, h))


def render_window(world: World, window: tuple[int, int, int, int]) -> NDArray[np.uint8]:
    """One window of the image: (height, width, 3) uint8."""
    left, top, _, _ = aerial_grid(world.plan)
    c, r, w, h = window
    a = _APRON_PX
    inner = (left + c * PIXEL_M, top - (r + h) * PIXEL_M, left + (c + w) * PIXEL_M, top - r * PIXEL_M)
    bounds = grown(inner, a * PIXEL_M)
    blocks = world.blocks_in(grown(bounds, _REACH_M))
    image, shadow = _scene(world, blocks, bounds, (c - a, r - a))
    trees = trees_in(blocks, bounds)
    tree_shadows(shadow, trees, bounds, PIXEL_M)
    dark = _SHADOW_DEPTH * shadow[..., None]
    image *= 1.0 - dark + dark * 0.25 * (_SKY_TINT - 1.0)
    _tree_crowns(image, trees, bounds, world.plan.seed)
    return _develop(image, world.plan.seed, window)


def _scene(
    world: World, blocks: list[Block], bounds: Bounds, corner: tuple[int, int]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Ground, roofs and cars in light, and the share of each pixel in a building's shadow."""
    fine = PIXEL_M / _OVERSAMPLE
    ground = make_ground(blocks, bounds, fine)
    seed = world.plan.seed
    base = np.take(np.clip(ground.rgb, 0, 255).astype(np.uint8), ground.ids, axis=0)
    shadow = ground.shadow
    _paint_cars(base, blocks, bounds, fine)
    roofs = _paint_roofs(base, blocks, bounds, fine)
    shadow = shadow & ~(roofs > 0)
    image = _average(base)
    coarse_shadow = _average(shadow)
    _texture(image, ground, roofs, bounds, corner, seed)
    return image, coarse_shadow


def _average(fine: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Mean of each 2 x 2 pixels."""
    total = sum((fine[n // 2 :: 2, n % 2 :: 2] for n in range(4)), np.uint16(0))
    return np.asarray(total, np.float32) / 4.0


def _paint_cars(base: NDArray[np.uint8], blocks: list[Block], bounds: Bounds, fine: float) -> None:
    shapes = []
    for block in blocks:
        if overlaps(block.bounds, bounds):
            for car in block.cars:
                ring = car_ring(car)
                closed = np.concatenate([ring, ring[:1]]).tolist()
                shapes.append(({"type": "Polygon", "coordinates": [closed]}, int(car[3]) + 1))
    cars = rasterise(shapes, bounds, fine, "uint8")
    at = np.flatnonzero(cars)
    base.reshape(-1, 3)[at] = np.array(CAR_RGB, dtype=np.uint8)[cars.ravel()[at] - 1]


def roof_planes(k: Building) -> tuple[FloatArray, FloatArray]:
    """Geometry and brightness of a roof.

    Returns (centre x, y, ridge direction x, y, half length, half width) in metres and the
    brightness of its slopes: left of the ridge, right of it, at its head, at its foot.
    """
    ring = k.ring
    if k.roof == "flat" or len(ring) != 4:
        c = ring.mean(axis=0)
        return np.array([c[0], c[1], 1.0, 0.0, 1.0, 1.0]), np.ones(4)
    c = ring.mean(axis=0)
    axis = (ring[1] + ring[2] - ring[0] - ring[3]) / 2
    length = float(np.hypot(*axis))
    d = axis / length
    n = np.array([-d[1], d[0]])
    width = abs(float((ring[2] + ring[3] - ring[0] - ring[1]) @ n)) / 2
    tilt = math.atan2(k.rise_m, width / 2)
    end_tilt = math.atan2(k.rise_m, length / 2)
    light = []
    for normal, slope in ((n, tilt), (-n, tilt), (d, end_tilt), (-d, end_tilt)):
        cosine = float(normal @ TO_SUN[:2]) * math.sin(slope) + float(TO_SUN[2]) * math.cos(slope)
        light.append(0.5 + 0.5 * max(cosine, 0.0) / float(TO_SUN[2]))
    return np.array([c[0], c[1], d[0], d[1], length / 2, width / 2]), np.array(light)


def _paint_roofs(base: NDArray[np.uint8], blocks: list[Block], bounds: Bounds, fine: float) -> NDArray[np.uint16]:
    """Paint roofs over the ground; returns the raster of building numbers (0: none)."""
    found = [(k, m) for block in blocks for k, m, box in building_shapes(block) if overlaps(box, bounds)]
    # High ones last, for footprints that overlap.
    found.sort(key=lambda f: f[0].eaves_m)
    numbers: NDArray[np.uint16] = rasterise([(m, n) for n, (_, m) in enumerate(found, 1)], bounds, fine, "uint16")
    at = np.flatnonzero(numbers)
    if not len(at):
        return numbers
    line, column = np.divmod(at, numbers.shape[1])
    planes = [roof_planes(k) for k, _ in found]
    # From the window's corner, so that single precision is enough.
    corner = (bounds[0], bounds[3], 0.0, 0.0, 0.0, 0.0)
    geometry = (np.array([p[0] for p in planes]) - corner).astype(np.float32)
    light = np.array([p[1] for p in planes], dtype=np.float32)
    rgb = np.array([k.roof_rgb for k, _ in found], dtype=np.float32)
    kind = np.array([{"flat": 0, "gabled": 1, "pyramidal": 2}[k.roof] for k, _ in found])
    n = numbers.ravel()[at].astype(np.intp) - 1
    g = geometry[n]
    dx = ((column + 0.5) * fine).astype(np.float32) - g[:, 0]
    dy = ((line + 0.5) * -fine).astype(np.float32) - g[:, 1]
    along = dx * g[:, 2] + dy * g[:, 3]
    across = dy * g[:, 2] - dx * g[:, 3]
    side = np.where(across > 0, 0, 1)
    end = (kind[n] == 2) & (np.abs(along) / g[:, 4] > np.abs(across) / g[:, 5])
    side = np.where(end, np.where(along > 0, 2, 3), side)
    value = light[n, side]
    # Courses of tiles, the ridge, and the parapet's light on flat roofs.
    value = value + np.where(kind[n] > 0, 0.035 * np.sin(across * 6.0), 0.0)
    value = np.where((kind[n] == 1) & (np.abs(across) < 0.3), 1.12, value)
    base.reshape(-1, 3)[at] = np.clip(rgb[n] * value[:, None], 0, 255)
    return numbers


def _tiled(texture: NDArray[np.float32], corner: tuple[int, int], shape: tuple[int, int]) -> NDArray[np.float32]:
    """A window of an endlessly repeated texture; corner is (column, row)."""
    size = texture.shape[0]
    lines = (np.arange(shape[0]) + corner[1]) % size
    columns = (np.arange(shape[1]) + corner[0]) % size
    return texture[lines[:, None], columns[None, :]]


def _texture(
    image: NDArray[np.float32],
    ground: Ground,
    roofs: NDArray[np.uint16],
    bounds: Bounds,
    corner: tuple[int, int],
    seed: int,
) -> None:
    """Noise at several scales by material, rows in the fields, stains on roofs."""
    shape = image.shape[:2]
    ids = ground.ids[::2, ::2]
    style = ground.style[ids]
    rough = _tiled(noise_texture(seed, 1000, 0.55), corner, shape)
    broad = _tiled(noise_texture(seed + 1, 1440, 1.5), corner, shape)
    roof = roofs[::2, ::2] > 0
    strength = np.where(roof, np.float32(0.045), STYLE_TEXTURE[style])
    factor = 1.0 + strength * (0.55 * rough + 0.8 * broad)
    x = bounds[0] + (np.arange(shape[1], dtype=np.float32) + 0.5) * PIXEL_M
    y = bounds[3] - (np.arange(shape[0], dtype=np.float32) + 0.5) * PIXEL_M
    grid_x, grid_y = np.broadcast_arrays(x[None, :], y[:, None])
    striped = sampled_rows(ground, ids, grid_x, grid_y)
    factor *= np.where(roof, 1.0, striped)
    factor += np.where(STYLE_IS_WATER[style] & ~roof, 0.05 * broad, 0.0).astype(np.float32)
    image *= factor[..., None]
    # Green varies in hue over tens of metres: dry and lush.
    green = ~roof & (image[..., 1] > image[..., 0] * 1.02) & ~STYLE_IS_WATER[style]
    dry = np.where(green, 6.0 * broad, 0.0).astype(np.float32)
    image[..., 0] += dry
    image[..., 2] += 0.3 * dry


# -- trees --------------------------------------------------------------------------------


@lru_cache(maxsize=8192)
def _crown(radius_q: int, fx: int, fy: int, variant: int, seed: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """(coverage, brightness) of a tree crown lit from the sun's side, with clumps of leaves."""
    radius = radius_q / 4.0
    half = math.ceil(radius + 1)
    grid = np.arange(-half, half + 1, dtype=np.float32)
    x, y = grid[None, :] - fx / 4.0, grid[:, None] - fy / 4.0
    rng = np.random.default_rng([seed, 302, variant])
    angle = np.arctan2(y, x)
    wobble = sum(rng.uniform(0.02, 0.09) * np.sin(k * angle + rng.uniform(0, 6.3)) for k in (2, 3, 5))
    d = np.hypot(x, y) / (1.0 + wobble)
    cover = np.clip(radius + 0.5 - d, 0, 1).astype(np.float32)
    # A dome: brightness follows its slope against the sun; image rows run south.
    rise = np.clip(d / max(radius, 0.5), 0, 1)
    lit = (x * TO_SUN[0] - y * TO_SUN[1]) / max(radius, 0.5)
    clump = noise_texture(seed + 2, 256, 0.7)
    oy, ox = rng.integers(0, 200, 2)
    light = 0.92 + 0.42 * lit - 0.16 * rise**2 + 0.13 * clump[oy : oy + len(grid), ox : ox + len(grid)]
    return cover, np.clip(light, 0.35, 1.6).astype(np.float32)


def _tree_crowns(image: NDArray[np.float32], trees: FloatArray, bounds: Bounds, seed: int) -> None:
    colours = tree_rgb(trees[:, 4]).astype(np.float32)
    for n, (x, y, radius, _, hue) in enumerate(trees.tolist()):
        (column, fx), (line, fy) = pixel_of((x - bounds[0]) / PIXEL_M - 0.5), pixel_of((bounds[3] - y) / PIXEL_M - 0.5)
        cover, light = _crown(round(radius / PIXEL_M * 4), fx, fy, int(hue * 997) % 6, seed)
        part = stamp_slices(column, line, cover.shape[0] // 2, image.shape)
        if part is None:
            continue
        view = image[part[0], part[1]]
        target = light[part[2], part[3], None] * colours[n]
        view += cover[part[2], part[3], None] * (target - view)


# -- camera -------------------------------------------------------------------------------


def _develop(image: NDArray[np.float32], seed: int, window: tuple[int, int, int, int]) -> NDArray[np.uint8]:
    """Blur, atmosphere, exposure and sensor noise; cuts the apron off."""
    a = _APRON_PX
    blur(image, 4.0)
    image = image[a:-a, a:-a]
    c, r, w, h = window
    rng = np.random.default_rng([seed, 303, c, r])
    noise = rng.standard_normal((h, w), dtype=np.float32) * np.float32(2.2)
    # Haze lifts the shadows, a warm gain is late summer.
    grey = luma(image) * np.float32(0.3)
    for band, (gain, lift) in enumerate(((0.97, 9.5), (0.95, 11.5), (0.89, 14.5))):
        plane = image[..., band]
        plane *= np.float32(0.7)
        plane += grey
        plane *= np.float32(gain)
        plane += noise + np.float32(lift)
    image[..., 0] += 0.55 * np.roll(noise, 1, axis=1)
    image[..., 2] -= 0.64 * np.roll(noise, 1, axis=0)
    return np.clip(image, 0, 255, out=image).astype(np.uint8)
