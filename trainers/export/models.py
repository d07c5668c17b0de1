"""What of each trained model goes into which form, one entry of MODELS a task."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from torch import nn

from schemas.bands import named
from schemas.config import build, to_mapping
from schemas.errors import DatasetError
from trainers.models.gair.croma import Croma
from trainers.models.gair.model import Gair
from trainers.models.gair.settings import GairLoss, GairSettings
from trainers.models.geolink import GeoLink
from trainers.models.vit import SIZES, PixelNorm, ViT, ViTSettings


@dataclass(frozen=True, eq=False)
class Trained:
    """A trained model as its exports see it."""

    model: nn.Module
    norm: PixelNorm  # pixels in 0..255 to what the image encoder takes
    image: ViT | Croma  # pixels to tokens
    bands: tuple[str, ...]
    training: Mapping[str, Any]  # plain values that describe the model without what only pretraining needs
    pretraining: tuple[str, ...]  # names of its parts that inference does without

    @property
    def features(self) -> nn.Module:
        """f32[B,C,S,S] pixels in 0..255 to tokens."""
        return nn.Sequential(OrderedDict(norm=self.norm, encoder=self.image)).eval()


def architecture(vit: ViTSettings) -> str:
    """timm's name of a ViT of this size, or ``custom``."""
    names = (n for n, size in SIZES.items() if (size.dim, size.depth, size.heads) == (vit.dim, vit.depth, vit.heads))
    size = next(names, None)
    return f"vit_{size}_patch{vit.patch}_{vit.image_size}" if size else "custom"


def description(trained: Trained) -> dict[str, Any]:
    """What a user of the image encoder has to know, as plain values."""
    image, norm = trained.image, trained.norm
    own = (
        {"architecture": architecture(image.settings), "pos_embed_requires_grad": False, "norm_eps": image.norm.eps}
        if isinstance(image, ViT)
        else {"architecture": "croma"}
    )
    return {
        **own, "num_classes": 0, "global_pool": "", "bands": list(trained.bands),
        "mean": (norm.mean.flatten() / 255).tolist(), "std": (norm.deviation.flatten() / 255).tolist(),
        **asdict(image.settings),
    }  # fmt: skip


def _geolink(checkpoint: Mapping[str, Any], name: str) -> Trained:
    model = GeoLink.trained(checkpoint, name)
    training = {"task": "geolink", "fidelity": model.fidelity, "arch": to_mapping(model.settings)}
    return Trained(model, model.norm, model.vit, named(model.settings.bands), training, ("decoder", "tag_head"))


def _gair(checkpoint: Mapping[str, Any], name: str) -> Trained:
    model = Gair.trained(checkpoint, name)
    training = {"task": "gair", "fidelity": model.fidelity, "arch": to_mapping(model.settings)}
    held = ("queue", "temperature", "first", "rs_decoder", "sv_decoder")
    return Trained(model, model.rs_norm, model.rs, named(model.settings.bands), training, held)


def _plain_geolink(training: Mapping[str, Any]) -> nn.Module:
    model = GeoLink.of(training)
    del model.decoder, model.tag_head
    return model


def _plain_gair(training: Mapping[str, Any]) -> nn.Module:
    model = Gair(build(GairSettings, training["arch"]), training["fidelity"], GairLoss())
    del model.queue, model.temperature
    return model


def _geolink_encoders(model: Any) -> dict[str, nn.Module]:
    return {"rs": nn.Sequential(model.norm, model.vit)}


def _gair_encoders(model: Any) -> dict[str, nn.Module]:
    return {
        "rs": nn.Sequential(model.rs_norm, model.rs), "sv": nn.Sequential(model.sv_norm, model.sv, model.sv_head),
        "location": model.location,
    }  # fmt: skip


@dataclass(frozen=True)
class Kind:
    """How a task's models are exported and read back."""

    trained: Callable[[Mapping[str, Any], str], Trained]  # a checkpoint and its name
    plain: Callable[[Mapping[str, Any]], nn.Module]  # ``Trained.training`` to the model without its ``pretraining``
    encoders: Callable[[nn.Module], dict[str, nn.Module]]  # such a model to encoders that work alone


#: By task of the checkpoint.
MODELS = {
    "geolink": Kind(_geolink, _plain_geolink, _geolink_encoders),
    "gair": Kind(_gair, _plain_gair, _gair_encoders),
}


def trained_of(checkpoint: Mapping[str, Any], name: str) -> Trained:
    """The model of a checkpoint called ``name``.

    Raises:
        DatasetError: it is of a task that has no exports.
    """
    task = checkpoint["config"].get("task")
    if task not in MODELS:
        raise DatasetError(f"{name} is a checkpoint of {task}; give one of {', '.join(MODELS)}")
    return MODELS[task].trained(checkpoint, name)
