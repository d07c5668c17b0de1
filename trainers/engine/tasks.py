"""The trainers: settings, presets and factories of GeoLink and GAIR."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import nn

from trainers.engine.settings import Task, TrainSettings
from trainers.evaluate.gair import evaluate_gair
from trainers.evaluate.geolink import evaluate_geolink
from trainers.models.gair import Gair, GairLoss, GairSettings
from trainers.models.geolink import GeoLink, GeoLinkLoss, GeoLinkSettings
from trainers.stream.batch import View


@dataclass(frozen=True)
class GeoLinkTraining(TrainSettings):
    """A GeoLink run."""

    arch: GeoLinkSettings = field(default_factory=GeoLinkSettings)
    loss: GeoLinkLoss = field(default_factory=GeoLinkLoss)


@dataclass(frozen=True)
class GairTraining(TrainSettings):
    """A GAIR run."""

    arch: GairSettings = field(default_factory=GairSettings)
    loss: GairLoss = field(default_factory=GairLoss)


def _vit(image_size: int, patch: int, dim: int, depth: int, heads: int) -> dict[str, int]:
    return {"image_size": image_size, "patch": patch, "dim": dim, "depth": depth, "heads": heads}


#: ``tiny`` runs on one thread: it gains little from a second, and loses a lot where other work shares the cores.
#: ``large`` is the paper's model and learning rate (docs/papers/geolink.md#recipe), its batch that of one GPU.
GEOLINK_PRESETS: dict[str, dict[str, Any]] = {
    "tiny": {
        "batch_size": 16, "steps": 200, "threads": 1, "optim": {"lr": 1e-3},
        "arch": {
            "vit": _vit(96, 16, 96, 3, 3), "decoder_dim": 64, "decoder_depth": 1, "decoder_heads": 4, "tag_width": 64,
            "osm_dim": 32, "fusion_dim": 64, "fusion_heads": 4, "fusion_dropout": 0.0,
        },
    },
    "small": {"batch_size": 256, "epochs": 60, "optim": {"lr": 3e-4}, "arch": {"vit": _vit(224, 16, 384, 12, 6)}},
    "base": {"batch_size": 512, "epochs": 60, "optim": {"lr": 2e-4}, "arch": {"vit": _vit(224, 16, 768, 12, 12)}},
    "large": {"batch_size": 660, "epochs": 60, "optim": {"lr": 1e-4}, "arch": {"vit": _vit(224, 16, 1024, 24, 16)}},
}  # fmt: skip

#: ``base`` has the released sizes (docs/papers/gair.md#encoders).
GAIR_PRESETS: dict[str, dict[str, Any]] = {
    "tiny": {
        "batch_size": 16, "steps": 200, "threads": 1, "optim": {"lr": 1e-3},
        "arch": {
            "rs": _vit(96, 16, 96, 3, 3), "sv": _vit(64, 16, 96, 3, 3), "dim": 64, "location_features": 32,
            "location_hidden": 64, "nili_hidden": 64, "queue": 256,
        },
    },
    "small": {
        "batch_size": 256, "epochs": 100, "optim": {"lr": 3e-4},
        "arch": {"rs": _vit(96, 8, 384, 12, 6), "sv": _vit(224, 16, 384, 12, 6), "dim": 384, "location_hidden": 512,
                 "nili_hidden": 512},
    },
    "base": {
        "batch_size": 256, "epochs": 100, "optim": {"lr": 2e-4},
        "arch": {"rs": _vit(96, 8, 768, 12, 16), "sv": _vit(224, 16, 768, 12, 12)},
    },
    "large": {
        "batch_size": 256, "epochs": 100, "optim": {"lr": 1e-4},
        "arch": {"rs": _vit(96, 8, 1024, 24, 16), "sv": _vit(224, 16, 1024, 24, 16), "dim": 1024},
    },
}  # fmt: skip


def _build_geolink(settings: GeoLinkTraining) -> nn.Module:
    return GeoLink(settings.arch, settings.fidelity, settings.loss)


def _view_geolink(settings: GeoLinkTraining) -> View:
    return GeoLink.view(settings.arch, settings.fidelity)


def _build_gair(settings: GairTraining) -> nn.Module:
    return Gair(settings.arch, settings.fidelity, settings.loss)


def _view_gair(settings: GairTraining) -> View:
    return Gair.view(settings.arch)


GEOLINK = Task(
    "geolink", "Train GeoLink: images with the OpenStreetMap objects in them.",
    GeoLinkTraining, GEOLINK_PRESETS, "n_rs > 0", _build_geolink, _view_geolink,
    evaluate_geolink,
)  # fmt: skip
GAIR = Task(
    "gair", "Train GAIR: images, the street-view photos taken in them, and where.",
    GairTraining, GAIR_PRESETS, "n_rs > 0 AND n_streetview > 0", _build_gair, _view_gair,
    evaluate_gair,
)  # fmt: skip
