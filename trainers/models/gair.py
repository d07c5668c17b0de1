"""GAIR: remote-sensing, street-view and location encoders in one space.

In: a :class:`TileBatch`. Out: the loss and its parts. docs/papers/gair.md#losses.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from schemas.bands import named
from schemas.footprint import gair_query
from trainers.models.coordinate_queue import CoordinateQueue
from trainers.models.gair_settings import VARIANTS, GairLoss, GairSettings
from trainers.models.location import LocationEncoder
from trainers.models.losses import gather_plain, great_circle, info_nce, pad_rows, queue_nce
from trainers.models.nili import Nili
from trainers.models.vit import PixelNorm, ViT, image_norm
from trainers.stream.batch import PHOTO_CAPACITY, TileBatch, View, bucket

#: Statistics of street-view photos in 0..255 (docs/papers/gair.md#photos).
PHOTO = ((135.47184384, 142.28621995, 145.12271992), (59.19978436, 59.35279219, 72.02295734))


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
        return self.nili(tokens, sample, gair_query(batch.photo_xy))

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
