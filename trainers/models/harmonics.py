"""Real spherical harmonics of longitude and latitude: orthonormal on the unit sphere, in float64, by recurrence."""

from __future__ import annotations

import math
from functools import cache

import torch
from torch import Tensor


@cache
def _recurrence(degree: int) -> tuple[tuple[Tensor, Tensor], ...]:
    """a, b f64[l-1] of each l = 2 … degree for m = 0 … l-2: P(l,m) = a · (z P(l-1,m) − b P(l-2,m))."""
    found = []
    for n in range(2, degree + 1):
        m2 = torch.arange(n - 1, dtype=torch.float64).square()
        a = ((4 * n * n - 1) / (n * n - m2)).sqrt()
        b = (((n - 1) ** 2 - m2) / (4 * (n - 1) ** 2 - 1)).sqrt()
        found.append((a, b))
    return tuple(found)


def legendre(z: Tensor, degree: int) -> list[Tensor]:
    """Associated Legendre functions of z = sin(latitude) f64[N]: for each l = 0 … degree f64[N,l+1], m = 0 … l.

    Normalised so that their squares integrate to 1/2π over [-1, 1] (Holmes and Featherstone 2002), without the sign
    of Condon and Shortley.
    """
    y = (1 - z.square()).clamp_min(0).sqrt()
    rows = [torch.full_like(z, math.sqrt(1 / (4 * math.pi)))[:, None]]
    for n in range(1, degree + 1):
        before = rows[-1]
        diagonal = math.sqrt((2 * n + 1) / (2 * n)) * y[:, None] * before[:, -1:]
        beside = math.sqrt(2 * n + 1) * z[:, None] * before[:, -1:]
        parts = [beside, diagonal]
        if n > 1:
            a, b = (t.to(z.device) for t in _recurrence(degree)[n - 2])
            parts.insert(0, a * (z[:, None] * before[:, :-1] - b * rows[-2]))
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
