"""GAIR: remote-sensing, street-view and location encoders in one space.

In: a :class:`TileBatch`. Out: the loss and its parts. docs/papers/gair.md#losses.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from schemas.bands import named
from schemas.config import build
from schemas.errors import ConfigError
from schemas.footprint import gair_query
from trainers.models.convnet import ConvNet, PhotoConvNet
from trainers.models.gair.coordinate_queue import CoordinateQueue
from trainers.models.gair.croma import Croma
from trainers.models.gair.dates import DatePool
from trainers.models.gair.extras import FirstEncoders, MaskedImages, cosine
from trainers.models.gair.facing import CameraGround
from trainers.models.gair.location import SCALES, location_encoder
from trainers.models.gair.nili import cell_size, query_module
from trainers.models.gair.pairs import Pairs, locations_in_tile, photo_numbers, places_in_tile
from trainers.models.gair.photo import PhotoEncoder
from trainers.models.gair.settings import GairInit, GairLoss, GairSettings, choices
from trainers.models.gair.temperature import Temperature
from trainers.models.losses import (
    OwnNegatives,
    distributed,
    gather_plain,
    gather_rows,
    great_circle,
    info_nce,
    masked_mean,
    queue_nce,
)
from trainers.models.noise import hash32, uniform
from trainers.models.scatter import take
from trainers.models.vit import PatchTokens, PatchViT, PixelNorm, image_norm, unit_norm
from trainers.models.weights import restored
from trainers.stream.batch import PHOTO_CAPACITY, TileBatch, View, bucket

#: Statistics of street-view photos in 0..255 (docs/papers/gair.md#photos).
PHOTO = ((135.47184384, 142.28621995, 145.12271992), (59.19978436, 59.35279219, 72.02295734))
#: 8-bit levels to what the image encoder takes, by ``arch.image_norm``.
NORMS = {"unit": unit_norm, "statistics": image_norm}
#: Image encoders by ``arch.rs_encoder``: pixels to patch tokens.
ENCODERS = {"croma": Croma, "vit": PatchViT, "conv": ConvNet}
#: The same of photos, by ``arch.sv_encoder``: pixels to features.
PHOTO_ENCODERS: Mapping[str, type[PhotoEncoder | PhotoConvNet]] = {"vit": PhotoEncoder, "conv": PhotoConvNet}
#: Streams of random numbers: masks of photos, and which headings are hidden.
PHOTO_MASK, HEADING_DROP = 203, 204


class Gair(nn.Module):
    """The model. ``forward`` gives ``loss`` and the unweighted losses that have a weight, each a scalar.

    And ``temperature`` where it is learned. ``gather``: whether the ranks' samples are one batch; then the mean of a
    loss over the ranks is that batch's loss. ``unused``: whether weights that are trained are without a gradient.
    ``contrast_alone``: whether all losses are of the rows that ``represent`` gives, see trainers.engine.grad_cache.
    ``rs`` is an image encoder that another module holds: it is used, and its weights are none of this one's.
    """

    rs: Croma | PatchViT | PatchTokens | ConvNet
    sv: PhotoEncoder | PhotoConvNet
    notes: tuple[str, ...] = ()  # lines that a run shows

    def __init__(
        self, settings: GairSettings, variant: str = "ours", loss: GairLoss | None = None,
        rs: PatchTokens | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        self.weights = w = loss or GairLoss()
        s, v = settings, choices(settings, variant, w)
        self.settings, self.fidelity, self.rules = s, variant, v
        self.gather, self.incl_radius, self.secl_radius = v.gather, v.incl_radius, v.secl_radius
        bands = named(s.bands)
        self.rs_norm = NORMS[v.image_norm](bands)
        self.sv_norm = PixelNorm(*PHOTO)
        if rs is None:
            self.rs = ENCODERS[s.rs_encoder](s.rs, len(bands))
        else:
            object.__setattr__(self, "rs", rs)  # past torch, which would take its weights in
        self.dates = DatePool(s.rs.dim, s.date_pool) if s.dates > 1 else None
        self.sv = PHOTO_ENCODERS[s.sv_encoder](s.sv, s.pooler)
        self.sv_head = nn.Linear(s.sv.dim, s.dim)
        self.nili = query_module(s.query, s.rs.dim, s.rs.grid, s.dim, s.nili_hidden, variant)  # or a baseline
        self.facing = CameraGround(s.rs.dim, s.rs.grid, s.dim, s.heading_hidden) if v.heading else None
        self.location = location_encoder(
            s.location, s.dim, hidden=s.location_hidden, features=s.location_features,
            scales=s.location_scales or SCALES[variant], degree=s.location_degree,
        )  # fmt: skip
        self._objectives(len(bands))

    def _objectives(self, channels: int) -> None:
        """What the losses need beside the encoders."""
        s, w = self.settings, self.weights
        self.queue = CoordinateQueue(s.queue, self.rules.queue_start)
        self.temperature = Temperature(s.temperature, s.temperature_learned, s.temperature_range)
        if w.dist:
            self.first = FirstEncoders(rs=self.rs, sv=self.sv)
        if w.rec:
            if "conv" in (s.rs_encoder, s.sv_encoder):
                raise ConfigError("loss.rec hides patches, which a conv encoder cannot leave out; set loss.rec=0")
            self.rs_decoder, self.sv_decoder = MaskedImages(s, s.rs, channels), MaskedImages(s, s.sv, 3)
        self.unused, self.contrast_alone = not w.secl, not w.rec

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> Gair:
        """The model that plain values of the settings ``arch``, ``fidelity`` and ``loss`` describe; weights are new."""
        return cls(build(GairSettings, config["arch"]), config["fidelity"], build(GairLoss, config["loss"]))

    @classmethod
    def trained(cls, checkpoint: Mapping[str, Any], name: str) -> Gair:
        """The model of a checkpoint called ``name``, ready for inference.

        Raises:
            DatasetError: it is not one of GAIR.
        """
        return restored(cls, "gair", checkpoint, name)

    def load(self, init: GairInit) -> None:
        """Start from the weights of others.

        Raises:
            ConfigError: a file cannot be read, or does not fit.
        """
        if init.rs:
            self.rs.load(init.rs, named(self.settings.bands), self.rs_norm)
        if init.sv:
            self.sv.load(init.sv)
        if self.weights.dist:
            self.first.renew(rs=self.rs, sv=self.sv)

    @staticmethod
    def view(settings: GairSettings, fidelity: str = "ours") -> View:
        """What the stream has to read."""
        size, bands = settings.sv.image_size, named(settings.bands)
        v = choices(settings, fidelity)
        return View(
            settings.rs.image_size, bands, dates=settings.dates, levels=v.levels, photos=settings.photos,
            photo_size=size, photo_fit=v.photo_fit,
        )  # fmt: skip

    def encode_tiles(self, batch: TileBatch, encoder: nn.Module | None = None) -> Tensor:
        """Patch tokens [B,P,D] of the images, pooled over dates; their mean is the tile's embedding.

        By another ``encoder`` where one is given.
        """
        encode = encoder or self.rs
        if self.dates is None:
            return encode(self.rs_norm(batch.rs))
        each = encode(self.rs_norm(batch.rs.flatten(0, 1))).unflatten(0, batch.has_date.shape)
        return self.dates(each, batch.has_date)

    def photo_features(self, batch: TileBatch, encoder: nn.Module | None = None) -> Tensor:
        """Features [Q,D] of the photos, before the common space; of another ``encoder`` where one is given."""
        return (encoder or self.sv)(self.sv_norm(batch.photos))

    def encode_photos(self, batch: TileBatch) -> Tensor:
        """Photo embeddings [Q,dim] in the common space."""
        return self.sv_head(self.photo_features(batch))

    def query(
        self, tokens: Tensor, batch: TileBatch, sample: Tensor, xy: Tensor, frame: Tensor | None = None
    ) -> Tensor:
        """Image embeddings f32[N,dim] at places xy f32[N,2], normalised image coordinates, in tiles ``sample`` i64[N].

        ``tokens`` are those of ``batch``. A number beyond the tiles, which padding has, reads the last one. ``frame``
        f32[N,2,2], as TileBatch.photo_frame, says where a camera looks; without it the place alone counts.
        """
        sample = sample.clamp_max(len(tokens) - 1)
        cell = cell_size(batch.bbox, batch.window, self.settings.rs.grid)
        found = self.nili(tokens, sample, gair_query(xy), take(cell, sample))
        return found if self.facing is None or frame is None else found + self.facing(tokens, sample, xy, frame)

    def frames(self, batch: TileBatch) -> Tensor | None:
        """Frames f32[Q,2,2] of the photos' cameras, while training of a share of them none; None: they do not count."""
        frame, share = batch.photo_frame, self.settings.heading_drop
        if self.facing is None:
            return None
        if not self.training or not share:
            return frame
        seed, number = photo_numbers(batch)
        hidden = uniform(seed, number, HEADING_DROP) < share
        return torch.where(hidden[:, None, None], torch.nan, frame)

    def localise(self, tokens: Tensor, batch: TileBatch) -> Tensor:
        """Image embeddings f32[Q,dim] at the photos' places."""
        return self.query(tokens, batch, batch.photo_sample, batch.photo_xy, batch.photo_frame)

    def photo_mask(self, batch: TileBatch) -> Tensor:
        """bool[Q]: photos of valid samples that have an image."""
        tile = torch.cat((batch.valid & batch.has_rs, batch.valid.new_zeros(1)))
        return batch.photo_valid & tile[batch.photo_sample]

    def forward(self, batch: TileBatch, pairs: Pairs | None = None) -> dict[str, Tensor]:
        """``pairs`` are what ``represent`` gives of the batch, where it was asked already."""
        parts: dict[str, Tensor] = {}
        if self.weights.rec:
            parts["rec"] = self.reconstruction(batch)
        if self.weights.contrast:
            parts |= self.contrast(pairs or self.represent(batch))
        return self.weighted(parts)

    def weighted(self, parts: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """``loss``, the sum of ``parts`` by their weights, and the parts."""
        terms = [getattr(self.weights, name) * value for name, value in parts.items() if hasattr(self.weights, name)]
        return {"loss": torch.stack(terms).sum(), **parts}

    def represent(self, batch: TileBatch) -> Pairs:
        """What the contrast sees of a batch; photos are as many as a batch of its size can hold."""
        tokens, features = self.encode_tiles(batch), self.photo_features(batch)
        count = self.rules.hard_negatives
        xy, xy_far = places_in_tile(batch, count, self.incl_radius)
        others, others_far = locations_in_tile(batch, count, self.secl_radius)
        # One pass for the photos' places and those drawn.
        xy = torch.cat((batch.photo_xy[:, None], xy), 1)
        sample = batch.photo_sample[:, None].expand(-1, count + 1)
        if (frame := self.frames(batch)) is not None:
            frame = frame[:, None].expand(-1, count + 1, -1, -1).reshape(-1, 2, 2)
        found = self.query(tokens, batch, sample.reshape(-1), xy.view(-1, 2), frame).float()
        found = found.view(len(xy), count + 1, -1)
        valid, tile_valid = self.photo_mask(batch), batch.valid & batch.has_rs
        photo_kept, tile_kept = self.kept(batch, tokens, features)
        pairs = Pairs(
            self.sv_head(features).float(), found[:, 0], batch.photo_lonlat, valid, found[:, 1:],
            xy_far & valid[:, None], others, others_far & valid[:, None], photo_kept, tile_kept, tile_valid,
        )  # fmt: skip
        return pairs.padded(bucket(len(batch) * self.settings.photos, PHOTO_CAPACITY))

    def kept(self, batch: TileBatch, tokens: Tensor, features: Tensor) -> tuple[Tensor, Tensor]:
        """Cosines of the photos' and the tiles' features to those of the first encoders."""
        if not self.weights.dist:
            return batch.photo_xy.new_zeros(len(features)), batch.photo_xy.new_zeros(len(tokens))
        with torch.no_grad():
            photo = self.photo_features(batch, self.first["sv"])
            tile = self.encode_tiles(batch, self.first["rs"]).mean(1)
        return cosine(features, photo), cosine(tokens.mean(1), tile)

    def contrast(self, pairs: Pairs) -> dict[str, Tensor]:
        """The losses between rows that have a weight, in float32; then the queue takes the places in."""
        w, photo, place, valid = self.weights, pairs.photo, pairs.place, pairs.valid
        parts: dict[str, Tensor] = {}  # between rows
        with torch.autocast(photo.device.type, enabled=False):
            temperature = self.temperature()
            if w.incl:
                others = gather_plain(pairs.lonlat) if self.gather else pairs.lonlat
                near = great_circle(pairs.lonlat, others) < self.incl_radius
                own = OwnNegatives(pairs.elsewhere, pairs.elsewhere_far)
                parts["incl"] = info_nce(photo, place, valid, temperature, near, self.gather, own)
            if w.secl:
                parts["secl"] = self._secl(pairs, temperature)
                if self.training:
                    self.queue.push(gather_plain(pairs.lonlat), gather_plain(valid))
            if w.dist:
                photo_kept = masked_mean(pairs.photo_kept, valid, self.gather)
                parts["dist"] = -(photo_kept + masked_mean(pairs.tile_kept, pairs.tile_valid, self.gather))
        if isinstance(temperature, Tensor):
            parts["temperature"] = temperature.detach().squeeze()
        return parts

    def _secl(self, pairs: Pairs, temperature: float | Tensor) -> Tensor:
        """Photo to location and image to location; the queue is encoded anew each step."""
        lonlat, valid, gather = pairs.lonlat, pairs.valid, self.gather
        count, drawn = pairs.others.shape[:2]
        # The queue is written after the loss: a copy keeps the values that the backward pass needs.
        queued = self.queue.places.clone()
        encoded = self.location(torch.cat((lonlat, queued, pairs.others.reshape(-1, 2))))
        own, negatives, hard = encoded.split((count, len(queued), count * drawn))
        allowed = self.queue.valid()[None] & (great_circle(lonlat, queued) >= self.secl_radius)
        if self.rules.in_batch:
            places, seen, rows = (gather_plain(lonlat), gather_plain(valid), gather_rows(own)) if gather else (
                lonlat, valid, own
            )  # fmt: skip
            first = dist.get_rank() * count if gather and distributed() else 0
            index = torch.arange(len(places), device=places.device)
            other = index[None] != index[first : first + count, None]
            far = great_circle(lonlat, places) >= self.secl_radius
            negatives, allowed = torch.cat((negatives, rows)), torch.cat((allowed, seen[None] & other & far), 1)
        extra = OwnNegatives(hard.view(count, drawn, own.shape[1]), pairs.others_far)
        terms = [
            queue_nce(a, own, valid, negatives, allowed, temperature, gather, extra) for a in (pairs.photo, pairs.place)
        ]
        return (terms[0] + terms[1]) / 2

    def reconstruction(self, batch: TileBatch) -> Tensor:
        """L_rec: hidden patches of the images and of the photos, half each."""
        image, photo = self.reconstructed(batch)
        return (image + photo) / 2

    def shown(self, batch: TileBatch) -> tuple[Tensor, Tensor]:
        """Which images count in L_rec, bool[B*D], each date one of its own; and which photos, bool[Q]."""
        images = (batch.valid & batch.has_rs)[:, None] & batch.has_date
        return images.flatten(), batch.photo_valid & self.photo_mask(batch)

    def reconstructed(self, batch: TileBatch) -> tuple[Tensor, Tensor]:
        """Mean squared errors of the hidden patches of the images and of those of the photos."""
        seed, number = photo_numbers(batch)
        photos, (shown, valid) = batch.photos, self.shown(batch)
        whole = photos.new_zeros(len(photos), 0, 0)
        dates, images, planes = batch.has_date.shape[1], batch.rs, batch.rs_valid
        if dates > 1:  # the same patches are hidden in all
            images, planes = images.flatten(0, 1), planes.flatten(0, 1)
        image = self.rs_decoder(
            self.rs, self.rs_norm, images, batch.seed.repeat_interleave(dates), shown, planes, self.gather
        )
        photo = self.sv_decoder(
            self.sv, self.sv_norm, photos, hash32(seed, number, PHOTO_MASK), valid, whole, self.gather
        )
        return image, photo
