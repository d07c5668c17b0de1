"""``variant=released`` against a model composed as released, for the same weights and the same random draws."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor, nn

from tests.trainers.batches import GEOLINK
from tests.trainers.synthetic import SyntheticSettings, write_dataset
from trainers.models.geolink import GeoLink, GeoLinkLoss
from trainers.models.mae import IMAGE_MASK
from trainers.models.nodes import NODE_CHOICE, NODE_MASK, at_least_one, mask_nodes, node_features, node_index
from trainers.models.noise import uniform
from trainers.stream.augment import AugmentSettings
from trainers.stream.batch import TileBatch
from trainers.stream.stream import GeoStream, StreamSettings

pytest.importorskip("torch_geometric", reason="the peer is built of torch_geometric; pip install -e '.[dev]' has it")

from tests.trainers.models.geolink_reference import TYPES, Reference, Sizes, graphs

SMALL = Sizes(
    image_size=48, patch=8, dim=32, depth=2, heads=2, decoder_dim=32, decoder_depth=1, decoder_heads=2, tag_width=16,
    osm_dim=16, fusion_dim=32, fusion_heads=2, dropout=0.0, contrast_dim=16, cap=10,
)  # fmt: skip
Pick = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Same:
    """A parameter of ours and one of the peer's, or parts of them, that mean the same."""

    name: str
    ours: Tensor
    peers: Tensor
    of_ours: Pick = lambda t: t
    of_peers: Pick = lambda t: t


def linear(name: str, ours: nn.Module, peers: nn.Module) -> Iterator[Same]:
    yield Same(f"{name}.weight", ours.weight, peers.weight)
    yield Same(f"{name}.bias", ours.bias, peers.bias)


def blocks(name: str, ours: nn.ModuleList, peers: nn.ModuleList) -> Iterator[Same]:
    for a, b in zip(ours, peers, strict=True):
        yield from linear(f"{name}.norm1", a.norm1, b.norm1)
        yield from linear(f"{name}.norm2", a.norm2, b.norm2)
        yield Same(f"{name}.qkv", a.attn.qkv.weight, b.self_attn.in_proj_weight)
        yield Same(f"{name}.qkv.bias", a.attn.qkv.bias, b.self_attn.in_proj_bias)
        yield from linear(f"{name}.proj", a.attn.proj, b.self_attn.out_proj)
        yield from linear(f"{name}.fc1", a.mlp.fc1, b.linear1)
        yield from linear(f"{name}.fc2", a.mlp.fc2, b.linear2)


def image_side(ours: GeoLink, peer: Reference) -> Iterator[Same]:
    yield from linear("patch_embed", ours.vit.patch_embed.proj, peer.patch_embed)
    yield Same("cls_token", ours.vit.cls_token, peer.cls_token)
    yield from blocks("vit", ours.vit.blocks, peer.blocks)
    yield from linear("img_norm", ours.vit.norm, peer.img_norm)
    yield from linear("decoder.embed", ours.decoder.embed, peer.decoder_embed)
    yield Same("decoder.mask", ours.decoder.mask_token, peer.decoder_mask)
    yield from blocks("decoder", ours.decoder.blocks, peer.decoder_blocks)
    yield from linear("decoder.norm", ours.decoder.norm, peer.decoder_norm)
    yield from linear("decoder.head", ours.decoder.head, peer.decoder_head)
    yield from linear("image_head", ours.image_head, peer.image_head)


def graph_side(ours: GeoLink, peer: Reference) -> Iterator[Same]:
    for k, kind in enumerate(TYPES):
        row: Pick = lambda t, k=k: t[k]  # noqa: E731
        yield Same(f"mask.{kind}", ours.mask_token, peer.mask_token[kind], row, lambda t: t[0])
        yield Same(f"norm.{kind}.weight", ours.osm.norm.weight, peer.osm_norm[kind].weight, row)
        yield Same(f"norm.{kind}.bias", ours.osm.norm.bias, peer.osm_norm[kind].bias, row)
        for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
            its = getattr(peer.set2set[kind].lstm, f"{name}_l0")
            yield Same(f"set2set.{kind}.{name}", getattr(ours.aggregate, name), its, row)
        yield from linear(f"project.{kind}", ours.aggregate.project[k], peer.osm_project[kind])
        yield from linear(f"fuse.{kind}", ours.fusion.embed_node[k], peer.fuse_node[kind])
        for j, target in enumerate(TYPES):
            conv, pair = peer.gat.convs[kind, "to", target], lambda t, p=3 * k + j: t[p]
            yield Same(f"gat.{kind}.{target}", ours.osm.weight, conv.lin.weight, pair, lambda t: t.T)
            yield Same(f"gat.{kind}.{target}.source", ours.osm.source, conv.att_src, pair, torch.flatten)
            yield Same(f"gat.{kind}.{target}.target", ours.osm.target, conv.att_dst, pair, torch.flatten)
            yield Same(f"gat.{kind}.{target}.bias", ours.osm.bias, conv.bias, pair)
    yield Same("type_attention", ours.aggregate.attention.weight, peer.type_attention.weight)
    yield from linear("graph_head", ours.graph_head, peer.graph_head)
    yield from linear("fuse_patch", ours.fusion.embed_patch, peer.fuse_patch)
    yield from linear("last", ours.fusion.last, peer.fusion.last)
    yield from linear("tag_head", ours.tag_head, peer.tag_head)
    for mine, its in zip(ours.fusion.norms, peer.fusion.norms, strict=True):
        yield from linear("fusion.norm", mine, its)
    for name in ("node_to_node", "patch_to_node", "node_to_patch"):
        mine, its = getattr(ours.fusion, name), getattr(peer.fusion, name)
        for k, part in enumerate((mine.q, mine.k, mine.v)):
            rows: Pick = lambda t, k=k, d=part.in_features: t[k * d : (k + 1) * d]  # noqa: E731
            yield Same(f"{name}.{k}", part.weight, its.in_proj_weight, of_peers=rows)
            if part.bias is not None:
                yield Same(f"{name}.{k}.bias", part.bias, its.in_proj_bias, of_peers=rows)
        yield from linear(f"{name}.out", mine.out, its.out_proj)


def both_models() -> tuple[GeoLink, Reference]:
    """Ours as released and the peer, with equal random weights."""
    torch.manual_seed(0)
    settings = replace(GEOLINK, vit=replace(GEOLINK.vit, depth=SMALL.depth))
    ours, peer = GeoLink(settings, "released", GeoLinkLoss(1.0, 1.0, 1.0)), Reference(SMALL)
    with torch.no_grad():
        for parameter in ours.parameters():
            if parameter.requires_grad:
                parameter.normal_(0, 0.1)
        for same in (*image_side(ours, peer), *graph_side(ours, peer)):
            same.of_peers(same.peers).copy_(same.of_ours(same.ours))
    return ours, peer


@pytest.fixture(scope="module")
def crowded(tmp_path_factory: pytest.TempPathFactory) -> TileBatch:
    """Twelve samples, none without objects (the released model gives NaN there), some with more than 10 masked."""
    root = write_dataset(
        tmp_path_factory.mktemp("crowded"), SyntheticSettings(samples=14, size=48, objects=45, photos=0)
    )
    settings = StreamSettings(select="n_polygon > 0", augment=AugmentSettings(enabled=False))
    return next(iter(GeoStream(str(root), GeoLink.view(GEOLINK), batch_size=12, settings=settings)))


def test_losses_and_gradients_equal_those_of_the_released_composition(crowded: TileBatch) -> None:
    batch = crowded
    ours, peer = both_models()
    masked = mask_nodes(batch, 0.2, at_least_one)
    assert torch.bincount(batch.node_sample[masked]).max() > SMALL.cap
    seed = torch.cat((batch.seed, batch.seed.new_zeros(1)))[batch.node_sample]
    noise = torch.stack([uniform(seed, node_index(batch), use) for use in (NODE_MASK, NODE_CHOICE)], 1)
    patch_noise = uniform(batch.seed[:, None], torch.arange(36)[None], IMAGE_MASK)
    mine = ours(batch)
    its = peer(ours.norm(batch.rs), patch_noise, graphs(batch, node_features(batch), noise))
    for name, value in zip(("rec", "cont", "cst"), its, strict=True):
        torch.testing.assert_close(mine[name], value, atol=1e-4, rtol=1e-4)
    mine["loss"].backward()
    sum(its).backward()
    compared = set()
    for same in (*image_side(ours, peer), *graph_side(ours, peer)):
        assert same.ours.grad is not None
        found, expected = same.of_ours(same.ours.grad), same.of_peers(same.peers.grad)
        scale = float(expected.abs().max().clamp_min(1e-3))
        torch.testing.assert_close(
            found / scale, expected / scale, atol=1e-4, rtol=1e-4, msg=lambda m: f"{same.name}: {m}"
        )
        compared.add(same.ours)
    assert compared == {p for p in ours.parameters() if p.requires_grad}
