"""What a trained model can embed: batches to embeddings, one entry of ENCODERS a task."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from schemas.errors import DatasetError
from trainers.encode import Of
from trainers.models.gair.model import Gair
from trainers.models.geolink import GeoLink
from trainers.models.joint.model import Joint
from trainers.models.weights import restored
from trainers.stream.batch import TileBatch, View

#: Photos that an encoder takes at once.
PHOTOS = 256


@dataclass(frozen=True, eq=False)
class Rows:
    """Embeddings of the slots of a batch, or of its photos."""

    of: Of
    values: Tensor  # [B,D] or [Q,D]
    held: Tensor  # bool [B] or [Q] which of them there are


Found = dict[str, list[Rows]]  # by kind


class Encoder(Protocol):
    """A model as what ``geoshards encode`` asks of it."""

    @property
    def model(self) -> torch.nn.Module:
        """That computes; it is moved to the device."""

    @property
    def widths(self) -> Mapping[str, int]:
        """Of the kinds that it gives."""

    def view(self, kinds: Collection[str], photos: int) -> View:
        """What the stream has to read for ``kinds``; ``photos``: most of a tile."""

    def __call__(self, batch: TileBatch, kinds: Collection[str]) -> Found:
        """Embeddings of whole samples as they are stored, by kind; without random draws."""


class GeoLinkEncoder:
    """Tiles as the evaluation page measures them, and regions of objects."""

    def __init__(self, model: GeoLink) -> None:
        self.model = model
        self.widths = {"tiles": model.settings.vit.dim, "objects": model.settings.osm_dim}

    def view(self, kinds: Collection[str], photos: int) -> View:  # noqa: ARG002  # it takes none
        view = GeoLink.view(self.model.settings, self.model.fidelity)
        return view if "objects" in kinds else replace(view, osm=())

    def __call__(self, batch: TileBatch, kinds: Collection[str]) -> Found:
        found: Found = {}
        if "tiles" in kinds:
            found["tiles"] = [Rows("tile", self.model.embed_tiles(batch), batch.valid & batch.has_rs)]
        if "objects" in kinds:
            region, present = self.model.embed_objects(batch)
            found["objects"] = [Rows("tile", region, batch.valid & present)]
        return found


class GairEncoder:
    """Tiles, and all that lies in the common space."""

    def __init__(self, model: Gair) -> None:
        self.model, dim = model, model.settings.dim
        self.widths = {"tiles": model.settings.rs.dim, "places": dim, "photos": dim, "locations": dim}

    def view(self, kinds: Collection[str], photos: int) -> View:
        view = Gair.view(self.model.settings, self.model.fidelity)
        return replace(view, photos=0 if set(kinds) <= {"tiles"} else photos)

    def __call__(self, batch: TileBatch, kinds: Collection[str]) -> Found:
        model, found = self.model, Found()
        tile = torch.cat((batch.valid, batch.valid.new_zeros(1)))
        photo = batch.photo_valid & tile[batch.photo_sample]
        if "tiles" in kinds or "places" in kinds:
            tokens = model.encode_tiles(batch)
            found["tiles"] = [Rows("tile", tokens.float().mean(1), batch.valid & batch.has_rs)]
            found["places"] = [Rows("photo", model.localise(tokens, batch), model.photo_mask(batch))]
        if "photos" in kinds:
            parts = [model.encode_photos(replace(batch, photos=part)) for part in batch.photos.split(PHOTOS)]
            found["photos"] = [Rows("photo", torch.cat(parts), photo)]
        if "locations" in kinds:
            at = model.location(torch.cat((batch.lonlat, batch.photo_lonlat))).split((len(tile) - 1, len(photo)))
            found["locations"] = [Rows("tile", at[0], batch.valid), Rows("photo", at[1], photo)]
        return {kind: rows for kind, rows in found.items() if kind in kinds}


class JointEncoder:
    """All that both give, tiles as GeoLink's."""

    def __init__(self, model: Joint) -> None:
        self.model, self.geolink, self.gair = model, GeoLinkEncoder(model.geolink), GairEncoder(model.gair)
        self.widths = {**self.gair.widths, **self.geolink.widths}

    def view(self, kinds: Collection[str], photos: int) -> View:
        view = Joint.view(self.model.settings, self.model.fidelity)
        photos = 0 if set(kinds) <= {"tiles", "objects"} else photos
        return replace(view, osm=view.osm if "objects" in kinds else (), photos=photos)

    def __call__(self, batch: TileBatch, kinds: Collection[str]) -> Found:
        return self.geolink(batch, kinds) | self.gair(batch, set(kinds) - {"tiles"})


#: By task of the checkpoint: a checkpoint and its name to an encoder.
ENCODERS: dict[str, Callable[[Mapping[str, Any], str], Encoder]] = {
    "geolink": lambda checkpoint, name: GeoLinkEncoder(GeoLink.trained(checkpoint, name)),
    "gair": lambda checkpoint, name: GairEncoder(Gair.trained(checkpoint, name)),
    "joint": lambda checkpoint, name: JointEncoder(restored(Joint, "joint", checkpoint, name)),
}


def encoder_of(checkpoint: Mapping[str, Any], name: str) -> Encoder:
    """The encoder of a checkpoint called ``name``.

    Raises:
        DatasetError: it is of a task that embeds nothing.
    """
    task = checkpoint["config"].get("task")
    if task not in ENCODERS:
        raise DatasetError(f"{name} is a checkpoint of {task}; give one of {', '.join(ENCODERS)}")
    return ENCODERS[task](checkpoint, name)
