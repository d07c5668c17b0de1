"""Renders street views: pinhole pictures of the same world that the map and the aerial show.

Walls, roofs and cars are flat polygons drawn into a depth buffer, trees are billboards,
the ground is looked up in the rasters of `ground`. Camera coordinates: X right, Y up from
the eye, Z forward, in metres.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.demo.geo import Bounds, FloatArray, bounds_of, rectangle
from pipeline.demo.pictures.facades import Face, facade
from pipeline.demo.pictures.ground import (
    CAR_RGB,
    CAR_SIZE_M,
    STYLE_IS_WATER,
    STYLE_TEXTURE,
    TO_SUN,
    Ground,
    blur,
    car_ring,
    luma,
    make_ground,
    noise_texture,
    row_factor,
    tiled,
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
        """(..., 2) metres -> (..., 2) of X and Z."""
        dx, dy = xy[..., 0] - self.x, xy[..., 1] - self.y
        (a, b), (c, d) = self.right.tolist(), self.forward.tolist()
        return np.stack([dx * a + dy * b, dx * c + dy * d], axis=-1)


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
        np.empty((3, *shape), np.float32),
        np.full(shape, np.inf, np.float32),
        np.full(PHOTO_WIDTH, float(PHOTO_HEIGHT), np.float32),
    )
    blocks = world.blocks_in(_frustum(view, VIEW_M))
    _draw_sky(view, bearing)
    _draw_ground(view, blocks)
    _draw_solids(view, blocks)
    _draw_trees(view, blocks)
    return np.ascontiguousarray(_develop(view, pose).transpose(1, 2, 0))


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
    t = np.clip(up / 0.55, 0, 1) ** 0.7
    texture = noise_texture(view.seed + 3, 720, 1.6)
    azimuth = np.degrees(bearing) + np.degrees(np.arctan(_TX))
    columns = (azimuth * 2).astype(np.intp)
    lines = (np.degrees(np.arctan(up[:, 0])) * 5).astype(np.intp)
    cloud = np.clip(tiled(texture, lines, columns) * 0.55 - 0.1, 0, 0.85)
    for plane, high, far in zip(view.image, zenith, low, strict=True):
        sky = far + (high - far) * t
        plane[:half] = sky + (238.0 - sky) * cloud


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
    view.image[:, lines[z > VIEW_M]] = np.array([[[150]], [[160]], [[130]]])
    nearer = 0.0
    for reach, resolution, size in _GROUND_RINGS:
        rows_in = (z > nearer) & (z <= reach)
        nearer = reach
        ground = _patch(blocks, _frustum(view, reach), resolution, size)
        zz = z[rows_in][:, None]
        x = view.x + zz * (view.forward[0] + _TX[None, :] * view.right[0])
        y = view.y + zz * (view.forward[1] + _TX[None, :] * view.right[1])
        shown = slice(int(lines[rows_in][0]), int(lines[rows_in][-1]) + 1) if rows_in.any() else slice(0, 0)
        _paint_ground(view, ground, x.astype(np.float32), y.astype(np.float32), zz, view.image[:, shown])


def _paint_ground(
    view: _View, ground: Ground, x: NDArray[Any], y: NDArray[Any], z: NDArray[Any], out: NDArray[np.float32]
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
    factor *= 1.0 - np.float32(_SHADE / 255) * np.take(ground.shadow, at)
    water = np.take(STYLE_IS_WATER[ground.style], ids)
    # Water seen at a low angle mirrors the sky.
    mirror = np.clip(z / 60.0, 0.15, 0.7) * water if water.any() else None
    for plane, rgb, sky in zip(out, ground.rgb.T, (176, 196, 216), strict=True):
        np.multiply(np.take(rgb, ids), factor, out=plane)
        if mirror is not None:
            plane += mirror * (sky - plane)


# -- solids -------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Solids:
    """Flat faces of a block's buildings and cars, in metres from the region's origin and above the ground.

    Walls stand upright from wall_ends (n, 2, 2). Roofs are convex polygons of 3 or 4 corners (m, 4, 3), the eaves
    first, counter-clockwise from above; the last corner of a triangle stands twice. Reach is the distance up to which
    a face is drawn.
    """

    wall_ends: FloatArray
    wall_reach: FloatArray
    walls: list[Face]
    roofs: FloatArray
    roof_reach: FloatArray
    roof_rgb: FloatArray  # (m, 3), in its light


def _solids(block: Block) -> _Solids:
    """Those of a block, made once."""
    if "solids" not in block.cache:
        block.cache["solids"] = _find_solids(block)
    return block.cache["solids"]


def _find_solids(block: Block) -> _Solids:
    ends: list[FloatArray] = []
    walls: list[Face] = []
    roofs: list[FloatArray] = []
    rgbs: list[tuple[int, int, int]] = []

    def stand(
        ring: FloatArray, high: float, rgb: tuple[int, int, int], style: str, peak: float, levels: int, n: int
    ) -> None:
        """The upright faces of a ring; every second one has the peak."""
        both = np.stack([ring, np.roll(ring, -1, axis=0)], axis=1)
        d = both[:, 1] - both[:, 0]
        outward = np.column_stack([d[:, 1], -d[:, 0]]) / np.maximum(np.hypot(d[:, 0], d[:, 1]), 1e-6)[:, None]
        light = 0.66 + 0.5 * np.maximum(0.0, outward[:, 0] * TO_SUN[0] + outward[:, 1] * TO_SUN[1])
        ends.append(both)
        walls.extend(Face(high, peak * (e % 2), v, rgb, style, levels, n + e) for e, v in enumerate(light.tolist()))

    first = 31 * block.i + 57 * block.j
    for n, k in enumerate(block.buildings, start=first):
        for ring in (k.ring,) if k.hole is None else (k.ring, k.hole[::-1]):
            stand(ring, k.eaves_m, k.wall_rgb, k.style, k.rise_m if k.roof == "gabled" else 0.0, k.levels, n * 8)
        if k.roof != "flat":
            roofs += (slopes := _slopes(k))
            rgbs += [k.roof_rgb] * len(slopes)
    n_walls, n_roofs = len(walls), len(roofs)
    length, width, high = CAR_SIZE_M
    for car in block.cars:
        # A body and, within its outline, a shorter cabin.
        d = np.array([np.cos(car[2]), np.sin(car[2])])
        cabin = rectangle(car[:2] - 0.06 * length * d, 0.52 * length, 0.86 * width, car[2])
        rgb = CAR_RGB[int(car[3])]
        for ring, top, style in ((car_ring(car), 0.88, "car"), (cabin, high, "cabin")):
            stand(ring, top, rgb, style, 0.0, 1, 0)
            roofs.append(_at_height(ring, top))
            rgbs.append(rgb)
    corners = np.array([np.concatenate([r, r[-1:]])[:4] for r in roofs]).reshape(-1, 4, 3)
    light = 0.62 + 0.46 * np.maximum(0.0, (_normals(corners) * TO_SUN).sum(axis=1))
    wall_reach, roof_reach = np.full(len(walls), VIEW_M), np.full(len(roofs), VIEW_M)
    wall_reach[n_walls:] = roof_reach[n_roofs:] = _CAR_VIEW_M
    wall_ends = np.concatenate([np.empty((0, 2, 2)), *ends])
    return _Solids(wall_ends, wall_reach, walls, corners, roof_reach, np.array(rgbs).reshape(-1, 3) * light[:, None])


def _normals(corners: FloatArray) -> FloatArray:
    """Unit normals (m, 3) of polygons (m, 4, 3)."""
    normal = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    return np.asarray(normal / np.sqrt((normal**2).sum(axis=1))[:, None])


def _slopes(k: Building) -> list[FloatArray]:
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


def _draw_solids(view: _View, blocks: list[Block]) -> None:
    """Everything with walls, the nearest first."""
    solids = [_solids(block) for block in blocks]
    if not solids:
        return
    walls = [face for s in solids for face in s.walls]
    ends = np.concatenate([s.wall_ends for s in solids])
    camera = view.to_camera(ends)
    far = _distances(camera)
    # Seen from outside, counter-clockwise: from its start, the eye lies to the right of a wall.
    d, to_eye = ends[:, 1] - ends[:, 0], (view.x, view.y) - ends[:, 0]
    outside = to_eye[:, 0] * d[:, 1] - to_eye[:, 1] * d[:, 0] > 0.01 * np.hypot(d[:, 0], d[:, 1])
    shown = outside & (far < np.concatenate([s.wall_reach for s in solids])) & _in_view(camera)
    faces = [(far[n], walls[n], camera[n]) for n in np.flatnonzero(shown)]

    corners = np.concatenate([s.roofs for s in solids])
    camera = view.to_camera(corners[..., :2])
    camera = np.stack([camera[..., 0], corners[..., 2] - view.eye, camera[..., 1]], axis=-1)
    far = _distances(camera[:, :2, ::2])
    above = (((view.x, view.y, view.eye) - corners[:, 0]) * _normals(corners)).sum(axis=1) > 0
    shown = above & (far < np.concatenate([s.roof_reach for s in solids])) & _in_view(camera[..., ::2])
    shown &= camera[..., 2].min(axis=1) >= _CLIP_M
    rgb = np.concatenate([s.roof_rgb for s in solids])
    faces += [(far[n] + 0.01, rgb[n], camera[n]) for n in np.flatnonzero(shown)]
    for _, look, places in sorted(faces, key=lambda f: f[0]):
        if isinstance(look, Face):
            _draw_wall(view, look, places)
        else:
            _draw_slope(view, look, places)


def _distances(camera: FloatArray) -> FloatArray:
    """Distances (n,) from the eye to segments (n, 2, 2) of X and Z."""
    a, d = camera[:, 0], camera[:, 1] - camera[:, 0]
    t = np.clip(-(a * d).sum(axis=1) / np.maximum((d * d).sum(axis=1), 1e-9), 0, 1)
    nearest = a + d * t[:, None]
    return np.hypot(nearest[:, 0], nearest[:, 1])


def _in_view(camera: FloatArray) -> NDArray[np.bool_]:
    """Whether shapes (n, corners, 2) of X and Z may reach into the field of view."""
    x, side = camera[..., 0], camera[..., 1] * (PHOTO_WIDTH / 2 / FOCAL_PX)
    return np.asarray((x > -side).any(axis=1) & (x < side).any(axis=1) & (camera[..., 1] >= _CLIP_M).any(axis=1))


def _draw_wall(view: _View, face: Face, ends: FloatArray) -> None:
    (ax, az), (bx, bz) = ends.tolist()
    dx, dz = bx - ax, bz - az
    # The part in front of the camera.
    left, right = ax / az if az >= _CLIP_M else None, bx / bz if bz >= _CLIP_M else None
    if left is None:
        left = (ax + dx * (_CLIP_M - az) / dz) / _CLIP_M
    if right is None:
        right = (bx + dx * (_CLIP_M - bz) / dz) / _CLIP_M
    left, right = sorted((PHOTO_WIDTH / 2 + FOCAL_PX * left, PHOTO_WIDTH / 2 + FOCAL_PX * right))
    c0, c1 = max(0, math.ceil(left - 0.5)), min(PHOTO_WIDTH, math.ceil(right - 0.5))
    if c0 >= c1:
        return
    tx = _TX[c0:c1]
    s = np.clip((tx * az - ax) / (dx - tx * dz), 0, 1)
    z = np.maximum(az + s * dz, _CLIP_M)
    high = face.height + face.peak * (1.0 - np.abs(2.0 * s - 1.0))
    top = PHOTO_HEIGHT / 2 - FOCAL_PX * (high - view.eye) / z
    covered = view.covered[c0:c1]
    if (top >= covered).all():
        return
    bottom = PHOTO_HEIGHT / 2 + FOCAL_PX * view.eye / float(z.min())
    r0 = max(0, math.floor(top.min()))
    r1 = min(PHOTO_HEIGHT, math.ceil(min(bottom, covered.max() + 1)))
    if r0 < r1:
        h = view.eye + _TY[r0:r1, None] * z
        depth = view.depth[r0:r1, c0:c1]
        seen = (h >= -0.05) & (h <= high) & (z < depth + 0.02)
        if seen.any():
            length = math.hypot(dx, dz)
            np.copyto(view.image[:, r0:r1, c0:c1], facade(face, length, s * length, h, view.seed), where=seen)
            np.copyto(depth, z, where=seen)
    np.minimum(covered, top, out=covered)


def _draw_slope(view: _View, rgb: FloatArray, p: FloatArray) -> None:
    """A flat convex polygon, corners (4, 3) of X, Y from the eye, Z."""
    column = PHOTO_WIDTH / 2 + FOCAL_PX * p[:, 0] / p[:, 2]
    line = PHOTO_HEIGHT / 2 - FOCAL_PX * p[:, 1] / p[:, 2]
    c0, c1 = max(0, math.floor(column.min())), min(PHOTO_WIDTH, math.ceil(column.max()))
    r0, r1 = max(0, math.floor(line.min())), min(PHOTO_HEIGHT, math.ceil(line.max()))
    if c0 >= c1 or r0 >= r1 or r0 >= view.covered[c0:c1].max():
        return
    (ax, ay, az), (bx, by, bz) = (p[1] - p[0]).tolist(), (p[2] - p[0]).tolist()
    nx, ny, nz = ay * bz - az * by, az * bx - ax * bz, ax * by - ay * bx
    offset = nx * float(p[0, 0]) + ny * float(p[0, 1]) + nz * float(p[0, 2])
    if abs(offset) < 1e-9:
        return
    ty = _TY[r0:r1, None]
    with np.errstate(divide="ignore"):
        z = offset / (nx * _TX[None, c0:c1] + (ny * ty + nz))
    px, py = np.arange(c0, c1, dtype=np.float32) + 0.5, np.arange(r0, r1, dtype=np.float32)[:, None] + 0.5
    depth = view.depth[r0:r1, c0:c1]
    seen = (z > _CLIP_M) & (z < depth + 0.02)
    xs, ys = column.tolist(), line.tolist()
    steps = [(xs[n - 3] - xs[n], ys[n - 3] - ys[n]) for n in range(4)]
    turn = 1 if sum(x * dr - dc * y for x, y, (dc, dr) in zip(xs, ys, steps, strict=True)) > 0 else -1
    for c, r, (dc, dr) in zip(xs, ys, steps, strict=True):
        seen &= (turn * dc) * (py - r) - (turn * dr) * (px - c) >= 0
    if seen.any():
        courses = 1.0 + 0.05 * np.sin(ty * z * 16.0) * np.clip(40.0 / z, 0, 1)
        for plane, value in zip(view.image, rgb.tolist(), strict=True):
            np.copyto(plane[r0:r1, c0:c1], value * courses, where=seen)
        np.copyto(depth, z, where=seen)


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
    up_q, across = (py[:, 0] * 34).astype(np.intp), (px[0] * 34).astype(np.intp)
    leaves = tiled(texture, up_q, across + salt)
    clumps = tiled(texture, (py[:, 0] * 2.5).astype(np.intp) + salt, (px[0] * 2.5).astype(np.intp) + 2 * salt)
    boughs = tiled(texture, (py[:, 0] * 8).astype(np.intp) + 3 * salt, (px[0] * 8).astype(np.intp) + salt)
    vertical = (py - (height - up)) / up
    width = radius * (np.clip(1.15 - 0.5 * (vertical + 1), 0.1, 1) if hue >= 0.9 else 1.0)
    crown = np.hypot(px / width, vertical) + 0.06 * leaves + 0.06 * boughs + 0.05 * clumps < 1.0
    trunk = (np.abs(px) < 0.05 * radius + 0.08) & (py < height - up) & (py >= 0)
    depth = view.depth[r0:r1, c0:c1]
    # The ground's depth at the trunk's foot is the tree's own: give way a little.
    visible = z < depth + 0.25
    trunk &= visible
    crown &= visible
    side = float(view.right[0] * TO_SUN[0] + view.right[1] * TO_SUN[1])
    light = 0.86 + 0.22 * vertical + 0.2 * side * px / radius + 0.09 * leaves + 0.10 * boughs + 0.08 * clumps
    light = np.clip(light, 0.35, 1.5, out=light)
    for plane, bark, leaf in zip(view.image, (84, 68, 54), rgb.tolist(), strict=True):
        np.copyto(plane[r0:r1, c0:c1], bark, where=trunk)
        np.copyto(plane[r0:r1, c0:c1], light * leaf, where=crown)
    np.copyto(depth, z, where=crown | trunk)


# -- camera -------------------------------------------------------------------------------


def _develop(view: _View, pose: PhotoPose) -> NDArray[np.uint8]:
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
