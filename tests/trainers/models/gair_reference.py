"""GAIR's losses composed as released, from docs/papers/gair.md#losses: the peer of the numerical check.

One photo after another, one corner and one tap after another, one queued place after another, in plain loops. Nothing
here is shared with trainers.models; the two image encoders are given, as they have references of their own.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

TEMPERATURE = 0.07
MEAN = (135.47184384, 142.28621995, 145.12271992)
DEVIATION = (59.19978436, 59.35279219, 72.02295734)
A1, A2, A3, A4 = 1.340264, -0.081106, 0.000893, 0.003796


@dataclass
class Sample:
    """One photo with its tile."""

    tile: Tensor  # u8 [C,S,S]
    photo: Tensor  # u8 [3,s,s]
    x: float  # in the tile, from the left, 0..1
    y: float  # from the top
    lon: float  # degrees
    lat: float


def plane(lon: float, lat: float) -> tuple[float, float]:
    """Equal Earth, in GeoCLIP's scale."""
    phi, lam = math.radians(lat), math.radians(lon)
    t = math.asin(math.sqrt(3) / 2 * math.sin(phi))
    x = 2 * math.sqrt(3) * lam * math.cos(t) / (3 * (9 * A4 * t**8 + 7 * A3 * t**6 + 3 * A2 * t**2 + A1))
    y = A4 * t**9 + A3 * t**7 + A2 * t**3 + A1 * t
    return x * 66.50336 / 180, y * 66.50336 / 180


class Reference(nn.Module):
    """The released composition. ``image`` gives tokens [1,P,D] in row order, ``street`` features [1,D']."""

    def __init__(self, image: nn.Module, street: nn.Module, token: int, feature: int, dim: int, grid: int,
                 frequencies: Tensor, hidden: int, queue: Tensor) -> None:  # fmt: skip
        super().__init__()
        self.image, self.street, self.grid, self.token = image, street, grid, token
        self.optical_proj = nn.Linear(feature, dim)
        self.imnet = nn.Linear(9 * token + 2, dim)
        self.frequencies = frequencies  # [3,F,2]
        width = 2 * frequencies.shape[1]
        self.capsules = nn.ModuleList()
        for _ in range(3):
            layers = [nn.Linear(width, hidden), nn.Linear(hidden, hidden), nn.Linear(hidden, hidden)]
            self.capsules.append(nn.ModuleList([*layers, nn.Linear(hidden, dim)]))
        self.queue = [(float(lon), float(lat)) for lon, lat in queue]

    def location(self, lon: float, lat: float) -> Tensor:
        p = torch.tensor(plane(lon, lat), dtype=torch.float64)
        total: Tensor | float = 0.0
        for b, (one, two, three, head) in zip(self.frequencies, self.capsules, strict=True):
            angle = 2 * math.pi * (b.double() @ p)
            h = torch.cat((angle.cos(), angle.sin())).float()
            for layer in (one, two, three):
                h = F.relu(layer(h))
            total = total + head(h)
        assert isinstance(total, Tensor)
        return total

    def at(self, tokens: Tensor, x: float, y: float) -> Tensor:
        """NILI on tokens [P,D] at a place in 0..1."""
        n, u, found = self.grid, (2 * x - 1, 2 * y - 1), []
        for vy in (-1, 1):
            for vx in (-1, 1):
                cell, delta = [], []
                for value, step in zip(u, (vx, vy), strict=True):
                    moved = min(max(value + step / n + 1e-6, -1 + 1e-6), 1 - 1e-6)
                    k = min(int((moved + 1) / 2 * n), n - 1)
                    cell.append(k)
                    delta.append((value - (-1 + (2 * k + 1) / n)) * n)
                column, row = cell
                taps = []
                for r in (row - 1, row, row + 1):
                    for c in (column - 1, column, column + 1):
                        inside = 0 <= r < n and 0 <= c < n
                        taps.append(tokens[r * n + c] if inside else torch.zeros(self.token))
                unfolded = torch.stack(taps, 1).reshape(-1)  # channel by channel, nine taps each
                found.append((self.imnet(torch.cat((unfolded, torch.tensor(delta)))), abs(delta[0] * delta[1]) + 1e-9))
        total = sum(area for _, area in found)
        opposite = {0: 3, 1: 2, 2: 1, 3: 0}
        return torch.stack([p * (found[opposite[t]][1] / total) for t, (p, _) in enumerate(found)]).sum(0)

    def embed(self, s: Sample) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Photo and image at its place in the common space; the photo's features and the tile's mean token."""
        tokens = self.image(s.tile[None].float() / 255)[0]
        pixels = torch.stack([(s.photo[c].float() - MEAN[c]) / DEVIATION[c] for c in range(3)])
        feature = self.street(pixels[None])[0]
        return self.optical_proj(feature), self.at(tokens, s.x, s.y), feature, tokens.mean(0)

    def forward(self, samples: list[Sample]) -> tuple[Tensor, Tensor]:
        """INCL and SECL, of which the release takes the sum; the queue then takes the places in."""
        unit = lambda t: t / t.norm()  # noqa: E731
        rows = [self.embed(s) for s in samples]
        photos, places = [unit(r[0]) for r in rows], [unit(r[1]) for r in rows]
        incl, secl = [], []
        for i in range(len(rows)):
            for a, others in ((photos[i], places), (places[i], photos)):
                logits = [a @ b / TEMPERATURE for b in others]
                incl.append(torch.logsumexp(torch.stack(logits), 0) - logits[i])
        negatives = [unit(self.location(lon, lat)) for lon, lat in self.queue]
        for i, s in enumerate(samples):
            own = unit(self.location(s.lon, s.lat))
            for a in (photos[i], places[i]):
                logits = [a @ b / TEMPERATURE for b in (own, *negatives)]
                secl.append(torch.logsumexp(torch.stack(logits), 0) - logits[0])
        self.queue = (self.queue + [(s.lon, s.lat) for s in samples])[-len(self.queue) :]
        return torch.stack(incl).mean(), torch.stack(secl).mean()


def distillation(reference: Reference, first: Reference, samples: list[Sample]) -> Tensor:
    """Of July 2025, without its weight of 0.2: minus the cosines to the first encoders, one photo a tile."""
    photo, tile = [], []
    for s in samples:
        now = reference.embed(s)
        with torch.no_grad():
            before = first.embed(s)
        photo.append(F.cosine_similarity(now[2], before[2], 0))
        tile.append(F.cosine_similarity(now[3], before[3], 0))
    return -(torch.stack(photo).mean() + torch.stack(tile).mean())
