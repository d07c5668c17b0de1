"""Building blocks against independent references."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from schemas.relations import INVERSE, Relation
from tests.trainers.batches import geolink_batch, geolink_model
from trainers.embed.features import TagTable
from trainers.models.fusion import MultiHead, Places
from trainers.models.losses import EARTH_RADIUS, great_circle, info_nce, queue_nce
from trainers.models.mae import MaeDecoder, gather_patches, mask_patches, patchify, reconstruction_loss
from trainers.models.nodes import (
    CountRule,
    NodeInputs,
    anchor_positions,
    at_least_one,
    choose_nodes,
    mask_nodes,
    most_masked,
    node_features,
    share_count,
)  # fmt: skip
from trainers.models.noise import _mix, uniform
from trainers.models.osm_encoder import BatchNodeNorm, EdgeUse, HeteroGAT, HeteroGCN, NodeNorm, NodeTransformer
from trainers.models.region import Aggregation, softmax_over_present, sum_of_present
from trainers.models.scatter import rank_in_segment, segment_softmax
from trainers.models.vit import SIZES, Attention, Block, ViT, ViTSettings, grid_positions, sincos
from trainers.stream.batch import TileBatch


def test_attention_equals_torch() -> None:
    ours, theirs = Attention(32, 4), nn.MultiheadAttention(32, 4, batch_first=True)
    with torch.no_grad():
        theirs.in_proj_weight.copy_(ours.qkv.weight)
        theirs.in_proj_bias.copy_(ours.qkv.bias)
        theirs.out_proj.weight.copy_(ours.proj.weight)
        theirs.out_proj.bias.copy_(ours.proj.bias)
    x = torch.randn(3, 7, 32)
    torch.testing.assert_close(ours(x), theirs(x, x, x)[0], atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_a_block_equals_torchs_layer() -> None:
    ours = Block(32, 4).eval()
    theirs = nn.TransformerEncoderLayer(32, 4, 128, 0.0, "gelu", 1e-6, batch_first=True, norm_first=True).eval()
    names = {
        "norm1": "norm1", "attn.qkv": "self_attn.in_proj_", "attn.proj": "self_attn.out_proj", "norm2": "norm2",
        "mlp.fc1": "linear1", "mlp.fc2": "linear2",
    }  # fmt: skip
    for value in ours.parameters():
        value.copy_(torch.randn_like(value) * 0.3)
    state = {
        f"{names[n]}{'' if names[n].endswith('_') else '.'}{kind}": value
        for n, _, kind, value in ((*name.rpartition("."), value) for name, value in ours.state_dict().items())
    }
    theirs.load_state_dict(state)
    x = torch.randn(3, 7, 32)
    torch.testing.assert_close(ours(x), theirs(x), atol=1e-4, rtol=1e-4)


def test_masked_attention_equals_torch_and_survives_no_keys() -> None:
    ours, theirs = MultiHead(16, 2, 0.0), nn.MultiheadAttention(16, 2, batch_first=True)
    with torch.no_grad():
        theirs.in_proj_weight.copy_(torch.cat([ours.q.weight, ours.k.weight, ours.v.weight]))
        theirs.in_proj_bias.copy_(torch.cat([ours.q.bias, torch.randn(16), ours.v.bias]))
        theirs.out_proj.weight.copy_(ours.out.weight)
        theirs.out_proj.bias.copy_(ours.out.bias)
    q, k, v = torch.randn(3, 4, 16), torch.randn(3, 5, 16), torch.randn(3, 5, 16)
    mask = torch.tensor([[1, 1, 0, 1, 0], [1, 0, 0, 0, 0], [0, 0, 0, 0, 0]]).bool()
    some = mask.flatten().nonzero().flatten()  # rows of keys, packed, with one that lies nowhere
    rows = torch.cat((some, some[:1]))
    keys = Places(3, 5, torch.cat((some, torch.tensor([15]))))
    packed = [t.flatten(0, 1)[rows] for t in (k, v)]
    found = ours(q.flatten(0, 1), *packed, Places(3, 4), keys, mask).view(3, 4, 16)
    whole = ours(*(t.flatten(0, 1) for t in (q, k, v)), Places(3, 4), Places(3, 5), mask).view(3, 4, 16)
    torch.testing.assert_close(found, whole)
    expected = theirs(q[:2], k[:2], v[:2], key_padding_mask=~mask[:2])[0]
    torch.testing.assert_close(found[:2], expected, atol=1e-5, rtol=1e-5)
    assert not found[2].any()


def test_vit_has_timms_parameter_names() -> None:
    names = set(ViT(ViTSettings(32, 16, 16, 1, 2)).state_dict())
    block = {
        f"blocks.0.{n}.{w}"
        for n in ("norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2")
        for w in ("weight", "bias")
    }
    assert (
        names
        == {"cls_token", "pos_embed", "patch_embed.proj.weight", "patch_embed.proj.bias", "norm.weight", "norm.bias"}
        | block
    )


def test_sizes_are_those_of_their_names() -> None:
    """Parameters as timm counts them without a classifier; each head is 64 wide (Touvron et al. 2021)."""
    timm = {"tiny": 5_524_416, "small": 21_665_664, "base": 85_798_656, "large": 303_301_632}
    for name, settings in SIZES.items():
        with torch.device("meta"):
            assert sum(p.numel() for p in ViT(settings).parameters()) == timm[name]
        assert settings.dim == 64 * settings.heads
        assert settings.grid == 14
    assert SIZES.keys() == timm.keys()


@torch.no_grad()
@pytest.mark.parametrize("class_token", [True, False])
def test_levels_are_the_patches_behind_their_blocks(class_token: bool) -> None:
    vit = ViT(ViTSettings(32, 8, 16, 3, 2), class_token=class_token)
    image, first = torch.randn(3, 3, 32, 32), int(class_token)
    levels, tokens = vit.levels(image, (2, 0))
    assert torch.equal(tokens, vit(image))
    assert tokens.shape == (3, 16 + first, 16)
    x = vit.embed(image)
    if class_token:
        x = torch.cat((vit.cls_token.expand(3, -1, -1), x), 1)  # it has no place
    states = [x := block(x) for block in vit.blocks]
    assert torch.equal(levels[0], states[2][:, first:])
    assert torch.equal(levels[1], states[0][:, first:])
    torch.testing.assert_close(vit.norm(states[2]), tokens)


def test_patches_lie_where_their_numbers_say() -> None:
    """Counted from 0, row by row, as in MAE: in the encoder behind a class token without a place, in the decoder."""
    vit = ViT(ViTSettings(32, 8, 16, 1, 2))
    decoder = MaeDecoder(vit.settings, 3, 24, 1, 2)
    assert not vit.pos_embed[0, 0].any()
    assert not vit.pos_embed.requires_grad
    for number in range(16):
        place = torch.tensor([number % 4, number // 4]).float()
        assert torch.equal(vit.pos_embed[0, 1 + number], sincos(place, 16))
        assert torch.equal(decoder.position[number], sincos(place, 24))
    assert torch.equal(ViT(vit.settings, class_token=False).pos_embed, vit.pos_embed[:, 1:])


def test_patch_embedding_equals_a_matrix_product() -> None:
    vit = ViT(ViTSettings(32, 8, 16, 1, 2))
    image = torch.randn(2, 3, 32, 32)
    weight = vit.patch_embed.proj.weight.permute(0, 2, 3, 1).reshape(16, -1)
    expected = patchify(image, 8) @ weight.T + vit.patch_embed.proj.bias
    torch.testing.assert_close(vit.patch_embed(image), expected, atol=1e-5, rtol=1e-5)


def test_sincos_follows_its_formula() -> None:
    found = sincos(torch.tensor([[3.0, 5.5]]), 8)[0]
    expected = [f(p * w) for p in (3.0, 5.5) for f in (math.sin, math.cos) for w in (1.0, 0.01)]
    assert found.tolist() == pytest.approx(expected, abs=1e-6)


def test_a_place_matches_the_patch_that_holds_it() -> None:
    places = torch.rand(400, 2)
    anchors = torch.full((400, 4, 2), float("nan"))
    anchors[:, 0] = places
    nodes = anchor_positions(anchors, 14, 64)
    patches = sincos(grid_positions(14, 0.5), 64)
    own = (places[:, 1] * 14).floor() * 14 + (places[:, 0] * 14).floor()
    assert ((nodes @ patches.T).argmax(1) == own).float().mean() > 0.95
    corners = sincos(grid_positions(14, 0.0), 64)
    assert ((nodes @ corners.T).argmax(1) == own).float().mean() < 0.5  # the released offset


def test_anchor_positions_leave_unused_anchors_out() -> None:
    anchors = torch.full((1, 4, 2), float("nan"))
    anchors[0, :2] = torch.tensor([[0.2, 0.4], [0.6, 0.8]])
    expected = (sincos(anchors[0, 0] * 14, 16) + sincos(anchors[0, 1] * 14, 16)) / 2
    torch.testing.assert_close(anchor_positions(anchors, 14, 16)[0], expected)


def test_masks_keep_the_stated_share_and_follow_the_seed() -> None:
    seed = torch.arange(64)
    mask = mask_patches(seed, 14, 0.75)
    assert mask.keep.shape == (64, 49)
    assert mask.hidden.shape == (64, 147)
    every = torch.cat((mask.keep, mask.hidden), 1).sort().values
    assert torch.equal(every, torch.arange(196).expand(64, -1))
    assert torch.equal(mask_patches(seed[5:6], 14, 0.75).keep[0], mask.keep[5])
    tokens = torch.arange(64 * 196).view(64, 196, 1).float()
    found = gather_patches(tokens, mask.keep)[..., 0].long()
    assert torch.equal(found, mask.keep + 196 * torch.arange(64)[:, None])
    share = torch.bincount(mask.hidden.flatten(), minlength=196) / 64
    assert share.min() > 0.5
    assert share.max() < 0.97


@pytest.mark.parametrize(("grid", "block"), [(14, 2), (14, 4), (7, 2)])
def test_block_masks_hide_whole_squares_but_for_one(grid: int, block: int) -> None:
    mask = mask_patches(torch.arange(32), grid, 0.75, block)
    hidden = torch.zeros(32, grid * grid).scatter(1, mask.hidden, 1.0).view(32, grid, grid)
    assert mask.keep.shape[1] == int(grid * grid * 0.25)
    for sample in hidden:
        parts = [square for rows in sample.split(block) for square in rows.split(block, 1)]
        assert sum(0 < float(square.mean()) < 1 for square in parts) <= 1
    assert len({tuple(sample.flatten().tolist()) for sample in hidden}) > 20


def test_noise_is_uniform_and_independent_of_shape() -> None:
    values = uniform(torch.arange(500)[:, None], torch.arange(100)[None], 1)
    assert abs(values.mean() - 0.5) < 0.01
    assert abs(values.var() - 1 / 12) < 0.002
    assert torch.equal(values[17, 3:4], uniform(torch.tensor([17]), torch.tensor([3]), 1))
    assert not torch.equal(values, uniform(torch.arange(500)[:, None], torch.arange(100)[None], 2))
    assert abs(np.corrcoef(values[:-1].flatten(), values[1:].flatten())[0, 1]) < 0.02


def test_noise_is_mixed_as_by_murmurhash3() -> None:
    """Its published values of no bytes at all, which are those of its last step on the seed (A. Appleby)."""
    assert _mix(torch.tensor([0, 1, 0xFFFFFFFF])).tolist() == [0, 0x514E28B7, 0x81F16F39]


def test_both_halves_of_a_seed_and_its_use_count_for_themselves() -> None:
    low, high = torch.arange(1, 200), torch.arange(1, 200).flip(0) * 7919
    counter = torch.zeros(1).long()
    seen = [uniform(seed, counter, use) for seed in ((high << 32) | low, (low << 32) | high) for use in (1, 2)]
    seen += [uniform(low ^ high, counter, 1), uniform(low, counter, 1), uniform(high << 32, counter, 1)]
    every = torch.stack(seen)
    assert len(every.unique()) > 0.99 * every.numel()


def test_each_slot_hides_what_its_own_seed_says(dataset: Path) -> None:
    """Another seed of one slot, as of another epoch, changes what is hidden of its sample, and of no other."""
    model, batch = geolink_model(), geolink_batch(dataset, 32)
    seed = batch.seed.clone()
    seed[3] += 1 << 40
    other = replace(batch, seed=seed)
    with torch.no_grad():
        patches = [model.encode_image(b).mask.keep for b in (batch, other)]
    assert len({tuple(row) for row in patches[0].tolist()}) == 32
    assert (patches[0] != patches[1]).any(1).nonzero().flatten().tolist() == [3]
    for rule in (share_count, at_least_one):  # how many, and which
        nodes = [mask_nodes(b, 0.5, rule) for b in (batch, other)]
        assert batch.node_sample[nodes[0] != nodes[1]].unique().tolist() == [3]
    few = [choose_nodes(b, batch.node_valid, 3).node for b in (batch, other)]
    assert (few[0] != few[1]).any(1).nonzero().flatten().tolist() == [3]
    drawn = []
    model.osm.register_forward_pre_hook(lambda _m, given: drawn.append(given[0].masked))
    with torch.no_grad():
        model(batch)
        model(other)
    assert torch.equal(drawn[0], mask_nodes(batch, model.settings.node_mask, share_count))
    assert torch.equal(drawn[1], mask_nodes(other, model.settings.node_mask, share_count))


def test_groups_of_one_size_hide_one_more_or_less_by_the_seeds_of_their_slots(dataset: Path) -> None:
    batch = geolink_batch(dataset, 48)
    hidden = mask_nodes(batch, 0.3, share_count)
    for kind in range(3):
        own = batch.node_valid & (batch.node_kind == kind)
        size, masked = (torch.bincount(batch.node_sample[m], minlength=49)[:48] for m in (own, own & hidden))
        common = size[size > 0].mode().values
        low = int(0.3 * common)
        assert set(masked[size == common].tolist()) == {low, low + 1}


def test_geolink_s_pixel_loss_leaves_out_what_is_no_data(dataset: Path) -> None:
    """Half of each image lacks data: what stands there counts for nothing."""
    model, batch = geolink_model().eval(), geolink_batch(dataset)
    plane = torch.full((len(batch), *batch.rs.shape[2:]), 255, dtype=torch.uint8)
    valid = batch.valid & batch.has_rs
    with torch.no_grad():
        state = model.encode_image(batch)
        plain = model.reconstruction(state, batch, valid)
        torch.testing.assert_close(model.reconstruction(state, replace(batch, rs_valid=plane), valid), plain)
        plane[:, :24] = 0
        changed = batch.rs.clone()
        changed[:, :, :24] = 255 - changed[:, :, :24]
        half = model.reconstruction(state, replace(batch, rs_valid=plane), valid)
        torch.testing.assert_close(model.reconstruction(state, replace(batch, rs=changed, rs_valid=plane), valid), half)
        assert abs(float(half - plain)) > 1e-5


def test_reconstruction_loss_counts_masked_patches_of_valid_samples() -> None:
    image, predicted = torch.randn(3, 3, 16, 16), torch.randn(3, 2, 192)
    mask = mask_patches(torch.arange(3), 2, 0.5)
    valid = torch.tensor([True, False, True])
    total = []
    for b in (0, 2):
        for k, p in enumerate(mask.hidden[b].tolist()):
            y, x = divmod(p, 2)
            target = image[b, :, y * 8 : y * 8 + 8, x * 8 : x * 8 + 8].permute(1, 2, 0).flatten()
            target = (target - target.mean()) / (target.var() + 1e-6).sqrt()
            total.append(((predicted[b, k] - target) ** 2).mean())
    found = reconstruction_loss(predicted, gather_patches(patchify(image, 8), mask.hidden), valid)
    torch.testing.assert_close(found, torch.stack(total).mean())


def test_segment_softmax_equals_softmax_by_segment() -> None:
    scores, segment = torch.randn(50), torch.randint(0, 6, (50,))
    valid = torch.rand(50) < 0.7
    found = segment_softmax(scores, segment, 7, valid)
    for s in range(6):
        rows = (segment == s) & valid
        torch.testing.assert_close(found[rows], torch.softmax(scores[rows], 0))
    assert not found[~valid].any()


def test_rank_in_segment_sorts_within_segments() -> None:
    order, segment = torch.rand(60), torch.randint(0, 5, (60,))
    found = rank_in_segment(order, segment, 5)
    for s in range(5):
        rows = (segment == s).nonzero().flatten()
        assert torch.equal(found[rows], order[rows].argsort().argsort())


def inputs_of(batch: TileBatch, masked: torch.Tensor | None = None) -> tuple[NodeInputs, torch.Tensor]:
    """Node inputs with random mask tokens, and the same multiplied out f32[N,F]."""
    masked = torch.zeros_like(batch.node_valid) if masked is None else masked
    token = torch.randn(3, batch.tag_features.shape[1])
    inputs = NodeInputs(batch, batch.tag_features.float(), token, masked)
    return inputs, torch.where(masked[:, None], token[batch.node_kind], node_features(batch))


def neighbours_of(batch: TileBatch) -> dict[int, list[tuple[int, int]]]:
    """Node to its (neighbour, relation of that to it), itself first."""
    found: dict[int, list[tuple[int, int]]] = {i: [(i, int(Relation.SELF))] for i in range(len(batch.node_kind))}
    for (i, j), r, live in zip(batch.edges.T.tolist(), batch.edge_relation.tolist(), batch.edge_valid, strict=True):
        if live:
            found[j].append((i, r))
            found[i].append((j, int(INVERSE[r])))
    return found


def slow_layer(layer: HeteroGAT | HeteroGCN, x: torch.Tensor, batch: TileBatch) -> torch.Tensor:
    """The layer by its definition: node by node, relation by relation."""
    kind, neighbours = batch.node_kind.tolist(), neighbours_of(batch)
    out = torch.zeros(len(kind), layer.dim)
    for i in range(len(kind)):
        if not batch.node_valid[i]:
            continue
        for source_kind in range(3):
            pair = source_kind * 3 + kind[i]
            out[i] += layer.bias[pair] / 3
            near = [(j, r) for j, r in neighbours[i] if kind[j] == source_kind]
            if not near:
                continue
            if isinstance(layer, HeteroGAT):
                share = slow_attention(layer, x, i, pair, near)
            else:
                around = [sum(kind[n] == kind[i] for n, _ in neighbours[j]) for j, _ in near]
                share = torch.tensor([(len(near) * d) ** -0.5 for d in around])
            for a, (j, r) in zip(share, near, strict=True):
                message = x[j] @ layer.weight[pair]
                if layer.edges.message:
                    message = message + layer.relation_message[pair, r]
                out[i] += a * message / 3
    return layer.norm(F.relu(out), batch.node_kind, batch.node_valid) * batch.node_valid[:, None]


def slow_attention(gat: HeteroGAT, x: torch.Tensor, i: int, pair: int, near: list[tuple[int, int]]) -> torch.Tensor:
    scores = []
    for j, r in near:
        score = (x[j] @ gat.weight[pair]) @ gat.source[pair] + (x[i] @ gat.weight[pair]) @ gat.target[pair]
        if gat.edges.attention:
            score = score + gat.relation_score[pair, r]
        scores.append(F.leaky_relu(score, 0.2))
    return torch.softmax(torch.stack(scores), 0)


USES = [EdgeUse(True, True), EdgeUse(True, False), EdgeUse(False, False)]


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("layer", [HeteroGAT, HeteroGCN])
def test_graph_layers_equal_a_loop_over_nodes(dataset: Path, layer: type[HeteroGAT], use: EdgeUse) -> None:
    batch = geolink_batch(dataset, 4)
    encoder = layer(16, 12, use, NodeNorm)
    nn.init.normal_(encoder.bias)
    inputs, x = inputs_of(batch, mask_nodes(batch, 0.3, share_count))
    assert inputs.masked.any()
    torch.testing.assert_close(encoder(inputs), slow_layer(encoder, x, batch), atol=2e-5, rtol=1e-4)


def make_encoder(name: str, use: EdgeUse) -> nn.Module:
    if name == "transformer":
        return NodeTransformer(16, 12, use, NodeNorm, 6, 2, 2, 64)
    return {"gat": HeteroGAT, "gcn": HeteroGCN}[name](16, 12, use, NodeNorm)


def test_the_transformer_equals_torchs_sample_by_sample(dataset: Path) -> None:
    batch = geolink_batch(dataset, 6)
    ours = make_encoder("transformer", EdgeUse(True, False))
    theirs = nn.TransformerEncoder(
        nn.TransformerEncoderLayer(12, 2, 48, 0.0, F.gelu, batch_first=True, norm_first=True),
        2,
        enable_nested_tensor=False,
    )
    with torch.no_grad():
        for a, b in zip(theirs.layers, ours.blocks, strict=True):
            for mine, its in (
                (b.qkv, (a.self_attn.in_proj_weight, a.self_attn.in_proj_bias)),
                (b.proj, (a.self_attn.out_proj.weight, a.self_attn.out_proj.bias)),
                (b.mlp.fc1, (a.linear1.weight, a.linear1.bias)),
                (b.mlp.fc2, (a.linear2.weight, a.linear2.bias)),
            ):
                its[0].copy_(mine.weight)
                its[1].copy_(mine.bias)
    inputs, x = inputs_of(batch)
    found, neighbours = ours(inputs), neighbours_of(batch)
    place = anchor_positions(batch.anchors, 6, 12)
    for i in range(6):
        own = (batch.node_sample == i).nonzero().flatten().tolist()
        if not own:
            continue
        start = torch.stack([x[n] @ ours.embed[batch.node_kind[n]] + place[n] for n in own])
        bias = torch.zeros(2, len(own), len(own))
        for row, n in enumerate(own):
            for j, r in neighbours[n]:
                pair = batch.node_kind[j] * 3 + batch.node_kind[n]
                bias[:, row, own.index(j)] += ours.relation_score[pair * len(Relation) + r]
        expected = F.layer_norm(theirs(start[None], mask=bias)[0], (12,))
        torch.testing.assert_close(found[own], expected, atol=1e-4, rtol=1e-3)


def test_nodes_beyond_the_transformers_capacity_still_have_an_encoding(dataset: Path) -> None:
    batch = geolink_batch(dataset, 8)
    encoder = NodeTransformer(16, 12, EdgeUse(True, True), NodeNorm, 6, 2, 2, capacity=3)
    found = encoder(inputs_of(batch)[0])
    assert found.isfinite().all()
    assert (found.abs().sum(1) > 0).equal(batch.node_valid)


@pytest.mark.parametrize("name", ["gat", "gcn", "transformer"])
def test_relations_are_felt_unless_switched_off(dataset: Path, name: str) -> None:
    batch = geolink_batch(dataset, 8)
    inputs, _ = inputs_of(batch)
    changed = replace(batch, edge_relation=torch.full_like(batch.edge_relation, int(Relation.TOUCHES)))
    for use, felt in ((EdgeUse(True, True), True), (EdgeUse(False, False), False)):
        encoder = make_encoder(name, use)
        assert bool((encoder(replace(inputs, batch=changed)) - encoder(inputs)).abs().max() > 1e-3) == felt


def test_a_lone_neighbours_relation_is_felt(dataset: Path) -> None:
    batch = geolink_batch(dataset, 1)
    batch.edge_valid = torch.zeros_like(batch.edge_valid)
    batch.edge_valid[0] = True
    gat = HeteroGAT(16, 12, EdgeUse(True, True), NodeNorm)
    inputs, _ = inputs_of(batch)
    before = gat(inputs)
    batch.edge_relation = (batch.edge_relation + 1) % len(Relation)
    assert (gat(inputs) - before).abs().max() > 1e-4


def test_node_norm_keeps_samples_apart_and_the_released_norm_does_not() -> None:
    x, kind, valid = torch.randn(10, 8), torch.randint(0, 3, (10,)), torch.ones(10).bool()
    other = x.clone()
    other[5:] += 3
    for norm, apart in ((NodeNorm(8), True), (BatchNodeNorm(8), False)):
        assert torch.allclose(norm(x, kind, valid)[:5], norm(other, kind, valid)[:5]) == apart
    rows = x[kind == 0]
    expected = (rows - rows.mean()) / (rows.std(unbiased=False) + 1e-5)
    torch.testing.assert_close(BatchNodeNorm(8)(x, kind, valid)[kind == 0], expected, atol=1e-5, rtol=1e-4)


def test_weights_of_kinds_sum_to_one_over_those_present(dataset: Path) -> None:
    batch = geolink_batch(dataset, 16)
    aggregate = Aggregation(16, softmax_over_present)
    _, weights = aggregate(torch.randn(len(batch.node_valid), 16), batch)
    for i in range(16):
        kinds = set(batch.node_kind[batch.node_sample == i].tolist())
        assert set(weights[i].nonzero().flatten().tolist()) == kinds
        assert weights[i].sum().item() == pytest.approx(1.0 if kinds else 0.0, abs=1e-6)
    assert set(sum_of_present(weights, weights > 0).flatten().tolist()) <= {0.0, 1.0}


def test_set2set_equals_a_loop_over_samples(dataset: Path) -> None:
    batch = geolink_batch(dataset, 6)
    x = torch.randn(len(batch.node_valid), 8)
    aggregate = Aggregation(8, sum_of_present)
    cells = [nn.LSTMCell(16, 8) for _ in range(3)]
    with torch.no_grad():
        for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
            for k, cell in enumerate(cells):
                getattr(cell, name).copy_(getattr(aggregate, name)[k])
    found, _ = aggregate(x, batch)
    for i in range(6):
        expected = torch.zeros(8)
        for k in range(3):
            rows = x[(batch.node_sample == i) & (batch.node_kind == k)]
            if not len(rows):
                continue
            state, query = (torch.zeros(1, 8), torch.zeros(1, 8)), torch.zeros(1, 16)
            for _ in range(5):
                state = cells[k](query, state)
                alpha = torch.softmax(rows @ state[0][0], 0)
                query = torch.cat((state[0], (alpha[:, None] * rows).sum(0, keepdim=True)), 1)
            expected = expected + aggregate.project[k](query)[0]
        torch.testing.assert_close(found[i], expected, atol=1e-5, rtol=1e-4)


def test_node_masks_keep_the_share_and_the_released_minimum(dataset: Path) -> None:
    batch = geolink_batch(dataset, 48)
    segment = batch.node_sample * 3 + batch.node_kind
    size = torch.bincount(segment[batch.node_valid], minlength=144).float()
    masked = mask_nodes(batch, 0.2, at_least_one)
    counted = torch.bincount(segment[masked], minlength=144)
    assert torch.equal(counted, torch.where(size > 0, (size * 0.2).round().clamp_min(1), 0.0).long())
    shares = []
    for shift in range(30):
        batch.seed = batch.seed + 7919 * shift
        shares.append((mask_nodes(batch, 0.2, share_count) & batch.node_valid).sum() / batch.node_valid.sum())
    assert abs(torch.stack(shares).mean().item() - 0.2) < 0.01


def test_chosen_nodes_are_the_masked_ones_up_to_capacity(dataset: Path) -> None:
    batch = geolink_batch(dataset, 16)
    chosen = mask_nodes(batch, 0.6, share_count)
    dense = choose_nodes(batch, chosen, 4)
    for i in range(16):
        own = set((chosen & (batch.node_sample == i)).nonzero().flatten().tolist())
        found = dense.node[i][dense.valid[i]].tolist()
        assert len(found) == len(set(found)) == min(4, len(own))
        assert set(found) <= own


@pytest.mark.parametrize("rule", [share_count, at_least_one])
@pytest.mark.parametrize("ratio", [0.0, 0.2, 0.6, 0.99])
def test_packed_rows_are_the_chosen_nodes_and_fit(dataset: Path, rule: CountRule, ratio: float) -> None:
    batch = geolink_batch(dataset, 16)
    for shift in range(20):
        batch.seed = batch.seed + 7919 * shift
        chosen = mask_nodes(batch, ratio, rule)
        most = most_masked(batch, ratio)
        assert int(chosen.sum()) <= most
        dense = choose_nodes(batch, chosen, 6, most)
        assert len(dense.row_node) == min(16 * 6, most)
        filled = dense.row_place < dense.node.numel()
        assert torch.equal(dense.node.flatten()[dense.valid.flatten()], dense.row_node[filled])
        assert torch.equal(dense.valid.flatten().nonzero().flatten(), dense.row_place[filled])
        assert torch.equal(batch.node_sample[dense.row_node[filled]], dense.row_sample[filled])
        assert (dense.row_sample[~filled] == len(batch)).all()


def test_tag_features_are_a_weighted_mean(dataset: Path) -> None:
    batch = geolink_batch(dataset, 4)
    features = node_features(batch)
    node = int(batch.node_valid.nonzero()[3])
    rows = batch.tag_node == node
    expected = (batch.tag_features[batch.tag_row[rows]].float() * batch.tag_weight[rows, None]).sum(0)
    torch.testing.assert_close(features[node], expected)


def test_hash_features_have_unit_variance_and_never_change() -> None:
    table = TagTable(512)
    features = table.features(np.arange(-200, 200, dtype=np.int64)).astype(np.float64)
    assert abs(features.mean()) < 0.01
    assert abs(features.var() - 1) < 0.01
    similarity = np.corrcoef(features) - np.eye(400)
    assert np.abs(similarity).max() < 0.3
    assert (
        table.features(np.array([-6250362265166982711]))[0, :3].tolist()
        == TagTable(8).features(np.array([-6250362265166982711]))[0, :3].tolist()
    )


def test_tag_weights_by_variant() -> None:
    counts = {1: 1, 2: 100}
    ids = np.array([1, 2])
    assert TagTable(4, counts, "paper").weights(ids).tolist() == [1.0, 100.0]
    assert TagTable(4, counts, "released").weights(ids).tolist() == pytest.approx([0.0, math.log(100)])
    assert TagTable(4, counts, "ours").weights(ids).tolist() == pytest.approx([math.log(2), math.log(101)])
    assert TagTable(4, {}, "paper").weights(ids).tolist() == [1.0, 1.0]


# ---- losses


def test_info_nce_equals_cross_entropy() -> None:
    a, b = torch.randn(9, 5), torch.randn(9, 5)
    logits = F.normalize(a, dim=1) @ F.normalize(b, dim=1).T / 0.2
    target = torch.arange(9)
    expected = (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2
    torch.testing.assert_close(info_nce(a, b, torch.ones(9).bool(), 0.2), expected)


def test_info_nce_of_valid_rows_ignores_the_others() -> None:
    a, b = torch.randn(9, 5), torch.randn(9, 5)
    valid = torch.tensor([1, 0, 1, 1, 0, 1, 0, 0, 1]).bool()
    a[~valid], b[~valid] = float("nan"), float("inf")
    a.requires_grad_()
    found = info_nce(a, b, valid, 0.07)
    torch.testing.assert_close(found, info_nce(a[valid], b[valid], torch.ones(5).bool(), 0.07))
    found.backward()
    assert a.grad is not None
    assert not a.grad[~valid].any()
    assert a.grad.isfinite().all()


def test_info_nce_without_rows_is_zero_with_a_gradient() -> None:
    a = torch.randn(4, 3, requires_grad=True)
    loss = info_nce(a, torch.randn(4, 3), torch.zeros(4).bool(), 0.2)
    loss.backward()
    assert loss.item() == 0
    assert a.grad is not None
    assert not a.grad.any()


def test_an_excluded_pair_is_no_negative() -> None:
    a, b = torch.randn(4, 3), torch.randn(4, 3)
    excluded = torch.zeros(4, 4).bool()
    excluded[0, 1] = excluded[1, 0] = True
    logits = F.normalize(a, dim=1) @ F.normalize(b, dim=1).T / 0.2
    logits = logits.masked_fill(excluded, float("-inf"))
    expected = (F.cross_entropy(logits, torch.arange(4)) + F.cross_entropy(logits.T, torch.arange(4))) / 2
    torch.testing.assert_close(info_nce(a, b, torch.ones(4).bool(), 0.2, excluded), expected)
    everything = torch.ones(4, 4).bool()
    assert info_nce(a, b, torch.ones(4).bool(), 0.2, everything).item() == pytest.approx(0, abs=1e-6)


def test_queue_loss_equals_cross_entropy() -> None:
    a, own, queue = torch.randn(5, 6), torch.randn(5, 6), torch.randn(7, 6)
    allowed = torch.rand(5, 7) < 0.6
    unit = [F.normalize(t, dim=1) for t in (a, own, queue)]
    logits = torch.cat(((unit[0] * unit[1]).sum(1, keepdim=True), unit[0] @ unit[2].T), 1) / 0.07
    logits[:, 1:] = logits[:, 1:].masked_fill(~allowed, float("-inf"))
    expected = F.cross_entropy(logits, torch.zeros(5).long())
    torch.testing.assert_close(queue_nce(a, own, torch.ones(5).bool(), queue, allowed, 0.07), expected)
    assert queue_nce(a, own, torch.ones(5).bool(), queue, torch.zeros(5, 7).bool(), 0.07).item() == 0


def test_great_circle_of_known_arcs() -> None:
    a = torch.tensor([[0.0, 0.0], [10.0, 50.0]], dtype=torch.float64)
    b = torch.tensor([[90.0, 0.0], [0.0, 90.0], [180.0, 0.0], [10.0, 51.0]], dtype=torch.float64)
    degree = math.pi / 180 * EARTH_RADIUS
    found = great_circle(a, b)
    assert found[0, :3].tolist() == pytest.approx([90 * degree, 90 * degree, 180 * degree], rel=1e-5)
    assert found[1, 3].item() == pytest.approx(degree, rel=1e-5)


# ---- location and NILI


def test_relation_inverse_is_walked(dataset: Path) -> None:
    """A covering polygon and a covered one see different relations."""
    batch = geolink_batch(dataset, 8)
    walk = geolink_model().osm.walk(batch)
    count = len(batch.edge_relation)
    inverse = torch.from_numpy(INVERSE.astype("int64"))
    assert torch.equal(walk.relation[count : 2 * count], inverse[walk.relation[:count]])
    assert torch.equal(walk.source[:count], walk.target[count : 2 * count])
    assert walk.live[2 * count :].sum() == batch.node_valid.sum()
