"""The joint model measured while it trains: as GeoLink and as GAIR, each by its own names."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from trainers.engine.evaluation import EvaluationReport
from trainers.engine.settings import TrainSettings
from trainers.evaluate.gair.evaluation import GairEvaluation
from trainers.evaluate.geolink import evaluate_geolink
from trainers.evaluate.protocols import retrieval
from trainers.evaluate.split import open_split
from trainers.models.joint.model import Joint


class JointEvaluation:
    """Measures the models of one run: both tasks' scores as ``TASK/NAME``.

    ``loss`` is that of both by ``loss.task_weights``, whatever a run learns beside them: two evaluations compare. The
    contrasts with objects are measured by retrieval alone. A task whose weight is 0, or that the split has nothing for,
    is left out.

    Args:
        build: settings to a model.
        settings: of the run.
        roots: dataset directories.
        device: of the models.
    """

    def __init__(
        self, build: Callable[[Any], Joint], settings: TrainSettings, roots: Sequence[str], device: torch.device
    ) -> None:
        self._settings, self._roots, self._device = settings, list(roots), device
        self._gair = GairEvaluation(lambda given: build(given).to(device).gair, settings, roots, device)

    def __call__(self, model: Joint, done: bool) -> EvaluationReport | None:
        """A report of ``model``; None where the split has nothing for a task with a weight. ``done``: the run ended."""
        weights, found = model.weights.task_weights.named(), {}
        if weights["geolink"]:
            found["geolink"] = evaluate_geolink(model.geolink, self._settings, self._roots, self._device)
        if weights["gair"]:
            found["gair"] = self._gair(model.gair, done)
        reports = {name: report for name, report in found.items() if report is not None}
        if not reports:
            return None
        scores = {"loss": sum(weights[name] * report.scores["loss"] for name, report in reports.items())}
        for name, report in reports.items():
            scores |= {f"{name}/{key}": value for key, value in report.scores.items()}
        objects = _objects(model, self._settings, self._roots, self._device)
        history = [f"{name}/{key}" for name, report in reports.items() for key in report.history or report.scores]
        first = next(iter(reports.values()))
        return EvaluationReport(
            scores | objects, first.features, first.classes, first.names,
            " ".join(f"{name}: {report.note}" for name, report in reports.items()),
            ("loss", *history, *objects), tuple(p.of(name) for name, report in reports.items() for p in report.parts),
        )  # fmt: skip


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
