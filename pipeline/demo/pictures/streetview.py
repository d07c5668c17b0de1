"""Renders street views: pinhole pictures of the same world that the map and the aerial show.

Walls, roofs and cars are flat polygons drawn into a depth buffer, trees are billboards,
the ground is looked up in the rasters of `ground`. Camera coordinates: X right, Y up from
the eye, Z forward, in metres.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.demo.geo import Bounds
from pipeline.demo.pictures.billboards import draw_posts, draw_trees
from pipeline.demo.pictures.ground import (
    Ground,
    blur,
    luma,
    make_ground,
    noise_texture,
    row_factor,
    tiled,
    tree_shadows,
    trees_in,
)
from pipeline.demo.pictures.look import STYLE_IS_WATER, STYLE_TEXTURE, TOWN, Look
from pipeline.demo.pictures.pose import EYE_HEIGHT_M, PHOTO_HEIGHT, PHOTO_WIDTH, PhotoPose, camera_of
from pipeline.demo.pictures.solids import draw_solids
from pipeline.demo.pictures.view import TX, TY, VIEW_M, View, frustum
from pipeline.demo.town.block import Block
from pipeline.demo.town.world import World

# The ground is looked up in ever coarser rasters: (up to metres, pixel metres, least surface size).
_GROUND_RINGS = ((18.0, 0.07, 0.0), (70.0, 0.3, 0.0), (VIEW_M, 1.2, 3.0))
_HAZE_M = 650.0
_HAZE_RGB = np.array([198, 208, 220], dtype=np.float32)
_SHADE = 0.5  # share of light missing in cast shadows


def render_photo(world: World, pose: PhotoPose) -> NDArray[np.uint8]:
    """The picture of a pose: (384, 512, 3) uint8."""
    east, north, bearing = camera_of(pose)
    x, y = east - world.plan.region.origin[0], north - world.plan.region.origin[1]
    view = paint_photo(world.blocks_in, x, y, bearing, world.plan.seed, TOWN)
    return np.ascontiguousarray(_develop(view, pose).transpose(1, 2, 0))


def paint_photo(
    blocks_in: Callable[[Bounds], list[Block]], x: float, y: float, bearing: float, seed: int, look: Look
) -> View:
    """What a camera sees at a place (metres), looking at a bearing (radians clockwise from the y axis)."""
    forward = np.array([np.sin(bearing), np.cos(bearing)])
    right = np.array([np.cos(bearing), -np.sin(bearing)])
    shape = (PHOTO_HEIGHT, PHOTO_WIDTH)
    view = View(
        x,
        y,
        forward,
        right,
        EYE_HEIGHT_M,
        seed,
        look,
        np.empty((3, *shape), np.float32),
        np.full(shape, np.inf, np.float32),
        np.full(PHOTO_WIDTH, float(PHOTO_HEIGHT), np.float32),
    )
    blocks = blocks_in(frustum(view, VIEW_M))
    _draw_sky(view, bearing)
    _draw_ground(view, blocks)
    draw_solids(view, blocks)
    draw_trees(view, blocks)
    draw_posts(view, blocks)
    return view


# -- sky and ground -----------------------------------------------------------------------


def _draw_sky(view: View, bearing: float) -> None:
    """A gradient with clouds that stay in place as the camera turns."""
    half = PHOTO_HEIGHT // 2
    up = np.clip(TY[:half], 0, 1)[:, None]
    zenith, low = np.array([96, 142, 204], np.float32), np.array([196, 212, 228], np.float32)
    t = np.clip(up / 0.55, 0, 1) ** 0.7
    texture = noise_texture(view.seed + 3, 720, 1.6)
    azimuth = np.degrees(bearing) + np.degrees(np.arctan(TX))
    turn, more = view.look.sky
    columns = (azimuth * 2).astype(np.intp) + turn
    lines = (np.degrees(np.arctan(up[:, 0])) * 5).astype(np.intp)
    cloud = np.clip(tiled(texture, lines, columns) * 0.55 - 0.1 + more, 0, 0.85)
    for plane, high, far in zip(view.image, zenith, low, strict=True):
        sky = far + (high - far) * t
        plane[:half] = sky + (238.0 - sky) * cloud


def _patch(blocks: list[Block], bounds: Bounds, resolution: float, look: Look, min_size: float) -> Ground:
    # Whole pixels, so that the raster covers exactly its bounds.
    w = np.ceil((bounds[2] - bounds[0]) / resolution) * resolution
    h = np.ceil((bounds[3] - bounds[1]) / resolution) * resolution
    bounds = (bounds[0], bounds[1], bounds[0] + float(w), bounds[1] + float(h))
    ground = make_ground(blocks, bounds, resolution, look, min_size=min_size)
    shadow = ground.shadow.astype(np.float32)
    if look.shade:
        tree_shadows(shadow, trees_in(blocks, bounds), bounds, resolution, look)
    ground.shadow = np.asarray(shadow * 255).astype(np.uint8)
    return ground


def _draw_ground(view: View, blocks: list[Block]) -> None:
    first = PHOTO_HEIGHT // 2
    z = (view.eye / -TY[first:]).astype(np.float32)
    view.depth[first:] = z[:, None]
    lines = np.arange(first, PHOTO_HEIGHT)
    view.image[:, lines[z > VIEW_M]] = np.array([[[150]], [[160]], [[130]]])
    nearer = 0.0
    for reach, resolution, size in _GROUND_RINGS:
        rows_in = (z > nearer) & (z <= reach)
        nearer = reach
        ground = _patch(blocks, frustum(view, reach), resolution, view.look, size)
        zz = z[rows_in][:, None]
        x = view.x + zz * (view.forward[0] + TX[None, :] * view.right[0])
        y = view.y + zz * (view.forward[1] + TX[None, :] * view.right[1])
        shown = slice(int(lines[rows_in][0]), int(lines[rows_in][-1]) + 1) if rows_in.any() else slice(0, 0)
        _paint_ground(view, ground, x.astype(np.float32), y.astype(np.float32), zz, view.image[:, shown])


def _paint_ground(
    view: View, ground: Ground, x: NDArray[Any], y: NDArray[Any], z: NDArray[Any], out: NDArray[np.float32]
) -> None:
    """Colours of the ground at places x, y (metres) at depths z (rows, 1)."""
    height, width = ground.ids.shape
    left, top, scale = np.float32(ground.bounds[0]), np.float32(ground.bounds[3]), np.float32(1 / ground.resolution)
    column = np.clip(((x - left) * scale).astype(np.int32), 0, width - 1)
    at = np.clip(((top - y) * scale).astype(np.int32), 0, height - 1) * width + column
    ids = np.take(ground.ids, at).astype(np.intp)
    texture = noise_texture(view.seed, 1024, 0.55)

    def noise(per_m: float) -> NDArray[np.float32]:
        line = (y * np.float32(per_m)).astype(np.int32) & 1023
        return np.take(texture, line << 10 | (x * np.float32(per_m)).astype(np.int32) & 1023)

    # Fine grain averages out with distance.
    factor = noise(14)
    factor *= np.clip(14.0 / z, 0, 1)
    factor += np.float32(0.6) * noise(1.3)
    factor *= np.take(np.float32(0.9) * STYLE_TEXTURE[ground.style], ids)
    factor += 1.0
    factor *= row_factor(ground, ids, x, y)
    factor *= 1.0 - np.float32(view.look.shade * _SHADE / 255) * np.take(ground.shadow, at)
    water = np.take(STYLE_IS_WATER[ground.style], ids)
    # Water seen at a low angle mirrors the sky.
    mirror = np.clip(z / 60.0, 0.15, 0.7) * water if water.any() else None
    for plane, rgb, sky in zip(out, ground.rgb.T, (176, 196, 216), strict=True):
        np.multiply(np.take(rgb, ids), factor, out=plane)
        if mirror is not None:
            plane += mirror * (sky - plane)


# -- camera -------------------------------------------------------------------------------


def _develop(view: View, pose: PhotoPose) -> NDArray[np.uint8]:
    """Haze with distance, a slight blur, exposure and noise."""
    haze = np.minimum(view.depth, 900.0)
    haze[np.isinf(view.depth)] = 0.0
    haze *= -1 / _HAZE_M
    haze = 1.0 - np.exp(haze, out=haze)
    image = view.image
    for plane, far in zip(image, _HAZE_RGB, strict=True):
        plane += haze * (far - plane)
        blur(plane, 5.0)
    places = [round(abs(v) * 1e7) for v in (pose.lon, pose.lat)]
    rng = np.random.default_rng([view.seed, 402, *places, round(pose.heading_deg * 100)])
    exposure = rng.uniform(0.93, 1.08)
    noise = rng.standard_normal(image.shape[1:], dtype=np.float32)
    noise *= 2.0
    noise += np.float32(0.15 * exposure) * luma(image) + np.float32(0.5)
    image *= 0.85 * exposure
    image += noise
    return np.clip(image, 0, 255, out=image).astype(np.uint8)
