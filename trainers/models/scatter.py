"""Sums and softmaxes over packed segments."""

from __future__ import annotations

import torch
from torch import Tensor


def segment_sum(values: Tensor, segment: Tensor, count: int) -> Tensor:
    """Sum of ``values`` [N,...] by ``segment`` i64[N] (0 <= segment < count): [count,...]."""
    return values.new_zeros(count, *values.shape[1:]).index_add(0, segment, values)


def segment_softmax(scores: Tensor, segment: Tensor, count: int, valid: Tensor) -> Tensor:
    """Softmax in fp32 of ``scores`` [N] or [N,H] over the valid rows of each segment; 0 in rows that are not valid."""
    scores = scores.float()
    shape = (-1,) + (1,) * (scores.dim() - 1)
    valid = valid.view(shape)
    low = torch.finfo(torch.float32).min
    scores = torch.where(valid, scores, low)
    index = segment.view(shape).expand_as(scores)
    top = torch.full((count, *scores.shape[1:]), low, device=scores.device)
    top = top.scatter_reduce(0, index, scores.detach(), "amax")
    power = torch.exp(scores - top[segment]) * valid
    total = segment_sum(power, segment, count)
    return power / total[segment].clamp_min(1e-16)


def rank_in_segment(order: Tensor, segment: Tensor, count: int) -> Tensor:
    """Rank i64[N] from 0 of each row within its segment, rows ordered by ``order`` f32[N] in [0, 1)."""
    # Double holds segment + order exactly enough: segments stay below 2^28, order has 24 bits.
    sequence = torch.argsort(segment.double() + order.double(), dim=0, stable=True)
    sizes = torch.zeros(count, dtype=torch.long, device=segment.device)
    sizes = sizes.index_add(0, segment, torch.ones_like(segment))
    starts = torch.cumsum(sizes, 0) - sizes
    ranks = torch.empty_like(segment)
    ranks[sequence] = torch.arange(len(segment), device=segment.device)
    return ranks - starts[segment]
