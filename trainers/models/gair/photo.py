"""Encoder of street-view photos: a ViT and a pooler of its class token, with the weights of transformers or timm.

In: f32[Q,3,S,S] normalised pixels. Out: [Q,D]. docs/papers/gair.md#encoders.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from trainers.models.vit import ViT, ViTSettings, init_linear
from trainers.models.weights import load_strictly, read_weights, under

#: Epsilon of all norms: transformers' ViT, as released.
EPS = 1e-12
#: Names in transformers' files to ours, within a layer and outside; the three projections of attention are one here.
_LAYER = {
    "attention.output.dense": "attn.proj", "intermediate.dense": "mlp.fc1", "output.dense": "mlp.fc2",
    "layernorm_before": "norm1", "layernorm_after": "norm2",
}  # fmt: skip
_OUTSIDE = {
    "embeddings.cls_token": "vit.cls_token", "embeddings.position_embeddings": "vit.pos_embed",
    "embeddings.patch_embeddings.projection": "vit.patch_embed.proj", "layernorm": "vit.norm", "pooler.dense": "pooler",
}  # fmt: skip
_QKV = tuple(f"attention.attention.{name}" for name in ("query", "key", "value"))
#: Heads of classification, which are left out.
_HEADS = ("classifier.weight", "classifier.bias", "head.weight", "head.bias")


class PhotoEncoder(nn.Module):
    """ViT with positions that are learned (they start as sin-cos) and a class token through Linear and tanh.

    Args:
        settings: sizes.
        pooler: false: the class token as it is.
    """

    class_token = True

    def __init__(self, settings: ViTSettings, pooler: bool = True) -> None:
        super().__init__()
        self.vit = ViT(settings, eps=EPS, block_eps=EPS)
        self.vit.pos_embed.requires_grad_(True)
        self.pooler = nn.Linear(settings.dim, settings.dim) if pooler else None
        if self.pooler is not None:
            init_linear(self.pooler)

    def forward(self, image: Tensor) -> Tensor:
        token = self.vit(image)[:, 0]
        return token if self.pooler is None else torch.tanh(self.pooler(token))

    def encode_visible(self, pixels: Tensor, patch: Tensor) -> Tensor:
        """Class token and tokens [Q,1+V,D] of chosen patches alone, without the pooler; as ViT.encode_visible."""
        return self.vit.encode_visible(pixels, patch)

    def load(self, path: str) -> None:
        """Take the weights of a file of transformers' ViT or of timm's; a head of classes is left out.

        Raises:
            ConfigError: it cannot be read, or does not fit; each of its names and of ours must.
        """
        held = read_weights(path)
        own = renamed(held)
        if self.pooler is None:
            own = {name: value for name, value in own.items() if not name.startswith("pooler.")}
        s = self.vit.settings
        load_strictly(
            self, own, path, f"the model has arch.sv of {s.image_size} pixels, patch {s.patch}, {s.depth} blocks of "
            f"{s.dim}" + (" and a pooler, which arch.pooler=false leaves out" if self.pooler is not None else ""),
        )  # fmt: skip


def renamed(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights by our names; one that is not known keeps its own."""
    held = {name: value for name, value in weights.items() if name not in _HEADS}
    if any(name.startswith("vit.") for name in held):  # a model with a head
        held = under(held, "vit.") | {n: v for n, v in held.items() if not n.startswith("vit.")}
    return _of_transformers(held) if any(n.startswith("embeddings.") for n in held) else _of_timm(held)


def _of_timm(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """timm's names are ours; the pooler is what it calls the representation before the head."""
    pooler = under(weights, "pre_logits.fc.")
    rest = {f"vit.{name}": v for name, v in weights.items() if not name.startswith("pre_logits.fc.")}
    return rest | {f"pooler.{name}": value for name, value in pooler.items()}


def _of_transformers(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    parts: dict[str, dict[str, Tensor]] = {}  # of a qkv by its name
    for name, value in weights.items():
        stem, _, kind = name.rpartition(".")
        layer = re.fullmatch(r"encoder\.layer\.(\d+)\.(.+)", stem)
        if name in _OUTSIDE:
            found[_OUTSIDE[name]] = value
        elif stem in _OUTSIDE:
            found[f"{_OUTSIDE[stem]}.{kind}"] = value
        elif layer and layer[2] in _LAYER:
            found[f"vit.blocks.{layer[1]}.{_LAYER[layer[2]]}.{kind}"] = value
        elif layer and layer[2] in _QKV:
            parts.setdefault(f"vit.blocks.{layer[1]}.attn.qkv.{kind}", {})[layer[2]] = value
        else:
            found[name] = value
    for name, of in parts.items():
        if of.keys() == set(_QKV):
            found[name] = torch.cat([of[part] for part in _QKV])
    return found
