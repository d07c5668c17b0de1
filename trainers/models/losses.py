"""Masked losses. A masked row has no influence on any value or gradient; a loss without rows is 0, with a graph."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

#: Mean radius of the earth in metres (IUGG).
EARTH_RADIUS = 6371008.8


def masked_mean(values: Tensor, mask: Tensor, gather: bool = False) -> Tensor:
    """Mean of ``values`` where ``mask`` holds; 0 where it holds nowhere. Same shapes.

    With ``gather`` it is such that its mean over the ranks is the mean over the rows of all ranks.
    """
    count = mask.sum().float()
    ranks = dist.get_world_size() if gather and distributed() else 1
    if ranks > 1:
        dist.all_reduce(count)
    return torch.where(mask, values, torch.zeros_like(values)).sum() * ranks / count.clamp_min(1)


def blank(rows: Tensor, valid: Tensor) -> Tensor:
    """``rows`` [N,D] with zeros where ``valid`` bool[N] is false, so that garbage reaches no value or gradient."""
    return torch.where(valid[:, None], rows, torch.zeros_like(rows))


def normalise(rows: Tensor) -> Tensor:
    """Rows [N,D] at unit length in fp32; a zero row stays zero."""
    return torch.nn.functional.normalize(rows.float(), dim=-1)


def _cross_entropy(logits: Tensor, positive: Tensor, allowed: Tensor, rows: Tensor) -> Tensor:
    """-log softmax f32[N] at column ``positive`` i64[N] among ``allowed`` bool[N,M]; 0 outside ``rows``."""
    logits = logits.masked_fill(~allowed, float("-inf"))
    own = torch.gather(logits, 1, positive[:, None]).squeeze(1)
    own = torch.where(rows, own, torch.zeros_like(own))
    total = torch.logsumexp(torch.where(rows[:, None], logits, torch.zeros_like(logits)), 1)
    return torch.where(rows, total - own, torch.zeros_like(own))


@dataclass(frozen=True)
class OwnNegatives:
    """Further negatives that each of N rows has for itself."""

    rows: Tensor  # [N,H,D] embeddings of any length
    allowed: Tensor  # bool [N,H]

    def beside(self, a: Tensor, similarity: Tensor, allowed: Tensor) -> tuple[Tensor, Tensor]:
        """Similarities f32[N,M] of rows a f32[N,D] of unit length, and which are allowed, with these appended."""
        rows = normalise(torch.where(self.allowed[..., None], self.rows, torch.zeros_like(self.rows)))
        own = torch.einsum("nd,nhd->nh", a, rows)
        return torch.cat((similarity, own), 1), torch.cat((allowed, self.allowed), 1)


def info_nce(
    a: Tensor,
    b: Tensor,
    valid: Tensor,
    temperature: float | Tensor,
    excluded: Tensor | None = None,
    gather: bool = False,
    own: OwnNegatives | None = None,
) -> Tensor:
    """Symmetric InfoNCE between paired rows a, b [N,D]: docs/papers/geolink.md#losses, docs/papers/gair.md#losses.

    Args:
        a, b: embeddings of any length; cosine similarity is used.
        valid: bool[N], which pairs count, as positives and as negatives.
        temperature: divides the similarities.
        excluded: bool[N,M], pairs that are no negatives; M is N times the ranks where ``gather`` is on.
        gather: whether the other ranks' rows are negatives too.
        own: negatives of the kind of b for each row of a.
    """
    a, b = normalise(blank(a, valid)), normalise(blank(b, valid))
    first = 0
    all_a, all_b, all_valid = a, b, valid
    if gather and distributed():
        all_a, all_b, all_valid = gather_rows(a), gather_rows(b), gather_plain(valid)
        first = dist.get_rank() * len(a)
    positive = torch.arange(len(a), device=a.device) + first
    allowed = all_valid[None].expand(len(a), -1)
    if excluded is not None:
        allowed = allowed & ~excluded
    # A row always sees its own positive, whatever is excluded.
    allowed = allowed | (torch.arange(len(all_a), device=a.device)[None] == positive[:, None])
    there, seen = a @ all_b.T, allowed
    if own is not None:
        there, seen = own.beside(a, there, allowed)
    forward = _cross_entropy(there / temperature, positive, seen, valid)
    backward = _cross_entropy(b @ all_a.T / temperature, positive, allowed, valid)
    return masked_mean((forward + backward) / 2, valid, gather)


def queue_nce(
    a: Tensor,
    positive: Tensor,
    valid: Tensor,
    queue: Tensor,
    allowed: Tensor,
    temperature: float | Tensor,
    gather: bool = False,
    own: OwnNegatives | None = None,
) -> Tensor:
    """InfoNCE of rows a [N,D] to their positives [N,D] against a queue [K,D]; ``allowed`` bool[N,K] negatives.

    docs/papers/gair.md#losses, SECL. Without negatives the loss is 0. ``gather`` is that of
    :func:`masked_mean`, ``own`` are further negatives of each row.
    """
    a, positive = normalise(blank(a, valid)), normalise(blank(positive, valid))
    similarity = torch.cat(((a * positive).sum(-1, keepdim=True), a @ normalise(queue).T), 1)
    allowed = torch.cat((torch.ones_like(allowed[:, :1]), allowed), 1)
    if own is not None:
        similarity, allowed = own.beside(a, similarity, allowed)
    first = torch.zeros(len(a), dtype=torch.long, device=a.device)
    return masked_mean(_cross_entropy(similarity / temperature, first, allowed, valid), valid, gather)


def great_circle(a: Tensor, b: Tensor) -> Tensor:
    """Distances f32[N,M] in metres between a f64[N,2] and b f64[M,2] in degrees longitude, latitude."""
    return distance(a[:, None], b[None])


def distance(a: Tensor, b: Tensor) -> Tensor:
    """Metres f32[...] between places f64[...,2] in degrees longitude, latitude, which broadcast (haversine)."""
    a, b = torch.deg2rad(a.double()), torch.deg2rad(b.double())
    delta = (a - b) / 2
    lat = torch.cos(a[..., 1]) * torch.cos(b[..., 1])
    h = torch.sin(delta[..., 1]) ** 2 + lat * torch.sin(delta[..., 0]) ** 2
    return (2 * EARTH_RADIUS * torch.asin(h.clamp(0, 1).sqrt())).float()


def distributed() -> bool:
    """Whether several ranks train together."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def gather_plain(rows: Tensor) -> Tensor:
    """Rows of all ranks in rank order, without a gradient; every rank gives the same shape."""
    if not distributed():
        return rows
    parts = [torch.empty_like(rows) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, rows.contiguous())
    return torch.cat(parts)


class _Gather(torch.autograd.Function):
    """All-gather whose backward sums what every rank's loss says about this rank's rows."""

    @staticmethod
    def forward(_ctx: Any, rows: Tensor) -> Tensor:
        return gather_plain(rows)

    @staticmethod
    def backward(_ctx: Any, *gradients: Tensor) -> Tensor:
        total = gradients[0].contiguous()
        dist.all_reduce(total)
        size = len(total) // dist.get_world_size()
        return total[dist.get_rank() * size :][:size]


def gather_rows(rows: Tensor) -> Tensor:
    """Rows of all ranks in rank order, with gradients to the rank that made them."""
    return _Gather.apply(rows) if distributed() else rows


def pad_rows(rows: Tensor, count: int) -> Tensor:
    """``rows`` [N,...] with zero (False) rows appended up to ``count``."""
    if len(rows) >= count:
        return rows
    return torch.cat((rows, rows.new_zeros(count - len(rows), *rows.shape[1:])))
