"""GeoLink composed as released, from docs/papers/geolink.md#losses: the peer of the numerical check and the race.

Graph attention by torch_geometric's HeteroConv of nine GATConv, one Python loop over the graphs for node masks and one
for padding, positions through NumPy, attention by torch's own modules. Nothing here is shared with trainers.models.
Two corrections without which it would not run: buffers have the dtype of what is written into them (the release runs
under bf16 autocast alone), and the random numbers are given, so that both sides can draw the same masks.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch_geometric.nn import GATConv, HeteroConv, LayerNorm, Set2Set

from schemas.relations import INVERSE
from trainers.stream.batch import TileBatch

TYPES = ("point", "line", "polygon")  # in the order of schemas.features.Kind


@dataclass(frozen=True)
class Sizes:
    """Widths and shares; the defaults are the release's with ViT-L."""

    image_size: int = 224
    patch: int = 16
    dim: int = 1024
    depth: int = 24
    heads: int = 16
    decoder_dim: int = 512
    decoder_depth: int = 2
    decoder_heads: int = 16
    tag_width: int = 512
    osm_dim: int = 128
    fusion_dim: int = 256
    fusion_heads: int = 16
    dropout: float = 0.1
    contrast_dim: int = 64
    image_mask: float = 0.75
    node_mask: float = 0.2
    cap: int = 10

    @property
    def grid(self) -> int:
        return self.image_size // self.patch


@dataclass
class Graphs:
    """A batch of graphs as PyG collates them."""

    count: int
    x: dict[str, Tensor]  # f32 [n,F] tag features
    anchors: dict[str, Tensor]  # f32 [n,4,2]
    graph: dict[str, Tensor]  # i64 [n]
    edges: dict[tuple[str, str, str], Tensor]  # i64 [2,e]
    noise: dict[str, Tensor]  # f32 [n,2] draws of the mask and of the choice beyond the cap


def graphs(batch: TileBatch, features: Tensor, noise: Tensor) -> Graphs:
    """What the release's loader would collate for ``batch``, given tag features f32[N,F] and draws f32[N,2]."""
    kind, valid = batch.node_kind, batch.node_valid
    rows = {name: ((kind == k) & valid).nonzero().flatten() for k, name in enumerate(TYPES)}
    number = torch.zeros(len(kind), dtype=torch.long)
    for own in rows.values():
        number[own] = torch.arange(len(own))
    live = batch.edges[:, batch.edge_valid]
    loops = valid.nonzero().flatten().expand(2, -1)
    pairs = torch.cat((live, live.flip(0), loops), 1)
    edges = {}
    for s, source in enumerate(TYPES):
        for t, target in enumerate(TYPES):
            of_type = pairs[:, (kind[pairs[0]] == s) & (kind[pairs[1]] == t)]
            edges[source, "to", target] = number[of_type]
    pick = lambda value: {name: value[own] for name, own in rows.items()}  # noqa: E731
    return Graphs(len(batch), pick(features), pick(batch.anchors), pick(batch.node_sample), edges, pick(noise))


def relations_between(batch: TileBatch) -> Tensor:
    """Relation codes i64 in the order in which :func:`graphs` lists its edges, loops excluded."""
    codes = batch.edge_relation[batch.edge_valid]
    return torch.cat((codes, torch.from_numpy(INVERSE.astype("int64"))[codes]))


def embed_positions(xy: np.ndarray, dim: int) -> Tensor:
    """Section 2.9: the first half of the dimensions encodes x, the second y; each half [sin | cos]."""
    quarter = dim // 4
    omega = 1.0 / 10000 ** (np.arange(quarter) / quarter)
    halves = []
    for axis in range(2):
        angle = np.einsum("n,d->nd", xy[:, axis].astype(np.float64), omega)
        halves.append(np.concatenate((np.sin(angle), np.cos(angle)), 1))
    return torch.from_numpy(np.concatenate(halves, 1).astype(np.float32))


def grid_embedding(grid: int, dim: int, class_token: bool) -> Tensor:
    """Positions at integer grid indices, row by row, a zero row first for the class token."""
    xy = np.array([(x, y) for y in range(grid) for x in range(grid)], np.float32)
    rows = embed_positions(xy, dim)
    return torch.cat((torch.zeros(1, dim), rows)) if class_token else rows


class Fusion(nn.Module):
    """Section 3.6: one two-way block."""

    def __init__(self, s: Sizes) -> None:
        super().__init__()
        dim = s.fusion_dim
        make = lambda: nn.MultiheadAttention(dim, s.fusion_heads, s.dropout, batch_first=True)  # noqa: E731
        self.node_to_node, self.patch_to_node, self.node_to_patch = make(), make(), make()
        self.norms = nn.ModuleList(nn.LayerNorm(dim) for _ in range(4))
        self.last = nn.Linear(dim, dim)

    def forward(self, p: Tensor, where_p: Tensor, o: Tensor, where_o: Tensor, padding: Tensor) -> tuple[Tensor, Tensor]:
        q = o + where_o
        o = self.norms[0](o + self.node_to_node(q, q, o, key_padding_mask=padding)[0])
        p = self.norms[1](p + self.patch_to_node(p + where_p, o + where_o, o, key_padding_mask=padding)[0])
        o = self.norms[2](o + self.node_to_patch(o + where_o, p + where_p, p)[0])
        return p, self.norms[3](self.last(o))


def encoder(dim: int, heads: int, depth: int) -> nn.ModuleList:
    """Pre-norm transformer blocks with timm's epsilon."""
    return nn.ModuleList(
        nn.TransformerEncoderLayer(dim, heads, 4 * dim, 0.0, F.gelu, 1e-6, batch_first=True, norm_first=True)
        for _ in range(depth)
    )


class Reference(nn.Module):
    """The model of sections 3 and 4; ``forward`` gives the three losses."""

    def __init__(self, s: Sizes, with_vit: bool = True) -> None:
        super().__init__()
        self.sizes = s
        patches = s.grid**2
        if with_vit:
            self.patch_embed = nn.Conv2d(3, s.dim, s.patch, s.patch)
            self.cls_token = nn.Parameter(torch.randn(1, 1, s.dim) * 0.02)
            self.img_pos_embed = nn.Parameter(grid_embedding(s.grid, s.dim, True)[None], requires_grad=False)
            self.blocks = encoder(s.dim, s.heads, s.depth)
            self.img_norm = nn.LayerNorm(s.dim)
            self.decoder_embed = nn.Linear(s.dim, s.decoder_dim)
            self.decoder_mask = nn.Parameter(torch.randn(1, 1, s.decoder_dim) * 0.02)
            decoder_position = grid_embedding(s.grid, s.decoder_dim, True)[None]
            self.decoder_pos_embed = nn.Parameter(decoder_position, requires_grad=False)
            self.decoder_blocks = encoder(s.decoder_dim, s.decoder_heads, s.decoder_depth)
            self.decoder_norm = nn.LayerNorm(s.decoder_dim, eps=1e-6)
            self.decoder_head = nn.Linear(s.decoder_dim, s.patch**2 * 3)
        self.mask_token = nn.ParameterDict({t: nn.Parameter(torch.randn(1, s.tag_width) * 0.02) for t in TYPES})
        gat = {(a, "to", b): GATConv(s.tag_width, s.osm_dim, add_self_loops=False) for a in TYPES for b in TYPES}
        self.gat = HeteroConv(gat, aggr="mean")
        self.osm_norm = nn.ModuleDict({t: LayerNorm(s.osm_dim) for t in TYPES})
        self.set2set = nn.ModuleDict({t: Set2Set(s.osm_dim, 5) for t in TYPES})
        self.osm_project = nn.ModuleDict({t: nn.Linear(2 * s.osm_dim, s.osm_dim) for t in TYPES})
        self.type_attention = nn.Linear(s.osm_dim, 1)
        self.image_head = nn.Linear(s.dim, s.contrast_dim)
        self.graph_head = nn.Linear(s.osm_dim, s.contrast_dim)
        self.fuse_patch = nn.Linear(s.dim, s.fusion_dim)
        self.fuse_node = nn.ModuleDict({t: nn.Linear(s.osm_dim, s.fusion_dim) for t in TYPES})
        fusion_position = grid_embedding(s.grid, s.fusion_dim, True)[None]
        self.fusion_pos_embed = nn.Parameter(fusion_position, requires_grad=False)
        self.fusion = Fusion(s)
        self.tag_head = nn.Linear(s.fusion_dim, s.tag_width)
        self.patches = patches

    # ---- image

    def draw_patches(self, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Kept patches i64[B,V] and ids_restore i64[B,P] from noise f32[B,P]."""
        shuffle = noise.argsort(dim=1, stable=True)
        return shuffle[:, : int(self.patches * (1 - self.sizes.image_mask))], shuffle.argsort(1)

    def encode_image(self, image: Tensor, keep: Tensor) -> Tensor:
        """Class token and visible patches [B,1+V,D]."""
        x = self.patch_embed(image).flatten(2).transpose(1, 2) + self.img_pos_embed[:, 1:]
        x = torch.gather(x, 1, keep[..., None].expand(-1, -1, x.shape[-1]))
        x = torch.cat(((self.cls_token + self.img_pos_embed[:, :1]).expand(len(x), -1, -1), x), 1)
        for block in self.blocks:
            x = block(x)
        return self.img_norm(x)

    def reconstruction(self, tokens: Tensor, image: Tensor, restore: Tensor) -> Tensor:
        """L_rec of section 4.1."""
        s, x = self.sizes, self.decoder_embed(tokens)
        fill = self.decoder_mask.expand(len(x), restore.shape[1] + 1 - x.shape[1], -1)
        patches = torch.cat((x[:, 1:], fill), 1)
        patches = torch.gather(patches, 1, restore[..., None].expand(-1, -1, x.shape[-1]))
        x = torch.cat((x[:, :1], patches), 1) + self.decoder_pos_embed
        for block in self.decoder_blocks:
            x = block(x)
        predicted = self.decoder_head(self.decoder_norm(x))[:, 1:]
        b, g, p = len(image), s.grid, s.patch
        target = torch.einsum("bchpwq->bhwpqc", image.reshape(b, 3, g, p, g, p)).reshape(b, g * g, -1)
        target = (target - target.mean(-1, keepdim=True)) / (target.var(-1, keepdim=True) + 1e-6) ** 0.5
        masked = (restore >= tokens.shape[1] - 1).float()
        return (((predicted - target) ** 2).mean(-1) * masked).sum() / masked.sum()

    # ---- graph

    def mask_nodes(self, g: Graphs) -> dict[str, Tensor]:
        """bool[n] a type: a loop over graphs, at least one node of each type."""
        result = {}
        for t in TYPES:
            masked = torch.zeros(len(g.graph[t]), dtype=torch.bool, device=g.graph[t].device)
            for i in range(g.count):
                own = (g.graph[t] == i).nonzero().flatten()
                if len(own):
                    k = max(1, round(self.sizes.node_mask * len(own)))
                    masked[own[g.noise[t][own, 0].argsort()[:k]]] = True
            result[t] = masked
        return result

    def encode_nodes(self, g: Graphs, masked: dict[str, Tensor]) -> dict[str, Tensor]:
        """f32[n,osm_dim] a type."""
        seen = {}
        for t in TYPES:
            seen[t] = g.x[t].clone()
            seen[t][masked[t]] = self.mask_token[t]
        encoded = self.gat(seen, g.edges)
        return {t: self.osm_norm[t](F.relu(encoded[t])) for t in TYPES}

    def region(self, g: Graphs, nodes: dict[str, Tensor]) -> Tensor:
        """f32[B,osm_dim]: the softmax runs over an axis of length 1, as released."""
        stacked = self.type_attention.weight.new_zeros(g.count, len(TYPES), self.sizes.osm_dim)
        for k, t in enumerate(TYPES):
            if len(nodes[t]):
                read = self.osm_project[t](self.set2set[t](nodes[t], g.graph[t], dim_size=g.count))
                present = g.graph[t].unique()
                stacked[present, k] = read[present].to(stacked.dtype)
        weight = torch.softmax(self.type_attention(stacked), -1)
        return (stacked * weight).sum(1)

    def contrast(self, tokens: Tensor, region: Tensor) -> Tensor:
        """L_cont of section 4.1 among the samples of the batch."""
        a = F.normalize(self.image_head(tokens[:, 1:].mean(1)), dim=-1)
        b = F.normalize(self.graph_head(region), dim=-1)
        logits, target = a @ b.T / 0.2, torch.arange(len(a), device=a.device)
        return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2

    def consistency(
        self, tokens: Tensor, keep: Tensor, g: Graphs, nodes: dict[str, Tensor], masked: dict[str, Tensor]
    ) -> Tensor:
        """L_cst of section 4.1: masked nodes, padded graph by graph."""
        s = self.sizes
        features = torch.cat([self.fuse_node[t](nodes[t][masked[t]]) for t in TYPES])
        target = torch.cat([g.x[t][masked[t]] for t in TYPES])
        graph = torch.cat([g.graph[t][masked[t]] for t in TYPES])
        noise = torch.cat([g.noise[t][masked[t], 1] for t in TYPES])
        places = []
        for t in TYPES:
            points = g.anchors[t][masked[t]].cpu().numpy()
            used = {"point": 1, "line": 3, "polygon": 4}[t]
            rows = [embed_positions(points[:, a] * s.grid, s.fusion_dim) for a in range(used)]
            places.append(torch.stack(rows, 1).mean(1))
        position = torch.cat(places).to(features.device)
        rows = []
        for i in range(g.count):
            own = (graph == i).nonzero().flatten()
            if len(own) > s.cap:
                own = own[noise[own].argsort()[: s.cap]]
            short = (0, 0, 0, s.cap - len(own))
            empty = torch.arange(s.cap, device=own.device) >= len(own)
            rows.append((F.pad(features[own], short), F.pad(position[own], short), F.pad(target[own], short), empty))
        o, where_o, wanted, padding = (torch.stack(parts) for parts in zip(*rows, strict=True))
        where_p = torch.gather(
            self.fusion_pos_embed[:, 1:].expand(g.count, -1, -1), 1, keep[..., None].expand(-1, -1, s.fusion_dim)
        )
        _, objects = self.fusion(self.fuse_patch(tokens[:, 1:]), where_p, o, where_o, padding)
        predicted = self.tag_head(objects[~padding])
        return F.mse_loss(predicted, wanted[~padding])

    def forward(self, image: Tensor, patch_noise: Tensor, g: Graphs) -> tuple[Tensor, Tensor, Tensor]:
        keep, restore = self.draw_patches(patch_noise)
        tokens = self.encode_image(image, keep)
        return self.reconstruction(tokens, image, restore), *self.graph_losses(tokens, keep, g)

    def graph_losses(self, tokens: Tensor, keep: Tensor, g: Graphs) -> tuple[Tensor, Tensor]:
        """L_cont and L_cst given the visible tokens: everything but the ViT and its pixel decoder."""
        masked = self.mask_nodes(g)
        nodes = self.encode_nodes(g, masked)
        return self.contrast(tokens, self.region(g, nodes)), self.consistency(tokens, keep, g, nodes, masked)
