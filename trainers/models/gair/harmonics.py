"""Real spherical harmonics of longitude and latitude: orthonormal on the unit sphere, in float64, by recurrence."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def legendre(z: Tensor, degree: int) -> list[Tensor]:
    """Associated Legendre functions of z = sin(latitude) f64[N]: for each l = 0 … degree f64[N,l+1], m = 0 … l.

    Normalised so that their squares integrate to 1/2π over [-1, 1] (Holmes and Featherstone 2002), without the sign
    of Condon and Shortley.
    """
    y = (1 - z.square()).clamp_min(0).sqrt()
    order = torch.arange(degree + 1, device=z.device, dtype=torch.float64)
    l2, m2 = order[:, None].square(), order.square()
    below = (order - 1)[:, None].square()
    # P(l,m) = a · (z P(l-1,m) − b P(l-2,m)); what is not finite has m ≥ l - 1 and is not read
    a, b = ((4 * l2 - 1) / (l2 - m2)).sqrt(), ((below - m2) / (4 * below - 1)).sqrt()
    rows = [torch.full_like(z, math.sqrt(1 / (4 * math.pi)))[:, None]]
    for n in range(1, degree + 1):
        before = rows[-1]
        diagonal = math.sqrt((2 * n + 1) / (2 * n)) * y[:, None] * before[:, -1:]
        beside = math.sqrt(2 * n + 1) * z[:, None] * before[:, -1:]
        parts = [beside, diagonal]
        if n > 1:
            parts.insert(0, a[n, : n - 1] * (z[:, None] * before[:, :-1] - b[n, : n - 1] * rows[-2]))
        rows.append(torch.cat(parts, 1))
    return rows


def spherical_harmonics(lonlat: Tensor, degree: int) -> Tensor:
    """Y f64[N,(degree+1)²] of degrees f64[N,2] (lon, lat): l by l, within it m = -l … l; sines where m < 0."""
    lon, lat = torch.deg2rad(lonlat.double()).unbind(-1)
    m = torch.arange(1, degree + 1, device=lonlat.device, dtype=torch.float64)
    angle = lon[:, None] * m
    sine, cosine = math.sqrt(2) * angle.sin(), math.sqrt(2) * angle.cos()
    found = []
    for n, row in enumerate(legendre(torch.sin(lat), degree)):
        found += [(row[:, 1:] * sine[:, :n]).flip(1), row[:, :1], row[:, 1:] * cosine[:, :n]]
    return torch.cat(found, 1)
