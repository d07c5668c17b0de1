"""The released model's defects (docs/papers/geolink.md#defects), one by one: ours does not have them.

Those of its parts alone (attention over kinds, patch centres, the norm) are in test_models.py.
"""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from schemas.relations import Relation
from tests.trainers.batches import GEOLINK, PLAIN, geolink_batch, gradients
from trainers.models.geolink import GeoLink, GeoLinkLoss
from trainers.models.geolink_settings import GeoLinkSettings
from trainers.models.nodes import KINDS, at_least_one, mask_nodes, share_count
from trainers.stream.batch import TileBatch
from trainers.stream.stream import GeoStream

#: Every kind of encoder of nodes, and both kinds of tag features.
ENCODERS = {
    "gat": replace(GEOLINK, fusion_dropout=0.1),
    "gcn": replace(GEOLINK, osm_encoder="gcn"),
    "transformer": replace(GEOLINK, osm_encoder="transformer", osm_nodes=8),  # most samples have more
    "learned": replace(GEOLINK, tags="learned", tag_rows=64),
}
every_encoder = pytest.mark.parametrize("settings", ENCODERS.values(), ids=ENCODERS)


def model_of(settings: GeoLinkSettings, variant: str = "ours") -> GeoLink:
    torch.manual_seed(0)
    return GeoLink(settings, variant, GeoLinkLoss(1.0, 1.0, 1.0))


def keep_nodes(batch: TileBatch, keep: Tensor) -> TileBatch:
    """The batch with the nodes bool[N] alone: the others become padding at the end, as the stream packs it."""
    keep = keep & batch.node_valid
    order = torch.argsort(~keep, stable=True)
    place = torch.empty_like(order).scatter(0, order, torch.arange(len(order)))
    last, left = len(order) - 1, keep[order]
    tag_node = torch.where(keep[batch.tag_node], place[batch.tag_node], last)
    tags = torch.argsort(tag_node, stable=True)
    live = batch.edge_valid & keep[batch.edges].all(0)
    assert not left[-1]
    return replace(
        batch,
        node_valid=left,
        node_sample=torch.where(left, batch.node_sample[order], len(batch)),
        node_kind=torch.where(left, batch.node_kind[order], 0),
        anchors=batch.anchors[order],
        edges=torch.where(live, place[batch.edges], last),
        edge_valid=live,
        tag_node=tag_node[tags],
        tag_row=batch.tag_row[tags],
        tag_weight=(batch.tag_weight * keep[batch.tag_node])[tags],
    )


def assert_finite(model: GeoLink, batch: TileBatch) -> dict[str, float]:
    losses, grads = gradients(model, batch)
    assert all(math.isfinite(v) for v in losses.values())
    assert grads.isfinite().all()
    return losses


@every_encoder
def test_relations_reach_what_the_model_gives(dataset: Path, settings: GeoLinkSettings) -> None:
    """1: the release builds relations and never reads them."""
    batch, model = geolink_batch(dataset, 8), model_of(settings).eval()
    other = replace(batch, edge_relation=torch.full_like(batch.edge_relation, int(Relation.OVERLAPS)))
    before, after = model.hybrid(batch), model.hybrid(other)
    assert (before.patches - after.patches).abs().max() > 1e-3
    assert (before.objects - after.objects).abs().max() > 1e-3


def test_attention_over_kinds_learns(dataset: Path) -> None:
    """2: the release's softmax runs over an axis of length 1, so its weights are 1 and have no gradient."""
    batch = geolink_batch(dataset, 16)
    for variant, learns in (("ours", True), ("released", False)):
        model = model_of(GEOLINK, variant)
        gradients(model, batch)
        assert model.aggregate.attention.weight.grad is not None
        assert bool(model.aggregate.attention.weight.grad.abs().max() > 1e-6) == learns


@every_encoder
def test_a_sample_does_not_depend_on_its_batch_mates(dataset: Path, settings: GeoLinkSettings) -> None:
    """6: the release's norm takes its mean over the whole batch."""
    model = model_of(settings).eval()
    found: dict[str, list[Tensor]] = {}
    for size in (1, 8):
        stream = GeoStream(str(dataset), GeoLink.view(settings), batch_size=size, settings=PLAIN)
        for _, batch in zip(range(8 // size), stream.batches(), strict=False):
            hybrid = model.hybrid(batch)
            region, _ = model.aggregate(model.encode_nodes(batch, torch.zeros_like(batch.node_valid)), batch)
            for i, key in enumerate(batch.key):
                objects = hybrid.objects[i][hybrid.chosen.valid[i]].sum(0)
                found.setdefault(key, []).append(torch.cat((hybrid.patches[i].flatten(), objects, region[i])))
    assert len(found) == 8
    for alone, together in found.values():
        torch.testing.assert_close(alone, together, atol=1e-5, rtol=1e-5)


def test_masks_of_a_sample_do_not_depend_on_its_batch_mates(dataset: Path) -> None:
    """6: nor does what is hidden from it in training."""
    whole = geolink_batch(dataset, 8)
    model = model_of(GEOLINK)
    mates = replace(keep_nodes(whole, whole.node_sample != 2), valid=whole.valid & (torch.arange(8) != 2))
    for name in ("rec", "cst"):
        per = [model_of(GEOLINK)(replace(whole, valid=torch.arange(8) == i))[name] for i in (0, 5)]
        with_mates = [model_of(GEOLINK)(replace(mates, valid=torch.arange(8) == i))[name] for i in (0, 5)]
        torch.testing.assert_close(torch.stack(per), torch.stack(with_mates), atol=1e-5, rtol=1e-5)
    assert model.training


@every_encoder
def test_inference_is_deterministic_and_sees_all_objects(dataset: Path, settings: GeoLinkSettings) -> None:
    """8: the release keeps a random 50 nodes of a sample, in inference too."""
    batch, model = geolink_batch(dataset, 8), model_of(settings).eval()
    first, again = model.hybrid(batch), model.hybrid(replace(batch, seed=batch.seed + 12345))
    assert torch.equal(first.patches, again.patches)
    counts = torch.bincount(batch.node_sample[batch.node_valid], minlength=8)
    assert first.chosen.valid.sum(1).equal(counts)
    few = model.hybrid(batch, nodes=4)
    assert few.objects.shape[1] == 4
    assert torch.equal(few.patches, model.hybrid(batch, nodes=4).patches)


@pytest.mark.parametrize("most", [0, 1])
@every_encoder
def test_graphs_of_one_node_or_none(dataset: Path, settings: GeoLinkSettings, most: int) -> None:
    """13, 20: a graph without nodes is NaN in the release, or an error where it is the last."""
    batch = geolink_batch(dataset, 8)
    number = torch.arange(len(batch.node_valid)) - torch.searchsorted(batch.node_sample, batch.node_sample)
    few = keep_nodes(batch, number < most)
    model = model_of(settings)
    losses = assert_finite(model, few)
    assert losses["rec"] > 0
    if most == 0:
        assert losses["cont"] == losses["cst"] == 0
    last = keep_nodes(batch, batch.node_sample != 7)
    both = gradients(model, replace(last, valid=torch.arange(8) == 7))[0]
    assert both["cont"] == both["cst"] == 0
    assert model.eval().hybrid(few).patches.isfinite().all()


@pytest.mark.parametrize("variant", ["ours", "paper", "released"])
@pytest.mark.parametrize("kind", range(KINDS))
@every_encoder
def test_a_kind_absent_from_the_whole_batch(dataset: Path, settings: GeoLinkSettings, kind: int, variant: str) -> None:
    """13: an error in the release."""
    batch = geolink_batch(dataset, 6)
    left = keep_nodes(batch, batch.node_kind != kind)
    assert_finite(model_of(settings, variant), left)


@pytest.mark.parametrize("ratio", [0.0, 0.01, 0.999])
def test_any_share_can_be_hidden(dataset: Path, ratio: float) -> None:
    """13: share 0 is an error in the release."""
    batch = geolink_batch(dataset, 8)
    image = assert_finite(model_of(replace(GEOLINK, image_mask=ratio)), batch)
    nodes = assert_finite(model_of(replace(GEOLINK, node_mask=ratio)), batch)
    assert (image["rec"] > 0) == (ratio > 0)
    assert nodes["cont"] > 0
    if ratio == 0:
        assert nodes["cst"] == 0
    mask = mask_nodes(batch, ratio, share_count)
    assert abs(mask.sum() / batch.node_valid.sum() - ratio) < 0.02


@every_encoder
def test_bfloat16_gives_what_float32_gives(dataset: Path, settings: GeoLinkSettings) -> None:
    """13: a buffer of the release is bfloat16 whatever the rest is."""
    batch, model = geolink_batch(dataset, 16), model_of(settings).eval()
    with torch.no_grad():
        full = model(batch)
        with torch.autocast("cpu", torch.bfloat16):
            half = model(batch)
    for name, value in full.items():
        assert float(half[name]) == pytest.approx(float(value), rel=0.02, abs=0.02)


def test_the_last_layer_of_the_fusion_refines_what_it_is_given() -> None:
    """17: in the release it replaces its input, without an activation."""
    for variant, kept in (("ours", True), ("released", False)):
        fusion = model_of(GEOLINK, variant).fusion
        with torch.no_grad():
            fusion.last.weight.zero_()
            fusion.last.bias.zero_()
        x = torch.randn(2, 3, 32)
        last = fusion.last(x)
        found = fusion.norms[3](x + last if fusion.rules.fusion_last == "residual" else last)
        assert bool(found.any()) == kept


@pytest.mark.parametrize("variant", ["ours", "paper", "released"])
@every_encoder
def test_no_parameter_is_without_gradient(dataset: Path, settings: GeoLinkSettings, variant: str) -> None:
    """18: the release carries a class token, positions and a norm that nothing uses, and dead attention over kinds."""
    model = model_of(settings, variant)
    for skip in range(3):
        model(geolink_batch(dataset, 16, skip))["loss"].backward()
    silent = [n for n, p in model.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.any())]
    assert silent == (["aggregate.attention.weight"] if variant == "released" else [])


def test_a_lone_node_is_seldom_hidden(dataset: Path) -> None:
    """19: the release hides at least one node of a kind, so one of one."""
    batch = geolink_batch(dataset, 16)
    group = batch.node_sample * KINDS + batch.node_kind
    alone = keep_nodes(batch, group != group.roll(1))
    hidden = dict.fromkeys((share_count, at_least_one), 0.0)
    for shift in range(40):
        shifted = replace(alone, seed=batch.seed + 7919 * shift)
        for rule in hidden:
            hidden[rule] += float(mask_nodes(shifted, 0.2, rule).sum() / alone.node_valid.sum()) / 40
    assert hidden[share_count] == pytest.approx(0.2, abs=0.03)
    assert hidden[at_least_one] == pytest.approx(1)


def test_samples_without_objects_train_the_image_alone(dataset: Path) -> None:
    """20: the release's builder returns None for them and nothing takes it."""
    batch = geolink_batch(dataset, 48)
    counts = torch.bincount(batch.node_sample, minlength=49)[:48]
    assert (counts == 0).any()
    losses = assert_finite(model_of(GEOLINK), batch)
    some = gradients(model_of(GEOLINK), replace(batch, valid=batch.valid & (counts > 0)))[0]
    assert losses["cont"] == pytest.approx(some["cont"], abs=1e-6)
    assert losses["cst"] == pytest.approx(some["cst"], abs=1e-6)
    assert losses["rec"] != some["rec"]
