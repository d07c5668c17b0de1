"""What divides the similarities of a contrast: fixed, or learned within bounds."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


class Temperature(nn.Module):
    """A fixed temperature, or a learned logarithm of its inverse that is kept within ``bounds`` (least, most).

    The parameter itself is brought back to the bounds, so that a gradient can lead it away from them again.
    """

    def __init__(self, first: float, learned: bool = False, bounds: tuple[float, float] = (0.01, 0.5)) -> None:
        super().__init__()
        self.fixed = None if learned else first
        if learned:
            self.log_scale = nn.Parameter(torch.tensor([-math.log(first)]))
            self.bounds = -math.log(bounds[1]), -math.log(bounds[0])

    def forward(self) -> float | Tensor:
        if self.fixed is not None:
            return self.fixed
        with torch.no_grad():
            self.log_scale.clamp_(*self.bounds)
        return torch.exp(-self.log_scale)
