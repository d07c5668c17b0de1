"""NILI: the embedding of one place inside a tile, read from the grid of patch tokens (docs/papers/gair.md#nili)."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn


def linear_head(inputs: int, _hidden: int, out: int) -> nn.Module:
    """As released: one linear layer, which makes NILI a bilinear sample of a 3 × 3 convolution."""
    return nn.Linear(inputs, out)


def mlp_head(inputs: int, hidden: int, out: int) -> nn.Module:
    """Ours: two hidden GELU layers, so that the relative coordinate matters between patch centres."""
    return nn.Sequential(
        nn.Linear(inputs, hidden), nn.GELU(), nn.Linear(hidden, hidden), nn.GELU(), nn.Linear(hidden, out)
    )


HEADS: Mapping[str, Callable[[int, int, int], nn.Module]] = {
    "ours": mlp_head,
    "paper": linear_head,
    "released": linear_head,
}
#: Pushes a query on a cell border to one side, and keeps areas and borders away from zero.
EPSILON = 1e-6


class Nili(nn.Module):
    """Tokens [B,h*w,D] row-major and queries to embeddings [Q,out].

    For each query: the four cells around it, each unfolded to its 3 × 3 neighbourhood (zero outside the tile, taps
    innermost) with the relative coordinate (one cell is 2 units) appended; a shared head; the results mixed by the area
    of the rectangle diagonally opposite.
    """

    corners: Tensor

    def __init__(self, dim: int, grid: int, out: int, hidden: int, variant: str = "ours") -> None:
        super().__init__()
        self.grid = grid
        corners = torch.tensor([[-1.0, -1.0], [1.0, -1.0], [-1.0, 1.0], [1.0, 1.0]])
        self.register_buffer("corners", corners, persistent=False)
        self.imnet = HEADS[variant](9 * dim + 2, hidden, out)

    def forward(self, tokens: Tensor, sample: Tensor, u: Tensor) -> Tensor:
        """``sample`` i64[Q] which tile, ``u`` f32[Q,2] query (x, y) in [-1, 1] (schemas.footprint.gair_query)."""
        n, dim = self.grid, tokens.shape[-1]
        u = u.float().clamp(-1.0, 1.0)
        corner = (u[:, None] + self.corners / n + EPSILON).clamp(-1 + EPSILON, 1 - EPSILON)
        cell = ((corner + 1) / 2 * n).floor().long().clamp(0, n - 1)  # [Q,4,2] column, row
        centre = (2 * cell.to(u.dtype) + 1) / n - 1
        delta = (u[:, None] - centre) * n
        area = delta.prod(-1).abs() + 1e-9
        weight = area.flip(1) / area.sum(1, keepdim=True)  # the list of corners read backwards is the opposite corners
        features = torch.cat((self._unfold(tokens, sample, cell).to(tokens.dtype), delta.to(tokens.dtype)), -1)
        out = self.imnet(features.view(-1, 9 * dim + 2)).view(len(u), 4, -1)
        return (out.float() * weight[..., None]).sum(1)

    def _unfold(self, tokens: Tensor, sample: Tensor, cell: Tensor) -> Tensor:
        """3 × 3 neighbourhoods [Q,4,9*D] of cells i64[Q,4,2], channel-major, taps innermost."""
        b, _, dim = tokens.shape
        n = self.grid
        padded = torch.nn.functional.pad(tokens.view(b, n, n, dim), (0, 0, 1, 1, 1, 1)).view(b * (n + 2) ** 2, dim)
        tap = torch.arange(3, device=tokens.device)
        row = cell[..., 1, None, None] + tap[:, None]
        column = cell[..., 0, None, None] + tap[None]
        index = (sample[:, None, None, None] * (n + 2) + row) * (n + 2) + column  # [Q,4,3,3]
        return padded[index.flatten(-2)].transpose(-1, -2).flatten(-2)
