"""Encodings of nodes to one of the region: Set2Set a kind (Vinyals et al. 2016), then attention over kinds.

docs/papers/geolink.md#region.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from trainers.models.nodes import KINDS
from trainers.models.scatter import segment_sizes, segment_softmax, segment_sum, take
from trainers.models.vit import init_linear
from trainers.stream.batch import TileBatch


def softmax_over_present(score: Tensor, present: Tensor) -> Tensor:
    """Weights f32[B,kinds] that sum to 1 over the kinds a sample has; all 0 where it has none."""
    score = score.float().masked_fill(~present, torch.finfo(torch.float32).min)
    return torch.softmax(score, 1) * present


def sum_of_present(score: Tensor, present: Tensor) -> Tensor:
    """As released: weight 1 for each kind (its softmax ran over an axis of length 1)."""
    return present.float() + 0.0 * score.float()


KindWeights = Callable[[Tensor, Tensor], Tensor]


class Aggregation(nn.Module):
    """Set2Set of the nodes of each kind, ``steps`` reads each, and their weighted sum."""

    def __init__(self, dim: int, weights: KindWeights, steps: int = 5) -> None:
        super().__init__()
        self.dim, self.steps, self.weights = dim, steps, weights
        bound = dim**-0.5  # that of nn.LSTM
        self.weight_ih = nn.Parameter(torch.empty(KINDS, 4 * dim, 2 * dim).uniform_(-bound, bound))
        self.weight_hh = nn.Parameter(torch.empty(KINDS, 4 * dim, dim).uniform_(-bound, bound))
        self.bias_ih = nn.Parameter(torch.empty(KINDS, 4 * dim).uniform_(-bound, bound))
        self.bias_hh = nn.Parameter(torch.empty(KINDS, 4 * dim).uniform_(-bound, bound))
        self.project = nn.ModuleList(nn.Linear(2 * dim, dim) for _ in range(KINDS))
        self.attention = nn.Linear(dim, 1, bias=False)  # a softmax does not feel a bias
        self.project.apply(init_linear)

    def forward(self, x: Tensor, batch: TileBatch) -> tuple[Tensor, Tensor]:
        """Encodings f32[N,dim] to regions f32[B,dim] and the weights of kinds f32[B,kinds]."""
        samples = len(batch.valid)
        slots = samples + 1  # padding nodes read in a slot of their own
        segment = batch.node_kind * slots + batch.node_sample
        size = segment_sizes(segment, batch.node_valid, KINDS * slots)
        present = size.view(KINDS, slots)[:, :samples].T > 0
        # The recurrence is small and its sums are long: fp32 throughout.
        with torch.autocast(x.device.type, enabled=False):
            query = self._read(x.float(), segment, batch.node_valid, slots)[:, :samples]
            kinds = torch.stack([p(q) for p, q in zip(self.project, query, strict=True)], 1)
            weights = self.weights(self.attention(kinds).squeeze(-1), present)
            return (kinds * weights[..., None]).sum(1), weights

    def _read(self, x: Tensor, segment: Tensor, valid: Tensor, slots: int) -> Tensor:
        """State and last reading f32[KINDS,slots,2*dim] of each group."""
        dim, groups = self.dim, KINDS * slots
        # The cell's input is (state, reading) and its state is seen once more: one matrix product does for both.
        weight = torch.cat((self.weight_ih[..., :dim] + self.weight_hh, self.weight_ih[..., dim:]), 2).transpose(1, 2)
        bias = (self.bias_ih + self.bias_hh)[:, None]
        gates = bias.expand(-1, slots, -1)  # all starts at 0
        cell, query = x.new_zeros(1), x.new_zeros(1)
        for step in range(self.steps):
            if step:
                gates = torch.baddbmm(bias, query, weight)
            enter, forget, new, leave = gates.chunk(4, -1)
            cell = torch.sigmoid(forget) * cell + torch.sigmoid(enter) * torch.tanh(new)
            state = torch.sigmoid(leave) * torch.tanh(cell)
            score = (x * take(state.reshape(groups, dim), segment)).sum(-1)
            share = segment_softmax(score, segment, groups, valid)
            reading = segment_sum(x * share[:, None], segment, groups).view(KINDS, slots, dim)
            query = torch.cat((state, reading), -1)
        return query
