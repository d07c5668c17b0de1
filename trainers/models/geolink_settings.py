"""Settings of GeoLink: its sizes, its losses, and the choices on which paper, release and sense differ.

A variant sets every choice (docs/geolink.md has the table); a setting of ``arch`` other than ``auto`` overrides one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal

from torch import nn

from schemas.bands import RGB, Bands
from schemas.config import at_least
from schemas.errors import ConfigError
from trainers.models.nodes import CountRule, at_least_one, share_count
from trainers.models.osm_encoder import BatchNodeNorm, EdgeUse, NodeNorm
from trainers.models.region import KindWeights, softmax_over_present, sum_of_present
from trainers.models.vit import ViTSettings

LastLayer = Literal["residual", "plain", "none"]
Positions = Literal["queries_keys", "keys_values", "none"]
Values = Literal["updated", "original"]
Edges = Literal["none", "attention", "both"]
Norms = Literal["node", "batch"]
Weights = Literal["softmax", "sum"]
Counts = Literal["share", "at_least_one"]
Means = Literal["node", "sample"]
Anchors = Literal["ours", "paper", "released", "centroid"]

EDGE_USES: Mapping[str, EdgeUse] = {
    "none": EdgeUse(attention=False, message=False),
    "attention": EdgeUse(attention=True, message=False),
    "both": EdgeUse(attention=True, message=True),
}
NODE_NORMS: Mapping[str, Callable[[int], nn.Module]] = {"node": NodeNorm, "batch": BatchNodeNorm}
KIND_WEIGHTS: Mapping[str, KindWeights] = {"softmax": softmax_over_present, "sum": sum_of_present}
COUNT_RULES: Mapping[str, CountRule] = {"share": share_count, "at_least_one": at_least_one}


@dataclass(frozen=True)
class GeoLinkSettings:
    """Size and choices of the model."""

    vit: ViTSettings = field(default_factory=ViTSettings)
    bands: Bands = RGB  # image bands in channel order, by any name; all: those of the dataset
    decoder_dim: int = 512  # width of the pixel decoder
    decoder_depth: int = 2  # its blocks
    decoder_heads: int = 16  # its attention heads
    tags: Literal["table", "learned"] = "table"  # what nodes are made of: the dataset's tag vectors, or learned ones
    tag_rows: int = 32768  # vectors of learned tags; a tag is the sum of two
    tag_width: int = 512  # features a tag
    osm_encoder: Literal["gat", "gcn", "transformer"] = "gat"  # graph attention, graph convolution or a transformer
    osm_dim: int = 128  # width of node and region encodings
    osm_depth: int = 2  # blocks of the transformer
    osm_heads: int = 4  # its attention heads
    osm_nodes: int = 128  # most nodes of a sample that see each other in it
    fusion_dim: int = 256  # width of the object-patch fusion
    fusion_heads: int = 16  # its attention heads
    fusion_dropout: float = 0.1  # of its attention weights
    contrast_dim: int = 64  # width of the space in which image and graph are compared
    image_mask: float = 0.75  # share of patches that the encoder does not see
    mask_block: int = 1  # patches a side of the squares in which they are hidden
    node_mask: float = 0.2  # share of nodes of each kind whose tags are hidden
    temperature: float = 0.2  # divides the similarities
    checkpoint: bool = False  # recompute the blocks' activations in the backward pass: less memory, a third more work
    edges: Literal["auto", Edges] = "auto"  # where relations are felt; auto here: the variant's
    node_norm: Literal["auto", Norms] = "auto"  # mean and deviation of each node, or of a kind in the batch
    kind_weights: Literal["auto", Weights] = "auto"  # of points, lines and polygons in the region
    mask_count: Literal["auto", Counts] = "auto"  # masked nodes of a small group
    anchors: Literal["auto", Anchors] = "auto"  # places by which an object is located
    patch_centre: float | None = None  # 0.5: a patch is located at its centre; 0: at its corner; none: the variant's
    fused_nodes: int | None = None  # most masked nodes a sample in the fusion; none: the variant's
    fusion_last: Literal["auto", LastLayer] = "auto"  # last layer of the fusion
    fusion_positions: Literal["auto", Positions] = "auto"  # where positions are added
    fusion_values: Literal["auto", Values] = "auto"  # patches that objects read
    cst_mean: Literal["auto", Means] = "auto"  # over what the consistency loss is a mean
    image_eps: float | None = None  # of the image encoder's last norm; none: the variant's

    def __post_init__(self) -> None:
        at_least(
            self, "arch.", mask_block=1, tag_rows=1, tag_width=1, osm_nodes=1, osm_dim=1, osm_depth=1, osm_heads=1,
            fused_nodes=1, fusion_dim=1, fusion_heads=1, decoder_dim=1, decoder_depth=0, decoder_heads=1,
            contrast_dim=1,
        )  # fmt: skip
        if not 0 <= self.image_mask < 1 or not 0 <= self.node_mask < 1:
            raise ConfigError("arch.image_mask and arch.node_mask must lie in [0, 1)")
        for name, heads in (("fusion_dim", "fusion_heads"), ("decoder_dim", "decoder_heads"), ("osm_dim", "osm_heads")):
            if getattr(self, name) % getattr(self, heads):
                raise ConfigError(f"arch.{name}={getattr(self, name)} must be divisible by arch.{heads}")
        if not 0 <= self.fusion_dropout < 1:
            raise ConfigError(f"arch.fusion_dropout={self.fusion_dropout} must lie in [0, 1)")
        if self.patch_centre is not None and not 0 <= self.patch_centre <= 1:
            raise ConfigError(f"arch.patch_centre={self.patch_centre} must lie in [0, 1]")
        for name in ("temperature", "image_eps"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ConfigError(f"arch.{name}={value} must be above 0")


@dataclass(frozen=True)
class Choices:
    """What a variant chooses (docs/papers/geolink.md#defects); names are those of the settings."""

    edges: Edges
    node_norm: Norms
    kind_weights: Weights
    mask_count: Counts
    anchors: Anchors
    patch_centre: float  # 0.5 embeds a patch at its centre; 0 at its corner, half a patch off
    fused_nodes: int
    fusion_last: LastLayer  # layer on the nodes at the end: added to its input, in its place, or none
    fusion_positions: Positions  # which sides of an attention positions are added to
    fusion_values: Values  # what nodes read at the end: patches that have seen the nodes, or as they came
    cst_mean: Means
    image_eps: float
    gather: bool


VARIANTS: Mapping[str, Choices] = {
    "ours": Choices(
        edges="both", node_norm="node", kind_weights="softmax", mask_count="share", anchors="ours", patch_centre=0.5,
        fused_nodes=16, fusion_last="residual", fusion_positions="queries_keys", fusion_values="updated",
        cst_mean="node", image_eps=1e-6, gather=True,
    ),
    "paper": Choices(
        edges="attention", node_norm="node", kind_weights="softmax", mask_count="share", anchors="paper",
        patch_centre=0.0, fused_nodes=16, fusion_last="none", fusion_positions="keys_values",
        fusion_values="original", cst_mean="sample", image_eps=1e-6, gather=True,
    ),
    "released": Choices(
        edges="none", node_norm="batch", kind_weights="sum", mask_count="at_least_one", anchors="released",
        patch_centre=0.0, fused_nodes=10, fusion_last="plain", fusion_positions="queries_keys",
        fusion_values="updated", cst_mean="node", image_eps=1e-5, gather=False,
    ),
}  # fmt: skip


def choices(settings: GeoLinkSettings, variant: str) -> Choices:
    """The variant's choices with those that the settings override."""
    names = {f.name for f in fields(Choices)} & {f.name for f in fields(GeoLinkSettings)}
    given: dict[str, Any] = {name: getattr(settings, name) for name in names}
    return replace(VARIANTS[variant], **{k: v for k, v in given.items() if v not in ("auto", None)})
