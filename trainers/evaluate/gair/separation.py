"""How well the location encoder tells places apart that lie so and so far from each other."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from trainers.evaluate.gair.places import GOLDEN, walked
from trainers.models.losses import normalise

#: Metres.
DISTANCES = (10.0, 30.0, 100.0, 300.0, 1e3, 3e3, 1e4, 3e4, 1e5)
#: Places from which one walks.
SOME = 256


def separation_name(distance: float) -> str:
    """Name of the score."""
    return f"separation/cosine_at_{distance:g}m"


def separation(location: Callable[[Tensor], Tensor], lonlat: Tensor, device: torch.device) -> dict[str, float]:
    """Mean cosine of places f64[N,2] and places so many metres away, each in another direction, by distance."""
    some = lonlat[:: -(-len(lonlat) // SOME)]
    here = normalise(location(some.to(device)))
    bearing = GOLDEN * torch.arange(len(some), dtype=torch.float64)
    found = {}
    for distance in DISTANCES:
        there = normalise(location(walked(some, distance, bearing).to(device)))
        found[separation_name(distance)] = float((here * there).sum(1).mean())
    return found


def separation_chance(location: Callable[[Tensor], Tensor], lonlat: Tensor, device: torch.device) -> dict[str, float]:
    """The mean cosine of any two of the places, whatever lies between them."""
    here = normalise(location(lonlat[:: -(-len(lonlat) // SOME)].to(device)))
    count = len(here)
    whole = (here @ here.T).sum() - here.square().sum()
    return dict.fromkeys(map(separation_name, DISTANCES), float(whole / max(1, count * (count - 1))))
