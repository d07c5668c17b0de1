"""Settings of GAIR: its sizes, its losses, and the choices on which paper, release and sense differ."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from schemas.bands import RGB, Bands
from schemas.errors import ConfigError
from trainers.models.vit import ViTSettings


@dataclass(frozen=True)
class GairSettings:
    """Size of the model."""

    rs: ViTSettings = field(default_factory=lambda: ViTSettings(96, 8, 768, 12, 16))
    sv: ViTSettings = field(default_factory=lambda: ViTSettings(224, 16, 768, 12, 12))
    bands: Bands = RGB  # image bands in channel order, by any name; all: those of the dataset
    dim: int = 768  # width of the common space
    photos: int = 2  # most photos a tile and step; the image encoder runs once a tile
    location_features: int = 256  # Fourier frequencies a scale
    location_hidden: int = 1024  # width of the location MLPs
    nili_hidden: int = 1024  # width of the non-linear head of NILI
    queue: int = 4096  # coordinates kept as negatives
    temperature: float = 0.07  # divides the similarities

    def __post_init__(self) -> None:
        if self.photos < 1 or self.queue < 1:
            raise ConfigError("arch.photos and arch.queue must be at least 1")


@dataclass(frozen=True)
class GairLoss:
    """Weights and false negatives of the losses; weight 0 switches one off."""

    incl: float = 1.0  # image at the place against photo
    secl: float = 1.0  # photo and image against location
    gather: bool = True  # whether other ranks' photos are negatives in INCL
    incl_radius: float | None = None  # metres: a photo nearer than this is no negative; none: the variant's, 0: off
    secl_radius: float | None = None  # metres: a queued place nearer than this is no negative


@dataclass(frozen=True)
class GairVariant:
    """Choices on which release and sense differ (docs/papers/gair.md#defects)."""

    incl_radius: float  # metres
    secl_radius: float  # metres


#: Ours: photos within 25 m show the same scene, and places within 250 m are the same to the location encoder.
VARIANTS: Mapping[str, GairVariant] = {
    "ours": GairVariant(25.0, 250.0),
    "paper": GairVariant(0.0, 0.0),
    "released": GairVariant(0.0, 0.0),
}
