"""GeoLink: image and OSM encoders trained by reconstruction, contrast and spatial consistency.

In: a :class:`TileBatch`. Out: the loss and its parts. specs/geolink.md sections 3 and 4.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from schemas.errors import ConfigError
from trainers.models.fusion import ObjectPatchFusion, choose_nodes
from trainers.models.losses import info_nce, masked_mean
from trainers.models.mae import MaeDecoder, PatchMask, gather_patches, mask_patches, reconstruction_loss
from trainers.models.osm_encoder import (
    KINDS,
    Aggregation,
    CountRule,
    EdgeUse,
    GraphNorm,
    HeteroGAT,
    KindWeights,
    NodeNorm,
    at_least_one,
    mask_nodes,
    node_features,
    share_count,
    softmax_over_present,
    sum_of_present,
)  # fmt: skip
from trainers.models.vit import ViT, ViTSettings, image_norm
from trainers.stream.batch import TileBatch, View


@dataclass(frozen=True)
class GeoLinkSettings:
    """Size of the model."""

    vit: ViTSettings = field(default_factory=ViTSettings)
    bands: tuple[str, ...] = ("R", "G", "B")  # image bands in channel order
    decoder_dim: int = 512  # width of the pixel decoder
    decoder_depth: int = 2  # its blocks
    decoder_heads: int = 16  # its attention heads
    tag_width: int = 512  # features a tag
    osm_dim: int = 128  # width of node and region encodings
    fusion_dim: int = 256  # width of the object-patch fusion
    fusion_heads: int = 16  # its attention heads
    fusion_dropout: float = 0.1  # of its attention weights
    contrast_dim: int = 64  # width of the space in which image and graph are compared
    image_mask: float = 0.75  # share of patches that the encoder does not see
    node_mask: float = 0.2  # share of nodes of each kind whose tags are hidden
    temperature: float = 0.2  # divides the similarities

    def __post_init__(self) -> None:
        if not 0 < self.image_mask < 1 or not 0 <= self.node_mask < 1:
            raise ConfigError("arch.image_mask must lie in (0, 1) and arch.node_mask in [0, 1)")
        if self.fusion_dim % self.fusion_heads or self.decoder_dim % self.decoder_heads:
            raise ConfigError("arch.fusion_dim and arch.decoder_dim must be divisible by their heads")


@dataclass(frozen=True)
class GeoLinkLoss:
    """Weights of the losses; 0 switches one off, and what only it needs is not computed."""

    rec: float = 1.0  # reconstruction of masked patches
    cont: float = 0.01  # image against graph
    cst: float = 0.01  # tags of masked nodes
    gather: bool = True  # whether other ranks' samples are negatives


@dataclass(frozen=True)
class GeoLinkVariant:
    """Choices on which paper, release and sense differ (specs/geolink.md section 6.2)."""

    edges: EdgeUse
    norm: Callable[[int], nn.Module]
    kind_weights: KindWeights
    count: CountRule
    patch_centre: float  # 0.5: a patch is embedded at its centre
    residual: bool  # of the last layer of the fusion
    fused_nodes: int  # most masked nodes a sample in the fusion
    per_sample: bool  # whether L_cst averages within a sample first


VARIANTS: Mapping[str, GeoLinkVariant] = {
    "ours": GeoLinkVariant(EdgeUse(True, True), NodeNorm, softmax_over_present, share_count, 0.5, True, 32, False),
    "paper": GeoLinkVariant(EdgeUse(True, False), NodeNorm, softmax_over_present, share_count, 0.0, False, 10, True),
    "released": GeoLinkVariant(EdgeUse(False, False), GraphNorm, sum_of_present, at_least_one, 0.0, False, 10, False),
}


@dataclass
class ImageState:
    """What one pass of the image encoder gives."""

    pixels: Tensor  # f32 [B,C,S,S] normalised
    mask: PatchMask
    tokens: Tensor  # [B,1+V,D] class token and visible patches


class GeoLink(nn.Module):
    """The model. ``forward`` gives ``loss`` and the unweighted ``rec``, ``cont``, ``cst``, each a scalar."""

    def __init__(self, settings: GeoLinkSettings, variant: str = "ours", loss: GeoLinkLoss | None = None) -> None:
        super().__init__()
        s, v = settings, VARIANTS[variant]
        self.settings, self.variant, self.weights = s, v, loss or GeoLinkLoss()
        channels = len(s.bands)
        self.norm = image_norm(channels)
        self.vit = ViT(s.vit, channels)
        self.decoder = MaeDecoder(s.vit, channels, s.decoder_dim, s.decoder_depth, s.decoder_heads)
        self.mask_token = nn.Parameter(torch.randn(KINDS, s.tag_width) * 0.02)
        self.gat = HeteroGAT(s.tag_width, s.osm_dim, v.edges, v.norm)
        self.aggregate = Aggregation(s.osm_dim, v.kind_weights)
        self.image_head = nn.Linear(s.vit.dim, s.contrast_dim)
        self.graph_head = nn.Linear(s.osm_dim, s.contrast_dim)
        self.fusion = ObjectPatchFusion(
            s.vit.dim, s.osm_dim, s.vit.grid, s.fusion_dim, s.fusion_heads, s.fusion_dropout, v.patch_centre, v.residual
        )
        self.tag_head = nn.Linear(s.fusion_dim, s.tag_width)

    @staticmethod
    def view(settings: GeoLinkSettings) -> View:
        """What the stream has to read."""
        return View(settings.vit.image_size, settings.bands, osm=True, tag_width=settings.tag_width)

    def encode_image(self, batch: TileBatch) -> ImageState:
        """Visible patches of the masked images."""
        pixels = self.norm(batch.rs)
        mask = mask_patches(batch.seed, self.settings.vit.grid**2, self.settings.image_mask)
        return ImageState(pixels, mask, self.vit.encode(gather_patches(self.vit.embed(pixels), mask.keep)))

    def encode_nodes(self, batch: TileBatch, masked: Tensor) -> tuple[Tensor, Tensor]:
        """Node encodings f32[N,D] with the tags of ``masked`` bool[N] hidden, and the true tag features f32[N,F]."""
        features = node_features(batch)
        seen = torch.where(masked[:, None], self.mask_token[batch.node_kind], features)
        return self.gat(seen, batch), features

    def forward(self, batch: TileBatch) -> dict[str, Tensor]:
        w = self.weights
        valid = batch.valid & batch.has_rs
        image = self.encode_image(batch)
        parts: dict[str, Tensor] = {}
        if w.rec:
            predicted = self.decoder(image.tokens, image.mask.restore)
            parts["rec"] = reconstruction_loss(predicted, image.pixels, image.mask, valid, self.settings.vit.patch)
        if w.cont or w.cst:
            masked = mask_nodes(batch, self.settings.node_mask, self.variant.count)
            nodes, features = self.encode_nodes(batch, masked)
            if w.cont:
                parts["cont"] = self._contrast(image, nodes, batch, valid)
            if w.cst:
                parts["cst"] = self._consistency(image, nodes, features, masked, batch, valid)
        total = sum((getattr(w, name) * value for name, value in parts.items()), batch.gsd.new_zeros(()))
        return {"loss": total, **parts}

    def _contrast(self, image: ImageState, nodes: Tensor, batch: TileBatch, valid: Tensor) -> Tensor:
        region, kinds = self.aggregate(nodes, batch)
        both = valid & (kinds > 0).any(1)
        seen = self.image_head(image.tokens[:, 1:].mean(1))
        return info_nce(self.graph_head(region), seen, both, self.settings.temperature, gather=self.weights.gather)

    def _consistency(
        self, image: ImageState, nodes: Tensor, features: Tensor, masked: Tensor, batch: TileBatch, valid: Tensor
    ) -> Tensor:
        dense = choose_nodes(batch, masked, self.variant.fused_nodes)
        _, objects = self.fusion(image.tokens[:, 1:], image.mask.keep, nodes, batch, dense)
        error = (self.tag_head(objects).float() - features[dense.node]).square().mean(-1)
        counted = dense.valid & valid[:, None]
        if not self.variant.per_sample:
            return masked_mean(error, counted)
        some = counted.any(1)
        mean = torch.where(counted, error, torch.zeros_like(error)).sum(1) / counted.sum(1).clamp_min(1)
        return masked_mean(mean, some)

    @torch.no_grad()
    def hybrid(self, batch: TileBatch) -> Tensor:
        """Hybrid RS-OSM patch encodings f32[B,P,fusion_dim] of whole images and all nodes (up to 256 a sample)."""
        tokens = self.vit(self.norm(batch.rs))
        nodes, _ = self.encode_nodes(batch, torch.zeros_like(batch.node_valid))
        dense = choose_nodes(batch, batch.node_valid, 256)
        patch = torch.arange(self.settings.vit.grid**2, device=tokens.device).expand(len(tokens), -1)
        patches, _ = self.fusion(tokens[:, 1:], patch, nodes, batch, dense)
        return patches
