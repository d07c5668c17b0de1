"""Edges of photos and of the ground around their places, matched linearly: what can be seen without having trained.

An encoder for `trainers.evaluate.gair.embed`, and a canonical correlation analysis (Hotelling 1936) with ridges that
brings both descriptions into one space.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from trainers.stream.batch import TileBatch, View

#: What is read; pixels a side of the ground that is described, of tiles of 256; directions, rings, fields of a photo.
VIEW = View(256, photos=16, photo_size=128, photo_fit="squash")
WINDOW = 64
DIRECTIONS, RINGS, ROWS, COLUMNS = 8, 4, 6, 3
#: Added to variances that are 1, and dimensions kept. Chosen on validation blocks.
RIDGE, KEPT = 3.0, 24

Map = Callable[[Tensor], Tensor]


class Edges:
    """Embeds a photo by the strength and directions of its edges in 18 fields, and a place by strength and directions
    in rings around it at three scales, of the latter what no turn of the ground changes. ``pixels``: a side of the tile
    that are seen, at most 256.
    """

    def __init__(self, pixels: int = VIEW.image_size) -> None:
        self.pixels = pixels

    def encode_tiles(self, batch: TileBatch) -> Tensor:
        """Brightness f32[B,256,256]."""
        grey = F.interpolate(batch.rs.float().mean(1, keepdim=True), (self.pixels,) * 2, mode="area")
        return F.interpolate(grey, (VIEW.image_size,) * 2)[:, 0]

    def encode_photos(self, batch: TileBatch) -> Tensor:
        """f32[Q,486]."""
        found = []
        for strength, share in _scales(batch.photos.float().mean(1)):
            fields = (ROWS, COLUMNS)
            mean = F.adaptive_avg_pool2d(strength[:, None], fields)
            ways = F.adaptive_avg_pool2d(share, fields) / (mean + 1e-3)
            found += [(mean + 1e-3).log().flatten(1), ways.flatten(1)]
        return torch.cat(found, 1)

    def query(
        self, tokens: Tensor, _batch: TileBatch, sample: Tensor, xy: Tensor, _frame: Tensor | None = None
    ) -> Tensor:
        """f32[M,96] at places xy f32[M,2] of the tiles ``sample``; beyond the border the tile is mirrored."""
        half, side = WINDOW // 2, tokens.shape[-1]
        wide = F.pad(tokens[:, None], (half,) * 4, mode="reflect")[:, 0]
        first = (xy * side).round().long().tolist()
        around = torch.stack([wide[s, y : y + WINDOW, x : x + WINDOW] for s, (x, y) in zip(sample, first, strict=True)])
        found = []
        for strength, share in _scales(around):
            axis = torch.arange(strength.shape[-1]) + 0.5 - strength.shape[-1] / 2
            radius = (axis[:, None].square() + axis.square()).sqrt() / (strength.shape[-1] / 2)
            for ring in range(RINGS):
                held = (radius >= ring / RINGS) & (radius < (ring + 1) / RINGS)
                mean = strength[:, held].mean(1, keepdim=True)
                ways = share[:, :, held].mean(2) / (mean + 1e-3)
                turned = torch.fft.rfft(ways, dim=1).abs()[:, 1:]
                level = torch.cat((mean, strength[:, held].quantile(torch.tensor([0.5, 0.9]), 1).T), 1)
                found += [(level + 1e-3).log(), (strength[:, held].std(1, keepdim=True) + 1e-3).log(), turned]
        return torch.cat(found, 1)


def _scales(grey: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Strength of edges f32[N,S,S], and the same in the channel of its direction f32[N,8,S,S], at three scales."""
    spread = grey.std((1, 2), keepdim=True) + 1e-3
    grey, found = (grey - grey.mean((1, 2), keepdim=True)) / spread, []
    for scale in (1, 2, 4):
        plane = F.avg_pool2d(grey[:, None], scale)[:, 0]
        dy, dx = plane.diff(dim=1)[:, :, :-1], plane.diff(dim=2)[:, :-1]
        strength = torch.hypot(dx, dy)
        way = (torch.atan2(dy, dx).remainder(torch.pi) / torch.pi * DIRECTIONS).long().clamp_max(DIRECTIONS - 1)
        found.append((strength, F.one_hot(way, DIRECTIONS).permute(0, 3, 1, 2) * strength[:, None]))
    return found


def matched(photo: Tensor, place: Tensor) -> tuple[Map, Map]:
    """Linear maps of photos f32[N,*] and of places f32[N,*], row by row of one another, to a common space."""
    (white_photo, x), (white_place, y) = (_whitened(rows.double().numpy()) for rows in (photo, place))
    u, strength, v = np.linalg.svd(x.T @ y / len(x), full_matrices=False)
    weight = np.sqrt(strength[:KEPT])
    return _then(white_photo, u[:, :KEPT] * weight), _then(white_place, v[:KEPT].T * weight)


def _whitened(rows: NDArray[np.float64]) -> tuple[Callable[[NDArray[np.float64]], NDArray[np.float64]], Any]:
    mean, deviation = rows.mean(0), rows.std(0) + 1e-6
    unit = (rows - mean) / deviation
    factor = np.linalg.cholesky(unit.T @ unit / len(unit) + RIDGE * np.eye(unit.shape[1]))

    def white(some: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.asarray(np.linalg.solve(factor, ((some - mean) / deviation).T).T)

    return white, white(rows)


def _then(white: Callable[[NDArray[np.float64]], NDArray[np.float64]], to: NDArray[np.float64]) -> Map:
    return lambda rows: torch.from_numpy(white(rows.double().numpy()) @ to).float()
