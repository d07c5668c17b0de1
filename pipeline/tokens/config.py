"""Settings of the tokens."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class TokensConfig:
    """OSM tokens of a sample."""

    grid: tuple[int, int] = (14, 14)  # rows, columns of the ViT patch grid
    raster: bool = True  # write osm.png
    seed: int = 0  # of the polygon anchors
    explode: bool = False  # what clipping cuts apart becomes objects of their own, as in GeoLink
