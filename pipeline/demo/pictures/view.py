"""A street view in the making: camera coordinates are X right, Y up from the eye, Z forward, in metres."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.demo.geo import Bounds, FloatArray, bounds_of
from pipeline.demo.pictures.look import Look
from pipeline.demo.pictures.pose import FOCAL_PX, PHOTO_HEIGHT, PHOTO_WIDTH

VIEW_M = 240.0  # nothing stands beyond this distance
CLIP_M = 0.4
TX = ((np.arange(PHOTO_WIDTH) + 0.5 - PHOTO_WIDTH / 2) / FOCAL_PX).astype(np.float32)
TY = ((PHOTO_HEIGHT / 2 - np.arange(PHOTO_HEIGHT) - 0.5) / FOCAL_PX).astype(np.float32)


@dataclass
class View:
    """A picture in the making: colours, depth, and the top row of what is hidden by columns."""

    x: float
    y: float
    forward: FloatArray
    right: FloatArray
    eye: float
    seed: int
    look: Look
    image: NDArray[np.float32]
    depth: NDArray[np.float32]
    covered: NDArray[np.float32]

    def to_camera(self, xy: FloatArray) -> FloatArray:
        """(..., 2) metres -> (..., 2) of X and Z."""
        dx, dy = xy[..., 0] - self.x, xy[..., 1] - self.y
        (a, b), (c, d) = self.right.tolist(), self.forward.tolist()
        return np.stack([dx * a + dy * b, dx * c + dy * d], axis=-1)


def frustum(view: View, reach: float) -> Bounds:
    corners = [np.array([view.x, view.y])]
    for side in (-1.0, 0.0, 1.0):
        corners.append(corners[0] + reach * (view.forward + side * view.right * PHOTO_WIDTH / 2 / FOCAL_PX))
    return bounds_of(np.array(corners), 1.0)
