"""The joint model measured while it trains: as GeoLink and as GAIR, each by its own names."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from trainers.engine.evaluation import EvaluationReport
from trainers.engine.settings import TrainSettings
from trainers.evaluate.gair import evaluate_gair
from trainers.evaluate.geolink import evaluate_geolink
from trainers.evaluate.protocols import retrieval
from trainers.evaluate.split import open_split
from trainers.models.joint.model import Joint


def evaluate_joint(
    model: Joint, settings: TrainSettings, roots: Sequence[str], device: torch.device
) -> EvaluationReport | None:
    """Both tasks' scores as ``TASK/NAME``; None where the validation split has nothing for any task with a weight.

    ``loss`` is that of both by ``loss.task_weights``, whatever a run learns beside them: two evaluations compare. The
    contrasts with objects are measured by retrieval alone. A task whose weight is 0, or that the split has nothing for,
    is left out.
    """
    weights, found = model.weights.task_weights.named(), {}
    if weights["geolink"]:
        found["geolink"] = evaluate_geolink(model.geolink, settings, roots, device)
    if weights["gair"]:
        found["gair"] = evaluate_gair(model.gair, settings, roots, device)
    reports = {name: report for name, report in found.items() if report is not None}
    if not reports:
        return None
    scores = {"loss": sum(weights[name] * report.scores["loss"] for name, report in reports.items())}
    for name, report in reports.items():
        scores |= {f"{name}/{key}": value for key, value in report.scores.items()}
    scores |= _objects(model, settings, roots, device)
    first = next(iter(reports.values()))
    note = " ".join(f"{name}: {report.note}" for name, report in reports.items())
    return EvaluationReport(scores, first.features, first.classes, first.names, note)


@torch.no_grad()
def _objects(model: Joint, settings: TrainSettings, roots: Sequence[str], device: torch.device) -> dict[str, float]:
    """Retrieval between photos and the objects around them, and between tiles' objects and locations of centres."""
    wanted = [name for name in ("osm_photo", "osm_location") if name in model.tasks]
    view = Joint.view(model.settings, model.fidelity)
    stream = open_split(settings, roots, view, settings.eval.split, settings.eval.samples) if wanted else None
    rows: dict[str, list[tuple[Tensor, Tensor]]] = {name: [] for name in wanted}
    for batch in stream.batches(until_epoch=1) if stream else ():
        for name, pair in model.with_objects(batch.to(device), wanted).items():
            rows[name].append((pair.a[pair.valid].float(), pair.b[pair.valid].float()))
    scores: dict[str, float] = {}
    for name, held in rows.items():
        a, b = map(torch.cat, zip(*held, strict=True)) if held else (torch.empty(0, 1),) * 2
        if len(a) >= 2:
            scores |= {f"{name}/{key}": value for key, value in retrieval(a, b).items()}
    return scores
