"""The OSM side of GeoLink: tag features, node masking, the heterogeneous graph attention layer, aggregation.

Nodes of all samples are packed end to end; padding nodes belong to sample B and are never a neighbour of a real node.
specs/geolink.md sections 2.4, 3.3, 3.4.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from schemas.features import Kind
from schemas.relations import INVERSE, Relation
from trainers.models.noise import uniform
from trainers.models.scatter import rank_in_segment, segment_softmax, segment_sum
from trainers.models.vit import init_linear
from trainers.stream.batch import TileBatch

KINDS = len(Kind)
#: Streams of random numbers for node masks and for rounding their count.
NODE_MASK, NODE_COUNT = 102, 103


def node_features(batch: TileBatch) -> Tensor:
    """f32[N,F]: the weighted mean of each node's tag features; 0 for a node without tags."""
    rows = batch.tag_features[batch.tag_row].float() * batch.tag_weight[:, None]
    return segment_sum(rows, batch.tag_node, len(batch.node_valid))


def node_index(batch: TileBatch) -> Tensor:
    """i64[N]: number of each node within its sample, for random draws that do not depend on the batch."""
    sizes = torch.zeros(len(batch) + 1, dtype=torch.long, device=batch.node_sample.device)
    sizes = sizes.index_add(0, batch.node_sample, torch.ones_like(batch.node_sample))
    starts = torch.cumsum(sizes, 0) - sizes
    return torch.arange(len(batch.node_sample), device=sizes.device) - starts[batch.node_sample]


def share_count(size: Tensor, ratio: float, draw: Tensor) -> Tensor:
    """Masked nodes of groups of ``size``: ratio times size, rounded up or down at random, so that the mean is exact."""
    return torch.floor(size * ratio + draw).long()


def at_least_one(size: Tensor, ratio: float, _draw: Tensor) -> Tensor:
    """Masked nodes as released: the rounded share, at least one (so a lone node is always masked)."""
    return torch.round(size * ratio).clamp_min(1).long()


CountRule = Callable[[Tensor, float, Tensor], Tensor]


def mask_nodes(batch: TileBatch, ratio: float, rule: CountRule) -> Tensor:
    """bool[N]: which nodes are masked, a share ``ratio`` of each kind in each sample, by the slot seeds."""
    samples = len(batch)
    seed = torch.cat((batch.seed, batch.seed.new_zeros(1)))
    segment = batch.node_sample * KINDS + batch.node_kind
    groups = (samples + 1) * KINDS
    noise = uniform(seed[batch.node_sample], node_index(batch), NODE_MASK)
    rank = rank_in_segment(noise, segment, groups)
    size = segment_sum(batch.node_valid.float(), segment, groups)
    kinds = torch.arange(KINDS, device=seed.device)[None]
    draw = uniform(seed[:, None], kinds, NODE_COUNT).reshape(-1)
    return (rank < rule(size, ratio, draw)[segment]) & batch.node_valid


class NodeNorm(nn.Module):
    """LayerNorm of each node on its own, with weights of its kind: a sample never depends on its batch mates."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(KINDS, dim))
        self.bias = nn.Parameter(torch.zeros(KINDS, dim))

    def forward(self, x: Tensor, kind: Tensor, _valid: Tensor) -> Tensor:
        x = F.layer_norm(x.float(), x.shape[-1:], eps=1e-5)
        return x * self.weight[kind] + self.bias[kind]


class GraphNorm(NodeNorm):
    """As released: one mean and deviation over all nodes of a kind in the batch."""

    def forward(self, x: Tensor, kind: Tensor, _valid: Tensor) -> Tensor:
        x = x.float()
        segment = torch.where(_valid, kind, KINDS)
        values = segment_sum(torch.ones_like(x[:, :1]), segment, KINDS + 1).clamp_min(1) * x.shape[1]
        mean = segment_sum(x, segment, KINDS + 1).sum(1, keepdim=True) / values
        x = x - mean[segment]
        variance = segment_sum(x.square(), segment, KINDS + 1).sum(1, keepdim=True) / values
        return x / (variance.sqrt() + 1e-5)[segment] * self.weight[kind] + self.bias[kind]


@dataclass(frozen=True)
class EdgeUse:
    """Where the relation of an edge enters the graph attention."""

    attention: bool  # as a term of the attention logit, as GATConv's edge_dim does (paper)
    message: bool  # as a term of the message, so that a lone neighbour's relation is felt too


class HeteroGAT(nn.Module):
    """One layer of graph attention over nine typed relations, the mean over those that arrive at a kind.

    For each ordered pair of kinds: shared projection W, alpha = softmax(LeakyReLU(a_s W x_j + a_d W x_i + relation)),
    out_i = sum(alpha W x_j) + b. Stored edges are walked both ways, self-loops are added. Then ReLU and a norm.
    """

    inverse: Tensor

    def __init__(self, features: int, dim: int, edges: EdgeUse, norm: Callable[[int], nn.Module]) -> None:
        super().__init__()
        pairs = KINDS * KINDS
        self.dim, self.edges = dim, edges
        self.weight = nn.Parameter(torch.empty(pairs, features, dim))
        self.source = nn.Parameter(torch.empty(pairs, dim))
        self.target = nn.Parameter(torch.empty(pairs, dim))
        self.bias = nn.Parameter(torch.zeros(pairs, dim))
        for parameter in (self.weight, self.source, self.target):
            bound = (6.0 / sum(parameter.shape[-2:])) ** 0.5
            nn.init.uniform_(parameter, -bound, bound)
        if edges.attention:
            self.relation_score = nn.Parameter(torch.randn(pairs, len(Relation)) * 0.1)
        if edges.message:
            self.relation_message = nn.Parameter(torch.randn(pairs, len(Relation), dim) * 0.1)
        self.norm = norm(dim)
        self.register_buffer("inverse", torch.from_numpy(INVERSE.astype("int64")), persistent=False)

    def forward(self, x: Tensor, batch: TileBatch) -> Tensor:
        """Node inputs f32[N,F] to encodings f32[N,dim]."""
        kind, valid = batch.node_kind, batch.node_valid
        nodes = len(kind)
        source, target, relation, live = self._edges(batch)
        pair = kind[source] * KINDS + kind[target]
        projected = torch.einsum("nf,pfd->npd", x, self.weight)
        # a_d (W x) = x (W a_d): the target's score needs no projection of its own.
        target_score = torch.einsum("nf,pf->np", x.float(), torch.einsum("pfd,pd->pf", self.weight, self.target))
        message = projected.reshape(-1, self.dim)[source * KINDS * KINDS + pair].float()
        score = (message * self.source[pair]).sum(-1) + target_score[target, pair]
        if self.edges.attention:
            score = score + self.relation_score[pair, relation]
        if self.edges.message:
            message = message + self.relation_message[pair, relation]
        segment = target * KINDS + kind[source]
        alpha = segment_softmax(F.leaky_relu(score, 0.2), segment, nodes * KINDS, live)
        total = segment_sum(message * alpha[:, None], target, nodes)
        arriving = torch.arange(KINDS, device=kind.device)[:, None] * KINDS + kind[None]
        out = (total + self.bias[arriving].sum(0)) / KINDS
        out = self.norm(F.relu(out), kind, valid)
        return torch.where(valid[:, None], out, torch.zeros_like(out))

    def _edges(self, batch: TileBatch) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Source, target, relation of source to target, and validity: both ways and loops."""
        first, second = batch.edges
        loop = torch.arange(len(batch.node_valid), device=first.device)
        relation = batch.edge_relation
        return (
            torch.cat((first, second, loop)),
            torch.cat((second, first, loop)),
            torch.cat((relation, self.inverse[relation], torch.full_like(loop, int(Relation.SELF)))),
            torch.cat((batch.edge_valid, batch.edge_valid, batch.node_valid)),
        )


def softmax_over_present(score: Tensor, present: Tensor) -> Tensor:
    """Weights f32[B,kinds] that sum to 1 over the kinds a sample has; all 0 where it has none."""
    score = score.float().masked_fill(~present, torch.finfo(torch.float32).min)
    return torch.softmax(score, 1) * present


def sum_of_present(score: Tensor, present: Tensor) -> Tensor:
    """As released: weight 1 for each kind (its softmax ran over an axis of length 1)."""
    return present.float() + 0.0 * score.float()


KindWeights = Callable[[Tensor, Tensor], Tensor]


class Aggregation(nn.Module):
    """Encodings of nodes to one of the region: Set2Set a kind (Vinyals et al. 2016), then attention over kinds."""

    def __init__(self, dim: int, weights: KindWeights, steps: int = 5) -> None:
        super().__init__()
        self.dim, self.steps, self.weights = dim, steps, weights
        self.cells = nn.ModuleList(nn.LSTMCell(2 * dim, dim) for _ in range(KINDS))
        self.project = nn.ModuleList(nn.Linear(2 * dim, dim) for _ in range(KINDS))
        self.attention = nn.Linear(dim, 1)
        self.project.apply(init_linear)

    def forward(self, x: Tensor, batch: TileBatch) -> tuple[Tensor, Tensor]:
        """Encodings f32[N,dim] to regions f32[B,dim] and the weights of kinds f32[B,kinds]."""
        samples = len(batch)
        groups = (samples + 1) * KINDS
        segment = batch.node_sample * KINDS + batch.node_kind
        size = segment_sum(batch.node_valid.float(), segment, groups)
        present = size.view(samples + 1, KINDS)[:samples] > 0
        # The recurrence is small and its sums are long: fp32 throughout.
        with torch.autocast(x.device.type, enabled=False):
            x = x.float()
            state = [(x.new_zeros(samples + 1, self.dim),) * 2 for _ in range(KINDS)]
            query = x.new_zeros(samples + 1, KINDS, 2 * self.dim)
            for _ in range(self.steps):
                state = [cell(query[:, k], state[k]) for k, cell in enumerate(self.cells)]
                hidden = torch.stack([h for h, _ in state], 1)
                score = (x * hidden.reshape(groups, -1)[segment]).sum(-1)
                alpha = segment_softmax(score, segment, groups, batch.node_valid)
                read = segment_sum(x * alpha[:, None], segment, groups).view(samples + 1, KINDS, -1)
                query = torch.cat((hidden, read), -1)
            kinds = torch.stack([p(query[:samples, k]) for k, p in enumerate(self.project)], 1)
            weights = self.weights(self.attention(kinds).squeeze(-1), present)
            return (kinds * weights[..., None]).sum(1), weights
