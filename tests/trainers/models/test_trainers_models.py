"""Promises of the two models as wholes."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.trainers.batches import (
    GAIR,
    GEOLINK,
    gair_batch,
    gair_model,
    garble,
    geolink_batch,
    geolink_model,
    gradients,
    mask_slot,
)  # fmt: skip
from trainers.models.gair.coordinate_queue import CoordinateQueue
from trainers.models.gair.model import Gair
from trainers.models.gair.settings import GairLoss
from trainers.models.geolink import GeoLink, GeoLinkLoss
from trainers.stream.stream import GeoStream, StreamSettings


@pytest.mark.parametrize("variant", ["ours", "paper", "released"])
def test_a_masked_slot_has_no_influence_on_geolink(dataset: Path, variant: str) -> None:
    batch = mask_slot(geolink_batch(dataset, 8), 3)
    if variant == "released":  # its norm mixes the batch by design: only the image's mask can be checked
        model = GeoLink(GEOLINK, variant, GeoLinkLoss(1.0, 0.0, 0.0))
    else:
        model = geolink_model(variant)
    losses, grads = gradients(model, batch)
    other, garbled = gradients(model, garble(batch, 3))
    assert losses == pytest.approx(other, abs=1e-6)
    torch.testing.assert_close(grads, garbled, atol=1e-5, rtol=1e-4)


def test_a_masked_slot_has_no_influence_on_gair(dataset: Path) -> None:
    batch = mask_slot(gair_batch(dataset, 8), 3)
    assert (batch.photo_sample == 3).any()
    models = gair_model(), gair_model()
    for model in models:
        model(gair_batch(dataset, 8, 1))  # fills the queue
    losses, grads = gradients(models[0], batch)
    other, garbled = gradients(models[1], garble(batch, 3))
    assert losses == pytest.approx(other, abs=1e-6)
    assert losses["secl"] > 0
    torch.testing.assert_close(grads, garbled, atol=1e-5, rtol=1e-4)
    assert torch.equal(models[0].queue.places, models[1].queue.places)


def test_a_batch_without_nodes_or_samples_gives_finite_losses(dataset: Path) -> None:
    batch = geolink_batch(dataset, 4)
    bare = replace(
        batch, node_valid=torch.zeros_like(batch.node_valid), node_sample=torch.full_like(batch.node_sample, 4),
        edge_valid=torch.zeros_like(batch.edge_valid), tag_weight=torch.zeros_like(batch.tag_weight),
    )  # fmt: skip
    for b in (bare, replace(bare, valid=torch.zeros(4).bool())):
        losses, grads = gradients(geolink_model(), b)
        assert all(math.isfinite(v) for v in losses.values())
        assert grads.isfinite().all()
        assert losses["cont"] == losses["cst"] == 0
    empty = replace(gair_batch(dataset, 4), valid=torch.zeros(4).bool())
    losses, grads = gradients(gair_model(), empty)
    assert losses["loss"] == 0
    assert not grads.any()


def test_every_parameter_learns(dataset: Path) -> None:
    for model, batch in ((geolink_model(), geolink_batch(dataset)), (gair_model(), gair_batch(dataset))):
        model(batch)
        model.zero_grad()
        model(batch)["loss"].backward()
        silent = [n for n, p in model.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.any())]
        assert silent == []


@pytest.mark.parametrize("encoder", ["gat", "gcn", "transformer"])
@pytest.mark.parametrize("tags", ["table", "learned"])
def test_a_model_is_its_weights(dataset: Path, encoder: str, tags: str) -> None:
    """Another one, drawn anew, gives the same losses once it has them: nothing that is drawn lies elsewhere."""
    settings = replace(GEOLINK, osm_encoder=encoder, tags=tags, tag_rows=64)
    torch.manual_seed(0)
    one, other = (GeoLink(settings, "ours", GeoLinkLoss(1.0, 1.0, 1.0)).eval() for _ in range(2))
    batch = geolink_batch(dataset, 8)
    with torch.no_grad():
        first, before = one(batch), other(batch)
        other.load_state_dict(one.state_dict())
        after = other(batch)
    for name, value in first.items():
        assert not torch.equal(before[name], value)
        assert torch.equal(after[name], value)
    learned = {n for n, p in one.named_parameters() if p.requires_grad}
    assert set(one.state_dict()) - learned == {"vit.pos_embed"}  # what is drawn is learned, too


@pytest.mark.parametrize("encoder", ["gat", "transformer"])
def test_relations_are_a_small_correction_before_they_are_learned(dataset: Path, encoder: str) -> None:
    torch.manual_seed(0)
    model = GeoLink(replace(GEOLINK, osm_encoder=encoder, edges="attention")).eval()
    batch = geolink_batch(dataset, 8)
    with torch.no_grad():
        none = torch.zeros_like(batch.node_valid)
        with_relations = model.encode_nodes(batch, none)
        model.osm.relation_score.zero_()
        moved = (model.encode_nodes(batch, none) - with_relations).norm() / with_relations.norm()
    assert 0 < moved < 0.03


def test_a_sample_does_not_depend_on_its_batch(dataset: Path) -> None:
    model = geolink_model().eval()
    keys = {}
    for size in (1, 4):
        batches = GeoStream(str(dataset), GeoLink.view(GEOLINK), batch_size=size, settings=StreamSettings())
        for _ in range(4 // size):
            batch = next(batches.batches(steps=1))
            for key, row in zip(batch.key, model.hybrid(batch).patches, strict=True):
                keys.setdefault(key, []).append(row)
    assert len(keys) == 4
    for first, second in keys.values():
        torch.testing.assert_close(first, second, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("make", [(geolink_model, geolink_batch), (gair_model, gair_batch)])
def test_bfloat16_is_close_to_float32(dataset: Path, make) -> None:  # type: ignore[no-untyped-def]
    model, batch = make[0]().eval(), make[1](dataset)
    with torch.no_grad():
        full = model(batch)
        with torch.autocast("cpu", torch.bfloat16):
            half = model(batch)
    for name, value in full.items():
        assert float(half[name]) == pytest.approx(float(value), rel=0.03, abs=0.02)


def test_losses_start_near_chance(dataset: Path) -> None:
    """On average over initialisations; unrelated pairs cost log N and more, as a low temperature spreads them."""
    batch = geolink_batch(dataset, 16)
    found = []
    for seed in range(8):
        torch.manual_seed(seed)
        found.append(gradients(GeoLink(GEOLINK, "ours", GeoLinkLoss(1.0, 1.0, 1.0)), batch)[0])
    both = int((batch.valid & torch.bincount(batch.node_sample, minlength=17)[:16].bool()).sum())
    assert -0.1 < np.mean([losses["cont"] for losses in found]) - math.log(both) < 0.5
    assert np.mean([losses["rec"] for losses in found]) == pytest.approx(1.0, abs=0.5)


def test_losses_weigh_as_in_the_paper() -> None:
    """docs/papers/geolink.md#losses."""
    weights = GeoLinkLoss()
    assert (weights.rec, weights.cont, weights.cst) == (1, 0.01, 0.01)


def test_a_loss_that_is_off_is_not_computed(dataset: Path) -> None:
    batch = geolink_batch(dataset, 4)
    model = GeoLink(GEOLINK, "ours", GeoLinkLoss(1.0, 0.0, 0.0))
    assert set(model(batch)) == {"loss", "rec"}
    assert set(Gair(GAIR, "ours", GairLoss(incl=1.0, secl=0.0))(gair_batch(dataset, 4))) == {"loss", "incl"}


def test_image_encoder_runs_once_a_tile_for_all_its_photos(dataset: Path) -> None:
    batch, model = gair_batch(dataset, 16), gair_model()
    seen: list[int] = []
    model.rs.register_forward_hook(lambda _m, args, _o: seen.append(len(args[0])))
    model(batch)
    counts = torch.bincount(batch.photo_sample[batch.photo_valid], minlength=16)
    assert seen == [16]
    assert counts.max() == 2


def test_ten_bands_train() -> None:
    bands = ("B2", "B3", "B4", "B5", "B6", "B7", "B8", "B8A", "B11", "B12")
    model = Gair(replace(GAIR, bands=bands))
    tokens = model.rs(model.rs_norm(torch.randint(0, 255, (2, 10, 48, 48), dtype=torch.uint8)))
    assert tokens.shape == (2, 36, 32)


@pytest.mark.parametrize(("model", "settings"), [(GeoLink, GEOLINK), (Gair, GAIR)])
def test_a_model_of_bands_by_another_alias_reads_the_same(model: Any, settings: Any) -> None:
    assert model.view(replace(settings, bands=("B4", "green", "B02"))) == model.view(settings)


def test_the_queue_is_first_in_first_out() -> None:
    queue, mirror, number = CoordinateQueue(7), [], 0
    noise = torch.Generator().manual_seed(0)
    for size in (3, 5, 0, 9, 2, 16):
        rows = torch.arange(number, number + size).double()[:, None].expand(-1, 2)
        number += size
        valid = torch.rand(size, generator=noise) < 0.7
        queue.push(rows, valid)
        mirror = (mirror + rows[valid, 0].tolist())[-7:]
        assert sorted(queue.places[queue.valid(), 0].tolist()) == mirror


def test_a_near_photo_is_no_negative(dataset: Path) -> None:
    batch = gair_batch(dataset, 8)
    near = replace(batch, photo_lonlat=torch.zeros_like(batch.photo_lonlat))
    losses, _ = gradients(Gair(GAIR, "ours", GairLoss(hard_negatives=0)), near)
    assert losses["incl"] == losses["secl"] == pytest.approx(0, abs=1e-6)
    losses, _ = gradients(gair_model("released"), near)
    assert losses["incl"] > 1
