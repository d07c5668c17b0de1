"""GAIR: remote-sensing, street-view and location encoders in one space.

In: a :class:`TileBatch`. Out: the loss and its parts. docs/papers/gair.md#losses.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from schemas.bands import RGB, Bands, named
from schemas.errors import ConfigError
from schemas.footprint import gair_query
from trainers.models.location import LocationEncoder
from trainers.models.losses import gather_plain, great_circle, info_nce, pad_rows, queue_nce
from trainers.models.nili import Nili
from trainers.models.vit import PixelNorm, ViT, ViTSettings, image_norm
from trainers.stream.batch import PHOTO_CAPACITY, TileBatch, View, bucket

#: Statistics of street-view photos in 0..255 (docs/papers/gair.md#photos).
PHOTO = ((135.47184384, 142.28621995, 145.12271992), (59.19978436, 59.35279219, 72.02295734))


@dataclass(frozen=True)
class GairSettings:
    """Size of the model."""

    rs: ViTSettings = field(default_factory=lambda: ViTSettings(96, 8, 768, 12, 16))
    sv: ViTSettings = field(default_factory=lambda: ViTSettings(224, 16, 768, 12, 12))
    bands: Bands = RGB  # image bands in channel order, by any name; all: those of the dataset
    dim: int = 768  # width of the common space
    photos: int = 2  # most photos a tile and step; the image encoder runs once a tile
    location_features: int = 256  # Fourier frequencies a scale
    location_hidden: int = 1024  # width of the location MLPs
    nili_hidden: int = 1024  # width of the non-linear head of NILI
    queue: int = 4096  # coordinates kept as negatives
    temperature: float = 0.07  # divides the similarities

    def __post_init__(self) -> None:
        if self.photos < 1 or self.queue < 1:
            raise ConfigError("arch.photos and arch.queue must be at least 1")


@dataclass(frozen=True)
class GairLoss:
    """Weights and false negatives of the losses; weight 0 switches one off."""

    incl: float = 1.0  # image at the place against photo
    secl: float = 1.0  # photo and image against location
    gather: bool = True  # whether other ranks' photos are negatives in INCL
    incl_radius: float | None = None  # metres: a photo nearer than this is no negative; none: the variant's, 0: off
    secl_radius: float | None = None  # metres: a queued place nearer than this is no negative


@dataclass(frozen=True)
class GairVariant:
    """Choices on which release and sense differ (docs/papers/gair.md#defects)."""

    incl_radius: float  # metres
    secl_radius: float  # metres


#: Ours: photos within 25 m show the same scene, and places within 250 m are the same to the location encoder.
VARIANTS: Mapping[str, GairVariant] = {
    "ours": GairVariant(25.0, 250.0),
    "paper": GairVariant(0.0, 0.0),
    "released": GairVariant(0.0, 0.0),
}


class CoordinateQueue(nn.Module):
    """The last K places seen, raw degrees, first in first out; starts empty and knows how many it holds."""

    places: Tensor
    held: Tensor
    head: Tensor

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size
        self.register_buffer("places", torch.zeros(size, 2, dtype=torch.float64))
        self.register_buffer("held", torch.zeros((), dtype=torch.long))
        self.register_buffer("head", torch.zeros((), dtype=torch.long))

    def valid(self) -> Tensor:
        """bool[K]: which rows hold a place."""
        return torch.arange(self.size, device=self.places.device) < self.held

    @torch.no_grad()
    def push(self, lonlat: Tensor, valid: Tensor) -> None:
        """Append the valid rows of f64[N,2]; of more than K only the last K. Never synchronises with the host."""
        number = torch.cumsum(valid.long(), 0) - 1
        count = valid.sum()
        kept = valid & (number >= count - self.size)
        place = torch.where(kept, (self.head + number) % self.size, self.size)
        grown = torch.cat((self.places, self.places.new_zeros(1, 2)))
        grown[place] = lonlat.double()
        self.places.copy_(grown[: self.size])
        self.head.copy_((self.head + count) % self.size)
        self.held.copy_((self.held + count).clamp_max(self.size))


class Gair(nn.Module):
    """The model. ``forward`` gives ``loss`` and the unweighted ``incl``, ``secl``, each a scalar.

    ``gather``: whether the ranks' samples are one batch; then the mean of a loss over the ranks is that batch's loss.
    """

    def __init__(self, settings: GairSettings, variant: str = "ours", loss: GairLoss | None = None) -> None:
        super().__init__()
        s, v = settings, VARIANTS[variant]
        self.settings, self.weights = s, loss or GairLoss()
        given = self.weights
        self.gather = given.gather
        self.incl_radius = v.incl_radius if given.incl_radius is None else given.incl_radius
        self.secl_radius = v.secl_radius if given.secl_radius is None else given.secl_radius
        bands = named(s.bands)
        self.rs_norm, self.sv_norm = image_norm(bands), PixelNorm(*PHOTO)
        self.rs = ViT(s.rs, len(bands), class_token=False)
        self.sv = ViT(s.sv)
        self.sv_head = nn.Linear(s.sv.dim, s.dim)
        self.nili = Nili(s.rs.dim, s.rs.grid, s.dim, s.nili_hidden, variant)
        self.location = LocationEncoder(s.dim, s.location_features, s.location_hidden)
        self.queue = CoordinateQueue(s.queue)

    @staticmethod
    def view(settings: GairSettings) -> View:
        """What the stream has to read."""
        size, bands = settings.sv.image_size, named(settings.bands)
        return View(settings.rs.image_size, bands, photos=settings.photos, photo_size=size)

    def encode_tiles(self, batch: TileBatch) -> Tensor:
        """Patch tokens [B,P,D] of the images; their mean is the tile's embedding."""
        return self.rs(self.rs_norm(batch.rs))

    def encode_photos(self, batch: TileBatch) -> Tensor:
        """Photo embeddings [Q,dim] in the common space."""
        return self.sv_head(self.sv(self.sv_norm(batch.photos))[:, 0])

    def localise(self, tokens: Tensor, batch: TileBatch) -> Tensor:
        """Image embeddings f32[Q,dim] at the photos' places."""
        sample = batch.photo_sample.clamp_max(len(tokens) - 1)
        return self.query(tokens, sample, gair_query(batch.photo_xy))

    def query(self, tokens: Tensor, sample: Tensor, u: Tensor) -> Tensor:
        """Image embeddings f32[M,dim] at places ``u`` f32[M,2] in -1..1 (gair_query) of the tiles ``sample`` i64[M]."""
        return self.nili(tokens, sample, u)

    def photo_mask(self, batch: TileBatch) -> Tensor:
        """bool[Q]: photos of valid samples that have an image."""
        tile = torch.cat((batch.valid & batch.has_rs, batch.valid.new_zeros(1)))
        return batch.photo_valid & tile[batch.photo_sample]

    def forward(self, batch: TileBatch) -> dict[str, Tensor]:
        valid = self.photo_mask(batch)
        place = self.localise(self.encode_tiles(batch), batch)
        photo = self.encode_photos(batch)
        # Ranks differ in their photo count: rows are brought to the most that a batch can hold before any gathering.
        most = bucket(len(batch) * self.settings.photos, PHOTO_CAPACITY)
        lonlat, seen = pad_rows(batch.photo_lonlat, most), pad_rows(valid, most)
        parts: dict[str, Tensor] = {}
        if self.weights.incl:
            parts["incl"] = self._incl(pad_rows(photo, most), pad_rows(place, most), lonlat, seen)
        if self.weights.secl:
            parts["secl"] = self._secl(photo, place, batch.photo_lonlat, valid)
            if self.training:
                self.queue.push(gather_plain(lonlat), gather_plain(seen))
        total = sum((getattr(self.weights, name) * value for name, value in parts.items()), batch.gsd.new_zeros(()))
        return {"loss": total, **parts}

    def _incl(self, photo: Tensor, place: Tensor, lonlat: Tensor, valid: Tensor) -> Tensor:
        others = gather_plain(lonlat) if self.gather else lonlat
        near = great_circle(lonlat, others) < self.incl_radius
        return info_nce(photo, place, valid, self.settings.temperature, near, self.gather)

    def _secl(self, photo: Tensor, place: Tensor, lonlat: Tensor, valid: Tensor) -> Tensor:
        """Photo to location and image to location, against the queue, which is encoded anew each step."""
        count = len(lonlat)
        # The queue is written after the loss: a copy keeps the values that the backward pass needs.
        queued = self.queue.places.clone()
        encoded = self.location(torch.cat((lonlat, queued)))
        own, negatives = encoded[:count], encoded[count:]
        allowed = self.queue.valid()[None] & (great_circle(lonlat, queued) >= self.secl_radius)
        temperature, gather = self.settings.temperature, self.gather
        terms = [queue_nce(a, own, valid, negatives, allowed, temperature, gather) for a in (photo, place)]
        return (terms[0] + terms[1]) / 2
