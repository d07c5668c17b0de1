"""Location encoders behind one interface: degrees f64[N,2] (lon, lat) to embeddings f32[N,out].

Each runs in fp64 and fp32 with autocast off: under bf16 the finest scale of the release is noise (measured correlation
0.31). docs/papers/gair.md#location-encoder.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn

from trainers.models.gair.harmonics import spherical_harmonics

#: Which encoder: random Fourier features, or spherical harmonics and a SIREN.
LocationKind = Literal["rff", "sh_siren"]
#: Coefficients of Equal Earth (Šavrič, Patterson and Jenny 2018).
A1, A2, A3, A4 = 1.340264, -0.081106, 0.000893, 0.003796
#: GeoCLIP's scale: it brings the projected plane to about ±1 by ±0.48.
SCALE = 66.50336 / 180.0
#: Standard deviations of the frequencies, in cycles a projected unit, which is 17,244 km.
RELEASED_SCALES = (1.0, 16.0, 256.0)
#: Ours goes on to waves of some 260 m: places 100 m apart differ, 10 m apart hardly.
FINE_SCALES = (*RELEASED_SCALES, 2.0**12, 2.0**14, 2.0**16)
SCALES: Mapping[str, tuple[float, ...]] = {"ours": FINE_SCALES, "paper": RELEASED_SCALES, "released": RELEASED_SCALES}
#: Factor inside the first sine of a SIREN (Sitzmann et al. 2020).
FIRST_OMEGA = 30.0


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


class FourierLocation(nn.Module):
    """Equal Earth, then the sum over scales of MLPs on [cos, sin] of frozen frequencies (GeoCLIP's encoder)."""

    frequencies: Tensor

    def __init__(self, out: int, features: int, hidden: int, scales: Sequence[float]) -> None:
        super().__init__()
        self.register_buffer("frequencies", torch.stack([torch.randn(features, 2) * s for s in scales]))
        self.capsules = nn.ModuleList(
            nn.Sequential(
                nn.Linear(2 * features, hidden), nn.ReLU(),
                nn.Linear(hidden, hidden), nn.ReLU(),
                nn.Linear(hidden, hidden), nn.ReLU(),
                nn.Linear(hidden, out),
            )
            for _ in scales
        )  # fmt: skip

    def features(self, lonlat: Tensor) -> Tensor:
        """Fourier features f32[scales,N,2*features]."""
        angle = 2 * math.pi * torch.einsum("nd,sfd->snf", equal_earth(lonlat), self.frequencies.double())
        return torch.cat((angle.cos(), angle.sin()), -1).float()

    def forward(self, lonlat: Tensor) -> Tensor:
        with torch.autocast(lonlat.device.type, enabled=False):
            features = self.features(lonlat)
            return torch.stack([mlp(f) for mlp, f in zip(self.capsules, features, strict=True)]).sum(0)


class Sine(nn.Module):
    """Linear layer and the sine of ``omega`` times it; its first weights keep the spread of what goes through."""

    def __init__(self, inputs: int, out: int, first: bool) -> None:
        super().__init__()
        self.omega = FIRST_OMEGA if first else 1.0
        self.linear = nn.Linear(inputs, out)
        bound = 1 / inputs if first else math.sqrt(6 / inputs)
        nn.init.uniform_(self.linear.weight, -bound, bound)
        nn.init.uniform_(self.linear.bias, -bound, bound)

    def forward(self, x: Tensor) -> Tensor:
        return torch.sin(self.omega * self.linear(x))


class HarmonicLocation(nn.Module):
    """Spherical harmonics and a SIREN (Rußwurm et al. 2024). Knows no poles or date line; detail ends at its degree."""

    def __init__(self, out: int, degree: int, hidden: int, depth: int = 2) -> None:
        super().__init__()
        self.degree = degree
        widths = [(degree + 1) ** 2, *[hidden] * depth]
        layers = [Sine(a, b, not i) for i, (a, b) in enumerate(pairwise(widths))]
        self.siren = nn.Sequential(*layers, nn.Linear(hidden, out))

    def forward(self, lonlat: Tensor) -> Tensor:
        with torch.autocast(lonlat.device.type, enabled=False):
            return self.siren(spherical_harmonics(lonlat, self.degree).float())


def location_encoder(
    kind: LocationKind, out: int, *, hidden: int, features: int, scales: Sequence[float], degree: int
) -> nn.Module:
    """The encoder of that kind, with new weights."""
    if kind == "sh_siren":
        return HarmonicLocation(out, degree, hidden)
    return FourierLocation(out, features, hidden, scales)
