"""The losses of training, over a whole split."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import torch
from torch import Tensor

from trainers.models.gair.model import Gair
from trainers.models.losses import great_circle, info_nce, queue_nce
from trainers.stream.batch import TileBatch

#: Photos compared with all others at once.
_CHUNK = 1024


@torch.no_grad()
def split_losses(
    model: Gair, photo: Tensor, place: Tensor, location: Tensor, lonlat: Tensor, batch: int,
    beside: Mapping[str, float],
) -> dict[str, float]:  # fmt: skip
    """INCL over batches of photos, SECL over chunks, and the sum with the weights of training.

    SECL's negatives are the places of the split: those of the queue depend on the training. ``beside`` are the losses
    that need no pairs, see :class:`BesidePairs`.
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
    means = {name: total / count for name, total in totals.items()} | dict(beside)
    return {"loss": sum(getattr(model.weights, name) * value for name, value in means.items()), **means}


class BesidePairs:
    """Losses of training that need no pairs, over a whole split: hidden patches, and cosines to the first encoders.

    The batches' means are weighted by their images and photos. What is hidden depends on a slot's seed alone, which is
    the same in every evaluation.
    """

    def __init__(self, model: Gair) -> None:
        self._model = model
        self._total: dict[tuple[str, str], Tensor] = {}  # by loss and by what it is of
        self._count: dict[tuple[str, str], Tensor] = {}

    def watch(self, batches: Iterable[TileBatch], device: torch.device) -> Iterator[TileBatch]:
        """The batches on ``device``, each of them taken into account."""
        for batch in batches:
            moved = batch.to(device)
            self._take(moved)
            yield moved

    @torch.no_grad()
    def _take(self, batch: TileBatch) -> None:
        model, weights = self._model, self._model.weights
        if weights.rec:
            parts = zip(("image", "photo"), model.reconstructed(batch), model.shown(batch), strict=True)
            for of, mean, shown in parts:
                self._add("rec", of, mean * shown.sum(), shown.sum())
        if weights.dist:
            photo, tile = model.kept(batch, model.encode_tiles(batch), model.photo_features(batch))
            for of, values, valid in (
                ("photo", photo, model.photo_mask(batch)), ("image", tile, batch.valid & batch.has_rs)
            ):  # fmt: skip
                self._add("dist", of, torch.where(valid, values, torch.zeros_like(values)).sum(), valid.sum())

    def _add(self, name: str, of: str, total: Tensor, count: Tensor) -> None:
        self._total[name, of] = self._total.get((name, of), 0) + total.double()
        self._count[name, of] = self._count.get((name, of), 0) + count

    def values(self) -> dict[str, float]:
        """Those that have a weight."""
        mean = {key: float(total / self._count[key].clamp_min(1)) for key, total in self._total.items()}
        found = {}
        for name, sign in (("rec", 0.5), ("dist", -1.0)):
            if (name, "image") in mean:
                found[name] = sign * (mean[name, "image"] + mean[name, "photo"])
        return found
