"""The embedding of one place inside a tile, read from the grid of patch tokens (docs/papers/gair.md#nili).

In: tokens [B,h*w,D] of tiles that are encoded once, and any number of places in them. Out: f32[Q,out].
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

from trainers.models.losses import EARTH_RADIUS
from trainers.models.scatter import take
from trainers.models.vit import init_linear

#: How a place is read: NILI, or one of the two baselines, which sample the tokens and leave the rest to one layer.
QueryKind = Literal["nili", "bilinear", "bicubic"]
#: Pushes a query on a cell border to one side, and keeps areas and borders away from zero.
EPSILON = 1e-6
#: Octaves of the offset in ``ours``: waves of 8, 4, 2 and 1 half cells.
OCTAVES = 4
#: Ground size of a patch, in metres a side, that counts as 0.
USUAL_CELL = 100.0


class LinearHead(nn.Linear):
    """As released: one linear layer, which makes NILI a bilinear sample of a 3 × 3 convolution."""

    def __init__(self, dim: int, _hidden: int, out: int) -> None:
        super().__init__(9 * dim + 2, out)

    def forward(  # type: ignore[override]  # a head takes what any head does
        self,
        taps: Tensor,
        delta: Tensor,
        cell: Tensor,  # noqa: ARG002
    ) -> Tensor:
        """Of neighbourhoods [R,9*D], offsets from their middle f32[R,2] and ground sizes of a patch f32[R]."""
        return super().forward(torch.cat((taps, delta.to(taps.dtype)), -1))


class MlpHead(nn.Module):
    """Ours: two hidden GELU layers on neighbourhood, Fourier features of the offset and the size of a patch.

    The offset counts between patch centres, and a tile of another resolution is another input.
    """

    octaves: Tensor

    def __init__(self, dim: int, hidden: int, out: int) -> None:
        super().__init__()
        self.register_buffer("octaves", math.pi / 4 * 2.0 ** torch.arange(OCTAVES), persistent=False)
        self.taps = nn.Linear(9 * dim, hidden)
        self.offset = nn.Linear(2 + 4 * OCTAVES + 1, hidden, bias=False)
        self.rest = nn.Sequential(nn.GELU(), nn.Linear(hidden, hidden), nn.GELU(), nn.Linear(hidden, out))
        self.apply(init_linear)

    def forward(self, taps: Tensor, delta: Tensor, cell: Tensor) -> Tensor:
        """As :class:`LinearHead`."""
        angle = (delta[..., None] * self.octaves).flatten(1)
        size = torch.log2(cell.clamp_min(1e-3) / USUAL_CELL)[:, None]
        where = torch.cat((delta, angle.sin(), angle.cos(), size), 1)
        return self.rest(self.taps(taps) + self.offset(where.to(taps.dtype)))


@dataclass(frozen=True)
class QueryVariant:
    """Choices on which release and sense differ."""

    head: Callable[[int, int, int], nn.Module]  # of NILI: width of a token, hidden, out
    cubic: float  # second derivative of the bicubic kernel at its middle tap (Keys 1981)


#: Ours: at -1/2 bicubic sampling gives a plane back; at -3/4, torch's, it bends it by up to 5 % of a cell.
VARIANTS: Mapping[str, QueryVariant] = {
    "ours": QueryVariant(MlpHead, -0.5),
    "paper": QueryVariant(LinearHead, -0.75),
    "released": QueryVariant(LinearHead, -0.75),
}


class Nili(nn.Module):
    """Tokens of a grid of ``grid`` × ``grid`` patches and places to embeddings.

    For each query: the four cells around it, each unfolded to its 3 × 3 neighbourhood (zero outside the tile, taps
    innermost) with the relative coordinate (one cell is 2 units); a shared head; the results mixed by the area of the
    rectangle diagonally opposite.
    """

    corners: Tensor

    def __init__(self, dim: int, grid: int, out: int, hidden: int, variant: str = "ours") -> None:
        super().__init__()
        self.grid = grid
        corners = torch.tensor([[-1.0, -1.0], [1.0, -1.0], [-1.0, 1.0], [1.0, 1.0]])
        self.register_buffer("corners", corners, persistent=False)
        self.imnet = VARIANTS[variant].head(dim, hidden, out)

    def forward(self, tokens: Tensor, sample: Tensor, u: Tensor, cell: Tensor) -> Tensor:
        """Embeddings f32[Q,out].

        Args:
            tokens: [B,grid*grid,D], row-major.
            sample: i64[Q], which tile.
            u: f32[Q,2], query (x, y) in [-1, 1] (schemas.footprint.gair_query).
            cell: f32[Q], metres a side of a patch of that tile.
        """
        n = self.grid
        u = u.float().clamp(-1.0, 1.0)
        corner = (u[:, None] + self.corners / n + EPSILON).clamp(-1 + EPSILON, 1 - EPSILON)
        place = ((corner + 1) / 2 * n).floor().long().clamp(0, n - 1)  # [Q,4,2] column, row
        centre = (2 * place.to(u.dtype) + 1) / n - 1
        delta = (u[:, None] - centre) * n
        area = delta.prod(-1).abs() + 1e-9
        weight = area.flip(1) / area.sum(1, keepdim=True)  # the list of corners read backwards is the opposite corners
        taps = self._unfold(tokens, sample, place).flatten(0, 1)
        out = self.imnet(taps, delta.flatten(0, 1), cell.float().repeat_interleave(4)).view(len(u), 4, -1)
        return (out.float() * weight[..., None]).sum(1)

    def _unfold(self, tokens: Tensor, sample: Tensor, place: Tensor) -> Tensor:
        """3 × 3 neighbourhoods [Q,4,9*D] of cells i64[Q,4,2], channel-major, taps innermost."""
        b, _, dim = tokens.shape
        n = self.grid
        padded = torch.nn.functional.pad(tokens.view(b, n, n, dim), (0, 0, 1, 1, 1, 1)).view(b * (n + 2) ** 2, dim)
        tap = torch.arange(3, device=tokens.device)
        row = place[..., 1, None, None] + tap[:, None]
        column = place[..., 0, None, None] + tap[None]
        index = (sample[:, None, None, None] * (n + 2) + row) * (n + 2) + column  # [Q,4,3,3]
        return take(padded, index.flatten(-2)).transpose(-1, -2).flatten(-2)


def linear_kernel(t: Tensor) -> Tensor:
    """Weights [...,2] of the two centres around a place, ``t`` in [0, 1) of the way."""
    return torch.stack((1 - t, t), -1)


def cubic_kernel(t: Tensor, a: float) -> Tensor:
    """Weights [...,4] of the four centres around a place, ``t`` in [0, 1) beyond the second (Keys 1981)."""

    def near(x: Tensor) -> Tensor:
        return ((a + 2) * x - (a + 3)) * x * x + 1

    def far(x: Tensor) -> Tensor:
        return ((a * x - 5 * a) * x + 8 * a) * x - 4 * a

    return torch.stack((far(t + 1), near(t), near(1 - t), far(2 - t)), -1)


def read_between(
    tokens: Tensor, grid: int, sample: Tensor, at: Tensor, kernel: Callable[[Tensor], Tensor] = linear_kernel,
    taps: int = 2, beyond: Literal["border", "nothing"] = "border",
) -> Tensor:  # fmt: skip
    """Tokens f32[Q,D] between patch centres.

    Args:
        tokens: [B,grid*grid,D], row-major.
        grid: patches a side.
        sample: i64[Q], which tile.
        at: f32[Q,2], normalised image coordinates.
        kernel: place between two centres to the weights of ``taps`` of them.
        taps: centres a side that are read.
        beyond: the tile ends: its border goes on, or there is nothing, 0.
    """
    flat = tokens.reshape(-1, tokens.shape[-1])
    at = at * grid - 0.5  # in patches from the first centre
    base = at.floor()
    weight = kernel(at - base)  # [Q,2,taps] of columns, of rows
    place = base.long()[..., None] + torch.arange(taps, device=at.device) - (taps // 2 - 1)
    if beyond == "nothing":
        weight = weight * ((place >= 0) & (place < grid))
    place = place.clamp(0, grid - 1)
    found = flat.new_zeros((len(at), flat.shape[1]), dtype=torch.float32)
    for row in range(taps):  # one centre after the other: all at once would be so many copies
        for column in range(taps):
            index = (sample * grid + place[:, 1, row]) * grid + place[:, 0, column]
            found = found + take(flat, index).float() * (weight[:, 1, row] * weight[:, 0, column])[:, None]
    return found


class Sampler(nn.Module):
    """Bilinear or bicubic sample of the tokens, as of an image whose border goes on outside, and one linear layer."""

    def __init__(self, dim: int, grid: int, out: int, kernel: Callable[[Tensor], Tensor], taps: int) -> None:
        super().__init__()
        self.grid, self.kernel, self.taps = grid, kernel, taps
        self.head = nn.Linear(dim, out)

    def sample(self, tokens: Tensor, sample: Tensor, u: Tensor) -> Tensor:
        """Tokens f32[Q,D] at places; arguments as of :meth:`Nili.forward`."""
        return read_between(tokens, self.grid, sample, (u.float().clamp(-1.0, 1.0) + 1) / 2, self.kernel, self.taps)

    def forward(self, tokens: Tensor, sample: Tensor, u: Tensor, cell: Tensor) -> Tensor:  # noqa: ARG002
        """As :meth:`Nili.forward`."""
        return self.head(self.sample(tokens, sample, u).to(tokens.dtype)).float()


def query_module(kind: QueryKind, dim: int, grid: int, out: int, hidden: int, variant: str) -> nn.Module:
    """What reads the embedding of a place from tokens of width ``dim``; all have the arguments of Nili.forward."""
    if kind == "nili":
        return Nili(dim, grid, out, hidden, variant)
    a = VARIANTS[variant].cubic
    kernel, taps = (linear_kernel, 2) if kind == "bilinear" else (partial(cubic_kernel, a=a), 4)
    return Sampler(dim, grid, out, kernel, taps)


def cell_size(bbox: Tensor, window: Tensor, grid: int) -> Tensor:
    """Metres a side of a patch f32[B], the root of its area, of footprints f64[B,4] in degrees and what is shown of
    them, f32[B,4] normalised (TileBatch.bbox and .window)."""
    west, south, east, north = torch.deg2rad(bbox).unbind(1)
    left, top, right, bottom = window.double().unbind(1)
    wide = torch.remainder(east - west, 2 * math.pi)  # a footprint may cross the antimeridian
    area = wide * (torch.sin(north) - torch.sin(south)) * (right - left) * (bottom - top)
    return (EARTH_RADIUS * area.clamp_min(0).sqrt() / grid).float()
