"""Losses of the two models put together from their encoders by plain sums: what is fed to what, and what counts."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.trainers.batches import GAIR, GEOLINK, gair_batch, geolink_batch
from trainers.models.gair.model import Gair
from trainers.models.gair.pairs import locations_in_tile, places_in_tile
from trainers.models.gair.settings import GairLoss
from trainers.models.geolink import GeoLink, GeoLinkLoss
from trainers.models.nodes import node_features
from trainers.stream.batch import TileBatch

#: ImageNet's, and the released statistics of photos (docs/papers/gair.md#photos).
IMAGE = torch.tensor([[123.675, 116.28, 103.53], [58.395, 57.12, 57.375]])
PHOTO = torch.tensor([[135.47184384, 142.28621995, 145.12271992], [59.19978436, 59.35279219, 72.02295734]])
#: Of GAIR's losses and of GeoLink's.
COLD, WARM = 0.07, 0.2


def pixels(image: Tensor, known: Tensor) -> Tensor:
    mean, deviation = known[:, None, :, None, None]
    return (image.float() - mean) / deviation


def metres(a: Tensor, b: Tensor) -> Tensor:
    """Distances of places in degrees, by the chord between them."""

    def point(lonlat: Tensor) -> Tensor:
        lon, lat = torch.deg2rad(lonlat).unbind(-1)
        return torch.stack((lat.cos() * lon.cos(), lat.cos() * lon.sin(), lat.sin()), -1)

    return 2 * 6371008.8 * torch.asin(torch.cdist(point(a), point(b)) / 2)


def named_first(row: Tensor, columns: Tensor, positive: Tensor, temperature: float = COLD) -> Tensor:
    """-log of the softmax of ``positive`` beside the rows ``columns``, by cosine."""
    logits = F.cosine_similarity(row[None], torch.cat((positive[None], columns))) / temperature
    return torch.logsumexp(logits, 0) - logits[0]


def in_town(batch: TileBatch, seed: int) -> TileBatch:
    """The batch with its photos strewn over some 400 m, so that both radii divide them."""
    noise = torch.rand(batch.photo_lonlat.shape, generator=torch.Generator().manual_seed(seed)).double()
    return replace(batch, photo_lonlat=torch.tensor([11.5, 48.1]) + noise * torch.tensor([0.006, 0.004]))


def patch_sides(batch: TileBatch) -> Tensor:
    """Metres a side of each tile's patches, by the distances of its corners."""
    west, south, east, north = batch.bbox.unbind(1)
    corners = torch.stack((west, south, east, south, west, north), 1).view(-1, 3, 2)
    apart = torch.stack([metres(c, c) for c in corners])
    return (apart[:, 0, 1] * apart[:, 0, 2]).sqrt().float() / GAIR.rs.grid


@torch.no_grad()
def test_gair_s_losses_are_those_of_its_parts_put_together_by_hand(dataset: Path) -> None:
    torch.manual_seed(0)
    model = Gair(GAIR, "ours", GairLoss(incl=0.7, secl=0.3, hard_negatives=3, incl_radius=200.0, secl_radius=250.0))
    first, batch = in_town(gair_batch(dataset, 8), 1), in_town(gair_batch(dataset, 8, 1), 2)
    batch.has_rs[2] = batch.valid[3] = False
    model(first)
    queued = first.photo_lonlat[first.photo_valid]
    counted = [q for q in range(len(batch.photos)) if batch.photo_valid[q] and int(batch.photo_sample[q]) not in (2, 3)]
    assert len(counted) < int(batch.photo_valid.sum())
    sample, lonlat = batch.photo_sample[counted], batch.photo_lonlat[counted]
    token = model.sv.vit(pixels(batch.photos, PHOTO))[counted, 0]  # the class token
    photo = model.sv_head(torch.tanh(model.sv.pooler(token)))
    tokens, cell = model.rs(pixels(batch.rs, IMAGE)), patch_sides(batch)
    frame = model.frames(batch)[counted]  # of what they are see test_facing.py
    place = model.nili(tokens, sample, 2 * batch.photo_xy[counted] - 1, cell[sample])
    place = place + model.facing(tokens, sample, batch.photo_xy[counted], frame)
    location, negatives = model.location(lonlat), model.location(queued)
    near, far, apart = metres(lonlat, lonlat) < 200, metres(lonlat, queued) >= 250, metres(lonlat, lonlat) >= 250
    drawn, fits = (t[counted] for t in places_in_tile(batch, 3, 200.0))  # of what they are see test_gair_objectives.py
    unseen, distant = (t[counted] for t in locations_in_tile(batch, 3, 250.0))
    assert near.float().mean() < 0.9
    assert all(0.1 < part.float().mean() < 0.95 for part in (far, apart))
    assert all(part.any() for part in (fits, distant))
    incl, secl = [], []
    for i in range(len(counted)):
        others = [j for j in range(len(counted)) if j != i and not near[i, j]]
        own = sample[i].repeat(3)
        beside = model.nili(tokens, own, 2 * drawn[i] - 1, cell[own])
        beside = (beside + model.facing(tokens, own, drawn[i], frame[i].expand(3, 2, 2)))[fits[i]]
        seen = torch.cat((place[others], beside))
        incl += [named_first(photo[i], seen, place[i]), named_first(place[i], photo[others], photo[i])]
        beyond = torch.cat((negatives[far[i]], location[apart[i]], model.location(unseen[i])[distant[i]]))
        secl += [named_first(a[i], beyond, location[i]) for a in (photo, place)]
    found = model(batch)
    expected = {"incl": float(torch.stack(incl).mean()), "secl": float(torch.stack(secl).mean())}
    expected["loss"] = 0.7 * expected["incl"] + 0.3 * expected["secl"]
    assert {name: float(value) for name, value in found.items()} == pytest.approx(expected, rel=1e-4)
    held = model.queue.places[model.queue.valid()]
    assert torch.equal(held, torch.cat((queued, lonlat)))  # written behind the loss, without what does not count
    model.eval()(first)
    assert torch.equal(model.queue.places[model.queue.valid()], held)


@torch.no_grad()
def test_geolink_s_losses_are_those_of_its_parts_put_together_by_hand(dataset: Path) -> None:
    torch.manual_seed(0)
    model = GeoLink(GEOLINK, "ours", GeoLinkLoss(rec=0.5, cont=0.25, cst=2.0)).eval()
    batch = geolink_batch(dataset, 8)
    batch.valid[3] = False
    found = model(batch)
    weighted = 0.5 * found["rec"] + 0.25 * found["cont"] + 2 * found["cst"]
    assert float(found["loss"]) == pytest.approx(float(weighted), rel=1e-6)
    kept = [i for i in range(8) if i != 3]
    size = GEOLINK.vit.patch
    patches = F.unfold(pixels(batch.rs, IMAGE), size, stride=size).transpose(1, 2)  # channels outermost
    image = model.encode_image(batch)
    predicted = model.decoder(image.token, image.patches, image.mask)
    errors = []
    for i in kept:
        for row, patch in enumerate(image.mask.hidden[i].tolist()):
            truth = patches[i, patch].view(3, -1).T.reshape(-1)  # channels innermost
            errors.append((predicted[i, row] - (truth - truth.mean()) / (truth.var() + 1e-6).sqrt()).square().mean())
    assert float(found["rec"]) == pytest.approx(float(torch.stack(errors).mean()), rel=1e-4)

    drawn: list[Tensor] = []
    hook = model.osm.register_forward_pre_hook(lambda _m, given: drawn.append(given[0].masked))
    model(batch)
    hook.remove()
    masked = drawn[0]
    nodes = model.encode_nodes(batch, masked)
    region, kinds = model.aggregate(nodes, batch)
    both = [i for i in kept if kinds[i].any()]
    graph, seen = model.graph_head(region)[both], model.image_head(image.patches.mean(1))[both]  # no class token
    terms = []
    for i in range(len(both)):
        others = [j for j in range(len(both)) if j != i]
        for a, b in ((graph, seen), (seen, graph)):
            terms.append(named_first(a[i], b[others], b[i], WARM))
    assert float(found["cont"]) == pytest.approx(float(torch.stack(terms).mean()), rel=1e-3)

    rows = [n for n in masked.nonzero().flatten().tolist() if int(batch.node_sample[n]) in kept]
    truth = node_features(batch)[rows]
    trivial = {name: float(value) for name, value in model.trivial_consistency(batch).items()}
    assert trivial == pytest.approx({
        "zero": float(truth.square().mean()), "mean": float((truth - truth.mean(0)).square().mean()),
    }, rel=1e-4)  # fmt: skip


@torch.no_grad()
@pytest.mark.parametrize("by", ["node", "sample"])
def test_the_consistency_of_a_batch_is_the_mean_of_what_its_samples_give_alone(dataset: Path, by: Any) -> None:
    """Of their nodes, or of the samples that have any: sample by sample, with the others masked."""
    model, single = (
        GeoLink(replace(GEOLINK, cst_mean=mean), "ours", GeoLinkLoss(0.0, 0.0, 1.0)).eval() for mean in (by, "node")
    )
    single.load_state_dict(model.state_dict())
    batch = geolink_batch(dataset, 8)
    drawn: list[Tensor] = []
    model.osm.register_forward_pre_hook(lambda _m, given: drawn.append(given[0].masked))
    found = float(model(batch)["cst"])
    hidden = torch.bincount(batch.node_sample[drawn[0]], minlength=8).tolist()
    alone = []
    for i in range(8):
        own = torch.zeros(8, dtype=torch.bool)
        own[i] = True
        alone.append(float(single(replace(batch, valid=own))["cst"]))
    weights = [float(n) if by == "node" else float(n > 0) for n in hidden]
    assert len(set(hidden)) > 1
    expected = sum(w * c for w, c in zip(weights, alone, strict=True)) / sum(weights)
    assert found == pytest.approx(expected, rel=1e-4)


@torch.no_grad()
def test_what_is_hidden_of_a_node_reaches_nothing_but_the_target(dataset: Path) -> None:
    """Other tags of the hidden nodes change what is to be predicted, and nothing that it is predicted from."""
    torch.manual_seed(0)
    model, batch = GeoLink(GEOLINK, "ours", GeoLinkLoss(1.0, 1.0, 1.0)).eval(), geolink_batch(dataset, 8)
    drawn: list[Tensor] = []
    model.osm.register_forward_pre_hook(lambda _m, given: drawn.append(given[0].masked))
    before = model(batch)
    hidden = drawn[0][batch.tag_node] & (batch.tag_weight > 0)
    assert 0 < int(hidden.sum()) < len(hidden)
    row = torch.where(hidden, (batch.tag_row + 1) % len(batch.tag_id), batch.tag_row)
    after = model(replace(batch, tag_row=row))
    assert float(after["cont"]) == pytest.approx(float(before["cont"]), rel=1e-5)
    assert not math.isclose(float(after["cst"]), float(before["cst"]), rel_tol=1e-3)
