"""Object-patch fusion: nodes and patches of one sample attend to each other (specs/geolink.md section 3.6)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainers.models.nodes import KINDS, DenseNodes, anchor_positions, by_kind
from trainers.models.scatter import take
from trainers.models.vit import grid_positions, init_linear, sincos
from trainers.stream.batch import TileBatch

LastLayer = Literal["residual", "plain", "none"]
Positions = Literal["queries_keys", "keys_values", "none"]
Values = Literal["updated", "original"]


@dataclass(frozen=True)
class FusionRules:
    """Choices on which paper, release and sense differ."""

    patch_centre: float  # 0.5 embeds a patch at its centre; 0 at its corner, half a patch off
    last: LastLayer  # layer on the nodes at the end: added to its input, in its place, or none
    positions: Positions  # which sides of an attention positions are added to
    values: Values  # what nodes read at the end: patches that have seen the nodes, or as they came


class MultiHead(nn.Module):
    """Attention of q [B,N,D] over k, v [B,M,D]; ``mask`` bool[B,M] says which keys exist. A row without keys is 0."""

    def __init__(self, dim: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.q, self.v, self.out = (nn.Linear(dim, dim) for _ in range(3))
        self.k = nn.Linear(dim, dim, bias=False)  # a softmax does not feel a bias of the keys

    def forward(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
        b, n, d = q.shape
        split = lambda t: t.view(b, -1, self.heads, d // self.heads).transpose(1, 2)  # noqa: E731
        allowed = None
        if mask is not None:
            some = mask.any(1, keepdim=True)
            allowed = (mask | ~some)[:, None, None]  # softmax over nothing is NaN: attend anywhere, then blank
        drop = self.dropout if self.training else 0.0
        x = F.scaled_dot_product_attention(split(self.q(q)), split(self.k(k)), split(self.v(v)), allowed, drop)
        x = self.out(x.transpose(1, 2).reshape(b, n, d))
        return x if mask is None else torch.where(some[..., None], x, torch.zeros_like(x))


class ObjectPatchFusion(nn.Module):
    """One two-way block: nodes to nodes, patches to nodes, nodes to patches, then a layer on the nodes.

    Works on any encoder of patches: it takes their encodings and their numbers on the grid.

    Args:
        image_dim, node_dim: widths of the encoders.
        grid: patches a side.
        dim, heads, dropout: of the block.
        rules: the contested choices.
    """

    patch_position: Tensor

    def __init__(
        self, image_dim: int, node_dim: int, grid: int, dim: int, heads: int, dropout: float, rules: FusionRules
    ) -> None:
        super().__init__()
        self.grid, self.dim, self.rules = grid, dim, rules
        self.embed_patch = nn.Linear(image_dim, dim)
        self.embed_node = nn.ModuleList(nn.Linear(node_dim, dim) for _ in range(KINDS))
        self.node_to_node, self.patch_to_node, self.node_to_patch = (MultiHead(dim, heads, dropout) for _ in range(3))
        self.norms = nn.ModuleList(nn.LayerNorm(dim) for _ in range(3 if rules.last == "none" else 4))
        if rules.last != "none":
            self.last = nn.Linear(dim, dim)
        position = sincos(grid_positions(grid, rules.patch_centre), dim)
        self.register_buffer("patch_position", position, persistent=False)
        self.apply(init_linear)

    def forward(
        self, patches: Tensor, patch: Tensor, nodes: Tensor, batch: TileBatch, dense: DenseNodes
    ) -> tuple[Tensor, Tensor]:
        """Patch encodings [B,V,Di] of patches i64[B,V], node encodings [N,Dn] to hybrid ones [B,V,D] and [B,K,D]."""
        where_patch = take(self.patch_position, patch)
        where_node = anchor_positions(take(batch.anchors, dense.node), self.grid, self.dim)
        o = self._embed_nodes(take(nodes, dense.node), take(batch.node_kind, dense.node))
        p = unread = self.embed_patch(patches)
        o = self.norms[0](o + self._attend(self.node_to_node, o, where_node, o, where_node, dense.valid))
        p = self.norms[1](p + self._attend(self.patch_to_node, p, where_patch, o, where_node, dense.valid))
        read = p if self.rules.values == "updated" else unread
        o = self.norms[2](o + self._attend(self.node_to_patch, o, where_node, p, where_patch, None, read))
        if self.rules.last == "none":
            return p, o
        last = self.last(o)
        return p, self.norms[3](o + last if self.rules.last == "residual" else last)

    def _embed_nodes(self, nodes: Tensor, kind: Tensor) -> Tensor:
        """[B,K,Dn] of ``kind`` i64[B,K] to [B,K,D], each by its kind's layer."""
        every = torch.stack([layer(nodes) for layer in self.embed_node], -2)
        return (every * by_kind(kind, every.dtype)[..., None]).sum(-2)

    def _attend(
        self, attention: nn.Module, query: Tensor, at: Tensor, key: Tensor, at_key: Tensor, mask: Tensor | None,
        value: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        """``query`` at ``at`` reads ``value`` (the keys themselves where None) from ``key`` at ``at_key``."""
        value = key if value is None else value
        where = self.rules.positions
        if where == "none":
            return attention(query, key, value, mask)
        if where == "keys_values":
            return attention(query, key + at_key, value + at_key, mask)
        return attention(query + at, key + at_key, value, mask)
