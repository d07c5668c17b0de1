"""Object-patch fusion: nodes and patches of one sample attend to each other (specs/geolink.md section 3.6)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainers.models.noise import uniform
from trainers.models.osm_encoder import KINDS, node_index
from trainers.models.scatter import rank_in_segment
from trainers.models.vit import grid_positions, init_linear, sincos
from trainers.stream.batch import TileBatch

#: Stream of random numbers for the choice of nodes where a sample has more than the capacity.
NODE_CHOICE = 104


@dataclass
class DenseNodes:
    """Chosen nodes of each sample at fixed capacity K."""

    node: Tensor  # i64 [B,K] node, the last (padding) node where there is none
    valid: Tensor  # bool [B,K]


def choose_nodes(batch: TileBatch, chosen: Tensor, capacity: int) -> DenseNodes:
    """Up to ``capacity`` of the nodes ``chosen`` bool[N] of each sample; beyond it a random subset by the seeds."""
    samples, nodes = len(batch), len(chosen)
    seed = torch.cat((batch.seed, batch.seed.new_zeros(1)))
    noise = uniform(seed[batch.node_sample], node_index(batch), NODE_CHOICE)
    # Nodes not chosen go to one more segment, so that ranks count chosen nodes only.
    segment = torch.where(chosen & batch.node_valid, batch.node_sample, samples)
    rank = rank_in_segment(noise, segment, samples + 1)
    kept = (segment < samples) & (rank < capacity)
    place = torch.where(kept, segment * capacity + rank, samples * capacity)
    last = torch.full((samples * capacity + 1,), nodes - 1, dtype=torch.long, device=place.device)
    node = last.scatter(0, place, torch.arange(nodes, device=place.device))[:-1].view(samples, capacity)
    filled = torch.zeros(samples * capacity + 1, dtype=torch.bool, device=place.device)
    return DenseNodes(node, filled.scatter(0, place, kept)[:-1].view(samples, capacity))


def anchor_positions(anchors: Tensor, grid: int, dim: int) -> Tensor:
    """Mean sin-cos embedding f32[N,dim] of each node's anchors f32[N,4,2]; unused (NaN) anchors are left out."""
    used = ~torch.isnan(anchors[..., 0])
    embedded = sincos(torch.nan_to_num(anchors) * grid, dim) * used[..., None]
    return embedded.sum(1) / used.sum(1).clamp_min(1)[:, None]


class MultiHead(nn.Module):
    """Attention of q [B,N,D] over k, v [B,M,D]; ``mask`` bool[B,M] says which keys exist. A row without keys is 0."""

    def __init__(self, dim: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.q, self.k, self.v, self.out = (nn.Linear(dim, dim) for _ in range(4))

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
    """One two-way block: nodes to nodes, patches to nodes, nodes to the updated patches, then a layer on the nodes.

    Args:
        image_dim, node_dim: widths of the encoders.
        grid: patches a side.
        dim, heads, dropout: of the block.
        patch_centre: 0.5 embeds a patch at its centre (ours); 0 at its corner (released: half a patch off).
        residual: whether the last layer is added to its input (ours) or replaces it (released).
    """

    patch_position: Tensor

    def __init__(
        self, image_dim: int, node_dim: int, grid: int, dim: int, heads: int, dropout: float,
        patch_centre: float, residual: bool,
    ) -> None:  # fmt: skip
        super().__init__()
        self.grid, self.dim, self.residual = grid, dim, residual
        self.embed_patch = nn.Linear(image_dim, dim)
        self.embed_node = nn.ModuleList(nn.Linear(node_dim, dim) for _ in range(KINDS))
        self.node_to_node, self.patch_to_node, self.node_to_patch = (MultiHead(dim, heads, dropout) for _ in range(3))
        self.norms = nn.ModuleList(nn.LayerNorm(dim) for _ in range(4))
        self.last = nn.Linear(dim, dim)
        self.register_buffer("patch_position", sincos(grid_positions(grid, patch_centre), dim), persistent=False)
        self.apply(init_linear)

    def forward(
        self, patches: Tensor, patch: Tensor, nodes: Tensor, batch: TileBatch, dense: DenseNodes
    ) -> tuple[Tensor, Tensor]:
        """Patch encodings [B,V,Di] of patches i64[B,V], node encodings [N,Dn] to hybrid ones [B,V,D] and [B,K,D]."""
        where_patch = self.patch_position[patch]
        where_node = anchor_positions(batch.anchors, self.grid, self.dim)[dense.node]
        kind = F.one_hot(batch.node_kind, KINDS).to(nodes.dtype)
        embedded = sum(layer(nodes) * kind[:, k : k + 1] for k, layer in enumerate(self.embed_node))
        o: Tensor = embedded[dense.node]  # a sum of three tensors
        p = self.embed_patch(patches)
        at = o + where_node
        o = self.norms[0](o + self.node_to_node(at, at, o, dense.valid))
        p = self.norms[1](p + self.patch_to_node(p + where_patch, o + where_node, o, dense.valid))
        o = self.norms[2](o + self.node_to_patch(o + where_node, p + where_patch, p))
        last = self.last(o)
        return p, self.norms[3](o + last if self.residual else last)
