"""Small batches and models for the model tests."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path

import torch

from trainers.engine.checkpoint import load_checkpoint
from trainers.models.gair.model import Gair
from trainers.models.gair.settings import GairLoss, GairSettings
from trainers.models.geolink import GeoLink, GeoLinkLoss
from trainers.models.geolink_settings import GeoLinkSettings
from trainers.models.vit import ViTSettings
from trainers.stream.augment import AugmentSettings
from trainers.stream.batch import TileBatch
from trainers.stream.stream import GeoStream, StreamSettings

GEOLINK = GeoLinkSettings(
    vit=ViTSettings(48, 8, 32, 2, 2), decoder_dim=32, decoder_depth=1, decoder_heads=2, tag_width=16, osm_dim=16,
    fusion_dim=32, fusion_heads=2, fusion_dropout=0.0, contrast_dim=16,
)  # fmt: skip
GAIR = GairSettings(
    rs=ViTSettings(48, 8, 32, 2, 2), sv=ViTSettings(32, 8, 32, 2, 2), dim=16, location_features=8, location_hidden=16,
    nili_hidden=16, queue=64,
)  # fmt: skip
PLAIN = StreamSettings(augment=AugmentSettings(enabled=False))


def geolink_model(variant: str = "ours") -> GeoLink:
    torch.manual_seed(0)
    return GeoLink(GEOLINK, variant, GeoLinkLoss(1.0, 1.0, 1.0))


def gair_model(variant: str = "ours") -> Gair:
    torch.manual_seed(0)
    return Gair(GAIR, variant, GairLoss())


def trained(checkpoint: Path) -> GeoLink:
    return GeoLink.trained(load_checkpoint(checkpoint), str(checkpoint))


def geolink_batch(root: Path, size: int = 16, skip: int = 0) -> TileBatch:
    return _batch(root, GeoLink.view(GEOLINK), size, skip)


def gair_batch(root: Path, size: int = 16, skip: int = 0) -> TileBatch:
    return _batch(root, Gair.view(GAIR), size, skip)


def _batch(root: Path, view, size: int, skip: int) -> TileBatch:  # type: ignore[no-untyped-def]
    batches = GeoStream(str(root), view, batch_size=size, settings=PLAIN).batches()
    for _ in range(skip):
        next(batches)
    return next(batches)


def mask_slot(batch: TileBatch, slot: int) -> TileBatch:
    """The batch with one slot masked, its content left in place."""
    valid = batch.valid.clone()
    valid[slot] = False
    return replace(batch, valid=valid)


def garble(batch: TileBatch, slot: int) -> TileBatch:
    """The batch with everything that one slot holds replaced by garbage, in place and shape."""
    changed = {f.name: getattr(batch, f.name) for f in fields(batch)}
    changed = {k: v.clone() if isinstance(v, torch.Tensor) else v for k, v in changed.items()}
    noise = torch.Generator().manual_seed(9)
    changed["rs"][slot] = torch.randint(0, 255, changed["rs"][slot].shape, generator=noise, dtype=torch.uint8)
    own = changed["node_sample"] == slot
    changed["anchors"][own] = torch.rand(int(own.sum()), 4, 2, generator=noise)
    tags = own[changed["tag_node"]]
    changed["tag_row"][tags] = 0
    photos = changed["photo_sample"] == slot
    changed["photos"][photos] = 77
    changed["photo_xy"][photos] = 0.123
    changed["photo_lonlat"][photos] = 1.0
    return TileBatch(**changed)


def gradients(model: torch.nn.Module, batch: TileBatch) -> tuple[dict[str, float], torch.Tensor]:
    """Losses, and all gradients end to end."""
    model.zero_grad()
    parts = model(batch)
    parts["loss"].backward()
    flat = [p.grad.flatten() for p in model.parameters() if p.grad is not None]
    return {k: float(v.detach()) for k, v in parts.items()}, torch.cat(flat)
