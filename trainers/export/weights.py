"""A checkpoint to weights that others load: timm's ViT, CROMA's, the multimodal model, TorchScript, ONNX."""

from __future__ import annotations

import json
import warnings
from importlib.util import find_spec
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from schemas.errors import ConfigError
from storage.store import place_of
from trainers.engine.checkpoint import load_checkpoint
from trainers.export import FORMATS
from trainers.export.models import Trained, description, trained_of
from trainers.models.gair.croma import Croma
from trainers.models.vit import ViT


def export(path: str | Path, form: str, out: str | Path) -> int:
    """Write the model of the checkpoint ``path`` as ``form``, a key of ``FORMATS``, to ``out``; returns its bytes.

    Both are paths or URLs.

    Raises:
        ConfigError: an unknown format, one that the image encoder does not have, or a package it needs is missing.
        DatasetError: it is no checkpoint, or one of a model that has no exports.
    """
    if form not in FORMATS:
        raise ConfigError(f"format {form!r} is unknown; choose one of {', '.join(FORMATS)}")
    trained = trained_of(load_checkpoint(path), str(path))
    if form in ("timm", "croma"):
        _check_names(trained, form, str(path))
    store, name = place_of(out)
    with store.fresh(name) as fresh:
        _write(form, trained, fresh)
        return fresh.stat().st_size


def _check_names(trained: Trained, form: str, path: str) -> None:
    """Refuse the names of another architecture than the image encoder has."""
    if not isinstance(trained.image, {"timm": ViT, "croma": Croma}[form]):
        own, other = ("CROMA's", "croma") if form == "timm" else ("a ViT of timm", "timm")
        raise ConfigError(f"the image encoder of {path} is {own}; give --format {other}")


def _write(form: str, trained: Trained, path: Path) -> None:
    facts = description(trained)
    whole = facts | {"training": trained.training}
    if form in ("timm", "croma"):
        save_file(trained.image.state_dict(), path, {"config": json.dumps(facts)})
    elif form == "safetensors":
        save_file(trained.model.state_dict(), path, {"config": json.dumps(whole)})
    elif form == "multimodal":
        state = trained.model.state_dict()
        kept = {name: value for name, value in state.items() if name.split(".")[0] not in trained.pretraining}
        with path.open("wb") as file:  # of a path torch would store the name
            torch.save({"model_config": whole, "model_state_dict": kept}, file)
    else:
        side = trained.image.settings.image_size
        example = torch.zeros(2, len(trained.bands), side, side)
        if form == "torchscript":
            with path.open("wb") as file, warnings.catch_warnings():
                warnings.simplefilter("ignore")  # torch would rather have torch.export; TorchScript is asked for
                torch.jit.save(torch.jit.trace(trained.features, example), file)
        else:
            _write_onnx(trained.features, example, path)


def _write_onnx(features: nn.Module, example: Tensor, path: Path) -> None:
    missing = [name for name in ("onnx", "onnxscript") if find_spec(name) is None]
    if missing:
        raise ConfigError(f"--format onnx needs {' and '.join(missing)}; pip install onnx onnxscript")
    batch = torch.export.Dim("batch")
    torch.onnx.export(
        features, (example,), str(path), input_names=["image"], output_names=["tokens"], dynamo=True,
        dynamic_shapes=({0: batch},), external_data=False, verbose=False,
    )  # fmt: skip
