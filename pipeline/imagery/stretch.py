"""Values to 8 bits: one map a scene and band, never one a tile, so that neighbours stay comparable.

0 and 255 are the ends of the range, and what lies beyond; between them the map is linear and rounds to the nearest.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.imagery.config import ImageryConfig
from schemas.errors import ConfigError

#: Pixels a side of the reduced scene that percentiles are taken of.
SAMPLE = 1024
Ranges = tuple[tuple[float, float], ...]  # (low, high) of each band


def linear_ranges(config: ImageryConfig, bands: list[str]) -> Ranges:
    """``rs.stretch_range`` for each band.

    Raises:
        ConfigError: it is neither one pair nor as many as there are bands.
    """
    given = config.stretch_range
    if len(given) not in (1, len(bands)):
        raise ConfigError(f"rs.stretch_range has {len(given)} pairs for the {len(bands)} bands {', '.join(bands)}")
    return given * len(bands) if len(given) == 1 else given


def percentile_range(values: NDArray[Any], config: ImageryConfig) -> tuple[float, float]:
    """The two percentiles of one band's valid values; of a band of one value, that and one more."""
    if not values.size:
        return 0.0, 1.0
    low, high = (float(v) for v in np.percentile(values, config.percentiles, method="nearest"))
    return (low, high) if low < high else (low, low + 1.0)


def apply(pixels: NDArray[Any], ranges: Ranges, valid: NDArray[np.bool_] | None) -> NDArray[np.uint8]:
    """Pixels [B,h,w] to u8; 0 where there is no data."""
    out = np.empty(pixels.shape, np.uint8)
    for band, (low, high), target in zip(pixels, ranges, out, strict=True):
        scaled = band.astype(np.float32)
        scaled -= np.float32(low)
        scaled *= np.float32(255.0 / (high - low))
        np.nan_to_num(scaled, copy=False, nan=0.0)
        np.clip(scaled, 0, 255, out=scaled)
        target[...] = np.rint(scaled)
    if valid is not None:
        out[:, ~valid] = 0
    return out


def describe(config: ImageryConfig, ranges: Ranges) -> str:
    """As the sample's document has it: ``linear 0..3000`` or ``percentile 2,98: 210..2711 180..2430``."""
    name: str = config.stretch
    if name == "percentile":
        name += " " + ",".join(f"{p:g}" for p in config.percentiles) + ":"
    unique = ranges[:1] if len(set(ranges)) == 1 else ranges
    return f"{name} " + " ".join(f"{low:g}..{high:g}" for low, high in unique)
