"""GeoLink: image and OSM encoders trained by reconstruction, contrast and spatial consistency.

In: a :class:`TileBatch`. Out: the loss and its parts. docs/papers/geolink.md#losses.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from schemas.bands import named
from schemas.config import at_least, build
from trainers.models.fusion import ObjectPatchFusion, places_of
from trainers.models.geolink_settings import (
    COUNT_RULES,
    EDGE_USES,
    KIND_WEIGHTS,
    NODE_NORMS,
    Choices,
    GeoLinkSettings,
    choices,
)
from trainers.models.losses import info_nce, masked_mean
from trainers.models.mae import MaeDecoder, PatchMask, gather_patches, mask_patches, patchify, reconstruction_loss
from trainers.models.nodes import (
    KINDS,
    DenseNodes,
    FrozenTags,
    LearnedTags,
    NodeInputs,
    choose_nodes,
    mask_nodes,
    most_masked,
    node_features,
)
from trainers.models.osm_encoder import HeteroGAT, HeteroGCN, NodeTransformer
from trainers.models.region import Aggregation
from trainers.models.scatter import segment_sizes, segment_sum, take
from trainers.models.vit import ViT, image_norm
from trainers.models.weights import restored
from trainers.stream.batch import TileBatch, View


@dataclass(frozen=True)
class GeoLinkLoss:
    """Weights of the losses; 0 switches one off, and what only it needs is not computed."""

    rec: float = 1.0  # reconstruction of masked patches
    cont: float = 0.01  # image against graph
    cst: float = 0.01  # tags of masked nodes
    gather: bool | None = None  # whether other ranks' samples are negatives; none: the variant's

    def __post_init__(self) -> None:
        at_least(self, "loss.", rec=0, cont=0, cst=0)


@dataclass
class ImageState:
    """What one pass of the image encoder gives."""

    token: Tensor  # [B,1,D] class token
    patches: Tensor  # [B,V,D] visible patches
    mask: PatchMask


@dataclass
class Hybrid:
    """What an image and its objects become together, without masks."""

    levels: list[Tensor]  # each [B,P,D] patch tokens after a block of the ViT, without a norm
    tokens: Tensor  # [B,1+P,D] class token and patches, normed
    patches: Tensor  # [B,P,fusion_dim] RS-OSM patch encodings
    objects: Tensor  # [B,K,fusion_dim] OSM-RS object encodings
    chosen: DenseNodes  # which nodes the objects are


def osm_encoder(settings: GeoLinkSettings, rules: Choices) -> nn.Module:
    """The encoder of nodes that the settings name."""
    s = settings
    common = (s.tag_width, s.osm_dim, EDGE_USES[rules.edges], NODE_NORMS[rules.node_norm])
    if s.osm_encoder == "transformer":
        return NodeTransformer(*common, s.vit.grid, s.osm_depth, s.osm_heads, s.osm_nodes)
    return (HeteroGAT if s.osm_encoder == "gat" else HeteroGCN)(*common)


def most_nodes(batch: TileBatch) -> int:
    """Objects of the sample that has most, at least 1; a GPU is waited for."""
    return max(1, int(torch.bincount(batch.node_sample[batch.node_valid], minlength=1).max()))


class GeoLink(nn.Module):
    """The model. ``forward`` gives ``loss`` and the unweighted ``rec``, ``cont``, ``cst``, each a scalar.

    ``gather``: whether the ranks' samples are one batch; then the mean of a loss over the ranks is that batch's loss.
    ``unused``: whether weights that are trained are without a gradient.
    """

    notes: tuple[str, ...] = ()  # lines that a run shows

    def __init__(self, settings: GeoLinkSettings, variant: str = "ours", loss: GeoLinkLoss | None = None) -> None:
        super().__init__()
        s, v = settings, choices(settings, variant)
        self.settings, self.fidelity, self.rules, self.weights = s, variant, v, loss or GeoLinkLoss()
        self.gather = v.gather if self.weights.gather is None else self.weights.gather
        self.unused = 0 in (self.weights.rec, self.weights.cont, self.weights.cst)
        bands = named(s.bands)
        channels = len(bands)
        self.norm = image_norm(bands)
        self.vit = ViT(s.vit, channels, eps=v.image_eps, recompute=s.checkpoint)
        self.decoder = MaeDecoder(s.vit, channels, s.decoder_dim, s.decoder_depth, s.decoder_heads, s.checkpoint)
        self.tags = LearnedTags(s.tag_rows, s.tag_width) if s.tags == "learned" else FrozenTags()
        self.mask_token = nn.Parameter(torch.randn(KINDS, s.tag_width) * 0.02)
        self.osm = osm_encoder(s, v)
        self.aggregate = Aggregation(s.osm_dim, KIND_WEIGHTS[v.kind_weights])
        self.image_head = nn.Linear(s.vit.dim, s.contrast_dim)
        self.graph_head = nn.Linear(s.osm_dim, s.contrast_dim)
        self.fusion = ObjectPatchFusion(
            s.vit.dim, s.osm_dim, s.vit.grid, s.fusion_dim, s.fusion_heads, s.fusion_dropout, v
        )
        self.tag_head = nn.Linear(s.fusion_dim, s.tag_width)

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> GeoLink:
        """The model that plain values of the settings ``arch`` and ``fidelity`` describe; its weights are new."""
        return cls(build(GeoLinkSettings, config["arch"]), config["fidelity"])

    @classmethod
    def trained(cls, checkpoint: Mapping[str, Any], name: str) -> GeoLink:
        """The model of a checkpoint called ``name``, ready for inference.

        Raises:
            DatasetError: it is not one of GeoLink.
        """
        return restored(cls, "geolink", checkpoint, name)

    @staticmethod
    def view(settings: GeoLinkSettings, fidelity: str = "ours") -> View:
        """What the stream has to read."""
        anchors = choices(settings, fidelity).anchors
        bands = named(settings.bands)
        return View(settings.vit.image_size, bands, ("objects", "relations"), settings.tag_width, anchors)

    def encode_image(self, batch: TileBatch) -> ImageState:
        """Visible patches of the masked images."""
        s = self.settings
        mask = mask_patches(batch.seed, s.vit.grid, s.image_mask, s.mask_block)
        seen = self.norm.patches(gather_patches(patchify(batch.rs, s.vit.patch), mask.keep))
        tokens = self.vit.encode(self.vit.embed_patches(seen, mask.keep))
        token, patches = tokens.split((1, tokens.shape[1] - 1), 1)
        return ImageState(token, patches, mask)

    def encode_nodes(self, batch: TileBatch, masked: Tensor, capacity: int | None = None) -> Tensor:
        """Node encodings f32[N,D] with the tags of ``masked`` bool[N] hidden; ``capacity`` as in NodeInputs."""
        return self.osm(NodeInputs(batch, self.tags(batch), self.mask_token, masked, capacity))

    def forward(self, batch: TileBatch) -> dict[str, Tensor]:
        w = self.weights
        valid = batch.valid & batch.has_rs
        image = self.encode_image(batch)
        parts: dict[str, Tensor] = {}
        if w.rec:
            parts["rec"] = self.reconstruction(image, batch, valid)
        if w.cont or w.cst:
            parts |= self.graph_losses(image, batch, valid)
        total = sum((getattr(w, name) * value for name, value in parts.items()), batch.gsd.new_zeros(()))
        return {"loss": total, **parts}

    def reconstruction(self, image: ImageState, batch: TileBatch, valid: Tensor) -> Tensor:
        """L_rec: the pixels of hidden patches."""
        predicted = self.decoder(image.token, image.patches, image.mask)
        hidden = gather_patches(patchify(batch.rs, self.settings.vit.patch), image.mask.hidden)
        data = None
        if batch.rs_valid.shape[1]:
            planes = (batch.rs_valid == 255)[:, None].expand(-1, batch.rs.shape[1], -1, -1)
            data = gather_patches(patchify(planes.contiguous(), self.settings.vit.patch), image.mask.hidden)
        return reconstruction_loss(predicted, self.norm.patches(hidden), valid, self.gather, data)

    def graph_losses(self, image: ImageState, batch: TileBatch, valid: Tensor) -> dict[str, Tensor]:
        """``cont`` and ``cst``, those that have a weight: all that the objects add to a masked autoencoder."""
        masked = mask_nodes(batch, self.settings.node_mask, COUNT_RULES[self.rules.mask_count])
        nodes = self.encode_nodes(batch, masked)
        parts = {}
        if self.weights.cont:
            parts["cont"] = self.contrast(image, nodes, batch, valid)
        if self.weights.cst:
            parts["cst"] = self.consistency(image, nodes, masked, batch, valid)
        return parts

    def contrast(self, image: ImageState, nodes: Tensor, batch: TileBatch, valid: Tensor) -> Tensor:
        """L_cont: image against region, among samples that have both."""
        region, kinds = self.aggregate(nodes, batch)
        both = valid & (kinds > 0).any(1)
        seen = self.image_head(image.patches.mean(1))
        return info_nce(self.graph_head(region), seen, both, self.settings.temperature, gather=self.gather)

    def consistency(self, image: ImageState, nodes: Tensor, masked: Tensor, batch: TileBatch, valid: Tensor) -> Tensor:
        """L_cst: the tag features of masked nodes from their neighbours and the visible patches.

        The targets are those of the embedding table, whatever the encoder is given: learned ones would collapse.
        """
        dense = choose_nodes(batch, masked, self.rules.fused_nodes, most_masked(batch, self.settings.node_mask))
        _, objects = self.fusion(image.patches, image.mask.keep, nodes, batch, dense)
        error = (self.tag_head(objects).float() - take(node_features(batch), dense.row_node)).square().mean(-1)
        sample, samples = dense.row_sample, len(valid)
        counted = take(torch.cat((valid, valid.new_zeros(1))), sample)  # a row without a node has the sample B
        # Where ranks share their samples they are one batch here too: a mean over all of its nodes.
        if self.rules.cst_mean == "node":
            return masked_mean(error, counted, self.gather)
        total = segment_sum(torch.where(counted, error, torch.zeros_like(error)), sample, samples + 1)[:-1]
        size = segment_sizes(sample, counted, samples + 1)[:-1]
        return masked_mean(total / size.clamp_min(1), size > 0, self.gather)

    def embed_tiles(self, batch: TileBatch) -> Tensor:
        """Embeddings f32[B,D] of whole images: the mean of their patch tokens."""
        return self.vit(self.norm(batch.rs))[:, 1:].float().mean(1)

    def embed_objects(self, batch: TileBatch) -> tuple[Tensor, Tensor]:
        """Embeddings f32[B,osm_dim] of the regions that all objects of a tile make, and bool[B] which have any."""
        capacity = most_nodes(batch) if self.settings.osm_encoder == "transformer" else None
        nodes = self.encode_nodes(batch, torch.zeros_like(batch.node_valid), capacity)
        region, kinds = self.aggregate(nodes, batch)
        return region, (kinds > 0).any(1)

    @torch.no_grad()
    def trivial_consistency(self, batch: TileBatch) -> dict[str, Tensor]:
        """What L_cst would be for the batch's masked nodes if 0, or if their mean, were predicted for each.

        The features point much the same way (docs/papers/geolink.md#tags): the loss means little without these.
        """
        masked = mask_nodes(batch, self.settings.node_mask, COUNT_RULES[self.rules.mask_count])
        counted = masked & take(torch.cat((batch.valid & batch.has_rs, batch.valid.new_zeros(1))), batch.node_sample)
        features = node_features(batch)
        mean = torch.where(counted[:, None], features, 0.0).sum(0) / counted.sum().clamp_min(1)
        return {
            "zero": masked_mean(features.square().mean(1), counted),
            "mean": masked_mean((features - mean).square().mean(1), counted),
        }

    @torch.no_grad()
    def hybrid(self, batch: TileBatch, nodes: int | None = None, blocks: tuple[int, ...] = ()) -> Hybrid:
        """Encodings of whole images and all their objects; without random draws where ``nodes`` is None.

        Args:
            batch: samples; a slot without an image or without objects gives what its other half says.
            nodes: most objects a sample, beyond which the slot's seed chooses; None: all.
            blocks: numbers from 0 of the ViT's blocks whose output is wanted; the paper's are 7, 11 and 15 of 24.
        """
        levels, tokens = self.vit.levels(self.norm(batch.rs), blocks)
        nodes = most_nodes(batch) if nodes is None else nodes
        encoded = self.encode_nodes(batch, torch.zeros_like(batch.node_valid), nodes)
        dense = choose_nodes(batch, batch.node_valid, nodes)
        patch = torch.arange(self.settings.vit.grid**2, device=tokens.device).expand(len(tokens), -1)
        patches, objects = self.fusion(tokens[:, 1:], patch, encoded, batch, dense)
        return Hybrid(levels, tokens, patches, places_of(dense).spread(objects), dense)
