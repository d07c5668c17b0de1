"""Walls, roofs and cars of the street views: flat polygons drawn into a depth buffer."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from pipeline.demo.geo import FloatArray, rectangle
from pipeline.demo.pictures.facades import Face, facade
from pipeline.demo.pictures.ground import (
    car_ring,
)
from pipeline.demo.pictures.look import CAR_SIZE_M
from pipeline.demo.pictures.pose import EYE_HEIGHT_M, FOCAL_PX, PHOTO_HEIGHT, PHOTO_WIDTH
from pipeline.demo.pictures.view import CLIP_M, TX, TY, VIEW_M, View
from pipeline.demo.town.block import ROOF_SEAMS, Block, Building

_CAR_VIEW_M = 70.0


@dataclass(frozen=True)
class _Wall:
    """What does not change from picture to picture of a wall: see `Face`."""

    height: float
    peak: float
    style: str
    levels: int
    number: int


@dataclass(frozen=True)
class _Solids:
    """Flat faces of a block's buildings and cars, in metres from the region's origin and above the ground.

    Walls stand upright from wall_ends (n, 2, 2). Roofs are convex polygons of 3 or 4 corners (m, 4, 3), the eaves
    first, counter-clockwise from above; the last corner of a triangle stands twice. The faces of cars are the last.
    Reach is the distance up to which a face is drawn.
    """

    wall_ends: FloatArray
    wall_reach: FloatArray
    wall_rgb: FloatArray  # (n, 3)
    wall_car: NDArray[np.intp]  # (n,) the colour of a car; -1: of a building
    walls: list[_Wall]
    roofs: FloatArray
    roof_reach: FloatArray
    roof_rgb: FloatArray  # (m, 3)
    roof_car: NDArray[np.intp]  # (m,)
    roof_seams: FloatArray  # (m,) rows to a metre across the slope, negative: down it


def _solids(block: Block) -> _Solids:
    """Those of a block, made once."""
    if "solids" not in block.cache:
        block.cache["solids"] = _find_solids(block)
    return block.cache["solids"]


def _find_solids(block: Block) -> _Solids:
    ends: list[FloatArray] = []
    walls: list[_Wall] = []
    wall_rgb: list[tuple[int, int, int]] = []
    roofs: list[FloatArray] = []
    roof_rgb: list[tuple[int, int, int]] = []
    seams: list[float] = []

    def stand(ring: FloatArray, high: float, style: str, peak: float, levels: int, n: int) -> None:
        """The upright faces of a ring; every second one has the peak."""
        ends.append(np.stack([ring, np.roll(ring, -1, axis=0)], axis=1))
        walls.extend(_Wall(high, peak * (e % 2), style, levels, n + e) for e in range(len(ring)))

    first = 31 * block.i + 57 * block.j
    for n, k in enumerate(block.buildings, start=first):
        for ring in (k.ring,) if k.hole is None else (k.ring, k.hole[::-1]):
            stand(ring, k.eaves_m, k.style, k.rise_m if k.roof == "gabled" else 0.0, k.levels, n * 8)
            wall_rgb += [k.wall_rgb] * len(ring)
        if k.roof != "flat":
            roofs += (slopes := _slopes(k))
            roof_rgb += [k.roof_rgb] * len(slopes)
            seams += [ROOF_SEAMS[k.material]] * len(slopes)
        elif k.eaves_m < EYE_HEIGHT_M and len(k.ring) == 4:  # seen from above
            roofs.append(_at_height(k.ring, k.eaves_m))
            roof_rgb.append(k.roof_rgb)
            seams.append(0.0)
    n_walls, n_roofs = len(walls), len(roofs)
    length, width, high = CAR_SIZE_M
    for car in block.cars:
        # A body and, within its outline, a shorter cabin.
        d = np.array([np.cos(car[2]), np.sin(car[2])])
        cabin = rectangle(car[:2] - 0.06 * length * d, 0.52 * length, 0.86 * width, car[2])
        for ring, top, style in ((car_ring(car), 0.88, "car"), (cabin, high, "cabin")):
            stand(ring, top, style, 0.0, 1, 0)
            roofs.append(_at_height(ring, top))
    corners = np.array([np.concatenate([r, r[-1:]])[:4] for r in roofs]).reshape(-1, 4, 3)
    wall_reach, roof_reach = np.full(len(walls), VIEW_M), np.full(len(roofs), VIEW_M)
    wall_reach[n_walls:] = roof_reach[n_roofs:] = _CAR_VIEW_M
    paint = block.cars[:, 3].astype(np.intp)
    return _Solids(
        np.concatenate([np.empty((0, 2, 2)), *ends]),
        wall_reach,
        np.concatenate([np.reshape(wall_rgb, (-1, 3)), np.zeros((8 * len(paint), 3))]),
        np.concatenate([np.full(n_walls, -1), np.repeat(paint, 8)]),
        walls,
        corners,
        roof_reach,
        np.concatenate([np.reshape(roof_rgb, (-1, 3)), np.zeros((2 * len(paint), 3))]),
        np.concatenate([np.full(n_roofs, -1), np.repeat(paint, 2)]),
        np.concatenate([seams, np.full(2 * len(paint), ROOF_SEAMS["tiles"])]),
    )


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


def draw_solids(view: View, blocks: list[Block]) -> None:
    """Everything with walls, the nearest first."""
    solids = [_solids(block) for block in blocks]
    if not solids:
        return
    walls = [(far, partial(_draw_wall, view, face, at)) for far, face, at in _walls_in_view(view, solids)]
    roofs = [(far, partial(_draw_slope, view, *look, at)) for far, look, at in _roofs_in_view(view, solids)]
    for _, draw in sorted([*walls, *roofs], key=lambda f: f[0]):
        draw()


def _walls_in_view(view: View, solids: list[_Solids]) -> Iterator[tuple[float, Face, FloatArray]]:
    """Distance, looks and places in the camera's coordinates."""
    ends = np.concatenate([s.wall_ends for s in solids])
    camera = view.to_camera(ends)
    far = _distances(camera)
    # Seen from outside, counter-clockwise: from its start, the eye lies to the right of a wall.
    d, to_eye = ends[:, 1] - ends[:, 0], (view.x, view.y) - ends[:, 0]
    outside = to_eye[:, 0] * d[:, 1] - to_eye[:, 1] * d[:, 0] > 0.01 * np.hypot(d[:, 0], d[:, 1])
    shown = np.flatnonzero(outside & (far < np.concatenate([s.wall_reach for s in solids])) & _in_view(camera))
    d = d[shown]
    outward = np.column_stack([d[:, 1], -d[:, 0]]) / np.maximum(np.hypot(d[:, 0], d[:, 1]), 1e-6)[:, None]
    sun, car = view.look.to_sun, np.concatenate([s.wall_car for s in solids])[shown]
    light = 0.66 + 0.5 * np.maximum(0.0, outward[:, 0] * sun[0] + outward[:, 1] * sun[1])
    rgb = view.look.wall(np.concatenate([s.wall_rgb for s in solids])[shown])
    rgb = np.where(car[:, None] < 0, rgb, view.look.cars[np.maximum(car, 0)])
    walls = [wall for s in solids for wall in s.walls]
    for n, value, colour in zip(shown.tolist(), light.tolist(), rgb.tolist(), strict=True):
        w = walls[n]
        yield far[n], Face(w.height, w.peak, value, tuple(colour), w.style, w.levels, w.number), camera[n]


def _roofs_in_view(view: View, solids: list[_Solids]) -> Iterator[tuple[float, tuple[FloatArray, float], FloatArray]]:
    """Distance, colour in its light with seams to a metre, and places in the camera's coordinates."""
    corners = np.concatenate([s.roofs for s in solids])
    camera = view.to_camera(corners[..., :2])
    camera = np.stack([camera[..., 0], corners[..., 2] - view.eye, camera[..., 1]], axis=-1)
    far = _distances(camera[:, :2, ::2])
    normals = _normals(corners)
    above = (((view.x, view.y, view.eye) - corners[:, 0]) * normals).sum(axis=1) > 0
    shown = above & (far < np.concatenate([s.roof_reach for s in solids])) & _in_view(camera[..., ::2])
    shown &= camera[..., 2].min(axis=1) >= CLIP_M
    chosen = np.flatnonzero(shown)
    car = np.concatenate([s.roof_car for s in solids])[chosen]
    rgb = view.look.roof(np.concatenate([s.roof_rgb for s in solids])[chosen])
    rgb = np.where(car[:, None] < 0, rgb, view.look.cars[np.maximum(car, 0)])
    rgb = rgb * (0.62 + 0.46 * np.maximum(0.0, (normals[chosen] * view.look.to_sun).sum(axis=1)))[:, None]
    seams = np.concatenate([s.roof_seams for s in solids])[chosen]
    for n, colour, seam in zip(chosen.tolist(), rgb, seams.tolist(), strict=True):
        yield far[n] + 0.01, (colour, seam), camera[n]


def _distances(camera: FloatArray) -> FloatArray:
    """Distances (n,) from the eye to segments (n, 2, 2) of X and Z."""
    a, d = camera[:, 0], camera[:, 1] - camera[:, 0]
    t = np.clip(-(a * d).sum(axis=1) / np.maximum((d * d).sum(axis=1), 1e-9), 0, 1)
    nearest = a + d * t[:, None]
    return np.hypot(nearest[:, 0], nearest[:, 1])


def _in_view(camera: FloatArray) -> NDArray[np.bool_]:
    """Whether shapes (n, corners, 2) of X and Z may reach into the field of view."""
    x, side = camera[..., 0], camera[..., 1] * (PHOTO_WIDTH / 2 / FOCAL_PX)
    return np.asarray((x > -side).any(axis=1) & (x < side).any(axis=1) & (camera[..., 1] >= CLIP_M).any(axis=1))


def _draw_wall(view: View, face: Face, ends: FloatArray) -> None:
    (ax, az), (bx, bz) = ends.tolist()
    dx, dz = bx - ax, bz - az
    # The part in front of the camera.
    left, right = ax / az if az >= CLIP_M else None, bx / bz if bz >= CLIP_M else None
    if left is None:
        left = (ax + dx * (CLIP_M - az) / dz) / CLIP_M
    if right is None:
        right = (bx + dx * (CLIP_M - bz) / dz) / CLIP_M
    left, right = sorted((PHOTO_WIDTH / 2 + FOCAL_PX * left, PHOTO_WIDTH / 2 + FOCAL_PX * right))
    c0, c1 = max(0, math.ceil(left - 0.5)), min(PHOTO_WIDTH, math.ceil(right - 0.5))
    if c0 >= c1:
        return
    tx = TX[c0:c1]
    s = np.clip((tx * az - ax) / (dx - tx * dz), 0, 1)
    z = np.maximum(az + s * dz, CLIP_M)
    high = face.height + face.peak * (1.0 - np.abs(2.0 * s - 1.0))
    top = PHOTO_HEIGHT / 2 - FOCAL_PX * (high - view.eye) / z
    covered = view.covered[c0:c1]
    if (top >= covered).all():
        return
    bottom = PHOTO_HEIGHT / 2 + FOCAL_PX * view.eye / float(z.min())
    r0 = max(0, math.floor(top.min()))
    r1 = min(PHOTO_HEIGHT, math.ceil(min(bottom, covered.max() + 1)))
    if r0 < r1:
        h = view.eye + TY[r0:r1, None] * z
        depth = view.depth[r0:r1, c0:c1]
        seen = (h >= -0.05) & (h <= high) & (z < depth + 0.02)
        if seen.any():
            length = math.hypot(dx, dz)
            np.copyto(view.image[:, r0:r1, c0:c1], facade(face, length, s * length, h, view.seed), where=seen)
            np.copyto(depth, z, where=seen)
    np.minimum(covered, top, out=covered)


def _draw_slope(view: View, rgb: FloatArray, seam: float, p: FloatArray) -> None:
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
    ty = TY[r0:r1, None]
    with np.errstate(divide="ignore"):
        z = offset / (nx * TX[None, c0:c1] + (ny * ty + nz))
    px, py = np.arange(c0, c1, dtype=np.float32) + 0.5, np.arange(r0, r1, dtype=np.float32)[:, None] + 0.5
    depth = view.depth[r0:r1, c0:c1]
    seen = (z > CLIP_M) & (z < depth + 0.02)
    xs, ys = column.tolist(), line.tolist()
    steps = [(xs[n - 3] - xs[n], ys[n - 3] - ys[n]) for n in range(4)]
    turn = 1 if sum(x * dr - dc * y for x, y, (dc, dr) in zip(xs, ys, steps, strict=True)) > 0 else -1
    for c, r, (dc, dr) in zip(xs, ys, steps, strict=True):
        seen &= (turn * dc) * (py - r) - (turn * dr) * (px - c) >= 0
    if seen.any():
        if seam >= 0:
            courses = 1.0 + 0.05 * np.sin(ty * z * seam) * np.clip(40.0 / z, 0, 1)
        else:
            # Metres along the eaves, which are horizontal.
            eaves = np.hypot(ax, az)
            beside = (TX[None, c0:c1] * ax + az) / eaves * z
            courses = 1.0 - 0.30 * (np.sin(beside * -seam) > 0.8) * np.clip(60.0 / z, 0, 1)
        for plane, value in zip(view.image, rgb.tolist(), strict=True):
            np.copyto(plane[r0:r1, c0:c1], value * courses, where=seen)
        np.copyto(depth, z, where=seen)
