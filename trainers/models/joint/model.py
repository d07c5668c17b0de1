"""GeoLink and GAIR over one image encoder, on samples that hold any of image, objects, photos and location.

In: a :class:`TileBatch`. Out: the loss and its parts, by task. GeoLink sees the image with hidden patches, GAIR all of
it. docs/joint.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from schemas.config import build
from trainers.models.gair.model import Gair
from trainers.models.gair.pairs import Pairs
from trainers.models.geolink import GeoLink
from trainers.models.joint.contrasts import Matched, ObjectsAndLocations, ObjectsAroundPhotos
from trainers.models.joint.rows import gair_rows, geolink_rows, present
from trainers.models.joint.settings import JointLoss, JointSettings
from trainers.models.joint.weighting import Uncertainty, turn
from trainers.models.losses import pad_rows
from trainers.models.vit import PatchTokens
from trainers.stream.batch import PHOTO_CAPACITY, TileBatch, View, bucket


class Joint(nn.Module):
    """The model. ``forward`` gives ``loss``, and unweighted, detached and by name, ``TASK/loss`` and its parts.

    A part that no row of the batch counts for is NaN: it is absent, not 0. ``gather`` and ``unused`` are as in GeoLink.
    Weights of the image encoder are stored once, as ``geolink.vit``.
    """

    notes: tuple[str, ...] = ()  # lines that a run shows

    def __init__(self, settings: JointSettings, variant: str = "ours", loss: JointLoss | None = None) -> None:
        super().__init__()
        self.weights = w = loss or JointLoss()
        self.settings, self.fidelity = settings, variant
        self.geolink = GeoLink(settings.for_geolink, variant, replace(w.geolink, gather=w.gather))
        self.gather = self.geolink.gather
        encoder = PatchTokens(self.geolink.vit)
        self.gair = Gair(settings.for_gair, variant, replace(w.gair, gather=self.gather), encoder)
        self.tasks = w.task_weights.active()
        self.due = turn(self.tasks, 0, w.alternate)
        width, dim = settings.geolink.osm_dim, settings.gair.dim
        if w.task_weights.osm_photo:
            self.osm_photo = ObjectsAroundPhotos(width, dim, w.osm_photo_radius)
        if w.task_weights.osm_location:
            self.osm_location = ObjectsAndLocations(width, dim)
        self.uncertainty = Uncertainty(self.tasks) if w.weighting == "uncertainty" else None
        whole = {"geolink", "gair"} <= set(self.tasks) and not w.alternate
        self.unused = not whole or self.geolink.unused or self.gair.unused

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> Joint:
        """The model that plain values of the settings ``arch``, ``fidelity`` and ``loss`` describe; weights are new."""
        return cls(build(JointSettings, config["arch"]), config["fidelity"], build(JointLoss, config["loss"]))

    @staticmethod
    def view(settings: JointSettings, fidelity: str = "ours") -> View:
        """What the stream has to read: what either part does."""
        geolink, gair = GeoLink.view(settings.for_geolink, fidelity), Gair.view(settings.for_gair, fidelity)
        return replace(gair, osm=geolink.osm, tag_width=geolink.tag_width, anchors=geolink.anchors)

    def begin(self, samples: int) -> None:
        """Told before each step how many samples were consumed: whose turn it is."""
        self.due = turn(self.tasks, samples, self.weights.alternate)

    def forward(self, batch: TileBatch) -> dict[str, Tensor]:
        w = self.weights
        losses, parts, rows = self._losses(batch, self.due if self.training else self.tasks)
        known = present(rows, self.gather, {"gair/incl": 1 if self.gair.rules.hard_negatives else 2})
        total = batch.gsd.new_zeros(())
        for name, loss in losses.items():
            some = torch.stack([known[r] for r in rows if r.split("/")[0] == name]).any()
            weighted = getattr(w.task_weights, name) * loss
            total = total + (self.uncertainty(name, weighted, some) if self.uncertainty else weighted)
            parts[f"{name}/loss"], known[f"{name}/loss"] = loss, some
        if self.uncertainty:
            parts |= {f"{name}/scale": value for name, value in self.uncertainty.scales().items()}
        return {"loss": total} | {name: _or_nan(value, known.get(name)) for name, value in parts.items()}

    def _losses(
        self, batch: TileBatch, tasks: tuple[str, ...]
    ) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Tensor]]:
        """By task its loss; by part its value; and by part of how many rows it is."""
        losses: dict[str, Tensor] = {}
        parts: dict[str, Tensor] = {}
        rows: dict[str, Tensor] = {}
        pairs = None
        if "geolink" in tasks:
            found = self.geolink(batch)
            losses["geolink"] = found.pop("loss")
            parts |= {f"geolink/{name}": value for name, value in found.items()}
            rows |= geolink_rows(self.geolink, batch)
        if "gair" in tasks:
            pairs = self.gair.represent(batch) if self.gair.weights.contrast else None
            found = self.gair(batch, pairs)
            losses["gair"] = found.pop("loss")
            parts |= {f"gair/{name}": value for name, value in found.items()}
            rows |= gair_rows(self.gair, batch)
        for name, found in self.with_objects(batch, tasks, pairs).items():
            radius = self.gair.incl_radius if name == "osm_photo" else self.gair.secl_radius
            with torch.autocast(found.a.device.type, enabled=False):
                losses[name] = found.loss(self.gair.temperature(), radius, self.gather)
            rows[name] = found.valid.sum()
        return losses, parts, rows

    def with_objects(self, batch: TileBatch, tasks: Sequence[str], pairs: Pairs | None = None) -> dict[str, Matched]:
        """What those of ``tasks`` that compare whole graphs with what GAIR encodes see of a batch.

        ``pairs`` are GAIR's of the batch, where it has them already.
        """
        found: dict[str, Matched] = {}
        if not {"osm_photo", "osm_location"} & set(tasks):
            return found
        nodes = self.geolink.encode_nodes(batch, torch.zeros_like(batch.node_valid))
        if "osm_photo" in tasks:
            count = bucket(len(batch) * self.settings.gair.photos, PHOTO_CAPACITY)
            photo = pairs.photo if pairs else pad_rows(self.gair.encode_photos(batch).float(), count)
            with torch.autocast(nodes.device.type, enabled=False):
                found["osm_photo"] = self.osm_photo(nodes.float(), batch, photo)
        if "osm_location" in tasks:
            region, kinds = self.geolink.aggregate(nodes, batch)
            location = self.gair.location(batch.lonlat).float()
            with torch.autocast(nodes.device.type, enabled=False):
                found["osm_location"] = self.osm_location(region, kinds, batch, location)
        return found


def _or_nan(value: Tensor, known: Tensor | None) -> Tensor:
    """``value`` without its graph, NaN where it is not ``known``."""
    value = value.detach()
    return value if known is None else torch.where(known, value, torch.full_like(value, float("nan")))
