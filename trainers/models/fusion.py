"""Object-patch fusion: nodes and patches of one sample attend to each other (docs/papers/geolink.md#fusion)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainers.models.geolink_settings import Choices
from trainers.models.nodes import KINDS, DenseNodes, anchor_positions
from trainers.models.scatter import take
from trainers.models.vit import grid_positions, init_linear, sincos
from trainers.stream.batch import TileBatch

_LINEAR = ("weight", "bias")


@dataclass(frozen=True)
class Places:
    """Where rows lie in a grid of samples and places. Layers work on rows, attention on the grid."""

    samples: int
    each: int  # places of a sample
    of_row: Tensor | None = None  # i64 [R] place of each row, samples * each where it has none; None: row i is place i

    def spread(self, rows: Tensor) -> Tensor:
        """Rows [R,D] to [samples,each,D], 0 where there is none."""
        if self.of_row is not None:
            empty = rows.new_zeros(self.samples * self.each + 1, rows.shape[1])
            rows = empty.index_copy(0, self.of_row, rows)[:-1]
        return rows.reshape(self.samples, self.each, -1)

    def collect(self, grid: Tensor) -> Tensor:
        """[samples,each,D] to rows [R,D]; one without a place gets what another has."""
        rows = grid.reshape(self.samples * self.each, -1)
        return rows if self.of_row is None else take(rows, self.of_row.clamp_max(len(rows) - 1))


def places_of(dense: DenseNodes) -> Places:
    """Where the packed rows of chosen nodes lie."""
    return Places(len(dense.node), dense.node.shape[1], dense.row_place)


class MultiHead(nn.Module):
    """Attention of rows q [R,D] over rows k, v [S,D] of the same sample; ``mask`` bool[samples,each] says which places
    of keys are filled. A row without keys is 0."""

    def __init__(self, dim: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.q, self.v, self.out = (nn.Linear(dim, dim) for _ in range(3))
        self.k = nn.Linear(dim, dim, bias=False)  # a softmax does not feel a bias of the keys

    def forward(
        self, q: Tensor, k: Tensor, v: Tensor, queries: Places, keys: Places, mask: Tensor | None = None
    ) -> Tensor:
        """Rows [R,D] at ``queries``."""
        width = q.shape[1] // self.heads
        split = lambda t: t.view(*t.shape[:2], self.heads, width).transpose(1, 2)  # noqa: E731
        allowed = None
        if mask is not None:
            some = mask.any(1, keepdim=True)
            allowed = (mask | ~some)[:, None, None]  # softmax over nothing is NaN: attend anywhere, then blank
        drop = self.dropout if self.training else 0.0
        x = F.scaled_dot_product_attention(
            split(queries.spread(self.q(q))), split(keys.spread(self.k(k))), split(keys.spread(self.v(v))), allowed,
            drop,
        )  # fmt: skip
        x = self.out(queries.collect(x.transpose(1, 2).flatten(2)))
        if mask is None:
            return x
        some = queries.collect(some[:, None].expand(-1, queries.each, 1))
        return torch.where(some, x, torch.zeros_like(x))


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
        self, image_dim: int, node_dim: int, grid: int, dim: int, heads: int, dropout: float, rules: Choices
    ) -> None:
        super().__init__()
        self.grid, self.dim, self.rules = grid, dim, rules
        self.embed_patch = nn.Linear(image_dim, dim)
        self.embed_node = nn.ModuleList(nn.Linear(node_dim, dim) for _ in range(KINDS))
        self.node_to_node, self.patch_to_node, self.node_to_patch = (MultiHead(dim, heads, dropout) for _ in range(3))
        self.norms = nn.ModuleList(nn.LayerNorm(dim) for _ in range(3 if rules.fusion_last == "none" else 4))
        if rules.fusion_last != "none":
            self.last = nn.Linear(dim, dim)
        position = sincos(grid_positions(grid, rules.patch_centre), dim)
        self.register_buffer("patch_position", position, persistent=False)
        self.apply(init_linear)

    def forward(
        self, patches: Tensor, patch: Tensor, nodes: Tensor, batch: TileBatch, dense: DenseNodes
    ) -> tuple[Tensor, Tensor]:
        """Patch encodings [B,V,Di] of patches i64[B,V], node encodings [N,Dn] to hybrid ones [B,V,D] and [R,D]."""
        here, there = Places(*patch.shape), places_of(dense)
        where_patch = take(self.patch_position, patch.flatten())
        where_node = anchor_positions(take(batch.anchors, dense.row_node), self.grid, self.dim)
        o = self._embed_nodes(take(nodes, dense.row_node), take(batch.node_kind, dense.row_node))
        p = unread = self.embed_patch(patches.flatten(0, 1))
        at_patches, at_nodes = (where_patch, here), (where_node, there)
        o = self.norms[0](o + self._attend(self.node_to_node, o, at_nodes, o, at_nodes, dense.valid))
        p = self.norms[1](p + self._attend(self.patch_to_node, p, at_patches, o, at_nodes, dense.valid))
        read = p if self.rules.fusion_values == "updated" else unread
        o = self.norms[2](o + self._attend(self.node_to_patch, o, at_nodes, p, at_patches, None, read))
        p = here.spread(p)
        if self.rules.fusion_last == "none":
            return p, o
        last = self.last(o)
        return p, self.norms[3](o + last if self.rules.fusion_last == "residual" else last)

    def _embed_nodes(self, nodes: Tensor, kind: Tensor) -> Tensor:
        """[R,Dn] of ``kind`` i64[R] to [R,D], each by its kind's layer."""
        weight, bias = (torch.cat([layer.get_parameter(name) for layer in self.embed_node]) for name in _LINEAR)
        every = F.linear(nodes, weight, bias).view(-1, self.dim)  # row * KINDS + kind
        return take(every, torch.arange(len(kind), device=kind.device) * KINDS + kind)

    def _attend(
        self, attention: nn.Module, query: Tensor, at: tuple[Tensor, Places], key: Tensor,
        at_key: tuple[Tensor, Places], mask: Tensor | None, value: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        """``query`` reads ``value`` (the keys themselves where None) from ``key``; ``at`` are positions and places."""
        value = key if value is None else value
        (position, queries), (key_position, keys) = at, at_key
        where = self.rules.fusion_positions
        if where == "queries_keys":
            query, key = query + position, key + key_position
        elif where == "keys_values":
            key, value = key + key_position, value + key_position
        return attention(query, key, value, queries, keys, mask)
