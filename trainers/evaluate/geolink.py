"""GeoLink measured on the geographic validation split while it trains."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from trainers.engine.evaluation import EvaluationReport
from trainers.engine.settings import TrainSettings
from trainers.evaluate.labels import TASKS, Legend, labels
from trainers.evaluate.protocols import Labelled, knn, linear_probe, majority, retrieval
from trainers.evaluate.split import open_split
from trainers.models.geolink import GeoLink
from trainers.stream.stream import GeoStream

#: Fewest labelled samples, on each side, for which a probe says something.
LEAST = 8
_NOTE = (
    "cst beside cst_zero and cst_mean: what predicting 0, or the mean, would give. r@k: image and objects, beside "
    "chance. Probes of the frozen image encoder beside the majority class."
)


def evaluate_geolink(
    model: GeoLink, settings: TrainSettings, roots: Sequence[str], device: torch.device
) -> EvaluationReport | None:
    """Losses, retrieval and probes; None where the validation split holds nothing.

    The losses are those of training, masks by the slots' seeds included, so that two evaluations compare. Everything
    else sees whole images and whole graphs. Every process computes the same.
    """
    view = GeoLink.view(model.settings, model.fidelity)
    held = open_split(settings, roots, view, settings.eval.split, settings.eval.samples)
    if held is None:
        return None
    gather, model.gather = model.gather, False
    legend = Legend.of(roots)
    try:
        losses, test = _losses(model, held, device), _features(model, held, legend, device)
        seen = open_split(settings, roots, view, "train", settings.eval.train_samples)
        train = _features(model, seen, legend, device) if seen is not None else None
    finally:
        model.gather = gather
    both = test["has_objects"]
    found = retrieval(test["image_head"][both], test["graph_head"][both]) if int(both.sum()) >= 2 else {}
    scores = losses | found | (_probes(train, test) if train is not None else {})
    return EvaluationReport(scores, test["image"], test["land_use"], TASKS["land_use"], _NOTE)


@torch.no_grad()
def _losses(model: GeoLink, stream: GeoStream, device: torch.device) -> dict[str, float]:
    """Mean losses over the split, L_cst beside what trivial predictions would give."""
    total: dict[str, float] = {}
    count = 0
    for batch in stream.batches(until_epoch=stream.epoch + 1):
        batch = batch.to(device)
        samples = int(batch.valid.sum())
        parts = model(batch) | {f"cst_{k}": v for k, v in model.trivial_consistency(batch).items()}
        for name, value in parts.items():
            total[name] = total.get(name, 0.0) + float(value) * samples
        count += samples
    stream.set_epoch(0)
    return {name: value / max(1, count) for name, value in total.items()}


@torch.no_grad()
def _features(model: GeoLink, stream: GeoStream, legend: Legend, device: torch.device) -> dict[str, Tensor]:
    """Of all samples with an image: frozen ViT features, both sides of the contrast, classes by task."""
    rows: dict[str, list[Tensor]] = {}
    for batch in stream.batches(until_epoch=stream.epoch + 1):
        batch = batch.to(device)
        tokens = model.embed_tiles(batch)
        region, has_objects = model.embed_objects(batch)
        found = {
            "image": tokens, "image_head": model.image_head(tokens), "graph_head": model.graph_head(region),
            "has_objects": has_objects, **labels(batch, legend),
        }  # fmt: skip
        valid = batch.valid & batch.has_rs
        for name, value in found.items():
            rows.setdefault(name, []).append(
                value[valid].float().cpu() if value.is_floating_point() else value[valid].cpu()
            )
    return {name: torch.cat(parts) for name, parts in rows.items()}


def _probes(train: dict[str, Tensor], test: dict[str, Tensor]) -> dict[str, float]:
    scores: dict[str, float] = {}
    for task in TASKS:
        seen, held = (Labelled(part["image"], part[task]).known() for part in (train, test))
        if min(len(seen), len(held)) < LEAST or len(seen.classes.unique()) < 2:
            continue
        scores |= {
            f"{task}_knn": knn(seen, held), f"{task}_linear": linear_probe(seen, held),
            f"{task}_majority": majority(seen, held),
        }  # fmt: skip
    return scores
