"""A checkpoint to weights that others load: timm's ViT, the multimodal model, safetensors, TorchScript, ONNX."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from schemas.config import build
from schemas.errors import ConfigError, DatasetError
from trainers.engine.checkpoint import load_checkpoint
from trainers.engine.tasks import GeoLinkTraining
from trainers.models.geolink import GeoLink
from trainers.models.vit import SIZES, ViT, ViTSettings

FORMATS: Mapping[str, tuple[str, str]] = {
    "timm": (".safetensors", "the ViT under timm's names; load strictly into vit_*_patch16_224 with num_classes=0"),
    "multimodal": (".pt", "ViT, OSM encoder and fusion, with their settings; trainers.export.weights.load_multimodal"),
    "safetensors": (".safetensors", "all weights, decoder included, with the settings as metadata"),
    "torchscript": (".ts", "the ViT: f32[B,C,S,S] pixels in 0..255 to tokens f32[B,1+P,D]"),
    "onnx": (".onnx", "the same; needs the packages onnx and onnxscript"),
}
#: What only pretraining needs.
_PRETRAINING = ("decoder", "tag_head")


def load_geolink(path: Path) -> tuple[GeoLink, GeoLinkTraining]:
    """The model of a checkpoint, ready for inference, and the settings it was trained with.

    Raises:
        DatasetError: it is no checkpoint, or not one of GeoLink.
    """
    state = load_checkpoint(path)
    config = dict(state["config"])
    if config.pop("task", None) != "geolink":
        raise DatasetError(f"{path} is no checkpoint of GeoLink; only those are exported")
    settings = build(GeoLinkTraining, config)
    model = GeoLink(settings.arch, settings.fidelity, settings.loss)
    model.load_state_dict(state["model"])
    return model.eval(), settings


def architecture(vit: ViTSettings) -> str:
    """timm's name of a ViT of this size, or ``custom``."""
    names = (n for n, size in SIZES.items() if (size.dim, size.depth, size.heads) == (vit.dim, vit.depth, vit.heads))
    size = next(names, None)
    return f"vit_{size}_patch{vit.patch}_{vit.image_size}" if size else "custom"


def description(settings: GeoLinkTraining, model: GeoLink) -> dict[str, Any]:
    """What a user of the ViT has to know, as plain values."""
    return {
        "architecture": architecture(settings.arch.vit), "num_classes": 0, "global_pool": "",
        "pos_embed_requires_grad": False, "norm_eps": model.vit.norm.eps, "bands": list(settings.arch.bands),
        "mean": (model.norm.mean.flatten() / 255).tolist(), "std": (model.norm.deviation.flatten() / 255).tolist(),
        **asdict(settings.arch.vit),
    }  # fmt: skip


def multimodal_state(model: GeoLink) -> dict[str, Tensor]:
    """Weights of the multimodal model: all but those that only pretraining needs."""
    return {k: v for k, v in model.state_dict().items() if k.split(".")[0] not in _PRETRAINING}


def load_multimodal(path: Path) -> GeoLink:
    """The multimodal model from a file of ``export``; its ``hybrid`` gives the features.

    Raises:
        DatasetError: the file is none of these.
    """
    try:
        held = torch.load(path, map_location="cpu", weights_only=True)
        config, weights = held["model_config"], held["model_state_dict"]
    except (OSError, RuntimeError, KeyError, TypeError, ValueError) as error:
        raise DatasetError(f"{path} is no multimodal export ({error}); make one with geoshards export") from None
    settings = build(GeoLinkTraining, config["training"])
    model = GeoLink(settings.arch, settings.fidelity, settings.loss)
    for name in _PRETRAINING:
        delattr(model, name)
    model.load_state_dict(weights)
    return model.eval()


def hybrid_blocks(vit: ViTSettings) -> tuple[int, int, int]:
    """Blocks, from 0, whose output a dense head takes beside the fused map: 7, 11 and 15 of 24, and as far along in
    others."""
    third, half, most = (max(0, share * vit.depth // 6 - 1) for share in (2, 3, 4))
    return third, half, most


class ImageFeatures(nn.Module):
    """The ViT with its pixel norm: f32[B,C,S,S] in 0..255 to tokens f32[B,1+P,D]."""

    def __init__(self, norm: nn.Module, vit: ViT) -> None:
        super().__init__()
        self.norm, self.vit = norm, vit

    def forward(self, image: Tensor) -> Tensor:
        return self.vit(self.norm(image))


def export(path: Path, form: str, out: Path) -> Path:
    """Write the model of the checkpoint ``path`` as ``form``, a key of ``FORMATS``; returns the file.

    Raises:
        ConfigError: an unknown format, or a package it needs is missing.
        DatasetError: see :func:`load_geolink`.
    """
    if form not in FORMATS:
        raise ConfigError(f"format {form!r} is unknown; choose one of {', '.join(FORMATS)}")
    model, settings = load_geolink(path)
    facts = description(settings, model)
    out.parent.mkdir(parents=True, exist_ok=True)
    fresh = out.with_name(f".{out.name}.tmp")
    try:
        _write(form, model, settings, facts, fresh)
        fresh.replace(out)
    finally:
        fresh.unlink(missing_ok=True)
    return out


def _write(form: str, model: GeoLink, settings: GeoLinkTraining, facts: dict[str, Any], path: Path) -> None:
    training = {"fidelity": settings.fidelity, "arch": _plain(asdict(settings.arch))}
    if form == "timm":
        save_file(_contiguous(model.vit.state_dict()), path, {"config": json.dumps(facts)})
    elif form == "safetensors":
        save_file(_contiguous(model.state_dict()), path, {"config": json.dumps(facts | {"training": training})})
    elif form == "multimodal":
        torch.save({"model_config": facts | {"training": training}, "model_state_dict": multimodal_state(model)}, path)
    else:
        features = ImageFeatures(model.norm, model.vit).eval()
        side = settings.arch.vit.image_size
        example = torch.zeros(2, model.vit.patch_embed.proj.in_channels, side, side)
        if form == "torchscript":
            with warnings.catch_warnings():
                warnings.simplefilter(
                    "ignore"
                )  # torch would rather have torch.export; TorchScript is what is asked for
                torch.jit.save(torch.jit.trace(features, example), str(path))
        else:
            _write_onnx(features, example, path)


def _write_onnx(features: nn.Module, example: Tensor, path: Path) -> None:
    missing = [name for name in ("onnx", "onnxscript") if find_spec(name) is None]
    if missing:
        raise ConfigError(f"--format onnx needs {' and '.join(missing)}; pip install onnx onnxscript")
    batch = torch.export.Dim("batch")
    torch.onnx.export(
        features, (example,), str(path), input_names=["image"], output_names=["tokens"], dynamo=True,
        dynamic_shapes={"image": {0: batch}}, external_data=False, verbose=False,
    )  # fmt: skip


def _contiguous(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach().cpu().contiguous() for name, value in state.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    return [_plain(v) for v in value] if isinstance(value, (list, tuple)) else value
