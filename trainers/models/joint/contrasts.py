"""Contrasts that neither paper has: objects around a photo's place against the photo, objects against a location."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from trainers.models.gair.nili import cell_size
from trainers.models.losses import gather_plain, great_circle, info_nce, pad_rows
from trainers.stream.batch import TileBatch


@dataclass(frozen=True)
class Matched:
    """N rows of two kinds that belong together."""

    a: Tensor  # f32 [N,D] of objects
    b: Tensor  # f32 [N,D] of what they are compared with
    lonlat: Tensor  # f64 [N,2] where, degrees
    valid: Tensor  # bool [N] which count

    def loss(self, temperature: float | Tensor, radius: float, gather: bool) -> Tensor:
        """Symmetric InfoNCE; rows nearer than ``radius`` metres are no negatives of each other."""
        near = great_circle(self.lonlat, gather_plain(self.lonlat) if gather else self.lonlat) < radius
        return info_nce(self.a, self.b, self.valid, temperature, near, gather)


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

    def forward(self, nodes: Tensor, batch: TileBatch, photo: Tensor) -> Matched:
        """With photos f32[P,dim], padded beyond Q: ranks differ in theirs, and only equal shapes can be gathered."""
        around, some = self.embed(nodes, batch)
        tile = torch.cat((batch.valid, batch.valid.new_zeros(1)))[batch.photo_sample]
        count = len(photo)
        valid = pad_rows(batch.photo_valid & tile & some, count)
        return Matched(pad_rows(around, count), photo, pad_rows(batch.photo_lonlat, count), valid)


class ObjectsAndLocations(nn.Module):
    """The objects of a tile as one against the location of its centre."""

    def __init__(self, osm_dim: int, dim: int) -> None:
        super().__init__()
        self.head = nn.Linear(osm_dim, dim)

    def forward(self, region: Tensor, kinds: Tensor, batch: TileBatch, location: Tensor) -> Matched:
        """Of regions f32[B,osm_dim], their weights of kinds f32[B,kinds] and centres [B,dim]."""
        return Matched(self.head(region), location, batch.lonlat, batch.valid & (kinds > 0).any(1))
