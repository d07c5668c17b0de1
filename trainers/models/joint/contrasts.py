"""Contrasts that neither paper has: objects around a photo's place against the photo, objects against a location."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from trainers.models.gair.nili import cell_size
from trainers.models.losses import gather_plain, great_circle, info_nce, pad_rows
from trainers.stream.batch import TileBatch


@dataclass(frozen=True)
class Rules:
    """How rows are compared."""

    temperature: float | Tensor
    radius: float  # metres: nearer rows are no negatives
    gather: bool  # whether the ranks' rows are one batch

    def contrast(self, a: Tensor, b: Tensor, lonlat: Tensor, valid: Tensor) -> Tensor:
        """Symmetric InfoNCE of rows a, b [N,D] at places lonlat f64[N,2], those that are ``valid`` bool[N]."""
        near = great_circle(lonlat, gather_plain(lonlat) if self.gather else lonlat) < self.radius
        return info_nce(a, b, valid, self.temperature, near, self.gather)


def nearness(batch: TileBatch, radius: float) -> Tensor:
    """f32[Q,N]: 1 for an object at a photo's place, falling evenly to 0 at ``radius`` metres; 0 for those of other
    tiles.

    An object is where the nearest of its anchors is. Metres are by the root of the area that is shown, so that they are
    the same however the tile was turned.
    """
    side = cell_size(batch.bbox, batch.window, 1)
    side = torch.cat((side, side.new_ones(1)))[batch.photo_sample]
    nearest = batch.extent.new_full((len(batch.photos), len(batch.node_valid)), float("inf"))
    for anchor in batch.anchors.unbind(1):  # one by one: all at once would take four times the memory
        apart = (batch.photo_xy[:, None] - anchor[None]).square().sum(-1).sqrt()
        nearest = torch.minimum(nearest, torch.nan_to_num(apart, nan=float("inf")))
    own = batch.node_valid & (batch.photo_sample[:, None] == batch.node_sample[None])
    return torch.where(own, (1 - nearest * side[:, None] / radius).clamp_min(0), torch.zeros_like(nearest))


class ObjectsAroundPhotos(nn.Module):
    """Objects within ``radius`` metres of a photo's place, the nearer the more, against the photo."""

    def __init__(self, osm_dim: int, dim: int, radius: float) -> None:
        super().__init__()
        self.radius = radius
        self.head = nn.Linear(osm_dim, dim)

    def embed(self, nodes: Tensor, batch: TileBatch) -> tuple[Tensor, Tensor]:
        """Embeddings f32[Q,dim] of what is around the photos, from encodings of nodes [N,osm_dim], and bool[Q]:
        whether anything is."""
        weight = nearness(batch, self.radius)
        total = weight.sum(1, keepdim=True)
        mean = weight @ nodes.float() / torch.where(total > 0, total, torch.ones_like(total))
        return self.head(mean), total[:, 0] > 0

    def forward(
        self, nodes: Tensor, batch: TileBatch, photo: Tensor, valid: Tensor, rules: Rules
    ) -> tuple[Tensor, Tensor]:
        """Loss, and how many rows it is of; photos f32[P,dim] padded beyond Q, ``valid`` bool[Q] which count."""
        around, some = self.embed(nodes, batch)
        both = pad_rows(valid & some, len(photo))
        lonlat = pad_rows(batch.photo_lonlat, len(photo))
        return rules.contrast(pad_rows(around, len(photo)), photo, lonlat, both), both.sum()


class ObjectsAndLocations(nn.Module):
    """The objects of a tile as one against the location of its centre."""

    def __init__(self, osm_dim: int, dim: int) -> None:
        super().__init__()
        self.head = nn.Linear(osm_dim, dim)

    def forward(
        self, region: Tensor, kinds: Tensor, location: Tensor, batch: TileBatch, rules: Rules
    ) -> tuple[Tensor, Tensor]:
        """Loss, and how many rows it is of, from regions f32[B,osm_dim], their weights of kinds f32[B,kinds] and
        embeddings of centres [B,dim]."""
        valid = batch.valid & (kinds > 0).any(1)
        return rules.contrast(self.head(region), location, batch.lonlat, valid), valid.sum()
