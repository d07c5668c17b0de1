"""Renders the world as an aerial photograph, window by window."""

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from affine import Affine
from numpy.typing import NDArray
from rasterio.windows import Window

from pipeline.demo.geo import UTM_CRS, Bounds, FloatArray, grown, overlaps
from pipeline.demo.pictures.ground import (
    SHADOW_REACH_M,
    Ground,
    blur,
    building_shapes,
    car_ring,
    half_of,
    luma,
    make_ground,
    noise_texture,
    rasterise,
    row_factor,
    stamp_slices,
    stamps_in,
    tiled,
    tree_shadows,
    trees_in,
)
from pipeline.demo.pictures.look import STYLE_IS_WATER, STYLE_TEXTURE, TOWN, Look
from pipeline.demo.town.block import Block, Building
from pipeline.demo.town.plan import Plan
from pipeline.demo.town.world import World

PIXEL_M = 0.75
AERIAL_MARGIN_M = 60.0  # the image goes on this far beyond the region's box
WINDOW_PX = 512  # windows are rendered one at a time; a multiple of the file's tiles
_TILE_PX = 512
_OVERSAMPLE = 2  # outlines are drawn finer by this factor, then averaged
APRON_PX = 16  # rendered around each window, so that trees and blur cross its edges
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
    a = APRON_PX
    inner = (left + c * PIXEL_M, top - (r + h) * PIXEL_M, left + (c + w) * PIXEL_M, top - r * PIXEL_M)
    bounds = grown(inner, a * PIXEL_M)
    blocks = world.blocks_in(grown(bounds, SHADOW_REACH_M))
    image = paint_aerial(blocks, bounds, PIXEL_M, (c - a, r - a), world.plan.seed, TOWN)
    return _develop(image, world.plan.seed, window).transpose(1, 2, 0)


def paint_aerial(
    blocks: list[Block], bounds: Bounds, pixel: float, corner: tuple[int, int], seed: int, look: Look
) -> NDArray[np.float32]:
    """Blocks from above, in light and shadow: (3, h, w) in 0-255 for bounds of h x w whole pixels of so many metres.

    corner is the column and row of the first pixel in the texture of the ground, so that parts fit together.
    """
    image, shadow = _scene(blocks, bounds, pixel, corner, seed, look)
    trees = trees_in(blocks, bounds)
    if look.shade:
        tree_shadows(shadow, trees, bounds, pixel, look)
        for plane, tint in zip(image, _SKY_TINT, strict=True):
            plane *= 1.0 - shadow * (look.shade * _SHADOW_DEPTH * (1.0 - 0.25 * (tint - 1.0)))
    _tree_crowns(image, trees, bounds, pixel, seed, look)
    return image


def _scene(
    blocks: list[Block], bounds: Bounds, pixel: float, corner: tuple[int, int], seed: int, look: Look
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Ground, roofs and cars in light (3, h, w), and the share of each pixel in a building's shadow."""
    fine = pixel / _OVERSAMPLE
    ground = make_ground(blocks, bounds, fine, look)
    base = np.take(_packed(ground.rgb.T), ground.ids)
    _paint_cars(base, blocks, bounds, fine, look)
    roofs = _paint_roofs(base, blocks, bounds, fine, look)
    shadow = ground.shadow * (roofs == 0)
    image = _averaged(base)
    pairs = shadow[::2] + shadow[1::2]
    _texture(image, ground, roofs, bounds, pixel, corner, seed)
    return image, np.asarray((pairs[:, ::2] + pairs[:, 1::2]) / np.float32(4))


def _packed(rgb: NDArray[Any]) -> NDArray[np.uint32]:
    """Colours (3, n) as one number each: a pixel is looked up and painted at once."""
    red, green, blue = np.clip(rgb, 0, 255).astype(np.uint32)
    return np.asarray(red | green << 8 | blue << 16)


def _averaged(packed: NDArray[np.uint32]) -> NDArray[np.float32]:
    """Mean of each 2 x 2 pixels: (3, h, w)."""
    height, width = packed.shape[0] // 2, packed.shape[1] // 2
    planes = np.empty((3, height, width), np.float32)
    for line in range(0, height, 64):  # what fits into a cache
        part = packed[2 * line : 2 * line + 128]
        red_blue, green = part & 0xFF00FF, part >> 8 & 0xFF  # red and blue leave each other room for a sum
        for many, into in ((red_blue, (0, 2)), (green, (1,))):
            pairs = many[::2] + many[1::2]
            total = pairs[:, ::2] + pairs[:, 1::2]
            for band in into:
                planes[band, line : line + 64] = total >> 8 * band & 0xFFFF if len(into) > 1 else total
    planes /= 4
    return planes


def _paint_cars(base: NDArray[np.uint32], blocks: list[Block], bounds: Bounds, fine: float, look: Look) -> None:
    shapes = []
    for block in blocks:
        if overlaps(block.bounds, bounds):
            for car in block.cars:
                ring = car_ring(car)
                closed = np.concatenate([ring, ring[:1]]).tolist()
                shapes.append(({"type": "Polygon", "coordinates": [closed]}, int(car[3]) + 1))
    cars = rasterise(shapes, bounds, fine, "uint8")
    at = np.flatnonzero(cars)
    base.ravel()[at] = _packed(look.cars.T)[cars.ravel()[at] - 1]


def roof_planes(k: Building, to_sun: FloatArray) -> tuple[FloatArray, FloatArray]:
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
        cosine = float(normal @ to_sun[:2]) * math.sin(slope) + float(to_sun[2]) * math.cos(slope)
        light.append(0.5 + 0.5 * max(cosine, 0.0) / float(to_sun[2]))
    return np.array([c[0], c[1], d[0], d[1], length / 2, width / 2]), np.array(light)


def _paint_roofs(
    base: NDArray[np.uint32], blocks: list[Block], bounds: Bounds, fine: float, look: Look
) -> NDArray[np.uint16]:
    """Paint roofs over the ground; returns the raster of building numbers (0: none)."""
    found = [(k, m) for block in blocks for k, m, box in building_shapes(block) if overlaps(box, bounds)]
    # High ones last, for footprints that overlap.
    found.sort(key=lambda f: f[0].eaves_m)
    numbers: NDArray[np.uint16] = rasterise([(m, n) for n, (_, m) in enumerate(found, 1)], bounds, fine, "uint16")
    at = np.flatnonzero(numbers)
    if not len(at):
        return numbers
    line, column = np.divmod(at, numbers.shape[1])
    planes = [roof_planes(k, look.to_sun) for k, _ in found]
    x, y, east, north, half_length, half_width = np.array([p[0] for p in planes]).T
    kind = np.array([k.roof for k, _ in found])
    n = numbers.ravel()[at].astype(np.intp) - 1

    def of(values: NDArray[Any]) -> NDArray[np.float32]:
        return np.take(values.astype(np.float32), n)

    # Metres from the window's corner, so that single precision is enough.
    dx, dy = ((column + 0.5) * fine).astype(np.float32), ((line + 0.5) * -fine).astype(np.float32)
    dx -= of(x - bounds[0])
    dy -= of(y - bounds[3])
    d, e = of(east), of(north)
    along, across = dx * d + dy * e, dy * d - dx * e
    far = np.abs(across)
    # Left or right of the ridge, or at an end: only pyramids have slopes there.
    ends = of(np.where(kind == "pyramidal", half_width / half_length, 0.0))
    side = np.where(np.abs(along) * ends > far, np.where(along > 0, 2, 3), np.where(across > 0, 0, 1))
    value = np.take(np.array([p[1] for p in planes], dtype=np.float32), n * 4 + side)
    # Courses of tiles, the ridge, and the parapet's light on flat roofs.
    courses = np.array([k.material == "tiles" for k, _ in found]) & (kind != "flat")
    value += of(np.where(courses, 0.035, 0.0)) * np.sin(across * np.float32(6.0))
    seams = np.array([k.material == "metal" for k, _ in found])
    if seams.any():
        value -= of(np.where(seams, 0.24, 0.0)) * (np.sin(along * np.float32(2.1)) > 0.4)
    value[far < of(np.where(kind == "gabled", 0.3, 0.0))] = 1.12
    base.ravel()[at] = _packed(np.stack([of(c) * value for c in look.roof(np.array([k.roof_rgb for k, _ in found])).T]))
    return numbers


def _texture(
    image: NDArray[np.float32],
    ground: Ground,
    roofs: NDArray[np.uint16],
    bounds: Bounds,
    pixel: float,
    corner: tuple[int, int],
    seed: int,
) -> None:
    """Noise at several scales by material, rows in the fields, stains on roofs."""
    lines, columns = np.arange(image.shape[1]) + corner[1], np.arange(image.shape[2]) + corner[0]
    ids = ground.ids[::2, ::2].astype(np.intp)
    rough = tiled(noise_texture(seed, 1024, 0.55), lines, columns)
    broad = tiled(noise_texture(seed + 1, 1440, 1.5), lines, columns)
    roof = roofs[::2, ::2] > 0
    water = np.take(STYLE_IS_WATER[ground.style], ids) & ~roof
    strength = np.take(STYLE_TEXTURE[ground.style], ids)
    strength[roof] = 0.045
    x = bounds[0] + (np.arange(len(columns), dtype=np.float32)[None, :] + 0.5) * pixel
    y = bounds[3] - (np.arange(len(lines), dtype=np.float32)[:, None] + 0.5) * pixel
    factor = row_factor(ground, ids, x.astype(np.float32), y.astype(np.float32))
    factor[roof] = 1.0
    rough *= 0.55
    rough += 0.8 * broad
    rough *= strength
    rough += 1.0
    factor *= rough
    factor += 0.05 * broad * water
    image *= factor
    # Green varies in hue over tens of metres: dry and lush.
    green = ~roof & ~water & (image[1] > image[0] * 1.02)
    broad *= green
    image[0] += 6.0 * broad
    image[2] += 1.8 * broad


# -- trees --------------------------------------------------------------------------------


@lru_cache(maxsize=8192)
def _crown(
    radius_q: int, fx: int, fy: int, variant: int, seed: int, sun: tuple[float, float]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """(share of the ground that shows, brightness) of a tree crown lit from the sun's side, with clumps of leaves."""
    radius, half = radius_q / 4.0, half_of(radius_q)
    grid = np.arange(-half, half + 1, dtype=np.float32)
    x, y = grid[None, :] - fx / 4.0, grid[:, None] - fy / 4.0
    rng = np.random.default_rng([seed, 302, variant])
    angle = np.arctan2(y, x)
    wobble = sum(rng.uniform(0.02, 0.09) * np.sin(k * angle + rng.uniform(0, 6.3)) for k in (2, 3, 5))
    d = np.hypot(x, y) / (1.0 + wobble)
    cover = np.clip(radius + 0.5 - d, 0, 1)
    # A dome: brightness follows its slope against the sun; image rows run south.
    rise = np.clip(d / max(radius, 0.5), 0, 1)
    lit = (x * sun[0] - y * sun[1]) / max(radius, 0.5)
    clump = noise_texture(seed + 2, 256, 0.7)
    oy, ox = rng.integers(0, 200, 2)
    light = 0.92 + 0.42 * lit - 0.16 * rise**2 + 0.13 * clump[oy : oy + len(grid), ox : ox + len(grid)]
    return (1 - cover).astype(np.float32), (cover * np.clip(light, 0.35, 1.6)).astype(np.float32)


def _tree_crowns(
    image: NDArray[np.float32], trees: FloatArray, bounds: Bounds, pixel: float, seed: int, look: Look
) -> None:
    shape = image.shape[1:]
    shown, stamps = stamps_in(trees[:, 0], trees[:, 1], trees[:, 2], bounds, pixel, shape)
    hues = trees[shown, 4]
    sun = look.to_sun[0], look.to_sun[1]
    colours = look.crown(hues).astype(np.float32)[:, :, None, None]
    variants = ((hues * 997).astype(np.intp) % 6).tolist()
    for colour, variant, (radius, fx, fy, column, line) in zip(colours, variants, stamps, strict=True):
        bare, light = _crown(radius, fx, fy, variant, seed, sun)
        lines, columns, *part = stamp_slices(column, line, half_of(radius), shape)
        view = image[:, lines, columns]
        view *= bare[part[0], part[1]]
        view += light[part[0], part[1]] * colour


# -- camera -------------------------------------------------------------------------------


def _develop(image: NDArray[np.float32], seed: int, window: tuple[int, int, int, int]) -> NDArray[np.uint8]:
    """Blur, atmosphere, exposure and sensor noise; cuts the apron off."""
    c, r, w, h = window
    rng = np.random.default_rng([seed, 303, c, r])
    noise = rng.standard_normal((h, w), dtype=np.float32)
    noise *= 2.2
    image = np.ascontiguousarray(image[:, APRON_PX - 1 : 1 - APRON_PX, APRON_PX - 1 : 1 - APRON_PX])
    for plane in image:
        blur(plane, 4.0)
    image = image[:, 1:-1, 1:-1]
    # Haze lifts the shadows, a warm gain is late summer.
    grey = luma(image)
    grey *= 0.3
    out = np.empty(image.shape, np.uint8)
    grain = (0.55 * np.roll(noise, 1, axis=1), 0.0, -0.64 * np.roll(noise, 1, axis=0))
    for band, (gain, lift) in enumerate(((0.97, 9.5), (0.95, 11.5), (0.89, 14.5))):
        plane = image[band]
        plane *= 0.7
        plane += grey
        plane *= gain
        plane += noise
        plane += grain[band] + np.float32(lift)
        out[band] = np.clip(plane, 0, 255, out=plane)
    return out
