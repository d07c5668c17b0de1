"""How many rows each loss of a batch is of: one of none is not 0, it is absent."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor

from trainers.models.gair.model import Gair
from trainers.models.geolink import GeoLink
from trainers.models.geolink_settings import COUNT_RULES
from trainers.models.losses import distributed
from trainers.models.nodes import mask_nodes
from trainers.models.scatter import segment_sizes, take
from trainers.stream.batch import TileBatch

#: Rows from which a loss says something, where it is not one: a contrast needs something to compare with.
_LEAST = {"geolink/cont": 2, "osm_photo": 2, "osm_location": 2}


def geolink_rows(model: GeoLink, batch: TileBatch) -> dict[str, Tensor]:
    """Images, tiles with image and objects, and hidden nodes that count, i64[] each, by loss."""
    shown, found = batch.valid & batch.has_rs, {}
    if model.weights.rec:
        found["geolink/rec"] = shown.sum()
    if model.weights.cont:
        objects = segment_sizes(batch.node_sample, batch.node_valid, len(shown) + 1)[:-1] > 0
        found["geolink/cont"] = (shown & objects).sum()
    if model.weights.cst:
        masked = mask_nodes(batch, model.settings.node_mask, COUNT_RULES[model.rules.mask_count])
        counted = take(torch.cat((shown, shown.new_zeros(1))), batch.node_sample)
        found["geolink/cst"] = (masked & counted).sum()
    return found


def gair_rows(model: Gair, batch: TileBatch) -> dict[str, Tensor]:
    """Photos that count, and for what is of images too these with them, i64[] each, by loss."""
    photos = model.photo_mask(batch).sum()
    both = photos + (batch.valid & batch.has_rs).sum()
    of_images = {"dist", "rec"}
    names = [name for name in ("rec", "incl", "secl", "dist") if getattr(model.weights, name)]
    return {f"gair/{name}": both if name in of_images else photos for name in names}


def present(rows: dict[str, Tensor], gather: bool, least: dict[str, int]) -> dict[str, Tensor]:
    """bool[] by loss: whether it has enough rows, of all ranks where ``gather`` is on."""
    if not rows:
        return {}
    counts = torch.stack(list(rows.values()))
    if gather and distributed():
        dist.all_reduce(counts)
    return {name: count >= (_LEAST | least).get(name, 1) for name, count in zip(rows, counts.unbind(), strict=True)}
