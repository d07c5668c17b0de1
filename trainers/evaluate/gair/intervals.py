"""A measure as one value a photo, and its interval by a bootstrap of blocks of ground.

Photos of a street rise and fall together: drawing photos would make every interval too narrow.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

#: Side of a block in degrees of latitude: about 1.1 km.
BLOCK = 0.01
#: Fewest blocks that an interval is given for, draws, and the share that it holds.
LEAST_BLOCKS, DRAWS, SHARE = 8, 200, 0.95


@dataclass(frozen=True, eq=False)
class PerPhoto:
    """Values of M of the N photos, and what is made of them: their mean, or their median."""

    values: Tensor  # f64 [M]
    photo: Tensor  # i64 [M]
    median: bool = False

    def __len__(self) -> int:
        return len(self.values)

    def value(self) -> float:
        """The measure."""
        return float(self.values.median() if self.median else self.values.mean())

    def interval(self, block: Tensor) -> tuple[float, float] | None:
        """Its 95 % interval; ``block`` i64[N] is that of each photo. None where they are too few. Always the same."""
        _, own = block[self.photo].unique(return_inverse=True)
        count = int(own.max()) + 1
        if count < LEAST_BLOCKS:
            return None
        drawn = torch.randint(count, (DRAWS, count), generator=torch.Generator().manual_seed(0))
        times = torch.zeros(DRAWS, count, dtype=torch.float64).scatter_add_(1, drawn, torch.ones_like(drawn).double())
        weight = times[:, own]
        if self.median:
            order = self.values.argsort(stable=True)
            below = weight[:, order].cumsum(1)
            middle = torch.searchsorted(below, below[:, -1:] / 2).squeeze(1)
            found = self.values[order][middle]
        else:
            found = (weight @ self.values) / weight.sum(1)
        low, high = found.quantile(torch.tensor([(1 - SHARE) / 2, (1 + SHARE) / 2], dtype=torch.float64)).tolist()
        return low, high


def blocks(lonlat: Tensor) -> Tensor:
    """The block i64[N] of each place f64[N,2] in degrees."""
    row = (lonlat[:, 1] / BLOCK).floor()
    width = BLOCK / torch.cos(torch.deg2rad(((row + 0.5) * BLOCK).clamp(-89.0, 89.0)))
    column = (lonlat[:, 0] / width).floor()
    return (row * 1_000_000 + column).long()
