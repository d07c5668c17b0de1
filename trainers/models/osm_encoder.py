"""The OSM encoders: graph attention, graph convolution and a transformer over packed graphs of three kinds of node.

In: :class:`NodeInputs`. Out: node encodings f32[N,dim], 0 in padding nodes. Stored edges are
walked both ways, self-loops are added. docs/papers/geolink.md#osm-encoder.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from schemas.relations import INVERSE, Relation
from trainers.models.nodes import KINDS, DenseNodes, NodeInputs, anchor_positions, by_kind, choose_nodes
from trainers.models.scatter import segment_sizes, segment_softmax, segment_sum, take, weighted_sum
from trainers.models.vit import Mlp, init_linear
from trainers.stream.batch import TileBatch

RELATIONS = len(Relation)


class NodeNorm(nn.Module):
    """LayerNorm of each node on its own, with weights of its kind: a sample never depends on its batch mates."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(KINDS, dim))
        self.bias = nn.Parameter(torch.zeros(KINDS, dim))

    def forward(self, x: Tensor, kind: Tensor, valid: Tensor) -> Tensor:
        """Nodes f32[N,dim] of ``kind`` i64[N]; only those ``valid`` bool[N] count."""
        x = torch.where(valid[:, None], F.layer_norm(x.float(), x.shape[-1:], eps=1e-5), 0.0)
        return x * take(self.weight, kind) + take(self.bias, kind)


class BatchNodeNorm(NodeNorm):
    """As released: one mean and deviation over all nodes of a kind in the batch."""

    def forward(self, x: Tensor, kind: Tensor, valid: Tensor) -> Tensor:
        x, segment = x.float(), torch.where(valid, kind, KINDS)
        values = segment_sizes(segment, valid, KINDS + 1).clamp_min(1) * x.shape[1]
        mean = segment_sum(x.sum(1), segment, KINDS + 1) / values
        x = x - take(mean, segment)[:, None]
        variance = segment_sum(x.square().sum(1), segment, KINDS + 1) / values
        # The tiny term keeps the gradient finite where a kind is absent or constant.
        x = x / (take((variance + 1e-24).sqrt(), segment)[:, None] + 1e-5)
        return x * take(self.weight, kind) + take(self.bias, kind)


@dataclass(frozen=True)
class EdgeUse:
    """Where the relation of an edge is felt."""

    attention: bool  # as a term of the attention's logit, as GATConv's edge_dim does (paper)
    message: bool  # as a term of the message, so that a lone neighbour's relation is felt too


@dataclass
class Walk:
    """Directed edges of the batch: stored pairs both ways, then loops."""

    source: Tensor  # i64 [M]
    target: Tensor  # i64 [M]
    relation: Tensor  # i64 [M] of source to target
    live: Tensor  # bool [M]
    source_kind: Tensor  # i64 [M]
    target_kind: Tensor  # i64 [M]

    @property
    def pair(self) -> Tensor:
        """i64[M]: ordered pair of kinds."""
        return self.source_kind * KINDS + self.target_kind


class Walker(nn.Module):
    """Makes the :class:`Walk` of a batch."""

    inverse: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("inverse", torch.from_numpy(INVERSE.astype("int64")), persistent=False)

    def forward(self, batch: TileBatch) -> Walk:
        first, second = batch.edges
        loop = torch.arange(len(batch.node_valid), device=first.device)
        source, target = torch.cat((first, second, loop)), torch.cat((second, first, loop))
        relation = batch.edge_relation
        return Walk(
            source,
            target,
            torch.cat((relation, take(self.inverse, relation), torch.full_like(loop, int(Relation.SELF)))),
            torch.cat((batch.edge_valid, batch.edge_valid, batch.node_valid)),
            take(batch.node_kind, source),
            take(batch.node_kind, target),
        )


class HeteroLayer(nn.Module):
    """One layer over nine typed relations, the mean over those that arrive at a kind, then ReLU and a norm.

    For each ordered pair of kinds: out_i = sum over neighbours j of c_ij W x_j, plus b. Subclasses give c_ij.
    """

    def __init__(self, features: int, dim: int, edges: EdgeUse, norm: Callable[[int], nn.Module]) -> None:
        super().__init__()
        pairs = KINDS * KINDS
        self.dim, self.edges = dim, edges
        self.weight = nn.Parameter(torch.empty(pairs, features, dim))  # pair = source kind * KINDS + target kind
        self.bias = nn.Parameter(torch.zeros(pairs, dim))
        nn.init.uniform_(self.weight, -((6.0 / (features + dim)) ** 0.5), (6.0 / (features + dim)) ** 0.5)
        if edges.message:
            self.relation_message = nn.Parameter(torch.randn(pairs, RELATIONS, dim) * 0.1)
        self.norm = norm(dim)
        self.walk = Walker()

    def columns(self) -> Tensor:
        """What each source kind's rows are multiplied with, [KINDS,F,C]: first the three target kinds' matrices."""
        features = self.weight.shape[1]
        return self.weight.view(KINDS, KINDS, features, self.dim).transpose(1, 2).reshape(KINDS, features, -1)

    def coefficients(self, scores: Tensor, walk: Walk, segment: Tensor) -> Tensor:
        """c f32[M] of every edge; ``scores`` f32[N,C - KINDS * dim] are the further columns."""
        raise NotImplementedError

    def forward(self, inputs: NodeInputs) -> Tensor:
        """Node inputs to encodings f32[N,dim]."""
        batch, kind, valid = inputs.batch, inputs.batch.node_kind, inputs.batch.node_valid
        walk = self.walk(batch)
        # Sums over few rows of a table and over neighbours: fp32 throughout, at no cost beside the image encoder.
        with torch.autocast(self.weight.device.type, enabled=False):
            columns = self.columns()
            width = KINDS * self.dim
            message, scores = inputs.project(columns).split((width, columns.shape[2] - width), 1)
            segment = walk.target * KINDS + walk.source_kind
            share = self.coefficients(scores, walk, segment)
            message, leaving = message.reshape(-1, self.dim), walk.source * KINDS + walk.target_kind
            out = weighted_sum(message, leaving, share, walk.target, len(kind))
            if self.edges.message:
                out = out + self._relations(share, segment, walk, kind)
            bias = self.bias.view(KINDS, KINDS, self.dim).sum(0)
            out = self.norm(F.relu((out + take(bias, kind)) / KINDS), kind, valid)
        return torch.where(valid[:, None], out, torch.zeros_like(out))

    def _relations(self, share: Tensor, segment: Tensor, walk: Walk, kind: Tensor) -> Tensor:
        """The relations' terms of the messages f32[N,dim], from the share that each relation has of each node."""
        nodes = len(kind)
        shares = segment_sum(share, segment * RELATIONS + walk.relation, nodes * KINDS * RELATIONS)
        placed = by_kind(kind, shares.dtype)[:, :, None] * shares.view(nodes, 1, -1)
        terms = self.relation_message.view(KINDS, KINDS, RELATIONS, self.dim).transpose(0, 1)
        return placed.flatten(1) @ terms.reshape(-1, self.dim)


class HeteroGAT(HeteroLayer):
    """Graph attention: c = softmax over the neighbours of one kind of LeakyReLU(a_s W x_j + a_d W x_i + relation)."""

    def __init__(self, features: int, dim: int, edges: EdgeUse, norm: Callable[[int], nn.Module]) -> None:
        super().__init__(features, dim, edges, norm)
        bound = (6.0 / (KINDS * KINDS + dim)) ** 0.5
        self.source = nn.Parameter(torch.empty(KINDS * KINDS, dim).uniform_(-bound, bound))
        self.target = nn.Parameter(torch.empty(KINDS * KINDS, dim).uniform_(-bound, bound))
        if edges.attention:
            self.relation_score = nn.Parameter(torch.randn(KINDS * KINDS, RELATIONS) * 0.1)

    def columns(self) -> Tensor:
        # a (W x) = x (W a): six more columns hold what a node adds to the logits, as a source and as a target.
        features = self.weight.shape[1]
        source, target = (
            (self.weight * a[:, None]).sum(-1).view(KINDS, KINDS, features) for a in (self.source, self.target)
        )
        return torch.cat((super().columns(), source.permute(0, 2, 1), target.permute(1, 2, 0)), 2)

    def coefficients(self, scores: Tensor, walk: Walk, segment: Tensor) -> Tensor:
        as_source, as_target = scores.split(KINDS, 1)
        score = take(as_source.reshape(-1), walk.source * KINDS + walk.target_kind)
        score = score + take(as_target.reshape(-1), segment)
        if self.edges.attention:
            score = score + take(self.relation_score.view(-1), walk.pair * RELATIONS + walk.relation)
        return segment_softmax(F.leaky_relu(score, 0.2), segment, len(scores) * KINDS, walk.live)


class HeteroGCN(HeteroLayer):
    """Graph convolution (Kipf and Welling 2017): c = 1 / sqrt(neighbours of i times those of j), within a relation."""

    def coefficients(self, scores: Tensor, walk: Walk, segment: Tensor) -> Tensor:
        groups = len(scores) * KINDS
        leaving = walk.source * KINDS + walk.target_kind
        around_target = take(segment_sizes(segment, walk.live, groups), segment)
        around_source = take(segment_sizes(leaving, walk.live, groups), leaving)
        return walk.live * (around_target * around_source).clamp_min(1).rsqrt()


class NodeBlock(nn.Module):
    """Pre-norm transformer block over the nodes of each sample."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.qkv, self.proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.mlp = Mlp(dim, 4 * dim)

    def forward(self, x: Tensor, dense: DenseNodes, bias: Tensor) -> Tensor:
        """Nodes [N,dim]; ``bias`` [B,heads,K,K] is added to the logits. A node that is not chosen attends to none."""
        b, k = dense.node.shape
        d = x.shape[1]
        held = take(self.qkv(self.norm1(x)), dense.node)
        q, key, v = held.view(b, k, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4)
        seen = F.scaled_dot_product_attention(q, key, v, bias.to(q.dtype))
        seen = self.proj(seen.transpose(1, 2).reshape(b * k, d))
        back = take(torch.cat((seen, seen.new_zeros(1, d))), dense.place)
        x = x + back
        return x + self.mlp(self.norm2(x))


class NodeTransformer(nn.Module):
    """The paper's other variant: standard blocks over the nodes of a sample, with position embeddings.

    Args:
        features, dim: widths.
        edges: whether relations bias the attention (attention or message) or are not used.
        norm: of the encodings.
        grid: patches a side, the unit of positions.
        depth, heads: of the blocks.
        capacity: most nodes of a sample that attend to each other.
    """

    def __init__(
        self, features: int, dim: int, edges: EdgeUse, norm: Callable[[int], nn.Module],
        grid: int, depth: int, heads: int, capacity: int,
    ) -> None:  # fmt: skip
        super().__init__()
        self.dim, self.grid, self.heads, self.capacity = dim, grid, heads, capacity
        self.edges = edges
        self.embed = nn.Parameter(torch.empty(KINDS, features, dim))
        nn.init.uniform_(self.embed, -((6.0 / (features + dim)) ** 0.5), (6.0 / (features + dim)) ** 0.5)
        self.blocks = nn.ModuleList(NodeBlock(dim, heads) for _ in range(depth))
        self.blocks.apply(init_linear)
        self.related = edges.attention or edges.message
        if self.related:
            self.relation_score = nn.Parameter(torch.randn(KINDS * KINDS * RELATIONS, heads) * 0.1)
        self.norm = norm(dim)
        self.walk = Walker()

    def forward(self, inputs: NodeInputs) -> Tensor:
        """Node inputs to encodings f32[N,dim]."""
        batch, kind, valid = inputs.batch, inputs.batch.node_kind, inputs.batch.node_valid
        with torch.autocast(valid.device.type, enabled=False):
            x = inputs.project(self.embed) + anchor_positions(batch.anchors, self.grid, self.dim)
        dense = choose_nodes(batch, valid, inputs.capacity or self.capacity)
        bias = self._bias(dense, batch)
        for block in self.blocks:
            x = block(x, dense, bias)
        return torch.where(valid[:, None], self.norm(x, kind, valid), 0.0)

    def _bias(self, dense: DenseNodes, batch: TileBatch) -> Tensor:
        """f32[B,heads,K,K]: which nodes see which, and how they are related."""
        b, k = dense.node.shape
        # A row without nodes attends anywhere: its result is dropped, and softmax over nothing would be NaN.
        open_ = dense.valid[:, None] | ~dense.valid.any(1)[:, None, None]
        bias = torch.where(open_, 0.0, torch.finfo(torch.float32).min / 2)[:, None].expand(b, self.heads, k, k)
        if not self.related:
            return bias
        walk = self.walk(batch)
        row, column = take(dense.place, walk.target), take(dense.place, walk.source)
        held = walk.live & (row < b * k) & (column < b * k)
        at = torch.where(held, row * k + column % k, b * k * k)
        score = take(self.relation_score, walk.pair * RELATIONS + walk.relation)
        return bias + segment_sum(score, at, b * k * k + 1)[:-1].view(b, k, k, -1).permute(0, 3, 1, 2)
