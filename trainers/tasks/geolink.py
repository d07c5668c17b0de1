"""GeoLink as a task: its settings, and how it is built, read for and measured. Sizes and recipes stand in the YAML."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch

from schemas.config import path
from trainers.engine.checkpoint import load_checkpoint
from trainers.engine.evaluation import EvaluationReport
from trainers.engine.settings import Task, TrainSettings, read_presets
from trainers.evaluate.geolink import evaluate_geolink
from trainers.models.geolink import GeoLink, GeoLinkLoss, GeoLinkSettings
from trainers.models.handover import start_from
from trainers.stream.batch import View


@dataclass(frozen=True)
class GeoLinkInit:
    """Weights of others that a new model starts from."""

    run: str = path()  # checkpoint.pt of a run of GeoLink, GAIR or both: all parts that it has in common; path or URL


@dataclass(frozen=True)
class GeoLinkTraining(TrainSettings):
    """A GeoLink run."""

    arch: GeoLinkSettings = field(default_factory=GeoLinkSettings)
    loss: GeoLinkLoss = field(default_factory=GeoLinkLoss)
    init: GeoLinkInit = field(default_factory=GeoLinkInit)


def _build(settings: GeoLinkTraining) -> GeoLink:
    model = GeoLink(settings.arch, settings.fidelity, settings.loss)
    if settings.init.run:
        model.notes = (start_from(model, "geolink", load_checkpoint(settings.init.run), settings.init.run),)
    return model


def _view(settings: GeoLinkTraining) -> View:
    return GeoLink.view(settings.arch, settings.fidelity)


def _evaluation(
    settings: GeoLinkTraining, roots: Sequence[str], device: torch.device
) -> Callable[[GeoLink, bool], EvaluationReport | None]:
    return lambda model, _done: evaluate_geolink(model, settings, roots, device)


GEOLINK = Task(
    "geolink", "Train GeoLink: images with the OpenStreetMap objects in them.",
    GeoLinkTraining, read_presets(__file__), "n_rs > 0", _build, _view, _evaluation,
)  # fmt: skip
