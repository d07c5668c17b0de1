"""Settings of the plan: which footprints become samples, and how they are cut into shards."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from pipeline.footprints.sampling import SamplingConfig
from schemas.config import execution, require


@dataclass(frozen=True)
class GridConfig:
    """Metric cells in the UTM zone of their place."""

    gsd: float | None = None  # metres a pixel, 0.01..10000; unset: the imagery's own, 10 without


@dataclass(frozen=True)
class PlanConfig:
    """Which footprints become samples, and how they are cut into shards."""

    per_shard: int = 256  # most footprints of one shard
    min_objects: int | None = None  # OSM features that meet a footprint; unset: 0 with an image, 1 without
    max_tiles: int = execution(20_000_000)  # footprints; more are refused: it is most often a wrong zoom
    snapshots: Literal["newest", "image"] = "newest"  # image: each extract is a time; the last before the image is used
    ask_gb: float = execution(20.0)  # GB; a build that fetches and writes more asks a person at the terminal first
    sampling: SamplingConfig = field(default_factory=SamplingConfig)

    def least_objects(self, pictured: bool) -> int:
        """OSM features that a footprint needs, with an image or without."""
        return self.min_objects if self.min_objects is not None else 0 if pictured else 1

    def __post_init__(self) -> None:
        require(
            {
                "plan.per_shard must be 1 to 100000": 1 <= self.per_shard <= 100_000,
                "plan.min_objects must be 0 or more": self.min_objects is None or self.min_objects >= 0,
                "plan.ask_gb must be 0 or more": self.ask_gb >= 0,
            }
        )
