"""Settings of image chips."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from schemas.config import execution
from schemas.errors import ConfigError


@dataclass(frozen=True)
class ChipsConfig:
    """Image chips that lie in a folder."""

    folder: str = execution("")  # or URL of a store (s3://…) that holds them, searched with its subfolders
    crs: str = "auto"  # of the axes of chips whose files name none; auto: by SkyScript's name, else the chip is dropped
    max_overlap: float = 1.0  # of two chips of one source that share more of the smaller one, one goes; 0: as GeoLink
    image: Literal["own", "imagery"] = "own"  # the chip's own pixels, or those that ``imagery`` has of its place

    def __post_init__(self) -> None:
        if not 0 <= self.max_overlap <= 1:
            raise ConfigError("chips.max_overlap must be 0 to 1")
