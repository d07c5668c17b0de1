"""GAIR as a task: its settings, and how it is built, read for and measured. Sizes and recipes stand in the YAML."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial

from trainers.engine.checkpoint import load_checkpoint
from trainers.engine.settings import Task, TrainSettings, read_presets
from trainers.evaluate.gair.evaluation import GairEvaluation
from trainers.models.gair.model import Gair
from trainers.models.gair.settings import GairInit, GairLoss, GairSettings
from trainers.models.handover import start_from
from trainers.stream.batch import View


@dataclass(frozen=True)
class GairTraining(TrainSettings):
    """A GAIR run."""

    arch: GairSettings = field(default_factory=GairSettings)
    loss: GairLoss = field(default_factory=GairLoss)
    init: GairInit = field(default_factory=GairInit)


def _build(settings: GairTraining) -> Gair:
    model = Gair(settings.arch, settings.fidelity, settings.loss)
    if settings.init.run:
        model.notes = (start_from(model, "gair", load_checkpoint(settings.init.run), settings.init.run),)
    model.load(settings.init)
    return model


def _view(settings: GairTraining) -> View:
    return Gair.view(settings.arch, settings.fidelity)


GAIR = Task(
    "gair", "Train GAIR: images, the street-view photos taken in them, and where.",
    GairTraining, read_presets(__file__), "n_rs > 0 AND n_streetview > 0", _build, _view,
    partial(GairEvaluation, _build),
)  # fmt: skip
