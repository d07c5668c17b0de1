"""What GAIR's contrast sees of a batch, and the places beside the photos' that it draws as negatives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from trainers.models.losses import EARTH_RADIUS, distance, pad_rows
from trainers.models.noise import uniform
from trainers.stream.batch import TileBatch

#: Fields of `Pairs` that have a row a photo.
OF_PHOTOS = (
    "photo", "place", "lonlat", "valid", "elsewhere", "elsewhere_far", "others", "others_far", "photo_kept",
)  # fmt: skip
#: Streams of random numbers: places in a tile for the image, and for the location encoder.
IMAGE_PLACE, LOCATION_PLACE = 201, 202


@dataclass
class Pairs:
    """Q photos with what belongs to each, H further places a photo, and B tiles. Embeddings are of any length."""

    photo: Tensor  # f32 [Q,D] photos
    place: Tensor  # f32 [Q,D] images at the photos' places
    lonlat: Tensor  # f64 [Q,2] the places, degrees
    valid: Tensor  # bool [Q] which count
    elsewhere: Tensor  # f32 [Q,H,D] images at other places of the photo's tile
    elsewhere_far: Tensor  # bool [Q,H] which of them are no false negatives
    others: Tensor  # f64 [Q,H,2] other places in the tile, degrees
    others_far: Tensor  # bool [Q,H] which of them are no false negatives
    photo_kept: Tensor  # f32 [Q] cosine of the photo's features to what they were at first; zeros without distillation
    tile_kept: Tensor  # f32 [B] the same of the tiles
    tile_valid: Tensor  # bool [B]

    def padded(self, count: int) -> Pairs:
        """With so many photos: ranks differ in theirs, and only equal shapes can be gathered."""
        rows = {name: pad_rows(getattr(self, name), count) for name in OF_PHOTOS}
        return Pairs(**rows, tile_kept=self.tile_kept, tile_valid=self.tile_valid)

    @staticmethod
    def joined(parts: Sequence[Pairs]) -> Pairs:
        """Several as one, in their order."""
        return Pairs(**{f.name: torch.cat([getattr(p, f.name) for p in parts]) for f in fields(Pairs)})

    def leaves(self) -> Pairs:
        """The same values, without what they were made from, ready to receive gradients."""
        held = {f.name: getattr(self, f.name).detach() for f in fields(Pairs)}
        return Pairs(**{name: t.requires_grad_(t.dtype == torch.float32) for name, t in held.items()})

    def backward(self, leaves: Pairs) -> None:
        """Hand the gradients of ``leaves``, made of the same batch, on to what these values were made from."""
        named = [(getattr(self, f.name), getattr(leaves, f.name).grad) for f in fields(Pairs)]
        live = [(value, grad) for value, grad in named if grad is not None and value.requires_grad]
        torch.autograd.backward([value for value, _ in live], [grad for _, grad in live])


def photo_numbers(batch: TileBatch) -> tuple[Tensor, Tensor]:
    """Each photo's slot seed i64[Q] and its number i64[Q] among those of its slot."""
    seed = torch.cat((batch.seed, batch.seed.new_zeros(1)))[batch.photo_sample]
    sample = batch.photo_sample.contiguous()
    number = torch.arange(len(sample), device=sample.device) - torch.searchsorted(sample, sample)
    return seed, number


def _draw(batch: TileBatch, count: int, stream: int) -> Tensor:
    """Uniform f32[Q,count,2], by the slots' seeds alone."""
    seed, number = photo_numbers(batch)
    index = torch.arange(2 * count, device=seed.device)
    return uniform(seed[:, None], number[:, None] * 2 * count + index, stream).view(len(seed), count, 2)


def places_in_tile(batch: TileBatch, count: int, radius: float) -> tuple[Tensor, Tensor]:
    """Places f32[Q,count,2] in the tile as it is shown, normalised image coordinates, drawn for each photo.

    And bool[Q,count]: which are farther than ``radius`` metres from the photo, reckoned by the shorter side of what is
    shown, so that whichever way the tile was turned none is nearer.
    """
    xy = _draw(batch, count, IMAGE_PLACE)
    west, south, east, north = torch.deg2rad(batch.bbox).unbind(1)
    left, top, right, bottom = batch.window.double().unbind(1)
    width = (east - west) * torch.cos((south + north) / 2) * (right - left)
    side = torch.minimum(width, (north - south) * (bottom - top)) * EARTH_RADIUS
    side = torch.cat((side, side.new_zeros(1)))[batch.photo_sample]
    apart = (xy - batch.photo_xy[:, None]).double().norm(dim=-1) * side[:, None]
    return xy, apart >= radius


def locations_in_tile(batch: TileBatch, count: int, radius: float) -> tuple[Tensor, Tensor]:
    """Places f64[Q,count,2] in degrees in the tile's bounds, drawn for each photo.

    And bool[Q,count]: which are farther than ``radius`` metres from the photo.
    """
    bounds = torch.cat((batch.bbox, batch.bbox.new_zeros(1, 4)))[batch.photo_sample]
    low, high = bounds[:, None, :2], bounds[:, None, 2:]
    lonlat = low + _draw(batch, count, LOCATION_PLACE).double() * (high - low)
    return lonlat, distance(lonlat, batch.photo_lonlat[:, None]) >= radius
