"""Sums and softmaxes over packed segments: fixed shapes, no host synchronisation."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def take(values: Tensor, index: Tensor) -> Tensor:
    """Rows of ``values`` [N,...] at ``index`` i64 of any shape: [*index,...].

    ``values[index]`` by one kernel whose gradient is an index_add, several times faster on a CPU.
    """
    return values.index_select(0, index.reshape(-1)).view(*index.shape, *values.shape[1:])


def segment_sum(values: Tensor, segment: Tensor, count: int) -> Tensor:
    """Sum of ``values`` [N,...] by ``segment`` i64[N] (0 <= segment < count): [count,...]."""
    return values.new_zeros(count, *values.shape[1:]).index_add(0, segment, values)


def weighted_sum(values: Tensor, index: Tensor, weight: Tensor, segment: Tensor, count: int) -> Tensor:
    """Sums f32[count,C] of ``values`` f32[R,C] at ``index`` i64[M] times ``weight`` f32[M], by ``segment`` i64[M].

    All the M rows are never held at once.
    """
    segment, order = torch.sort(segment, stable=True)
    start = torch.searchsorted(segment, torch.arange(count, device=segment.device))
    return F.embedding_bag(take(index, order), values, start, mode="sum", per_sample_weights=take(weight, order))


def segment_softmax(scores: Tensor, segment: Tensor, count: int, valid: Tensor) -> Tensor:
    """Softmax in fp32 of ``scores`` [N] over the valid rows of each segment; 0 in rows that are not valid."""
    low = torch.finfo(torch.float32).min
    scores = torch.where(valid, scores.float(), low)
    top = torch.full((count,), low, device=scores.device).scatter_reduce(0, segment, scores.detach(), "amax")
    power = torch.exp(scores - take(top, segment)) * valid
    total = segment_sum(power, segment, count)
    return power / take(total, segment).clamp_min(1e-16)


def segment_sizes(segment: Tensor, valid: Tensor, count: int) -> Tensor:
    """Valid rows f32[count] of each segment."""
    return segment_sum(valid.float(), segment, count)


def rank_in_segment(order: Tensor, segment: Tensor, count: int) -> Tensor:
    """Rank i64[N] from 0 of each row within its segment, rows ordered by ``order`` f32[N] in [0, 1)."""
    # Double holds segment + order exactly enough: segments stay below 2^28, order has 24 bits.
    sequence = torch.argsort(segment.double() + order.double(), dim=0, stable=True)
    starts = torch.searchsorted(take(segment, sequence), torch.arange(count, device=segment.device))
    ranks = torch.zeros_like(segment).scatter(0, sequence, torch.arange(len(segment), device=segment.device))
    return ranks - take(starts, segment)
