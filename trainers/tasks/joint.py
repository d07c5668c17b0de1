"""GeoLink and GAIR as one task: its settings, and how it is built, read for and measured. Sizes stand in the YAML."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial

from trainers.engine.checkpoint import load_checkpoint
from trainers.engine.settings import Task, TrainSettings, read_presets
from trainers.evaluate.joint import JointEvaluation
from trainers.models.gair.settings import GairInit
from trainers.models.handover import start_from
from trainers.models.joint.model import Joint
from trainers.models.joint.settings import JointLoss, JointSettings
from trainers.stream.batch import View


@dataclass(frozen=True)
class JointTraining(TrainSettings):
    """A joint run."""

    arch: JointSettings = field(default_factory=JointSettings)
    loss: JointLoss = field(default_factory=JointLoss)
    init: GairInit = field(default_factory=GairInit)


def _build(settings: JointTraining) -> Joint:
    model = Joint(settings.arch, settings.fidelity, settings.loss)
    if settings.init.run:
        model.notes = (start_from(model, "joint", load_checkpoint(settings.init.run), settings.init.run),)
    model.gair.load(settings.init)
    return model


def _view(settings: JointTraining) -> View:
    return Joint.view(settings.arch, settings.fidelity)


JOINT = Task(
    "joint", "Train GeoLink and GAIR over one image encoder: images, the objects in them, photos, and where.",
    JointTraining, read_presets(__file__), "n_rs > 0", _build, _view,
    partial(JointEvaluation, _build),
)  # fmt: skip
