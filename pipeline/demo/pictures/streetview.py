"""Renders street views: pinhole pictures of the same world that the map and the aerial show.

Walls, roofs and cars are flat polygons drawn into a depth buffer, trees are billboards,
the ground is looked up in the rasters of `ground`. Camera coordinates: X right, Y up from
the eye, Z forward, in metres.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.demo.geo import Bounds, FloatArray, bounds_of, rectangle
from pipeline.demo.pictures.facades import Wall, facade
from pipeline.demo.pictures.ground import (
    CAR_RGB,
    CAR_SIZE_M,
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
    sampled_rows,
    tree_rgb,
    tree_shadows,
    trees_in,
)
from pipeline.demo.pictures.pose import EYE_HEIGHT_M, FOCAL_PX, PHOTO_HEIGHT, PHOTO_WIDTH, PhotoPose, camera_of
from pipeline.demo.town.block import Block, Building
from pipeline.demo.town.world import World

VIEW_M = 240.0  # nothing stands beyond this distance
# The ground is looked up in ever coarser rasters: (up to metres, pixel metres, least surface size).
_GROUND_RINGS = ((18.0, 0.07, 0.0), (70.0, 0.3, 0.0), (VIEW_M, 1.2, 3.0))
_TREE_VIEW_M = 150.0
_MAX_TREES = 170
_CAR_VIEW_M = 70.0
_CLIP_M = 0.4
_HAZE_M = 650.0
_HAZE_RGB = np.array([198, 208, 220], dtype=np.float32)
_SHADE = 0.5  # share of light missing in cast shadows

_TX = ((np.arange(PHOTO_WIDTH) + 0.5 - PHOTO_WIDTH / 2) / FOCAL_PX).astype(np.float32)
_TY = ((PHOTO_HEIGHT / 2 - np.arange(PHOTO_HEIGHT) - 0.5) / FOCAL_PX).astype(np.float32)


@dataclass
class _View:
    """A picture in the making: colours, depth, and the top row of what is hidden by columns."""

    x: float
    y: float
    forward: FloatArray
    right: FloatArray
    eye: float
    seed: int
    image: NDArray[np.float32]
    depth: NDArray[np.float32]
    covered: NDArray[np.float32]

    def to_camera(self, xy: FloatArray) -> FloatArray:
        """(n, 2) metres -> (n, 2) of X and Z."""
        d = xy - (self.x, self.y)
        return np.column_stack([d @ self.right, d @ self.forward])


@dataclass(frozen=True)
class _Slope:
    """A flat convex roof polygon: (n, 3) camera X, Y, Z."""

    corners: FloatArray
    rgb: FloatArray


_Face = tuple[float, "Wall | _Slope"]  # its distance from the eye


def render_photo(world: World, pose: PhotoPose) -> NDArray[np.uint8]:
    """The picture of a pose: (384, 512, 3) uint8."""
    east, north, bearing = camera_of(pose)
    x, y = east - world.plan.region.origin[0], north - world.plan.region.origin[1]
    forward = np.array([np.sin(bearing), np.cos(bearing)])
    right = np.array([np.cos(bearing), -np.sin(bearing)])
    shape = (PHOTO_HEIGHT, PHOTO_WIDTH)
    view = _View(
        x,
        y,
        forward,
        right,
        EYE_HEIGHT_M,
        world.plan.seed,
        np.empty((*shape, 3), np.float32),
        np.full(shape, np.inf, np.float32),
        np.full(PHOTO_WIDTH, float(PHOTO_HEIGHT), np.float32),
    )
    blocks = world.blocks_in(_frustum(view, VIEW_M))
    _draw_sky(view, bearing)
    _draw_ground(view, blocks)
    _draw_solids(view, blocks)
    _draw_trees(view, blocks)
    return _develop(view, pose)


def _frustum(view: _View, reach: float) -> Bounds:
    corners = [np.array([view.x, view.y])]
    for side in (-1.0, 0.0, 1.0):
        corners.append(corners[0] + reach * (view.forward + side * view.right * PHOTO_WIDTH / 2 / FOCAL_PX))
    return bounds_of(np.array(corners), 1.0)


# -- sky and ground -----------------------------------------------------------------------


def _draw_sky(view: _View, bearing: float) -> None:
    """A gradient with clouds that stay in place as the camera turns."""
    half = PHOTO_HEIGHT // 2
    up = np.clip(_TY[:half], 0, 1)[:, None]
    zenith, low = np.array([96, 142, 204], np.float32), np.array([196, 212, 228], np.float32)
    t = (up / 0.55)[..., None] ** 0.7
    sky = low + (zenith - low) * np.clip(t, 0, 1)
    texture = noise_texture(view.seed + 3, 720, 1.6)
    azimuth = np.degrees(bearing) + np.degrees(np.arctan(_TX))
    columns = (azimuth * 2).astype(np.intp) % 720
    lines = (np.degrees(np.arctan(up[:, 0])) * 5).astype(np.intp) % 720
    cloud = np.clip(texture[lines[:, None], columns[None, :]] * 0.55 - 0.1, 0, 0.85)[..., None]
    view.image[:half] = sky * (1 - cloud) + 238.0 * cloud


def _patch(blocks: list[Block], bounds: Bounds, resolution: float, min_size: float) -> Ground:
    # Whole pixels, so that the raster covers exactly its bounds.
    w = np.ceil((bounds[2] - bounds[0]) / resolution) * resolution
    h = np.ceil((bounds[3] - bounds[1]) / resolution) * resolution
    bounds = (bounds[0], bounds[1], bounds[0] + float(w), bounds[1] + float(h))
    ground = make_ground(blocks, bounds, resolution, min_size=min_size)
    shadow = ground.shadow.astype(np.float32)
    tree_shadows(shadow, trees_in(blocks, bounds), bounds, resolution)
    ground.shadow = np.asarray(shadow * 255).astype(np.uint8)
    return ground


def _draw_ground(view: _View, blocks: list[Block]) -> None:
    first = PHOTO_HEIGHT // 2
    z = (view.eye / -_TY[first:]).astype(np.float32)
    view.depth[first:] = z[:, None]
    lines = np.arange(first, PHOTO_HEIGHT)
    view.image[lines[z > VIEW_M]] = (150, 160, 130)
    nearer = 0.0
    for reach, resolution, size in _GROUND_RINGS:
        rows_in = (z > nearer) & (z <= reach)
        nearer = reach
        ground = _patch(blocks, _frustum(view, reach), resolution, size)
        zz = z[rows_in][:, None]
        x = view.x + zz * (view.forward[0] + _TX[None, :] * view.right[0])
        y = view.y + zz * (view.forward[1] + _TX[None, :] * view.right[1])
        view.image[lines[rows_in]] = _ground_colour(view, ground, x, y, zz)


def _ground_colour(
    view: _View, ground: Ground, x: FloatArray, y: FloatArray, z: NDArray[np.float32]
) -> NDArray[np.float32]:
    column = ((x - ground.bounds[0]) / ground.resolution).astype(np.intp)
    line = ((ground.bounds[3] - y) / ground.resolution).astype(np.intp)
    line, column = np.clip(line, 0, ground.ids.shape[0] - 1), np.clip(column, 0, ground.ids.shape[1] - 1)
    ids = ground.ids[line, column]
    style = ground.style[ids]
    texture = noise_texture(view.seed, 1000, 0.55)
    fine = texture[(y * 14).astype(np.intp) % 1000, (x * 14).astype(np.intp) % 1000]
    broad = texture[(y * 1.3).astype(np.intp) % 1000, (x * 1.3).astype(np.intp) % 1000]
    # Fine grain averages out with distance.
    grain = fine * np.clip(14.0 / z, 0, 1) + 0.6 * broad
    factor = 1.0 + 0.9 * STYLE_TEXTURE[style] * grain
    factor *= sampled_rows(ground, ids, x.astype(np.float32), y.astype(np.float32))
    factor *= 1.0 - _SHADE * (ground.shadow[line, column] / np.float32(255))
    colour = ground.rgb[ids] * factor[..., None]
    water = STYLE_IS_WATER[style]
    if water.any():
        # Water seen at a low angle mirrors the sky.
        mirror = np.clip(z / 60.0, 0.15, 0.7) * np.ones_like(factor)
        colour[water] += (mirror[..., None] * (np.array([176, 196, 216]) - colour))[water]
    return np.asarray(colour, dtype=np.float32)


# -- solids -------------------------------------------------------------------------------


def _draw_solids(view: _View, blocks: list[Block]) -> None:
    """Everything with walls, the nearest first."""
    faces: list[_Face] = []
    number = 0
    for block in blocks:
        for building, _, box in building_shapes(block):
            number += 1
            if _may_show(view, box):
                faces += _building_faces(view, building, number)
        for car in block.cars:
            if np.hypot(car[0] - view.x, car[1] - view.y) < _CAR_VIEW_M:
                faces += _car_faces(view, car)
    faces.sort(key=lambda f: f[0])
    for _, face in faces:
        if isinstance(face, Wall):
            _draw_wall(view, face)
        else:
            _draw_slope(view, face)


def _may_show(view: _View, box: Bounds) -> bool:
    """Whether a bounding box reaches into the field of view."""
    cx, cy = (box[0] + box[2]) / 2 - view.x, (box[1] + box[3]) / 2 - view.y
    radius = float(np.hypot(box[2] - box[0], box[3] - box[1])) / 2
    z = cx * view.forward[0] + cy * view.forward[1]
    side = abs(cx * view.right[0] + cy * view.right[1])
    return bool(-radius < z < VIEW_M and side < (z + radius) * PHOTO_WIDTH / 2 / FOCAL_PX + radius * 1.3)


def _building_faces(view: _View, k: Building, number: int) -> list[_Face]:
    found: list[_Face] = []
    peak = k.rise_m if k.roof == "gabled" else 0.0
    for ring in (k.ring,) if k.hole is None else (k.ring, k.hole[::-1]):
        found += _walls(view, ring, k.eaves_m, k.wall_rgb, k.style, peak=peak, levels=k.levels, number=number * 8)
    return found if k.roof == "flat" else found + _slopes(view, _roof(k), k.roof_rgb)


def _walls(
    view: _View,
    ring: FloatArray,
    high: float,
    rgb: tuple[int, int, int],
    style: str,
    *,
    peak: float = 0.0,
    levels: int = 1,
    number: int = 0,
) -> list[_Face]:
    """The upright faces of a ring that the camera may see; every second one has the peak."""
    camera = view.to_camera(ring)
    camera_end = np.roll(camera, -1, axis=0)
    d = np.roll(ring, -1, axis=0) - ring
    outward = np.column_stack([d[:, 1], -d[:, 0]]) / np.maximum(np.hypot(d[:, 0], d[:, 1]), 1e-6)[:, None]
    seen = (((view.x, view.y) - ring) * outward).sum(axis=1) > 0.01
    seen &= np.maximum(camera[:, 1], camera_end[:, 1]) >= _CLIP_M
    light = 0.66 + 0.5 * np.maximum(0.0, outward @ TO_SUN[:2])
    found: list[_Face] = []
    for e in np.flatnonzero(seen).tolist():
        a, b = camera[e], camera_end[e]
        wall = Wall(a, b, high, peak * (e % 2), float(light[e]), rgb, style, levels, number + e)
        found.append((_distance(a, b), wall))
    return found


def _distance(a: FloatArray, b: FloatArray) -> float:
    """Distance from the eye to a segment."""
    d = b - a
    t = np.clip(-(a @ d) / max(float(d @ d), 1e-9), 0, 1)
    return float(np.hypot(*(a + d * t)))


def _roof(k: Building) -> list[FloatArray]:
    """The slopes of a roof with four corners: (n, 3) metres each, the eaves first."""
    p = _at_height(k.ring, k.eaves_m)
    top = k.eaves_m + k.rise_m
    if k.roof == "gabled":
        r0, r1 = _at_height((k.ring[[3, 1]] + k.ring[[0, 2]]) / 2, top)
        return [np.array([p[0], p[1], r1, r0]), np.array([p[2], p[3], r0, r1])]
    tip = np.append(k.ring.mean(axis=0), top)
    return [np.array([p[e - 1], p[e], tip]) for e in range(4)]


def _at_height(ring: FloatArray, high: float) -> FloatArray:
    return np.column_stack([ring, np.full(len(ring), high)])


def _slopes(view: _View, polygons: list[FloatArray], rgb: tuple[int, int, int]) -> list[_Face]:
    """Flat polygons in (n, 3) metres, counter-clockwise from above, that the camera may see."""
    found: list[_Face] = []
    for corners in polygons:
        normal = np.cross(corners[1] - corners[0], corners[2] - corners[0])
        normal /= np.linalg.norm(normal)
        xz = view.to_camera(corners[:, :2])
        if ((view.x, view.y, view.eye) - corners[0]) @ normal > 0 and xz[:, 1].min() >= _CLIP_M:
            light = 0.62 + 0.46 * max(0.0, float(normal @ TO_SUN))
            camera = np.column_stack([xz[:, 0], corners[:, 2] - view.eye, xz[:, 1]])
            found.append((_distance(xz[0], xz[1]) + 0.01, _Slope(camera, np.array(rgb) * light)))
    return found


def _car_faces(view: _View, car: FloatArray) -> list[_Face]:
    """A body and, within its outline, a shorter cabin."""
    length, width, high = CAR_SIZE_M
    d = np.array([np.cos(car[2]), np.sin(car[2])])
    cabin = rectangle(car[:2] - 0.06 * length * d, 0.52 * length, 0.86 * width, car[2])
    rgb = CAR_RGB[int(car[3])]
    found: list[_Face] = []
    for ring, top, style in ((car_ring(car), 0.88, "car"), (cabin, high, "cabin")):
        found += _walls(view, ring, top, rgb, style) + _slopes(view, [_at_height(ring, top)], rgb)
    return found


def _clipped(a: FloatArray, b: FloatArray) -> tuple[FloatArray, FloatArray]:
    """The part of a segment in front of the camera."""
    if a[1] < _CLIP_M:
        a = a + (b - a) * (_CLIP_M - a[1]) / (b[1] - a[1])
    elif b[1] < _CLIP_M:
        b = b + (a - b) * (_CLIP_M - b[1]) / (a[1] - b[1])
    return a, b


def _draw_wall(view: _View, wall: Wall) -> None:
    a, b = _clipped(wall.a, wall.b)
    centre = PHOTO_WIDTH / 2
    ends = sorted((centre + FOCAL_PX * a[0] / a[1], centre + FOCAL_PX * b[0] / b[1]))
    c0, c1 = max(0, int(np.ceil(ends[0] - 0.5))), min(PHOTO_WIDTH, int(np.ceil(ends[1] - 0.5)))
    if c0 >= c1:
        return
    tx = _TX[c0:c1]
    d = wall.b - wall.a
    s = np.clip((tx * wall.a[1] - wall.a[0]) / (d[0] - tx * d[1]), 0, 1)
    z = np.maximum(wall.a[1] + s * d[1], _CLIP_M).astype(np.float32)
    high = wall.height + wall.peak * (1.0 - np.abs(2.0 * s - 1.0))
    top = PHOTO_HEIGHT / 2 - FOCAL_PX * (high - view.eye) / z
    if (top >= view.covered[c0:c1]).all():
        return
    bottom = PHOTO_HEIGHT / 2 + FOCAL_PX * view.eye / z
    r0 = max(0, int(np.floor(top.min())))
    r1 = min(PHOTO_HEIGHT, int(np.ceil(min(bottom.max(), view.covered[c0:c1].max() + 1))))
    if r0 < r1:
        h = view.eye + _TY[r0:r1, None] * z[None, :]
        depth = view.depth[r0:r1, c0:c1]
        seen = (h >= -0.05) & (h <= high[None, :]) & (z[None, :] < depth + 0.02)
        colour = facade(wall, s * float(np.hypot(*d)), h, view.seed)
        view.image[r0:r1, c0:c1][seen] = colour[seen]
        depth[seen] = np.broadcast_to(z, seen.shape)[seen]
    np.minimum(view.covered[c0:c1], top, out=view.covered[c0:c1])


def _draw_slope(view: _View, slope: _Slope) -> None:
    p = slope.corners
    column = PHOTO_WIDTH / 2 + FOCAL_PX * p[:, 0] / p[:, 2]
    line = PHOTO_HEIGHT / 2 - FOCAL_PX * p[:, 1] / p[:, 2]
    c0, c1 = max(0, int(np.floor(column.min()))), min(PHOTO_WIDTH, int(np.ceil(column.max())))
    r0, r1 = max(0, int(np.floor(line.min()))), min(PHOTO_HEIGHT, int(np.ceil(line.max())))
    if c0 >= c1 or r0 >= r1 or r0 >= view.covered[c0:c1].max():
        return
    normal = np.cross(p[1] - p[0], p[2] - p[0])
    offset = float(normal @ p[0])
    if abs(offset) < 1e-9:
        return
    tx, ty = _TX[None, c0:c1], _TY[r0:r1, None]
    with np.errstate(divide="ignore"):
        z = (offset / (normal[0] * tx + normal[1] * ty + normal[2])).astype(np.float32)
    px, py = np.arange(c0, c1)[None, :] + 0.5, np.arange(r0, r1)[:, None] + 0.5
    depth = view.depth[r0:r1, c0:c1]
    seen = (z > _CLIP_M) & (z < depth + 0.02)
    next_column, next_line = np.roll(column, -1), np.roll(line, -1)
    turn = np.sign((column * next_line - next_column * line).sum())
    for c, r, dc, dr in zip(column, line, next_column - column, next_line - line, strict=True):
        seen &= turn * (dc * (py - r) - dr * (px - c)) >= 0
    if seen.any():
        up = (ty * z)[seen]
        courses = 1.0 + 0.05 * np.sin(up * 16.0) * np.clip(40.0 / z[seen], 0, 1)
        view.image[r0:r1, c0:c1][seen] = slope.rgb[None, :] * courses[:, None]
        depth[seen] = z[seen]


# -- trees --------------------------------------------------------------------------------


def _draw_trees(view: _View, blocks: list[Block]) -> None:
    trees = trees_in(blocks, _frustum(view, _TREE_VIEW_M))
    xz = view.to_camera(trees[:, :2])
    far = np.hypot(xz[:, 0], xz[:, 1])
    shown = (xz[:, 1] > 1.0) & (far < _TREE_VIEW_M)
    shown &= np.abs(xz[:, 0]) < xz[:, 1] * PHOTO_WIDTH / 2 / FOCAL_PX + trees[:, 2] + 1
    order = np.flatnonzero(shown)
    order = order[np.argsort(far[order], kind="stable")][:_MAX_TREES]
    colours = tree_rgb(trees[:, 4])
    for n in order:
        _draw_tree(view, xz[n], trees[n], colours[n])


def _draw_tree(view: _View, at: FloatArray, tree: FloatArray, rgb: FloatArray) -> None:
    x, z = float(at[0]), float(at[1])
    radius, height, hue = float(tree[2]), float(tree[3]), float(tree[4])
    scale = FOCAL_PX / z
    c = PHOTO_WIDTH / 2 + x * scale
    half = radius * 1.15 * scale
    top, base = PHOTO_HEIGHT / 2 - (height - view.eye) * scale, PHOTO_HEIGHT / 2 + view.eye * scale
    c0, c1 = max(0, int(c - half)), min(PHOTO_WIDTH, int(c + half) + 1)
    r0, r1 = max(0, int(top)), min(PHOTO_HEIGHT, int(base) + 1)
    if c0 >= c1 or r0 >= r1 or top >= view.covered[c0:c1].max():
        return
    px = (np.arange(c0, c1, dtype=np.float32)[None, :] + 0.5 - c) / scale
    py = view.eye - (np.arange(r0, r1, dtype=np.float32)[:, None] + 0.5 - PHOTO_HEIGHT / 2) / scale
    up = (height - 1.4) / 2
    texture = noise_texture(view.seed + 2, 256, 0.7)
    salt = int(hue * 5000)
    q = 34.0
    leaves = texture[(py * q).astype(np.intp) % 256, ((px * q).astype(np.intp) + salt) % 256]
    clumps = texture[((py * 2.5).astype(np.intp) + salt) % 256, ((px * 2.5).astype(np.intp) + 2 * salt) % 256]
    vertical = (py - (height - up)) / up
    width = radius * (np.clip(1.15 - 0.5 * (vertical + 1), 0.1, 1) if hue >= 0.9 else 1.0)
    d = np.hypot(px / width, vertical)
    boughs = texture[((py * 8).astype(np.intp) + 3 * salt) % 256, ((px * 8).astype(np.intp) + salt) % 256]
    crown = d + 0.06 * leaves + 0.06 * boughs + 0.05 * clumps < 1.0
    trunk = (np.abs(px) < 0.05 * radius + 0.08) & (py < height - up) & (py >= 0)
    depth = view.depth[r0:r1, c0:c1]
    # The ground's depth at the trunk's foot is the tree's own: give way a little.
    visible = z < depth + 0.25
    image = view.image[r0:r1, c0:c1]
    trunk &= visible
    image[trunk] = (84, 68, 54)
    crown &= visible
    side = float(view.right @ TO_SUN[:2])
    light = 0.86 + 0.22 * vertical + 0.2 * side * px / radius + 0.09 * leaves + 0.10 * boughs + 0.08 * clumps
    image[crown] = np.clip(light, 0.35, 1.5)[crown][:, None] * rgb
    depth[crown | trunk] = z


# -- camera -------------------------------------------------------------------------------


def _develop(view: _View, pose: PhotoPose) -> NDArray[np.uint8]:
    """Haze with distance, a slight blur, exposure and noise."""
    depth = np.where(np.isfinite(view.depth), view.depth, 0.0)
    haze = (1.0 - np.exp(-np.minimum(depth, 900.0) / _HAZE_M))[..., None].astype(np.float32)
    image = view.image
    image += haze * (_HAZE_RGB - image)
    blur(image, 5.0)
    image *= np.float32(0.85)
    image += np.float32(0.15 / 0.85) * luma(image)[..., None]
    places = [round(abs(v) * 1e7) for v in (pose.lon, pose.lat)]
    rng = np.random.default_rng([view.seed, 402, *places, round(pose.heading_deg * 100)])
    exposure = float(rng.uniform(0.93, 1.08))
    noise = rng.standard_normal(image.shape[:2], dtype=np.float32)
    image *= np.float32(exposure)
    image += (2.0 * noise + 0.5)[..., None]
    return np.clip(image, 0, 255, out=image).astype(np.uint8)
