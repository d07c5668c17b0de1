"""Where photos and their tiles lie, in metres and degrees: what a query may be asked for."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from trainers.models.losses import EARTH_RADIUS

#: Turn from one photo's direction to the next one's: no two of a few are alike (golden angle).
GOLDEN = math.pi * (3.0 - math.sqrt(5.0))
#: Photos all within this share of a tile's side from its centre do not say how it lies.
_NEAR = 0.01


@dataclass(frozen=True, eq=False)
class Places:
    """N photos, and the T tiles that they lie in; tensors are on the CPU."""

    tile: Tensor  # i64 [N]
    xy: Tensor  # f64 [N,2] normalised image coordinates
    lonlat: Tensor  # f64 [N,2] degrees
    key: Sequence[tuple[int, str]]  # [T] number of the dataset, key of the sample
    centre: Tensor  # f64 [T,2] degrees
    size: Tensor  # f64 [T,2] metres from side to side, along x and y

    def __len__(self) -> int:
        return len(self.tile)

    @property
    def mates(self) -> Tensor:
        """Photos i64[N] in the tile of each, itself included."""
        return torch.bincount(self.tile, minlength=len(self.key))[self.tile]

    def turn(self) -> Tensor:
        """c128[T]: a step east + i north for one of a metre along x, as the tile's photos say.

        No projection is known here, and in UTM a tile's up is not north: least squares over its photos.
        """
        along = self.across(self.xy, self.tile)
        seen = _step(self.centre[self.tile], self.lonlat)
        tiles = len(self.key)
        both = torch.zeros(tiles, dtype=torch.complex128).index_add_(0, self.tile, along.conj() * seen)
        long = torch.zeros(tiles, dtype=torch.float64).index_add_(0, self.tile, along.abs().square())
        known = long > (_NEAR * self.size.amin(1)).square()
        return torch.where(known, both / torch.where(known, long, torch.ones_like(long)), torch.ones_like(both))

    def across(self, xy: Tensor, tile: Tensor) -> Tensor:
        """Metres from the tile's centre c128[M], right + i up, of positions f64[M,2] in tiles i64[M]."""
        offset = (xy - 0.5) * self.size[tile]
        return torch.complex(offset[:, 0], -offset[:, 1])

    def degrees(self, xy: Tensor, tile: Tensor) -> Tensor:
        """Longitude, latitude f64[M,2] of positions f64[M,2] in tiles i64[M]."""
        step = self.across(xy, tile) * self.turn()[tile]
        lon, lat = self.centre[tile].unbind(1)
        north = torch.rad2deg(step.imag / EARTH_RADIUS)
        east = torch.rad2deg(step.real / EARTH_RADIUS) / torch.cos(torch.deg2rad(lat + north / 2))
        return torch.stack(((lon + east + 180.0) % 360.0 - 180.0, lat + north), 1)


def _step(a: Tensor, b: Tensor) -> Tensor:
    """Metres east + i north c128[M] from a to b f64[M,2], which lie near each other."""
    lon = (b[:, 0] - a[:, 0] + 180.0) % 360.0 - 180.0
    middle = torch.deg2rad((a[:, 1] + b[:, 1]) / 2)
    step = torch.deg2rad(torch.stack((lon * torch.cos(middle), b[:, 1] - a[:, 1]), 1)) * EARTH_RADIUS
    return torch.complex(step[:, 0], step[:, 1])


def cells(side: int) -> Tensor:
    """Centres f64[side * side,2] of the cells of a grid over a tile, row by row."""
    middle = (torch.arange(side, dtype=torch.float64) + 0.5) / side
    y, x = torch.meshgrid(middle, middle, indexing="ij")
    return torch.stack((x.flatten(), y.flatten()), 1)


def metres(a: Tensor, b: Tensor) -> Tensor:
    """Great-circle distances f64[M] in metres between a and b f64[M,2] in degrees, row by row (haversine)."""
    a, b = torch.deg2rad(a), torch.deg2rad(b)
    half = torch.sin((a - b) / 2).square()
    h = half[:, 1] + torch.cos(a[:, 1]) * torch.cos(b[:, 1]) * half[:, 0]
    return 2 * EARTH_RADIUS * torch.asin(h.clamp(0, 1).sqrt())


def walked(lonlat: Tensor, distance: float, bearing: Tensor) -> Tensor:
    """Where one arrives f64[M,2] from places f64[M,2] after ``distance`` metres at ``bearing`` f64[M] radians."""
    lon, lat = torch.deg2rad(lonlat).unbind(1)
    angle = distance / EARTH_RADIUS
    up = torch.sin(lat) * math.cos(angle) + torch.cos(lat) * math.sin(angle) * torch.cos(bearing)
    to = torch.asin(up.clamp(-1, 1))
    east = torch.sin(bearing) * math.sin(angle) * torch.cos(lat)
    along = lon + torch.atan2(east, math.cos(angle) - torch.sin(lat) * up)
    return torch.stack(((torch.rad2deg(along) + 180.0) % 360.0 - 180.0, torch.rad2deg(to)), 1)
