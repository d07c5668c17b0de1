"""Settings of GAIR: its sizes, its losses, and the choices on which paper, release and sense differ.

A variant sets every choice (docs/papers/gair.md#fidelity has the table); a setting other than ``auto`` or ``null``
overrides one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal

from schemas.bands import RGB, Bands
from schemas.config import at_least, path
from schemas.errors import ConfigError
from trainers.models.gair.dates import DatePooling
from trainers.models.gair.location import LocationKind
from trainers.models.gair.nili import QueryKind
from trainers.models.vit import ViTSettings

Fit = Literal["squash", "crop"]
ImageNorm = Literal["unit", "statistics"]
QueueStart = Literal["empty", "gaussian"]
Levels = Literal["dataset", "published"]
ImageEncoder = Literal["croma", "vit", "conv"]
PhotoEncoderKind = Literal["vit", "conv"]


@dataclass(frozen=True)
class GairSettings:
    """Size of the model."""

    rs_encoder: ImageEncoder = "croma"  # of images: CROMA's, the ViT that GeoLink trains, or a small convnet
    sv_encoder: PhotoEncoderKind = "vit"  # of photos: a ViT, or a small convnet
    rs: ViTSettings = field(default_factory=lambda: ViTSettings(96, 8, 768, 12, 16))
    sv: ViTSettings = field(default_factory=lambda: ViTSettings(224, 16, 768, 12, 12))
    bands: Bands = RGB  # image bands in channel order, by any name; all: those of the dataset
    dates: int = 1  # most images of a tile, encoded one by one and pooled; 1: one that is drawn
    date_pool: DatePooling = "attention"  # by weights that each patch gives to its dates, or their mean
    pooler: bool = True  # whether a photo is its class token through Linear and tanh, or that token itself
    dim: int = 768  # width of the common space
    photos: int = 2  # most photos a tile and step; the image encoder runs once a tile
    location: LocationKind = "rff"  # random Fourier features at several scales, or spherical harmonics and a SIREN
    location_features: int = 256  # rff: Fourier frequencies a scale
    location_scales: tuple[float, ...] | None = None  # rff: their deviations, in waves a 17,244 km; null: the variant's
    location_degree: int = 40  # sh_siren: highest degree of the harmonics; 180 degrees over it is the finest detail
    location_hidden: int = 1024  # width of the location MLPs
    query: QueryKind = "nili"  # how a place is read from the patches: NILI, or a sample of them and one linear layer
    nili_hidden: int = 1024  # width of the non-linear head of NILI
    heading: bool | None = None  # whether the ground that the camera looks at is read too; none: the variant's
    heading_hidden: int = 128  # width of what is read of it
    heading_drop: float = 0.1  # share of photos whose heading is hidden in training, so that places do without
    queue: int = 4096  # coordinates kept as negatives
    queue_start: Literal["auto", QueueStart] = "auto"  # what the queue holds at first: nothing, or random places
    temperature: float = 0.07  # divides the similarities; where it is learned, its first value
    temperature_learned: bool = False  # whether training changes it
    temperature_range: tuple[float, float] = (0.01, 0.5)  # what a learned one is kept within
    levels: Literal["auto", Levels] = "auto"  # whose statistics of bands map values to 8 bits
    image_norm: Literal["auto", ImageNorm] = "auto"  # 8-bit levels to 0..1, or by mean and deviation of the bands
    photo_fit: Literal["auto", Fit] = "auto"  # a photo to its square: squashed, or its middle cut out
    decoder_dim: int = 512  # width of the pixel decoders, which loss.rec needs
    decoder_depth: int = 2  # their blocks
    decoder_heads: int = 16  # their attention heads
    mask: float = 0.75  # share of patches that they predict

    def __post_init__(self) -> None:
        at_least(
            self, "arch.", photos=1, queue=1, dates=1, dim=1, location_features=1, location_degree=1,
            location_hidden=1, nili_hidden=1, heading_hidden=1, decoder_dim=1, decoder_depth=0, decoder_heads=1,
        )  # fmt: skip
        if self.location_scales is not None and not (self.location_scales and min(self.location_scales) > 0):
            raise ConfigError(f"arch.location_scales={list(self.location_scales)} must be one or more numbers above 0")
        for name in ("mask", "heading_drop"):
            if not 0 <= getattr(self, name) < 1:
                raise ConfigError(f"arch.{name}={getattr(self, name)} must lie in [0, 1)")
        if self.decoder_dim % self.decoder_heads or self.decoder_dim % 4:
            raise ConfigError(
                f"arch.decoder_dim={self.decoder_dim} must be divisible by arch.decoder_heads={self.decoder_heads} "
                "and by 4"
            )
        low, high = self.temperature_range
        if not 0 < low <= high:
            raise ConfigError(f"arch.temperature_range=[{low}, {high}] must lie above 0, the lesser first")
        if not self.temperature > 0:
            raise ConfigError(f"arch.temperature={self.temperature} must be above 0")
        if self.temperature_learned and not 0 < low <= self.temperature <= high:
            raise ConfigError(
                f"arch.temperature_range=[{low}, {high}] must lie above 0 and hold arch.temperature={self.temperature}"
            )


@dataclass(frozen=True)
class GairInit:
    """Weights of others that a new model starts from: each file fits whole, or the run does not start."""

    run: str = path()  # checkpoint.pt of a run of GeoLink, GAIR or both: all parts that it has in common; path or URL
    rs: str = path()  # path or URL: CROMA_base.pt, or for rs_encoder=vit a ViT with timm's names (geoshards export)
    sv: str = path()  # path or URL: a ViT of transformers or timm


@dataclass(frozen=True)
class GairLoss:
    """Weights of the losses, of which 0 switches one off, and what counts as a negative."""

    incl: float = 1.0  # image at the place against photo
    secl: float = 1.0  # photo and image against location; 0: GAIR without location
    rec: float = 0.0  # hidden patches of images and photos; alone: the MAE variant
    dist: float = 0.0  # cosine to the frozen first encoders; 0.2 in the code of July 2025
    gather: bool | None = None  # whether other ranks' photos are negatives; none: the variant's, as below
    in_batch: bool | None = None  # whether places of other photos in the batch are negatives beside the queue's
    hard_negatives: int | None = None  # places drawn in a photo's own tile as further negatives, beyond the radius
    incl_radius: float | None = None  # metres: a photo or place nearer than this is no negative; 0: off
    secl_radius: float | None = None  # metres: the same of the location encoder

    def __post_init__(self) -> None:
        at_least(self, "loss.", incl=0, secl=0, rec=0, dist=0, hard_negatives=0, incl_radius=0, secl_radius=0)
        if not (self.contrast or self.rec):
            raise ConfigError("all weights of loss are 0: nothing is learned; give loss.incl, secl, rec or dist")

    @property
    def contrast(self) -> bool:
        """Whether any loss needs more than one image or photo at a time, or whole ones."""
        return bool(self.incl or self.secl or self.dist)


@dataclass(frozen=True)
class GairVariant:
    """What a variant chooses (docs/papers/gair.md#fidelity); names are those of the settings."""

    incl_radius: float
    secl_radius: float
    gather: bool
    in_batch: bool
    hard_negatives: int
    queue_start: QueueStart
    heading: bool
    levels: Levels
    image_norm: ImageNorm
    photo_fit: Fit


#: Ours: photos within 25 m show the same scene, and places within 50 m are the same to the location encoder.
VARIANTS: Mapping[str, GairVariant] = {
    "ours": GairVariant(
        incl_radius=25.0, secl_radius=50.0, gather=True, in_batch=True, hard_negatives=4, queue_start="empty",
        heading=True, levels="dataset", image_norm="statistics", photo_fit="crop",
    ),
    "paper": GairVariant(
        incl_radius=0.0, secl_radius=0.0, gather=False, in_batch=False, hard_negatives=0, queue_start="gaussian",
        heading=False, levels="published", image_norm="unit", photo_fit="squash",
    ),
    "released": GairVariant(
        incl_radius=0.0, secl_radius=0.0, gather=False, in_batch=False, hard_negatives=0, queue_start="gaussian",
        heading=False, levels="published", image_norm="unit", photo_fit="squash",
    ),
}  # fmt: skip


def choices(settings: GairSettings, variant: str, loss: GairLoss | None = None) -> GairVariant:
    """The variant's choices with those that the settings override."""
    given: dict[str, Any] = {}
    for group in (settings, loss or GairLoss()):
        names = {f.name for f in fields(GairVariant)} & {f.name for f in fields(group)}
        given |= {name: getattr(group, name) for name in names}
    return replace(VARIANTS[variant], **{k: v for k, v in given.items() if v not in ("auto", None)})
