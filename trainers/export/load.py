"""Multimodal exports read back: the whole model, or its encoders alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from schemas.errors import ConfigError, DatasetError
from trainers.export.models import MODELS, Kind


def load_multimodal(path: str | Path) -> Any:
    """The multimodal model from a file of ``export``: GeoLink, whose ``hybrid`` gives the features, or Gair.

    Raises:
        DatasetError: the file is none of these.
    """
    return _load(path)[1]


def load_encoders(path: str | Path, names: Sequence[str] = ()) -> dict[str, nn.Module]:
    """Encoders from a multimodal file, each a module that works alone; all of them where ``names`` are none.

    ``rs``: f32[B,C,S,S] pixels of an image in 0..255 to tokens. Of GAIR also ``sv``: f32[Q,3,s,s] pixels of photos in
    0..255 to embeddings [Q,dim] in the common space, and ``location``: f64[N,2] longitudes and latitudes in degrees to
    f32[N,dim] there.

    Raises:
        DatasetError: the file is none of these.
        ConfigError: the model has no encoder of a name.
    """
    kind, model = _load(path)
    held = kind.encoders(model)
    unknown = [name for name in names if name not in held]
    if unknown:
        raise ConfigError(f"{path} has no encoder {unknown[0]!r}; choose of {', '.join(held)}")
    return {name: held[name].eval() for name in names or held}


def _load(path: str | Path) -> tuple[Kind, nn.Module]:
    try:
        held = torch.load(path, map_location="cpu", weights_only=True)
        training, weights = held["model_config"]["training"], held["model_state_dict"]
        kind = MODELS[training["task"]]
    except (OSError, RuntimeError, KeyError, TypeError, ValueError) as error:
        raise DatasetError(f"{path} is no multimodal export ({error}); make one with geoshards export") from None
    model = kind.plain(training)
    model.load_state_dict(weights)
    return kind, model.eval()
