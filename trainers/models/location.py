"""Location encoder: Equal Earth, random Fourier features at three scales, an MLP each.

docs/papers/gair.md#location-encoder.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

#: Coefficients of Equal Earth (Šavrič, Patterson and Jenny 2018).
A1, A2, A3, A4 = 1.340264, -0.081106, 0.000893, 0.003796
#: GeoCLIP's scale: it brings the projected plane to about ±1 by ±0.48.
SCALE = 66.50336 / 180.0
#: Standard deviations of the frequencies, in cycles a projected unit.
SIGMAS = (1.0, 16.0, 256.0)


def equal_earth(lonlat: Tensor) -> Tensor:
    """Longitude, latitude in degrees f64[...,2] to Equal Earth, scaled to about ±1 and ±0.48, f64[...,2]."""
    lon, lat = torch.deg2rad(lonlat.double()).unbind(-1)
    theta = torch.asin(math.sqrt(3.0) / 2.0 * torch.sin(lat))
    t2 = theta.square()
    t6 = t2**3
    slope = 9 * A4 * t6 * t2 + 7 * A3 * t6 + 3 * A2 * t2 + A1
    x = 2 * math.sqrt(3.0) * lon * torch.cos(theta) / (3 * slope)
    y = theta * (A4 * t6 * t2 + A3 * t6 + A2 * t2 + A1)
    return torch.stack((x, y), -1) * SCALE


class LocationEncoder(nn.Module):
    """Degrees f64[N,2] to embeddings f32[N,out]: the sum over scales of MLPs on [cos, sin] of frozen frequencies.

    Runs in fp64 and fp32 with autocast off: under bf16 the finest scale is noise (measured correlation 0.31).
    """

    frequencies: Tensor

    def __init__(self, out: int, features: int = 256, hidden: int = 1024) -> None:
        super().__init__()
        self.register_buffer("frequencies", torch.stack([torch.randn(features, 2) * s for s in SIGMAS]))
        self.capsules = nn.ModuleList(
            nn.Sequential(
                nn.Linear(2 * features, hidden), nn.ReLU(),
                nn.Linear(hidden, hidden), nn.ReLU(),
                nn.Linear(hidden, hidden), nn.ReLU(),
                nn.Linear(hidden, out),
            )
            for _ in SIGMAS
        )  # fmt: skip

    def features(self, lonlat: Tensor) -> Tensor:
        """Fourier features f32[scales,N,2*features]."""
        angle = 2 * math.pi * torch.einsum("nd,sfd->snf", equal_earth(lonlat), self.frequencies.double())
        return torch.cat((angle.cos(), angle.sin()), -1).float()

    def forward(self, lonlat: Tensor) -> Tensor:
        with torch.autocast(lonlat.device.type, enabled=False):
            features = self.features(lonlat)
            return torch.stack([mlp(f) for mlp, f in zip(self.capsules, features, strict=True)]).sum(0)
