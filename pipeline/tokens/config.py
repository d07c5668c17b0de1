"""Settings of the OSM tokens."""

from __future__ import annotations

from dataclasses import dataclass

from schemas.errors import ConfigError


@dataclass(frozen=True)
class TokensConfig:
    """OSM tokens of a sample."""

    grid: tuple[int, int] = (14, 14)  # rows, columns of the ViT patch grid, 1..255 each
    patches: bool = True  # store which objects cover which patch; false saves half of osm.safetensors
    raster: bool = True  # write osm.png
    seed: int = 0  # of the polygon anchors
    explode: bool = False  # what clipping cuts apart becomes objects of their own, as in GeoLink

    def __post_init__(self) -> None:
        if not all(1 <= g <= 255 for g in self.grid):
            raise ConfigError("tokens.grid must be 1 to 255 cells a side")

    @property
    def patch_grid(self) -> tuple[int, int] | None:
        """The grid of the patches that are stored, if any are."""
        return self.grid if self.patches else None
