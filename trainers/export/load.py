"""Multimodal exports read back: the whole model, or one of its encoders alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from schemas.errors import ConfigError, DatasetError
from trainers.export.weights import MODELS, PRETRAINING
from trainers.models.gair.model import Gair
from trainers.models.geolink import GeoLink
from trainers.models.joint.model import Joint
from trainers.stream.batch import TileBatch


def load_multimodal(path: str | Path) -> GeoLink | Gair | Joint:
    """The model from a file of ``export``, without what only pretraining needs.

    GeoLink's ``hybrid`` gives features of images and objects, GAIR's ``encode_tiles``, ``query``, ``encode_photos`` and
    ``location`` those of images, places in them, photos and locations; a joint model has both, ``geolink``, ``gair``.

    Raises:
        DatasetError: the file is none of these.
    """
    try:
        held = torch.load(path, map_location="cpu", weights_only=True)
        training, weights = held["model_config"]["training"], held["model_state_dict"]
        task = training["task"]
        model = MODELS[task].of(training)
    except Exception as error:  # noqa: BLE001  # whatever torch makes of a stranger's file
        raise DatasetError(f"{path} is no multimodal export ({error}); make one with geoshards export") from None
    for name in PRETRAINING[task]:
        home, _, part = name.rpartition(".")
        _drop(model.get_submodule(home), part)
    model.load_state_dict(weights)
    return model.eval()


def _drop(module: nn.Module, *names: str) -> None:
    for name in names:
        if getattr(module, name, None) is not None:
            delattr(module, name)


class ObjectGraphs(nn.Module):
    """GeoLink's half for objects: a batch to embeddings f32[B,contrast_dim] of its graphs."""

    def __init__(self, geolink: GeoLink) -> None:
        super().__init__()
        _drop(geolink, "vit", "decoder", "fusion", "tag_head", "image_head")
        self.geolink = geolink

    def forward(self, batch: TileBatch) -> Tensor:
        nodes = self.geolink.encode_nodes(batch, torch.zeros_like(batch.node_valid))
        return self.geolink.graph_head(self.geolink.aggregate(nodes, batch)[0])


def load_encoder(path: str | Path, name: str) -> nn.Module:
    """One encoder alone from a multimodal file of ``export``, with its norm and its projection to the common space.

    Args:
        path: the file.
        name: ``image``: pixels u8[B,C,S,S] to patch tokens f32[B,P,D] (GeoLink's with the class token, [B,1+P,D]).
            ``photo``: pixels u8[N,3,s,s] to f32[N,dim]. ``location``: degrees f64[N,2] to f32[N,dim].
            ``objects``: a :class:`TileBatch` to f32[B,contrast_dim].

    Raises:
        ConfigError: the model has no such encoder.
        DatasetError: the file is none of ``export``.
    """
    model = load_multimodal(path)
    geolink, gair = getattr(model, "geolink", model), getattr(model, "gair", model)
    known: dict[str, Callable[[], nn.Module]] = {}
    if isinstance(geolink, GeoLink):
        known |= {"image": lambda: nn.Sequential(geolink.norm, geolink.vit), "objects": lambda: ObjectGraphs(geolink)}
    if isinstance(gair, Gair):
        known |= {
            "image": lambda: nn.Sequential(gair.rs_norm, gair.rs), "location": lambda: gair.location,
            "photo": lambda: nn.Sequential(gair.sv_norm, gair.sv, gair.sv_head),
        }  # fmt: skip
    if name not in known:
        raise ConfigError(f"{path} has no encoder {name!r}; it has {', '.join(sorted(known))}")
    return known[name]().eval()
