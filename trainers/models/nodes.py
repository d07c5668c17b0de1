"""Nodes of packed graphs before any layer: their tags, which are masked, which are chosen.

Nodes of all samples are packed end to end; padding nodes belong to sample B and are never a neighbour of a real node.
docs/papers/geolink.md#tags, #positions, #osm-encoder.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from schemas.features import Kind
from trainers.models.noise import hash32, uniform
from trainers.models.scatter import rank_in_segment, segment_sizes, segment_sum, take
from trainers.models.vit import sincos
from trainers.stream.batch import TileBatch

KINDS = len(Kind)
#: Streams of random numbers for node masks, for rounding their count, for nodes beyond a capacity, for tag rows.
NODE_MASK, NODE_COUNT, NODE_CHOICE, TAG_ROW = 102, 103, 104, 105


def sum_tags(rows: Tensor, row: Tensor, batch: TileBatch) -> Tensor:
    """Weighted sum f32[N,C] over each node's tags of ``rows`` f32[R,C] at ``row`` i64[T]; 0 for a node without tags."""
    nodes = torch.arange(len(batch.node_valid), device=row.device)
    start = torch.searchsorted(batch.tag_node, nodes)  # a batch lists tags node by node
    return F.embedding_bag(row, rows, start, mode="sum", per_sample_weights=batch.tag_weight)


def node_features(batch: TileBatch) -> Tensor:
    """f32[N,F]: the weighted mean of each node's tag features; 0 for a node without tags."""
    return sum_tags(batch.tag_features.float(), batch.tag_row, batch)


@dataclass
class NodeInputs:
    """What the encoder sees of the nodes, factored: x f32[N,F] = weights times the rows of a small table.

    A batch has far fewer distinct tags than nodes, so a linear layer is applied to the table and its rows are summed.
    """

    batch: TileBatch
    tags: Tensor  # f32 [U,F] the batch's distinct tags
    token: Tensor  # f32 [KINDS,F] what a masked node of each kind is
    masked: Tensor  # bool [N]
    capacity: int | None = None  # most nodes of a sample that an encoder which pairs them all takes; None: its own

    def project(self, weight: Tensor) -> Tensor:
        """x W of each node's kind: ``weight`` [KINDS,F,C] to f32[N,C]."""
        kind = self.batch.node_kind
        rows = (self.tags @ weight.transpose(0, 1).flatten(1)).view(-1, weight.shape[2])  # row * KINDS + kind
        at = self.batch.tag_row * KINDS + take(kind, self.batch.tag_node)
        tokens = torch.bmm(self.token[:, None], weight).squeeze(1)
        return torch.where(self.masked[:, None], take(tokens, kind), sum_tags(rows, at, self.batch))


class FrozenTags(nn.Module):
    """Rows that nodes are made of: those of the batch's embedding table as they are, frozen."""

    def forward(self, batch: TileBatch) -> Tensor:
        """f32[U,F] of the batch's distinct tags."""
        return batch.tag_features.float()


class LearnedTags(nn.Module):
    """Learned rows: a tag is the sum of two of ``rows`` vectors that hashes of its id name (Svenstrup et al. 2017).

    Two tags share both with a chance of 1 / rows². No vocabulary is needed, so datasets can be mixed or changed.
    """

    def __init__(self, rows: int, width: int) -> None:
        super().__init__()
        self.rows = rows
        self.weight = nn.Parameter(torch.randn(rows, width) * 0.5**0.5)

    def forward(self, batch: TileBatch) -> Tensor:
        """f32[U,F] of the batch's distinct tags."""
        numbers = torch.arange(2, device=batch.tag_id.device)[:, None]
        return F.embedding(hash32(batch.tag_id[None], numbers, TAG_ROW) % self.rows, self.weight).sum(0)


def by_kind(kind: Tensor, dtype: torch.dtype) -> Tensor:
    """[...,KINDS] with 1 at each node's ``kind`` i64[...]; ``F.one_hot`` looks at the values on the host."""
    return (kind[..., None] == torch.arange(KINDS, device=kind.device)).to(dtype)


def node_index(batch: TileBatch) -> Tensor:
    """i64[N]: number of each node within its sample, for random draws that do not depend on the batch."""
    sample = batch.node_sample  # rises: samples lie end to end
    starts = torch.searchsorted(sample, torch.arange(len(batch.valid) + 1, device=sample.device))
    return torch.arange(len(sample), device=sample.device) - take(starts, sample)


def _node_noise(batch: TileBatch, stream: int) -> Tensor:
    """Uniform f32[N] in [0, 1) by the slot seeds."""
    seed = torch.cat((batch.seed, batch.seed.new_zeros(1)))
    return uniform(take(seed, batch.node_sample), node_index(batch), stream)


def share_count(size: Tensor, ratio: float, draw: Tensor) -> Tensor:
    """Masked nodes of groups of ``size``: ratio times size, rounded up or down at random, so that the mean is exact."""
    return torch.floor(size * ratio + draw).long()


def at_least_one(size: Tensor, ratio: float, _draw: Tensor) -> Tensor:
    """Masked nodes as released: the rounded share, at least one (so a lone node is always masked)."""
    return torch.round(size * ratio).clamp_min(1 if ratio else 0).long()


CountRule = Callable[[Tensor, float, Tensor], Tensor]


def mask_nodes(batch: TileBatch, ratio: float, rule: CountRule) -> Tensor:
    """bool[N]: which nodes are masked, a share ``ratio`` of each kind in each sample, by the slot seeds."""
    seed = torch.cat((batch.seed, batch.seed.new_zeros(1)))
    segment = batch.node_sample * KINDS + batch.node_kind
    rank = rank_in_segment(_node_noise(batch, NODE_MASK), segment, len(seed) * KINDS)
    size = segment_sizes(segment, batch.node_valid, len(seed) * KINDS)
    kinds = torch.arange(KINDS, device=seed.device)[None]
    draw = uniform(seed[:, None], kinds, NODE_COUNT).reshape(-1)
    return (rank < take(rule(size, ratio, draw), segment)) & batch.node_valid


@dataclass
class DenseNodes:
    """Chosen nodes of each sample: at fixed places K a sample, and packed in R rows, which layers work on."""

    node: Tensor  # i64 [B,K] node, the last (padding) node where there is none
    valid: Tensor  # bool [B,K]
    place: Tensor  # i64 [N] sample * K + column of each node, B * K where it is not chosen
    row_node: Tensor  # i64 [R] node, the last (padding) node where there is none
    row_place: Tensor  # i64 [R] sample * K + column of each row, B * K where there is none

    @property
    def row_sample(self) -> Tensor:
        """i64[R]: sample of each row, B where there is none."""
        return self.row_place // self.node.shape[1]


def most_masked(batch: TileBatch, ratio: float) -> int:
    """No batch of these shapes has more masked nodes: a group has at most its share and one more."""
    return math.ceil(len(batch.node_valid) * ratio) + len(batch.valid) * KINDS


def choose_nodes(batch: TileBatch, chosen: Tensor, capacity: int, most: int | None = None) -> DenseNodes:
    """Up to ``capacity`` of the nodes ``chosen`` bool[N] of each sample, in the order they are stored.

    Beyond the capacity the seeds choose a random subset; below it nothing is random, the order of sums included.
    ``most`` is a number that ``chosen`` never exceeds in all samples together; None: N.
    """
    samples, nodes = len(batch.valid), len(chosen)
    places, device = samples * capacity, chosen.device
    # Nodes not chosen go to one more segment, so that ranks count chosen nodes only.
    segment = torch.where(chosen & batch.node_valid, batch.node_sample, samples)
    kept = (segment < samples) & (rank_in_segment(_node_noise(batch, NODE_CHOICE), segment, samples + 1) < capacity)
    # Nodes lie sample by sample, so a running count less that of the samples before is the column.
    size = segment_sum(kept.long(), batch.node_sample, samples + 1)
    number = torch.cumsum(kept, 0) - 1
    column = number - take(torch.cumsum(size, 0) - size, batch.node_sample)
    place = torch.where(kept, segment * capacity + column, places)
    own = torch.arange(nodes, device=device)
    node = torch.full((places + 1,), nodes - 1, device=device).scatter(0, place, own)[:-1].view(samples, capacity)
    filled = torch.zeros(places + 1, dtype=torch.bool, device=device).scatter(0, place, kept)[:-1]
    rows = min(places, nodes if most is None else most)
    row = torch.where(kept, number, rows)
    return DenseNodes(
        node, filled.view(samples, capacity), place,
        torch.full((rows + 1,), nodes - 1, device=device).scatter(0, row, own)[:-1],
        torch.full((rows + 1,), places, device=device).scatter(0, row, place)[:-1],
    )  # fmt: skip


def anchor_positions(anchors: Tensor, grid: int, dim: int) -> Tensor:
    """Mean sin-cos embedding f32[...,dim] of each node's anchors f32[...,4,2]; unused (NaN) anchors are left out."""
    used = ~torch.isnan(anchors[..., 0])
    embedded = sincos(torch.nan_to_num(anchors) * grid, dim) * used[..., None]
    return embedded.sum(-2) / used.sum(-1).clamp_min(1)[..., None]
