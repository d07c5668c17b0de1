"""Trees, lamps and signs of the street views: upright pictures that face the camera."""

from __future__ import annotations

import numpy as np

from pipeline.demo.geo import FloatArray
from pipeline.demo.pictures.ground import (
    noise_texture,
    tiled,
    trees_in,
)
from pipeline.demo.pictures.pose import FOCAL_PX, PHOTO_HEIGHT, PHOTO_WIDTH
from pipeline.demo.pictures.view import View, frustum
from pipeline.demo.town.block import Block

_TREE_VIEW_M = 150.0
_MAX_TREES = 170
_POST_VIEW_M = 90.0
# Of lamps with one arm, with two, with a lantern, of signs: what the pole carries, from left to right and in height.
_ARM_M = ((0.0, 1.6), (-1.5, 1.5), (-0.25, 0.25), (-0.4, 0.4))
_HEAD_M = (0.16, 0.16, 0.6, 0.8)


# -- trees --------------------------------------------------------------------------------


def draw_trees(view: View, blocks: list[Block]) -> None:
    trees = trees_in(blocks, frustum(view, _TREE_VIEW_M))
    xz = view.to_camera(trees[:, :2])
    far = np.hypot(xz[:, 0], xz[:, 1])
    shown = (xz[:, 1] > 1.0) & (far < _TREE_VIEW_M)
    shown &= np.abs(xz[:, 0]) < xz[:, 1] * PHOTO_WIDTH / 2 / FOCAL_PX + trees[:, 2] + 1
    order = np.flatnonzero(shown)
    order = order[np.argsort(far[order], kind="stable")][:_MAX_TREES]
    colours = view.look.crown(trees[:, 4])
    for n in order:
        _draw_tree(view, xz[n], trees[n], colours[n])


def _draw_tree(view: View, at: FloatArray, tree: FloatArray, rgb: FloatArray) -> None:
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
    sun = view.look.to_sun
    side = float(view.right[0] * sun[0] + view.right[1] * sun[1])
    light = 0.86 + 0.22 * vertical + 0.2 * side * px / radius + 0.09 * leaves + 0.10 * boughs + 0.08 * clumps
    light = np.clip(light, 0.35, 1.5, out=light)
    for plane, bark, leaf in zip(view.image, (84, 68, 54), rgb.tolist(), strict=True):
        np.copyto(plane[r0:r1, c0:c1], bark, where=trunk)
        np.copyto(plane[r0:r1, c0:c1], light * leaf, where=crown)
    np.copyto(depth, z, where=crown | trunk)


# -- posts --------------------------------------------------------------------------------


def draw_posts(view: View, blocks: list[Block]) -> None:
    """Lamps and signs: a pole, and what it carries to its right or, as a disc, in front of it."""
    posts = np.concatenate([np.empty((0, 4)), *(b.posts for b in blocks)])
    xz = view.to_camera(posts[:, :2])
    shown = (xz[:, 1] > 2.0) & (xz[:, 1] < _POST_VIEW_M) & (np.abs(xz[:, 0]) < xz[:, 1] * PHOTO_WIDTH / FOCAL_PX)
    for n in np.flatnonzero(shown)[np.argsort(-xz[shown, 1], kind="stable")]:
        (x, z), (high, kind) = xz[n].tolist(), posts[n, 2:].tolist()
        arm = _ARM_M[int(kind)]
        _draw_upright(view, z, (x - 0.07, x + 0.07), (0.0, high))
        _draw_upright(view, z, (x + min(arm), x + max(arm)), (high - _HEAD_M[int(kind)], high))


def _draw_upright(view: View, z: float, across: tuple[float, float], up: tuple[float, float]) -> None:
    """A dark upright rectangle that faces the camera: metres across, from the middle, and above the ground."""
    c0, c1 = (round(PHOTO_WIDTH / 2 + FOCAL_PX * v / z) for v in across)
    r1, r0 = (round(PHOTO_HEIGHT / 2 - FOCAL_PX * (v - view.eye) / z) for v in up)
    lines, columns = slice(max(r0, 0), max(r1, r0 + 1, 0)), slice(max(c0, 0), max(c1, c0 + 1, 0))
    depth = view.depth[lines, columns]
    seen = z < depth + 0.25
    for plane in view.image[:, lines, columns]:
        np.copyto(plane, 58.0, where=seen)
    np.copyto(depth, z, where=seen)
