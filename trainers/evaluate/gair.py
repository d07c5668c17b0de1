"""GAIR measured on the geographic validation split while it trains."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from trainers.engine.evaluation import EvaluationReport
from trainers.engine.settings import TrainSettings
from trainers.evaluate.protocols import retrieval
from trainers.evaluate.split import open_split
from trainers.models.gair.model import Gair
from trainers.models.losses import great_circle, info_nce, normalise, queue_nce
from trainers.stream.batch import TileBatch

#: Photos compared with all others at once.
_CHUNK = 1024
_NOTE = (
    "incl: photo against the image at its place, among the photos of a batch. secl: photo and image against the "
    "location, among all places of the split instead of the queue. r@k: photo and image at its place, location_r@k: "
    "photo and location, beside chance. median_km: from a photo to the place whose location is the nearest to it, "
    "beside what a random place gives."
)


def evaluate_gair(
    model: Gair, settings: TrainSettings, roots: Sequence[str], device: torch.device
) -> EvaluationReport | None:
    """Losses, retrieval and geolocalisation; None where the validation split has no photos.

    SECL's negatives are the places of the split: those of the queue depend on the training. Every process computes the
    same.
    """
    stream = open_split(
        settings, roots, Gair.view(model.settings, model.fidelity), settings.eval.split, settings.eval.samples
    )
    if stream is None:
        return None
    photo, place, lonlat = map(torch.cat, zip(*_embed(model, stream.batches(until_epoch=1), device), strict=True))
    if len(photo) < 2:
        return None
    with torch.no_grad():
        location = torch.cat([model.location(part) for part in lonlat.split(_CHUNK)]).float()
    scores = _losses(model, photo, place, location, lonlat, settings.eval.batch_size)
    here, there = retrieval(photo, place), retrieval(photo, location)
    scores |= here | {f"location_{name}": value for name, value in there.items()}
    scores |= _distances(photo, location, lonlat)
    unknown = torch.full((len(photo),), -1)
    return EvaluationReport(scores, photo.cpu(), unknown, (), _NOTE)


@torch.no_grad()
def _embed(model: Gair, batches: Iterator[TileBatch], device: torch.device) -> Iterator[tuple[Tensor, ...]]:
    """Of all photos of samples with an image, batch by batch: photo f32[Q,dim], image at its place, place f64[Q,2]."""
    for batch in batches:
        batch = batch.to(device)
        valid = model.photo_mask(batch)
        photo, place = model.encode_photos(batch), model.localise(model.encode_tiles(batch), batch)
        yield photo[valid].float(), place[valid].float(), batch.photo_lonlat[valid].double()


@torch.no_grad()
def _losses(
    model: Gair, photo: Tensor, place: Tensor, location: Tensor, lonlat: Tensor, batch: int
) -> dict[str, float]:
    """INCL over batches of photos, SECL over chunks, and the sum with the weights of training."""
    temperature, count = model.settings.temperature, len(photo)
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


def _distances(photo: Tensor, location: Tensor, lonlat: Tensor) -> dict[str, float]:
    """Median kilometres from a photo to the place that its embedding names, and to any other place."""
    near = (normalise(photo) @ normalise(location).T).argmax(1)
    apart = torch.cat([great_circle(part, lonlat).cpu() for part in lonlat.split(_CHUNK)]) / 1000
    rows = torch.arange(len(apart))
    other = apart[~torch.eye(len(apart), dtype=torch.bool)]
    return {"median_km": float(apart[rows, near.cpu()].median()), "chance_median_km": float(other.median())}
