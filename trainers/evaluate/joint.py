"""The joint model measured while it trains: as GeoLink and as GAIR, each by its own names."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from trainers.engine.evaluation import EvaluationReport
from trainers.engine.settings import TrainSettings
from trainers.evaluate.gair import evaluate_gair
from trainers.evaluate.geolink import evaluate_geolink
from trainers.models.joint.model import Joint


def evaluate_joint(
    model: Joint, settings: TrainSettings, roots: Sequence[str], device: torch.device
) -> EvaluationReport | None:
    """Both tasks' scores as ``TASK/NAME``; None where the validation split has nothing for any task with a weight.

    ``loss`` is that of both by ``loss.task_weights``, whatever a run learns beside them: two evaluations compare. A
    task whose weight is 0, or that the split has nothing for, is left out.
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
    first = next(iter(reports.values()))
    note = " ".join(f"{name}: {report.note}" for name, report in reports.items())
    return EvaluationReport(scores, first.features, first.classes, first.names, note)
