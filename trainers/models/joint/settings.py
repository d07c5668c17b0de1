"""Settings of the joint model: those of its two parts, what they share, and how their losses become one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Literal

from schemas.bands import RGB, Bands
from schemas.config import at_least
from schemas.errors import ConfigError
from trainers.models.gair.settings import GairLoss, GairSettings
from trainers.models.geolink import GeoLinkLoss
from trainers.models.geolink_settings import GeoLinkSettings
from trainers.models.vit import ViTSettings

#: Settings of a part that the joint model decides, and what decides them.
_SHARED: Mapping[str, Mapping[str, str]] = {
    "geolink": {"vit": "arch.vit", "bands": "arch.bands", "tag_width": "arch.tag_width"},
    "gair": {
        "rs": "arch.vit", "rs_encoder": "arch.vit, a ViT with a class token", "bands": "arch.bands",
        "dates": "one date, as GeoLink sees one", "image_norm": "that of GeoLink, as the encoder is one",
    },
}  # fmt: skip


@dataclass(frozen=True)
class JointSettings:
    """Size of the model."""

    vit: ViTSettings = field(default_factory=ViTSettings)  # the one image encoder
    bands: Bands = RGB  # image bands in channel order, by any name; all: those of the dataset
    tag_width: int = 512  # features a tag
    geolink: GeoLinkSettings = field(default_factory=GeoLinkSettings)  # the rest of GeoLink
    gair: GairSettings = field(default_factory=GairSettings)  # the rest of GAIR

    def __post_init__(self) -> None:
        at_least(self, "arch.", tag_width=1)
        for part, shared in _SHARED.items():
            held = getattr(self, part)
            for name, home in shared.items():
                if getattr(held, name) != getattr(type(held)(), name):
                    raise ConfigError(f"arch.{part}.{name} is decided by the joint model ({home}); leave it out")

    @property
    def for_geolink(self) -> GeoLinkSettings:
        """GeoLink's settings as a whole."""
        return replace(self.geolink, vit=self.vit, bands=self.bands, tag_width=self.tag_width)

    @property
    def for_gair(self) -> GairSettings:
        """GAIR's settings as a whole."""
        return replace(self.gair, rs=self.vit, rs_encoder="vit", bands=self.bands, image_norm="statistics")


@dataclass(frozen=True)
class TaskWeights:
    """What each task's loss counts; 0 switches one off, and what only it needs is not computed."""

    geolink: float = 1.0  # GeoLink's loss, weighted by loss.geolink
    gair: float = 1.0  # GAIR's, weighted by loss.gair
    osm_photo: float = 0.0  # objects around a photo's place against the photo
    osm_location: float = 0.0  # objects of a tile against the location of its centre

    def __post_init__(self) -> None:
        at_least(self, "loss.task_weights.", geolink=0, gair=0, osm_photo=0, osm_location=0)
        if not self.active():
            raise ConfigError("loss.task_weights are all 0: nothing is learned; give one of them")

    def named(self) -> dict[str, float]:
        """Weight by task."""
        return {f.name: getattr(self, f.name) for f in fields(self)}

    def active(self) -> tuple[str, ...]:
        """Tasks with a weight."""
        return tuple(name for name, value in self.named().items() if value)


@dataclass(frozen=True)
class JointLoss:
    """Losses of the parts, and how they become one."""

    geolink: GeoLinkLoss = field(default_factory=GeoLinkLoss)
    gair: GairLoss = field(default_factory=GairLoss)
    task_weights: TaskWeights = field(default_factory=TaskWeights)
    weighting: Literal["fixed", "uncertainty"] = "fixed"  # by task_weights alone, or by learned variances beside them
    alternate: int = 0  # samples after which the next task takes its turn; 0: all of them in each step
    gather: bool | None = None  # whether other ranks' samples are negatives; none: the choice of GeoLink's variant
    osm_photo_radius: float = 100.0  # metres: objects nearer than this to a photo's place surround it

    def __post_init__(self) -> None:
        at_least(self, "loss.", alternate=0)
        if not self.osm_photo_radius > 0:
            raise ConfigError(f"loss.osm_photo_radius={self.osm_photo_radius} must be above 0")
        for part in ("geolink", "gair"):
            if getattr(self, part).gather is not None:
                raise ConfigError(f"loss.{part}.gather: the tasks of a joint model gather alike; give loss.gather")
        if self.weighting == "uncertainty" and self.gair.dist:
            raise ConfigError(
                f"loss.weighting=uncertainty needs losses above 0, and loss.gair.dist={self.gair.dist} weighs one that "
                "is not; use loss.weighting=fixed, or leave out loss.gair.dist"
            )
