"""The losses of training, over a whole split."""

from __future__ import annotations

import torch
from torch import Tensor

from trainers.models.gair.model import Gair
from trainers.models.losses import great_circle, info_nce, queue_nce

#: Photos compared with all others at once.
_CHUNK = 1024


@torch.no_grad()
def split_losses(
    model: Gair, photo: Tensor, place: Tensor, location: Tensor, lonlat: Tensor, batch: int
) -> dict[str, float]:
    """INCL over batches of photos, SECL over chunks, and the sum with the weights of training.

    SECL's negatives are the places of the split: those of the queue depend on the training.
    """
    temperature, count = float(model.temperature()), len(photo)
    totals = dict.fromkeys(("incl", "secl"), 0.0)
    for first in range(0, count, batch):
        own = slice(first, first + batch)
        near = great_circle(lonlat[own], lonlat[own]) < model.incl_radius
        every = torch.ones(len(near), dtype=torch.bool, device=near.device)
        totals["incl"] += float(info_nce(photo[own], place[own], every, temperature, near)) * len(near)
    for first in range(0, count, _CHUNK):
        own = slice(first, first + _CHUNK)
        allowed = great_circle(lonlat[own], lonlat) >= model.secl_radius
        rows = torch.arange(len(allowed), device=allowed.device)
        allowed[rows, first + rows] = False  # its own place is the positive, however small the radius
        every = torch.ones_like(rows, dtype=torch.bool)
        for rows_of in (photo, place):
            term = queue_nce(rows_of[own], location[own], every, location, allowed, temperature)
            totals["secl"] += float(term) * len(rows) / 2
    means = {name: total / count for name, total in totals.items()}
    return {"loss": sum(getattr(model.weights, name) * value for name, value in means.items()), **means}
