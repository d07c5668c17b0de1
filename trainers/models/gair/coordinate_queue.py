"""The places of photos seen before: negatives of the location encoder, encoded anew in each step."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from trainers.models.gair.settings import QueueStart


class CoordinateQueue(nn.Module):
    """The last K places seen, raw degrees, first in first out; knows how many it holds.

    ``start`` gaussian fills it first, as released, with random pairs of unit length: places near (0°, 0°).
    """

    places: Tensor
    held: Tensor
    head: Tensor

    def __init__(self, size: int, start: QueueStart = "empty") -> None:
        super().__init__()
        self.size = size
        filled = start == "gaussian"
        places = nn.functional.normalize(torch.randn(size, 2).double(), dim=1) if filled else torch.zeros(size, 2)
        self.register_buffer("places", places.double())
        self.register_buffer("held", torch.full((), size if filled else 0, dtype=torch.long))
        self.register_buffer("head", torch.zeros((), dtype=torch.long))

    def valid(self) -> Tensor:
        """bool[K]: which rows hold a place."""
        return torch.arange(self.size, device=self.places.device) < self.held

    @torch.no_grad()
    def push(self, lonlat: Tensor, valid: Tensor) -> None:
        """Append the valid rows of f64[N,2]; of more than K only the last K. Never synchronises with the host."""
        number = torch.cumsum(valid.long(), 0) - 1
        count = valid.sum()
        kept = valid & (number >= count - self.size)
        place = torch.where(kept, (self.head + number) % self.size, self.size)
        grown = torch.cat((self.places, self.places.new_zeros(1, 2)))
        grown[place] = lonlat.double()
        self.places.copy_(grown[: self.size])
        self.head.copy_((self.head + count) % self.size)
        self.held.copy_((self.held + count).clamp_max(self.size))
