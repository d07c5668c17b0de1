"""The places of photos seen before: negatives of the location encoder, encoded anew in each step."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class CoordinateQueue(nn.Module):
    """The last K places seen, raw degrees, first in first out; starts empty and knows how many it holds."""

    places: Tensor
    held: Tensor
    head: Tensor

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size
        self.register_buffer("places", torch.zeros(size, 2, dtype=torch.float64))
        self.register_buffer("held", torch.zeros((), dtype=torch.long))
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
