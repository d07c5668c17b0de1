"""Settings of the RS images."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from pipeline.times import any_time, compile_pattern
from schemas.bands import canonical
from schemas.config import execution, require


@dataclass(frozen=True)
class ImageryConfig:
    """From raster files, STAC items or map tiles to RS images."""

    bands: tuple[str, ...] = ()  # names of bands in channel order; empty: all that the source has
    resampling: Literal["nearest", "bilinear", "cubic", "average", "lanczos"] = "bilinear"  # of pixels onto a tile
    nodata: float | Literal["none"] | None = None  # value of pixels without data; none: no value is; unset: as stated
    alpha: Literal["auto", "mask", "band", "ignore"] = "auto"  # what an alpha band is; auto: a mask, unless of amounts
    max_nodata: float = 0.01  # a tile with a larger share of nodata pixels is dropped, 0..1
    stretch: Literal["none", "linear", "percentile"] = "none"  # how values become 8 bits; none: as they are
    stretch_range: tuple[tuple[float, float], ...] = ()  # for linear: [[low, high]] a band, or one for all
    percentiles: tuple[float, float] = (2.0, 98.0)  # per cent of a scene's valid pixels that become 0 and 255
    format: Literal["auto", "jpg", "png", "npy"] = "auto"  # of an image; auto: jpg for three 8-bit bands, else npy
    quality: int = 90  # JPEG quality of rs.jpg, 1..100
    subsampling: Literal["420", "422", "444"] = "420"  # of the colour in rs.jpg; 420 halves its resolution
    dates: int = 1  # images a tile, of as many days: rs.0.jpg, rs.1.jpg …
    prefer: Literal["newest", "oldest", "clearest"] = "newest"  # which day is taken first
    acquired: str | None = None  # ISO 8601 date or time of all scenes and chips; unset: each one's own time
    time_pattern: str = ""  # of times in names of files or folders: %Y-%m-%d, or a regular expression; empty: none
    licence: str | None = None  # of the images, for ATTRIBUTION.md; unset: what the source declares
    mask: str | None = None  # band or asset of classes or bits; none: no mask; unset: the preset's
    mask_values: tuple[int, ...] = ()  # classes of the mask that hide the ground; empty: the preset's
    mask_bits: tuple[int, ...] = ()  # bits of the mask that hide the ground, 0 the lowest
    max_masked: float = 0.1  # a tile with a larger share under the mask is dropped, 0..1
    stac_url: str = ""  # URL of the STAC API; empty: the preset's
    collection: str = ""  # name of the collection in the STAC API; empty: the preset's
    datetime: str = ""  # ISO 8601 interval, 2024-05-01/2024-09-30; empty: the preset's
    max_cloud: float = 20.0  # per cent of a scene; cloudier ones are passed over
    max_items: int = execution(50_000)  # scenes of a search; more are refused: narrow the search
    harmonise: bool = True  # Sentinel-2 values as before processing baseline 04.00
    xyz_url: str = ""  # address of map tiles, …/{z}/{x}/{y}.jpg; {key} stands for $GEOSHARDS_XYZ_KEY
    xyz_size: int = 256  # pixels a side of the map tiles
    xyz_max_zoom: int = 22  # deepest zoom of the map tiles

    def __post_init__(self) -> None:
        low, high = self.percentiles
        if self.time_pattern:
            compile_pattern(self.time_pattern)
        given = not isinstance(self.nodata, (int, float)) or math.isfinite(self.nodata)
        require(
            {
                "rs.nodata must be a finite number or none; what is no number never is data": given,
                "rs.max_nodata must be 0 to 1": 0 <= self.max_nodata <= 1,
                "rs.max_masked must be 0 to 1": 0 <= self.max_masked <= 1,
                "rs.acquired must be an ISO 8601 date or time, or a year": self.acquired is None
                or any_time(self.acquired) is not None,
                "rs.quality must be 1 to 100": 1 <= self.quality <= 100,
                "rs.dates must be 1 to 100": 1 <= self.dates <= 100,
                "rs.percentiles must be two of 0 to 100, the lower first": 0 <= low < high <= 100,
                "rs.stretch_range must be pairs of low < high": all(a < b for a, b in self.stretch_range),
                "rs.stretch=linear needs rs.stretch_range=[[low, high]], for each band or for all": self.stretch
                != "linear"
                or bool(self.stretch_range),
                "rs.stretch_range needs rs.stretch=linear": self.stretch == "linear" or not self.stretch_range,
                "rs.bands names a band twice": len(set(map(canonical, self.bands))) == len(self.bands),
                "rs.mask_bits must be 0 to 31": all(0 <= b <= 31 for b in self.mask_bits),
                "rs.max_cloud must be 0 to 100 per cent": 0 <= self.max_cloud <= 100,
                "rs.max_items must be 1 or more": self.max_items >= 1,
                "rs.xyz_size must be 16 to 4096 pixels": 16 <= self.xyz_size <= 4096,
                "rs.xyz_max_zoom must be 0 to 30": 0 <= self.xyz_max_zoom <= 30,
            }
        )
