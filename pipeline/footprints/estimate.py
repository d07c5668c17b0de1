"""What a build will come to, from the size of its extracts and its area: pure functions, and the rates behind them."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray
from pyproj import Geod

from geometry.tiles import WEB_MERCATOR_MAX_LATITUDE, lonlat_to_tile

_GEOD = Geod(ellps="WGS84")


@dataclass(frozen=True)
class Rates:
    """Measured on one core of the machine that benchmarks/README.md names; yours may differ by a factor of two."""

    date: str = "2026-11-21"
    pbf_mb_per_second: float = 4.8  # reading an extract into features
    cells_mb_per_second: float = 3.8  # features to cells, per MB of PBF
    tiles_per_second: float = 130.0  # tokens and class raster to written shards
    image_tiles_per_second: float = 100.0  # warping and encoding 256 px
    cache_per_pbf_byte: float = 4.0  # features and cells, per byte of PBF
    osm_bytes: int = 12_000  # osm.safetensors, osm.png and json of a sample, on average
    rgb_bytes_per_pixel: float = 0.4  # rs.jpg at quality 90
    photo_bytes: int = 60_000  # sv.N.jpg


RATES = Rates()


@dataclass(frozen=True)
class Estimate:
    """What will be downloaded, built and stored."""

    tiles: int  # that meet the region
    chosen: int  # after sampling
    shards: int
    disk_bytes: int  # of the dataset
    cache_bytes: int  # of features and cells
    core_hours: float

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self) | {"core_hours": round(self.core_hours, 3), "rates": asdict(RATES)}


def tiles_of_area(area: Any, zoom: int) -> int:
    """About how many XYZ tiles of ``zoom`` meet a lon/lat (multi)polygon: its area in tiles, and a seam around it."""
    limit = shapely.box(-180, -WEB_MERCATOR_MAX_LATITUDE, 180, WEB_MERCATOR_MAX_LATITUDE)
    placed = shapely.transform(shapely.intersection(area, limit), lambda xy: lonlat_to_tile(xy, zoom))
    # A convex outline of length L crosses 4 L / pi grid lines in the mean; half of the tiles there are counted already.
    return round(shapely.area(placed) + 2 / np.pi * shapely.length(placed)) if not shapely.is_empty(placed) else 0


def cells_of_area(area: Any, side: float) -> int:
    """About how many metric cells of ``side`` metres meet a lon/lat (multi)polygon: as for `tiles_of_area`."""
    m2, outline = _GEOD.geometry_area_perimeter(shapely.orient_polygons(area))
    return round(abs(m2) / side**2 + 2 / np.pi * outline / side) if not shapely.is_empty(area) else 0


def cells_of_boxes(boxes: NDArray[np.float64], side: float) -> int:
    """How many metric cells of ``side`` metres have the area of boxes f64[B,4] in degrees, on a sphere."""
    west, south, east, north = np.radians(boxes).T
    m2 = (_GEOD.a**2 * (east - west) * (np.sin(north) - np.sin(south))).sum()
    return int(np.ceil(m2 / side**2)) if m2 else 0


def estimate(
    tiles: int,
    pbf_bytes: int,
    *,
    share: float = 1.0,
    most: int = 0,
    per_shard: int = 256,
    image_bytes: int = 0,
    photos_per_tile: float = 0.0,
    rates: Rates = RATES,
) -> Estimate:
    """What building comes to.

    Args:
        tiles: that meet the region.
        pbf_bytes: of all extracts.
        share, most: of the sampling rules; ``most`` 0 is all.
        per_shard: of the plan.
        image_bytes: of one sample's images; 0 without imagery.
        photos_per_tile: on average.
        rates: seconds and bytes of each step.
    """
    chosen = round(tiles * share)
    chosen = min(chosen, most) if most else chosen
    megabytes = pbf_bytes / 1e6
    seconds = megabytes / rates.pbf_mb_per_second + megabytes / rates.cells_mb_per_second
    seconds += chosen / rates.tiles_per_second + (chosen / rates.image_tiles_per_second if image_bytes else 0.0)
    per_sample = rates.osm_bytes + image_bytes + photos_per_tile * rates.photo_bytes
    return Estimate(
        tiles, chosen, -(-chosen // per_shard), round(chosen * per_sample),
        round(pbf_bytes * rates.cache_per_pbf_byte), seconds / 3600,
    )  # fmt: skip
