"""A checkpoint to weights that others load: timm's ViT, CROMA's, the whole model, safetensors, TorchScript, ONNX."""

from __future__ import annotations

import json
import warnings
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from schemas.bands import named
from schemas.config import to_mapping
from schemas.errors import ConfigError, DatasetError
from storage.store import place_of
from trainers.engine.checkpoint import load_checkpoint
from trainers.export import FORMATS
from trainers.models.convnet import ConvNet
from trainers.models.gair.croma import Croma
from trainers.models.gair.model import Gair
from trainers.models.geolink import GeoLink
from trainers.models.joint.model import Joint
from trainers.models.vit import SIZES, PixelNorm, ViT, ViTSettings

#: Models by the task that trained them.
MODELS: Mapping[str, type[GeoLink | Gair | Joint]] = {"geolink": GeoLink, "gair": Gair, "joint": Joint}
#: What only pretraining needs, by task.
_GEOLINK, _GAIR = ("decoder", "tag_head"), ("queue", "first", "rs_decoder", "sv_decoder")
PRETRAINING = {
    "geolink": _GEOLINK, "gair": _GAIR,
    "joint": (*(f"geolink.{n}" for n in _GEOLINK), *(f"gair.{n}" for n in _GAIR), "uncertainty"),
}  # fmt: skip
#: Image encoders by the form that has their names.
_NAMES = {"timm": ViT, "croma": Croma}
#: What an encoder is called, and the form to take it in.
_WORDS = ((Croma, ("CROMA's", "croma")), (ViT, ("a ViT of timm", "timm")), (ConvNet, ("a convnet", "safetensors")))


@dataclass(frozen=True)
class Exported:
    """A trained model, and what of it stands for it elsewhere."""

    task: str
    model: GeoLink | Gair | Joint
    encoder: ViT | Croma | ConvNet  # of images
    norm: PixelNorm
    bands: tuple[str, ...]

    @classmethod
    def of(cls, task: str, model: GeoLink | Gair | Joint) -> Exported:
        """The model with its image encoder."""
        if isinstance(model, Gair):
            assert isinstance(model.rs, ViT | Croma | ConvNet)  # it holds one of its own
            return cls(task, model, model.rs, model.rs_norm, named(model.settings.bands))
        part = model if isinstance(model, GeoLink) else model.geolink
        return cls(task, model, part.vit, part.norm, named(part.settings.bands))

    @property
    def description(self) -> dict[str, Any]:
        """What a user of the image encoder has to know, as plain values."""
        return {
            **_architecture(self.encoder), "num_classes": 0, "global_pool": "",
            "pos_embed_requires_grad": False, "bands": list(self.bands),
            "mean": (self.norm.mean.flatten() / 255).tolist(), "std": (self.norm.deviation.flatten() / 255).tolist(),
            **asdict(self.encoder.settings),
        }  # fmt: skip

    @property
    def training(self) -> dict[str, Any]:
        """The settings that the model is made of."""
        model = self.model
        held = {"task": self.task, "fidelity": model.fidelity, "arch": to_mapping(model.settings)}
        return held | {"loss": to_mapping(model.weights)}


def _architecture(encoder: ViT | Croma | ConvNet) -> dict[str, Any]:
    if isinstance(encoder, ConvNet):
        return {"architecture": "conv"}
    if isinstance(encoder, Croma):
        return {"architecture": "croma", "norm_eps": encoder.transformer.norm_out.eps}
    return {"architecture": architecture(encoder.settings), "norm_eps": encoder.norm.eps}


def architecture(vit: ViTSettings) -> str:
    """timm's name of a ViT of this size, or ``custom``."""
    names = (n for n, size in SIZES.items() if (size.dim, size.depth, size.heads) == (vit.dim, vit.depth, vit.heads))
    size = next(names, None)
    return f"vit_{size}_patch{vit.patch}_{vit.image_size}" if size else "custom"


def trained(checkpoint: Mapping[str, Any], name: str) -> Exported:
    """The model of a checkpoint called ``name``, ready for inference.

    Raises:
        DatasetError: it is of no task known here.
    """
    config = checkpoint["config"]
    task = config.get("task")
    if task not in MODELS:
        raise DatasetError(f"{name} is of the task {task}; only those of {', '.join(MODELS)} can be used here")
    model = MODELS[task].of(config)
    model.load_state_dict(checkpoint["model"])
    return Exported.of(task, model.eval())


def export(path: str | Path, form: str, out: str | Path) -> int:
    """Write the model of the checkpoint ``path`` as ``form``, a key of ``FORMATS``, to ``out``; returns its bytes.

    Both are paths or URLs.

    Raises:
        ConfigError: an unknown format, one that the model does not have, or a package it needs is missing.
        DatasetError: it is no checkpoint of a task known here.
    """
    if form not in FORMATS:
        raise ConfigError(f"format {form!r} is unknown; choose one of {', '.join(FORMATS)}")
    exported = trained(load_checkpoint(path), str(path))
    if form in _NAMES and not isinstance(exported.encoder, _NAMES[form]):
        own, other = next(words for kind, words in _WORDS if isinstance(exported.encoder, kind))
        raise ConfigError(f"the image encoder of {path} is {own}; give --format {other}")
    store, name = place_of(out)
    with store.fresh(name) as fresh:
        _write(form, exported, fresh)
        return fresh.stat().st_size


def _write(form: str, exported: Exported, path: Path) -> None:
    model, facts = exported.model, exported.description
    whole = facts | {"training": exported.training}
    if form in _NAMES:
        save_file(exported.encoder.state_dict(), path, {"config": json.dumps(facts)})
    elif form == "safetensors":
        save_file(model.state_dict(), path, {"config": json.dumps(whole)})
    elif form == "multimodal":
        left = tuple(f"{name}." for name in PRETRAINING[exported.task])
        kept = {k: v for k, v in model.state_dict().items() if not k.startswith(left)}
        with path.open("wb") as file:  # of a path torch would store the name
            torch.save({"model_config": whole, "model_state_dict": kept}, file)
    else:
        features = nn.Sequential(OrderedDict(norm=exported.norm, encoder=exported.encoder)).eval()
        side = exported.encoder.settings.image_size
        example = torch.zeros(2, len(exported.bands), side, side)
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
