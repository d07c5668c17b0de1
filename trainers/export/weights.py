"""A checkpoint to weights that others load: timm's ViT, the multimodal model, safetensors, TorchScript, ONNX."""

from __future__ import annotations

import json
import warnings
from collections import OrderedDict
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from schemas.config import to_mapping
from schemas.errors import ConfigError, DatasetError
from storage.store import place_of
from trainers.engine.checkpoint import load_checkpoint
from trainers.export import FORMATS
from trainers.models.geolink import GeoLink
from trainers.models.vit import SIZES, ViTSettings

#: What only pretraining needs.
_PRETRAINING = ("decoder", "tag_head")


def architecture(vit: ViTSettings) -> str:
    """timm's name of a ViT of this size, or ``custom``."""
    names = (n for n, size in SIZES.items() if (size.dim, size.depth, size.heads) == (vit.dim, vit.depth, vit.heads))
    size = next(names, None)
    return f"vit_{size}_patch{vit.patch}_{vit.image_size}" if size else "custom"


def description(model: GeoLink) -> dict[str, Any]:
    """What a user of the ViT has to know, as plain values."""
    vit = model.settings.vit
    return {
        "architecture": architecture(vit), "num_classes": 0, "global_pool": "",
        "pos_embed_requires_grad": False, "norm_eps": model.vit.norm.eps, "bands": list(model.settings.bands),
        "mean": (model.norm.mean.flatten() / 255).tolist(), "std": (model.norm.deviation.flatten() / 255).tolist(),
        **asdict(vit),
    }  # fmt: skip


def load_multimodal(path: Path) -> GeoLink:
    """The multimodal model from a file of ``export``; its ``hybrid`` gives the features.

    Raises:
        DatasetError: the file is none of these.
    """
    try:
        held = torch.load(path, map_location="cpu", weights_only=True)
        training, weights = held["model_config"]["training"], held["model_state_dict"]
    except Exception as error:  # noqa: BLE001  # whatever torch makes of a stranger's file
        raise DatasetError(f"{path} is no multimodal export ({error}); make one with geoshards export") from None
    model = GeoLink.of(training)
    for name in _PRETRAINING:
        delattr(model, name)
    model.load_state_dict(weights)
    return model.eval()


def export(path: str | Path, form: str, out: str | Path) -> int:
    """Write the model of the checkpoint ``path`` as ``form``, a key of ``FORMATS``, to ``out``; returns its bytes.

    Both are paths or URLs.

    Raises:
        ConfigError: an unknown format, or a package it needs is missing.
        DatasetError: it is no checkpoint, or not one of GeoLink.
    """
    if form not in FORMATS:
        raise ConfigError(f"format {form!r} is unknown; choose one of {', '.join(FORMATS)}")
    model = GeoLink.trained(load_checkpoint(path), str(path))
    store, name = place_of(out)
    with store.fresh(name) as fresh:
        _write(form, model, fresh)
        return fresh.stat().st_size


def _write(form: str, model: GeoLink, path: Path) -> None:
    facts = description(model)
    whole = facts | {"training": {"fidelity": model.fidelity, "arch": to_mapping(model.settings)}}
    if form == "timm":
        save_file(model.vit.state_dict(), path, {"config": json.dumps(facts)})
    elif form == "safetensors":
        save_file(model.state_dict(), path, {"config": json.dumps(whole)})
    elif form == "multimodal":
        kept = {k: v for k, v in model.state_dict().items() if k.split(".")[0] not in _PRETRAINING}
        with path.open("wb") as file:  # of a path torch would store the name
            torch.save({"model_config": whole, "model_state_dict": kept}, file)
    else:
        features = nn.Sequential(OrderedDict(norm=model.norm, vit=model.vit)).eval()
        side = model.settings.vit.image_size
        example = torch.zeros(2, model.vit.patch_embed.proj.in_channels, side, side)
        if form == "torchscript":
            with path.open("wb") as file, warnings.catch_warnings():
                warnings.simplefilter("ignore")  # torch would rather have torch.export; TorchScript is asked for
                torch.jit.save(torch.jit.trace(features, example), file)
        else:
            _write_onnx(features, example, path)


def _write_onnx(features: nn.Module, example: Tensor, path: Path) -> None:
    missing = [name for name in ("onnx", "onnxscript") if find_spec(name) is None]
    if missing:
        raise ConfigError(f"--format onnx needs {' and '.join(missing)}; pip install onnx onnxscript")
    batch = torch.export.Dim("batch")
    torch.onnx.export(
        features, (example,), str(path), input_names=["image"], output_names=["tokens"], dynamo=True,
        dynamic_shapes=({0: batch},), external_data=False, verbose=False,
    )  # fmt: skip
